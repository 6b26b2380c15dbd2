"""smtp-server, the receiver of Nodemailer, with `useProxy`: version 1 only, and it tells the source only."""

import shutil

from .server import CACHE, Missing, Program, endpoint

VERSION = "3.21.6"
PROGRAM = """\
const { SMTPServer } = require('smtp-server');
const server = new SMTPServer({
  useProxy: true, disabledCommands: ['STARTTLS', 'AUTH'], disableReverseLookup: true,
  onConnect(session, done) { console.log('proxy=%s,%s', session.remoteAddress, session.remotePort || ''); done(); },
});
server.on('error', () => {});
server.listen(Number(process.argv[2]), '127.0.0.1');
"""


class SmtpServer(Program):
    name, release, packaged, program = "smtp-server", VERSION, "node_modules/smtp-server", PROGRAM
    folder = CACHE / f"smtp-server-{VERSION}"

    def __init__(self, directory):
        super().__init__(directory)
        # Beside the packages, where node looks for them.
        self.spawn(["node", self.written(self.folder, "server.js"), str(self.port)])

    @classmethod
    def fetching(cls):
        if missing := [name for name in ["node", "npm"] if not shutil.which(name)]:
            raise Missing(f"{', '.join(missing)} installed")
        package = f"smtp-server@{VERSION}"
        return ["npm", "install", "--silent", "--ignore-scripts", "--prefix", cls.folder, package]

    def endpoints(self, _, start):
        found = self.wait_for_line(start, r"^proxy=(.*),([^,]*)$")
        return endpoint(*found.group(1, 2)), None
