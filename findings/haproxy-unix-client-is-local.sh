#!/usr/bin/env bash
# HAProxy's send-proxy-v2 sends a client that came over a Unix socket as LOCAL, "established on purpose by the proxy
# without being relayed": 16 bytes, the same as those of its health check, with the client's data behind. A receiver
# that counts LOCAL as health checks does not count these users; and send-proxy, version 1, sends UNKNOWN for them.
#
# Package: haproxy 3.0.11-1+deb13u5. Seen:
#   health check: 0d0a0d0a000d0a515549540a20000000
#   client over a Unix socket: 0d0a0d0a000d0a515549540a20000000 and its data: USER alice
#   the same with version 1: PROXY UNKNOWN
. "$(dirname "$0")/common"
debian13 haproxy=3.0.11-1+deb13u5
ports=("$(free_port)" "$(free_port)" "$(free_port)")
cat >"$work"/debian/finding/haproxy.cfg <<END
defaults
  mode tcp
  timeout connect 5s
  timeout client 10s
  timeout server 10s
listen checked
  bind unix@/finding/checked
  server one 127.0.0.1:${ports[0]} send-proxy-v2 check-send-proxy check inter 500ms
listen second
  bind unix@/finding/second
  server one 127.0.0.1:${ports[1]} send-proxy-v2
listen first
  bind unix@/finding/first
  server one 127.0.0.1:${ports[2]} send-proxy
END
cat >"$work"/backends.py <<'END'
import contextlib, os, socket, sys, time
folder, ports = sys.argv[1], list(map(int, sys.argv[2:]))
check, second, first = (socket.create_server(("127.0.0.1", port)) for port in ports)
for server in [check, second, first]:
    server.settimeout(20)
print("ready", flush=True)

def received(server):
    with server.accept()[0] as connection:
        connection.settimeout(20)
        data = b""
        with contextlib.suppress(ConnectionResetError):
            while chunk := connection.recv(99):
                data += chunk
        return data

def through(name, server):
    while not os.path.exists(f"{folder}/{name}"):
        time.sleep(0.1)
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(f"{folder}/{name}")
        client.sendall(b"USER alice\r\n")
        client.shutdown(socket.SHUT_WR)
        return received(server)

print(received(check).hex())
data = through("second", second)
print(data[:16].hex(), "and its data:", data[16:].decode().strip())
print(through("first", first).decode().splitlines()[0])
END
python3 "$work"/backends.py "$work"/debian/finding "${ports[@]}" >"$work"/seen &
started+=($!)
backends=$!
until grep -q ready "$work"/seen; do sleep 0.1; done
start haproxy -db -f /finding/haproxy.cfg
wait "$backends"
{ read -r _; read -r check; read -r second; read -r first; } <"$work"/seen

local=0d0a0d0a000d0a515549540a20000000
holds "health check" $local "$check"
holds "client over a Unix socket" "$local and its data: USER alice" "$second"
holds "the same with version 1" "PROXY UNKNOWN" "$first"
exit $status
