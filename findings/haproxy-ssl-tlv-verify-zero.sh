#!/usr/bin/env bash
# HAProxy's send-proxy-v2-ssl writes "verify" 0 into the SSL TLV of a client that has shown no certificate, even of
# one that has no TLS at all. By the specification 0 says that a certificate was presented and verified, so the field
# alone says nothing: only with one of the certificate bits of the client field does it.
#
# Package: haproxy 3.0.11-1+deb13u5. Seen:
#   SSL TLV of a client without TLS: client 00 verify 00000000
#   SSL TLV of a client with TLS and no certificate: client 01 verify 00000000
. "$(dirname "$0")/common"
needs openssl
debian13 haproxy=3.0.11-1+deb13u5
port=$(free_port) plain=$(free_port) tls=$(free_port)
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=test \
  -keyout "$work"/key -out "$work"/certificate 2>/dev/null
cat "$work"/certificate "$work"/key >"$work"/debian/finding/pem
cat >"$work"/debian/finding/haproxy.cfg <<END
defaults
  mode tcp
  timeout connect 5s
  timeout client 10s
  timeout server 10s
frontend plain
  bind 127.0.0.1:$plain
  default_backend sink
frontend tls
  bind 127.0.0.1:$tls ssl crt /finding/pem
  default_backend sink
backend sink
  server one 127.0.0.1:$port send-proxy-v2-ssl
END
start haproxy -db -f /finding/haproxy.cfg
listening "$tls"

# fields PORT [tls]: the two fields of the SSL TLV that the server gets for a client of this port.
fields() {
  python3 - "$port" "$1" "${2-}" <<'END'
import socket, ssl, sys
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
server.settimeout(20)
client = socket.create_connection(("127.0.0.1", int(sys.argv[2])), 20)
if sys.argv[3]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    client = context.wrap_socket(client)
with server.accept()[0] as connection:
    header = connection.recv(999)
tlvs = header[28 : 16 + int.from_bytes(header[14:16], "big")]
while tlvs:
    end = 3 + int.from_bytes(tlvs[1:3], "big")
    if tlvs[0] == 0x20:
        print("client", tlvs[3:4].hex(), "verify", tlvs[4:8].hex())
    tlvs = tlvs[end:]
END
}

holds "SSL TLV of a client without TLS" "client 00 verify 00000000" "$(fields "$plain")"
holds "SSL TLV of a client with TLS and no certificate" "client 01 verify 00000000" "$(fields "$tls" tls)"
exit $status
