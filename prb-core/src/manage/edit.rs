//! Creating, updating and deleting.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use secrecy::ExposeSecret;
use tokio::task::spawn_blocking;
use tracing::info;
use uuid::Uuid;

use super::{
    Change, Error, MAX_ENTRIES, Manager, PoolValue, Selector, WorkerValue,
    refusal::{placed, refused},
    values::Entry,
};
use crate::{
    inventory::{Edit, Operator, Pool, Snapshot, Worker},
    primitives::PoolId,
    vault::{self, MAX_SECRET_BYTES},
};

/// An edit and the entry of the call that asked for it.
pub(super) type Asked = (Entry, Edit);

/// A pool that has no id yet, its secret sealed.
struct PoolDraft {
    entry: Entry,
    pool: Pool,
}

impl Manager {
    /// Adds pools, all or none, and gives them in the call's order.
    ///
    /// # Errors
    /// Any of [`Error`] but those of commands.
    ///
    /// # Cancel safety
    /// A cancelled call may have been applied.
    pub async fn create_pools(&self, values: Vec<PoolValue>) -> Result<Vec<Arc<Pool>>, Error> {
        check_count(values.len())?;
        let mut asked = Vec::with_capacity(values.len());
        for (index, value) in values.into_iter().enumerate() {
            let entry = Entry::new("pools", index, &value.name);
            if value.secret().is_none() && !value.sync_only {
                let reason = "a pool needs one, unless it only syncs".to_owned();
                return Err(entry.invalid("operator's secret", reason));
            }
            let PoolDraft { entry, pool } = self.draft(entry, value).await?;
            asked.push((entry, Edit::PutPool(pool)));
        }
        let _editing = self.editing.lock().await;
        self.commit(asked).await.map(|done| done.pools)
    }

    /// Changes or removes pools, all or none, and gives those changed, in the call's order. Workers of a
    /// removed pool stay, and wait for it.
    ///
    /// # Errors
    /// Any of [`Error`] but those of commands.
    ///
    /// # Cancel safety
    /// A cancelled call may have been applied.
    pub async fn update_pools(
        &self,
        items: Vec<(Selector, Change<PoolValue>)>,
    ) -> Result<Vec<Arc<Pool>>, Error> {
        check_count(items.len())?;
        let mut drafts = Vec::with_capacity(items.len());
        for (index, (selector, change)) in items.into_iter().enumerate() {
            drafts.push(match change {
                Change::Put(value) => {
                    let draft = self.draft(Entry::new("items", index, &value.name), value).await?;
                    (selector, draft.entry, Some(draft.pool))
                }
                Change::Delete => (selector, Entry::new("items", index, ""), None),
            });
        }
        let _editing = self.editing.lock().await;
        let snapshot = self.snapshot();
        let lookup = Index::new(&snapshot);
        let mut once = Once::default();
        let mut asked = Vec::with_capacity(drafts.len());
        for (selector, entry, draft) in drafts {
            let old = lookup.pool(&entry, &selector)?;
            once.check(&entry, old.id)?;
            let edit = match draft {
                Some(pool) => {
                    let operator = pool.operator.or_else(|| old.operator.clone());
                    Edit::PutPool(Pool { id: old.id, operator, ..pool })
                }
                None => Edit::RemovePool(old.id),
            };
            asked.push((entry, edit));
        }
        self.commit(asked).await.map(|done| done.pools)
    }

    /// Adds workers, all or none, and gives them in the call's order. Their pools must be there.
    ///
    /// # Errors
    /// Any of [`Error`] but [`Error::Vault`] and those of commands.
    ///
    /// # Cancel safety
    /// A cancelled call may have been applied.
    pub async fn create_workers(&self, values: Vec<WorkerValue>) -> Result<Vec<Arc<Worker>>, Error> {
        check_count(values.len())?;
        let _editing = self.editing.lock().await;
        let snapshot = self.snapshot();
        let mut asked = Vec::with_capacity(values.len());
        for (index, value) in values.into_iter().enumerate() {
            let entry = Entry::new("workers", index, &value.name);
            check_pool(&entry, &snapshot, value.pid)?;
            let worker = worker(&entry, Uuid::new_v4(), &value)?;
            asked.push((entry, Edit::PutWorker(worker)));
        }
        self.commit(asked).await.map(|done| done.workers)
    }

