//! The content of a message, up to its dot.
//!
//! Servers differ in what ends a message: some take a dot between bare LFs for the end, and the rest for commands ("SMTP
//! smuggling"). So a bare LF goes on as CRLF, which is what those servers make of it, and no dot goes on alone between
//! line ends of any kind but the one that ends the message, CRLF before and behind: others are doubled, as content is. What
//! is sent by the book goes on byte for byte.

/// Where in the content the next byte stands. CRs, and dots that may be the last, are held until it is known what they
/// are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Data {
    /// At the start of a line, and whether CRLF ended the one before.
    Start {
        crlf: bool,
    },
    /// Behind a dot at the start of a line.
    Dot {
        crlf: bool,
    },
    /// Behind that dot and a CR.
    DotCr {
        crlf: bool,
    },
    Text,
    /// Behind a CR.
    Cr,
}

impl Default for Data {
    /// Behind the line DATA, which left here with CRLF.
    fn default() -> Self {
        Data::Start { crlf: true }
    }
}

impl Data {
    /// Passes content on. Returns how many bytes it took, and whether the message has ended with them.
    pub(super) fn pass(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> (usize, bool) {
        let mut at = 0;
        while let Some(&byte) = bytes.get(at) {
            if *self == Data::Text {
                let rest = bytes.get(at..).unwrap_or_default();
                let run = rest.iter().position(|&byte| byte == b'\r' || byte == b'\n').unwrap_or(rest.len());
                out.extend_from_slice(rest.get(..run).unwrap_or_default());
                at += run;
                if run > 0 {
                    continue;
                }
            }
            at += 1;
            if self.take(byte, out) {
                return (at, true);
            }
        }
        (at, false)
    }

    /// Takes one byte; whether it ends the message.
    fn take(&mut self, byte: u8, out: &mut Vec<u8>) -> bool {
        let (held, next): (&[u8], Data) = match (*self, byte) {
            (Data::DotCr { crlf: true }, b'\n') => {
                out.extend_from_slice(b".\r\n");
                return true;
            }
            (Data::DotCr { crlf: false }, b'\n') => (b"..\r\n", Data::Start { crlf: true }),
            (Data::DotCr { .. }, b'\r') => (b"..\r", Data::Cr),
            (Data::DotCr { .. }, b'.') => (b"..\r..", Data::Text),
            (Data::DotCr { .. }, _) => return text(b"..\r", byte, self, out),
            (Data::Dot { crlf }, b'\r') => (b"", Data::DotCr { crlf }),
            (Data::Dot { .. }, b'\n') => (b"..\r\n", Data::Start { crlf: false }),
            (Data::Dot { .. }, 0) => (b"..\0", Data::Text),
            (Data::Dot { .. }, _) => return text(b".", byte, self, out),
            (Data::Start { crlf }, b'.') => (b"", Data::Dot { crlf }),
            (Data::Cr, b'\n') => (b"\r\n", Data::Start { crlf: true }),
            (Data::Cr, b'\r') => (b"\r", Data::Cr),
            (Data::Cr, b'.') => (b"\r..", Data::Text),
            (Data::Cr, _) => return text(b"\r", byte, self, out),
            (Data::Start { .. } | Data::Text, b'\r') => (b"", Data::Cr),
            (Data::Start { .. } | Data::Text, b'\n') => (b"\r\n", Data::Start { crlf: false }),
            (Data::Start { .. } | Data::Text, _) => return text(b"", byte, self, out),
        };
        out.extend_from_slice(held);
        *self = next;
        false
    }
}

/// What was held goes out, then the byte, which is one of a line.
fn text(held: &[u8], byte: u8, state: &mut Data, out: &mut Vec<u8>) -> bool {
    out.extend_from_slice(held);
    out.push(byte);
    *state = Data::Text;
    false
}
