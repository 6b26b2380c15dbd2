//! What each verb does.

use std::net::IpAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Map, Value, json};
use vestibule::admission::Bans;
use vestibule::backend::{AdminState, WEIGHT_MAX};
use vestibule::engine::{
    BackendAccount, OutsiderSeen, REFUSALS_MAX, ServerAccount, SessionFilter, SessionSeen, SessionsSeen, Snapshot,
    TlsSeen,
};
use vestibule::net::Network;
use vestibule::proxy::Escaped;
use vestibule::relay::{End, SessionId};

use super::wire::{Form, Request, WHO_DEFAULT};
use super::{Control, state};
use crate::daemon::figures;
use crate::daemon::http::refusals_of;
use crate::daemon::tier::{Glance, Served};

/// Most sessions that `who` shows.
const WHO_MAX: usize = 10_000;
/// Longest time of a ban; longer ones last so long.
const BAN_MAX: Duration = Duration::from_secs(366 * 24 * 3600);
/// Sessions of one client, address and port, that an id is looked for among.
const OF_ONE_CLIENT_MAX: usize = 1000;
/// So far may the times of two ids of one session be apart: Dovecot's begins when its connection does, ours with the
/// client's.
const NEAR: Duration = Duration::from_secs(120);
/// Most sessions that are ended in a second to bring servers in balance.
const REBALANCE_MAX: u32 = 10_000;
/// Ids tell the time by so many bits of microseconds.
const TIME_MASK: u64 = (1 << 48) - 1;

/// Does what is asked and says what came of it.
pub fn answer(control: &Control, request: Request) -> Value {
    done(control, request).unwrap_or_else(|errors| json!({ "ok": false, "errors": errors }))
}

fn done(control: &Control, request: Request) -> Result<Value, Vec<String>> {
    let one = |error: String| vec![error];
    match request {
        Request::Stats { form } => Ok(stats(&control.glance(), form)),
        Request::Backends {} => Ok(backends(&control.glance().snapshot())),
        Request::Server { backend, server, state, weight } => {
            change(&control.glance(), &backend, &server, state.as_deref(), weight).map_err(one)
        }
        Request::Who { client, backend, server, tls, sni, limit } => {
            let filter = filter(client, backend, server, tls, sni).map_err(one)?;
            Ok(who(&control.glance(), &filter, limit.unwrap_or(WHO_DEFAULT).min(WHO_MAX)))
        }
        Request::Session { id } => session(&control.glance(), &id).map_err(one),
        Request::Kick { whom, client, backend, server, tls, sni } => {
            let filter = filter(client, backend, server, tls, sni).map_err(one)?;
            match whom {
                None => kick_all(&control.glance(), &filter).map_err(one),
                Some(whom) if filter == SessionFilter::default() => kick(&control.glance(), &whom).map_err(one),
                Some(_) => Err(one("say whom, or say it by filters, not both".to_owned())),
            }
        }
        Request::Events { .. } => Err(one("whoever follows is not answered here".to_owned())),
        Request::Refused { limit } => {
            let all = control.glance().refusals();
            let shown = &all[..all.len().min(limit.unwrap_or(REFUSALS_MAX))];
            Ok(json!({ "ok": true, "refusals": refusals_of(shown), "more": all.len() - shown.len() }))
        }
        Request::Trust { address: Some(address) } => trust(&control.glance(), &address).map_err(one),
        Request::Trust { address: None } => Ok(trusted(&control.glance())),
        Request::Ban { network, seconds } => ban(&control.glance().means.bans, &network, seconds).map_err(one),
        Request::Unban { network } => unban(&control.glance().means.bans, &network).map_err(one),
        Request::Bans {} => Ok(bans(&control.glance().means.bans)),
        Request::Shutdown {} => {
            control.tier().map_err(one)?.shut_down();
            Ok(json!({ "ok": true }))
        }
        Request::Reload {} => {
            let warnings = control.tier().map_err(one)?.reload()?;
            Ok(json!({ "ok": true, "warnings": warnings }))
        }
        Request::Drain { listener: Some(listener) } => {
            let full = control.tier().map_err(one)?.drain_listener(&listener).map_err(one)?;
            Ok(json!({ "ok": true, "listener": full }))
        }
        Request::Resume { listener: Some(listener) } => {
            let full = control.tier().map_err(one)?.resume_listener(&listener).map_err(one)?;
            Ok(json!({ "ok": true, "listener": full }))
        }
        Request::Drain { listener: None } => {
            control.tier().map_err(one)?.drain_in_a_while();
            Ok(json!({ "ok": true }))
        }
        Request::Resume { listener: None } => {
            let sessions =
                control.tier().map_err(one)?.resume().map_err(|reason| one(format!("not resumed: {reason}")))?;
            Ok(json!({ "ok": true, "sessions": sessions }))
        }
        Request::Rebalance { backend, rate } => rebalance(&control.glance(), &backend, rate).map_err(one),
    }
}

