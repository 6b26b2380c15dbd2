//! Configurations from the field and their relatives. What each means was measured with Dovecot 2.3.19.1 and 2.4.1: which
//! addresses it listens on, and whether a client is greeted without a header.

use std::path::Path;

use super::*;

const VERSIONS: &str =
    "dovecot_config_version = 2.4.0\ndovecot_storage_version = 2.4.0\nhaproxy_trusted_networks = 127.0.0.1\n";
const GROUPS: &str = "group @hap lb {\ninet_listener_haproxy = yes\n}\ngroup @foo x {\ninet_listener_haproxy = no\n}\n";

fn case(name: &str) -> Result<Loaded, Vec<Problem>> {
    load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/cases").join(name))
}

fn read(text: &str) -> Result<Loaded, Vec<Problem>> {
    parse(Path::new("t.conf"), text)
}

fn shown(problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("{problem}\n")).collect()
}

fn understood(text: &str) -> Loaded {
    read(text).unwrap_or_else(|problems| panic!("{text}\n{}", shown(&problems)))
}

/// The listener `imap` of a text of 2.4: whether a header is mandatory, and its addresses.
fn imap(text: &str) -> (bool, Vec<String>) {
    let loaded = understood(&format!("{VERSIONS}{text}"));
    let listener = &loaded.settings.services[0].listeners[0];
    assert_eq!((listener.name.as_str(), listener.port), ("imap", 31143), "{text}");
    (listener.haproxy, listener.addresses.iter().map(ToString::to_string).collect())
}

fn refused(text: &str) -> String {
    shown(&read(&format!("{VERSIONS}{text}")).expect_err(text))
}

/// A service of lines around a listener of lines.
fn service(before: &str, listener: &str, after: &str) -> String {
    format!("service imap-login {{\n{before}\ninet_listener imap {{\n{listener}\n}}\n{after}\n}}\n")
}

const PORT: &str = "port = 31143";

#[test]
fn c01_every_spelling_of_the_certificate() {
    let settings = case("c01-ssl_server-section.conf").expect("Dovecot reads it").settings;
    let [cert, key] = [settings.ssl_cert, settings.ssl_key].map(|file| file.expect("it is named").path);
    assert!(cert.ends_with("tests/data/cases/cert.pem") && key.ends_with("tests/data/cases/key.pem"));
    let tls = "service s {\ninet_listener l {\nport = 1\nssl = yes\n}\n}\n";
    for spelling in [
        "ssl_server_cert_file = /c.pem\nssl_server_key_file = /k.pem\n",
        "ssl_server {\ncert_file = /c.pem\nkey_file = /k.pem\n}\n",
        "ssl_server {\nssl_server_cert_file = /c.pem\n}\nssl_server {\nkey_file = /k.pem\n}\n",
        "ssl_server {\ncert_file = /c.pem\n}\nssl_server_key_file = /k.pem\n",
        "group @tls x {\nssl_server {\ncert_file = /c.pem\nkey_file = /k.pem\n}\n}\n@tls = x\n",
        "group @tls x {\nssl_server_cert_file = /c.pem\nssl_server_key_file = /k.pem\n}\n@tls = x\n",
    ] {
        let loaded = understood(&format!("{VERSIONS}{spelling}{tls}"));
        assert!(loaded.warnings.is_empty(), "{spelling}: {}", shown(&loaded.warnings));
        let [cert, key] = [loaded.settings.ssl_cert, loaded.settings.ssl_key].map(|file| file.expect(spelling).path);
        assert_eq!((cert.to_str(), key.to_str()), (Some("/c.pem"), Some("/k.pem")), "{spelling}");
    }
    let inside = understood(&format!(
        "{VERSIONS}ssl_client {{\ncert_file = /c.pem\n}}\nssl_server_cert_file = /s.pem\nssl_server_key_file = /k.pem\n{tls}"
    ));
    assert_eq!(inside.settings.ssl_cert.expect("named").path, Path::new("/s.pem"), "a client's is another setting");
}

