"""Debian's heavy daemon of Exim with `hosts_proxy`.

After a header that it does not take it greets all the same, and answers 503 to whatever comes: it accepts if it answers
something else. The greeting is told to repeat the addresses.
"""

import re

from .debian import Debian13
from .server import Server, endpoint, read_until


class Exim(Server):
    name, packages = "Exim", Debian13

    def __init__(self, directory):
        super().__init__(directory)
        user = Debian13.user("Debian-exim")
        configuration = self.directory / "exim.conf"
        configuration.write_text(f"""\
exim_user = {user}
exim_group = {user}
primary_hostname = mail.test
spool_directory = {directory}/spool
log_file_path = {directory}/%slog
pid_file_path = {directory}/pid
local_interfaces = 127.0.0.1
daemon_smtp_ports = {self.port}
hosts_proxy = {"*" if self.takes_headers else ""}
host_lookup =
tls_advertise_hosts =
smtp_enforce_sync = false
smtp_accept_max = 0
acl_smtp_connect = accept
smtp_banner = $sender_host_address,$sender_host_port,$proxy_external_address,$proxy_external_port,.
""")
        (self.directory / "spool").mkdir()
        self.directory.chmod(0o777)
        self.spawn(self.packages.command(directory, "exim4", "-bdf", "-C", str(configuration)))

    @classmethod
    def prepare(cls):
        cls.packages.prepare()

    @classmethod
    def version(cls):
        return cls.packages.version("exim4-daemon-heavy")

    def disturbances(self):
        logs = [line for log in self.directory.glob("*log") for line in log.read_text(errors="replace").splitlines()]
        return super().disturbances() + [line for line in logs if re.search(r"SIG[A-Z]|\bsignal \d+", line)]

    def read(self, client):
        greeting = read_until(client, rb"^220 .*\r\n")
        if not greeting:
            return greeting
        # An empty line first: what a vector sends may have no end.
        client.sendall(b"\r\nNOOP\r\n")
        return greeting + read_until(client, rb"^(250|5\d\d)[ -].*\r\n")

    @staticmethod
    def accepted(said):
        return said.startswith(b"220 ") and not re.search(rb"^503 .*[Pp]roxy", said, re.MULTILINE)

    def endpoints(self, said, _):
        source, source_port, destination, destination_port, _ = said.split(b"\r\n")[0][4:].decode().split(",")
        return endpoint(source, source_port), endpoint(destination, destination_port)
