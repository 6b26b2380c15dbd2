#!/usr/bin/env bash
# HAProxy 3.0 closes a connection that begins with a LOCAL header whose length is not 0. The specification has the
# receiver skip as many bytes as the length says and "not assume zero is presented for LOCAL connections"; HAProxy 2.6
# did, and so does every mail server that takes version 2. AWS sends its health checks like this.
#
# Package: haproxy 3.0.11-1+deb13u5. Seen:
#   LOCAL of length 0: served
#   LOCAL with an IPv4 address block: closed
#   PROXY with the same block: served
. "$(dirname "$0")/common"
debian13 haproxy=3.0.11-1+deb13u5
port=$(free_port)
# An HTTP frontend of HAProxy's own that answers; the TCP one in front of it takes the header.
cat >"$work"/debian/finding/haproxy.cfg <<END
defaults
  timeout connect 5s
  timeout client 10s
  timeout server 10s
listen front
  mode tcp
  bind 127.0.0.1:$port accept-proxy
  server answer unix@/finding/answer
frontend answer
  mode http
  bind unix@/finding/answer
  http-request return status 200
END
start haproxy -db -f /finding/haproxy.cfg
listening "$port"

# outcome COMMAND LENGTH: what becomes of a request behind this header.
outcome() {
  python3 - "$port" "$1" "$2" <<'END'
import socket, sys
port, command, length = int(sys.argv[1]), int(sys.argv[2], 16), int(sys.argv[3])
block = bytes([192, 0, 2, 7, 192, 0, 2, 1]) + (5000).to_bytes(2, "big") + (143).to_bytes(2, "big")
header = b"\r\n\r\n\0\r\nQUIT\n" + bytes([command, 0x11 if length else 0]) + length.to_bytes(2, "big") + block[:length]
with socket.create_connection(("127.0.0.1", port), 10) as client:
    try:
        client.sendall(header + b"GET / HTTP/1.0\r\n\r\n")
        print("served" if b" 200 OK" in client.recv(99) else "closed")
    except ConnectionError:
        print("closed")
END
}

holds "LOCAL of length 0" served "$(outcome 20 0)"
holds "LOCAL with an IPv4 address block" closed "$(outcome 20 12)"
holds "PROXY with the same block" served "$(outcome 21 12)"
exit $status
