//! [`Supervisor`]: reconciles runners and the fleet's helper tasks with the inventory.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::watch,
    task::{Id, JoinError, JoinSet},
    time::{MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use uuid::Uuid;

use super::{
    Config, Registry, Shared, genesis,
    runner::{Assignment, Runner},
    watchdog,
};
use crate::{
    blob::Genesis,
    inventory::Snapshot,
    sync::BackoffConfig,
    worker::{Context, Desired, Slot, Task},
};

/// Backoff of the fleet's helper tasks.
pub(super) const HELPER_BACKOFF: BackoffConfig =
    BackoffConfig { first: Duration::from_secs(1), max: Duration::from_secs(30) };
/// A task under the supervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Child {
    Genesis,
    Keys,
    Saver,
    Runner(usize),
}

impl fmt::Display for Child {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Genesis => f.write_str("genesis"),
            Self::Keys => f.write_str("keys"),
            Self::Saver => f.write_str("saver"),
            Self::Runner(number) => write!(f, "runner {number}"),
        }
    }
}

pub(super) struct Supervisor {
    shared: Arc<Shared>,
    ctx: Arc<Context>,
    genesis: watch::Sender<Option<Arc<Genesis>>>,
    config: Config,
    /// Cancelled after all other children have ended.
    stop_saver: CancellationToken,
    children: JoinSet<()>,
    names: HashMap<Id, Child>,
    shards: Vec<watch::Sender<Assignment>>,
    runner_of: HashMap<Uuid, usize>,
}

impl Supervisor {
    pub(super) fn new(
        shared: Arc<Shared>,
        ctx: Arc<Context>,
        genesis: watch::Sender<Option<Arc<Genesis>>>,
        config: Config,
    ) -> Self {
        Self {
            shared,
            ctx,
            genesis,
            config,
            stop_saver: CancellationToken::new(),
            children: JoinSet::new(),
            names: HashMap::new(),
            shards: Vec::new(),
            runner_of: HashMap::new(),
        }
    }

    pub(super) async fn run(mut self, mut snapshots: watch::Receiver<Arc<Snapshot>>) {
        let cancel = self.shared.cancel.clone();
        self.spawn(Child::Genesis, None);
        self.spawn(Child::Keys, None);
        self.spawn(Child::Saver, None);
        // `interval` panics at zero.
        let mut watchdog = interval(self.config.watchdog_interval.max(Duration::from_millis(1)));
        watchdog.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut edits = true;
        let first = Arc::clone(&snapshots.borrow_and_update());
        self.apply(&first);
        loop {
            tokio::select! {
                // First: on shutdown the children end too, which must not be treated as a failure.
                biased;
                () = cancel.cancelled() => break,
                changed = snapshots.changed(), if edits => match changed {
                    Ok(()) => {
                        let snapshot = Arc::clone(&snapshots.borrow_and_update());
                        self.apply(&snapshot);
                    }
                    // The inventory is closed: there are no more edits, but the workers continue.
                    Err(_) => edits = false,
                },
                _ = watchdog.tick() => watchdog::check(&self.shared, &self.ctx, &self.config),
                Some(ended) = self.children.join_next_with_id() => self.ended(ended),
            }
        }
        self.stop().await;
    }

    /// Waits for the children, which are cancelled; the saver last, because the others queue records until they end. It has
    /// its time even if one of them does not end.
    async fn stop(mut self) {
        let others = async {
            while self.names.values().any(|child| *child != Child::Saver) {
                let Some(ended) = self.children.join_next_with_id().await else { break };
                self.names.remove(&id_of(&ended));
            }
        };
        // Whoever waits for the fleet logs that tasks were abandoned.
        let _ = timeout(self.config.stop_timeout / 2, others).await;
        // Commands for a worker without a task: it has panicked, or its runner was not running.
        for slot in self.shared.registry().slots.iter().filter(|slot| slot.has_commands()) {
            Task::new(Arc::clone(&self.ctx), Arc::clone(slot), 0).keep_commands();
        }
        self.stop_saver.cancel();
        while self.children.join_next().await.is_some() {}
        self.ctx.jobs.ended().await;
    }

