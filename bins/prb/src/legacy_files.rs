//! Detects files of the original bridge (PRB v2) and of Phala's worker manager (PRB v3) at configured paths,
//! leaves them unchanged, and explains what to do.

use std::{
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
};

use anyhow::{Context, bail};

/// The first bytes of every SQLite file.
const SQLITE: &[u8; 16] = b"SQLite format 3\0";
/// The first bytes of SQLite's rollback journals, and of its write-ahead logs but for the last one. A journal that is done
/// with is empty, deleted, or begins with zeros.
const JOURNAL: &[u8; 8] = b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7";
const WRITE_AHEAD: &[u8; 3] = b"\x37\x7f\x06";
/// The first bytes of the file `CURRENT` of a RocksDB.
const MANIFEST: &[u8; 9] = b"MANIFEST-";
/// Most files of a folder that are checked.
const MAX_FILES: usize = 100_000;

/// Whether a file is an SQLite database. An unreadable file is not.
pub(crate) fn is_sqlite(path: &Path) -> bool {
    begins_with(path, SQLITE)
}

/// Refuses an SQLite database beside which there is a journal, also under the name that it had before `.v2` was appended:
/// its program was ended while it wrote, or runs. Without the journal it would be read as it never was.
///
/// # Errors
/// Names the journal and explains what to do.
pub(crate) fn check_journals(database: &Path) -> anyhow::Result<()> {
    let renamed_from = database.extension().filter(|name| *name == "v2").map(|_| database.with_extension(""));
    for name in [Some(database.to_owned()), renamed_from].into_iter().flatten() {
        let beside = |suffix: &str| {
            let mut path = name.clone().into_os_string();
            path.push(suffix);
            PathBuf::from(path)
        };
        let (rollback, ahead) = (beside("-journal"), beside("-wal"));
        let found = begins_with(&rollback, JOURNAL).then_some(rollback);
        let found = found.or_else(|| begins_with(&ahead, WRITE_AHEAD).then_some(ahead));
        if let Some(journal) = found {
            bail!(
                "{} is beside it, because the original program runs, or was ended while it wrote; the database alone is \
                 incomplete. Stop the program, give the database the name {name} again, and finish with `sqlite3 {name} \
                 'PRAGMA wal_checkpoint(TRUNCATE); SELECT count(*) FROM pools'` (or start and stop the original once)",
                journal.display(),
                name = name.display(),
            );
        }
    }
    Ok(())
}

fn begins_with<const N: usize>(path: &Path, expected: &[u8; N]) -> bool {
    // Opening a pipe would wait for its writer.
    if !path.is_file() {
        return false;
    }
    let mut start = [0; N];
    File::open(path).and_then(|mut file| file.read_exact(&mut start)).is_ok() && start == *expected
}

/// The files of a RocksDB.
#[derive(Debug, PartialEq, Eq)]
struct RocksDb {
    files: usize,
    bytes: u64,
}

fn rocksdb(folder: &Path) -> Option<RocksDb> {
    if !begins_with(&folder.join("CURRENT"), MANIFEST) {
        return None;
    }
    let mut found = RocksDb { files: 0, bytes: 0 };
    for entry in fs::read_dir(folder).ok()?.take(MAX_FILES).flatten() {
        if is_rocksdb_file(&entry.file_name().to_string_lossy()) {
            found.files += 1;
            found.bytes += entry.metadata().map_or(0, |meta| meta.len());
        }
    }
    Some(found)
}

/// Whether a name is that of a RocksDB file.
fn is_rocksdb_file(name: &str) -> bool {
    matches!(name, "CURRENT" | "IDENTITY" | "LOCK" | "LOG")
        || ["MANIFEST-", "OPTIONS-", "LOG.old."].iter().any(|start| name.starts_with(start))
        || [".sst", ".log", ".blob"].iter().any(|end| name.ends_with(end))
}

/// Refuses a path for pools and workers if an original program stores its own there.
///
/// # Errors
/// Explains how to import them.
pub(crate) fn check_inventory(path: &Path, setting: &str) -> anyhow::Result<()> {
    let shown = path.display();
    if is_sqlite(path) {
        check_journals(path).with_context(|| {
            format!("{shown} ({setting}) is the SQLite database of the original bridge (PRB v2)")
        })?;
        bail!(
            "{shown} ({setting}) is the SQLite database of the original bridge (PRB v2); it is not changed. To continue \
             with its pools and workers: stop the original's lifecycle manager and trader, `mv {shown} {shown}.v2`, \
             check with `prb import v2 {shown}.v2 --to {shown} --dry-run`, and run the same without --dry-run; the \
             identity in PHALA_PEER_ID_PREFIX stays where it is. To start without them: set another path"
        );
    }
    if rocksdb(path).is_some() {
        bail!(
            "{shown} ({setting}) contains a RocksDB, the inventory format of Phala's worker manager (PRB v3); it is not \
             changed. Set another folder, and import its pools and workers with `prb import v3` (its help explains \
             the required output)"
        );
    }
    Ok(())
}

/// Warns if the folder of the block store contains the original data provider's blocks.
pub(crate) fn warn_of_blocks(folder: &Path, setting: &str) {
    if let Some(RocksDb { files, bytes }) = rocksdb(folder) {
        tracing::warn!(
            folder = %folder.display(),
            files,
            gigabytes = bytes / 1_000_000_000,
            "this folder ({setting}) contains the RocksDB of the original data provider; its blocks are not read, and it \
             is not changed. The block store is written beside it, as data.mdb and lock.mdb. If you do not return \
             to the original, delete CURRENT, IDENTITY, LOCK, LOG*, MANIFEST-*, OPTIONS-*, *.sst, *.log and conn.sock"
        );
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn rocksdb_is_detected_by_its_files_only() {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, bytes: &[u8]| fs::write(folder.path().join(name), bytes).unwrap();
        assert_eq!(rocksdb(folder.path()), None);
        put("CURRENT", b"something else");
        assert_eq!(rocksdb(folder.path()), None);
        put("CURRENT", b"MANIFEST-000004\n");
        put("000012.sst", &[0; 1000]);
        put("data.mdb", &[0; 5000]);
        assert_eq!(rocksdb(folder.path()), Some(RocksDb { files: 2, bytes: 1016 }));
        assert!(check_inventory(folder.path(), "X").unwrap_err().to_string().contains("prb import v3"));
        assert!(check_inventory(&folder.path().join("none"), "X").is_ok());
    }

    #[test]
    fn sqlite_file_is_detected_by_its_header() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("local.db");
        rusqlite::Connection::open(&path).unwrap().execute_batch("CREATE TABLE pools (id TEXT)").unwrap();
        let error = check_inventory(&path, "PHALA_LOCAL_DB_PATH").unwrap_err().to_string();
        assert!(error.contains("PHALA_LOCAL_DB_PATH") && error.contains("prb import v2"), "{error}");
        assert!(!is_sqlite(folder.path()) && !is_sqlite(&folder.path().join("none")));
    }
}
