#!/usr/bin/env bash
# smtp-server, Nodemailer's receiver, answers a client whose PROXY header it does not take with a line of IMAP, `* BAD`, on
# its SMTP port. It reads version 1 only: a valid header of version 2 is one that it does not take. What is before it in
# the chain, and looks for a code of SMTP, finds none.
#
# Package: smtp-server 3.21.6 of npm, Node 18 or later. Seen, with useProxy:
#   version 1: 220
#   version 2: * BAD Invalid PROXY header
. "$(dirname "$0")/common"
needs node npm python3
npm install --silent --ignore-scripts --prefix "$work" smtp-server@3.21.6 >"$work"/log 2>&1 ||
  skip "smtp-server 3.21.6 by npm"
cat >"$work"/server.js <<'END'
const { SMTPServer } = require('smtp-server');
const server = new SMTPServer({ useProxy: true, disabledCommands: ['STARTTLS', 'AUTH'], disableReverseLookup: true });
server.on('error', () => {});
server.listen(Number(process.argv[2]), '127.0.0.1');
END
port=$(free_port)
node "$work"/server.js "$port" >"$work"/log 2>&1 &
started+=($!)
listening "$port"

# said HEXADECIMAL LENGTH: so many bytes of the server's first line behind these.
said() {
  python3 - "$port" "$1" "$2" <<'END'
import socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1])), 10) as client:
    client.sendall(bytes.fromhex(sys.argv[2]))
    print(client.makefile().readline().strip()[:int(sys.argv[3])])
END
}

# PROXY TCP4 192.0.2.7 192.0.2.1 5000 25, and the same in version 2.
line=$(printf 'PROXY TCP4 192.0.2.7 192.0.2.1 5000 25\r\n' | od -An -v -tx1 | tr -d ' \n')
holds "version 1" 220 "$(said "$line" 3)"
holds "version 2" "* BAD Invalid PROXY header" "$(said 0d0a0d0a000d0a515549540a2111000cc0000207c000020113880019 99)"
exit $status
