//! Pools and computation: each call makes the pallets' checks, in their order, with their error names.

use super::{Dispatch, Model, ensure, fail};
use crate::{
    chain::{DispatchError, PoolOnChain, Registration, Session, SessionState, Withdrawal, session_account},
    primitives::{AccountId, Balance, PoolId, WorkerKey},
};

/// A pool: its visible state, and the amounts that its withdrawals wait for.
#[derive(Clone, Debug, Default)]
pub(in crate::chain::memory) struct PoolState {
    pub(in crate::chain::memory) owner: AccountId,
    pub(in crate::chain::memory) is_vault: bool,
    pub(in crate::chain::memory) free_stake: Balance,
    pub(in crate::chain::memory) cap: Option<Balance>,
    workers: Vec<WorkerKey>,
    cooling_down: Vec<WorkerKey>,
    /// Oldest first: the start time, and the amount still to be paid.
    withdrawals: Vec<(u64, Balance)>,
}

impl PoolState {
    /// Adds free stake, from which waiting withdrawals are paid first.
    pub(in crate::chain::memory) fn contribute(&mut self, units: Balance) {
        self.free_stake = self.free_stake.saturating_add(units);
        for (_, open) in &mut self.withdrawals {
            let paid = self.free_stake.min(*open);
            *open -= paid;
            self.free_stake -= paid;
        }
        // Paid withdrawals leave the queue: while one waits, no stake can be raised.
        self.withdrawals.retain(|(_, open)| *open > 0);
    }

    pub(in crate::chain::memory) fn withdraw(&mut self, units: Balance, now_secs: u64) {
        self.withdrawals.push((now_secs, units));
        // Pays at once what the free stake covers.
        self.contribute(0);
    }
}

impl Model {
    pub(in crate::chain::memory) fn pool_on_chain(&self, pool: PoolId) -> Option<PoolOnChain> {
        let state = self.pools.get(&pool)?;
        let stake = |worker: &WorkerKey| {
            self.workers.get(worker).and_then(|w| w.session.as_ref()?.stake).unwrap_or_default()
        };
        let locked: Balance = state.workers.iter().map(stake).sum();
        Some(PoolOnChain {
            owner: state.owner,
            is_vault: state.is_vault,
            free_stake: state.free_stake,
            releasing_stake: state.cooling_down.iter().map(stake).sum(),
            total_value: state.free_stake.saturating_add(locked),
            cap: state.cap,
            commission_millionths: None,
            workers: state.workers.clone(),
            cooling_down: state.cooling_down.clone(),
            withdrawals: state
                .withdrawals
                .iter()
                .map(|(start_time, _)| Withdrawal { start_time: *start_time })
                .collect(),
        })
    }

    fn stake_pool(&mut self, pool: PoolId) -> Result<&mut PoolState, DispatchError> {
        match self.pools.get_mut(&pool) {
            None => fail("PhalaBasePool::PoolDoesNotExist"),
            Some(state) if state.is_vault => fail("PhalaBasePool::PoolTypeNotMatch"),
            Some(state) => Ok(state),
        }
    }

    fn owned_pool(&mut self, origin: AccountId, pool: PoolId) -> Result<&mut PoolState, DispatchError> {
        let state = self.stake_pool(pool)?;
        ensure(state.owner == origin, "PhalaStakePoolv2::UnauthorizedPoolOwner")?;
        Ok(state)
    }

    fn is_in_pool(&self, pool: PoolId, worker: WorkerKey) -> Dispatch {
        let known = self.pools.get(&pool).is_some_and(|state| state.workers.contains(&worker));
        ensure(known, "PhalaStakePoolv2::WorkerDoesNotExist")
    }

    /// The session of a worker in a pool.
    fn session(
        &mut self,
        pool: PoolId,
        worker: WorkerKey,
        missing: &str,
    ) -> Result<&mut Session, DispatchError> {
        let account = session_account(pool, worker);
        match self.workers.get_mut(&worker).and_then(|w| w.session.as_mut()) {
            Some(session) if session.account == account => Ok(session),
            _ => fail(missing),
        }
    }

