//! [`Reason`]: why a worker stands where it stands, as a code and as a message for operators.
//!
//! `docs/worker-states.md` lists every code with its cause and its cure; a test walks [`Reason::CODES`].

use std::{fmt, sync::Arc};

use crate::{
    primitives::{AccountId, Balance, Hash, PHALA_SS58_PREFIX, ParaNumber, PoolId, WorkerKey},
    sync::{Cause, Problem},
};

mod amount;

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

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disabled => f.write_str("Worker is disabled"),
            Self::PoolNotInInventory => f.write_str("Its pool is not in the inventory"),
            Self::PoolDisabled => f.write_str("Its pool is disabled"),
            Self::FleetFull { limit } => write!(f, "The fleet runs its {limit} workers already"),
            Self::AwaitingRunner => f.write_str("Waiting for a runner"),
            Self::NoFleet => f.write_str("Only the inventory is edited here, no worker runs"),
            Self::InternalError { text } => write!(f, "Internal error: {text}"),
            Self::Connecting => f.write_str("Connecting to the worker"),
            Self::Kicked => f.write_str("Kicked, waiting for it to come back"),
            Self::TakingCheckpoint => f.write_str("Taking a checkpoint"),
            Self::WrongChain { theirs, ours } => {
                write!(f, "Worker is on another chain: its genesis is {theirs}, the chain's is {ours}")
            }
            Self::AwaitingChainData => f.write_str("Waiting for chain data"),
            Self::Initialising => f.write_str("Initializing pRuntime"),
            Self::Synching => f.write_str("Synching block data..."),
            Self::SyncOnly => f.write_str("Synched, sync only"),
            Self::AwaitingChainState => f.write_str("Waiting for its on-chain state"),
            Self::ChainStateUnreadable { reason } => {
                write!(f, "Its on-chain state cannot be read: {reason}")
            }
            Self::Registering => f.write_str("Registering worker..."),
            Self::RegisteringAgain => f.write_str("Registering worker again with a fresh attestation"),
            Self::AwaitingScore => f.write_str("Waiting for its benchmark score"),
            Self::AddingToPool { pool } => write!(f, "Adding worker to pool {pool}"),
            Self::AwaitingSession => f.write_str("Waiting for its session"),
            Self::StartingComputing => f.write_str("Starting computing..."),
            Self::Computing => f.write_str("Computing"),
            Self::Stopping => f.write_str("Stopping computing..."),
            Self::Reclaiming => f.write_str("Cooled down, reclaiming its stake"),
            Self::LeavingPool { pool } => write!(f, "Leaving pool {pool}"),
            Self::AnnouncingEndpoints => f.write_str("Announcing its endpoints on chain"),
            Self::AwaitingBlock { block } => write!(f, "Waiting for the state of block {block}"),
            Self::Unreachable { error }
            | Self::InitFailed { error }
            | Self::SyncFailing { error }
            | Self::NoProgress { error }
            | Self::AwaitingData { error } => f.write_str(error),
            Self::RelayFailing { error } => write!(f, "Sending its messages failed: {error}"),
            Self::SaveFailing { error } => {
                write!(f, "What is to be remembered of it cannot be stored, so nothing is sent: {error}")
            }
            _ => self.fmt_more(f),
        }
    }
}

