//! A client of one provider's blob server that multiplexes requests over one connection.
//!
//! Requests are sent as they are made, and answers may arrive in any order. A lost connection is made again
//! with growing backoff; requests that were in flight fail at once, so that the caller can ask another
//! provider. Every payload is checked against its checksum, and a frame longer than its request allows is
//! refused: either fails with [`Error::BadBytes`], which names the provider.
//!
//! Not for: choosing a provider (see [`remote`](super::remote)), or decoding blobs.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::FutureExt;
use prb_core::sync::{Backoff, BackoffConfig};
use tokio::{
    net::TcpStream,
    sync::{Notify, Semaphore, watch},
    time::{Instant, sleep, timeout, timeout_at},
};
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, warn};

use super::{keys::MAX_KEY_BYTES, metrics};

mod buffers;
mod link;
mod pending;

use buffers::Buffers;
use pending::Pending;

/// A connection that lasts this long resets the backoff.
const STEADY: Duration = Duration::from_secs(10);
/// How long a connection may fail before that is warned of, and how often it is repeated.
const WARN_AFTER: Duration = Duration::from_secs(10);
const WARN_INTERVAL: Duration = Duration::from_secs(10 * 60);
/// A request fails after this many timeouts, even if bytes keep arriving slowly.
const SLOWEST_TIMEOUTS: u32 = 10;
const SILENT: &str = "it did not answer in time";

/// Limits of a [`Client`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, derive_setters::Setters)]
#[setters(prefix = "with_")]
#[non_exhaustive]
pub struct Config {
    /// Most requests in flight (`PHALA_LIFECYCLE_BLOB_QUEUE_SIZE`); further ones wait. Default: 36.
    pub max_in_flight: usize,
    /// Timeout of connecting. Default: 5 s.
    pub connect_timeout: Duration,
    /// Backoff between connection attempts. Default: 100 ms to 3 s.
    pub reconnect: BackoffConfig,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            max_in_flight: 36,
            connect_timeout: Duration::from_secs(5),
            reconnect: BackoffConfig { first: Duration::from_millis(100), max: Duration::from_secs(3) },
        }
    }
}

/// Limits of one request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The largest blob that is accepted, in bytes.
    pub max_bytes: usize,
    /// How long the provider may be silent. While bytes arrive, also those of other answers, a request has up to
    /// ten times as long.
    pub timeout: Duration,
}

/// Why a request returned no blob.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is no connection, or it was lost.
    #[error("{provider} is not connected: {reason}")]
    Disconnected {
        /// The provider.
        provider: Arc<str>,
        /// The cause.
        reason: Arc<str>,
    },
    /// No answer came in time. The connection is made again.
    #[error("{provider} did not answer {key} within {} ms", .after.as_millis())]
    TimedOut {
        /// The provider.
        provider: Arc<str>,
        /// The key that was asked for.
        key: String,
        /// How long the request waited.
        after: Duration,
    },
    /// The provider sent bytes that are not a valid answer.
    #[error("{provider} sent bad bytes: {reason}")]
    BadBytes {
        /// The provider.
        provider: Arc<str>,
        /// What is wrong with them.
        reason: Arc<str>,
    },
    /// The key is longer than servers accept.
    #[error("the key {key:.40}… has more than {MAX_KEY_BYTES} bytes")]
    KeyTooLong {
        /// The key.
        key: String,
    },
}

/// State of the connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Link {
    /// Connecting.
    Connecting,
    /// Connected.
    Up,
    /// Not connected; it is tried again after a backoff.
    Down {
        /// The cause.
        reason: Arc<str>,
    },
}

/// A connection to one provider's blob server. It is closed on drop.
#[derive(Debug)]
pub struct Client {
    shared: Arc<Shared>,
    slots: Arc<Semaphore>,
    _task: AbortOnDropHandle<()>,
}

