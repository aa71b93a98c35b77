//! One connection: writes requests and reads answers.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::tcp::{ReadHalf, WriteHalf},
    task::yield_now,
    time::{Duration, timeout},
};

use super::{Error, Shared, pending::PendingRequest};
use crate::blob::{
    frame::{self, ANSWER_HEAD_BYTES, Decoded, ID_BYTES},
    quick_ack,
};

/// Read buffer for small answers that arrive together.
const READ_BYTES: usize = 64 * 1024;
/// The largest payload that is copied out of the read buffer. Larger ones are read straight into their own
/// buffer.
const SMALL_BYTES: usize = 16 * 1024;
/// Bytes after which the reader yields to the requesters: they use the data while it is in the cache, return
/// their buffers, and send new requests before the provider runs idle.
const TURN_BYTES: usize = 256 * 1024;
/// Upper bound of any frame; the length is checked against the request's limit once the id is read.
const MAX_FRAME_BYTES: usize = u32::MAX as usize;
/// How long a provider may accept no requests before it counts as gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);

/// Writes queued requests in batches, until writing fails.
pub(super) async fn write(shared: &Shared, mut socket: WriteHalf<'_>) -> Error {
    let mut batch = Vec::new();
    loop {
        batch.clear();
        batch = shared.pending.take_unwritten(batch);
        if batch.is_empty() {
            shared.written.notified().await;
            continue;
        }
        match timeout(WRITE_TIMEOUT, socket.write_all(&batch)).await {
            Ok(Ok(())) => {}
            Ok(Err(e)) => return shared.disconnected_error(e),
            Err(_) => return shared.disconnected_error("it accepts no requests"),
        }
    }
}

/// Reads answers until reading fails.
pub(super) async fn read(shared: &Shared, socket: ReadHalf<'_>) -> Error {
    let mut reader = Reader { shared, socket, buffer: BytesMut::with_capacity(READ_BYTES), read_bytes: 0 };
    loop {
        if let Err(error) = reader.read_answer().await {
            return error;
        }
        if reader.read_bytes >= TURN_BYTES {
            reader.read_bytes = 0;
            yield_now().await;
        }
    }
}

struct Reader<'s> {
    shared: &'s Shared,
    socket: ReadHalf<'s>,
    buffer: BytesMut,
    /// Bytes read since the last yield.
    read_bytes: usize,
}

