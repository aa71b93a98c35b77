//! Reads archives. They are untrusted data: bounds are checked first, then hashes, and the content is
//! verified like any source's.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{BufReader, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use codec::DecodeAll;
use prb_core::{
    blob::{Genesis, Span},
    primitives::{Hash, ParaNumber, RelayNumber},
};

use super::format::{self, Chain, FRAME_LEN, Frame, HEAD_LEN, Head, Kind};
use crate::history::{Error, Extent, HistorySource, Next, Piece, memory::from_header};

/// Most files of an archive.
const MAX_FILES: usize = 100_000;
/// Least time between two scans for new files.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// An archive's files, with the files being read.
#[derive(Debug)]
pub(super) struct Archive {
    folder: PathBuf,
    chain: Option<Chain>,
    /// The number after each file's last block, by kind and first block.
    files: BTreeMap<(Kind, u32), u32>,
    open: BTreeMap<Kind, OpenFile>,
    scanned_at: Instant,
}

/// A file that is being read.
#[derive(Debug)]
struct OpenFile {
    path: PathBuf,
    input: BufReader<File>,
    left: u64,
    next: u32,
    frames: u32,
    hash: Hash,
    frame: Option<Frame>,
}

fn unavailable(path: &Path, source: std::io::Error) -> Error {
    Error::Unavailable { what: format!("cannot read {}", path.display()), source: Box::new(source) }
}

fn bad(path: &Path, reason: impl std::fmt::Display) -> Error {
    Error::Bad(format!("{}: {reason}", path.display()))
}

impl Archive {
    /// Opens an archive and scans its files.
    ///
    /// # Errors
    /// The folder cannot be read, or has files of several chains or of another version.
    pub(super) fn open(folder: &Path) -> Result<Self, Error> {
        let mut archive = Self {
            folder: folder.to_owned(),
            chain: None,
            files: BTreeMap::new(),
            open: BTreeMap::new(),
            scanned_at: Instant::now(),
        };
        archive.scan()?;
        Ok(archive)
    }

    fn scan(&mut self) -> Result<(), Error> {
        self.scanned_at = Instant::now();
        let folder = self.folder.clone();
        for (count, entry) in fs::read_dir(&folder).map_err(|e| unavailable(&folder, e))?.enumerate() {
            let path = entry.map_err(|e| unavailable(&folder, e))?.path();
            if count > MAX_FILES {
                return Err(bad(&folder, format!("it has more than {MAX_FILES} files")));
            }
            if path.extension().is_some_and(|extension| extension == "prb") {
                self.add(&path)?;
            }
        }
        Ok(())
    }

    fn add(&mut self, path: &Path) -> Result<(), Error> {
        let mut file = File::open(path).map_err(|e| unavailable(path, e))?;
        let len = file.metadata().map_err(|e| unavailable(path, e))?.len();
        let mut head = [0; HEAD_LEN];
        if len < HEAD_LEN as u64 {
            return Err(bad(path, "it is truncated"));
        }
        file.read_exact(&mut head).map_err(|e| unavailable(path, e))?;
        let (head, _) = Head::decode(&head).map_err(|reason| bad(path, reason))?;
        if self.chain.is_some_and(|chain| chain != head.chain) {
            return Err(bad(path, "it is of another chain than the folder's other files"));
        }
        self.chain = Some(head.chain);
        let name = head.kind.file_name(head.first);
        if path.file_name().is_none_or(|found| *found != *name) {
            return Err(bad(path, format!("its name should be {name}")));
        }
        // A truncated file is read as far as it goes before the error is reported.
        let end = file.seek(SeekFrom::Start(len.saturating_sub(FRAME_LEN as u64))).ok();
        let end = end.and_then(|_| format::read_frame_head(&mut file, FRAME_LEN as u64).ok());
        let next = end.filter(format::FrameHead::is_end).map_or(head.first, |end| end.first);
        self.files.insert((head.kind, head.first), next.max(head.first));
        Ok(())
    }

