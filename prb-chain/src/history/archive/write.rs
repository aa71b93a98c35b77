//! Writes an archive from a store.

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::{Path, PathBuf},
};

use codec::Encode;
use prb_core::{
    blob::{Span, assemble::ChainPieces},
    primitives::{Hash, ParaNumber, RelayNumber},
};

use super::{
    format::{self, Chain, FrameHead, Head, Kind, chained, put_piece},
    read::Archive,
};
use crate::{
    disk::FullCause,
    store::{self, Part, Progress, Report, Store, StoreView, segment},
};

/// Content bytes after which a frame is closed.
const FRAME_BYTES: usize = 4 << 20;
/// Blocks after which a frame is closed.
const FRAME_BLOCKS: u32 = 65_536;

/// How an archive is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, derive_setters::Setters)]
#[setters(prefix = "with_")]
#[non_exhaustive]
pub struct Config {
    /// Zstandard compression level, 1 to 19: higher levels take longer for smaller files. Default: 3.
    pub level: i32,
    /// Size in bytes after which the next file is begun. Default: 256 MiB.
    pub file_bytes: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self { level: 3, file_bytes: 256 << 20 }
    }
}

/// Why an archive was not written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The store has no blocks yet.
    #[error("there is nothing to export: the store is empty")]
    Empty,
    /// The store failed.
    #[error(transparent)]
    Store(#[from] store::Error),
    /// The store is damaged. Blocks before the damage may have been exported.
    #[error("the store is damaged: {}", .0.faults.first().map(ToString::to_string).unwrap_or_default())]
    Damaged(Box<Report>),
    /// The folder has another archive, or a damaged one.
    #[error("cannot add to the archive at {path}: {reason}")]
    Archive {
        /// The folder.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
    /// The disk is full.
    #[error("the disk of {path} {cause}, and export again; finished files are kept")]
    DiskFull {
        /// The file.
        path: PathBuf,
        /// What it lacks.
        cause: FullCause,
    },
    /// A file cannot be written.
    #[error("cannot write {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
}

/// A summary of what was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Exported {
    /// Added files.
    pub files: u32,
    /// Their size, in bytes.
    pub bytes: u64,
    /// The size of their content before compression, in bytes.
    pub content_bytes: u64,
    /// Added relay headers.
    pub relay_headers: u32,
    /// Added parachain headers.
    pub para_headers: u32,
    /// Blocks whose storage changes were added.
    pub changes: u32,
}

/// Writes everything in the store that is not in the folder yet, and checks it as [`Store::verify`] does.
///
/// Blocks on the disk. `tell` is called with the progress and stops the export by returning false: finished
/// files are kept, and the next export continues there.
///
/// # Errors
/// See [`Error`]. Files finished before are kept.
pub fn export(
    store: &Store,
    folder: &Path,
    config: Config,
    tell: &mut dyn FnMut(Progress) -> bool,
) -> Result<Exported, Error> {
    let Some((_, genesis)) = store.genesis() else { return Err(Error::Empty) };
    let chain = Chain {
        para_id: genesis.para_id,
        identity: genesis.chain_identity,
        relay_number: genesis.relay_number.0,
        relay_hash: genesis.relay_hash,
    };
    let io = |source| failed(folder, source);
    fs::create_dir_all(folder).map_err(io)?;
    let there = |reason| Error::Archive { path: folder.to_owned(), reason };
    let archive = Archive::open(folder).map_err(|e| there(e.to_string()))?;
    if archive.chain().is_some_and(|other| other != chain) {
        return Err(there("it is of another chain: use another folder".into()));
    }
    let mut export = Export { store, folder, config, chain, tell, exported: Exported::default() };
    if archive.next(Kind::Genesis) == 0 {
        export.genesis()?;
    }
    let tips = *store.tips().borrow();
    let ends = [
        (Kind::Relay, chain.relay_number + 1, tips.relay.map(|(n, _)| n.0)),
        (Kind::Headers, 0, tips.para_header.map(|(n, _)| n.0)),
        (Kind::Changes, 1, Some(tips.changes.0)),
    ];
    for (kind, first, last) in ends {
        let first = first.max(archive.next(kind));
        let Some(last) = last.filter(|last| *last >= first) else { continue };
        if !export.blocks(kind, first, last)? {
            break;
        }
    }
    Ok(export.exported)
}

