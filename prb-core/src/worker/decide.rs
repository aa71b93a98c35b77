//! The decision function: no clock, no I/O.

use std::sync::Arc;

use super::{
    Action, Decision, Desired, Failure, Failures, NodeBehind, Observed, Operation, Reason, Settings, State,
    observed::LastKey,
};
use crate::{inventory::Goal, primitives::Hash, prpc::PhactoryInfo, sync::Step, text::shorten};

mod blocked;
mod chain;
mod recorded;

pub(crate) use blocked::stake_needed;

/// Consecutive failures after which a worker is shown as `S_ERROR`.
pub(super) const FAILURES_BEFORE_ERROR: u32 = 3;

/// The assessment of a worker: its state, the reason, and the operation that would advance it.
#[derive(Debug)]
struct Assessment {
    state: State,
    reason: Reason,
    wanted: Option<Operation>,
    /// Whether its messages may be submitted.
    relays: bool,
    /// Whether it may be synced.
    syncs: bool,
}

impl Assessment {
    const fn new(state: State, reason: Reason) -> Self {
        Self { state, reason, wanted: None, relays: true, syncs: true }
    }

    /// Adds the operation that would advance the worker.
    const fn wants(mut self, operation: Operation) -> Self {
        self.wanted = Some(operation);
        self
    }

    /// Disables relaying of its messages.
    const fn without_relay(mut self) -> Self {
        self.relays = false;
        self
    }
}

/// Decides the next action, the state label and the message of a worker.
pub fn decide(desired: &Desired, settings: &Settings, observed: &Observed) -> Decision {
    if let Some(reason) = desired.idle_reason() {
        return decision(State::Idle, Action::Wait, reason);
    }
    let Some(info) = &observed.info else {
        return with_operation(
            unobserved(observed),
            recorded::operation(desired, settings, observed),
            observed,
        );
    };
    // Before anything else: data of another chain would be sent to it, or its messages to the wrong chain.
    if let Some(reason) = wrong_chain(info, observed.relay_genesis) {
        return with_operation(
            decision(State::Error, observation(observed).unwrap_or(Action::Recheck), reason),
            recorded::operation(desired, settings, observed),
            observed,
        );
    }
    if !info.initialized {
        return with_operation(
            uninitialised(observed),
            recorded::operation(desired, settings, observed),
            observed,
        );
    }
    let assessment = assess(desired, settings, observed, info);
    // The assessment still counts while the info is outdated: state and message must not flicker.
    let observe = observation(observed);
    let action = observe.unwrap_or_else(|| act(observed, &assessment));
    let sync = step(observed, &assessment);
    conclude(assessment, action, sync, observed)
}

/// Adds an operation for the last known key to the decision about a worker that does not answer, or not for our chain: it
/// comes first, since the worker is tried again and again.
fn with_operation(mut decision: Decision, wanted: Option<Operation>, observed: &Observed) -> Decision {
    decision.wanted = wanted;
    if let Some(operation) = wanted.filter(|operation| may_operate(observed, *operation)) {
        decision.action = Action::Operate(operation);
    }
    decision
}

/// Returns the action if the worker must be observed before anything else is done, or cannot be yet.
fn observation(observed: &Observed) -> Option<Action> {
    match &observed.failures.connection {
        Some(failure) if !failure.due => Some(Action::Wait),
        None if !observed.stale => None,
        _ => Some(Action::Observe),
    }
}

fn decision(state: State, action: Action, reason: Reason) -> Decision {
    let message = reason.to_string().into();
    let on_the_way = reason.is_on_the_way();
    Decision { state, reason, message, action, sync: Step::Wait, wanted: None, on_the_way }
}

const fn is_due(failure: Option<&Failure>) -> bool {
    match failure {
        Some(failure) => failure.due,
        None => true,
    }
}

fn unobserved(observed: &Observed) -> Decision {
    let connection = observed.failures.connection.as_ref();
    let action = if is_due(connection) { Action::Observe } else { Action::Wait };
    match connection {
        _ if observed.kicked => decision(State::Kicked, action, Reason::Kicked),
        None => decision(State::Starting, action, Reason::Connecting),
        Some(f) if f.attempts < FAILURES_BEFORE_ERROR => decision(State::Starting, action, f.reason.clone()),
        Some(f) => {
            let moved = observed.last_key.as_ref().and_then(|last| Some((last.key, last.holder.clone()?)));
            let moved = moved.map(|(key, holder)| Reason::KeyMoved { key, holder });
            decision(State::Error, action, moved.unwrap_or_else(|| f.reason.clone()))
        }
    }
}

