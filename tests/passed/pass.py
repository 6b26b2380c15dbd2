#!/usr/bin/env python3
"""Stands in for a service manager that passes one descriptor (sd_listen_fds(3), systemd.socket(5)), and becomes the program.

    pass.py FORM PORT DIRECTORY PROGRAM ARGUMENTS
"""
import os
import socket
import sys


def listening(family, kind, address, only_v6=None):
    made = socket.socket(family, kind)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if only_v6 is not None:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, only_v6)
    made.bind(address)
    if kind != socket.SOCK_DGRAM:
        made.listen(64)
    return made.detach()


def accepted():
    listener = socket.create_server(("127.0.0.1", 0))
    client = socket.create_connection(listener.getsockname())
    os.set_inheritable(client.detach(), True)
    return listener.accept()[0].detach()


def fifo(path):
    os.mkfifo(path)
    return os.open(path, os.O_RDWR)


def silent(port):
    made = socket.socket()
    made.bind(("127.0.0.1", port))
    return made.detach()


def form_of(form, port, directory):
    path = os.path.join(directory, "passed")
    return {
        "both": lambda: listening(socket.AF_INET6, socket.SOCK_STREAM, ("::", port), 0),
        "ipv6-only": lambda: listening(socket.AF_INET6, socket.SOCK_STREAM, ("::", port), 1),
        "ipv4": lambda: listening(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", port)),
        "other-process": lambda: listening(socket.AF_INET, socket.SOCK_STREAM, ("127.0.0.1", 0)),
        "mapped": lambda: listening(socket.AF_INET6, socket.SOCK_STREAM, ("::ffff:127.0.0.1", port), 0),
        "unix": lambda: listening(socket.AF_UNIX, socket.SOCK_STREAM, path),
        "abstract": lambda: listening(socket.AF_UNIX, socket.SOCK_STREAM, "\0vestibule-%d" % port),
        "packets": lambda: listening(socket.AF_UNIX, socket.SOCK_SEQPACKET, path),
        "unix-datagram": lambda: listening(socket.AF_UNIX, socket.SOCK_DGRAM, path),
        "udp": lambda: listening(socket.AF_INET, socket.SOCK_DGRAM, ("127.0.0.1", port)),
        "netlink": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0).detach(),
        "fifo": lambda: fifo(path),
        "special": lambda: os.open("/dev/null", os.O_RDWR),
        "accepted": accepted,
        "not-listening": lambda: silent(port),
        "missing": lambda: None,
    }[form]()


def main(form, port, directory, *command):
    descriptor = form_of(form, int(port), directory)
    if descriptor is None:
        # Nothing is there but the standard descriptors.
        os.closerange(3, 64)
    else:
        high = os.dup(descriptor) if descriptor == 3 else descriptor
        os.dup2(high, 3)
    owner = 1 if form == "other-process" else os.getpid()
    passed = {"LISTEN_PID": str(owner), "LISTEN_FDS": "1", "LISTEN_FDNAMES": "the-unit"}
    os.execve(command[0], command, dict(os.environ, **passed))


if __name__ == "__main__":
    main(*sys.argv[1:])
