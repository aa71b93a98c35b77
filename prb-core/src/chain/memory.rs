//! [`MemoryChain`]: a small parachain within one process, for tests and examples.
//!
//! It enforces the rules that a bridge encounters (who may add which worker, stakes, session states, message
//! sequences), in the order of the pallets' checks and with their error names, and produces blocks on
//! request. A block is final immediately, or after [`Config::finality_blocks`] further ones. Views are published
//! for final blocks, delayed by [`Config::view_delay_blocks`]; the same applies to subjects that were not
//! followed before. There is no cryptography: an operator's account is a hash of its secret, and anyone can
//! compute the signatures that it accepts (see [`crate::signer::memory`]).
//!
//! Not for: headers and blocks for workers (see [`crate::blob::memory`]).

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use codec::Encode;
use tokio::sync::{Notify, mpsc, oneshot, watch};

use super::{
    BatchOutcome, Call, CallBatch, ChainReader, ChainSubmitter, ChainView, DispatchError, Effects, Followed,
    StakeRules, SubmitError, SubmitProgress,
};
use crate::{
    primitives::{AccountId, Balance, Hash, ParaNumber},
    signer,
};

mod controls;
mod finality;
mod model;
mod pending;
mod view;

use finality::Finality;
use model::{Model, PoolState};

/// Settings of a [`MemoryChain`].
#[derive(Clone, Debug, PartialEq, Eq, derive_setters::Setters)]
#[setters(prefix = "with_")]
#[non_exhaustive]
pub struct Config {
    /// Blocks from a worker's registration to its score. Default: 2.
    pub benchmark_blocks: u32,
    /// The score; `None` leaves it to [`MemoryChain::set_score`]. Default: 1,000.
    pub score: Option<u32>,
    /// Minimum score of a worker that may start. Default: 0.
    pub min_score: u32,
    /// The stake limits. Without them views contain none, and `min_stake` and `max_stake` apply.
    /// Default: none.
    pub stake_rules: Option<StakeRules>,
    /// Minimum stake of a session, without `stake_rules`. Default: 10 PHA.
    pub min_stake: Balance,
    /// Maximum stake of a session, without `stake_rules`. Default: 1,000,000 PHA.
    pub max_stake: Balance,
    /// Maximum number of workers in a pool. Default: 200.
    pub max_pool_workers: u32,
    /// Seconds for which a withdrawal must wait before anybody may stop the pool's workers.
    /// Default: 604,800. That is seven days.
    pub withdrawal_grace_secs: u64,
    /// Seconds for which a stopped session's stake stays locked. Default: 604,800. That is seven days.
    pub cool_down_secs: u64,
    /// Seconds of chain time per block. Default: 12.
    pub block_secs: u64,
    /// Blocks until a block is final: outcomes, effects and views are those of final blocks. Default: 0.
    pub finality_blocks: u32,
    /// Fee per call. Default: 0.
    pub fee: Balance,
    /// Maximum number of calls in one transaction. Default: unlimited.
    pub max_batch_calls: usize,
    /// Maximum number of subjects of each kind that a reader follows. Default: 10,000.
    pub max_tracked: usize,
    /// Number of blocks by which views are delayed. Default: 0.
    pub view_delay_blocks: u32,
    /// Maximum number of pending transactions. Default: 8,192.
    pub max_pending: usize,
    /// Maximum number of recorded [`Event`]s; older ones are dropped. Default: 65,536.
    pub max_events: usize,
}

impl Config {
    /// Chain time of block 0, in seconds since the Unix epoch.
    pub const GENESIS_SECS: u64 = 1_704_067_200;
    /// One PHA.
    const PHA: Balance = 1_000_000_000_000;
}

impl Default for Config {
    fn default() -> Self {
        Self {
            benchmark_blocks: 2,
            score: Some(1_000),
            min_score: 0,
            stake_rules: None,
            min_stake: 10 * Self::PHA,
            max_stake: 1_000_000 * Self::PHA,
            max_pool_workers: 200,
            withdrawal_grace_secs: 7 * 24 * 3600,
            cool_down_secs: 7 * 24 * 3600,
            block_secs: 12,
            finality_blocks: 0,
            fee: 0,
            max_batch_calls: usize::MAX,
            max_tracked: 10_000,
            view_delay_blocks: 0,
            max_pending: 8_192,
            max_events: 65_536,
        }
    }
}

/// A fault injected into the next batch of an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The node cannot be reached; nothing is sent.
    Unavailable,
    /// The node's transaction pool refuses the transaction.
    Refused {
        /// Whether another attempt may succeed.
        retryable: bool,
    },
    /// The transaction is sent and lost.
    Lost,
    /// The transaction is sent and included in the next block, but its submitter is not notified.
    UnknownIncluded,
    /// The transaction is sent and lost, and its submitter is not notified.
    UnknownDropped,
}

/// A call that was executed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Event {
    /// The block.
    pub block: ParaNumber,
    /// The account that signed.
    pub operator: AccountId,
    /// The call.
    pub call: Call,
    /// Its result.
    pub result: Result<(), DispatchError>,
}

/// A parachain in memory. Clones share it.
#[derive(Clone, Debug)]
pub struct MemoryChain(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    config: Config,
    state: Mutex<State>,
    views: watch::Receiver<Option<Arc<ChainView>>>,
    /// Notified when a block was produced, or an account no longer hangs.
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// The state at the newest block.
    model: Model,
    finality: Finality,
    followed: Followed,
    /// `None` once the reader has stopped.
    views: Option<watch::Sender<Option<Arc<ChainView>>>>,
    /// Views that are not published yet, oldest first.
    delayed: VecDeque<ChainView>,
    pending: VecDeque<Pending>,
    faults: HashMap<AccountId, VecDeque<Fault>>,
    hung: HashSet<AccountId>,
    events: VecDeque<Event>,
    transactions: u64,
}

