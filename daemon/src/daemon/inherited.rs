//! The sockets that the service manager has opened or kept for us (sd_listen_fds(3), systemd.socket(5)).

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::UnixListener;
use std::path::Path;

use listenfd::ListenFd;
use nix::libc::{AF_UNIX, SOCK_SEQPACKET};
use rustix::net::{ipproto, sockopt};
use sd_notify::NotifyState;
use vestibule::config::Settings;
use vestibule::ring;

use super::Error;
use super::systemd::{KEPT, tell};

/// The number of the first descriptor that is passed (SD_LISTEN_FDS_START); crate listenfd lets LISTEN_FDS_FIRST_FD say another.
const FIRST: usize = 3;
/// In the flags of /proc/self/fdinfo: no other program gets the descriptor. All have it that this process has opened itself.
const CLOSES_ON_EXEC: u32 = 0o2_000_000;

/// Sockets that were open when the process began.
pub struct Inherited(Vec<Socket>);

struct Socket {
    /// `FileDescriptorName=`; the unit's name if that is not set.
    name: String,
    address: SocketAddr,
    socket: TcpListener,
    /// Whether a listener has it.
    taken: bool,
}

impl Inherited {
    /// Takes what LISTEN_FDS names. What was meant for another process (LISTEN_PID) is left alone.
    ///
    /// # Errors
    /// Names the first descriptor that no listener could serve, and what to do about it.
    pub fn take() -> Result<Inherited, Error> {
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        let mut names = names.split(':');
        let first = std::env::var("LISTEN_FDS_FIRST_FD").ok().and_then(|first| first.parse().ok()).unwrap_or(FIRST);
        let mut all = ListenFd::from_env();
        let mut sockets: Vec<Socket> = Vec::with_capacity(all.len());
        for index in 0..all.len() {
            let name = names.next().filter(|name| !name.is_empty()).unwrap_or("without a name").to_owned();
            let number = first + index;
            let wrong = |what| format!("the service manager has passed descriptor {number} ({name}), which is {what}");
            if !was_passed(number) {
                return Err(wrong("not open; LISTEN_FDS counts more descriptors than there are".to_owned()).into());
            }
            let socket = listening_socket(&mut all, index).map_err(wrong)?;
            sockets.push(Socket::new(name, socket)?);
        }
        // One of a socket unit may have been kept as well, and one of both families under two names: there are several
        // descriptors of it then.
        sockets.sort_by_key(Socket::is_kept);
        let mut known = HashSet::new();
        sockets.retain(|one| one.inode().is_none_or(|inode| known.insert(inode)));
        Ok(Inherited(sockets))
    }

    /// An error if a socket of both families would serve two listeners: which of them gets a client would be luck.
    pub fn suits(&self, settings: &Settings) -> Result<(), String> {
        one_listener_each(settings, self.0.iter().map(|one| &one.socket))
    }

    /// The sockets that take clients of this address.
    pub fn bound_to(&mut self, address: SocketAddr) -> io::Result<Vec<TcpListener>> {
        let these = self.0.iter_mut().filter(|one| ring::takes_clients_of(&one.socket, address));
        these.map(Socket::give).collect()
    }

    /// An error if something is left: it would accept connections into the void. What was kept of listeners that are no
    /// longer configured is let go.
    pub fn all_taken(&mut self) -> Result<(), Error> {
        for Socket { name, address, .. } in self.0.extract_if(.., |one| one.is_kept() && !one.taken) {
            tracing::warn!("no inet_listener has the address {address} of a socket that was kept: it is let go");
            tell(&[NotifyState::FdStoreRemove, NotifyState::FdName(&name)]);
        }
        match self.0.drain(..).find(|one| !one.taken) {
            None => Ok(()),
            Some(Socket { name, address, .. }) => Err(format!(
                "the service manager has passed a socket on {address} ({name}), but no inet_listener has that address \
                 and port; add one, or remove ListenStream= from the socket unit"
            )
            .into()),
        }
    }
}

impl Socket {
    fn new(name: String, socket: TcpListener) -> io::Result<Socket> {
        Ok(Socket { name, address: ring::bound_to(&socket)?, socket, taken: false })
    }

    fn give(&mut self) -> io::Result<TcpListener> {
        self.taken = true;
        self.socket.try_clone()
    }

    /// Whether it comes from the descriptor store, and not from a socket unit.
    fn is_kept(&self) -> bool {
        self.name.starts_with(KEPT)
    }

    fn inode(&self) -> Option<u64> {
        nix::sys::stat::fstat(&self.socket).ok().map(|found| found.st_ino)
    }
}

/// An error if one of the sockets takes clients of both families and would serve two listeners: which of them gets a client
/// would be luck.
pub fn one_listener_each<'a>(
    settings: &Settings,
    sockets: impl Iterator<Item = &'a TcpListener>,
) -> Result<(), String> {
    let mut both = sockets.filter(|socket| ring::serves_both_families(socket));
    both.try_for_each(|socket| {
        let port = ring::bound_to(socket).map_err(|error| error.to_string())?.port();
        one_listener_for_both(settings, port)
    })
}

