//! The blob server: answers [keys](super::keys) over TCP from a [`Lookup`].
//!
//! Every connection is one task that reads requests, assembles answers as they come ready, and writes what is
//! there in as few calls as it takes. What one peer can take hold of is bounded ([`Config`]): connections,
//! requests in flight, bytes set aside for answers of one connection, of one address and of all. Past a bound the
//! server stops reading from that peer until it has taken what is there; a peer that reads more slowly than
//! [`Config::min_bytes_per_second`] is dropped.
//!
//! What a fleet lives on has bytes that large answers cannot take: heights and other small blobs, and batches that are
//! made smaller where there are no bytes for the size that was asked for ([`Lookup::smaller`]). So a connection that
//! waits for bytes waits for a share of its own.
//!
//! An answer is assembled whole before it is queued, so that a slow reader holds bytes, and never a transaction
//! of the store.
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
//! Not for: who may ask. The original's wire has no notion of a peer, and blobs are public chain data.

use std::{
    collections::HashMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use ::metrics::{Counter, Gauge};
use prb_core::sync::ByteBudget;
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

/// Where data providers listen.
pub const DEFAULT_PORT: u16 = 8012;

/// Limits of a [`Server`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, derive_setters::Setters)]
#[setters(prefix = "with_")]
#[non_exhaustive]
pub struct Config {
    /// Connections at once.
    pub max_connections: usize,
    /// Connections of one IP address, or one IPv6 network of /64, at once.
    pub max_connections_per_ip: usize,
    /// Requests of one connection that are read and not yet answered.
    pub max_in_flight: usize,
    /// Bytes of one connection's answers, set aside or queued
    /// (`PHALA_LIFECYCLE_BLOB_SERVER_SESSION_MAX_MEMORY`, there in MiB). A single answer may be larger.
    pub session_max_bytes: usize,
    /// The same of one IP address, or one IPv6 network of /64.
    pub max_bytes_per_ip: usize,
    /// The same of all connections together, small answers not counted.
    pub max_bytes: usize,
    /// The same for small answers, which have bytes of their own. An address has a quarter of them.
    pub small_bytes: usize,
    /// How much of what is there for it a peer must take, on average over each `write_timeout`.
    pub min_bytes_per_second: u64,
    /// How long a peer may take less than that.
    pub write_timeout: Duration,
    /// How long a connection may be without requests.
    pub idle_timeout: Duration,
    /// How long a connection may be without its first request.
    pub first_request_timeout: Duration,
    /// How long answers may still be written when the server stops.
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

/// A server that listens and does not serve yet.
#[derive(Debug)]
pub struct Server {
    listener: TcpListener,
    address: SocketAddr,
    shared: Arc<Shared>,
}

/// What connections have in common.
#[derive(Debug)]
struct Shared {
    lookup: Arc<dyn Lookup>,
    config: Config,
    /// Bytes of all connections, of large and of small answers.
    budget: Budgets,
    stats: Arc<Stats>,
    /// Addresses that have connections: how many, and their bytes.
    addresses: Mutex<HashMap<IpAddr, (usize, Budgets)>>,
    complaints: Seldom,
}

/// Bytes for large answers, and for small ones.
#[derive(Clone, Debug)]
struct Budgets {
    large: ByteBudget,
    /// All of the bytes for large ones.
    large_bytes: usize,
    small: ByteBudget,
}

impl Budgets {
    fn of_all(config: &Config) -> Self {
        Self::new(config.max_bytes, config.small_bytes)
    }

    fn of_address(config: &Config) -> Self {
        Self::new(config.max_bytes_per_ip, config.small_bytes / 4)
    }

    fn new(large_bytes: usize, small_bytes: usize) -> Self {
        Self { large: ByteBudget::new(large_bytes), large_bytes, small: ByteBudget::new(small_bytes) }
    }

    /// Whether there are so many bytes for a large answer now; one that is larger than all of them takes all.
    fn has(&self, bytes: usize) -> bool {
        self.large.free_bytes() >= bytes.min(self.large_bytes)
    }
}

/// What a server holds and has done.
#[derive(Debug)]
pub struct Stats {
    connections: AtomicUsize,
    refused: AtomicU64,
    answered: AtomicU64,
    queued_bytes: AtomicUsize,
    peak_queued_bytes: AtomicUsize,
    sent_bytes: AtomicU64,
    // Looked up once: requests are many.
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
    /// Connections that are open.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Connections that were turned away because there were too many.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Requests answered, missing blobs too.
    pub fn answered(&self) -> u64 {
        self.answered.load(Ordering::Relaxed)
    }

    /// Bytes of answers that are assembled and not yet written.
    pub fn queued_bytes(&self) -> usize {
        self.queued_bytes.load(Ordering::Relaxed)
    }

    /// The most that [`queued_bytes`](Self::queued_bytes) has been.
    pub fn peak_queued_bytes(&self) -> usize {
        self.peak_queued_bytes.load(Ordering::Relaxed)
    }

    /// Bytes of answers written to sockets.
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

/// The address cannot be listened at.
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
    /// Starts to listen; connections are served by [`run`](Self::run).
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
            budget: Budgets::of_all(&config),
            stats: Arc::default(),
            addresses: Mutex::default(),
            complaints: Seldom::default(),
        };
        Ok(Self { listener, address, shared: Arc::new(shared) })
    }

    /// Where it listens, with the port that was chosen where none was given.
    pub const fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// What it holds and has done.
    pub fn stats(&self) -> Arc<Stats> {
        self.shared.stats.clone()
    }

    /// Serves until `stop` is cancelled: then refuses connections, writes what is in hand, and closes.
    ///
    /// # Cancel safety
    /// A dropped call closes everything at once.
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
        drop(listener);
        let all = async {
            while let Some(ended) = connections.join_next().await {
                log_panic(ended);
            }
        };
        // Each connection keeps the time itself; this is for one that cannot.
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
            if let Some(skipped) = self.shared.complaints.ready() {
                let open = self.shared.stats.connections();
                warn!(%peer, open, skipped, "too many blob connections: one is refused");
            }
            return;
        };
        if let Err(e) = set_up(&stream) {
            debug!(%peer, "a blob connection ended before it began: {e}");
            return;
        }
        let (shared, stop) = (self.shared.clone(), stop.clone());
        let serve = async move {
            let ended = connection::serve(stream, &shared, &slot.bytes, &stop).await;
            drop(slot);
            metrics::ended(ended.label());
            match ended.is_offence().then(|| shared.complaints.ready()).flatten() {
                Some(skipped) => warn!(skipped, "a blob connection is dropped: {ended}"),
                None => debug!("a blob connection ended: {ended}"),
            }
        };
        connections.spawn(serve.instrument(tracing::info_span!("blob", %peer)));
    }

    /// A process without descriptors gets no connection until some are free: that is waited for.
    async fn wait_after(&self, e: &io::Error) {
        metrics::accept_error();
        if let Some(skipped) = self.shared.complaints.ready() {
            warn!(skipped, "a blob connection cannot be accepted: {e}");
        }
        sleep(Duration::from_millis(100)).await;
    }
}

