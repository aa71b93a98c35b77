//! Fetches and verifies both chains and stores them.
//!
//! Four loops share only the store. The first follows the relay chain's finalised heads, which are the
//! target; the second fetches relay blocks by finality proof, one authority set at a time; the third fetches
//! parachain headers up to the head named in the state of a stored relay block; the fourth fetches storage
//! changes of the stored headers. Each continues where the store ends, waits for the one before it, and backs off
//! when nodes fail. Nothing is stored before it is verified; a node that answered wrongly is demoted, and another
//! one is asked. A fifth loop rechecks storage changes that a worker could not apply ([`Suspects`]).
//!
//! Not for: serving the blocks (see [`crate::source`]).

use std::{sync::Arc, time::Duration};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use metrics::counter;
use prb_core::{
    primitives::{ParaNumber, RelayNumber},
    text::{describe, seconds, shorten},
};
use tokio::sync::{RwLock, mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    history::{self as history_sources, HistorySource, Replay},
    rpc::{self, Node, NodePool},
    store::{self, Store},
    verify,
};

mod changes;
mod history;
mod pace;
mod para;
pub(crate) mod recheck;
mod relay;
mod spread;
mod start;
mod suspects;

pub(crate) use relay::{append as append_relay, check_pieces, notice_missing_head};
pub(crate) use start::validation_data;
pub use suspects::Suspects;

/// Sizes of requests, and timing.
#[derive(Clone, Debug, derive_setters::Setters)]
#[setters(prefix = "with_")]
#[non_exhaustive]
pub struct Config {
    /// Headers requested together. Default: 256.
    pub headers_per_batch: u32,
    /// Most blocks in one request for storage changes. Default: 100.
    pub changes_per_call: u32,
    /// Most such requests in flight at one node. Default: 2.
    pub changes_in_flight: usize,
    /// Target duration of such a request: a slower node is asked for fewer blocks at once, a faster one for more.
    /// Default: 2 s.
    pub answer_time: Duration,
    /// Most relay headers held in memory while looking for a justified block, if nodes give no finality proofs.
    /// Default: 20,000.
    pub max_unproven_headers: u32,
    /// Longest wait for a batch to fill up while far from the relay chain's newest block. Default: 1 s.
    pub batch_wait: Duration,
    /// Shortest pause after a failure. Default: 200 ms.
    pub retry_min: Duration,
    /// Longest pause after a failure. Default: 15 s.
    pub retry_max: Duration,
    /// Least time between two rechecks of a block that workers cannot apply. Default: 30 s.
    pub recheck_min: Duration,
    /// Longest such time: it doubles with each recheck that finds the block correct. Default: 1 hour.
    pub recheck_max: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            headers_per_batch: 256,
            // Nodes answer this many without problems.
            changes_per_call: 100,
            changes_in_flight: 2,
            answer_time: Duration::from_secs(2),
            max_unproven_headers: 20_000,
            // Each transaction of the store ends with a flush, so small batches cost as much as large ones.
            batch_wait: Duration::from_secs(1),
            retry_min: Duration::from_millis(200),
            retry_max: Duration::from_secs(15),
            recheck_min: Duration::from_secs(30),
            recheck_max: Duration::from_secs(3600),
        }
    }
}

