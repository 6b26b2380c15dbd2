#!/usr/bin/env bash
# aiosmtpd gives a handler's handle_PROXY the addresses that stand in a LOCAL header as if they were a client's. The
# specification (2.2) has the receiver "use the real connection endpoints and discard the protocol block" there; AWS
# sends its health checks so, with bytes in it that are no addresses. A handler has to look at the command itself.
#
# Package: aiosmtpd 1.4.6 of the Python Package Index. Seen:
#   PROXY from 192.0.2.7:5000: command 1, 192.0.2.7:5000
#   LOCAL with the same block: command 0, 192.0.2.7:5000
#   LOCAL of length 0: command 0, None:None
. "$(dirname "$0")/common"
needs python3
python3 -m pip --quiet install --target "$work"/packages aiosmtpd==1.4.6 >"$work"/log 2>&1 || skip "aiosmtpd 1.4.6 by pip"
cat >"$work"/server.py <<'END'
import asyncio, sys
from aiosmtpd.smtp import SMTP

class Handler:
    async def handle_PROXY(self, server, session, envelope, proxy):
        print(f"command {int(proxy.command)}, {proxy.src_addr}:{proxy.src_port}", flush=True)
        return True

async def main():
    loop = asyncio.get_running_loop()
    make = lambda: SMTP(Handler(), hostname="mail.test", proxy_protocol_timeout=10, loop=loop)
    server = await loop.create_server(make, "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()

asyncio.run(main())
END
port=$(free_port)
PYTHONPATH=$work/packages python3 "$work"/server.py "$port" >"$work"/log 2>&1 &
started+=($!)
listening "$port"

# told HEXADECIMAL: what the handler is told of a connection with this header, once it has been greeted.
told() {
  python3 - "$port" "$1" <<'END'
import socket, sys
header = bytes.fromhex("0d0a0d0a000d0a515549540a" + sys.argv[2])
with socket.create_connection(("127.0.0.1", int(sys.argv[1])), 10) as client:
    client.sendall(header)
    client.recv(99)
END
  tail -n 1 "$work"/log
}

holds "PROXY from 192.0.2.7:5000" "command 1, 192.0.2.7:5000" "$(told 2111000cc0000207c000020113880019)"
holds "LOCAL with the same block" "command 0, 192.0.2.7:5000" "$(told 2011000cc0000207c000020113880019)"
holds "LOCAL of length 0" "command 0, None:None" "$(told 20000000)"
exit $status