#[test]
fn c02_settings_that_come_by_groups() {
    let settings = case("c02-group.conf").expect("Dovecot reads it").settings;
    let listener = &settings.services[0].listeners[0];
    assert!(listener.haproxy && listener.port == 10143);
    assert_eq!(listener.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(), ["127.0.0.1"]);

    let everywhere = || ["0.0.0.0", "::"].map(String::from).to_vec();
    let nested = "group @n y {\ninet_listener imap {\nhaproxy = yes\n}\n}\n";
    for (text, haproxy) in [
        (service("", PORT, ""), false),
        (service("@hap = lb", PORT, ""), true),
        (service("", PORT, "@hap = lb"), true),
        (service("", "port = 31143\n@hap = lb", ""), true),
        (format!("@hap = lb\n{}", service("", PORT, "")), true),
        // What is written in the same section, or further inside, counts before what comes by a group.
        (service("", "port = 31143\nhaproxy = no", "@hap = lb"), false),
        (service("@hap = lb\ninet_listener_haproxy = no", PORT, ""), false),
        (service("inet_listener_haproxy = no\n@hap = lb", PORT, ""), false),
        (service("@hap = lb", "port = 31143\n@foo = x", ""), false),
        (service("@n = y\ninet_listener_haproxy = no", PORT, ""), false),
        (service("@n = y", "port = 31143\nhaproxy = no", ""), false),
        (service("@n = y", PORT, ""), true),
        // Further outside it does not.
        (format!("inet_listener_haproxy = no\n{}", service("@hap = lb", PORT, "")), true),
        // Of two groups the one that is defined last.
        (service("@hap = lb\n@foo = x", PORT, ""), false),
        (service("@foo = x\n@hap = lb", PORT, ""), false),
    ] {
        assert_eq!(imap(&format!("{GROUPS}{nested}{text}")), (haproxy, everywhere()), "{text}");
    }
    let after = format!("{}{GROUPS}", service("", PORT, "@hap = lb"));
    assert_eq!(imap(&after), (true, everywhere()), "defined below");
    let merged = format!("{GROUPS}group @hap lb {{\nlisten = 127.0.0.1\n}}\n{}", service("", PORT, "@hap = lb"));
    assert_eq!(imap(&merged), (true, vec!["127.0.0.1".into()]));
    let own = "group @hap lb {\nlisten = 127.0.0.2\n}\n";
    let inner = format!("{own}{}", service("@hap = lb", "port = 31143\nlisten = 127.0.0.1", ""));
    assert_eq!(imap(&inner), (false, vec!["127.0.0.1".into()]));
    let whole = "group @w z {\nservice imap-login {\ninet_listener imap {\nhaproxy = yes\n}\n}\n}\n@w = z\n";
    assert_eq!(imap(&format!("{whole}{}", service("", PORT, ""))), (true, everywhere()));
    let created =
        "group @w z {\ninet_listener imap {\nport = 31143\nhaproxy = yes\n}\n}\nservice imap-login {\n@w = z\n}\n";
    assert_eq!(imap(created), (true, everywhere()));
}

#[test]
fn what_dovecot_does_not_read_in_groups_is_an_error() {
    for (text, words) in [
        (service("@hup = lb", PORT, ""), "line 11: Unknown group label @hup"),
        (service("@hap = lc", PORT, ""), "line 11: Unknown group @hap=lc"),
        (service("@hap =", PORT, ""), "line 11: Unknown group @hap="),
        (
            format!("group @a b {{\n@hap = lb\n}}\n{}", service("@a = b", PORT, "")),
            "Recursive include groups not allowed",
        ),
        (
            format!("group @a b {{\nhaproxy = yes\n}}\n{}", service("@a = b", PORT, "")),
            "Unknown setting: haproxy (it belongs",
        ),
        (
            format!("group @a b {{\nhaproxy = yes\n}}\n{}", service("", "port = 31143\n@a = b", "")),
            "Unknown setting: haproxy (in a group write inet_listener_haproxy)",
        ),
        (format!("group @a b {{\nhaproxi = yes\n}}\n{}", service("@a = b", PORT, "")), "Unknown setting: haproxi"),
        (format!("group lb {{\n}}\n{}", service("", PORT, "")), "A group is written as group @LABEL NAME { ... }"),
    ] {
        let found = refused(&format!("{GROUPS}{text}"));
        assert!(found.contains(words), "{text}: {found}");
    }
}

