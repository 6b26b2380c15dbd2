"""aiosmtpd, of the Python Package Index, with a handler that logs what `handle_PROXY` is given."""

import sys

from .server import CACHE, Program, endpoint

VERSION = "1.4.6"
PROGRAM = """\
import asyncio, sys
from aiosmtpd.smtp import SMTP

def show(address):
    if not isinstance(address, bytes):
        return address
    # In the vectors' spelling: a path ends before its first NUL, an abstract name before those that pad it.
    padded = address.rstrip(b"\\0")
    mark, name = ("@", padded[1:]) if padded[:1] == b"\\0" else ("", address.split(b"\\0")[0])
    plain = lambda byte: 0x21 <= byte <= 0x7e and byte != 0x5c
    return f"unix:{mark}" + "".join(chr(byte) if plain(byte) else f"\\\\x{byte:02x}" for byte in name)

class Handler:
    async def handle_PROXY(self, server, session, envelope, proxy):
        # The header's command is the handler's to look at: of LOCAL the library shows the addresses, too.
        local = proxy.version == 2 and proxy.command == 0
        ends = [show(proxy.src_addr), proxy.src_port, show(proxy.dst_addr), proxy.dst_port]
        print("proxy=", *("" if local or end is None else end for end in ends), sep=",", flush=True)
        return True

async def main():
    loop = asyncio.get_running_loop()
    make = lambda: SMTP(Handler(), hostname="mail.test", proxy_protocol_timeout=10, loop=loop)
    server = await loop.create_server(make, "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()

asyncio.run(main())
"""


class Aiosmtpd(Program):
    name, release, packaged, program = "aiosmtpd", VERSION, "aiosmtpd", PROGRAM
    folder = CACHE / f"aiosmtpd-{VERSION}"

    def __init__(self, directory):
        super().__init__(directory)
        program = self.written(self.directory, "server.py")
        self.spawn([sys.executable, program, str(self.port)], env={"PYTHONPATH": str(self.folder)})

    @classmethod
    def fetching(cls):
        package = f"aiosmtpd=={VERSION}"
        return [sys.executable, "-m", "pip", "--quiet", "install", "--target", cls.folder, package]

    def endpoints(self, _, start):
        found = self.wait_for_line(start, r"^proxy=,([^,]*),([^,]*),([^,]*),([^,]*)$")
        return endpoint(*found.group(1, 2)), endpoint(*found.group(3, 4))
