//! An archive behind HTTP: an object store's bucket, or any web server that answers ranges.
//!
//! No listing is needed: `genesis.prb` determines which block the first file of each kind starts with, and the end of
//! each file which block the next one starts with. Files never change, so an incomplete answer can be continued.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use backon::{BackoffBuilder, ExponentialBuilder};
use bytes::{Buf, Bytes, BytesMut};
use codec::DecodeAll;
use prb_core::{
    blob::{Genesis, Span},
    primitives::{Hash, ParaNumber, RelayNumber},
};
use reqwest::{Response, StatusCode, header};
use tokio::time::Instant;

use super::format::{self, Chain, FRAME_LEN, Frame, FrameHead, HEAD_LEN, Head, Kind};
use crate::history::{
    Error, Extent, HistorySource, Next, Piece,
    http::{Server, bad, unavailable},
    memory::from_header,
};

/// Most files of an archive.
const MAX_FILES: usize = 100_000;
/// Least time between two checks for new files.
const SCAN_INTERVAL: Duration = Duration::from_secs(30);

/// Settings for reading an archive over HTTP.
#[derive(Clone, Debug, PartialEq, Eq, derive_setters::Setters)]
#[setters(prefix = "with_")]
#[non_exhaustive]
pub struct HttpConfig {
    /// Timeout of an answer. Default: 60 s.
    pub timeout: Duration,
    /// Bytes per request; a larger frame is requested as a whole. Default: 8 MiB.
    pub range_bytes: usize,
    /// Most attempts of a request that gets no answer or an incomplete one. Default: 5.
    pub tries: usize,
    /// Pause after the first such attempt; it doubles. Default: 200 ms.
    pub retry_min: Duration,
    /// Additional trusted root certificates, as PEM. Default: none.
    pub root_certificates_pem: Vec<u8>,
}

impl Default for HttpConfig {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(60),
            range_bytes: 8 << 20,
            tries: 5,
            retry_min: Duration::from_millis(200),
            root_certificates_pem: Vec::new(),
        }
    }
}

/// An archive at a URL, as a [`HistorySource`].
///
/// The server must answer `GET` with a `Range` (status 206). 404 and 403 count as a missing file: object stores answer
/// 403 for a missing file if they may not be listed.
pub struct HttpArchive {
    name: String,
    remote: Remote,
    files: tokio::sync::Mutex<Files>,
    extent: Mutex<Extent>,
}

impl fmt::Debug for HttpArchive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HttpArchive").field("name", &self.name).finish_non_exhaustive()
    }
}

/// The known files, and the current position in those being read.
#[derive(Default)]
struct Files {
    chain: Option<Chain>,
    /// Number after each file's last block, by kind and first block.
    ends: BTreeMap<(Kind, u32), u32>,
    reading: BTreeMap<Kind, Reading>,
    scanned_at: Option<Instant>,
}

/// A file that is being read.
struct Reading {
    file: String,
    first: u32,
    /// Length of the file in bytes, and how many of them were requested.
    total: u64,
    fetched: u64,
    /// Fetched bytes that are not decoded yet.
    buffer: BytesMut,
    next: u32,
    frames: u32,
    hash: Hash,
    frame: Option<Frame>,
}

/// A range of a file, with the file's length.
struct Part {
    bytes: BytesMut,
    total: u64,
}

/// A range of a file, in bytes.
#[derive(Clone, Copy)]
enum Range {
    From { start: u64, count: u64 },
    Last(u64),
}

struct Remote {
    server: Server,
    config: HttpConfig,
}

fn of_file(file: &str, reason: impl fmt::Display) -> Error {
    bad(format!("{file}: {reason}"))
}

