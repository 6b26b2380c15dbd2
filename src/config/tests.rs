//! The way from text to settings as a whole.

use std::fs;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::*;
use crate::admission::{OnMissingEndpoint, OnUnknown, OnUnspec};
use crate::backend::{AdminState, Balance, CheckKind, CheckSettings, StickSettings};
use crate::dispatch::Overload;
use crate::relay::{Forward, ForwardTlvs, Protocol, Target};

/// The example that operators start from: a bare number for the timeout, three listeners.
const EXAMPLE: &str = include_str!("../../examples/dovecot.conf");

fn loaded(text: &str) -> Loaded {
    parse(Path::new("t.conf"), text).unwrap_or_else(|problems| panic!("{text}\n{}", lines(&problems)))
}

/// The one listener of a text.
fn listener(settings: &str) -> InetListener {
    let text = format!("service s {{\ninet_listener l {{\nport = 10143\n{settings}\n}}\n}}\n");
    loaded(&text).settings.services[0].listeners[0].clone()
}

fn problems(text: &str) -> String {
    lines(&parse(Path::new("t.conf"), text).expect_err(text))
}

fn warnings(text: &str) -> String {
    lines(&loaded(text).warnings)
}

fn lines(problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("{problem}\n")).collect()
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

#[test]
fn the_builtin_configuration_is_right_and_quiet() {
    let Loaded { settings, warnings, ignored, .. } = builtin();
    assert!(warnings.is_empty() && ignored.is_empty());
    let listener = &settings.services[0].listeners[0];
    assert_eq!((listener.addresses.as_slice(), listener.port), ([ip("127.0.0.1")].as_slice(), 10143));
    assert!(listener.haproxy && !listener.ssl && listener.defer_accept);
    assert!(listener.trusted.contains(ip("127.9.9.9")) && !listener.trusted.contains(ip("10.0.0.1")));
}

#[test]
fn the_example() {
    let Loaded { settings, warnings, .. } = loaded(EXAMPLE);
    let self_signed = "t.conf line 7: inet_listener imaps: ssl = yes, but ssl_cert is not set: a self-signed";
    assert!(lines(&warnings).starts_with(self_signed) && warnings.len() == 1);
    let [service] = settings.services.as_slice() else { panic!("one service") };
    let shown: Vec<_> = service.listeners.iter().map(|l| (l.name.as_str(), l.port, l.ssl, l.haproxy)).collect();
    assert_eq!(shown, [("imap", 143, false, false), ("imaps", 993, true, false), ("imap_haproxy", 10143, false, true)]);
    for listener in &service.listeners {
        assert_eq!(listener.addresses, [ip("0.0.0.0"), ip("::")]);
        assert_eq!(listener.timeout, Duration::from_secs(3));
        assert!(listener.trusted.contains(ip("10.1.2.3")) && listener.trusted.contains(ip("192.0.2.7")));
        assert_eq!(listener.defer_accept, listener.haproxy);
    }
    assert_eq!((service.queue, service.workers, service.worker), (1024, None, WorkerKind::Whoami));
    assert_eq!((settings.rings, settings.pending_limit, settings.header_limit), (None, 16384, 4096));
    assert_eq!(settings.driver, DriverKind::Auto);
    assert_eq!((&settings.ssl_cert, &settings.ssl_key), (&None, &None));
}

#[test]
fn one_line_sections_mean_the_same() {
    let text = "haproxy_trusted_networks = 10.0.0.0/8 192.0.2.7\nhaproxy_timeout = 3\nservice imap-login { \
                inet_listener imap { port = 143 } inet_listener imaps { port=993; ssl=yes }\n\
                inet_listener imap_haproxy { port = 10143 haproxy = yes } }";
    assert_eq!(format!("{:?}", without_places(text)), format!("{:?}", without_places(EXAMPLE)));
}

fn without_places(text: &str) -> Settings {
    let mut settings = loaded(text).settings;
    let nowhere = Place { file: Path::new("").into(), line: 0 };
    let privileges = &mut settings.privileges;
    for file in [&mut settings.ssl_cert, &mut settings.ssl_key, &mut privileges.chroot].into_iter().flatten() {
        file.at = nowhere.clone();
    }
    for name in [&mut privileges.user, &mut privileges.group].into_iter().flatten() {
        name.at = nowhere.clone();
    }
    settings.backends.iter_mut().for_each(|backend| backend.at = nowhere.clone());
    for service in &mut settings.services {
        service.at = nowhere.clone();
        for listener in &mut service.listeners {
            (listener.at, listener.networks_at) = (nowhere.clone(), None);
        }
    }
    settings
}

#[test]
fn a_hand_off_has_a_place_and_nothing_that_makes_no_sense_there() {
    let service = |settings: &str, listener: &str| {
        format!(
            "haproxy_trusted_networks = 10.0.0.1\nservice imap-login {{\nworker = handoff\n{settings}inet_listener x {{\nport = 1\n{listener}}}\n}}\n"
        )
    };
    let settings =
        loaded(&service("handoff_socket = run/imap.sock\nhandoff_mode = 0660\nresidual = exact\n", "haproxy = yes\n"))
            .settings;
    let of = &settings.services[0];
    assert_eq!((of.worker, of.exact_residual), (WorkerKind::HandOff, true));
    assert_eq!(of.hand_off, Some(HandOffPlace { socket: "run/imap.sock".into(), mode: 0o660 }));
    let settings = loaded(&service("handoff_socket = /run/imap.sock\n", "")).settings;
    assert_eq!(settings.services[0].hand_off.as_ref().map(|place| place.mode), Some(HANDOFF_MODE_DEFAULT));
    for (settings, listener, words) in [
        ("", "", "worker = handoff needs to know where receivers connect"),
        ("handoff_socket = x\nhandoff_mode = 1777\n", "", "Invalid mode 1777"),
        ("handoff_socket = x\nhandoff_mode = 8\n", "", "Invalid mode 8"),
    ] {
        let said = problems(&service(settings, listener));
        assert!(said.contains(words), "{said}");
    }
}

#[test]
fn who_is_not_trusted_is_inherited_as_its_neighbours_are() {
    let text = "haproxy_trusted_networks = 10.0.0.1\nhaproxy_untrusted = plain\n\
                service a {\ninet_listener x {\nport = 1\nhaproxy = yes\n}\n\
                inet_listener y {\nport = 2\nhaproxy = yes\nhaproxy_untrusted = abort\n}\n}\n\
                service b {\nhaproxy_untrusted = abort\ninet_listener z {\nport = 3\nhaproxy = yes\n}\n}\n";
    let settings = loaded(text).settings;
    let all: Vec<_> = settings.services.iter().flat_map(|service| &service.listeners).collect();
    let plain: Vec<_> = all.iter().map(|listener| (listener.plain_untrusted, listener.defer_accept)).collect();
    assert_eq!(plain, [(true, false), (false, true), (false, true)]);
    assert!(
        problems("haproxy_untrusted = drop\n").contains("line 1: Invalid haproxy_untrusted: drop (use abort or plain)")
    );
}

