#!/usr/bin/env bash
# Postfix 3.10 answers `PROXY UNKNOWN`, with which a proxy says that it does not know the client, by 421 and "Server local
# error", as it would if it had run out of something; postscreen by "No system resources". A client takes both for a busy
# server and comes back for days. The specification has receivers accept such a line and use the socket's addresses.
#
# Package: postfix 3.10.13-0+deb13u1. Seen:
#   smtpd, PROXY TCP4: 220 mail.test ESMTP Postfix
#   smtpd, PROXY UNKNOWN: 421 4.3.0 mail.test Server local error
#   postscreen, PROXY UNKNOWN: 421 4.3.2 No system resources
. "$(dirname "$0")/common"
debian13 postfix=3.10.13-0+deb13u1 findutils grep perl-base sed
smtpd=$(free_port)
postscreen=$(free_port)
mkdir -p "$work"/debian/finding/{queue,data,etc}
chown 61207 "$work"/debian/finding/data
cat >"$work"/debian/finding/etc/main.cf <<END
compatibility_level = 3.10
queue_directory = /finding/queue
data_directory = /finding/data
myhostname = mail.test
maillog_file = /dev/stdout
smtpd_peername_lookup = no
alias_maps =
postscreen_cache_map =
postscreen_greet_wait = 2s
END
cat >"$work"/debian/finding/etc/master.cf <<END
127.0.0.1:$smtpd inet n - n - - smtpd -o smtpd_upstream_proxy_protocol=haproxy
127.0.0.1:$postscreen inet n - n - 1 postscreen -o postscreen_upstream_proxy_protocol=haproxy
smtpd pass - - n - - smtpd
proxymap unix - - n - - proxymap
postlog unix-dgram n - n - 1 postlogd
anvil unix - - n - 1 anvil
END
inside postfix -c /finding/etc check >"$work"/check 2>&1
export MAIL_CONFIG=/finding/etc
start /usr/lib/postfix/sbin/master -s -c /finding/etc
listening "$smtpd"

# said PORT LINE: the server's first line behind this one.
said() {
  python3 - "$@" <<'END'
import socket, sys
with socket.create_connection(("127.0.0.1", int(sys.argv[1])), 20) as client:
    client.sendall(sys.argv[2].encode() + b"\r\n")
    print(client.makefile().readline().strip())
END
}

holds "smtpd, PROXY TCP4" "220 mail.test ESMTP Postfix" "$(said "$smtpd" "PROXY TCP4 192.0.2.7 192.0.2.1 5000 25")"
holds "smtpd, PROXY UNKNOWN" "421 4.3.0 mail.test Server local error" "$(said "$smtpd" "PROXY UNKNOWN")"
holds "postscreen, PROXY UNKNOWN" "421 4.3.2 No system resources" "$(said "$postscreen" "PROXY UNKNOWN")"
exit $status