/// Whether an answer contains the requested range; false if the file does not exist.
fn has_range(status: StatusCode, file: &str) -> Result<bool, Error> {
    match status {
        StatusCode::PARTIAL_CONTENT => Ok(true),
        // Object stores answer 403 for a missing file if the caller may not list the bucket.
        StatusCode::NOT_FOUND | StatusCode::FORBIDDEN => Ok(false),
        // A server without ranges would send gigabytes for each request.
        StatusCode::OK => {
            Err(of_file(file, "the server returned the whole file instead of the requested range"))
        }
        StatusCode::RANGE_NOT_SATISFIABLE => Err(of_file(file, "it is truncated")),
        status => {
            let status = std::io::Error::other(format!("status {status}"));
            Err(unavailable(&format!("cannot read {file}"), status))
        }
    }
}

/// The first and last byte of an answer, and the length of the file (`Content-Range`).
fn content_range(answer: &Response) -> Option<(u64, u64, u64)> {
    let text = answer.headers().get(header::CONTENT_RANGE)?.to_str().ok()?;
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last, total) = (first.parse().ok()?, last.parse().ok()?, total.parse().ok()?);
    // Servers and proxies exist that return nonsense here; later arithmetic relies on the order.
    (first <= last && last < total).then_some((first, last, total))
}

impl Remote {
    /// Returns a range of a file; `None` if the file does not exist. After a failure, the missing rest is
    /// requested again.
    async fn get(&self, file: &str, range: Range) -> Result<Option<Part>, Error> {
        let pauses = ExponentialBuilder::default().with_min_delay(self.config.retry_min).with_jitter();
        let mut pauses = pauses.with_max_times(self.config.tries.saturating_sub(1)).build();
        let mut part = Part { bytes: BytesMut::new(), total: 0 };
        loop {
            let error = match self.try_get(file, range, &mut part).await {
                Ok(found) => return Ok(found.then_some(part)),
                // Wrong data stays wrong: only what did not arrive is worth another attempt.
                Err(e @ Error::Bad(_)) => return Err(e),
                Err(e) => e,
            };
            let Some(pause) = pauses.next() else { return Err(error) };
            tracing::debug!(server = self.server.shown, file, %error, "asking again");
            tokio::time::sleep(pause).await;
        }
    }

    /// Requests the missing rest; returns false if the file does not exist.
    async fn try_get(&self, file: &str, range: Range, part: &mut Part) -> Result<bool, Error> {
        let what = format!("cannot read {file}");
        let failed = |e: reqwest::Error| unavailable(&what, e.without_url());
        let (start, count) = match range {
            Range::From { start, count } => (Some(start + part.bytes.len() as u64), count),
            // A range from the end is short, so it is requested as a whole again.
            Range::Last(count) => {
                part.bytes.clear();
                (None, count)
            }
        };
        let missing = count - part.bytes.len() as u64;
        let asked = match start {
            Some(start) => format!("bytes={start}-{}", start + missing - 1),
            None => format!("bytes=-{missing}"),
        };
        let request = self.server.http.get(self.server.url(file)).header(header::RANGE, asked);
        let mut answer = self.server.send(request, &what).await?;
        if !has_range(answer.status(), file)? {
            return Ok(false);
        }
        let (first, _, total) = content_range(&answer)
            .filter(|(first, last, total)| {
                last - first < missing && start.map_or(last + 1 == *total, |start| *first == start)
            })
            .ok_or_else(|| of_file(file, "the server returned another range than the requested one"))?;
        part.total = total;
        let wanted = missing.min(total - first);
        let before = part.bytes.len() as u64;
        while let Some(chunk) = answer.chunk().await.map_err(failed)? {
            // Checked before the bytes are kept: the server chooses how much it sends.
            if part.bytes.len() as u64 - before + chunk.len() as u64 > wanted {
                return Err(of_file(file, "the server returned more than requested"));
            }
            part.bytes.extend_from_slice(&chunk);
        }
        // What has arrived is kept in `part`, and the next attempt requests the rest.
        if part.bytes.len() as u64 - before < wanted {
            let short = std::io::Error::from(std::io::ErrorKind::UnexpectedEof);
            return Err(unavailable(&what, short));
        }
        Ok(true)
    }