#[test]
fn endpoints_are_inherited_as_their_neighbours_are() {
    let text = "haproxy_trusted_networks = 10.0.0.1\nclient_allowed_endpoints = vpce-0a1, azure:7 azure:7\n\
                service a {\nclient_endpoint_missing = allow\n\
                inet_listener x {\nport = 1\nhaproxy = yes\n}\n\
                inet_listener y {\nport = 2\nhaproxy = yes\nclient_allowed_endpoints =\n}\n}\n\
                service b {\nclient_allowed_endpoints = gcp:9\ninet_listener z {\nport = 3\nhaproxy = yes\n}\n}\n";
    let Loaded { settings, warnings, .. } = loaded(text);
    assert_eq!(warnings, []);
    let all = settings.services.iter().flat_map(|service| &service.listeners);
    let rules: Vec<_> = all
        .map(|listener| &listener.policy.endpoints)
        .map(|rules| (rules.allowed.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "), rules.missing))
        .collect();
    let (reject, allow) = (OnMissingEndpoint::Reject, OnMissingEndpoint::Allow);
    assert_eq!(rules, [("vpce-0a1 azure:7".into(), allow), (String::new(), allow), ("gcp:9".into(), reject)]);
}

#[test]
fn slips_in_endpoints_are_told() {
    for (line, words) in [
        (
            "client_allowed_endpoints = vpce-0a1 vpce-svc-0a1",
            "line 1: Invalid client_allowed_endpoints: vpce-svc-0a1: it names the endpoint service",
        ),
        ("client_allowed_endpoints = vpce-0A1", "vpce-0A1: expected hexadecimal digits in lower case behind vpce-"),
        ("client_allowed_endpoints = 536870930", "536870930: expected vpce-ID (AWS), azure:LINKID or gcp:ID"),
        ("client_allowed_endpoints = azure:4294967296", "azure:4294967296: expected a number from 0 to 4294967295"),
        ("client_endpoint_missing = pass", "line 1: Invalid client_endpoint_missing: pass (use reject or allow)"),
    ] {
        assert!(problems(&format!("{line}\n")).contains(words), "{line}: {}", problems(line));
    }
    for (inside, words) in [
        ("client_allowed_endpoints = gcp:1", "line 4: client_allowed_endpoints has no effect without haproxy = yes"),
        (
            "haproxy = yes\nclient_endpoint_missing = allow",
            "line 5: client_endpoint_missing has no effect without client_allowed_endpoints",
        ),
        (
            "haproxy = yes\nclient_allowed_endpoints = gcp:1\nhaproxy_untrusted = plain",
            "line 5: inet_listener l: client_allowed_endpoints does not concern peers outside",
        ),
        (
            "haproxy = yes\nclient_allowed_endpoints = gcp:1\nhaproxy_versions = v1",
            "line 5: inet_listener l: every client will be refused",
        ),
    ] {
        let text =
            format!("service s {{\ninet_listener l {{\nport = 1\n{inside}\nhaproxy_trusted_networks = ::1\n}}\n}}\n");
        assert!(warnings(&text).contains(words), "{inside}: {}", warnings(&text));
    }
}

#[test]
fn a_list_of_endpoints_has_a_limit() {
    let scratch = Scratch::new("endpoints");
    let numbered = |count: usize| (0..count).map(|id| format!("gcp:{id}\n")).collect::<String>();
    for (count, fits) in [(ENDPOINTS_MAX, true), (ENDPOINTS_MAX + 1, false)] {
        let list = scratch.file("list", numbered(count));
        let text = format!(
            "client_allowed_endpoints = <{}\nservice s {{\ninet_listener l {{\nport = 1\n}}\n}}\n",
            list.display()
        );
        if fits {
            assert_eq!(loaded(&text).settings.defaults.endpoints.allowed.iter().count(), count);
        } else {
            assert!(problems(&text).contains("16385 endpoints are more than 16384"), "{}", problems(&text));
        }
    }
}

#[test]
fn every_setting_of_a_listener() {
    let listener = listener(
        "address = 192.0.2.1, 2001:db8::1\nhaproxy = yes\nreuse_port = yes\nhaproxy_trusted_networks = ::1\n\
         haproxy_timeout = 5 secs\nhaproxy_versions = v2\nhaproxy_unknown = reject\nhaproxy_unspec = peer\n\
         haproxy_checksum = require\nhaproxy_source = any\nhaproxy_second_header = pass\nhaproxy_v4_in_tcp6 = map\nhaproxy_v6_in_tcp4 = map\n\
         haproxy_authority = dns\nhaproxy_alpn = imap pop3\ndefer_accept = no\n",
    );
    assert_eq!(listener.addresses, [ip("192.0.2.1"), ip("2001:db8::1")]);
    assert!(listener.haproxy && listener.reuse_port && !listener.defer_accept && listener.rules.v4_in_tcp6);
    assert!(listener.rules.v6_in_tcp4);
    assert!(listener.trusted.contains(ip("::1")) && !listener.trusted.contains(ip("127.0.0.1")));
    assert_eq!(listener.timeout, Duration::from_secs(5));
    let policy = &listener.policy;
    assert!(!policy.v1 && policy.v2 && policy.checksum_required && policy.any_source);
    assert!(policy.second_header_pass && policy.dns_authority);
    assert_eq!((policy.unknown, policy.unspec), (OnUnknown::Reject, OnUnspec::Peer));
    assert_eq!(policy.alpn, [b"imap".to_vec(), b"pop3".to_vec()]);
}

#[test]
fn every_setting_outside_listeners() {
    let Loaded { settings, .. } = loaded(
        "driver = epoll\nrings = 4\npending_limit = 100\nlocked_memory_limit = 16 M\nheader_limit = 536\ndrain_timeout = 5m\ntakeover_socket = run/t.sock\ncontrol_socket = run/c.sock\n\
         listen = 127.0.0.1\nservice s {\nworker = discard\nworkers = 3\nqueue = 7\noverload = reject\nresidual = exact\n\
         inet_listener l {\nport = 1\n}\n}\n",
    );
    assert_eq!((settings.driver, settings.rings.map(usize::from)), (DriverKind::Epoll, Some(4)));
    assert_eq!((settings.pending_limit, settings.header_limit), (100, 536));
    assert_eq!(settings.locked_memory_limit, 16 << 20);
    assert_eq!(settings.drain_timeout, Duration::from_secs(300));
    assert_eq!(settings.takeover_socket, Some(PathBuf::from("run/t.sock")));
    assert_eq!(settings.control_socket, Some(PathBuf::from("run/c.sock")));
    let service = &settings.services[0];
    assert_eq!((service.worker, service.workers.map(usize::from)), (WorkerKind::Discard, Some(3)));
    assert_eq!((service.queue, service.overload, service.exact_residual), (7, Overload::Reject, true));
    assert_eq!(service.listeners[0].rules.header_limit, 536);
    assert_eq!(service.listeners[0].addresses, [ip("127.0.0.1")]);
}

#[test]
fn where_http_is_served_is_an_address_with_a_port_that_no_listener_has() {
    let with = |globals: &str, address: &str| {
        format!("{globals}\nservice s {{\ninet_listener l {{\naddress = {address}\nport = 9900\n}}\n}}\n")
    };
    let settings = loaded(&with("http_listen = [::1]:9900\ndrain_delay = 7s", "127.0.0.1")).settings;
    assert_eq!(settings.http_listen.map(|address| address.to_string()), Some("[::1]:9900".into()));
    assert_eq!(settings.drain_delay, Duration::from_secs(7));
    let named = loaded(&with("http_hosts = Mail1.example.com. mail1", "127.0.0.1")).settings;
    assert_eq!(named.http_hosts, ["mail1.example.com", "mail1"]);
    let off = loaded(&with("http_listen =", "*")).settings;
    assert_eq!((off.http_listen, off.drain_delay), (None, Duration::ZERO));
    for (globals, address, words) in [
        (
            "http_listen = 127.0.0.1:9900",
            "127.0.0.1",
            "line 1: http_listen: 127.0.0.1:9900 is taken by inet_listener l",
        ),
        ("http_listen = 127.0.0.1:9900", "*", "line 1: http_listen: 127.0.0.1:9900 is taken by inet_listener l"),
        (
            "http_listen = 127.0.0.1",
            "127.0.0.1",
            "line 1: Invalid address and port: 127.0.0.1 (write 127.0.0.1:9900 or",
        ),
        ("http_hosts = mail1:9900", "127.0.0.1", "line 1: http_hosts: mail1:9900 is no host name"),
        ("http_listen = localhost:9900", "127.0.0.1", "line 1: Invalid address and port: localhost:9900"),
        ("http_listen = 127.0.0.1:0", "127.0.0.1", "line 1: Invalid port number 0 in 127.0.0.1:0"),
        ("drain_delay = 2 hours", "127.0.0.1", "line 1: drain_delay: 2 hours is more than 1 hours"),
    ] {
        let found = problems(&with(globals, address));
        assert!(found.contains(words), "{globals}: {found}");
    }
    let warned = warnings(&with("http_listen = 0.0.0.0:9901", "127.0.0.1"));
    assert!(warned.contains("http_listen: 0.0.0.0:9901 is no address of this host alone"), "{warned}");
}

#[test]
fn inner_settings_override_outer_ones() {
    let text = "haproxy_trusted_networks = 10.0.0.1\nhaproxy_timeout = 9 secs\n\
                service a {\nhaproxy_trusted_networks = 10.0.0.2\n\
                inet_listener x {\nport = 1\n}\ninet_listener y {\nport = 2\nhaproxy_trusted_networks =\n}\n}\n\
                service b {\ninet_listener z {\nport = 3\nhaproxy_timeout = 4 secs\n}\n}\n";
    let settings = loaded(text).settings;
    let [x, y] = settings.services[0].listeners.as_slice() else { panic!("two listeners") };
    let z = &settings.services[1].listeners[0];
    assert!(x.trusted.contains(ip("10.0.0.2")) && !x.trusted.contains(ip("10.0.0.1")));
    assert!(y.trusted.is_empty(), "an empty list trusts nobody, it does not inherit");
    assert!(z.trusted.contains(ip("10.0.0.1")));
    assert_eq!([x.timeout.as_secs(), z.timeout.as_secs()], [9, 4]);
}

#[test]
fn sections_of_one_name_merge_and_the_last_value_wins() {
    let text = "service s {\ninet_listener l {\nport = 1\nssl = yes\n}\n}\nservice s {\nqueue = 5\n\
                inet_listener l {\nport = 2\n}\ninet_listener {\nport = 3\n}\ninet_listener {\nport = 4\n}\n}\n";
    let settings = loaded(text).settings;
    let [service] = settings.services.as_slice() else { panic!("one service") };
    let shown: Vec<_> = service.listeners.iter().map(|l| (l.name.as_str(), l.port, l.ssl)).collect();
    assert_eq!(shown, [("l", 2, true), ("port-3", 3, false), ("port-4", 4, false)]);
    assert_eq!(service.queue, 5);
}

#[test]
fn listeners_without_a_name_get_one_that_is_free() {
    let listener = |name: &str, n: u8| format!("inet_listener {name} {{\naddress = 127.0.0.{n}\nport = 143\n}}\n");
    let all: String = ["", "port-143-2", "", "", "x"].iter().zip(1..).map(|(name, n)| listener(name, n)).collect();
    let text = format!("service s {{\n{all}}}\n");
    let names = |text: &str| -> Vec<String> {
        loaded(text).settings.services[0].listeners.iter().map(|l| l.name.clone()).collect()
    };
    let expected = ["port-143", "port-143-2", "port-143-3", "port-143-4", "x"];
    assert_eq!(names(&text), expected);
    assert_eq!(names(&dump(&loaded(&text), false)), expected, "what is shown is read as the same listeners");
}

#[test]
fn a_named_default_listener_keeps_dovecots_port_and_tls() {
    let text = "service imap-login {\ninet_listener imaps {\nhaproxy = yes\n}\ninet_listener imap {\nport = 0\n}\n}\n\
                service pop3-login {\ninet_listener pop3 {\n}\n}\nhaproxy_trusted_networks = ::1\n";
    let Loaded { settings, warnings, implicit, .. } = loaded(text);
    let imaps = &settings.services[0].listeners[0];
    assert_eq!((imaps.port, imaps.ssl, imaps.haproxy), (993, true, true));
    assert_eq!(settings.services[0].listeners.len(), 1, "port = 0 turns a listener off");
    assert_eq!(settings.services[1].listeners[0].port, 110);
    assert_eq!(warnings.len(), 1, "{}", lines(&warnings));
    assert_eq!(implicit.iter().map(|i| i.listener).collect::<Vec<_>>(), ["pop3s"]);
}

/// Dovecot 2.3 has no listener of that name.
#[test]
fn submissions_is_a_default_listener_of_dovecot_2_4_only() {
    let listener =
        |settings: &str| format!("service submission-login {{\ninet_listener submissions {{\n{settings}}}\n}}\n");
    let v24 = format!("dovecot_config_version = 2.4.0\n{}", listener(""));
    let shown = dump(&loaded(&v24), false);
    for text in [&v24, &shown] {
        let listener = &loaded(text).settings.services[0].listeners[0];
        assert_eq!((listener.port, listener.ssl), (465, true), "{text}");
    }
    let v23 = loaded(&listener("port = 465\n")).settings;
    assert!(!v23.services[0].listeners[0].ssl);
    assert!(problems(&listener("reuse_port = no\n")).starts_with("t.conf: nothing to listen on"));
}

#[test]
fn global_ssl_no_turns_tls_listeners_off() {
    let text = "ssl = no\nservice s {\ninet_listener a {\nport = 1\nssl = yes\n}\ninet_listener b {\nport = 2\n}\n}\n";
    assert_eq!(loaded(text).settings.services[0].listeners.len(), 1);
    assert!(warnings(text).starts_with("t.conf line 3: inet_listener a: left out"));
}

#[test]
fn the_dialect_of_dovecot_2_4() {
    let text = "dovecot_config_version = 2.4.0\ndovecot_storage_version = 2.4.0\n\
                protocols {\nimap = yes\npop3 = no\n}\nlisten {\n127.0.0.1 = yes\n\"::1\" = yes\n}\n\
                ssl_server_cert_file = /etc/c.pem\nssl_server_key_file = k.pem\n\
                haproxy_trusted_networks = 10.0.0.1 10.0.0.2\n\
                service imap-login {\nservice_restart_request_count = unlimited\n\
                inet_listener imap {\ninet_listener_port = 143\nlisten = 127.0.0.9\ntype = x\n}\n\
                inet_listener imaps {\nport = 993\nhaproxy = yes\n}\n}\n";
    let Loaded { settings, ignored, implicit, .. } = loaded(text);
    let [imap, imaps] = settings.services[0].listeners.as_slice() else { panic!("two listeners") };
    assert_eq!((imap.port, imap.addresses.as_slice()), (143, [ip("127.0.0.9")].as_slice()));
    assert_eq!(imaps.addresses, [ip("0.0.0.0"), ip("::"), ip("127.0.0.1"), ip("::1")], "added to the default");
    assert_eq!(imaps.networks.len(), 2);
    assert_eq!(settings.ssl_cert.map(|c| c.path), Some(PathBuf::from("/etc/c.pem")));
    assert_eq!(settings.ssl_key.map(|c| c.path), Some(PathBuf::from("k.pem")));
    assert!(implicit.is_empty());
    let what: Vec<_> = ignored.iter().map(|i| i.what.as_str()).collect();
    assert!(what.contains(&"service_restart_request_count"), "{what:?}");
}

#[test]
fn a_list_as_a_section_updates_and_as_a_value_replaces() {
    let listen = |text: &str| {
        let rest = "dovecot_config_version = 2.4.0\nservice s {\ninet_listener l {\nport = 1\n}\n}\n";
        loaded(&format!("{rest}{text}")).settings.services[0].listeners[0].addresses.clone()
    };
    let (one, two, three) = (ip("127.0.0.1"), ip("127.0.0.2"), ip("127.0.0.3"));
    assert_eq!(listen("listen = 127.0.0.1 127.0.0.2\nlisten {\n127.0.0.3 = yes\n127.0.0.1 = no\n}\n"), [two, three]);
    let all = [ip("0.0.0.0"), ip("::")];
    let twice = "listen {\n127.0.0.1 = yes\n}\nlisten {\n127.0.0.2 = yes\n127.0.0.1 = yes\n}\n";
    assert_eq!(listen(twice), [all[0], all[1], two, one], "added to the default");
    assert_eq!(listen("listen {\n* = no\n:: = no\n127.0.0.1 = yes\n}\n"), [one]);
    assert_eq!(listen("listen {\n127.0.0.1 = yes\n}\nlisten = 127.0.0.2\n"), [two]);
    let listener = |settings: &str| format!("service s {{\ninet_listener l {{\n{settings}\n}}\n}}\n");
    let inner = listener("listen {\n127.0.0.1 = yes\n\"127.0.0.2\" = yes\n}");
    assert_eq!(listen(&format!("listen = 127.0.0.3\n{inner}")), [three, one, two], "added to those outside");
    let twice = format!("{}{}", listener("listen = 127.0.0.1 127.0.0.2"), listener("listen {\n127.0.0.1 = no\n}"));
    assert_eq!(listen(&twice), [two], "sections of one listener update the same list");

    let wrong = |text: &str| problems(&format!("{text}{}", listener("port = 1")));
    let file = wrong("listen = </etc/addresses\nlisten {\n::1 = yes\n}\n");
    assert!(file.contains("line 2: listen: a list that is read from a file cannot be updated"), "{file}");
    let item = wrong("listen {\n::1 = perhaps\n* {\n}\n}\n");
    assert!(item.contains("line 2: Invalid boolean value") && item.contains("line 3: listen is a list"), "{item}");
}

#[test]
fn all_errors_at_once_in_order() {
    let text = "haproxy_trusted_networks = 10.0.0.0/33 mail.example\nhaproxy_timeout = 0\nrings = 0\n\
                service s {\nworker = relais\ninet_listener a {\nport = 70000\nhaproxi = yes\nssl = true\n}\n\
                inet_listener b {\nport = 2\nhaproxy_versions = v3\nclient_limit = 5\n@group = x\n}\n}\nhaproxy = yes\n\
                worker = whoami\n";
    let problems = problems(text);
    let expected = [
        "t.conf line 1: haproxy_trusted_networks: Invalid network '10.0.0.0/33'",
        "t.conf line 1: haproxy_trusted_networks: Invalid network 'mail.example'",
        "t.conf line 2: haproxy_timeout: 0 is not in the range",
        "t.conf line 3: Invalid number 0: not in the range 1 to 1024 (or auto)",
        "t.conf line 5: Invalid worker: relais (use whoami or discard or relay or handoff)",
        "t.conf line 7: Invalid port number 70000",
        "t.conf line 8: Unknown setting: service { inet_listener { haproxi (did you mean haproxy?)",
        "t.conf line 9: Invalid boolean value: true (use yes or no)",
        "t.conf line 13: Invalid haproxy_versions: v3",
        "t.conf line 14: Unknown setting: service { inet_listener { client_limit",
        "t.conf line 15: Unknown group label @group",
        "t.conf line 18: Unknown setting: haproxy (it belongs inside inet_listener NAME { ... })",
        "t.conf line 19: Unknown setting: worker (it belongs inside service NAME { ... })",
    ];
    let found: Vec<&str> = problems.lines().collect();
    assert_eq!(found.len(), expected.len(), "{problems}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.starts_with(expected), "{found}\n  is not {expected}");
    }
}

/// Each of these could open a port that is not what its operator believes.
#[test]
fn a_listeners_setting_outside_a_listener_is_an_error() {
    let listeners = "inet_listener l {\nport = 10143\n}\n";
    let in_service = |line: &str| problems(&format!("service s {{\n{line}\n{listeners}}}\n"));
    let outside = |line: &str| problems(&format!("\n{line}\nservice s {{\n{listeners}}}\n"));
    let inside = "it belongs inside inet_listener NAME { ... })";
    for line in ["haproxy = yes", "ssl = yes", "address = 127.0.0.1", "port = 1"] {
        let key = line.split(' ').next().expect("a key");
        assert_eq!(in_service(line), format!("t.conf line 2: Unknown setting: {key} ({inside}\n"));
    }
    for line in ["haproxy = yes", "address = 127.0.0.1", "port = 1", "haproxy_versions = v2"] {
        let key = line.split(' ').next().expect("a key");
        assert_eq!(outside(line), format!("t.conf line 2: Unknown setting: {key} ({inside}\n"));
    }
    let slip = "t.conf line 2: Unknown setting: haproxi (did you mean haproxy? It belongs inside inet_listener NAME \
                { ... })\n";
    assert_eq!((in_service("haproxi = yes").as_str(), outside("haproxi = yes").as_str()), (slip, slip));
    assert_eq!(loaded(&format!("ssl = required\nservice s {{\n{listeners}}}\n")).settings.services.len(), 1);
}

#[test]
fn braces_that_do_not_match() {
    for (text, message) in [
        ("service s {\ninet_listener l {\nport = 1\n}\n", "t.conf line 1: Missing '}' (section started at t.conf:1)\n"),
        ("service s {\ninet_listener l {\nport = 1\n", "t.conf line 2: Missing '}' (section started at t.conf:2)\n"),
        (
            "}\nx = y\n}\n",
            "t.conf line 1: Unexpected '}' (no section is open here: remove it, or look for a missing '{' above)\n",
        ),
    ] {
        assert_eq!(problems(text), message);
    }
    let cascade = problems("service s\ninet_listener l {\nport = 1\n}\n}\n");
    assert!(cascade.starts_with("t.conf line 1: Expecting '{'") && cascade.lines().count() == 1, "{cascade}");
    let swallowed = problems("service s {\ninet_listener a {\nport = 1\ninet_listener b {\nport = 2\n}\n}\n}\n");
    assert!(swallowed.contains("line 4: Unknown setting: service { inet_listener { inet_listener {"), "{swallowed}");
}

#[test]
fn two_listeners_on_one_address() {
    let two = |a: &str, b: &str| {
        format!("service s {{\ninet_listener a {{\nport = 1\n{a}\n}}\ninet_listener b {{\nport = 1\n{b}\n}}\n}}\n")
    };
    let same = problems(&two("", "address = *"));
    assert!(same.contains("line 6: inet_listener b: * port 1 is taken by inet_listener a (t.conf line 2)"), "{same}");
    let narrower = warnings(&two("", "address = 127.0.0.1"));
    assert!(narrower.contains("line 6: inet_listener b: connections to 127.0.0.1 port 1 come here"), "{narrower}");
    assert_eq!(warnings(&two("address = 127.0.0.2", "address = 127.0.0.1, 127.0.0.1")), "");
}

#[test]
fn warnings_of_what_is_hardly_meant() {
    let with =
        |line: &str| warnings(&format!("{line}\nservice s {{\ninet_listener l {{\nport = 1\nhaproxy = yes\n}}\n}}\n"));
    for (line, words) in [
        ("haproxy_trusted_networks = 0.0.0.0/0", "line 1: haproxy_trusted_networks: 0.0.0.0/0 trusts everybody"),
        ("haproxy_trusted_networks = fe80::1%eth0", "the scope of fe80::1%eth0 is not looked at"),
        ("haproxy_trusted_networks =", "line 1: inet_listener l: haproxy = yes, but haproxy_trusted_networks is empty"),
        ("", "line 3: inet_listener l: haproxy = yes, but haproxy_trusted_networks is empty"),
        (
            "haproxy_trusted_networks = ::1\nservice s {\nhaproxy_trusted_networks =\n}",
            "line 3: inet_listener l: haproxy = yes, but haproxy_trusted_networks is empty",
        ),
        (
            "haproxy_trusted_networks = ::1\nservice s {\ninet_listener l {\nhaproxy_trusted_networks =\n}\n}",
            "line 4: inet_listener l: haproxy = yes, but haproxy_trusted_networks is empty",
        ),
        ("haproxy_timeout = 2 secs", "line 1: haproxy_timeout: 2 secs leaves no room"),
        ("haproxy_trusted_networks = ::1#x", "line 1: Ambiguous '#' character in line"),
        ("haproxy_trusted_network = ::1", "is ignored (did you mean haproxy_trusted_networks?)"),
        ("protocols = pop3\nservice imap-login {\ninet_listener x {\nport=5\n}\n}", "protocols does not list imap"),
        (
            "service q {\ninet_listener x {\nhaproxy = yes\n}\n}",
            "inet_listener x: not listened on, because it has no port",
        ),
    ] {
        assert!(with(line).contains(words), "{line}: {}", with(line));
    }
    let plain = warnings("service s {\ninet_listener l {\nport = 1\nhaproxy_versions = v2\n}\n}\n");
    assert!(plain.contains("line 4: haproxy_versions has no effect without haproxy = yes"), "{plain}");
}

#[test]
fn nothing_to_listen_on_is_an_error() {
    for text in ["", "service imap-login {\n}\n", "service s {\ninet_listener l {\nport = 0\n}\n}\n"] {
        assert!(problems(text).starts_with("t.conf: nothing to listen on"), "{text}");
    }
}

#[test]
fn certificates_are_looked_at_only_when_a_listener_needs_them() {
    let tls = "service s {\ninet_listener l {\nport = 1\nssl = yes\n}\n}\n";
    let plain = "service s {\ninet_listener l {\nport = 1\n}\n}\n";
    let hidden = "ssl_cert = </c.pem\nssl_key = # hidden, use -P to show it\n";
    assert_eq!(loaded(&format!("{hidden}{plain}")).settings.ssl_cert, None);
    assert!(problems(&format!("{hidden}{tls}")).contains("line 1: ssl_cert is set, but ssl_key is not"));
    assert!(problems(&format!("ssl_cert = /c.pem\n{tls}")).contains("line 1: ssl_cert does not name a file"));
    assert!(problems(&format!("ssl_cert = </c.pem\n{tls}")).contains("line 1: ssl_cert is set, but ssl_key is not"));
    let both = loaded(&format!("ssl_cert = </c.pem\nssl_key = <k.pem\n{tls}")).settings;
    assert_eq!(both.ssl_cert.map(|c| (c.path, c.at.line)), Some((PathBuf::from("/c.pem"), 1)));
}

#[test]
fn variables() {
    let text = "n = 10.0.0.1\nhaproxy_trusted_networks = $n 10.0.0.2\n\
                haproxy_trusted_networks = $haproxy_trusted_networks 10.0.0.3\nmail_plugins = $nosuch\n";
    let listeners = "service s {\ninet_listener l {\nport = 1\n}\n}\n";
    let listener = &loaded(&format!("{text}{listeners}")).settings.services[0].listeners[0];
    assert_eq!(listener.networks.len(), 3);
    let unresolved = problems(&format!("haproxy_trusted_networks = $nosuch\n{listeners}"));
    assert!(unresolved.contains("Unknown variable: $nosuch"), "{unresolved}");
    let mut doubling = String::from("a = 10.0.0.0/8 10.0.0.0/8 \n");
    doubling.push_str(&"a = $a $a\n".repeat(40));
    assert_eq!(loaded(&format!("{doubling}{listeners}")).settings.services.len(), 1, "growth is bounded");
    let in_use = problems(&format!("{doubling}haproxy_trusted_networks = $a\n{listeners}"));
    assert!(
        in_use.contains("line 42: haproxy_trusted_networks: $a makes the value longer than 65536 bytes"),
        "{in_use}"
    );
}

/// Debian's `dovecot.conf` includes one file a protocol that is installed, each of this one line.
#[test]
fn a_variable_without_a_setting_before_is_dovecots_default() {
    let listeners = "service s {\ninet_listener l {\nport = 1\n}\n}\n";
    let scratch = Scratch::new("protocols");
    for installed in ["imapd", "pop3d"] {
        let protocol = installed.trim_end_matches('d');
        scratch.file(&format!("{installed}.protocol"), format!("protocols = $protocols {protocol}\n"));
        let main = scratch.file("main.conf", format!("!include_try *.protocol\n{listeners}"));
        let loaded = load(&main).unwrap_or_else(|problems| panic!("{}", lines(&problems)));
        assert_eq!(loaded.implicit.iter().any(|known| known.protocol == "pop3"), installed == "pop3d");
        assert!(loaded.implicit.iter().any(|known| known.protocol == "imap"));
    }
    let settings =
        loaded(&format!("listen = $listen 127.0.0.1\nhaproxy_timeout = $haproxy_timeout\n{listeners}")).settings;
    assert_eq!(settings.defaults.addresses, [ip("0.0.0.0"), ip("::"), ip("127.0.0.1")]);
    assert_eq!(settings.defaults.timeout, TIMEOUT_DEFAULT);
}

#[test]
fn a_variable_without_a_value_stays_one_through_others() {
    let listeners = "service s {\ninet_listener l {\nport = 1\n}\n}\n";
    let shown = |text: &str| problems(&format!("{text}\n{listeners}"));
    let through = shown("a = $nosuch\nhaproxy_trusted_networks = $a");
    assert!(through.starts_with("t.conf line 2: haproxy_trusted_networks: Unknown variable: $nosuch"), "{through}");
    let file = shown("listen = </etc/addresses\nlisten = $listen ::1");
    assert!(
        file.contains("line 2: listen: $listen has no value to put in its place, because listen is read"),
        "{file}"
    );
    let section = shown("listen {\n::1 = yes\n}\nlisten = $listen 127.0.0.1");
    assert!(section.contains("line 4: listen: $listen has no value to put in its place"), "{section}");
}

#[test]
fn unknown_settings_and_sections_are_listed_with_their_place() {
    let text = "mail_location = maildir:~\nprotocol imap {\nhaproxy_timeout = 0\n}\nnamespace inbox {\nmailbox x {\n}\n}\n\
                service s {\nclient_limit = 1\nunix_listener u {\nmode = 0600\n}\ninet_listener l {\nport = 1\n}\n}\n";
    let listed: Vec<_> = loaded(text).ignored.iter().map(|i| format!("{} {}", i.at.line, i.what)).collect();
    assert_eq!(
        listed,
        [
            "1 mail_location",
            "2 protocol imap { }",
            "5 namespace inbox { }",
            "10 client_limit",
            "11 unix_listener u { }"
        ]
    );
}

/// A configuration in which nothing is left at its default.
const UNUSUAL: &str = "\
rings = 4
pending_limit = 100
header_limit = 536
drain_timeout = 5 mins
takeover_socket = \"/run/a # b.sock\"
listen = 127.0.0.1, ::1
haproxy_timeout = 1 hours
haproxy_trusted_networks = 10.0.0.0/8 2001:db8::/32
ssl_cert = </etc/c.pem
ssl_key = </etc/k.pem
service \"a \\\" b\" {
  worker = discard
  workers = 3
  queue = 7
  overload = reject
  residual = exact
  inet_listener \"c {d\" {
    address = *
    port = 1
    ssl = yes
    haproxy = yes
    reuse_port = yes
    haproxy_trusted_networks =
    haproxy_timeout = 90 secs
    haproxy_versions = v2
    haproxy_unknown = reject
    haproxy_unspec = peer
    haproxy_checksum = require
    haproxy_source = any
    haproxy_second_header = pass
    haproxy_v4_in_tcp6 = map
    haproxy_authority = dns
    haproxy_alpn = imap pop3
    defer_accept = no
    client_allowed_endpoints = vpce-08d2bf15fac5001c9 azure:536870930 gcp:7
    client_endpoint_missing = allow
  }
}
service imap-login {
  inet_listener imaps {
    ssl = no
  }
}
";

