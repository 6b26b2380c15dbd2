//! What configurations demand of TLS beside a certificate: those of clients, and others by name. The clients are openssl's.

use std::path::{Path, PathBuf};

use rustix::process::Signal;

use crate::needs;
use crate::support::authority::{Authority, s_client, showing};
use crate::support::client::whoami;
use crate::support::daemon::{Daemon, counted};
use crate::support::{PATIENCE, certificate, free_port, temp_dir, wait_until};

/// A listener with `ssl = yes` and no header, below `globals`.
fn listener(port: u16, globals: &str) -> String {
    format!(
        "{globals}\nservice imap-login {{\n inet_listener imaps {{\n address = 127.0.0.1\n port = {port}\n \
         ssl = yes\n }}\n}}\n"
    )
}

fn pair((certificate, key): &(PathBuf, PathBuf)) -> String {
    format!("ssl_cert = <{}\nssl_key = <{}\n", certificate.display(), key.display())
}

/// The name by which a client is served that shows a certificate: `None` if it is refused, empty without a name.
fn served(port: u16, shown: Option<&(PathBuf, PathBuf)>, more: &[&str]) -> Option<String> {
    let shown = shown.map(showing);
    let arguments: Vec<&str> = shown.iter().flatten().map(String::as_str).chain(more.iter().copied()).collect();
    let said = s_client(port, &arguments).stdout;
    let line = said.lines().find(|line| line.starts_with("{\"service\""))?;
    let answer = whoami(format!("{line}\n").as_bytes());
    assert_eq!(answer["tls"], true, "{answer}");
    Some(answer.get("client_name").and_then(|name| name.as_str()).unwrap_or_default().to_owned())
}

/// What becomes of: nobody's, joe's, one that was revoked, and another authority's certificate.
#[test]
fn clients_certificates_are_asked_for_and_verified() {
    needs!("openssl");
    let directory = temp_dir();
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let [joe, gone, mallory] = [ours.sign("joe"), ours.sign("gone"), theirs.sign("mallory")];
    ours.revoke("gone");
    let own = pair(&certificate(directory.path()));
    let (plain, listed) = (ours.certificate(), ours.with_list());
    let name = |name: &str| Some(name.to_owned());
    let asked = "ssl_verify_client_cert = yes\n";
    let required = "ssl_verify_client_cert = yes\nauth_ssl_require_client_cert = yes\n";
    for (settings, authorities, expected) in [
        ("", &listed, [name(""), name(""), name(""), name("")]),
        (asked, &listed, [name(""), name("joe"), None, None]),
        (asked, &plain, [name(""), name(""), name(""), None]),
        (required, &listed, [None, name("joe"), None, None]),
        (required, &plain, [None, None, None, None]),
        (&format!("{required}ssl_require_crl = no\n"), &plain, [None, name("joe"), name("gone"), None]),
    ] {
        let port = free_port();
        let globals = format!("{own}ssl_ca = <{}\n{settings}", authorities.display());
        let daemon = Daemon::start(&listener(port, &globals), &[port]);
        for version in ["-tls1_2", "-tls1_3"] {
            let shown = [None, Some(&joe), Some(&gone), Some(&mallory)];
            let found = shown.map(|shown| served(port, shown, &[version]));
            assert_eq!(found, expected, "{settings} {} {version}", authorities.display());
        }
        let refusals = expected.iter().filter(|name| name.is_none()).count() as u64;
        let log = daemon.stop();
        assert_eq!(counted(&log, "tls-failed").unwrap_or(0), 2 * refusals, "{log}");
        let told = log.contains("has no list of revoked certificates, and ssl_require_crl = yes");
        assert_eq!(told, authorities == &plain && !settings.contains("crl"), "{log}");
        if expected[0].is_none() {
            assert!(
                log.contains("TLS handshaking failed (rip=127.0.0.1, lip=127.0.0.1): peer sent no certificates"),
                "{log}"
            );
        }
    }
}

#[test]
fn dovecot_2_4s_names_ask_for_certificates_too() {
    needs!("openssl");
    let directory = temp_dir();
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let (own, own_key) = certificate(directory.path());
    let globals = format!(
        "dovecot_config_version = 2.4.1\ndovecot_storage_version = 2.4.1\nssl_server {{\n  cert_file = {}\n  \
         key_file = {}\n  ca_file = {}\n  request_client_cert = yes\n}}\nauth_ssl_require_client_cert = yes\n",
        own.display(),
        own_key.display(),
        ours.with_list().display()
    );
    let port = free_port();
    let _daemon = Daemon::start(&listener(port, &globals), &[port]);
    assert_eq!(served(port, None, &[]), None);
    assert_eq!(served(port, Some(&ours.sign("joe")), &[]), Some("joe".into()));
    assert_eq!(served(port, Some(&theirs.sign("joe")), &[]), None);
}

