//! A relay as one would write it with tokio: crate proxy-header reads the header, `copy_bidirectional` does the rest.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;

use proxy_header::ParseConfig;
use proxy_header::io::ProxiedStream;
use tokio::io::{AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::{LocalSet, spawn_local};
use vestibule::proxy::Encoder;

use super::floor::Args;
use super::{failed, local_runtime};

/// As the others have.
const BACKLOG: u32 = 4096;

/// Serves until it is ended.
pub fn serve(args: &Args) -> Result<(), String> {
    crate::server::open_files();
    let backends: Rc<[SocketAddr]> = args.backends.clone().into();
    LocalSet::new().block_on(&local_runtime()?, async {
        let socket = TcpSocket::new_v4().map_err(failed("a socket"))?;
        socket.set_reuseaddr(true).and_then(|()| socket.bind(args.listen)).map_err(failed("bind"))?;
        let listener = socket.listen(BACKLOG).map_err(failed("listen"))?;
        for number in 0.. {
            let (stream, peer) = listener.accept().await.map_err(failed("accept"))?;
            let address = backends[number % backends.len()];
            spawn_local(async move {
                // A connection that fails is the client's loss; there is nobody to tell.
                let _ = relay(stream, peer, address).await;
            });
        }
        Ok(())
    })
}

async fn relay(stream: TcpStream, peer: SocketAddr, address: SocketAddr) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let local = stream.local_addr()?;
    let mut stream = ProxiedStream::create_from_tokio(stream, ParseConfig::default()).await?;
    let named = stream.proxy_header().proxied_address().map(|named| (named.source, named.destination));
    let (source, destination) = named.unwrap_or((peer, local));
    let encoder = Encoder::proxy(source, destination);
    let mut header = vec![0; encoder.encoded_len()];
    encoder.encode(&mut header).map_err(|_| io::ErrorKind::InvalidData)?;
    let mut backend = TcpStream::connect(address).await?;
    backend.set_nodelay(true)?;
    backend.write_all(&header).await?;
    copy_bidirectional(&mut stream, &mut backend).await.map(drop)
}
