//! Replays blocks from history sources, verified, into a store.

use prb_core::text::describe;
use std::{collections::BTreeMap, sync::Arc, time::Duration};

use metrics::counter;
use prb_core::{blob::Genesis, wire::Header};
use tokio::{task::JoinError, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{Error, HistorySource};
use crate::{
    store::{self, Part, Store},
    verify::{self, Start},
};

/// Most remembered faults of one pass.
const MAX_FAULTS: usize = 64;
/// The parts of a store, in order of dependency.
const PARTS: [Part; 3] = [Part::Relay, Part::ParaHeaders, Part::Changes];

mod take;

/// How sources are queried.
#[derive(Clone, Debug, PartialEq, Eq, derive_setters::Setters)]
#[setters(prefix = "with_")]
#[non_exhaustive]
pub struct Config {
    /// Parachain headers, or blocks with storage changes, in one request. Default: 512.
    pub blocks_per_call: u32,
    /// Interval at which sources are checked for new blocks. Default: 6 s.
    pub poll: Duration,
    /// First pause after an unreachable source; doubles each time. Default: 2 s.
    pub retry_min: Duration,
    /// The longest such pause. Default: 5 minutes.
    pub retry_max: Duration,
    /// If there are also nodes: the sources are asked once the stored blocks have stayed the same for this long
    /// while sources claim to have more. Default: 10 s.
    pub stalled_after: Duration,
    /// First pause after a source was found to be wrong; doubles each time. Default: 10 minutes.
    pub wrong_for: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            blocks_per_call: 512,
            poll: Duration::from_secs(6),
            retry_min: Duration::from_secs(2),
            retry_max: Duration::from_secs(300),
            stalled_after: Duration::from_secs(10),
            wrong_for: Duration::from_secs(600),
        }
    }
}

/// A failure of a source.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fault {
    /// The source.
    pub source: String,
    /// The requested part.
    pub part: Part,
    /// What failed.
    pub what: String,
}

/// The result of a pass over the sources.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct ReplayOutcome {
    /// Whether any block was stored.
    pub stored: bool,
    /// The sources' failures, up to a bound.
    pub faults: Vec<Fault>,
}

/// Fills a store from history sources.
#[derive(Debug)]
pub struct Replay {
    store: Arc<Store>,
    sources: Vec<Asked>,
    config: Config,
}

/// A source, and when it may be asked again.
#[derive(Debug)]
struct Asked {
    source: Arc<dyn HistorySource>,
    /// Whether it is of the store's chain; unknown before it was asked.
    is_ours: Option<bool>,
    aside: BTreeMap<Part, Aside>,
}

#[derive(Clone, Copy, Debug)]
struct Aside {
    until: Instant,
    term: Duration,
}