    pub(super) const fn chain(&self) -> Option<Chain> {
        self.chain
    }

    /// The number after the last block of a kind; 0 if there is none.
    pub(super) fn next(&self, kind: Kind) -> u32 {
        self.files.range((kind, 0)..=(kind, u32::MAX)).map(|(_, next)| *next).max().unwrap_or_default()
    }

    /// Returns the frame with a block, if there is one.
    fn frame(&mut self, kind: Kind, number: u32) -> Result<Option<&Frame>, Error> {
        let is_there = self.files.range((kind, 0)..=(kind, number)).next_back();
        let Some((&(_, first), &end)) = is_there else { return Ok(None) };
        if end > first && end <= number {
            return Ok(None);
        }
        let path = self.folder.join(kind.file_name(first));
        let is_open = self.open.get(&kind).is_some_and(|open| {
            open.path == path && open.frame.as_ref().map_or(open.next, |frame| frame.first) <= number
        });
        if !is_open {
            self.open.insert(kind, OpenFile::open(path.clone())?);
        }
        let Some(open) = self.open.get_mut(&kind) else { return Ok(None) };
        if let Err(e) = open.seek(number) {
            // The position within the file is not known after a failed read.
            self.open.remove(&kind);
            return Err(e);
        }
        let frame = open.frame.as_ref().filter(|frame| frame.first <= number);
        match frame {
            Some(_) => Ok(self.open.get(&kind).and_then(|open| open.frame.as_ref())),
            // The end of a truncated file is recorded as its first block.
            None if end > number => Err(bad(&path, format!("it has no block {number}"))),
            None => Ok(None),
        }
    }

    /// Like [`Self::frame`], but scans for new files if the block is not there.
    fn frame_or_look(&mut self, kind: Kind, number: u32) -> Result<Option<&Frame>, Error> {
        if self.next(kind) <= number && self.scanned_at.elapsed() > LOOK_EVERY {
            self.scan()?;
        }
        self.frame(kind, number)
    }

    fn genesis(&mut self) -> Result<Option<Genesis>, Error> {
        let (Some(chain), path) = (self.chain, self.folder.join(Kind::Genesis.file_name(0))) else {
            return Ok(None);
        };
        let Some(frame) = self.frame(Kind::Genesis, 0)? else { return Ok(None) };
        let content = <(Vec<u8>, Vec<u8>)>::decode_all(&mut &frame.content[..]);
        let (info, state) = content.map_err(|_| bad(&path, "its content cannot be read"))?;
        // Read once, and its frame holds the whole genesis state.
        self.open.remove(&Kind::Genesis);
        Ok(Some(Genesis {
            para_id: chain.para_id,
            relay_number: RelayNumber(chain.relay_number),
            relay_hash: chain.relay_hash,
            chain_identity: chain.identity,
            info: info.into(),
            state: state.into(),
        }))
    }

    fn relay(&mut self, from: RelayNumber) -> Result<Vec<Piece>, Error> {
        let folder = self.folder.clone();
        let Some(frame) = self.frame_or_look(Kind::Relay, from.0)? else { return Ok(Vec::new()) };
        let pieces = format::pieces(&frame.content, frame.count).map_err(|reason| bad(&folder, reason))?;
        Ok(from_header(&pieces, RelayNumber(frame.first), from, usize::MAX))
    }

    fn items(&mut self, kind: Kind, span: Span<ParaNumber>) -> Result<Vec<Vec<u8>>, Error> {
        let folder = self.folder.clone();
        let Some(frame) = self.frame_or_look(kind, span.first.0)? else { return Ok(Vec::new()) };
        let most = (span.last.0 - span.first.0).saturating_add(1);
        format::items(frame, kind, span.first.0 - frame.first, most).map_err(|reason| bad(&folder, reason))
    }
}

