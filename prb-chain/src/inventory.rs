//! [`HeedInventory`]: a lifecycle manager's pools and workers, in LMDB.
//!
//! The path (`PHALA_LOCAL_DB_PATH`) is a folder:
//!
//! | table | key | value |
//! |---|---|---|
//! | `meta` | `schema`, `revision`, `id` | SCALE u32, SCALE u64, 16 bytes |
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
    time::Duration,
};

use async_trait::async_trait;
use codec::{Decode, Encode};
use heed::{
    CommitOrAbort, Env, EnvOpenOptions, RoTxn, RwTxn, WithoutTls,
    types::{Bytes, Str},
};
use prb_core::inventory::{
    self, Edit, FleetRecord, Inventory, Limits, Pool, RemovedWorker, Snapshot, Worker,
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::{Semaphore, watch};
use uuid::Uuid;

mod error;
mod record;

pub use error::Error;

use record::{PoolRecord, WorkerRecord};

use crate::{
    disk::{DiskProblem, Files, Writes},
    lmdb::{self, OpenError},
};

/// The layout version that this code reads and writes.
const SCHEMA: u32 = 1;
/// How long closing a failed database waits for its users.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

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

type Records = heed::Database<'static, Bytes, Bytes>;

#[derive(Clone, Copy)]
struct Tables {
    meta: heed::Database<'static, Str, Bytes>,
    pools: Records,
    workers: Records,
    saved: Records,
    removed: Records,
}

/// LMDB's environment and its tables.
struct Database {
    env: Env<WithoutTls>,
    tables: Tables,
}

struct Shared {
    path: PathBuf,
    config: Config,
    /// The database; `None` if LMDB has closed it after a failure, and it could not be opened again so far. Locked from
    /// reading the snapshot until the next one is published, so that edits are applied one after the other.
    database: Mutex<Option<Database>>,
    /// Allows one edit at a time: if the disk hangs, so does the thread that writes, and no further ones may follow.
    editing: Arc<Semaphore>,
    snapshot: watch::Sender<Arc<Snapshot>>,
    writes: Writes<1>,
    files: Files,
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
    /// file, [`Error::OtherData`] for a database of another kind, [`Error::Schema`] for another layout version,
    /// [`Error::Truncated`], [`Error::Damaged`], or an I/O error.
    pub fn open(path: &Path, config: Config) -> Result<Self, Error> {
        let io = |source| Error::from_io(path, source);
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
        lmdb::try_lock(&lock).map_err(|e| match e {
            TryLockError::WouldBlock => Error::InUse { path: path.to_owned() },
            TryLockError::Error(source) => Error::Lock { path: path.to_owned(), source },
        })?;
        let database = Database::open(path, config.map_bytes)?;
        // LMDB flushes its files but not the folder entries of new ones.
        File::open(path).and_then(|folder| folder.sync_all()).map_err(io)?;
        let snapshot = database.load(path)?;
        let shared = Shared {
            path: path.to_owned(),
            config,
            database: Mutex::new(Some(database)),
            editing: Arc::new(Semaphore::new(1)),
            snapshot: watch::Sender::new(Arc::new(snapshot)),
            writes: Writes::default(),
            files: Files::of(path, &lock).map_err(io)?,
            _lock: lock,
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// The inventory's path.
    pub fn path(&self) -> &Path {
        &self.shared.path
    }

    /// Returns the id of this inventory, which is created when it is first asked for. A copy of the folder has the same
    /// one. Blocks on the disk.
    ///
    /// # Errors
    /// [`Error::Corrupt`], or a new id cannot be stored.
    pub fn id(&self) -> Result<Uuid, Error> {
        let path = &self.shared.path;
        let database = self.shared.database.lock().unwrap_or_else(PoisonError::into_inner);
        database.as_ref().ok_or_else(|| Error::Broken { path: path.clone() })?.id(path)
    }

    /// Returns why edits cannot be stored at the moment. Does not block.
    pub fn disk_problem(&self) -> Option<DiskProblem> {
        self.shared.writes.problem(&format_args!("the inventory at {}", self.shared.path.display()))
    }

    /// Checks whether the files are still where they were opened and, if the last edit could not be stored, whether
    /// writing works again. Blocks on the disk.
    pub fn check_files(&self) {
        let shared = &self.shared;
        // An error is kept for `disk_problem`.
        let _ = shared.check_moved();
        if shared.writes.has_failed() {
            let _ = shared.commit(&[]);
        }
    }
}

#[async_trait]
impl Inventory for HeedInventory {
    fn snapshots(&self) -> watch::Receiver<Arc<Snapshot>> {
        self.shared.snapshot.subscribe()
    }

    /// An edit whose future was dropped may have been applied.
    async fn apply(&self, edits: Vec<Edit>) -> Result<Arc<Snapshot>, inventory::Error> {
        let storage = |e: BoxedError| inventory::Error::Storage(e);
        let permit = Arc::clone(&self.shared.editing).acquire_owned().await;
        let permit = permit.map_err(|e| storage(e.into()))?;
        let shared = Arc::clone(&self.shared);
        let applied = tokio::task::spawn_blocking(move || {
            // Moved here: an edit that outlives its caller keeps the others waiting.
            let _permit = permit;
            shared.apply(edits)
        });
        applied.await.unwrap_or_else(|panicked| Err(storage(panicked.into())))
    }
}

type BoxedError = Box<dyn std::error::Error + Send + Sync>;

impl Shared {
    fn apply(&self, edits: Vec<Edit>) -> Result<Arc<Snapshot>, inventory::Error> {
        if edits.is_empty() {
            return Ok(Arc::clone(&self.snapshot.borrow()));
        }
        self.commit(&edits)
    }

    /// Stores edits and publishes the snapshot with them. Opens the database again, once, if LMDB has closed it.
    fn commit(&self, edits: &[Edit]) -> Result<Arc<Snapshot>, inventory::Error> {
        let storage = |e: Error| inventory::Error::Storage(Box::new(e));
        let mut database = self.database.lock().unwrap_or_else(PoisonError::into_inner);
        let mut reopened = false;
        loop {
            let current = Arc::clone(&self.snapshot.borrow());
            let next = Arc::new(current.edited(edits.to_vec(), &self.config.limits)?);
            match self.tracked(|| self.store(database.as_ref(), edits, (&current, &next))) {
                Ok(()) => {
                    // Only after the commit: a snapshot never shows what a crash would undo.
                    self.snapshot.send_replace(Arc::clone(&next));
                    warn_of_resumed(&current, &next);
                    return Ok(next);
                }
                Err(Error::Broken { .. }) if !reopened => {
                    reopened = true;
                    self.tracked(|| self.reopen(&mut database)).map_err(storage)?;
                }
                Err(e) => return Err(storage(e)),
            }
        }
    }

    fn tracked<T>(&self, write: impl FnOnce() -> Result<T, Error>) -> Result<T, Error> {
        self.writes.track(0, write, Error::disk_problem)
    }

    /// Writes the edits as one flushed transaction.
    fn store(
        &self,
        database: Option<&Database>,
        edits: &[Edit],
        (before, after): (&Snapshot, &Snapshot),
    ) -> Result<(), Error> {
        self.check_moved()?;
        let Database { env, tables } = database.ok_or_else(|| Error::Broken { path: self.path.clone() })?;
        let mut txn = env.write_txn().map_err(|e| self.error(e))?;
        for edit in edits {
            self.store_one(&mut txn, tables, edit)?;
        }
        // Not by edit: removing and adding workers moves records from one table to the other.
        let Tables { saved, removed, .. } = *tables;
        self.store_differences(&mut txn, saved, (&before.saved, &after.saved), encode)?;
        self.store_differences(&mut txn, removed, (&before.removed, &after.removed), |w| encode(&**w))?;
        let stored = tables.meta.put(&mut txn, "revision", &after.revision.encode());
        stored.and_then(|()| txn.commit()).map_err(|e| self.error(e))
    }

    fn check_moved(&self) -> Result<(), Error> {
        let moved = self.files.are_moved(&self.path).then(|| Error::Moved { path: self.path.clone() });
        self.writes.set_moved(moved.as_ref().map(ToString::to_string));
        moved.map_or(Ok(()), Err)
    }

    /// Closes the database after a failure and opens it again.
    fn reopen(&self, database: &mut Option<Database>) -> Result<(), Error> {
        // LMDB would create a new, empty database.
        self.check_moved()?;
        if let Some(Database { env, .. }) = database.take() {
            env.prepare_for_closing().wait_timeout(CLOSE_TIMEOUT);
        }
        let opened = Database::open(&self.path, self.config.map_bytes)?;
        // The failed write may be stored nevertheless.
        let snapshot = opened.load(&self.path)?;
        *database = Some(opened);
        self.snapshot.send_replace(Arc::new(snapshot));
        tracing::warn!(path = %self.path.display(), "the inventory's database had failed and was opened again");
        Ok(())
    }

    fn store_one(&self, txn: &mut RwTxn<'_>, tables: &Tables, edit: &Edit) -> Result<(), Error> {
        let Tables { pools, workers, .. } = *tables;
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

    fn error(&self, e: heed::Error) -> Error {
        Error::from_heed(&self.path, e)
    }
}

impl Database {
    /// Opens the folder's database and its tables, creating missing ones.
    fn open(path: &Path, map_bytes: usize) -> Result<Self, Error> {
        let failed = |e| Error::from_heed(path, e);
        let env = open_env(path, map_bytes).map_err(|e| Error::from_open(path, e))?;
        if lmdb::is_foreign(&env, "relay_headers").map_err(failed)? {
            return Err(Error::OtherData { path: path.to_owned() });
        }
        // Reader slots are in a file: those of a killed process stay occupied, and keep pages from being
        // reused.
        env.clear_stale_readers().map_err(failed)?;
        let tables = open_tables(&env).map_err(failed)?;
        let database = Self { env, tables };
        database.check_schema(path)?;
        Ok(database)
    }

    fn check_schema(&self, path: &Path) -> Result<(), Error> {
        let failed = |e| Error::from_heed(path, e);
        let mut txn = self.env.write_txn().map_err(failed)?;
        let meta = self.tables.meta;
        let found = meta.get(&txn, "schema").map_err(failed)?;
        match found.map(|mut bytes| u32::decode(&mut bytes)).transpose() {
            Ok(Some(SCHEMA)) => Ok(()),
            Ok(Some(found)) => Err(Error::Schema { path: path.to_owned(), found, expected: SCHEMA }),
            Ok(None) => {
                meta.put(&mut txn, "schema", &SCHEMA.encode()).and_then(|()| txn.commit()).map_err(failed)
            }
            Err(_) => Err(corrupt(path, "schema version", String::new())),
        }
    }

    /// Returns the id of the inventory. Those of earlier versions have none, and get one.
    fn id(&self, path: &Path) -> Result<Uuid, Error> {
        let failed = |e| Error::from_heed(path, e);
        let (mut txn, meta) = (self.env.write_txn().map_err(failed)?, self.tables.meta);
        if let Some(bytes) = meta.get(&txn, "id").map_err(failed)? {
            return Uuid::from_slice(bytes).map_err(|_| corrupt(path, "id of the inventory", String::new()));
        }
        let id = Uuid::new_v4();
        meta.put(&mut txn, "id", id.as_bytes()).and_then(|()| txn.commit()).map_err(failed)?;
        Ok(id)
    }

    /// Loads the stored entries without checking them again: they were checked when they were written.
    fn load(&self, path: &Path) -> Result<Snapshot, Error> {
        let txn = self.env.read_txn().map_err(|e| Error::from_heed(path, e))?;
        let revision = self.tables.meta.get(&txn, "revision").map_err(|e| Error::from_heed(path, e))?;
        let revision = revision.map_or(Ok(0), |mut bytes| u64::decode(&mut bytes));
        let revision = revision.map_err(|_| corrupt(path, "revision", String::new()))?;
        let mut pools = Vec::new();
        each(path, &txn, self.tables.pools, "pool", |id, record: PoolRecord| {
            pools.push(Arc::new(record.into_pool(id)));
        })?;
        let mut workers = Vec::new();
        each(path, &txn, self.tables.workers, "worker", |id, record: WorkerRecord| {
            workers.push(Arc::new(record.into_worker(id)));
        })?;
        pools.sort_by_key(|pool: &Arc<Pool>| pool.pid);
        workers.sort_by(|a: &Arc<Worker>, b| a.name.cmp(&b.name));
        let mut saved = HashMap::new();
        each(path, &txn, self.tables.saved, "saved state of worker", |id, state: FleetRecord| {
            saved.insert(id, state);
        })?;
        let mut removed = HashMap::new();
        each(path, &txn, self.tables.removed, "removed worker", |id, worker: RemovedWorker| {
            removed.insert(id, Arc::new(worker));
        })?;
        Ok(Snapshot { revision, pools, workers, saved, removed })
    }
}

/// Tells the operator of workers that came back with the goal that they had when they were removed.
fn warn_of_resumed(before: &Snapshot, after: &Snapshot) {
    for (worker, goal) in after.resumed(before) {
        tracing::warn!(
            worker = worker.name,
            %goal,
            "a worker that was removed or renamed is back and keeps its goal: start it if it should compute"
        );
    }
}

fn each<R: DeserializeOwned>(
    path: &Path,
    txn: &RoTxn<'_, WithoutTls>,
    table: Records,
    what: &'static str,
    mut take: impl FnMut(Uuid, R),
) -> Result<(), Error> {
    for entry in table.iter(txn).map_err(|e| Error::from_heed(path, e))? {
        let (key, bytes) = entry.map_err(|e| Error::from_heed(path, e))?;
        let id = Uuid::from_slice(key).map_err(|_| corrupt(path, what, hex::encode(key)))?;
        // serde's message could quote the record, which is not shown.
        let record = serde_json::from_slice(bytes).map_err(|_| corrupt(path, what, id.to_string()))?;
        take(id, record);
    }
    Ok(())
}

fn corrupt(path: &Path, what: &'static str, id: String) -> Error {
    Error::Corrupt { path: path.to_owned(), what, id }
}

fn encode(record: &impl Serialize) -> Result<Vec<u8>, Error> {
    serde_json::to_vec(record).map_err(Error::Encode)
}

fn open_env(path: &Path, map_bytes: usize) -> Result<Env<WithoutTls>, OpenError> {
    // All of it, because it is small.
    lmdb::check_pages(path)?;
    let mut options = EnvOpenOptions::new().read_txn_without_tls();
    // Transactions without thread-local storage take a slot each, and the only reader is `load`.
    options.map_size(map_bytes).max_readers(16).max_dbs(5);
    lmdb::open(path, &options)
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