fn failed(path: &Path, source: io::Error) -> Error {
    let path = path.to_owned();
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            Error::DiskFull { cause: FullCause::of(&path), path }
        }
        _ => Error::Io { path, source },
    }
}

struct Export<'a> {
    store: &'a Store,
    folder: &'a Path,
    config: Config,
    chain: Chain,
    tell: &'a mut dyn FnMut(Progress) -> bool,
    exported: Exported,
}

impl Export<'_> {
    fn genesis(&mut self) -> Result<(), Error> {
        self.check(Part::Genesis, 0, 0)?;
        let Some((_, genesis)) = self.store.genesis() else { return Err(Error::Empty) };
        let content = (genesis.info.to_vec(), genesis.state.to_vec()).encode();
        let mut file = OpenFile::create(self.folder, Kind::Genesis, self.chain, 0)?;
        self.exported.content_bytes += content.len() as u64;
        file.frame(0, 1, &content, self.config.level)?;
        self.close(file)
    }

    /// Refuses damaged blocks of a part.
    fn check(&self, part: Part, first: u32, last: u32) -> Result<(), Error> {
        let report = self.store.verify_part(part, first, last)?;
        if report.faulty > 0 { Err(Error::Damaged(Box::new(report))) } else { Ok(()) }
    }

    /// Returns the number of blocks in the next frame, which is at most at `last`, and its content, checked.
    fn frame(&self, kind: Kind, next: u32, last: u32) -> Result<(u32, Vec<u8>), Error> {
        let view = self.store.view()?;
        let frame = match kind {
            Kind::Relay => relay_frame(&view, next, last),
            kind => list_frame(&view, kind, next, last),
        };
        // Pages that a view sees cannot be reused meanwhile.
        drop(view);
        let end = match &frame {
            Ok((count, _)) if *count > 0 => next + count - 1,
            // What cannot be read is found by the check.
            _ => last,
        };
        // A parachain header is checked by the ones after it: all of them, before the first frame.
        if kind != Kind::Headers || frame.is_err() {
            self.check(kind.part(), next, end)?;
        }
        frame
    }

    /// Writes the blocks from `first` to `last`; returns false if the export was stopped.
    fn blocks(&mut self, kind: Kind, first: u32, last: u32) -> Result<bool, Error> {
        let (mut next, mut open, mut continues) = (first, None, true);
        if kind == Kind::Headers {
            self.check(Part::ParaHeaders, first, last)?;
        }
        while next <= last && continues {
            let (count, content) = self.frame(kind, next, last)?;
            if count == 0 {
                break;
            }
            let mut file = match open.take() {
                Some(file) => file,
                None => OpenFile::create(self.folder, kind, self.chain, next)?,
            };
            file.frame(next, count, &content, self.config.level)?;
            next += count;
            self.exported.content_bytes += content.len() as u64;
            match kind {
                Kind::Relay => self.exported.relay_headers += count,
                Kind::Headers => self.exported.para_headers += count,
                Kind::Changes | Kind::Genesis => self.exported.changes += count,
            }
            if file.bytes >= self.config.file_bytes {
                self.close(file)?;
            } else {
                open = Some(file);
            }
            continues = (self.tell)(Progress { part: kind.part(), done: next, total: last + 1 });
        }
        open.map_or(Ok(()), |file| self.close(file))?;
        Ok(continues)
    }

    fn close(&mut self, file: OpenFile) -> Result<(), Error> {
        self.exported.bytes += file.close(self.folder)?;
        self.exported.files += 1;
        Ok(())
    }
}

