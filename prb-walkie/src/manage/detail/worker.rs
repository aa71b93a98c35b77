//! A worker's status, converted to and from the wire.

use std::{sync::Arc, time::SystemTime};

use prb_core::{
    chain::WorkerOnChain,
    inventory::{AfterExternalStop, Goal},
    primitives::ParaNumber,
    prpc::PhactoryInfo,
    worker::{Checkpoint, Event, Reason, WorkerStatus},
};
use serde_json::Value;

use super::{MAX_EVENTS, chain, cut, event, millis, time};
use crate::proto::detail as wire;

/// Encodes a worker's status and its events.
pub fn tell(status: &WorkerStatus, events: &[Event]) -> wire::Worker {
    let entry = &status.worker;
    wire::Worker {
        uuid: entry.id.to_string(),
        reason: status.reason.code().to_owned(),
        since_ms: millis(status.message_at),
        lag: status.lag,
        stalled: status.stalled,
        failures: status.failures,
        goal: goal_name(status.saved.goal),
        checkpoint: status.checkpoint.as_ref().map(tell_checkpoint),
        chain: status.chain.as_ref().map(|chain| chain::encode_worker(chain)),
        info: status.info.as_deref().cloned(),
        gatekeeper: entry.gatekeeper,
        endpoints: entry.endpoints.clone(),
        after_stop: entry.after_stop.map(|setting| setting.to_string()).unwrap_or_default(),
        events: events.iter().rev().take(MAX_EVENTS).rev().map(event::tell).collect(),
    }
}

fn tell_checkpoint(checkpoint: &Checkpoint) -> wire::Checkpoint {
    let (block, error) = match &checkpoint.result {
        Ok(block) => (Some(block.0), String::new()),
        Err(error) => (None, cut(error)),
    };
    wire::Checkpoint { at_ms: millis(checkpoint.at), block, error }
}

/// The goal's name in files, such as `stay-stopped`.
pub(super) fn goal_name(goal: Goal) -> String {
    serde_json::to_value(goal).ok().and_then(|name| Some(name.as_str()?.to_owned())).unwrap_or_default()
}

pub(super) fn goal(name: &str) -> Option<Goal> {
    serde_json::from_value(Value::from(name)).ok()
}

/// A decoded worker detail. Names that this version does not know become `None`.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct WorkerDetail {
    /// The code of the reason for its state.
    pub reason: Option<&'static str>,
    /// Since when its message has been this one.
    pub since: SystemTime,
    /// Finalised parachain blocks that it has not dispatched.
    pub lag: Option<u32>,
    /// Whether it has not progressed for long although there is more to sync.
    pub stalled: bool,
    /// Consecutive failures to reach or sync it.
    pub failures: u32,
    /// The worker's goal.
    pub goal: Option<Goal>,
    /// The last checkpoint that was requested.
    pub checkpoint: Option<Checkpoint>,
    /// The worker on chain.
    pub chain: Option<WorkerOnChain>,
    /// What pRuntime reports about itself.
    pub info: Option<PhactoryInfo>,
    /// Whether it is a gatekeeper.
    pub gatekeeper: bool,
    /// The URLs that its entry has it announce.
    pub endpoints: Vec<String>,
    /// Its entry's behaviour after an external stop.
    pub after_stop: Option<AfterExternalStop>,
    /// Its events, oldest first.
    pub events: Vec<Event>,
}

impl From<wire::Worker> for WorkerDetail {
    fn from(told: wire::Worker) -> Self {
        let events = told.events.iter().rev().take(MAX_EVENTS).rev();
        Self {
            reason: reason(&told.reason),
            since: time(told.since_ms),
            lag: told.lag,
            stalled: told.stalled,
            failures: told.failures,
            goal: goal(&told.goal),
            checkpoint: told.checkpoint.map(checkpoint),
            chain: told.chain.map(chain::worker),
            info: told.info,
            gatekeeper: told.gatekeeper,
            endpoints: told.endpoints,
            after_stop: told.after_stop.parse().ok(),
            events: events.filter_map(event::read).collect(),
        }
    }
}

/// Returns the code of a reason, if it is known.
pub(super) fn reason(code: &str) -> Option<&'static str> {
    Reason::CODES.iter().copied().find(|known| *known == code)
}

fn checkpoint(told: wire::Checkpoint) -> Checkpoint {
    let result = match told.block {
        Some(block) => Ok(ParaNumber(block)),
        None => Err(Arc::from(cut(told.error))),
    };
    Checkpoint { at: time(told.at_ms), result }
}
