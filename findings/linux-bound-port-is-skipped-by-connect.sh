#!/usr/bin/env bash
# Linux: when connect(2) chooses the source port, it passes over every port that some socket has taken by bind(2),
# whatever the local address of either. Ports that connect(2) itself has chosen are shared between addresses and between
# destinations. So a proxy that binds its source addresses before it connects takes the ports from all other clients of
# the host; with IP_BIND_ADDRESS_NO_PORT, and port 0 in bind(2), it does not.
#
# Kernel 6.18. Seen, for connections to 127.0.0.1 that are confined to one source port by IP_LOCAL_PORT_RANGE:
#   port bound on 127.0.0.5, not connected: EADDRNOTAVAIL
#   port bound on 127.0.0.5 and connected from there: EADDRNOTAVAIL
#   port chosen by connect(2) on 127.0.0.5 behind IP_BIND_ADDRESS_NO_PORT: connected
#   port chosen by connect(2) on 127.0.0.1, to another destination: connected
. "$(dirname "$0")/common"
needs python3
case $(uname -r) in 6.[3-9].* | 6.[1-9][0-9].* | [7-9].*) ;; *) skip "Linux 6.3 or later" ;; esac
cat >"$work"/ports.py <<'END'
import errno, socket, struct
IP_BIND_ADDRESS_NO_PORT, IP_LOCAL_PORT_RANGE = 24, 51
servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
one, other = (server.getsockname() for server in servers)

def confined(port):
    client = socket.socket()
    client.setsockopt(socket.IPPROTO_IP, IP_LOCAL_PORT_RANGE, struct.pack("I", port << 16 | port))
    return client

def bound(port):
    first = socket.socket()
    first.bind(("127.0.0.5", port))
    return first

def bound_and_connected(port):
    first = bound(port)
    first.connect(other)
    return first

def chosen_with_address(port):
    first = confined(port)
    first.setsockopt(socket.IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1)
    first.bind(("127.0.0.5", 0))
    first.connect(other)
    return first

def chosen(port):
    first = confined(port)
    first.connect(other)
    return first

def outcome(taken_by):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with taken_by(port) as first, confined(port) as second:
        assert first.getsockname()[1] == port
        try:
            second.connect(one)
            return "connected"
        except OSError as error:
            return errno.errorcode[error.errno]

for taken_by in [bound, bound_and_connected, chosen_with_address, chosen]:
    print(outcome(taken_by))
END
{ read -r bound; read -r connected; read -r address; read -r chosen; } < <(python3 "$work"/ports.py 2>&1)

holds "port bound on 127.0.0.5, not connected" EADDRNOTAVAIL "$bound"
holds "port bound on 127.0.0.5 and connected from there" EADDRNOTAVAIL "$connected"
holds "port chosen by connect(2) on 127.0.0.5 behind IP_BIND_ADDRESS_NO_PORT" connected "$address"
holds "port chosen by connect(2) on 127.0.0.1, to another destination" connected "$chosen"
exit $status