fn log_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(e) = ended
        && e.is_panic()
    {
        tracing::error!("a blob connection's task failed: {e}");
    }
}

fn set_up(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let keepalive =
        TcpKeepalive::new().with_time(Duration::from_secs(60)).with_interval(Duration::from_secs(20));
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

/// A connection's place among those that are allowed.
struct Slot {
    shared: Arc<Shared>,
    ip: IpAddr,
    /// What its address has for answers.
    bytes: Budgets,
}

impl Slot {
    fn take(shared: &Arc<Shared>, ip: IpAddr) -> Option<Self> {
        let mut addresses = shared.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        let of_this = addresses.get(&ip).map_or(0, |(count, _)| *count);
        let all = shared.stats.connections();
        if all >= shared.config.max_connections || of_this >= shared.config.max_connections_per_ip {
            return None;
        }
        let (count, bytes) = addresses.entry(ip).or_insert_with(|| (0, Budgets::of_address(&shared.config)));
        *count += 1;
        let bytes = bytes.clone();
        shared.stats.connections.store(all + 1, Ordering::Relaxed);
        metrics::connections(all + 1);
        Some(Self { shared: shared.clone(), ip, bytes })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut addresses = self.shared.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        match addresses.get_mut(&self.ip) {
            Some((count, _)) if *count > 1 => *count -= 1,
            _ => drop(addresses.remove(&self.ip)),
        }
        // Changed under the lock alone, so that there is no count in between.
        let all = self.shared.stats.connections().saturating_sub(1);
        self.shared.stats.connections.store(all, Ordering::Relaxed);
        metrics::connections(all);
    }
}

/// Lets one complaint a second through: what a peer can cause must not fill the log.
#[derive(Debug, Default)]
struct Seldom(Mutex<(Option<Instant>, u64)>);

impl Seldom {
    /// Whether to complain now, and how often that was not done since the last time.
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