    /// Changes or removes workers, all or none, and gives those changed, in the call's order. A worker that
    /// is moved to another pool needs it to be there.
    ///
    /// # Errors
    /// Any of [`Error`] but [`Error::Vault`] and those of commands.
    ///
    /// # Cancel safety
    /// A cancelled call may have been applied.
    pub async fn update_workers(
        &self,
        items: Vec<(Selector, Change<WorkerValue>)>,
    ) -> Result<Vec<Arc<Worker>>, Error> {
        check_count(items.len())?;
        let _editing = self.editing.lock().await;
        let snapshot = self.snapshot();
        let lookup = Index::new(&snapshot);
        let mut once = Once::default();
        let mut asked = Vec::with_capacity(items.len());
        for (index, (selector, change)) in items.into_iter().enumerate() {
            let name = if let Change::Put(value) = &change { value.name.as_str() } else { "" };
            let entry = Entry::new("items", index, name);
            let old = lookup.worker(&entry, &selector)?;
            once.check(&entry, old.id)?;
            let edit = match change {
                Change::Put(value) => {
                    if value.pid != old.pid {
                        check_pool(&entry, &snapshot, value.pid)?;
                    }
                    Edit::PutWorker(worker(&entry, old.id, &value)?)
                }
                Change::Delete => Edit::RemoveWorker(old.id),
            };
            asked.push((entry, edit));
        }
        self.commit(asked).await.map(|done| done.workers)
    }

    /// Reads and checks a pool's values, and seals its secret.
    async fn draft(&self, entry: Entry, value: PoolValue) -> Result<PoolDraft, Error> {
        let proxied = value.proxied(&entry)?;
        let mut pool = Pool::new(Uuid::new_v4(), value.pid, value.name.trim());
        (pool.enabled, pool.sync_only, pool.proxied) = (value.enabled, value.sync_only, proxied);
        pool.check().map_err(|error| refused(&entry, error))?;
        pool.operator = self.operator(&entry, &value).await?;
        Ok(PoolDraft { entry, pool })
    }

    async fn operator(&self, entry: &Entry, value: &PoolValue) -> Result<Option<Operator>, Error> {
        let Some(secret) = value.secret() else { return Ok(None) };
        let invalid = |reason| entry.invalid("operator's secret", reason);
        if secret.expose_secret().len() > MAX_SECRET_BYTES {
            return Err(invalid(format!("it has more than {MAX_SECRET_BYTES} bytes")));
        }
        let (parts, of) = (Arc::clone(&self.parts), secret.clone());
        // A mnemonic takes thousands of hashes: not on an executor's thread.
        let account = spawn_blocking(move || parts.keys.account(&of)).await;
        let account = account.map_err(|_| invalid("it cannot be read".to_owned()))?.map_err(invalid)?;
        match self.parts.vault.seal(secret).await {
            Ok(key) => Ok(Some(Operator { account, key })),
            Err(error @ vault::Error::TooLarge { .. }) => Err(invalid(error.to_string())),
            Err(source) => Err(Error::Vault { entry: entry.to_string(), source }),
        }
    }

