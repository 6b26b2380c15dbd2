//! Door 2 for a client: bans, and limits on its connections.

use std::net::IpAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::Refusal;
use super::bans::Bans;
use super::table::{ClientDebt, ClientTable, Ticket};
use crate::net::{NetworkSet, canonical};

/// What is allowed to one client. A client is an IPv4 or IPv6 network of the length given here; by default an IPv4
/// address, or an IPv6 /64, which one subscriber commonly has to himself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientLimits {
    /// Most connections at a time (`client_connection_limit`).
    pub connections: Option<NonZeroU32>,
    /// Most new connections in a time (`client_rate_limit`, `client_rate_period`).
    pub rate: Option<ClientRate>,
    /// Bits of an IPv4 address that make a client, 1..=32 (`client_ipv4_prefix`).
    pub ipv4_prefix: u8,
    /// Bits of an IPv6 address that make a client, 1..=128 (`client_ipv6_prefix`).
    pub ipv6_prefix: u8,
    /// Clients that are remembered at a time (`client_table_size`).
    pub table_size: u32,
    /// Clients without limits (`client_exempt_networks`).
    pub exempt: NetworkSet,
    /// Clients that are not let in at all (`client_banned_networks`); stronger than `exempt`.
    pub banned: NetworkSet,
    /// Clients that an operator has banned for a time; as strong.
    pub bans: Bans,
    /// Limits that are only tried (`shadow_client_*`): what they would refuse, of what these let in, is counted and told, and
    /// served. Their own `bans` and `shadow` have no effect.
    pub shadow: Option<Box<ClientLimits>>,
}

/// So many new connections at once, and as many again spread evenly over each period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ClientRate {
    /// How many.
    pub connections: NonZeroU32,
    /// In what time.
    pub period: Duration,
}

/// Default of `client_ipv4_prefix`.
pub const IPV4_PREFIX_DEFAULT: u8 = 32;
/// Default of `client_ipv6_prefix`.
pub const IPV6_PREFIX_DEFAULT: u8 = 64;
/// Default of `client_table_size`, as `type ip size 200k` says of a stick table.
pub const CLIENTS_DEFAULT: u32 = 200 * 1024;

impl Default for ClientLimits {
    /// No limits.
    fn default() -> ClientLimits {
        ClientLimits {
            connections: None,
            rate: None,
            ipv4_prefix: IPV4_PREFIX_DEFAULT,
            ipv6_prefix: IPV6_PREFIX_DEFAULT,
            table_size: CLIENTS_DEFAULT,
            exempt: NetworkSet::default(),
            banned: NetworkSet::default(),
            bans: Bans::default(),
            shadow: None,
        }
    }
}

impl ClientLimits {
    /// What an address is counted by: its network, as an IPv6 address.
    pub(super) fn key(&self, client: IpAddr) -> [u8; 16] {
        match canonical(client) {
            IpAddr::V4(ip) => {
                std::net::Ipv4Addr::from(u32::from(ip) & mask(self.ipv4_prefix, 32) as u32).to_ipv6_mapped().octets()
            }
            IpAddr::V6(ip) => (u128::from(ip) & mask(self.ipv6_prefix, 128)).to_be_bytes(),
        }
    }

    fn counts(&self) -> bool {
        self.connections.is_some() || self.rate.is_some()
    }
}

/// The limits in force and the table that they are held against; clones share the table.
///
/// Costs one comparison for a connection where there are no limits.
#[derive(Clone, Debug, Default)]
pub struct Clients(Option<Arc<Inner>>);

#[derive(Debug)]
struct Inner {
    limits: ClientLimits,
    table: Option<Arc<ClientTable>>,
    /// Where the limits that are only tried count.
    shadow: Option<Arc<ClientTable>>,
}

impl Clients {
    /// An empty table, if the limits need one.
    pub fn new(limits: ClientLimits, now: Instant) -> Clients {
        Clients::over(limits, [None, None], now)
    }

