//! Frames of the blob wire: how requests and answers lie on a TCP stream.
//!
//! ```text
//! frame     LEB128 length, then so many bytes of body; both directions
//! request   0d 0102030405060708 "hello"                           8-byte id, UTF-8 key
//! answer    1b 0102030405060708 00000000c99465aa "hello world"    id, CRC-32C as 8 bytes big-endian, payload
//! missing   08 0102030405060708                                   id alone: no such blob, or an empty one
//! ```
//!
//! A frame of length 0 means nothing; so does a request of fewer than 9 bytes. Answers come in any order. The
//! bytes are the original bridge's, which has no limit on lengths: every decoder here has one.
//!
//! Not for: what keys and payloads mean (see [`keys`](super::keys) and [`answer`](super::answer)).

use std::ops::Range;

/// Bytes of a request's id; the peer that asks chooses them.
pub const ID_BYTES: usize = 8;
/// Bytes of the checksum: 4 zeros, and CRC-32C of the payload, big-endian.
pub const CRC_BYTES: usize = 8;
/// Bytes of an answer before its payload.
pub const ANSWER_HEAD_BYTES: usize = ID_BYTES + CRC_BYTES;
/// Bytes that a length may take: enough for 2^35, and every limit is lower.
const MAX_LENGTH_BYTES: usize = 5;

/// A request's id.
pub type Id = [u8; ID_BYTES];

/// Why bytes are no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The frame is longer than the reader takes.
    #[error("a frame claims {claimed} bytes, more than the {limit} allowed")]
    TooLong {
        /// What the length says.
        claimed: u64,
        /// What is allowed.
        limit: usize,
    },
    /// The length does not end.
    #[error("a frame's length has more than {MAX_LENGTH_BYTES} bytes")]
    BadLength,
    /// An answer has an id and only a part of a checksum.
    #[error("an answer has {bytes} bytes, which is neither with a blob nor without")]
    BadAnswer {
        /// Its length.
        bytes: usize,
    },
    /// The payload is not what the checksum was made of.
    #[error("the checksum is {expected:#x}, that of the bytes that came {found:#x}")]
    Crc {
        /// What the frame says.
        expected: u64,
        /// CRC-32C of its payload.
        found: u32,
    },
}

/// What the bytes at the start of a buffer are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decoded {
    /// The length is not whole yet.
    NoLength,
    /// A frame whose body lies at `body`; its end may not be there yet.
    Frame {
        /// Where the body lies, from the start of the buffer.
        body: Range<usize>,
    },
}

/// Reads the length of the frame that `bytes` begin with. Reads no further: a caller can refuse a frame, or
/// make room for it, before its body is there. Frames of length 0 are frames.
///
/// # Errors
/// [`Error::BadLength`], or [`Error::TooLong`] where it is over `limit` bytes.
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

/// Reads a request's body. `None` where it is to be ignored: too short. What is not UTF-8 is the empty key,
/// which has no blob.
pub fn request(body: &[u8]) -> Option<(Id, &str)> {
    let (id, key) = body.split_first_chunk()?;
    (!key.is_empty()).then(|| (*id, std::str::from_utf8(key).unwrap_or_default().trim()))
}

/// Reads the head of an answer's body of `length` bytes: the checksum, or `None` where there is no blob.
/// `head` is what follows the id.
///
/// # Errors
/// [`Error::BadAnswer`].
pub fn answer_crc(head: &[u8], length: usize) -> Result<Option<u64>, Error> {
    if length == ID_BYTES {
        return Ok(None);
    }
    // An answer of checksum alone would be an empty blob, which is sent as a missing one.
    match head.first_chunk().filter(|_| length > ANSWER_HEAD_BYTES) {
        Some(crc) => Ok(Some(u64::from_be_bytes(*crc))),
        None => Err(Error::BadAnswer { bytes: length }),
    }
}

/// Checks a payload against the checksum that came with it.
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

/// What an answer begins with: everything but the payload.
#[derive(Clone, Copy, Debug)]
pub struct AnswerHead {
    bytes: [u8; MAX_LENGTH_BYTES + ANSWER_HEAD_BYTES],
    len: usize,
}

impl AnswerHead {
    /// The whole answer where there is no blob.
    pub fn missing(id: Id) -> Self {
        let mut head = Self { bytes: [0; _], len: 0 };
        head.put_length(ID_BYTES);
        head.put(&id);
        head
    }

    /// The head before a payload, which must not be empty, and whose checksum is `crc`.
    pub fn found(id: Id, payload_bytes: usize, crc: u32) -> Self {
        let mut head = Self { bytes: [0; _], len: 0 };
        head.put_length(ANSWER_HEAD_BYTES + payload_bytes);
        head.put(&id);
        head.put(&u64::from(crc).to_be_bytes());
        head
    }

    /// The bytes.
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

/// Appends a whole answer; `None` and empty payloads as a missing blob.
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
