//! Verdicts on the facts.

use std::fmt;

use vestibule::config::DriverKind;
use vestibule::ring::BACKLOG;

use super::Needs;
use super::facts::{Facts, Trial};

/// The kernel that the fast paths are made for; before it, completion work interrupts the thread (no DEFER_TASKRUN).
const KERNEL_WANTED: (u32, u32) = (6, 1);
/// Handshakes that should fit in before SYN cookies step in.
const SYN_BACKLOG_WANTED: u64 = 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// As it should be.
    Ok,
    /// The daemon runs, but not as well as it could.
    Warn,
    /// The daemon cannot run.
    Fail,
}

/// One line of the report.
#[derive(Clone, Debug)]
pub(super) struct Finding {
    pub(super) verdict: Verdict,
    subject: String,
    value: String,
    /// Why it matters, or what it does now.
    reason: String,
    /// What to do; none where all is well.
    remedy: Option<String>,
}

impl Finding {
    pub(super) fn new(
        verdict: Verdict,
        subject: impl ToString,
        value: impl ToString,
        reason: impl ToString,
        remedy: Option<&str>,
    ) -> Finding {
        let (subject, value) = (subject.to_string(), value.to_string());
        Finding { verdict, subject, value, reason: reason.to_string(), remedy: remedy.map(str::to_string) }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Verdict::Ok => "ok",
            Verdict::Warn => "warn",
            Verdict::Fail => "fail",
        })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Finding { verdict, subject, value, reason, remedy } = self;
        write!(f, "{verdict:<4}  {subject:<28}  {value:<16}  {reason}")?;
        remedy.iter().try_for_each(|remedy| write!(f, "; remedy: {remedy}"))
    }
}

/// Everything that matters, what decides first.
pub(super) fn all(facts: &Facts, needs: &Needs) -> Vec<Finding> {
    let mut all = vec![driver(facts, needs), io_uring(facts, needs), registered_buffers(facts, needs)];
    all.extend(locked_memory_of_rings(facts, needs));
    all.extend([
        restrictions(facts),
        kernel(facts),
        io_uring_disabled(facts, needs),
        seccomp(facts, needs),
        epoll_watches(facts, needs),
        open_files(facts, needs),
        locked_memory(facts),
        memory(facts, needs),
        somaxconn(facts),
        syn_backlog(facts),
        syncookies(facts),
        migrate_req(facts, needs),
        kernel_tls(facts, needs),
    ]);
    all
}

/// What the daemon would run on.
fn driver(facts: &Facts, needs: &Needs) -> Finding {
    let subject = "driver";
    match (needs.driver, &facts.trial, &facts.epoll) {
        (_, Ok(_), _) => ok(subject, "io_uring", "the rings of the kernel"),
        (DriverKind::Epoll, _, Ok(())) => ok(subject, "epoll", "as the configuration says; it costs some more CPU"),
        (DriverKind::Auto, Err(refusal), Ok(())) if refusal.for_good => {
            let remedy = "allow io_uring (the next lines say how), or say driver = epoll";
            warn(subject, "epoll", "io_uring is forbidden here, and the daemon runs without it: some more CPU", remedy)
        }
        (DriverKind::Auto | DriverKind::IoUring, _, Ok(())) => {
            let reason = "rings are what the daemon would run on, and cannot be made";
            Finding::new(Verdict::Fail, subject, "none", reason, Some("see io_uring below, or say driver = epoll"))
        }
        (_, _, Err(cause)) => Finding::new(Verdict::Fail, subject, "none", cause, Some("see the limits below")),
    }
}

