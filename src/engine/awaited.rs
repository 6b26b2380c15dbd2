//! An engine for tasks of tokio: what blocks whoever calls it elsewhere is awaited here.

use std::fmt;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{AmendError, Engine, EngineBuilder, InForce, Meter, Replaced, Snapshot, StartError, Which, lock};
use crate::admission::ClientLimits;
use crate::dispatch::Incoming;
use crate::net::Network;

/// An [`Engine`] whose calls are awaited: each runs on a thread that the runtime keeps for what blocks, and the runtime's own
/// threads go on meanwhile. Clones are the same engine. Calls that change it come one after the other.
///
/// A future that is dropped takes nothing back: the call goes on and comes to its end. Dropping the last clone without
/// [`drain`](AsyncEngine::drain) ends the rings at once.
///
/// ```
/// use std::time::Duration;
/// use vestibule::engine::AsyncEngine;
/// use vestibule::{Engine, Listener, Pool};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
/// let builder = Engine::builder()
///     .pool(Pool::incoming("imap"))
///     .listen(Listener::proxy("127.0.0.1:0".parse()?).trust(["127.0.0.0/8".parse()?]).pool("imap"));
/// let engine = AsyncEngine::start(builder).await?;
/// let mut incoming = engine.incoming("imap").await.expect("nobody else has asked for it");
/// let accept_loop = tokio::spawn(async move {
///     while let Some(connection) = incoming.next().await {
///         println!("{}", connection.client());
///     }
/// });
/// // ... until the server is told to stop.
/// assert!(engine.drain(Duration::from_secs(30)).await);
/// accept_loop.await?;
/// # Ok(())
/// # })
/// # }
/// ```
#[derive(Clone)]
pub struct AsyncEngine(Arc<Shared>);

struct Shared {
    /// Locked for as long as a call takes, by threads that may wait.
    engine: Mutex<Engine>,
    /// For those who only look, and must not wait for that.
    seen: Mutex<Seen>,
}

/// What does not change by itself.
struct Seen {
    addresses: Vec<SocketAddr>,
    meter: Meter,
}

impl Seen {
    fn of(engine: &Engine) -> Seen {
        Seen { addresses: engine.addresses().to_vec(), meter: engine.meter() }
    }
}

impl From<Engine> for AsyncEngine {
    fn from(engine: Engine) -> AsyncEngine {
        let seen = Mutex::new(Seen::of(&engine));
        AsyncEngine(Arc::new(Shared { engine: Mutex::new(engine), seen }))
    }
}

impl AsyncEngine {
    /// [`EngineBuilder::start`].
    ///
    /// # Errors
    /// [`StartError`]; nothing is left running then.
    pub async fn start(builder: EngineBuilder) -> Result<AsyncEngine, StartError> {
        blocking(move || builder.start()).await.map(AsyncEngine::from)
    }

    /// [`Engine::replace`].
    ///
    /// # Errors
    /// [`StartError`]; the present configuration stays in force then.
    pub async fn replace(&self, builder: EngineBuilder) -> Result<Replaced, StartError> {
        self.with(|engine| engine.replace(builder)).await
    }

    /// [`Engine::set_trust`].
    ///
    /// # Errors
    /// [`AmendError`].
    pub async fn set_trust(
        &self,
        which: Which<'_>,
        networks: impl IntoIterator<Item = Network>,
    ) -> Result<InForce, AmendError> {
        let name = match which {
            Which::Service(name) | Which::Name(name) => name.to_owned(),
            Which::All | Which::Address(_) => String::new(),
        };
        let named: fn(&str, Option<SocketAddr>) -> Which<'_> = match which {
            Which::Service(_) => |name, _| Which::Service(name),
            Which::Name(_) => |name, _| Which::Name(name),
            Which::All | Which::Address(_) => |_, address| address.map_or(Which::All, Which::Address),
        };
        let address = if let Which::Address(address) = which { Some(address) } else { None };
        let networks: Vec<Network> = networks.into_iter().collect();
        self.with(move |engine| engine.set_trust(named(&name, address), networks)).await
    }

    /// [`Engine::set_bans`].
    ///
    /// # Errors
    /// [`AmendError`].
    pub async fn set_bans(&self, networks: impl IntoIterator<Item = Network>) -> Result<InForce, AmendError> {
        let networks: Vec<Network> = networks.into_iter().collect();
        self.with(move |engine| engine.set_bans(networks)).await
    }

    /// [`Engine::set_limits`].
    ///
    /// # Errors
    /// [`AmendError`].
    pub async fn set_limits(&self, limits: ClientLimits) -> Result<InForce, AmendError> {
        self.with(move |engine| engine.set_limits(limits)).await
    }

    /// [`Engine::incoming`].
    pub async fn incoming(&self, pool: &str) -> Option<Incoming> {
        let pool = pool.to_owned();
        self.with(move |engine| engine.incoming(&pool)).await
    }

    /// [`Engine::drain`]. Everything else waits until it has come to its end.
    pub async fn drain(&self, limit: Duration) -> bool {
        self.with(move |engine| engine.drain(limit)).await
    }

    /// Whatever else an [`Engine`] can do, such as [`hand_over`](Engine::hand_over): `body` may block.
    pub async fn with<T: Send + 'static>(&self, body: impl FnOnce(&mut Engine) -> T + Send + 'static) -> T {
        let shared = self.0.clone();
        blocking(move || {
            let mut engine = lock(&shared.engine);
            let done = body(&mut engine);
            *lock(&shared.seen) = Seen::of(&engine);
            done
        })
        .await
    }

    /// [`Engine::addresses`], by the configuration in force.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        lock(&self.0.seen).addresses.clone()
    }

    /// [`Engine::snapshot`]. Never waits for a call that is under way.
    pub fn snapshot(&self) -> Snapshot {
        let meter = lock(&self.0.seen).meter.clone();
        meter.snapshot()
    }
}