    /// Other limits over the same table, so that what is counted stays counted; a new table if its size differs.
    pub fn changed(&self, limits: ClientLimits, now: Instant) -> Clients {
        let same_size = |inner: &&Arc<Inner>| inner.limits.table_size == limits.table_size;
        let present = self.0.as_ref().filter(same_size);
        let tables = present.map_or([None, None], |inner| [inner.table.clone(), inner.shadow.clone()]);
        Clients::over(limits, tables, now)
    }

    /// Over these tables, where there are some and the limits need them.
    fn over(limits: ClientLimits, [table, shadow]: [Option<Arc<ClientTable>>; 2], now: Instant) -> Clients {
        let of = |limits: &ClientLimits, present: Option<Arc<ClientTable>>| {
            let new = || Arc::new(ClientTable::new(limits.table_size, now));
            limits.counts().then(|| present.unwrap_or_else(new))
        };
        let table = of(&limits, table);
        let shadow = limits.shadow.as_ref().and_then(|limits| of(limits, shadow));
        let tries = limits.shadow.is_some();
        let needed = table.is_some() || tries || !limits.banned.is_empty() || limits.bans.are_possible();
        Clients(needed.then(|| Arc::new(Inner { limits, table, shadow })))
    }

    /// Whether every client is let in.
    pub fn are_unlimited(&self) -> bool {
        self.0.is_none()
    }

    /// Lets one more connection of the client in, or refuses it. The ticket, if there is one, must be given back to
    /// [`table`](Clients::table) when the connection ends.
    pub fn admit(&self, client: IpAddr, now: Instant) -> Result<Option<Ticket>, Refusal> {
        let Some(inner) = &self.0 else { return Ok(None) };
        if inner.limits.banned.contains(client) || inner.limits.bans.hold(client, now) {
            return Err(Refusal::ClientBanned);
        }
        match &inner.table {
            Some(table) if !inner.limits.exempt.contains(client) => table.admit(client, &inner.limits, now),
            _ => Ok(None),
        }
    }

    /// What the limits that are only tried say of a connection that was let in: whether they would have refused it. The
    /// ticket, if there is one, must be given back to [`shadow_table`](Clients::shadow_table).
    pub fn try_shadow(&self, client: IpAddr, now: Instant) -> Result<Option<Ticket>, Refusal> {
        let Some(Inner { limits, shadow: table, .. }) = self.0.as_deref() else { return Ok(None) };
        let Some(shadow) = &limits.shadow else { return Ok(None) };
        if shadow.banned.contains(client) {
            return Err(Refusal::ClientBanned);
        }
        match table {
            Some(table) if !shadow.exempt.contains(client) => table.admit(client, shadow, now),
            _ => Ok(None),
        }
    }

    /// Where the limits that are only tried count.
    pub fn shadow_table(&self) -> Option<&Arc<ClientTable>> {
        self.0.as_ref()?.shadow.as_ref()
    }

    /// Counts a connection that was let in elsewhere, such as in another process: no limit keeps it from going on. The
    /// ticket is given back as that of [`admit`](Clients::admit).
    pub fn count(&self, client: IpAddr, now: Instant) -> Option<Ticket> {
        let inner = self.0.as_ref().filter(|inner| !inner.limits.exempt.contains(client))?;
        inner.table.as_ref()?.count(client, &inner.limits, now)
    }

    /// Goes on with what clients have spent of their rates elsewhere; at most once.
    pub fn owe(&self, debts: &[ClientDebt], now: Instant) {
        let Some(Inner { limits: ClientLimits { rate: Some(rate), .. }, table: Some(table), .. }) = self.0.as_deref()
        else {
            return;
        };
        debts.iter().for_each(|debt| table.owe(debt, *rate, now));
    }

    /// The table, if the limits need one.
    pub fn table(&self) -> Option<&Arc<ClientTable>> {
        self.0.as_ref()?.table.as_ref()
    }
}

