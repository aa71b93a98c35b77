//! The decision: one function, no clock, no I/O.

use std::sync::Arc;

use super::{Action, Decision, Desired, Observed, Operation, Settings, State, Trouble};
use crate::{
    chain::{Registration, Session, SessionState, WorkerOnChain},
    primitives::{AccountId, Hash},
    prpc::PhactoryInfo,
    sync::Step,
};

/// So many failures in a row make an `S_ERROR`; fewer are a hitch.
pub(super) const HITCHES: u32 = 3;

/// Where a worker stands and the operation that would move it on.
struct Standing {
    state: State,
    message: Arc<str>,
    wanted: Option<Operation>,
    /// Whether its messages may be sent.
    relays: bool,
}

impl Standing {
    fn new(state: State, message: impl Into<Arc<str>>) -> Self {
        Self { state, message: message.into(), wanted: None, relays: true }
    }

    fn wants(mut self, operation: Operation) -> Self {
        self.wanted = Some(operation);
        self
    }

    const fn silent(mut self) -> Self {
        self.relays = false;
        self
    }
}

/// Says what is to be done next, where the worker stands, and what people are told of it.
pub fn decide(desired: &Desired, settings: &Settings, observed: &Observed) -> Decision {
    if let Some(reason) = desired.idle_reason() {
        return decision(State::Idle, Action::Wait, reason);
    }
    let connection = observed.troubles.connection.as_ref();
    let Some(info) = &observed.info else {
        return unseen(observed, connection);
    };
    if let Some(problem) = wrong_chain(info, observed.relay_genesis) {
        return decision(State::Error, look(observed).unwrap_or(Action::Recheck), problem);
    }
    if !info.initialized {
        return uninitialised(observed);
    }
    let standing = standing(desired, settings, observed, info);
    let action = look(observed).unwrap_or_else(|| act(observed, &standing));
    told(standing, action, observed)
}

/// Whether the worker is to be looked at before anything else is done, or cannot be yet.
fn look(observed: &Observed) -> Option<Action> {
    match &observed.troubles.connection {
        Some(trouble) if !trouble.due => Some(Action::Wait),
        None if !observed.stale => None,
        _ => Some(Action::Observe),
    }
}

fn decision(state: State, action: Action, message: impl Into<Arc<str>>) -> Decision {
    Decision { state, action, message: message.into() }
}

const fn is_due(trouble: Option<&Trouble>) -> bool {
    match trouble {
        Some(trouble) => trouble.due,
        None => true,
    }
}

fn unseen(observed: &Observed, connection: Option<&Trouble>) -> Decision {
    let action = if is_due(connection) { Action::Observe } else { Action::Wait };
    match connection {
        _ if observed.kicked => decision(State::Kicked, action, "Kicked, waiting for it to come back"),
        None => decision(State::Starting, action, "Looking for the worker"),
        Some(t) if t.attempts < HITCHES => decision(State::Starting, action, Arc::clone(&t.message)),
        Some(t) => decision(State::Error, action, Arc::clone(&t.message)),
    }
}

fn wrong_chain(info: &PhactoryInfo, relay_genesis: Option<Hash>) -> Option<String> {
    let (shown, ours) = (info.genesis_block_hash.as_deref().filter(|_| info.initialized)?, relay_genesis?);
    match shown.parse::<Hash>() {
        Ok(theirs) if theirs == ours => None,
        _ => {
            let shown: String = shown.chars().take(80).collect();
            Some(format!("Worker is on another chain: its genesis is {shown}, the chain's is {ours}"))
        }
    }
}

fn uninitialised(observed: &Observed) -> Decision {
    let trouble = observed.troubles.sync.as_ref();
    let (state, message) = match trouble {
        Some(t) if t.attempts >= HITCHES => (State::Error, Arc::clone(&t.message)),
        Some(t) => (State::Starting, Arc::clone(&t.message)),
        None if observed.relay_genesis.is_none() => (State::Starting, "Waiting for chain data".into()),
        None => (State::Starting, "Initializing pRuntime".into()),
    };
    let ready = observed.relay_genesis.is_some() && is_due(trouble);
    let action = look(observed).unwrap_or(if ready { Action::Init } else { Action::Wait });
    Decision { state, action, message }
}