impl Reason {
    /// The messages with more than a value or two in them.
    fn fmt_more(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Busy { count } => {
                write!(f, "Worker answers that it is busy, {count} times in a row: it is asked less often")
            }
            Self::DiesAtBlock { block, count, version } => write!(
                f,
                "Worker's process (pRuntime {version}) has died {count} times at block {block}: \
                 its log says why; another version of pRuntime may take it"
            ),
            Self::NoOperator { pool } => {
                write!(f, "Synched; pool {pool} has no operator, so that nothing is sent on chain")
            }
            Self::KeyInUse { holder } => {
                write!(f, "Has the same public key as worker {holder}: nothing is sent to or for it")
            }
            Self::PoolUnreadable { pool, reason } => {
                write!(f, "The state of pool {pool} cannot be read: {reason}")
            }
            Self::KeyChanged { last, now, at_stake, moved_to } => {
                write!(
                    f,
                    "Another key answers here: {now} instead of {last}, which has {} at stake",
                    Pha(*at_stake)
                )?;
                match moved_to {
                    Some(name) => write!(f, " and is now at worker {name}")?,
                    None => f.write_str(" and is slashed while it sends no heartbeats")?,
                }
                f.write_str(
                    ". Nothing is staked for the new key: confirm it (confirm key), or stop the old one \
                     and reclaim its stake",
                )
            }
            Self::KeyMoved { key, holder } => write!(
                f,
                "Does not answer, and its key {key} answers at worker {holder} now: remove this entry, or \
                 point it to another machine"
            ),
            Self::KeyChangedUnchecked { last } => {
                write!(f, "Another key answers here than {last}: checking what that one has at stake")
            }
            Self::InOtherPool { on_chain, ours } => {
                write!(f, "Worker is assigned to pool {on_chain}, not to pool {ours}")
            }
            Self::AssignmentGone { computing: true } => {
                f.write_str("Computing, but the chain names no pool for it: nothing is sent but its messages")
            }
            Self::AssignmentGone { computing: false } => f.write_str(
                "Cooling down, and the chain names no pool for it: nothing is sent before its stake is free",
            ),
            Self::OperatorDiffers { on_chain, ours } => {
                let on_chain = on_chain.map_or_else(|| "none".to_owned(), |a| a.to_ss58(PHALA_SS58_PREFIX));
                let ours = ours.to_ss58(PHALA_SS58_PREFIX);
                write!(f, "Registering worker again: its operator on chain is {on_chain}, not {ours}")
            }
            Self::ScoreTooLow { score, min } => {
                write!(f, "Its benchmark score is {score}, less than the minimum of {min}")
            }
            Self::RaisingStake { from, to } => {
                write!(f, "Raising its stake from {} to {}", Pha(*from), Pha(*to))
            }
            Self::Unresponsive => f.write_str("Unresponsive: the chain misses its heartbeats"),
            Self::CoolingDown { .. } | Self::CooledDown { .. } | Self::Stopped { .. } => self.fmt_stopped(f),
            Self::Gatekeeper { active: true } => f.write_str("Gatekeeper, on duty"),
            Self::Gatekeeper { active: false } => f.write_str("Gatekeeper, not on duty"),
            _ => self.fmt_blocked(f),
        }
    }

    fn fmt_stopped(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by_force = |forced: &bool| match forced {
            true => " (stopped by force: withdrawals have waited too long)",
            false => "",
        };
        match self {
            Self::CoolingDown { left_secs, then, forced } => {
                f.write_str("Cooling down")?;
                if let Some(left) = left_secs {
                    write!(f, ", about {} left", span_in_words(*left))?;
                }
                f.write_str(match then {
                    AfterCoolDown::StaysStopped => "; stays stopped until it is started or reclaimed",
                    AfterCoolDown::Reclaims => "; its stake is reclaimed then",
                    AfterCoolDown::StartsAgain => "; starts again then",
                    AfterCoolDown::LeavesPool => "; leaves its pool then",
                })?;
                f.write_str(by_force(forced))
            }
            Self::CooledDown { forced } => {
                write!(f, "Cooled down, stays stopped: start it, or reclaim its stake{}", by_force(forced))
            }
            Self::Stopped { in_pool: true } => f.write_str("Stopped; start it to compute again"),
            _ => f.write_str("Stopped and in no pool; start it to add it again"),
        }
    }

    fn fmt_blocked(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PoolDoesNotExist { pool } => {
                write!(f, "The chain has no pool {pool} (PoolDoesNotExist): check its number")
            }
            Self::PoolIsVault { pool } => {
                write!(f, "Pool {pool} is a vault, which takes no workers (PoolTypeNotMatch)")
            }
            Self::NotPoolOwner { pool, owner, ours } => write!(
                f,
                "Pool {pool} belongs to {}, not to {} (UnauthorizedPoolOwner): set its operator or the \
                 account that it is a proxy of",
                owner.to_ss58(PHALA_SS58_PREFIX),
                ours.to_ss58(PHALA_SS58_PREFIX),
            ),
            Self::AwaitingTurn { pool } => {
                write!(f, "Waiting for its turn: other workers of pool {pool} come before it")
            }
            Self::PoolFull { pool, limit } => write!(
                f,
                "Pool {pool} has its {limit} workers (WorkersExceedLimit): remove one, or use another pool"
            ),
            Self::StakeTooSmall { stake, min } => write!(
                f,
                "Its stake of {} is less than the {} that the chain wants for its score (InsufficientStake)",
                Pha(*stake),
                Pha(*min)
            ),
            Self::StakeTooLarge { stake, max } => write!(
                f,
                "Its stake of {} is more than the {} that the chain takes for its score (TooMuchStake)",
                Pha(*stake),
                Pha(*max)
            ),
            Self::FreeStakeShort { pool, free, needed, missing, waiting } => write!(
                f,
                "Pool {pool} has {} free, this worker wants {}, and {waiting} wait for stake: {} are missing \
                 (InsufficientFreeStake)",
                Pha(*free),
                Pha(*needed),
                Pha(*missing)
            ),
            Self::WithdrawalsQueued { pool, forced: false } => write!(
                f,
                "Withdrawals wait in pool {pool}, so that stakes cannot be raised (WithdrawQueueNotEmpty)"
            ),
            Self::WithdrawalsQueued { pool, .. } => write!(
                f,
                "Withdrawals in pool {pool} have waited so long that anybody may stop its workers: not \
                 started before they are paid"
            ),
            Self::OperatorCannotPay { operator, balance } => write!(
                f,
                "Operator {} has {} and cannot pay fees: send it some PHA",
                operator.to_ss58(PHALA_SS58_PREFIX),
                Pha(*balance)
            ),
            Self::OperationFailed { operation, error } => write!(f, "{operation} failed: {error}"),
            Self::OperationRefused { operation, error, cure } => {
                write!(f, "{operation} was refused by the chain ({error}): {cure}")
            }
            Self::OperationWithoutEffect { operation, block } => write!(
                f,
                "{operation} was carried out in block {block}, and the chain looks as before; tried again later"
            ),
            Self::RegistrationRejected { error } => write!(f, "Worker is not registered: {error}"),
            // Every other reason has its text above.
            _ => f.write_str(self.code()),
        }
    }
}