fn stats(glance: &Glance, form: Form) -> Value {
    let snapshot = glance.snapshot();
    match form {
        Form::Table => json!({ "ok": true, "text": format!("{snapshot}\n{}", state::table(glance)) }),
        Form::Json => {
            let mut all = figures::value(&snapshot);
            state::enter(glance, &mut all);
            json!({ "ok": true, "stats": all })
        }
    }
}

fn backends(snapshot: &Snapshot) -> Value {
    let all: Vec<Value> = snapshot.backends().iter().map(backend_of).collect();
    json!({ "ok": true, "backends": all })
}

/// A backend and its servers.
pub fn backend_of(backend: &BackendAccount) -> Value {
    let BackendAccount { name, waiting, waiting_max, queue, stick_used, stick_size, totals, .. } = backend;
    let servers: Vec<Value> = backend.servers.iter().map(server_value).collect();
    json!({
        "backend": name, "queue": waiting, "queue-max": waiting_max, "queue-limit": queue,
        "stick-used": stick_used, "stick-size": stick_size,
        "full": totals.full, "nobody": totals.nobody, "waited": totals.waited, "queue-full": totals.line_full,
        "abandoned": totals.abandoned, "ends": ends(backend.ends()), "servers": servers,
    })
}

/// A server and the name of its backend.
pub fn server_of(backend: &BackendAccount, server: &ServerAccount) -> Value {
    let mut all = server_value(server);
    all["backend"] = backend.name.as_str().into();
    all
}

/// A server, with the names of HAProxy's columns where they are the same.
fn server_value(server: &ServerAccount) -> Value {
    let ServerAccount { sessions, sessions_max, limit, totals, traffic, .. } = server;
    let times: Map<String, Value> =
        server.times().map(|(name, times)| (name.to_owned(), figures::quantiles(times))).into_iter().collect();
    json!({
        "server": server.name, "address": server.address, "status": server.status(), "why": server.why,
        "since": server.since.as_secs(), "backup": server.backup,
        "weight": server.weight, "weight-now": server.weight_now,
        "sessions": sessions, "sessions-max": sessions_max, "sessions-limit": limit, "sessions-total": totals.sessions,
        "bytes-in": traffic.from_clients, "bytes-out": traffic.to_clients,
        "connect-errors": totals.connect_errors, "own-faults": totals.own_faults, "not-greeted": totals.not_greeted,
        "overloaded": totals.overloaded, "redispatched": totals.redispatched,
        "checks-passed": totals.checks_passed, "checks-failed": totals.checks_failed, "downs": totals.downs,
        "ends": ends(server.ends()), "times": times,
    })
}

