//! [`MemoryChain`]: a small parachain within one process, for tests, examples and embedders' own tests.
//!
//! It keeps the rules that a bridge meets (who may add which worker, stakes, states of a session, message
//! sequences), checked in the pallets' order and refused under their error names, and makes a block when told
//! to. A block is final at once, or as late as [`Config::finality_blocks`] says. Views come with final blocks, as
//! late as [`Config::view_delay_blocks`] says; so do subjects that were not followed before. It knows no
//! cryptography: an operator's account is a hash of its secret, and anyone can compute the signatures that it
//! takes (see [`crate::signer::memory`]).
//!
//! Not for: headers and blocks on their way to workers (see [`crate::blob::memory`]).

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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Blocks from a worker's registration to its score.
    pub benchmark_blocks: u32,
    /// That score; `None` leaves it to [`MemoryChain::set_score`].
    pub score: Option<u32>,
    /// Least score of a worker that may start.
    pub min_score: u32,
    /// The rules for stakes. Without them views show none, and `min_stake` and `max_stake` hold.
    pub stake_rules: Option<StakeRules>,
    /// Smallest stake of a session, without `stake_rules`.
    pub min_stake: Balance,
    /// Largest stake of a session, without `stake_rules`.
    pub max_stake: Balance,
    /// Most workers of a pool.
    pub max_pool_workers: u32,
    /// Seconds that a withdrawal waits before anybody may stop the pool's workers.
    pub withdrawal_grace_secs: u64,
    /// Seconds that a stopped session's stake stays locked.
    pub cool_down_secs: u64,
    /// Seconds of chain time a block.
    pub block_secs: u64,
    /// Blocks from a block to its finality: outcomes, effects and views are of final blocks.
    pub finality_blocks: u32,
    /// What a call costs.
    pub fee: Balance,
    /// Most calls that a block takes in one transaction.
    pub max_batch_calls: usize,
    /// Most subjects of each kind that a reader follows.
    pub max_tracked: usize,
    /// Blocks by which views are late.
    pub view_delay_blocks: u32,
    /// Most transactions that wait for a block.
    pub max_pending: usize,
    /// Most [`Event`]s that are remembered; older ones are forgotten.
    pub max_events: usize,
}

impl Config {
    /// Chain time of block 0, seconds since the Unix epoch.
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

/// What befalls the next batch of an account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fault {
    /// The node cannot be reached; nothing is sent.
    Unavailable,
    /// The node's pool refuses the transaction.
    Refused {
        /// Whether another attempt may succeed.
        retryable: bool,
    },
    /// Sent, and lost.
    Lost,
    /// Sent and in the next block, but its submitter does not learn of it.
    UnknownIncluded,
    /// Sent and lost, and its submitter does not learn of it.
    UnknownDropped,
}

/// A call that was executed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The block.
    pub block: ParaNumber,
    /// Who signed.
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
    /// A block was made, or an account does not hang any more.
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// The state at the newest block.
    model: Model,
    finality: Finality,
    followed: Followed,
    /// `None` where the reader has stopped.
    views: Option<watch::Sender<Option<Arc<ChainView>>>>,
    /// Views that are not shown yet, oldest first.
    late: VecDeque<ChainView>,
    pending: VecDeque<Pending>,
    faults: HashMap<AccountId, VecDeque<Fault>>,
    hung: HashSet<AccountId>,
    events: VecDeque<Event>,
    transactions: u64,
}

type Fate = Result<BatchOutcome, SubmitError>;

#[derive(Debug)]
struct Pending {
    batch: CallBatch,
    extrinsic: Hash,
    /// `None` where the submitter is not to learn of it.
    submitter: Option<oneshot::Sender<Fate>>,
    progress: mpsc::Sender<SubmitProgress>,
}

impl MemoryChain {
    /// A chain at block 0, without pools.
    pub fn new(config: Config) -> Self {
        let (sender, views) = watch::channel(None);
        let model = Model::new(config.clone());
        let mut state = State { model, views: Some(sender), ..State::default() };
        state.show(&config);
        Self(Arc::new(Shared { config, state: Mutex::new(state), views, changed: Notify::new() }))
    }

    /// The account whose key `secret` is, by this chain's own rule: the secret's blake2-256 hash.
    pub fn account_of(secret: &str) -> AccountId {
        AccountId(Hash::of(secret.as_bytes()).0)
    }

    /// Makes a block of everything that is pending, and finalises the one that is old enough. Gives the number
    /// of the block that was made.
    pub fn produce_block(&self) -> ParaNumber {
        let mut state = self.state();
        let State { finality, model, .. } = &mut *state;
        finality.begin(model, self.0.config.finality_blocks);
        model.begin_block();
        let number = ParaNumber(state.model.block);
        let pending = std::mem::take(&mut state.pending);
        let operators: Vec<_> = pending.iter().map(|pending| pending.batch.operator()).collect();
        let mut fates = Vec::with_capacity(pending.len());
        for Pending { batch, extrinsic, submitter, progress } in pending {
            let fate = state.include(&batch, extrinsic, self.0.config.max_events);
            // A full channel loses progress only.
            let _ = progress.try_send(SubmitProgress::InBlock { block: block_hash(number.0) });
            fates.extend(submitter.map(|s| (s, fate)));
        }
        let State { finality, model, .. } = &mut *state;
        let fates = finality.advance(model, self.0.config.finality_blocks, operators, fates);
        // The view first: whoever is told an outcome finds it there, unless views are late.
        state.show(&self.0.config);
        drop(state);
        for (submitter, fate) in fates {
            // A submitter that was cancelled asks for the effects later.
            let _ = submitter.send(fate);
        }
        self.0.changed.notify_waiters();
        number
    }

    /// The newest final block.
    pub fn finalised(&self) -> ParaNumber {
        let state = self.state();
        ParaNumber(state.finalised().block)
    }

    /// Makes a block every `interval`, for ever.
    ///
    /// # Cancel safety
    /// Safe: no block is half made.
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

    /// Waits until nothing of `account` is pending, then looks at the state.
    async fn settled<T>(&self, account: AccountId, look: impl FnOnce(&mut State) -> T + Send) -> T {
        loop {
            let changed = self.0.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            {
                let mut state = self.state();
                let busy = state.pending.iter().any(|p| p.batch.operator() == account)
                    || state.finality.concerns(account);
                if !busy && !state.hung.contains(&account) {
                    return look(&mut state);
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
        // As a real reader, it shows the set when it has read it: with the next block.
        self.state().followed = followed;
    }
}

#[async_trait]
impl ChainSubmitter for MemoryChain {
    async fn submit(&self, batch: &CallBatch, progress: mpsc::Sender<SubmitProgress>) -> Fate {
        let config = &self.0.config;
        check_signature(batch).await?;
        let accept = |state: &mut State| state.accept(batch, config, progress.clone());
        let (extrinsic, fate) = self.settled(batch.operator(), accept).await?;
        // A full channel loses progress only.
        let _ = progress.try_send(SubmitProgress::Submitted { extrinsic });
        fate.await.unwrap_or_else(|_| Err(SubmitError::Lost { reason: "the chain went away".into() }))
    }

    async fn effects(&self, account: AccountId, calls: &[Call]) -> Result<Effects, SubmitError> {
        let look = |state: &mut State| {
            let model = state.finalised();
            Effects { block: ParaNumber(model.block), calls: model.effects(calls) }
        };
        Ok(self.settled(account, look).await)
    }

    /// Nothing to forget: each call looks whether something is pending.
    fn forget(&self, _account: AccountId) {}
}

/// Has the batch signed, and checks the signature as a node does.
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
