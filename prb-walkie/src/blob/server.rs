//! The blob server: answers [keys](super::keys) over TCP from a [`Lookup`].
//!
//! Every connection is one task that reads requests, assembles answers as they come ready, and writes what is
//! there in as few calls as it takes. What one peer can take hold of is bounded ([`Config`]): connections,
//! requests in flight, bytes set aside for answers of one connection and of all. Past a bound the server stops
//! reading from that peer until it has taken what is there; a peer that does not read is dropped.
//!
//! An answer is assembled whole before it is queued, so that a slow reader holds bytes, and never a transaction
//! of the store.
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

mod connection;
mod outbox;

/// Where data providers listen.
pub const DEFAULT_PORT: u16 = 8012;

/// Limits of a [`Server`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Config {
    /// Connections at once.
    pub max_connections: usize,
    /// Connections of one IP address at once.
    pub max_connections_per_ip: usize,
    /// Requests of one connection that are read and not yet answered.
    pub max_in_flight: usize,
    /// Bytes of one connection's answers, set aside or queued
    /// (`PHALA_LIFECYCLE_BLOB_SERVER_SESSION_MAX_MEMORY`, there in MiB). A single answer may be larger.
    pub session_max_bytes: usize,
    /// The same of all connections together.
    pub max_bytes: usize,
    /// How long a peer may take nothing, or nearly nothing, of what is there for it.
    pub write_timeout: Duration,
    /// How long a connection may be without requests.
    pub idle_timeout: Duration,
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
            max_bytes: 512 << 20,
            write_timeout: Duration::from_secs(30),
            idle_timeout: Duration::from_secs(15 * 60),
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
    budget: ByteBudget,
    stats: Arc<Stats>,
    addresses: Mutex<HashMap<IpAddr, usize>>,
    complaints: Seldom,
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
            budget: ByteBudget::new(config.max_bytes),
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
        let Some(slot) = Slot::take(&self.shared, peer.ip().to_canonical()) else {
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
            let ended = connection::serve(stream, &shared, &stop).await;
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
}

impl Slot {
    fn take(shared: &Arc<Shared>, ip: IpAddr) -> Option<Self> {
        let mut addresses = shared.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        let of_this = addresses.get(&ip).copied().unwrap_or(0);
        let all = shared.stats.connections();
        if all >= shared.config.max_connections || of_this >= shared.config.max_connections_per_ip {
            return None;
        }
        addresses.insert(ip, of_this + 1);
        shared.stats.connections.store(all + 1, Ordering::Relaxed);
        metrics::connections(all + 1);
        Some(Self { shared: shared.clone(), ip })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut addresses = self.shared.addresses.lock().unwrap_or_else(PoisonError::into_inner);
        let left = addresses.get(&self.ip).map_or(0, |count| count.saturating_sub(1));
        if left == 0 {
            addresses.remove(&self.ip);
        } else {
            addresses.insert(self.ip, left);
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
