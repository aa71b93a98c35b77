//! Creating, updating and deleting pools and workers.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use secrecy::ExposeSecret;
use tokio::{sync::OwnedMutexGuard, task::spawn_blocking};
use tracing::info;
use uuid::Uuid;

use super::{
    Change, Error, Item, KeyError, MAX_ENTRIES, Manager, PoolValue, Selector, WorkerValue,
    inventory_error::{locate, map_error},
    values::Entry,
};
use crate::{
    inventory::{self, Edit, Operator, Pool, Snapshot, Worker},
    primitives::PoolId,
    vault::{self, MAX_SECRET_BYTES},
};

/// An edit with the entry of the call that requested it.
pub(super) type RequestedEdit = (Entry, Edit);

/// A validated pool value with its sealed secret.
struct PoolDraft {
    value: PoolValue,
    operator: Option<Operator>,
}

impl PoolDraft {
    /// Builds the edit. Without a new operator, the existing one is kept.
    fn put(&self, entry: &Entry, mut pool: Pool) -> Result<Edit, Error> {
        self.value.write_to(&mut pool, entry)?;
        if self.operator.is_some() {
            pool.operator.clone_from(&self.operator);
        }
        pool.check().map_err(|error| map_error(entry, error))?;
        Ok(Edit::PutPool(pool))
    }
}

impl Manager {
    /// Adds pools, all or none; returns them in the call's order.
    ///
    /// # Errors
    /// Any [`Error`] except those of commands.
    ///
    /// # Cancel safety
    /// A cancelled call may have been applied.
    pub async fn create_pools(&self, values: Vec<PoolValue>) -> Result<Vec<Arc<Pool>>, Error> {
        self.apply_pools("pools", values.into_iter().map(Item::Create).collect()).await
    }

    /// Changes or removes pools, all or none; returns the changed ones, in the call's order. Workers of a
    /// removed pool stay, and wait for it.
    ///
    /// # Errors
    /// Any [`Error`] except those of commands.
    ///
    /// # Cancel safety
    /// A cancelled call may have been applied.
    pub async fn update_pools(
        &self,
        items: Vec<(Selector, Change<PoolValue>)>,
    ) -> Result<Vec<Arc<Pool>>, Error> {
        self.edit_pools(items.into_iter().map(Item::from).collect()).await
    }

    /// Adds, changes and removes pools, all or none; returns those added and changed, in the call's order.
    ///
    /// # Errors
    /// Any [`Error`] except those of commands.
    ///
    /// # Cancel safety
    /// A cancelled call may have been applied.
    pub async fn edit_pools(&self, items: Vec<Item<PoolValue>>) -> Result<Vec<Arc<Pool>>, Error> {
        self.apply_pools("items", items).await
    }

    async fn apply_pools(&self, list: &str, items: Vec<Item<PoolValue>>) -> Result<Vec<Arc<Pool>>, Error> {
        check_count(items.len())?;
        let mut drafts = Vec::with_capacity(items.len());
        for (index, item) in items.into_iter().enumerate() {
            let (selector, value) = item.into_parts();
            let entry = Entry::new(list, index, value.as_ref().map_or("", |value| &value.name));
            let draft = match value {
                Some(value) if selector.is_none() && value.secret().is_none() && !value.sync_only => {
                    let reason = "a pool needs one, unless it only syncs".to_owned();
                    return Err(entry.invalid("operator's secret", reason));
                }
                Some(value) => Some(self.draft(&entry, value).await?),
                None => None,
            };
            drafts.push((selector, entry, draft));
        }
        // Only now: deriving accounts and sealing secrets takes long and must not hold up other edits.
        let editing = Arc::clone(&self.editing).lock_owned().await;
        let snapshot = self.snapshot();
        let lookup = Index::new(&snapshot);
        let mut unique = UniqueIds::default();
        let mut requested = Vec::with_capacity(drafts.len());
        for (selector, entry, draft) in drafts {
            let old = selector.map(|selector| lookup.pool(&entry, &selector)).transpose()?;
            if let Some(old) = old {
                unique.check(&entry, old.id)?;
            }
            let edit = match (draft, old) {
                (Some(draft), old) => draft.put(&entry, old.map_or_else(new_pool, |old| Pool::clone(old)))?,
                (None, Some(old)) => Edit::RemovePool(old.id),
                (None, None) => continue,
            };
            requested.push((entry, edit));
        }
        self.commit(requested, editing).await.map(|done| done.pools)
    }

