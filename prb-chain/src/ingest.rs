//! Both chains, verified, into the store.
//!
//! Four loops share nothing but the store: the relay chain's finalised heads are the target; relay blocks
//! come by finality proof, an authority set at a time (`ingest/relay.rs`); parachain headers up to what a
//! stored relay block's state names (`ingest/para.rs`); and the storage changes of the stored headers. Each
//! goes on where the store ends, waits for the one before it, and backs off where nodes fail it. Nothing is
//! stored before `verify` has passed it; a node that answered wrongly is demoted, and
//! another one is asked. A fifth loop looks again at storage changes that a worker could not apply
//! (`ingest/suspects.rs`).
//!
//! Not for: serving the blocks (see [`crate::source`]).

use std::{sync::Arc, time::Duration};

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};
use metrics::counter;
use prb_core::primitives::{ParaNumber, RelayNumber};
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

/// How much is asked for at once.
#[derive(Clone, Debug, derive_setters::Setters)]
#[setters(prefix = "with_")]
#[non_exhaustive]
pub struct Config {
    /// Headers in one JSON-RPC batch.
    pub headers_per_batch: u32,
    /// Most blocks in one question for storage changes.
    pub changes_per_call: u32,
    /// Such questions that one node may have unanswered.
    pub changes_in_flight: usize,
    /// How long an answer to such a question should take: a node is asked for fewer blocks at once where
    /// it takes longer, and for more where it is quicker.
    pub answer_time: Duration,
    /// Relay headers held in memory while a justified block is looked for, where nodes give no finality
    /// proofs.
    pub max_unproven_headers: u32,
    /// Longest wait for a batch to fill up while the relay chain's blocks are still far from the newest.
    pub batch_wait: Duration,
    /// Shortest pause after a failure.
    pub retry_min: Duration,
    /// Longest pause after a failure.
    pub retry_max: Duration,
    /// Shortest time between two looks at a block that workers cannot apply.
    pub recheck_min: Duration,
    /// Longest such time: it doubles with each look that finds the block right.
    pub recheck_max: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            headers_per_batch: 256,
            // Nodes answer this many without strain.
            changes_per_call: 100,
            changes_in_flight: 2,
            answer_time: Duration::from_secs(2),
            max_unproven_headers: 20_000,
            batch_wait: Duration::from_secs(1),
            retry_min: Duration::from_millis(200),
            retry_max: Duration::from_secs(15),
            recheck_min: Duration::from_secs(30),
            recheck_max: Duration::from_secs(3600),
        }
    }
}