fn io_uring(facts: &Facts, needs: &Needs) -> Finding {
    let rings = format!("{} of {}", needs.rings, needs.sizes.slots);
    match &facts.trial {
        Ok(trial) if trial.deferred => ok("io_uring", rings, "rings made for a trial, each with that many slots"),
        Ok(_) => {
            let reason = "rings made, but without DEFER_TASKRUN: completion work interrupts the threads";
            warn("io_uring", rings, reason, "run Linux 6.1 or later")
        }
        Err(refusal) if needs.driver == DriverKind::Epoll => ok("io_uring", "not used", &refusal.words),
        Err(refusal) => {
            let does_without = refusal.for_good && needs.driver == DriverKind::Auto;
            let verdict = if does_without { Verdict::Warn } else { Verdict::Fail };
            let (cause, remedy) = refusal.words.split_once(';').unwrap_or((&refusal.words, "see the lines below"));
            Finding::new(verdict, "io_uring", "unavailable", cause, Some(remedy.trim()))
        }
    }
}

fn registered_buffers(facts: &Facts, needs: &Needs) -> Finding {
    let subject = "registered buffers";
    match &facts.trial {
        Ok(_) if !needs.sizes.registered => ok(subject, "no", "locked_memory_limit leaves no room for them"),
        Ok(trial) => match &trial.unregistered {
            None => ok(subject, "yes", "headers are read straight into them"),
            Some(cause) => {
                let reason = format!("headers are read by RECV instead ({cause})");
                warn(subject, "no", reason, "raise the limit of locked memory (LimitMEMLOCK= of the unit, ulimit -l)")
            }
        },
        Err(_) => ok(subject, "not tried", "there is no ring to register them with"),
    }
}

/// What the rings keep locked, and what `locked_memory_limit` has taken from them.
fn locked_memory_of_rings(facts: &Facts, needs: &Needs) -> Vec<Finding> {
    let subject = "locked memory";
    let Ok(trial) = &facts.trial else { return vec![ok(subject, "none", "there is no ring to lock any")] };
    let value = format!("{} KiB", trial.locked_memory.div_ceil(1024));
    let limited = match &needs.limited {
        Ok(steps) if steps.is_empty() => {
            return vec![ok(subject, value, "of the rings, and of their registered buffers")];
        }
        Ok(steps) => steps.iter().map(|step| (Verdict::Warn, step)).collect(),
        Err(words) => vec![(Verdict::Fail, words)],
    };
    let finding = |(verdict, words): (_, &String)| {
        let (reason, remedy) = words.rsplit_once("; ").unwrap_or((words, "raise locked_memory_limit"));
        Finding::new(verdict, subject, &value, reason, Some(remedy))
    };
    limited.into_iter().map(finding).collect()
}

fn restrictions(facts: &Facts) -> Finding {
    let subject = "rings' operations";
    match &facts.trial {
        Ok(Trial { unlocked: None, .. }) => ok(subject, "locked", "a ring can do what it is for, and nothing else"),
        Ok(Trial { unlocked: Some(cause), .. }) => {
            let reason = format!("a ring can do whatever the kernel offers ({cause})");
            warn(subject, "open", reason, "let the filter of system calls allow io_uring_register")
        }
        Err(_) => ok(subject, "not tried", "there is no ring to lock"),
    }
}

fn kernel(facts: &Facts) -> Finding {
    let Some(release) = &facts.kernel else { return untold("kernel") };
    match version(release) {
        Some(found) if found >= KERNEL_WANTED => ok("kernel", release, "has everything that is used here"),
        _ => warn("kernel", release, "older than what Vestibule is made for and tested on", "run Linux 6.1 or later"),
    }
}

fn version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(|number| number.parse().ok());
    Some((numbers.next()??, numbers.next()??))
}

fn io_uring_disabled(facts: &Facts, needs: &Needs) -> Finding {
    let subject = "kernel.io_uring_disabled";
    match facts.io_uring_disabled {
        Some(value) if needs.driver == DriverKind::Epoll => ok(subject, value, "the configuration says driver = epoll"),
        Some(0) => ok(subject, 0, "everybody may use io_uring"),
        None => ok(subject, "absent", "a kernel before 6.6 has no such switch"),
        Some(1) => {
            let reason = "only members of kernel.io_uring_group, and root, may use io_uring";
            warn(subject, 1, reason, "add the daemon's group there, or sysctl -w kernel.io_uring_disabled=0")
        }
        Some(other) => {
            warn(subject, other, "nobody may make a ring, not even root", "sysctl -w kernel.io_uring_disabled=0")
        }
    }
}

