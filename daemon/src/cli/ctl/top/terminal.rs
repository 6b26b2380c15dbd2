//! A terminal that is drawn on: taken over whole, and given back as it was, however this ends.

use std::io::{self, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

/// The other screen, without a cursor.
const ENTER: &str = "\x1b[?1049h\x1b[?25l";
/// The own screen again, with the cursor, in the usual colours.
const LEAVE: &str = "\x1b[0m\x1b[?25h\x1b[?1049l";
/// Lines and columns where the terminal does not tell.
const USUAL_SIZE: (usize, usize) = (80, 24);

/// How it was before. One for the process: a panic must find it.
static BEFORE: Mutex<Option<(OwnedFd, Termios)>> = Mutex::new(None);

/// It, until this is dropped.
pub struct Terminal(());

impl Terminal {
    /// Takes the terminal that this descriptor is. Keys come one by one from then on, also those that would end or stop the
    /// program.
    ///
    /// # Errors
    /// If it is no terminal.
    pub fn take(terminal: impl AsFd) -> io::Result<Terminal> {
        let before = tcgetattr(&terminal)?;
        let own = terminal.as_fd().try_clone_to_owned()?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(&own, OptionalActions::Now, &raw)?;
        say(&own, ENTER);
        *lock() = Some((own, before));
        Ok(Terminal(()))
    }

    /// Columns and lines.
    pub fn size(&self) -> (usize, usize) {
        let size = lock().as_ref().and_then(|(own, _)| tcgetwinsize(own).ok());
        match size {
            Some(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col.into(), size.ws_row.into()),
            _ => USUAL_SIZE,
        }
    }

    /// The next key, if one comes within the time.
    pub fn key(&self, patience: Duration) -> Option<u8> {
        let own = lock().as_ref().and_then(|(own, _)| own.try_clone().ok())?;
        let limit = Timespec { tv_sec: patience.as_secs() as i64, tv_nsec: patience.subsec_nanos().into() };
        let ready = poll(&mut [PollFd::new(&own, PollFlags::IN)], Some(&limit)).unwrap_or(0);
        let mut key = [0];
        let read = if ready > 0 { rustix::io::read(&own, &mut key).unwrap_or(0) } else { 0 };
        (read > 0).then_some(key[0])
    }

    /// Whether there is nobody any more who could see it.
    pub fn draw(&self, lines: &[String]) -> bool {
        let mut all = String::from("\x1b[H");
        for (number, line) in lines.iter().enumerate() {
            let end = if number + 1 < lines.len() { "\r\n" } else { "" };
            all.push_str(&format!("{line}\x1b[0m\x1b[K{end}"));
        }
        all.push_str("\x1b[J");
        lock().as_ref().is_none_or(|(own, _)| !say(own, &all))
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        give_back();
    }
}

/// Puts the terminal back as it was, if it was taken. Also before a panic's message, which would be lost with the other
/// screen.
pub fn give_back() {
    if let Some((own, before)) = lock().take() {
        say(&own, LEAVE);
        let _ = tcsetattr(&own, OptionalActions::Now, &before); // nobody could do anything about it
    }
}

/// Whether it could be said.
fn say(to: &OwnedFd, text: &str) -> bool {
    let mut rest = text.as_bytes();
    while !rest.is_empty() {
        match rustix::io::write(to, rest) {
            Ok(count) => rest = &rest[count..],
            Err(rustix::io::Errno::INTR) => {}
            Err(_) => return false,
        }
    }
    io::stdout().flush().is_ok()
}

fn lock() -> MutexGuard<'static, Option<(OwnedFd, Termios)>> {
    BEFORE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::fs::OpenOptions;
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::OpenOptionsExt;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

    use super::*;

    #[test]
    fn it_is_given_back_as_it_was_after_a_panic_too() {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).expect("a pseudo-terminal can be had");
        grantpt(&master).and_then(|()| unlockpt(&master)).expect("it is ours");
        let name = ptsname(&master, Vec::new()).expect("it has a name");
        let path = std::ffi::OsStr::from_bytes(name.to_bytes());
        let slave = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOCTTY).open(path);
        let slave = slave.expect("it is unlocked");
        let modes = || {
            let now = tcgetattr(&slave).expect("it is a terminal");
            (now.input_modes, now.output_modes, now.local_modes, now.control_modes)
        };
        let before = modes();
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let terminal = Terminal::take(&slave).expect("it is a terminal");
            assert_ne!(modes(), before);
            assert!(!terminal.draw(&["a line".to_owned()]));
            assert_eq!(terminal.size(), USUAL_SIZE, "it has none of its own");
            assert_eq!(terminal.key(Duration::from_millis(1)), None);
            rustix::io::write(&master, b"q").expect("it is open");
            assert_eq!(terminal.key(Duration::from_secs(30)), Some(b'q'), "without a line's end");
            panic!("as told");
        }));
        assert!(panicked.is_err());
        assert_eq!(modes(), before);
        let mut said = String::new();
        // It comes in pieces.
        while !said.ends_with(LEAVE) {
            let mut room = [0; 4096];
            let count = rustix::io::read(&master, &mut room).expect("there is more");
            said.push_str(&String::from_utf8_lossy(&room[..count]));
        }
        assert!(said.starts_with(ENTER) && said.contains("a line"), "{said:?}");
        give_back(); // a second time does nothing
        assert!(Terminal::take(std::fs::File::open("/dev/null").expect("it is there")).is_err());
    }
}
