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
/// How long an inventory may take to store.
const STORE_WITHIN: Duration = Duration::from_secs(30);
/// The same when everything ends.
const LAST_STORE_WITHIN: Duration = Duration::from_secs(5);
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
        let mut waiting = self.waiting();
        // What waits may be something else: a change that was taken back.
        if stored == wanted && !waiting.edits.contains_key(&worker) {
            return;
        }
        if waiting.edits.insert(worker, wanted) != Some(wanted) {
            self.changed.notify_one();
        }
    }

    /// What is to be kept of the worker: what waits to be stored, else what is `stored`.
    pub(crate) fn newest(&self, worker: Uuid, stored: Saved) -> Saved {
        self.waiting().edits.get(&worker).copied().unwrap_or(stored)
    }

    /// Why the last attempt to store something failed.
    pub(crate) fn problem(&self) -> Option<Arc<str>> {
        self.waiting().problem.clone()
    }

    /// Stores what changes, until cancelled, and then what is left.
    pub(crate) async fn run(&self, cancel: CancellationToken) {
        cancel.run_until_cancelled(self.store_changes()).await;
        if let Err(error) = self.store_within(LAST_STORE_WITHIN).await {
            warn!(%error, "what workers were told last could not be stored");
        }
    }

    async fn store_changes(&self) {
        let mut backoff = Backoff::new(BACKOFF);
        loop {
            self.changed.notified().await;
            let wait = match self.store_within(STORE_WITHIN).await {
                Ok(()) => {
                    backoff.reset();
                    self.waiting().problem = None;
                    COLLECT_FOR
                }
                Err(error) => {
                    let wait = backoff.fail();
                    if backoff.attempts() % 10 == 1 {
                        warn!(%error, "what is kept of workers cannot be stored: nothing is sent for them");
                    }
                    self.waiting().problem = Some(error.into());
                    self.changed.notify_one();
                    wait
                }
            };
            tokio::time::sleep(wait).await;
        }
    }

    async fn store_within(&self, limit: Duration) -> Result<(), String> {
        match tokio::time::timeout(limit, self.store()).await {
            Ok(stored) => stored.map_err(|error| describe(&error)),
            Err(_) => Err(format!("the inventory has not answered within {limit:?}")),
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
