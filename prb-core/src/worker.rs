//! One worker's life: observe → [`decide`] → act → observe again.
//!
//! [`decide`] is a pure function of what is wanted ([`Desired`]), what is so ([`Observed`]) and the fleet's
//! [`Settings`]. It names one [`Action`]; the task that carries it out knows no rule of its own. Nothing is
//! trusted from memory after an error, and no error is an end: everything is tried again, later each time.
//!
//! Not for: many workers (see [`crate::fleet`]), or how a transaction is made (see [`crate::trade`]).

use std::{
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use serde::Serialize;

use crate::{
    blob::Heights,
    chain::WorkerOnChain,
    inventory,
    primitives::{AccountId, Balance, Hash, ParaNumber, WorkerKey},
    prpc::PhactoryInfo,
    sync::{self, BackoffConfig, Position, Step},
};

mod decide;
mod egress;
mod keys;
mod operate;
mod slot;
mod task;

pub use decide::decide;
pub(crate) use keys::Keys;
pub(crate) use slot::Slot;
pub(crate) use task::{Context, Task};

/// A worker's state as people know it: a label of what is observed, never a memory.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub enum State {
    /// Not to run.
    #[default]
    #[serde(rename = "S_IDLE")]
    Idle,
    /// Being found, or initialised.
    #[serde(rename = "S_STARTING")]
    Starting,
    /// Behind the chain.
    #[serde(rename = "S_SYNCHING")]
    Synching,
    /// At the tip, and to stay there without computing.
    #[serde(rename = "S_SYNCHED")]
    Synched,
    /// At the tip, on its way to computing.
    #[serde(rename = "S_PRE_ACTIVE")]
    PreActive,
    /// Computing.
    #[serde(rename = "S_ACTIVE")]
    Active,
    /// Told to exit, not back yet.
    #[serde(rename = "S_KICKED")]
    Kicked,
    /// Something is wrong; it is tried again.
    #[serde(rename = "S_ERROR")]
    Error,
}

impl State {
    /// Every state, by number.
    pub const ALL: [Self; 8] = [
        Self::Idle,
        Self::Starting,
        Self::Synching,
        Self::Synched,
        Self::PreActive,
        Self::Active,
        Self::Kicked,
        Self::Error,
    ];

    /// Its name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "S_IDLE",
            Self::Starting => "S_STARTING",
            Self::Synching => "S_SYNCHING",
            Self::Synched => "S_SYNCHED",
            Self::PreActive => "S_PRE_ACTIVE",
            Self::Active => "S_ACTIVE",
            Self::Kicked => "S_KICKED",
            Self::Error => "S_ERROR",
        }
    }

    /// Its number on the wire.
    pub const fn number(self) -> u8 {
        self as u8
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What holds for every worker of a fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Send nothing on chain for any worker (`PHALA_SYNC_ONLY`).
    pub sync_only: bool,
    /// Register again until the score reaches the minimum (`PHALA_ENFORCE_MIN_BENCH_SCORE`).
    pub enforce_min_bench_score: bool,
    /// The minimum score (`PHALA_MIN_BENCH_SCORE`).
    pub min_bench_score: u32,
    /// Initialise with a fixed development key and without attestation (`PHALA_DEV_SKIP_RA`).
    pub dev_skip_ra: bool,
    /// Free the stake of a worker whose cool-down is over, so that it starts again: an enabled worker is
    /// meant to compute. Without it, a stopped worker stays stopped until it is reclaimed by hand.
    pub reclaim_after_cool_down: bool,
    /// What happens after a stop from elsewhere, where neither the worker nor its pool has a setting
    /// (`PRB_AFTER_STOP`).
    pub after_stop: inventory::AfterStop,
}

/// Default of [`Settings::min_bench_score`].
pub const MIN_BENCH_SCORE: u32 = 50;

