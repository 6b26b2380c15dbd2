#!/usr/bin/env python3
"""Stands in for systemd's descriptor store where no systemd runs (sd_pid_notify_with_fds(3), sd_listen_fds(3)).

    manager.py NOTIFY PROGRAM ARGUMENTS

starts the program with NOTIFY_SOCKET, keeps the descriptors that it sends, and starts it again with them whenever it is
killed. Prints the process id of each start. Ends, and the program by TERM, when standard input does.
"""
import fcntl
import os
import select
import signal
import socket
import sys

DESCRIPTORS_MAX = 253  # SCM_MAX_FD


def main(notify_path, *command):
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notify.bind(notify_path)
    ended, wake = os.pipe()
    os.set_blocking(wake, False)
    signal.set_wakeup_fd(wake)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    store = {}
    child = start(command, notify_path, store)
    while True:
        readable, _, _ = select.select([notify, ended, sys.stdin], [], [])
        if notify in readable:
            take(notify, store)
        elif ended in readable:
            os.read(ended, 64)
            if os.waitpid(child, os.WNOHANG)[0] == child:
                child = start(command, notify_path, store)
        else:
            os.kill(child, signal.SIGTERM)
            os.waitpid(child, 0)
            return


def take(notify, store):
    """One message: `store` has the descriptors of each name, each socket once."""
    message, descriptors, _, _ = socket.recv_fds(notify, 4096, DESCRIPTORS_MAX)
    fields = dict(line.split("=", 1) for line in message.decode().splitlines())
    name = fields.get("FDNAME", "stored")
    if "FDSTOREREMOVE" in fields:
        for kept in store.pop(name, {}).values():
            os.close(kept)
    for descriptor in descriptors:
        kept = store.setdefault(name, {})
        same = os.fstat(descriptor).st_ino
        if "FDSTORE" in fields and same not in kept:
            kept[same] = descriptor
        else:
            os.close(descriptor)


def start(command, notify_path, store):
    passed = [(name, descriptor) for name, kept in store.items() for descriptor in kept.values()]
    child = os.fork()
    if child == 0:
        high = [fcntl.fcntl(descriptor, fcntl.F_DUPFD, 100) for _, descriptor in passed]
        for number, descriptor in enumerate(high):
            os.dup2(descriptor, 3 + number)
            os.close(descriptor)
        environment = dict(os.environ, NOTIFY_SOCKET=notify_path)
        if passed:
            environment |= {
                "LISTEN_PID": str(os.getpid()),
                "LISTEN_FDS": str(len(passed)),
                "LISTEN_FDNAMES": ":".join(name for name, _ in passed),
            }
        os.execve(command[0], command, environment)
    print(child, flush=True)
    return child


if __name__ == "__main__":
    main(*sys.argv[1:])