    pub(super) fn add(&mut self, origin: AccountId, pool: PoolId, worker: WorkerKey) -> Dispatch {
        let limit = self.config.max_pool_workers;
        let Registration { operator, initial_score, .. } = self.registration(worker)?;
        ensure(*operator == Some(origin), "PhalaStakePoolv2::UnauthorizedOperator")?;
        ensure(initial_score.is_some(), "PhalaStakePoolv2::BenchmarkMissing")?;
        let state = self.owned_pool(origin, pool)?;
        ensure(!state.workers.contains(&worker), "PhalaStakePoolv2::WorkerExists")?;
        ensure(state.workers.len() < limit as usize, "PhalaStakePoolv2::WorkersExceedLimit")?;
        let entry = self.workers.entry(worker).or_default();
        ensure(entry.session.is_none(), "PhalaStakePoolv2::FailedToBindSessionAndWorker")?;
        entry.pool = Some(pool);
        entry.session = Some(ready_session(session_account(pool, worker)));
        self.stake_pool(pool)?.workers.push(worker);
        Ok(())
    }

    pub(super) fn remove(&mut self, origin: AccountId, pool: PoolId, worker: WorkerKey) -> Dispatch {
        self.owned_pool(origin, pool)?;
        match self.workers.get(&worker).and_then(|w| w.pool) {
            None => return fail("PhalaStakePoolv2::WorkerDoesNotExist"),
            Some(other) if other != pool => return fail("PhalaStakePoolv2::WorkerInAnotherPool"),
            Some(_) => {}
        }
        let state = self.session(pool, worker, "PhalaStakePoolv2::SessionDoesNotExist")?.state;
        ensure(state == SessionState::Ready, "PhalaStakePoolv2::WorkerIsNotReady")?;
        let entry = self.workers.entry(worker).or_default();
        (entry.pool, entry.session) = (None, None);
        self.stake_pool(pool)?.workers.retain(|other| *other != worker);
        Ok(())
    }

    pub(super) fn start(
        &mut self,
        origin: AccountId,
        pool: PoolId,
        worker: WorkerKey,
        stake: Balance,
    ) -> Dispatch {
        let now = self.now_secs();
        let free = self.owned_pool(origin, pool)?.free_stake;
        ensure(free >= stake, "PhalaStakePoolv2::InsufficientFreeStake")?;
        self.is_in_pool(pool, worker)?;
        let session = self.session(pool, worker, "PhalaComputation::SessionNotFound")?;
        ensure(session.state == SessionState::Ready, "PhalaComputation::WorkerNotReady")?;
        let unlocked = session.stake.unwrap_or_default() == 0;
        ensure(unlocked, "PhalaComputation::InternalErrorCannotStartWithExistingStake")?;
        let (score, ve) = self.check_stake(worker, stake)?;
        let session = self.session(pool, worker, "PhalaComputation::SessionNotFound")?;
        session.state = SessionState::WorkerIdle;
        session.stake = Some(stake);
        (session.ve, session.v) = (ve, ve);
        (session.p_init, session.p_instant) = (score, score);
        (session.working_start_time, session.v_updated_at) = (now, now);
        self.stake_pool(pool)?.free_stake -= stake;
        Ok(())
    }

    /// Checks whether a worker may start with that stake; returns its score and initial value.
    fn check_stake(&self, worker: WorkerKey, stake: Balance) -> Result<(u32, u128), DispatchError> {
        let config = &self.config;
        let registration = self.workers.get(&worker).and_then(|w| w.registration.as_ref());
        let Some((score, level)) = registration.and_then(|r| Some((r.initial_score?, r.confidence_level)))
        else {
            return fail("PhalaComputation::BenchmarkMissing");
        };
        ensure(score >= config.min_score, "PhalaComputation::BenchmarkTooLow")?;
        let (min, max) = match &config.stake_rules {
            Some(rules) => (rules.min_stake(score), rules.max_stake(score, level)),
            None => (config.min_stake, config.max_stake),
        };
        ensure(stake >= min, "PhalaComputation::InsufficientStake")?;
        ensure(stake <= max, "PhalaComputation::TooMuchStake")?;
        Ok((score, config.stake_rules.map_or(0, |rules| rules.initial_value(stake, score, level))))
    }