fn ends(ends: Vec<(&'static str, u64)>) -> Value {
    ends.into_iter().map(|(name, count)| (name.to_owned(), count.into())).collect::<Map<_, _>>().into()
}

/// Sets the state or the weight of a server.
fn change(
    glance: &Glance,
    backend: &str,
    server: &str,
    state: Option<&str>,
    weight: Option<u32>,
) -> Result<Value, String> {
    let shared = glance.means.backends.find(backend).ok_or_else(|| format!("there is no backend {backend}"))?;
    let state = state.map(admin_state).transpose()?;
    if weight.is_some_and(|weight| weight > WEIGHT_MAX) {
        return Err(format!("a weight is 0 to {WEIGHT_MAX}"));
    }
    let index = shared.lock().find(server).ok_or_else(|| format!("backend {backend} has no server {server}"))?;
    state.iter().for_each(|&state| shared.set_state(index, state));
    weight.iter().for_each(|&weight| shared.set_weight(index, weight));
    let set = state.map(|state| state_name(state).to_owned()).into_iter();
    let set: Vec<String> = set.chain(weight.map(|weight| format!("weight {weight}"))).collect();
    tracing::info!(event = "server", "server {backend}/{server}: {} by an operator", set.join(", "));
    let going = if state == Some(AdminState::Maint) { let_go(glance, backend, server) } else { 0 };
    Ok(json!({ "ok": true, "let-go": going }))
}

/// The clients of a server in maint go to others, not all at once.
fn let_go(glance: &Glance, backend: &str, server: &str) -> usize {
    let (backend, server) = (Some(backend.to_owned()), Some(server.to_owned()));
    end(
        glance,
        &SessionFilter { backend, server, ..SessionFilter::default() },
        End::ServerDown,
        glance.disconnect_delay,
    )
}

fn end(glance: &Glance, filter: &SessionFilter, end: End, over: Duration) -> usize {
    glance.askers.iter().map(|asker| asker.end_sessions(filter, end, over)).sum()
}

/// Ends the sessions that the fullest server has beyond its share, those that have been silent longest, so many a second.
fn rebalance(glance: &Glance, backend: &str, rate: u32) -> Result<Value, String> {
    if !(1..=REBALANCE_MAX).contains(&rate) {
        return Err(format!("a rate is 1 to {REBALANCE_MAX} sessions a second"));
    }
    let snapshot = glance.snapshot();
    let account = snapshot.backends().iter().find(|one| one.name == backend);
    let account = account.ok_or_else(|| format!("there is no backend {backend}"))?;
    let Some((server, surplus)) = fullest(&account.servers) else {
        return Ok(json!({ "ok": true, "server": null, "ending": 0 }));
    };
    let (backend, server) = (Some(backend.to_owned()), Some(server.to_owned()));
    let at_it = SessionFilter { backend, server: server.clone(), ..SessionFilter::default() };
    let mut active: Vec<Instant> = live(glance, &at_it, WHO_MAX).sessions.iter().map(|one| one.active).collect();
    active.sort_unstable();
    let Some(&last) = active.get(..surplus).unwrap_or(&active).last() else {
        return Ok(json!({ "ok": true, "server": null, "ending": 0 }));
    };
    let over = Duration::from_secs_f64(surplus.min(active.len()) as f64 / f64::from(rate));
    let ending = end(glance, &SessionFilter { silent_since: Some(last), ..at_it }, End::Killed, over);
    let server = server.unwrap_or_default();
    tracing::info!(
        event = "session",
        "{ending} sessions of server {}/{server} are ended by an operator, {rate} a second",
        account.name
    );
    Ok(json!({ "ok": true, "server": server, "ending": ending, "seconds": over.as_secs_f64() }))
}

/// The server that has most for its weight, and how many sessions it has beyond its share; `None` if nobody has so many
/// that others would gain by it. Only servers that take new sessions count.
fn fullest(servers: &[ServerAccount]) -> Option<(&str, usize)> {
    let takes = |one: &&ServerAccount| one.status() == "UP" && one.weight > 0 && !one.backup;
    let load = |one: &ServerAccount| f64::from(one.sessions) / f64::from(one.weight);
    let (sessions, weights) = servers.iter().filter(takes).fold((0.0, 0.0), |(sessions, weights), one| {
        (sessions + f64::from(one.sessions), weights + f64::from(one.weight))
    });
    let first = servers.iter().filter(takes).max_by(|one, other| load(one).total_cmp(&load(other)))?;
    let share = (sessions * f64::from(first.weight) / weights).ceil();
    let surplus = (f64::from(first.sessions) - share).max(0.0) as usize;
    (surplus > 0).then_some((first.name.as_str(), surplus))
}

fn admin_state(name: &str) -> Result<AdminState, String> {
    let known = AdminState::ALL.iter().find(|(_, known)| *known == name);
    known.map(|(state, _)| *state).ok_or_else(|| format!("a state is ready, drain or maint, not {name}"))
}

fn state_name(state: AdminState) -> &'static str {
    AdminState::ALL.iter().find(|(known, _)| *known == state).map_or("", |(_, name)| name)
}

