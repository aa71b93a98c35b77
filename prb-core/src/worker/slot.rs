//! [`Slot`]: the state that the fleet and a worker's task share: configuration, commands, status, events.

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
use crate::{inventory::FleetRecord, sync::Position};

/// One worker's entry in the fleet. Outlives the worker's task.
#[derive(Debug)]
pub(crate) struct Slot {
    id: Uuid,
    desired: watch::Sender<Arc<Desired>>,
    /// The record that the inventory has persisted.
    saved: Mutex<FleetRecord>,
    /// The fleet's limit, if it leaves no capacity for this worker.
    over_limit: Mutex<Option<usize>>,
    commands: Mutex<Commands>,
    taken: watch::Sender<Taken>,
    woken: Notify,
    published: Mutex<Published>,
    events: Mutex<Events>,
    changes: watch::Sender<u64>,
}

/// Commands that wait for the worker's task.
#[derive(Debug, Default)]
struct Commands {
    waiting: Vec<Command>,
    /// How many were given so far.
    given: u64,
}

/// The commands that the worker's task has taken.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Taken {
    /// How many of those given.
    pub(crate) commands: u64,
    /// The change that stores their effect on the worker's record (see [`super::Saver::stored`]).
    pub(crate) change: u64,
}

#[derive(Debug)]
struct Published {
    status: Arc<WorkerStatus>,
    /// The last known position. A worker that crashes and returns to the same position has not advanced.
    position: Option<Position>,
    moved_at: Instant,
}

impl Slot {
    /// Creates the slot of a worker that does not run yet. `changes` is bumped at each change of its status.
    pub(crate) fn new(desired: Desired, saved: FleetRecord, changes: watch::Sender<u64>) -> Self {
        let reason = desired.idle_reason().unwrap_or(Reason::AwaitingRunner);
        let mut status = WorkerStatus::idle(&desired, reason, SystemTime::now());
        status.saved = saved;
        count(&status, 1.0);
        Self {
            id: desired.worker.id,
            desired: watch::Sender::new(Arc::new(desired)),
            saved: Mutex::new(saved),
            over_limit: Mutex::default(),
            commands: Mutex::default(),
            taken: watch::Sender::default(),
            woken: Notify::new(),
            published: Mutex::new(Published {
                status: Arc::new(status),
                position: None,
                moved_at: Instant::now(),
            }),
            events: Mutex::default(),
            changes,
        }
    }

    pub(crate) const fn id(&self) -> Uuid {
        self.id
    }

    /// The desired configuration, as a watch.
    pub(crate) fn edits(&self) -> watch::Receiver<Arc<Desired>> {
        self.desired.subscribe()
    }

    pub(crate) fn desired(&self) -> Arc<Desired> {
        Arc::clone(&self.desired.borrow())
    }

    /// Sets the desired configuration; returns whether it changed.
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

    /// Keeps the worker idle because the fleet runs its limit of workers; `None` admits it.
    pub(crate) fn set_capacity_limit(&self, limit: Option<usize>) {
        *lock(&self.over_limit) = limit;
    }

    /// Returns why the worker must not run, if so.
    pub(crate) fn idle_reason(&self) -> Option<Reason> {
        let over_limit = || (*lock(&self.over_limit)).map(|limit| Reason::FleetFull { limit });
        self.desired().idle_reason().or_else(over_limit)
    }

    /// The record that the inventory has persisted.
    pub(crate) fn saved(&self) -> FleetRecord {
        *lock(&self.saved)
    }

    /// Notes the record that the inventory has persisted.
    pub(crate) fn set_saved(&self, saved: FleetRecord) {
        let before = std::mem::replace(&mut *lock(&self.saved), saved);
        if before != saved {
            self.woken.notify_one();
        }
    }

    /// Queues a command. A queued one of the same kind is replaced and moves to the end: of stop, start and
    /// stop the last one must be the stop. This also bounds the queue by the number of kinds. Returns how many were
    /// given, for [`Self::taken`].
    pub(crate) fn command(&self, command: Command) -> u64 {
        let mut commands = lock(&self.commands);
        // Also makes a command that is given twice run once.
        commands.waiting.retain(|waiting| *waiting != command);
        commands.waiting.push(command);
        commands.given += 1;
        let given = commands.given;
        drop(commands);
        self.woken.notify_one();
        given
    }

    /// Whether commands are queued.
    pub(crate) fn has_commands(&self) -> bool {
        !lock(&self.commands).waiting.is_empty()
    }

    /// Takes the queued commands; also returns how many were given so far.
    pub(crate) fn take_commands(&self) -> (Vec<Command>, u64) {
        let mut commands = lock(&self.commands);
        (std::mem::take(&mut commands.waiting), commands.given)
    }

    /// Notes that the effect of the first `commands` on the worker's record is queued as `change`.
    pub(crate) fn set_taken(&self, commands: u64, change: u64) {
        self.taken.send_replace(Taken { commands, change });
    }

    /// The commands that were taken, as a watch.
    pub(crate) fn taken(&self) -> watch::Receiver<Taken> {
        self.taken.subscribe()
    }

    /// Waits until a command is queued or the persisted record changes. May wake up spuriously once.
    ///
    /// # Cancel safety
    /// Safe.
    pub(crate) async fn woken(&self) {
        self.woken.notified().await;
    }

    pub(crate) fn status(&self) -> Arc<WorkerStatus> {
        Arc::clone(&lock(&self.published).status)
    }

    /// When the worker last advanced.
    pub(crate) fn moved_at(&self) -> Instant {
        lock(&self.published).moved_at
    }

    /// Records an event.
    pub(crate) fn event(&self, kind: EventKind) {
        lock(&self.events).push(kind);
    }

    /// The recorded events, oldest first.
    pub(crate) fn events(&self) -> Vec<Event> {
        lock(&self.events).list()
    }

    /// Changes the status and notifies watchers. Also updates the state metrics, events and the time of the
    /// last advance.
    pub(crate) fn update(&self, change: impl FnOnce(&mut WorkerStatus)) {
        let mut guard = lock(&self.published);
        let published = &mut *guard;
        let before = Arc::clone(&published.status);
        let status = Arc::make_mut(&mut published.status);
        change(status);
        if status.message != before.message || status.state != before.state {
            status.message_at = SystemTime::now();
            status.message_since = Instant::now().into_std();
        }
        // The gauges count workers by label: the old label's must go down for each one that goes up.
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
        // A position lost and regained is no progress: see `Published::position`.
        if status.position.is_some() && status.position != published.position {
            status.stalled = false;
            published.position = status.position;
            published.moved_at = Instant::now();
        }
        // Released before watchers are notified: they read the status.
        drop(guard);
        if let Some(state) = state {
            self.event(state);
        }
        self.changes.send_modify(|revision| *revision += 1);
    }

    /// Shows the worker as not running.
    pub(crate) fn show_idle(&self, reason: Reason) {
        self.update(|status| {
            status.state = State::Idle;
            status.message = reason.to_string().into();
            status.reason = reason;
            status.runner = None;
            status.stalled = false;
            status.failures = 0;
            status.lag = None;
            status.in_flight = None;
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
        let slot = Slot::new(desired, FleetRecord::default(), watch::Sender::new(0));
        for command in [Command::Stop, Command::Kick, Command::Start, Command::Stop, Command::Kick] {
            slot.command(command);
        }
        assert_eq!(slot.take_commands(), (vec![Command::Start, Command::Stop, Command::Kick], 5));
        assert_eq!(slot.take_commands(), (vec![], 5));
    }
}
