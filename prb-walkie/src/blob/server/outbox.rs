//! The queue of answers to be written to a socket.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    sync::{Arc, atomic::Ordering},
};

use bytes::Bytes;
#[cfg(target_os = "linux")]
use socket2::SockRef;
use tokio::net::tcp::WriteHalf;

use super::{Stats, connection::Held};
use crate::blob::frame::AnswerHead;

/// Most slices in one vectored write: three for each of 32 answers.
const MAX_SLICES: usize = 96;

/// What the system may buffer of a connection whose address has many others, beyond what is on its way. With more, the
/// sockets of connections without a turn would still fill the link.
#[cfg(target_os = "linux")]
const UNSENT_BYTES: u32 = 32 * 1024;
/// With this much queued, it is written before more is assembled, which keeps the peer busy meanwhile.
const LARGE_BYTES: usize = 256 * 1024;

/// An answer with its reserved bytes, which are released once it is written.
pub(super) struct Answer {
    frame: AnswerHead,
    head: Bytes,
    body: Bytes,
    _queued: Queued,
}

impl Answer {
    pub(super) fn new(frame: AnswerHead, head: Bytes, body: Bytes, held: Held, stats: &Arc<Stats>) -> Self {
        let bytes = head.len() + body.len();
        stats.queue(bytes);
        Self { frame, head, body, _queued: Queued { bytes, stats: stats.clone(), _held: held } }
    }

    fn pieces(&self) -> [&[u8]; 3] {
        [self.frame.as_bytes(), &self.head, &self.body]
    }

    fn len(&self) -> usize {
        self.pieces().iter().map(|piece| piece.len()).sum()
    }
}

/// Counts bytes as queued until dropped.
struct Queued {
    bytes: usize,
    stats: Arc<Stats>,
    _held: Held,
}

impl Drop for Queued {
    fn drop(&mut self) {
        self.stats.unqueue(self.bytes);
    }
}

/// Writes answers in order.
pub(super) struct Outbox<'s> {
    socket: WriteHalf<'s>,
    answers: VecDeque<Answer>,
    /// Unwritten bytes of all answers.
    bytes: usize,
    /// Written bytes of the first answer.
    written: usize,
    /// Total of written bytes.
    progress: u64,
    is_unsent_limited: bool,
    stats: Arc<Stats>,
}

impl<'s> Outbox<'s> {
    pub(super) const fn new(socket: WriteHalf<'s>, stats: Arc<Stats>) -> Self {
        Self {
            socket,
            answers: VecDeque::new(),
            bytes: 0,
            written: 0,
            progress: 0,
            is_unsent_limited: false,
            stats,
        }
    }

    pub(super) fn push(&mut self, answer: Answer) {
        self.bytes += answer.len();
        self.answers.push_back(answer);
    }

    pub(super) fn len(&self) -> usize {
        self.answers.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.answers.is_empty()
    }

    /// Lets the system buffer little that it has not sent yet: a connection would otherwise fill MiBs in no time, which
    /// are sent when others have their turn.
    pub(super) fn limit_unsent(&mut self) {
        if !std::mem::replace(&mut self.is_unsent_limited, true) {
            #[cfg(target_os = "linux")]
            // Best effort: without it, turns only bound what is buffered for a connection.
            let _ = SockRef::from(self.socket.as_ref()).set_tcp_notsent_lowat(UNSENT_BYTES);
        }
    }

    /// Unwritten bytes.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) const fn progress(&self) -> u64 {
        self.progress
    }

    /// Whether enough is queued to write without waiting for more answers.
    pub(super) const fn is_large(&self) -> bool {
        self.bytes >= LARGE_BYTES
    }

    /// Waits until the socket is writable, and writes once.
    ///
    /// # Cancel safety
    /// Cancel safe: written bytes are accounted for.
    pub(super) async fn write(&mut self) -> io::Result<()> {
        self.socket.writable().await?;
        self.try_write()
    }

    /// Writes once if the socket is writable.
    pub(super) fn try_write(&mut self) -> io::Result<()> {
        let mut slices = [IoSlice::new(&[]); MAX_SLICES];
        let mut count = 0;
        let mut skip = self.written;
        'fill: for answer in &self.answers {
            for piece in answer.pieces() {
                let rest = piece.get(skip..).unwrap_or_default();
                skip = skip.saturating_sub(piece.len());
                if rest.is_empty() {
                    continue;
                }
                if count == MAX_SLICES {
                    break 'fill;
                }
                slices[count] = IoSlice::new(rest);
                count += 1;
            }
        }
        match self.socket.try_write_vectored(&slices[..count]) {
            Ok(0) => Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => {
                self.advance(written);
                Ok(())
            }
            // Normal: readiness can be outdated.
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(e) => Err(e),
        }
    }

    fn advance(&mut self, written: usize) {
        self.progress += written as u64;
        self.stats.sent_bytes.fetch_add(written as u64, Ordering::Relaxed);
        self.bytes -= written;
        self.written += written;
        // An answer's budget is released only when its last byte is written: until then all of it is in
        // memory.
        while let Some(len) = self.answers.front().map(Answer::len)
            && self.written >= len
        {
            self.written -= len;
            self.answers.pop_front();
        }
    }
}