/// Why a source's blocks were not stored.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Store(#[from] store::Error),
    #[error(transparent)]
    Source(#[from] Error),
    #[error(transparent)]
    Wrong(#[from] verify::Error),
    #[error("a check panicked")]
    Task(#[from] JoinError),
}

impl Failure {
    fn bad(what: impl Into<String>) -> Self {
        Self::Source(Error::Bad(what.into()))
    }
}

impl Replay {
    /// Creates a replay that asks the sources in the given order.
    pub fn new(store: Arc<Store>, sources: Vec<Arc<dyn HistorySource>>, config: Config) -> Self {
        let sources = sources.into_iter();
        let sources = sources.map(|source| Asked { source, is_ours: None, aside: BTreeMap::new() }).collect();
        Self { store, sources, config }
    }

    /// Stores all blocks that the sources have, now and later, until cancelled.
    ///
    /// # Errors
    /// The store is unusable, so that no retry can help.
    ///
    /// # Cancel safety
    /// Cancel safe: each batch is stored completely or not at all.
    pub async fn run(mut self, cancel: CancellationToken) -> Result<(), store::Error> {
        cancel.run_until_cancelled(self.follow()).await.unwrap_or(Ok(()))
    }

    async fn follow(&mut self) -> Result<(), store::Error> {
        let mut at_end = false;
        loop {
            match self.pass().await {
                Ok(drained) if drained.stored || !at_end => {
                    at_end = true;
                    let heights = *self.store.heights().borrow();
                    let (relay, para) = (heights.relay.map(|n| n.0), heights.para.map(|n| n.0));
                    tracing::info!(relay, para, "stored all blocks that the sources have");
                }
                Ok(_) => {}
                Err(e) if e.is_fatal() => return Err(e),
                Err(e) => tracing::warn!(error = %describe(&e), "storing blocks from history sources failed"),
            }
            tokio::time::sleep(self.config.poll).await;
        }
    }

    async fn pass(&mut self) -> Result<ReplayOutcome, store::Error> {
        if self.store.genesis().is_none() {
            let Some((genesis, _)) = self.start().await else { return Ok(ReplayOutcome::default()) };
            self.store_start(genesis).await?;
        }
        let extent = self.extent();
        self.store.set_targets(extent.relay, extent.para);
        self.drain().await
    }

    pub(crate) const fn config(&self) -> &Config {
        &self.config
    }

    /// The newest blocks that any source claims to have.
    pub fn extent(&self) -> super::Extent {
        let all = self.sources.iter().filter(|asked| asked.is_ours != Some(false));
        all.map(|asked| asked.source.extent()).fold(super::Extent::default(), |most, one| super::Extent {
            relay: most.relay.max(one.relay),
            para: most.para.max(one.para),
        })
    }

    /// Returns the start of the chains from the first source that has it, checked as far as possible, and that
    /// source's name.
    pub async fn start(&mut self) -> Option<(Genesis, String)> {
        self.find_start().await.map(|(_, genesis, source)| (genesis, source))
    }

    /// As [`Replay::start`], with the block that workers start after.
    pub(crate) async fn find_start(&mut self) -> Option<(Start, Genesis, String)> {
        let mut faults = Vec::new();
        for at in 0..self.sources.len() {
            if self.sources[at].is_aside(Part::Genesis) {
                continue;
            }
            let source = Arc::clone(&self.sources[at].source);
            let found = match source.genesis().await {
                Ok(Some(genesis)) => start_of(&genesis).map(|start| (start, genesis)).map_err(Error::Bad),
                Ok(None) => continue,
                Err(e) => Err(e),
            };
            match found {
                Ok((start, genesis)) => return Some((start, genesis, source.name().to_owned())),
                Err(e) => self.suspend(at, Part::Genesis, &e.into(), &mut faults),
            }
        }
        None
    }

    /// Stores the start of the chains, as [`Replay::start`] has returned it. A wrong one is logged and not stored.
    ///
    /// # Errors
    /// The store's error.
    pub async fn store_start(&self, genesis: Genesis) -> Result<(), store::Error> {
        let (identity, para_id, relay_start) =
            (genesis.chain_identity, genesis.para_id, genesis.relay_number.0);
        let store_it = move |store: &Store| {
            let start = start_of(&genesis).map_err(Failure::bad)?;
            Ok(store.set_genesis(&start, &genesis)?)
        };
        let stored = self.with_store(store_it).await;
        match stored {
            Err(Failure::Store(e)) => return Err(e),
            Err(e) => tracing::error!(error = %describe(&e), "the start of the chain was not stored"),
            Ok(()) => {
                tracing::info!(chain_identity = %identity, para_id, relay_start, "read the start of the chain from a history source")
            }
        }
        Ok(())
    }

    /// Stores all blocks that the sources have at the moment. Does nothing before the start is stored.
    ///
    /// # Errors
    /// The store's error; failures of sources are in the outcome.
    ///
    /// # Cancel safety
    /// Cancel safe: verified blocks stay stored, and the next call continues after them.
    pub async fn drain(&mut self) -> Result<ReplayOutcome, store::Error> {
        let mut drained = ReplayOutcome::default();
        loop {
            let mut moved = false;
            for part in PARTS {
                moved |= self.advance(part, &mut drained.faults).await?;
            }
            if !moved {
                return Ok(drained);
            }
            drained.stored = true;
        }
    }

    /// Stores the next blocks of a part, from the first source that has them.
    async fn advance(&mut self, part: Part, faults: &mut Vec<Fault>) -> Result<bool, store::Error> {
        for at in 0..self.sources.len() {
            // In the configured order each time, by which operators choose the preferred source.
            if self.sources[at].is_aside(part) || !self.is_ours(at, faults).await {
                continue;
            }
            let source = Arc::clone(&self.sources[at].source);
            match self.take(part, &*source).await {
                Ok(true) => {
                    self.sources[at].aside.remove(&part);
                    return Ok(true);
                }
                Ok(false) => {}
                // A store that fails is no source's fault, and no other source can help.
                Err(Failure::Store(e)) => return Err(e),
                Err(e) => self.suspend(at, part, &e, faults),
            }
        }
        Ok(false)
    }

    /// Whether the source is of the store's chain, as far as it is known.
    async fn is_ours(&mut self, at: usize, faults: &mut Vec<Fault>) -> bool {
        let Some((start, ours)) = self.store.genesis() else { return false };
        if let Some(is_ours) = self.sources[at].is_ours {
            return is_ours;
        }
        let (hash, identity) = (start.hash, ours.chain_identity);
        let failure = match self.sources[at].source.genesis().await {
            Ok(Some(other)) if (other.relay_hash, other.chain_identity) != (hash, identity) => {
                self.sources[at].is_ours = Some(false);
                let other = other.chain_identity;
                Failure::bad(format!(
                    "it is of chain {other}, but the store is of {identity}: use a separate store for each"
                ))
            }
            // A source without a genesis cannot be compared; its blocks are verified anyway.
            Ok(_) => {
                self.sources[at].is_ours = Some(true);
                return true;
            }
            Err(e) => e.into(),
        };
        PARTS.into_iter().for_each(|part| self.suspend(at, part, &failure, faults));
        false
    }

    fn suspend(&mut self, at: usize, part: Part, failure: &Failure, faults: &mut Vec<Fault>) {
        let is_reachable = !matches!(failure, Failure::Source(Error::Unavailable { .. }) | Failure::Task(_));
        // Its other parts are still used: one damaged file leaves the rest of an archive valid.
        let first = if is_reachable { self.config.wrong_for } else { self.config.retry_min };
        // A wrong source stays wrong until its operator repairs it; one that is down may be back soon.
        let most = if is_reachable { Duration::MAX } else { self.config.retry_max };
        let asked = &mut self.sources[at];
        let before = asked.aside.get(&part).map(|aside| aside.term);
        let term = before.map_or(first, |term| term.saturating_mul(2)).max(first).min(most);
        // A doubled term may exceed what an `Instant` can represent.
        let until = Instant::now() + term.min(Duration::from_secs(1 << 30));
        asked.aside.insert(part, Aside { until, term });
        let (source, what) = (asked.source.name().to_owned(), describe(failure));
        counter!("prb_history_faults_total", "part" => part.name()).increment(1);
        tracing::warn!(
            source,
            part = part.name(),
            retry_in_seconds = term.as_secs(),
            "history source failed: {what}"
        );
        // Sources are asked until all blocks are stored, so their faults could grow without bound.
        if faults.len() < MAX_FAULTS {
            faults.push(Fault { source, part, what });
        }
    }
}

impl Asked {
    fn is_aside(&self, part: Part) -> bool {
        self.is_ours == Some(false) || self.aside.get(&part).is_some_and(|aside| aside.until > Instant::now())
    }
}

/// Returns the relay block that workers start after, from the genesis.
fn start_of(genesis: &Genesis) -> Result<Start, String> {
    use codec::DecodeAll;
    let info = prb_core::wire::GenesisBlockInfo::decode_all(&mut &genesis.info[..])
        .map_err(|_| "its genesis info cannot be read")?;
    let header: &Header = &info.block_header;
    let start = Start { number: header.number, hash: header.hash(), set: info.authority_set };
    store::check_start(&start, genesis).map_err(|what| format!("its start is wrong: {what}"))?;
    Ok(start)
}
