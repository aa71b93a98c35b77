//! [`Saver`]: stores what is kept of workers in the inventory, many at once.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::warn;
use uuid::Uuid;

use crate::{
    inventory::{Edit, Error, Inventory, Saved},
    sync::{Backoff, BackoffConfig},
    text::describe,
};

/// How long changes are collected: a fleet that starts learns thousands of keys within moments, and each
/// edit of an inventory is a transaction of its own.
const COLLECT_FOR: Duration = Duration::from_millis(100);
/// Waits after an inventory that does not store.
const BACKOFF: BackoffConfig = BackoffConfig { first: Duration::from_secs(1), max: Duration::from_secs(60) };

/// What is to be stored, by worker.
#[derive(Debug)]
pub(crate) struct Saver {
    inventory: Arc<dyn Inventory>,
    waiting: Mutex<Waiting>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Waiting {
    edits: HashMap<Uuid, Saved>,
    problem: Option<Arc<str>>,
}

impl Saver {
    pub(crate) fn new(inventory: Arc<dyn Inventory>) -> Self {
        Self { inventory, waiting: Mutex::default(), changed: Notify::new() }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has `wanted` stored, where `stored` is something else.
    pub(crate) fn keep(&self, worker: Uuid, stored: Saved, wanted: Saved) {
        if stored == wanted {
            return;
        }
        if self.waiting().edits.insert(worker, wanted) != Some(wanted) {
            self.changed.notify_one();
        }
    }

    /// Why the last attempt to store something failed.
    pub(crate) fn problem(&self) -> Option<Arc<str>> {
        self.waiting().problem.clone()
    }

    /// Stores what changes, until cancelled.
    pub(crate) async fn run(&self, cancel: CancellationToken) {
        let mut backoff = Backoff::new(BACKOFF);
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                () = self.changed.notified() => {}
            }
            let wait = match self.store().await {
                Ok(()) => {
                    backoff.reset();
                    self.waiting().problem = None;
                    COLLECT_FOR
                }
                Err(error) => {
                    let wait = backoff.fail();
                    let error = describe(&error);
                    if backoff.attempts() % 10 == 1 {
                        warn!(%error, "what is kept of workers cannot be stored: nothing is sent for them");
                    }
                    self.waiting().problem = Some(error.into());
                    self.changed.notify_one();
                    wait
                }
            };
            tokio::select! {
                () = cancel.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn store(&self) -> Result<(), Error> {
        let edits = self.waiting().edits.clone();
        if edits.is_empty() {
            return Ok(());
        }
        let known = Arc::clone(&self.inventory.snapshots().borrow());
        let known = |id: &Uuid| known.workers.iter().any(|worker| worker.id == *id);
        let apply = edits.iter().filter(|(id, _)| known(id)).map(|(id, saved)| Edit::Save(*id, *saved));
        match self.inventory.apply(apply.collect()).await {
            // Removed in between: the next round leaves it out.
            Err(Error::Unknown { .. }) => {
                self.changed.notify_one();
                Ok(())
            }
            Err(error) => Err(error),
            Ok(_) => {
                // What has changed again meanwhile is stored in the next round.
                self.waiting().edits.retain(|id, saved| edits.get(id) != Some(saved));
                Ok(())
            }
        }
    }
}
