//! [`Command`]: what operators tell one worker, and what will happen.

use std::fmt;

use super::{Reason, WorkerStatus, reason::Pha};
use crate::{
    chain::SessionState,
    inventory::{Goal, Saved},
    primitives::Balance,
};

/// What an operator may tell a running worker. Each may be given again without harm.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Command {
    /// Forget what failed and observe everything from scratch.
    Restart,
    /// The same, and register again with a fresh attestation.
    RegisterAgain,
    /// Make the worker's process exit; its supervisor starts it again.
    Kick,
    /// Keep the worker's state on its disk. Other commands wait until that is done.
    Checkpoint,
    /// Compute, after a stop: reclaim the stake when the cool-down is over and start again.
    Start,
    /// Stop computing. The stake stays locked for the cool-down.
    Stop,
    /// Reclaim the stake of a stopped worker when the cool-down is over, and leave it stopped.
    Reclaim,
    /// Take a stopped worker out of its pool, once its stake is free.
    LeavePool,
    /// Accept the key that answers at the worker's endpoint in place of the last one, whatever that one has
    /// at stake.
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

    /// Its name for command lines and programs.
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

    /// The goal that it sets, if it sets one. What the worker does on chain may not be known, or may change in a
    /// moment: the next view makes of it what fits.
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

/// What is kept of a worker after a command, from what was kept and what is seen of it.
pub(super) fn saved_after(command: Command, saved: Saved, status: &WorkerStatus) -> Saved {
    let session = status.session_state();
    let mut saved = saved;
    if let Some(goal) = command.goal() {
        saved.goal = goal;
        // A later stop from elsewhere is one only after it was seen computing again.
        saved.was_computing &= session.is_some_and(SessionState::is_computing);
    }
    if command == Command::ConfirmKey
        && let Some(key) = status.public_key
    {
        saved = Saved { key: Some(key), was_computing: false, sent: None, ..saved };
    }
    saved
}

/// What a command will do to a worker, or why it cannot be given now. In words for operators.
pub(crate) fn preview(command: Command, status: &WorkerStatus) -> Result<String, String> {
    let session = status.session_state();
    let stake = status.chain.as_ref().map_or(0, |chain| chain.at_stake());
    let computing = session.is_some_and(SessionState::is_computing);
    match command {
        Command::Restart => Ok("forgets what failed and looks at the worker again".into()),
        Command::RegisterAgain => Ok("registers again with a fresh attestation".into()),
        Command::Kick => Ok("pRuntime exits; its supervisor starts it again".into()),
        Command::Checkpoint => Ok("pRuntime writes its state to its disk".into()),
        Command::ConfirmKey => confirm_key(status),
        _ if on_chain_off(status) => Err("nothing is sent on chain for it: it only syncs".into()),
        Command::Reclaim | Command::LeavePool if status.chain.is_none() => {
            Err("what it does on chain is not known yet: try again in a moment".into())
        }
        Command::Stop if status.chain.is_none() => {
            Ok("what it does on chain is not known yet: it stops computing if it does, and stays stopped".into())
        }
        Command::Start => Ok(match session {
            _ if computing => {
                "computes already; a stop that was commanded is taken back, or where it is on its way already, it \
                 starts again after the cool-down"
                    .into()
            }
            Some(SessionState::WorkerCoolingDown) => format!(
                "cools down; then {} are reclaimed, and it starts again with {}",
                Pha(stake),
                Pha(status.worker.stake)
            ),
            _ => format!("starts computing with {}", Pha(status.worker.stake)),
        }),
        Command::Stop if computing => Ok(format!(
            "stops computing; {} stay locked for the cool-down, and it stays stopped after that",
            Pha(stake)
        )),
        Command::Stop => Ok("does not compute; it stays stopped".into()),
        Command::Reclaim | Command::LeavePool if computing => Err("it computes: stop it first".into()),
        Command::Reclaim => Ok(reclaim(session, stake)),
        Command::LeavePool => Ok(match (&status.chain, session) {
            (_, Some(SessionState::WorkerCoolingDown)) => {
                format!(
                    "cools down; then {} are reclaimed, and it leaves pool {}",
                    Pha(stake),
                    status.worker.pid
                )
            }
            (Some(chain), _) if chain.pool.is_none() => "is in no pool, and stays out".into(),
            _ => format!("leaves pool {} and stays out", status.worker.pid),
        }),
    }
}

fn reclaim(session: Option<SessionState>, stake: Balance) -> String {
    match session {
        Some(SessionState::WorkerCoolingDown) => {
            format!("{} are reclaimed when the cool-down is over; it stays stopped", Pha(stake))
        }
        _ => "has nothing to reclaim; it stays stopped".into(),
    }
}

fn confirm_key(status: &WorkerStatus) -> Result<String, String> {
    let Some(now) = status.public_key else { return Err("no key was seen at its endpoint yet".into()) };
    match &status.reason {
        Reason::KeyChanged { last, at_stake, .. } => Ok(format!(
            "{now} takes the place of {last}, whose {} at stake are left to the chain; the new key is \
             registered, added and started with {}",
            Pha(*at_stake),
            Pha(status.worker.stake)
        )),
        _ => Ok(format!("{now} is the worker's key")),
    }
}

fn on_chain_off(status: &WorkerStatus) -> bool {
    matches!(status.reason, Reason::SyncOnly | Reason::NoOperator { .. })
}