/// The sessions that are meant by all of these that are there.
fn filter(
    client: Option<String>,
    backend: Option<String>,
    server: Option<String>,
    tls: Option<bool>,
    server_name: Option<String>,
) -> Result<SessionFilter, String> {
    let client = client.as_deref().map(network).transpose()?;
    Ok(SessionFilter { client, backend, server, tls, server_name, ..SessionFilter::default() })
}

fn who(glance: &Glance, filter: &SessionFilter, limit: usize) -> Value {
    let seen = live(glance, filter, limit);
    let sessions: Vec<Value> = seen.sessions.iter().map(session_value).collect();
    json!({ "ok": true, "sessions": sessions, "more": seen.more })
}

fn live(glance: &Glance, filter: &SessionFilter, limit: usize) -> SessionsSeen {
    let mut all = SessionsSeen::default();
    for asker in &glance.askers {
        let seen = asker.sessions(filter, limit - all.sessions.len());
        all.sessions.extend(seen.sessions);
        all.more += seen.more;
    }
    all
}

fn session_value(session: &SessionSeen) -> Value {
    json!({
        "session": session.id.as_str(), "service": session.service, "listener": session.listener,
        "client": session.client.to_string(), "destination": session.destination.to_string(),
        "backend": session.backend, "server": session.server, "state": session.state,
        "ended-ago": session.ended.map(|ago| ago.as_secs_f64()),
        "age": session.age.as_secs_f64(), "idle": session.idle.as_secs_f64(),
        "bytes-in": session.from_client, "bytes-out": session.from_server,
        "tls": session.tls.as_ref().map(tls_value),
    })
}

/// What is known of a client's TLS.
pub fn tls_value(tls: &TlsSeen) -> Value {
    json!({
        "ends": tls.ends.name(), "version": tls.version, "sni": tls.server_name, "certificate": tls.certificate,
        "certificate-name": tls.client_name,
    })
}

/// The session that an id means, live or ended.
fn session(glance: &Glance, id: &str) -> Result<Value, String> {
    let wanted = Wanted::of(id)?;
    let of_client = SessionFilter { client: wanted.client, port: Some(wanted.port), ..SessionFilter::default() };
    let mut candidates = live(glance, &of_client, OF_ONE_CLIENT_MAX).sessions;
    for asker in &glance.askers {
        candidates.extend(asker.ended(&of_client, OF_ONE_CLIENT_MAX).sessions);
    }
    let found = wanted.nearest(candidates).ok_or_else(|| wanted.nothing(id))?;
    Ok(json!({ "ok": true, "session": session_value(&found) }))
}

/// Ends the sessions of a client, or the one of an id.
fn kick(glance: &Glance, whom: &str) -> Result<Value, String> {
    let filter = match network(whom) {
        Ok(client) => SessionFilter { client: Some(client), ..SessionFilter::default() },
        Err(_) => {
            let wanted =
                Wanted::of(whom).map_err(|_| format!("{whom} is no address, no network and no session's id"))?;
            let of_client =
                SessionFilter { client: wanted.client, port: Some(wanted.port), ..SessionFilter::default() };
            let found = wanted.nearest(live(glance, &of_client, OF_ONE_CLIENT_MAX).sessions);
            SessionFilter { id: Some(found.ok_or_else(|| wanted.nothing(whom))?.id), ..SessionFilter::default() }
        }
    };
    let kicked = end(glance, &filter, End::Killed, Duration::ZERO);
    tracing::info!(event = "session", "{kicked} sessions of {whom} are ended by an operator");
    Ok(json!({ "ok": true, "kicked": kicked }))
}

/// Ends the sessions that `who` shows with the same filters. All of them is more than anybody means.
fn kick_all(glance: &Glance, filter: &SessionFilter) -> Result<Value, String> {
    if *filter == SessionFilter::default() {
        return Err("say whom: a client or a session, or --client, --backend, --server, --tls, --sni".to_owned());
    }
    let kicked = end(glance, filter, End::Killed, Duration::ZERO);
    tracing::info!(event = "session", "{kicked} sessions of {} are ended by an operator", words(filter));
    Ok(json!({ "ok": true, "kicked": kicked }))
}