impl fmt::Debug for AsyncEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AsyncEngine").field("addresses", &self.addresses()).finish_non_exhaustive()
    }
}

/// Runs it on a thread for what blocks; a panic in it goes on here.
async fn blocking<T: Send + 'static>(body: impl FnOnce() -> T + Send + 'static) -> T {
    match ::tokio::task::spawn_blocking(body).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // The runtime ends, and whoever awaits this ends with it.
            Err(_) => std::future::pending().await,
        },
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpStream;
    use std::num::NonZeroUsize;

    use ::tokio::sync::oneshot;

    use super::*;
    use crate::dispatch::testing::SOON;
    use crate::dispatch::{Accepted, Pool};
    use crate::engine::Listener;

    /// A runtime with one thread: if that is blocked nothing goes on.
    fn on_one_thread<T>(task: impl Future<Output = T>) -> T {
        ::tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(task)
    }

    fn builder(pool: Pool, address: &str) -> EngineBuilder {
        let listener = Listener::plain(address.parse().expect("an address")).pool("pool").name("plain");
        Engine::builder().rings(NonZeroUsize::MIN).pin(false).pool(pool).listen(listener)
    }

    #[test]
    fn a_drain_that_waits_for_a_task_leaves_the_runtime_to_it() {
        let (release, released) = std::sync::mpsc::channel::<()>();
        let released = Mutex::new(released);
        let pool = Pool::threads("pool", 1, move |_: Accepted| {
            let _ = lock(&released).recv();
        });
        on_one_thread(async {
            let engine = AsyncEngine::start(builder(pool, "127.0.0.1:0")).await.expect("loopback has free ports");
            let client = TcpStream::connect(engine.addresses()[0]).expect("it listens");
            while engine.snapshot().count("plain") == 0 {
                ::tokio::task::yield_now().await;
            }
            let (begun, has_begun) = oneshot::channel();
            let task = ::tokio::spawn(async move {
                has_begun.await.expect("it begins");
                ::tokio::time::sleep(Duration::from_millis(20)).await;
                release.send(()).expect("the handler waits");
            });
            begun.send(()).expect("the task waits");
            // On a blocked runtime the handler would never be let go, and this would not be complete.
            assert!(engine.drain(SOON).await);
            task.await.expect("no panic");
            drop(client);
        });
    }

    #[test]
    fn whatever_changes_is_awaited_and_seen() {
        on_one_thread(async {
            let first = builder(Pool::incoming("pool"), "127.0.0.1:0");
            let engine = AsyncEngine::start(first).await.expect("loopback has free ports");
            let address = engine.addresses()[0];
            let mut incoming = engine.incoming("pool").await.expect("nobody has asked");
            let replaced = engine.replace(builder(Pool::incoming("pool"), &address.to_string())).await;
            assert_eq!(replaced.expect("nothing differs").continued, [address]);
            for which in [Which::All, Which::Name("plain"), Which::Address(address)] {
                let done = engine.set_trust(which, ["10.0.0.1".parse().expect("a network")]).await;
                assert_eq!(done, Ok(InForce { rings: 1, listeners: 1 }), "{which:?}");
            }
            let none = engine.set_trust(Which::Service("other"), []).await;
            assert_eq!(none, Err(AmendError::NoSuchListener));
            engine.set_limits(ClientLimits::default()).await.expect("it turns");
            let _client = TcpStream::connect(address).expect("it listens");
            assert!(incoming.next().await.is_some());
            engine.set_bans(["127.0.0.1".parse().expect("a network")]).await.expect("it turns");
            let _banned = TcpStream::connect(address);
            while engine.snapshot().count("client-banned") == 0 {
                ::tokio::task::yield_now().await;
            }
            assert_eq!(engine.with(|engine| engine.sockets().expect("descriptors are left").len()).await, 1);
            assert!(matches!(engine.replace(Engine::builder()).await, Ok(Replaced { .. })), "nothing is listened on");
            assert_eq!(engine.addresses(), []);
            // A drain waits for who pulls.
            let ended = ::tokio::spawn(async move { incoming.next().await.is_none() });
            assert!(engine.drain(SOON).await);
            assert!(ended.await.expect("no panic"));
            assert_eq!(engine.set_bans([]).await, Err(AmendError::Ending));
        });
    }

    #[test]
    fn a_panic_in_a_call_goes_on_where_it_is_awaited() {
        let caught = std::panic::catch_unwind(|| on_one_thread(blocking(|| panic!("as told"))));
        assert!(caught.is_err());
    }
}
