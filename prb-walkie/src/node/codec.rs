//! The message codec: a message is everything up to the end of its half of the stream. Sizes are bounded
//! while reading.

use std::{io, sync::Arc};

use bytes::Bytes;
use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::{StreamProtocol, request_response};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Memory that a message may use without a reservation.
const FREE_BYTES: usize = 16 * 1024;
/// Granularity of reservations: a semaphore counts up to `u32::MAX` permits at a time.
const UNIT_BYTES: usize = 1024;

/// A message with its memory reservation.
#[derive(Debug)]
pub(super) struct Frame {
    bytes: Bytes,
    /// For a request: the largest answer that is read.
    answer_limit: usize,
    memory: Vec<OwnedSemaphorePermit>,
    /// Set if a request exceeds this limit; its bytes are not kept.
    oversized: Option<usize>,
}

impl Frame {
    pub(super) const fn new(bytes: Bytes, answer_limit: usize) -> Self {
        Self { bytes, answer_limit, memory: Vec::new(), oversized: None }
    }

    const fn reserved(bytes: Bytes, memory: Vec<OwnedSemaphorePermit>) -> Self {
        Self { bytes, answer_limit: 0, memory, oversized: None }
    }

    /// The limit that it exceeds, if it does.
    pub(super) const fn oversized(&self) -> Option<usize> {
        self.oversized
    }

    pub(super) const fn bytes(&self) -> &Bytes {
        &self.bytes
    }

    pub(super) const fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Returns the message and releases its reservation.
    pub(super) fn into_bytes(self) -> Bytes {
        self.bytes
    }

    /// Returns the message and its reservation, which is released on drop.
    pub(super) fn into_parts(self) -> (Bytes, Vec<OwnedSemaphorePermit>) {
        (self.bytes, self.memory)
    }
}

/// Reads and writes messages of `/pb` and `/blob`.
#[derive(Clone, Debug)]
pub(super) struct Codec {
    request_limit: usize,
    answer_limit: usize,
    memory: Memories,
}

/// Memory for messages in flight. Unsolicited messages (others' requests) have a budget of their own, so that
/// they cannot use up the rest.
#[derive(Clone, Debug)]
pub(super) struct Memories {
    pub(super) requests: Memory,
    pub(super) answers: Memory,
}

impl Memories {
    /// Creates the budgets; an eighth is for others' requests.
    pub(super) fn new(bytes: usize) -> Self {
        Self { requests: Memory::new(bytes / 8), answers: Memory::new(bytes - bytes / 8) }
    }
}

/// Memory shared by all messages in flight.
#[derive(Clone, Debug)]
pub(super) struct Memory {
    free: Arc<Semaphore>,
    units: usize,
}

impl Memory {
    pub(super) fn new(bytes: usize) -> Self {
        let units = (bytes / UNIT_BYTES).min(Semaphore::MAX_PERMITS);
        Self { free: Arc::new(Semaphore::new(units)), units }
    }

    /// Reserves memory at once or fails: waiting for more while holding some could deadlock.
    fn take(&self, bytes: usize) -> io::Result<OwnedSemaphorePermit> {
        let units = u32::try_from(bytes.div_ceil(UNIT_BYTES)).unwrap_or(u32::MAX);
        let full = |_| io::Error::new(io::ErrorKind::OutOfMemory, "too many large messages are in flight");
        Arc::clone(&self.free).try_acquire_many_owned(units).map_err(full)
    }

    /// Waits for memory for a message that is still to be built, at its maximum size. The waiter holds no other
    /// reservation, so that this cannot deadlock.
    pub(super) async fn reserve(&self, bytes: usize) -> Reserve {
        let units = bytes.saturating_sub(FREE_BYTES).div_ceil(UNIT_BYTES).min(self.units);
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        // Cannot fail: the semaphore is never closed.
        Reserve(Arc::clone(&self.free).acquire_many_owned(units).await.ok())
    }

    /// Wraps a message built by this node, with a reservation.
    pub(super) fn frame(&self, bytes: Bytes) -> io::Result<Frame> {
        let memory = match bytes.len() {
            ..=FREE_BYTES => Vec::new(),
            more => vec![self.take(more - FREE_BYTES)?],
        };
        Ok(Frame::reserved(bytes, memory))
    }
}

/// Memory reserved for a message that is still to be built.
#[derive(Debug)]
pub(super) struct Reserve(Option<OwnedSemaphorePermit>);

impl Reserve {
    /// Wraps the message and releases the surplus of the reservation.
    pub(super) fn frame(self, bytes: Bytes) -> Frame {
        let needed = bytes.len().saturating_sub(FREE_BYTES).div_ceil(UNIT_BYTES);
        let memory = match self.0 {
            Some(mut all) if needed > 0 => vec![all.split(needed).unwrap_or(all)],
            _ => Vec::new(),
        };
        Frame::reserved(bytes, memory)
    }
}

/// The error of a message that is too large.
#[derive(Debug, thiserror::Error)]
#[error("a message has more than {limit_bytes} bytes")]
pub(super) struct TooLarge {
    pub(super) limit_bytes: usize,
}

