//! TLS records on their way to a socket that does not wait.

use std::io::{self, IoSlice, Write};

use crate::dispatch::TlsRecords;
use crate::ring::{Errno, Streams};

/// What has become of records.
#[derive(Clone, Copy, Debug)]
pub struct Unloaded {
    /// So many bytes of them were sent.
    pub count: usize,
    /// None is left.
    pub all: bool,
}

/// Sends records until none is left or the socket has no room. `room` is where several records become one call.
///
/// # Errors
/// The connection's: it takes nothing any more.
pub fn send_records<D: Streams>(
    driver: &mut D,
    socket: &D::Socket,
    records: &mut dyn TlsRecords,
    room: &mut [u8],
) -> Result<Unloaded, Errno> {
    let mut count = 0;
    while records.has_unsent() {
        match records.send(&mut Out { driver, socket, room }) {
            Ok(sent) => count += sent,
            Err(error) => match error.raw_os_error().unwrap_or(libc::EIO) {
                libc::EINTR => {}
                // No room now; memory comes back, too.
                libc::EAGAIN | libc::ENOBUFS | libc::ENOMEM => return Ok(Unloaded { count, all: false }),
                errno => return Err(Errno(errno)),
            },
        }
    }
    Ok(Unloaded { count, all: true })
}

struct Out<'a, D: Streams> {
    driver: &'a mut D,
    socket: &'a D::Socket,
    room: &'a mut [u8],
}

impl<D: Streams> Write for Out<'_, D> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.driver.send(self.socket, bytes, false).map_err(|errno| io::Error::from_raw_os_error(errno.0))
    }

    fn write_vectored(&mut self, records: &[IoSlice<'_>]) -> io::Result<usize> {
        if let [one] = records {
            return self.write(one);
        }
        let mut length = 0;
        for record in records {
            let taken = record.len().min(self.room.len() - length);
            self.room[length..length + taken].copy_from_slice(&record[..taken]);
            length += taken;
        }
        let sent = self.driver.send(self.socket, &self.room[..length], false);
        sent.map_err(|errno| io::Error::from_raw_os_error(errno.0))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
