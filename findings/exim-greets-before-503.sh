#!/usr/bin/env bash
# Exim greets with 220 after a PROXY header that it does not take, reads on in the header as if commands stood there,
# and answers 503 to what comes then. A check that reads the greeting finds it up. A valid header of more than 232
# bytes is one that it does not take.
#
# Package: exim4-daemon-heavy 4.98.2-1+deb13u6. Seen:
#   header of 232 bytes: 220, then 250 OK
#   header of 233 bytes: 220, then 501 NUL characters are not allowed in SMTP commands,
#     then 503 Command refused, required Proxy negotiation failed
. "$(dirname "$0")/common"
debian13 exim4-daemon-heavy=4.98.2-1+deb13u6
port=$(free_port)
user=$(sed -n 's/^Debian-exim:x:\([0-9]*\):.*/\1/p' "$work"/debian/etc/passwd)
cat >"$work"/debian/finding/exim.conf <<END
exim_user = $user
exim_group = $user
primary_hostname = mail.test
spool_directory = /finding/spool
log_file_path = /finding/%slog
pid_file_path = /finding/pid
local_interfaces = 127.0.0.1
daemon_smtp_ports = $port
hosts_proxy = *
host_lookup =
tls_advertise_hosts =
acl_smtp_connect = accept
END
mkdir "$work"/debian/finding/spool
chmod 777 "$work"/debian/finding
start exim4 -bdf -C /finding/exim.conf
listening "$port"

# talk LENGTH: what Exim says to a header of that many bytes and to NOOP.
talk() {
  python3 - "$port" "$1" <<'END'
import socket, sys
port, length = int(sys.argv[1]), int(sys.argv[2])
# 28 bytes of header and addresses, then one TLV of the application range.
value = b"x" * (length - 28 - 3)
block = bytes([192, 0, 2, 7, 192, 0, 2, 1]) + (5000).to_bytes(2, "big") + (25).to_bytes(2, "big")
body = block + b"\xe1" + len(value).to_bytes(2, "big") + value
with socket.create_connection(("127.0.0.1", port), 20) as client:
    client.sendall(b"\r\n\r\n\0\r\nQUIT\n\x21\x11" + len(body).to_bytes(2, "big") + body)
    lines = client.makefile("rb")
    said = [lines.readline()[:3].decode()]
    while said[-1][:3] not in ["250", "503", ""]:
        client.sendall(b"NOOP\r\n")
        said.append(lines.readline().decode().strip())
    print(*said, sep=", then ")
END
}

holds "header of 232 bytes" "220, then 250 OK" "$(talk 232)"
refused="501 NUL characters are not allowed in SMTP commands"
refused="$refused, then 503 Command refused, required Proxy negotiation failed"
holds "header of 233 bytes" "220, then $refused" "$(talk 233)"
exit $status
