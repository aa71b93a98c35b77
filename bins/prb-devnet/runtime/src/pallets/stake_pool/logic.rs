//! Implements the calls of `PhalaStakePoolv2`, also for callers within the runtime.
//!
//! The order of the checks is the real pallet's: it decides the error if several fail.

use frame_support::{
    ensure,
    pallet_prelude::{DispatchError, DispatchResult},
    traits::Get,
};

use super::pallet::{Config, Error, Event, Pallet, WorkerAssignments};
use crate::{
    pallets::{base_pool, computation, wrapped_balances},
    types::{AccountId, PoolProxy, StakePool, WorkerPublicKey, WorkerState, session_account},
};

impl<T: Config> Pallet<T> {
    pub(super) fn owned_pool(pid: u64, owner: &AccountId) -> Result<StakePool, DispatchError> {
        let pool = base_pool::Pallet::<T>::stake_pool(pid)?;
        ensure!(&pool.basepool.owner == owner, Error::<T>::UnauthorizedPoolOwner);
        Ok(pool)
    }

    pub(super) fn start(owner: &AccountId, pid: u64, worker: WorkerPublicKey, stake: u128) -> DispatchResult {
        let pool = Self::owned_pool(pid, owner)?;
        let free = base_pool::Pallet::<T>::free_stake(&pool.basepool);
        ensure!(free >= stake, Error::<T>::InsufficientFreeStake);
        ensure!(pool.workers.contains(&worker), Error::<T>::WorkerDoesNotExist);
        computation::Pallet::<T>::start(&session_account(pid, &worker), stake)?;
        let (from, to) = (&pool.basepool.pool_account_id, &pool.lock_account);
        // A pool holds its free stake in one account and that of its workers in another.
        wrapped_balances::Pallet::<T>::transfer(from, to, stake)?;
        Self::deposit_event(Event::WorkingStarted { pid, worker, amount: stake });
        Ok(())
    }

    pub(super) fn stop(owner: &AccountId, pid: u64, worker: WorkerPublicKey) -> DispatchResult {
        let mut pool = Self::owned_pool(pid, owner)?;
        ensure!(pool.workers.contains(&worker), Error::<T>::WorkerDoesNotExist);
        ensure!(!pool.cd_workers.contains(&worker), Error::<T>::WorkerAlreadyStopped);
        computation::Pallet::<T>::stop(&session_account(pid, &worker))?;
        pool.cd_workers.push(worker);
        base_pool::Pallet::<T>::put(pool);
        Ok(())
    }

    /// Ends a worker's cool-down; its stake becomes free, and pays queued withdrawals.
    pub(super) fn reclaim(pid: u64, worker: WorkerPublicKey, check: bool) -> Result<u128, DispatchError> {
        let amount = computation::Pallet::<T>::reclaim(&session_account(pid, &worker), check)?;
        let mut pool = base_pool::Pallet::<T>::stake_pool(pid)?;
        let (from, to) = (&pool.lock_account, &pool.basepool.pool_account_id);
        wrapped_balances::Pallet::<T>::transfer(from, to, amount)?;
        base_pool::Pallet::<T>::process_withdrawals(&mut pool.basepool);
        // It stays in `workers`: it can be started again at once.
        pool.cd_workers.retain(|other| other != &worker);
        base_pool::Pallet::<T>::put(pool);
        Self::deposit_event(Event::WorkerReclaimed { pid, worker });
        Ok(amount)
    }

    pub(super) fn remove(pid: u64, worker: WorkerPublicKey) -> DispatchResult {
        let assigned = WorkerAssignments::<T>::get(worker).ok_or(Error::<T>::WorkerDoesNotExist)?;
        ensure!(assigned == pid, Error::<T>::WorkerInAnotherPool);
        let session = session_account(pid, &worker);
        let info = computation::Sessions::<T>::get(&session).ok_or(Error::<T>::SessionDoesNotExist)?;
        ensure!(info.state == WorkerState::Ready, Error::<T>::WorkerIsNotReady);
        computation::Pallet::<T>::unbind_session(&session)?;
        Self::forget(&worker);
        Ok(())
    }

