//! [`MemoryChain`]: a small parachain within one process, for tests, examples and embedders' own tests.
//!
//! It keeps the rules that a bridge meets (who may add which worker, stakes, states of a session, message
//! sequences) under the pallets' error names, and makes a block when told to. A block is final at once, or as late
//! as [`Config::finality_blocks`] says. It knows no cryptography: an operator's account is a hash of its secret,
//! and anyone can compute the signatures that it takes (see [`crate::signer::memory`]).
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
    SessionState, SubmitError, SubmitProgress, Unreadable, WorkerOnChain,
};
use crate::{
    primitives::{AccountId, Balance, Hash, ParaNumber, PoolId, WorkerKey},
    signer,
    wire::MessageOrigin,
};

mod finality;
mod model;

use finality::Finality;
use model::{Model, PoolState};

/// Settings of a [`MemoryChain`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// Blocks from a worker's registration to its score.
    pub benchmark_blocks: u32,
    /// That score; `None` leaves it to [`MemoryChain::set_score`].
    pub score: Option<u32>,
    /// Smallest stake of a session.
    pub min_stake: Balance,
    /// Largest stake of a session.
    pub max_stake: Balance,
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
    /// Most workers that a reader follows.
    pub max_tracked: usize,
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
            min_stake: 10 * Self::PHA,
            max_stake: 1_000_000 * Self::PHA,
            cool_down_secs: 7 * 24 * 3600,
            block_secs: 12,
            finality_blocks: 0,
            fee: 0,
            max_batch_calls: usize::MAX,
            max_tracked: 10_000,
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
    views: watch::Sender<Option<Arc<ChainView>>>,
    /// A block was made, or an account does not hang any more.
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// The state at the newest block.
    model: Model,
    finality: Finality,
    followed: Followed,
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
        let state = State { model: Model::new(config.clone()), ..State::default() };
        let chain = Self(Arc::new(Shared {
            config,
            state: Mutex::new(state),
            views: watch::Sender::new(None),
            changed: Notify::new(),
        }));
        chain.publish(&chain.state());
        chain
    }

    /// The account whose key `secret` is, by this chain's own rule: the secret's blake2-256 hash.
    pub fn account_of(secret: &str) -> AccountId {
        AccountId(Hash::of(secret.as_bytes()).0)
    }

    /// Adds or replaces a stake pool.
    pub fn add_pool(&self, pool: PoolId, owner: AccountId, free_stake: Balance) {
        self.state().model.pools.insert(pool, PoolState { owner, free_stake });
    }

    /// Lets `delegate` act for `real`.
    pub fn set_proxy(&self, real: AccountId, delegate: AccountId) {
        self.state().model.proxies.insert((real, delegate));
    }

    /// Sets what `account` can pay fees from. An account that was never funded pays nothing.
    pub fn fund(&self, account: AccountId, units: Balance) {
        self.state().model.funds.insert(account, units);
    }

    /// Sets a registered worker's score, as a benchmark does.
    pub fn set_score(&self, worker: WorkerKey, score: u32) {
        let mut state = self.state();
        if let Some(registration) = state.model.workers.entry(worker).or_default().registration.as_mut() {
            registration.initial_score = Some(score);
        }
    }

    /// Sets the state of a worker's session, as missed and answered heartbeats do.
    pub fn set_session_state(&self, worker: WorkerKey, to: SessionState) {
        let mut state = self.state();
        if let Some(session) = state.model.workers.entry(worker).or_default().session.as_mut() {
            session.state = to;
        }
    }

    /// Sets the next message sequence that is taken from a worker.
    pub fn set_ingress(&self, worker: WorkerKey, next: u64) {
        *self.state().model.next_sequence(&MessageOrigin::Worker(worker)) = next;
    }

    /// Lets a fault befall the next batch of `account` that has none yet.
    pub fn inject(&self, account: AccountId, fault: Fault) {
        self.state().faults.entry(account).or_default().push_back(fault);
    }

    /// While set, calls for `account` wait: what it submits is not sent, and its effects are not answered.
    pub fn hang(&self, account: AccountId, hung: bool) {
        let mut state = self.state();
        if hung {
            state.hung.insert(account);
        } else {
            state.hung.remove(&account);
        }
        drop(state);
        self.0.changed.notify_waiters();
    }

    /// The newest block.
    pub fn head(&self) -> ParaNumber {
        ParaNumber(self.state().model.block)
    }

    /// A worker's state at the newest block.
    pub fn worker(&self, worker: WorkerKey) -> WorkerOnChain {
        self.state().model.workers.get(&worker).cloned().unwrap_or_default()
    }

    /// A pool's free stake, `None` where there is no such pool.
    pub fn free_stake(&self, pool: PoolId) -> Option<Balance> {
        self.state().model.pools.get(&pool).map(|p| p.free_stake)
    }

    /// Transactions that wait for a block.
    pub fn pending(&self) -> usize {
        self.state().pending.len()
    }

    /// The calls executed, oldest first.
    pub fn events(&self) -> Vec<Event> {
        self.state().events.iter().cloned().collect()
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
        // The view first: whoever is told an outcome finds it there.
        self.publish(&state);
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

    fn publish(&self, state: &State) {
        let (model, followed, config) = (state.finalised(), &state.followed, &self.0.config);
        let limit = config.max_tracked;
        let worker = |(place, key): (usize, &WorkerKey)| {
            let reading = match place < limit {
                true => Ok(Arc::new(model.workers.get(key).cloned().unwrap_or_default())),
                false => Err(Unreadable::new(format!("the reader follows at most {limit} workers"))),
            };
            (*key, reading)
        };
        let mut view = ChainView::default();
        view.block = ParaNumber(model.block);
        view.hash = block_hash(model.block);
        view.cool_down_period_secs = config.cool_down_secs;
        view.benchmark_blocks = config.benchmark_blocks;
        view.workers = followed.workers.iter().enumerate().map(worker).collect();
        self.0.views.send_replace(Some(Arc::new(view)));
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

impl State {
    /// The state at the newest final block.
    fn finalised(&self) -> &Model {
        self.finality.newest().unwrap_or(&self.model)
    }

    fn include(&mut self, batch: &CallBatch, extrinsic: Hash, max_events: usize) -> Fate {
        let calls = self.model.execute(batch).map_err(SubmitError::Dispatch)?;
        let block = ParaNumber(self.model.block);
        for (call, result) in batch.calls.iter().cloned().zip(calls.iter().cloned()) {
            if self.events.len() >= max_events {
                self.events.pop_front();
            }
            self.events.push_back(Event { block, operator: batch.operator(), call, result });
        }
        Ok(BatchOutcome { extrinsic, block: block_hash(block.0), number: block, calls })
    }

    /// Takes a batch into the pool of transactions, unless something is wrong with it or befalls it.
    fn accept(
        &mut self,
        batch: &CallBatch,
        config: &Config,
        progress: mpsc::Sender<SubmitProgress>,
    ) -> Result<(Hash, oneshot::Receiver<Fate>), SubmitError> {
        let account = batch.operator();
        let unknown = |reason: &str| SubmitError::Unknown { waited: Duration::ZERO, reason: reason.into() };
        let fault = self.faults.get_mut(&account).and_then(VecDeque::pop_front);
        match fault {
            Some(Fault::Unavailable) => return Err(SubmitError::Unavailable("the node is away".into())),
            Some(Fault::Refused { retryable }) => {
                return Err(SubmitError::Refused { reason: "refused by request".into(), retryable });
            }
            Some(Fault::Lost) => return Err(SubmitError::Lost { reason: "dropped".into() }),
            Some(Fault::UnknownDropped) => return Err(unknown("nothing was seen")),
            Some(Fault::UnknownIncluded) | None => {}
        }
        self.check_fees(batch, config)?;
        if batch.calls.len() > config.max_batch_calls {
            let (calls, fits) = (batch.calls.len(), config.max_batch_calls);
            return Err(SubmitError::TooLarge { calls, fits, reason: "the chain's settings".into() });
        }
        if self.pending.len() >= config.max_pending {
            let reason = "the pool of transactions is full".into();
            return Err(SubmitError::Refused { reason, retryable: true });
        }
        self.transactions += 1;
        let extrinsic = Hash::of(&(account, self.transactions).encode());
        let (submitter, fate) = oneshot::channel();
        let known = fault.is_none();
        self.pending.push_back(Pending {
            batch: batch.clone(),
            extrinsic,
            submitter: known.then_some(submitter),
            progress,
        });
        if known { Ok((extrinsic, fate)) } else { Err(unknown("sent, then the node went away")) }
    }

    fn check_fees(&self, batch: &CallBatch, config: &Config) -> Result<(), SubmitError> {
        let account = batch.operator();
        let needed = config.fee * batch.calls.len() as Balance;
        match self.model.funds.get(&account) {
            Some(&available) if available < needed => {
                Err(SubmitError::InsufficientFees { account: account.to_string(), available, needed })
            }
            _ => Ok(()),
        }
    }
}

impl ChainReader for MemoryChain {
    fn views(&self) -> watch::Receiver<Option<Arc<ChainView>>> {
        self.0.views.subscribe()
    }

    fn follow(&self, followed: Followed) {
        let mut state = self.state();
        state.followed = followed;
        self.publish(&state);
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
            Effects {
                block: ParaNumber(model.block),
                calls: calls.iter().map(|call| model.effect(call)).collect(),
            }
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
