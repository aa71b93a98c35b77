//! Replays blocks from history sources, verified, into a store.

use prb_core::text::describe;
use std::{collections::BTreeMap, sync::Arc, time::Duration};

use metrics::counter;
use prb_core::{
    blob::{Genesis, Span},
    primitives::{Hash, ParaNumber},
    wire::Header,
};
use tokio::{task::JoinError, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{Error, HistorySource, Next};
use crate::{
    ingest,
    store::{self, ParaHead, Part, Store},
    verify::{self, Checked, Start, scale, state},
};

/// Most parachain headers held between two heads that the relay chain names.
const MAX_UNNAMED: u32 = 1_000_000;
/// Most remembered faults of one pass.
const MAX_FAULTS: usize = 64;
/// The parts of a store, in order of dependency.
const PARTS: [Part; 3] = [Part::Relay, Part::ParaHeaders, Part::Changes];

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
            self.settle(genesis).await?;
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
                Err(e) => self.put_aside(at, Part::Genesis, &e.into(), &mut faults),
            }
        }
        None
    }

    /// Stores the start of the chains, as [`Replay::start`] has returned it. A wrong one is logged and not stored.
    ///
    /// # Errors
    /// The store's error.
    pub async fn settle(&self, genesis: Genesis) -> Result<(), store::Error> {
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
                tracing::info!(chain_identity = %identity, para_id, relay_start, "chain known from a history source")
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
                Err(Failure::Store(e)) => return Err(e),
                Err(e) => self.put_aside(at, part, &e, faults),
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
        PARTS.into_iter().for_each(|part| self.put_aside(at, part, &failure, faults));
        false
    }

    fn put_aside(&mut self, at: usize, part: Part, failure: &Failure, faults: &mut Vec<Fault>) {
        let is_reachable = !matches!(failure, Failure::Source(Error::Unavailable { .. }) | Failure::Task(_));
        let first = if is_reachable { self.config.wrong_for } else { self.config.retry_min };
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
        if faults.len() < MAX_FAULTS {
            faults.push(Fault { source, part, what });
        }
    }

    async fn take(&self, part: Part, source: &dyn HistorySource) -> Result<bool, Failure> {
        let Some((start, genesis)) = self.store.genesis() else { return Ok(false) };
        match part {
            Part::Genesis => Ok(false),
            Part::Relay => self.take_relay(source, start, genesis.para_id).await,
            Part::ParaHeaders => self.take_para_headers(source).await,
            Part::Changes => self.take_changes(source).await,
        }
    }

    /// Runs store operations on a blocking thread.
    async fn with_store<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let store = Arc::clone(&self.store);
        tokio::task::spawn_blocking(move || work(&store)).await?
    }

    async fn take_relay(
        &self,
        source: &dyn HistorySource,
        start: &Start,
        para_id: u32,
    ) -> Result<bool, Failure> {
        let tips = *self.store.tips().borrow();
        let (first, parent) = match tips.relay {
            Some((tip, hash)) => (tip.next(), hash),
            None => (start.first(), start.hash),
        };
        let head = tips.proven.map_or(ParaNumber(0), |(number, _)| number);
        let pieces = source.relay(Next { relay: first, head }).await?;
        if pieces.is_empty() {
            return Ok(false);
        }
        let check_and_store = move |store: &Store| {
            let batch = ingest::check_pieces(para_id, store.current_set()?, parent, first, pieces)?;
            Ok(ingest::append_relay(store, &batch)?)
        };
        let gone = self.with_store(check_and_store).await?;
        ingest::notice_missing_head(&self.store, para_id, gone);
        Ok(true)
    }

    async fn take_para_headers(&self, source: &dyn HistorySource) -> Result<bool, Failure> {
        let limit = self.config.blocks_per_call;
        let head = self.with_store(move |store| Ok(store.next_head(limit)?)).await?;
        let Some(head) = head else { return Ok(false) };
        let tip = self.store.tips().borrow().para_header;
        let (first, parent) = tip.map_or((ParaNumber(0), Hash::default()), |(tip, hash)| (tip.next(), hash));
        if head.number.0 - first.0 > MAX_UNNAMED {
            return Err(Failure::bad(format!(
                "its relay blocks name no parachain head before {}",
                head.number
            )));
        }
        // Only a head that a relay block names proves headers: all of them up to it are needed before any can
        // be checked.
        let mut headers: Vec<Vec<u8>> = Vec::new();
        while first.0 + (headers.len() as u32) <= head.number.0 {
            let next = ParaNumber(first.0 + headers.len() as u32);
            let last = ParaNumber(head.number.0.min(next.0.saturating_add(limit - 1)));
            let more = source.para_headers(Span { first: next, last }).await?;
            if more.is_empty() {
                return Ok(false);
            }
            if more.len() > (last.0 - next.0) as usize + 1 {
                return Err(Failure::bad(format!(
                    "it returned more than parachain headers {next} to {last}"
                )));
            }
            headers.extend(more);
        }
        self.with_store(move |store| {
            let headers = check_para_headers(store, parent, first, head, headers)?;
            Ok(store.append_para_headers(first, &headers)?)
        })
        .await?;
        Ok(true)
    }

    async fn take_changes(&self, source: &dyn HistorySource) -> Result<bool, Failure> {
        let tips = *self.store.tips().borrow();
        let first = tips.changes.next();
        let Some((tip, _)) = tips.para_header.filter(|(tip, _)| *tip >= first) else { return Ok(false) };
        let last = tip.min(ParaNumber(first.0.saturating_add(self.config.blocks_per_call - 1)));
        let changes = source.changes(Span { first, last }).await?;
        if changes.is_empty() {
            return Ok(false);
        }
        if changes.len() > (last.0 - first.0) as usize + 1 {
            return Err(Failure::bad(format!(
                "it returned more than storage changes of blocks {first} to {last}"
            )));
        }
        self.with_store(move |store| {
            if let Some(bad) = changes.iter().position(|changes| !scale::is_storage_changes(changes)) {
                let number = first.0 + bad as u32;
                return Err(Failure::bad(format!("its storage changes of block {number} cannot be read")));
            }
            if first.0 == 1 {
                check_first_block(store, &changes[0])?;
            }
            Ok(store.append_changes(first, &changes)?)
        })
        .await?;
        Ok(true)
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

/// Checks headers up to one that a relay block names, and that the chain starts as its genesis says.
fn check_para_headers(
    store: &Store,
    parent: Hash,
    first: ParaNumber,
    head: ParaHead,
    headers: Vec<Vec<u8>>,
) -> Result<Vec<Vec<u8>>, Failure> {
    let checked = verify::chain(parent, first.0, headers)?;
    if let Some(Checked { number, hash: actual, .. }) = checked.last().filter(|last| last.hash != head.hash) {
        return Err(
            verify::Error::HeaderHash { number: *number, expected: head.hash, actual: *actual }.into()
        );
    }
    if let Some((_, genesis)) = store.genesis() {
        for header in checked.iter().take_while(|header| header.number <= 1) {
            if header.number == 0 {
                let pairs = scale::pairs(&genesis.state).unwrap_or_default();
                state::whole_state(header.state_root, &pairs)?;
            } else if header.hash != genesis.chain_identity {
                let (number, expected, actual) = (1, genesis.chain_identity, header.hash);
                return Err(verify::Error::HeaderHash { number, expected, actual }.into());
            }
        }
    }
    Ok(checked.into_iter().map(|header| header.encoded).collect())
}

/// Checks that the changes of block 1 lead to its state, and that it was built on the relay block after the
/// start, which ties the parachain to this relay chain.
fn check_first_block(store: &Store, changes: &[u8]) -> Result<(), Failure> {
    let Some((start, genesis)) = store.genesis() else { return Ok(()) };
    let view = store.view()?;
    let Some(header) = view.para_header(ParaNumber(1))? else { return Ok(()) };
    let header = Checked::new(1, header.to_vec())?;
    let pairs = scale::pairs(&genesis.state).unwrap_or_default();
    let mut state: BTreeMap<&[u8], &[u8]> = pairs.into_iter().collect();
    let change = &mut |key, value| match value {
        Some(value) => drop(state.insert(key, value)),
        None => drop(state.remove(key)),
    };
    let (_, has_children) = scale::storage_changes(&mut &*changes, change).unwrap_or_default();
    if has_children {
        // Roots of child tries are not among the changes, so the state root cannot be checked.
        return Ok(());
    }
    let pairs: Vec<_> = state.iter().map(|(key, value)| (*key, *value)).collect();
    state::whole_state(header.state_root, &pairs)?;
    let key = state::value_key("ParachainSystem", "ValidationData");
    let data = state.get(&key[..]).and_then(|data| ingest::validation_data(data));
    let Some((number, root)) = data else {
        return Err(Failure::bad("its block 1 has no ParachainSystem::ValidationData"));
    };
    let parent = view.relay_header(prb_core::primitives::RelayNumber(number))?;
    let parent = parent.map(|parent| Checked::new(number, parent.to_vec())).transpose()?;
    let is_right = parent.is_none_or(|parent| parent.state_root == root);
    if number.saturating_sub(1) != start.number || !is_right {
        return Err(Failure::bad(format!(
            "its parachain was not built on its relay chain: block 1 names relay block {number} of another state"
        )));
    }
    Ok(())
}