impl Reader<'_> {
    /// Reads one answer and passes it to its requester.
    async fn read_answer(&mut self) -> Result<(), Error> {
        let (start, length) = self.length().await?;
        // Ignored, see [`frame`].
        if length == 0 {
            self.buffer.advance(start);
            return Ok(());
        }
        // An answer is never shorter than its id.
        if length < ID_BYTES {
            return Err(self.shared.bad_bytes_error(frame::Error::BadAnswer { bytes: length }));
        }
        let head_bytes = length.min(ANSWER_HEAD_BYTES);
        self.fill(start + head_bytes).await?;
        let mut id = [0; ID_BYTES];
        id.copy_from_slice(&self.buffer[start..start + ID_BYTES]);
        let crc = frame::answer_crc(&self.buffer[start + ID_BYTES..start + head_bytes], length);
        self.buffer.advance(start + head_bytes);
        let crc = crc.map_err(|e| self.shared.bad_bytes_error(e))?;
        let Some(request) = self.shared.pending.take(id) else {
            return Err(self.shared.bad_bytes_error("an answer without a request"));
        };
        let Some(crc) = crc else {
            request.deliver(Ok(None));
            return Ok(());
        };
        let payload_bytes = length - ANSWER_HEAD_BYTES;
        if payload_bytes > request.max_bytes {
            let (claimed, limit) = (payload_bytes as u64, request.max_bytes);
            let error = self.shared.bad_bytes_error(frame::Error::TooLong { claimed, limit });
            request.deliver(Err(error.clone()));
            return Err(error);
        }
        self.deliver(request, payload_bytes, crc).await
    }

    async fn deliver(
        &mut self,
        request: PendingRequest,
        payload_bytes: usize,
        crc: u64,
    ) -> Result<(), Error> {
        let payload = match self.payload(payload_bytes, &request).await {
            Ok(payload) => payload,
            Err(error) => {
                request.deliver(Err(error.clone()));
                return Err(error);
            }
        };
        let (payload, found) = payload;
        // The checksum is eight bytes on the wire, see [`frame`], of which CRC-32C uses four.
        // The frame has been read whole, so the stream stays in sync whatever is wrong within the frame.
        request.deliver(if u64::from(found) == crc {
            Ok(payload)
        } else {
            Err(self.shared.bad_bytes_error(frame::Error::Crc { expected: crc, found }))
        });
        Ok(())
    }

    /// Reads a payload and its checksum; skips the payload if nobody waits for it.
    async fn payload(
        &mut self,
        bytes: usize,
        request: &PendingRequest,
    ) -> Result<(Option<Bytes>, u32), Error> {
        if bytes <= SMALL_BYTES {
            self.fill(bytes).await?;
            // Copied, because a slice would keep the whole read buffer alive.
            let payload = Bytes::copy_from_slice(&self.buffer[..bytes]);
            self.buffer.advance(bytes);
            let crc = crc32c::crc32c(&payload);
            return Ok((Some(payload), crc));
        }
        let already = bytes.min(self.buffer.len());
        if request.is_abandoned() {
            self.skip(bytes).await?;
            return Ok((None, 0));
        }
        let mut payload = self.shared.buffers.take(bytes);
        payload.extend_from_slice(&self.buffer[..already]);
        self.buffer.advance(already);
        let mut crc = crc32c::crc32c(&payload);
        while payload.len() < bytes {
            let start = payload.len();
            let mut rest = (&mut payload).limit(bytes - start);
            let read = self.socket.read_buf(&mut rest).await;
            self.after_read(read)?;
            // Checksum each chunk while it is in the cache.
            crc = crc32c::crc32c_append(crc, &payload[start..]);
        }
        Ok((Some(self.shared.buffers.share(payload)), crc))
    }

    /// Discards this many bytes.
    async fn skip(&mut self, mut bytes: usize) -> Result<(), Error> {
        while bytes > 0 {
            if self.buffer.is_empty() {
                self.fill(1).await?;
            }
            let step = bytes.min(self.buffer.len());
            self.buffer.advance(step);
            bytes -= step;
        }
        Ok(())
    }

    /// Returns where a frame's body starts in the buffer, and its length.
    async fn length(&mut self) -> Result<(usize, usize), Error> {
        loop {
            match frame::decode(&self.buffer, MAX_FRAME_BYTES).map_err(|e| self.shared.bad_bytes_error(e))? {
                Decoded::Frame { body } => return Ok((body.start, body.len())),
                Decoded::NoLength => self.fill(self.buffer.len() + 1).await?,
            }
        }
    }

    /// Reads until the buffer has this many bytes.
    async fn fill(&mut self, bytes: usize) -> Result<(), Error> {
        while self.buffer.len() < bytes {
            // `reserve` moves the remaining bytes to the front if the capacity behind them is too small.
            self.buffer.reserve(SMALL_BYTES.max(bytes - self.buffer.len()));
            let read = self.socket.read_buf(&mut self.buffer).await;
            self.after_read(read)?;
        }
        Ok(())
    }

    fn after_read(&mut self, read: std::io::Result<usize>) -> Result<(), Error> {
        match read {
            Ok(0) => Err(self.shared.disconnected_error("it closed the connection")),
            Ok(bytes) => {
                self.read_bytes += bytes;
                quick_ack::acknowledge(self.socket.as_ref());
                self.shared.note_read();
                Ok(())
            }
            Err(e) => Err(self.shared.disconnected_error(e)),
        }
    }
}
