//! Validation of edits, shared by all backends.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use uuid::Uuid;

use super::{
    Edit, Error, FleetRecord, Pool, Snapshot, Worker, endpoint,
    endpoint::normal_endpoint,
    name::{self, clean_name},
    removed::{RemovedWorker, keep_replaced, resume},
};

/// Limits of an inventory.
#[derive(Clone, Copy, Debug, PartialEq, Eq, derive_setters::Setters)]
#[setters(prefix = "with_")]
#[non_exhaustive]
pub struct Limits {
    /// Maximum number of pools. Default: 1,000.
    pub pools: usize,
    /// Maximum number of workers. Default: 10,000.
    pub workers: usize,
}

impl Limits {
    /// Default of [`Limits::pools`].
    pub const POOLS: usize = 1_000;
    /// Default of [`Limits::workers`].
    pub const WORKERS: usize = 10_000;
}

impl Default for Limits {
    fn default() -> Self {
        Self { pools: Self::POOLS, workers: Self::WORKERS }
    }
}

/// Maximum length of a pool's or worker's name, in bytes.
pub const MAX_NAME_BYTES: usize = 256;
/// Maximum length of an endpoint (pRuntime's, or one to announce), in bytes.
pub const MAX_ENDPOINT_BYTES: usize = 2048;
/// Maximum number of endpoints that a worker announces. pRuntime signs at most 32 KiB of them.
pub const MAX_ANNOUNCED: usize = 8;

/// The field name of a worker's [`endpoint`](Worker::endpoint) in errors.
const ENDPOINT: &str = "worker endpoint";
/// The field name of a worker's [`endpoints`](Worker::endpoints) in errors.
const ANNOUNCED: &str = "endpoint to announce";

impl Pool {
    /// Validates the values, without regard to other pools.
    ///
    /// # Errors
    /// [`Error::Invalid`].
    pub fn check(&self) -> Result<(), Error> {
        check_name("pool name", &self.name)
    }
}

impl Worker {
    /// Validates the values, without regard to other workers.
    ///
    /// # Errors
    /// [`Error::Invalid`].
    pub fn check(&self) -> Result<(), Error> {
        check_name("worker name", &self.name)?;
        check_endpoint(ENDPOINT, &self.endpoint)?;
        self.check_announced()
    }

    /// Whether the values that [`Self::check`] looks at are equal.
    fn has_values_of(&self, other: &Self) -> bool {
        (&self.name, &self.endpoint, &self.endpoints) == (&other.name, &other.endpoint, &other.endpoints)
    }

    fn check_announced(&self) -> Result<(), Error> {
        let bad = |reason: String| Error::Invalid { what: ANNOUNCED.into(), reason };
        if self.endpoints.len() > MAX_ANNOUNCED {
            return Err(bad(format!("there are {}, more than {MAX_ANNOUNCED}", self.endpoints.len())));
        }
        let mut seen = HashSet::with_capacity(self.endpoints.len());
        for endpoint in &self.endpoints {
            check_endpoint(ANNOUNCED, endpoint)?;
            if !seen.insert(normal_endpoint(endpoint)) {
                return Err(bad(format!("{endpoint:?} is listed twice")));
            }
        }
        Ok(())
    }
}

