//! A connection's bytes over tokio-uring's socket, in buffers that are given away and come back.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io::{self, Cursor, ErrorKind, Read};
use std::net::Shutdown;
use std::rc::Rc;

use ::tokio::sync::Mutex;
use ::tokio_uring::BufResult;
use ::tokio_uring::buf::{BoundedBuf, BoundedBufMut};
use ::tokio_uring::net::TcpStream;

use crate::dispatch::{Accepted, Parts, Permit, TlsSession};

/// Room for records while the peer may be silent for long.
const ROOM_WAITING: usize = 2 * 1024;
/// Room for records once the peer has filled that; plaintext that is read at once.
const ROOM_BUSY: usize = 16 * 1024;

/// Reads the residual, then tokio-uring's socket; writes to the socket. With a TLS session both go through it.
///
/// As with the runtime's own socket, buffers are given away and come back with the result, and nothing takes `&mut`: a
/// clone is the same stream, so that one task may read while another writes. There is to be one of each at a time.
///
/// Futures are to be awaited to their end. What a read that was dropped would have brought is lost, as by the socket's own; after
/// a write or a shutdown that was dropped with TLS records half sent, all others fail. When the last clone goes, whatever
/// is still being sent by such a one is cut off.
///
/// ```no_run
/// use vestibule::dispatch::Pool;
///
/// Pool::tokio_uring("echo", 2, 10_000, |connection| async move {
///     let stream = connection.into_uring_stream();
///     let mut buffer = Vec::with_capacity(4096);
///     loop {
///         let read;
///         buffer.clear();
///         (read, buffer) = stream.read(buffer).await;
///         match read {
///             Ok(0) | Err(_) => break,
///             Ok(_) => {
///                 let written;
///                 (written, buffer) = stream.write_all(buffer).await;
///                 if written.is_err() {
///                     return;
///                 }
///             }
///         }
///     }
///     let _ = stream.shutdown().await;
/// });
/// ```
#[derive(Clone)]
pub struct UringStream(Rc<Owner>);

/// All clones of a stream.
struct Owner(Rc<Connection>);

struct Connection {
    socket: TcpStream,
    residual: RefCell<Cursor<Vec<u8>>>,
    tls: Option<Secured>,
    /// Behind the socket, so that a connection counts until it is closed.
    _permit: Option<Permit>,
}

/// The session; borrowed for moments, never while anybody waits.
struct Secured {
    session: RefCell<Box<dyn TlsSession>>,
    /// Whose turn it is to send: records go out in the order in which they were made, one piece at a time.
    turn: Mutex<()>,
    /// Records are on their way. Seen by whoever has the turn: they were given up on the way.
    sending: Cell<bool>,
    /// Room of the next read.
    room: Cell<usize>,
}

impl Accepted<TcpStream> {
    /// A reader and writer in tokio-uring's manner, which yields the residual first and speaks through TLS where there is a
    /// session. The connection's metadata stays behind: to be asked for before.
    pub fn into_uring_stream(self) -> UringStream {
        let Parts { socket, residual, permit, tls } = self.into_parts();
        let residual = RefCell::new(Cursor::new(residual));
        let connection = Connection { socket, residual, tls: tls.map(Secured::new), _permit: permit };
        UringStream(Rc::new(Owner(Rc::new(connection))))
    }
}

impl UringStream {
    /// Reads what is there, or waits for something; 0 at the end, and into a buffer without room.
    ///
    /// # Errors
    /// The socket's. With TLS: `UnexpectedEof` if the peer has ended its stream without `close_notify`, since then something
    /// may be missing, and `InvalidData` if it breaks the protocol.
    pub async fn read<T: BoundedBufMut>(&self, mut buffer: T) -> BufResult<usize, T> {
        let connection = &self.0.0;
        if let Some(secured) = &connection.tls {
            let read = connection.read_secured(secured, &mut buffer).await;
            return (read, buffer);
        }
        match copy_into(&mut buffer, |room| connection.residual.borrow_mut().read(room)) {
            Ok(0) => connection.socket.read(buffer).await,
            read => (read, buffer),
        }
    }

    /// Writes all of the buffer, and waits until the kernel has taken it.
    ///
    /// # Errors
    /// The socket's; `BrokenPipe` if the session is over, or an earlier future was dropped on its way. Some of it may be
    /// written then.
    pub async fn write_all<T: BoundedBuf>(&self, buffer: T) -> BufResult<(), T> {
        let connection = &self.0.0;
        let Some(secured) = &connection.tls else { return connection.socket.write_all(buffer).await };
        let (bounds, bytes) = (buffer.bounds(), buffer.slice_full());
        let written = connection.write_secured(secured, &bytes).await;
        (written, T::from_buf_bounds(bytes.into_inner(), bounds))
    }