impl Default for Settings {
    fn default() -> Self {
        Self {
            sync_only: false,
            enforce_min_bench_score: false,
            min_bench_score: MIN_BENCH_SCORE,
            dev_skip_ra: false,
            reclaim_after_cool_down: true,
            after_stop: inventory::AfterStop::default(),
        }
    }
}

/// Waits and sizes of a worker's task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuning {
    /// After failures to reach the worker.
    pub connection_backoff: BackoffConfig,
    /// After failures to sync it.
    pub sync_backoff: BackoffConfig,
    /// After failures on chain: of operations and of message jobs.
    pub chain_backoff: BackoffConfig,
    /// The largest batch that is asked for, in bytes.
    pub max_batch_bytes: usize,
    /// How often a worker that catches up is asked for its info. At the tip it is asked after each dispatch.
    pub observe_interval: Duration,
    /// After that long without any answer a worker at the tip is asked whether it is still there.
    pub max_silence: Duration,
    /// A worker that is at most so many blocks behind has caught up.
    pub caught_up_within: u32,
    /// A worker that had caught up is synching again when it is more blocks behind than this.
    pub behind_after: u32,
    /// What the planner holds back for.
    pub limits: sync::Limits,
}

impl Default for Tuning {
    fn default() -> Self {
        let secs = Duration::from_secs;
        Self {
            connection_backoff: BackoffConfig { first: secs(1), max: secs(60) },
            sync_backoff: BackoffConfig { first: secs(1), max: secs(60) },
            chain_backoff: BackoffConfig { first: secs(6), max: secs(300) },
            max_batch_bytes: 8 * 1024 * 1024,
            observe_interval: secs(10),
            max_silence: secs(60),
            caught_up_within: 4,
            behind_after: 64,
            limits: sync::Limits::default(),
        }
    }
}

/// What an operator may tell a running worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Command {
    /// Forget what failed and observe everything anew.
    Restart,
    /// The same, and register again with a fresh attestation.
    RefreshRaAndRestart,
    /// Make the worker's process exit; its supervisor starts it again.
    Kick,
    /// Keep the worker's state on its disk. Other commands wait until that is done.
    Checkpoint,
    /// Compute: register, add to the pool, start, as far as it is not so yet.
    Start,
    /// Stop computing, and stay stopped.
    Stop,
    /// Reclaim the stake when the cool-down is over, without another start.
    Reclaim,
    /// Leave the pool once nothing is locked, and stay out of it.
    LeavePool,
    /// Take the worker's present key for this entry's own, so that stake may be locked for it.
    ConfirmKey,
}

/// What became of the last [`Command::Checkpoint`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// When that was known.
    pub at: SystemTime,
    /// The last block in it, or why there is none.
    pub result: Result<ParaNumber, Arc<str>>,
}

/// How a worker is.
#[derive(Clone, Debug)]
pub struct WorkerStatus {
    /// Its entry in the inventory.
    pub worker: Arc<inventory::Worker>,
    /// Its pool's entry.
    pub pool: Option<Arc<inventory::Pool>>,
    /// The runner that it is on.
    pub runner: Option<usize>,
    /// The label.
    pub state: State,
    /// What it does, or what keeps it from that. Carries no time stamp.
    pub message: Arc<str>,
    /// Since when the message, or the state, is this one.
    pub message_at: SystemTime,
    /// The numbers that it wants next.
    pub position: Option<Position>,
    /// Finalised parachain blocks that it has not dispatched.
    pub lag: Option<u32>,
    /// Its public key.
    pub public_key: Option<WorkerKey>,
    /// Its last answer to `GetInfo`; `position` is newer.
    pub info: Option<Arc<PhactoryInfo>>,
    /// What the chain says of it.
    pub chain: Option<Arc<WorkerOnChain>>,
    /// Whether it has not moved for long, although there is more for it.
    pub stalled: bool,
    /// How often in a row reaching or syncing it failed.
    pub failures: u32,
    /// The last checkpoint that was commanded, once it has ended.
    pub checkpoint: Option<Checkpoint>,
}