    /// Returns the number after a file's last block; `None` if the file does not exist.
    async fn end(&self, kind: Kind, first: u32) -> Result<Option<u32>, Error> {
        let file = kind.file_name(first);
        let Some(part) = self.get(&file, Range::Last(FRAME_LEN as u64)).await? else { return Ok(None) };
        // The number of the next file is at the end of this one: a plain web server has no listing.
        let end = format::read_frame_head(&mut &part.bytes[..], part.bytes.len() as u64);
        let end = end.ok().filter(|end| end.is_end() && end.first > first);
        end.map(|end| Some(end.first)).ok_or_else(|| of_file(&file, "it has no end: it is truncated"))
    }
}

impl Files {
    /// Finds the archive's files, including new ones.
    async fn scan(&mut self, remote: &Remote) -> Result<(), Error> {
        let is_due = |at: Instant| at.elapsed() >= SCAN_INTERVAL;
        // Reads beyond the end come often at the tip, and each scan is a request for each kind.
        if !self.scanned_at.is_none_or(is_due) {
            return Ok(());
        }
        let chain = match self.chain {
            Some(chain) => chain,
            None => {
                let genesis = Reading::open(remote, Kind::Genesis, 0, None).await?;
                let (reading, chain) = genesis.ok_or_else(|| {
                    let file = Kind::Genesis.file_name(0);
                    unavailable("no archive", std::io::Error::other(format!("there is no {file}")))
                })?;
                self.ends.insert((Kind::Genesis, 0), 1);
                self.reading.insert(Kind::Genesis, reading);
                *self.chain.insert(chain)
            }
        };
        let firsts =
            [(Kind::Relay, chain.relay_number.saturating_add(1)), (Kind::Headers, 0), (Kind::Changes, 1)];
        for (kind, first) in firsts {
            let mut next = self.next(kind).max(first);
            // A server could name files without end.
            while self.ends.len() < MAX_FILES
                && let Some(end) = remote.end(kind, next).await?
            {
                self.ends.insert((kind, next), end);
                next = end;
            }
        }
        self.scanned_at = Some(Instant::now());
        Ok(())
    }

    /// Returns the number after the last block of a kind; 0 if there is none.
    fn next(&self, kind: Kind) -> u32 {
        self.ends.range((kind, 0)..=(kind, u32::MAX)).map(|(_, next)| *next).max().unwrap_or_default()
    }

    fn extent(&self) -> Extent {
        let last = |kind| self.next(kind).checked_sub(1);
        let para = last(Kind::Headers).min(last(Kind::Changes));
        Extent { relay: last(Kind::Relay).map(RelayNumber), para: para.map(ParaNumber) }
    }

    /// Returns the frame with a block, if there is one.
    async fn frame(&mut self, remote: &Remote, kind: Kind, number: u32) -> Result<Option<&Frame>, Error> {
        if self.next(kind) <= number {
            self.scan(remote).await?;
        }
        let file = self.ends.range((kind, 0)..=(kind, number)).next_back();
        let Some((&(_, first), _)) = file.filter(|(_, end)| **end > number) else { return Ok(None) };
        // Taken out and put back at the end: a failed or cancelled read must not leave a wrong position behind.
        let reading = self.reading.remove(&kind).filter(|reading| reading.continues_at(first, number));
        let mut reading = match reading {
            Some(reading) => reading,
            None => {
                let opened = Reading::open(remote, kind, first, self.chain).await?;
                let gone = || of_file(&kind.file_name(first), "it is gone");
                opened.ok_or_else(gone)?.0
            }
        };
        reading.seek(remote, number).await?;
        self.reading.insert(kind, reading);
        Ok(self.reading.get(&kind).and_then(|reading| reading.frame.as_ref()))
    }
}