/// Names and paths that need quotes, or have no plain form at all.
const QUOTED: &str = "\
ssl_server_cert_file = \"/etc/a #b.pem\"
ssl_server_key_file = \"/etc/it's\\\\\"
user = \"a$b\"
chroot = \"/srv/\tx \"
takeover_socket = \"/run/<x #\"
service \"@x\" {
  inet_listener \"a\tb\" {
    port = 1
    ssl = yes
  }
}
";

/// A relay in which nothing is left at its default.
const RELAY: &str = "\
login_proxy_max_disconnect_delay = 0
login_proxy_timeout = 10 secs
login_source_ips = 10.0.5.11, 2001:db8::5
service imap-login {
  worker = relay
  backend = x.y
  protocol = pop3
  idle_timeout = 40 mins
  log_sessions = no
  inet_listener imap {
    port = 143
  }
}
service smtp {
  worker = relay
  inet_listener mx {
    port = 25
  }
}
backend x.y {
  servers = 10.0.1.1-10.0.1.2:7 10.0.1.1:8 mail5.example.com
  target = vestibule
  forward_tlvs = unique-id ssl
  balance = source
  stick = source
  stick_table_size = 1000
  stick_table_expire = 10 mins
  connect_timeout = 7 secs
  half_closed_timeout = 9 secs
  retries = 0
  queue = 5
  queue_timeout = 20 secs
  slow_start = 0
  check = dovecot
  check_port = 5001
  check_interval = 2 secs
  rise = 1
  fall = 1
  server a {
    address = 2001:DB8::7
    port = 143
    weight = 0
    connection_limit = 9
    state = drain
    backup = yes
    check_port = 5002
  }
}
backend smtp {
  target = smtp-server
  forward_tlvs = none
  server mx {
    address = mx.example.com
  }
}
";

