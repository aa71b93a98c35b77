//! Errors of a store.

use std::{
    io,
    path::{Path, PathBuf},
};

use heed::MdbError;
use prb_core::{
    primitives::Hash,
    text::{describe, io_remedy},
};

use crate::{
    disk::{DiskProblem, FullCause},
    lmdb::{self, OpenError},
};

/// Why a store operation failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Another process has the store open, or this process opened it twice.
    #[error("the store at {path} is in use: stop the daemon or command that has it open")]
    InUse {
        /// The store.
        path: PathBuf,
    },
    /// Its lock file cannot be locked, although no process holds the lock.
    #[error("the store at {path} cannot be locked: it must be on a file system that supports locks")]
    Lock {
        /// The store.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The folder has a database of another kind, such as a lifecycle manager's inventory; it is untouched.
    #[error(
        "the database in {path} is not a store, perhaps it is a lifecycle manager's inventory: give each daemon its own \
         folder"
    )]
    OtherData {
        /// The folder.
        path: PathBuf,
    },
    /// The store was written by a newer version.
    #[error(
        "the store at {path} has layout {found}, but this program reads layouts up to {expected}: run the newer version, \
         or move the store away"
    )]
    Schema {
        /// The store.
        path: PathBuf,
        /// Its layout version.
        found: u32,
        /// The newest layout that this version reads.
        expected: u32,
    },
    /// The store has the blocks of other chains.
    #[error(
        "the store at {path} is of chain {stored}, but the nodes are of {asked}: use a separate store for each"
    )]
    OtherChain {
        /// The store.
        path: PathBuf,
        /// The chain in the store.
        stored: Hash,
        /// The nodes' chain.
        asked: Hash,
    },
    /// The disk is full.
    #[error("the disk of the store at {path} {cause}")]
    DiskFull {
        /// The store.
        path: PathBuf,
        /// What it lacks.
        cause: FullCause,
    },
    /// The store's map is full, and cannot grow at the moment.
    #[error("the map of the store at {path} is full and cannot grow at the moment: {reason}")]
    MapFull {
        /// The store.
        path: PathBuf,
        /// The reason.
        reason: &'static str,
    },
    /// The system refused to map the store after it grew.
    #[error(
        "the system refused to map the store at {path} after it grew: raise the limit on address space (ulimit -v) and restart"
    )]
    Unmapped {
        /// The store.
        path: PathBuf,
    },
    /// LMDB closed the database after a failed write; the next write reopens it.
    #[error("writing to the database at {path} failed; the next write opens it again: check the disk")]
    Broken {
        /// The store.
        path: PathBuf,
    },
    /// LMDB found its file damaged.
    #[error(
        "the database file at {path} is damaged: check the disk; move the store away to fetch everything again, or \
         import an archive (prb store import)"
    )]
    Damaged {
        /// The store.
        path: PathBuf,
        /// LMDB's error.
        source: Box<heed::Error>,
    },
    /// Its file is incomplete, as a copy that was taken while it was in use or a restored part of a backup.
    #[error(
        "the database file at {path} is truncated: it has {bytes} of {expected} bytes: restore it, or move the store \
         away to fetch everything again, or import an archive (prb store import)"
    )]
    Truncated {
        /// The store.
        path: PathBuf,
        /// The file's size.
        bytes: u64,
        /// The size that it should have.
        expected: u64,
    },
    /// Blocks that do not follow the stored ones.
    #[error("{what} {number} does not follow what is stored")]
    OutOfSequence {
        /// Their kind.
        what: &'static str,
        /// The number of the first one.
        number: u32,
    },
    /// Something that is not stored.
    #[error("no {what} is stored")]
    Missing {
        /// Its kind.
        what: &'static str,
    },
    /// Stored bytes that cannot be decoded.
    #[error("a stored {what} cannot be decoded: run prb store verify to find it")]
    Corrupt {
        /// The expected kind.
        what: &'static str,
    },
    /// The directory or a file cannot be used.
    #[error("the store at {path} cannot be used{}", io_remedy(source))]
    Io {
        /// The store.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// LMDB failed.
    #[error("the database at {path} failed")]
    Database {
        /// The store.
        path: PathBuf,
        /// LMDB's error.
        source: Box<heed::Error>,
    },
}