    fn spawn(&mut self, child: Child, wait: Option<Duration>) {
        let cancel = self.shared.cancel.clone();
        let ctx = Arc::clone(&self.ctx);
        let wait = wait.unwrap_or_default();
        let handle = match child {
            Child::Genesis => {
                let task = genesis::fetch(ctx, self.genesis.clone(), cancel.clone());
                self.children.spawn(delayed(wait, cancel, task))
            }
            Child::Keys => {
                let stop = cancel.clone();
                self.children.spawn(delayed(wait, cancel, async move { ctx.keys.run(stop).await }))
            }
            Child::Saver => {
                let (cancel, stop) = (self.stop_saver.clone(), self.stop_saver.clone());
                // Less than the fleet has: what could not be stored must be logged before its tasks are abandoned.
                let last_timeout = self.config.stop_timeout / 5 * 2;
                let task = async move { ctx.saver.run(stop, last_timeout).await };
                self.children.spawn(delayed(wait, cancel, task))
            }
            Child::Runner(index) => {
                let task = Runner::new(index, ctx, cancel.clone()).run(self.shards[index].subscribe());
                self.children.spawn(delayed(wait, cancel, task))
            }
        };
        self.names.insert(handle.id(), child);
    }

    fn ended(&mut self, ended: Result<(Id, ()), JoinError>) {
        let Some(child) = self.names.remove(&id_of(&ended)) else { return };
        match ended.err() {
            // It ends once it has fetched the genesis.
            None if child == Child::Genesis => {}
            None => {
                error!(task = %child, "a task of the fleet ended unexpectedly and is restarted");
                self.spawn(child, Some(HELPER_BACKOFF.first));
            }
            Some(e) => {
                error!(task = %child, error = %crate::text::describe(&e), "a task of the fleet panicked and is restarted");
                self.spawn(child, Some(HELPER_BACKOFF.first));
            }
        }
    }

    /// Updates slots and shards to an inventory snapshot.
    fn apply(&mut self, snapshot: &Snapshot) {
        if !self.config.chain_set_back {
            self.ctx.views.note_records(snapshot);
        }
        let before = self.shared.registry();
        let mut edited = before.slots.len() != snapshot.workers.len();
        let (mut slots, mut silenced) = (Vec::with_capacity(snapshot.workers.len()), Vec::new());
        for (i, worker) in snapshot.workers.iter().enumerate() {
            let pool = snapshot.pool(worker.pid).cloned();
            let desired = Desired { worker: Arc::clone(worker), pool };
            let slot = match before.by_id.get(&worker.id) {
                Some(slot) => {
                    slot.set_saved(snapshot.saved(worker.id));
                    if is_silenced(slot, Some(&desired)) {
                        silenced.push(Arc::clone(slot));
                    }
                    edited |= slot.set_desired(desired);
                    // The list is in the order of names: renaming one worker moves others.
                    edited |= before.slots.get(i).is_none_or(|other| !Arc::ptr_eq(other, slot));
                    Arc::clone(slot)
                }
                None => {
                    edited = true;
                    let saved = snapshot.saved(worker.id);
                    Arc::new(Slot::new(desired, saved, self.shared.changes.clone()))
                }
            };
            slots.push(slot);
        }
        if !edited {
            return;
        }
        self.assign(&slots);
        let ids: HashSet<Uuid> = slots.iter().map(|slot| slot.id()).collect();
        // A removed worker must leave the stake queue: its need would be reserved, and lost to the workers behind it.
        for gone in before.slots.iter().filter(|slot| !ids.contains(&slot.id())) {
            self.ctx.stakes.leave(gone.id());
            if is_silenced(gone, None) {
                silenced.push(Arc::clone(gone));
            }
        }
        warn_of_silenced(&silenced);
        let by_id = slots.iter().map(|slot| (slot.id(), Arc::clone(slot))).collect();
        self.shared.set_registry(Registry { slots, by_id, runners: self.shards.len() });
    }