fn seccomp(facts: &Facts, needs: &Needs) -> Finding {
    let remedy = "let the profile allow io_uring_setup, io_uring_enter and io_uring_register";
    match (facts.seccomp, &facts.trial) {
        (Some(0), _) => ok("seccomp", "none", "no filter of system calls"),
        (Some(_), _) if needs.driver == DriverKind::Epoll => {
            ok("seccomp", "filter", "a filter of system calls; the configuration says driver = epoll")
        }
        (Some(_), Ok(_)) => ok("seccomp", "filter", "a filter of system calls that lets io_uring through"),
        (Some(_), Err(_)) => {
            warn("seccomp", "filter", "a filter of system calls, as containers have; it may forbid io_uring", remedy)
        }
        (None, _) => untold("seccomp"),
    }
}

/// Sockets of one user that may be in sets of epoll.
fn epoll_watches(facts: &Facts, needs: &Needs) -> Finding {
    let subject = "fs.epoll.max_user_watches";
    let wanted = needs.open_files();
    match facts.epoll_watches {
        None => untold(subject),
        Some(most) if facts.trial.is_ok() => ok(subject, most, "epoll serves the checks of servers only"),
        Some(most) if most >= wanted => ok(subject, most, format!("room for {} connections", needs.connections)),
        Some(most) => {
            let reason = format!("sessions beyond it end at once; up to {wanted} sockets are watched");
            warn(subject, most, reason, format!("sysctl -w fs.epoll.max_user_watches={wanted}"))
        }
    }
}

fn open_files(facts: &Facts, needs: &Needs) -> Finding {
    let subject = "RLIMIT_NOFILE";
    let Some((soft, hard)) = facts.open_files else { return untold(subject) };
    let (value, wanted) = (format!("{} of {}", shown(soft), shown(hard)), needs.open_files());
    if hard >= wanted {
        return ok(
            subject,
            value,
            format!("room for {} connections; raised to the hard limit at start", needs.connections),
        );
    }
    let reason = format!(
        "pending_limit, queues and workers add up to {wanted} files; beyond the limit connections wait in the backlog"
    );
    warn(subject, value, reason, format!("LimitNOFILE={wanted} in the unit, or a smaller pending_limit"))
}

fn locked_memory(facts: &Facts) -> Finding {
    let subject = "RLIMIT_MEMLOCK";
    let Some((soft, _)) = facts.locked_memory else { return untold(subject) };
    let value = if soft == u64::MAX { shown(soft) } else { format!("{} KiB", soft / 1024) };
    match &facts.trial {
        Ok(trial) if trial.unregistered.is_some() => {
            warn(subject, value, "too little for the buffers of all rings", "LimitMEMLOCK=infinity in the unit")
        }
        Ok(_) => ok(subject, value, "enough for the rings and their buffers"),
        Err(_) => ok(subject, value, "rings and their buffers count against it, unless root makes them"),
    }
}

fn memory(facts: &Facts, needs: &Needs) -> Finding {
    let subject = "memory of the control group";
    const MIB: u64 = 1 << 20;
    let wanted = needs.memory().div_ceil(MIB);
    match facts.memory_limit {
        None => ok(subject, "unlimited", format!("up to about {wanted} MiB for {} connections", needs.connections)),
        Some(bytes) if bytes / MIB >= wanted => ok(
            subject,
            format!("{} MiB", bytes / MIB),
            format!("{} connections take about {wanted} MiB", needs.connections),
        ),
        Some(bytes) => {
            let reason = format!(
                "{} connections take about {wanted} MiB, kernel memory included; beyond the limit the process is killed",
                needs.connections
            );
            warn(
                subject,
                format!("{} MiB", bytes / MIB),
                reason,
                "raise MemoryMax= of the unit, or lower pending_limit",
            )
        }
    }
}

