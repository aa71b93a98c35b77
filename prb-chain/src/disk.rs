//! [`DiskProblem`]: why a database cannot store anything at the moment. [`FullCause`]: what its disk lacks.

use std::{
    fmt, fs,
    fs::File,
    io,
    os::unix::fs::{FileExt, MetadataExt},
    path::Path,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

/// How long a write may take before it counts as hanging.
const HANGS_AFTER: Duration = Duration::from_secs(10);
/// Bytes that LMDB writes in one call, at most: 64 pages.
const LARGEST_WRITE: usize = 64 * 4096;

// The system's numbers of errors.
const EIO: i32 = 5;
const EFBIG: i32 = 27;
const ENOSPC: i32 = 28;
const EDQUOT: i32 = 122;

/// Why a database cannot store anything at the moment. `Display` names the path and the remedy.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DiskProblem {
    /// The disk is full, a quota is used up, or there are no inodes left.
    Full(String),
    /// Writing fails, or does not end.
    Failing(String),
    /// The files were moved or deleted: what is written now is lost at the next start.
    Moved(String),
}

impl fmt::Display for DiskProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Full(text) | Self::Failing(text) | Self::Moved(text)) = self;
        f.write_str(text)
    }
}

/// Why a file system refuses to store more. `Display` completes "the disk of …".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum FullCause {
    /// It has no space left, or a quota is used up.
    Space,
    /// It has no inodes left: no file can be created, whatever space it has.
    Inodes,
    /// The process may not let a file grow further (`ulimit -f`), or the file system has no larger files.
    FileSize,
}

impl FullCause {
    /// Returns why the disk of a database's folder is full, if that is what a failure of LMDB means. Blocks on the
    /// disk.
    pub(crate) fn of_failure(folder: &Path, error: &io::Error) -> Option<Self> {
        match error.raw_os_error()? {
            // LMDB also returns it when a write was short, as when it has filled the disk: only the system knows.
            EIO => match try_to_grow(folder).err()?.raw_os_error()? {
                EIO => None,
                number => Self::of_number(folder, number),
            },
            number => Self::of_number(folder, number),
        }
    }

    fn of_number(path: &Path, number: i32) -> Option<Self> {
        match number {
            EFBIG => Some(Self::FileSize),
            ENOSPC | EDQUOT => Some(Self::of(path)),
            _ => None,
        }
    }

    /// Examines the file system of a path, or of its nearest parent that exists.
    pub(crate) fn of(path: &Path) -> Self {
        let there = path.ancestors().find_map(|part| rustix::fs::statvfs(part).ok());
        // Some file systems do not count inodes, and report 0 of 0.
        match there {
            Some(disk) if disk.f_files > 0 && disk.f_favail == 0 => Self::Inodes,
            _ => Self::Space,
        }
    }
}

impl fmt::Display for FullCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Space => "is full (or its quota is used up): free space",
            Self::Inodes => "has no inodes left, whatever space it has (see df -i): delete files",
            Self::FileSize => {
                "is not full, but its file may not grow: raise the limit, such as ulimit -f or LimitFSIZE of systemd"
            }
        })
    }
}

/// Writes as much as LMDB does at once, to where its file ends, but in a file of its own that is gone at once.
fn try_to_grow(folder: &Path) -> io::Result<()> {
    let end = fs::metadata(folder.join("data.mdb"))?.len();
    let path = folder.join("try-to-grow");
    let file = File::create(&path)?;
    fs::remove_file(&path)?;
    file.write_all_at(&vec![0; LARGEST_WRITE], end)
}

/// Device and inode of a file.
type FileId = (u64, u64);

/// The files of an open database: its data, and the lock file that stays locked meanwhile.
#[derive(Debug)]
pub(crate) struct Files {
    data: FileId,
    lock: FileId,
}

impl Files {
    /// Remembers the files of a database that is open.
    pub(crate) fn of(folder: &Path, lock: &File) -> io::Result<Self> {
        let id = |meta: fs::Metadata| (meta.dev(), meta.ino());
        Ok(Self { data: id(fs::metadata(folder.join("data.mdb"))?), lock: id(lock.metadata()?) })
    }

    /// Whether other files, or none, are at their paths by now. Blocks on the disk.
    pub(crate) fn are_moved(&self, folder: &Path) -> bool {
        let is_other = |name: &str, id: FileId| match fs::metadata(folder.join(name)) {
            Ok(meta) => (meta.dev(), meta.ino()) != id,
            Err(e) => matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory),
        };
        is_other("data.mdb", self.data) || is_other("in-use", self.lock)
    }
}

/// The kinds of writes of a database, each with the outcome of its last one.
#[derive(Debug, Default)]
pub(crate) struct Writes<const KINDS: usize>(Mutex<Kinds<KINDS>>);

#[derive(Debug)]
struct Kinds<const KINDS: usize> {
    kinds: [Kind; KINDS],
    moved: Option<String>,
}

impl<const KINDS: usize> Default for Kinds<KINDS> {
    fn default() -> Self {
        Self { kinds: std::array::from_fn(|_| Kind::default()), moved: None }
    }
}

#[derive(Debug, Default)]
struct Kind {
    /// When the writes in progress began.
    since: Vec<Instant>,
    failed: Option<DiskProblem>,
}

impl<const KINDS: usize> Writes<KINDS> {
    /// Carries out a write; `problem` tells whether the disk is the cause of its error.
    pub(crate) fn track<T, E>(
        &self,
        kind: usize,
        write: impl FnOnce() -> Result<T, E>,
        problem: impl FnOnce(&E) -> Option<DiskProblem>,
    ) -> Result<T, E> {
        let start = Instant::now();
        self.kinds().kinds[kind].since.push(start);
        let result = write();
        let mut kinds = self.kinds();
        let kind = &mut kinds.kinds[kind];
        if let Some(at) = kind.since.iter().position(|since| *since == start) {
            kind.since.remove(at);
        }
        match &result {
            Ok(_) => kind.failed = None,
            Err(e) => kind.failed = problem(e).or(kind.failed.take()),
        }
        result
    }

    /// Records that the files were moved, as a message; `None` if they are in place.
    pub(crate) fn set_moved(&self, moved: Option<String>) {
        self.kinds().moved = moved;
    }

    pub(crate) fn moved(&self) -> Option<DiskProblem> {
        self.kinds().moved.clone().map(DiskProblem::Moved)
    }

    /// Whether the last write of some kind has failed.
    pub(crate) fn has_failed(&self) -> bool {
        self.kinds().kinds.iter().any(|kind| kind.failed.is_some())
    }

    /// Returns the problem, if there is one. `what` names the database.
    pub(crate) fn problem(&self, what: &dyn fmt::Display) -> Option<DiskProblem> {
        let kinds = self.kinds();
        if let Some(moved) = &kinds.moved {
            return Some(DiskProblem::Moved(moved.clone()));
        }
        let oldest = kinds.kinds.iter().flat_map(|kind| &kind.since).map(Instant::elapsed).max();
        if let Some(waiting) = oldest.filter(|waiting| *waiting >= HANGS_AFTER) {
            return Some(DiskProblem::Failing(format!(
                "a write to {what} has not ended for {} seconds: its disk or network file system hangs",
                waiting.as_secs()
            )));
        }
        kinds.kinds.iter().find_map(|kind| kind.failed.clone())
    }

    fn kinds(&self) -> MutexGuard<'_, Kinds<KINDS>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