/// Whether there is a port of which `*` and `[::]` belong to different listeners.
pub fn has_divided_ports(settings: &Settings) -> bool {
    let mut listeners = settings.services.iter().flat_map(|service| &service.listeners);
    listeners.any(|one| {
        let has_one = one.addresses.iter().filter(|address| address.is_unspecified()).count() == 1;
        has_one && one_listener_for_both(settings, one.port).is_err()
    })
}

/// An error if `*` and `[::]` of a port, which one socket serves, belong to different listeners.
fn one_listener_for_both(settings: &Settings, port: u16) -> Result<(), String> {
    let at = |ip: IpAddr| {
        let all = settings.services.iter().flat_map(|service| service.listeners.iter().map(move |one| (service, one)));
        let mut of_port = all.filter(move |(_, one)| one.port == port);
        of_port.find(|(_, one)| one.addresses.contains(&ip)).map(|(service, one)| (&service.name, &one.name))
    };
    match (at(Ipv4Addr::UNSPECIFIED.into()), at(Ipv6Addr::UNSPECIFIED.into())) {
        (Some(one), Some(other)) if one != other => Err(format!(
            "one socket on [::]:{port} takes clients of both families, but * is of inet_listener {}/{} and [::] of {}/{}; \
             set BindIPv6Only=ipv6-only in the socket unit and add ListenStream=0.0.0.0:{port}, or give both addresses to \
             one inet_listener",
            one.0, one.1, other.0, other.1
        )),
        _ => Ok(()),
    }
}

/// Whether a descriptor was open when the process began: if not, it may be one of the process itself by now. Where that cannot
/// be seen, LISTEN_FDS is believed.
fn was_passed(number: usize) -> bool {
    let Ok(text) = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}")) else {
        return !Path::new("/proc/self/fdinfo").exists();
    };
    let flags = text.lines().find_map(|line| u32::from_str_radix(line.strip_prefix("flags:")?.trim(), 8).ok());
    flags.is_none_or(|flags| flags & CLOSES_ON_EXEC == 0)
}

/// A TCP socket that listens, or what is there instead, and the remedy.
fn listening_socket(all: &mut ListenFd, index: usize) -> Result<TcpListener, String> {
    let Ok(Some(socket)) = all.take_tcp_listener(index) else { return Err(other_form(all, index)) };
    if rustix::net::getpeername(&socket).is_ok_and(|peer| peer.is_some()) {
        return Err(ACCEPTED.to_owned());
    }
    match sockopt::socket_protocol(&socket) {
        Ok(Some(ipproto::TCP | ipproto::MPTCP)) | Err(_) => {}
        Ok(_) => return Err("a stream socket of another protocol than TCP; remove SocketProtocol=".to_owned()),
    }
    match sockopt::socket_acceptconn(&socket) {
        Ok(true) => Ok(socket),
        Ok(false) => Err("a TCP socket that does not listen; whoever passes it must call listen(2) first".to_owned()),
        Err(error) => Err(format!("a socket that cannot be asked whether it listens: {error}")),
    }
}

const ACCEPTED: &str = "a connection that was accepted already; set Accept=no in the socket unit, so that the listening \
                        socket is passed, to one daemon";

/// What a descriptor is that is no TCP socket. It is closed then.
fn other_form(all: &mut ListenFd, index: usize) -> String {
    if let Ok(Some(socket)) = all.take_unix_listener(index) {
        return unix_stream(&socket);
    }
    if matches!(all.take_udp_socket(index), Ok(Some(_))) || matches!(all.take_unix_datagram(index), Ok(Some(_))) {
        return only_streams("a datagram socket", "ListenDatagram=");
    }
    if matches!(all.take_custom::<OwnedFd>(index, AF_UNIX, SOCK_SEQPACKET, "packets"), Ok(Some(_))) {
        return only_streams("a socket of sequential packets", "ListenSequentialPacket=");
    }
    let number = all.take_raw_fd(index).ok().flatten().unwrap_or_default();
    match std::fs::metadata(format!("/proc/self/fd/{number}")).map(|found| found.file_type()) {
        Err(error) => format!("of a kind that cannot be told: {error}"),
        Ok(kind) if kind.is_fifo() => only_streams("a FIFO", "ListenFIFO="),
        Ok(kind) if kind.is_socket() => only_streams("a socket that is not of TCP", "its Listen…="),
        Ok(_) => only_streams("no socket", "ListenSpecial= (or ListenMessageQueue=, ListenUSBFunction=)"),
    }
}

fn unix_stream(socket: &UnixListener) -> String {
    if rustix::net::getpeername(socket).is_ok_and(|peer| peer.is_some()) {
        return ACCEPTED.to_owned();
    }
    let address = socket.local_addr().ok();
    let path = address.as_ref().and_then(|address| address.as_pathname());
    let place = path.map_or_else(|| "of an abstract name".to_owned(), |path| path.display().to_string());
    format!(
        "a Unix stream socket ({place}): an inet_listener takes TCP alone, and the daemon makes its own Unix sockets \
         (control_socket, takeover_socket, those of worker = handoff) itself; remove its ListenStream= from the socket unit"
    )
}

fn only_streams(what: &str, setting: &str) -> String {
    format!(
        "{what}: an inet_listener takes TCP alone; replace {setting} in the socket unit by ListenStream=ADDRESS:PORT"
    )
}