fn somaxconn(facts: &Facts) -> Finding {
    let subject = "net.core.somaxconn";
    match facts.somaxconn {
        None => untold(subject),
        Some(n) if n >= u64::from(BACKLOG) => ok(subject, n, "a burst waits in the backlog"),
        Some(n) => {
            let reason = format!("cuts every listener's backlog of {BACKLOG}: a burst beyond it is dropped");
            warn(subject, n, reason, format!("sysctl -w net.core.somaxconn={BACKLOG}"))
        }
    }
}

fn syn_backlog(facts: &Facts) -> Finding {
    let subject = "net.ipv4.tcp_max_syn_backlog";
    match facts.syn_backlog {
        None => untold(subject),
        Some(n) if n >= SYN_BACKLOG_WANTED => {
            ok(subject, n, "handshakes, and connections deferred until their first byte")
        }
        Some(n) => {
            let reason = "handshakes, and connections deferred until their first byte, share so few places";
            warn(subject, n, reason, format!("sysctl -w net.ipv4.tcp_max_syn_backlog={BACKLOG}"))
        }
    }
}

fn syncookies(facts: &Facts) -> Finding {
    let subject = "net.ipv4.tcp_syncookies";
    let remedy = "sysctl -w net.ipv4.tcp_syncookies=1";
    match facts.syncookies {
        Some(1) => ok(subject, 1, "silent clients that fill the queue of handshakes shut nobody out"),
        Some(0) => warn(subject, 0, "silent clients that fill the queue of handshakes shut everybody out", remedy),
        Some(n) => warn(subject, n, "every handshake goes by cookie, so that defer_accept has no effect", remedy),
        None => untold(subject),
    }
}

fn migrate_req(facts: &Facts, needs: &Needs) -> Finding {
    let subject = "net.ipv4.tcp_migrate_req";
    match facts.migrate_req {
        Some(0) if needs.rings > 1 => {
            let reason =
                "connections still queued on a socket that closes are reset, though another ring's socket is open";
            warn(subject, 0, reason, "sysctl -w net.ipv4.tcp_migrate_req=1")
        }
        Some(0) => ok(subject, 0, "one ring has nobody to hand queued connections to"),
        Some(n) => ok(subject, n, "a socket that closes hands its queue to another ring's"),
        None => ok(subject, "absent", "a kernel before 5.14 cannot hand queued connections on"),
    }
}

/// Whether an upgrade can take TLS sessions along.
fn kernel_tls(facts: &Facts, needs: &Needs) -> Finding {
    let subject = "TLS in the kernel";
    match (&facts.kernel_tls, needs.kernel_tls) {
        (Ok(()), true) => ok(subject, "yes", "an upgrade takes relayed TLS sessions along (ssl_ktls = yes)"),
        (Ok(()), false) => {
            ok(subject, "not used", "with ssl_ktls = yes an upgrade would take relayed TLS sessions along")
        }
        (Err(cause), true) => {
            let reason = format!("ssl_ktls = yes has no effect, and an upgrade leaves TLS sessions behind ({cause})");
            warn(subject, "no", reason, "modprobe tls, or say ssl_ktls = no")
        }
        (Err(cause), false) => ok(subject, "no", format!("an upgrade leaves TLS sessions behind ({cause})")),
    }
}

fn shown(limit: u64) -> String {
    if limit == u64::MAX { "unlimited".into() } else { limit.to_string() }
}

fn ok(subject: &'static str, value: impl ToString, reason: impl ToString) -> Finding {
    Finding::new(Verdict::Ok, subject, value, reason, None)
}

fn warn(subject: &'static str, value: impl ToString, reason: impl ToString, remedy: impl AsRef<str>) -> Finding {
    Finding::new(Verdict::Warn, subject, value, reason, Some(remedy.as_ref()))
}

/// The kernel does not say: a container that hides it, or a kernel without it.
fn untold(subject: &'static str) -> Finding {
    warn(subject, "unknown", "not shown to this process", "look at it outside of the container")
}

