"""Receivers that are libraries: a few lines of a program of ours on a pinned package of npm or pip."""

import functools
import shutil
import sys

from .server import CACHE, PEER, Missing, Server, endpoint, output


class Scripted(Server):
    """Greets with 220, and logs the ends of a connection in one line that begins with `proxy=`."""

    # The package, its version, and whose it is.
    package = package_version = registry = None

    @classmethod
    def folder(cls):
        return CACHE / f"{cls.package}-{cls.package_version}"

    @classmethod
    @functools.cache
    def prepare(cls):
        needed = {"npm": ["node", "npm"], "pip": []}[cls.registry]
        if missing := [name for name in needed if not shutil.which(name)]:
            raise Missing(f"{', '.join(missing)} installed")
        fetched = cls.folder() / "fetched"
        if not fetched.exists():
            try:
                output(*cls.installer())
            except RuntimeError as error:
                raise Missing(f"{cls.package} {cls.package_version} by {cls.registry}") from error
            fetched.touch()

    @classmethod
    def installer(cls):
        if cls.registry == "npm":
            package = f"{cls.package}@{cls.package_version}"
            return ["npm", "install", "--silent", "--ignore-scripts", "--prefix", cls.folder(), package]
        package = f"{cls.package}=={cls.package_version}"
        return [sys.executable, "-m", "pip", "--quiet", "install", "--upgrade", "--target", cls.folder(), package]

    @classmethod
    def version(cls):
        return cls.package_version

    @staticmethod
    def accepted(said):
        return said.startswith(b"220")

    def endpoints(self, _, start):
        """Of what it tells, source and destination: each an address and a port."""
        told = self.wait_for_line(start, r"^proxy=(.*)$")[1].split(",")
        return endpoint(*told[:2]), endpoint(*told[2:4]) if told[2:] else None


class Aiosmtpd(Scripted):
    """A handler that logs what `handle_PROXY` is given."""

    name = package = "aiosmtpd"
    package_version, registry = "1.4.6", "pip"
    program = """\
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
        print("proxy=" + ",".join("" if local or end is None else str(end) for end in ends), flush=True)
        return True

async def main():
    loop = asyncio.get_running_loop()
    make = lambda: SMTP(Handler(), hostname="mail.test", proxy_protocol_timeout=10, loop=loop)
    server = await loop.create_server(make, "127.0.0.1", int(sys.argv[1]))
    await server.serve_forever()

asyncio.run(main())
"""

    def __init__(self, directory):
        super().__init__(directory)
        program = self.directory / "server.py"
        program.write_text(self.program)
        self.spawn([sys.executable, str(program), str(self.port)], env={"PYTHONPATH": str(self.folder())})


class SmtpServer(Scripted):
    """The receiver of Nodemailer, with `useProxy`: version 1 only, and it tells the source only."""

    name = package = "smtp-server"
    package_version, registry = "3.21.6", "npm"
    program = """\
const { SMTPServer } = require('smtp-server');
const server = new SMTPServer({
  useProxy: process.argv[3] === 'true', disabledCommands: ['STARTTLS', 'AUTH'], disableReverseLookup: true,
  onConnect(session, done) { console.log('proxy=%s,%s', session.remoteAddress, session.remotePort || ''); done(); },
});
server.on('error', () => {});
server.listen(Number(process.argv[2]), '127.0.0.1');
"""

    def __init__(self, directory):
        super().__init__(directory)
        program = self.folder() / "server.js"
        program.write_text(self.program)
        self.spawn(["node", str(program), str(self.port), "true" if self.takes_headers else "false"])


class Haraka(Scripted):
    """With the peer in `[haproxy] hosts`: version 1 only. A plugin of ours tells both ends."""

    name, package = "Haraka", "Haraka"
    package_version, registry = "3.3.4", "npm"
    plugin = """\
exports.hook_connect = (next, { remote, local }) => {
  process.stdout.write(`proxy=${remote.ip},${remote.port},${local.ip},${local.port}\\n`);
  next();
};
"""

    def __init__(self, directory):
        super().__init__(directory)
        for folder in ["config", "plugins", "queue"]:
            (self.directory / folder).mkdir()
        # A file of ours takes the place of Haraka's, with all that stands in it.
        package = self.folder() / "node_modules/Haraka"
        connection = (package / "config/connection.ini").read_text()
        if self.takes_headers:
            connection = connection.replace("\nhosts[] =\n", f"\nhosts[] = {PEER}\n")
        for name, text in {
            "config/smtp.ini": f"listen=127.0.0.1:{self.port}\nnodes=0\n",
            "config/connection.ini": connection,
            "config/me": "mail.test\n",
            "config/plugins": "show\n",
            "plugins/show.js": self.plugin,
        }.items():
            (self.directory / name).write_text(text)
        self.spawn(["node", str(package / "bin/haraka"), "-c", str(self.directory)])
        # The connection by which it was found listening, which it first looks up.
        self.wait_for_line(0, "^proxy=")
