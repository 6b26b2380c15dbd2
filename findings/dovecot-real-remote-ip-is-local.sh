#!/usr/bin/env bash
# Dovecot 2.4.1's log variable %{real_remote_ip}, on a listener with haproxy = yes, is the address that the proxy has
# connected to, not the proxy's own; %{real_remote_port} is right. A log that should tell which balancer a client came
# by names the server itself.
#
# Package: dovecot-imapd 1:2.4.1+dfsg1-6+deb13u7. Seen, for a proxy at 127.0.0.2 that connects to 127.0.0.1:
#   client in the log: 192.0.2.7
#   real_remote_ip: 127.0.0.1
#   real_local_ip: 127.0.0.1
#   real_remote_port is the proxy's: yes
. "$(dirname "$0")/common"
debian13 dovecot-imapd=1:2.4.1+dfsg1-6+deb13u7
port=$(free_port)
cat >"$work"/debian/finding/dovecot.conf <<END
dovecot_config_version = 2.4.1
dovecot_storage_version = 2.4.1
base_dir = /finding/run
state_dir = /finding/state
log_path = /dev/stderr
protocols = imap
listen = 127.0.0.1
ssl = no
haproxy_trusted_networks = 127.0.0.2
login_log_format_elements = r=%{remote_ip} rr=%{real_remote_ip} rl=%{real_local_ip} rp=%{real_remote_port}
mail_driver = maildir
mail_path = /finding/mail
passdb static {
  password = pw
}
service imap-login {
  inet_listener imap {
    port = 0
  }
  inet_listener imap_haproxy {
    port = $port
    haproxy = yes
  }
}
END
start dovecot -F -c /finding/dovecot.conf
listening "$port"
own=$(python3 - "$port" <<'END'
import socket, sys
with socket.socket() as client:
    client.bind(("127.0.0.2", 0))
    client.settimeout(20)
    client.connect(("127.0.0.1", int(sys.argv[1])))
    client.sendall(b"PROXY TCP4 192.0.2.7 192.0.2.1 5000 143\r\n")
    client.recv(99)
    client.sendall(b"a LOGOUT\r\n")
    while client.recv(99):
        pass
    print(client.getsockname()[1])
END
)
for _ in $(seq 100); do grep -q 'r=192.0.2.7' "$work"/log && break; sleep 0.1; done
field() { sed -n "s/.* r=192.0.2.7.* $1=\([^, ]*\).*/\1/p" "$work"/log | head -n 1; }

holds "client in the log" 192.0.2.7 "$(grep -o 'r=192.0.2.7' "$work"/log | head -n 1 | cut -d= -f2)"
holds "real_remote_ip" 127.0.0.1 "$(field rr)"
holds "real_local_ip" 127.0.0.1 "$(field rl)"
holds "real_remote_port is the proxy's" yes "$([ "$(field rp)" = "$own" ] && echo yes || echo "no, $(field rp)")"
exit $status
