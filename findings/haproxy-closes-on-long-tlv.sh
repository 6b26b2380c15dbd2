#!/usr/bin/env bash
# HAProxy 3.0 closes a connection whose PROXY header has a TLV with a value of more than 1024 bytes, whatever its type.
# A client's certificate, for which the specification has a TLV of its own inside SSL, is as a rule longer than that. No
# option changes it, and a header of the same length is served if it has the same bytes in two TLVs.
#
# Package: haproxy 3.0.11-1+deb13u5. Seen:
#   a value of 1024 bytes: served
#   a value of 1025 bytes: closed
#   two values of 1024 bytes: served
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

# outcome LENGTH..: what becomes of a request behind a header with values of these lengths.
outcome() {
  python3 - "$port" "$@" <<'END'
import socket, sys
port, *lengths = map(int, sys.argv[1:])
tlvs = b"".join(b"\xe5" + length.to_bytes(2, "big") + bytes(length) for length in lengths)
body = bytes([192, 0, 2, 7, 192, 0, 2, 1]) + (5000).to_bytes(2, "big") + (143).to_bytes(2, "big") + tlvs
header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11" + len(body).to_bytes(2, "big") + body
with socket.create_connection(("127.0.0.1", port), 10) as client:
    try:
        client.sendall(header + b"GET / HTTP/1.0\r\n\r\n")
        print("served" if b" 200 OK" in client.recv(99) else "closed")
    except ConnectionError:
        print("closed")
END
}

holds "a value of 1024 bytes" served "$(outcome 1024)"
holds "a value of 1025 bytes" closed "$(outcome 1025)"
holds "two values of 1024 bytes" served "$(outcome 1024 1024)"
exit $status
