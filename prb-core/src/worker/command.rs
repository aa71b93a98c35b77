//! [`Command`]: operators' commands for one worker, and the preview of their effect.

use std::fmt;

use super::{Operation, Reason, Stage, WorkerStatus, reason::Pha};
use crate::{
    chain::SessionState,
    inventory::{FleetRecord, Goal, PendingOperationKind},
    primitives::Balance,
};

/// A command of an operator for a running worker. Every command is idempotent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Command {
    /// Discard recorded failures and observe everything again.
    Restart,
    /// Like `Restart`, and register again with a fresh attestation.
    RegisterAgain,
    /// Make the worker's process exit; its supervisor starts it again.
    Kick,
    /// Write the worker's state to its disk. Other commands wait until that is done.
    Checkpoint,
    /// Compute. After a stop: reclaim the stake when the cool-down is over and start again.
    Start,
    /// Stop computing. The stake stays locked for the cool-down.
    Stop,
    /// Reclaim the stake of a stopped worker when the cool-down is over, and leave it stopped.
    Reclaim,
    /// Take a stopped worker out of its pool, once its stake is free.
    LeavePool,
    /// Accept the key that answers at the worker's endpoint as a replacement of the last known one,
    /// regardless of the stake of the latter.
    ConfirmKey,
}

impl Command {
    /// Every command.
    pub const ALL: [Self; 9] = [
        Self::Restart,
        Self::RegisterAgain,
        Self::Kick,
        Self::Checkpoint,
        Self::Start,
        Self::Stop,
        Self::Reclaim,
        Self::LeavePool,
        Self::ConfirmKey,
    ];

    /// The command's name on command lines and in APIs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Restart => "restart",
            Self::RegisterAgain => "register-again",
            Self::Kick => "kick",
            Self::Checkpoint => "checkpoint",
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Reclaim => "reclaim",
            Self::LeavePool => "leave-pool",
            Self::ConfirmKey => "confirm-key",
        }
    }

    /// Whether the command changes the worker's persisted record.
    pub(crate) const fn is_stored(self) -> bool {
        self.goal().is_some() || matches!(self, Self::ConfirmKey)
    }

    /// The goal that the command sets, if any. It is set regardless of the session's current state, which may
    /// be unknown or about to change: the next view adjusts it ([`super::record::saved_after`]).
    const fn goal(self) -> Option<Goal> {
        match self {
            Self::Start => Some(Goal::StartAgain),
            Self::Stop => Some(Goal::Stop),
            Self::Reclaim => Some(Goal::Reclaim),
            Self::LeavePool => Some(Goal::LeavePool),
            _ => None,
        }
    }
}

impl fmt::Display for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Returns the persisted record of a worker with the goal of a command.
pub(super) fn with_goal(command: Command, saved: FleetRecord, status: &WorkerStatus) -> FleetRecord {
    let Some(goal) = command.goal() else { return saved };
    let computes = status.session_state().is_some_and(SessionState::is_computing);
    // A later stop counts as external only after the worker was seen computing again.
    FleetRecord { goal, was_computing: saved.was_computing && computes, ..saved }
}

/// Describes what a command will do to a worker, or why it cannot be given now. In words for operators.
pub(crate) fn preview(command: Command, status: &WorkerStatus) -> Result<String, String> {
    match command {
        Command::Restart => Ok("clears recorded failures and observes the worker again".into()),
        Command::RegisterAgain => Ok("registers again with a fresh attestation".into()),
        Command::Kick => Ok("pRuntime exits; its supervisor starts it again".into()),
        Command::Checkpoint => Ok("pRuntime writes its state to its disk".into()),
        Command::ConfirmKey => confirm_key(status),
        // The commands above concern the process alone; those below change something on chain.
        _ if on_chain_off(status) => Err("it only syncs: nothing is sent on chain for it".into()),
        _ => last_key(command, status).unwrap_or_else(|| on_chain(command, status)),
    }
}

/// As [`preview`], of the commands that change something on chain.
fn on_chain(command: Command, status: &WorkerStatus) -> Result<String, String> {
    let session = status.session_state();
    let stake = status.chain.as_ref().map_or(0, |chain| chain.at_stake());
    let computing = session.is_some_and(SessionState::is_computing);
    match command {
        Command::Reclaim | Command::LeavePool if status.chain.is_none() => {
            Err("its on-chain state is not known yet: try again in a moment".into())
        }
        Command::Stop if status.chain.is_none() => Ok(format!(
            "its on-chain state is not known yet: if it computes, it stops; {}it stays stopped",
            pending_start(status)
        )),
        Command::Start => Ok(match session {
            _ if computing && is_in_flight(status, Operation::Stop) => format!(
                "already computes; its stop {}; if a trader already has it, the worker starts again after the cool-down",
                taken_back(status)
            ),
            _ if computing => {
                "already computes; a commanded stop is cancelled or, if it was submitted already, the worker starts \
                 again after the cool-down"
                    .into()
            }
            Some(SessionState::WorkerCoolingDown) => format!(
                "is cooling down; then {} are reclaimed, and it starts again with {}",
                Pha(stake),
                Pha(status.worker.stake)
            ),
            _ => format!("starts computing with {}", Pha(status.worker.stake)),
        }),
        Command::Stop if computing => Ok(format!(
            "stops computing; {} stay locked for the cool-down, after which it stays stopped",
            Pha(stake)
        )),
        Command::Stop => Ok(format!("does not compute; {}it stays stopped", pending_start(status))),
        Command::Reclaim | Command::LeavePool if computing => Err("it is computing: stop it first".into()),
        Command::Reclaim => Ok(format!("{}{}", pending_start(status), reclaim(session, stake))),
        Command::LeavePool => Ok(format!("{}{}", pending_start(status), leave_pool(status, stake))),
        Command::Restart
        | Command::RegisterAgain
        | Command::Kick
        | Command::Checkpoint
        | Command::ConfirmKey => Ok("changes nothing on chain".into()),
    }
}

