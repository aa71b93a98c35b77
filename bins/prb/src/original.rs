//! Files of the original bridge (PRB v2) and of Phala's worker manager (PRB v3) in the places that settings name:
//! recognised, left as they are, and explained.

use std::{
    fs::{self, File},
    io::Read,
    path::Path,
};

use anyhow::bail;

/// What every SQLite file begins with.
const SQLITE: &[u8; 16] = b"SQLite format 3\0";
/// What the file `CURRENT` of a RocksDB begins with.
const MANIFEST: &[u8; 9] = b"MANIFEST-";
/// Most files of a folder that are looked at.
const MAX_FILES: usize = 100_000;

/// Whether a file is an SQLite database. A file that cannot be read is none.
pub(crate) fn is_sqlite(path: &Path) -> bool {
    begins_with(path, SQLITE)
}

fn begins_with<const N: usize>(path: &Path, expected: &[u8; N]) -> bool {
    // A pipe would wait for its writer.
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

/// The names that RocksDB gives its files.
fn is_rocksdb_file(name: &str) -> bool {
    matches!(name, "CURRENT" | "IDENTITY" | "LOCK" | "LOG")
        || ["MANIFEST-", "OPTIONS-", "LOG.old."].iter().any(|start| name.starts_with(start))
        || [".sst", ".log", ".blob"].iter().any(|end| name.ends_with(end))
}

/// Refuses a place for pools and workers where an original program keeps its own.
///
/// # Errors
/// Says how they are imported.
pub(crate) fn check_inventory(path: &Path, setting: &str) -> anyhow::Result<()> {
    let shown = path.display();
    if is_sqlite(path) {
        bail!(
            "{shown} ({setting}) is the SQLite database of the original bridge (PRB v2); it is not changed. To go on \
             with its pools and workers: stop the original's lifecycle manager and trader, `mv {shown} {shown}.v2`, \
             look with `prb import v2 {shown}.v2 --to {shown} --dry-run`, and run the same without --dry-run; the \
             identity in PHALA_PEER_ID_PREFIX stays where it is. To begin with none: name another place"
        );
    }
    if rocksdb(path).is_some() {
        bail!(
            "{shown} ({setting}) holds a RocksDB, as Phala's worker manager (PRB v3) keeps its inventory; it is not \
             changed. Name another folder, and bring its pools and workers there with `prb import v3` (its help says \
             from which output)"
        );
    }
    Ok(())
}

/// Says in the log where the original data provider's blocks lie in the folder of the block store.
pub(crate) fn warn_of_blocks(folder: &Path, setting: &str) {
    if let Some(RocksDb { files, bytes }) = rocksdb(folder) {
        tracing::warn!(
            folder = %folder.display(),
            files,
            gigabytes = bytes / 1_000_000_000,
            "this folder ({setting}) holds the RocksDB of the original data provider; its blocks are not read, and it \
             is left as it is. The block store is written beside it, as data.mdb and lock.mdb. When you do not go back \
             to the original, delete CURRENT, IDENTITY, LOCK, LOG*, MANIFEST-*, OPTIONS-*, *.sst, *.log and conn.sock"
        );
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_rocksdb_is_its_files_and_nothing_else() {
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
    fn an_sqlite_file_is_known_by_its_start() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("local.db");
        rusqlite::Connection::open(&path).unwrap().execute_batch("CREATE TABLE pools (id TEXT)").unwrap();
        let error = check_inventory(&path, "PHALA_LOCAL_DB_PATH").unwrap_err().to_string();
        assert!(error.contains("PHALA_LOCAL_DB_PATH") && error.contains("prb import v2"), "{error}");
        assert!(!is_sqlite(folder.path()) && !is_sqlite(&folder.path().join("none")));
    }
}
