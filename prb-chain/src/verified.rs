//! [`VerifiedSource`]: header batches of another [`BlobSource`], verified before any worker gets them.
//!
//! Workers verify everything that they are sent, but a false header costs each of them a call, and the fleet time. A
//! lifecycle manager whose blocks come from data providers therefore checks each batch once for all workers:
//!
//! - each header is the parent of the next;
//! - the authority set in force has finalised the last header;
//! - a new authority set is the one that this header schedules;
//! - the parachain headers end at the head that the relay state names.
//!
//! A batch that fails is reported to the source ([`RefusedData::FalseHeaders`]) and requested again; a remote source
//! suspends the provider that sent it.
//!
//! Authority sets are tracked from the block that workers start after, because each change comes with a verified
//! batch. They are kept in a file, so that a restarted process resumes there. The set in force at a block is unknown to
//! a manager that takes over workers synced by another one, and for old blocks whose set was dropped. The decorator
//! then catches up from the last block whose set is known, a few batches at a time. Until it has, batches are passed on
//! unverified, and workers still verify them. The log says so, and the metric `prb_header_batches_total` counts them.
//!
//! Place it below a [`CachedSource`](prb_core::blob::cache::CachedSource), so that each batch is verified once and not
//! once per worker.
//!
//! Not for: storage changes, which can only be verified with the whole state.

use prb_core::text::{describe, io_remedy};
use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use metrics::{counter, describe_counter};
use prb_core::{
    blob::{
        BlobSource, BlockBatch, BlockCursor, Error, FalseHeaders, Genesis, HeaderBatch, HeaderCursor,
        Heights, RefusedData,
    },
    primitives::{Hash, RelayNumber},
};
use tokio::{
    sync::{Mutex as AsyncMutex, watch},
    time::Instant,
};
use tracing::{info, warn};

use crate::verify;

mod batch;
mod file;
mod sets;

use batch::RecentHashes;
use file::ChainKey;
use sets::{AuthoritySets, InForce};

/// Counts header batches by `outcome`: `verified`, `refused`, `unverified`.
const HEADER_BATCHES: &str = "prb_header_batches_total";

/// Most requests for one batch: each false answer suspends a provider, so that the next one comes from another.
const ATTEMPTS: usize = 16;
/// Most batches of a gap that one request verifies.
const WALK_BATCHES: usize = 4;
/// How long a request may spend on a gap: a worker waits for its answer.
const WALK_TIME: Duration = Duration::from_millis(500);
/// Most batches, and most justifications, remembered as verified.
const REMEMBERED: usize = 4096;
/// Least time between two equal log lines, and between two readings of the genesis.
const REPEAT_INTERVAL: Duration = Duration::from_secs(60);
/// Least time between two writes of the file.
const SAVE_INTERVAL: Duration = Duration::from_secs(10);

/// Settings of a [`VerifiedSource`].
#[derive(Clone, Debug, PartialEq, Eq, derive_setters::Setters)]
#[setters(prefix = "with_")]
#[non_exhaustive]
pub struct Config {
    /// The file with the authority sets; with `None` they are only kept in memory. Default: none.
    pub path: Option<PathBuf>,
    /// Maximum size of the authority sets in memory, in bytes. Default: 32 MiB.
    pub max_set_bytes: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { path: None, max_set_bytes: 32 * 1024 * 1024 }
    }
}

/// A chain's tracked authority sets.
#[derive(Debug)]
struct Tracked {
    chain: ChainKey,
    sets: AuthoritySets,
    /// Whether the file is outdated.
    is_new: bool,
}

/// When each periodic action was last taken.
#[derive(Debug, Default)]
struct Times {
    reported: Option<Instant>,
    genesis: Option<Instant>,
    saved: Option<Instant>,
}

/// Verified knowledge about the chain, shared with threads that verify.
#[derive(Debug)]
struct Known {
    tracked: Mutex<Option<Tracked>>,
    batches: Mutex<RecentHashes>,
    justifications: Mutex<RecentHashes>,
}

/// A [`BlobSource`] that passes on the data of another one, without false headers.
pub struct VerifiedSource<S: ?Sized> {
    known: Arc<Known>,
    config: Config,
    times: Mutex<Times>,
    /// A worker refused a batch: verification may have started from a different genesis than the worker's.
    in_doubt: AtomicBool,
    /// Locked by the request that verifies a gap.
    walking: AsyncMutex<()>,
    /// Locked while the file is written.
    writing: Arc<AsyncMutex<()>>,
    inner: Arc<S>,
}

