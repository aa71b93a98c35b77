//! Limits that `yamux` lacks: on tiny frames, and on what a peer that violates the protocol can make it do.
//!
//! It bounds the unread bytes of a stream, but keeps each frame's in an allocation of its own: unread frames of one
//! byte occupy sixty times as much. Peers send few of them, except on purpose.
//!
//! To a frame that violates the protocol, or opens a stream too many, it answers with `GoAway`, and goes on reading: it
//! logs an error for each frame of a peer that goes on, too.

use std::{
    io::{self, ErrorKind, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use futures::{AsyncRead, AsyncWrite};
use tokio::time::Instant;

const HEADER_BYTES: usize = 12;
const DATA: u8 = 0;
const GO_AWAY: u8 = 3;
/// A frame with fewer bytes is tiny: an allocation is about as large.
const TINY_BYTES: usize = 32;
/// Tiny frames that may come at once. Larger frames and time make up for them.
const MAX_TINY: usize = 16 * 1024;
/// Tiny frames that are forgiven each second.
const FORGIVEN_PER_SECOND: f64 = 256.0;

/// A socket that fails after too many tiny frames, or after a `GoAway` of this side.
pub(super) struct Metered<C> {
    socket: C,
    received: Frames,
    tiny: Tiny,
    sent: Frames,
    is_over: bool,
}

impl<C> Metered<C> {
    pub(super) fn new(socket: C) -> Self {
        let tiny = Tiny { count: 0, last: Instant::now() };
        Self { socket, received: Frames::default(), tiny, sent: Frames::default(), is_over: false }
    }

    fn check(&mut self, received: &[u8]) -> io::Result<()> {
        self.received.read(received, |tag, len| {
            if tag == DATA {
                self.tiny.add(len);
            }
        });
        match () {
            () if self.is_over => {
                Err(io::Error::new(ErrorKind::ConnectionAborted, "the peer has broken the protocol"))
            }
            () if self.tiny.are_too_many() => {
                Err(io::Error::new(ErrorKind::InvalidData, "the peer has sent too many tiny frames"))
            }
            () => Ok(()),
        }
    }
}

/// Finds the frames in a stream of bytes.
#[derive(Debug, Default)]
struct Frames {
    header: [u8; HEADER_BYTES],
    /// Bytes of the header that have come.
    filled: usize,
    /// Bytes of the body that have not.
    body: usize,
}

impl Frames {
    /// Reports each header's tag and length.
    fn read(&mut self, mut bytes: &[u8], mut found: impl FnMut(u8, usize)) {
        while !bytes.is_empty() {
            let skipped = self.body.min(bytes.len());
            self.body -= skipped;
            bytes = &bytes[skipped..];
            let taken = (HEADER_BYTES - self.filled).min(bytes.len());
            self.header[self.filled..self.filled + taken].copy_from_slice(&bytes[..taken]);
            self.filled += taken;
            bytes = &bytes[taken..];
            if self.filled == HEADER_BYTES {
                self.filled = 0;
                let [_, tag, .., a, b, c, d] = self.header;
                let len = u32::from_be_bytes([a, b, c, d]) as usize;
                // Other frames have no body, and use the length for numbers.
                self.body = if tag == DATA { len } else { 0 };
                found(tag, len);
            }
        }
    }
}

/// Counts tiny frames.
#[derive(Debug)]
struct Tiny {
    count: usize,
    last: Instant,
}

impl Tiny {
    fn add(&mut self, len: usize) {
        match len {
            0 => {}
            1..TINY_BYTES => self.count += 1,
            more => self.count = self.count.saturating_sub(more / TINY_BYTES),
        }
    }

    fn are_too_many(&mut self) -> bool {
        if self.count > MAX_TINY {
            let forgiven = (self.last.elapsed().as_secs_f64() * FORGIVEN_PER_SECOND) as usize;
            self.last = Instant::now();
            self.count = self.count.saturating_sub(forgiven);
        }
        self.count > MAX_TINY
    }
}

impl<C: AsyncRead + Unpin> AsyncRead for Metered<C> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let read = Pin::new(&mut self.socket).poll_read(cx, buffer);
        let received = if let Poll::Ready(Ok(count)) = &read { &buffer[..*count] } else { &[] };
        self.check(received)?;
        read
    }
}

impl<C: AsyncWrite + Unpin> AsyncWrite for Metered<C> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let Self { socket, sent, is_over, .. } = &mut *self;
        let written = Pin::new(socket).poll_write(cx, bytes);
        if let Poll::Ready(Ok(count)) = &written {
            sent.read(&bytes[..*count], |tag, _| *is_over |= tag == GO_AWAY);
        }
        written
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        // `yamux` writes one slice at a time.
        let first = slices.iter().find(|slice| !slice.is_empty()).map_or(&[][..], |slice| slice);
        self.poll_write(cx, first)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_close(cx)
    }
}
