//! [`Desired`] and [`Observed`]: everything that a decision is made from.

use std::sync::Arc;

use super::{Operation, Reason};
use crate::{
    blob::Heights,
    chain::{AccountOnChain, ChainView, PoolOnChain, Reading, StakeRules, WorkerOnChain},
    inventory::{self, AfterStop, Saved},
    primitives::{AccountId, Balance, Hash, ParaNumber, WorkerKey},
    prpc::PhactoryInfo,
    sync::{Position, Step},
};

/// What the operator wants of one worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired {
    /// The worker's entry.
    pub worker: Arc<inventory::Worker>,
    /// Its pool's entry, where there is one.
    pub pool: Option<Arc<inventory::Pool>>,
}

impl Desired {
    /// Why the worker is not to run, if so.
    pub fn idle_reason(&self) -> Option<Reason> {
        match &self.pool {
            _ if !self.worker.enabled => Some(Reason::Disabled),
            None => Some(Reason::PoolNotInInventory),
            Some(pool) if !pool.enabled => Some(Reason::PoolDisabled),
            Some(_) => None,
        }
    }

    /// Whether nothing is to be sent on chain.
    pub fn sync_only(&self) -> bool {
        self.worker.sync_only || self.pool.as_ref().is_some_and(|p| p.sync_only)
    }

    /// The account that must be the worker's operator on chain. `None` without a key to sign with.
    pub fn operator(&self) -> Option<AccountId> {
        let pool = self.pool.as_ref()?;
        pool.operator.as_ref()?;
        pool.operator_account()
    }

    /// The account that signs and pays fees.
    pub fn payer(&self) -> Option<AccountId> {
        Some(self.pool.as_ref()?.operator.as_ref()?.account)
    }

    /// What happens after a stop from elsewhere: the worker's setting, else its pool's, else the fleet's.
    pub fn after_stop(&self, fleet: AfterStop) -> AfterStop {
        let pool = self.pool.as_ref().and_then(|pool| pool.after_stop);
        self.worker.after_stop.or(pool).unwrap_or(fleet)
    }
}

/// Something that failed and is to be tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What went wrong.
    pub reason: Reason,
    /// How often in a row.
    pub attempts: u32,
    /// Whether the wait is over.
    pub due: bool,
}

/// What keeps failing, by what it is that fails.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failures {
    /// Reaching the worker.
    pub connection: Option<Failure>,
    /// Initialising and syncing it.
    pub sync: Option<Failure>,
    /// Operations on chain.
    pub chain: Option<Failure>,
    /// Relaying its messages.
    pub relay: Option<Failure>,
    /// Storing what the fleet remembers of it.
    pub save: Option<Failure>,
}

/// An operation that the chain refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The operation.
    pub operation: Operation,
    /// The chain's error, `Pallet::Error`.
    pub error: Arc<str>,
    /// What to do about it, for operators.
    pub cure: Arc<str>,
    /// Whether it would be refused again: what caused it has not changed, or its wait is not over.
    pub holds: bool,
}

/// What holds on chain for every worker, at one block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// The chain's clock, seconds since the Unix epoch; 0 where it is not known.
    pub now_secs: u64,
    /// Seconds that a stopped worker's stake stays locked.
    pub cool_down_secs: u64,
    /// Blocks that a benchmark takes.
    pub benchmark_blocks: u32,
    /// Most workers of a pool.
    pub max_pool_workers: Option<u32>,
    /// Seconds after which a withdrawal lets anybody stop the pool's workers.
    pub withdrawal_grace_secs: Option<u64>,
    /// The rules for stakes.
    pub stake: Option<StakeRules>,
}

impl From<&ChainView> for Rules {
    fn from(view: &ChainView) -> Self {
        Self {
            now_secs: view.time_ms / 1000,
            cool_down_secs: view.cool_down_period_secs,
            benchmark_blocks: view.benchmark_blocks,
            max_pool_workers: view.max_pool_workers,
            withdrawal_grace_secs: view.withdrawal_grace_secs,
            stake: view.stake_rules,
        }
    }
}