/// Two daemons, one behind the other: the first ends TLS, and the second says what it was told of it.
#[test]
fn servers_are_told_of_the_clients_tls_and_of_a_verified_certificate() {
    needs!("openssl");
    let directory = temp_dir();
    let ours = Authority::new("ours");
    let joe = ours.sign("joe");
    let (front, back) = (free_port(), free_port());
    let behind = format!("inet_listener l {{\n address = 127.0.0.1\n port = {back}\n haproxy = yes\n }}");
    let _behind = Daemon::start(
        &format!("haproxy_trusted_networks = 127.0.0.1\nservice imap-login {{\n {behind}\n}}\n"),
        &[back],
    );
    let listener = format!("inet_listener imaps {{\n address = 127.0.0.1\n port = {front}\n ssl = yes\n }}");
    let asks = format!("ssl_verify_client_cert = yes\nssl_ca = <{}\n", ours.with_list().display());
    let backend = "target = vestibule\n forward_tlvs = ssl authority alpn\n check = none";
    let _front = Daemon::start(
        &format!(
            "{}{asks}service imap-login {{\n worker = relay\n backend = b\n protocol = none\n {listener}\n}}\nbackend b {{\n \
             {backend}\n server s1 {{\n address = 127.0.0.1\n port = {back}\n }}\n}}\n",
            pair(&certificate(directory.path()))
        ),
        &[front],
    );
    let told = |shown: &[&str]| {
        let arguments = [shown, &["-servername", "mail.test", "-alpn", "imap"]].concat();
        let said = s_client(front, &arguments).stdout;
        let line = said.lines().find(|line| line.starts_with("{\"service\"")).unwrap_or_else(|| panic!("{said}"));
        whoami(format!("{line}\n").as_bytes())["tlvs"].clone()
    };
    let hex = |text: &str| text.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
    let part = |kind: u8, text: &str| format!("{kind:02x}00{:02x}{}", text.len(), hex(text));
    for version in ["TLSv1.2", "TLSv1.3"] {
        let (flag, cipher) = match version {
            "TLSv1.2" => ("-tls1_2", "ECDHE-RSA-AES256-GCM-SHA384"),
            _ => ("-tls1_3", "TLS_AES_256_GCM_SHA384"),
        };
        let shown = showing(&joe);
        let with_certificate: Vec<&str> = shown.iter().map(String::as_str).chain([flag]).collect();
        let described = part(0x21, version) + &part(0x23, cipher);
        for (shown, ssl) in [
            (&[flag][..], format!("0100000000{described}")),
            (&with_certificate, format!("0700000000{described}{}", part(0x22, "joe"))),
        ] {
            let all = told(shown);
            let tlvs = all.as_array().expect("a list");
            let value = |kind: u8| tlvs.iter().find(|tlv| tlv["type"] == kind).and_then(|tlv| tlv["value"].as_str());
            assert_eq!((value(1), value(2)), (Some(&*hex("imap")), Some(&*hex("mail.test"))), "{all}");
            let value = value(0x20).expect("an SSL TLV");
            assert_eq!(value.len(), ssl.len(), "{version}: {value} {ssl}");
            assert!(value.starts_with(&ssl[..10]) && value.contains(&described), "{version}: {value} {ssl}");
            assert_eq!(value.contains(&part(0x22, "joe")), ssl.starts_with("07"), "{version}: {value}");
        }
    }
}

/// The common name of the certificate that a client sees.
fn seen(port: u16, name: Option<&str>) -> String {
    let arguments: Vec<&str> = match name {
        Some(name) => vec!["-servername", name],
        None => vec!["-noservername"],
    };
    let said = s_client(port, &arguments).stdout;
    let subject = said.lines().find_map(|line| line.strip_prefix("subject=")).unwrap_or_default();
    subject.rsplit("CN").next().unwrap_or_default().trim_start_matches([' ', '=']).to_owned()
}

fn section(name: &str, files: &(PathBuf, PathBuf)) -> String {
    format!("local_name {name} {{\n{}}}\n", pair(files))
}

#[test]
fn a_client_sees_the_certificate_of_the_name_that_it_asks_for() {
    needs!("openssl");
    let authority = Authority::new("ours");
    let [other, wild, own] = ["other", "wild", "own"].map(|name| authority.sign(name));
    let globals = pair(&own)
        + &section("mail.example.com", &other)
        + &section("*.example.org", &wild)
        + &section("a.example.org", &other);
    let port = free_port();
    let daemon = Daemon::start(&listener(port, &globals), &[port]);
    for (name, expected) in [
        (None, "own"),
        (Some("nobody.example"), "own"),
        (Some("mail.example.com"), "other"),
        (Some("MAIL.Example.com"), "other"),
        (Some("x.mail.example.com"), "own"),
        (Some("b.example.org"), "wild"),
        (Some("a.example.org"), "wild"),
        (Some("b.a.example.org"), "own"),
    ] {
        assert_eq!(seen(port, name), expected, "{name:?}");
    }
    // What a reload finds in the files is shown from then on.
    for (from, to) in [(&wild.0, &other.0), (&wild.1, &other.1)] {
        std::fs::copy(from, to).expect("our own files");
    }
    daemon.signal(Signal::HUP);
    let shown = || seen(port, Some("mail.example.com")) == "wild";
    assert!(wait_until(PATIENCE, shown), "{}", daemon.output());
}

