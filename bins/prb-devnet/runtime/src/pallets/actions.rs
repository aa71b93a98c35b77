//! External actions: what other accounts, the gatekeepers, governance or a migration do to the chain, for
//! tests that need it in the next block.

use codec::{Decode, DecodeWithMemTracking, Encode};
use frame_support::pallet_prelude::{DispatchError, DispatchResult};
use scale_info::TypeInfo;
use sp_core::{H256, sr25519};

use super::{base_pool, computation, registry, stake_pool, wrapped_balances};
use crate::types::{AccountId, TokenomicParameters, WorkerPublicKey};

/// An action in a block besides its extrinsics.
#[derive(Encode, Decode, DecodeWithMemTracking, TypeInfo, Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Action {
    /// An account makes a pool call.
    Call {
        /// The account.
        who: AccountId,
        /// The pool.
        pid: u64,
        /// The call.
        call: PoolCall,
    },
    /// An account receives the amount of the wrapped asset and contributes it.
    Contribute {
        /// The pool.
        pid: u64,
        /// The account.
        who: AccountId,
        /// The amount.
        amount: u128,
    },
    /// An account withdraws a contribution; it is queued if the pool's free stake does not suffice.
    Withdraw {
        /// The pool.
        pid: u64,
        /// The account. At genesis a pool's owner holds the shares of its stake.
        who: AccountId,
        /// The shares.
        shares: u128,
    },
    /// A pool is given to another owner.
    SetPoolOwner {
        /// The pool.
        pid: u64,
        /// Its new owner.
        owner: AccountId,
    },
    /// A stake pool is created.
    CreateStakePool {
        /// Its number.
        pid: u64,
        /// Its owner.
        owner: AccountId,
        /// Its free stake.
        free_stake: u128,
    },
    /// A vault is created.
    CreateVault {
        /// Its number.
        pid: u64,
        /// Its owner.
        owner: AccountId,
    },
    /// Removes the pool assignment of a worker, or of all workers: sessions stay unchanged. A migration of Khala
    /// did that.
    DeleteAssignment {
        /// The worker.
        worker: Option<WorkerPublicKey>,
    },
    /// A worker gets another score, as after a benchmark.
    SetScore {
        /// The worker.
        worker: WorkerPublicKey,
        /// Its score; `None` as before the first benchmark.
        score: Option<u32>,
    },
    /// A worker gets another attestation tier.
    SetConfidenceLevel {
        /// The worker.
        worker: WorkerPublicKey,
        /// The tier.
        level: u8,
    },
    /// Replaces the gatekeepers.
    SetGatekeepers(Vec<WorkerPublicKey>),
    /// Changes the signing key of the gatekeepers, a cluster or a contract.
    SetSenderKey {
        /// The sender.
        sender: Sender,
        /// The key.
        key: sr25519::Public,
    },
    /// Makes workers of an older version exit.
    SetMinimumPRuntimeVersion(u32, u32, u32),
    /// Refuses registrations of workers that do not know this consensus version.
    SetConsensusVersion(u32),
    /// Sets the programs that may run in workers.
    SetPRuntimes(Vec<Vec<u8>>),
    /// Sets whether workers without an attestation, and reports of the retired service, are accepted.
    SetAttestation {
        /// Whether workers without an attestation are accepted.
        none: bool,
        /// Whether reports of the retired service are accepted.
        ias: bool,
    },
    /// Changes the tokenomic parameters.
    SetTokenomics(TokenomicParameters),
    /// Changes the cool-down period, in seconds.
    SetCoolDown(u64),
    /// Sets or removes a value in the state.
    SetStorage {
        /// Its key.
        key: Vec<u8>,
        /// Its value.
        value: Option<Vec<u8>>,
    },
}

/// A message sender other than a worker.
#[derive(Encode, Decode, DecodeWithMemTracking, TypeInfo, Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sender {
    /// The gatekeepers.
    Gatekeeper,
    /// A cluster.
    Cluster(H256),
    /// A contract.
    Contract(H256),
}

/// A call of a stake pool.
#[derive(Encode, Decode, DecodeWithMemTracking, TypeInfo, Clone, PartialEq, Eq, Debug)]
pub enum PoolCall {
    /// `add_worker`.
    Add(WorkerPublicKey),
    /// `remove_worker`.
    Remove(WorkerPublicKey),
    /// `start_computing` with a stake.
    Start(WorkerPublicKey, u128),
    /// `stop_computing`.
    Stop(WorkerPublicKey),
    /// `restart_computing` with a stake.
    Restart(WorkerPublicKey, u128),
    /// `reclaim_pool_worker`.
    Reclaim(WorkerPublicKey),
    /// `set_cap`.
    SetCap(u128),
    /// `check_and_maybe_force_withdraw`.
    ForceWithdraw,
}

