//! Every setting in use, declared once: its name, where it may stand, whose it is, and what it means.
//!
//! Names and places feed the parser, and `vestibule config -a` shows what is declared here and nothing else. The tables of
//! docs/configuration.md are made of it, and of them vestibule.conf(5): tests hold each against the other.

use super::names::Known;
use super::names::Origin::{Dovecot, Vestibule};
use super::names::Scope::{Backend, Global, Listener, Server, Service};

/// Every setting in use. One that has another name in Dovecot 2.4 stands here by its 2.3 name; one that means different
/// things in different places stands here once for each.
pub const SETTINGS: &[Known] = &[
    Known {
        name: "driver",
        scopes: &[Global],
        origin: Vestibule,
        meaning: "\
            What the accept threads run on: `io_uring`, `epoll`, or `auto`: io_uring, and epoll where a filter of \
            system calls, the sysctl or the kernel forbids that ([containers](operations.md#containers)). epoll does \
            all the same, for some more CPU",
    },
    Known {
        name: "rings",
        scopes: &[Global],
        origin: Vestibule,
        meaning: "\
            Accept threads, each with a ring and listening sockets of its own: 1 to 1024, or `auto`, one per CPU \
            that the process may use",
    },
    Known {
        name: "locked_memory_limit",
        scopes: &[Global],
        origin: Vestibule,
        meaning: "\
            Most memory that all rings together may keep locked: 64 k to 1 T, or `unlimited` (or 0), which leaves it to \
            RLIMIT_MEMLOCK. Where it is too little, buffers give way first, then the rings' queues, then the number of \
            rings, with [a warning for each](operations.md#locked-memory)",
    },
    Known {
        name: "pending_limit",
        scopes: &[Global],
        origin: Vestibule,
        meaning: "\
            Connections that may wait for their header, per ring: 16 to 1048576. Beyond it the one that has been \
            silent longest is dropped",
    },
    Known {
        name: "pending_peer_limit",
        scopes: &[Global],
        origin: Vestibule,
        meaning: "\
            Of these, most of one peer, per ring; beyond it the newest is refused (`peer-pending-limit`). 0: no \
            limit of its own. Set it well above what one balancer has pending on a busy day",
    },
    Known {
        name: "pending_listener_limit",
        scopes: &[Global, Service, Listener],
        origin: Vestibule,
        meaning: "\
            Inherited. Of these, most of one listener, per ring; beyond it the newest is refused \
            (`listener-pending-limit`). 0: no limit of its own",
    },
    Known {
        name: "log_connections",
        scopes: &[Global, Service, Listener],
        origin: Vestibule,
        meaning: "\
            Inherited. `yes`: one line in the log for every connection that is handed to the workers, with client, \
            balancer, listener, time to the header and [what it carried](operations.md#a-line-for-every-connection)",
    },
    Known {
        name: "client_allowed_endpoints",
        scopes: &[Global, Service, Listener],
        origin: Vestibule,
        meaning: "\
            Inherited. Private endpoints of cloud providers through which clients may come, at most 16384: see \
            [clients of private endpoints](#clients-of-private-endpoints). None: nothing is looked at",
    },
    Known {
        name: "client_endpoint_missing",
        scopes: &[Global, Service, Listener],
        origin: Vestibule,
        meaning: "\
            Inherited. Where `client_allowed_endpoints` is set, a header that names no endpoint: `reject` \
            (`endpoint-missing`), or `allow`",
    },
    Known {
        name: "log_format",
        scopes: &[Global],
        origin: Vestibule,
        meaning: "\
            What a line of the log is like: `text` in Dovecot's form, or `json`, [an object a \
            line](operations.md#lines-of-json). A change needs a restart or a takeover",
    },
    Known {
        name: "header_limit",
        scopes: &[Global],
        origin: Vestibule,
        meaning: "Largest version 2 header in bytes, 232 to 65551. A version 1 line is never longer than 107 bytes",
    },
    Known {
        name: "drain_timeout",
        scopes: &[Global],
        origin: Vestibule,
        meaning: "How long connections that workers hold may finish after SIGTERM: up to 1 week",
    },
    Known {
        name: "drain_delay",
        scopes: &[Global],
        origin: Vestibule,
        meaning: "\
            How long before a drain begins (SIGTERM, SIGUSR1, `ctl drain`) `/readyz` says that it will, while \
            everything is still served: up to 1 hour. Balancers that look there have sent their clients elsewhere by \
            then",
    },
    Known {
        name: "client_connection_limit",
        scopes: &[Global],
        origin: Vestibule,
        meaning: "\
            Most connections of one client at a time, up to 1000000: see [limits on clients](#limits-on-clients). 0: \
            no limit",
    },
    Known {
        name: "client_rate_limit",
        scopes: &[Global],
        origin: Vestibule,
        meaning: "Most new connections of one client in a `client_rate_period`, up to 1000000. 0: no limit",
    },
    Known {
        name: "client_rate_period",
        scopes: &[Global],
        origin: Vestibule,
        meaning: "\
            1 second to 1 day. So many connections may come at once; as many again are allowed in each period, \
            spread evenly",
    },
    Known {
        name: "client_ipv4_prefix",
        scopes: &[Global],
        origin: Vestibule,
        meaning: "Bits of an IPv4 address that make one client, 1 to 32",
    },
    Known {
        name: "client_ipv6_prefix",
        scopes: &[Global],
        origin: Vestibule,
        meaning: "Bits of an IPv6 address that make one client, 1 to 128: a subscriber commonly has a whole /64",
    },
    Known {
        name: "client_table_size",
        scopes: &[Global],
        origin: Vestibule,
        meaning: "Clients that are remembered at a time, 1024 to 16777216; 33 bytes of memory each",
    },
    Known {
        name: "client_exempt_networks",
        scopes: &[Global],
        origin: Vestibule,
        meaning: "Clients without limits, such as a webmail host",
    },
    Known {
        name: "client_banned_networks",
        scopes: &[Global],
        origin: Vestibule,
        meaning: "Clients that are refused (`client-banned`), exempt or not",
    },
    Known {
        name: "shadow_client_connection_limit",
        scopes: &[Global],
        origin: Vestibule,
        meaning: "\
            The same as `client_connection_limit`, but only [tried](#stricter-policies-before-they-bite): what it \
            would refuse is counted and told, and served. 0: nothing is tried",
    },
    Known {
        name: "shadow_client_rate_limit",
        scopes: &[Global],
        origin: Vestibule,
        meaning: "The same for `client_rate_limit`, in the same `client_rate_period`",
    },
    Known {
        name: "shadow_client_banned_networks",
        scopes: &[Global],
        origin: Vestibule,
        meaning: "The same for `client_banned_networks`",
    },
    Known {
        name: "user",
        scopes: &[Global],
        origin: Vestibule,
        meaning: "\
            User to become once all ports are bound: see [security](security.md#privileges). Unset: the user that \
            started the daemon",
    },
    Known {
        name: "group",
        scopes: &[Global],
        origin: Vestibule,
        meaning: "\
            Another group than the user's own. A daemon that does not start as root must have user and groups \
            already (`User=`, `Group=` in the unit)",
    },
    Known {
        name: "chroot",
        scopes: &[Global],
        origin: Vestibule,
        meaning: "\
            Directory to be locked into, an absolute path. A configuration that is to be re-read, and its \
            certificates, must be found inside by the same path",
    },
    Known {
        name: "takeover_socket",
        scopes: &[Global],
        origin: Vestibule,
        meaning: "\
            Path of a Unix socket, relative to the file, as a whole at most 99 bytes. \
            Another process takes over there: see [upgrading](operations.md#upgrading-a-running-daemon); `vestibule \
            ctl` [asks](operations.md#asking-a-running-daemon) there. Its directory must be writable for the \
            daemon's user, and for nobody else; with `chroot` it lies inside. Unset: nobody can take over or ask",
    },
    Known {
        name: "control_socket",
        scopes: &[Global],
        origin: Vestibule,
        meaning: "\
            Path of another Unix socket, under the same conditions: there `vestibule ctl` [asks and says what is to \
            be done](operations.md#asking-a-running-daemon). Another process that takes over listens there in its \
            turn. Unset: `vestibule ctl stats` asks at `takeover_socket`, and the other verbs have nobody to ask",
    },
    Known {
        name: "http_listen",
        scopes: &[Global],
        origin: Vestibule,
        meaning: "\
            Address and port, such as `127.0.0.1:9900` or `[::1]:9900`, where [metrics, health and a \
            page](operations.md#metrics-health-and-the-page) are served by HTTP. Nobody is asked who he is there: an \
            address that others reach is warned of. Bound before the daemon is ready; a reload moves it. Unset: \
            nowhere",
    },
    Known {
        name: "http_hosts",
        scopes: &[Global],
        origin: Vestibule,
        meaning: "\
            Names, at most 64, by which browsers may ask there, beside `localhost` and addresses, such as \
            `vestibule1.example.com`. A request for another name is refused (421), so that no web site can read the \
            page through somebody's browser by a name of its own that points here; `/healthz` and `/readyz` answer \
            whoever asks",
    },
    Known {
        name: "login_source_ips",
        scopes: &[Global],
        origin: Dovecot,
        meaning: "\
            Addresses of this host from which a relay connects to servers, at most 256, in turn. Dovecot's `?` in \
            front is not supported. None: the system chooses",
    },
    Known {
        name: "login_proxy_timeout",
        scopes: &[Global],
        origin: Dovecot,
        meaning: "\
            From a relay's established connection to the server's first byte: 1 second to 1 hour. Postscreen greets \
            new clients after 6 seconds",
    },
    Known {
        name: "login_proxy_max_disconnect_delay",
        scopes: &[Global],
        origin: Dovecot,
        meaning: "\
            Over how long the clients of a lost server are let go, so that they do not all return at once: up to 1 \
            hour; 0: at once, which is Dovecot's default",
    },
    Known {
        name: "serve_listeners",
        scopes: &[Global],
        origin: Vestibule,
        meaning: "\
            Which of the listeners that the files name are bound: `all`; `haproxy`, those with `haproxy = yes`; \
            `named`, those that the main file itself names, so that of an included file nothing is bound unasked",
    },
    Known {
        name: "listen",
        scopes: &[Global],
        origin: Dovecot,
        meaning: "\
            Addresses for listeners without `address`. Literal addresses; `*` is all of IPv4, `::` all of IPv6 and \
            only IPv6",
    },
    Known {
        name: "protocols",
        scopes: &[Global],
        origin: Dovecot,
        meaning: "Nothing is switched on or off by it: see [the differences](#differences-from-dovecot)",
    },
    Known {
        name: "ssl",
        scopes: &[Global],
        origin: Dovecot,
        meaning: "`no`: listeners with `ssl = yes` are not bound. `required` is the same as `yes` here",
    },
    Known {
        name: "ssl_cert",
        scopes: &[Global],
        origin: Dovecot,
        meaning: "\
            PEM file with the certificate chain, the server's own first: `ssl_cert = </path`. Dovecot 2.4's name is \
            `ssl_server_cert_file = /path`",
    },
    Known {
        name: "ssl_key",
        scopes: &[Global],
        origin: Dovecot,
        meaning: "\
            PEM file with its key, without a pass phrase: RSA of 2048 to 4096 bits, ECDSA on P-256 or P-384, or \
            Ed25519: `ssl_key = </path`. Dovecot 2.4's name is `ssl_server_key_file = /path`",
    },
    Known {
        name: "ssl_min_protocol",
        scopes: &[Global],
        origin: Dovecot,
        meaning: "\
            The oldest version that clients may speak: `TLSv1.2`, or `TLSv1.3` (also `LATEST`). Dovecot's older \
            names mean TLS 1.2 here, with a warning",
    },
    Known {
        name: "ssl_handshake_timeout",
        scopes: &[Global],
        origin: Vestibule,
        meaning: "\
            From the PROXY header, or the accept where none is expected, until a client's TLS session must stand: 1 \
            second to 1 hour. One deadline for all of the handshake: bytes that trickle in do not extend it",
    },
    Known {
        name: "ssl_handshake_threads",
        scopes: &[Global],
        origin: Vestibule,
        meaning: "\
            Threads that compute TLS handshakes, 0 to 64; 0: the accept threads do it themselves, which costs least \
            with an ECDSA key. A ring that signs serves nobody else meanwhile: with an RSA key, a thread or two keep \
            [honest clients from waiting](#tls-that-ends-here). A change needs a restart or a takeover",
    },
    Known {
        name: "ssl_ktls",
        scopes: &[Global],
        origin: Vestibule,
        meaning: "\
            `yes`: once a handshake is done the kernel goes on with a relayed session (kTLS), where it has the module \
            `tls`, so that an upgrade takes it along. A session whose client renews its keys (KeyUpdate, which mail \
            clients do not use) is ended then. Where the kernel cannot, sessions stay in the process, and it says so \
            at the start",
    },
    Known {
        name: "ssl_verify_client_cert",
        scopes: &[Global],
        origin: Dovecot,
        meaning: "\
            `yes`: clients are asked for a certificate; see [certificates of clients](#certificates-of-clients). \
            Dovecot 2.4's name is `ssl_server_request_client_cert`",
    },
    Known {
        name: "auth_ssl_require_client_cert",
        scopes: &[Global],
        origin: Dovecot,
        meaning: "`yes`: a client without a certificate is refused, in the handshake",
    },
    Known {
        name: "ssl_ca",
        scopes: &[Global],
        origin: Dovecot,
        meaning: "\
            PEM file with the certificates of the authorities that sign those of clients, and their lists of revoked \
            ones: `ssl_ca = </path`. Dovecot 2.4's name is `ssl_server_ca_file = /path`",
    },
    Known {
        name: "ssl_require_crl",
        scopes: &[Global],
        origin: Dovecot,
        meaning: "\
            A client's certificate counts only if its authority's list of revoked certificates is in `ssl_ca`, and \
            in force; `no`: lists are not looked at. Dovecot 2.4's name is `ssl_server_require_crl`",
    },
    Known {
        name: "haproxy_trusted_networks",
        scopes: &[Global, Service, Listener],
        origin: Dovecot,
        meaning: "\
            Inherited. Who may send a PROXY header: IPv4 and IPv6 networks, separated by spaces or commas; no host \
            names. Empty: nobody",
    },
    Known {
        name: "shadow_trusted_networks",
        scopes: &[Global, Service, Listener],
        origin: Vestibule,
        meaning: "\
            Inherited. A stricter `haproxy_trusted_networks` that is only \
            [tried](#stricter-policies-before-they-bite): whoever comes from outside of it is counted and told, and \
            served. Empty: nothing is tried",
    },
    Known {
        name: "haproxy_untrusted",
        scopes: &[Global, Service, Listener],
        origin: Vestibule,
        meaning: "\
            Inherited. What becomes of a peer outside `haproxy_trusted_networks`: `abort` closes it before a byte is \
            read; `plain` takes it for a client of its own, without a header: see [one port for two kinds of \
            peers](#one-port-for-two-kinds-of-peers)",
    },
    Known {
        name: "haproxy_timeout",
        scopes: &[Global, Service, Listener],
        origin: Dovecot,
        meaning: "\
            Inherited. From accept to a complete header, 1 second to 1 hour. One deadline for all of it: bytes that \
            trickle in do not extend it. Below 3 seconds there is no room to send a lost segment again: a warning",
    },
    Known {
        name: "worker",
        scopes: &[Service],
        origin: Vestibule,
        meaning: "\
            What becomes of connections: `whoami` answers with one JSON line about the connection; `discard` closes \
            without an answer, for measurements; `relay` passes them on to a server of the service's backend; \
            `handoff` gives their descriptors to [other processes](handoff.md)",
    },
    Known {
        name: "workers",
        scopes: &[Service],
        origin: Vestibule,
        meaning: "\
            Worker threads: 1 to 4096, or `auto`: none, the rings serve the connections themselves, without a queue",
    },
    Known {
        name: "queue",
        scopes: &[Service],
        origin: Vestibule,
        meaning: "\
            Connections that may wait for a worker thread or a receiver: 1 to 1048576. Where the rings serve \
            (`workers = auto`) nobody waits, and it has no effect: a warning",
    },
    Known {
        name: "overload",
        scopes: &[Service],
        origin: Vestibule,
        meaning: "\
            When the queue is full: `pause` accepting (the kernel's backlog holds new connections), or `reject`, \
            which aborts the newest. Without a queue it has no effect, as `queue`",
    },
    Known {
        name: "residual",
        scopes: &[Service],
        origin: Vestibule,
        meaning: "\
            Bytes that came behind the header: `pass` them with the connection, or `exact`, which leaves them in the \
            socket for workers that can take only a plain socket, at the cost of one more system call",
    },
    Known {
        name: "handoff_socket",
        scopes: &[Service],
        origin: Vestibule,
        meaning: "\
            With `worker = handoff`: the Unix socket where receivers connect, in a directory that the daemon's user \
            may write to",
    },
    Known {
        name: "handoff_mode",
        scopes: &[Service],
        origin: Vestibule,
        meaning: "\
            With `worker = handoff`: the socket's permissions, octal. Who may write to it gets clients' connections",
    },
    Known {
        name: "backend",
        scopes: &[Service],
        origin: Vestibule,
        meaning: "\
            With `worker = relay`: the [backend](#in-backend-name--) that serves. Unset: the one that is named as \
            the protocol, such as `imap`",
    },
    Known {
        name: "protocol",
        scopes: &[Service],
        origin: Dovecot,
        meaning: "\
            With `worker = relay`: what is spoken, `imap`, `pop3`, `smtp`, `submission`, `lmtp`, `sieve`, or `none`, \
            where nothing is known or TLS comes first. Unset: by Dovecot's and Postfix's names of services \
            (`imap-login`, `pop3-login`, `submission-login`, `managesieve-login`, `lmtp`, `smtpd`, ...), else `none`",
    },
    Known {
        name: "idle_timeout",
        scopes: &[Service],
        origin: Vestibule,
        meaning: "\
            With `worker = relay`: after how long without a byte in either direction a session ends, 1 second to 1 \
            week. Below 30 minutes it ends clients that wait in IDLE: a warning",
    },
    Known {
        name: "log_sessions",
        scopes: &[Service],
        origin: Vestibule,
        meaning: "With `worker = relay`: a line at the start and one at the end of each session",
    },
    Known {
        name: "port",
        scopes: &[Listener],
        origin: Dovecot,
        meaning: "\
            1 to 65535; 0 switches the listener off. Dovecot's own listeners (`imap`, `imaps`, `pop3`, ...) have \
            Dovecot's port and `ssl` as default",
    },
    Known {
        name: "address",
        scopes: &[Listener],
        origin: Dovecot,
        meaning: "Addresses to listen on, as in `listen`, which is the default. Dovecot 2.4's name is `listen`",
    },
    Known {
        name: "name",
        scopes: &[Listener],
        origin: Dovecot,
        meaning: "Another name than the one in the section's head",
    },
    Known {
        name: "ssl",
        scopes: &[Listener],
        origin: Dovecot,
        meaning: "\
            TLS ends here: a handshake comes first, on a haproxy listener behind the PROXY header; see [TLS that \
            ends here](#tls-that-ends-here)",
    },
    Known {
        name: "haproxy",
        scopes: &[Listener],
        origin: Dovecot,
        meaning: "\
            A PROXY header is mandatory: without one the connection is closed, and a peer outside \
            `haproxy_trusted_networks` is closed before a byte is read, unless `haproxy_untrusted` says otherwise. \
            If `no`, connections are handed over at once and a header is payload",
    },
    Known {
        name: "reuse_port",
        scopes: &[Service, Listener],
        origin: Dovecot,
        meaning: "Also in an `inet_listener`, which counts before it. Other processes may listen on the same port",
    },
    Known {
        name: "defer_accept",
        scopes: &[Listener],
        origin: Vestibule,
        meaning: "\
            With `haproxy = yes`; else `no`, and always `no` with `haproxy_untrusted = plain`. The kernel reports a \
            connection when its first byte is there, or after 1 second (TCP_DEFER_ACCEPT); that second counts \
            towards `haproxy_timeout`",
    },
    Known {
        name: "haproxy_versions",
        scopes: &[Listener],
        origin: Vestibule,
        meaning: "Versions of the header that are accepted; a header of another one is refused",
    },
    Known {
        name: "haproxy_unknown",
        scopes: &[Listener],
        origin: Vestibule,
        meaning: "A version 1 `UNKNOWN` header: `peer`, the client is who connected; or `reject`",
    },
    Known {
        name: "haproxy_unspec",
        scopes: &[Listener],
        origin: Vestibule,
        meaning: "\
            A version 2 PROXY header without an IP address (UNSPEC, UNIX): `reject`; or `peer`, the client is who \
            connected",
    },
    Known {
        name: "haproxy_checksum",
        scopes: &[Listener],
        origin: Vestibule,
        meaning: "\
            A CRC32C that a header carries is always verified. `require` also refuses PROXY headers without one, so \
            every version 1 header",
    },
    Known {
        name: "haproxy_source",
        scopes: &[Listener],
        origin: Vestibule,
        meaning: "\
            `unicast` refuses source addresses that no client can have: multicast, unspecified, 255.255.255.255. \
            `any` accepts them",
    },
    Known {
        name: "haproxy_second_header",
        scopes: &[Listener],
        origin: Vestibule,
        meaning: "\
            A second header right behind the first: `reject`, for a balancer in front of the balancer is \
            misconfigured; or `pass` it as payload",
    },
    Known {
        name: "haproxy_v4_in_tcp6",
        scopes: &[Listener],
        origin: Vestibule,
        meaning: "\
            An IPv4 address in a version 1 `TCP6` line, which nginx sends for mixed families: `reject`; or `map`, \
            read it as `::ffff:a.b.c.d`",
    },
    Known {
        name: "haproxy_v6_in_tcp4",
        scopes: &[Listener],
        origin: Vestibule,
        meaning: "\
            The reverse, an IPv6 address in a version 1 `TCP4` line: `reject`; or `map`, read the line as one of \
            IPv6, which may have 104 bytes then, and an IPv4 address beside it as `::ffff:a.b.c.d`",
    },
    Known {
        name: "haproxy_authority",
        scopes: &[Listener],
        origin: Vestibule,
        meaning: "`dns` refuses an AUTHORITY TLV that is no DNS name",
    },
    Known {
        name: "haproxy_alpn",
        scopes: &[Listener],
        origin: Vestibule,
        meaning: "Protocol names. If set, an ALPN TLV that is none of them is refused",
    },
    Known {
        name: "servers",
        scopes: &[Backend],
        origin: Vestibule,
        meaning: "\
            Servers in the short form of Dovecot's `director_mail_servers`, with ports: `10.0.1.11-10.0.1.14:10143 \
            mail5.example.com:10143 [2001:db8::1]:143`. Each is named by its address. Beside, or instead of, \
            `server` sections; at most 1024 together",
    },
    Known {
        name: "target",
        scopes: &[Backend],
        origin: Vestibule,
        meaning: "\
            Which kind of server they are: `dovecot`, `postfix`, `postscreen`, `exim`, `opensmtpd`, `nginx`, \
            `haproxy`, `haraka`, `smtp-server`, `vestibule` or `generic`. It decides what a header may hold and how \
            long it may be. Unset: `dovecot` if all services that use the backend have Dovecot's names",
    },
    Known {
        name: "forward",
        scopes: &[Backend],
        origin: Vestibule,
        meaning: "\
            How servers learn the client's address: `proxy-v2`, `proxy-v1` (the default for `haraka` and \
            `smtp-server`), `imap-id` (IMAP only), `xclient` (POP3, SMTP, submission, LMTP, ManageSieve), or `none`: \
            not at all, a warning. A client of which the header says nothing (LOCAL, UNKNOWN) is told to servers by \
            the addresses of its connection to us, never as LOCAL. Behind `xclient`, commands that must not pass \
            reach the server as `XREFUSED`, which it refuses and counts among the client's bad commands. `imap-id` \
            and `xclient` are errors where clients start with TLS, on ports 465, 993 and 995",
    },
    Known {
        name: "forward_tlvs",
        scopes: &[Backend],
        origin: Vestibule,
        meaning: "\
            With `proxy-v2`: what else the header tells, any of `ssl`, `authority`, `alpn`, `unique-id`, `vendor` \
            (types 0xE0 to 0xEF as they came in) and `crc32c` (made here), or `all`, or `none`. Unset: `ssl \
            authority` for `dovecot`; all but `crc32c` for `haproxy`; all for `vestibule`",
    },
    Known {
        name: "balance",
        scopes: &[Backend],
        origin: Vestibule,
        meaning: "\
            `leastconn`, the server with the fewest sessions for its weight; `roundrobin`; `source`, by the client's \
            address, IPv6 by its /64",
    },
    Known { name: "stick", scopes: &[Backend], origin: Vestibule, meaning: "`source`: a client keeps its server" },
    Known {
        name: "stick_table_size",
        scopes: &[Backend],
        origin: Vestibule,
        meaning: "With `stick = source`: clients that are remembered, 1 to 16777216",
    },
    Known {
        name: "stick_table_expire",
        scopes: &[Backend],
        origin: Vestibule,
        meaning: "With `stick = source`: how long after they were last seen, 1 second to 1 week",
    },
    Known {
        name: "connect_timeout",
        scopes: &[Backend],
        origin: Vestibule,
        meaning: "\
            From the choice of a server to the established connection, all tries together: 1 second to 10 minutes",
    },
    Known {
        name: "retries",
        scopes: &[Backend],
        origin: Vestibule,
        meaning: "Further servers that are tried when a connect fails: 0 to 16",
    },
    Known {
        name: "queue",
        scopes: &[Backend],
        origin: Vestibule,
        meaning: "Sessions that may wait when every server is at its `connection_limit`: 0 to 1048576",
    },
    Known {
        name: "queue_timeout",
        scopes: &[Backend],
        origin: Vestibule,
        meaning: "How long they may wait: 1 second to 1 hour",
    },
    Known {
        name: "half_closed_timeout",
        scopes: &[Backend],
        origin: Vestibule,
        meaning: "How long a session may go on once one side has ended: 1 second to 1 day",
    },
    Known {
        name: "slow_start",
        scopes: &[Backend],
        origin: Vestibule,
        meaning: "Over how long a server that returns is brought back to its whole share: up to 1 hour; 0: at once",
    },
    Known {
        name: "check",
        scopes: &[Backend],
        origin: Vestibule,
        meaning: "\
            How it is found out whether a server serves: `connect`; `banner`, a greeting and a polite goodbye; \
            `dovecot`, PING and PONG of its service `health-check`, which needs `check_port`; `none`, only real \
            sessions tell. Unset and `protocol = none`: `connect`. [What is believed, and what it leaves in \
            logs](operations.md#checks-of-servers)",
    },
    Known {
        name: "check_interval",
        scopes: &[Backend],
        origin: Vestibule,
        meaning: "\
            From one check of a server to the next, more or less by a tenth; a fifth of it while its state is in \
            question: 1 second to 1 hour",
    },
    Known {
        name: "check_port",
        scopes: &[Backend],
        origin: Vestibule,
        meaning: "Also in a `server`. Port of the check; unset or 0: the server's own",
    },
    Known {
        name: "rise",
        scopes: &[Backend],
        origin: Vestibule,
        meaning: "So many good checks in a row bring a server up: 1 to 100",
    },
    Known {
        name: "fall",
        scopes: &[Backend],
        origin: Vestibule,
        meaning: "So many bad ones, or failed sessions, in a row bring it down: 1 to 100",
    },
    Known {
        name: "address",
        scopes: &[Server],
        origin: Vestibule,
        meaning: "\
            An IPv4 or IPv6 address, or a host name, which is looked up at start, by a reload, and every 30 seconds; \
            it keeps its address as long as that is among the answers",
    },
    Known {
        name: "port",
        scopes: &[Server],
        origin: Vestibule,
        meaning: "\
            Unset: 10143 where services that use the backend speak IMAP, 10110 POP3, 10587 submission, 14190 \
            ManageSieve, 10024 LMTP, 10025 SMTP",
    },
    Known {
        name: "weight",
        scopes: &[Server],
        origin: Vestibule,
        meaning: "Its share of the sessions, up to 256. 0: only clients that stick to it",
    },
    Known {
        name: "connection_limit",
        scopes: &[Server],
        origin: Vestibule,
        meaning: "Most sessions at a time, up to 1000000. 0: no limit",
    },
    Known {
        name: "state",
        scopes: &[Server],
        origin: Vestibule,
        meaning: "\
            `drain`: sessions stay, and only clients that stick to it come; `maint`: no new sessions, and those that \
            are there are let go",
    },
    Known { name: "backup", scopes: &[Server], origin: Vestibule, meaning: "Serves only while no other server does" },
    Known {
        name: "check_port",
        scopes: &[Server],
        origin: Vestibule,
        meaning: "Port of the check; 0: the backend's, else its own `port`",
    },
];
