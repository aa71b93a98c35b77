//! The on-chain state of workers, pools and accounts at one finalised block.

use std::{collections::HashMap, sync::Arc};

use codec::{Decode, Encode};
use serde::Serialize;

use crate::{
    primitives::{AccountId, Balance, Hash, ParaNumber, PoolId, WorkerKey},
    wire::{AttestationProvider, MessageOrigin, WorkerRegistrationInfo},
};

use super::{Followed, StakeRules};

/// State of a worker's computing session (`PhalaComputation::Sessions`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode, Serialize)]
pub enum SessionState {
    /// Bound to a pool, but not started.
    #[codec(index = 0)]
    Ready,
    /// Computing.
    #[codec(index = 1)]
    WorkerIdle,
    // Index 2 is unused in the pallet.
    /// Computing, but its heartbeats are missing.
    #[codec(index = 3)]
    WorkerUnresponsive,
    /// Stopped; its stake is locked until the cool-down is over.
    #[codec(index = 4)]
    WorkerCoolingDown,
}

impl SessionState {
    /// Whether the session counts as computing.
    pub const fn is_computing(self) -> bool {
        matches!(self, Self::WorkerIdle | Self::WorkerUnresponsive)
    }
}

/// A worker's entry in the registry (`PhalaRegistry::Workers`).
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Registration {
    /// The worker.
    pub pubkey: WorkerKey,
    /// Its key for encrypted messages.
    pub ecdh_pubkey: [u8; 32],
    /// pRuntime's version, packed.
    pub runtime_version: u32,
    /// Time of the last registration, in seconds since the Unix epoch.
    pub last_updated: u64,
    /// The account that may add it to a pool.
    pub operator: Option<AccountId>,
    /// The attestation provider that vouched for it.
    pub attestation_provider: Option<AttestationProvider>,
    /// Confidence level; 1 is the highest.
    pub confidence_level: u8,
    /// Benchmark score, once there is one.
    pub initial_score: Option<u32>,
    /// Feature numbers.
    pub features: Vec<u32>,
}

/// A worker's session and stake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// The session's account.
    pub account: AccountId,
    /// Its state.
    pub state: SessionState,
    /// Initial value, U64F64 bits.
    pub ve: u128,
    /// Value, U64F64 bits.
    pub v: u128,
    /// When V was last updated, in seconds since the Unix epoch.
    pub v_updated_at: u64,
    /// Initial performance.
    pub p_init: u32,
    /// Current performance.
    pub p_instant: u32,
    /// Iterations reported.
    pub iterations: u64,
    /// Start of computing, in seconds since the Unix epoch.
    pub working_start_time: u64,
    /// Time of the last answered challenge, in seconds since the Unix epoch.
    pub challenge_time_last: u64,
    /// Start of the cool-down, in seconds since the Unix epoch.
    pub cool_down_start: u64,
    /// Rewards so far.
    pub total_reward: Balance,
    /// Locked stake.
    pub stake: Option<Balance>,
}

/// The account of a worker's session in a pool: the first 32 bytes of SCALE `("spm/", blake2-256(pid,
/// worker))`, as derived by the stake pool pallet.
pub fn session_account(pool: PoolId, worker: WorkerKey) -> AccountId {
    let mut bytes = [0; 32];
    bytes[..4].copy_from_slice(b"spm/");
    bytes[4..].copy_from_slice(&Hash::of(&(pool.0, worker).encode()).0[..28]);
    AccountId(bytes)
}

impl Registration {
    /// Creates the entry of a worker with confidence level 1 that was registered without attestation and has no
    /// score yet; all other fields are zero or empty.
    pub const fn new(pubkey: WorkerKey, operator: AccountId) -> Self {
        Self {
            pubkey,
            ecdh_pubkey: [0; 32],
            runtime_version: 0,
            last_updated: 0,
            operator: Some(operator),
            attestation_provider: None,
            confidence_level: 1,
            initial_score: None,
            features: Vec::new(),
        }
    }

    /// Whether [`Call::RegisterWorkerV1`](super::Call::RegisterWorkerV1) has taken effect.
    pub fn is_of_v1(&self, runtime_info: &[u8], replaces: Option<u64>) -> bool {
        if replaces.is_some() {
            return replaces != Some(self.last_updated);
        }
        // Jobs of the original do not name what they replace, so the registration is compared with what the
        // call would write.
        let Ok(info) = WorkerRegistrationInfo::decode(&mut &*runtime_info) else { return false };
        self.ecdh_pubkey == info.ecdh_pubkey
            && self.runtime_version == info.version
            && self.operator == info.operator
            && self.features == info.features
            && self.attestation_provider == Some(AttestationProvider::Ias)
    }
}

/// The on-chain state of one worker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WorkerOnChain {
    /// Its registration.
    pub registration: Option<Registration>,
    /// The pool that it is assigned to (`PhalaStakePoolv2::WorkerAssignments`).
    pub pool: Option<PoolId>,
    /// Its session.
    pub session: Option<Session>,
    /// The next message sequence that the chain accepts from it.
    pub ingress_sequence: u64,
    /// The endpoints that it announced (`PhalaRegistry::Endpoints`); empty if none.
    pub endpoints: Vec<String>,
    /// Why `endpoints` is empty although some may have been announced: the value cannot be read, or the
    /// runtime has no such storage. The rest of the worker's state does not depend on it.
    pub endpoints_unreadable: Option<Unreadable>,
}