fn wrong_chain(info: &PhactoryInfo, relay_genesis: Option<Hash>) -> Option<Reason> {
    let (shown, ours) = (info.genesis_block_hash.as_deref().filter(|_| info.initialized)?, relay_genesis?);
    match shown.parse::<Hash>() {
        Ok(theirs) if theirs == ours => None,
        _ => {
            // The text is the worker's and may have any length.
            Some(Reason::WrongChain { theirs: shorten(shown, 80).into(), ours })
        }
    }
}

fn uninitialised(observed: &Observed) -> Decision {
    let failure = observed.failures.sync.as_ref();
    let (state, reason) = match failure {
        Some(f) if f.attempts >= FAILURES_BEFORE_ERROR => (State::Error, f.reason.clone()),
        Some(f) => (State::Starting, f.reason.clone()),
        None if observed.relay_genesis.is_none() => (State::Starting, Reason::AwaitingChainData),
        None => (State::Starting, Reason::Initialising),
    };
    let ready = observed.relay_genesis.is_some() && is_due(failure);
    let action = observation(observed).unwrap_or(if ready { Action::Init } else { Action::Wait });
    decision(state, action, reason)
}

/// Returns the first action besides syncing that may be taken now.
fn act(observed: &Observed, assessment: &Assessment) -> Action {
    if let Some(operation) = assessment.wanted.filter(|operation| may_operate(observed, *operation)) {
        return Action::Operate(operation);
    }
    let relays = assessment.relays && observed.unsent_messages && observed.node_behind.is_none();
    if relays && is_due(observed.failures.relay.as_ref()) {
        return Action::Relay;
    }
    // A worker that is not synced triggers no wake-up by itself.
    if assessment.syncs { Action::Wait } else { Action::Recheck }
}

fn may_operate(observed: &Observed, operation: Operation) -> bool {
    observed.job.is_none()
        && observed.awaiting_block.is_none()
        && observed.node_behind.is_none()
        // The key and goal of the worker must be persisted before anything is staked for it: a crash would
        // lose them.
        && !observed.unsaved
        && is_due(observed.failures.chain.as_ref())
        && refusal(observed, operation).is_none()
}

/// Returns the headers or blocks to send now. Independent of operations: neither blocks the other.
fn step(observed: &Observed, assessment: &Assessment) -> Step {
    let must_wait = observed.syncing || observed.stale || !assessment.syncs;
    if must_wait || observed.failures.connection.is_some() || !is_due(observed.failures.sync.as_ref()) {
        return Step::Wait;
    }
    observed.step
}

fn refusal(observed: &Observed, operation: Operation) -> Option<&super::Refused> {
    observed.refused.as_ref().filter(|refused| refused.is_current && refused.operation.is_like(operation))
}

/// Builds the decision. Failures take precedence over progress in the message.
fn conclude(assessment: Assessment, action: Action, sync: Step, observed: &Observed) -> Decision {
    let on_the_way = is_on_the_way(&assessment, observed);
    let Assessment { mut state, mut reason, wanted, .. } = assessment;
    let failures = &observed.failures;
    if let Some(failure) = &failures.relay
        && wanted.is_none()
        && needs_messages(&reason)
    {
        reason = failure.reason.clone();
    }
    if let Some(operation) = wanted
        && observed.job.is_none()
        && let Some((why, is_error)) = delay_reason(observed, operation)
    {
        reason = why;
        // A computing worker continues to compute, even if its stake cannot be changed.
        if is_error && state != State::Active {
            state = State::Error;
        }
    }
    if let Some(NodeBehind { blocks, is_lasting: true }) = observed.node_behind
        && depends_on_views(&reason)
    {
        reason = Reason::NodeBehind { blocks };
    }
    // The stake of a lost key is the operator's to save; that the new one does not sync can wait.
    let sync_failure = failures.sync.as_ref().filter(|_| !is_key_change(&reason));
    // The connection last: while it fails, nothing else is known about the worker.
    for failure in [sync_failure, failures.connection.as_ref()].into_iter().flatten() {
        reason = failure.reason.clone();
        if failure.attempts >= FAILURES_BEFORE_ERROR {
            state = State::Error;
        }
    }
    let message = reason.to_string().into();
    Decision { state, reason, message, action, sync, wanted, on_the_way }
}

