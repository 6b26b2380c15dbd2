"""What all receivers have in common: ports, child processes, and one connection a vector."""

import contextlib
import ipaddress
import itertools
import os
import pathlib
import re
import signal
import socket
import subprocess
import threading
import time

from . import processes

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
# Where fetched packages are kept, so that the second run is quick.
CACHE = ROOT / "target/receivers"
PEER = "127.0.0.2"
# How long a server may take to start, or to write a log line.
START = 20.0
# How far a log may lag behind.
LAG = 1.0
# A server is at work on nothing any more if in one of so many seconds it hardly uses the processor.
CALM = 10
# A receiver that says nothing for so long waits. Asked twice, the second time longer: the machine may be busy.
PATIENCE = (1.5, 6.0)

# Below the range from which the kernel takes ports for outgoing connections, and counted on: what is free for one of
# the receivers stays so until it has bound it, whatever the others do meanwhile.
PORT_FIRST, PORT_COUNT = 11_000, 20_000
PORTS = itertools.count(os.getpid() * 211)


class Missing(Exception):
    """A receiver cannot be had here; the text says what it lacks."""


def free_port():
    for number in itertools.islice(PORTS, PORT_COUNT):
        port = PORT_FIRST + number % PORT_COUNT
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no free port")


def output(*command, **options):
    done = subprocess.run(command, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **options)
    if done.returncode != 0:
        words = " ".join(map(str, command))
        raise RuntimeError(f"{words} has ended with code {done.returncode}; it said:\n{done.stdout}")
    return done.stdout


def endpoint(address, port):
    """The two as one text in the form of the vectors; "none" without an address."""
    if not address:
        return "none"
    if address.startswith("unix:"):
        return address
    port = port or "0"
    with contextlib.suppress(ValueError):
        parsed = ipaddress.ip_address(address)
        mapped = getattr(parsed, "ipv4_mapped", None)
        address = str(mapped or parsed)
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def unmapped(shown):
    """An endpoint of a vector, IPv4 for IPv4-mapped: the one place where receivers differ without meaning it."""
    host, _, port = shown.rpartition(":")
    return shown if shown.startswith("unix:") else endpoint(host.strip("[]"), port)


class Receiver:
    """Something that takes headers. Made by `CLASS(directory)`, asked one vector after the other, stopped at the end.

    `name` heads its column. `prepare` fetches what it needs, and raises `Missing` where that cannot be had; afterwards
    `version` can be asked.
    """

    name = None

    @classmethod
    def prepare(cls):
        raise NotImplementedError

    @classmethod
    def version(cls):
        raise NotImplementedError

    def answers(self, vectors):
        """What it does with each: "refuses", "waits", or a pair of endpoints, either "own" or "ADDRESS:PORT", the
        second None if it does not tell."""
        raise NotImplementedError

    def stop(self):
        pass


class Server(Receiver):
    """A child process in a temporary directory, with the lines that it logs. It leads a session; what belongs to that,
    or descends from it, ends with it."""

    # Whether the setting is on by which it takes headers.
    takes_headers = True
    # Set when the run is broken off: no server is started any more.
    broken_off = threading.Event()

    def __init__(self, directory):
        self.directory = pathlib.Path(directory)
        self.port = free_port()
        self.lines = []
        self.changed = threading.Condition()

    def spawn(self, command, **options):
        if self.broken_off.is_set():
            raise RuntimeError("the run was broken off")
        self.process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            errors="replace", start_new_session=True, **options
        )
        threading.Thread(target=self.collect, daemon=True).start()
        deadline = time.monotonic() + START
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return
            time.sleep(0.05)
        code = self.process.poll()
        self.stop()
        how = f"does not listen after {START:.0f} s" if code is None else f"has ended with code {code}"
        raise RuntimeError("\n".join([how + "; it said:", *self.lines]))

    def collect(self):
        for line in self.process.stdout:
            with self.changed:
                self.lines.append(line.rstrip())
                self.changed.notify_all()

    def wait_for_line(self, start, pattern, seconds=START):
        """The match of the first line from number `start` on, or None."""
        deadline = time.monotonic() + seconds
        with self.changed:
            while True:
                for line in self.lines[start:]:
                    if match := re.search(pattern, line):
                        return match
                left = deadline - time.monotonic()
                if left <= 0:
                    return None
                self.changed.wait(left)

    def stop(self):
        members = processes.family(self.process.pid)
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(10)
        processes.end_family(self.process.pid, members)
        self.process.wait()

    def must_be_calm(self):
        """No process may go on working when all connections are closed."""
        if all(working := processes.busy(self.process.pid, 1) for _ in range(CALM)):
            raise RuntimeError(f"processes {working} work on behind the last connection: one of the vectors hangs them")

    def disturbances(self):
        if self.process.poll() is not None:
            raise RuntimeError("\n".join(["has ended; it said:", *self.lines[-20:]]))
        return [line for line in self.lines if re.search(r"\bsignal \d+|Panic", line)]

    def answers(self, vectors):
        # The first connection may take a server long, while the others start: it does not count.
        self.answer(vectors[0])
        answers = []
        for index, vector in enumerate(vectors):
            disturbances = len(self.disturbances())
            answers.append(self.answer(vector))
            if len(self.disturbances()) > disturbances:
                # The log lags behind: which of the last ones was it?
                for suspect in range(max(0, index - 2), index + 1):
                    answers[suspect] = self.answer_alone(vectors[suspect])
        self.must_be_calm()
        return answers

    def answer(self, vector):
        for seconds in PATIENCE:
            answer = self.ask(bytes.fromhex(vector["hex"]), seconds)
            if answer != "waits" or vector["verdict"] == "incomplete":
                break
        return answer

    def answer_alone(self, vector):
        """The answer, or "disturbed" if the server's log then speaks of a signal or a panic."""
        time.sleep(LAG)
        disturbances = len(self.disturbances())
        answer = self.answer(vector)
        time.sleep(LAG)
        return answer if len(self.disturbances()) == disturbances else "disturbed"

    def ask(self, data, seconds):
        """What one connection came to."""
        start = len(self.lines)
        with socket.socket() as client:
            client.bind((PEER, 0))
            client.settimeout(seconds)
            client.connect(("127.0.0.1", self.port))
            self.peer_port = client.getsockname()[1]
            try:
                client.sendall(data)
                said = self.read(client)
            except TimeoutError:
                said = None
            except ConnectionError:
                said = b""
        self.settle(start)
        if said is None:
            return "waits"
        if not self.accepted(said):
            return "refuses"
        # A receiver that does not tell the port shows `*`.
        real = {f"{PEER}:{self.peer_port}", f"{PEER}:*", f"127.0.0.1:{self.port}"}
        return tuple("own" if it in real else self.settled(it) for it in self.endpoints(said, start))

    def settled(self, shown):
        """An endpoint in which the peer's own port, another one each time, stands as `*`."""
        return re.sub(rf":{self.peer_port}$", ":*", shown or "") or None

    def settle(self, start):
        """Waits until the log of a connection is complete, which began at line `start`, where that can be known."""

    def read(self, client):
        """The first bytes that the receiver sends; none if it closes."""
        return client.recv(4096)


def read_until(client, end, limit=4096):
    """What comes until a line that `end`, a pattern, matches, or the end of the connection."""
    said = b""
    while len(said) < limit and not re.search(end, said, re.MULTILINE):
        more = client.recv(limit)
        if not more:
            break
        said += more
    return said
