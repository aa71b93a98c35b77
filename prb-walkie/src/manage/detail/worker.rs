//! A worker's status.

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

/// What is told of a worker, and what happened to it.
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

/// Its name in files: `stay-stopped`.
pub(super) fn goal_name(goal: Goal) -> String {
    serde_json::to_value(goal).ok().and_then(|name| Some(name.as_str()?.to_owned())).unwrap_or_default()
}

pub(super) fn goal(name: &str) -> Option<Goal> {
    serde_json::from_value(Value::from(name)).ok()
}

/// What was told of a worker. What another version tells in words that this one does not know is `None`.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct WorkerDetail {
    /// The code of the reason.
    pub reason: Option<&'static str>,
    /// Since when its message is this one.
    pub since: SystemTime,
    /// Finalised parachain blocks that it has not dispatched.
    pub lag: Option<u32>,
    /// Whether it has not moved for long although there is more for it.
    pub stalled: bool,
    /// How often in a row reaching or syncing it failed.
    pub failures: u32,
    /// What is meant to become of it.
    pub goal: Option<Goal>,
    /// The last checkpoint that was commanded.
    pub checkpoint: Option<Checkpoint>,
    /// What the chain says of it.
    pub chain: Option<WorkerOnChain>,
    /// What pRuntime says of itself.
    pub info: Option<PhactoryInfo>,
    /// Whether it is a gatekeeper.
    pub gatekeeper: bool,
    /// The URLs that its entry has it announce.
    pub endpoints: Vec<String>,
    /// Its entry's setting for stops from elsewhere.
    pub after_stop: Option<AfterExternalStop>,
    /// What happened to it, oldest first.
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

/// The code of a reason, where it is known.
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