    /// Adds workers, all or none; returns them in the call's order. Their pools must exist.
    ///
    /// # Errors
    /// Any [`Error`] except [`Error::Vault`] and those of commands.
    ///
    /// # Cancel safety
    /// A cancelled call may have been applied.
    pub async fn create_workers(&self, values: Vec<WorkerValue>) -> Result<Vec<Arc<Worker>>, Error> {
        self.apply_workers("workers", values.into_iter().map(Item::Create).collect()).await
    }

    /// Changes or removes workers, all or none; returns the changed ones, in the call's order. A worker can
    /// only be moved to an existing pool.
    ///
    /// # Errors
    /// Any [`Error`] except [`Error::Vault`] and those of commands.
    ///
    /// # Cancel safety
    /// A cancelled call may have been applied.
    pub async fn update_workers(
        &self,
        items: Vec<(Selector, Change<WorkerValue>)>,
    ) -> Result<Vec<Arc<Worker>>, Error> {
        self.edit_workers(items.into_iter().map(Item::from).collect()).await
    }

    /// Adds, changes and removes workers, all or none; returns those added and changed, in the call's order.
    ///
    /// # Errors
    /// Any [`Error`] except [`Error::Vault`] and those of commands.
    ///
    /// # Cancel safety
    /// A cancelled call may have been applied.
    pub async fn edit_workers(&self, items: Vec<Item<WorkerValue>>) -> Result<Vec<Arc<Worker>>, Error> {
        self.apply_workers("items", items).await
    }

    async fn apply_workers(
        &self,
        list: &str,
        items: Vec<Item<WorkerValue>>,
    ) -> Result<Vec<Arc<Worker>>, Error> {
        check_count(items.len())?;
        let editing = Arc::clone(&self.editing).lock_owned().await;
        let snapshot = self.snapshot();
        let lookup = Index::new(&snapshot);
        let mut unique = UniqueIds::default();
        let mut requested = Vec::with_capacity(items.len());
        for (index, item) in items.into_iter().enumerate() {
            let (selector, value) = item.into_parts();
            let entry = Entry::new(list, index, value.as_ref().map_or("", |value| &value.name));
            // Looked up under the edit lock: another edit may rename or remove the entry until then.
            let old = selector.map(|selector| lookup.worker(&entry, &selector)).transpose()?;
            if let Some(old) = old {
                unique.check(&entry, old.id)?;
            }
            let edit = match (value, old) {
                (Some(value), old) => {
                    if old.is_none_or(|old| old.pid != value.pid) {
                        check_pool(&entry, &snapshot, value.pid)?;
                    }
                    put_worker(&entry, old.map_or_else(new_worker, |old| Worker::clone(old)), &value)?
                }
                (None, Some(old)) => Edit::RemoveWorker(old.id),
                (None, None) => continue,
            };
            requested.push((entry, edit));
        }
        self.commit(requested, editing).await.map(|done| done.workers)
    }

    /// Validates a pool's value, and seals its secret.
    async fn draft(&self, entry: &Entry, value: PoolValue) -> Result<PoolDraft, Error> {
        let mut draft = PoolDraft { value, operator: None };
        // Cheap checks first: deriving a key and sealing a secret take a while.
        draft.put(entry, new_pool())?;
        draft.operator = self.operator(entry, &draft.value).await?;
        Ok(draft)
    }