#[test]
fn c03_a_listener_without_a_name_has_one_and_can_be_switched_off() {
    let case = case("c03-unnamed-listener.conf").expect("Dovecot 2.3 reads it").settings;
    assert_eq!(case.services[0].listeners[0].name, "port-12345");
    let unnamed = "service s {\ninet_listener {\nport = 5\n}\ninet_listener {\nport = 6\n}\n}\n";
    let names = |more: &str| -> Vec<String> {
        let loaded = understood(&format!("{unnamed}service s {{\n{more}\n}}\n"));
        loaded.settings.services[0].listeners.iter().map(|listener| listener.name.clone()).collect()
    };
    assert_eq!(names(""), ["port-5", "port-6"]);
    assert_eq!(names("inet_listener port-5 {\nport = 0\n}"), ["port-6"]);
    assert_eq!(names("inet_listener port-5 {\nreuse_port = yes\n}"), ["port-5", "port-6"]);
    assert_eq!(names("inet_listener port-5 {\nport = 7\n}"), ["port-5-2", "port-6", "port-5"], "another listener");
}

#[test]
fn c04_networks_in_brackets() {
    let settings = case("c04-bracketed-networks.conf").expect("Dovecot reads it").settings;
    let networks: Vec<String> = settings.defaults.networks.iter().map(ToString::to_string).collect();
    assert_eq!(networks, ["127.0.0.1/32", "::1/128", "fd00::/8"]);
    for text in ["[127.0.0.1]", "[::1", "::1]", "[::1]x", "[]", "[::1]/129", "[[::1]]"] {
        let found = refused(&format!("haproxy_trusted_networks = {text}\n{}", service("", PORT, "")));
        assert!(found.contains("Invalid network"), "{text}: {found}");
    }
}

#[test]
fn c10_a_byte_order_mark_is_no_part_of_a_setting() {
    let settings = case("c10-byte-order-mark.conf").expect("a mark").settings;
    assert_eq!(settings.clients.banned.len(), 1);
    assert!(dump(&understood(&format!("\u{feff}{}", service("", PORT, ""))), false).contains("port = 31143"));
    let (_, lint) = lint(Path::new("t.conf"), "\u{feff}ssl = no\n", None);
    assert_eq!(shown(&lint), "t.conf line 1: Unknown setting: \u{feff}ssl\n");
}

#[test]
fn c12_settings_of_listeners_that_stand_outside() {
    let settings = case("c12-listener-prefix.conf").expect("Dovecot reads it").settings;
    assert!(settings.services[0].listeners[0].haproxy);
    let named = "inet_listener imap {\nhaproxy = yes\n}\n";
    for (text, haproxy) in [
        (format!("inet_listener_haproxy = yes\n{}", service("", PORT, "")), true),
        (format!("{}inet_listener_haproxy = yes\n", service("", PORT, "")), true),
        (format!("{}inet_listener_haproxy = no\n", service("", "port = 31143\nhaproxy = yes", "")), true),
        (format!("{named}{}", service("", PORT, "")), true),
        // In the same number of sections the later one counts.
        (format!("{named}{}", service("inet_listener_haproxy = no", PORT, "")), false),
        (format!("{}{named}", service("inet_listener_haproxy = no", PORT, "")), true),
        (service("", "inet_listener_port = 31143\ninet_listener_haproxy = yes", ""), true),
    ] {
        assert_eq!(imap(&text).0, haproxy, "{text}");
    }
    assert_eq!(imap(&service("listen = 127.0.0.1", PORT, "")).1, ["127.0.0.1"]);
    for (text, words) in [
        (format!("inet_listener_imap_haproxy = yes\n{}", service("", PORT, "")), "inet_listener_imap_haproxy"),
        (service("inet_listener_imap_haproxy = yes", PORT, ""), "inet_listener_imap_haproxy"),
        (format!("inet_listener_listen = ::1\n{}", service("", PORT, "")), "inet_listener_listen"),
        (format!("inet_listener_haproxi = yes\n{}", service("", PORT, "")), "(did you mean inet_listener_haproxy?)"),
    ] {
        let found = refused(&text);
        assert!(found.contains("Unknown setting: inet_listener_") && found.contains(words), "{text}: {found}");
    }
}

