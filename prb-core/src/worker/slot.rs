//! [`Slot`]: what fleet and worker task share: what is wanted, what was commanded, what is shown.

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

use super::{Command, Desired, Event, EventKind, Reason, State, WorkerStatus, event::Events};
use crate::{inventory::Saved, sync::Position};

/// One worker's place in the fleet; outlives its task.
#[derive(Debug)]
pub(crate) struct Slot {
    id: Uuid,
    desired: watch::Sender<Arc<Desired>>,
    /// What the inventory has stored of it.
    saved: Mutex<Saved>,
    /// The fleet's bound on workers, where it leaves no room for this one.
    no_room: Mutex<Option<usize>>,
    commands: Mutex<Vec<Command>>,
    woken: Notify,
    shown: Mutex<Shown>,
    events: Mutex<Events>,
    changes: watch::Sender<u64>,
}

#[derive(Debug)]
struct Shown {
    status: Arc<WorkerStatus>,
    /// Where it was when it was last seen. One that crashes and comes back at the same place has not moved.
    position: Option<Position>,
    moved_at: Instant,
}

impl Slot {
    /// A worker that does not run yet. `changes` is told of each change of its status.
    pub(crate) fn new(desired: Desired, saved: Saved, changes: watch::Sender<u64>) -> Self {
        let reason = desired.idle_reason().unwrap_or(Reason::AwaitingRunner);
        let mut status = WorkerStatus::idle(&desired, reason, SystemTime::now());
        status.saved = saved;
        count(&status, 1.0);
        Self {
            id: desired.worker.id,
            desired: watch::Sender::new(Arc::new(desired)),
            saved: Mutex::new(saved),
            no_room: Mutex::default(),
            commands: Mutex::default(),
            woken: Notify::new(),
            shown: Mutex::new(Shown { status: Arc::new(status), position: None, moved_at: Instant::now() }),
            events: Mutex::default(),
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

    /// The fleet has no room for the worker, as it runs `limit` of them; or it has.
    pub(crate) fn refuse_room(&self, limit: Option<usize>) {
        *lock(&self.no_room) = limit;
    }

    /// Why the worker is not to run, if so.
    pub(crate) fn idle_reason(&self) -> Option<Reason> {
        let no_room = || (*lock(&self.no_room)).map(|limit| Reason::FleetFull { limit });
        self.desired().idle_reason().or_else(no_room)
    }

    /// What the inventory has stored of the worker.
    pub(crate) fn saved(&self) -> Saved {
        *lock(&self.saved)
    }

    /// The inventory has stored this.
    pub(crate) fn set_saved(&self, saved: Saved) {
        let before = std::mem::replace(&mut *lock(&self.saved), saved);
        if before != saved {
            self.woken.notify_one();
        }
    }

    /// Leaves a command. One of the same kind that still waits is replaced, and goes to the end: of a stop, a
    /// start and a stop the last is a stop. So there are never more than there are kinds.
    pub(crate) fn command(&self, command: Command) {
        let mut commands = lock(&self.commands);
        commands.retain(|waiting| *waiting != command);
        commands.push(command);
        drop(commands);
        self.woken.notify_one();
    }

    /// Takes the commands that were left.
    pub(crate) fn take_commands(&self) -> Vec<Command> {
        std::mem::take(&mut *lock(&self.commands))
    }

    /// Waits until a command is there, or what is stored has changed. May wake up for nothing once.
    ///
    /// # Cancel safety
    /// Safe.
    pub(crate) async fn woken(&self) {
        self.woken.notified().await;
    }

    pub(crate) fn status(&self) -> Arc<WorkerStatus> {
        Arc::clone(&lock(&self.shown).status)
    }

    /// When the worker last moved on.
    pub(crate) fn moved_at(&self) -> Instant {
        lock(&self.shown).moved_at
    }

    /// Notes something that happened.
    pub(crate) fn event(&self, kind: EventKind) {
        lock(&self.events).push(kind);
    }

    /// The last events, oldest first.
    pub(crate) fn events(&self) -> Vec<Event> {
        lock(&self.events).list()
    }

    /// Changes what is shown and tells of it. Keeps the books on states, messages and moves.
    pub(crate) fn update(&self, change: impl FnOnce(&mut WorkerStatus)) {
        let mut guard = lock(&self.shown);
        let shown = &mut *guard;
        let before = Arc::clone(&shown.status);
        let status = Arc::make_mut(&mut shown.status);
        change(status);
        if status.message != before.message || status.state != before.state {
            status.message_at = SystemTime::now();
        }
        if status.state != before.state || status.reason.code() != before.reason.code() {
            count(&before, -1.0);
            count(status, 1.0);
        }
        let state = (status.state != before.state).then(|| EventKind::State {
            before: before.state,
            after: status.state,
            reason: status.reason.code(),
            message: Arc::clone(&status.message),
        });
        if status.position.is_some() && status.position != shown.position {
            status.stalled = false;
            shown.position = status.position;
            shown.moved_at = Instant::now();
        }
        drop(guard);
        if let Some(state) = state {
            self.event(state);
        }
        self.changes.send_modify(|revision| *revision += 1);
    }

    /// Shows why the worker does not run.
    pub(crate) fn show_idle(&self, reason: Reason) {
        self.update(|status| {
            status.state = State::Idle;
            status.message = reason.to_string().into();
            status.reason = reason;
            status.runner = None;
            status.stalled = false;
            status.failures = 0;
            status.lag = None;
        });
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        count(&self.status(), -1.0);
    }
}

fn count(status: &WorkerStatus, by: f64) {
    gauge!("prb_worker_state", "state" => status.state.as_str()).increment(by);
    gauge!("prb_worker_reason", "reason" => status.reason.code()).increment(by);
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
        let desired = Desired { worker: Arc::new(worker), pool: None };
        let slot = Slot::new(desired, Saved::default(), watch::Sender::new(0));
        for command in [Command::Stop, Command::Kick, Command::Start, Command::Stop, Command::Kick] {
            slot.command(command);
        }
        assert_eq!(slot.take_commands(), [Command::Start, Command::Stop, Command::Kick]);
        assert_eq!(slot.take_commands(), []);
    }
}
