//! The blob server: answers [keys](super::keys) over TCP from a [`Lookup`].
//!
//! Each connection is a task that reads requests, assembles answers, and writes those that are ready in as
//! few system calls as possible. Resources of a peer are bounded by [`Config`]: connections, requests in
//! flight, and bytes of answers for each connection, for each address and in total. At a bound the server
//! stops reading from that peer until it has taken its answers; a peer that reads more slowly than
//! [`Config::min_bytes_per_second`] is disconnected. Where all connections are taken, a newcomer's address that has
//! fewer takes the place of one that has more; the same holds for bytes, of which every address can have a part that
//! only depends on how many others there are. Of an address, eight connections write at a time, in turns.
//!
//! A fleet's essential traffic has bytes that large answers cannot take: heights and other small blobs, and
//! batches that are reduced if there is no room for the requested size ([`Lookup::smaller`]).
//!
//! An answer is assembled whole before it is queued, so that a slow reader occupies memory but never a
//! transaction of the store.
//!
//! ```
//! use std::sync::Arc;
//! use prb_core::blob::memory::MemorySource;
//! use prb_walkie::blob::{keyspace::{self, KeySpace}, server::{Config, Server}};
//! use tokio_util::sync::CancellationToken;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let source = Arc::new(MemorySource::of_empty_blocks(3));
//! let blobs = Arc::new(KeySpace::new(source, keyspace::Config::default()));
//! let server = Server::bind("127.0.0.1:0".parse()?, blobs, Config::default()).await?;
//! let (address, stop) = (server.local_addr(), CancellationToken::new());
//! let serving = tokio::spawn(server.run(stop.clone()));
//! println!("workers' managers fetch from {address}");
//! stop.cancel();
//! serving.await?;
//! # Ok(())
//! # }
//! ```
//!
//! Not for: access control. The original's protocol does not identify peers, and blobs are public chain data.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use ::metrics::{Counter, Gauge};
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{Instrument, debug, info, warn};

use super::{Lookup, metrics};
use crate::provenance::share_of;

mod connection;
mod outbox;
mod shares;
mod slots;
mod turns;

use shares::SharedBudget;
use slots::{Slot, Slots};

/// The default port of data providers.
pub const DEFAULT_PORT: u16 = 8012;

/// How long a peer may leave unread what the system has buffered for it, in multiples of `write_timeout`.
const BUFFERED_TIMEOUTS: u32 = 3;

/// Limits of a [`Server`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, derive_setters::Setters)]
#[setters(prefix = "with_")]
#[non_exhaustive]
pub struct Config {
    /// Most connections. Default: 4,096.
    pub max_connections: usize,
    /// Most connections of one IP address, or of one share of an IPv6 /48. Default: 1,024.
    pub max_connections_per_ip: usize,
    /// Most unanswered requests of one connection, of which four may wait for heights. Default: 128.
    pub max_in_flight: usize,
    /// Most bytes of one connection's answers, reserved or queued
    /// (`PHALA_LIFECYCLE_BLOB_SERVER_SESSION_MAX_MEMORY`, which is in MiB). A single answer may be larger.
    /// Default: 64 MiB.
    pub session_max_bytes: usize,
    /// The same for one IP address, or one share of an IPv6 /48, if it is alone. Default: 128 MiB.
    pub max_bytes_per_ip: usize,
    /// The same for all connections together, without small answers. An address may hold a third of what is free;
    /// beside `n` others it can always have one part in `n + 4`, within seconds. Default: 512 MiB.
    pub max_bytes: usize,
    /// The same for small answers, which have a budget of their own that is shared in the same way. Default: 64 MiB.
    pub small_bytes: usize,
    /// Least rate at which a peer must take pending bytes, averaged over each `write_timeout`. Default: 256 KiB.
    pub min_bytes_per_second: u64,
    /// How long a peer may be slower than that. Three times as long it may take nothing at all of what the system has
    /// buffered for it. Default: 10 s.
    pub write_timeout: Duration,
    /// How long a connection may be without requests. Default: 15 minutes.
    pub idle_timeout: Duration,
    /// How long a connection may be without its first request. Default: 60 s.
    pub first_request_timeout: Duration,
    /// How long pending answers may still be written when the server stops. Default: 500 ms.
    pub stop_timeout: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_connections: 4096,
            max_connections_per_ip: 1024,
            max_in_flight: 128,
            session_max_bytes: 64 << 20,
            max_bytes_per_ip: 128 << 20,
            max_bytes: 512 << 20,
            small_bytes: 64 << 20,
            min_bytes_per_second: 256 << 10,
            write_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(15 * 60),
            first_request_timeout: Duration::from_secs(60),
            stop_timeout: Duration::from_millis(500),
        }
    }
}

