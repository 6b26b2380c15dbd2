"""The receivers that tools/conformance runs, one file a family, in the order of the page's columns."""

from .crates import Ppp, ProxyHeader, ProxyProtocol, ProxyProtocolRs
from .dovecot import Dovecot23, Dovecot24
from .exim import Exim
from .haproxy import Haproxy26, Haproxy30
from .nginx import NginxMail, NginxMail122, NginxStream
from .opensmtpd import OpenSmtpd
from .postfix import Postscreen, Smtpd37, Smtpd310
from .scripted import Aiosmtpd, Haraka, SmtpServer

RECEIVERS = [
    Dovecot23, Dovecot24, Smtpd37, Smtpd310, Postscreen, Exim, OpenSmtpd, NginxMail, NginxStream, Haproxy26, Haproxy30,
    Aiosmtpd, SmtpServer, Ppp, ProxyHeader, ProxyProtocol, ProxyProtocolRs,
]

# Those of which tools/presets runs each kind of server that the relay knows (`target`).
BY_TARGET = {
    "dovecot": [Dovecot23, Dovecot24], "postfix": [Smtpd37, Smtpd310], "postscreen": [Postscreen], "exim": [Exim],
    "opensmtpd": [OpenSmtpd], "nginx": [NginxMail122, NginxMail], "haproxy": [Haproxy26, Haproxy30],
    "haraka": [Haraka], "smtp-server": [SmtpServer],
}