impl Codec {
    pub(super) const fn new(request_limit: usize, answer_limit: usize, memory: Memories) -> Self {
        Self { request_limit, answer_limit, memory }
    }

    async fn read<T: AsyncRead + Unpin + Send>(
        from: &Memory,
        io: &mut T,
        limit_bytes: usize,
    ) -> io::Result<Frame> {
        let mut buffer = Vec::new();
        let mut memory = Vec::new();
        let mut filled = 0;
        loop {
            if filled == buffer.len() {
                // Read one byte beyond the limit, to tell a message of exactly the limit from a larger one.
                let next = (buffer.len() * 2).max(1024).min(limit_bytes + 1);
                if next > FREE_BYTES {
                    memory.push(from.take(next - buffer.len().max(FREE_BYTES))?);
                }
                buffer.resize(next, 0);
            }
            let n = io.read(&mut buffer[filled..]).await?;
            filled += n;
            if filled > limit_bytes {
                return Err(io::Error::new(io::ErrorKind::InvalidData, TooLarge { limit_bytes }));
            }
            if n == 0 {
                buffer.truncate(filled);
                return Ok(Frame::reserved(buffer.into(), memory));
            }
        }
    }
}

impl request_response::Codec for Codec {
    type Protocol = StreamProtocol;
    type Request = Frame;
    type Response = Frame;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Frame>
    where
        T: AsyncRead + Unpin + Send,
    {
        match Self::read(&self.memory.requests, io, self.request_limit).await {
            // The caller gets an error answer; the rest of the stream is left unread.
            Err(e) if e.get_ref().is_some_and(|e| e.is::<TooLarge>()) => {
                Ok(Frame { oversized: Some(self.request_limit), ..Frame::new(Bytes::new(), 0) })
            }
            result => result,
        }
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Frame>
    where
        T: AsyncRead + Unpin + Send,
    {
        Self::read(&self.memory.answers, io, self.answer_limit).await
    }

    async fn write_request<T>(&mut self, _: &StreamProtocol, io: &mut T, request: Frame) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        // Each stream has a codec of its own, so this limit applies to the answer of this request only.
        self.answer_limit = self.answer_limit.min(request.answer_limit);
        io.write_all(&request.bytes).await
    }

    async fn write_response<T>(&mut self, _: &StreamProtocol, io: &mut T, response: Frame) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        io.write_all(&response.bytes).await
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use futures::io::Cursor;

    use super::*;

    #[tokio::test]
    async fn message_at_the_limit_is_read_and_a_larger_one_refused() {
        for limit in [1, 1024, FREE_BYTES, 100_000] {
            let memory = Memory::new(1 << 20);
            let frame = Codec::read(&memory, &mut Cursor::new(vec![7; limit]), limit).await.unwrap();
            assert_eq!(frame.into_bytes(), vec![7; limit]);
            let error = Codec::read(&memory, &mut Cursor::new(vec![7; limit + 1]), limit).await.unwrap_err();
            assert!(error.get_ref().unwrap().is::<TooLarge>(), "{error}");
        }
    }

    #[test]
    fn requests_of_others_leave_memory_for_answers() {
        let memories = Memories::new(800 * 1024);
        let flood = memories.requests.take(100 * 1024).unwrap();
        assert!(memories.requests.take(1).is_err());
        assert!(memories.answers.take(700 * 1024).is_ok());
        drop(flood);
    }

    #[tokio::test]
    async fn reservation_releases_its_surplus() {
        let memory = Memory::new(128 * 1024);
        let left = || memory.free.available_permits();
        for (reserved, message, taken) in [
            (100_000, 50_000, 33),
            (100_000, 10, 0),
            (10, 10, 0),
            (100_000, 0, 0),
            (50_000, 60_000, 33),
            (1 << 40, 9, 0),
        ] {
            let frame = memory.reserve(reserved).await.frame(vec![7; message].into());
            assert_eq!(left(), 128 - taken, "{reserved} {message}");
            drop(frame);
            assert_eq!(left(), 128);
        }
        let most = memory.reserve(100_000).await;
        let mut next = std::pin::pin!(memory.reserve(100_000));
        assert!(futures::poll!(&mut next).is_pending());
        drop(most);
        assert!(futures::poll!(&mut next).is_ready());
    }

    #[tokio::test]
    async fn memory_stays_reserved_while_messages_live() {
        let memory = Memory::new(128 * 1024);
        let read = || async { Codec::read(&memory, &mut Cursor::new(vec![7; 100_000]), 1 << 20).await };
        let first = read().await.unwrap();
        assert_eq!(read().await.unwrap_err().kind(), io::ErrorKind::OutOfMemory);
        // Small messages always fit.
        Codec::read(&memory, &mut Cursor::new(vec![7; 1000]), 1 << 20).await.unwrap();
        drop(first);
        let (bytes, held) = read().await.unwrap().into_parts();
        drop(bytes);
        assert!(read().await.is_err());
        drop(held);
        read().await.unwrap();
        // A failed read has released its share.
        assert_eq!(memory.free.available_permits(), 128);
    }
}
