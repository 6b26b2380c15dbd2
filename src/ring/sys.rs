//! Every call of libc.

use std::fs::File;
use std::io;
use std::mem::{offset_of, size_of};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use rustix::event::EventfdFlags;
use rustix::net::RecvFlags;
use rustix::process::Rlimit;
use rustix::thread::CpuSet;
use socket2::SockRef;

use super::driver::Errno;

/// Who is connected to a socket (getpeername(2)).
pub fn peer_of(socket: BorrowedFd<'_>) -> Result<SocketAddr, Errno> {
    let address = SockRef::from(&socket).peer_addr().map_err(|error| errno_of(&error))?;
    address.as_socket().ok_or(Errno(libc::EAFNOSUPPORT))
}

/// The number of a system call's error.
pub fn errno_of(error: &io::Error) -> Errno {
    Errno(error.raw_os_error().unwrap_or(libc::EIO))
}

/// Takes a file descriptor that an accept completion has delivered.
///
/// # Safety
/// It is open, and nobody else owns it.
pub unsafe fn adopt(fd: RawFd) -> OwnedFd {
    // SAFETY: what the caller says.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

/// Takes a file descriptor by its number, so that nothing else gets it; `None` if it is in use.
pub fn reserve(number: RawFd) -> Option<OwnedFd> {
    let nothing = File::open("/dev/null").ok()?;
    let fd = rustix::io::fcntl_dupfd_cloexec(&nothing, number).ok()?;
    (fd.as_raw_fd() == number).then_some(fd)
}

/// Copies what waits in a socket without taking or waiting for it (MSG_PEEK, MSG_DONTWAIT, recv(2)).
pub fn peek(socket: BorrowedFd<'_>, room: &mut [u8]) -> io::Result<usize> {
    Ok(rustix::net::recv(socket, room, RecvFlags::PEEK | RecvFlags::DONTWAIT).map(|(count, _)| count)?)
}

/// Bytes that were given to a socket and are not acknowledged yet (SIOCOUTQ, tcp(7)).
pub fn unsent(socket: BorrowedFd<'_>) -> io::Result<libc::c_int> {
    let mut count: libc::c_int = 0;
    let into: *mut libc::c_int = &mut count;
    // SAFETY: the kernel writes one int to `into`, which lives through the call.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, into) })?;
    Ok(count)
}

/// Binds a socket to an address and leaves the choice of a port to connect(2), which then needs only one that is free towards
/// its target (IP_BIND_ADDRESS_NO_PORT, ip(7); it holds for IPv6 too).
pub fn bind_without_port(socket: BorrowedFd<'_>, address: IpAddr) -> io::Result<()> {
    let on: libc::c_int = 1;
    set_option(socket, (libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT), &on.to_ne_bytes())?;
    Ok(rustix::net::bind(socket, &SocketAddr::new(address, 0))?)
}

/// Sets TCP_DEFER_ACCEPT (tcp(7)) in seconds.
pub fn set_defer_accept(fd: BorrowedFd<'_>, seconds: libc::c_int) -> io::Result<()> {
    set_option(fd, (libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT), &seconds.to_ne_bytes())
}

/// TCP_DEFER_ACCEPT as the kernel has rounded it, in seconds; 0 if it is off.
#[cfg(test)]
pub fn defer_accept(fd: BorrowedFd<'_>) -> io::Result<libc::c_int> {
    let mut seconds = [0; size_of::<libc::c_int>()];
    option(fd, (libc::IPPROTO_TCP, libc::TCP_DEFER_ACCEPT), &mut seconds)?;
    Ok(libc::c_int::from_ne_bytes(seconds))
}

/// Who is at the other end of a Unix socket, as it was when the connection was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Credentials {
    /// The process; 0 if it is in a PID namespace that cannot be seen from here.
    pub pid: u32,
    /// Its effective user.
    pub uid: u32,
}

/// Who is at the other end of a Unix socket (SO_PEERCRED, unix(7)). Not by rustix, whose process ids cannot be 0.
pub fn peer_credentials(socket: BorrowedFd<'_>) -> io::Result<Credentials> {
    let mut peer = [0; size_of::<libc::ucred>()];
    option(socket, (libc::SOL_SOCKET, libc::SO_PEERCRED), &mut peer)?;
    let number = |at| u32::from_ne_bytes([peer[at], peer[at + 1], peer[at + 2], peer[at + 3]]);
    Ok(Credentials { pid: number(offset_of!(libc::ucred, pid)), uid: number(offset_of!(libc::ucred, uid)) })
}