/// What an operator has asked for.
fn words(filter: &SessionFilter) -> String {
    let yes_or_no = |yes| if yes { "yes" } else { "no" }.to_owned();
    let all = [
        ("client", filter.client.map(|client| client.to_string())),
        ("backend", filter.backend.clone()),
        ("server", filter.server.clone()),
        ("tls", filter.tls.map(yes_or_no)),
        ("sni", filter.server_name.clone()),
    ];
    let said: Vec<String> = all.into_iter().filter_map(|(name, value)| Some(format!("{name} {}", value?))).collect();
    said.join(", ")
}

/// Which listeners let an address send headers, and by which of their networks: the longest that holds it.
fn trust(glance: &Glance, address: &str) -> Result<Value, String> {
    let address: IpAddr = address.parse().map_err(|_| format!("{address} is no address"))?;
    let snapshot = glance.snapshot();
    let of = |served: &Served| {
        let by =
            served.networks.iter().filter(|network| network.contains(address)).max_by_key(|network| network.prefix());
        let (connections, last) = by.map(|by| used(&snapshot, served, by)).unwrap_or_default();
        json!({
            "service": served.service, "listener": served.name, "by": by.map(ToString::to_string),
            "at": served.networks_at, "untrusted": untrusted(served),
            "connections": by.map(|_| connections), "last": last,
        })
    };
    let listeners: Vec<Value> = glance.listeners.iter().filter(|served| served.haproxy).map(of).collect();
    Ok(json!({ "ok": true, "address": address.to_string(), "listeners": listeners }))
}

/// The networks that each listener trusts and how they are used, and who has come from outside of them of late.
fn trusted(glance: &Glance) -> Value {
    let snapshot = glance.snapshot();
    let network_of = |served: &Served, network: &Network| {
        let (connections, last) = used(&snapshot, served, network);
        json!({ "network": network.to_string(), "connections": connections, "last": last })
    };
    let listener = |served: &Served| {
        let networks: Vec<Value> = served.networks.iter().map(|network| network_of(served, network)).collect();
        json!({
            "service": served.service, "listener": served.name, "at": served.networks_at,
            "untrusted": untrusted(served), "networks": networks,
        })
    };
    let listeners: Vec<Value> = glance.listeners.iter().filter(|served| served.haproxy).map(listener).collect();
    let outside: Vec<Value> = glance.outsiders().iter().map(outsider).collect();
    json!({ "ok": true, "listeners": listeners, "outside": outside })
}

/// How many connections of a listener's network were let in, and how many seconds ago the last one was.
fn used(snapshot: &Snapshot, served: &Served, network: &Network) -> (u64, Option<u64>) {
    let ago = |last: SystemTime| SystemTime::now().duration_since(last).unwrap_or_default().as_secs();
    let found = snapshot.network_use(&served.service, &served.name, *network);
    found.map_or((0, None), |found| (found.connections, Some(ago(found.last))))
}

/// What becomes of peers outside of a listener's networks.
fn untrusted(served: &Served) -> &'static str {
    if served.plain_untrusted { "plain" } else { "abort" }
}

fn outsider(one: &OutsiderSeen) -> Value {
    json!({
        "network": one.network.to_string(), "service": one.service, "listener": one.listener,
        "peer": one.peer.to_string(), "count": one.count, "first": one.first.as_secs_f64(),
        "last": one.last.as_secs_f64(), "sent": Escaped(&one.bytes).to_string(), "diagnosis": one.diagnosis,
        "advice": one.advice,
    })
}

fn ban(all: &Bans, text: &str, seconds: Option<u64>) -> Result<Value, String> {
    let network = network(text)?;
    if network.prefix() == 0 {
        return Err(format!("{network} is everybody"));
    }
    let now = Instant::now();
    let until = seconds.map(|seconds| now + Duration::from_secs(seconds.min(BAN_MAX.as_secs())));
    all.set(network, until, now).map_err(|error| error.to_string())?;
    let time = seconds.map_or("for good".to_owned(), |seconds| format!("for {seconds} s"));
    tracing::info!(event = "ban", "clients of {network} are banned {time} by an operator");
    Ok(json!({ "ok": true, "network": network.to_string() }))
}