impl Snapshot {
    /// Returns the snapshot after `edits`, applied in order; `revision` increases by one for all of them.
    /// Names, endpoints and pool numbers are compared after the last edit, so that two workers can swap
    /// theirs.
    ///
    /// A worker that is added under the id of a [removed](Snapshot::removed) one goes on with its record; one that is
    /// added to the same pool under its name or with its endpoint goes on with its goal. The record of a removed worker
    /// is kept until its key is recorded for another entry, which takes over the goal then.
    ///
    /// Two edits must not put the same id: the first would be lost silently.
    ///
    /// # Errors
    /// Any but [`Error::Storage`].
    pub fn edited(&self, edits: Vec<Edit>, limits: &Limits) -> Result<Self, Error> {
        let mut pools: BTreeMap<Uuid, Arc<Pool>> = self.pools.iter().map(|p| (p.id, p.clone())).collect();
        let mut workers: BTreeMap<Uuid, Arc<Worker>> =
            self.workers.iter().map(|w| (w.id, w.clone())).collect();
        let mut saved = self.saved.clone();
        let mut removed = self.removed.clone();
        let revision = self.revision + 1;
        let mut put = UniqueIds::default();
        let mut replaced = Vec::new();
        for edit in edits {
            match edit {
                Edit::PutPool(pool) => {
                    // A name that an earlier version accepted must not keep the pool from being edited.
                    if pools.get(&pool.id).is_none_or(|known| known.name != pool.name) {
                        pool.check()?;
                    }
                    put.check("pool", pool.id)?;
                    pools.insert(pool.id, Arc::new(pool));
                }
                Edit::RemovePool(id) => {
                    pools.remove(&id).ok_or(Error::Unknown { what: "pool", id })?;
                }
                Edit::PutWorker(worker) => {
                    if workers.get(&worker.id).is_none_or(|known| !known.has_values_of(&worker)) {
                        worker.check()?;
                    }
                    put.check("worker", worker.id)?;
                    workers.insert(worker.id, Arc::new(worker));
                }
                Edit::RemoveWorker(id) => {
                    let worker = workers.remove(&id).ok_or(Error::Unknown { what: "worker", id })?;
                    if let Some(record) = saved.remove(&id).filter(|record| *record != FleetRecord::default())
                    {
                        removed.insert(id, Arc::new(RemovedWorker::new(&worker, record, revision)));
                    }
                }
                Edit::PutFleetRecord(id, state) => {
                    if let Some(worker) = workers.get(&id) {
                        let before = saved.insert(id, state).filter(|before| before.key != state.key);
                        replaced.extend(before.map(|before| (Arc::clone(worker), before)));
                    } else if let Some(worker) = removed.get_mut(&id) {
                        // Records are stored a moment after a command: the worker may be removed by then.
                        Arc::make_mut(worker).record = state;
                    } else {
                        return Err(Error::Unknown { what: "worker", id });
                    }
                }
            }
        }
        // After the last edit, so that a full inventory can replace an entry in one transaction.
        check_together(&pools, &workers, limits)?;
        keep_replaced(&mut removed, &saved, replaced, revision);
        let known: HashSet<Uuid> = self.workers.iter().map(|worker| worker.id).collect();
        let added = workers.keys().filter(|id| !known.contains(*id)).copied().collect();
        let is_new = |id: &Uuid, record: &FleetRecord| record.key != self.saved(*id).key;
        let new_keys =
            saved.iter().filter(|(id, record)| is_new(id, record)).filter_map(|(_, record)| record.key);
        let new_keys = new_keys.collect();
        resume(&mut removed, &mut saved, &workers, &added, &new_keys, limits.workers);
        let mut pools: Vec<_> = pools.into_values().collect();
        pools.sort_by_key(|p| p.pid);
        let mut workers: Vec<_> = workers.into_values().collect();
        workers.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(Self { revision, pools, workers, saved, removed })
    }
}

/// The ids that a transaction has put so far.
#[derive(Default)]
struct UniqueIds(HashSet<(&'static str, Uuid)>);

impl UniqueIds {
    fn check(&mut self, what: &'static str, id: Uuid) -> Result<(), Error> {
        if self.0.insert((what, id)) { Ok(()) } else { Err(Error::PutTwice { what, id }) }
    }
}

/// Checks the rules that concern several entries: the maximum numbers, and values that must be unique.
fn check_together(
    pools: &BTreeMap<Uuid, Arc<Pool>>,
    workers: &BTreeMap<Uuid, Arc<Worker>>,
    limits: &Limits,
) -> Result<(), Error> {
    check_bound("pool", pools.len(), limits.pools)?;
    check_bound("worker", workers.len(), limits.workers)?;
    check_unique("pid", pools.values().map(|p| (p.pid.to_string(), &p.name)))?;
    check_unique("pool name", pools.values().map(|p| (clean_name(&p.name), &p.name)))?;
    check_unique("worker name", workers.values().map(|w| (clean_name(&w.name), &w.name)))?;
    // Normalised, because two entries with one pRuntime would both drive it.
    check_unique(ENDPOINT, workers.values().map(|w| (normal_endpoint(&w.endpoint), &w.name)))
}

fn check_bound(what: &'static str, count: usize, limit: usize) -> Result<(), Error> {
    if count > limit { Err(Error::Full { what, limit }) } else { Ok(()) }
}

fn check_name(what: &str, name: &str) -> Result<(), Error> {
    match name::fault(name) {
        Some(reason) => Err(Error::Invalid { what: what.into(), reason }),
        None => Ok(()),
    }
}

fn check_endpoint(what: &str, endpoint: &str) -> Result<(), Error> {
    let bad = |reason: String| Error::Invalid { what: what.into(), reason };
    let url = endpoint::parse(endpoint).map_err(bad)?;
    if !url.username().is_empty() || url.password().is_some() {
        // The URL is not shown: it contains a password.
        return Err(bad("it has a user name or password, which would end up in logs".into()));
    }
    Ok(())
}

fn check_unique<'a>(
    what: &'static str,
    entries: impl Iterator<Item = (String, &'a String)>,
) -> Result<(), Error> {
    let mut seen: HashMap<String, &String> = HashMap::new();
    for (value, name) in entries {
        if let Some(holder) = seen.get(&value) {
            return Err(Error::Duplicate { what, value, holder: (*holder).clone() });
        }
        seen.insert(value, name);
    }
    Ok(())
}
