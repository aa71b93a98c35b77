//! The words of each [`Reason`]: what operators read.

use std::fmt;

use super::{AfterCoolDown, Pha, Reason, span_in_words};
use crate::primitives::PHALA_SS58_PREFIX;

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