fn mask(prefix: u8, bits: u8) -> u128 {
    let host = bits - prefix.min(bits);
    // A shift by all 128 bits would overflow.
    u128::MAX.checked_shl(host.into()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap_or_else(|_| panic!("{text} is an address"))
    }

    fn set(networks: &[&str]) -> NetworkSet {
        networks.iter().map(|text| text.parse().expect("a network")).collect()
    }

    #[test]
    fn a_client_is_a_network() {
        let limits = |v4, v6| ClientLimits { ipv4_prefix: v4, ipv6_prefix: v6, ..ClientLimits::default() };
        for (one, other, v4, v6, same) in [
            ("192.0.2.1", "192.0.2.2", 32, 64, false),
            ("192.0.2.1", "192.0.2.2", 24, 64, true),
            ("192.0.2.1", "192.0.3.2", 24, 64, false),
            ("192.0.2.1", "::ffff:192.0.2.1", 32, 64, true),
            ("2001:db8::1", "2001:db8::ffff:0:0:1", 32, 64, true),
            ("2001:db8::1", "2001:db8:0:1::1", 32, 64, false),
            ("2001:db8::1", "2001:db8:0:1::1", 32, 48, true),
            ("2001:db8::1", "2001:db8::2", 32, 128, false),
            ("1.2.3.4", "255.2.3.4", 0, 0, true),
            ("::1", "ffff::1", 0, 0, true),
        ] {
            let limits = limits(v4, v6);
            assert_eq!(limits.key(ip(one)) == limits.key(ip(other)), same, "{one} {other} /{v4} /{v6}");
        }
    }

    #[test]
    fn without_limits_there_is_no_table() {
        let now = Instant::now();
        let clients = Clients::new(ClientLimits::default(), now);
        assert!(clients.0.is_none());
        assert_eq!(clients.admit(ip("192.0.2.1"), now), Ok(None));
        let banned = ClientLimits { banned: set(&["192.0.2.0/24"]), ..ClientLimits::default() };
        let clients = clients.changed(banned, now);
        assert!(clients.table().is_none());
        assert_eq!(clients.admit(ip("::ffff:192.0.2.1"), now), Err(Refusal::ClientBanned));
        assert_eq!(clients.admit(ip("192.0.3.1"), now), Ok(None));
    }

    #[test]
    fn a_ban_of_an_operator_holds_at_once_and_over_changes() {
        let now = Instant::now();
        let bans = Bans::new();
        let with = |limits| ClientLimits { bans: bans.clone(), ..limits };
        let clients = Clients::new(with(ClientLimits::default()), now);
        assert_eq!(clients.admit(ip("192.0.2.1"), now), Ok(None));
        bans.set("192.0.2.0/24".parse().expect("a network"), Some(now + Duration::from_secs(60)), now).expect("room");
        assert_eq!(clients.admit(ip("192.0.2.1"), now), Err(Refusal::ClientBanned));
        let changed =
            clients.changed(with(ClientLimits { exempt: set(&["0.0.0.0/0"]), ..ClientLimits::default() }), now);
        assert_eq!(changed.admit(ip("192.0.2.1"), now), Err(Refusal::ClientBanned));
        assert_eq!(changed.admit(ip("192.0.2.1"), now + Duration::from_secs(60)), Ok(None));
    }

    #[test]
    fn the_exempt_are_not_counted_but_may_be_banned() {
        let now = Instant::now();
        let limits = ClientLimits {
            connections: NonZeroU32::new(1),
            exempt: set(&["10.0.0.0/8"]),
            banned: set(&["10.6.6.6"]),
            ..ClientLimits::default()
        };
        let clients = Clients::new(limits, now);
        for _ in 0..3 {
            assert_eq!(clients.admit(ip("10.0.0.1"), now), Ok(None));
        }
        assert_eq!(clients.admit(ip("10.6.6.6"), now), Err(Refusal::ClientBanned));
        assert!(clients.admit(ip("192.0.2.1"), now).is_ok_and(|ticket| ticket.is_some()));
        assert_eq!(clients.admit(ip("192.0.2.1"), now), Err(Refusal::ClientConnectionLimit));
    }

    #[test]
    fn a_change_of_limits_keeps_what_is_counted() {
        let now = Instant::now();
        let most = |n| ClientLimits { connections: NonZeroU32::new(n), ..ClientLimits::default() };
        let clients = Clients::new(most(2), now);
        let ticket = clients.admit(ip("192.0.2.1"), now).expect("the first").expect("counted");
        let stricter = clients.changed(most(1), now);
        assert_eq!(stricter.admit(ip("192.0.2.1"), now), Err(Refusal::ClientConnectionLimit));
        clients.table().expect("there are limits").release(ticket);
        assert!(stricter.admit(ip("192.0.2.1"), now).is_ok());
        let larger = stricter.changed(ClientLimits { table_size: 4096, ..most(1) }, now);
        assert!(larger.admit(ip("192.0.2.1"), now).is_ok(), "another size is another table");
    }

    #[test]
    fn what_a_client_has_spent_in_one_process_it_has_spent_in_the_next() {
        let now = Instant::now();
        let rate = ClientRate { connections: NonZeroU32::new(4).expect("4"), period: Duration::from_secs(60) };
        let limits = ClientLimits { connections: NonZeroU32::new(9), rate: Some(rate), ..ClientLimits::default() };
        let before = Clients::new(limits.clone(), now);
        let come = |clients: &Clients, client, now| clients.admit(ip(client), now).is_ok();
        assert!((0..3).all(|_| come(&before, "192.0.2.1", now)) && come(&before, "192.0.2.2", now));
        let later = now + Duration::from_secs(15);
        let debts = before.table().expect("there are limits").debts(later);
        assert_eq!(debts.iter().map(|debt| debt.left.as_secs()).collect::<Vec<_>>(), [30], "one is whole again");
        let next = Clients::new(limits, now);
        assert!(come(&next, "192.0.2.1", later), "both accept for a moment");
        next.owe(&debts, later);
        assert!(come(&next, "192.0.2.1", later) && !come(&next, "192.0.2.1", later), "2 before, 1 and 1 here");
        // Those that were let in there count, and spend nothing.
        let tickets: Vec<Ticket> = (0..20).filter_map(|_| next.count(ip("192.0.2.3"), later)).collect();
        assert_eq!(tickets.len(), 20, "whatever the limit");
        assert_eq!(next.admit(ip("192.0.2.3"), later), Err(Refusal::ClientConnectionLimit));
        let table = next.table().expect("there are limits");
        tickets.into_iter().for_each(|ticket| table.release(ticket));
        assert!((0..4).all(|_| come(&next, "192.0.2.3", later)));
    }

    #[test]
    fn limits_that_are_tried_say_what_they_would_refuse_and_refuse_nothing() {
        let now = Instant::now();
        let shadow =
            ClientLimits { connections: NonZeroU32::new(1), banned: set(&["192.0.2.9"]), ..ClientLimits::default() };
        let limits = ClientLimits { shadow: Some(Box::new(shadow)), ..ClientLimits::default() };
        let clients = Clients::new(limits.clone(), now);
        assert!(!clients.are_unlimited() && clients.table().is_none());
        let ticket = clients.try_shadow(ip("192.0.2.1"), now).expect("the first").expect("it counts");
        for _ in 0..2 {
            assert_eq!(clients.admit(ip("192.0.2.1"), now), Ok(None), "it is let in");
            assert_eq!(clients.try_shadow(ip("192.0.2.1"), now), Err(Refusal::ClientConnectionLimit));
        }
        assert_eq!(clients.try_shadow(ip("192.0.2.9"), now), Err(Refusal::ClientBanned));
        let after_reload = clients.changed(limits, now);
        assert_eq!(after_reload.try_shadow(ip("192.0.2.1"), now), Err(Refusal::ClientConnectionLimit));
        after_reload.shadow_table().expect("it counts").release(ticket);
        assert!(after_reload.try_shadow(ip("192.0.2.1"), now).is_ok());
        assert_eq!(Clients::new(ClientLimits::default(), now).try_shadow(ip("192.0.2.1"), now), Ok(None));
    }
}
