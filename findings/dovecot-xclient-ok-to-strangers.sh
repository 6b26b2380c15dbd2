#!/usr/bin/env bash
# Dovecot's POP3 login answers XCLIENT of a client that it does not trust with +OK, as it answers one that it trusts:
# only the text says that nothing was taken. Its ManageSieve login says NO. A proxy that goes by +OK believes that its
# client's address has arrived.
#
# Packages: dovecot-pop3d and dovecot-managesieved 1:2.4.1+dfsg1-6+deb13u7. Seen:
#   POP3, trusted: +OK Updated
#   POP3, not trusted: +OK You are not from trusted IP - ignoring
#   ManageSieve, not trusted: NO
. "$(dirname "$0")/common"
debian13 dovecot-pop3d=1:2.4.1+dfsg1-6+deb13u7 dovecot-managesieved=1:2.4.1+dfsg1-6+deb13u7
pop3=$(free_port) sieve=$(free_port)
cat >"$work"/debian/finding/dovecot.conf <<END
dovecot_config_version = 2.4.1
dovecot_storage_version = 2.4.1
base_dir = /finding/run
state_dir = /finding/state
log_path = /dev/stderr
protocols = pop3 sieve
listen = 127.0.0.1
ssl = no
login_trusted_networks = 127.0.0.2
mail_driver = maildir
mail_path = /finding/mail
passdb static {
  password = pw
}
service pop3-login {
  inet_listener pop3 {
    port = $pop3
  }
}
service managesieve-login {
  inet_listener sieve {
    port = $sieve
  }
}
END
start dovecot -F -c /finding/dovecot.conf
listening "$pop3"
listening "$sieve"

# answer FROM PORT LAST: the answer to XCLIENT behind a greeting whose last line begins with LAST.
answer() {
  python3 - "$@" <<'END'
import socket, sys
address, port, last = sys.argv[1], int(sys.argv[2]), sys.argv[3].encode()
with socket.socket() as client:
    client.bind((address, 0))
    client.settimeout(20)
    client.connect(("127.0.0.1", port))
    lines = client.makefile("rb")
    while not lines.readline().startswith(last):
        pass
    client.sendall(b"XCLIENT ADDR=192.0.2.7 PORT=5000\r\n")
    print(lines.readline().decode().strip())
END
}

holds "POP3, trusted" "+OK Updated" "$(answer 127.0.0.2 "$pop3" +OK)"
holds "POP3, not trusted" "+OK You are not from trusted IP - ignoring" "$(answer 127.0.0.3 "$pop3" +OK)"
holds "ManageSieve, not trusted" NO "$(answer 127.0.0.3 "$sieve" OK | cut -d' ' -f1)"
exit $status
