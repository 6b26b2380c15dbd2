"""OpenSMTPD with `listen on .. proxy-v2`: accepts if it greets, and logs the client's address, without the port."""

from .debian import Debian13
from .server import Server, endpoint


class OpenSmtpd(Server):
    name, packages = "OpenSMTPD", Debian13

    def __init__(self, directory):
        super().__init__(directory)
        configuration = self.directory / "smtpd.conf"
        configuration.write_text(f"""\
listen on 127.0.0.1 port {self.port} {"proxy-v2" if self.takes_headers else ""} hostname mail.test
match from any for any reject
""")
        self.spawn(self.packages.command(directory, "smtpd", "-d", "-f", str(configuration)))

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