#[test]
fn a_relay_and_its_backends() {
    let Loaded { settings, warnings, ignored, .. } = loaded(RELAY);
    assert!(warnings.is_empty() && ignored.is_empty(), "{}", lines(&warnings));
    let [imap, smtp] = settings.services.as_slice() else { panic!("two services") };
    assert_eq!((imap.worker, imap.backend, imap.protocol), (WorkerKind::Relay, Some(0), Protocol::Pop3));
    assert_eq!((smtp.worker, smtp.backend, smtp.protocol), (WorkerKind::Relay, Some(1), Protocol::Smtp));
    assert_eq!((imap.idle_timeout.as_secs(), imap.log_sessions), (2400, false));
    assert_eq!((smtp.idle_timeout, smtp.log_sessions), (IDLE_DEFAULT, true));
    assert_eq!(settings.login_source_ips, [ip("10.0.5.11"), ip("2001:db8::5")]);
    assert_eq!(settings.login_proxy_timeout.as_secs(), 10);
    assert!(settings.login_proxy_max_disconnect_delay.is_zero());

    let backend = &settings.backends[0];
    let servers: Vec<_> = backend.servers.servers.iter().map(|s| (s.name.as_str(), s.host.as_str(), s.port)).collect();
    let expected = [
        ("10.0.1.1", "10.0.1.1", 7),
        ("10.0.1.2", "10.0.1.2", 7),
        ("10.0.1.1:8", "10.0.1.1", 8),
        ("mail5.example.com", "mail5.example.com", 10110),
        ("a", "2001:db8::7", 143),
    ];
    assert_eq!(servers, expected);
    let addresses: Vec<_> = backend.servers.servers.iter().map(|s| s.address.map(|a| a.to_string())).collect();
    assert_eq!(addresses[2..], [Some("10.0.1.1:8".to_string()), None, Some("[2001:db8::7]:143".to_string())]);
    let [first, .., last] = backend.servers.servers.as_slice() else { panic!("servers") };
    assert_eq!((first.weight, first.connection_limit, first.state, first.backup), (1, 0, AdminState::Ready, false));
    assert_eq!((last.weight, last.connection_limit, last.state, last.backup), (0, 9, AdminState::Drain, true));
    assert_eq!((first.check_port, last.check_port), (Some(5001), Some(5002)));
    assert_eq!((backend.target, backend.forward), (Target::Vestibule, Forward::ProxyV2));
    assert_eq!(backend.forward_tlvs.words(), "ssl unique-id");
    assert_eq!(backend.half_closed_timeout.as_secs(), 9);
    let rest = &backend.servers;
    assert_eq!((rest.balance, rest.retries, rest.queue), (Balance::Source, 0, 5));
    assert_eq!(rest.stick, Some(StickSettings { size: 1000, expire: Duration::from_secs(600) }));
    assert_eq!([rest.connect_timeout, rest.queue_timeout, rest.slow_start].map(|time| time.as_secs()), [7, 20, 0]);
    let interval = Duration::from_secs(2);
    assert_eq!(rest.check, CheckSettings { kind: CheckKind::Dovecot, interval, rise: 1, fall: 1 });

    let smtp = &settings.backends[1];
    assert_eq!((smtp.forward, smtp.forward_tlvs), (Forward::ProxyV1, ForwardTlvs::NONE));
    assert_eq!((smtp.servers.servers[0].port, smtp.servers.check.kind), (10025, CheckKind::Banner));
}

