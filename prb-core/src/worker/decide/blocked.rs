//! Preconditions of operations: detects what the chain would refuse, or what would be of no use, before a fee is
//! paid. The checks and their order follow the pallets' `add_worker`, `start_computing` and `restart_computing`.

use crate::{
    chain::{PoolOnChain, WorkerOnChain},
    inventory::Goal,
    primitives::Balance,
    worker::{Desired, Observed, Operation, Reason, observed::Grant},
};

/// Returns why the chain would refuse an operation; `None` if it would not, or if too little is known.
pub(super) fn reason(
    desired: &Desired,
    observed: &Observed,
    operation: Operation,
    chain: &WorkerOnChain,
) -> Option<Reason> {
    let id = desired.worker.pid;
    // The fee is only known once the transaction is built: only an empty account certainly cannot pay it.
    if let Some(Ok(payer)) = &observed.payer
        && payer.free == 0
        && let Some(operator) = desired.payer()
    {
        return Some(Reason::OperatorCannotPay { operator, balance: payer.free });
    }
    // Without views of pools (a reader need not provide them), the chain itself decides.
    let pool = match &observed.pool {
        None => return None,
        Some(Err(problem)) => {
            return Some(Reason::PoolUnreadable { pool: id, reason: problem.reason.clone() });
        }
        Some(Ok(pool)) => match pool.as_ref() {
            None => return Some(Reason::PoolDoesNotExist { pool: id }),
            Some(pool) => pool,
        },
    };
    if pool.is_vault {
        return Some(Reason::PoolIsVault { pool: id });
    }
    let ours = desired.operator()?;
    if pool.owner != ours {
        return Some(Reason::NotPoolOwner { pool: id, owner: pool.owner, ours });
    }
    match operation {
        Operation::AddToPool => pool_full(desired, observed, pool),
        Operation::Start(stake) => withdrawals(desired, observed, pool, false)
            .or_else(|| stake_shortage(desired, observed, stake))
            .or_else(|| out_of_bounds(observed, chain, stake)),
        Operation::RaiseStake(stake) => {
            // The pallet frees the session's stake before it locks the new one: only the difference must be
            // free in the pool.
            let has = chain.session.as_ref().and_then(|session| session.stake).unwrap_or(0);
            withdrawals(desired, observed, pool, true)
                .or_else(|| stake_shortage(desired, observed, stake.saturating_sub(has)))
                .or_else(|| out_of_bounds(observed, chain, stake))
        }
        _ => None,
    }
}

fn pool_full(desired: &Desired, observed: &Observed, pool: &PoolOnChain) -> Option<Reason> {
    let limit = observed.rules.max_pool_workers?;
    (pool.workers.len() >= limit as usize).then_some(Reason::PoolFull { pool: desired.worker.pid, limit })
}

/// Raising a stake requires an empty withdrawal queue. A start does not, but once a withdrawal has passed its
/// grace period anybody may stop the pool's workers, and the start would end in another cool-down.
fn withdrawals(desired: &Desired, observed: &Observed, pool: &PoolOnChain, raises: bool) -> Option<Reason> {
    let oldest = pool.withdrawals.first()?;
    let rules = &observed.rules;
    let forced = rules
        .withdrawal_grace_secs
        .is_some_and(|grace| rules.now_secs > 0 && oldest.start_time.saturating_add(grace) <= rules.now_secs);
    (raises || forced).then_some(Reason::WithdrawalsQueued { pool: desired.worker.pid, forced })
}

fn stake_shortage(desired: &Desired, observed: &Observed, needed: Balance) -> Option<Reason> {
    match observed.grant {
        Grant::Granted => None,
        Grant::Undecided => Some(Reason::AwaitingTurn { pool: desired.worker.pid }),
        Grant::Short { free, missing, waiting } => {
            Some(Reason::FreeStakeShort { pool: desired.worker.pid, free, needed, missing, waiting })
        }
    }
}

fn out_of_bounds(observed: &Observed, chain: &WorkerOnChain, stake: Balance) -> Option<Reason> {
    let registration = chain.registration.as_ref()?;
    // Not every runtime has these rules.
    let (rules, score) = (observed.rules.stake?, registration.initial_score?);
    let min = rules.min_stake(score);
    if stake < min {
        return Some(Reason::StakeTooSmall { stake, min });
    }
    let max = rules.max_stake(score, registration.confidence_level);
    (stake > max).then_some(Reason::StakeTooLarge { stake, max })
}

/// Returns the free stake that a worker needs from its pool for its next operation; `None` if it needs none.
///
/// A worker counts as soon as it has caught up, before it is registered and scored: workers that are further
/// along must not take the stake that a worker ahead of them in the queue needs a minute later.
pub(crate) fn stake_needed(desired: &Desired, observed: &Observed) -> Option<Balance> {
    let waits = !observed.caught_up
        || desired.sync_only()
        || desired.worker.gatekeeper
        || desired.idle_reason().is_some()
        || observed.key_holder.is_some()
        || observed.saved.goal != Goal::Compute;
    let Some(Ok(chain)) = &observed.chain else { return None };
    if waits || observed.last_key.as_ref().is_some_and(|last| !last.is_free()) {
        return None;
    }
    let wanted = desired.worker.stake;
    match &chain.session {
        _ if chain.pool.is_some_and(|pool| pool != desired.worker.pid) => None,
        // The stake of an unresponsive session is not raised (see `Candidate::computing`).
        Some(session) if session.state == crate::chain::SessionState::WorkerIdle => {
            wanted.checked_sub(session.stake?).filter(|more| *more > 0)
        }
        Some(session) if session.state != crate::chain::SessionState::Ready => None,
        _ => Some(wanted),
    }
}