/// Builds a frame of relay pieces of up to about [`FRAME_BYTES`].
fn relay_frame(view: &StoreView<'_>, first: u32, last: u32) -> Result<(u32, Vec<u8>), Error> {
    let (mut next, mut content, mut failure) = (RelayNumber(first), Vec::new(), None);
    view.batch_ends(next, &mut |stop| {
        if stop.number.0 > last {
            return false;
        }
        let mut headers = Vec::new();
        let span = Span { first: next, last: stop.number };
        let read = view.relay_headers(span, &mut |header| {
            headers.push(header);
            true
        });
        let proof = crate::verify::scale::list(stop.proof);
        match (read, proof) {
            (Ok(()), Some(proof)) if headers.len() as u32 == stop.number.0 + 1 - next.0 => {
                put_piece(&mut content, &headers, stop.justification, &proof);
                next = stop.number.next();
                content.len() < FRAME_BYTES && next.0 - first < FRAME_BLOCKS
            }
            (Err(e), _) => {
                failure = Some(e);
                false
            }
            _ => {
                failure = Some(store::Error::Corrupt { what: "relay block" });
                false
            }
        }
    })?;
    failure.map_or(Ok((next.0 - first, content)), |e| Err(e.into()))
}

/// Builds a frame of headers or changes of up to about [`FRAME_BYTES`].
fn list_frame(view: &StoreView<'_>, kind: Kind, first: u32, last: u32) -> Result<(u32, Vec<u8>), Error> {
    let (mut items, mut bytes) = (Vec::new(), 0);
    let span = Span { first: ParaNumber(first), last: ParaNumber(last.min(first + FRAME_BLOCKS - 1)) };
    let mut take = |item| {
        items.push(item);
        bytes += <[u8]>::len(item);
        bytes < FRAME_BYTES
    };
    match kind {
        Kind::Headers => view.para_headers(span, &mut take)?,
        _ => view.changes_of(span, &mut take)?,
    }
    let content = if items.is_empty() { Vec::new() } else { segment::write(&items) };
    Ok((items.len() as u32, content))
}

/// A file being written under a temporary name.
struct OpenFile {
    out: BufWriter<File>,
    path: PathBuf,
    name: String,
    hash: Hash,
    frames: u32,
    next: u32,
    bytes: u64,
}

impl OpenFile {
    fn create(folder: &Path, kind: Kind, chain: Chain, first: u32) -> Result<Self, Error> {
        let name = kind.file_name(first);
        let path = folder.join(format!("{name}.partial"));
        let head = Head { kind, chain, first }.encode();
        let file = File::create(&path).map_err(|e| failed(&path, e))?;
        let mut out = BufWriter::new(file);
        out.write_all(&head).map_err(|e| failed(&path, e))?;
        // The head ends with its own hash.
        let hash = Hash::of(&head[..head.len() - 32]);
        Ok(Self { out, path, name, hash, frames: 0, next: first, bytes: head.len() as u64 })
    }

    fn frame(&mut self, first: u32, count: u32, content: &[u8], level: i32) -> Result<(), Error> {
        let written = format::write_frame(&mut self.out, first, count, content, level);
        let (hash, bytes) = written.map_err(|e| failed(&self.path, e))?;
        self.hash = chained(self.hash, hash);
        self.frames += 1;
        self.next = first + count;
        self.bytes += bytes;
        Ok(())
    }

    /// Completes the file and renames it.
    fn close(mut self, folder: &Path) -> Result<u64, Error> {
        let end = FrameHead::end(self.next, self.frames, self.hash).encode();
        let done = self.out.write_all(&end).and_then(|()| self.out.flush());
        // Before the rename: under its final name a file must be complete, also after a power failure.
        let done = done.and_then(|()| self.out.get_ref().sync_all());
        let done = done.and_then(|()| fs::rename(&self.path, folder.join(&self.name)));
        let done = done.and_then(|()| File::open(folder)?.sync_all());
        done.map_err(|e| failed(&self.path, e))?;
        Ok(self.bytes + end.len() as u64)
    }
}

impl Drop for OpenFile {
    /// Removes a file that was not completed.
    fn drop(&mut self) {
        // A completed one has its final name.
        let _ = fs::remove_file(&self.path);
    }
}