impl OpenFile {
    fn open(path: PathBuf) -> Result<Self, Error> {
        let file = File::open(&path).map_err(|e| unavailable(&path, e))?;
        let len = file.metadata().map_err(|e| unavailable(&path, e))?.len();
        let mut input = BufReader::new(file);
        let mut head = [0; HEAD_LEN];
        input.read_exact(&mut head).map_err(|e| unavailable(&path, e))?;
        let (head, hash) = Head::decode(&head).map_err(|reason| bad(&path, reason))?;
        let left = len.saturating_sub(HEAD_LEN as u64);
        Ok(Self { path, input, left, next: head.first, frames: 0, hash, frame: None })
    }

    /// Reads on to the frame with the block, or to the end.
    fn seek(&mut self, number: u32) -> Result<(), Error> {
        while self.next <= number {
            let found = format::read_frame_head(&mut self.input, self.left);
            let head =
                found.map_err(|reason| bad(&self.path, format!("{reason} (at block {})", self.next)))?;
            if head.is_end() {
                let checked = format::check_end(&head, self.next, self.frames, self.hash);
                return checked.map_err(|reason| bad(&self.path, reason));
            }
            let next = head.first.checked_add(head.count).filter(|_| head.first == self.next);
            let next = next.ok_or_else(|| bad(&self.path, format!("block {} is missing", self.next)))?;
            let frame = format::read_frame(&mut self.input, &head);
            let frame =
                frame.map_err(|reason| bad(&self.path, format!("{reason} (at block {})", self.next)))?;
            self.left -= FRAME_LEN as u64 + format::packed_len(&head);
            self.next = next;
            self.frames += 1;
            self.hash = format::chained(self.hash, frame.hash);
            self.frame = Some(frame);
        }
        Ok(())
    }
}

/// A [`HistorySource`] that reads an archive, on blocking threads.
#[derive(Clone, Debug)]
pub struct ArchiveHistory {
    name: Arc<str>,
    archive: Arc<Mutex<Archive>>,
}

impl ArchiveHistory {
    /// Opens the archive in a folder.
    ///
    /// Blocks on the disk.
    ///
    /// # Errors
    /// If the folder cannot be read, or has files of several chains or of other versions.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let name = format!("archive {}", folder.display()).into();
        Ok(Self { name, archive: Arc::new(Mutex::new(Archive::open(folder)?)) })
    }

    async fn with<T: Send + 'static>(
        &self,
        read: impl FnOnce(&mut Archive) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let archive = Arc::clone(&self.archive);
        let done = tokio::task::spawn_blocking(move || {
            read(&mut archive.lock().unwrap_or_else(PoisonError::into_inner))
        });
        done.await.map_err(|e| Error::Unavailable { what: "reading failed".into(), source: Box::new(e) })?
    }
}

#[async_trait]
impl HistorySource for ArchiveHistory {
    fn name(&self) -> &str {
        &self.name
    }

    fn extent(&self) -> Extent {
        let archive = self.archive.lock().unwrap_or_else(PoisonError::into_inner);
        let last = |kind| archive.next(kind).checked_sub(1);
        let para = last(Kind::Headers).min(last(Kind::Changes));
        Extent { relay: last(Kind::Relay).map(RelayNumber), para: para.map(ParaNumber) }
    }

    async fn genesis(&self) -> Result<Option<Genesis>, Error> {
        self.with(Archive::genesis).await
    }

    async fn relay(&self, next: Next) -> Result<Vec<Piece>, Error> {
        self.with(move |archive| archive.relay(next.relay)).await
    }

    async fn para_headers(&self, span: Span<ParaNumber>) -> Result<Vec<Vec<u8>>, Error> {
        self.with(move |archive| archive.items(Kind::Headers, span)).await
    }

    async fn changes(&self, span: Span<ParaNumber>) -> Result<Vec<Vec<u8>>, Error> {
        self.with(move |archive| archive.items(Kind::Changes, span)).await
    }
}