    /// Applies the edits as one and gives what was put.
    async fn commit(&self, asked: Vec<Asked>) -> Result<Done, Error> {
        let before = self.snapshot();
        let edits = asked.iter().map(|(_, edit)| edit.clone()).collect();
        let applied = self.parts.inventory.apply(edits).await;
        let snapshot = applied.map_err(|error| placed(&before, &asked, error))?;
        info!(edits = asked.len(), revision = snapshot.revision, "pools or workers were edited");
        let index = Index::new(&snapshot);
        let mut done = Done::default();
        for (_, edit) in asked {
            match edit {
                Edit::PutPool(pool) => done.pools.extend(index.pools.get(&pool.id).copied().cloned()),
                Edit::PutWorker(worker) => {
                    done.workers.extend(index.workers.get(&worker.id).copied().cloned());
                }
                _ => {}
            }
        }
        Ok(done)
    }
}

#[derive(Default)]
struct Done {
    pools: Vec<Arc<Pool>>,
    workers: Vec<Arc<Worker>>,
}

/// A snapshot's entries by id; names and pids are looked up one by one.
struct Index<'a> {
    snapshot: &'a Snapshot,
    pools: HashMap<Uuid, &'a Arc<Pool>>,
    workers: HashMap<Uuid, &'a Arc<Worker>>,
}

impl<'a> Index<'a> {
    fn new(snapshot: &'a Snapshot) -> Self {
        Self {
            snapshot,
            pools: snapshot.pools.iter().map(|pool| (pool.id, pool)).collect(),
            workers: snapshot.workers.iter().map(|worker| (worker.id, worker)).collect(),
        }
    }

    fn pool(&self, entry: &Entry, selector: &Selector) -> Result<&'a Arc<Pool>, Error> {
        let found = match selector {
            Selector::Id(id) => self.pools.get(id).copied(),
            Selector::Name(name) => self.snapshot.pools.iter().find(|pool| pool.name == *name),
            Selector::Pid(pid) => self.snapshot.pool(*pid),
        };
        found.ok_or_else(|| not_found(entry, "pool", selector))
    }

    fn worker(&self, entry: &Entry, selector: &Selector) -> Result<&'a Arc<Worker>, Error> {
        let workers = &self.snapshot.workers;
        let found = match selector {
            Selector::Id(id) => self.workers.get(id).copied(),
            Selector::Name(name) => {
                workers.binary_search_by(|worker| worker.name.cmp(name)).ok().map(|i| &workers[i])
            }
            Selector::Pid(_) => {
                let reason = "a pid names a pool; name a worker by its uuid or name".to_owned();
                return Err(entry.invalid("id", reason));
            }
        };
        found.ok_or_else(|| not_found(entry, "worker", selector))
    }
}

/// Sees that a call names each thing once: of two changes one would be lost.
#[derive(Default)]
struct Once(HashSet<Uuid>);

impl Once {
    fn check(&mut self, entry: &Entry, id: Uuid) -> Result<(), Error> {
        if self.0.insert(id) {
            return Ok(());
        }
        Err(entry.invalid("id", format!("{id} is named by another item of this call already")))
    }
}

fn check_count(count: usize) -> Result<(), Error> {
    if count > MAX_ENTRIES { Err(Error::TooMany { count, limit: MAX_ENTRIES }) } else { Ok(()) }
}

fn check_pool(entry: &Entry, snapshot: &Snapshot, pid: PoolId) -> Result<(), Error> {
    match snapshot.pool(pid) {
        Some(_) => Ok(()),
        None => Err(not_found(entry, "pool", &Selector::Pid(pid))),
    }
}

fn worker(entry: &Entry, id: Uuid, value: &WorkerValue) -> Result<Worker, Error> {
    let (name, endpoint) = (value.name.trim(), value.endpoint.trim());
    let mut worker = Worker::new(id, value.pid, name, endpoint, value.stake(entry)?);
    (worker.enabled, worker.sync_only) = (value.enabled, value.sync_only);
    worker.check().map_err(|error| refused(entry, error))?;
    Ok(worker)
}

fn not_found(entry: &Entry, what: &'static str, selector: &Selector) -> Error {
    Error::NotFound { entry: entry.to_string(), what, id: selector.to_string() }
}
