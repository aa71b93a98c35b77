//! Views of a fleet, independent of the backend: workers, pools, heights.
//!
//! A field is `None` if the backend does not know it: a manager among the peers reports less than one in this
//! process.

use std::{sync::Arc, time::SystemTime};

use prb_core::{
    blob::Heights,
    chain::{AccountOnChain, PoolOnChain, Reading, Session, SessionState, WorkerOnChain},
    inventory::{self, AfterExternalStop, Goal, KeyChange},
    primitives::{AccountId, Balance, WorkerKey},
    prpc::PhactoryInfo,
    queue::Stats,
    worker::{Checkpoint, InFlight, State, WorkerStatus},
};
use prb_walkie::proto::provider_detail::{Detail, Provider};
use uuid::Uuid;

use crate::{
    entry_version,
    ops::Reason,
    readiness::{Signs, Trouble},
};

/// A worker.
#[derive(Clone, Debug)]
pub struct WorkerView {
    /// Its entry.
    pub entry: Arc<inventory::Worker>,
    /// Its state.
    pub state: State,
    /// The code of the reason.
    pub reason: Option<&'static str>,
    /// The reason as text.
    pub message: Arc<str>,
    /// When the state began.
    pub message_at: Option<SystemTime>,
    /// The newest relay header that it has.
    pub relay_header: Option<u32>,
    /// The newest parachain header that it has.
    pub para_header: Option<u32>,
    /// The newest parachain block that it has dispatched.
    pub para_block: Option<u32>,
    /// Number of finalised parachain blocks that it has not dispatched.
    pub lag: Option<u32>,
    /// Its public key.
    pub key: Option<WorkerKey>,
    /// pRuntime's last answer to GetInfo.
    pub info: Option<Arc<PhactoryInfo>>,
    /// Its on-chain state.
    pub chain: Option<Arc<WorkerOnChain>>,
    /// Its goal.
    pub goal: Option<Goal>,
    /// Whether it has made no progress for a long time although more blocks are available.
    pub stalled: Option<bool>,
    /// Number of consecutive failures to reach or sync it.
    pub failures: Option<u32>,
    /// The last requested checkpoint.
    pub checkpoint: Option<Checkpoint>,
    /// The last observed change of its key.
    pub key_change: Option<KeyChange>,
    /// The operation, or the messages, in flight to the chain.
    pub in_flight: Option<InFlight>,
}

impl WorkerView {
    /// Creates the view of a worker of this process.
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
            key_change: status.key_change(),
            in_flight: status.in_flight,
        }
    }

    pub(super) fn id(&self) -> Uuid {
        self.entry.id
    }

    /// Returns a version that changes with every edit of its entry.
    pub fn version(&self) -> String {
        entry_version::of_worker(&self.entry)
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

    /// Returns the stake that its session locks.
    pub(super) fn at_stake(&self) -> Balance {
        self.chain.as_ref().map_or(0, |chain| chain.at_stake())
    }

    pub(super) fn is_computing(&self) -> bool {
        self.session_state().is_some_and(SessionState::is_computing)
    }

    /// Returns whether it computes and its manager sends its heartbeats. What its pool is set to is not looked at.
    pub(super) fn needs_heartbeats(&self) -> bool {
        self.is_computing() && self.entry.enabled && !self.entry.sync_only
    }

    pub(super) fn is_unresponsive(&self) -> bool {
        self.session_state() == Some(SessionState::WorkerUnresponsive)
    }

    /// Returns whether it needs attention: it is in trouble, or only an operator can continue.
    pub(super) fn needs_attention(&self) -> bool {
        self.trouble().is_some()
    }

    /// Returns why it needs attention.
    pub(super) fn trouble(&self) -> Option<Trouble> {
        // Codes of docs/worker-states.md. The view has codes only, because it may be of a peer.
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
        let signs = Signs {
            state: self.state,
            reason: self.reason,
            reason_for: self.message_at.and_then(|at| at.elapsed().ok()),
            is_stalled: self.stalled == Some(true),
            is_unresponsive: self.is_unresponsive(),
            in_flight: self.in_flight,
        };
        let by_hand = self.reason.filter(|reason| BY_HAND.contains(reason)).map(|_| Trouble::Reason);
        signs.trouble().or(by_hand)
    }
}

/// A pool.
#[derive(Clone, Debug)]
pub struct PoolView {
    /// Its id here.
    pub id: Uuid,
    /// A version that changes with every edit of its entry.
    pub version: String,
    /// Its number on chain.
    pub pid: u64,
    /// Its name here.
    pub name: String,
    /// Whether its workers run.
    pub enabled: bool,
    /// Whether its workers only sync.
    pub sync_only: bool,
    /// What happens after a stop by somebody else, if set for the pool; the outer `None` means unknown.
    pub after_stop: Option<Option<AfterExternalStop>>,
    /// The account that signs for it.
    pub operator: Option<AccountId>,
    /// The account that the operator is a proxy of.
    pub proxied: Option<AccountId>,
    /// Its on-chain state; `None` if it is not read.
    pub chain: Option<Reading<Option<PoolOnChain>>>,
    /// The operator's account on chain; `None` if it is not read.
    pub account: Option<Reading<AccountOnChain>>,
}

impl PoolView {
    /// Returns its on-chain state, if it is known and the pool exists.
    pub(super) fn on_chain(&self) -> Option<&PoolOnChain> {
        self.chain.as_ref()?.as_ref().ok()?.as_ref().as_ref()
    }
}

/// Heights of the chain data that workers are fed from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tip {
    /// The newest available relay block.
    pub relay: Option<u32>,
    /// The newest relay block of the nodes.
    pub relay_target: Option<u32>,
    /// The newest available parachain block.
    pub para: Option<u32>,
    /// The newest parachain block of the nodes.
    pub para_target: Option<u32>,
}

impl Tip {
    /// Converts the heights of a source.
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
    /// The block at which on-chain state was read.
    pub chain_block: Option<u32>,
    /// Warnings about unreliable parts of the view, as sentences.
    pub notes: Vec<String>,
    /// Why the manager is not ready; empty if it is, or if it is a peer.
    pub not_ready: Vec<Reason>,
    /// The jobs of the trade queue; `None` if there is none or it does not answer.
    pub jobs: Option<Stats>,
    /// Whether its manager accepts the settings that the original's messages have no fields for: gatekeeper,
    /// endpoints to announce, and what to do after an external stop.
    pub takes_settings: bool,
    /// The data providers known to its manager; `None` if it reads the chains itself, or does not report them.
    pub providers: Option<Vec<Provider>>,
    /// The chain nodes and the disk of a manager among the peers, if it reports them.
    pub chain_nodes: Option<Detail>,
}

impl FleetView {
    pub(super) fn worker(&self, id: Uuid) -> Option<&WorkerView> {
        self.workers.iter().find(|worker| worker.id() == id)
    }

    pub(super) fn pool(&self, pid: u64) -> Option<&PoolView> {
        self.pools.iter().find(|pool| pool.pid == pid)
    }
}