/// A worker's share of its pool's free stake, by its place in line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grant {
    /// There is enough for it and for those before it, or nobody knows how much there is.
    Granted,
    /// Workers before it in line have not said yet what they need.
    Undecided,
    /// There is not enough.
    Short {
        /// The pool's free stake.
        free: Balance,
        /// What is missing for this worker, after those before it.
        missing: Balance,
        /// Workers of the pool that wait for stake, this one too.
        waiting: usize,
    },
}

/// The key that a worker's entry was known by, where another one answers now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastKey {
    /// The key.
    pub key: WorkerKey,
    /// What the chain says of it; `None` before a view holds it.
    pub chain: Option<Reading<WorkerOnChain>>,
    /// The worker of this fleet that has it now.
    pub holder: Option<Arc<str>>,
}

impl LastKey {
    /// What it has at stake; `None` where that is not known.
    pub fn at_stake(&self) -> Option<Balance> {
        let Ok(chain) = self.chain.as_ref()? else { return None };
        Some(chain.at_stake())
    }
}

/// What is so: pRuntime, the source, the chain, and what is under way.
#[derive(Clone, Debug)]
pub struct Observed {
    /// pRuntime's last answer to `GetInfo`; `None` before the first and after it was lost from sight.
    pub info: Option<Arc<PhactoryInfo>>,
    /// Whether `info` is to be renewed.
    pub stale: bool,
    /// The numbers that the worker wants next, newer than `info`'s.
    pub position: Position,
    /// What the source holds.
    pub heights: Heights,
    /// Hash of the relay block that workers of this chain start after, once the source knows.
    pub relay_genesis: Option<Hash>,
    /// What the planner says.
    pub step: Step,
    /// Whether a step is being fetched or taken: the worker takes one at a time.
    pub syncing: bool,
    /// Whether the worker has reached the tip and has not fallen far behind since.
    pub caught_up: bool,
    /// The worker on chain, as of the newest view; `None` before one shows it.
    pub chain: Option<Reading<WorkerOnChain>>,
    /// Its pool on chain; `None` where the views show no pools.
    pub pool: Option<Reading<Option<PoolOnChain>>>,
    /// The account that pays fees; `None` where the views show no accounts.
    pub payer: Option<Reading<AccountOnChain>>,
    /// What holds for every worker.
    pub rules: Rules,
    /// An operation of ours is final at this block, and the view is older: no other one before it shows.
    pub settling: Option<ParaNumber>,
    /// Whether a benchmark may still be running or its score on the way.
    pub benchmark_running: bool,
    /// The operation on chain that is under way.
    pub job: Option<Operation>,
    /// The operation that the chain refused last.
    pub refused: Option<Refused>,
    /// Its place in line for the pool's free stake.
    pub grant: Grant,
    /// Whether the worker may hold messages that have not been sent.
    pub unsent_messages: bool,
    /// Whether a fresh attestation was asked for.
    pub refresh_ra: bool,
    /// Whether it was told to exit and has not been seen since.
    pub kicked: bool,
    /// Another worker of this fleet that has the same public key.
    pub key_holder: Option<Arc<str>>,
    /// The key that the entry was known by, where another one answers now, or none and another worker has it.
    pub last_key: Option<LastKey>,
    /// What is kept of the worker between restarts.
    pub saved: Saved,
    /// Whether `saved` has changes that are not stored yet.
    pub unsaved: bool,
    /// What fails.
    pub failures: Failures,
}

impl Default for Observed {
    fn default() -> Self {
        Self {
            info: None,
            stale: false,
            position: Position::default(),
            heights: Heights::default(),
            relay_genesis: None,
            step: Step::Wait,
            syncing: false,
            caught_up: false,
            chain: None,
            pool: None,
            payer: None,
            rules: Rules::default(),
            settling: None,
            benchmark_running: false,
            job: None,
            refused: None,
            grant: Grant::Granted,
            unsent_messages: false,
            refresh_ra: false,
            kicked: false,
            key_holder: None,
            last_key: None,
            saved: Saved::default(),
            unsaved: false,
            failures: Failures::default(),
        }
    }
}

impl Observed {
    /// The worker's public key, once it is initialised.
    pub fn public_key(&self) -> Option<WorkerKey> {
        self.info.as_ref()?.public_key.as_ref()?.parse().ok()
    }
}