#[cfg(test)]
mod tests {
    use super::super::facts::{Refusal, Trial};
    use super::*;
    use vestibule::config;

    fn healthy() -> Facts {
        Facts {
            kernel: Some("6.1.0-30-amd64".into()),
            trial: Ok(Trial { deferred: true, unregistered: None, locked_memory: 0, unlocked: None }),
            epoll: Ok(()),
            io_uring_disabled: Some(0),
            epoll_watches: Some(1 << 20),
            seccomp: Some(0),
            somaxconn: Some(4096),
            syn_backlog: Some(4096),
            syncookies: Some(1),
            migrate_req: Some(1),
            open_files: Some((1024, 1 << 20)),
            locked_memory: Some((8 << 20, 8 << 20)),
            kernel_tls: Ok(()),
            memory_limit: None,
        }
    }

    fn needs() -> Needs {
        Needs::of(&config::builtin().settings, 2)
    }

    /// The one line that is not ok after a change for the worse.
    fn only_fault(change: impl FnOnce(&mut Facts)) -> Finding {
        let mut facts = healthy();
        change(&mut facts);
        let mut faults = all(&facts, &needs());
        faults.retain(|finding| finding.verdict != Verdict::Ok);
        assert_eq!(faults.len(), 1, "{faults:?}");
        faults.remove(0)
    }

    #[test]
    fn a_healthy_machine_is_all_ok() {
        let findings = all(&healthy(), &needs());
        assert!(findings.iter().all(|f| f.verdict == Verdict::Ok && f.remedy.is_none()), "{findings:?}");
    }

    #[test]
    fn each_fault_is_one_line_with_a_remedy() {
        let faults = [
            only_fault(|f| f.kernel = Some("5.15.0".into())),
            only_fault(|f| f.kernel = Some("unreadable".into())),
            only_fault(|f| f.io_uring_disabled = Some(1)),
            only_fault(|f| f.io_uring_disabled = Some(2)),
            only_fault(|f| f.somaxconn = Some(128)),
            only_fault(|f| f.syn_backlog = Some(128)),
            only_fault(|f| f.syncookies = Some(0)),
            only_fault(|f| f.syncookies = Some(2)),
            only_fault(|f| f.migrate_req = Some(0)),
            only_fault(|f| f.open_files = Some((1024, 4096))),
            only_fault(|f| f.memory_limit = Some(64 << 20)),
            only_fault(|f| {
                f.trial = Ok(Trial { deferred: false, unregistered: None, locked_memory: 0, unlocked: None })
            }),
            only_fault(|f| f.somaxconn = None),
        ];
        for fault in faults {
            assert_eq!(fault.verdict, Verdict::Warn, "{fault}");
            assert!(fault.to_string().contains("; remedy: ") && fault.to_string().lines().count() == 1, "{fault}");
        }
    }

    fn without_rings(for_good: bool, driver: DriverKind) -> Vec<Finding> {
        let words = "io_uring is not available (EPERM): a filter forbids it; allow io_uring_setup".into();
        let facts = Facts { trial: Err(Refusal { words, for_good }), seccomp: Some(2), ..healthy() };
        all(&facts, &Needs { driver, ..needs() })
    }

    #[test]
    fn where_io_uring_is_forbidden_auto_means_epoll_and_the_ways_out_are_told() {
        let findings = without_rings(true, DriverKind::Auto);
        assert_eq!((findings[0].verdict, findings[0].value.as_str()), (Verdict::Warn, "epoll"));
        assert_eq!((findings[1].verdict, findings[1].remedy.as_deref()), (Verdict::Warn, Some("allow io_uring_setup")));
        assert!(findings.iter().any(|f| f.subject == "seccomp" && f.verdict == Verdict::Warn));
        assert!(findings.iter().all(|f| f.verdict != Verdict::Fail));
    }