/// Why the ingest cannot continue, or why an attempt failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A node gave no answer.
    #[error(transparent)]
    Rpc(#[from] rpc::Error),
    /// A node's answer is wrong; the node is demoted.
    #[error("{node} answered wrongly: {source}")]
    Wrong {
        /// The node.
        node: Arc<str>,
        /// The failed check. Its type is private; use it as a `std::error::Error`.
        #[source]
        source: verify::Error,
    },
    /// The chain itself has something that workers do not support. The cause's type is private; use it as a
    /// `std::error::Error`.
    #[error(transparent)]
    Unsupported(verify::Error),
    /// A node lacks the requested data: it may be behind, or have pruned the block.
    #[error("{node} has no {what}")]
    Absent {
        /// The node.
        node: Arc<str>,
        /// The missing data.
        what: String,
    },
    /// A node in the parachain's pool serves no parachain.
    #[error(
        "{node} serves no parachain: its genesis state has no ParachainInfo::ParachainId; check that the endpoints \
         of relay chain and parachain are not swapped"
    )]
    NoParachain {
        /// The node.
        node: Arc<str>,
    },
    /// The nodes of the two pools do not serve a parachain and its relay chain.
    #[error(
        "{relay} does not serve the relay chain of the parachain that {para} serves: its block {number} has another \
         state than parachain block 1 was built on; check the endpoints of both"
    )]
    OtherRelay {
        /// The relay chain's node.
        relay: Arc<str>,
        /// The parachain's node.
        para: Arc<str>,
        /// The relay block.
        number: u32,
    },
    /// The relay chain names other blocks of the parachain.
    #[error(
        "{relay} does not serve the relay chain of the parachain that {para} serves: in the state of its block \
         {number}, the head of parachain {para_id} is no block of that node's chain; check the endpoints of both"
    )]
    OtherParachain {
        /// The relay chain's node.
        relay: Arc<str>,
        /// The parachain's node.
        para: Arc<str>,
        /// The parachain.
        para_id: u32,
        /// The relay block.
        number: u32,
    },
    /// Nodes give several starts, each of which is consistent.
    #[error(
        "the nodes serve several networks, and nothing tells which is wanted: {starts}; remove the wrong endpoints, \
         or set the genesis hashes (prb: PRB_CHAIN_GENESIS for the parachain, PRB_PARENT_CHAIN_GENESIS for the \
         relay chain)"
    )]
    StartDisputed {
        /// Each start and its nodes.
        starts: String,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// A task that writes to the store panicked.
    #[error("a task that writes to the store failed")]
    Task(#[from] tokio::task::JoinError),
}

impl Error {
    /// Whether no retry can help: the store is of another chain, or cannot be read.
    const fn is_fatal(&self) -> bool {
        matches!(self, Self::Store(e) if e.is_fatal())
    }
}

/// Fetches, verifies and stores both chains until cancelled.
#[derive(Debug)]
pub struct Ingest {
    chains: Chains,
    config: Config,
    suspects: Suspects,
    reported: mpsc::Receiver<suspects::Suspect>,
    history: Option<Replay>,
    start_error: StartError,
}

/// The pools and the store.
#[derive(Clone, Debug)]
struct Chains {
    relay: NodePool,
    para: NodePool,
    store: Arc<Store>,
    /// Held for reading while blocks from nodes are fetched and stored, and for writing while history sources
    /// have more: the two must not append concurrently.
    turn: Arc<RwLock<()>>,
}

impl Chains {
    /// Whether the relay blocks are nearly complete: waiting for larger batches is not worthwhile.
    fn near_target(&self, blocks: u32) -> bool {
        let target = self.store.heights().borrow().relay_target.map_or(0, |target| target.0);
        let stored = self.store.tips().borrow().relay.map_or(0, |(number, _)| number.0);
        target <= stored.saturating_add(blocks)
    }
}

impl Chains {
    /// Records those failures that prove a node wrong, whatever other nodes say.
    fn demote_proven_liars(&self, failures: &[Error]) {
        for failure in failures.iter().filter(|failure| matches!(failure, Error::Wrong { .. })) {
            self.record_failure("start", failure);
        }
    }

    /// Records a node's failure so that another node is preferred, if there is one.
    fn record_failure(&self, part: &str, error: &Error) {
        // Both chains may be served by the same host and port.
        let pools = if part == relay::PART { [&self.relay, &self.para] } else { [&self.para, &self.relay] };
        let named = |name: &str| pools.into_iter().find_map(|pool| pool.node(name));
        match error {
            Error::Wrong { node, source } => {
                named(node).into_iter().for_each(|node| node.demote(&describe(source)));
            }
            // Not demoted: a node may be behind, or have pruned what was asked for.
            Error::Absent { node, what } => {
                named(node).into_iter().for_each(|node| node.defer(&format!("has no {what}")));
            }
            Error::Rpc(e) => {
                let node = e.node().and_then(|name| named(name));
                node.into_iter().for_each(|node| node.defer(&describe(e)));
            }
            Error::NoParachain { node } => {
                self.para.node(node).into_iter().for_each(|node| node.defer(&describe(error)));
            }
            // Either node may be of another network.
            Error::OtherRelay { relay, para, .. } | Error::OtherParachain { relay, para, .. } => {
                let nodes = self.relay.node(relay).into_iter().chain(self.para.node(para));
                nodes.for_each(|node| node.defer(&describe(error)));
            }
            Error::StartDisputed { .. } | Error::Unsupported(_) | Error::Store(_) | Error::Task(_) => {}
        }
    }
}

impl Ingest {
    /// Creates an ingest of the chains behind the pools. Makes no request yet.
    pub fn new(relay: NodePool, para: NodePool, store: Arc<Store>, config: Config) -> Self {
        let (sender, reported) = mpsc::channel(suspects::WAITING);
        let suspects = Suspects::new(sender);
        let chains = Chains { relay, para, store, turn: Arc::default() };
        start::pin(&chains);
        Self { chains, config, suspects, reported, history: None, start_error: StartError::default() }
    }

    /// Also uses history sources: they are asked first, and again if nodes lack blocks.
    pub fn with_history(self, sources: Vec<Arc<dyn HistorySource>>, config: history_sources::Config) -> Self {
        let replay = Replay::new(Arc::clone(&self.chains.store), sources, config);
        Self { history: Some(replay), ..self }
    }

    /// Returns a handle to report blocks that a worker cannot apply (`StateRootMismatch`): their storage changes
    /// are fetched again from every node, one block at a time, and replaced if they were wrong. A block that is
    /// found correct is rechecked with growing pauses.
    pub fn suspects(&self) -> Suspects {
        self.suspects.clone()
    }

    /// Returns why the nodes have not given the start of the chain, or do not confirm the stored one, as a short text;
    /// `None` once they have, and before the first attempt ends.
    pub fn start_error(&self) -> watch::Receiver<Option<Arc<str>>> {
        self.start_error.0.subscribe()
    }

    /// Runs until cancelled.
    ///
    /// # Errors
    /// No retry can help: the store is of another chain, or cannot be read.
    ///
    /// # Cancel safety
    /// Cancel safe: each batch is stored completely or not at all.
    pub async fn run(self, cancel: CancellationToken) -> Result<(), Error> {
        cancel.run_until_cancelled(self.follow()).await.unwrap_or(Ok(()))
    }

    async fn follow(self) -> Result<(), Error> {
        let Self { chains, config, reported, mut history, start_error, .. } = self;
        let mut pause = Pause::new(&config);
        loop {
            // Before the loops: each of them needs the genesis, and the pools' pins refuse nodes of other
            // chains.
            match start::store_or_confirm(&chains).await {
                Ok(()) => break,
                Err(e)
                    if !e.is_fatal() && history::store_confirmed_start(&chains, history.as_mut()).await? =>
                {
                    let error = describe(&e);
                    tracing::warn!(part = "start", error, "nodes cannot provide the start of the chain");
                    break;
                }
                Err(e) => {
                    start_error.publish(&e);
                    pause.after(&chains, "start", e).await?;
                }
            }
        }
        start_error.0.send_replace(None);
        // The loops hold this lock for reading while they fetch, so none starts before the sources are
        // drained.
        // History sources come first.
        let turn = Arc::clone(&chains.turn).write_owned().await;
        let (target, targets) = watch::channel(None);
        // Joined, not spawned: a loop that ends in an error ends the others, and dropping this cancels all.
        tokio::try_join!(
            watch_heads(&chains, target),
            relay::run(&chains, &config, targets),
            para::run(&chains, &config),
            changes::run(&chains, &config),
            suspects::run(&chains, &config, reported),
            history::run(&chains, &config, history, turn),
        )?;
        Ok(())
    }
}

/// The last error of the start, for readiness.
#[derive(Debug, Default)]
struct StartError(watch::Sender<Option<Arc<str>>>);

impl StartError {
    /// Longest text, in bytes: nodes write parts of it.
    const MAX_BYTES: usize = 600;

    fn publish(&self, error: &Error) {
        // A node in backoff has failed before, and that error says more.
        if is_backing_off(error) && self.0.borrow().is_some() {
            return;
        }
        self.0.send_replace(Some(shorten(&describe(error), Self::MAX_BYTES).into()));
    }
}

const fn is_backing_off(error: &Error) -> bool {
    matches!(error, Error::Rpc(rpc::Error::BackingOff { .. }))
}

/// Publishes the target heights.
async fn watch_heads(chains: &Chains, target: watch::Sender<Option<RelayNumber>>) -> Result<(), Error> {
    let (mut relay, mut para) =
        (chains.relay.finalized_heads_to_verify(), chains.para.finalized_heads_to_verify());
    loop {
        tokio::select! {
            head = relay.next() => {
                let number = Some(RelayNumber(head.number));
                chains.store.set_targets(number, None);
                target.send_replace(number);
            }
            head = para.next() => chains.store.set_targets(None, Some(ParaNumber(head.number))),
        }
    }
}

/// A growing, jittered pause between failures.
struct Pause {
    config: ExponentialBuilder,
    max: Duration,
    pauses: ExponentialBackoff,
    failures: u32,
    /// The failure that was logged last.
    shown: String,
}

impl Pause {
    fn new(config: &Config) -> Self {
        let builder = ExponentialBuilder::default()
            .with_min_delay(config.retry_min)
            .with_max_delay(config.retry_max)
            .with_jitter()
            .without_max_times();
        let (failures, shown) = Default::default();
        Self { config: builder, max: config.retry_max, pauses: builder.build(), failures, shown }
    }

    fn reset(&mut self) {
        self.pauses = self.config.build();
        (self.failures, self.shown) = Default::default();
    }

    /// Returns the current pause and increases the next one.
    fn next(&mut self) -> Duration {
        self.pauses.next().unwrap_or(self.max)
    }

    /// Counts a failure; returns whether to log it.
    // A failure that lasts for hours is logged at growing intervals; the metric counts each.
    fn is_news(&mut self, error: &Error, text: &str) -> bool {
        self.failures = self.failures.saturating_add(1);
        // A node in backoff has failed before, and its message has another time in it each time.
        let is_other = self.shown != text && !is_backing_off(error);
        if is_other {
            text.clone_into(&mut self.shown);
        }
        is_other || self.failures.is_power_of_two()
    }

    /// Logs a failure and waits, or returns it if waiting cannot help.
    async fn after(&mut self, chains: &Chains, what: &'static str, error: Error) -> Result<(), Error> {
        if error.is_fatal() {
            return Err(error);
        }
        counter!("prb_ingest_failures_total", "part" => what).increment(1);
        chains.record_failure(what, &error);
        let pause = self.next();
        let text = describe(&error);
        let is_news = self.is_news(&error, &text);
        let failures = self.failures;
        if is_news {
            tracing::warn!(
                part = what,
                retry_in_seconds = seconds(pause),
                failures,
                error = text,
                "the ingest failed, retrying"
            );
        } else {
            tracing::debug!(
                part = what,
                retry_in_seconds = seconds(pause),
                failures,
                error = text,
                "the ingest failed, retrying"
            );
        }
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

fn wrong(node: &Node) -> impl Fn(verify::Error) -> Error {
    let node = Arc::clone(node.name());
    move |source| match source.is_of_chain() {
        true => Error::Unsupported(source),
        false => Error::Wrong { node: Arc::clone(&node), source },
    }
}

fn absent(node: &Node, what: impl Into<String>) -> Error {
    Error::Absent { node: Arc::clone(node.name()), what: what.into() }
}

/// Runs a write to the store on a blocking thread.
async fn write<T: Send + 'static>(
    store: &Arc<Store>,
    work: impl FnOnce(&Store) -> Result<T, store::Error> + Send + 'static,
) -> Result<T, Error> {
    let store = Arc::clone(store);
    Ok(tokio::task::spawn_blocking(move || work(&store)).await??)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lasting_failure_is_logged_at_growing_intervals() {
        let mut pause = Pause::new(&Config::default());
        let mut logged = Vec::new();
        for attempt in 1..=20 {
            let node = Arc::from("n:1");
            // Every other attempt comes before the node is tried again.
            let error = match attempt % 2 {
                1 => rpc::Error::Timeout { node, method: "chain_getHeader".into() },
                _ => rpc::Error::BackingOff {
                    node,
                    cause: "refused".into(),
                    retry_after: Duration::from_millis(attempt),
                },
            };
            let error = Error::from(error);
            if pause.is_news(&error, &describe(&error)) {
                logged.push(attempt);
            }
        }
        assert_eq!(logged, [1, 2, 4, 8, 16]);
        let other = Error::from(rpc::Error::NoTrustedNode { chain: "relay" });
        assert!(pause.is_news(&other, &describe(&other)));
    }
}
