#!/usr/bin/env bash
# swaks sends 15 bytes for LOCAL of version 2, of which none is the command LOCAL: 22 00 00 behind the signature, where the
# specification has 20 00 00 00. With --proxy-command PROXY it sends what it should.
#
# Package: swaks 20240103.0-2 of Debian 13. Seen, behind the signature:
#   --proxy-command PROXY: 2111000cc0000207c000020113880019
#   --proxy-command LOCAL: 220000
. "$(dirname "$0")/common"
debian13 swaks=20240103.0-2
port=$(free_port)

# sent COMMAND: the first bytes that it sends, without the signature.
sent() {
  python3 - "$port" >"$work"/first <<'END' &
import socket, sys, time
with socket.create_server(("127.0.0.1", int(sys.argv[1]))) as listener:
    client, _ = listener.accept()
    with client:
        time.sleep(1)
        print(client.recv(4096)[12:].hex())
END
  local receiver=$!
  sleep 1
  inside swaks --server "127.0.0.1:$port" --timeout 2 --quit-after CONNECT --proxy-version 2 --proxy-command "$1" \
    --proxy-family AF_INET --proxy-protocol STREAM --proxy-source 192.0.2.7 --proxy-source-port 5000 \
    --proxy-dest 192.0.2.1 --proxy-dest-port 25 >"$work"/log 2>&1
  wait "$receiver"
  cat "$work"/first
}

holds "--proxy-command PROXY" 2111000cc0000207c000020113880019 "$(sent PROXY)"
holds "--proxy-command LOCAL" 220000 "$(sent LOCAL)"
exit $status
