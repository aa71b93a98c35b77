//! [`HeedInventory`]: a lifecycle manager's pools and workers, in LMDB.
//!
//! The path (`PHALA_LOCAL_DB_PATH`) is a folder:
//!
//! | table | key | value |
//! |---|---|---|
//! | `meta` | `schema`, `revision` | SCALE u32, SCALE u64 |
//! | `pools` | the id's 16 bytes | JSON object |
//! | `workers` | the id's 16 bytes | JSON object |
//! | `saved` | a worker's 16 bytes | JSON object |
//! | `removed` | the id's 16 bytes | JSON object |
//!
//! Records are JSON objects, so that fields can be added: a missing field has its default, an unknown one is
//! kept until the record is written again. Operators' keys are stored as sealed by the vault, so that the
//! folder alone does not reveal them.
//!
//! An edit is one transaction, flushed to disk before it is answered. Only one process can use the folder at
//! a time.
//!
//! The original keeps an encrypted SQLite file at the same path. It is neither read nor overwritten.

use std::{
    collections::HashMap,
    fmt,
    fs::{DirBuilder, File, OpenOptions, TryLockError},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use codec::{Decode, Encode};
use heed::{
    CommitOrAbort, Database, Env, EnvOpenOptions, RoTxn, RwTxn, WithoutTls,
    types::{Bytes, Str},
};
use prb_core::inventory::{
    self, Edit, FleetRecord, Inventory, Limits, Pool, RemovedWorker, Snapshot, Worker,
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::watch;
use uuid::Uuid;

mod error;
mod record;

pub use error::Error;

use record::{PoolRecord, WorkerRecord};

use crate::lmdb;

/// The layout version that this code reads and writes.
const SCHEMA: u32 = 1;

/// Limits of an inventory on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, derive_setters::Setters)]
#[setters(prefix = "with_")]
#[non_exhaustive]
pub struct Config {
    /// Most pools and workers. Default: those of [`Limits`].
    pub limits: Limits,
    /// The largest size of the database file; at least twice what all entries take. This reserves address space,
    /// not memory or disk. Default: 256 MiB.
    pub map_bytes: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { limits: Limits::default(), map_bytes: 256 * 1024 * 1024 }
    }
}

type Records = Database<'static, Bytes, Bytes>;

#[derive(Clone, Copy)]
struct Tables {
    meta: Database<'static, Str, Bytes>,
    pools: Records,
    workers: Records,
    saved: Records,
    removed: Records,
}

struct Shared {
    path: PathBuf,
    limits: Limits,
    env: Env<WithoutTls>,
    tables: Tables,
    /// Held from reading the snapshot until the next one is published, so that edits are applied one after the
    /// other.
    writing: Mutex<()>,
    snapshot: watch::Sender<Arc<Snapshot>>,
    /// File lock, held while the inventory is open. Declared last, so that it is released after the tables are
    /// closed.
    _lock: File,
}

/// Pools and workers on disk. Clones share them.
#[derive(Clone)]
pub struct HeedInventory {
    shared: Arc<Shared>,
}

impl fmt::Debug for HeedInventory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HeedInventory").field("path", &self.shared.path).finish_non_exhaustive()
    }
}

impl HeedInventory {
    /// Opens the inventory in a folder, or creates one (folder 0700, files 0600).
    ///
    /// Blocks on the disk.
    ///
    /// # Errors
    /// [`Error::InUse`] if another process has it open, [`Error::NotAFolder`] if the path is the original's
    /// file, [`Error::OtherData`] for a database of another kind, [`Error::Schema`] for another layout version, or
    /// an I/O error.
    pub fn open(path: &Path, config: Config) -> Result<Self, Error> {
        let io = |source| Error::Io { path: path.to_owned(), source };
        if path.exists() && !path.is_dir() {
            return Err(Error::NotAFolder { path: path.to_owned() });
        }
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io)?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path.join("in-use"))
            .map_err(io)?;
        lock.try_lock().map_err(|e| match e {
            TryLockError::WouldBlock => Error::InUse { path: path.to_owned() },
            TryLockError::Error(source) => Error::Lock { path: path.to_owned(), source },
        })?;
        let failed = |e| Error::from_heed(path, e);
        let env = open_env(path, config.map_bytes).map_err(failed)?;
        if lmdb::is_foreign(&env, "relay_headers").map_err(failed)? {
            return Err(Error::OtherData { path: path.to_owned() });
        }
        // Reader slots are in a file: those of a killed process stay occupied, and keep pages from being
        // reused.
        env.clear_stale_readers().map_err(failed)?;
        let tables = open_tables(&env).map_err(failed)?;
        // LMDB flushes its files but not the folder entries of new ones.
        File::open(path).and_then(|folder| folder.sync_all()).map_err(io)?;
        let shared = Shared {
            path: path.to_owned(),
            limits: config.limits,
            env,
            tables,
            writing: Mutex::default(),
            snapshot: watch::Sender::default(),
            _lock: lock,
        };
        shared.check_schema()?;
        let snapshot = shared.load()?;
        shared.snapshot.send_replace(Arc::new(snapshot));
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The inventory's path.
    pub fn path(&self) -> &Path {
        &self.shared.path
    }
}