/// State shared by requests and the connection task.
#[derive(Debug)]
struct Shared {
    provider: Arc<str>,
    address: SocketAddr,
    config: Config,
    pending: Pending,
    buffers: Buffers,
    link: watch::Sender<Link>,
    /// Notified when there is something to write.
    written: Notify,
    /// Notified when the connection must be made again.
    reset: Notify,
    started: Instant,
    /// When data last arrived, in ms after `started`.
    last_read_ms: AtomicU64,
}

impl Client {
    /// Starts a client that connects at once and reconnects whenever the connection is lost. `provider` is its
    /// name in errors and logs.
    ///
    /// # Panics
    /// When called outside of a Tokio runtime.
    pub fn start(address: SocketAddr, provider: &str, config: Config) -> Self {
        let shared = Arc::new(Shared {
            provider: provider.into(),
            address,
            config,
            pending: Pending::default(),
            buffers: Buffers::default(),
            link: watch::Sender::new(Link::Connecting),
            written: Notify::new(),
            reset: Notify::new(),
            started: Instant::now(),
            last_read_ms: AtomicU64::new(0),
        });
        let slots = Arc::new(Semaphore::new(config.max_in_flight.clamp(1, Semaphore::MAX_PERMITS)));
        let task = tokio::spawn(shared.clone().run());
        Self { shared, slots, _task: AbortOnDropHandle::new(task) }
    }

    /// Watches the state of the connection.
    pub fn link(&self) -> watch::Receiver<Link> {
        self.shared.link.subscribe()
    }

    /// Returns the blob of a key; `None` if the provider does not have it.
    ///
    /// # Errors
    /// See [`Error`].
    ///
    /// # Cancel safety
    /// Cancel safe. A late answer is discarded; until it arrives, the request counts as in flight.
    pub async fn get(&self, key: &str, bounds: Bounds) -> Result<Option<Bytes>, Error> {
        if key.len() > MAX_KEY_BYTES {
            return Err(Error::KeyTooLong { key: key.to_owned() });
        }
        let start = Instant::now();
        let ask = async {
            // Cannot fail: the semaphore is never closed.
            let slot = self.slots.clone().acquire_owned().await.ok();
            // The slot first: a caller that waits for one may find the connection replaced when it gets it.
            self.connected().await?;
            Ok(self.shared.pending.ask(key, bounds.max_bytes, slot, &self.shared.written))
        };
        let Ok(asked) = timeout(bounds.timeout, ask).await else { return Err(self.timed_out(key, start)) };
        // `None`: the connection was lost after it was seen to be up.
        let Some(mut answer) = asked? else { return Err(self.disconnected_error()) };
        let mut deadline = Instant::now() + bounds.timeout;
        let last = start + bounds.timeout * SLOWEST_TIMEOUTS;
        loop {
            match timeout_at(deadline, &mut answer).await {
                Ok(Ok(answer)) => return answer,
                // The connection task fails pending requests before it ends, and it ends with this client.
                Ok(Err(_)) => return Err(self.disconnected_error()),
                Err(_) => {}
            }
            let extended = (self.shared.last_read() + bounds.timeout).min(last);
            if extended <= Instant::now() {
                // A connection on which one answer does not come is given up with all of its requests.
                self.shared.give_up();
                return Err(self.timed_out(key, start));
            }
            deadline = extended;
        }
    }

    /// Waits while a connection is being made.
    async fn connected(&self) -> Result<(), Error> {
        let mut link = self.shared.link.subscribe();
        let state = link.wait_for(|link| *link != Link::Connecting).await.map(|link| link.clone());
        match state {
            Ok(Link::Up) => Ok(()),
            _ => Err(self.disconnected_error()),
        }
    }

    fn disconnected_error(&self) -> Error {
        let reason = match &*self.shared.link.borrow() {
            Link::Down { reason } => reason.clone(),
            Link::Connecting | Link::Up => "the connection was lost".into(),
        };
        Error::Disconnected { provider: self.shared.provider.clone(), reason }
    }

