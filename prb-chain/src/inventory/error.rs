//! Errors of an inventory on disk.

use std::{io, path::PathBuf};

use heed::MdbError;

/// `errno` of a full disk (ENOSPC) and of an exceeded quota (EDQUOT).
const DISK_FULL: [i32; 2] = [28, 122];

/// Why an inventory cannot be opened or written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Another process has it open, or this process opened it twice.
    #[error("the inventory at {} is in use by another process", path.display())]
    InUse {
        /// The inventory.
        path: PathBuf,
    },
    /// Its lock file cannot be locked, although no process holds the lock.
    #[error("the inventory at {} cannot be locked: it must be on a file system that supports locks", path.display())]
    Lock {
        /// The inventory.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The path is a file, not a folder.
    #[error(
        "{} is a file, perhaps the original bridge's database, which is not read here: move it away, or name \
         another place",
        path.display()
    )]
    NotAFolder {
        /// The file; untouched.
        path: PathBuf,
    },
    /// The folder has a database of another kind, such as a data provider's store; it is untouched.
    #[error(
        "the database in {} is not an inventory, perhaps it is a data provider's store: give each daemon its own folder",
        path.display()
    )]
    OtherData {
        /// The folder.
        path: PathBuf,
    },
    /// It was written by a version with another layout.
    #[error("the inventory at {} has layout {found}, but this program reads layout {expected}", path.display())]
    Schema {
        /// The inventory.
        path: PathBuf,
        /// Its layout version.
        found: u32,
        /// The layout version that this code reads.
        expected: u32,
    },
    /// LMDB found its file damaged.
    #[error(
        "the inventory at {} is damaged: check the disk, move the folder away, and restore it from a backup or add \
         its pools and workers again",
        path.display()
    )]
    Damaged {
        /// The inventory.
        path: PathBuf,
        /// LMDB's error.
        source: Box<heed::Error>,
    },
    /// A record that cannot be read.
    #[error("in the inventory at {}, the {what} {id} cannot be read", path.display())]
    Corrupt {
        /// The inventory.
        path: PathBuf,
        /// The kind of record.
        what: &'static str,
        /// Its id.
        id: String,
    },
    /// A record cannot be written as JSON.
    #[error("a record cannot be encoded")]
    Encode(#[source] serde_json::Error),
    /// An edit that this version cannot store.
    #[error("this inventory cannot store {edit}")]
    UnknownEdit {
        /// The edit.
        edit: String,
    },
    /// The disk is full.
    #[error("the disk of the inventory at {} is full", path.display())]
    DiskFull {
        /// The inventory.
        path: PathBuf,
    },
    /// It has reached its configured size.
    #[error("the inventory at {} has reached its limit: raise map_bytes", path.display())]
    MapFull {
        /// The inventory.
        path: PathBuf,
    },
    /// The folder or a file cannot be used.
    #[error("the inventory at {} cannot be used", path.display())]
    Io {
        /// The inventory.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// LMDB failed.
    #[error("the database at {} failed", path.display())]
    Database {
        /// The inventory.
        path: PathBuf,
        /// LMDB's error.
        source: Box<heed::Error>,
    },
}

impl Error {
    /// Whether it may work later, after space was freed or the other process has ended.
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::InUse { .. } | Self::DiskFull { .. } | Self::MapFull { .. })
    }

    pub(super) fn from_heed(path: &std::path::Path, e: heed::Error) -> Self {
        let path = path.to_owned();
        match e {
            heed::Error::EnvAlreadyOpened => Self::InUse { path },
            heed::Error::Mdb(MdbError::MapFull) => Self::MapFull { path },
            heed::Error::Io(source) if source.raw_os_error().is_some_and(|n| DISK_FULL.contains(&n)) => {
                Self::DiskFull { path }
            }
            heed::Error::Mdb(MdbError::Other(n)) if DISK_FULL.contains(&n) => Self::DiskFull { path },
            heed::Error::Mdb(
                MdbError::Corrupted
                | MdbError::PageNotFound
                | MdbError::Invalid
                | MdbError::VersionMismatch
                | MdbError::Incompatible,
            ) => Self::Damaged { path, source: Box::new(e) },
            heed::Error::Io(source) => Self::Io { path, source },
            e => Self::Database { path, source: Box::new(e) },
        }
    }
}