/// A relay of one service and one backend; `service` and `backend` are lines inside.
fn relay(service: &str, backend: &str) -> String {
    format!(
        "service imap-login {{\nworker = relay\n{service}\ninet_listener l {{\nport = 10143\n}}\n}}\n\
         backend imap {{\nservers = 10.0.0.1\n{backend}\n}}\n"
    )
}

#[test]
fn a_relays_defaults_come_from_its_service() {
    let settings = loaded(&relay("", "")).settings;
    let backend = &settings.backends[0];
    assert_eq!((settings.services[0].backend, backend.servers.servers[0].port), (Some(0), 10143));
    assert_eq!((backend.target, backend.forward), (Target::Dovecot, Forward::ProxyV2));
    assert_eq!(backend.forward_tlvs.words(), "ssl authority");
    assert_eq!(backend.servers.check.kind, CheckKind::Banner);
    assert_eq!(settings.login_proxy_max_disconnect_delay, DISCONNECT_DELAY_DEFAULT);
    let unknown = "service x {\nworker = relay\nbackend = b\ninet_listener l {\nport = 1\n}\n}\n\
                   backend b {\nservers = [::1]:7\n}\n";
    let backend = &loaded(unknown).settings.backends[0];
    assert_eq!((backend.target, backend.servers.check.kind), (Target::Generic, CheckKind::Connect));
    assert_eq!(backend.forward_tlvs, ForwardTlvs::NONE);
    let merged = loaded(&format!(
        "{}backend imap {{\nservers = 10.0.0.2\nserver a {{\naddress = 10.0.0.3\n}}\n}}\n",
        relay("", "")
    ));
    let names: Vec<_> = merged.settings.backends[0].servers.servers.iter().map(|s| s.name.clone()).collect();
    assert_eq!(names, ["10.0.0.2", "a"], "sections of one name merge, the last value counts");
}

