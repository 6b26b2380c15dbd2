#!/usr/bin/env bash
# Dovecot 2.4.1 closes a connection whose PROXY header carries an ALPN TLV, whatever protocol it names, "imap" as
# well. With any other TLV in its place, AUTHORITY say, it greets. HAProxy adds an ALPN TLV by itself (send-proxy-v2)
# where the client has negotiated one with it.
#
# Package: dovecot-imapd 1:2.4.1+dfsg1-6+deb13u7. Seen:
#   AUTHORITY imap.example: * OK
#   ALPN imap: closed
#   ALPN h2: closed
. "$(dirname "$0")/common"
debian13 dovecot-imapd=1:2.4.1+dfsg1-6+deb13u7
port=$(free_port)
cat >"$work"/debian/finding/dovecot.conf <<END
dovecot_config_version = 2.4.1
dovecot_storage_version = 2.4.1
base_dir = /finding/run
state_dir = /finding/state
log_path = /dev/stderr
protocols = imap
listen = 127.0.0.1
ssl = no
haproxy_trusted_networks = 127.0.0.1
mail_driver = maildir
mail_path = /finding/mail
passdb static {
  password = pw
}
service imap-login {
  inet_listener imap {
    port = 0
  }
  inet_listener imap_haproxy {
    port = $port
    haproxy = yes
  }
}
END
start dovecot -F -c /finding/dovecot.conf
listening "$port"

# greeting TYPE VALUE: what Dovecot says to a PROXY header of 192.0.2.7:5000 with this TLV.
greeting() {
  python3 - "$port" "$1" "$2" <<'END'
import socket, sys
port, kind, value = int(sys.argv[1]), int(sys.argv[2], 16), sys.argv[3].encode()
tlv = bytes([kind]) + len(value).to_bytes(2, "big") + value
body = bytes([192, 0, 2, 7, 192, 0, 2, 1]) + (5000).to_bytes(2, "big") + (143).to_bytes(2, "big") + tlv
with socket.create_connection(("127.0.0.1", port), 10) as client:
    client.sendall(b"\r\n\r\n\0\r\nQUIT\n\x21\x11" + len(body).to_bytes(2, "big") + body)
    try:
        print(client.recv(4).decode() or "closed")
    except ConnectionError:
        print("closed")
END
}

holds "AUTHORITY imap.example" "* OK" "$(greeting 02 imap.example)"
holds "ALPN imap" closed "$(greeting 01 imap)"
holds "ALPN h2" closed "$(greeting 01 h2)"
exit $status
