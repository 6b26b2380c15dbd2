"""Postfix: smtpd, and postscreen before it."""

import os
import pwd

from .debian import Debian13, Installed
from .server import Server, endpoint, output

MAIN = """\
compatibility_level = 3.6
queue_directory = {directory}/queue
data_directory = {directory}/data
inet_protocols = all
myhostname = mail.test
maillog_file = /dev/stdout
smtpd_peername_lookup = no
smtpd_client_port_logging = yes
smtpd_client_connection_count_limit = 0
alias_maps =
alias_database =
postscreen_access_list =
postscreen_cache_map =
postscreen_greet_wait = 2s
"""
SERVICES = """\
smtpd pass - - n - - smtpd
postlog unix-dgram n - n - 1 postlogd
proxymap unix - - n - - proxymap
anvil unix - - n - 1 anvil
"""


class Postfix(Server):
    """The last line that it logs of a client names it."""

    def __init__(self, directory):
        super().__init__(directory)
        for name in ["queue", "data"]:
            (self.directory / name).mkdir()
        os.chown(self.directory / "data", self.owner(), -1)
        service = self.service + (f" -o {self.setting}" if self.takes_headers else "")
        (self.directory / "main.cf").write_text(MAIN.format(directory=directory))
        (self.directory / "master.cf").write_text(f"127.0.0.1:{self.port} inet {service}\n{SERVICES}")
        output(*self.packages.command(directory, "postfix", "-c", str(directory), "check"))  # makes the directories
        daemons = output(*self.packages.command(directory, "postconf", "-c", str(directory), "-h", "daemon_directory"))
        master = [f"{daemons.strip()}/master", "-s", "-c", str(directory)]
        environment = {**os.environ, "MAIL_CONFIG": str(directory)}
        self.spawn(self.packages.command(directory, *master), env=environment)
        self.settle(0)

    @classmethod
    def prepare(cls):
        cls.packages.prepare("postfix")

    @classmethod
    def version(cls):
        return cls.packages.version("postfix")

    @classmethod
    def owner(cls):
        return Debian13.user("postfix") if cls.packages is Debian13 else pwd.getpwnam("postfix").pw_uid

    @staticmethod
    def accepted(said):
        return said.startswith(b"220")


class Smtpd(Postfix):
    """With `smtpd_upstream_proxy_protocol = haproxy`: accepts if it greets with 220. It tells the source only."""

    service, setting = "n - n - - smtpd", "smtpd_upstream_proxy_protocol=haproxy"

    def settle(self, start):
        self.last = self.wait_for_line(start, r" disconnect from \S+\[(\S*)\]:(\d+)")

    def endpoints(self, _, __):
        return endpoint(*self.last.group(1, 2)), None


class Smtpd37(Smtpd):
    name, packages = "Postfix 3.7", Installed


class Smtpd310(Smtpd):
    name, packages = "Postfix 3.10", Debian13


class Postscreen(Postfix):
    """With `postscreen_upstream_proxy_protocol = haproxy`: accepts if its greeting begins, and logs both ends first."""

    name, packages = "postscreen", Installed
    service, setting = "n - n - 1 postscreen", "postscreen_upstream_proxy_protocol=haproxy"

    def endpoints(self, _, start):
        found = self.wait_for_line(start, r" CONNECT from \[(\S*)\]:(\d+) to \[(\S*)\]:(\d+)")
        return endpoint(*found.group(1, 2)), endpoint(*found.group(3, 4))