    pub(super) fn stop(&mut self, origin: AccountId, pool: PoolId, worker: WorkerKey) -> Dispatch {
        self.owned_pool(origin, pool)?;
        self.cool_down(pool, worker)
    }

    /// Stops a worker, regardless of the origin.
    pub(in crate::chain::memory) fn cool_down(&mut self, pool: PoolId, worker: WorkerKey) -> Dispatch {
        let now = self.now_secs();
        self.is_in_pool(pool, worker)?;
        let cooling = self.stake_pool(pool)?.cooling_down.contains(&worker);
        ensure(!cooling, "PhalaStakePoolv2::WorkerAlreadyStopped")?;
        let session = self.session(pool, worker, "PhalaComputation::SessionNotFound")?;
        ensure(session.state.is_computing(), "PhalaComputation::WorkerNotComputing")?;
        session.state = SessionState::WorkerCoolingDown;
        session.cool_down_start = now;
        self.stake_pool(pool)?.cooling_down.push(worker);
        Ok(())
    }

    /// Stops all workers of a pool, as anybody may once a withdrawal is past the grace period.
    pub(in crate::chain::memory) fn force_stop(&mut self, pool: PoolId) {
        let workers = self.pools.get(&pool).map(|state| state.workers.clone()).unwrap_or_default();
        for worker in workers {
            // A worker that does not compute needs no stop.
            let _ = self.cool_down(pool, worker);
        }
    }

    pub(super) fn reclaim(&mut self, pool: PoolId, worker: WorkerKey) -> Dispatch {
        let (now, period) = (self.now_secs(), self.config.cool_down_secs);
        self.stake_pool(pool)?;
        self.is_in_pool(pool, worker)?;
        let session = self.session(pool, worker, "PhalaComputation::SessionNotFound")?;
        let over = session.state == SessionState::WorkerCoolingDown
            && now.saturating_sub(session.cool_down_start) >= period;
        ensure(over, "PhalaComputation::CoolDownNotReady")?;
        let stake = self.release(pool, worker)?;
        self.stake_pool(pool)?.contribute(stake);
        Ok(())
    }

    /// Ends a cool-down; returns the stake that it locked.
    fn release(&mut self, pool: PoolId, worker: WorkerKey) -> Result<Balance, DispatchError> {
        let session = self.session(pool, worker, "PhalaComputation::SessionNotFound")?;
        session.state = SessionState::Ready;
        let stake = session.stake.take().unwrap_or_default();
        self.stake_pool(pool)?.cooling_down.retain(|other| *other != worker);
        Ok(stake)
    }

    pub(super) fn restart(
        &mut self,
        origin: AccountId,
        pool: PoolId,
        worker: WorkerKey,
        stake: Balance,
    ) -> Dispatch {
        let waiting = !self.stake_pool(pool)?.withdrawals.is_empty();
        ensure(!waiting, "PhalaStakePoolv2::WithdrawQueueNotEmpty")?;
        self.owned_pool(origin, pool)?;
        // A call is atomic: all of its effects are rolled back on an error.
        let before = (self.pools.get(&pool).cloned(), self.workers.get(&worker).cloned());
        let result = self.stop_and_start(origin, pool, worker, stake);
        if result.is_err()
            && let (Some(state), Some(entry)) = before
        {
            self.pools.insert(pool, state);
            self.workers.insert(worker, entry);
        }
        result
    }

    fn stop_and_start(
        &mut self,
        origin: AccountId,
        pool: PoolId,
        worker: WorkerKey,
        stake: Balance,
    ) -> Dispatch {
        self.cool_down(pool, worker)?;
        let released = self.release(pool, worker)?;
        ensure(stake > released, "PhalaStakePoolv2::CannotRestartWithLessStake")?;
        self.stake_pool(pool)?.contribute(released);
        self.start(origin, pool, worker, stake)
    }
}

const fn ready_session(account: AccountId) -> Session {
    Session {
        account,
        state: SessionState::Ready,
        ve: 0,
        v: 0,
        v_updated_at: 0,
        p_init: 0,
        p_instant: 0,
        iterations: 0,
        working_start_time: 0,
        challenge_time_last: 0,
        cool_down_start: 0,
        total_reward: 0,
        stake: None,
    }
}