/// Carries out the action.
///
/// # Errors
/// Those of the calls; [`DispatchError::CannotLookup`] for an unknown worker.
pub fn apply<T: stake_pool::Config>(action: Action) -> DispatchResult {
    match action {
        Action::Call { who, pid, call } => return call_pool::<T>(who, pid, call),
        Action::Contribute { pid, who, amount } => {
            // Minted, so that a test needs no account that has the amount.
            wrapped_balances::Pallet::<T>::mint(&who, amount);
            return stake_pool::Pallet::<T>::add_stake(pid, &who, amount, None);
        }
        Action::Withdraw { pid, who, shares } => {
            return stake_pool::Pallet::<T>::take_stake(pid, &who, shares, None);
        }
        Action::SetPoolOwner { pid, owner } => {
            return base_pool::Pools::<T>::try_mutate(pid, |pool| {
                let pool = pool.as_mut().ok_or(base_pool::Error::<T>::PoolDoesNotExist)?;
                pool.base_mut().owner = owner;
                Ok(())
            });
        }
        Action::CreateStakePool { pid, owner, free_stake } => {
            base_pool::Pallet::<T>::create_stake_pool(pid, &owner, free_stake);
        }
        Action::CreateVault { pid, owner } => base_pool::Pallet::<T>::create_vault(pid, &owner),
        Action::DeleteAssignment { worker: Some(worker) } => {
            stake_pool::WorkerAssignments::<T>::remove(worker);
        }
        Action::DeleteAssignment { worker: None } => {
            // As a migration that forgets the assignments; the pools still list their workers.
            stake_pool::WorkerAssignments::<T>::drain().for_each(drop);
        }
        Action::SetScore { worker, score } => {
            return change_worker::<T>(worker, |info| info.initial_score = score);
        }
        Action::SetConfidenceLevel { worker, level } => {
            return change_worker::<T>(worker, |info| info.confidence_level = level);
        }
        governed => govern::<T>(governed),
    }
    Ok(())
}

/// Carries out a decision of governance.
fn govern<T: stake_pool::Config>(action: Action) {
    match action {
        Action::SetGatekeepers(keys) => registry::Gatekeeper::<T>::put(keys),
        Action::SetSenderKey { sender: Sender::Gatekeeper, key } => {
            registry::GatekeeperMasterPubkey::<T>::put(key);
        }
        Action::SetSenderKey { sender: Sender::Cluster(id), key } => {
            registry::ClusterKeys::<T>::insert(id, key);
        }
        Action::SetSenderKey { sender: Sender::Contract(id), key } => {
            registry::ContractKeys::<T>::insert(id, key);
        }
        Action::SetMinimumPRuntimeVersion(major, minor, patch) => {
            registry::MinimumPRuntimeVersion::<T>::put((major, minor, patch));
        }
        Action::SetConsensusVersion(version) => registry::PRuntimeConsensusVersion::<T>::put(version),
        Action::SetPRuntimes(hashes) => registry::PRuntimeAllowList::<T>::put(hashes),
        Action::SetAttestation { none, ias } => {
            registry::NoneAttestationEnabled::<T>::put(none);
            registry::IasAttestationEnabled::<T>::put(ias);
        }
        Action::SetTokenomics(rules) => computation::TokenomicParameters::<T>::put(rules),
        Action::SetCoolDown(seconds) => computation::CoolDownPeriod::<T>::put(seconds),
        Action::SetStorage { key, value: Some(value) } => sp_io::storage::set(&key, &value),
        Action::SetStorage { key, value: None } => sp_io::storage::clear(&key),
        // `apply` handles the others; a forgotten one fails in the first test that uses it.
        other => unreachable!("{other:?} is no decision of governance"),
    }
}

fn call_pool<T: stake_pool::Config>(who: AccountId, pid: u64, call: PoolCall) -> DispatchResult {
    use stake_pool::Pallet as Pools;
    // The calls themselves, so that an external caller passes the same checks as a bridge.
    let origin = frame_system::RawOrigin::Signed(who).into();
    match call {
        PoolCall::Add(worker) => Pools::<T>::add_worker(origin, pid, worker),
        PoolCall::Remove(worker) => Pools::<T>::remove_worker(origin, pid, worker),
        PoolCall::Start(worker, stake) => Pools::<T>::start_computing(origin, pid, worker, stake),
        PoolCall::Stop(worker) => Pools::<T>::stop_computing(origin, pid, worker),
        PoolCall::Restart(worker, stake) => Pools::<T>::restart_computing(origin, pid, worker, stake),
        PoolCall::Reclaim(worker) => Pools::<T>::reclaim_pool_worker(origin, pid, worker),
        PoolCall::SetCap(cap) => Pools::<T>::set_cap(origin, pid, cap),
        PoolCall::ForceWithdraw => Pools::<T>::check_and_maybe_force_withdraw(origin, pid),
    }
}

fn change_worker<T: stake_pool::Config>(
    worker: WorkerPublicKey,
    change: impl FnOnce(&mut crate::types::WorkerInfoV2),
) -> DispatchResult {
    registry::Workers::<T>::try_mutate(worker, |info| {
        change(info.as_mut().ok_or(DispatchError::CannotLookup)?);
        Ok(())
    })
}