#[test]
fn variables_as_each_dovecot_has_them() {
    let listener = service("", PORT, "");
    let networks = |text: &str| -> Vec<String> {
        understood(&format!("{text}{listener}")).settings.defaults.networks.iter().map(ToString::to_string).collect()
    };
    let v24 = "dovecot_config_version = 2.4.0\n";
    assert_eq!(networks("n = 10.0.0.1\nhaproxy_trusted_networks = $n 10.0.0.2\n"), ["10.0.0.1/32", "10.0.0.2/32"]);
    assert_eq!(networks(&format!("{v24}n = ::1\nhaproxy_trusted_networks = $SET:n\n")), ["::1/128"]);
    let unset = "haproxy_trusted_networks = 10.0.0.1 $ENV:VESTIBULE_NO_SUCH 10.0.0.2\n";
    for before in ["", v24] {
        assert_eq!(networks(&format!("{before}{unset}")), ["10.0.0.1/32", "10.0.0.2/32"], "as if it were not there");
        let warnings = understood(&format!("{before}{unset}{listener}")).warnings;
        assert!(shown(&warnings).contains("the environment has no VESTIBULE_NO_SUCH"), "{}", shown(&warnings));
    }
    // Cargo sets this one; the value is no network, so it is seen in the error.
    let package = |text: &str| shown(&read(&format!("{text}{listener}")).expect_err(text));
    for before in ["", v24] {
        let found = package(&format!("{before}haproxy_trusted_networks = ::1 $ENV:CARGO_MANIFEST_DIR\n"));
        assert!(found.contains(env!("CARGO_MANIFEST_DIR")), "{found}");
        let quoted = package(&format!("{before}haproxy_trusted_networks = \"$ENV:CARGO_MANIFEST_DIR\"\n"));
        assert!(quoted.contains("Invalid network '$ENV:CARGO_MANIFEST_DIR'"), "quoted is literal: {quoted}");
    }
    for (text, words) in [
        (format!("{v24}n = ::1\nhaproxy_trusted_networks = $n\n"), "Invalid network '$n'"),
        ("n = ::1\nhaproxy_trusted_networks = $SET:n\n".into(), "Unknown variable: $SET:n (Dovecot 2.3 has no $SET"),
        ("haproxy_trusted_networks = $nosuch\n".into(), "Unknown variable: $nosuch"),
        (format!("{v24}listen = $SET:listen ::1\n"), "Failed to expand $SET:listen: Setting type can't be expanded"),
        (
            format!("{v24}n = ::1\nservice x {{\nlisten = $SET:n\ninet_listener l {{\nport = 1\n}}\n}}\n"),
            "Failed to expand $SET:n: inside a section it stands for the default",
        ),
        ("haproxy_trusted_networks = <<END\n".into(), "no released Dovecot knows here-documents"),
    ] {
        let found = package(&text);
        assert!(found.contains(words), "{text}: {found}");
    }
    let below = format!("{v24}haproxy_timeout = $SET:login_proxy_timeout\nlogin_proxy_timeout = 7 secs\n{listener}");
    assert_eq!(understood(&below).settings.defaults.timeout.as_secs(), 30, "what stands below does not count");
    let above = format!("{v24}login_proxy_timeout = 7 secs\nhaproxy_timeout = $SET:login_proxy_timeout\n{listener}");
    assert_eq!(understood(&above).settings.defaults.timeout.as_secs(), 7);
    let mseconds = understood(&format!("haproxy_timeout = 4000 mseconds\n{listener}"));
    assert_eq!(mseconds.settings.defaults.timeout.as_secs(), 4);
}

