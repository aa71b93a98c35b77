//! Migrates stores of older layouts in place.
//!
//! Each step converts a layout to the next one, in transactions of bounded size. The store is first marked
//! with the new layout, so that an older version does not write into a half-converted store, and with the
//! step's progress: an interrupted step continues where it was.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use codec::{Decode, Encode};

use super::{Error, Store, decode, segment};

/// The layout that this code reads and writes.
pub(super) const SCHEMA: u32 = 2;
/// The oldest layout that can be migrated.
const OLDEST: u32 = 1;
/// Steps by the layout that they start from, [`OLDEST`] first.
const STEPS: [Step; (SCHEMA - OLDEST) as usize] = [Store::add_digests];
/// Bytes of values read in one transaction.
const BYTES_PER_TRANSACTION: usize = 64 << 20;
/// Least time between two log lines.
const LOG_INTERVAL: Duration = Duration::from_secs(10);

/// Carries out part of a step from a row on; returns the row to continue from, or `None` at the end.
type Step = fn(&Store, u32) -> Result<Option<u32>, Error>;

/// A step in progress.
#[derive(Clone, Copy, Encode, Decode)]
struct Unfinished {
    /// The layout that it starts from.
    from: u32,
    /// The next row.
    row: u32,
}

/// Checks that stores of this layout can be read.
pub(super) fn check_layout(path: &Path, found: u32) -> Result<(), Error> {
    if (OLDEST..=SCHEMA).contains(&found) {
        return Ok(());
    }
    Err(Error::Schema { path: path.to_owned(), found, expected: SCHEMA })
}

impl Store {
    /// Brings the store to the current layout.
    pub(super) fn migrate(&self) -> Result<(), Error> {
        let (found, mut unfinished) = self.with_recovery(|| self.layout())?;
        check_layout(&self.path, found)?;
        let mut from = unfinished.map_or(found, |unfinished| unfinished.from);
        while from < SCHEMA {
            let row = unfinished.take().map_or(0, |unfinished| unfinished.row);
            self.step(Unfinished { from, row })?;
            from += 1;
        }
        Ok(())
    }

    /// Returns the store's layout, and the step in progress, if any. A new store gets the current layout.
    fn layout(&self) -> Result<(u32, Option<Unfinished>), Error> {
        let guard = self.lock_shared()?;
        let mut txn = self.write(&guard)?;
        let meta = txn.tables.meta;
        let Some(found) = meta.get(&txn, "schema").map_err(|e| self.error(e))? else {
            meta.put(&mut txn, "schema", &SCHEMA.encode()).map_err(|e| self.error(e))?;
            txn.commit().map_err(|e| self.error(e))?;
            return Ok((SCHEMA, None));
        };
        let found = decode(found, "schema version")?;
        let unfinished = meta.get(&txn, "migration").map_err(|e| self.error(e))?;
        Ok((found, unfinished.map(|row| decode(row, "state of a migration")).transpose()?))
    }

    fn step(&self, step: Unfinished) -> Result<(), Error> {
        let Unfinished { from, mut row } = step;
        let path = self.path.display();
        tracing::info!(%path, from, to = from + 1, row, "migrating the store to a newer layout");
        let run = STEPS[(from - OLDEST) as usize];
        let mut logged_at = Instant::now();
        self.with_recovery(|| self.mark(from + 1, Some(Unfinished { from, row })))?;
        while let Some(next) = self.with_recovery(|| run(self, row))? {
            row = next;
            self.with_recovery(|| self.mark(from + 1, Some(Unfinished { from, row })))?;
            if logged_at.elapsed() > LOG_INTERVAL {
                logged_at = Instant::now();
                tracing::info!(%path, from, to = from + 1, row, "still migrating the store to a newer layout");
            }
        }
        self.with_recovery(|| self.mark(from + 1, None))?;
        tracing::info!(%path, layout = from + 1, "migrated the store to a newer layout");
        Ok(())
    }

    fn mark(&self, layout: u32, unfinished: Option<Unfinished>) -> Result<(), Error> {
        let guard = self.lock_shared()?;
        let mut txn = self.write(&guard)?;
        let meta = txn.tables.meta;
        let put = meta.put(&mut txn, "schema", &layout.encode());
        let marked = put.and_then(|()| match unfinished {
            Some(unfinished) => meta.put(&mut txn, "migration", &unfinished.encode()),
            None => meta.delete(&mut txn, "migration").map(drop),
        });
        marked.and_then(|()| txn.commit()).map_err(|e| self.error(e))
    }

    /// From layout 1 to 2: adds digests of the segments of storage changes.
    fn add_digests(&self, from: u32) -> Result<Option<u32>, Error> {
        let guard = self.lock_shared()?;
        let mut txn = self.write(&guard)?;
        let tables = txn.tables;
        let (mut digests, mut bytes, mut next) = (Vec::new(), 0, None);
        for entry in tables.changes.range(&txn, &(from..)).map_err(|e| self.error(e))? {
            let (first, encoded) = entry.map_err(|e| self.error(e))?;
            if bytes > BYTES_PER_TRANSACTION {
                next = Some(first);
                break;
            }
            bytes += encoded.len();
            digests.push((first, segment::digest(encoded)));
        }
        for (first, digest) in digests {
            tables.digests.put(&mut txn, &first, &digest).map_err(|e| self.error(e))?;
        }
        txn.commit().map_err(|e| self.error(e))?;
        Ok(next)
    }
}