/// The result of checking a batch.
#[derive(Debug)]
enum Verdict {
    Verified,
    False(verify::Error),
    /// It cannot be checked.
    Unverified(String),
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether an action is due again; if so, records that it is taken now.
fn is_due(last: &mut Option<Instant>, every: Duration) -> bool {
    let due = last.is_none_or(|at| at.elapsed() >= every);
    if due {
        *last = Some(Instant::now());
    }
    due
}

impl Known {
    /// Checks a batch. Takes tens of milliseconds with many authorities.
    fn judge(&self, batch: &HeaderBatch) -> Verdict {
        let first = batch.relay.first.0;
        let (para_id, in_force) = match &mut *lock(&self.tracked) {
            Some(tracked) => (tracked.chain.0, tracked.sets.at(first)),
            None => return Verdict::Unverified("the chain's start is not known".into()),
        };
        let unknown =
            || Verdict::Unverified(format!("the authority set of relay block {first} is not known"));
        let (set, is_certain) = match in_force {
            InForce::Known(set) => (set, true),
            InForce::Perhaps(set) => (set, false),
            InForce::Unknown => return unknown(),
        };
        let key = Hash::of(&batch.body);
        // The body alone is not enough: the same headers are false under another set, or from another block on.
        let key = Hash::of(&[&key.0[..], &first.to_le_bytes(), &set.id.to_le_bytes()].concat());
        if lock(&self.batches).contains(&key) {
            return Verdict::Verified;
        }
        let mut is_signed = true;
        let checked = batch::check(batch, para_id, &set, &mut |justification, header| {
            let signed = batch::signed(&self.justifications, &set, justification, header);
            is_signed = signed.is_ok();
            signed
        });
        match checked {
            Ok(finding) => {
                if let Some(tracked) = &mut *lock(&self.tracked) {
                    tracked.sets.learn(&finding);
                    tracked.is_new = true;
                }
                lock(&self.batches).insert(key);
                Verdict::Verified
            }
            // The set has signed it, so it is no lie: the chain itself does what workers cannot follow.
            Err(error) if error.is_of_chain() => Verdict::Unverified(error.to_string()),
            // Another set may have signed it.
            Err(_) if !is_certain && !is_signed => unknown(),
            Err(error) => Verdict::False(error),
        }
    }

    /// Tracks the chain of a genesis, unless it is tracked already. With `restart`, a chain with another start replaces
    /// the tracked one.
    fn follow(&self, genesis: &Genesis, restart: bool, max_set_bytes: usize) -> Result<(), verify::Error> {
        let chain = (genesis.para_id, genesis.chain_identity);
        let start = verify::genesis(genesis)?;
        let mut tracked = lock(&self.tracked);
        let is_same = |known: &Tracked| known.chain == chain && (!restart || *known.sets.start() == start);
        if tracked.as_ref().is_some_and(is_same) {
            return Ok(());
        }
        if tracked.is_some() {
            warn!(
                relay_start = start.number,
                "headers are verified from another genesis on; earlier verification results are discarded"
            );
        }
        *tracked = Some(Tracked { chain, sets: AuthoritySets::new(start, max_set_bytes), is_new: true });
        // What the old genesis vouched for may be of another chain.
        lock(&self.batches).clear();
        lock(&self.justifications).clear();
        Ok(())
    }

    fn frontier_below(&self, block: u32) -> Option<u32> {
        lock(&self.tracked).as_ref().and_then(|tracked| tracked.sets.frontier_below(block))
    }

    /// Returns the sets if the file is outdated.
    fn unsaved(&self) -> Option<(ChainKey, Vec<u8>)> {
        let mut tracked = lock(&self.tracked);
        let tracked = tracked.as_mut().filter(|tracked| tracked.is_new)?;
        // Before the file is written, so that a set learned meanwhile marks it outdated again.
        tracked.is_new = false;
        Some((tracked.chain, tracked.sets.encode()))
    }

