//! Transactions; the memory map, which grows when it is full; and reopening the database after failures that
//! LMDB does not recover from.

use prb_core::text::describe;
use std::{
    ops::{Deref, DerefMut},
    path::Path,
    sync::{PoisonError, RwLockReadGuard, RwLockWriteGuard, TryLockError, atomic::Ordering},
    thread,
    time::{Duration, Instant},
};

use heed::{Env, RoTxn, RwTxn, WithoutTls};

use super::{Config, Error, Store, Tables, open};

/// How long a resize, a reopening and a close wait for readers to end. After that an append fails and is retried.
const EXCLUSIVE_TIMEOUT: Duration = Duration::from_secs(5);
/// Interval at which waiting threads try again.
const POLL_INTERVAL: Duration = Duration::from_millis(1);
/// How long a new reader waits while another thread needs the map exclusively, so that the readers come to an end.
/// Longer than an ordinary read; shorter than [`EXCLUSIVE_TIMEOUT`], because a thread that already holds the map may be
/// waiting for a second guard.
const READER_WAIT: Duration = Duration::from_secs(1);
/// Largest map, in bytes: half of a process's address space on x86-64.
const MAX_MAP_BYTES: usize = 1 << 46;

/// The LMDB database, or why there is none at the moment.
pub(super) enum Database {
    /// Open; the number is incremented each time that it is reopened.
    Open(Opened, u64),
    /// LMDB closed it, and it could not be reopened so far.
    Closed(u64),
    /// The system refused to map it after it grew.
    Unmapped,
}

/// LMDB's environment and its tables.
pub(super) struct Opened {
    env: Env<WithoutTls>,
    tables: Tables,
}

impl Database {
    pub(super) fn open(path: &Path, config: Config) -> Result<Self, Error> {
        let (env, tables) = open::database(path, config)?;
        Ok(Self::Open(Opened { env, tables }, 0))
    }

    const fn generation(&self) -> u64 {
        match self {
            Self::Open(_, generation) | Self::Closed(generation) => *generation,
            Self::Unmapped => 0,
        }
    }
}

/// Shared access to the database: while it is held, the map is neither resized nor reopened.
pub(super) struct SharedGuard<'s>(RwLockReadGuard<'s, Database>);

impl SharedGuard<'_> {
    fn opened(&self) -> &Opened {
        match &*self.0 {
            Database::Open(opened, _) => opened,
            Database::Closed(_) | Database::Unmapped => unreachable!("only an open database is handed out"),
        }
    }

    pub(super) fn env(&self) -> &Env<WithoutTls> {
        &self.opened().env
    }
}

/// A read transaction.
pub(super) struct Txn<'s> {
    // Declared, and so dropped, before the guard: the map must not change while the transaction is open.
    txn: RoTxn<'static, WithoutTls>,
    pub(super) tables: Tables,
    _guard: SharedGuard<'s>,
}

impl Deref for Txn<'_> {
    type Target = RoTxn<'static, WithoutTls>;

    fn deref(&self) -> &Self::Target {
        &self.txn
    }
}

/// A write transaction.
pub(super) struct WriteTxn<'h> {
    txn: RwTxn<'h>,
    pub(super) tables: Tables,
}

impl WriteTxn<'_> {
    pub(super) fn commit(self) -> heed::Result<()> {
        self.txn.commit()
    }
}

impl<'h> Deref for WriteTxn<'h> {
    type Target = RwTxn<'h>;

    fn deref(&self) -> &Self::Target {
        &self.txn
    }
}

impl DerefMut for WriteTxn<'_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.txn
    }
}