/// `(lines in the service, lines in the backend, line and words of the error)`.
#[test]
fn errors_of_relays() {
    for (service, backend, words) in [
        ("backend = imp", "", "line 3: service imap-login: there is no backend imp (there are imap)"),
        ("protocol = none", "", "line 1: service imap-login: worker = relay needs to know its backend"),
        ("protocol = imaps", "", "line 3: Invalid protocol: imaps (use imap or pop3 or"),
        ("protocol = pop3", "", "line 1: service imap-login: there is no backend pop3"),
        ("idle_timeout = 0", "", "line 3: idle_timeout: 0 is not in the range 1 secs to 1 weeks"),
        ("idle_timout = 40 mins\nbackend = x", "", "there is no backend x"),
        ("", "forwrd = none", "line 10: Unknown setting: backend { forwrd (did you mean forward?)"),
        ("", "cluster = x", "line 10: Unknown setting: backend { cluster (known are servers, target, forward, "),
        ("", "weight = 2", "line 10: Unknown setting: weight (it belongs inside server NAME { ... })"),
        ("", "client_limit = 2", "line 10: Unknown setting: backend { client_limit (known are"),
        ("", "inet_listener x {\n}", "line 10: Unknown section: backend { inet_listener { (a backend holds"),
        ("", "server {\n}", "line 10: server { } is missing section name"),
        (
            "",
            "server a {\nserver b {\n}\naddress = 10.0.0.9\n}",
            "line 11: Unknown section: backend { server { server {",
        ),
        (
            "",
            "server a {\nadress = ::1\naddress = 10.0.0.9\n}",
            "line 11: Unknown setting: backend { server { adress (did you mean address?)",
        ),
        (
            "",
            "server a {\nforward = none\naddress = 10.0.0.9\n}",
            "line 11: Unknown setting: forward (it belongs inside backend NAME { ... })",
        ),
        ("", "server a {\nport = 5\n}", "line 10: server a has no address: write address = ADDRESS"),
        ("", "server a {\naddress = 10.0.0.9\nport = 0\n}", "line 12: Invalid port number 0: a server has a port"),
        ("", "server a {\naddress = 10.0.0.1:143\n}", "(write address = 10.0.0.1, port = 143)"),
        ("", "server a {\naddress = 0.0.0.0\n}", "line 11: Invalid server '0.0.0.0': no address of one host"),
        ("", "server a/b {\naddress = 10.0.0.9\n}", "line 10: Invalid name of a server: 'a/b'"),
        (
            "",
            "server 10.0.0.1 {\naddress = 10.0.0.9\n}",
            "line 10: server 10.0.0.1: there is one of that name in servers",
        ),
        (
            "",
            "server a {\naddress = 10.0.0.9\nweight = 257\n}",
            "line 12: Invalid number 257: not in the range 0 to 256",
        ),
        (
            "",
            "server a {\naddress = 10.0.0.9\nstate = off\n}",
            "line 12: Invalid state: off (use ready or drain or maint)",
        ),
        ("", "servers = 10.0.0.1 10.0.0.1", "line 10: servers: 10.0.0.1 port 10143 is named twice"),
        ("", "servers = 10.0.0.1-10.0.9.1", "line 10: servers: Invalid server '10.0.0.1-10.0.9.1': the range has more"),
        ("", "servers =", "line 8: backend imap has no servers"),
        ("", "target = dovcot", "line 10: Invalid target: dovcot (use dovecot or postfix or"),
        (
            "",
            "forward = xclient",
            "line 10: backend imap: service imap-login: IMAP has no XCLIENT command: use forward = imap-id",
        ),
        (
            "protocol = pop3\nbackend = imap",
            "forward = imap-id",
            "service imap-login: forward = imap-id works for IMAP only, and the protocol is pop3",
        ),
        (
            "inet_listener m {\nport = 993\n}",
            "forward = imap-id",
            "line 12: backend imap: service imap-login, inet_listener m port 993: forward = imap-id cannot work where TLS",
        ),
        (
            "",
            "target = haraka\nforward = proxy-v2",
            "line 11: backend imap: service imap-login: haraka reads version 1 of the PROXY protocol only",
        ),
        (
            "",
            "target = opensmtpd\nforward = proxy-v1",
            "line 11: backend imap: service imap-login: opensmtpd reads version 2 of",
        ),
        (
            "",
            "forward_tlvs = ssl sni",
            "line 10: Invalid forward_tlvs: 'sni' (use any of ssl, authority, alpn, unique-id, vendor, crc32c, none",
        ),
        ("", "forward_tlvs = none ssl", "line 10: Invalid forward_tlvs: none stands beside others"),
        (
            "",
            "check = dovecot",
            "line 10: check = dovecot asks Dovecot's service health-check, which has a port of its own",
        ),
        ("", "connect_timeout = 0", "line 10: connect_timeout: 0 is not in the range 1 secs to 10 mins"),
        ("", "retries = 17", "line 10: Invalid number 17: not in the range 0 to 16"),
        (
            "",
            "servers = 127.0.0.1:10143",
            "line 10: server 127.0.0.1 of backend imap is this daemon's own inet_listener l",
        ),
        (
            "",
            "servers = localhost:10143",
            "server localhost of backend imap is this daemon's own inet_listener l (t.conf line 4)",
        ),
        ("", "server s {\naddress = ::1\n}", "line 10: server s of backend imap is this daemon's own"),
    ] {
        let found = problems(&relay(service, backend));
        assert!(found.contains(words), "{service} / {backend}: {found}\n  is not {words}");
        assert_eq!(found.lines().count(), 1, "{service} / {backend}: {found}");
    }
    for (text, words) in [
        ("backend {\n}\n", "line 1: backend { } is missing section name"),
        ("server x {\n}\n", "line 1: server belongs inside a backend NAME { ... }"),
        ("login_source_ips = ?10.0.0.1\n", "line 1: login_source_ips: ?10.0.0.1: ? is not supported"),
        ("login_source_ips = 10.0.0.1 *\n", "line 1: login_source_ips: * is no address of one host"),
        ("takeover_socket = x\ncontrol_socket = x\n", "line 2: control_socket is the same as takeover_socket"),
        ("login_proxy_timeout = 0\n", "line 1: login_proxy_timeout: 0 is not in the range"),
        ("forward = none\n", "line 1: Unknown setting: forward (it belongs inside backend NAME { ... })"),
    ] {
        let found = problems(&format!("{text}{}", relay("", "")));
        assert!(found.contains(words), "{text}: {found}");
    }
    let two = "service a {\nworker = relay\nbackend = b\nprotocol = imap\ninet_listener l {\nport = 1\n}\n}\n\
               service c {\nworker = relay\nbackend = b\nprotocol = pop3\ninet_listener l {\nport = 2\n}\n}\n\
               backend b {\nserver s {\naddress = 10.0.0.1\n}\n}\n";
    assert!(problems(two).contains("line 18: server s has no port, and no service of one known protocol"));
    let many: String = (0..=BACKENDS_MAX).map(|n| format!("backend b{n} {{\nservers = ::1\n}}\n")).collect();
    assert!(problems(&format!("{many}{}", relay("", ""))).contains("more than 256 backends"));
}

