//! Answers on their way to a socket.

use std::{
    collections::VecDeque,
    io::{self, IoSlice},
    sync::{Arc, atomic::Ordering},
};

use bytes::Bytes;
use prb_core::sync::ByteLease;
use tokio::net::tcp::WriteHalf;

use super::Stats;
use crate::blob::frame::AnswerHead;

/// Pieces that one call to the system takes.
const MAX_SLICES: usize = 96;

/// With so much to write, it is written before more is assembled: the peer has something to do meanwhile.
const LARGE_BYTES: usize = 256 * 1024;

/// An answer, and what it holds until it is written.
pub(super) struct Answer {
    frame: AnswerHead,
    head: Bytes,
    body: Bytes,
    _queued: Queued,
}

impl Answer {
    pub(super) fn new(
        frame: AnswerHead,
        head: Bytes,
        body: Bytes,
        held: [ByteLease; 3],
        stats: &Arc<Stats>,
    ) -> Self {
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

/// Bytes that count as queued until this is dropped.
struct Queued {
    bytes: usize,
    stats: Arc<Stats>,
    _held: [ByteLease; 3],
}

impl Drop for Queued {
    fn drop(&mut self) {
        self.stats.unqueue(self.bytes);
    }
}

/// Writes answers in the order in which they came.
pub(super) struct Outbox<'s> {
    socket: WriteHalf<'s>,
    answers: VecDeque<Answer>,
    /// Bytes of all answers that are still to be written.
    bytes: usize,
    /// Bytes of the first answer that are written.
    written: usize,
    /// Bytes of all answers that were written.
    progress: u64,
    stats: Arc<Stats>,
}

impl<'s> Outbox<'s> {
    pub(super) const fn new(socket: WriteHalf<'s>, stats: Arc<Stats>) -> Self {
        Self { socket, answers: VecDeque::new(), bytes: 0, written: 0, progress: 0, stats }
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

    pub(super) const fn progress(&self) -> u64 {
        self.progress
    }

    /// Whether there is so much to write that nothing is won by waiting for more.
    pub(super) const fn is_large(&self) -> bool {
        self.bytes >= LARGE_BYTES
    }

    /// Waits until the socket has room, and writes once: as many answers as one call takes.
    ///
    /// Cancel safe: what is written is noted.
    pub(super) async fn write(&mut self) -> io::Result<()> {
        self.socket.writable().await?;
        self.try_write()
    }

    /// Writes once what the socket has room for, if it has any.
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
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(e) => Err(e),
        }
    }

    fn advance(&mut self, written: usize) {
        self.progress += written as u64;
        self.stats.sent_bytes.fetch_add(written as u64, Ordering::Relaxed);
        self.bytes -= written;
        self.written += written;
        while let Some(len) = self.answers.front().map(Answer::len)
            && self.written >= len
        {
            self.written -= len;
            self.answers.pop_front();
        }
    }
}
