//! Opens LMDB databases, and recognises damaged ones and those that hold something else, before anything is written
//! to them.

use std::{
    fs::{File, TryLockError},
    io,
    path::Path,
    thread,
    time::{Duration, Instant},
};

use heed::{
    CommitOrAbort, Database, Env, EnvFlags, EnvOpenOptions, MdbError, RoTxn, WithoutTls,
    types::{Bytes, DecodeIgnore},
};

mod data_file;
#[cfg(test)]
mod tests;

use data_file::DataFile;

/// LMDB's table without a name, whose keys are the names of the others.
type Names<'env> = Database<'env, Bytes, DecodeIgnore>;

/// More tables than any database of this crate has. A foreign database may hold millions of rows without tables.
const MAX_LOOKED_AT: usize = 64;

/// How long a lock is tried for.
const LOCK_TIME: Duration = Duration::from_millis(250);

/// Locks the lock file of a folder. A lock that is held is tried again for a moment: a program that this process is
/// starting has copies of all open files until it runs, and keeps the lock of one that was closed meanwhile.
pub(crate) fn try_lock(file: &File) -> Result<(), TryLockError> {
    let until = Instant::now() + LOCK_TIME;
    loop {
        match file.try_lock() {
            Err(TryLockError::WouldBlock) if Instant::now() < until => {
                thread::sleep(Duration::from_millis(5))
            }
            result => return result,
        }
    }
}

/// Why a database was not opened.
#[derive(Debug)]
pub(crate) enum OpenError {
    /// Its file is shorter than its newest transaction left it.
    Truncated {
        /// The file's size.
        bytes: u64,
        /// The size that it should have.
        expected: u64,
    },
    /// LMDB refused it.
    Lmdb(heed::Error),
}

impl From<heed::Error> for OpenError {
    fn from(e: heed::Error) -> Self {
        Self::Lmdb(e)
    }
}

impl From<io::Error> for OpenError {
    fn from(e: io::Error) -> Self {
        Self::Lmdb(heed::Error::Io(e))
    }
}

/// Opens the database in a folder, if its file is complete.
///
/// The caller holds the folder's lock, so that no other process writes to the file.
#[allow(unsafe_code)]
pub(crate) fn open(path: &Path, options: &EnvOpenOptions<WithoutTls>) -> Result<Env<WithoutTls>, OpenError> {
    if let Some(file) = DataFile::open(path)? {
        file.check_length()?;
    }
    // SAFETY: the files are only changed through LMDB: the caller's lock excludes other processes, and heed refuses to
    // open them twice within this process.
    Ok(unsafe { options.open(path) }?)
}

/// As [`open`], without creating or changing anything in the folder.
#[allow(unsafe_code)]
pub(crate) fn open_read_only(
    path: &Path,
    options: &mut EnvOpenOptions<WithoutTls>,
) -> Result<Env<WithoutTls>, OpenError> {
    // SAFETY: nothing is written, and the caller holds the lock that keeps writers away.
    open(path, unsafe { options.flags(EnvFlags::READ_ONLY | EnvFlags::NO_LOCK) })
}

/// Checks the structure of the database in a folder: what LMDB follows without a check of its own. Reads all of it but
/// the contents of large values.
pub(crate) fn check_pages(path: &Path) -> Result<(), OpenError> {
    DataFile::open(path)?.map_or(Ok(()), |file| file.check_pages())
}

/// Whether a database that is not empty lacks the table `meta`, which each of this crate has, or has a table that
/// belongs to another kind of database. Two daemons that are given the same folder would otherwise each add their
/// tables, and mark each other's data as of an unknown layout.
pub(crate) fn is_foreign(env: &Env<WithoutTls>, other_kind: &str) -> heed::Result<bool> {
    let looked_at = env.open_databases_and_commit(env.read_txn()?, |db, txn| {
        let names = db.open_database::<Bytes, DecodeIgnore>(txn, None)?;
        let foreign = names.map_or(Ok(false), |names| has_foreign(names, txn, other_kind))?;
        // The tables are opened later, by their owner.
        Ok::<_, heed::Error>(CommitOrAbort::<Names<'_>, _>::Abort(foreign))
    })?;
    Ok(looked_at.unwrap_abort())
}

fn has_foreign(names: Names<'_>, txn: &RoTxn<'_, WithoutTls>, other_kind: &str) -> heed::Result<bool> {
    let (mut is_empty, mut has_meta) = (true, false);
    for entry in names.iter(txn)?.take(MAX_LOOKED_AT) {
        let (name, ()) = entry?;
        if name == other_kind.as_bytes() {
            return Ok(true);
        }
        is_empty = false;
        has_meta |= name == b"meta";
    }
    Ok(!is_empty && !has_meta)
}

/// Whether LMDB cannot read the files: they are damaged, or not of LMDB.
pub(crate) const fn is_damage(error: &MdbError) -> bool {
    matches!(
        error,
        MdbError::Corrupted
            | MdbError::PageNotFound
            | MdbError::Invalid
            | MdbError::VersionMismatch
            | MdbError::Incompatible
    )
}
