//! [`Runner`]: runs the tasks of one shard of workers.

use std::{any::Any, collections::HashMap, sync::Arc, time::Duration};

use metrics::counter;
use tokio::{
    sync::watch,
    task::{Id, JoinError, JoinSet},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error};
use uuid::Uuid;

use crate::{
    sync::{Backoff, BackoffConfig},
    worker::{Context, EventKind, Reason, Slot, State, Task},
};

/// Backoff before a worker that panicked is restarted.
const PANIC_BACKOFF: BackoffConfig =
    BackoffConfig { first: Duration::from_secs(1), max: Duration::from_secs(300) };
/// Run time after which a panic is treated as the first one again.
const HEALTHY_AFTER: Duration = Duration::from_secs(600);

/// The slots assigned to a runner.
pub(super) type Assignment = Arc<Vec<Arc<Slot>>>;

struct RunningTask {
    slot: Arc<Slot>,
    task: Id,
    cancel: CancellationToken,
    started: Instant,
}

pub(super) struct Runner {
    index: usize,
    ctx: Arc<Context>,
    cancel: CancellationToken,
    tasks: JoinSet<()>,
    running: HashMap<Uuid, RunningTask>,
    panics: HashMap<Uuid, Backoff>,
}

impl Runner {
    pub(super) fn new(index: usize, ctx: Arc<Context>, cancel: CancellationToken) -> Self {
        Self { index, ctx, cancel, tasks: JoinSet::new(), running: HashMap::new(), panics: HashMap::new() }
    }

    /// Runs the assigned workers until cancelled, then waits for their tasks to end.
    pub(super) async fn run(mut self, mut assignments: watch::Receiver<Assignment>) {
        while !self.cancel.is_cancelled() {
            let wanted = Arc::clone(&assignments.borrow_and_update());
            self.reconcile(&wanted);
            tokio::select! {
                () = self.cancel.cancelled() => {}
                // Disabled once the supervisor has ended: its token, the parent of this one, is cancelled then.
                Ok(()) = assignments.changed() => {}
                Some(ended) = self.tasks.join_next_with_id() => self.ended(ended),
            }
        }
        // Their tokens are children of this runner's, so they are cancelled too.
        while self.tasks.join_next().await.is_some() {}
    }

    fn reconcile(&mut self, wanted: &Assignment) {
        let ids: HashMap<Uuid, &Arc<Slot>> = wanted.iter().map(|slot| (slot.id(), slot)).collect();
        for (id, run) in &self.running {
            // An entry that was removed and added again has a new slot; the task still serves the old one.
            if ids.get(id).is_none_or(|slot| !Arc::ptr_eq(slot, &run.slot)) {
                run.cancel.cancel();
            }
        }
        self.panics.retain(|id, _| ids.contains_key(id));
        for slot in wanted.iter() {
            // A task that is still ending is restarted once it has ended.
            if !self.running.contains_key(&slot.id()) {
                self.start(Arc::clone(slot));
            }
        }
    }

    fn start(&mut self, slot: Arc<Slot>) {
        let wait = self.panics.get_mut(&slot.id()).map(Backoff::fail);
        let cancel = self.cancel.child_token();
        let task = run(Arc::clone(&self.ctx), Arc::clone(&slot), self.index, wait, cancel.clone());
        let task = self.tasks.spawn(task).id();
        self.running.insert(slot.id(), RunningTask { slot, task, cancel, started: Instant::now() });
    }

    fn ended(&mut self, ended: Result<(Id, ()), JoinError>) {
        let task = match &ended {
            Ok((task, ())) => *task,
            Err(error) => error.id(),
        };
        let Some(id) = self.running.iter().find(|(_, run)| run.task == task).map(|(id, _)| *id) else {
            return;
        };
        let Some(run) = self.running.remove(&id) else { return };
        let name = &run.slot.desired().worker.name;
        match ended {
            Err(error) if error.is_panic() => {
                let cause = panic_text(&*error.into_panic());
                counter!("prb_worker_panics_total").increment(1);
                error!(worker = %name, %cause, "worker task panicked and is restarted");
                let text: Arc<str> = cause.into();
                run.slot.event(EventKind::Panicked { text: Arc::clone(&text) });
                let reason = Reason::InternalError { text };
                run.slot.update(|status| {
                    status.state = State::Error;
                    status.message = reason.to_string().into();
                    status.reason = reason;
                });
                let panics = self.panics.entry(id).or_insert_with(|| Backoff::new(PANIC_BACKOFF));
                if run.started.elapsed() > HEALTHY_AFTER {
                    panics.reset();
                }
            }
            _ => {
                debug!(worker = %name, "worker task ended");
                if let Some(reason) = run.slot.idle_reason() {
                    run.slot.show_idle(reason);
                }
            }
        }
    }
}

async fn run(
    ctx: Arc<Context>,
    slot: Arc<Slot>,
    runner: usize,
    wait: Option<Duration>,
    cancel: CancellationToken,
) {
    if let Some(wait) = wait {
        tokio::select! {
            () = cancel.cancelled() => return,
            () = tokio::time::sleep(wait) => {}
        }
    }
    Task::new(ctx, slot, runner).run(cancel).await;
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied().or_else(|| panic.downcast_ref::<String>().map(|s| &**s));
    text.unwrap_or("a panic without a message").to_owned()
}
