//! Where the chain keeps what it knows of workers, and how it is read.

use codec::{DecodeAll, Encode};
use prb_core::{
    chain::{Registration, SessionState},
    primitives::{AccountId, Balance, WorkerKey},
    wire::{self, MessageOrigin},
};
use scale_decode::DecodeAsType;

use crate::metadata::{Error, Item, Runtime};

/// Well-known key of the runtime's code.
const CODE: &[u8] = b":code";

/// The storage items that the reader follows.
#[derive(Clone, Debug)]
pub(super) struct Layout {
    registrations: Item,
    bindings: Item,
    ingress: Item,
    pools: Item,
    sessions: Item,
    stakes: Item,
    cool_down: Item,
    benchmark: Item,
    last_upgrade: Item,
}

/// What a storage key is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Subject {
    Worker(WorkerKey, WorkerItem),
    Session(AccountId, SessionItem),
    CoolDownPeriod,
    BenchmarkDuration,
    /// The runtime has changed, or has run for the first time: layouts may differ from here on.
    Runtime,
}

/// Items by worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WorkerItem {
    Registration,
    Binding,
    Ingress,
    Pool,
}

impl WorkerItem {
    pub(super) const ALL: [Self; 4] = [Self::Registration, Self::Binding, Self::Ingress, Self::Pool];
}

/// Items by session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SessionItem {
    Info,
    Stake,
}

impl SessionItem {
    pub(super) const ALL: [Self; 2] = [Self::Info, Self::Stake];
}

/// `PhalaRegistry::Workers`, field by field as the runtime names them.
#[derive(Debug, DecodeAsType)]
struct WorkerInfo {
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

#[derive(Debug, DecodeAsType)]
enum AttestationProvider {
    Root,
    Ias,
    Dcap,
}

/// `PhalaComputation::Sessions`.
#[derive(Clone, Debug, PartialEq, Eq, DecodeAsType)]
pub(super) struct SessionInfo {
    state: State,
    pub(super) ve: u128,
    pub(super) v: u128,
    pub(super) v_updated_at: u64,
    pub(super) benchmark: Benchmark,
    pub(super) cool_down_start: u64,
    pub(super) stats: Stats,
}

impl SessionInfo {
    pub(super) const fn state(&self) -> SessionState {
        match self.state {
            State::Ready => SessionState::Ready,
            State::WorkerIdle => SessionState::WorkerIdle,
            State::WorkerUnresponsive => SessionState::WorkerUnresponsive,
            State::WorkerCoolingDown => SessionState::WorkerCoolingDown,
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, DecodeAsType)]
enum State {
    Ready,
    WorkerIdle,
    WorkerUnresponsive,
    WorkerCoolingDown,
}

#[derive(Clone, Debug, PartialEq, Eq, DecodeAsType)]
pub(super) struct Benchmark {
    pub(super) p_init: u32,
    pub(super) p_instant: u32,
    pub(super) iterations: u64,
    pub(super) working_start_time: u64,
    pub(super) challenge_time_last: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, DecodeAsType)]
pub(super) struct Stats {
    pub(super) total_reward: Balance,
}

impl Layout {
    pub(super) fn new(runtime: &Runtime) -> Result<Self, Error> {
        Ok(Self {
            registrations: runtime.item("PhalaRegistry", "Workers")?,
            bindings: runtime.item("PhalaComputation", "WorkerBindings")?,
            ingress: runtime.item("PhalaMq", "OffchainIngress")?,
            pools: runtime.item("PhalaStakePoolv2", "WorkerAssignments")?,
            sessions: runtime.item("PhalaComputation", "Sessions")?,
            stakes: runtime.item("PhalaComputation", "Stakes")?,
            cool_down: runtime.item("PhalaComputation", "CoolDownPeriod")?,
            benchmark: runtime.item("PhalaRegistry", "BenchmarkDuration")?,
            last_upgrade: runtime.item("System", "LastRuntimeUpgrade")?,
        })
    }

    const fn worker_item(&self, item: WorkerItem) -> &Item {
        match item {
            WorkerItem::Registration => &self.registrations,
            WorkerItem::Binding => &self.bindings,
            WorkerItem::Ingress => &self.ingress,
            WorkerItem::Pool => &self.pools,
        }
    }

    const fn session_item(&self, item: SessionItem) -> &Item {
        match item {
            SessionItem::Info => &self.sessions,
            SessionItem::Stake => &self.stakes,
        }
    }

    /// The storage key of a subject.
    pub(super) fn key(&self, subject: Subject) -> Vec<u8> {
        match subject {
            Subject::Worker(worker, WorkerItem::Ingress) => {
                self.ingress.key(&MessageOrigin::Worker(worker).encode())
            }
            Subject::Worker(worker, item) => self.worker_item(item).key(&worker.0),
            Subject::Session(session, item) => self.session_item(item).key(&session.0),
            Subject::CoolDownPeriod => self.cool_down.key(&[]),
            Subject::BenchmarkDuration => self.benchmark.key(&[]),
            Subject::Runtime => CODE.to_vec(),
        }
    }

    /// What a storage key is about, `None` where the reader does not care.
    pub(super) fn subject(&self, key: &[u8]) -> Option<Subject> {
        if key == CODE || key == self.last_upgrade.prefix() {
            return Some(Subject::Runtime);
        }
        if key == self.cool_down.prefix() {
            return Some(Subject::CoolDownPeriod);
        }
        if key == self.benchmark.prefix() {
            return Some(Subject::BenchmarkDuration);
        }
        for item in WorkerItem::ALL {
            if let Some(encoded) = self.worker_item(item).map_key(key) {
                let worker = match item {
                    WorkerItem::Ingress => match MessageOrigin::decode_all(&mut &*encoded).ok()? {
                        MessageOrigin::Worker(worker) => worker,
                        _ => return None,
                    },
                    _ => WorkerKey(encoded.try_into().ok()?),
                };
                return Some(Subject::Worker(worker, item));
            }
        }
        SessionItem::ALL.into_iter().find_map(|item| {
            let session = self.session_item(item).map_key(key)?;
            Some(Subject::Session(AccountId(session.try_into().ok()?), item))
        })
    }

    pub(super) fn registration(&self, value: Option<&[u8]>) -> Result<Option<Registration>, Error> {
        let info: Option<WorkerInfo> = self.registrations.read(value)?;
        Ok(info.map(|info| Registration {
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
        }))
    }

    pub(super) fn binding(&self, value: Option<&[u8]>) -> Result<Option<AccountId>, Error> {
        Ok(self.bindings.read::<[u8; 32]>(value)?.map(AccountId))
    }

    pub(super) fn ingress(&self, value: Option<&[u8]>) -> Result<u64, Error> {
        Ok(self.ingress.read(value)?.unwrap_or(0))
    }

    pub(super) fn pool(&self, value: Option<&[u8]>) -> Result<Option<u64>, Error> {
        self.pools.read(value)
    }

    pub(super) fn session(&self, value: Option<&[u8]>) -> Result<Option<SessionInfo>, Error> {
        self.sessions.read(value)
    }

    pub(super) fn stake(&self, value: Option<&[u8]>) -> Result<Option<Balance>, Error> {
        self.stakes.read(value)
    }

    pub(super) fn cool_down_period(&self, value: Option<&[u8]>) -> Result<u64, Error> {
        Ok(self.cool_down.read(value)?.unwrap_or(0))
    }

    pub(super) fn benchmark_duration(&self, value: Option<&[u8]>) -> Result<u32, Error> {
        Ok(self.benchmark.read(value)?.unwrap_or(0))
    }
}
