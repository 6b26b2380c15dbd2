"""The receivers that tools/conformance runs, one file a family, in the order of the page's columns."""

from .crates import Ppp, ProxyHeader, ProxyProtocol, ProxyProtocolRs
from .dovecot import Dovecot23, Dovecot24
from .exim import Exim
from .haproxy import Haproxy26, Haproxy30
from .nginx import NginxMail, NginxStream
from .node import SmtpServer
from .opensmtpd import OpenSmtpd
from .postfix import Postscreen, Smtpd37, Smtpd310
from .python import Aiosmtpd

RECEIVERS = [
    Dovecot23, Dovecot24, Smtpd37, Smtpd310, Postscreen, Exim, OpenSmtpd, NginxMail, NginxStream, Haproxy26, Haproxy30,
    Aiosmtpd, SmtpServer, Ppp, ProxyHeader, ProxyProtocol, ProxyProtocolRs,
]
