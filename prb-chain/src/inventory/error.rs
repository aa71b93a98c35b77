//! Errors of an inventory on disk.

use std::{
    io,
    path::{Path, PathBuf},
};

use heed::MdbError;
use prb_core::text::{describe, io_remedy, is_passing};

use crate::{
    disk::{DiskProblem, FullCause},
    lmdb::{self, OpenError},
};

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
    /// Its file is incomplete, as a copy that was taken while it was in use or a restored part of a backup.
    #[error(
        "the inventory at {} is truncated: its data.mdb has {bytes} of {expected} bytes: move the folder away, and \
         restore it from a backup or add its pools and workers again",
        path.display()
    )]
    Truncated {
        /// The inventory.
        path: PathBuf,
        /// The file's size.
        bytes: u64,
        /// The size that it should have.
        expected: u64,
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
    #[error("the disk of the inventory at {} {cause}", path.display())]
    DiskFull {
        /// The inventory.
        path: PathBuf,
        /// What it lacks.
        cause: FullCause,
    },
    /// It has reached its configured size.
    #[error("the inventory at {} has reached its limit: raise map_bytes", path.display())]
    MapFull {
        /// The inventory.
        path: PathBuf,
    },
    /// The folder or a file cannot be used.
    #[error("the inventory at {} cannot be used{}", path.display(), io_remedy(source))]
    Io {
        /// The inventory.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// LMDB closed the database after a failed write; the next edit opens it again.
    #[error("writing to the inventory at {} failed; the next edit opens it again: check the disk", path.display())]
    Broken {
        /// The inventory.
        path: PathBuf,
    },
    /// Its files were moved or deleted while it is open: an edit would be lost.
    #[error(
        "the files of the inventory at {} were moved or deleted while it is open: move them back, or restore a backup; \
         nothing can be stored until then, and a restart would find no pools and workers",
        path.display()
    )]
    Moved {
        /// The inventory.
        path: PathBuf,
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
    /// Whether it may work later: after space was freed, the other process has ended, or the disk is back.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::InUse { .. } | Self::DiskFull { .. } | Self::MapFull { .. } | Self::Broken { .. } => true,
            Self::Io { source, .. } | Self::Lock { source, .. } => is_passing(source),
            _ => false,
        }
    }

    /// Returns the problem, if the cause is the disk or the system, not the edit.
    pub(super) fn disk_problem(&self) -> Option<DiskProblem> {
        match self {
            Self::DiskFull { .. } => Some(DiskProblem::Full(self.to_string())),
            Self::Moved { .. } => Some(DiskProblem::Moved(self.to_string())),
            Self::Io { .. } | Self::Broken { .. } | Self::Database { .. } => {
                Some(DiskProblem::Failing(describe(self)))
            }
            _ => None,
        }
    }

    pub(super) fn from_io(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match FullCause::of_failure(&path, &source) {
            Some(cause) => Self::DiskFull { path, cause },
            None => Self::Io { path, source },
        }
    }

    pub(super) fn from_open(path: &Path, e: OpenError) -> Self {
        match e {
            OpenError::Truncated { bytes, expected } => {
                Self::Truncated { path: path.to_owned(), bytes, expected }
            }
            OpenError::Lmdb(e) => Self::from_heed(path, e),
        }
    }

    pub(super) fn from_heed(path: &Path, e: heed::Error) -> Self {
        match e {
            heed::Error::Io(source) => return Self::from_io(path, source),
            heed::Error::Mdb(MdbError::Other(n)) => {
                return Self::from_io(path, io::Error::from_raw_os_error(n));
            }
            _ => {}
        }
        let path = path.to_owned();
        match e {
            heed::Error::EnvAlreadyOpened => Self::InUse { path },
            heed::Error::Mdb(MdbError::MapFull) => Self::MapFull { path },
            heed::Error::Mdb(MdbError::Panic) => Self::Broken { path },
            heed::Error::Mdb(fault) if lmdb::is_damage(&fault) => Self::Damaged { path, source: Box::new(e) },
            e => Self::Database { path, source: Box::new(e) },
        }
    }
}
