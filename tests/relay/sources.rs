//! `login_source_ips`: from which of our addresses a server is spoken to, by its own log.

use super::tier::{Tier, two_dovecots};
use crate::support::dovecot::{Service, Way};
use crate::support::mail::Imap;

#[test]
fn dovecots_log_names_the_source_addresses_in_turn() {
    let Some([dovecot, _]) = two_dovecots("") else { return };
    // Not told who the client is, it names who has connected.
    let settings = "check = none\n  forward = none";
    // Each ring has a turn of its own.
    let sources = "rings = 1\nlogin_source_ips = 127.0.0.21 127.0.0.22";
    let tier = Tier::start("imap-login", sources, settings, &[dovecot.address(Service::Imap, Way::Plain)]);
    for number in 0..4 {
        Imap::new(tier.wire()).login(&format!("src{number}")).logout();
    }
    let source_of = |number: u32| {
        let user = format!("user=<src{number}>");
        dovecot.wait_for_line(&[&user, "rip=127.0.0.2"]);
        let log = dovecot.log();
        let line = log.lines().find(|line| line.contains(&user)).expect("as just waited for");
        line.split("rip=").nth(1).and_then(|rest| rest.split(',').next()).map(str::to_owned).expect("it names one")
    };
    let sources: Vec<String> = (0..4).map(source_of).collect();
    assert_eq!(sources[0], sources[2], "{sources:?}");
    assert_eq!(sources[1], sources[3], "{sources:?}");
    let mut both = [sources[0].as_str(), sources[1].as_str()];
    both.sort_unstable();
    assert_eq!(both, ["127.0.0.21", "127.0.0.22"]);
}
