//! [`Desired`] and [`Observed`]: the input of [`decide`](super::decide).

use std::sync::Arc;

use super::{Operation, Reason};
use crate::{
    blob::Heights,
    chain::{AccountOnChain, ChainView, PoolOnChain, Reading, StakeRules, WorkerOnChain},
    inventory::{self, AfterExternalStop, FleetRecord},
    primitives::{AccountId, Balance, Hash, ParaNumber, WorkerKey},
    prpc::PhactoryInfo,
    sync::{Position, Step},
};

/// The desired configuration of one worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Desired {
    /// The worker's entry.
    pub worker: Arc<inventory::Worker>,
    /// Its pool's entry, if the inventory has it.
    pub pool: Option<Arc<inventory::Pool>>,
}

impl Desired {
    /// Returns why the worker must not run, if so.
    pub fn idle_reason(&self) -> Option<Reason> {
        match &self.pool {
            _ if !self.worker.enabled => Some(Reason::Disabled),
            None => Some(Reason::PoolNotInInventory),
            Some(pool) if !pool.enabled => Some(Reason::PoolDisabled),
            Some(_) => None,
        }
    }

    /// Whether on-chain operations and messages are disabled for the worker or its pool.
    pub fn sync_only(&self) -> bool {
        self.worker.sync_only || self.pool.as_ref().is_some_and(|p| p.sync_only)
    }

    /// The account that must be the worker's operator on chain; `None` without a key to sign with.
    pub fn operator(&self) -> Option<AccountId> {
        let pool = self.pool.as_ref()?;
        // A proxied account alone does not suffice: somebody must sign for it.
        pool.operator.as_ref()?;
        pool.operator_account()
    }

    /// Whether the worker's messages are sent to the chain.
    pub(crate) fn relays(&self) -> bool {
        self.idle_reason().is_none() && !self.sync_only() && self.operator().is_some()
    }

    /// The account that signs and pays fees.
    pub fn payer(&self) -> Option<AccountId> {
        Some(self.pool.as_ref()?.operator.as_ref()?.account)
    }

    /// What happens after an external stop: the worker's setting, else its pool's, else the fleet's.
    pub fn after_stop(&self, fleet: AfterExternalStop) -> AfterExternalStop {
        let pool = self.pool.as_ref().and_then(|pool| pool.after_stop);
        self.worker.after_stop.or(pool).unwrap_or(fleet)
    }
}

/// A failure that will be retried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// What went wrong.
    pub reason: Reason,
    /// Consecutive failures.
    pub attempts: u32,
    /// Whether the backoff is over.
    pub due: bool,
}

/// Current failures, by source.
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
    /// Persisting the worker's record ([`FleetRecord`]).
    pub save: Option<Failure>,
}

/// An operation that the chain refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The operation.
    pub operation: Operation,
    /// The chain's error, `Pallet::Error`.
    pub error: Arc<str>,
    /// The remedy, for operators.
    pub remedy: Arc<str>,
    /// Whether it would be refused again: its cause has not changed, and its retry is not due.
    pub is_current: bool,
}

impl Refused {
    /// Whether the pool had too little free stake.
    pub(crate) fn is_for_stake(&self) -> bool {
        self.operation.is_short_of_stake(&self.error)
    }
}

/// Chain state and constants that apply to every worker, at one block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, derive_setters::Setters)]
#[setters(prefix = "with_")]
#[non_exhaustive]
pub struct Rules {
    /// The chain's clock, in seconds since the Unix epoch; 0 if unknown.
    pub now_secs: u64,
    /// Seconds for which a stopped worker's stake stays locked.
    pub cool_down_secs: u64,
    /// Duration of a benchmark, in blocks.
    pub benchmark_blocks: u32,
    /// Maximum number of workers in a pool.
    pub max_pool_workers: Option<u32>,
    /// Seconds after which an unpaid withdrawal lets anybody stop the pool's workers.
    pub withdrawal_grace_secs: Option<u64>,
    /// The limits of stakes.
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

/// A worker's share of its pool's free stake, by its position in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grant {
    /// There is enough for it and for those before it, or the free stake is unknown.
    Granted,
    /// Workers before it in the queue have not reported yet what they need.
    Undecided,
    /// There is not enough.
    Short {
        /// The pool's free stake.
        free: Balance,
        /// What is missing for this worker, after those before it are served.
        missing: Balance,
        /// Workers of the pool that wait for stake, including this one.
        waiting: usize,
    },
}

