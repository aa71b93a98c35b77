//! What can go wrong with a store.

use std::{io, path::PathBuf};

use heed::MdbError;
use prb_core::primitives::Hash;

/// `errno` of a full disk and of an exceeded quota.
const DISK_FULL: [i32; 2] = [28, 122];

/// Why the store did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Another process has the store open, or this one has it twice.
    #[error("the store at {path} is in use")]
    InUse {
        /// The store.
        path: PathBuf,
    },
    /// The store was written by another version.
    #[error("the store at {path} has layout {found}, this program reads {expected}: move it away")]
    Schema {
        /// The store.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The version that is read here.
        expected: u32,
    },
    /// The store holds the blocks of other chains.
    #[error("the store at {path} is of chain {stored}, the nodes are of {asked}: give each its own store")]
    OtherChain {
        /// The store.
        path: PathBuf,
        /// The chain in the store.
        stored: Hash,
        /// The chain that was asked for.
        asked: Hash,
    },
    /// The disk is full.
    #[error("the disk of the store at {path} is full")]
    DiskFull {
        /// The store.
        path: PathBuf,
    },
    /// The store's map is full, and readers, or the process's address space, keep it from growing.
    #[error("the store at {path} cannot grow at the moment")]
    MapFull {
        /// The store.
        path: PathBuf,
    },
    /// The system did not map the grown store.
    #[error(
        "the system refused to map the store at {path} after it grew: raise the limit on address space (ulimit -v) and restart"
    )]
    Unmapped {
        /// The store.
        path: PathBuf,
    },
    /// Blocks that do not follow the stored ones.
    #[error("{what} {number} does not follow what is stored")]
    OutOfSequence {
        /// What they are.
        what: &'static str,
        /// The first of them.
        number: u32,
    },
    /// Something that is not stored.
    #[error("no {what} is stored")]
    Missing {
        /// What was looked for.
        what: &'static str,
    },
    /// Stored bytes that cannot be read.
    #[error("a stored {what} cannot be read")]
    Corrupt {
        /// What it should be.
        what: &'static str,
    },
    /// The directory or a file cannot be used.
    #[error("the store at {path} cannot be used")]
    Io {
        /// The store.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// LMDB failed.
    #[error("the database at {path} failed")]
    Database {
        /// The store.
        path: PathBuf,
        /// What it says.
        source: Box<heed::Error>,
    },
}

impl Error {
    /// Whether it may work later, when somebody has made room.
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::DiskFull { .. } | Self::MapFull { .. })
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
            heed::Error::Io(source) => Self::Io { path, source },
            e => Self::Database { path, source: Box::new(e) },
        }
    }
}
