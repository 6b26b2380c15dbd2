"""OpenSMTPD with `listen on .. proxy-v2`: accepts if it greets, and logs the client's address, without the port."""

import time

from .debian import Debian13
from .server import Server, endpoint

# How often it is started while another one listens, and the seconds between.
TRIES, REST = 10, 0.5


class OpenSmtpd(Server):
    name, packages = "OpenSMTPD", Debian13

    def __init__(self, directory):
        super().__init__(directory)
        configuration = self.directory / "smtpd.conf"
        configuration.write_text(f"""\
listen on 127.0.0.1 port {self.port} {"proxy-v2" if self.takes_headers else ""} hostname mail.test
match from any for any reject
""")
        self.spawn_alone(self.packages.command(directory, "smtpd", "-d", "-f", str(configuration)))

    def spawn_alone(self, command):
        """Its control socket has one place, where the server before may listen a moment longer than its parent lives."""
        for _ in range(TRIES - 1):
            try:
                return self.spawn(command)
            except RuntimeError as error:
                if "control socket already listening" not in str(error):
                    raise
            self.lines.clear()
            time.sleep(REST)
        return self.spawn(command)

    @classmethod
    def prepare(cls):
        cls.packages.prepare()

    @classmethod
    def version(cls):
        return cls.packages.version("opensmtpd")

    @staticmethod
    def accepted(said):
        return said.startswith(b"220")

    def endpoints(self, _, start):
        found = self.wait_for_line(start, r" smtp connected address=(\S+) host=")
        return endpoint(found[1].removeprefix("[").removesuffix("]"), "*"), None
