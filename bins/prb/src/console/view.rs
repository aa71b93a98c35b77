//! What the console shows of a fleet, whichever backend it comes from: workers, pools, heights.
//!
//! A field is `None` where the backend does not know it: a manager among peers says less than one in this process.

use std::{sync::Arc, time::SystemTime};

use prb_core::{
    blob::Heights,
    chain::{AccountOnChain, PoolOnChain, Reading, Session, SessionState, WorkerOnChain},
    inventory::{self, AfterExternalStop, Goal},
    primitives::{AccountId, Balance, WorkerKey},
    prpc::PhactoryInfo,
    queue::Stats,
    worker::{Checkpoint, State, WorkerStatus},
};
use uuid::Uuid;

use crate::version;

/// A worker.
#[derive(Clone, Debug)]
pub struct WorkerView {
    /// Its entry.
    pub entry: Arc<inventory::Worker>,
    /// Its label.
    pub state: State,
    /// The code of the reason.
    pub reason: Option<&'static str>,
    /// The reason in words.
    pub message: Arc<str>,
    /// Since when.
    pub message_at: Option<SystemTime>,
    /// Newest relay header that it has.
    pub relay_header: Option<u32>,
    /// Newest parachain header that it has.
    pub para_header: Option<u32>,
    /// Newest parachain block that it has dispatched.
    pub para_block: Option<u32>,
    /// Finalised parachain blocks that it has not dispatched.
    pub lag: Option<u32>,
    /// Its public key.
    pub key: Option<WorkerKey>,
    /// What pRuntime says of itself.
    pub info: Option<Arc<PhactoryInfo>>,
    /// What the chain says of it.
    pub chain: Option<Arc<WorkerOnChain>>,
    /// What is meant to become of it.
    pub goal: Option<Goal>,
    /// Whether it has not moved for long although there is more for it.
    pub stalled: Option<bool>,
    /// How often in a row reaching or syncing it failed.
    pub failures: Option<u32>,
    /// The last checkpoint that was commanded.
    pub checkpoint: Option<Checkpoint>,
}

impl WorkerView {
    /// A worker of this process.
    pub(super) fn of(status: &WorkerStatus) -> Self {
        let position = status.position;
        Self {
            entry: Arc::clone(&status.worker),
            state: status.state,
            reason: Some(status.reason.code()),
            message: Arc::clone(&status.message),
            message_at: Some(status.message_at),
            relay_header: position.and_then(|at| at.relay_synced_to()).map(|n| n.0),
            para_header: position.and_then(|at| at.para_synced_to()).map(|n| n.0),
            para_block: position.and_then(|at| at.dispatched_to()).map(|n| n.0),
            lag: status.lag,
            key: status.public_key,
            info: status.info.clone(),
            chain: status.chain.clone(),
            goal: Some(status.saved.goal),
            stalled: Some(status.stalled),
            failures: Some(status.failures),
            checkpoint: status.checkpoint.clone(),
        }
    }

    pub(super) fn id(&self) -> Uuid {
        self.entry.id
    }

    /// Changes with every edit of its entry.
    pub fn version(&self) -> String {
        version::of_worker(&self.entry)
    }

    pub(super) fn session(&self) -> Option<&Session> {
        self.chain.as_ref()?.session.as_ref()
    }

    pub(super) fn session_state(&self) -> Option<SessionState> {
        self.session().map(|session| session.state)
    }

    pub(super) fn confidence(&self) -> Option<u8> {
        Some(self.chain.as_ref()?.registration.as_ref()?.confidence_level)
    }

    /// The stake that its session locks.
    pub(super) fn at_stake(&self) -> Balance {
        self.chain.as_ref().map_or(0, |chain| chain.at_stake())
    }

    pub(super) fn is_computing(&self) -> bool {
        self.session_state().is_some_and(SessionState::is_computing)
    }

    pub(super) fn is_unresponsive(&self) -> bool {
        self.session_state() == Some(SessionState::WorkerUnresponsive)
    }

    /// Whether somebody has to look at it: something is wrong, or only an operator can go on.
    pub(super) fn needs_attention(&self) -> bool {
        const BY_HAND: [&str; 9] = [
            "pool-not-in-inventory",
            "fleet-full",
            "key-moved",
            "key-changed",
            "key-in-use",
            "no-operator",
            "in-other-pool",
            "assignment-gone",
            "cooled-down",
        ];
        self.state == State::Error
            || self.stalled == Some(true)
            || self.is_unresponsive()
            || self.reason.is_some_and(|reason| BY_HAND.contains(&reason))
    }
}

/// A pool.
#[derive(Clone, Debug)]
pub struct PoolView {
    /// Its id here.
    pub id: Uuid,
    /// Changes with every edit of its entry.
    pub version: String,
    /// Its number on chain.
    pub pid: u64,
    /// Its name here.
    pub name: String,
    /// Whether its workers run.
    pub enabled: bool,
    /// Whether its workers only sync.
    pub sync_only: bool,
    /// What happens after a stop from elsewhere, where the pool says; the outer `None`: not known here.
    pub after_stop: Option<Option<AfterExternalStop>>,
    /// Who signs for it.
    pub operator: Option<AccountId>,
    /// The account that the operator is a proxy of.
    pub proxied: Option<AccountId>,
    /// What the chain says of it; `None` where it is not read.
    pub chain: Option<Reading<Option<PoolOnChain>>>,
    /// The operator's account on chain; `None` where it is not read.
    pub account: Option<Reading<AccountOnChain>>,
}

impl PoolView {
    /// What the chain says of it, where that is known and it exists.
    pub(super) fn on_chain(&self) -> Option<&PoolOnChain> {
        self.chain.as_ref()?.as_ref().ok()?.as_ref().as_ref()
    }
}

/// Heights of the chain data that workers are fed with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tip {
    /// Newest relay block held.
    pub relay: Option<u32>,
    /// Newest relay block of the nodes.
    pub relay_target: Option<u32>,
    /// Newest parachain block held.
    pub para: Option<u32>,
    /// Newest parachain block of the nodes.
    pub para_target: Option<u32>,
}

impl Tip {
    /// The heights of a source.
    pub(super) fn of(heights: &Heights) -> Self {
        Self {
            relay: heights.relay.map(|n| n.0),
            relay_target: heights.relay_target.map(|n| n.0),
            para: heights.para.map(|n| n.0),
            para_target: heights.para_target.map(|n| n.0),
        }
    }
}

/// A fleet at one moment.
#[derive(Clone, Debug, Default)]
pub struct FleetView {
    /// Workers, by name.
    pub workers: Vec<WorkerView>,
    /// Pools, by pid.
    pub pools: Vec<PoolView>,
    /// Heights of the chain data.
    pub tip: Tip,
    /// The block that what the chain says is read at.
    pub chain_block: Option<u32>,
    /// Why operators cannot rely on some of it, in sentences.
    pub notes: Vec<String>,
    /// The jobs of the trade queue; `None` where there is none, or it does not answer.
    pub jobs: Option<Stats>,
}

impl FleetView {
    pub(super) fn worker(&self, id: Uuid) -> Option<&WorkerView> {
        self.workers.iter().find(|worker| worker.id() == id)
    }

    pub(super) fn pool(&self, pid: u64) -> Option<&PoolView> {
        self.pools.iter().find(|pool| pool.pid == pid)
    }
}
