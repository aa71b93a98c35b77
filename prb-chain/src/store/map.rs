//! Transactions, and the memory map under them, which grows when it is full.

use std::{
    ops::{Deref, DerefMut},
    sync::{PoisonError, RwLockReadGuard, TryLockError, atomic::Ordering},
    thread,
    time::{Duration, Instant},
};

use heed::{RoTxn, RwTxn, WithoutTls};

use super::{Error, Store};

/// How long a map that is full waits for readers to end before the append fails, to be tried again.
const PATIENCE: Duration = Duration::from_secs(5);
/// Pause between two looks whether they have.
const PAUSE: Duration = Duration::from_millis(1);
/// How long each who comes meanwhile waits, so that there is a moment without any: longer than what others read
/// at once takes, and so much shorter than [`PATIENCE`] that a thread that holds the map already goes on.
const STEP_ASIDE: Duration = Duration::from_secs(1);
/// More address space than a process has.
const MOST: usize = 1 << 46;

/// Holds the map as it is.
type Held<'s> = RwLockReadGuard<'s, bool>;

/// A read transaction.
pub(super) struct Txn<'s> {
    // Dropped before the map may change.
    txn: RoTxn<'s, WithoutTls>,
    _held: Held<'s>,
}

impl<'s> Deref for Txn<'s> {
    type Target = RoTxn<'s, WithoutTls>;

    fn deref(&self) -> &Self::Target {
        &self.txn
    }
}

/// A write transaction.
pub(super) struct WriteTxn<'s> {
    // Dropped before the map may change.
    txn: RwTxn<'s>,
    _held: Held<'s>,
}

impl WriteTxn<'_> {
    pub(super) fn commit(self) -> heed::Result<()> {
        self.txn.commit()
    }
}

impl<'s> Deref for WriteTxn<'s> {
    type Target = RwTxn<'s>;

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
    pub(super) fn read(&self) -> Result<Txn<'_>, Error> {
        let held = self.hold()?;
        Ok(Txn { txn: self.env.read_txn().map_err(|e| self.error(e))?, _held: held })
    }

    pub(super) fn write(&self) -> Result<WriteTxn<'_>, Error> {
        let held = self.hold()?;
        Ok(WriteTxn { txn: self.env.write_txn().map_err(|e| self.error(e))?, _held: held })
    }

    /// Keeps the map from changing. Several may hold it, also one thread several times: who changes it does
    /// not queue up before them, or that thread would wait for itself. They only come a little later.
    fn hold(&self) -> Result<Held<'_>, Error> {
        let until = Instant::now() + STEP_ASIDE;
        while self.growing.load(Ordering::Relaxed) > 0 && Instant::now() < until {
            thread::sleep(PAUSE);
        }
        let held = self.mapped.read().unwrap_or_else(PoisonError::into_inner);
        if *held { Ok(held) } else { Err(Error::Unmapped { path: self.path.clone() }) }
    }

    /// Does it again with a larger map where the map is full.
    pub(super) fn growing<T>(&self, mut work: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
        loop {
            let size = {
                let _held = self.hold()?;
                self.env.info().map_size
            };
            match work() {
                Err(Error::MapFull { .. }) => self.grow(size)?,
                other => return other,
            }
        }
    }

    /// Doubles a map of this size, once nobody reads or writes.
    fn grow(&self, size: usize) -> Result<(), Error> {
        self.growing.fetch_add(1, Ordering::Relaxed);
        let grown = self.resize(size);
        self.growing.fetch_sub(1, Ordering::Relaxed);
        grown
    }

    #[allow(unsafe_code)]
    fn resize(&self, size: usize) -> Result<(), Error> {
        let full = || Error::MapFull { path: self.path.clone() };
        let deadline = Instant::now() + PATIENCE;
        let mut mapped = loop {
            match self.mapped.try_write() {
                Ok(mapped) => break mapped,
                Err(TryLockError::Poisoned(e)) => break e.into_inner(),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => thread::sleep(PAUSE),
                Err(TryLockError::WouldBlock) => return Err(full()),
            }
        };
        // Another has made it larger meanwhile.
        if self.env.info().map_size > size {
            return Ok(());
        }
        let larger = size.saturating_mul(2);
        if larger > MOST {
            return Err(full());
        }
        // LMDB has no map at all after a failure: the store must not be used any more.
        *mapped = false;
        // SAFETY: each transaction of this process holds `mapped` for reading, so that none is active; the lock
        // file keeps other processes out.
        if let Err(error) = unsafe { self.env.resize(larger) } {
            tracing::error!(path = %self.path.display(), bytes = larger, %error, "the store's map could not grow");
            return Err(Error::Unmapped { path: self.path.clone() });
        }
        *mapped = true;
        tracing::info!(path = %self.path.display(), bytes = larger, "the store's map was full and has grown");
        Ok(())
    }
}
