//! Controls of a [`MemoryChain`] for tests: everything that happens on a chain without the bridge.

use super::{Event, Fault, MemoryChain, PoolState};
use crate::{
    chain::{PoolOnChain, Registration, SessionState, Unreadable, WorkerOnChain},
    primitives::{AccountId, Balance, ParaNumber, PoolId, WorkerKey},
    wire::MessageOrigin,
};

/// Set-up, and changes that do not come from the bridge. Views show them with the next block.
impl MemoryChain {
    /// Adds a stake pool, or sets the owner and the free stake of an existing one; its workers stay.
    pub fn add_pool(&self, pool: PoolId, owner: AccountId, free_stake: Balance) {
        let mut state = self.state();
        let state = state.model.pools.entry(pool).or_default();
        (state.owner, state.free_stake) = (owner, free_stake);
    }

    /// Makes `delegate` a proxy of `real`.
    pub fn set_proxy(&self, real: AccountId, delegate: AccountId) {
        self.state().model.proxies.insert((real, delegate));
    }

    /// Sets the balance from which `account` pays fees. An account that was never funded pays no fees, and
    /// shows the maximum balance.
    pub fn fund(&self, account: AccountId, units: Balance) {
        self.state().model.funds.insert(account, units);
    }

    /// Sets a registered worker's score, like the result of a benchmark.
    pub fn set_score(&self, worker: WorkerKey, score: u32) {
        let mut state = self.state();
        if let Some(registration) = state.model.workers.entry(worker).or_default().registration.as_mut() {
            registration.initial_score = Some(score);
        }
    }

    /// Sets the state of a worker's session, like missed or answered heartbeats.
    pub fn set_session_state(&self, worker: WorkerKey, to: SessionState) {
        let mut state = self.state();
        if let Some(session) = state.model.workers.entry(worker).or_default().session.as_mut() {
            session.state = to;
        }
    }

    /// Sets the next message sequence that is accepted from a worker.
    pub fn set_ingress(&self, worker: WorkerKey, next: u64) {
        *self.state().model.next_sequence(&MessageOrigin::Worker(worker)) = next;
    }

    /// Sets the next message sequence that is accepted from another sender.
    pub fn set_sender(&self, sender: &MessageOrigin, next: u64) {
        *self.state().model.next_sequence(sender) = next;
    }

    /// Registers a worker immediately, or removes its registration.
    pub fn set_registration(&self, worker: WorkerKey, registration: Option<Registration>) {
        self.state().model.workers.entry(worker).or_default().registration = registration;
    }

    /// Sets the endpoints that a worker announced.
    pub fn set_endpoints(&self, worker: WorkerKey, endpoints: Vec<String>) {
        self.state().model.workers.entry(worker).or_default().endpoints = endpoints;
    }

    /// Makes a pool a vault, which takes no workers.
    pub fn set_vault(&self, pool: PoolId, is_vault: bool) {
        self.pool_state(pool, |state| state.is_vault = is_vault);
    }

    /// Transfers a pool to another owner.
    pub fn set_pool_owner(&self, pool: PoolId, owner: AccountId) {
        self.pool_state(pool, |state| state.owner = owner);
    }

    /// Sets the maximum that a pool accepts in contributions.
    pub fn set_cap(&self, pool: PoolId, cap: Option<Balance>) {
        self.pool_state(pool, |state| state.cap = cap);
    }

    /// Contributes to a pool; waiting withdrawals are paid first.
    pub fn contribute(&self, pool: PoolId, units: Balance) {
        self.pool_state(pool, |state| state.contribute(units));
    }

    /// Withdraws from a pool; what exceeds the free stake waits.
    pub fn withdraw(&self, pool: PoolId, units: Balance) {
        let now = self.now_secs();
        self.pool_state(pool, |state| state.withdraw(units, now));
    }

    /// Stops a worker externally, as the pool's owner. Returns whether it was computing.
    pub fn stop_worker(&self, worker: WorkerKey) -> bool {
        let mut state = self.state();
        let pool = state.model.workers.get(&worker).and_then(|w| w.pool);
        pool.is_some_and(|pool| state.model.cool_down(pool, worker).is_ok())
    }

    /// Stops all workers of a pool, as anybody may once a withdrawal is past the grace period.
    pub fn force_stop(&self, pool: PoolId) {
        self.state().model.force_stop(pool);
    }

    /// Deletes a worker's assignment to its pool, like a migration of the chain; its session stays.
    pub fn delete_assignment(&self, worker: WorkerKey) {
        self.state().model.workers.entry(worker).or_default().pool = None;
    }

    /// Makes a worker's state unreadable, with this reason, or readable again.
    pub fn set_unreadable(&self, worker: WorkerKey, reason: Option<&str>) {
        let unreadable = &mut self.state().model.unreadable_workers;
        match reason {
            Some(reason) => drop(unreadable.insert(worker, Unreadable::new(reason))),
            None => drop(unreadable.remove(&worker)),
        }
    }

    /// Makes a pool's state unreadable, with this reason, or readable again.
    pub fn set_unreadable_pool(&self, pool: PoolId, reason: Option<&str>) {
        let unreadable = &mut self.state().model.unreadable_pools;
        match reason {
            Some(reason) => drop(unreadable.insert(pool, Unreadable::new(reason))),
            None => drop(unreadable.remove(&pool)),
        }
    }

    /// Advances the chain's clock.
    pub fn advance(&self, secs: u64) {
        self.state().model.ahead_secs += secs;
    }

    /// Closes the channel of views, like a reader that has stopped. Blocks are still produced.
    pub fn close_views(&self) {
        self.state().views = None;
    }

    /// Injects a fault into the next batch of `account` that has none yet.
    pub fn inject(&self, account: AccountId, fault: Fault) {
        self.state().faults.entry(account).or_default().push_back(fault);
    }

    /// While `hung`, calls for `account` block: neither are batches submitted nor effects read.
    pub fn hang(&self, account: AccountId, hung: bool) {
        let mut state = self.state();
        if hung {
            state.hung.insert(account);
        } else {
            state.hung.remove(&account);
        }
        drop(state);
        self.0.changed.notify_waiters();
    }

    /// The newest block.
    pub fn head(&self) -> ParaNumber {
        ParaNumber(self.state().model.block)
    }

    /// A worker's state at the newest block.
    pub fn worker(&self, worker: WorkerKey) -> WorkerOnChain {
        self.state().model.workers.get(&worker).cloned().unwrap_or_default()
    }

    /// A pool's free stake; `None` if there is no such pool.
    pub fn free_stake(&self, pool: PoolId) -> Option<Balance> {
        self.state().model.pools.get(&pool).map(|p| p.free_stake)
    }

    /// A pool's state at the newest block; `None` if there is no such pool.
    pub fn pool(&self, pool: PoolId) -> Option<PoolOnChain> {
        self.state().model.pool_on_chain(pool)
    }

    /// The chain's clock, in seconds since the Unix epoch.
    pub fn now_secs(&self) -> u64 {
        self.state().model.now_secs()
    }

    /// The number of pending transactions.
    pub fn pending(&self) -> usize {
        self.state().pending.len()
    }

    /// The executed calls, oldest first.
    pub fn events(&self) -> Vec<Event> {
        self.state().events.iter().cloned().collect()
    }

    fn pool_state(&self, pool: PoolId, change: impl FnOnce(&mut PoolState)) {
        if let Some(state) = self.state().model.pools.get_mut(&pool) {
            change(state);
        }
    }
}
