"""Dovecot's imap-login with `haproxy = yes`: accepts if it greets, and logs the addresses when the client has gone."""


from .debian import Debian13, Installed
from .server import PEER, Server, endpoint

# What both versions understand.
COMMON = """\
base_dir = {directory}/run
state_dir = {directory}/state
log_path = /dev/stderr
protocols = imap
listen = 127.0.0.1
ssl = no
haproxy_trusted_networks = {peer}
service imap-login {{
  process_min_avail = 1
  client_limit = 1000
  inet_listener imap {{
    port = 0
  }}
  inet_listener imap_haproxy {{
    port = {port}
    haproxy = {takes_headers}
  }}
  {restart} = {never}
}}
"""
OLD = """\
login_log_format_elements = from=<%r,%b> to=<%l,%a> by=<%{{real_rport}}>
login_log_format = %$ %s
mail_location = maildir:{directory}/%u
passdb {{
  driver = static
  args = password=pw
}}
userdb {{
  driver = static
  args = uid=dovecot gid=dovecot home={directory}/%u
}}
"""
NEW = """\
dovecot_config_version = 2.4.1
dovecot_storage_version = 2.4.1
login_log_format_elements = from=<%{{remote_ip}},%{{remote_port}}> to=<%{{local_ip}},%{{local_port}}> \\
  by=<%{{real_remote_port}}>
login_log_format = %{{message}} %{{elements}}
mail_driver = maildir
mail_path = {directory}/%{{user}}
passdb static {{
  password = pw
}}
"""


class Dovecot(Server):
    def __init__(self, directory):
        super().__init__(directory)
        takes_headers = "yes" if self.takes_headers else "no"
        values = dict(directory=directory, peer=PEER, port=self.port, takes_headers=takes_headers, **self.words)
        configuration = self.directory / "dovecot.conf"
        configuration.write_text((self.special + COMMON).format_map(values))
        self.spawn(self.packages.command(directory, "dovecot", "-F", "-c", str(configuration)))

    @classmethod
    def prepare(cls):
        cls.packages.prepare("dovecot")

    @classmethod
    def version(cls):
        return cls.packages.version("dovecot-core")

    @staticmethod
    def accepted(said):
        return said.startswith(b"* OK")

    def endpoints(self, _, start):
        # By the peer's own port: of a connection that it closed, a line may come late.
        found = self.wait_for_line(start, rf"from=<(\S*),(\S*)>,? to=<(\S*),(\S*)>,? by=<{self.peer_port}>")
        return endpoint(*found.group(1, 2)), endpoint(*found.group(3, 4))


class Dovecot23(Dovecot):
    name, packages, special = "Dovecot 2.3", Installed, OLD
    words = dict(restart="service_count", never="0")


class Dovecot24(Dovecot):
    name, packages, special = "Dovecot 2.4", Debian13, NEW
    words = dict(restart="restart_request_count", never="unlimited")
