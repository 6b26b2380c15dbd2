//! Sessions of a real server that nobody ends: the deadlines that do.

use super::tier::{Tier, proxied_imap, two_dovecots};
use crate::support::mail::Imap;

#[test]
fn a_session_that_is_silent_for_idle_timeout_ends_and_one_that_speaks_goes_on() {
    let Some([dovecot, _]) = two_dovecots("") else { return };
    let tier = Tier::start_with("imap-login", "idle_timeout = 3 secs", "", "check = none", &[proxied_imap(&dovecot)]);
    let mut idle = Imap::new(tier.wire()).login("idler");
    idle.idle();
    let mut busy = Imap::new(tier.wire()).login("talker");
    // As long as the other one may be silent, and longer.
    for _ in 0..8 {
        busy.command("n NOOP");
        std::thread::sleep(std::time::Duration::from_millis(500));
    }
    assert_eq!(idle.0.rest(), "", "an end, and no words of ours behind the server's");
    tier.line(&["relay(b/s0): Disconnected for inactivity (", "end=idle-timeout/cD"]);
    dovecot.wait_for_line(&["imap(idler)", "Connection closed"]);
    busy.command("n NOOP");
    busy.logout();
    tier.line(&["relay(b/s0): ", "end=server-closed/--"]);
    assert_eq!(tier.lines(&["end=idle-timeout"]), 1, "{}", tier.daemon.output());
}

#[test]
fn a_client_that_stays_though_its_server_has_ended_has_half_closed_timeout() {
    let Some([dovecot, _]) = two_dovecots("") else { return };
    let settings = "check = none\n  half_closed_timeout = 2 secs";
    let tier = Tier::start("imap-login", "", settings, &[proxied_imap(&dovecot)]);
    let mut imap = Imap::new(tier.wire()).login("stayer");
    let begun = std::time::Instant::now();
    imap.0.say("z LOGOUT");
    let last = imap.0.rest();
    assert!(last.contains("* BYE") && last.contains("z OK"), "{last:?}");
    // It has got the end, and does not answer it.
    let line = tier
        .line(&["relay(b/s0): Disconnected for inactivity after one side had closed", "end=half-closed-timeout/cL"]);
    assert!(begun.elapsed() >= std::time::Duration::from_secs(2), "{line}");
    drop(imap);
}
