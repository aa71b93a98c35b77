//! What fleet and worker task share: what is wanted, what was commanded, what is shown.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use metrics::gauge;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use uuid::Uuid;

use super::{Command, Desired, State, WorkerStatus};
use crate::sync::Position;

/// One worker's place in the fleet; outlives its task.
#[derive(Debug)]
pub(crate) struct Slot {
    id: Uuid,
    desired: watch::Sender<Arc<Desired>>,
    commands: Mutex<Vec<Command>>,
    commanded: Notify,
    shown: Mutex<Shown>,
    changes: watch::Sender<u64>,
}

#[derive(Debug)]
struct Shown {
    status: Arc<WorkerStatus>,
    moved_at: Instant,
}

impl Slot {
    /// A worker that does not run yet. `changes` is told of each change of its status.
    pub(crate) fn new(desired: Desired, changes: watch::Sender<u64>) -> Self {
        let message = desired.idle_reason().unwrap_or("Waiting for a runner").into();
        let status = WorkerStatus::idle(&desired, message, SystemTime::now());
        count(State::Idle, 1.0);
        Self {
            id: desired.worker.id,
            desired: watch::Sender::new(Arc::new(desired)),
            commands: Mutex::default(),
            commanded: Notify::new(),
            shown: Mutex::new(Shown { status: Arc::new(status), moved_at: Instant::now() }),
            changes,
        }
    }

    pub(crate) const fn id(&self) -> Uuid {
        self.id
    }

    /// What is wanted, now and when it is edited.
    pub(crate) fn edits(&self) -> watch::Receiver<Arc<Desired>> {
        self.desired.subscribe()
    }

    pub(crate) fn desired(&self) -> Arc<Desired> {
        Arc::clone(&self.desired.borrow())
    }

    /// Says what is wanted; gives whether that is something else.
    pub(crate) fn set_desired(&self, desired: Desired) -> bool {
        if **self.desired.borrow() == desired {
            return false;
        }
        let desired = Arc::new(desired);
        self.update(|status| {
            status.worker = Arc::clone(&desired.worker);
            status.pool = desired.pool.clone();
        });
        self.desired.send_replace(desired);
        true
    }

    /// Leaves a command. One of the same kind that still waits is replaced, and goes to the end: of a stop, a
    /// start and a stop the last is a stop. So there are never more than there are kinds.
    pub(crate) fn command(&self, command: Command) {
        let mut commands = lock(&self.commands);
        commands.retain(|waiting| *waiting != command);
        commands.push(command);
        drop(commands);
        self.commanded.notify_one();
    }

    /// Takes the commands that were left.
    pub(crate) fn take_commands(&self) -> Vec<Command> {
        std::mem::take(&mut *lock(&self.commands))
    }

    /// Waits until a command is there to be taken.
    pub(crate) async fn commanded(&self) {
        // A wake-up may be left over from one that was taken already.
        while lock(&self.commands).is_empty() {
            self.commanded.notified().await;
        }
    }

    pub(crate) fn status(&self) -> Arc<WorkerStatus> {
        Arc::clone(&lock(&self.shown).status)
    }

    /// When the worker last moved on.
    pub(crate) fn moved_at(&self) -> Instant {
        lock(&self.shown).moved_at
    }

    /// Changes what is shown and tells of it. Keeps the books on states, messages and moves.
    pub(crate) fn update(&self, change: impl FnOnce(&mut WorkerStatus)) {
        let mut shown = lock(&self.shown);
        let before = Arc::clone(&shown.status);
        let status = Arc::make_mut(&mut shown.status);
        change(status);
        if status.message != before.message || status.state != before.state {
            status.message_at = SystemTime::now();
        }
        if status.state != before.state {
            count(before.state, -1.0);
            count(status.state, 1.0);
        }
        if moved(before.position, status.position) {
            status.stalled = false;
            shown.moved_at = Instant::now();
        }
        drop(shown);
        self.changes.send_modify(|revision| *revision += 1);
    }

    /// Shows that the worker does not run, if that is what is wanted.
    pub(crate) fn show_idle(&self) {
        if let Some(reason) = self.desired().idle_reason() {
            self.update(|status| {
                status.state = State::Idle;
                status.message = reason.into();
                status.runner = None;
                status.stalled = false;
                status.failures = 0;
                status.lag = None;
            });
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        count(self.status().state, -1.0);
    }
}

fn count(state: State, by: f64) {
    gauge!("prb_worker_state", "state" => state.as_str()).increment(by);
}

/// Whether any of the numbers is another one; a worker that starts anew moves too.
fn moved(before: Option<Position>, after: Option<Position>) -> bool {
    before != after
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{inventory::Worker, primitives::PoolId};

    #[test]
    fn the_last_of_contrary_commands_is_the_last_to_be_taken() {
        let worker = Worker::new(Uuid::nil(), PoolId(1), "w", "http://w", 1);
        let slot = Slot::new(Desired { worker: Arc::new(worker), pool: None }, watch::Sender::new(0));
        for command in [Command::Stop, Command::Kick, Command::Start, Command::Stop, Command::Kick] {
            slot.command(command);
        }
        assert_eq!(slot.take_commands(), [Command::Start, Command::Stop, Command::Kick]);
        assert_eq!(slot.take_commands(), []);
    }
}