    /// Tells the peer that nothing follows: `close_notify` where there is TLS, then FIN. Nothing may be written afterwards;
    /// what the peer still sends can be read.
    ///
    /// # Errors
    /// The socket's; `BrokenPipe` if an earlier future was dropped on its way.
    pub async fn shutdown(&self) -> io::Result<()> {
        let connection = &self.0.0;
        if let Some(secured) = &connection.tls {
            secured.session.borrow_mut().close();
            connection.send(secured).await?;
        }
        connection.socket.shutdown(Shutdown::Write)
    }

    /// The socket, for options such as TCP_NODELAY. Reading from it directly would skip the residual, and break TLS.
    pub fn socket(&self) -> &TcpStream {
        &self.0.0.socket
    }
}

impl Connection {
    async fn read_secured(self: &Rc<Self>, secured: &Secured, buffer: &mut impl BoundedBufMut) -> io::Result<usize> {
        if buffer.bytes_total() == 0 {
            return Ok(0);
        }
        loop {
            match copy_into(buffer, |room| secured.session.borrow_mut().read(room)) {
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.feed(secured).await?,
                read => return read,
            }
        }
    }

    /// Feeds the session with what the socket has.
    async fn feed(self: &Rc<Self>, secured: &Secured) -> io::Result<()> {
        let (count, bytes) = self.socket.read(Vec::with_capacity(secured.room.get())).await;
        let count = count?;
        if count == 0 {
            return Err(io::Error::new(ErrorKind::UnexpectedEof, "the peer has closed without close_notify"));
        }
        secured.room.set(if count == bytes.capacity() { ROOM_BUSY } else { ROOM_WAITING });
        let fed = secured.session.borrow_mut().feed(&bytes[..count]);
        match fed {
            Ok(()) => self.answer(secured),
            // An alert tells the peer why; that it cannot be sent is nothing new.
            Err(_) => drop(self.send(secured).await),
        }
        fed
    }

    /// Sends what the session itself has to say to what was read, beside whoever reads: the peer may take nothing before more
    /// is read from it.
    fn answer(self: &Rc<Self>, secured: &Secured) {
        // Whoever has the turn sends everything.
        if secured.session.borrow().has_unsent() && secured.turn.try_lock().is_ok() {
            let connection = self.clone();
            ::tokio_uring::spawn(async move {
                if let Some(secured) = &connection.tls {
                    // An error is told by the next call.
                    let _ = connection.send(secured).await;
                }
            });
        }
    }

    async fn write_secured(&self, secured: &Secured, mut rest: &[u8]) -> io::Result<()> {
        loop {
            let taken = secured.session.borrow_mut().write(rest);
            rest = &rest[taken..];
            // It has room, and takes nothing.
            if taken == 0 && !rest.is_empty() && !secured.session.borrow().has_unsent() {
                return Err(ErrorKind::BrokenPipe.into());
            }
            self.send(secured).await?;
            if rest.is_empty() {
                return Ok(());
            }
        }
    }

    /// Sends every record.
    async fn send(&self, secured: &Secured) -> io::Result<()> {
        let _turn = secured.turn.lock().await;
        if secured.sending.get() {
            return Err(io::Error::new(ErrorKind::BrokenPipe, "an earlier write was given up on its way"));
        }
        loop {
            let records = secured.records();
            if records.is_empty() {
                return Ok(());
            }
            secured.sending.set(true);
            let (sent, _) = self.socket.write_all(records).await;
            secured.sending.set(false);
            sent?;
        }
    }
}

impl Secured {
    fn new(session: Box<dyn TlsSession>) -> Secured {
        Secured {
            session: RefCell::new(session),
            turn: Mutex::new(()),
            sending: Cell::new(false),
            room: Cell::new(ROOM_WAITING),
        }
    }

    /// All records that nobody has taken yet.
    fn records(&self) -> Vec<u8> {
        let (mut session, mut records) = (self.session.borrow_mut(), Vec::new());
        while session.has_unsent() {
            session.send(&mut records).expect("a vector takes every write");
        }
        records
    }
}

/// Reads into a buffer that may have room that was never written.
fn copy_into(buffer: &mut impl BoundedBufMut, read: impl FnOnce(&mut [u8]) -> io::Result<usize>) -> io::Result<usize> {
    let mut room = [0; ROOM_BUSY];
    let most = buffer.bytes_total().min(room.len());
    let count = read(&mut room[..most])?;
    buffer.put_slice(&room[..count]);
    Ok(count)
}

impl Drop for Owner {
    /// An operation of the runtime's keeps its socket open until it ends; nobody waits for this one any more.
    fn drop(&mut self) {
        if self.0.tls.as_ref().is_some_and(|secured| secured.sending.get()) {
            let _ = self.0.socket.shutdown(Shutdown::Both);
        }
    }
}

impl fmt::Debug for UringStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tls = self.0.0.tls.as_ref().map(|secured| secured.session.borrow().info().clone());
        f.debug_struct("UringStream").field("tls", &tls).finish_non_exhaustive()
    }
}