/// The last known key of a worker's entry, if another one answers now, or none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LastKey {
    /// The key.
    pub key: WorkerKey,
    /// Its on-chain state; `None` before a view contains it.
    pub chain: Option<Reading<WorkerOnChain>>,
    /// The worker of this fleet at which it answers now.
    pub holder: Option<Arc<str>>,
    /// Whether its start was submitted and may still take effect.
    pub may_start: bool,
}

impl LastKey {
    /// Its stake; `None` if unknown.
    pub fn at_stake(&self) -> Option<Balance> {
        let Ok(chain) = self.chain.as_ref()? else { return None };
        Some(chain.at_stake())
    }

    /// Whether it has nothing to lose, so that another key may replace it.
    pub fn is_free(&self) -> bool {
        self.at_stake() == Some(0) && !self.may_start
    }
}

/// The newest view of the chain is older than one that the fleet has acted on: the parachain node lags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NodeBehind {
    /// By how many blocks.
    pub blocks: u32,
    /// Whether that lasts. Views may fall back for a moment when another node is followed.
    pub is_lasting: bool,
}

/// The observed state: pRuntime, the data source, the chain, and what is in flight.
#[derive(Clone, Debug)]
pub struct Observed {
    /// pRuntime's last answer to `GetInfo`; `None` before the first and after the worker became unreachable.
    pub info: Option<Arc<PhactoryInfo>>,
    /// Whether `info` must be refreshed.
    pub stale: bool,
    /// The numbers that the worker needs next; newer than `info`'s.
    pub position: Position,
    /// The heights of the data source.
    pub heights: Heights,
    /// Hash of the relay block that workers of this chain are initialised with, once the source knows it.
    pub relay_genesis: Option<Hash>,
    /// The step that the planner returned.
    pub step: Step,
    /// Whether the source has had nothing that the worker lacks for a long time.
    pub awaits_data: bool,
    /// Whether a step is being fetched or sent: the worker accepts one at a time.
    pub syncing: bool,
    /// Whether the worker has reached the tip and has not fallen far behind since.
    pub caught_up: bool,
    /// Whether the newest view is too old to act on: the state below is of the newest one that is not.
    pub node_behind: Option<NodeBehind>,
    /// The worker's on-chain state in the newest view; `None` before a view contains it.
    pub chain: Option<Reading<WorkerOnChain>>,
    /// Its pool's on-chain state; `None` if the views contain no pools.
    pub pool: Option<Reading<Option<PoolOnChain>>>,
    /// The account that pays fees; `None` if the views contain no accounts.
    pub payer: Option<Reading<AccountOnChain>>,
    /// Chain state and constants that apply to every worker.
    pub rules: Rules,
    /// The block that includes our last operation, while the view is older: nothing else is submitted before
    /// a view shows it.
    pub awaiting_block: Option<ParaNumber>,
    /// Whether a benchmark may still be running or its score be in transit.
    pub benchmark_running: bool,
    /// The on-chain operation in flight.
    pub job: Option<Operation>,
    /// The last operation that the chain refused.
    pub refused: Option<Refused>,
    /// Its share of the pool's free stake.
    pub grant: Grant,
    /// Whether the worker may hold messages that have not been submitted.
    pub unsent_messages: bool,
    /// Whether a fresh attestation was requested.
    pub refresh_ra: bool,
    /// Whether it was kicked and has not answered since.
    pub kicked: bool,
    /// Another worker of this fleet that has the same public key.
    pub key_holder: Option<Arc<str>>,
    /// The last known key of the entry, if another one answers now, or none.
    pub last_key: Option<LastKey>,
    /// The persisted record of the worker.
    pub saved: FleetRecord,
    /// Whether `saved` has changes that are not persisted yet.
    pub unsaved: bool,
    /// Current failures.
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
            awaits_data: false,
            syncing: false,
            caught_up: false,
            node_behind: None,
            chain: None,
            pool: None,
            payer: None,
            rules: Rules::default(),
            awaiting_block: None,
            benchmark_running: false,
            job: None,
            refused: None,
            grant: Grant::Granted,
            unsent_messages: false,
            refresh_ra: false,
            kicked: false,
            key_holder: None,
            last_key: None,
            saved: FleetRecord::default(),
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