    fn timed_out(&self, key: &str, start: Instant) -> Error {
        Error::TimedOut {
            provider: self.shared.provider.clone(),
            key: key.to_owned(),
            after: start.elapsed(),
        }
    }
}

/// When an outage of a connection is warned of: once it lasts, and again from time to time.
#[derive(Default)]
struct Outage {
    since: Option<Instant>,
    warned: Option<Instant>,
}

impl Outage {
    /// Whether to warn of a connection that ended now; `began` is when it was attempted.
    fn is_due(&mut self, began: Instant, now: Instant) -> bool {
        if now.duration_since(began) >= STEADY {
            self.since = None;
        }
        let since = *self.since.get_or_insert(now);
        let is_due = now.duration_since(since) >= WARN_AFTER
            && self.warned.is_none_or(|warned| now.duration_since(warned) >= WARN_INTERVAL);
        if is_due {
            self.warned = Some(now);
        }
        is_due
    }
}

impl Shared {
    /// Keeps the connection up until the client is dropped.
    async fn run(self: Arc<Self>) {
        let mut backoff = Backoff::new(self.config.reconnect);
        let mut outage = Outage::default();
        loop {
            let start = Instant::now();
            let error = self.connect_once().await;
            let reason: Arc<str> = error.to_string().into();
            if outage.is_due(start, Instant::now()) {
                warn!(
                    provider = %self.provider, address = %self.address, reason = &*reason,
                    "a data provider's blob server cannot be reached; trying again"
                );
            } else {
                debug!(provider = %self.provider, reason = &*reason, "no blob connection");
            }
            metrics::disconnected();
            // Before the requests fail: a caller that asks again at once gets this reason.
            self.link.send_replace(Link::Down { reason });
            self.pending.fail(&error);
            // Not on every success: a server that accepts and closes at once would be asked in a tight loop.
            if start.elapsed() >= STEADY {
                backoff.reset();
            }
            sleep(backoff.fail()).await;
            self.link.send_replace(Link::Connecting);
        }
    }

    /// Connects and exchanges frames until the connection is lost; returns why.
    async fn connect_once(&self) -> Error {
        let lost = |reason: String| self.disconnected_error(reason);
        let connect = async {
            let stream = TcpStream::connect(self.address).await?;
            // Requests are small: Nagle's algorithm would hold each back until the previous one is
            // acknowledged.
            stream.set_nodelay(true)?;
            Ok::<_, std::io::Error>(stream)
        };
        let mut stream = match timeout(self.config.connect_timeout, connect).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(e)) => return lost(format!("cannot connect to {}: {e}", self.address)),
            Err(_) => return lost(format!("cannot connect to {}: no answer", self.address)),
        };
        self.note_read();
        // Discard a reset that was meant for the previous connection.
        let _ = self.reset.notified().now_or_never();
        // Before the link is up: a request that sees it up must be accepted.
        self.pending.open();
        self.link.send_replace(Link::Up);
        let (read, write) = stream.split();
        tokio::select! {
            error = link::read(self, read) => error,
            error = link::write(self, write) => error,
            () = self.reset.notified() => lost(SILENT.to_owned()),
        }
    }

    /// Fails all requests in flight and has the connection made again.
    fn give_up(&self) {
        let error = self.disconnected_error(SILENT);
        self.link.send_replace(Link::Down { reason: SILENT.into() });
        self.pending.fail(&error);
        self.reset.notify_one();
    }

    fn note_read(&self) {
        self.last_read_ms.store(self.started.elapsed().as_millis() as u64, Ordering::Relaxed);
    }

    fn last_read(&self) -> Instant {
        self.started + Duration::from_millis(self.last_read_ms.load(Ordering::Relaxed))
    }

    fn bad_bytes_error(&self, reason: impl std::fmt::Display) -> Error {
        Error::BadBytes { provider: self.provider.clone(), reason: reason.to_string().into() }
    }

    fn disconnected_error(&self, reason: impl std::fmt::Display) -> Error {
        Error::Disconnected { provider: self.provider.clone(), reason: reason.to_string().into() }
    }
}