impl Reading {
    /// Reads a file's head; `None` if the file does not exist.
    async fn open(
        remote: &Remote,
        kind: Kind,
        first: u32,
        chain: Option<Chain>,
    ) -> Result<Option<(Self, Chain)>, Error> {
        let file = kind.file_name(first);
        let count = remote.config.range_bytes.max(HEAD_LEN) as u64;
        let Some(part) = remote.get(&file, Range::From { start: 0, count }).await? else { return Ok(None) };
        let mut buffer = part.bytes;
        let fetched = buffer.len() as u64;
        let head = buffer.first_chunk::<HEAD_LEN>().ok_or_else(|| of_file(&file, "it is truncated"))?;
        let (head, hash) = Head::decode(head).map_err(|reason| of_file(&file, reason))?;
        // Files of two archives in one folder would otherwise be noticed only in the middle of the import.
        if chain.is_some_and(|chain| chain != head.chain) {
            return Err(of_file(&file, "it is of another chain than the archive's other files"));
        }
        if (head.kind, head.first) != (kind, first) {
            let name = head.kind.file_name(head.first);
            return Err(of_file(&file, format!("its name should be {name}")));
        }
        buffer.advance(HEAD_LEN);
        let (total, next, frames, frame) = (part.total, first, 0, None);
        Ok(Some((Self { file, first, total, fetched, buffer, next, frames, hash, frame }, head.chain)))
    }

    /// Whether the block is in this file and not before the last frame read.
    fn continues_at(&self, first: u32, number: u32) -> bool {
        self.first == first && self.frame.as_ref().map_or(self.next, |frame| frame.first) <= number
    }

    /// Number of bytes of the file that are not read yet.
    fn left(&self) -> u64 {
        self.total - self.fetched + self.buffer.len() as u64
    }

    /// Returns the next bytes of the file.
    async fn take(&mut self, remote: &Remote, count: usize) -> Result<Bytes, Error> {
        while self.buffer.len() < count {
            let missing = (count - self.buffer.len()).max(remote.config.range_bytes) as u64;
            let missing = missing.min(self.total - self.fetched);
            if missing == 0 {
                return Err(of_file(&self.file, "it is truncated"));
            }
            let part = remote.get(&self.file, Range::From { start: self.fetched, count: missing }).await?;
            // Files never change, so another length means another file under the same name.
            let part = part.filter(|part| part.total == self.total);
            let part = part.ok_or_else(|| of_file(&self.file, "it has changed while it was read"))?;
            self.fetched += part.bytes.len() as u64;
            self.buffer.unsplit(part.bytes);
        }
        Ok(self.buffer.split_to(count).freeze())
    }

    /// Reads forward to the frame with the block.
    async fn seek(&mut self, remote: &Remote, number: u32) -> Result<(), Error> {
        while self.next <= number {
            let at = self.next;
            let failed = |file: &str, reason: String| of_file(file, format!("{reason} (at block {at})"));
            let left = self.left();
            let head = self.take(remote, FRAME_LEN.min(usize::try_from(left).unwrap_or(FRAME_LEN))).await?;
            let head =
                format::read_frame_head(&mut &head[..], left).map_err(|reason| failed(&self.file, reason))?;
            let next = head.first.checked_add(head.count).filter(|_| !head.is_end() && head.first == at);
            let next = next.ok_or_else(|| failed(&self.file, format!("block {at} is missing")))?;
            let packed = self.take(remote, format::packed_len(&head) as usize).await?;
            let frame = unpack(head, packed).await?.map_err(|reason| failed(&self.file, reason))?;
            self.next = next;
            self.frames += 1;
            // The end of the file has the hash of all frames, so that an exchanged frame is noticed.
            self.hash = format::chained(self.hash, frame.hash);
            self.frame = Some(frame);
            if self.left() == FRAME_LEN as u64 {
                self.check_end(remote).await?;
            }
        }
        Ok(())
    }

    /// Checks the file's end against the frames before it.
    async fn check_end(&mut self, remote: &Remote) -> Result<(), Error> {
        let end = self.take(remote, FRAME_LEN).await?;
        let end = format::read_frame_head(&mut &end[..], FRAME_LEN as u64);
        let checked = end.and_then(|end| format::check_end(&end, self.next, self.frames, self.hash));
        checked.map_err(|reason| of_file(&self.file, reason))
    }
}