/// Of the things that could be done, the first that may: nothing waits for an operation on chain, and no
/// operation waits for the sync.
fn act(observed: &Observed, standing: &Standing) -> Action {
    let troubles = &observed.troubles;
    if let Some(operation) = standing.wanted
        && observed.job.is_none()
        && observed.settling.is_none()
        && is_due(troubles.chain.as_ref())
    {
        return Action::Operate(operation);
    }
    if standing.relays && observed.unsent_messages && is_due(troubles.relay.as_ref()) {
        return Action::Relay;
    }
    if observed.step != Step::Wait && is_due(troubles.sync.as_ref()) {
        return Action::Sync(observed.step);
    }
    Action::Wait
}

/// What people are told: what fails before what goes well.
fn told(standing: Standing, action: Action, observed: &Observed) -> Decision {
    let Standing { mut state, mut message, wanted, .. } = standing;
    let troubles = &observed.troubles;
    if let Some(trouble) = &troubles.relay
        && wanted.is_none()
    {
        message = Arc::clone(&trouble.message);
    }
    if wanted.is_some()
        && observed.job.is_none()
        && let Some(block) = observed.settling
    {
        message = format!("Waiting for the state of block {block}").into();
    } else if let Some(trouble) = &troubles.chain
        && wanted.is_some()
        && observed.job.is_none()
    {
        message = Arc::clone(&trouble.message);
        // A computing worker goes on computing, whatever becomes of its stake.
        if state != State::Active {
            state = State::Error;
        }
    }
    for trouble in [&troubles.sync, &troubles.connection].into_iter().flatten() {
        message = Arc::clone(&trouble.message);
        if trouble.attempts >= HITCHES {
            state = State::Error;
        }
    }
    Decision { state, action, message }
}

fn standing(desired: &Desired, settings: &Settings, observed: &Observed, info: &PhactoryInfo) -> Standing {
    let on_chain = on_chain(desired, settings, observed, info);
    if observed.caught_up || on_chain.state == State::Error {
        return on_chain;
    }
    Standing {
        state: State::Synching,
        message: "Synching block data...".into(),
        wanted: None,
        relays: on_chain.relays,
    }
}

/// Where the worker stands on chain, were it at the tip.
fn on_chain(desired: &Desired, settings: &Settings, observed: &Observed, info: &PhactoryInfo) -> Standing {
    if settings.sync_only || desired.sync_only() {
        return Standing::new(State::Synched, "Synched, sync only").silent();
    }
    let pid = desired.worker.pid;
    let Some(operator) = desired.operator() else {
        let message = format!("Synched; pool {pid} has no operator, so that nothing is sent on chain");
        return Standing::new(State::Synched, message).silent();
    };
    if let Some(twin) = &observed.twin {
        let message = format!("Has the same public key as worker {twin}: nothing is sent for it");
        return Standing::new(State::Error, message).silent();
    }
    let Some(chain) = &observed.chain else {
        let message = match &observed.chain_problem {
            Some(problem) => format!("Waiting for its on-chain state: {problem}"),
            None => "Waiting for its on-chain state".to_owned(),
        };
        return Standing::new(State::Synched, message).silent();
    };
    match chain.pool {
        Some(other) if other != pid => {
            let message = format!("Worker is assigned to pool {other}, not to pool {pid}");
            Standing::new(State::Error, message).silent()
        }
        pool => {
            candidate(desired, settings, observed, info, Candidate { chain, operator, ours: pool.is_some() })
        }
    }
}

struct Candidate<'a> {
    chain: &'a WorkerOnChain,
    operator: AccountId,
    ours: bool,
}

