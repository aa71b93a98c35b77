//! The messages of [`Reason`], for operators.

use std::fmt;

use super::{AfterCoolDown, Pha, Reason, span_in_words};
use crate::primitives::PHALA_SS58_PREFIX;

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disabled => f.write_str("Worker is disabled"),
            Self::PoolNotInInventory => f.write_str(
                "Its pool is not in the inventory: add the pool, or correct the worker's pool number",
            ),
            Self::PoolDisabled => f.write_str("Its pool is disabled"),
            Self::FleetFull { limit } => write!(
                f,
                "The fleet already runs its maximum of {limit} workers: raise the limit, or disable another worker"
            ),
            Self::AwaitingRunner => f.write_str("Waiting for a runner"),
            Self::NoFleet => f.write_str("This process only manages the inventory; workers do not run here"),
            Self::InternalError { text } => write!(f, "Internal error, the worker's task restarts: {text}"),
            Self::Connecting => f.write_str("Connecting to the worker"),
            Self::Kicked => f.write_str("Kicked: waiting for pRuntime's supervisor to start it again"),
            Self::TakingCheckpoint => f.write_str("Taking a checkpoint"),
            Self::WrongChain { theirs, ours } => write!(
                f,
                "Worker was initialised for another chain: its genesis is {theirs}, this chain's is {ours}; remove \
                 its data, or move its entry to that chain's manager"
            ),
            Self::AwaitingChainData => f.write_str("Waiting for the chain's genesis from the data source"),
            Self::Initialising => f.write_str("Initializing pRuntime"),
            Self::Synching => f.write_str("Synching block data..."),
            Self::SyncOnly => f.write_str("Synched, sync only"),
            Self::AwaitingChainState => f.write_str("Waiting for its on-chain state"),
            Self::NodeBehind { blocks } => write!(
                f,
                "The parachain node is {blocks} blocks behind what this manager has acted on: nothing is sent on chain \
                 until it has caught up; check the node, or add another one"
            ),
            Self::ChainStateUnreadable { reason } => {
                write!(f, "Its on-chain state cannot be read: {reason}")
            }
            Self::Registering => f.write_str("Registering worker..."),
            Self::RegisteringAgain => f.write_str("Registering worker again with a fresh attestation"),
            Self::AwaitingScore => f.write_str("Waiting for its benchmark score"),
            Self::ScoreOverdue => f.write_str(
                "No benchmark score, although twice the time of a benchmark has passed: check pRuntime's log and \
                 whether its messages reach the chain, or register it again",
            ),
            Self::AddingToPool { pool } => write!(f, "Adding worker to pool {pool}"),
            Self::AwaitingSession => f.write_str("Waiting for its session on chain"),
            Self::StartingComputing => f.write_str("Starting computing..."),
            Self::Computing => f.write_str("Computing"),
            Self::Stopping => f.write_str("Stopping computing..."),
            Self::Reclaiming => f.write_str("Cooled down, reclaiming its stake"),
            Self::LeavingPool { pool } => write!(f, "Leaving pool {pool}"),
            Self::AnnouncingEndpoints => f.write_str("Announcing its endpoints on chain"),
            Self::AwaitingBlock { block } => write!(f, "Waiting for the on-chain state of block {block}"),
            Self::Unreachable { error }
            | Self::InitFailed { error }
            | Self::SyncFailing { error }
            | Self::NoProgress { error }
            | Self::AwaitingData { error } => f.write_str(error),
            Self::RelayFailing { error } => write!(f, "Its messages do not reach the chain: {error}"),
            Self::SaveFailing { error } => write!(
                f,
                "Its key and goal cannot be stored in the inventory, so no operation is sent: {error}"
            ),
            _ => self.fmt_more(f),
        }
    }
}

