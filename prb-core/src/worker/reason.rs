//! [`Reason`]: why a worker is in its state, as a code and as a message for operators.
//!
//! `docs/worker-states.md` lists every code with its cause and its remedy; a test compares it with
//! [`Reason::CODES`].

use std::sync::Arc;

use crate::{
    primitives::{AccountId, Balance, Hash, ParaNumber, PoolId, WorkerKey},
    sync::{Cause, Problem},
};

mod amount;
mod message;

pub(crate) use amount::{Pha, span_in_words};

/// Declares the reasons together with their codes, so that none can lack one.
macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident $({ $($(#[$field_doc:meta])* $field:ident: $ty:ty),+ $(,)? })? = $code:literal,)+) => {
        /// Why a worker is in its state. `Display` is the message that operators read.
        #[derive(Clone, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum Reason {
            $($(#[$doc])* $name $({ $($(#[$field_doc])* $field: $ty),+ })?,)+
        }

        impl Reason {
            /// Every code.
            pub const CODES: &'static [&'static str] = &[$($code),+];

            /// A stable short name, for metrics, pages and APIs.
            pub const fn code(&self) -> &'static str {
                match self {
                    $(Self::$name { .. } => $code,)+
                }
            }
        }
    };
}

reasons! {
    /// Disabled in the inventory.
    Disabled = "disabled",
    /// The inventory has no pool with the worker's pool number.
    PoolNotInInventory = "pool-not-in-inventory",
    /// The worker's pool is disabled.
    PoolDisabled = "pool-disabled",
    /// The fleet already runs its maximum number of workers.
    FleetFull {
        /// The maximum ([`Config::max_workers`](crate::fleet::Config::max_workers)).
        limit: usize,
    } = "fleet-full",
    /// Not assigned to a runner yet.
    AwaitingRunner = "awaiting-runner",
    /// This process only manages the inventory.
    NoFleet = "no-fleet",
    /// The worker's task panicked and is restarted.
    InternalError {
        /// The panic's text.
        text: Arc<str>,
    } = "internal-error",
    /// Its info is requested for the first time.
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
        /// The worker that holds it now.
        holder: Arc<str>,
    } = "key-moved",
    /// It was kicked and has not answered since.
    Kicked = "kicked",
    /// Its state is being written to its disk.
    TakingCheckpoint = "taking-checkpoint",
    /// It was initialised for another chain.
    WrongChain {
        /// The genesis hash that the worker reports.
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
    /// It is behind, and the source has no data for it.
    AwaitingData {
        /// The data that is missing.
        error: Arc<str>,
    } = "awaiting-data",
    /// Headers or blocks are refused, time out, or cannot be fetched.
    SyncFailing {
        /// What went wrong.
        error: Arc<str>,
    } = "sync-failing",
    /// It keeps answering that it is busy.
    Busy {
        /// Consecutive busy answers.
        count: u32,
    } = "busy",
    /// It accepts batches without advancing.
    NoProgress {
        /// Details.
        error: Arc<str>,
    } = "no-progress",
    /// Its process crashes at the same block repeatedly.
    CrashesAtBlock {
        /// The block.
        block: ParaNumber,
        /// How often it crashed there.
        count: u32,
        /// pRuntime's version.
        version: Arc<str>,
    } = "dies-at-block",
    /// Synced; on-chain operations are disabled.
    SyncOnly = "sync-only",
    /// Its pool has no key to sign with.
    NoOperator {
        /// The pool.
        pool: PoolId,
    } = "no-operator",
    /// Another worker of the fleet has its public key: one pRuntime under two entries, or a copied disk.
    KeyInUse {
        /// The worker that holds the key.
        holder: Arc<str>,
    } = "key-in-use",
    /// No chain view contains it yet.
    AwaitingChainState = "awaiting-chain-state",
    /// The parachain node shows an older state of the chain than the fleet has acted on.
    NodeBehind {
        /// By how many blocks.
        blocks: u32,
    } = "node-behind",
    /// Its on-chain state cannot be read.
    ChainStateUnreadable {
        /// Why it cannot be read.
        reason: Arc<str>,
    } = "chain-state-unreadable",
    /// Its pool's on-chain state cannot be read.
    PoolUnreadable {
        /// The pool.
        pool: PoolId,
        /// Why it cannot be read.
        reason: Arc<str>,
    } = "pool-unreadable",
    /// A key other than the last known one answers, and the last one has stake on chain.
    KeyChanged {
        /// The last known key of this entry.
        last: WorkerKey,
        /// The key that answers now.
        now: WorkerKey,
        /// The stake of the last known key.
        at_stake: Balance,
        /// The worker at which the last known key answers now, if any.
        moved_to: Option<Arc<str>>,
    } = "key-changed",
    /// A key other than the last known one answers; the stake of the last one is not known yet.
    KeyChangedUnchecked {
        /// The last known key of this entry.
        last: WorkerKey,
    } = "key-changed-unchecked",
    /// A key other than the last known one answers; a start that was submitted for the last one may still take effect.
    LastKeyStarting {
        /// The last known key of this entry.
        last: WorkerKey,
    } = "last-key-starting",
    /// The chain assigns it to another pool.
    InOtherPool {
        /// The pool on chain.
        on_chain: PoolId,
        /// The pool in the inventory.
        ours: PoolId,
    } = "in-other-pool",
    /// It has a session, but the chain assigns it to no pool.
    AssignmentGone {
        /// Whether it computes; otherwise it cools down.
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
    /// Registering again on command.
    RegisteringAgain = "registering-again",
    /// No benchmark score yet.
    AwaitingScore = "awaiting-score",
    /// No benchmark score, although far more time has passed than a benchmark takes.
    ScoreOverdue = "score-overdue",
    /// Its benchmark score is below the configured minimum.
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
    /// In its pool, without a session yet.
    AwaitingSession = "awaiting-session",
    /// Computing is being started.
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
    /// Computing, but the chain marks it unresponsive: heartbeats are missing.
    Unresponsive = "unresponsive",
    /// Being stopped on command.
    Stopping = "stopping",
    /// Stopped; its stake is locked for the cool-down.
    CoolingDown {
        /// Seconds until the stake is free, if the chain's time is known.
        left_secs: Option<u64>,
        /// What happens at the end of the cool-down.
        then: AfterCoolDown,
        /// Whether withdrawals forced the stop.
        forced: bool,
    } = "cooling-down",
    /// Stopped; its stake can be reclaimed.
    CooledDown {
        /// Whether withdrawals forced the stop.
        forced: bool,
    } = "cooled-down",
    /// Its stake is being reclaimed.
    Reclaiming = "reclaiming",
    /// Not computing, as intended.
    Stopped {
        /// Whether it is in its pool.
        in_pool: bool,
    } = "stopped",
    /// Being removed from its pool.
    LeavingPool {
        /// The pool.
        pool: PoolId,
    } = "leaving-pool",
    /// Registered as a gatekeeper.
    Gatekeeper {
        /// Whether its gatekeeper role is active.
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
    /// The pool has its maximum number of workers.
    PoolFull {
        /// The pool.
        pool: PoolId,
        /// The chain's limit.
        limit: u32,
    } = "pool-full",
    /// The configured stake is below the chain's minimum for its score.
    StakeTooSmall {
        /// The stake configured.
        stake: Balance,
        /// The minimum.
        min: Balance,
    } = "stake-too-small",
    /// The configured stake is above the chain's maximum for its score.
    StakeTooLarge {
        /// The stake configured.
        stake: Balance,
        /// The maximum.
        max: Balance,
    } = "stake-too-large",
    /// Workers before it in the queue for the pool's free stake have not reported yet what they need.
    AwaitingTurn {
        /// The pool.
        pool: PoolId,
    } = "awaiting-turn",
    /// The pool has too little free stake for it.
    FreeStakeShort {
        /// The pool.
        pool: PoolId,
        /// Its free stake.
        free: Balance,
        /// What this worker needs.
        needed: Balance,
        /// What is missing for it, after those before it in the queue are served.
        missing: Balance,
        /// Workers of the pool that wait for stake.
        waiting: usize,
    } = "free-stake-short",
    /// Queued withdrawals of the pool take precedence.
    WithdrawalsQueued {
        /// The pool.
        pool: PoolId,
        /// Whether one is past the grace period, so that anybody may stop the pool's workers.
        forced: bool,
    } = "withdrawals-queued",
    /// The operator's account is empty.
    OperatorCannotPay {
        /// The account.
        operator: AccountId,
        /// Its balance.
        balance: Balance,
    } = "operator-cannot-pay",
    /// An operation is included in a block that the view does not show yet.
    AwaitingBlock {
        /// The block.
        block: ParaNumber,
    } = "awaiting-block",
    /// An operation did not reach the chain; it is retried.
    OperationFailed {
        /// The operation, as a phrase.
        operation: &'static str,
        /// What went wrong.
        error: Arc<str>,
    } = "operation-failed",
    /// The chain refused an operation; it is not sent again until its cause changes.
    OperationRefused {
        /// The operation, as a phrase.
        operation: &'static str,
        /// The chain's error.
        error: Arc<str>,
        /// The remedy.
        remedy: Arc<str>,
    } = "operation-refused",
    /// An operation was included, but the chain shows no effect.
    OperationWithoutEffect {
        /// The operation, as a phrase.
        operation: &'static str,
        /// The block that includes it.
        block: ParaNumber,
    } = "operation-without-effect",
    /// The worker's registration data does not match the request.
    RegistrationRejected {
        /// The mismatch.
        error: Arc<str>,
    } = "registration-rejected",
    /// Its messages do not reach the chain.
    RelayFailing {
        /// What went wrong.
        error: Arc<str>,
    } = "relay-failing",
    /// The worker's record (key, goal) cannot be persisted.
    SaveFailing {
        /// What went wrong.
        error: Arc<str>,
    } = "save-failing",
}

impl Reason {
    /// Whether nothing but time and the pool's stake keeps a worker with this reason from computing with its full stake.
    pub(super) const fn is_on_the_way(&self) -> bool {
        matches!(
            self,
            Self::Connecting
                | Self::Initialising
                | Self::AwaitingChainData
                | Self::AwaitingChainState
                | Self::NodeBehind { .. }
                | Self::Synching
                | Self::Registering
                | Self::RegisteringAgain
                | Self::OperatorDiffers { .. }
                | Self::AwaitingScore
                | Self::AddingToPool { .. }
                | Self::AwaitingSession
                | Self::StartingComputing
                | Self::AwaitingTurn { .. }
                | Self::FreeStakeShort { .. }
                | Self::RaisingStake { .. }
                | Self::Computing
                | Self::AnnouncingEndpoints
                | Self::AwaitingBlock { .. }
                | Self::Reclaiming
                | Self::CoolingDown { .. }
        )
    }

    /// The reason for a worker's sync problem.
    pub(super) fn of_sync(problem: &Problem) -> Self {
        let error = Arc::clone(&problem.message);
        match &problem.cause {
            Cause::Busy => Self::Busy { count: problem.failures },
            Cause::NoProgress { .. } => Self::NoProgress { error },
            Cause::CrashesAt { block, count, version } => {
                Self::CrashesAtBlock { block: *block, count: *count, version: Arc::clone(version) }
            }
            Cause::NoData => Self::AwaitingData { error },
            _ => Self::SyncFailing { error },
        }
    }
}

/// What happens at the end of a worker's cool-down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AfterCoolDown {
    /// Nothing: the stake stays until it is reclaimed.
    StaysStopped,
    /// Its stake is reclaimed.
    Reclaims,
    /// Its stake is reclaimed, and it starts again.
    StartsAgain,
    /// Its stake is reclaimed, and it leaves its pool.
    LeavesPool,
}