/// Why the ingest cannot go on, or why one attempt failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A node gave no answer.
    #[error(transparent)]
    Rpc(#[from] rpc::Error),
    /// A node's answer is not the truth; the node is demoted.
    #[error("{node} answered wrongly: {source}")]
    Wrong {
        /// The node.
        node: Arc<str>,
        /// What is wrong.
        #[source]
        source: verify::Error,
    },
    /// The chain itself has something that workers cannot take.
    #[error(transparent)]
    Unsupported(verify::Error),
    /// A node's answer lacks what was asked for: it may be behind, or have thrown the block away.
    #[error("{node} has no {what}")]
    Absent {
        /// The node.
        node: Arc<str>,
        /// What it does not have.
        what: String,
    },
    /// A node of the parachain's pool serves no parachain.
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
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// A task that writes to the store broke.
    #[error("writing to the store broke")]
    Task(#[from] tokio::task::JoinError),
}

impl Error {
    /// Whether no further attempt can help: another chain's store, or one that cannot be read.
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
}

/// Where blocks come from and go to.
#[derive(Clone, Debug)]
struct Chains {
    relay: NodePool,
    para: NodePool,
    store: Arc<Store>,
    /// Held for reading while blocks from nodes are fetched and stored, for writing while history sources have
    /// more.
    turn: Arc<RwLock<()>>,
}

impl Chains {
    /// Whether the relay blocks are nearly all there: larger batches are not worth the wait.
    fn near_target(&self, blocks: u32) -> bool {
        let target = self.store.heights().borrow().relay_target.map_or(0, |target| target.0);
        let stored = self.store.tips().borrow().relay.map_or(0, |(number, _)| number.0);
        target <= stored.saturating_add(blocks)
    }
}

impl Chains {
    /// Sees to it that another node is asked next, where there is one.
    fn hold_against(&self, part: &str, error: &Error) {
        // Both chains may be served under one host and port.
        let pools = if part == relay::PART { [&self.relay, &self.para] } else { [&self.para, &self.relay] };
        let named = |name: &str| pools.into_iter().find_map(|pool| pool.node(name));
        match error {
            Error::Wrong { node, source } => {
                named(node).into_iter().for_each(|node| node.demote(&source.to_string()));
            }
            Error::Absent { node, what } => {
                named(node).into_iter().for_each(|node| node.defer(&format!("has no {what}")));
            }
            Error::Rpc(e) => {
                let node = e.node().and_then(|name| named(name));
                node.into_iter().for_each(|node| node.defer(&e.to_string()));
            }
            Error::NoParachain { node } => {
                self.para.node(node).into_iter().for_each(|node| node.defer(&error.to_string()));
            }
            // Either may be the one that is of another network.
            Error::OtherRelay { relay, para, .. } => {
                let nodes = self.relay.node(relay).into_iter().chain(self.para.node(para));
                nodes.for_each(|node| node.defer(&error.to_string()));
            }
            Error::Unsupported(_) | Error::Store(_) | Error::Task(_) => {}
        }
    }
}

impl Ingest {
    /// An ingest of the chains behind the pools. Asks nothing yet.
    pub fn new(relay: NodePool, para: NodePool, store: Arc<Store>, config: Config) -> Self {
        let (sender, reported) = mpsc::channel(suspects::WAITING);
        let suspects = Suspects::new(sender);
        let chains = Chains { relay, para, store, turn: Arc::default() };
        start::pin(&chains);
        Self { chains, config, suspects, reported, history: None }
    }

    /// Takes from history sources what they have, and from nodes the rest; what nodes fail to give is asked of
    /// the sources again.
    pub fn with_history(self, sources: Vec<Arc<dyn HistorySource>>, config: history_sources::Config) -> Self {
        let replay = Replay::new(Arc::clone(&self.chains.store), sources, config);
        Self { history: Some(replay), ..self }
    }

    /// Where to tell of blocks that a worker cannot apply (`StateRootMismatch`): their storage changes are
    /// fetched again from every node, one block at a time, and replaced where they were wrong. A block that
    /// is found right is looked at again ever less often.
    pub fn suspects(&self) -> Suspects {
        self.suspects.clone()
    }

    /// Runs until cancelled.
    ///
    /// # Errors
    /// Where no further attempt can help: the store is of another chain, or cannot be read.
    ///
    /// # Cancel safety
    /// Safe: each batch is stored whole or not at all.
    pub async fn run(self, cancel: CancellationToken) -> Result<(), Error> {
        cancel.run_until_cancelled(self.follow()).await.unwrap_or(Ok(()))
    }

    async fn follow(self) -> Result<(), Error> {
        let Self { chains, config, reported, mut history, .. } = self;
        let mut pause = Pause::new(&config);
        loop {
            match start::settle(&chains).await {
                Ok(()) => break,
                Err(e) if !e.is_fatal() && history::settle(&chains, history.as_mut()).await? => {
                    tracing::warn!("nodes do not tell the chain's start: {}", chain_of(&e));
                    break;
                }
                Err(e) => pause.after(&chains, "start", e).await?,
            }
        }
        // History sources come first.
        let turn = Arc::clone(&chains.turn).write_owned().await;
        let (target, targets) = watch::channel(None);
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

/// Tells how far the chains are.
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
    /// The failure that was shown last.
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

    /// How long to wait now; longer the next time.
    fn next(&mut self) -> Duration {
        self.pauses.next().unwrap_or(self.max)
    }

    /// Shows a failure and waits, or gives it back where waiting cannot help.
    async fn after(&mut self, chains: &Chains, what: &'static str, error: Error) -> Result<(), Error> {
        if error.is_fatal() {
            return Err(error);
        }
        counter!("prb_ingest_failures_total", "part" => what).increment(1);
        chains.hold_against(what, &error);
        let pause = self.next();
        self.failures = self.failures.saturating_add(1);
        let (text, failures) = (chain_of(&error), self.failures);
        // What goes on for hours is shown ever less often; the metric counts each.
        if self.shown != text || failures.is_power_of_two() {
            tracing::warn!(part = what, retry_in_seconds = pause.as_secs_f64(), failures, "ingest: {text}");
            self.shown = text;
        } else {
            tracing::debug!(part = what, retry_in_seconds = pause.as_secs_f64(), failures, "ingest: {text}");
        }
        tokio::time::sleep(pause).await;
        Ok(())
    }
}

/// An error with its causes, in one line.
pub(crate) fn chain_of(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
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

/// Writes to the store on a thread that may block.
async fn write<T: Send + 'static>(
    store: &Arc<Store>,
    work: impl FnOnce(&Store) -> Result<T, store::Error> + Send + 'static,
) -> Result<T, Error> {
    let store = Arc::clone(store);
    Ok(tokio::task::spawn_blocking(move || work(&store)).await??)
}