/// A listening server that does not serve yet.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    shared: Arc<Shared>,
}

/// State shared by the connections.
#[derive(Debug)]
struct Shared {
    lookup: Arc<dyn Lookup>,
    config: Config,
    /// Bytes of all connections, for large and for small answers.
    budgets: Budgets,
    stats: Arc<Stats>,
    slots: Mutex<Slots>,
    warnings: WarningLimit,
}

/// Byte budgets for large and small answers.
#[derive(Clone, Debug)]
struct Budgets {
    large: SharedBudget,
    small: SharedBudget,
}

impl Budgets {
    fn new(config: &Config) -> Self {
        Self {
            large: SharedBudget::new(config.max_bytes, config.max_bytes_per_ip),
            small: SharedBudget::new(config.small_bytes, config.small_bytes / 4),
        }
    }
}

/// Counters of a server.
#[derive(Debug)]
pub struct Stats {
    connections: AtomicUsize,
    refused: AtomicU64,
    answered: AtomicU64,
    queued_bytes: AtomicUsize,
    peak_queued_bytes: AtomicUsize,
    sent_bytes: AtomicU64,
    // Looked up once, because requests are frequent.
    found: Counter,
    missing: Counter,
    queued: Gauge,
}

impl Default for Stats {
    fn default() -> Self {
        Self {
            connections: AtomicUsize::default(),
            refused: AtomicU64::default(),
            answered: AtomicU64::default(),
            queued_bytes: AtomicUsize::default(),
            peak_queued_bytes: AtomicUsize::default(),
            sent_bytes: AtomicU64::default(),
            found: metrics::requests(true),
            missing: metrics::requests(false),
            queued: metrics::queued(),
        }
    }
}

impl Stats {
    /// Open connections.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Connections that were refused because there were too many.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Answered requests, missing blobs included.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Bytes of answers that are assembled and not yet written.
    pub fn queued_bytes(&self) -> usize {
        self.queued_bytes.load(Ordering::Relaxed)
    }

    /// The peak of [`queued_bytes`](Self::queued_bytes).
    pub fn peak_queued_bytes(&self) -> usize {
        self.peak_queued_bytes.load(Ordering::Relaxed)
    }

    /// Bytes of answers that were written to sockets.
    pub fn sent_bytes(&self) -> u64 {
        self.sent_bytes.load(Ordering::Relaxed)
    }

    fn answer(&self, found: bool) {
        self.answered.fetch_add(1, Ordering::Relaxed);
        if found { &self.found } else { &self.missing }.increment(1);
    }

    fn queue(&self, bytes: usize) {
        let now = self.queued_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.peak_queued_bytes.fetch_max(now, Ordering::Relaxed);
        self.queued.increment(bytes as f64);
    }

    fn unqueue(&self, bytes: usize) {
        self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.queued.decrement(bytes as f64);
    }
}

/// The server cannot listen on the address.
#[derive(Debug, thiserror::Error)]
#[error("cannot serve blobs at {address}")]
pub struct BindError {
    /// The address.
    pub address: SocketAddr,
    /// The cause.
    #[source]
    pub source: io::Error,
}

