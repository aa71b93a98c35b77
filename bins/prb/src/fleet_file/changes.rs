//! What applying the file adds to an inventory, changes and removes.

use std::{collections::HashMap, fmt};

use anyhow::bail;
use prb_core::{
    inventory::{Edit, Inventory, Limits, Pool, Snapshot, Worker, normal_endpoint, shown_name},
    vault::Vault,
};
use uuid::Uuid;

use super::FleetFile;

/// Maximum number of names in a message.
const MAX_NAMES: usize = 10;
/// The line of the file that confirms removals.
const CONFIRMATION: &str = "remove_unlisted = true";

/// The differences between an inventory and the file. An entry that the file has under another id, such as a worker with
/// the same name or endpoint, is changed, not removed.
#[derive(Debug)]
pub(crate) struct Changes {
    pools: Lists,
    workers: Lists,
    /// Pools of other sources that stay, but lose their operators' secrets.
    lost_secrets: Vec<String>,
    /// Removed workers that computed when they were last seen.
    computing: Vec<String>,
    /// What the file names: pools, workers.
    named: (bool, bool),
    /// Whether the file confirms that entries which it does not name are removed.
    confirmed: bool,
}

/// Names of entries of one kind.
#[derive(Debug, Default)]
struct Lists {
    added: Vec<String>,
    changed: Vec<String>,
    removed: Vec<String>,
    /// Those of the removed ones that no fleet file has added.
    of_other_sources: Vec<String>,
}

impl FleetFile {
    /// Makes the inventory match the file. The fleet's records of workers are kept. Returns what it has changed.
    ///
    /// # Errors
    /// Names what is wrong with the file, or what it would remove without confirmation; nothing was changed.
    pub(crate) async fn apply(self, inventory: &dyn Inventory, vault: &dyn Vault) -> anyhow::Result<Changes> {
        let (edits, changes) = self.plan(inventory, vault).await?;
        changes.check()?;
        inventory.apply(edits).await?;
        changes.log();
        Ok(changes)
    }

    /// Returns the edits that make an inventory match the file, and their differences, without checking them.
    ///
    /// # Errors
    /// As [`FleetFile::edits`].
    pub(crate) async fn plan(
        self,
        inventory: &dyn Inventory,
        vault: &dyn Vault,
    ) -> anyhow::Result<(Vec<Edit>, Changes)> {
        let confirmed = self.remove_unlisted;
        let edits = self.edits(inventory, vault).await?;
        let before = inventory.snapshots().borrow().clone();
        let after = before.edited(edits.clone(), &Limits::default())?;
        Ok((edits, Changes::between(&before, &after, confirmed)))
    }
}

impl Changes {
    fn between(before: &Snapshot, after: &Snapshot, confirmed: bool) -> Self {
        let mut changes = Self {
            pools: Lists::default(),
            workers: Lists::default(),
            lost_secrets: Vec::new(),
            computing: Vec::new(),
            named: (!after.pools.is_empty(), !after.workers.is_empty()),
            confirmed,
        };
        changes.compare_pools(before, after);
        changes.compare_workers(before, after);
        changes
    }

    fn compare_pools(&mut self, before: &Snapshot, after: &Snapshot) {
        for pool in &before.pools {
            let name = shown(&pool.name);
            match after.pool(pool.pid) {
                None => self.pools.remove(name, pool.id),
                Some(next) => {
                    let loses_secret = pool.operator.is_some() && next.operator.is_none();
                    if loses_secret && !is_of_file(pool.id) {
                        self.lost_secrets.push(name.clone());
                    }
                    if !is_same_pool(pool, next) {
                        self.pools.changed.push(name);
                    }
                }
            }
        }
        let added = after.pools.iter().filter(|pool| before.pool(pool.pid).is_none());
        self.pools.added = added.map(|pool| shown(&pool.name)).collect();
    }

    fn compare_workers(&mut self, before: &Snapshot, after: &Snapshot) {
        let (old, new) = (Index::of(before), Index::of(after));
        for worker in &before.workers {
            let name = shown(&worker.name);
            match new.find(worker) {
                Some(next) if is_same_worker(worker, next) => {}
                Some(_) => self.workers.changed.push(name),
                None => {
                    if before.saved(worker.id).was_computing {
                        self.computing.push(name.clone());
                    }
                    self.workers.remove(name, worker.id);
                }
            }
        }
        let added = after.workers.iter().filter(|worker| old.find(worker).is_none());
        self.workers.added = added.map(|worker| shown(&worker.name)).collect();
    }