#[async_trait]
impl Inventory for HeedInventory {
    fn snapshots(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.shared.snapshot.subscribe()
    }

    /// An edit whose future was dropped may have been applied.
    async fn apply(&self, edits: Vec<Edit>) -> Result<Arc<Snapshot>, inventory::Error> {
        let shared = Arc::clone(&self.shared);
        let applied = tokio::task::spawn_blocking(move || shared.apply(edits)).await;
        applied.unwrap_or_else(|panicked| Err(inventory::Error::Storage(Box::new(panicked))))
    }
}

impl Shared {
    fn apply(&self, edits: Vec<Edit>) -> Result<Arc<Snapshot>, inventory::Error> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let current = Arc::clone(&self.snapshot.borrow());
        if edits.is_empty() {
            return Ok(current);
        }
        let next = Arc::new(current.edited(edits.clone(), &self.limits)?);
        self.store(&edits, &current, &next).map_err(|e| inventory::Error::Storage(Box::new(e)))?;
        // Only after the commit: a snapshot never shows what a crash would undo.
        self.snapshot.send_replace(Arc::clone(&next));
        for (worker, goal) in next.resumed(&current) {
            tracing::warn!(
                worker = worker.name,
                %goal,
                "a worker that was removed or renamed is back and keeps its goal: start it if it should compute"
            );
        }
        Ok(next)
    }

    /// Writes the edits as one flushed transaction.
    fn store(&self, edits: &[Edit], before: &Snapshot, after: &Snapshot) -> Result<(), Error> {
        let mut txn = self.write()?;
        for edit in edits {
            self.store_one(&mut txn, edit)?;
        }
        // Not by edit: removing and adding workers moves records from one table to the other.
        let Tables { saved, removed, .. } = self.tables;
        self.store_differences(&mut txn, saved, (&before.saved, &after.saved), encode)?;
        self.store_differences(&mut txn, removed, (&before.removed, &after.removed), |w| encode(&**w))?;
        let stored = self.tables.meta.put(&mut txn, "revision", &after.revision.encode());
        stored.and_then(|()| txn.commit()).map_err(|e| self.error(e))
    }

    fn store_one(&self, txn: &mut RwTxn<'_>, edit: &Edit) -> Result<(), Error> {
        let Tables { pools, workers, .. } = self.tables;
        let stored = match edit {
            Edit::PutPool(pool) => pools.put(txn, pool.id.as_bytes(), &encode(&PoolRecord::from(pool))?),
            Edit::PutWorker(worker) => {
                workers.put(txn, worker.id.as_bytes(), &encode(&WorkerRecord::from(worker))?)
            }
            Edit::RemovePool(id) => pools.delete(txn, id.as_bytes()).map(drop),
            Edit::RemoveWorker(id) => workers.delete(txn, id.as_bytes()).map(drop),
            // See `store_differences`.
            Edit::PutFleetRecord(..) => Ok(()),
            other => return Err(Error::UnknownEdit { edit: format!("{other:?}") }),
        };
        stored.map_err(|e| self.error(e))
    }

    fn store_differences<R: PartialEq>(
        &self,
        txn: &mut RwTxn<'_>,
        table: Records,
        (before, after): (&HashMap<Uuid, R>, &HashMap<Uuid, R>),
        encode: impl Fn(&R) -> Result<Vec<u8>, Error>,
    ) -> Result<(), Error> {
        for id in before.keys().filter(|id| !after.contains_key(*id)) {
            table.delete(txn, id.as_bytes()).map_err(|e| self.error(e))?;
        }
        for (id, record) in after.iter().filter(|(id, record)| before.get(*id) != Some(*record)) {
            table.put(txn, id.as_bytes(), &encode(record)?).map_err(|e| self.error(e))?;
        }
        Ok(())
    }

    fn check_schema(&self) -> Result<(), Error> {
        let mut txn = self.write()?;
        let meta = self.tables.meta;
        let found = meta.get(&txn, "schema").map_err(|e| self.error(e))?;
        match found.map(|mut bytes| u32::decode(&mut bytes)).transpose() {
            Ok(Some(SCHEMA)) => Ok(()),
            Ok(Some(found)) => Err(Error::Schema { path: self.path.clone(), found, expected: SCHEMA }),
            Ok(None) => meta
                .put(&mut txn, "schema", &SCHEMA.encode())
                .and_then(|()| txn.commit())
                .map_err(|e| self.error(e)),
            Err(_) => Err(self.corrupt("schema version", String::new())),
        }
    }

    /// Loads the stored entries without checking them again: they were checked when they were written.
    fn load(&self) -> Result<Snapshot, Error> {
        let txn = self.env.read_txn().map_err(|e| self.error(e))?;
        let revision = self.tables.meta.get(&txn, "revision").map_err(|e| self.error(e))?;
        let revision = revision.map_or(Ok(0), |mut bytes| u64::decode(&mut bytes));
        let revision = revision.map_err(|_| self.corrupt("revision", String::new()))?;
        let mut pools = Vec::new();
        self.each(&txn, self.tables.pools, "pool", |id, record: PoolRecord| {
            pools.push(Arc::new(record.into_pool(id)));
        })?;
        let mut workers = Vec::new();
        self.each(&txn, self.tables.workers, "worker", |id, record: WorkerRecord| {
            workers.push(Arc::new(record.into_worker(id)));
        })?;
        pools.sort_by_key(|pool: &Arc<Pool>| pool.pid);
        workers.sort_by(|a: &Arc<Worker>, b| a.name.cmp(&b.name));
        let mut saved = HashMap::new();
        self.each(&txn, self.tables.saved, "saved state of worker", |id, state: FleetRecord| {
            saved.insert(id, state);
        })?;
        let mut removed = HashMap::new();
        self.each(&txn, self.tables.removed, "removed worker", |id, worker: RemovedWorker| {
            removed.insert(id, Arc::new(worker));
        })?;
        Ok(Snapshot { revision, pools, workers, saved, removed })
    }

    fn each<R: DeserializeOwned>(
        &self,
        txn: &RoTxn<'_, WithoutTls>,
        table: Records,
        what: &'static str,
        mut take: impl FnMut(Uuid, R),
    ) -> Result<(), Error> {
        for entry in table.iter(txn).map_err(|e| self.error(e))? {
            let (key, bytes) = entry.map_err(|e| self.error(e))?;
            let id = Uuid::from_slice(key).map_err(|_| self.corrupt(what, hex::encode(key)))?;
            // serde's message could quote the record, which is not shown.
            let record = serde_json::from_slice(bytes).map_err(|_| self.corrupt(what, id.to_string()))?;
            take(id, record);
        }
        Ok(())
    }

    fn write(&self) -> Result<RwTxn<'_>, Error> {
        self.env.write_txn().map_err(|e| self.error(e))
    }

    fn error(&self, e: heed::Error) -> Error {
        Error::from_heed(&self.path, e)
    }

    fn corrupt(&self, what: &'static str, id: String) -> Error {
        Error::Corrupt { path: self.path.clone(), what, id }
    }
}

