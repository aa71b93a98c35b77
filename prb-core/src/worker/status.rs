//! [`WorkerStatus`]: how a worker is, as pages and programs see it.

use std::{sync::Arc, time::SystemTime};

use super::{Desired, Reason, State};
use crate::{
    chain::{SessionState, WorkerOnChain},
    inventory::{self, Saved},
    primitives::{ParaNumber, WorkerKey},
    prpc::PhactoryInfo,
    sync::Position,
};

/// What became of the last [`Command::Checkpoint`](super::Command::Checkpoint).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// When that was known.
    pub at: SystemTime,
    /// The last block in it, or why there is none.
    pub result: Result<ParaNumber, Arc<str>>,
}

/// How a worker is.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct WorkerStatus {
    /// Its entry in the inventory.
    pub worker: Arc<inventory::Worker>,
    /// Its pool's entry.
    pub pool: Option<Arc<inventory::Pool>>,
    /// The runner that it is on.
    pub runner: Option<usize>,
    /// The label.
    pub state: State,
    /// Why it stands there.
    pub reason: Reason,
    /// The reason in words: what it does, or what keeps it from that. Carries no time stamp.
    pub message: Arc<str>,
    /// Since when the message, or the state, is this one.
    pub message_at: SystemTime,
    /// The numbers that it wants next.
    pub position: Option<Position>,
    /// Finalised parachain blocks that it has not dispatched.
    pub lag: Option<u32>,
    /// Its public key; of a worker that is out of sight, the last one that it was known by.
    pub public_key: Option<WorkerKey>,
    /// Its last answer to `GetInfo`; `position` is newer.
    pub info: Option<Arc<PhactoryInfo>>,
    /// What the chain says of that key.
    pub chain: Option<Arc<WorkerOnChain>>,
    /// What is kept of it between restarts: its key, and what is meant to become of it.
    pub saved: Saved,
    /// Whether it has not moved for long, although there is more for it.
    pub stalled: bool,
    /// How often in a row reaching or syncing it failed.
    pub failures: u32,
    /// The last checkpoint that was commanded, once it has ended.
    pub checkpoint: Option<Checkpoint>,
}

impl WorkerStatus {
    /// Of a worker that does not run.
    pub fn idle(desired: &Desired, reason: Reason, message_at: SystemTime) -> Self {
        Self {
            worker: Arc::clone(&desired.worker),
            pool: desired.pool.clone(),
            runner: None,
            state: State::Idle,
            message: reason.to_string().into(),
            reason,
            message_at,
            position: None,
            lag: None,
            public_key: None,
            info: None,
            chain: None,
            saved: Saved::default(),
            stalled: false,
            failures: 0,
            checkpoint: None,
        }
    }

    /// The state of its computing session, where it has one.
    pub fn session_state(&self) -> Option<SessionState> {
        self.chain.as_ref()?.session.as_ref().map(|session| session.state)
    }

    /// Whether it computes and the chain misses its heartbeats. Its label is `S_ACTIVE` all the same, as the
    /// original's is.
    pub fn is_unresponsive(&self) -> bool {
        self.session_state() == Some(SessionState::WorkerUnresponsive)
    }
}
