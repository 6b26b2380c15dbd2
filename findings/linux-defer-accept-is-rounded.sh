#!/usr/bin/env bash
# TCP_DEFER_ACCEPT takes seconds, and the kernel rounds them up to a sum of its SYN-ACK retransmissions, 1, 2, 4, 8..: of
# 2 it makes 3, of 4 it makes 7. A client that connects and says nothing, as those do who wait for a greeting, is
# accepted that much later. tcp(7) speaks of "the time" and "an approximate value".
#
# Kernel 6.18. Seen:
#   set 1: kept 1, a silent client is accepted after 1 s
#   set 2: kept 3, a silent client is accepted after 3 s
#   set 4: kept 7, a silent client is accepted after 7 s
. "$(dirname "$0")/common"
needs python3
case $(uname -r) in 6.1[2-9].* | [7-9].*) ;; *) skip "Linux 6.12 or later" ;; esac

# waited SECONDS: what the socket says that it keeps, and when it accepts a client that says nothing.
waited() {
  python3 - "$1" <<'END'
import socket, sys, time
TCP_DEFER_ACCEPT = 9
listener = socket.create_server(("127.0.0.1", 0))
listener.setsockopt(socket.IPPROTO_TCP, TCP_DEFER_ACCEPT, int(sys.argv[1]))
listener.settimeout(60)
kept = listener.getsockopt(socket.IPPROTO_TCP, TCP_DEFER_ACCEPT)
with socket.create_connection(listener.getsockname()):
    start = time.monotonic()
    listener.accept()
    print(f"kept {kept}, a silent client is accepted after {int(time.monotonic() - start)} s")
END
}

holds "set 1" "kept 1, a silent client is accepted after 1 s" "$(waited 1)"
holds "set 2" "kept 3, a silent client is accepted after 3 s" "$(waited 2)"
holds "set 4" "kept 7, a silent client is accepted after 7 s" "$(waited 4)"
exit $status