#[test]
fn warnings_of_relays() {
    for (service, backend, words) in [
        ("idle_timeout = 29 mins", "", "line 3: idle_timeout: 29 mins ends sessions of clients that wait in IDLE"),
        ("queue = 5", "", "line 3: queue has no effect with worker = relay"),
        ("workers = 5", "", "line 3: workers has no effect with worker = relay"),
        ("residual = exact", "", "line 3: residual has no effect with worker = relay"),
        ("overload = reject", "", "line 3: overload has no effect with worker = relay"),
        ("worker = whoami\nidle_timeout = 1 hours", "", "line 4: idle_timeout has no effect without worker = relay"),
        ("worker = whoami", "", "line 8: backend imap is used by no service"),
        ("", "forward = none", "line 10: forward = none: servers see this host's address instead of the client's"),
        ("", "forward_tlvs = alpn", "line 10: backend imap: service imap-login: Dovecot 2.4.0 and 2.4.1 close every"),
        (
            "",
            "target = exim\nforward_tlvs = ssl",
            "line 11: backend imap: service imap-login: a header may have up to 328 bytes and the server takes 232",
        ),
        ("", "target = nginx\nforward_tlvs = authority", "a header may have up to 308 bytes and the server takes 107"),
        (
            "",
            "forward_tlvs = crc32c",
            "line 10: backend imap: service imap-login: dovecot does not verify the checksum",
        ),
        (
            "",
            "forward = proxy-v1\nforward_tlvs = ssl",
            "line 11: backend imap: service imap-login: forward_tlvs has no effect with forward = proxy-v1",
        ),
        ("", "stick_table_size = 5", "line 10: stick_table_size has no effect without stick = source"),
        ("", "check = none\nrise = 2", "line 11: rise has no effect with check = none"),
        ("protocol = none\nbackend = imap", "servers = 10.0.0.1:1\ncheck = banner", "check = banner: nobody greets"),
        ("", "servers = 10.0.0.1:993", "line 8: check = banner: server 10.0.0.1 waits for TLS on port 993"),
        (
            "",
            "server a {\naddress = 10.0.0.1\n}",
            "line 8: backend imap: server a: 10.0.0.1 port 10143 is server 10.0.0.1",
        ),
        (
            "inet_listener i {\nport = 143\n}\ninet_listener s {\nport = 993\n}",
            "",
            "line 6: backend imap: clients of inet_listener s start with TLS, those of i do not",
        ),
        (
            "inet_listener i {\nport = 5\nssl = yes\n}\ninet_listener s {\nport = 993\n}",
            "",
            "backend imap: clients of inet_listener s start with TLS, those of i do not",
        ),
        (
            "inet_listener i {\nport = 5\nssl = yes\n}",
            "servers = 10.0.0.1:993\ncheck = connect",
            "line 3: inet_listener i: TLS ends here (ssl = yes), but server 10.0.0.1 of backend imap waits for it on port 993",
        ),
    ] {
        let found = warnings(&relay(service, backend));
        assert!(found.contains(words), "{service} / {backend}: {found}\n  is not {words}");
    }
    let own = format!("{}service w {{\ninet_listener m {{\nport = 7\n}}\n}}\n", relay("", "servers = 127.0.0.1:7"));
    assert!(warnings(&own).contains("is this daemon's own inet_listener m (t.conf line 13), which serves no mail"));
    let early = format!("login_proxy_timeout = 6 secs\n{}", relay("", "target = postscreen"));
    assert!(warnings(&early).contains("line 1: login_proxy_timeout: 6 secs is too short for postscreen"));
    assert_eq!(warnings(&relay("", "")), "", "a header is made where none comes in");
}

/// `doveconf -a` prints settings of Dovecot's own proxy and the protocols of services.
#[test]
fn what_dovecot_says_of_its_own_proxy_does_not_concern_who_relays_nothing() {
    let text = "login_source_ips = ?mail.example.com\nlogin_proxy_timeout = 0\nlogin_proxy_max_disconnect_delay = 0\n\
                service imap-login {\nprotocol = imap\ninet_listener l {\nport = 1\n}\n}\n\
                service s {\nprotocol =\ninet_listener l {\nport = 2\n}\n}\n";
    let Loaded { settings, warnings, ignored, .. } = loaded(text);
    assert!(warnings.is_empty() && ignored.is_empty(), "{}", lines(&warnings));
    assert!(settings.login_source_ips.is_empty());
}

const HAND_OFF: &str = "haproxy_trusted_networks = 10.0.0.1\nservice s {\nworker = handoff\nhandoff_socket = /run/x y.sock\n\
                        handoff_mode = 0660\ninet_listener l {\nport = 1\nhaproxy = yes\n}\n}\n";

#[test]
fn a_dump_is_read_back_as_what_it_shows() {
    for text in [EXAMPLE, BUILTIN, UNUSUAL, QUOTED, RELAY, HAND_OFF] {
        for all in [false, true] {
            let shown = dump(&loaded(text), all);
            let (before, after) = (without_places(text), without_places(&shown));
            assert_eq!(format!("{before:?}"), format!("{after:?}"), "{shown}");
            assert_eq!(dump(&loaded(&shown), all), shown);
        }
    }
}

#[test]
fn a_dump_of_non_defaults_is_short_and_one_of_all_names_everything() {
    let short = dump(&builtin(), false);
    assert!(
        short.starts_with(BUILTIN.lines().next().expect("a line")) && short.contains("\n    port = 10143\n"),
        "{short}"
    );
    assert!(!short.contains("rings") && !short.contains("defer_accept"), "{short}");
    let full = [EXAMPLE, RELAY, HAND_OFF].map(|text| dump(&loaded(text), true)).concat();
    let shown: Vec<&str> = full.lines().filter_map(|line| line.split_once(" =")).map(|(name, _)| name.trim()).collect();
    // Not shown: what only selects (`protocols`), and what stands in the section's head (`name`).
    for known in SETTINGS.iter().filter(|known| !["protocols", "name"].contains(&known.name)) {
        assert!(shown.contains(&known.name), "{}", known.name);
    }
}

#[test]
fn a_dump_says_what_is_not_bound_and_what_was_ignored() {
    let shown = dump(&loaded(&format!("mail_location = x\nprotocols = imap pop3\n{EXAMPLE}")), false);
    assert!(
        shown.contains("# default, not bound: service pop3-login inet_listener pop3s port = 995 ssl = yes\n"),
        "{shown}"
    );
    assert!(!shown.contains("inet_listener imaps port"), "it is named: {shown}");
    assert!(
        dump(&builtin(), false).contains("# default, not bound: service imap-login inet_listener imaps port = 993")
    );
    assert!(shown.contains("# ignored: t.conf line 1: mail_location (not used)\n"), "{shown}");
}

const DOCUMENT: &str = include_str!("../../docs/configuration.md");

#[test]
fn a_queue_where_the_rings_serve_is_warned_of() {
    let warned = |service: &str, listener: &str| {
        let text = format!(
            "service s {{\nqueue = 9\noverload = reject\n{service}\ninet_listener l {{\nport = 1\n{listener}\n}}\n}}\n"
        );
        lines(&loaded(&text).warnings)
    };
    let without = "where the rings serve: write workers = NUMBER for threads with a queue";
    let both =
        format!("t.conf line 2: queue has no effect {without}\nt.conf line 3: overload has no effect {without}\n");
    for service in ["", "worker = whoami", "worker = discard", "workers = auto"] {
        assert!(warned(service, "").contains(&both), "{service}: {}", warned(service, ""));
    }
    let socket = "worker = handoff\nhandoff_socket = /s";
    for (service, listener) in [("workers = 2", ""), ("worker = discard", "ssl = yes"), (socket, "")] {
        assert!(!warned(service, listener).contains("where the rings serve"), "{service}, {listener}");
    }
}