impl WorkerOnChain {
    /// The stake that its session locks, while it computes and while it cools down.
    pub fn at_stake(&self) -> Balance {
        self.session.as_ref().and_then(|session| session.stake).unwrap_or(0)
    }
}

/// A withdrawal waiting for free stake (`BasePool::withdraw_queue`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Withdrawal {
    /// When it was requested, in seconds since the Unix epoch.
    pub start_time: u64,
}

/// The on-chain state of a stake pool (`PhalaBasePool::Pools` and the balances of its accounts). Source:
/// `BasePool` and `StakePool` of Phala's pallets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct PoolOnChain {
    /// The account that owns it.
    pub owner: AccountId,
    /// Whether it is a vault, which takes no workers.
    pub is_vault: bool,
    /// Stake available to new sessions: the balance of the wrapped asset on its account.
    pub free_stake: Balance,
    /// Stake of workers that are cooling down.
    pub releasing_stake: Balance,
    /// Total value, in use or not.
    pub total_value: Balance,
    /// Maximum that it accepts in contributions; `None` for no limit.
    pub cap: Option<Balance>,
    /// The owner's share of the rewards, in millionths.
    pub commission_millionths: Option<u32>,
    /// Its workers, including those that are cooling down.
    pub workers: Vec<WorkerKey>,
    /// Workers that are cooling down.
    pub cooling_down: Vec<WorkerKey>,
    /// Withdrawals waiting for free stake, oldest first.
    pub withdrawals: Vec<Withdrawal>,
}

impl PoolOnChain {
    /// Whether it accepts no further worker, given [`ChainView::max_pool_workers`]; false without that
    /// limit.
    pub fn is_full(&self, max_workers: Option<u32>) -> bool {
        max_workers.is_some_and(|max| self.workers.len() as u64 >= u64::from(max))
    }

    /// From when on anybody may stop its workers, in seconds since the Unix epoch: when its oldest withdrawal
    /// has waited for [`ChainView::withdrawal_grace_secs`]. `None` without withdrawals, or if the chain has
    /// no such constant.
    pub fn forced_to_stop_at(&self, grace_secs: Option<u64>) -> Option<u64> {
        let oldest = self.withdrawals.iter().map(|withdrawal| withdrawal.start_time).min()?;
        Some(oldest.saturating_add(grace_secs?))
    }
}

/// The on-chain state of an account (`System::Account`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct AccountOnChain {
    /// The balance that it can pay fees from, without frozen funds.
    pub free: Balance,
}

/// A value that a reader cannot provide.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Unreadable {
    /// The reason, for operators.
    pub reason: Arc<str>,
}

impl Unreadable {
    /// Creates the marker with its reason.
    pub fn new(reason: impl Into<Arc<str>>) -> Self {
        Self { reason: reason.into() }
    }
}

/// A value read from the chain, or why it could not be.
pub type Reading<T> = Result<Arc<T>, Unreadable>;

/// The state of the followed subjects at one finalised parachain block.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct ChainView {
    /// The block.
    pub block: ParaNumber,
    /// Its hash.
    pub hash: Hash,
    /// The chain's clock at that block, in milliseconds since the Unix epoch (`Timestamp::Now`).
    pub time_ms: u64,
    /// Seconds for which a stopped worker's stake stays locked.
    pub cool_down_period_secs: u64,
    /// Duration of a benchmark, in blocks.
    pub benchmark_blocks: u32,
    /// Maximum number of workers in a pool, if the chain has a limit (`PhalaStakePoolv2::MaxPoolWorkers`).
    pub max_pool_workers: Option<u32>,
    /// Seconds after which a waiting withdrawal lets anybody stop the pool's workers
    /// (`PhalaStakePoolv2::GracePeriod`).
    pub withdrawal_grace_secs: Option<u64>,
    /// The stake limits, if the chain has them.
    pub stake_rules: Option<StakeRules>,
    /// Chain-wide items that cannot be read: the corresponding fields above have a default instead of the
    /// chain's value.
    pub unreadable: Vec<Unreadable>,
    /// State by worker; a worker unknown to the chain has an empty entry.
    pub workers: HashMap<WorkerKey, Reading<WorkerOnChain>>,
    /// State by pool; `None` if the chain has no such pool.
    pub pools: HashMap<PoolId, Reading<Option<PoolOnChain>>>,
    /// State by account.
    pub accounts: HashMap<AccountId, Reading<AccountOnChain>>,
    /// The next message sequence that the chain accepts, by sender (see
    /// [`Followed::senders`](super::Followed)).
    pub senders: HashMap<MessageOrigin, Reading<u64>>,
}

impl ChainView {
    /// Removes subjects that are not in the set: for readers whose set was replaced while they read.
    pub fn retain(&mut self, followed: &Followed) {
        self.workers.retain(|worker, _| followed.workers.contains(worker));
        self.pools.retain(|pool, _| followed.pools.contains(pool));
        self.accounts.retain(|account, _| followed.accounts.contains(account));
        self.senders.retain(|sender, _| followed.senders.contains(sender));
    }
}
