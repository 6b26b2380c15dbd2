//! A client of HTTP/1.1, as small as the tests need it.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use serde_json::Value;

use super::PATIENCE;

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// Such as 200.
    pub status: u16,
    /// All lines of the header, in small letters.
    pub header: String,
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).expect("UTF-8")
    }
}

/// Asks for a path, with further lines of the header, and hears the whole answer.
pub fn get(address: SocketAddr, path: &str, lines: &[&str]) -> Answer {
    try_get(address, path, lines).unwrap_or_else(|error| panic!("{address}{path}: {error}"))
}

/// The same, where nobody may listen.
pub fn try_get(address: SocketAddr, path: &str, lines: &[&str]) -> std::io::Result<Answer> {
    let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
    ask(address, format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{lines}\r\n").as_bytes())
}

/// Says anything, and hears what is said until the end.
pub fn ask(address: SocketAddr, request: &[u8]) -> std::io::Result<Answer> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    // Who is closed before he has said everything has an answer all the same.
    let _ = stream.write_all(request);
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").ok_or(std::io::ErrorKind::UnexpectedEof)?;
    let header = String::from_utf8_lossy(&answer[..end]).to_lowercase();
    let status = header.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok(Answer { status: status.ok_or(std::io::ErrorKind::InvalidData)?, header, body: answer.split_off(end + 4) })
}

/// The samples of a text for Prometheus whose name and labels begin like this, summed up.
pub fn sample(text: &str, beginning: &str) -> f64 {
    let lines = text.lines().filter(|line| !line.starts_with('#') && line.starts_with(beginning));
    lines.map(|line| line.rsplit(' ').next().and_then(|value| value.parse::<f64>().ok()).expect("a number")).sum()
}

/// What the page reads.
pub fn stats(address: SocketAddr) -> Value {
    serde_json::from_slice(&get(address, "/stats.json", &[]).body).expect("JSON")
}
