//! Frames of the blob wire format: how requests and answers are encoded on a TCP stream.
//!
//! ```text
//! frame     length as LEB128, then the body; both directions
//! request   0d 0102030405060708 "hello"                           8-byte id, UTF-8 key
//! answer    1b 0102030405060708 00000000c99465aa "hello world"    id, CRC-32C as 8 bytes big-endian, payload
//! missing   08 0102030405060708                                   id alone: no such blob, or an empty one
//! ```
//! A frame of length 0 is ignored, as is a request of fewer than 9 bytes. Answers may come in any order. The
//! format is the original bridge's, which does not limit lengths; every decoder here does.
//!
//! Not for: the meaning of keys and payloads (see [`keys`](super::keys) and [`answer`](super::answer)).

use std::ops::Range;

/// Length of a request's id, in bytes; the requester chooses it.
pub const ID_BYTES: usize = 8;
/// Length of the checksum field, in bytes: 4 zeros, then the payload's CRC-32C, big-endian.
pub const CRC_BYTES: usize = 8;
/// Length of an answer's head before its payload, in bytes.
pub const ANSWER_HEAD_BYTES: usize = ID_BYTES + CRC_BYTES;
/// Longest encoded length, in bytes: enough for 2^35, above every limit.
const MAX_LENGTH_BYTES: usize = 5;

/// A request's id.
pub type Id = [u8; ID_BYTES];

/// Why bytes are not a valid frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The frame is longer than the reader accepts.
    #[error("a frame claims {claimed} bytes, more than the {limit} allowed")]
    TooLong {
        /// The length that the frame claims.
        claimed: u64,
        /// The limit.
        limit: usize,
    },
    /// The varint of the length does not end.
    #[error("a frame's length has more than {MAX_LENGTH_BYTES} bytes")]
    BadLength,
    /// The answer has an id and only part of a checksum.
    #[error("an answer has {bytes} bytes, which is neither with a blob nor without")]
    BadAnswer {
        /// Its length.
        bytes: usize,
    },
    /// The payload does not match its checksum.
    #[error("the frame's checksum is {expected:#x}, but its payload's is {found:#x}")]
    Crc {
        /// The frame's checksum.
        expected: u64,
        /// CRC-32C of the payload.
        found: u32,
    },
}

/// What a buffer starts with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// The length is incomplete.
    NoLength,
    /// A frame whose body is at `body`; the buffer may not hold all of it yet.
    Frame {
        /// The position of the body, from the start of the buffer.
        body: Range<usize>,
    },
}

/// Decodes the length of the frame at the start of `bytes`, and nothing else: a caller can refuse a frame, or
/// make room for it, before its body has arrived. Frames of length 0 are returned too.
///
/// # Errors
/// [`Error::BadLength`], or [`Error::TooLong`] if it exceeds `limit` bytes.
pub fn decode(bytes: &[u8], limit: usize) -> Result<Decoded, Error> {
    let mut length = 0u64;
    for (i, byte) in bytes.iter().take(MAX_LENGTH_BYTES).enumerate() {
        length |= u64::from(byte & 0x7f) << (7 * i);
        if byte & 0x80 == 0 {
            let fits = usize::try_from(length).ok().filter(|length| *length <= limit);
            let length = fits.ok_or(Error::TooLong { claimed: length, limit })?;
            return Ok(Decoded::Frame { body: i + 1..i + 1 + length });
        }
    }
    if bytes.len() < MAX_LENGTH_BYTES { Ok(Decoded::NoLength) } else { Err(Error::BadLength) }
}

/// Decodes a request's body. `None` if it is too short, which is ignored. A key that is not UTF-8 becomes the
/// empty key, which has no blob.
pub fn request(body: &[u8]) -> Option<(Id, &str)> {
    let (id, key) = body.split_first_chunk()?;
    (!key.is_empty()).then(|| (*id, std::str::from_utf8(key).unwrap_or_default().trim()))
}

/// Decodes the head of an answer whose body has `length` bytes: the checksum, or `None` if there is no blob.
/// `head` is what follows the id.
///
/// # Errors
/// [`Error::BadAnswer`].
pub fn answer_crc(head: &[u8], length: usize) -> Result<Option<u64>, Error> {
    if length == ID_BYTES {
        return Ok(None);
    }
    // A checksum without a payload would be an empty blob, which the original sends as a missing one.
    match head.first_chunk().filter(|_| length > ANSWER_HEAD_BYTES) {
        Some(crc) => Ok(Some(u64::from_be_bytes(*crc))),
        None => Err(Error::BadAnswer { bytes: length }),
    }
}

/// Checks a payload against its checksum.
///
/// # Errors
/// [`Error::Crc`].
pub fn check_crc(expected: u64, payload: &[u8]) -> Result<(), Error> {
    let found = crc32c::crc32c(payload);
    if u64::from(found) == expected { Ok(()) } else { Err(Error::Crc { expected, found }) }
}

/// Appends a request.
pub fn put_request(id: Id, key: &str, into: &mut Vec<u8>) {
    put_length(ID_BYTES + key.len(), into);
    into.extend_from_slice(&id);
    into.extend_from_slice(key.as_bytes());
}

/// The head of an answer: everything before the payload.
#[derive(Clone, Copy, Debug)]
pub struct AnswerHead {
    bytes: [u8; MAX_LENGTH_BYTES + ANSWER_HEAD_BYTES],
    len: usize,
}

impl AnswerHead {
    /// The complete answer for a missing blob.
    pub fn missing(id: Id) -> Self {
        let mut head = Self { bytes: [0; _], len: 0 };
        head.put_length(ID_BYTES);
        head.put(&id);
        head
    }

    /// The head before a payload, which must not be empty; `crc` is its CRC-32C.
    pub fn found(id: Id, payload_bytes: usize, crc: u32) -> Self {
        let mut head = Self { bytes: [0; _], len: 0 };
        head.put_length(ANSWER_HEAD_BYTES + payload_bytes);
        head.put(&id);
        head.put(&u64::from(crc).to_be_bytes());
        head
    }

    /// The encoded head.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }

    fn put(&mut self, bytes: &[u8]) {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    fn put_length(&mut self, length: usize) {
        length_bytes(length, |byte| self.put(&[byte]));
    }
}

/// Appends a complete answer; `None` and empty payloads are encoded as a missing blob.
pub fn put_answer(id: Id, payload: Option<&[u8]>, into: &mut Vec<u8>) {
    match payload.filter(|payload| !payload.is_empty()) {
        None => into.extend_from_slice(AnswerHead::missing(id).as_bytes()),
        Some(payload) => {
            let head = AnswerHead::found(id, payload.len(), crc32c::crc32c(payload));
            into.extend_from_slice(head.as_bytes());
            into.extend_from_slice(payload);
        }
    }
}

fn put_length(length: usize, into: &mut Vec<u8>) {
    length_bytes(length, |byte| into.push(byte));
}

fn length_bytes(mut length: usize, mut put: impl FnMut(u8)) {
    while length >= 0x80 {
        put(length as u8 | 0x80);
        length >>= 7;
    }
    put(length as u8);
}