#[test]
fn words_that_nobody_knows_are_told_with_the_nearest_known_one() {
    let warned = |text: &str| shown(&understood(&format!("{text}{}", service("", PORT, ""))).warnings);
    for (text, words) in [
        (
            "servic imap-login {\ninet_listener x {\nport = 5\n}\n}\n",
            "line 1: Unknown section: servic imap-login { } is ignored (did you mean service?)",
        ),
        (
            "service s {\ninet_listner x {\nport = 5\n}\n}\n",
            "line 2: Unknown section: inet_listner x { } is ignored (did you mean inet_listener?)",
        ),
        (
            "client_baned_networks = ::1\n",
            "line 1: Unknown setting: client_baned_networks is ignored (did you mean client_banned_networks?)",
        ),
        ("CLIENT_BANNED_NETWORKS = ::1\n", "(did you mean client_banned_networks?)"),
        ("mail_debgu = yes\n", "(did you mean mail_debug?)"),
        (
            "frobnicate = yes\n",
            "line 1: Unknown setting: frobnicate is ignored (neither Dovecot nor Vestibule knows it)",
        ),
        ("backed imap {\n}\n", "(did you mean backend?)"),
        (
            "service s {\nproces_limit = 5\n}\n",
            "line 2: Unknown setting: proces_limit is ignored (did you mean process_limit?)",
        ),
    ] {
        assert!(warned(text).contains(words), "{text}: {}", warned(text));
    }
    for quiet in [
        "mail_location = x\nssl_ca = </x\nmail_path = x\nauth_allow_cleartext = yes\n",
        "protocol imap {\n}\nplugin {\nx = y\n}\npassdb {\n}\nfts flatcurve {\n}\nmail_plugins {\nacl = yes\n}\n",
        "service s {\nunix_listener x {\n}\nservice_client_limit = 5\nexecutable = x\n}\n",
    ] {
        assert_eq!(warned(quiet), "", "{quiet}");
    }
    let many: String = (0..100_000).map(|n| format!("nobody_knows_this_{n} = x\n")).collect();
    assert_eq!(warned(&many).lines().count(), 51, "very many are not told one by one");
}

#[test]
fn c07_what_the_other_dovecot_has_is_refused() {
    let text = include_str!("../../tests/data/cases/c07-leftovers-in-2.4.conf");
    let (dovecot, found) = lint(Path::new("t.conf"), text, None);
    assert_eq!(dovecot, Dovecot::V24);
    let expected = [
        "t.conf line 4: mail_location: Unknown setting: mail_location",
        "t.conf line 5: ssl_dh: Unknown setting: ssl_dh",
        "t.conf line 6: Unknown section name: plugin",
        "t.conf line 8: passdb { } is missing section name",
    ];
    assert_eq!(shown(&found).lines().collect::<Vec<_>>(), expected);
    let of_23 = |text: &str| shown(&lint(Path::new("t.conf"), text, Some(Dovecot::V23)).1);
    assert_eq!(of_23("mail_path = x\n"), "t.conf line 1: Unknown setting: mail_path\n");
    assert_eq!(of_23("ssl_server {\n}\n"), "t.conf line 1: Unknown setting: ssl_server { ssl_server\n");
    assert_eq!(of_23("mail_location = x\nplugin {\n}\npassdb {\n}\n"), "");
}

