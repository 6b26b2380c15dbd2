#!/usr/bin/env python3
"""Receives connections from Vestibule (docs/handoff.md): python3 receiver.py /run/vestibule/imap.sock [CAPACITY]"""
import ipaddress, os, socket, struct, sys, threading, time

FIXED = struct.Struct("!4sBBHQ16sH16sH16sH16sHIIBBH")


def serve(link, number, connection, client, residual):
    """One connection, which is ours: greets, answers, leaves."""
    try:
        with connection:
            connection.sendall(f"* OK hello {client} from {os.getpid()}\r\n".encode())
            if residual:
                connection.sendall(residual)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(4096):
                pass
    except OSError:
        pass  # the client has gone
    try:
        link.send(b"done %d" % number)
    except OSError:
        pass  # Vestibule has gone


def take(link):
    """Takes what is offered, until nothing more comes here."""
    while True:
        record, descriptors, _, _ = socket.recv_fds(link, 1 << 17, 1)
        if not record:
            return
        magic, version, _, fixed, number, client, port, *_, header, residual, service, listener, _ = FIXED.unpack_from(record)
        connection = socket.socket(fileno=descriptors[0])
        if magic != b"VHOF" or version != 1:
            sys.exit("this receiver knows version 1")
        behind = record[fixed + service + listener + header:][:residual]
        link.send(b"taken %d" % number)  # before anything is read or written; if it fails the connection is not ours
        ip = ipaddress.IPv6Address(client)
        who = f"{ip.ipv4_mapped or ip}:{port}"
        threading.Thread(target=serve, args=(link, number, connection, who, behind), daemon=True).start()


while True:
    link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        link.connect(sys.argv[1])
        link.send(b"hello 1 %d" % int(sys.argv[2] if len(sys.argv) > 2 else 64))
        take(link)
    except OSError as error:
        print(f"{sys.argv[1]}: {error}", file=sys.stderr)
    time.sleep(0.05)  # nobody listens yet, or another one does now; the threads keep what is theirs
