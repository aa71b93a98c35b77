//! [`Reason`]: why a worker stands where it stands, as a code and as a message for operators.
//!
//! `docs/worker-states.md` lists every code with its cause and its cure; a test walks [`Reason::CODES`].

use std::sync::Arc;

use crate::{
    primitives::{AccountId, Balance, Hash, ParaNumber, PoolId, WorkerKey},
    sync::{Cause, Problem},
};

mod amount;
mod message;

pub(crate) use amount::{Pha, span_in_words};

/// Declares the reasons with their codes in one place, so that none can be without.
macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident $({ $($(#[$field_doc:meta])* $field:ident: $ty:ty),+ $(,)? })? = $code:literal,)+) => {
        /// Why a worker stands where it stands. `Display` is the message that operators read.
        #[derive(Clone, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum Reason {
            $($(#[$doc])* $name $({ $($(#[$field_doc])* $field: $ty),+ })?,)+
        }

        impl Reason {
            /// Every code.
            pub const CODES: &'static [&'static str] = &[$($code),+];

            /// A stable short name, for metrics, pages and programs.
            pub const fn code(&self) -> &'static str {
                match self {
                    $(Self::$name { .. } => $code,)+
                }
            }
        }
    };
}

reasons! {
    /// Switched off in the inventory.
    Disabled = "disabled",
    /// The inventory has no pool of the worker's number.
    PoolNotInInventory = "pool-not-in-inventory",
    /// The worker's pool is switched off.
    PoolDisabled = "pool-disabled",
    /// More workers than the fleet may run.
    FleetFull {
        /// The fleet's bound.
        limit: usize,
    } = "fleet-full",
    /// Not given to a runner yet.
    AwaitingRunner = "awaiting-runner",
    /// Only the inventory is edited in this process.
    NoFleet = "no-fleet",
    /// The worker's task panicked and starts again.
    InternalError {
        /// The panic's text.
        text: Arc<str>,
    } = "internal-error",
    /// Asked for its info for the first time.
    Connecting = "connecting",
    /// It does not answer.
    Unreachable {
        /// What went wrong.
        error: Arc<str>,
    } = "unreachable",
    /// It does not answer, and its key answers at another entry.
    KeyMoved {
        /// The key.
        key: WorkerKey,
        /// The worker that has it now.
        holder: Arc<str>,
    } = "key-moved",
    /// Told to exit, not back yet.
    Kicked = "kicked",
    /// Its state is being written to its disk.
    TakingCheckpoint = "taking-checkpoint",
    /// It follows another chain.
    WrongChain {
        /// What the worker says its genesis is.
        theirs: Arc<str>,
        /// This chain's.
        ours: Hash,
    } = "wrong-chain",
    /// No source has the chain's genesis yet.
    AwaitingChainData = "awaiting-chain-data",
    /// Being initialised.
    Initialising = "initialising",
    /// It refuses to be initialised.
    InitFailed {
        /// What went wrong.
        error: Arc<str>,
    } = "init-failed",
    /// Behind the chain.
    Synching = "synching",
    /// It is behind, and the source has nothing for it.
    AwaitingData {
        /// What it waits for.
        error: Arc<str>,
    } = "awaiting-data",
    /// Headers or blocks are not taken.
    SyncFailing {
        /// What went wrong.
        error: Arc<str>,
    } = "sync-failing",
    /// It answers that it is busy, again and again.
    Busy {
        /// How often in a row.
        count: u32,
    } = "busy",
    /// It takes batches and does not move.
    NoProgress {
        /// Details.
        error: Arc<str>,
    } = "no-progress",
    /// Its process dies at one block again and again.
    DiesAtBlock {
        /// The block.
        block: ParaNumber,
        /// How often.
        count: u32,
        /// pRuntime's version.
        version: Arc<str>,
    } = "dies-at-block",
    /// Synced, nothing is sent on chain.
    SyncOnly = "sync-only",
    /// Its pool has no key to sign with.
    NoOperator {
        /// The pool.
        pool: PoolId,
    } = "no-operator",
    /// Another worker of the fleet has its public key: one pRuntime under two entries, or a copied one.
    KeyInUse {
        /// The worker that has it.
        holder: Arc<str>,
    } = "key-in-use",
    /// No view of the chain holds it yet.
    AwaitingChainState = "awaiting-chain-state",
    /// Its state on chain cannot be read.
    ChainStateUnreadable {
        /// Why.
        reason: Arc<str>,
    } = "chain-state-unreadable",
    /// Its pool's state on chain cannot be read.
    PoolUnreadable {
        /// The pool.
        pool: PoolId,
        /// Why.
        reason: Arc<str>,
    } = "pool-unreadable",
    /// Another key than before answers here, and the last one has stake on chain.
    KeyChanged {
        /// The key that this entry was known by.
        last: WorkerKey,
        /// What answers now.
        now: WorkerKey,
        /// What the last one has at stake.
        at_stake: Balance,
        /// The worker that the last key lives at now, where it does.
        moved_to: Option<Arc<str>>,
    } = "key-changed",
    /// Another key than before answers here; whether the last one has stake is not known yet.
    KeyChangedUnchecked {
        /// The key that this entry was known by.
        last: WorkerKey,
    } = "key-changed-unchecked",
    /// In another pool.
    InOtherPool {
        /// The pool on chain.
        on_chain: PoolId,
        /// The pool in the inventory.
        ours: PoolId,
    } = "in-other-pool",
    /// Its session goes on, but the chain names no pool for it.
    AssignmentGone {
        /// Whether it computes; else it cools down.
        computing: bool,
    } = "assignment-gone",
    /// Not registered yet.
    Registering = "registering",
    /// Registered with another operator.
    OperatorDiffers {
        /// The operator on chain.
        on_chain: Option<AccountId>,
        /// The pool's.
        ours: AccountId,
    } = "operator-differs",
    /// Registered again on command.
    RegisteringAgain = "registering-again",
    /// No benchmark score yet.
    AwaitingScore = "awaiting-score",
    /// A score below the configured minimum.
    ScoreTooLow {
        /// Its score.
        score: u32,
        /// The minimum.
        min: u32,
    } = "score-too-low",
    /// Being added to its pool.
    AddingToPool {
        /// The pool.
        pool: PoolId,
    } = "adding-to-pool",
    /// In its pool, without a session.
    AwaitingSession = "awaiting-session",
    /// Being started.
    StartingComputing = "starting-computing",
    /// Computing.
    Computing = "computing",
    /// Computing with less stake than configured.
    RaisingStake {
        /// The stake on chain.
        from: Balance,
        /// The stake configured.
        to: Balance,
    } = "raising-stake",
    /// Computing, and the chain misses its heartbeats.
    Unresponsive = "unresponsive",
    /// Being stopped on command.
    Stopping = "stopping",
    /// Stopped; its stake is locked.
    CoolingDown {
        /// Seconds until the stake is free, where the chain's time is known.
        left_secs: Option<u64>,
        /// What happens then.
        then: AfterCoolDown,
        /// Whether withdrawals forced the stop.
        forced: bool,
    } = "cooling-down",
    /// Stopped, and its stake can be reclaimed.
    CooledDown {
        /// Whether withdrawals forced the stop.
        forced: bool,
    } = "cooled-down",
    /// Its stake is being reclaimed.
    Reclaiming = "reclaiming",
    /// Not computing, and meant to stay so.
    Stopped {
        /// Whether it is in its pool.
        in_pool: bool,
    } = "stopped",
    /// Being taken out of its pool.
    LeavingPool {
        /// The pool.
        pool: PoolId,
    } = "leaving-pool",
    /// A gatekeeper.
    Gatekeeper {
        /// Whether it is on duty.
        active: bool,
    } = "gatekeeper",
    /// Its endpoints are being announced.
    AnnouncingEndpoints = "announcing-endpoints",
    /// The chain has no such pool.
    PoolDoesNotExist {
        /// The pool.
        pool: PoolId,
    } = "pool-does-not-exist",
    /// The pool is a vault.
    PoolIsVault {
        /// The pool.
        pool: PoolId,
    } = "pool-is-vault",
    /// Another account owns the pool.
    NotPoolOwner {
        /// The pool.
        pool: PoolId,
        /// Its owner on chain.
        owner: AccountId,
        /// The account that would send.
        ours: AccountId,
    } = "not-pool-owner",
    /// The pool has its most workers.
    PoolFull {
        /// The pool.
        pool: PoolId,
        /// The chain's limit.
        limit: u32,
    } = "pool-full",
    /// The stake configured is below what the chain wants for its score.
    StakeTooSmall {
        /// The stake configured.
        stake: Balance,
        /// The least.
        min: Balance,
    } = "stake-too-small",
    /// The stake configured is above what the chain takes for its score.
    StakeTooLarge {
        /// The stake configured.
        stake: Balance,
        /// The most.
        max: Balance,
    } = "stake-too-large",
    /// Workers before it in line for the pool's free stake have not said yet what they need.
    AwaitingTurn {
        /// The pool.
        pool: PoolId,
    } = "awaiting-turn",
    /// The pool has too little free stake.
    FreeStakeShort {
        /// The pool.
        pool: PoolId,
        /// Its free stake.
        free: Balance,
        /// What this worker needs.
        needed: Balance,
        /// What is missing for it, after those before it in line.
        missing: Balance,
        /// Workers of the pool that wait for stake.
        waiting: usize,
    } = "free-stake-short",
    /// The pool's withdrawals come first.
    WithdrawalsQueued {
        /// The pool.
        pool: PoolId,
        /// Whether one has waited so long that anybody may stop the pool's workers.
        forced: bool,
    } = "withdrawals-queued",
    /// The operator's account is empty.
    OperatorCannotPay {
        /// The account.
        operator: AccountId,
        /// What it has.
        balance: Balance,
    } = "operator-cannot-pay",
    /// An operation has landed, and the view is older.
    AwaitingBlock {
        /// The block.
        block: ParaNumber,
    } = "awaiting-block",
    /// An operation did not reach the chain; it is tried again.
    OperationFailed {
        /// What was tried.
        operation: &'static str,
        /// What went wrong.
        error: Arc<str>,
    } = "operation-failed",
    /// The chain refused an operation; it is not sent again before something changes.
    OperationRefused {
        /// What was tried.
        operation: &'static str,
        /// The chain's error.
        error: Arc<str>,
        /// What to do.
        cure: Arc<str>,
    } = "operation-refused",
    /// An operation was carried out and the chain looks as before.
    OperationWithoutEffect {
        /// What was tried.
        operation: &'static str,
        /// Where.
        block: ParaNumber,
    } = "operation-without-effect",
    /// The worker's registration data is not what it was asked for.
    RegistrationRejected {
        /// What differs.
        error: Arc<str>,
    } = "registration-rejected",
    /// Its messages do not reach the chain.
    RelayFailing {
        /// What went wrong.
        error: Arc<str>,
    } = "relay-failing",
    /// What the fleet has to remember cannot be stored.
    SaveFailing {
        /// What went wrong.
        error: Arc<str>,
    } = "save-failing",
}

impl Reason {
    /// Why a worker's sync does not go on.
    pub(super) fn of_sync(problem: &Problem) -> Self {
        let error = Arc::clone(&problem.message);
        match &problem.cause {
            Cause::Busy => Self::Busy { count: problem.failures },
            Cause::NoProgress { .. } => Self::NoProgress { error },
            Cause::DiesAt { block, count, version } => {
                Self::DiesAtBlock { block: *block, count: *count, version: Arc::clone(version) }
            }
            Cause::NoData => Self::AwaitingData { error },
            _ => Self::SyncFailing { error },
        }
    }
}

/// What happens when a worker's cool-down is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AfterCoolDown {
    /// Nothing.
    StaysStopped,
    /// Its stake is reclaimed.
    Reclaims,
    /// Its stake is reclaimed, and it starts again.
    StartsAgain,
    /// Its stake is reclaimed, and it leaves its pool.
    LeavesPool,
}
