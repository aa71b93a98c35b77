//! Opens the database.

use std::{
    fs::{self, File, TryLockError},
    io,
    path::Path,
};

use heed::{
    CommitOrAbort, Database, Env, EnvOpenOptions, WithoutTls,
    types::{Bytes, Str},
};

use super::{Config, Error, Store, Tables, decode, migrate};
use crate::lmdb;

/// A multiple of every page size.
const PAGE: usize = 64 * 1024;
/// Includes spare tables for later layouts.
const MAX_TABLES: u32 = 16;

impl Store {
    /// Checks whether [`open`](Self::open) can use the folder, without creating or changing anything in it.
    ///
    /// # Errors
    /// Those of [`open`](Self::open); [`Error::InUse`] while a process has the store open.
    pub fn check(path: &Path) -> Result<(), Error> {
        if !path.exists() {
            return Ok(());
        }
        if !path.is_dir() {
            return Err(Error::Io { path: path.to_owned(), source: io::ErrorKind::NotADirectory.into() });
        }
        // Held to the end, so that no daemon opens the store meanwhile.
        let _lock = lock_existing(path)?;
        examine(path)
    }

    /// Checks that the database can be read without harm, without changing anything: what is damaged within a page may
    /// otherwise end the process by a signal. Reads all pages but the contents of large values.
    ///
    /// Blocks on the disk.
    ///
    /// # Errors
    /// [`Error::Damaged`], [`Error::Truncated`]; [`Error::InUse`] while a process has the store open.
    pub fn check_pages(path: &Path) -> Result<(), Error> {
        let _lock = lock_existing(path)?;
        lmdb::check_pages(path).map_err(|e| Error::from_open(path, e))
    }
}

/// Locks the store's lock file, if it exists.
fn lock_existing(path: &Path) -> Result<Option<File>, Error> {
    let failed = |source| Error::Io { path: path.to_owned(), source };
    let lock = match File::open(path.join("in-use")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        lock => lock.map_err(failed)?,
    };
    if lock.metadata().is_ok_and(|meta| meta.is_dir()) {
        let what = "in-use, which must be a file, is a folder";
        return Err(failed(io::Error::new(io::ErrorKind::IsADirectory, what)));
    }
    match lmdb::try_lock(&lock) {
        Ok(()) => Ok(Some(lock)),
        Err(TryLockError::WouldBlock) => Err(Error::InUse { path: path.to_owned() }),
        Err(TryLockError::Error(source)) => Err(Error::Lock { path: path.to_owned(), source }),
    }
}

/// The table of names and values.
type Meta<'env> = Database<'env, Str, Bytes>;

/// Opens the folder's database and its tables, creating missing ones.
pub(super) fn database(path: &Path, config: Config) -> Result<(Env<WithoutTls>, Tables), Error> {
    let env = open_env(path, config)?;
    let failed = |e| Error::from_heed(path, e);
    if lmdb::is_foreign(&env, "pools").map_err(failed)? {
        return Err(Error::OtherData { path: path.to_owned() });
    }
    // A killed process leaves its readers in the lock file, and LMDB never reuses pages that a reader may see.
    env.clear_stale_readers().map_err(failed)?;
    let tables = open_tables(&env).map_err(failed)?;
    Ok((env, tables))
}

/// Reads what decides whether a database can be used, without writing to its folder.
fn examine(path: &Path) -> Result<(), Error> {
    let file = path.join("data.mdb");
    // LMDB creates what is missing or empty.
    if fs::metadata(&file).map_or(true, |meta| meta.is_file() && meta.len() == 0) {
        return Ok(());
    }
    let failed = |e| Error::from_heed(path, e);
    let mut options = EnvOpenOptions::new().read_txn_without_tls();
    options.max_dbs(MAX_TABLES);
    let env = lmdb::open_read_only(path, &mut options).map_err(|e| Error::from_open(path, e))?;
    if lmdb::is_foreign(&env, "pools").map_err(failed)? {
        return Err(Error::OtherData { path: path.to_owned() });
    }
    let read = env.open_databases_and_commit(env.read_txn().map_err(failed)?, |db, txn| {
        let meta = db.open_database::<Str, Bytes>(txn, Some("meta"))?;
        let layout = meta.map(|meta| meta.get(txn, "schema")).transpose()?.flatten();
        Ok::<_, heed::Error>(CommitOrAbort::<Meta<'_>, _>::Abort(layout.map(<[u8]>::to_vec)))
    });
    match read.map_err(failed)?.unwrap_abort() {
        Some(layout) => migrate::check_layout(path, decode(&layout, "schema version")?),
        None => Ok(()),
    }
}

fn open_env(path: &Path, config: Config) -> Result<Env<WithoutTls>, Error> {
    // With thread-local storage LMDB allows one read transaction for each thread, and only that thread may end
    // it.
    let mut options = EnvOpenOptions::new().read_txn_without_tls();
    // Twice the size of the existing data.
    let stored = fs::metadata(path.join("data.mdb")).map_or(0, |file| file.len());
    let twice = usize::try_from(stored).unwrap_or(usize::MAX / 2).saturating_mul(2);
    let map_bytes = config.map_bytes.max(twice).next_multiple_of(PAGE);
    options.map_size(map_bytes).max_readers(config.max_readers).max_dbs(MAX_TABLES);
    lmdb::open(path, &options).map_err(|e| Error::from_open(path, e))
}

fn open_tables(env: &Env<WithoutTls>) -> heed::Result<Tables> {
    let txn = env.write_txn()?;
    let opened = env.create_databases_and_commit(txn, |db, txn| {
        let meta = db.create_database(txn, Some("meta"))?;
        let sets = db.create_database(txn, Some("sets"))?;
        let numbered = [
            db.create_database(txn, Some("relay_headers"))?,
            db.create_database(txn, Some("justifications"))?,
            db.create_database(txn, Some("alignments"))?,
            db.create_database(txn, Some("para_headers"))?,
            db.create_database(txn, Some("changes"))?,
            db.create_database(txn, Some("digests"))?,
        ];
        Ok::<_, heed::Error>(CommitOrAbort::<_, ()>::Commit((meta, sets, numbered)))
    })?;
    let (meta, sets, numbered) = opened.unwrap_commit();
    let [relay_headers, justifications, alignments, para_headers, changes, digests] = numbered;
    Ok(Tables { meta, relay_headers, justifications, alignments, sets, para_headers, changes, digests })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::inventory::{self, HeedInventory};

    #[test]
    fn check_finds_what_opening_would_and_writes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (path, other) = (folder.path().join("store"), folder.path().join("inventory"));
        assert!(Store::check(&path).is_ok() && !path.exists());
        let store = Store::open(&path, Config::default()).unwrap();
        assert!(matches!(Store::check(&path), Err(Error::InUse { .. })));
        drop(store);
        let entries = |path: &Path| {
            let mut names: Vec<_> = fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()).collect();
            names.sort();
            names.into_iter().map(|path| (fs::read(&path).unwrap(), path)).collect::<Vec<_>>()
        };
        let before = entries(&path);
        Store::check(&path).unwrap();
        assert!(entries(&path) == before, "it has written to {}", path.display());
        Store::open(&path, Config::default()).unwrap();

        drop(HeedInventory::open(&other, inventory::Config::default()).unwrap());
        assert!(matches!(Store::check(&other), Err(Error::OtherData { .. })));
        fs::write(path.join("data.mdb"), [7; 9000]).unwrap();
        assert!(matches!(Store::check(&path), Err(Error::Damaged { .. })));
        fs::write(path.join("data.mdb"), "").unwrap();
        Store::check(&path).unwrap();
    }
}