    /// Refuses to remove all workers, because the file may be truncated or another one, and to delete what no fleet file
    /// has added, unless the file confirms it.
    ///
    /// # Errors
    /// Names what would be removed, and what to do.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        if self.confirmed {
            return Ok(());
        }
        let missing = self.of_other_sources();
        if !missing.is_empty() {
            bail!(
                "the fleet file does not name what was added in another way, such as over the API or by an import: {missing}; \
                 nothing is changed, because it would be deleted, with the sealed secrets of the pools. Add it to the file \
                 (`prb pool export` and `prb worker export` list it), or start without --fleet (PRB_FLEET). To delete it, \
                 add the line `{CONFIRMATION}` at the file's top"
            );
        }
        let (names_pools, names_workers) = self.named;
        if !names_workers && !self.workers.removed.is_empty() {
            let named = if names_pools { "no workers" } else { "nothing" };
            let known = counted(&self.workers.removed, "worker").unwrap_or_default();
            bail!(
                "the fleet file names {named}, but the inventory has {known}: nothing is changed, because the file may be \
                 truncated or another one; to remove all known workers, add the line `{CONFIRMATION}` at its top"
            );
        }
        Ok(())
    }

    /// Lists what would be deleted that no fleet file has added.
    fn of_other_sources(&self) -> String {
        let lists = [
            counted(&self.pools.of_other_sources, "pool"),
            counted(&self.lost_secrets, "operator of a pool"),
            counted(&self.workers.of_other_sources, "worker"),
        ];
        lists.into_iter().flatten().collect::<Vec<_>>().join(", ")
    }

    /// Logs what was changed, removals as warnings.
    fn log(&self) {
        if !self.is_empty() {
            tracing::info!(changes = %self, "the fleet file changes the inventory");
        }
        for (kind, lists) in [("pools", &self.pools), ("workers", &self.workers)] {
            if !lists.removed.is_empty() {
                let (number, names) = (lists.removed.len(), names(&lists.removed));
                tracing::warn!(
                    kind,
                    number,
                    names,
                    "removed from the inventory, because the fleet file does not name them"
                );
            }
        }
        if self.confirmed {
            tracing::warn!(
                line = CONFIRMATION,
                "the fleet file has been applied without the check for accidental removals: delete this line from it"
            );
        }
    }

    /// Warns of removed workers that may compute, for a start: while the fleet runs, it knows which do.
    pub(crate) fn warn_of_computing(&self) {
        if !self.computing.is_empty() {
            tracing::warn!(
                number = self.computing.len(),
                workers = names(&self.computing),
                "workers were removed that computed when they were last seen: without their heartbeats their stake is \
                 slashed, unless another manager sends them; add them again, stop them, and remove them then"
            );
        }
    }

    const fn is_empty(&self) -> bool {
        self.pools.is_empty() && self.workers.is_empty()
    }
}

/// What is changed: `adds 2 workers ("a", "b"); removes 1 pool ("x")`.
impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { pools, workers, .. } = self;
        let verbs = [
            ("adds", &pools.added, &workers.added),
            ("changes", &pools.changed, &workers.changed),
            ("removes", &pools.removed, &workers.removed),
        ];
        let parts = verbs.iter().filter_map(|(verb, pools, workers)| {
            let kinds = [counted(pools, "pool"), counted(workers, "worker")];
            let kinds: Vec<String> = kinds.into_iter().flatten().collect();
            (!kinds.is_empty()).then(|| format!("{verb} {}", kinds.join(" and ")))
        });
        let parts: Vec<String> = parts.collect();
        if parts.is_empty() { f.write_str("changes nothing") } else { f.write_str(&parts.join("; ")) }
    }
}

impl Lists {
    fn remove(&mut self, name: String, id: Uuid) {
        if !is_of_file(id) {
            self.of_other_sources.push(name.clone());
        }
        self.removed.push(name);
    }

    const fn is_empty(&self) -> bool {
        self.added.is_empty() && self.changed.is_empty() && self.removed.is_empty()
    }
}

/// Whether a fleet file has added the entry: only such ids are derived from names (UUIDs of version 5).
fn is_of_file(id: Uuid) -> bool {
    id.get_version_num() == 5
}

/// Workers by what identifies them.
struct Index<'a> {
    ids: HashMap<Uuid, &'a Worker>,
    names: HashMap<&'a str, &'a Worker>,
    endpoints: HashMap<String, &'a Worker>,
}

impl<'a> Index<'a> {
    fn of(snapshot: &'a Snapshot) -> Self {
        let workers = || snapshot.workers.iter().map(|worker| &**worker);
        Self {
            ids: workers().map(|worker| (worker.id, worker)).collect(),
            names: workers().map(|worker| (&*worker.name, worker)).collect(),
            endpoints: workers().map(|worker| (normal_endpoint(&worker.endpoint), worker)).collect(),
        }
    }

    /// Returns the entry of the same worker.
    fn find(&self, worker: &Worker) -> Option<&'a Worker> {
        let by_endpoint = || self.endpoints.get(&normal_endpoint(&worker.endpoint));
        let found = self.ids.get(&worker.id).or_else(|| self.names.get(&*worker.name)).or_else(by_endpoint);
        found.copied()
    }
}

fn is_same_worker(one: &Worker, other: &Worker) -> bool {
    let mut one = one.clone();
    one.id = other.id;
    one == *other
}

/// Whether two pools have the same values; a secret that was sealed again is the same.
fn is_same_pool(one: &Pool, other: &Pool) -> bool {
    let account = |pool: &Pool| pool.operator.as_ref().map(|operator| operator.account);
    let is_same_operator = account(one) == account(other);
    let mut one = one.clone();
    (one.id, one.operator) = (other.id, other.operator.clone());
    is_same_operator && one == *other
}

fn shown(name: &str) -> String {
    format!("{:?}", shown_name(name))
}

/// Lists the first names, and the number of the others.
fn names(all: &[String]) -> String {
    let first = all[..all.len().min(MAX_NAMES)].join(", ");
    match all.len().saturating_sub(MAX_NAMES) {
        0 => first,
        others => format!("{first} and {others} more"),
    }
}

/// Returns the number of entries with their names, such as `2 pools ("a", "b")`; `None` if there are none.
fn counted(all: &[String], kind: &str) -> Option<String> {
    let kind = match (all.len(), kind) {
        (0, _) => return None,
        (1, kind) => kind.to_owned(),
        (_, "operator of a pool") => "operators of pools".to_owned(),
        (_, kind) => format!("{kind}s"),
    };
    Some(format!("{} {kind} ({})", all.len(), names(all)))
}
