//! Every protocol of a mail cluster, from the client through HAProxy (and Vestibule) to Dovecot or Postfix: mail arrives
//! byte by byte, and the servers' logs name the client. The same runs without Vestibule first: what these tests ask for is
//! what the cluster does without it.

use std::net::{IpAddr, Ipv4Addr};

use crate::support::cluster::{Cluster, Door};
use crate::support::dovecot::{Service, missing};
use crate::support::mail::{Imap, Pop3, Sieve, Smtp, Wire, message};
use crate::{needs, needs_root, skip};

/// A client that no server trusts by its address.
const CLIENT: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 9));

/// A message that no buffer on the way holds.
const LARGE: usize = 20 << 20;

/// Runs a test on both clusters.
macro_rules! on_both {
    ($($test:ident: $body:ident;)+) => {
        mod without_vestibule {
            $(#[test] fn $test() { super::run(super::Cluster::without_vestibule, super::$body) })+
        }
        mod with_vestibule {
            $(#[test] fn $test() { super::run(super::Cluster::with_vestibule, super::$body) })+
        }
    };
}

on_both! {
    imap_carries_twenty_megabytes_both_ways: imap_carries_large_mail;
    imap_idle_hears_of_new_mail: imap_idle;
    lmtp_delivers_and_pop3_retrieves: lmtp_and_pop3;
    managesieve_keeps_a_script: managesieve;
    submission_hands_mail_on: submission;
    postfix_takes_mail_by_smtpd_and_postscreen: postfix;
    tls_passes_through: tls_passthrough;
    starttls_works_behind_the_header: starttls;
}

fn run(start: impl FnOnce() -> Cluster, test: impl FnOnce(&Cluster)) {
    needs!("haproxy", "dovecot", "postfix", "smtp-sink", "openssl");
    needs_root!();
    if let Some(service) = missing() {
        skip!(format!("Dovecot's {service}"));
    }
    let cluster = start();
    test(&cluster);
    cluster.finish();
}

fn imap_carries_large_mail(cluster: &Cluster) {
    let wire = connect(cluster, Door::Clear(Service::Imap));
    let port = wire.local().port();
    let mut imap = Imap::new(wire).login("u1");
    cluster.wait_for_dovecots_line(&["user=<u1>", "rip=127.0.0.9", &format!("rport={port},")]);
    let mail = message(LARGE);
    imap.append(&mail);
    assert!(imap.fetch(1) == mail, "the message came back otherwise than it was sent");
    imap.logout();
}

fn imap_idle(cluster: &Cluster) {
    let mut waiting = Imap::new(connect(cluster, Door::Clear(Service::Imap))).login("u2");
    waiting.idle();
    let mut other = Imap::new(connect(cluster, Door::Clear(Service::Imap))).login("u2");
    other.append(&message(1000));
    waiting.await_exists(1);
    other.logout();
    waiting.logout();
}

fn lmtp_and_pop3(cluster: &Cluster) {
    let mail = message(LARGE / 8);
    let mut lmtp = Smtp::lmtp(connect(cluster, Door::Clear(Service::Lmtp)));
    lmtp.deliver("u3", &mail);
    lmtp.quit();
    cluster.wait_for_dovecots_line(&["lmtp", "Connect from 127.0.0.9"]);
    let wire = connect(cluster, Door::Clear(Service::Pop3));
    let port = wire.local().port();
    let mut pop3 = Pop3::new(wire).login("u3");
    let retrieved = pop3.retrieve(1);
    pop3.quit();
    // What delivers adds lines of its own above.
    assert!(retrieved.ends_with(&mail), "the message came back otherwise than it was delivered");
    let head = String::from_utf8_lossy(&retrieved[..retrieved.len() - mail.len()]).into_owned();
    assert!(head.contains("[127.0.0.9]"), "Received: names the client:\n{head}");
    cluster.wait_for_dovecots_line(&["pop3-login", "user=<u3>", "rip=127.0.0.9", &format!("rport={port},")]);
}

fn managesieve(cluster: &Cluster) {
    let wire = connect(cluster, Door::Clear(Service::Sieve));
    let port = wire.local().port();
    let mut sieve = Sieve::new(wire).login("u4");
    let script = "# a comment\r\nkeep;\r\n";
    sieve.put("first", script);
    assert_eq!(sieve.get("first"), script);
    sieve.logout();
    cluster.wait_for_dovecots_line(&["managesieve-login", "user=<u4>", "rip=127.0.0.9", &format!("rport={port},")]);
}

fn submission(cluster: &Cluster) {
    let wire = connect(cluster, Door::Clear(Service::Submission));
    let port = wire.local().port();
    let mut submission = Smtp::new(wire).login("u5");
    let mail = message(100_000);
    submission.deliver("b@mail.test", &mail);
    submission.quit();
    cluster.wait_for_dovecots_line(&["submission-login", "user=<u5>", "rip=127.0.0.9", &format!("rport={port},")]);
    // The sink keeps lines with the line end of its host.
    let mail = String::from_utf8(mail).expect("a message is ASCII").replace("\r\n", "\n");
    let body = mail.split_once("\n\n").expect("a head and a body").1;
    assert!(
        cluster.servers.sink.mail().replace('\r', "").contains(body),
        "the message has not come to the next server"
    );
}

fn postfix(cluster: &Cluster) {
    for door in [Door::Smtp, Door::Screened] {
        let wire = connect(cluster, door);
        let port = wire.local().port();
        let mut smtp = Smtp::new(wire);
        smtp.deliver("b@mail.test", &message(100_000));
        smtp.quit();
        let postfix = &cluster.servers.postfix.process;
        postfix.wait_for_output("client=unknown[127.0.0.9]");
        postfix.wait_for_output("status=sent (mail.test)");
        if door == Door::Screened {
            postfix.wait_for_output(&format!("CONNECT from [127.0.0.9]:{port}"));
        }
    }
}

fn tls_passthrough(cluster: &Cluster) {
    let wire = |service| Wire::connect_tls(CLIENT, cluster.address(Door::Tls(service)));
    let mut imap = Imap::new(wire(Service::Imap)).login("u6");
    let mail = message(LARGE / 4);
    imap.append(&mail);
    assert!(imap.fetch(1) == mail, "the message came back otherwise than it was sent");
    imap.logout();
    let mut pop3 = Pop3::new(wire(Service::Pop3)).login("u6");
    assert!(pop3.retrieve(1) == mail, "the message came by POP3 otherwise than it was sent");
    pop3.quit();
    let mut submission = Smtp::new(wire(Service::Submission)).login("u6");
    submission.deliver("b@mail.test", &mail);
    submission.quit();
    for service in ["imap-login", "pop3-login", "submission-login"] {
        cluster.wait_for_dovecots_line(&[service, "user=<u6>", "rip=127.0.0.9", " TLS,"]);
    }
}

fn starttls(cluster: &Cluster) {
    let wire = |service| connect(cluster, Door::Clear(service));
    Imap::new(wire(Service::Imap)).start_tls().login("u7").logout();
    Pop3::new(wire(Service::Pop3)).start_tls().login("u7").quit();
    Smtp::new(wire(Service::Submission)).start_tls().login("u7").quit();
    Sieve::new(wire(Service::Sieve)).start_tls().login("u7").logout();
    for service in ["imap-login", "pop3-login", "submission-login", "managesieve-login"] {
        cluster.wait_for_dovecots_line(&[service, "user=<u7>", "rip=127.0.0.9", " TLS,"]);
    }
    let mut lmtp = Smtp::lmtp(wire(Service::Lmtp)).start_tls();
    lmtp.deliver("u7", &message(1000));
    lmtp.quit();
}

fn connect(cluster: &Cluster, door: Door) -> Wire {
    Wire::connect(CLIENT, cluster.address(door))
}
