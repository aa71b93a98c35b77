//! Opens the database.

use std::{fs, path::Path};

use heed::{
    CommitOrAbort, Database, Env, EnvFlags, EnvOpenOptions, WithoutTls,
    types::{Bytes, Str},
};

use super::{Config, Error, Tables, decode, migrate};
use crate::lmdb;

/// A multiple of every page size.
const PAGE: usize = 64 * 1024;
/// Includes spare tables for later layouts.
const MAX_TABLES: u32 = 16;

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
#[allow(unsafe_code)]
pub(super) fn examine(path: &Path) -> Result<(), Error> {
    let file = path.join("data.mdb");
    // LMDB creates what is missing or empty.
    if fs::metadata(&file).map_or(true, |meta| meta.is_file() && meta.len() == 0) {
        return Ok(());
    }
    let failed = |e| Error::from_heed(path, e);
    let mut options = EnvOpenOptions::new().read_txn_without_tls();
    options.max_dbs(MAX_TABLES);
    // SAFETY: nothing is written, and the caller holds the lock that keeps writers away.
    let env = unsafe { options.flags(EnvFlags::READ_ONLY | EnvFlags::NO_LOCK).open(path) }.map_err(failed)?;
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

#[allow(unsafe_code)]
fn open_env(path: &Path, config: Config) -> Result<Env<WithoutTls>, Error> {
    // With thread-local storage LMDB allows one read transaction for each thread, and only that thread may end
    // it.
    let mut options = EnvOpenOptions::new().read_txn_without_tls();
    // Twice the size of the existing data.
    let stored = fs::metadata(path.join("data.mdb")).map_or(0, |file| file.len());
    let twice = usize::try_from(stored).unwrap_or(usize::MAX / 2).saturating_mul(2);
    let map_bytes = config.map_bytes.max(twice).next_multiple_of(PAGE);
    options.map_size(map_bytes).max_readers(config.max_readers).max_dbs(MAX_TABLES);
    // SAFETY: the files are only changed through LMDB: the lock above excludes other processes, and heed refuses
    // to open them twice within this process.
    unsafe { options.open(path) }.map_err(|e| Error::from_heed(path, e))
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