/// A counter that wakes its reader (eventfd(2)).
pub fn eventfd() -> io::Result<OwnedFd> {
    Ok(rustix::event::eventfd(0, EventfdFlags::CLOEXEC)?)
}

/// The CPUs that this thread may run on, ascending (sched_getaffinity(2)).
pub fn allowed_cpus() -> io::Result<Vec<usize>> {
    let set = rustix::thread::sched_getaffinity(None)?;
    Ok((0..CpuSet::MAX_CPU).filter(|&cpu| set.is_set(cpu)).collect())
}

/// Pins this thread to one CPU (sched_setaffinity(2)).
pub fn pin_to(cpu: usize) -> io::Result<()> {
    if cpu >= CpuSet::MAX_CPU {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut set = CpuSet::new();
    set.set(cpu);
    Ok(rustix::thread::sched_setaffinity(None, &set)?)
}

/// A resource limit: soft and hard (getrlimit(2)); `u64::MAX` if there is none.
pub fn limit(resource: Resource) -> io::Result<(u64, u64)> {
    let Rlimit { current, maximum } = rustix::process::getrlimit(resource.of_rustix());
    Ok((current.unwrap_or(u64::MAX), maximum.unwrap_or(u64::MAX)))
}

/// Raises the soft limit of open files to the hard one, and tells what it is then (setrlimit(2)).
pub fn raise_open_files() -> io::Result<u64> {
    let (soft, hard) = limit(Resource::OpenFiles)?;
    if soft < hard {
        let hard = rustix::process::getrlimit(Resource::OpenFiles.of_rustix()).maximum;
        rustix::process::setrlimit(Resource::OpenFiles.of_rustix(), Rlimit { current: hard, maximum: hard })?;
    }
    Ok(hard)
}

/// The limits that matter here.
#[derive(Clone, Copy, Debug)]
pub enum Resource {
    /// RLIMIT_NOFILE, a count.
    OpenFiles,
    /// RLIMIT_MEMLOCK, bytes.
    LockedMemory,
}

impl Resource {
    fn of_rustix(self) -> rustix::process::Resource {
        match self {
            Resource::OpenFiles => rustix::process::Resource::Nofile,
            Resource::LockedMemory => rustix::process::Resource::Memlock,
        }
    }
}

/// Sets an option of a socket, which is known by its level and its number (setsockopt(2)).
pub(super) fn set_option(
    socket: BorrowedFd<'_>,
    (level, number): (libc::c_int, libc::c_int),
    value: &[u8],
) -> io::Result<()> {
    let length = value.len() as libc::socklen_t;
    // SAFETY: `value` points to `length` bytes that live through the call.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, number, value.as_ptr().cast(), length) };
    check(result).map(drop)
}

/// Reads an option of a socket into the first bytes of `room` (getsockopt(2)).
pub(super) fn option(
    socket: BorrowedFd<'_>,
    (level, number): (libc::c_int, libc::c_int),
    room: &mut [u8],
) -> io::Result<()> {
    let mut length = room.len() as libc::socklen_t;
    // SAFETY: `room` points to `length` bytes, and whatever the kernel writes there are bytes; both live through the call.
    let result = unsafe { libc::getsockopt(socket.as_raw_fd(), level, number, room.as_mut_ptr().cast(), &mut length) };
    check(result).map(drop)
}

pub(super) fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn this_thread_may_run_somewhere() {
        let cpus = allowed_cpus().expect("every thread has an affinity");
        assert!(!cpus.is_empty());
        assert!(pin_to(usize::MAX).is_err());
    }

    #[test]
    fn limits_are_ordered() {
        for resource in [Resource::OpenFiles, Resource::LockedMemory] {
            let (soft, hard) = limit(resource).expect("every process has limits");
            assert!(soft <= hard);
        }
    }

    #[test]
    fn the_peer_of_a_pair_is_this_process() {
        let (one, _other) = std::os::unix::net::UnixStream::pair().expect("a pair");
        assert_eq!(peer_credentials(one.as_fd()).expect("it has a peer").pid, std::process::id());
    }

    #[test]
    fn no_peer_without_a_connection() {
        let file = std::fs::File::open("/dev/null").expect("exists");
        assert_eq!(peer_of(file.as_fd()), Err(Errno(libc::ENOTSOCK)));
    }
}