type SubmitResult = Result<BatchOutcome, SubmitError>;

#[derive(Debug)]
struct Pending {
    batch: CallBatch,
    extrinsic: Hash,
    /// `None` if the submitter must not be notified.
    submitter: Option<oneshot::Sender<SubmitResult>>,
    progress: mpsc::Sender<SubmitProgress>,
}

impl MemoryChain {
    /// Creates a chain at block 0, without pools.
    pub fn new(config: Config) -> Self {
        let (sender, views) = watch::channel(None);
        let model = Model::new(config.clone());
        let mut state = State { model, views: Some(sender), ..State::default() };
        state.publish_view(&config);
        Self(Arc::new(Shared { config, state: Mutex::new(state), views, changed: Notify::new() }))
    }

    /// Returns the account of `secret`, by this chain's own rule: the secret's blake2-256 hash.
    pub fn account_of(secret: &str) -> AccountId {
        AccountId(Hash::of(secret.as_bytes()).0)
    }

    /// Produces a block with all pending transactions, and finalises the block that is old enough. Returns
    /// the number of the block produced.
    pub fn produce_block(&self) -> ParaNumber {
        let mut state = self.state();
        let State { finality, model, .. } = &mut *state;
        finality.begin(model, self.0.config.finality_blocks);
        model.begin_block();
        let number = ParaNumber(state.model.block);
        let pending = std::mem::take(&mut state.pending);
        let operators: Vec<_> = pending.iter().map(|pending| pending.batch.operator()).collect();
        let mut results = Vec::with_capacity(pending.len());
        for Pending { batch, extrinsic, submitter, progress } in pending {
            let result = state.include(&batch, extrinsic, self.0.config.max_events);
            // A full channel only loses progress.
            let _ = progress.try_send(SubmitProgress::InBlock { block: block_hash(number.0) });
            results.extend(submitter.map(|s| (s, result)));
        }
        let State { finality, model, .. } = &mut *state;
        let results = finality.advance(model, self.0.config.finality_blocks, operators, results);
        // The view is published first: a submitter that is notified of an outcome finds it there, unless
        // views are delayed.
        state.publish_view(&self.0.config);
        drop(state);
        for (submitter, result) in results {
            // A submitter that was cancelled reads the effects later.
            let _ = submitter.send(result);
        }
        self.0.changed.notify_waiters();
        number
    }

    /// The newest final block.
    pub fn finalised(&self) -> ParaNumber {
        let state = self.state();
        ParaNumber(state.finalised().block)
    }

    /// Produces a block every `interval`. Never returns.
    ///
    /// # Cancel safety
    /// Safe: no block is left half produced.
    pub async fn run(&self, interval: Duration) {
        let mut ticks = tokio::time::interval(interval);
        loop {
            ticks.tick().await;
            self.produce_block();
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until no transaction of `account` is pending, then reads the state.
    async fn when_idle<T>(&self, account: AccountId, read: impl FnOnce(&mut State) -> T + Send) -> T {
        loop {
            let changed = self.0.changed.notified();
            tokio::pin!(changed);
            // Registered before the state is read, so that no change between the two is missed.
            changed.as_mut().enable();
            {
                let mut state = self.state();
                let busy = state.pending.iter().any(|p| p.batch.operator() == account)
                    || state.finality.includes(account);
                if !busy && !state.hung.contains(&account) {
                    return read(&mut state);
                }
            }
            changed.await;
        }
    }
}

impl Default for MemoryChain {
    fn default() -> Self {
        Self::new(Config::default())
    }
}

fn block_hash(number: u32) -> Hash {
    Hash::of(&number.encode())
}

impl ChainReader for MemoryChain {
    fn views(&self) -> watch::Receiver<Option<Arc<ChainView>>> {
        self.0.views.clone()
    }

    fn follow(&self, followed: Followed) {
        // Like a real reader, it shows the set once it has read it: with the next block.
        self.state().followed = followed;
    }
}

#[async_trait]
impl ChainSubmitter for MemoryChain {
    async fn submit(&self, batch: &CallBatch, progress: mpsc::Sender<SubmitProgress>) -> SubmitResult {
        let config = &self.0.config;
        check_signature(batch).await?;
        let accept = |state: &mut State| state.accept(batch, config, progress.clone());
        let (extrinsic, result) = self.when_idle(batch.operator(), accept).await?;
        // A full channel only loses progress.
        let _ = progress.try_send(SubmitProgress::Submitted { extrinsic });
        result.await.unwrap_or_else(|_| Err(SubmitError::Lost { reason: "the chain was dropped".into() }))
    }

    async fn effects(&self, account: AccountId, calls: &[Call]) -> Result<Effects, SubmitError> {
        let read = |state: &mut State| {
            let model = state.finalised();
            Effects { block: ParaNumber(model.block), calls: model.effects(calls) }
        };
        Ok(self.when_idle(account, read).await)
    }

    /// Nothing to forget: every call checks for pending transactions.
    fn forget(&self, _account: AccountId) {}
}

/// Signs the batch, and verifies the signature as a node does.
async fn check_signature(batch: &CallBatch) -> Result<(), SubmitError> {
    let account = batch.operator();
    let payload = format!("{:?} {:?}", batch.proxied, batch.calls).into_bytes();
    let signature = batch.signer.sign(&payload).await.map_err(SubmitError::NotSigned)?;
    if signature != signer::memory::signature(account, &payload) {
        let reason = "the signature is another account's".into();
        return Err(SubmitError::BadKey { account: account.to_string(), reason });
    }
    Ok(())
}