impl Server {
    /// Starts listening; [`run`](Self::run) serves the connections.
    ///
    /// # Errors
    /// [`BindError`].
    pub async fn bind(
        address: SocketAddr,
        lookup: Arc<dyn Lookup>,
        config: Config,
    ) -> Result<Self, BindError> {
        metrics::describe_server();
        let failed = |source| BindError { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let shared = Shared {
            lookup,
            config,
            budgets: Budgets::new(&config),
            stats: Arc::default(),
            slots: Mutex::default(),
            warnings: WarningLimit::default(),
        };
        Ok(Self { listener, address, shared: Arc::new(shared) })
    }

    /// The address it listens on, with the actual port if port 0 was given.
    pub const fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Returns the server's counters.
    pub fn stats(&self) -> Arc<Stats> {
        self.shared.stats.clone()
    }

    /// Serves until `stop` is cancelled, then refuses connections, writes pending answers and closes.
    ///
    /// # Cancel safety
    /// Dropping the future closes everything at once.
    pub async fn run(self, stop: CancellationToken) {
        info!(address = %self.address, "serving blobs");
        let mut connections = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                Some(ended) = connections.join_next() => {
                    log_panic(ended);
                    continue;
                }
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => self.admit(stream, peer, &mut connections, &stop),
                Err(e) => self.wait_after(&e).await,
            }
        }
        let Self { listener, shared, .. } = self;
        // Before pending answers are written, so that no new connection is accepted meanwhile.
        drop(listener);
        let all = async {
            while let Some(ended) = connections.join_next().await {
                log_panic(ended);
            }
        };
        // Each connection observes the timeout itself; this is a fallback for one that cannot.
        if timeout(shared.config.stop_timeout * 2, all).await.is_err() {
            connections.shutdown().await;
        }
    }

    fn admit(
        &self,
        stream: TcpStream,
        peer: SocketAddr,
        connections: &mut JoinSet<()>,
        stop: &CancellationToken,
    ) {
        let Some(slot) = Slot::take(&self.shared, share_of(peer.ip())) else {
            self.shared.stats.refused.fetch_add(1, Ordering::Relaxed);
            metrics::refused();
            if let Some(skipped) = self.shared.warnings.ready() {
                let open = self.shared.stats.connections();
                warn!(%peer, open, skipped, "too many blob connections; refused one");
            }
            return;
        };
        if let Err(e) = set_up(&stream, &self.shared.config) {
            debug!(%peer, error = %e, "a blob connection ended before it began");
            return;
        }
        let (shared, stop) = (self.shared.clone(), stop.clone());
        let serve = async move {
            let ended = connection::serve(stream, &shared, &slot, &stop).await;
            // Before the end is counted and logged: whoever sees the end finds the slot free.
            drop(slot);
            metrics::ended(ended.label());
            match ended.is_offence().then(|| shared.warnings.ready()).flatten() {
                Some(skipped) => warn!(%peer, skipped, reason = %ended, "a blob connection is dropped"),
                None => debug!(reason = %ended, "a blob connection ended"),
            }
        };
        connections.spawn(serve.instrument(tracing::info_span!("blob", %peer)));
    }

    /// Waits if the process is out of file descriptors: accepting fails until some are free.
    async fn wait_after(&self, e: &io::Error) {
        metrics::accept_error();
        if let Some(skipped) = self.shared.warnings.ready() {
            warn!(error = %prb_core::text::describe(e), skipped, "a blob connection cannot be accepted");
        }
        // `accept` would fail again at once and keep a CPU busy.
        sleep(Duration::from_millis(100)).await;
    }
}

fn log_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(e) = ended
        && e.is_panic()
    {
        tracing::error!(error = %prb_core::text::describe(&e), "a blob connection's task failed");
    }
}

fn set_up(stream: &TcpStream, config: &Config) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive =
        // A peer that vanished without closing its connection would otherwise keep its slot for
        // `idle_timeout`.
        TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(20));
    let socket = SockRef::from(stream);
    // What the system has buffered counts as written, up to some MiB for each connection: a peer that leaves it there
    // is dropped, too.
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(config.write_timeout * BUFFERED_TIMEOUTS))?;
    socket.set_tcp_keepalive(&keepalive)
}

/// Rate-limits warnings to one a second, because peers can cause them at will.
#[derive(Debug, Default)]
struct WarningLimit(Mutex<(Option<Instant>, u64)>);

impl WarningLimit {
    /// Whether to log now, and how many warnings were suppressed since the last one.
    fn ready(&self) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.0.is_some_and(|last| last.elapsed() < Duration::from_secs(1)) {
            state.1 += 1;
            return None;
        }
        state.0 = Some(Instant::now());
        Some(std::mem::take(&mut state.1))
    }
}
