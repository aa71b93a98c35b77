//! [`RemovedWorker`]: what is kept of a worker that was removed, in case it is added again, and of a stopped one that
//! another has replaced at its entry.
//!
//! An entry may leave and come back without anybody's intention: it is commented out for a while, or a template is
//! rendered in two steps. Without its record, a worker that was stopped on purpose would be staked for again.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{FleetRecord, Goal, Snapshot, Worker, normal_endpoint};
use crate::primitives::{PoolId, WorkerKey};

/// What is kept of a worker that was removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct RemovedWorker {
    /// The pool that it belonged to.
    pub pid: PoolId,
    /// Its name.
    pub name: String,
    /// Its pRuntime's URL.
    pub endpoint: String,
    /// The revision of the inventory in which it was removed.
    pub revision: u64,
    /// Its persisted record.
    pub record: FleetRecord,
    /// Whether another entry has taken over its goal by its name or endpoint, or has another key now. From then on only
    /// its key identifies it: it is kept until that answers somewhere.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub matched: bool,
}

impl RemovedWorker {
    pub(super) fn new(worker: &Worker, record: FleetRecord, revision: u64) -> Self {
        Self {
            pid: worker.pid,
            name: worker.name.clone(),
            endpoint: worker.endpoint.clone(),
            revision,
            record,
            matched: false,
        }
    }
}

/// Keeps the goals of `replaced` keys aside: each was an entry's last known key until this edit, and answers at none now.
/// Its machine may come back at another entry, for example because two entries exchange their addresses.
pub(super) fn keep_replaced(
    removed: &mut Removed,
    saved: &HashMap<Uuid, FleetRecord>,
    replaced: Vec<(Arc<Worker>, FleetRecord)>,
    revision: u64,
) {
    for (worker, record) in replaced {
        let Some(key) = record.key else { continue };
        if record.goal == Goal::Compute || saved.values().any(|saved| saved.key == Some(key)) {
            continue;
        }
        // Of the key's previous entry only the key and the goal are kept: the entry itself is still there.
        let record = FleetRecord { key: Some(key), goal: record.goal, ..FleetRecord::default() };
        let kept = RemovedWorker { matched: true, ..RemovedWorker::new(&worker, record, revision) };
        removed.insert(id_of_key(key), Arc::new(kept));
    }
}

/// The id under which the goal of a replaced key is kept: the key's first bytes, which no entry has as its id.
fn id_of_key(WorkerKey(key): WorkerKey) -> Uuid {
    let mut id = [0; 16];
    id.copy_from_slice(&key[..16]);
    Uuid::from_bytes(id)
}

/// Removed workers, by id.
pub(super) type Removed = HashMap<Uuid, Arc<RemovedWorker>>;

/// Gives added workers the records of the removed ones that they replace, and forgets what is no longer needed: the
/// removed workers whose entry or machine is present, and the oldest ones above `limit`. A machine is known by its key;
/// only without one by its endpoint, which another machine may have by now. `new_keys` are those that this edit records.
pub(super) fn resume(
    removed: &mut Removed,
    saved: &mut HashMap<Uuid, FleetRecord>,
    workers: &BTreeMap<Uuid, Arc<Worker>>,
    added: &HashSet<Uuid>,
    new_keys: &HashSet<WorkerKey>,
    limit: usize,
) {
    if removed.is_empty() {
        return;
    }
    let index = Index::new(removed);
    let mut used = HashSet::new();
    for worker in added.iter().filter_map(|id| workers.get(id)) {
        let Some(id) = index.find(removed, worker) else { continue };
        used.insert(id);
        let record = removed[&id].record;
        let record = if id == worker.id {
            record
        } else {
            // Another entry: whoever added it confirms the key that answers there.
            FleetRecord { goal: record.goal, as_of: record.as_of, ..FleetRecord::default() }
        };
        // A record that was put with the worker is newer.
        saved.entry(worker.id).or_insert(record);
    }
    for id in &used {
        removed.entry(*id).and_modify(|worker| Arc::make_mut(worker).matched = true);
    }
    let endpoints: HashSet<String> = workers.values().map(|w| normal_endpoint(&w.endpoint)).collect();
    removed.retain(|id, worker| {
        let machine_is_back = match &worker.record.key {
            Some(key) => new_keys.contains(key),
            None => worker.matched || endpoints.contains(&normal_endpoint(&worker.endpoint)),
        };
        !workers.contains_key(id) && !machine_is_back
    });
    if removed.len() > limit {
        let mut by_age: Vec<(u64, Uuid)> = removed.iter().map(|(id, w)| (w.revision, *id)).collect();
        by_age.sort_unstable();
        for (_, id) in &by_age[..by_age.len() - limit] {
            removed.remove(id);
        }
    }
}

/// Removed workers by name and by endpoint, within their pool; of two, the one that was removed last.
struct Index(HashMap<(PoolId, String), Uuid>);

impl Index {
    fn new(removed: &Removed) -> Self {
        let mut by_age: Vec<_> = removed.iter().filter(|(_, worker)| !worker.matched).collect();
        by_age.sort_unstable_by_key(|(id, worker)| (worker.revision, **id));
        let keys = by_age.into_iter().flat_map(|(id, worker)| {
            [name_key(worker.pid, &worker.name), endpoint_key(worker.pid, &worker.endpoint)]
                .map(|key| (key, *id))
        });
        Self(keys.collect())
    }

    fn find(&self, removed: &Removed, worker: &Worker) -> Option<Uuid> {
        if removed.contains_key(&worker.id) {
            return Some(worker.id);
        }
        let by_name = self.0.get(&name_key(worker.pid, &worker.name));
        by_name.or_else(|| self.0.get(&endpoint_key(worker.pid, &worker.endpoint))).copied()
    }
}

fn name_key(pid: PoolId, name: &str) -> (PoolId, String) {
    (pid, format!("name {name}"))
}

fn endpoint_key(pid: PoolId, endpoint: &str) -> (PoolId, String) {
    (pid, format!("endpoint {}", normal_endpoint(endpoint)))
}

impl Snapshot {
    /// The workers that this snapshot has and `before` has not, and that do not start by themselves: each goes on with
    /// the goal of a removed or renamed entry. For a message to operators, who may expect a new worker to start.
    pub fn resumed(&self, before: &Self) -> Vec<(Arc<Worker>, Goal)> {
        let known: HashSet<Uuid> = before.workers.iter().map(|worker| worker.id).collect();
        let new = self.workers.iter().filter(|worker| !known.contains(&worker.id));
        new.map(|worker| (Arc::clone(worker), self.saved(worker.id).goal))
            .filter(|(_, goal)| *goal != Goal::Compute)
            .collect()
    }
}
