#!/usr/bin/env bash
# HAProxy 3.0 sends two AUTHORITY TLVs in one header, another name and that which the client asked for by TLS, if a server
# has both `proxy-v2-options authority` and `set-proxy-v2-tlv-fmt(0x02)`. Neither option says so, and `haproxy -c` does
# not warn. Which of the two counts is up to the receiver.
#
# Package: haproxy 3.0.11-1+deb13u5. Seen, for a client that asks for mail.test:
#   with `authority`: mail.test
#   with `set-proxy-v2-tlv-fmt(0x02)`: other.test
#   with both: other.test mail.test
. "$(dirname "$0")/common"
needs openssl
debian13 haproxy=3.0.11-1+deb13u5
openssl req -x509 -newkey rsa:2048 -nodes -subj /CN=mail.test -keyout "$work"/key.pem -out "$work"/cert.pem 2>"$work"/log ||
  skip "openssl req: $(tail -n 1 "$work"/log)"
cat "$work"/key.pem "$work"/cert.pem >"$work"/debian/finding/both.pem

# A receiver that answers with the names in the header that it gets.
receiver=$(free_port)
cat >"$work"/receiver.py <<'END'
import socket, sys
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
while True:
    client, _ = listener.accept()
    with client:
        header = client.recv(4096)
        chain, names = header[28:], []
        while chain:
            length = int.from_bytes(chain[1:3], "big")
            if chain[0] == 2:
                names.append(chain[3:3 + length].decode())
            chain = chain[3 + length:]
        client.sendall(" ".join(names).encode() + b"\n")
END
python3 "$work"/receiver.py "$receiver" &
started+=($!)
listening "$receiver"

fmt='set-proxy-v2-tlv-fmt(0x02) %[str(other.test)]'
ports=("$(free_port)" "$(free_port)" "$(free_port)")
{
  printf 'defaults\n  mode tcp\n  timeout connect 5s\n  timeout client 10s\n  timeout server 10s\n'
  number=0
  for options in "proxy-v2-options authority" "$fmt" "proxy-v2-options authority $fmt"; do
    printf 'listen l%s\n  bind 127.0.0.1:%s ssl crt /finding/both.pem\n' $number "${ports[number]}"
    printf '  server s 127.0.0.1:%s send-proxy-v2 %s\n' "$receiver" "$options"
    number=$((number + 1))
  done
} >"$work"/debian/finding/haproxy.cfg
start haproxy -db -f /finding/haproxy.cfg
listening "${ports[0]}"

names() { timeout 20 openssl s_client -quiet -servername mail.test -connect "127.0.0.1:$1" </dev/null 2>/dev/null; }

holds 'with `authority`' mail.test "$(names "${ports[0]}")"
holds 'with `set-proxy-v2-tlv-fmt(0x02)`' other.test "$(names "${ports[1]}")"
holds "with both" "other.test mail.test" "$(names "${ports[2]}")"
exit $status