    #[test]
    fn without_the_rings_that_are_asked_for_it_fails() {
        // For want of memory, say, nobody falls back.
        for (for_good, driver) in [(false, DriverKind::Auto), (true, DriverKind::IoUring)] {
            let findings = without_rings(for_good, driver);
            assert_eq!((findings[0].verdict, findings[1].verdict), (Verdict::Fail, Verdict::Fail));
            assert_eq!(findings[1].remedy.as_deref(), Some("allow io_uring_setup"));
        }
        let asked = without_rings(true, DriverKind::Epoll);
        assert_eq!((asked[0].verdict, asked[1].verdict), (Verdict::Ok, Verdict::Ok));
    }

    #[test]
    fn too_few_watches_matter_where_there_are_no_rings() {
        let refusal = Refusal { words: "EPERM".into(), for_good: true };
        let facts = Facts { trial: Err(refusal), epoll_watches: Some(100), ..healthy() };
        assert_eq!(epoll_watches(&facts, &needs()).verdict, Verdict::Warn);
        assert_eq!(epoll_watches(&Facts { epoll_watches: Some(100), ..healthy() }, &needs()).verdict, Verdict::Ok);
    }

    #[test]
    fn an_open_ring_is_told() {
        let trial = Trial { deferred: true, unregistered: None, locked_memory: 0, unlocked: Some("EPERM".into()) };
        assert_eq!(only_fault(|facts| facts.trial = Ok(trial)).subject, "rings' operations");
    }

    #[test]
    fn buffers_that_cannot_be_registered_are_the_limits_fault() {
        let trial = Trial { deferred: true, unregistered: Some("ENOMEM".into()), locked_memory: 0, unlocked: None };
        let facts = Facts { trial: Ok(trial), ..healthy() };
        let faults: Vec<_> = all(&facts, &needs()).into_iter().filter(|f| f.verdict == Verdict::Warn).collect();
        assert_eq!(
            faults.iter().map(|f| f.subject.as_str()).collect::<Vec<_>>(),
            ["registered buffers", "RLIMIT_MEMLOCK"]
        );
    }

    #[test]
    fn what_a_limit_takes_is_told_with_what_would_be_enough() {
        let of = |limit| {
            let mut settings = config::builtin().settings;
            settings.locked_memory_limit = limit;
            locked_memory_of_rings(&healthy(), &Needs::of(&settings, 2))
        };
        assert_eq!(of(0)[0].verdict, Verdict::Ok);
        let taken = of(2 << 20);
        assert_eq!((taken.len(), taken[0].verdict), (1, Verdict::Warn));
        assert!(taken[0].reason.starts_with("locked_memory_limit is 2048 KiB: reads go by RECV"), "{taken:?}");
        assert!(taken[0].remedy.as_ref().is_some_and(|remedy| remedy.contains("are enough")), "{taken:?}");
        assert_eq!(of(1)[0].verdict, Verdict::Fail);
    }

    #[test]
    fn tls_in_the_kernel_matters_to_whoever_asks_for_it() {
        let refused = || Facts { kernel_tls: Err("No such file or directory".into()), ..healthy() };
        let of = |facts: Facts, kernel_tls| kernel_tls_line(&facts, Needs { kernel_tls, ..needs() });
        assert_eq!(of(healthy(), true), (Verdict::Ok, "yes".into()));
        assert_eq!(of(healthy(), false), (Verdict::Ok, "not used".into()));
        assert_eq!(of(refused(), false), (Verdict::Ok, "no".into()));
        assert_eq!(of(refused(), true), (Verdict::Warn, "no".into()));
    }

    fn kernel_tls_line(facts: &Facts, needs: Needs) -> (Verdict, String) {
        let finding = kernel_tls(facts, &needs);
        assert_eq!(finding.verdict == Verdict::Ok, finding.remedy.is_none(), "{finding}");
        (finding.verdict, finding.value)
    }

    #[test]
    fn versions() {
        for (release, found) in [("6.18.44-fc", Some((6, 18))), ("6.1", Some((6, 1))), ("x", None), ("6", None)] {
            assert_eq!(version(release), found);
        }
    }
}