    fn save(&self, path: &Path) {
        let Some((chain, sets)) = self.unsaved() else { return };
        if let Err(e) = file::write(path, chain, &sets) {
            let error = format!("{}{}", describe(&e), io_remedy(&e));
            warn!(path = %path.display(), error, "cannot store the verified authority sets");
            if let Some(tracked) = &mut *lock(&self.tracked) {
                tracked.is_new = true;
            }
        }
    }
}

impl<S: BlobSource + ?Sized> VerifiedSource<S> {
    /// Verifies the header batches of `inner`.
    ///
    /// Reads the file of authority sets, which may block; a file that cannot be read is logged and replaced.
    pub fn open(inner: Arc<S>, config: Config) -> Self {
        describe_counter!(
            HEADER_BATCHES,
            "Header batches of data providers, by outcome of the manager's verification: verified, refused, unverified"
        );
        for outcome in ["verified", "refused", "unverified"] {
            counter!(HEADER_BATCHES, "outcome" => outcome).increment(0);
        }
        let read = config.path.as_ref().map(|path| (path, file::read(path, config.max_set_bytes)));
        let tracked = match read {
            Some((_, Ok(Some((chain, sets))))) => Some(Tracked { chain, sets, is_new: false }),
            Some((path, Err(e))) => {
                warn!(path = %path.display(), error = %describe(&e), "cannot read the verified authority sets; they are collected again");
                None
            }
            Some((_, Ok(None))) | None => None,
        };
        let known = Known {
            tracked: Mutex::new(tracked),
            batches: Mutex::new(RecentHashes::new(REMEMBERED)),
            justifications: Mutex::new(RecentHashes::new(REMEMBERED)),
        };
        Self {
            known: Arc::new(known),
            config,
            times: Mutex::default(),
            in_doubt: AtomicBool::new(false),
            walking: AsyncMutex::default(),
            writing: Arc::default(),
            inner,
        }
    }

    /// Reads the start of the chain if it is not known yet; the error says why headers cannot be verified.
    async fn follow(&self) -> Result<(), String> {
        let doubt = self.in_doubt.swap(false, Ordering::Relaxed);
        let is_known = lock(&self.known.tracked).is_some();
        if is_known && !doubt {
            return Ok(());
        }
        let followed = match self.inner.genesis().await {
            Ok(genesis) => self.known.follow(&genesis, doubt, self.config.max_set_bytes),
            Err(error) if is_known => {
                tracing::debug!(%error, "the genesis cannot be read again");
                return Ok(());
            }
            Err(error) => return Err(format!("the chain's start is not known: {}", describe(&error))),
        };
        followed.map_err(|error| format!("the genesis does not verify: {error}"))
    }

    async fn judge(&self, batch: &HeaderBatch) -> Verdict {
        if let Err(reason) = self.follow().await {
            return Verdict::Unverified(reason);
        }
        let (known, batch) = (Arc::clone(&self.known), batch.clone());
        let judged = tokio::task::spawn_blocking(move || known.judge(&batch)).await;
        judged.unwrap_or_else(|error| Verdict::Unverified(error.to_string()))
    }

    /// Verifies batches from the last block whose authority set is known towards the cursor, within [`WALK_TIME`].
    /// Returns whether more sets are known now.
    async fn walk(&self, cursor: HeaderCursor, max_bytes: usize) -> bool {
        // Not awaited: while one request closes the gap, the others get their batches unverified.
        let Ok(_walking) = self.walking.try_lock() else { return false };
        let start = Instant::now();
        let mut moved = false;
        for _ in 0..WALK_BATCHES {
            let left = WALK_TIME.saturating_sub(start.elapsed());
            let Some(from) = self.known.frontier_below(cursor.relay.0) else { return moved };
            let at = HeaderCursor { relay: RelayNumber(from), para: cursor.para };
            let Ok(Ok(Some(batch))) = tokio::time::timeout(left, self.inner.headers(at, max_bytes)).await
            else {
                return moved;
            };
            match self.judge(&batch).await {
                Verdict::Verified => moved = true,
                Verdict::False(error) => self.refuse(at, &batch, error.to_string()),
                Verdict::Unverified(_) => return moved,
            }
        }
        moved
    }

    /// Reports a false batch to the source, which suspends the provider.
    fn refuse(&self, cursor: HeaderCursor, batch: &HeaderBatch, reason: String) {
        counter!(HEADER_BATCHES, "outcome" => "refused").increment(1);
        self.inner.refused(&RefusedData::FalseHeaders(FalseHeaders {
            cursor,
            body: batch.body.clone(),
            reason,
        }));
    }

