//! [`RecordIndex`]: the inventory's records of workers, by key.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use uuid::Uuid;

use crate::{
    inventory::{FleetRecord, Snapshot},
    primitives::{PoolId, WorkerKey},
};

/// An index of one revision of the inventory, built when it is first used: only new entries are looked up, and a fleet
/// that is added at once does so thousands of times.
#[derive(Debug, Default)]
pub(super) struct RecordIndex(Mutex<Arc<Index>>);

#[derive(Debug, Default)]
struct Index {
    revision: Option<u64>,
    /// Present entries first, then the removed ones, the last removed first.
    by_key: HashMap<WorkerKey, Vec<(Uuid, PoolId, FleetRecord)>>,
}

impl RecordIndex {
    /// Returns the first record of `key` at another entry than `worker` whose pool is `of_pool`.
    pub(super) fn find(
        &self,
        snapshot: &Snapshot,
        key: WorkerKey,
        worker: Uuid,
        of_pool: impl Fn(PoolId) -> bool,
    ) -> Option<(Uuid, PoolId, FleetRecord)> {
        let index = self.of(snapshot);
        let records = index.by_key.get(&key)?.iter();
        records.copied().find(|(id, pool, _)| *id != worker && of_pool(*pool))
    }

    fn of(&self, snapshot: &Snapshot) -> Arc<Index> {
        let mut index = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if index.revision != Some(snapshot.revision) {
            *index = Arc::new(Index::new(snapshot));
        }
        Arc::clone(&index)
    }
}

impl Index {
    fn new(snapshot: &Snapshot) -> Self {
        let present =
            snapshot.workers.iter().map(|worker| (worker.id, worker.pid, snapshot.saved(worker.id)));
        let mut removed: Vec<_> = snapshot.removed.iter().collect();
        removed.sort_unstable_by_key(|(id, worker)| (std::cmp::Reverse(worker.revision), **id));
        let removed = removed.into_iter().map(|(id, worker)| (*id, worker.pid, worker.record));
        let mut by_key: HashMap<_, Vec<_>> = HashMap::new();
        for entry in present.chain(removed) {
            if let Some(key) = entry.2.key {
                by_key.entry(key).or_default().push(entry);
            }
        }
        Self { revision: Some(snapshot.revision), by_key }
    }
}