#[test]
fn the_documents_examples_and_bounds_are_right() {
    let examples: Vec<&str> = DOCUMENT.split("```conf\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert_eq!(examples.len(), 9);
    for example in &examples {
        assert!(!loaded(example).settings.services.is_empty());
    }
    assert_eq!(examples[1], BUILTIN);
    for bound in [
        format!("{} MiB in up to {FILES_MAX} files", SIZE_MAX >> 20),
        format!(
            "includes {INCLUDE_DEPTH_MAX} deep, sections {SECTION_DEPTH_MAX} deep, {} KiB a line",
            LINE_LENGTH_MAX >> 10
        ),
        format!("{} MiB of values with variables\nreplaced", EXPANDED_MAX >> 20),
        format!("{} MiB a file that holds a value", VALUE_FILE_MAX >> 20),
        format!("{LISTENERS_MAX} listeners, {BACKENDS_MAX} backends. After {PROBLEMS_MAX} errors"),
        format!("1 to {RINGS_MAX}, or `auto`"),
        format!("per ring: {PENDING_MIN} to {PENDING_MAX}."),
        format!("in bytes, {HEADER_MIN} to {HEADER_MAX}."),
        format!("at a time, up to {CLIENT_LIMIT_MAX}:"),
        format!("{} to {}; 33 bytes", crate::admission::CLIENTS_MIN, crate::admission::CLIENTS_MAX),
        format!("1 to {WORKERS_MAX}, or `auto`"),
        format!("at most {ENDPOINTS_MAX}"),
        format!("1 to {}", crate::dispatch::Pool::QUEUE_MAX),
    ] {
        assert!(DOCUMENT.contains(&bound), "the document does not say: {bound}");
    }
    assert_eq!((TIMEOUT_MAX.as_secs(), DRAIN_MAX.as_secs()), (3600, 7 * 24 * 3600));
    assert_eq!(RATE_PERIOD_MAX.as_secs(), 24 * 3600);
}

/// A directory that is gone after the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let path = std::env::temp_dir().join(format!("vestibule-config-{}-{name}", std::process::id()));
        fs::create_dir_all(&path).expect("a temporary directory");
        Scratch(path)
    }

    fn file(&self, name: &str, text: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).expect("a temporary file");
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn includes_keep_the_section_and_are_relative_to_their_file() {
    let scratch = Scratch::new("include");
    fs::create_dir(scratch.0.join("conf.d")).expect("a directory");
    scratch.file("conf.d/10-net.conf", "haproxy_trusted_networks = <../networks\n");
    scratch.file("networks", "10.0.0.1 10.0.0.2\n");
    scratch.file("listener.inc", "inet_listener l {\nport = 1\n}\n");
    let main = scratch
        .file("main.conf", "!include conf.d/*.conf\n!include_try nosuch.conf\nservice s {\n!include listener.inc\n}\n");
    let loaded = load(&main).unwrap_or_else(|problems| panic!("{}", lines(&problems)));
    let listener = &loaded.settings.services[0].listeners[0];
    assert_eq!(listener.networks.len(), 2);
    assert!(listener.at.file.ends_with("listener.inc") && listener.at.line == 1);
}

#[test]
fn includes_that_fail() {
    let scratch = Scratch::new("badinclude");
    let itself = scratch.file("loop.conf", "!include loop.conf\n");
    let missing = scratch.file("missing.conf", "\n!include nosuch.conf\n");
    let shown = |path: &Path| lines(&load(path).expect_err("a problem"));
    assert!(shown(&itself).contains("Too many includes"), "{}", shown(&itself));
    assert!(shown(&missing).contains("missing.conf line 2: No matches"), "{}", shown(&missing));
    assert!(shown(&scratch.0.join("none.conf")).contains("none.conf: cannot be read: No such file"));
    assert!(shown(&scratch.0).contains("cannot be read: it is a directory"));
    let large = scratch.file("large.conf", "#".repeat(SIZE_MAX + 1));
    assert!(shown(&large).contains("too large: all files together may have 16777216 bytes"), "{}", shown(&large));
}

#[test]
fn a_value_from_a_file() {
    let scratch = Scratch::new("value");
    let main =
        scratch.file("main.conf", "client_banned_networks = <bans\nservice s {\ninet_listener l {\nport = 1\n}\n}\n");
    let network = |n: usize| format!("10.{}.{}.{}\r\n", n >> 16, n >> 8 & 255, n & 255);
    let many: String = (0..50_000).map(network).collect();
    scratch.file("bans", &many);
    let loaded = load(&main).unwrap_or_else(|problems| panic!("{}", lines(&problems)));
    assert_eq!(loaded.settings.clients.banned.len(), 50_000, "of {} bytes", many.len());
    scratch.file("bans", " ".repeat(VALUE_FILE_MAX + 1));
    let shown = lines(&load(&main).expect_err("too large"));
    assert!(shown.contains("bans cannot be read: too large: the file of a value may have 1048576 bytes"), "{shown}");
    scratch.file("bans", "mail.example ".repeat(1000));
    assert_eq!(load(&main).expect_err("no networks").len(), 1, "the same words are said once");
    let names: String = (0..1000).map(|n| format!("mail{n}.example ")).collect();
    scratch.file("bans", names);
    assert_eq!(load(&main).expect_err("no networks").len(), PROBLEMS_MAX);
}

#[test]
fn everything_is_bounded() {
    let long = format!("a = {}\n", "x".repeat(LINE_LENGTH_MAX));
    assert!(problems(&long).contains("Line too long"));
    let joined = "x \\\n".repeat(LINE_LENGTH_MAX);
    assert!(problems(&joined).contains("Line too long"));
    let deep = "a {\n".repeat(100_000);
    assert!(problems(&deep).contains("Sections nest deeper"));
    let copies = format!("a = {}\n{}", "x".repeat(LINE_LENGTH_MAX / 2), "b = $a\n".repeat(10_000));
    let words = "t.conf line 514: Values with variables come to more than 16777216 bytes";
    assert!(problems(&copies).starts_with(words) && problems(&copies).lines().count() == 1, "{}", problems(&copies));
    let many = "x\n".repeat(100_000);
    assert_eq!(problems(&many).lines().count(), PROBLEMS_MAX);
    let listeners: String =
        (1..=LISTENERS_MAX + 1).map(|n| format!("inet_listener l{n} {{\nport = {n}\n}}\n")).collect();
    assert!(problems(&format!("service s {{\n{listeners}}}\n")).contains("more than 1024 listeners"));
}

#[test]
fn control_characters_do_not_reach_the_terminal() {
    let shown = problems("service s {\ninet_listener l {\nport = \u{1b}[31m\n}\n}\n");
    assert!(shown.contains("\\u{1b}[31m") && !shown.contains('\u{1b}'), "{shown}");
}

/// Mutations of real text and plain noise: whatever the bytes, an answer and no panic.
#[test]
fn any_bytes_get_an_answer() {
    let mut read = 0;
    let texts = [
        EXAMPLE,
        BUILTIN,
        UNUSUAL,
        QUOTED,
        RELAY,
        "a = \"b\\\" # c\" \\\n d\nx {a=b;c=<d}\n!include [x\nprotocols {\nimap = yes\n}\n",
    ];
    let alphabet: &[u8] = b"{}=\\\"'#<$!;\n \t\r*[]?,%/:.0\xff\x00@azhi";
    let mut random = fastrand::Rng::with_seed(1);
    for round in 0..8000 {
        let mut bytes = texts[round % texts.len()].as_bytes().to_vec();
        for _ in 0..random.u8(1..=12) {
            let at = random.usize(..=bytes.len());
            let byte = alphabet[random.usize(..alphabet.len())];
            match random.u8(..3) {
                0 => bytes.insert(at, byte),
                1 if at < bytes.len() => drop(bytes.remove(at)),
                _ => bytes.truncate(at.max(1)),
            }
        }
        if round % 5 == 0 {
            bytes = (0..random.usize(..200)).map(|_| alphabet[random.usize(..alphabet.len())]).collect();
        }
        let text = String::from_utf8_lossy(&bytes);
        match parse(Path::new("t.conf"), &text) {
            Ok(loaded) => {
                assert!(!loaded.settings.services.is_empty(), "{text}");
                let shown = dump(&loaded, true);
                let again =
                    parse(Path::new("t.conf"), &shown).unwrap_or_else(|p| panic!("{text}\n{shown}\n{}", lines(&p)));
                assert_eq!(without_comments(&dump(&again, true)), without_comments(&shown), "{text}");
                read += 1;
            }
            Err(problems) => assert!(!problems.is_empty(), "{text}"),
        }
    }

    assert!(read > 100, "{read} of the mutations were right");
}

fn without_comments(text: &str) -> String {
    text.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>().join("\n")
}