    async fn operator(&self, entry: &Entry, value: &PoolValue) -> Result<Option<Operator>, Error> {
        let Some(secret) = value.secret() else { return Ok(None) };
        let invalid = |reason| entry.invalid("operator's secret", reason);
        if secret.expose_secret().len() > MAX_SECRET_BYTES {
            return Err(invalid(format!("it has more than {MAX_SECRET_BYTES} bytes")));
        }
        let (parts, of) = (Arc::clone(&self.parts), secret.clone());
        // Deriving a key from a mnemonic takes thousands of hashes, which must not block an executor thread.
        let account = spawn_blocking(move || parts.keys.account(&of)).await;
        let account = account.unwrap_or_else(|panicked| Err(KeyError::Unavailable(Box::new(panicked))));
        let account = account.map_err(|error| match error {
            KeyError::Invalid(reason) => invalid(reason.to_string()),
            source => Error::Keys { entry: entry.to_string(), source },
        })?;
        match self.parts.vault.seal(secret).await {
            Ok(key) => Ok(Some(Operator { account, key })),
            Err(error @ vault::Error::TooLarge { .. }) => Err(invalid(error.to_string())),
            Err(source) => Err(Error::Vault { entry: entry.to_string(), source }),
        }
    }

    /// Applies the edits as one transaction; returns the entries that were put.
    async fn commit(
        &self,
        requested: Vec<RequestedEdit>,
        editing: OwnedMutexGuard<()>,
    ) -> Result<Applied, Error> {
        // Read under the lock, so the condition is tested on what the edits apply to.
        let before = self.snapshot();
        if !self.condition.is_met(&before) {
            return Err(Error::Changed);
        }
        // Cloned, because an error is mapped to the entry that requested the edit.
        let edits = requested.iter().map(|(_, edit)| edit.clone()).collect();
        let parts = Arc::clone(&self.parts);
        // In a task of its own, with the lock: a write may outlive its caller, and the next edit must see it.
        let applying = tokio::spawn(async move {
            let _editing = editing;
            parts.inventory.apply(edits).await
        });
        let ended = |error| Err(inventory::Error::Storage(Box::new(error)));
        let applied = applying.await.unwrap_or_else(ended);
        let snapshot = applied.map_err(|error| locate(&before, &requested, error))?;
        if !self.dry_run {
            info!(edits = requested.len(), revision = snapshot.revision, "pools or workers were edited");
        }
        let index = Index::new(&snapshot);
        let mut done = Applied::default();
        for (_, edit) in requested {
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
struct Applied {
    pools: Vec<Arc<Pool>>,
    workers: Vec<Arc<Worker>>,
}

/// A snapshot's entries by id; names and pids are searched linearly or by bisection.
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

/// Rejects calls that name an entry twice: one of the two changes would be lost.
#[derive(Default)]
struct UniqueIds(HashSet<Uuid>);

impl UniqueIds {
    fn check(&mut self, entry: &Entry, id: Uuid) -> Result<(), Error> {
        if self.0.insert(id) {
            return Ok(());
        }
        Err(entry.invalid("id", format!("{id} is already named by another item of this call")))
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

/// A blank pool to write a value to.
fn new_pool() -> Pool {
    Pool::new(Uuid::new_v4(), PoolId(0), "")
}

/// A blank worker to write a value to.
fn new_worker() -> Worker {
    Worker::new(Uuid::new_v4(), PoolId(0), "", "", 0)
}

fn put_worker(entry: &Entry, mut worker: Worker, value: &WorkerValue) -> Result<Edit, Error> {
    value.write_to(&mut worker, entry)?;
    worker.check().map_err(|error| map_error(entry, error))?;
    Ok(Edit::PutWorker(worker))
}

fn not_found(entry: &Entry, what: &'static str, selector: &Selector) -> Error {
    Error::NotFound { entry: entry.to_string(), what, id: selector.to_string() }
}