impl Reason {
    /// Formats the messages with several values or a remedy.
    fn fmt_more(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Busy { count } => write!(
                f,
                "Worker has answered that it is busy {count} times in a row; it is polled less often. Check that \
                 no other manager syncs it"
            ),
            Self::CrashesAtBlock { block, count, version } => write!(
                f,
                "Worker's process (pRuntime {version}) has died {count} times at block {block}: check pRuntime's \
                 log, give it more memory, or use another version"
            ),
            Self::NoOperator { pool } => write!(
                f,
                "Synched; pool {pool} has no operator, so nothing is sent on chain: set the pool's operator"
            ),
            Self::PoolUnreadable { pool, reason } => {
                write!(f, "The on-chain state of pool {pool} cannot be read: {reason}")
            }
            Self::InOtherPool { on_chain, ours } => write!(
                f,
                "Worker is assigned to pool {on_chain} on chain, not to pool {ours}: correct its pool number, or \
                 remove it from pool {on_chain}"
            ),
            Self::AssignmentGone { computing: true } => {
                f.write_str("Computing, but the chain assigns it to no pool: only its messages are sent")
            }
            Self::AssignmentGone { computing: false } => f.write_str(
                "Cooling down, and the chain assigns it to no pool: nothing is sent until its stake is free",
            ),
            Self::OperatorDiffers { on_chain, ours } => {
                let on_chain = on_chain.map_or_else(|| "none".to_owned(), |a| a.to_ss58(PHALA_SS58_PREFIX));
                let ours = ours.to_ss58(PHALA_SS58_PREFIX);
                write!(f, "Registering worker again: its operator on chain is {on_chain}, not {ours}")
            }
            Self::ScoreTooLow { score, min } => {
                write!(f, "Its benchmark score is {score}, below the minimum of {min}")
            }
            Self::RaisingStake { from, to } => {
                write!(f, "Raising its stake from {} to {}", Pha(*from), Pha(*to))
            }
            Self::Unresponsive => f.write_str("Unresponsive: the chain misses its heartbeats"),
            Self::CoolingDown { .. } | Self::CooledDown { .. } | Self::Stopped { .. } => self.fmt_stopped(f),
            Self::Gatekeeper { active: true } => f.write_str("Gatekeeper, active"),
            Self::Gatekeeper { active: false } => f.write_str("Gatekeeper, not active"),
            _ => self.fmt_key(f),
        }
    }

    fn fmt_key(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KeyInUse { holder } => write!(
                f,
                "Has the same public key as worker {holder}, so it is neither synced nor operated: remove one of \
                 the two entries"
            ),
            Self::KeyChanged { last, now, at_stake, moved_to } => {
                write!(
                    f,
                    "Another key answers: {now} instead of {last}, which has {} at stake",
                    Pha(*at_stake)
                )?;
                match moved_to {
                    Some(name) => write!(f, " and now answers at worker {name}")?,
                    None => f.write_str(" and is slashed while it sends no heartbeats")?,
                }
                f.write_str(
                    ". Nothing is staked for the new key: confirm it (confirm-key), or stop the last key and \
                     reclaim its stake",
                )
            }
            Self::KeyMoved { key, holder } => write!(
                f,
                "Does not answer, and its key {key} now answers at worker {holder}: remove this entry, or \
                 change its endpoint to another machine"
            ),
            Self::KeyChangedUnchecked { last } => {
                write!(f, "Another key answers instead of {last}: checking what the last one has at stake")
            }
            Self::LastKeyStarting { last } => write!(
                f,
                "Another key answers instead of {last}, for which a start was submitted that may still lock stake: \
                 nothing is staked for the new key until that is known"
            ),
            _ => self.fmt_blocked(f),
        }
    }

    fn fmt_stopped(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let by_force = |forced: &bool| match forced {
            true => " (forced: withdrawals of the pool were overdue)",
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
                    AfterCoolDown::Reclaims => "; then its stake is reclaimed",
                    AfterCoolDown::StartsAgain => "; then its stake is reclaimed and it starts again",
                    AfterCoolDown::LeavesPool => "; then its stake is reclaimed and it leaves its pool",
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
                write!(
                    f,
                    "Pool {pool} is a vault, which takes no workers (PoolTypeNotMatch): use a stake pool"
                )
            }
            Self::NotPoolOwner { pool, owner, ours } => write!(
                f,
                "Pool {pool} belongs to {}, not to {} (UnauthorizedPoolOwner): set the owner as its operator, or \
                 as the account that its operator is a proxy of",
                owner.to_ss58(PHALA_SS58_PREFIX),
                ours.to_ss58(PHALA_SS58_PREFIX),
            ),
            Self::AwaitingTurn { pool } => write!(
                f,
                "Waiting for its turn: workers before it have not reported yet whether they need free stake of pool \
                 {pool}"
            ),
            Self::PoolFull { pool, limit } => write!(
                f,
                "Pool {pool} has its maximum of {limit} workers (WorkersExceedLimit): remove one, or use another pool"
            ),
            Self::OperatorCannotPay { operator, balance } => write!(
                f,
                "Operator {} has {} and cannot pay fees: transfer some PHA to it",
                operator.to_ss58(PHALA_SS58_PREFIX),
                Pha(*balance)
            ),
            Self::OperationFailed { operation, error } => write!(f, "{operation} failed: {error}"),
            Self::OperationRefused { operation, error, remedy } => {
                write!(f, "{operation} was refused by the chain ({error}): {remedy}")
            }
            Self::OperationWithoutEffect { operation, block } => write!(
                f,
                "{operation} was included in block {block} without effect on chain; it is tried again later"
            ),
            Self::RegistrationRejected { error } => write!(f, "Registration was not sent: {error}"),
            _ => self.fmt_stake(f),
        }
    }

    fn fmt_stake(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::StakeTooSmall { stake, min } => write!(
                f,
                "Its stake of {} is below the chain's minimum of {} for its score (InsufficientStake): raise it",
                Pha(*stake),
                Pha(*min)
            ),
            Self::StakeTooLarge { stake, max } => write!(
                f,
                "Its stake of {} is above the chain's maximum of {} for its score (TooMuchStake): lower it",
                Pha(*stake),
                Pha(*max)
            ),
            Self::FreeStakeShort { pool, free, needed, missing, waiting } => write!(
                f,
                "Pool {pool} has {} of free stake, this worker needs {}, and {waiting} workers wait for stake: {} \
                 are missing (InsufficientFreeStake)",
                Pha(*free),
                Pha(*needed),
                Pha(*missing)
            ),
            Self::WithdrawalsQueued { pool, forced: false } => write!(
                f,
                "Pool {pool} has queued withdrawals: its stakes cannot be raised before they are paid \
                 (WithdrawQueueNotEmpty)"
            ),
            Self::WithdrawalsQueued { pool, .. } => write!(
                f,
                "Withdrawals of pool {pool} are overdue, so that anybody may stop its workers: none is started \
                 before they are paid"
            ),
            // Every other reason has its text above.
            _ => f.write_str(self.code()),
        }
    }
}