/// See [`Decision::on_the_way`].
fn is_on_the_way(assessment: &Assessment, observed: &Observed) -> bool {
    let Failures { connection, sync, chain, save, .. } = &observed.failures;
    let lasts = |failure: &Failure| failure.attempts >= FAILURES_BEFORE_ERROR;
    let refused = assessment.wanted.and_then(|operation| refusal(observed, operation));
    assessment.reason.is_on_the_way()
        && ![connection, sync, chain].into_iter().flatten().any(lasts)
        && !(observed.unsaved && save.is_some())
        // Refused for want of stake, which it goes on waiting for.
        && refused.is_none_or(super::Refused::is_for_stake)
}

const fn is_key_change(reason: &Reason) -> bool {
    matches!(
        reason,
        Reason::KeyChanged { .. } | Reason::KeyChangedUnchecked { .. } | Reason::LastKeyStarting { .. }
    )
}

/// Whether a worker in this situation depends on its messages: its heartbeats, or its benchmark's score.
const fn needs_messages(reason: &Reason) -> bool {
    matches!(
        reason,
        Reason::Computing
            | Reason::Synching
            | Reason::Gatekeeper { .. }
            | Reason::AwaitingScore
            | Reason::ScoreOverdue
    )
}

/// Whether a worker in this situation continues with a newer view of the chain.
const fn depends_on_views(reason: &Reason) -> bool {
    !matches!(
        reason,
        Reason::Synching | Reason::SyncOnly | Reason::NoOperator { .. } | Reason::KeyInUse { .. }
    )
}

/// Returns why a wanted operation is not submitted, and whether that is an error.
fn delay_reason(observed: &Observed, operation: Operation) -> Option<(Reason, bool)> {
    if let Some(block) = observed.awaiting_block {
        return Some((Reason::AwaitingBlock { block }, false));
    }
    if let Some(refused) = refusal(observed, operation) {
        let (error, remedy) = (Arc::clone(&refused.error), Arc::clone(&refused.remedy));
        return Some((Reason::OperationRefused { operation: operation.description(), error, remedy }, true));
    }
    if let Some(failure) = observed.failures.save.as_ref().filter(|_| observed.unsaved) {
        return Some((failure.reason.clone(), true));
    }
    Some((observed.failures.chain.as_ref()?.reason.clone(), true))
}

fn assess(desired: &Desired, settings: &Settings, observed: &Observed, info: &PhactoryInfo) -> Assessment {
    let on_chain = chain::assess(desired, settings, observed, info);
    if observed.caught_up || on_chain.state == State::Error {
        return on_chain;
    }
    let wanted = on_chain.wanted.filter(|wanted| precedes_sync(*wanted, observed.saved.goal));
    let Assessment { relays, syncs, .. } = on_chain;
    let reason = if observed.awaits_data {
        Reason::AwaitingData { error: "no source has the blocks that it lacks yet".into() }
    } else {
        Reason::Synching
    };
    Assessment { state: State::Synching, reason, wanted, relays, syncs }
}

/// Whether an operation does not wait for the tip: a stop and what follows are the operator's remedy for a worker that
/// does not catch up. A worker that starts again after its cool-down needs its stake no earlier.
fn precedes_sync(operation: Operation, goal: Goal) -> bool {
    match operation {
        Operation::Stop | Operation::LeavePool => true,
        Operation::Reclaim => matches!(goal, Goal::Reclaim | Goal::LeavePool),
        _ => false,
    }
}

/// Returns the reason to show if the entry's last known key conflicts with the one that answers now.
fn key_changed(observed: &Observed, last: &LastKey) -> Option<Reason> {
    let now = observed.public_key()?;
    match last.at_stake() {
        None => Some(Reason::KeyChangedUnchecked { last: last.key }),
        // Stake would be locked for both keys.
        Some(0) if last.may_start => Some(Reason::LastKeyStarting { last: last.key }),
        // Nothing to lose: the new key replaces the last one.
        Some(0) => None,
        Some(at_stake) => {
            Some(Reason::KeyChanged { last: last.key, now, at_stake, moved_to: last.holder.clone() })
        }
    }
}
