//! The first words of an SMTP server behind a balancer, on tokio, with STARTTLS (RFC 3207): greets the real client, not the
//! balancer, and shows a renewed certificate to the next client.
//!
//! ```text
//! cargo run --example smtp_tokio --features tokio -- crt.pem key.pem
//! swaks --server 127.0.0.1:10025 --tls --quit-after TLS-EHLO --proxy-version 2 --proxy-family TCP4 \
//!   --proxy-source 198.51.100.7 --proxy-source-port 5000 --proxy-dest 192.0.2.1 --proxy-dest-port 25
//! ```
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use vestibule::{Accepted, Engine, Listener, Pool};

type Failure = Box<dyn std::error::Error + Send + Sync>;

const HOST: &str = "mail.example.com";
/// Longest command line (RFC 5321, section 4.5.3.1.4, and room for extensions).
const LINE_MAX: u64 = 2048;
/// How long a client may be silent (RFC 5321, section 4.5.3.2.7).
const IDLE_MAX: Duration = Duration::from_secs(5 * 60);
/// How long a TLS handshake may take.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);

fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1);
    let usage = "usage: smtp_tokio CERTIFICATE.pem KEY.pem [ADDRESS:PORT]";
    let (certificate, key) = arguments.next().zip(arguments.next()).ok_or(usage)?;
    let address = arguments.next().unwrap_or("127.0.0.1:10025".into());
    let certificates = Arc::new(Certificates::load(certificate.into(), key.into())?);
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut engine = Engine::builder()
        .pool(Pool::tokio("smtp", runtime.handle().clone(), 10_000, move |connection| {
            let certificates = certificates.clone();
            async move {
                let client = connection.client();
                if let Err(error) = converse(connection, &certificates).await {
                    println!("{client} lost: {error}");
                }
            }
        }))
        .listen(Listener::proxy(address.parse()?).trust(["127.0.0.0/8".parse()?]).pool("smtp"))
        .start()?;
    println!("listening on {:?}; press Enter to end", engine.addresses());
    io::stdin().read_line(&mut String::new())?;
    println!("all clients have left: {}", engine.drain(Duration::from_secs(5)));
    Ok(())
}

/// What a client wants next.
#[derive(PartialEq)]
enum Next {
    Leave,
    StartTls,
}

async fn converse(connection: Accepted<TcpStream>, certificates: &Certificates) -> Result<(), Failure> {
    let client = connection.client().ip();
    // What came behind the header in the same segment is read first.
    let mut plain = BufReader::new(connection.into_stream());
    say(&mut plain, &format!("220 {HOST} ESMTP, and hello {client}")).await?;
    if dialogue(&mut plain, &["250-mail.example.com", "250-STARTTLS", "250 SIZE 10485760"]).await? == Next::Leave {
        return Ok(());
    }
    if !plain.buffer().is_empty() {
        // Somebody in between may have put it there, to be taken for what the client says under TLS (CVE-2011-0411).
        return Err("plain text behind STARTTLS".into());
    }
    say(&mut plain, "220 2.0.0 go ahead").await?;
    let accept = certificates.acceptor()?.accept(plain.into_inner());
    let mut secure = BufReader::new(timeout(HANDSHAKE_MAX, accept).await??);
    dialogue(&mut secure, &["250-mail.example.com", "250 SIZE 10485760"]).await?;
    Ok(secure.shutdown().await?)
}

/// Answers commands until the client wants something else.
async fn dialogue(stream: &mut (impl AsyncBufRead + AsyncWrite + Unpin), features: &[&str]) -> Result<Next, Failure> {
    let may_start_tls = features.contains(&"250-STARTTLS");
    let mut line = String::new();
    loop {
        line.clear();
        let mut limited = (&mut *stream).take(LINE_MAX);
        if timeout(IDLE_MAX, limited.read_line(&mut line)).await?? == 0 {
            return Ok(Next::Leave);
        }
        let verb = line.split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
        match verb.as_str() {
            "EHLO" => say(stream, &features.join("\r\n")).await?,
            "NOOP" | "RSET" => say(stream, "250 2.0.0 OK").await?,
            "STARTTLS" if may_start_tls => return Ok(Next::StartTls),
            "QUIT" => {
                say(stream, "221 2.0.0 bye").await?;
                return Ok(Next::Leave);
            }
            _ => say(stream, "502 5.5.1 not here").await?,
        }
    }
}

async fn say(stream: &mut (impl AsyncWrite + Unpin), text: &str) -> io::Result<()> {
    stream.write_all(format!("{text}\r\n").as_bytes()).await?;
    stream.flush().await
}

/// A certificate that is read again when its file has changed.
struct Certificates {
    files: [PathBuf; 2],
    present: Mutex<(SystemTime, TlsAcceptor)>,
}

impl Certificates {
    fn load(certificate: PathBuf, key: PathBuf) -> Result<Certificates, Failure> {
        let files = [certificate, key];
        let present = Mutex::new((changed(&files)?, read(&files)?));
        Ok(Certificates { files, present })
    }

    fn acceptor(&self) -> Result<TlsAcceptor, Failure> {
        let mut present = self.present.lock().expect("nobody panics under it");
        let now = changed(&self.files)?;
        if present.0 != now {
            // Half a renewal shows the old one until the other half is there.
            if let Ok(renewed) = read(&self.files) {
                *present = (now, renewed);
            }
        }
        Ok(present.1.clone())
    }
}

fn changed(files: &[PathBuf; 2]) -> io::Result<SystemTime> {
    let [certificate, key] = [0, 1].map(|index| std::fs::metadata(&files[index]).and_then(|file| file.modified()));
    Ok(certificate?.max(key?))
}

fn read([certificate, key]: &[PathBuf; 2]) -> Result<TlsAcceptor, Failure> {
    let chain = CertificateDer::pem_file_iter(certificate)?.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(key)?;
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key)?;
    Ok(TlsAcceptor::from(Arc::new(config)))
}