    /// Removes a worker from the list of its pool.
    pub fn forget(worker: &WorkerPublicKey) {
        let Some(pid) = WorkerAssignments::<T>::take(worker) else { return };
        base_pool::Pools::<T>::mutate(pid, |pool| {
            if let Some(PoolProxy::StakePool(pool)) = pool {
                pool.workers.retain(|other| other != worker);
            }
        });
        Self::deposit_event(Event::PoolWorkerRemoved { pid, worker: *worker });
    }

    pub(super) fn force_withdraw(pid: u64) -> DispatchResult {
        let mut pool = base_pool::Pallet::<T>::stake_pool(pid)?;
        base_pool::Pallet::<T>::process_withdrawals(&mut pool.basepool);
        let session = |worker: &WorkerPublicKey| session_account(pid, worker);
        let stake = |worker| computation::Stakes::<T>::get(session(worker)).unwrap_or_default();
        let releasing = pool.cd_workers.iter().map(stake).fold(0, u128::saturating_add);
        // Stored before `stop`, which reads and writes the pool itself.
        base_pool::Pallet::<T>::put(pool.clone());
        let grace = T::GracePeriod::get();
        if !base_pool::Pallet::<T>::has_expired_withdrawal(&pool.basepool, grace, releasing) {
            return Ok(());
        }
        for worker in &pool.workers {
            let info = computation::Sessions::<T>::get(session(worker));
            let computes = info.is_some_and(|info| info.state.is_computing());
            if computes && !pool.cd_workers.contains(worker) {
                Self::stop(&pool.basepool.owner, pid, *worker)?;
                Self::deposit_event(Event::WorkingStopped { pid, worker: *worker });
            }
        }
        Ok(())
    }

    /// Returns the contributor: the caller, or the vault that it owns.
    pub(super) fn contributor(who: AccountId, as_vault: Option<u64>) -> Result<AccountId, DispatchError> {
        let Some(pid) = as_vault else { return Ok(who) };
        let vault = match base_pool::Pools::<T>::get(pid) {
            Some(PoolProxy::Vault(vault)) => vault.basepool,
            Some(PoolProxy::StakePool(_)) => return Err(base_pool::Error::<T>::PoolTypeNotMatch.into()),
            None => return Err(base_pool::Error::<T>::PoolDoesNotExist.into()),
        };
        ensure!(vault.owner == who, Error::<T>::UnauthorizedPoolOwner);
        Ok(vault.pool_account_id)
    }

    pub(crate) fn add_stake(
        pid: u64,
        user: &AccountId,
        amount: u128,
        as_vault: Option<u64>,
    ) -> DispatchResult {
        let mut pool = base_pool::Pallet::<T>::stake_pool(pid)?;
        ensure!(amount >= T::MinContribution::get(), Error::<T>::InsufficientContribution);
        let held = wrapped_balances::Pallet::<T>::balance(user);
        ensure!(held >= amount, Error::<T>::InsufficientBalance);
        // Before the cap is checked: FRAME rolls back what a failed call has changed.
        base_pool::Pallet::<T>::contribute(&mut pool.basepool, user, amount)?;
        let fits = pool.cap.is_none_or(|cap| pool.basepool.total_value <= cap);
        ensure!(fits, Error::<T>::StakeExceedsCapacity);
        base_pool::Pallet::<T>::put(pool);
        let user = user.clone();
        // As many shares: the pools of a devnet earn nothing, so a share is always worth what was paid for it.
        Self::deposit_event(Event::Contribution { pid, user, amount, shares: amount, as_vault });
        Ok(())
    }

    pub(crate) fn take_stake(
        pid: u64,
        user: &AccountId,
        shares: u128,
        as_vault: Option<u64>,
    ) -> DispatchResult {
        let mut pool = base_pool::Pallet::<T>::stake_pool(pid)?;
        ensure!(shares > 0, Error::<T>::InvalidWithdrawalAmount);
        base_pool::Pallet::<T>::withdraw(&mut pool.basepool, user, shares, as_vault)
            .map_err(|_| Error::<T>::InvalidWithdrawalAmount)?;
        base_pool::Pallet::<T>::put(pool);
        Ok(())
    }
}
