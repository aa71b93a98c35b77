//! Types of the values, decoded field by field by name: additional fields and another order do not matter.

use prb_core::{
    chain::{Registration, Session, SessionState, Withdrawal},
    primitives::{AccountId, Balance, WorkerKey},
    wire,
};
use scale_decode::DecodeAsType;

/// `PhalaRegistry::Workers`.
#[derive(Debug, DecodeAsType)]
pub(super) struct WorkerInfo {
    pubkey: [u8; 32],
    ecdh_pubkey: [u8; 32],
    runtime_version: u32,
    last_updated: u64,
    operator: Option<[u8; 32]>,
    attestation_provider: Option<AttestationProvider>,
    confidence_level: u8,
    initial_score: Option<u32>,
    features: Vec<u32>,
}

// A new variant makes the value unreadable, which is shown; a wrong guess would not be.
#[derive(Debug, DecodeAsType)]
enum AttestationProvider {
    Root,
    Ias,
    Dcap,
}

impl From<WorkerInfo> for Registration {
    fn from(info: WorkerInfo) -> Self {
        Self {
            pubkey: WorkerKey(info.pubkey),
            ecdh_pubkey: info.ecdh_pubkey,
            runtime_version: info.runtime_version,
            last_updated: info.last_updated,
            operator: info.operator.map(AccountId),
            attestation_provider: info.attestation_provider.map(|provider| match provider {
                AttestationProvider::Root => wire::AttestationProvider::Root,
                AttestationProvider::Ias => wire::AttestationProvider::Ias,
                AttestationProvider::Dcap => wire::AttestationProvider::Dcap,
            }),
            confidence_level: info.confidence_level,
            initial_score: info.initial_score,
            features: info.features,
        }
    }
}

/// `PhalaRegistry::Endpoints`.
#[derive(Debug, DecodeAsType)]
pub(super) enum Endpoints {
    V1(Vec<String>),
}

/// `PhalaComputation::Sessions`.
#[derive(Clone, Debug, PartialEq, Eq, DecodeAsType)]
pub(super) struct SessionInfo {
    state: State,
    ve: u128,
    v: u128,
    v_updated_at: u64,
    benchmark: Benchmark,
    cool_down_start: u64,
    stats: Stats,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, DecodeAsType)]
enum State {
    Ready,
    WorkerIdle,
    WorkerUnresponsive,
    WorkerCoolingDown,
}

#[derive(Clone, Debug, PartialEq, Eq, DecodeAsType)]
struct Benchmark {
    p_init: u32,
    p_instant: u32,
    iterations: u64,
    working_start_time: u64,
    challenge_time_last: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, DecodeAsType)]
struct Stats {
    total_reward: Balance,
}

impl SessionInfo {
    pub(super) fn with(self, account: AccountId, stake: Option<Balance>) -> Session {
        Session {
            account,
            state: match self.state {
                State::Ready => SessionState::Ready,
                State::WorkerIdle => SessionState::WorkerIdle,
                State::WorkerUnresponsive => SessionState::WorkerUnresponsive,
                State::WorkerCoolingDown => SessionState::WorkerCoolingDown,
            },
            ve: self.ve,
            v: self.v,
            v_updated_at: self.v_updated_at,
            p_init: self.benchmark.p_init,
            p_instant: self.benchmark.p_instant,
            iterations: self.benchmark.iterations,
            working_start_time: self.benchmark.working_start_time,
            challenge_time_last: self.benchmark.challenge_time_last,
            cool_down_start: self.cool_down_start,
            total_reward: self.stats.total_reward,
            stake,
        }
    }
}

/// `PhalaBasePool::Pools`.
#[derive(Debug, DecodeAsType)]
pub(super) enum PoolProxy {
    StakePool(StakePool),
    Vault(Vault),
}

#[derive(Debug, DecodeAsType)]
pub(super) struct StakePool {
    pub(super) basepool: BasePool,
    /// `Permill`.
    pub(super) payout_commission: Option<u32>,
    pub(super) cap: Option<Balance>,
    pub(super) workers: Vec<[u8; 32]>,
    pub(super) cd_workers: Vec<[u8; 32]>,
}

#[derive(Debug, DecodeAsType)]
pub(super) struct Vault {
    pub(super) basepool: BasePool,
    /// `Permill`.
    pub(super) commission: Option<u32>,
}

#[derive(Debug, DecodeAsType)]
pub(super) struct BasePool {
    pub(super) owner: [u8; 32],
    pub(super) total_value: Balance,
    withdraw_queue: Vec<WithdrawInfo>,
    pub(super) pool_account_id: [u8; 32],
}

#[derive(Debug, DecodeAsType)]
struct WithdrawInfo {
    start_time: u64,
}

impl PoolProxy {
    pub(super) const fn basepool(&self) -> &BasePool {
        match self {
            Self::StakePool(pool) => &pool.basepool,
            Self::Vault(vault) => &vault.basepool,
        }
    }
}

impl BasePool {
    /// Withdrawals, oldest first, whatever order the runtime keeps them in.
    pub(super) fn withdrawals(&self) -> Vec<Withdrawal> {
        let mut times: Vec<_> = self.withdraw_queue.iter().map(|waiting| waiting.start_time).collect();
        // The grace period of the oldest one decides whether the pool is locked.
        times.sort_unstable();
        times.into_iter().map(|start_time| Withdrawal { start_time }).collect()
    }
}

/// `Assets::Account`.
#[derive(Debug, DecodeAsType)]
pub(super) struct AssetAccount {
    pub(super) balance: Balance,
}

/// `PhalaComputation::TokenomicParameters`.
#[derive(Debug, DecodeAsType)]
pub(super) struct Tokenomics {
    pub(super) k: u128,
    pub(super) v_max: u128,
    pub(super) re: u128,
    pub(super) rig_k: u128,
    pub(super) rig_b: u128,
}