    /// Assigns a runner to each worker that must run, and notifies the runners whose assignment changed.
    fn assign(&mut self, slots: &[Arc<Slot>]) {
        let admitted = self.admit(slots);
        let ids: HashSet<Uuid> = admitted.iter().map(|slot| slot.id()).collect();
        self.runner_of.retain(|id, _| ids.contains(id));
        // A runner stays even if its shard becomes empty, so that the indices of the others do not shift.
        let mut assignments: Vec<Vec<Arc<Slot>>> = vec![Vec::new(); self.shards.len()];
        let capacity = self.config.max_workers_per_runner.max(1);
        // Running workers keep their runner, and count before new ones are placed.
        let (placed, new): (Vec<_>, Vec<_>) =
            admitted.into_iter().partition(|slot| self.runner_of.contains_key(&slot.id()));
        for slot in placed {
            assignments[self.runner_of[&slot.id()]].push(slot);
        }
        for slot in new {
            let runner = assignments.iter().position(|slots| slots.len() < capacity).unwrap_or_else(|| {
                assignments.push(Vec::new());
                assignments.len() - 1
            });
            self.runner_of.insert(slot.id(), runner);
            assignments[runner].push(slot);
        }
        self.publish(assignments);
        for slot in slots.iter().filter(|slot| slot.status().runner.is_none()) {
            if let Some(reason) = slot.idle_reason() {
                slot.show_idle(reason);
            }
        }
    }

    /// Returns the workers that run. Beyond the limit, workers that already run take precedence: a new entry
    /// must not evict a computing worker.
    fn admit(&self, slots: &[Arc<Slot>]) -> Vec<Arc<Slot>> {
        let limit = self.config.max_workers;
        let (mut wanted, idle): (Vec<_>, Vec<_>) =
            slots.iter().cloned().partition(|slot| slot.desired().idle_reason().is_none());
        let workers = wanted.len();
        // Stable: those that do not run yet stay in the order of their names.
        wanted.sort_by_key(|slot| !self.runner_of.contains_key(&slot.id()));
        let refused = wanted.split_off(limit.min(workers));
        if !refused.is_empty() {
            warn!(limit, workers, "more workers than the fleet may run: the last ones added stay idle");
        }
        for slot in &wanted {
            slot.set_capacity_limit(None);
            let worker = &slot.desired().worker;
            self.ctx.stakes.join(worker.pid, &worker.name, worker.id);
        }
        for slot in &refused {
            slot.set_capacity_limit(Some(limit));
        }
        for slot in idle.iter().chain(&refused) {
            self.ctx.stakes.leave(slot.id());
        }
        wanted
    }

    fn publish(&mut self, assignments: Vec<Vec<Arc<Slot>>>) {
        for (index, assignment) in assignments.into_iter().enumerate() {
            let assignment: Assignment = Arc::new(assignment);
            match self.shards.get(index) {
                Some(shard) => {
                    // Runners whose shard is the same are not woken.
                    shard.send_if_modified(|known| {
                        let same = known.len() == assignment.len()
                            && known.iter().zip(assignment.iter()).all(|(a, b)| Arc::ptr_eq(a, b));
                        *known = assignment;
                        !same
                    });
                }
                None => {
                    info!(runner = index, workers = assignment.len(), "runner starts");
                    self.shards.push(watch::Sender::new(assignment));
                    self.spawn(Child::Runner(index), None);
                }
            }
        }
    }
}

/// Whether an edit ends the messages of a worker that computes; `after` is `None` if it is removed.
fn is_silenced(slot: &Slot, after: Option<&Desired>) -> bool {
    slot.status().needs_heartbeats() && !after.is_some_and(Desired::relays)
}

fn warn_of_silenced(silenced: &[Arc<Slot>]) {
    let Some(first) = silenced.first() else { return };
    warn!(
        workers = silenced.len(),
        worker = %first.desired().worker.name,
        "workers that compute were removed, disabled, set to sync only, or their pool lost its operator: without their \
         heartbeats their stake is slashed, unless another manager sends them; revert the edit, stop them, and edit then"
    );
}

fn id_of(ended: &Result<(Id, ()), JoinError>) -> Id {
    ended.as_ref().map_or_else(JoinError::id, |(id, ())| *id)
}

/// Runs a child after a pause, which its cancellation ends.
async fn delayed(wait: Duration, cancel: CancellationToken, task: impl Future<Output = ()>) {
    if !wait.is_zero() {
        cancel.run_until_cancelled(tokio::time::sleep(wait)).await;
    }
    task.await;
}