impl WorkerStatus {
    /// Of a worker that does not run.
    pub fn idle(desired: &Desired, message: Arc<str>, message_at: SystemTime) -> Self {
        Self {
            worker: Arc::clone(&desired.worker),
            pool: desired.pool.clone(),
            runner: None,
            state: State::Idle,
            message,
            message_at,
            position: None,
            lag: None,
            public_key: None,
            info: None,
            chain: None,
            stalled: false,
            failures: 0,
            checkpoint: None,
        }
    }
}

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
    pub fn idle_reason(&self) -> Option<&'static str> {
        match &self.pool {
            _ if !self.worker.enabled => Some("Worker is disabled"),
            None => Some("Its pool is not in the inventory"),
            Some(pool) if !pool.enabled => Some("Its pool is disabled"),
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
}

/// Something that failed and is to be tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trouble {
    /// What went wrong, for people.
    pub message: Arc<str>,
    /// How often in a row.
    pub attempts: u32,
    /// Whether the wait is over.
    pub due: bool,
}

/// What keeps failing, by what it is that fails.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Troubles {
    /// Reaching the worker.
    pub connection: Option<Trouble>,
    /// Initialising and syncing it.
    pub sync: Option<Trouble>,
    /// Operations on chain.
    pub chain: Option<Trouble>,
    /// Relaying its messages.
    pub relay: Option<Trouble>,
}

/// What is so: pRuntime, the source, the chain, and what is under way.
#[derive(Clone, Debug, Default)]
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
    /// Whether the worker has reached the tip and has not fallen far behind since.
    pub caught_up: bool,
    /// The worker on chain, as of the newest view; `None` before one holds it.
    pub chain: Option<Arc<WorkerOnChain>>,
    /// What keeps it from being followed there.
    pub chain_problem: Option<Arc<str>>,
    /// An operation of ours is final at this block, and the view is older: no other one before it shows.
    pub settling: Option<ParaNumber>,
    /// Seconds that a stopped worker's stake stays locked.
    pub cool_down_period_secs: u64,
    /// Whether a benchmark may still be running or its score on the way.
    pub benchmark_running: bool,
    /// The operation on chain that is under way.
    pub job: Option<Operation>,
    /// Whether the worker may hold messages that have not been sent.
    pub unsent_messages: bool,
    /// Whether a fresh attestation was asked for.
    pub refresh_ra: bool,
    /// Whether it was told to exit and has not been seen since.
    pub kicked: bool,
    /// Another worker of this fleet that has the same public key.
    pub twin: Option<Arc<str>>,
    /// What fails.
    pub troubles: Troubles,
}

impl Observed {
    /// The worker's public key, once it is initialised.
    pub fn public_key(&self) -> Option<WorkerKey> {
        self.info.as_ref()?.public_key.as_ref()?.parse().ok()
    }
}

/// An operation on chain that moves a worker on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Register, or register again with the configured operator or a fresh attestation.
    Register,
    /// Add to the pool.
    AddToPool,
    /// Start computing with this stake.
    Start(Balance),
    /// Restart computing with this, higher stake.
    RaiseStake(Balance),
    /// Free the stake after the cool-down.
    Reclaim,
}

impl Operation {
    /// A short name for logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Register => "register",
            Self::AddToPool => "add",
            Self::Start(_) => "start",
            Self::RaiseStake(_) => "restart",
            Self::Reclaim => "reclaim",
        }
    }
}

/// What to do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing, until something changes.
    Wait,
    /// Nothing for a while, then look at the worker again: nobody tells when this changes.
    Recheck,
    /// `GetInfo`.
    Observe,
    /// `InitRuntime`.
    Init,
    /// Fetch and send a batch.
    Sync(Step),
    /// Ask for messages and send those that are not under way.
    Relay,
    /// Send an operation on chain.
    Operate(Operation),
}

/// What [`decide`] says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The label.
    pub state: State,
    /// What to do.
    pub action: Action,
    /// What people are told.
    pub message: Arc<str>,
}
