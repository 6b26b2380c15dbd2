//! A tower service behind a balancer, as axum's routers are one: layers and handlers see the real client as an extension of the
//! request, and one limit holds for all connections together.
//!
//! ```text
//! cargo run --example tower --features tokio
//! curl -s --haproxy-protocol http://127.0.0.1:10080/
//! ```
use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tower::limit::GlobalConcurrencyLimitLayer;
use tower::{Service, ServiceBuilder, service_fn};
use vestibule::{Accepted, Engine, Listener, Pool};

/// Requests that are answered at a time, of all connections.
const REQUESTS_MAX: usize = 1000;

/// From whom a request comes; what axum calls `ConnectInfo`.
#[derive(Clone, Copy)]
struct Client(SocketAddr);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let address = std::env::args().nth(1).unwrap_or("127.0.0.1:10080".into());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let mut engine = Engine::builder()
        .pool(Pool::incoming("web"))
        .listen(Listener::proxy(address.parse()?).trust(["127.0.0.0/8".parse()?]).pool("web"))
        .start()?;
    let mut incoming = engine.incoming("web").expect("nobody else has asked for it");
    // A router would stand in the place of `service_fn`.
    let routes =
        ServiceBuilder::new().layer(GlobalConcurrencyLimitLayer::new(REQUESTS_MAX)).service(service_fn(answer));
    runtime.spawn(async move {
        while let Some(connection) = incoming.next().await {
            tokio::spawn(serve(connection, routes.clone()));
        }
    });
    println!("listening on {:?}; press Enter to end", engine.addresses());
    io::stdin().read_line(&mut String::new())?;
    println!("all connections are taken: {}", engine.drain(Duration::from_secs(5)));
    Ok(())
}

/// Serves a connection with what each has its own clone of.
async fn serve<S>(connection: Accepted, routes: S)
where
    S: Service<Request<Incoming>, Response = Response<String>, Error = Infallible> + Clone,
{
    let client = Client(connection.client());
    let stream = match connection.into_tokio() {
        Ok(connection) => connection.into_stream(),
        Err(error) => return println!("{} lost: {error}", client.0),
    };
    let named = move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(client);
        request
    };
    let service = TowerToHyperService::new(ServiceBuilder::new().map_request(named).service(routes));
    if let Err(error) = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await {
        println!("{} lost: {error}", client.0);
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<String>, Infallible> {
    let client = request.extensions().get::<Client>().map(|client| client.0);
    let (status, words) = match (request.uri().path(), client) {
        ("/", Some(client)) => (StatusCode::OK, format!("hello {client}\n")),
        _ => (StatusCode::NOT_FOUND, "not here\n".to_owned()),
    };
    let mut response = Response::new(words);
    *response.status_mut() = status;
    Ok(response)
}
