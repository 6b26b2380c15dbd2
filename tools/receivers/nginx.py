"""nginx: the stream module, and the mail proxy."""

import http.server
import threading

from .debian import Debian13, Installed
from .server import Server, endpoint, read_until

MODULES = "/usr/lib/nginx/modules"


class Nginx(Server):
    def start(self, module, body):
        configuration = self.directory / "nginx.conf"
        configuration.write_text(f"""\
load_module {MODULES}/{module};
daemon off;
user root;
pid {self.directory}/pid;
error_log stderr notice;
worker_processes 1;
events {{}}
{body}
""")
        command = ["nginx", "-p", str(self.directory), "-e", "stderr", "-c", str(configuration)]
        self.spawn(self.packages.command(self.directory, *command))

    @classmethod
    def prepare(cls):
        cls.packages.prepare("nginx")

    @classmethod
    def version(cls):
        return cls.packages.version("nginx")


class NginxStream(Nginx):
    """With `listen .. proxy_protocol`: accepts if it returns the variables that it is told to."""

    name, packages = "nginx stream", Installed

    def __init__(self, directory):
        super().__init__(directory)
        self.start("ngx_stream_module.so", f"""\
stream {{
  server {{
    listen 127.0.0.1:{self.port} proxy_protocol;
    return "$proxy_protocol_addr,$proxy_protocol_port,$proxy_protocol_server_addr,$proxy_protocol_server_port,.";
  }}
}}""")

    @staticmethod
    def accepted(said):
        return said.endswith(b",.")

    def endpoints(self, said, _):
        source, source_port, destination, destination_port, _ = said.decode().split(",")
        return endpoint(source, source_port), endpoint(destination, destination_port)


class NginxMail(Nginx):
    """With `listen .. proxy_protocol` for IMAP: accepts if it greets; a login then fails, by a message that repeats
    what nginx told its authentication server of the client."""

    name, packages = "nginx mail", Debian13

    def __init__(self, directory):
        super().__init__(directory)
        self.authentication = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Authentication)
        threading.Thread(target=self.authentication.serve_forever, daemon=True).start()
        self.start("ngx_mail_module.so", f"""\
mail {{
  server_name mail.test;
  auth_http 127.0.0.1:{self.authentication.server_port}/;
  set_real_ip_from 127.0.0.0/8;
  server {{
    listen 127.0.0.1:{self.port} {"proxy_protocol" if self.takes_headers else ""};
    protocol imap;
  }}
}}""")

    def stop(self):
        self.authentication.shutdown()
        super().stop()

    def read(self, client):
        """The greeting, and then the answer to a login. An empty line first: what a vector sends may have none."""
        said = read_until(client, rb"^\* OK.*\r\n")
        if not said:
            return said
        client.sendall(b"\r\nz LOGIN u p\r\n")
        return read_until(client, rb"^z NO .*\r\n")

    @staticmethod
    def accepted(said):
        return b"\nz NO " in said

    def endpoints(self, said, _):
        address, port, destination, destination_port, _ = said.split(b"\nz NO ")[1].decode().split(",")
        # Without a header that names one, nginx tells the connection's address and no port.
        source = endpoint(address, port) if port else "own"
        return source, endpoint(destination, destination_port)


class NginxMail122(NginxMail):
    name, packages = "nginx mail 1.22", Installed


class Authentication(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        names = ["Client-IP", "Proxy-Protocol-Port", "Proxy-Protocol-Server-Addr", "Proxy-Protocol-Server-Port"]
        self.send_response(200)
        self.send_header("Auth-Status", ",".join([*(self.headers.get(name, "") for name in names), "."]))
        self.end_headers()

    def log_message(self, *_):
        pass