impl Store {
    /// Starts a read transaction. After a failed write LMDB refuses readers, too: the database is then reopened, once.
    pub(super) fn read(&self) -> Result<Txn<'_>, Error> {
        let generation = self.database.read().unwrap_or_else(PoisonError::into_inner).generation();
        match self.try_read() {
            Err(Error::Broken { .. }) => {
                self.reopen(generation)?;
                self.try_read()
            }
            read => read,
        }
    }

    pub(super) fn try_read(&self) -> Result<Txn<'_>, Error> {
        let guard = self.lock_shared()?;
        let Opened { env, tables } = guard.opened();
        // Owns its environment, so that it can be kept together with the guard; without thread-local storage,
        // so that it may move between threads.
        let txn = env.clone().static_read_txn().map_err(|e| self.error(e))?;
        Ok(Txn { txn, tables: *tables, _guard: guard })
    }

    /// Starts a write transaction; waits for the current writer.
    pub(super) fn write<'h>(&self, guard: &'h SharedGuard<'_>) -> Result<WriteTxn<'h>, Error> {
        let Opened { env, tables } = guard.opened();
        Ok(WriteTxn { txn: env.write_txn().map_err(|e| self.error(e))?, tables: *tables })
    }

    /// Waits for shared access. A thread may take several guards at once. Once a writer queues for an `RwLock`, new
    /// readers wait behind it, so a thread with a guard would deadlock on its second one. Therefore
    /// [`lock_exclusive`](Self::lock_exclusive) polls instead of queueing, and readers give way to it only for
    /// [`READER_WAIT`].
    pub(super) fn lock_shared(&self) -> Result<SharedGuard<'_>, Error> {
        let until = Instant::now() + READER_WAIT;
        while self.exclusive_waiters.load(Ordering::Relaxed) > 0 && Instant::now() < until {
            thread::sleep(POLL_INTERVAL);
        }
        let guard = self.database.read().unwrap_or_else(PoisonError::into_inner);
        match &*guard {
            Database::Open(..) => Ok(SharedGuard(guard)),
            Database::Closed(_) => Err(Error::Broken { path: self.path.clone() }),
            Database::Unmapped => Err(Error::Unmapped { path: self.path.clone() }),
        }
    }

    /// Runs a write, and repeats it after recovering from a full map (by enlarging it) or, once, from a failure after
    /// which LMDB refuses everything (by reopening the database).
    pub(super) fn with_recovery<T>(&self, mut work: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
        let mut reopened = false;
        loop {
            // Read before the work: if another thread changes the map meanwhile, it must not be changed twice.
            // Not by `lock_shared`, which refuses a database that is to be reopened here.
            let (size, generation) = {
                let guard = self.database.read().unwrap_or_else(PoisonError::into_inner);
                let size = match &*guard {
                    Database::Open(opened, _) => opened.env.info().map_size,
                    Database::Closed(_) | Database::Unmapped => 0,
                };
                (size, guard.generation())
            };
            match work() {
                Err(Error::MapFull { .. }) => self.grow(size)?,
                Err(Error::Broken { .. }) if !reopened => {
                    reopened = true;
                    self.reopen(generation)?;
                }
                other => return other,
            }
        }
    }

    /// Waits until no thread has shared access; `None` if that takes too long.
    fn lock_exclusive(&self) -> Option<RwLockWriteGuard<'_, Database>> {
        // Before the first attempt, so that new readers wait from now on.
        self.exclusive_waiters.fetch_add(1, Ordering::Relaxed);
        let deadline = Instant::now() + EXCLUSIVE_TIMEOUT;
        let exclusive = loop {
            match self.database.try_write() {
                Ok(mapped) => break Some(mapped),
                Err(TryLockError::Poisoned(e)) => break Some(e.into_inner()),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => thread::sleep(POLL_INTERVAL),
                Err(TryLockError::WouldBlock) => break None,
            }
        };
        self.exclusive_waiters.fetch_sub(1, Ordering::Relaxed);
        exclusive
    }

    /// Doubles a map of this size, once there are no reads or writes.
    #[allow(unsafe_code)]
    fn grow(&self, size: usize) -> Result<(), Error> {
        let full = |reason| Error::MapFull { path: self.path.clone(), reason };
        let mut mapped = self.lock_exclusive().ok_or_else(|| full("readers hold it"))?;
        let Database::Open(Opened { env, .. }, _) = &*mapped else { return Ok(()) };
        // Another thread has enlarged it in the meantime.
        if env.info().map_size > size {
            return Ok(());
        }
        // Doubling: growing needs a moment without readers, so it should be rare.
        let larger = size.saturating_mul(2);
        if larger > MAX_MAP_BYTES {
            return Err(full("it has reached the largest map"));
        }
        // SAFETY: each transaction of this process holds `database` for reading, so that none is active; the lock
        // file excludes other processes.
        if let Err(e) = unsafe { env.resize(larger) } {
            tracing::error!(path = %self.path.display(), bytes = larger, error = %describe(&e), "the store's map could not grow");
            // After a failed resize LMDB has no map at all, so the store must not be used any more.
            *mapped = Database::Unmapped;
            return Err(Error::Unmapped { path: self.path.clone() });
        }
        tracing::info!(path = %self.path.display(), bytes = larger, "the store's map was full and has grown");
        Ok(())
    }

    /// Closes the database after a failure, opens it again, and reloads the state from it.
    fn reopen(&self, generation: u64) -> Result<(), Error> {
        let broken = || Error::Broken { path: self.path.clone() };
        // LMDB would create a new, empty database.
        self.check_files();
        if self.writes.moved().is_some() {
            return Err(broken());
        }
        let mut mapped = self.lock_exclusive().ok_or_else(broken)?;
        // Another thread has done so in the meantime.
        if mapped.generation() != generation {
            return Ok(());
        }
        if let Database::Open(Opened { env, .. }, _) =
            std::mem::replace(&mut *mapped, Database::Closed(generation))
        {
            env.prepare_for_closing().wait_timeout(EXCLUSIVE_TIMEOUT);
        }
        let Database::Open(opened, _) = Database::open(&self.path, self.config)? else {
            return Err(broken());
        };
        *mapped = Database::Open(opened, generation + 1);
        drop(mapped);
        // The failed write may be stored nevertheless.
        self.load()?;
        tracing::warn!(path = %self.path.display(), "the store's database had failed and was opened again");
        Ok(())
    }

    /// Closes the database for good.
    pub(super) fn close(&self) {
        let mut mapped = self.database.write().unwrap_or_else(PoisonError::into_inner);
        let generation = mapped.generation();
        if let Database::Open(Opened { env, .. }, _) =
            std::mem::replace(&mut *mapped, Database::Closed(generation))
        {
            env.prepare_for_closing().wait_timeout(EXCLUSIVE_TIMEOUT);
        }
    }
}
