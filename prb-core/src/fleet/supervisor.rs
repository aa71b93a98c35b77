//! The supervisor: from the inventory to runners, and the eye on those who stay behind.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use metrics::gauge;
use tokio::{
    sync::watch,
    task::{Id, JoinError, JoinSet},
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};
use uuid::Uuid;

use super::{
    Config, Roster, Shared,
    runner::{Roll, Runner},
};
use crate::{
    blob::Genesis,
    inventory::Snapshot,
    sync::{Backoff, BackoffConfig, Step, plan},
    worker::{Context, Desired, Slot},
};

/// Waits of the fleet's own helpers.
const HELPER_BACKOFF: BackoffConfig =
    BackoffConfig { first: Duration::from_secs(1), max: Duration::from_secs(30) };
/// How many names one warning has.
const MAX_NAMES: usize = 10;

/// The tasks under the supervisor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Child {
    Genesis,
    Runner(usize),
}

pub(super) struct Supervisor {
    shared: Arc<Shared>,
    ctx: Arc<Context>,
    genesis: watch::Sender<Option<Arc<Genesis>>>,
    config: Config,
    children: JoinSet<()>,
    names: HashMap<Id, Child>,
    shards: Vec<watch::Sender<Roll>>,
    homes: HashMap<Uuid, usize>,
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
            children: JoinSet::new(),
            names: HashMap::new(),
            shards: Vec::new(),
            homes: HashMap::new(),
        }
    }

    pub(super) async fn run(mut self, mut snapshots: watch::Receiver<Arc<Snapshot>>) {
        let cancel = self.shared.cancel.clone();
        self.spawn(Child::Genesis, None);
        let mut watchdog = interval(self.config.watchdog_interval.max(Duration::from_millis(1)));
        watchdog.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut edits = true;
        let first = Arc::clone(&snapshots.borrow_and_update());
        self.apply(&first);
        loop {
            tokio::select! {
                // First: at the end the children end too, and that is no failure then.
                biased;
                () = cancel.cancelled() => break,
                changed = snapshots.changed(), if edits => match changed {
                    Ok(()) => {
                        let snapshot = Arc::clone(&snapshots.borrow_and_update());
                        self.apply(&snapshot);
                    }
                    // No more edits; the workers go on.
                    Err(_) => edits = false,
                },
                _ = watchdog.tick() => self.watch(),
                Some(ended) = self.children.join_next_with_id() => self.ended(ended),
            }
        }
        while self.children.join_next().await.is_some() {}
    }

    fn spawn(&mut self, child: Child, wait: Option<Duration>) {
        let cancel = self.shared.cancel.clone();
        let ctx = Arc::clone(&self.ctx);
        let wait = wait.unwrap_or_default();
        let handle = match child {
            Child::Genesis => {
                let genesis = self.genesis.clone();
                self.children.spawn(after(wait, fetch_genesis(ctx, genesis, cancel)))
            }
            Child::Runner(index) => {
                let roll = self.shards[index].subscribe();
                self.children.spawn(after(wait, Runner::new(index, ctx, cancel).run(roll)))
            }
        };
        self.names.insert(handle.id(), child);
    }

    fn ended(&mut self, ended: Result<(Id, ()), JoinError>) {
        let (id, panic) = match ended {
            Ok((id, ())) => (id, None),
            Err(e) => (e.id(), Some(e)),
        };
        let Some(child) = self.names.remove(&id) else { return };
        match panic {
            None if child == Child::Genesis => {}
            None => {
                error!(?child, "a task of the fleet ended early and is started again");
                self.spawn(child, Some(HELPER_BACKOFF.first));
            }
            Some(e) => {
                error!(?child, error = %e, "a task of the fleet panicked and is started again");
                self.spawn(child, Some(HELPER_BACKOFF.first));
            }
        }
    }

    /// Brings slots and shards in line with the inventory.
    fn apply(&mut self, snapshot: &Snapshot) {
        let before = self.shared.roster();
        let mut edited = before.slots.len() != snapshot.workers.len();
        let mut slots = Vec::with_capacity(snapshot.workers.len());
        for (i, worker) in snapshot.workers.iter().enumerate() {
            let pool = snapshot.pool(worker.pid).cloned();
            let desired = Desired { worker: Arc::clone(worker), pool };
            let slot = match before.by_id.get(&worker.id) {
                Some(slot) => {
                    edited |= slot.set_desired(desired);
                    edited |= before.slots.get(i).is_none_or(|other| !Arc::ptr_eq(other, slot));
                    Arc::clone(slot)
                }
                None => {
                    edited = true;
                    Arc::new(Slot::new(desired, self.shared.changes.clone()))
                }
            };
            slots.push(slot);
        }
        if !edited {
            return;
        }
        self.assign(&slots);
        let by_id = slots.iter().map(|slot| (slot.id(), Arc::clone(slot))).collect();
        self.shared.set_roster(Roster { slots, by_id, runners: self.shards.len() });
    }

    /// Gives each worker that is to run a home, and tells the runners whose roll has changed.
    fn assign(&mut self, slots: &[Arc<Slot>]) {
        let mut active: Vec<&Arc<Slot>> =
            slots.iter().filter(|slot| slot.desired().idle_reason().is_none()).collect();
        if active.len() > self.config.max_workers {
            let (limit, workers) = (self.config.max_workers, active.len());
            warn!(limit, workers, "more workers than this fleet may run: the last ones by name stay idle");
            for slot in active.split_off(limit) {
                let message: Arc<str> = format!("The fleet runs its {limit} workers already").into();
                slot.update(|status| status.message = message);
            }
        }
        let ids: HashSet<Uuid> = active.iter().map(|slot| slot.id()).collect();
        self.homes.retain(|id, _| ids.contains(id));
        let mut rolls: Vec<Vec<Arc<Slot>>> = vec![Vec::new(); self.shards.len()];
        let room = self.config.max_workers_per_runner.max(1);
        let (settled, new): (Vec<_>, Vec<_>) =
            active.into_iter().partition(|slot| self.homes.contains_key(&slot.id()));
        for slot in settled {
            rolls[self.homes[&slot.id()]].push(Arc::clone(slot));
        }
        for slot in new {
            let home = rolls.iter().position(|roll| roll.len() < room).unwrap_or_else(|| {
                rolls.push(Vec::new());
                rolls.len() - 1
            });
            rolls[home].push(Arc::clone(slot));
            self.homes.insert(slot.id(), home);
        }
        self.tell(rolls);
        for slot in slots.iter().filter(|slot| slot.status().runner.is_none()) {
            slot.show_idle();
        }
    }

    fn tell(&mut self, rolls: Vec<Vec<Arc<Slot>>>) {
        for (index, roll) in rolls.into_iter().enumerate() {
            let roll: Roll = Arc::new(roll);
            match self.shards.get(index) {
                Some(shard) => {
                    shard.send_if_modified(|known| {
                        let same = known.len() == roll.len()
                            && known.iter().zip(roll.iter()).all(|(a, b)| Arc::ptr_eq(a, b));
                        *known = roll;
                        !same
                    });
                }
                None => {
                    info!(runner = index, workers = roll.len(), "runner starts");
                    self.shards.push(watch::Sender::new(roll));
                    self.spawn(Child::Runner(index), None);
                }
            }
        }
    }

    /// Marks workers that do not move although there is more for them, and names those that are new.
    fn watch(&self) {
        let heights = *self.ctx.source.heights().borrow();
        let limits = self.ctx.tuning.limits;
        let now = Instant::now();
        let mut stalled = 0u32;
        let mut new = Vec::new();
        for slot in &self.shared.roster().slots {
            let status = slot.status();
            let behind = status.runner.is_some()
                && status.position.is_none_or(|at| plan(at, &heights, &limits) != Step::Wait);
            let stuck = behind && now.duration_since(slot.moved_at()) >= self.config.stall_after;
            stalled += u32::from(stuck);
            if stuck != status.stalled {
                slot.update(|status| status.stalled = stuck);
                if stuck {
                    new.push(status);
                }
            }
        }
        gauge!("prb_worker_stalled").set(stalled);
        if !new.is_empty() {
            let named: Vec<_> = new
                .iter()
                .take(MAX_NAMES)
                .map(|s| format!("{} ({} {})", s.worker.name, s.state, s.message))
                .collect();
            warn!(count = new.len(), workers = named.join("; "), "workers stay behind");
        }
    }
}

async fn after(wait: Duration, task: impl Future<Output = ()>) {
    if !wait.is_zero() {
        tokio::time::sleep(wait).await;
    }
    task.await;
}

/// Fetches what workers start with, as soon as the source has it.
async fn fetch_genesis(
    ctx: Arc<Context>,
    genesis: watch::Sender<Option<Arc<Genesis>>>,
    cancel: CancellationToken,
) {
    let mut backoff = Backoff::new(HELPER_BACKOFF);
    let mut heights = ctx.source.heights();
    loop {
        let fetched = tokio::select! {
            () = cancel.cancelled() => return,
            fetched = ctx.source.genesis() => fetched,
        };
        match fetched {
            Ok(found) => {
                info!(para_id = found.para_id, relay_genesis = %found.relay_number, "the chain is known");
                genesis.send_replace(Some(Arc::new(found)));
                return;
            }
            Err(error) => {
                let wait = backoff.fail();
                // The first tries come before anything can be there.
                if backoff.attempts() % 10 == 5 {
                    warn!(%error, "the chain is not known yet");
                }
                tokio::select! {
                    () = cancel.cancelled() => return,
                    Ok(()) = heights.changed() => {}
                    () = tokio::time::sleep(wait) => {}
                }
            }
        }
    }
}