impl Error {
    /// Whether it may work later, once space was freed.
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::DiskFull { .. } | Self::MapFull { .. } | Self::Broken { .. } | Self::Io { .. })
    }

    /// Whether no retry can help until an operator has acted and restarted the program.
    pub const fn is_fatal(&self) -> bool {
        matches!(
            self,
            Self::OtherChain { .. }
                | Self::OtherData { .. }
                | Self::Schema { .. }
                | Self::Corrupt { .. }
                | Self::Damaged { .. }
                | Self::Truncated { .. }
                | Self::Unmapped { .. }
        )
    }

    /// Returns the problem, if the cause is the disk or the system, not what was to be stored.
    pub(super) fn disk_problem(&self) -> Option<DiskProblem> {
        match self {
            Self::DiskFull { .. } => Some(DiskProblem::Full(self.to_string())),
            Self::Io { .. } | Self::Broken { .. } | Self::MapFull { .. } | Self::Database { .. } => {
                Some(DiskProblem::Failing(describe(self)))
            }
            _ => None,
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
            heed::Error::EnvAlreadyOpened => Self::InUse { path: path.to_owned() },
            heed::Error::Mdb(MdbError::MapFull) => {
                Self::MapFull { path: path.to_owned(), reason: "its owner does not allow it" }
            }
            heed::Error::Mdb(MdbError::Panic) => Self::Broken { path: path.to_owned() },
            heed::Error::Mdb(fault) if lmdb::is_damage(&fault) => {
                Self::Damaged { path: path.to_owned(), source: Box::new(e) }
            }
            heed::Error::Io(source) => Self::from_io(path, source),
            heed::Error::Mdb(MdbError::Other(n)) => Self::from_io(path, io::Error::from_raw_os_error(n)),
            e => Self::Database { path: path.to_owned(), source: Box::new(e) },
        }
    }

    pub(super) fn from_io(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match FullCause::of_failure(&path, &source) {
            Some(cause) => Self::DiskFull { path, cause },
            None => Self::Io { path, source },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(e: heed::Error) -> Error {
        Error::from_heed(Path::new("/data"), e)
    }

    #[test]
    fn database_failures_map_to_their_errors() {
        use heed::Error::{Io, Mdb};
        let os = io::Error::from_raw_os_error;
        let cases = [
            (Mdb(MdbError::MapFull), "the map of the store at /data is full", true, false),
            (Mdb(MdbError::Panic), "the next write opens it again", true, false),
            (Mdb(MdbError::Corrupted), "is damaged", false, true),
            (Mdb(MdbError::PageNotFound), "is damaged", false, true),
            (Mdb(MdbError::Invalid), "is damaged", false, true),
            (Mdb(MdbError::Other(28)), "is full", true, false),
            (Mdb(MdbError::Other(5)), "its disk fails", true, false),
            (Io(os(30)), "mounted read-only", true, false),
            (Io(os(12)), "ulimit -v", true, false),
            (Io(os(24)), "too many files are open", true, false),
            (Io(os(122)), "its quota is used up", true, false),
            (Io(os(13)), "cannot be used", true, false),
            (heed::Error::EnvAlreadyOpened, "in use", false, false),
        ];
        for (e, text, is_retryable, is_fatal) in cases {
            let shown = e.to_string();
            let error = of(e);
            assert!(error.to_string().contains(text), "{shown}: {error}");
            assert_eq!((error.is_retryable(), error.is_fatal()), (is_retryable, is_fatal), "{shown}");
        }
    }
}
