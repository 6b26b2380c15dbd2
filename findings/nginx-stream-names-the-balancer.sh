#!/usr/bin/env bash
# nginx's stream proxy with "listen .. proxy_protocol" and "proxy_protocol on" reads a header and writes one of its own,
# but with the address of who connected: the balancer, not the client that the header names. With the stream realip
# module's "set_real_ip_from" for the balancer it passes the client on. The destination is nginx's own in both cases.
#
# Packages: nginx and libnginx-mod-stream 1.26.3-3+deb13u11. Seen, for a header of 192.0.2.7 to 192.0.2.1 port 143:
#   proxy_protocol on: 127.0.0.2 to 127.0.0.1, nginx's own port
#   the same and set_real_ip_from: 192.0.2.7 to 127.0.0.1, nginx's own port
. "$(dirname "$0")/common"
debian13 nginx=1.26.3-3+deb13u11 libnginx-mod-stream=1.26.3-3+deb13u11
server=$(free_port) plain=$(free_port) real=$(free_port)
cat >"$work"/debian/finding/nginx.conf <<END
load_module /usr/lib/nginx/modules/ngx_stream_module.so;
daemon off;
user root;
master_process off;
error_log /dev/stderr;
pid /finding/pid;
events {
}
stream {
  proxy_protocol on;
  server {
    listen 127.0.0.1:$plain proxy_protocol;
    proxy_pass 127.0.0.1:$server;
  }
  server {
    listen 127.0.0.1:$real proxy_protocol;
    proxy_pass 127.0.0.1:$server;
    set_real_ip_from 127.0.0.2;
  }
}
END
start nginx -c /finding/nginx.conf
listening "$plain"

# passed PORT: the ends that the server behind nginx is told, for a client of this port.
passed() {
  python3 - "$server" "$1" <<'END'
import socket, sys
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
server.settimeout(20)
with socket.socket() as client:
    client.bind(("127.0.0.2", 0))
    client.connect(("127.0.0.1", int(sys.argv[2])))
    client.sendall(b"PROXY TCP4 192.0.2.7 192.0.2.1 5000 143\r\na LOGIN alice pw\r\n")
    with server.accept()[0] as connection:
        connection.settimeout(20)
        words = connection.makefile("rb").readline().decode().split()
print(words[2], "to", words[3] + ",", "nginx's own port" if words[5] == sys.argv[2] else "port " + words[5])
END
}

holds "proxy_protocol on" "127.0.0.2 to 127.0.0.1, nginx's own port" "$(passed "$plain")"
holds "the same and set_real_ip_from" "192.0.2.7 to 127.0.0.1, nginx's own port" "$(passed "$real")"
exit $status