/// A worker that is in our pool, or in none.
fn candidate(
    desired: &Desired,
    settings: &Settings,
    observed: &Observed,
    info: &PhactoryInfo,
    candidate: Candidate<'_>,
) -> Standing {
    let Candidate { chain, operator, ours } = candidate;
    let session = chain.session.as_ref().filter(|_| ours);
    if let Some(session) = session.filter(|s| s.state == SessionState::WorkerCoolingDown) {
        return cooling_down(settings, observed, info, session);
    }
    let Some(registration) = &chain.registration else {
        return Standing::new(State::PreActive, "Registering worker...").wants(Operation::Register).silent();
    };
    if let Some(reason) = stale_registration(registration, operator, observed) {
        // Registering again does not end a session.
        let computing = session.is_some_and(|s| s.state.is_computing());
        let state = if computing { State::Active } else { State::PreActive };
        return Standing::new(state, reason).wants(Operation::Register);
    }
    if let Some(session) = session.filter(|s| s.state.is_computing()) {
        return computing(desired, session);
    }
    if let Some(waits) = unscored(settings, registration, observed) {
        return waits;
    }
    match session {
        _ if !ours => {
            Standing::new(State::PreActive, format!("Adding worker to pool {}", desired.worker.pid))
                .wants(Operation::AddToPool)
        }
        None => Standing::new(State::PreActive, "Waiting for its session"),
        Some(_) => Standing::new(State::PreActive, "Starting computing...")
            .wants(Operation::Start(desired.worker.stake)),
    }
}

fn stale_registration(
    registration: &Registration,
    operator: AccountId,
    observed: &Observed,
) -> Option<String> {
    if registration.operator != Some(operator) {
        let other = registration.operator.map_or_else(|| "none".to_owned(), |a| a.to_string());
        return Some(format!("Registering worker again: its operator on chain is {other}, not {operator}"));
    }
    observed.refresh_ra.then(|| "Registering worker again with a fresh attestation".to_owned())
}

/// What to do about a worker without a sufficient score; `None` where it has one.
fn unscored(settings: &Settings, registration: &Registration, observed: &Observed) -> Option<Standing> {
    let score = registration.initial_score.unwrap_or(0);
    let min = if settings.enforce_min_bench_score { settings.min_bench_score.max(1) } else { 1 };
    if score >= min {
        return None;
    }
    let message = match score {
        0 => "Waiting for its benchmark score".to_owned(),
        _ => format!("Its benchmark score is {score}, less than the minimum of {min}"),
    };
    let waits = Standing::new(State::PreActive, message);
    let again = settings.enforce_min_bench_score && !observed.benchmark_running;
    Some(if again { waits.wants(Operation::Register) } else { waits })
}

fn cooling_down(
    settings: &Settings,
    observed: &Observed,
    info: &PhactoryInfo,
    session: &Session,
) -> Standing {
    // The chain's own clock, as of the last block that the worker dispatched.
    let now_secs = info.current_block_time / 1000;
    let end = session.cool_down_start.saturating_add(observed.cool_down_period_secs);
    if now_secs < end {
        let left = end - now_secs;
        return Standing::new(
            State::Synched,
            match now_secs {
                0 => "Cooling down".to_owned(),
                _ => format!("Cooling down, about {} left", in_words(left)),
            },
        );
    }
    if settings.reclaim_after_cool_down {
        return Standing::new(State::Synched, "Cooled down, reclaiming its stake").wants(Operation::Reclaim);
    }
    Standing::new(State::Synched, "Cooled down, waiting to be reclaimed")
}

/// In whole hours or minutes, so that the message does not change with every block.
fn in_words(secs: u64) -> String {
    match secs {
        0..60 => "a minute".to_owned(),
        60..7200 => format!("{} minutes", secs.div_ceil(60)),
        _ => format!("{} hours", secs.div_ceil(3600)),
    }
}

fn computing(desired: &Desired, session: &Session) -> Standing {
    if session.state == SessionState::WorkerUnresponsive {
        // Its stake is not touched before it answers again: a restart would hide why it does not.
        return Standing::new(State::Active, "Unresponsive: the chain misses its heartbeats");
    }
    let wanted = desired.worker.stake;
    match session.stake {
        Some(stake) if stake < wanted => {
            Standing::new(State::Active, format!("Raising its stake from {stake} to {wanted}"))
                .wants(Operation::RaiseStake(wanted))
        }
        _ => Standing::new(State::Active, "Computing"),
    }
}