/// Checks and unpacks a frame on a thread that may block.
async fn unpack(head: FrameHead, packed: Bytes) -> Result<Result<Frame, String>, Error> {
    let unpacked = tokio::task::spawn_blocking(move || format::read_frame(&mut &packed[..], &head));
    unpacked.await.map_err(|e| unavailable("unpacking failed", e))
}

impl HttpArchive {
    /// Creates a source for the archive at a URL (`https://archive.s3.example.org/khala`). Sends no request yet.
    ///
    /// # Errors
    /// The URL is not an HTTP URL, or a certificate is invalid.
    pub fn new(url: &str, config: HttpConfig) -> Result<Self, Error> {
        let server = Server::new(url, config.timeout, &config.root_certificates_pem)?;
        let name = format!("archive {}", server.shown);
        // An async lock: it is held across requests, so that one file is read by one caller at a time.
        let (remote, files) = (Remote { server, config }, tokio::sync::Mutex::default());
        Ok(Self { name, remote, files, extent: Mutex::default() })
    }

    /// Reads from the frame with a block; `None` if the archive does not have the block.
    async fn read<T>(
        &self,
        kind: Kind,
        number: u32,
        of: impl FnOnce(&Frame) -> Result<T, String>,
    ) -> Result<Option<T>, Error> {
        let mut files = self.files.lock().await;
        let found = match files.frame(&self.remote, kind, number).await? {
            Some(frame) => Some(of(frame).map_err(|reason| of_file(kind.name(), reason))?),
            None => None,
        };
        *self.extent.lock().unwrap_or_else(PoisonError::into_inner) = files.extent();
        Ok(found)
    }

    async fn items(&self, kind: Kind, span: Span<ParaNumber>) -> Result<Vec<Vec<u8>>, Error> {
        let most = (span.last.0 - span.first.0).saturating_add(1);
        let items = |frame: &Frame| format::items(frame, kind, span.first.0 - frame.first, most);
        Ok(self.read(kind, span.first.0, items).await?.unwrap_or_default())
    }
}

#[async_trait]
impl HistorySource for HttpArchive {
    fn name(&self) -> &str {
        &self.name
    }

    fn extent(&self) -> Extent {
        *self.extent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn genesis(&self) -> Result<Option<Genesis>, Error> {
        let mut files = self.files.lock().await;
        files.scan(&self.remote).await?;
        let Some(chain) = files.chain else { return Ok(None) };
        // `read` takes the same lock.
        drop(files);
        let content = |frame: &Frame| {
            let content = <(Vec<u8>, Vec<u8>)>::decode_all(&mut &frame.content[..]);
            content.map_err(|_| "its content cannot be read".to_owned())
        };
        let Some((info, state)) = self.read(Kind::Genesis, 0, content).await? else { return Ok(None) };
        // Read once, and its frame holds the whole genesis state.
        self.files.lock().await.reading.remove(&Kind::Genesis);
        Ok(Some(Genesis {
            para_id: chain.para_id,
            relay_number: RelayNumber(chain.relay_number),
            relay_hash: chain.relay_hash,
            chain_identity: chain.identity,
            info: info.into(),
            state: state.into(),
        }))
    }

    async fn relay(&self, next: Next) -> Result<Vec<Piece>, Error> {
        let from = next.relay;
        let pieces = |frame: &Frame| {
            let pieces = format::pieces(&frame.content, frame.count)?;
            Ok(from_header(&pieces, RelayNumber(frame.first), from, usize::MAX))
        };
        Ok(self.read(Kind::Relay, from.0, pieces).await?.unwrap_or_default())
    }

    async fn para_headers(&self, span: Span<ParaNumber>) -> Result<Vec<Vec<u8>>, Error> {
        self.items(Kind::Headers, span).await
    }

    async fn changes(&self, span: Span<ParaNumber>) -> Result<Vec<Vec<u8>>, Error> {
        self.items(Kind::Changes, span).await
    }
}