fn unban(all: &Bans, text: &str) -> Result<Value, String> {
    let network = network(text)?;
    match all.lift(network, Instant::now()) {
        true => {
            tracing::info!(event = "ban", "clients of {network} are banned no more, says an operator");
            Ok(json!({ "ok": true, "network": network.to_string() }))
        }
        false => Err(format!("{network} is not banned (bans shows who is; client_banned_networks is another list)")),
    }
}

/// Those in force, with the seconds that are left.
fn bans(all: &Bans) -> Value {
    let now = Instant::now();
    let left = |until: Option<Instant>| until.map(|until| until.saturating_duration_since(now).as_secs_f64());
    let list = all.list(now).into_iter();
    let list: Vec<Value> =
        list.map(|(network, until)| json!({ "network": network.to_string(), "left": left(until) })).collect();
    json!({ "ok": true, "bans": list })
}

/// Sets the bans that another process has told of, with the time that they still have; tells how many.
pub fn take_over_bans(all: &Bans, answer: &Value) -> usize {
    let now = Instant::now();
    let told = answer["bans"].as_array().into_iter().flatten();
    let set = told.filter(|ban| {
        let network = ban["network"].as_str().and_then(|text| text.parse().ok());
        let until =
            ban["left"].as_f64().map(|left| now + Duration::from_secs_f64(left.clamp(0.0, BAN_MAX.as_secs_f64())));
        network.is_some_and(|network: Network| all.set(network, until, now).is_ok())
    });
    set.count()
}

/// What an id says.
struct Wanted {
    client: Option<Network>,
    port: u16,
    /// Low bits of microseconds.
    time: u64,
}

impl Wanted {
    fn of(id: &str) -> Result<Wanted, String> {
        // In a log it stands in pointed brackets.
        let bare = id.trim_start_matches('<').trim_end_matches('>');
        let (time, client) = SessionId::decode(bare).ok_or_else(|| format!("{id} is no session's id"))?;
        let bits = if client.is_ipv4() { 32 } else { 128 };
        Ok(Wanted { client: Network::new(client.ip(), bits), port: client.port(), time })
    }

    /// The session whose own id is nearest in time.
    fn nearest(&self, candidates: Vec<SessionSeen>) -> Option<SessionSeen> {
        let apart = |one: &SessionSeen| {
            let (time, _) = SessionId::decode(one.id.as_str())?;
            Some(apart(time, self.time)).filter(|apart| *apart <= NEAR)
        };
        candidates.into_iter().filter(|one| apart(one).is_some()).min_by_key(apart)
    }

    fn nothing(&self, id: &str) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros() as u64;
        let ago = now.saturating_sub(SessionId::time(self.time, now)) / 1_000_000;
        format!(
            "no session is known of {id}, which began {ago} s ago: it is neither live nor among those that ended last"
        )
    }
}

/// The time between two ids, whichever is the earlier.
fn apart(one: u64, other: u64) -> Duration {
    let forth = one.wrapping_sub(other) & TIME_MASK;
    let back = other.wrapping_sub(one) & TIME_MASK;
    Duration::from_micros(forth.min(back))
}

fn network(text: &str) -> Result<Network, String> {
    text.parse().map_err(|_| format!("{text} is no address and no network"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_ids_are_compared_around_the_corner() {
        assert_eq!(apart(5, TIME_MASK), Duration::from_micros(6));
        assert_eq!(apart(TIME_MASK, 5), Duration::from_micros(6));
        assert_eq!(apart(7, 7), Duration::ZERO);
    }

    #[test]
    fn an_id_is_taken_as_the_log_has_it() {
        let wanted = Wanted::of("<N3eB81dhiBPGM2QH>").expect("an id of Dovecot's");
        assert_eq!(
            (wanted.port, wanted.client.map(|client| client.to_string())),
            (5000, Some("198.51.100.7/32".into()))
        );
        assert!(Wanted::of("nonsense").is_err());
    }
}