    fn report(&self, reason: &str) {
        counter!(HEADER_BATCHES, "outcome" => "unverified").increment(1);
        if is_due(&mut lock(&self.times).reported, REPEAT_INTERVAL) {
            info!(%reason, "header batches are passed on unverified, each worker checks them itself");
        }
    }

    fn save_now_and_then(&self) {
        let Some(path) = &self.config.path else { return };
        if is_due(&mut lock(&self.times).saved, SAVE_INTERVAL) {
            // One at a time: on a disk that hangs, each would occupy one more of the runtime's threads.
            let Ok(writing) = Arc::clone(&self.writing).try_lock_owned() else { return };
            let (known, path) = (Arc::clone(&self.known), path.clone());
            // Not awaited: the write is short, and `drop` writes what it misses.
            tokio::task::spawn_blocking(move || {
                let _writing = writing;
                known.save(&path);
            });
        }
    }
}

impl<S: ?Sized> Drop for VerifiedSource<S> {
    /// Stores what is not stored yet. Blocks on the disk, but not a thread of a runtime: there, the write may be aborted
    /// with the runtime.
    fn drop(&mut self) {
        let Some(path) = self.config.path.take() else { return };
        let (known, writing) = (Arc::clone(&self.known), Arc::clone(&self.writing));
        let save = move || {
            let _writing = writing.blocking_lock();
            known.save(&path);
        };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn_blocking(save)),
            Err(_) => save(),
        }
    }
}

impl<S: BlobSource + ?Sized> fmt::Debug for VerifiedSource<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("VerifiedSource").field("inner", &&*self.inner).finish_non_exhaustive()
    }
}

#[async_trait]
impl<S: BlobSource + ?Sized + 'static> BlobSource for VerifiedSource<S> {
    fn heights(&self) -> watch::Receiver<Heights> {
        self.inner.heights()
    }

    async fn genesis(&self) -> Result<Genesis, Error> {
        let genesis = self.inner.genesis().await?;
        if let Err(error) = self.known.follow(&genesis, false, self.config.max_set_bytes) {
            return Err(Error::Unavailable(format!("the genesis does not verify: {error}").into()));
        }
        Ok(genesis)
    }

    async fn headers(&self, cursor: HeaderCursor, max_bytes: usize) -> Result<Option<HeaderBatch>, Error> {
        let mut refused: Option<(HeaderBatch, String)> = None;
        for _ in 0..ATTEMPTS {
            let Some(batch) = self.inner.headers(cursor, max_bytes).await? else { break };
            // The same answer again: from another provider, which agrees with the first one. It is suspended, too.
            if let Some((_, reason)) = refused.as_ref().filter(|(before, _)| before.body == batch.body) {
                self.refuse(cursor, &batch, reason.clone());
                continue;
            }
            let mut verdict = self.judge(&batch).await;
            if matches!(verdict, Verdict::Unverified(_)) && self.walk(cursor, max_bytes).await {
                verdict = self.judge(&batch).await;
            }
            match verdict {
                Verdict::Verified => counter!(HEADER_BATCHES, "outcome" => "verified").increment(1),
                Verdict::Unverified(reason) => self.report(&reason),
                Verdict::False(error) => {
                    self.refuse(cursor, &batch, error.to_string());
                    refused = Some((batch, error.to_string()));
                    continue;
                }
            }
            self.save_now_and_then();
            return Ok(Some(batch));
        }
        refused.map_or(Ok(None), |(_, reason)| {
            Err(Error::Unavailable(format!("the answer to {cursor} is false: {reason}").into()))
        })
    }

    async fn blocks(&self, cursor: BlockCursor, max_bytes: usize) -> Result<Option<BlockBatch>, Error> {
        self.inner.blocks(cursor, max_bytes).await
    }

    fn refused(&self, refused: &RefusedData) {
        let is_headers = matches!(refused, RefusedData::Headers { .. });
        if is_headers && is_due(&mut lock(&self.times).genesis, REPEAT_INTERVAL) {
            self.in_doubt.store(true, Ordering::Relaxed);
        }
        self.inner.refused(refused);
    }
}
