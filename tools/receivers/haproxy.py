"""A frontend of HAProxy with `accept-proxy` that forwards with `send-proxy`: accepts if it connects to the backend."""

import contextlib
import socket
import threading

from .debian import Debian13, Installed
from .server import Server, endpoint


class Haproxy(Server):
    def __init__(self, directory):
        super().__init__(directory)
        self.backend = socket.create_server(("127.0.0.1", 0))
        configuration = self.directory / "haproxy.cfg"
        configuration.write_text(f"""\
defaults
  mode tcp
  timeout connect 5s
  timeout client 30s
  timeout server 30s
listen all
  bind 127.0.0.1:{self.port} {"accept-proxy" if self.takes_headers else ""}
  server backend 127.0.0.1:{self.backend.getsockname()[1]} send-proxy
""")
        threading.Thread(target=self.serve, daemon=True).start()
        self.spawn(self.packages.command(directory, "haproxy", "-db", "-f", str(configuration)))

    def serve(self):
        """Sends the line that HAProxy sends back to its client."""
        while True:
            connection, _ = self.backend.accept()
            with connection, contextlib.suppress(OSError):
                line = b""
                while not line.endswith(b"\r\n") and (byte := connection.recv(1)):
                    line += byte
                connection.sendall(line)

    @classmethod
    def prepare(cls):
        cls.packages.prepare("haproxy")

    @classmethod
    def version(cls):
        return cls.packages.version("haproxy")

    @staticmethod
    def accepted(said):
        return said.startswith(b"PROXY ")

    def endpoints(self, said, _):
        words = said.decode().split()
        if words[1] == "UNKNOWN":
            return "none", "none"
        return endpoint(words[2], words[4]), endpoint(words[3], words[5])


class Haproxy26(Haproxy):
    name, packages = "HAProxy 2.6", Installed


class Haproxy30(Haproxy):
    name, packages = "HAProxy 3.0", Debian13
