"""smtp-server, the receiver of Nodemailer, with `useProxy`: version 1 only, and it tells the source only."""

import functools
import shutil

from .server import CACHE, Missing, Server, endpoint, output

VERSION = "3.21.6"
FOLDER = CACHE / f"smtp-server-{VERSION}"
PROGRAM = """\
const { SMTPServer } = require('smtp-server');
const server = new SMTPServer({
  useProxy: true, disabledCommands: ['STARTTLS', 'AUTH'], disableReverseLookup: true,
  onConnect(session, done) { console.log('proxy=%s,%s', session.remoteAddress, session.remotePort || ''); done(); },
});
server.on('error', () => {});
server.listen(Number(process.argv[2]), '127.0.0.1');
"""


class SmtpServer(Server):
    name = "smtp-server"

    def __init__(self, directory):
        super().__init__(directory)
        program = FOLDER / "server.js"
        program.write_text(PROGRAM)
        self.spawn(["node", str(program), str(self.port)])

    @classmethod
    @functools.cache
    def prepare(cls):
        if missing := [name for name in ["node", "npm"] if not shutil.which(name)]:
            raise Missing(f"{', '.join(missing)} installed")
        if not (FOLDER / "node_modules/smtp-server").exists():
            try:
                output("npm", "install", "--silent", "--ignore-scripts", "--prefix", FOLDER, f"smtp-server@{VERSION}")
            except RuntimeError as error:
                raise Missing(f"smtp-server {VERSION} by npm") from error

    @classmethod
    def version(cls):
        return VERSION

    @staticmethod
    def accepted(said):
        return said.startswith(b"220")

    def endpoints(self, _, start):
        found = self.wait_for_line(start, r"^proxy=(.*),([^,]*)$")
        return endpoint(*found.group(1, 2)), None