fn is_in_flight(status: &WorkerStatus, operation: Operation) -> bool {
    status.in_flight.is_some_and(|in_flight| in_flight.operation == operation.name())
}

/// Says that what is in flight is withdrawn.
fn taken_back(status: &WorkerStatus) -> &'static str {
    match status.in_flight.map(|in_flight| in_flight.stage) {
        Some(Stage::Queued) => "is in the queue and is taken back",
        _ => "is being submitted and is taken back",
    }
}

/// Describes what happens to a start that has not taken effect, for a command after which the worker must not compute; ends
/// with a semicolon, unless it is empty.
fn pending_start(status: &WorkerStatus) -> String {
    let then = "the worker starts and is stopped again, with its stake locked for the cool-down; ";
    if is_in_flight(status, Operation::Start(0)) {
        return format!("its start {}; if a trader already has it, {then}", taken_back(status));
    }
    match status.saved.sent {
        // Of an earlier process, or a job whose outcome is unknown.
        Some(sent) if sent.operation == PendingOperationKind::Start => {
            format!("a start was submitted earlier; if it still takes effect, {then}")
        }
        _ => String::new(),
    }
}

fn leave_pool(status: &WorkerStatus, stake: Balance) -> String {
    match (&status.chain, status.session_state()) {
        (_, Some(SessionState::WorkerCoolingDown)) => {
            format!(
                "is cooling down; then {} are reclaimed, and it leaves pool {}",
                Pha(stake),
                status.worker.pid
            )
        }
        (Some(chain), _) if chain.pool.is_none() => "is in no pool, and is not added to one".into(),
        _ => format!("leaves pool {} and is not added again", status.worker.pid),
    }
}

/// The effect of a command on the last known key, if another one answers now, or it answers elsewhere.
fn last_key(command: Command, status: &WorkerStatus) -> Option<Result<String, String>> {
    let (last, at_stake, holder) = match &status.reason {
        Reason::KeyChanged { last, at_stake, moved_to, .. } => (last, *at_stake, moved_to.as_ref()),
        Reason::KeyMoved { key, holder } => (key, 0, Some(holder)),
        _ => return None,
    };
    let pool = status.worker.pid;
    Some(match (command, holder) {
        (Command::Stop, Some(holder)) => Ok(format!(
            "its last known key answers at worker {holder}, which goes on; this entry stays stopped"
        )),
        (Command::Reclaim | Command::LeavePool, Some(holder)) => Err(format!(
            "its last known key {last} answers at worker {holder}: give the command for that one"
        )),
        (Command::Stop, None) => Ok(format!(
            "its last known key {last} stops computing if it is computing; {} stay locked for the cool-down",
            Pha(at_stake)
        )),
        (Command::Reclaim, None) => Ok(format!(
            "{} of its last known key {last} are reclaimed when the cool-down is over; it stays stopped",
            Pha(at_stake)
        )),
        (Command::LeavePool, None) => Ok(format!(
            "its last known key {last} leaves pool {pool} when its {} are reclaimed; it is not added again",
            Pha(at_stake)
        )),
        _ => return None,
    })
}

fn reclaim(session: Option<SessionState>, stake: Balance) -> String {
    match session {
        Some(SessionState::WorkerCoolingDown) => {
            format!("{} are reclaimed at the end of the cool-down; it stays stopped", Pha(stake))
        }
        _ => "has nothing to reclaim; it stays stopped".into(),
    }
}

fn confirm_key(status: &WorkerStatus) -> Result<String, String> {
    let Some(now) = status.public_key else { return Err("no key has answered at its endpoint yet".into()) };
    match &status.reason {
        Reason::KeyChanged { last, at_stake, .. } => Ok(format!(
            "{now} replaces {last}, whose {} at stake stay on chain; {}",
            Pha(*at_stake),
            after_confirmation(status)
        )),
        Reason::LastKeyStarting { last } => Ok(format!(
            "{now} replaces {last}, whose start may still lock stake; {}",
            after_confirmation(status)
        )),
        _ => Ok(format!("{now} is the worker's key")),
    }
}

fn after_confirmation(status: &WorkerStatus) -> String {
    match status.saved.goal {
        Goal::Compute | Goal::StartAgain => format!(
            "the new key is registered, added and started with {}, unless it was stopped at another entry",
            Pha(status.worker.stake)
        ),
        goal => format!("the new key is not started, as this entry's goal is {goal}"),
    }
}

fn on_chain_off(status: &WorkerStatus) -> bool {
    matches!(status.reason, Reason::SyncOnly | Reason::NoOperator { .. })
}
