//! Opens the database.

use std::{fs, path::Path};

use heed::{CommitOrAbort, Env, EnvOpenOptions, WithoutTls};

use super::{Config, Error, Tables};
use crate::lmdb;

/// A multiple of every page size.
const PAGE: usize = 64 * 1024;
/// Includes spare tables for later layouts.
const MAX_TABLES: u32 = 16;

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
