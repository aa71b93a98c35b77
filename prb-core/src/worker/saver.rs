//! [`Saver`]: persists workers' records in the inventory, in batches.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tracing::warn;
use uuid::Uuid;

use crate::{
    inventory::{Edit, Error, FleetRecord, Inventory},
    primitives::{PoolId, WorkerKey},
    sync::{Backoff, BackoffConfig},
    text::{describe, duration},
};

mod record_index;

use record_index::RecordIndex;

/// How long changes are batched: a fleet that starts learns thousands of keys within moments, and each edit
/// of an inventory is a transaction of its own.
const BATCH_WINDOW: Duration = Duration::from_millis(100);
/// Timeout of one write.
const STORE_TIMEOUT: Duration = Duration::from_secs(30);
/// Backoff after failed writes.
const BACKOFF: BackoffConfig = BackoffConfig { first: Duration::from_secs(1), max: Duration::from_secs(60) };

/// Records to persist, by worker.
#[derive(Debug)]
pub(crate) struct Saver {
    inventory: Arc<dyn Inventory>,
    index: RecordIndex,
    pending: Mutex<Pending>,
    changed: Notify,
    /// The number of the last change that is stored with all before it.
    stored: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Pending {
    edits: HashMap<Uuid, FleetRecord>,
    /// How many changes have been queued.
    changes: u64,
    problem: Option<Arc<str>>,
}

impl Saver {
    pub(crate) fn new(inventory: Arc<dyn Inventory>) -> Self {
        Self {
            inventory,
            index: RecordIndex::default(),
            pending: Mutex::default(),
            changed: Notify::new(),
            stored: watch::Sender::new(0),
        }
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues `wanted` for persisting if it differs from `stored`. Returns the number of the change that stores it, as
    /// shown by [`Self::stored`]; 0 if there is none.
    pub(crate) fn enqueue(&self, worker: Uuid, stored: FleetRecord, wanted: FleetRecord) -> u64 {
        let mut pending = self.pending();
        // A queued record may differ from `stored` even if `wanted` does not: a change that was reverted
        // before it was written.
        if stored == wanted && !pending.edits.contains_key(&worker) {
            return 0;
        }
        if pending.edits.insert(worker, wanted) != Some(wanted) {
            pending.changes += 1;
            self.changed.notify_one();
        }
        pending.changes
    }

    /// The number of the last change that is stored, with all before it.
    pub(crate) fn stored(&self) -> watch::Receiver<u64> {
        self.stored.subscribe()
    }

    /// Returns the record that the inventory has now: a worker's task learns of it a moment later.
    pub(crate) fn stored_record(&self, worker: Uuid) -> FleetRecord {
        self.inventory.snapshots().borrow().saved(worker)
    }

    /// Returns the newest record of the worker: the queued one, else `stored`.
    pub(crate) fn newest(&self, worker: Uuid, stored: FleetRecord) -> FleetRecord {
        self.pending().edits.get(&worker).copied().unwrap_or(stored)
    }

    /// Returns the newest record of `key` at another entry than `worker`, present or removed, whose pool is `of_pool`;
    /// also returns that pool.
    pub(crate) fn record_of_key(
        &self,
        key: WorkerKey,
        worker: Uuid,
        of_pool: impl Fn(PoolId) -> bool,
    ) -> Option<(PoolId, FleetRecord)> {
        let snapshot = Arc::clone(&self.inventory.snapshots().borrow());
        let (id, pool, stored) = self.index.find(&snapshot, key, worker, of_pool)?;
        // The other entry may have got another key in the meantime.
        Some((pool, Some(self.newest(id, stored)).filter(|newest| newest.key == Some(key)).unwrap_or(stored)))
    }

    /// Returns why the last write failed, if it did.
    pub(crate) fn problem(&self) -> Option<Arc<str>> {
        self.pending().problem.clone()
    }

    /// Persists changes until cancelled, and then what is left, within `last_timeout`. Cancel it after those that queue
    /// changes have ended.
    pub(crate) async fn run(&self, cancel: CancellationToken, last_timeout: Duration) {
        cancel.run_until_cancelled(self.store_changes()).await;
        if let Err(error) = self.store_within(last_timeout).await {
            warn!(error, "the latest goals and keys of workers could not be stored in the inventory");
        }
    }

    async fn store_changes(&self) {
        let mut backoff = Backoff::new(BACKOFF);
        loop {
            self.changed.notified().await;
            let wait = match self.store_within(STORE_TIMEOUT).await {
                Ok(()) => {
                    backoff.reset();
                    self.pending().problem = None;
                    BATCH_WINDOW
                }
                Err(error) => {
                    let wait = backoff.fail();
                    if backoff.attempts() % 10 == 1 {
                        warn!(error, "cannot store goals and keys of workers: operations wait");
                    }
                    // The notification makes the next round retry: no other record may change for a long
                    // time.
                    self.pending().problem = Some(error.into());
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
            Err(_) => Err(format!("the inventory has not answered within {}", duration(limit))),
        }
    }

    async fn store(&self) -> Result<(), Error> {
        // A copy: the lock must not be held while the inventory writes.
        let (edits, changes) = {
            let pending = self.pending();
            (pending.edits.clone(), pending.changes)
        };
        if edits.is_empty() {
            return Ok(());
        }
        let known = Arc::clone(&self.inventory.snapshots().borrow());
        // Workers of which nothing is kept are left out: one unknown id would make the inventory refuse all edits.
        let known =
            |id: &Uuid| known.removed.contains_key(id) || known.workers.iter().any(|worker| worker.id == *id);
        let apply =
            edits.iter().filter(|(id, _)| known(id)).map(|(id, saved)| Edit::PutFleetRecord(*id, *saved));
        match self.inventory.apply(apply.collect()).await {
            // A worker was removed in between: the next round leaves it out.
            Err(Error::Unknown { .. }) => {
                self.changed.notify_one();
                Ok(())
            }
            Err(error) => Err(error),
            Ok(_) => {
                // Records that changed again meanwhile are written in the next round.
                self.pending().edits.retain(|id, saved| edits.get(id) != Some(saved));
                self.stored.send_replace(changes);
                Ok(())
            }
        }
    }
}