fn encode(record: &impl Serialize) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(record).map_err(Error::Encode)
}

#[allow(unsafe_code)]
fn open_env(path: &Path, map_bytes: usize) -> heed::Result<Env<WithoutTls>> {
    let mut options = EnvOpenOptions::new().read_txn_without_tls();
    // Transactions without thread-local storage take a slot each, and the only reader is `load`.
    options.map_size(map_bytes).max_readers(16).max_dbs(5);
    // SAFETY: the files are only changed through LMDB: the lock above excludes other processes, and heed refuses
    // to open them twice within this process.
    unsafe { options.open(path) }
}

fn open_tables(env: &Env<WithoutTls>) -> heed::Result<Tables> {
    let txn = env.write_txn()?;
    let opened = env.create_databases_and_commit(txn, |db, txn| {
        let meta = db.create_database(txn, Some("meta"))?;
        let pools = db.create_database(txn, Some("pools"))?;
        let workers = db.create_database(txn, Some("workers"))?;
        let saved = db.create_database(txn, Some("saved"))?;
        let removed = db.create_database(txn, Some("removed"))?;
        Ok::<_, heed::Error>(CommitOrAbort::<_, ()>::Commit((meta, pools, workers, saved, removed)))
    })?;
    let (meta, pools, workers, saved, removed) = opened.unwrap_commit();
    Ok(Tables { meta, pools, workers, saved, removed })
}
