//! TLS by the kernel (kTLS, Documentation/networking/tls.rst): once the keys of a session are set on its socket, plaintext is
//! read from it and written to it, by any process that has it.
//!
//! What is no data (alerts, messages of a handshake) has its own type of record: recvmsg(2) tells it beside the bytes, and
//! plain recv(2) fails with EIO where one stands at the head. So a socket without such keys pays nothing for it.

use std::io;
use std::mem::offset_of;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::ptr;
use std::sync::OnceLock;

use super::sys::{option, set_option};

const ULP: &[u8] = b"tls";
/// Types of records (RFC 8446, section 5.1).
const ALERT: u8 = 21;
/// `close_notify`, a warning.
const CLOSE_NOTIFY: [u8; 2] = [1, 0];
/// What stands at the head of every `struct tls12_crypto_info_*`, and how long it is: AES-128-GCM, AES-256-GCM,
/// ChaCha20-Poly1305 (linux/tls.h).
const CIPHERS: [(u16, usize); 3] = [(51, 40), (52, 56), (54, 56)];
/// TLS 1.2 and 1.3.
const VERSIONS: [u16; 2] = [0x0303, 0x0304];

/// A control message of one byte: the type of a record. As CMSG_DATA(3) has it, the byte stands right behind the header.
#[repr(C)]
struct Control {
    header: libc::cmsghdr,
    kind: u8,
}

const CONTROL_LENGTH: usize = offset_of!(Control, kind) + 1;

/// Why this kernel does not take the sessions that end here, if so: it is asked once, by sockets on loopback, for every
/// version and cipher that may be agreed.
pub fn kernel_tls() -> Result<(), String> {
    static ASKED: OnceLock<Result<(), String>> = OnceLock::new();
    ASKED.get_or_init(|| ask().map_err(|error| error.to_string())).clone()
}

fn ask() -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let kinds = VERSIONS.into_iter().flat_map(|version| CIPHERS.map(|cipher| (version, cipher)));
    for (version, (cipher, length)) in kinds {
        let socket = TcpStream::connect(listener.local_addr()?)?;
        let _peer = listener.accept()?;
        let mut keys = vec![0; length];
        keys[..2].copy_from_slice(&version.to_ne_bytes());
        keys[2..4].copy_from_slice(&cipher.to_ne_bytes());
        attach(socket.as_fd())?;
        set_keys(socket.as_fd(), &keys, &keys)?;
    }
    Ok(())
}

/// Makes a connected socket one that can be given keys. Until it has them it is as it was.
pub(super) fn attach(socket: BorrowedFd<'_>) -> io::Result<()> {
    set_option(socket, (libc::IPPROTO_TCP, libc::TCP_ULP), ULP)
}

/// Sets the keys for what is sent and for what is received: each a `struct tls12_crypto_info_*`.
pub(super) fn set_keys(socket: BorrowedFd<'_>, send: &[u8], receive: &[u8]) -> io::Result<()> {
    set_option(socket, (libc::SOL_TLS, libc::TLS_TX), send)?;
    set_option(socket, (libc::SOL_TLS, libc::TLS_RX), receive)
}

/// Whether a socket is of that kind.
pub(super) fn is_attached(socket: BorrowedFd<'_>) -> bool {
    let mut name = [0u8; 16];
    option(socket, (libc::IPPROTO_TCP, libc::TCP_ULP), &mut name).is_ok() && name.starts_with(ULP)
}

/// Says that nothing follows, behind all that was sent.
pub(super) fn close_notify(socket: BorrowedFd<'_>) -> io::Result<()> {
    let mut control = Control { header: zeroed_header(), kind: ALERT };
    control.header.cmsg_level = libc::SOL_TLS;
    control.header.cmsg_type = libc::TLS_SET_RECORD_TYPE;
    control.header.cmsg_len = CONTROL_LENGTH as _;
    let mut words = CLOSE_NOTIFY;
    let mut piece = libc::iovec { iov_base: words.as_mut_ptr().cast(), iov_len: words.len() };
    let message = message(&mut piece, &mut control);
    // SAFETY: the message names `piece`, and by it `words`, and `control`, which is one whole control message; all of them
    // live through the call.
    check_size(unsafe { libc::sendmsg(socket.as_raw_fd(), &message, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL) })
        .map(drop)
}

/// Takes the record that is no data: 0, an end, if it is `close_notify`.
///
/// # Errors
/// ECONNRESET if the peer has said something else, which ends the session; of recvmsg(2).
pub(super) fn end_of(socket: BorrowedFd<'_>) -> io::Result<usize> {
    let mut control = Control { header: zeroed_header(), kind: 0 };
    let mut words = [0u8; 64];
    let mut piece = libc::iovec { iov_base: words.as_mut_ptr().cast(), iov_len: words.len() };
    let mut message = message(&mut piece, &mut control);
    // SAFETY: the message names `piece`, and by it `words`, and `control`, with their lengths; all of them live through the
    // call, and every byte that the kernel may write there is a valid value.
    check_size(unsafe { libc::recvmsg(socket.as_raw_fd(), &mut message, libc::MSG_DONTWAIT) })?;
    let told = (control.header.cmsg_level, control.header.cmsg_type) == (libc::SOL_TLS, libc::TLS_GET_RECORD_TYPE);
    match (told, control.kind, words[1]) {
        (true, ALERT, 0) => Ok(0),
        _ => Err(io::Error::from_raw_os_error(libc::ECONNRESET)),
    }
}

fn zeroed_header() -> libc::cmsghdr {
    // SAFETY: it consists of integers, of which zero is a valid value.
    unsafe { std::mem::zeroed() }
}

fn message(piece: &mut libc::iovec, control: &mut Control) -> libc::msghdr {
    // SAFETY: it consists of integers and pointers, of which zero is a valid value.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = piece;
    message.msg_iovlen = 1;
    message.msg_control = ptr::from_mut(control).cast();
    message.msg_controllen = size_of::<Control>() as _;
    message
}

fn check_size(size: libc::ssize_t) -> io::Result<usize> {
    usize::try_from(size).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_without_keys_is_none() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("loopback");
        let socket = TcpStream::connect(listener.local_addr().expect("bound")).expect("it listens");
        assert!(!is_attached(socket.as_fd()));
        assert!(set_keys(socket.as_fd(), &[0; 40], &[0; 40]).is_err(), "nothing was attached");
        // It is asked once, and says the same again.
        assert_eq!(kernel_tls(), kernel_tls());
    }
}