#[test]
fn a_reload_reads_the_authorities_again_and_keeps_the_old_ones_if_it_cannot() {
    needs!("openssl");
    let (ours, theirs, directory) = (Authority::new("ours"), Authority::new("theirs"), temp_dir());
    let file = directory.path().join("ca.pem");
    let install = |from: &Path| std::fs::copy(from, &file).expect("our own file");
    install(&ours.certificate());
    let own = pair(&certificate(directory.path()));
    let globals = format!(
        "{own}ssl_ca = <{}\nssl_verify_client_cert = yes\nauth_ssl_require_client_cert = yes\nssl_require_crl = no\n",
        file.display()
    );
    let port = free_port();
    let daemon = Daemon::start(&listener(port, &globals), &[port]);
    let [joe, mallory] = [ours.sign("joe"), theirs.sign("mallory")];
    assert_eq!([&joe, &mallory].map(|shown| served(port, Some(shown), &[])), [Some("joe".into()), None]);
    std::fs::write(&file, "no certificate").expect("our own file");
    daemon.signal(Signal::HUP);
    daemon.wait_for_output("ssl_ca: no certificate in ");
    assert_eq!(served(port, Some(&joe), &[]), Some("joe".into()), "the old ones");
    install(&theirs.certificate());
    daemon.signal(Signal::HUP);
    assert!(wait_until(PATIENCE, || served(port, Some(&mallory), &[]).is_some()), "{}", daemon.output());
    assert_eq!(served(port, Some(&joe), &[]), None);
}

/// The case from the field, with files beside it.
#[test]
fn c06_tls_1_2_is_refused_a_certificate_is_asked_for_and_names_have_theirs() {
    needs!("openssl");
    let (ours, theirs, port) = (Authority::new("ours"), Authority::new("theirs"), free_port());
    let directory = temp_dir();
    let install = |from: &Path, name: &str| std::fs::copy(from, directory.path().join(name)).expect("our own");
    for (name, cert, key) in [("own", "cert.pem", "key.pem"), ("other", "other-cert.pem", "other-key.pem")] {
        let (made, made_key) = ours.sign(name);
        install(&made, cert);
        install(&made_key, key);
    }
    install(&ours.with_list(), "ca.pem");
    let text = include_str!("data/cases/c06-tls-policy.conf").replace("10993", &port.to_string());
    // A client of openssl cannot send a header first.
    let text = text.replace("haproxy = yes", "");
    std::fs::write(directory.path().join("case.conf"), text).expect("our own");
    let main = format!("!include {}\n", directory.path().join("case.conf").display());
    let _daemon = Daemon::start(&main, &[port]);
    assert_eq!(served(port, None, &["-tls1_2"]), None);
    assert_eq!(served(port, None, &["-tls1_3"]), Some(String::new()));
    assert!(s_client(port, &[]).stdout.contains("Acceptable client certificate CA names"), "it is asked for");
    assert_eq!(served(port, Some(&ours.sign("joe")), &[]), Some("joe".into()));
    assert_eq!(served(port, Some(&theirs.sign("joe")), &[]), None);
    assert_eq!(seen(port, Some("mail.example.com")), "other");
    assert_eq!(seen(port, Some("imap.example.com")), "own");
}

#[test]
fn files_that_cannot_be_used_are_named() {
    needs!("openssl");
    let (ours, directory) = (Authority::new("ours"), temp_dir());
    let own = pair(&ours.sign("own"));
    let other = ours.sign("other");
    let broken = directory.path().join("broken.pem");
    std::fs::write(&broken, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").expect("our own");
    let key = other.1.display();
    for (globals, words) in [
        (format!("{own}ssl_verify_client_cert = yes\nssl_ca = </nowhere.pem\n"), "ssl_ca: cannot read /nowhere.pem"),
        (format!("{own}ssl_verify_client_cert = yes\nssl_ca = <{key}\n"), "ssl_ca: no certificate in"),
        (format!("{own}ssl_verify_client_cert = yes\nssl_ca = <{}\n", broken.display()), "ssl_ca: the authorities in"),
        (format!("{own}local_name x {{\nssl_cert = </nowhere.pem\n}}\n"), "local_name x: ssl_cert: cannot read"),
        (format!("{own}local_name x {{\nssl_key = <{key}\n}}\n"), "local_name x: ssl_key: private key"),
    ] {
        let text = listener(free_port(), &globals);
        let checked = crate::support::daemon::vestibule_run(&["check", "-c", "-"], text.as_bytes());
        assert!(checked.code == Some(78) && checked.stderr.contains(words), "{globals}: {checked:?}");
    }
}