#[test]
fn only_some_listeners_are_served_if_asked() {
    let directory = std::env::temp_dir().join(format!("vestibule-serve-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("a temporary directory");
    let theirs = "haproxy_trusted_networks = ::1\nservice s {\ninet_listener a {\nport = 1\n}\n\
                  inet_listener b {\nport = 2\nhaproxy = yes\n}\ninet_listener c {\nport = 3\n}\n}\n";
    std::fs::write(directory.join("theirs.conf"), theirs).expect("a file");
    let main = directory.join("main.conf");
    for (serve, expected) in [("all", &["a", "b", "c"][..]), ("haproxy", &["b"]), ("named", &["a"])] {
        let text = format!(
            "!include theirs.conf\nserve_listeners = {serve}\nservice s {{\ninet_listener a {{\nreuse_port = yes\n}}\n}}\n"
        );
        std::fs::write(&main, text).expect("a file");
        let loaded = load(&main).unwrap_or_else(|problems| panic!("{}", shown(&problems)));
        let names: Vec<&str> = loaded.settings.services[0].listeners.iter().map(|l| l.name.as_str()).collect();
        assert_eq!(names, expected, "{serve}");
    }
    std::fs::remove_dir_all(&directory).expect("our own");
}

#[test]
fn c06_a_tls_policy_is_kept_and_what_is_not_is_told() {
    let loaded = case("c06-tls-policy.conf").expect("Dovecot reads it");
    assert_eq!(shown(&loaded.warnings), "");
    assert_eq!(loaded.settings.ssl_min_protocol, TlsVersion::V13);
    let asked = loaded.settings.client_certificates.expect("it says so");
    assert!(asked.authorities.path.ends_with("tests/data/cases/ca.pem") && !asked.required && asked.require_crl);
    let [name] = &loaded.settings.local_names[..] else { panic!("one name") };
    assert!(name.names == ["mail.example.com"] && name.cert.path.ends_with("tests/data/cases/other-cert.pem"));
    let tls = "service s {\ninet_listener l {\nport = 1\nssl = yes\n}\n}\nssl_cert = </c\nssl_key = </k\n";
    for (text, words) in [
        ("auth_ssl_username_from_cert = yes\n", "it logs nobody in"),
        ("ssl_cert_username_field = emailAddress\n", "the common name is told"),
        ("ssl_cert_username_field = commonName\n", ""),
        ("ssl_prefer_server_ciphers = yes\n", "the client's first choice is taken"),
        ("local_name x {\nssl_cert = </c\nssl_key = </k\n}\n", ""),
        (
            "local_name x {\nssl_cert = </c\nssl_key = </k\nssl_ca = </a\n}\n",
            "local_name x { }: ssl_ca in it has no effect: what stands outside counts",
        ),
        ("protocol imap {\nauth_ssl_require_client_cert = yes\n}\n", "protocol imap { }: its certificate and TLS"),
        ("ssl_cipher_list = HIGH\n", "the ciphers and curves of rustls are offered"),
        ("ssl_alt_cert = </x\n", "only the first certificate is shown"),
        ("ssl_min_protocol = TLSv1.2\n", ""),
        ("ssl_min_protocol = tlsv1.3\n", ""),
        (
            "ssl_min_protocol = TLSv1.1\n",
            "line 1: ssl_min_protocol = TLSv1.1: TLS 1.2 is the least that is spoken here",
        ),
        ("ssl_min_protocol = ANY\n", "line 1: ssl_min_protocol = ANY: TLS 1.2 is the least"),
        ("ssl_verify_client_cert = no\n", ""),
        ("local_name x {\nhostname = y\n}\n", ""),
    ] {
        let found = shown(&understood(&format!("{text}{tls}")).warnings);
        assert!(found.contains(words) && found.is_empty() == words.is_empty(), "{text}: {found}");
    }
    for (text, version) in [
        ("", TlsVersion::V12),
        ("ssl_min_protocol = LATEST\n", TlsVersion::V13),
        ("ssl_min_protocol = TLSv1.3\nssl_min_protocol = TLSv1.2\n", TlsVersion::V12),
        ("ssl_server {\nssl_min_protocol = TLSv1.3\n}\n", TlsVersion::V13),
    ] {
        assert_eq!(understood(&format!("{text}{tls}")).settings.ssl_min_protocol, version, "{text}");
    }
    let plain = understood(&format!("ssl_min_protocol = TLSv1\nssl_alt_cert = </x\n{}", service("", PORT, "")));
    assert!(plain.warnings.is_empty(), "TLS is not ended here");
}

#[test]
fn client_certificates_in_all_spellings() {
    let tls = "service s {\ninet_listener l {\nport = 1\nssl = yes\n}\n}\nssl_cert = </c\nssl_key = </k\n";
    let (v24, asked) = ("dovecot_config_version = 2.4.0\n", |text: &str| {
        understood(&format!("{text}{tls}")).settings.client_certificates.map(|asked| {
            let path = asked.authorities.path.display().to_string();
            (path, asked.required, asked.require_crl)
        })
    });
    let require = "auth_ssl_require_client_cert = yes\n";
    for (text, expected) in [
        ("ssl_ca = </a\n", None),
        ("ssl_ca = </a\nssl_verify_client_cert = no\n", None),
        ("ssl_ca = </a\nssl_verify_client_cert = yes\n", Some((false, true))),
        ("ssl_ca = </a\nssl_verify_client_cert = yes\nssl_require_crl = no\n", Some((false, false))),
        ("ssl_server_ca_file = /a\nssl_server_request_client_cert = yes\n", Some((false, true))),
        ("ssl_server {\nca_file = /a\nrequest_client_cert = yes\nrequire_crl = no\n}\n", Some((false, false))),
        ("ssl_server {\nca_file = /a\n}\nssl_server_request_client_cert = yes\n", Some((false, true))),
    ] {
        let expect = |required| expected.map(|(_, crl)| ("/a".to_string(), required, crl));
        assert_eq!(asked(text), expect(false), "{text}");
        if expected.is_some() {
            assert_eq!(asked(&format!("{text}{require}")), expect(true), "{text}");
            assert_eq!(asked(&format!("{v24}{text}{require}")), expect(true), "{text}");
        }
    }
    let alone = understood(&format!("ssl_ca = </a\n{require}{tls}"));
    assert!(alone.settings.client_certificates.is_some_and(|asked| asked.required));
    assert!(shown(&alone.warnings).contains("Dovecot does that only if ssl_verify_client_cert"));
    for (text, words) in [
        ("ssl_verify_client_cert = yes\n", "line 1: ssl_verify_client_cert set, but ssl_ca not: write"),
        (
            "ssl_server_request_client_cert = yes\n",
            "line 1: ssl_server_request_client_cert set, but ssl_server_ca_file not: write",
        ),
        ("ssl_verify_client_cert = perhaps\n", "line 1: Invalid boolean value: perhaps"),
    ] {
        let found = shown(&read(&format!("{text}{tls}")).expect_err(text));
        assert!(found.contains(words), "{text}: {found}");
    }
    let plain = understood(&format!("ssl_verify_client_cert = yes\n{}", service("", PORT, "")));
    assert!(plain.settings.client_certificates.is_none(), "TLS is not ended here");
}

#[test]
fn certificates_by_name_in_all_spellings() {
    let tls = "service s {\ninet_listener l {\nport = 1\nssl = yes\n}\n}\nssl_cert = </c\nssl_key = </k\n";
    let named = |text: &str| -> Vec<String> {
        let settings = understood(&format!("{text}{tls}")).settings;
        let show = |name: &LocalName| {
            format!("{} {} {}", name.names.join(" "), name.cert.path.display(), name.key.path.display())
        };
        settings.local_names.iter().map(show).collect()
    };
    let v24 = "dovecot_config_version = 2.4.0\n";
    for text in [
        "local_name x.test {\nssl_cert = </1\nssl_key = </2\n}\n",
        "local_name x.test {\nssl_cert = </1\n}\nlocal_name x.test {\nssl_key = </2\n}\n",
        "local_name x.test {\nssl_server_cert_file = /1\nssl_server_key_file = /2\n}\n",
        "local_name x.test {\nssl_server {\ncert_file = /1\nkey_file = /2\n}\n}\n",
        "local_name x.test {\nssl_server {\ncert_file = /1\n}\nssl_server_key_file = /2\n}\n",
    ] {
        assert_eq!(named(text), ["x.test /1 /2"], "{text}");
        assert_eq!(named(&format!("{v24}{text}")), ["x.test /1 /2"], "{text}");
    }
    assert_eq!(named("local_name x.test {\nssl_cert = </1\n}\n"), ["x.test /1 /k"], "what stands outside");
    assert_eq!(named("local_name \"a.test  b.test\" {\nssl_cert = </1\n}\n"), ["a.test b.test /1 /k"]);
    let two = "local_name *.test {\nssl_cert = </1\n}\nlocal_name x.test {\nssl_cert = </2\n}\n";
    assert_eq!(named(two), ["*.test /1 /k", "x.test /2 /k"], "the first counts");
    assert_eq!(named(&format!("{v24}{two}")), ["x.test /2 /k", "*.test /1 /k"], "the last counts");
    let refused = |text: &str| shown(&read(text).expect_err(text));
    let several = format!("{v24}local_name \"a b\" {{\nssl_cert = </1\n}}\n{tls}");
    assert!(refused(&several).contains("line 2: Multiple names no longer supported in local_name value"));
    let half = "local_name x {\nssl_cert = </1\n}\nservice s {\ninet_listener l {\nport = 1\nssl = yes\n}\n}\n";
    assert!(refused(half).contains("line 1: local_name x: its certificate needs both ssl_cert and ssl_key"));
    let all: String = (0..=LOCAL_NAMES_MAX).map(|n| format!("local_name n{n} {{\nssl_cert = </1\n}}\n")).collect();
    assert!(refused(&format!("{all}{tls}")).contains("more than 1024 local_name sections"));
}
