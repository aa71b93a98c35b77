//! A worker's status, converted to and from the wire.

use std::{sync::Arc, time::SystemTime};

use prb_core::{
    chain::WorkerOnChain,
    inventory::{AfterExternalStop, Goal, KeyChange},
    primitives::ParaNumber,
    prpc::PhactoryInfo,
    queue::JobId,
    worker::{Checkpoint, Event, InFlight, Operation, Reason, WorkerStatus},
};
use serde_json::Value;

use super::{MAX_EVENTS, bounded_text, chain, event, millis, time};
use crate::proto::detail as wire;

/// Encodes a worker's status and its events.
pub fn encode_worker(status: &WorkerStatus, events: &[Event]) -> wire::Worker {
    let entry = &status.worker;
    wire::Worker {
        uuid: entry.id.to_string(),
        reason: status.reason.code().to_owned(),
        since_ms: millis(status.message_at),
        lag: status.lag,
        stalled: status.stalled,
        failures: status.failures,
        goal: goal_name(status.saved.goal),
        checkpoint: status.checkpoint.as_ref().map(encode_checkpoint),
        chain: status.chain.as_ref().map(|chain| chain::encode_worker(chain)),
        info: status.info.as_deref().cloned(),
        gatekeeper: entry.gatekeeper,
        endpoints: entry.endpoints.clone(),
        after_stop: entry.after_stop.map(|setting| setting.to_string()).unwrap_or_default(),
        // The newest ones, still in their order.
        events: events.iter().rev().take(MAX_EVENTS).rev().map(event::encode).collect(),
        key_change: status.key_change().map(encode_key_change),
        in_flight: status.in_flight.as_ref().map(encode_in_flight),
    }
}

fn encode_key_change(change: KeyChange) -> wire::KeyChange {
    wire::KeyChange { at_ms: change.at_ms, block: change.block.map(|block| block.0) }
}

fn encode_in_flight(in_flight: &InFlight) -> wire::InFlight {
    wire::InFlight {
        operation: in_flight.operation.to_owned(),
        stage: in_flight.stage.to_string(),
        since_ms: millis(in_flight.since),
        job: in_flight.job.map(|job| job.0),
    }
}

fn encode_checkpoint(checkpoint: &Checkpoint) -> wire::Checkpoint {
    let (block, error) = match &checkpoint.result {
        Ok(block) => (Some(block.0), String::new()),
        Err(error) => (None, bounded_text(error)),
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
    /// The URLs that it announces on chain, by its entry.
    pub endpoints: Vec<String>,
    /// Its entry's behaviour after an external stop.
    pub after_stop: Option<AfterExternalStop>,
    /// Its events, oldest first.
    pub events: Vec<Event>,
    /// The last change of its keys that was seen.
    pub key_change: Option<KeyChange>,
    /// The operation that is being submitted.
    pub in_flight: Option<InFlight>,
}

impl From<wire::Worker> for WorkerDetail {
    fn from(message: wire::Worker) -> Self {
        let events = message.events.iter().rev().take(MAX_EVENTS).rev();
        Self {
            reason: reason(&message.reason),
            since: time(message.since_ms),
            lag: message.lag,
            stalled: message.stalled,
            failures: message.failures,
            goal: goal(&message.goal),
            checkpoint: message.checkpoint.map(checkpoint),
            chain: message.chain.map(chain::worker),
            info: message.info,
            gatekeeper: message.gatekeeper,
            endpoints: message.endpoints,
            after_stop: message.after_stop.parse().ok(),
            events: events.filter_map(event::read).collect(),
            key_change: message.key_change.map(key_change),
            in_flight: message.in_flight.and_then(|message| in_flight(&message)),
        }
    }
}

fn key_change(message: wire::KeyChange) -> KeyChange {
    KeyChange { at_ms: message.at_ms, block: message.block.map(ParaNumber) }
}

fn in_flight(message: &wire::InFlight) -> Option<InFlight> {
    let mut known = Operation::NAMES.into_iter().chain([InFlight::MESSAGES]);
    let operation = known.find(|known| *known == message.operation)?;
    let stage = message.stage.parse().ok()?;
    Some(InFlight { operation, stage, since: time(message.since_ms), job: message.job.map(JobId) })
}

/// Returns the code of a reason, if it is known.
pub(super) fn reason(code: &str) -> Option<&'static str> {
    Reason::CODES.iter().copied().find(|known| *known == code)
}

fn checkpoint(message: wire::Checkpoint) -> Checkpoint {
    let result = match message.block {
        Some(block) => Ok(ParaNumber(block)),
        None => Err(Arc::from(bounded_text(message.error))),
    };
    Checkpoint { at: time(message.at_ms), result }
}
