//! The payload of answers to our own keys (the original's keys have the original's formats).
//!
//! ```text
//! 01 00 ...            there it is, by key (all numbers big-endian):
//!   headers   u32 first relay, u32 last relay, u32 first para, u32 last para, body
//!   blocks    u32 first, u32 last, body
//!   heights   u8 which are there (1 relay, 2 para, 4 relay target, 8 para target), u32 each, 32 bytes identity
//!   genesis   u32 para id, u32 relay number, 32 bytes relay hash, 32 bytes identity, u32 length of info, info, state
//! 01 01                not yet: wait for the heights to grow
//! 01 02                the provider knows no chain yet
//! 01 03 text           the cursor is not on the chain, and why
//! 01 04 u64            size of the smallest batch, in bytes
//! 01 05                the provider cannot read its data
//! ```
//! The first byte is the version. A batch without parachain headers has a last number below the first. Bodies
//! are request bodies for a worker and are never decoded on the way: what a caller needs to know about them
//! precedes them, and they are slices of the frame. The identity is the hash of parachain block 1, or zeros
//! while it is unknown.

use bytes::{Buf, BufMut, Bytes};
use prb_core::{
    blob::{BlockBatch, Error, Genesis, HeaderBatch, Heights, Span},
    primitives::{Hash, ParaNumber, RelayNumber},
};

use super::Parts;

/// The version that this code writes, and the only one that it accepts.
pub const VERSION: u8 = 1;

const FOUND: u8 = 0;
const NOT_YET: u8 = 1;
const NOT_READY: u8 = 2;
const BAD_CURSOR: u8 = 3;
const TOO_LARGE: u8 = 4;
const FAILED: u8 = 5;

/// Length of the head before a header batch's body, in bytes.
pub const HEADERS_HEAD_BYTES: usize = 2 + 16;
/// The longest answer apart from a body, in bytes.
pub const MAX_HEAD_BYTES: usize = 1024;
/// The longest reason that is sent, in bytes.
const MAX_REASON_BYTES: usize = 256;

/// Why bytes are not a valid answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Malformed {
    /// An unsupported version.
    #[error("the answer has version {0}, not {VERSION}")]
    Version(u8),
    /// An unknown status.
    #[error("the answer has the unknown status {0}")]
    Status(u8),
    /// The answer is truncated.
    #[error("the answer is cut short")]
    Short,
    /// A status that this kind of answer cannot have, or contradictory numbers.
    #[error("the answer claims {0}")]
    Nonsense(&'static str),
}

/// A provider's answer: the value, `None` if it is not there yet, or a refusal.
pub type Reply<T> = Result<Option<T>, Refused>;

/// Why a provider refuses a request for a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It does not know its chain yet.
    NotReady,
    /// The cursor is not on the chain.
    BadCursor(String),
    /// The smallest batch has this many bytes, more than were allowed.
    TooLarge(usize),
    /// It cannot read its data.
    Failed,
}

/// Heights, and the chain they belong to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Position {
    /// The heights.
    pub heights: Heights,
    /// The chain's identity, if the provider knows it.
    pub identity: Option<Hash>,
}

fn head(status: u8, capacity: usize) -> Vec<u8> {
    let mut head = Vec::with_capacity(2 + capacity);
    head.extend([VERSION, status]);
    head
}

/// Encodes a source's answer to a request for headers.
pub fn headers(answer: Result<Option<HeaderBatch>, Error>) -> Parts {
    match answer {
        Ok(Some(batch)) => {
            let mut head = head(FOUND, 16);
            head.put_u32(batch.relay.first.0);
            head.put_u32(batch.relay.last.0);
            // 1 to 0 is the empty span.
            head.put_u32(batch.para.map_or(1, |span| span.first.0));
            head.put_u32(batch.para.map_or(0, |span| span.last.0));
            Parts { head: head.into(), body: batch.body }
        }
        Ok(None) => Parts::whole(head(NOT_YET, 0).into()),
        Err(e) => refusal(&e),
    }
}

/// Encodes a source's answer to a request for blocks.
pub fn blocks(answer: Result<Option<BlockBatch>, Error>) -> Parts {
    match answer {
        Ok(Some(batch)) => {
            let mut head = head(FOUND, 8);
            head.put_u32(batch.blocks.first.0);
            head.put_u32(batch.blocks.last.0);
            Parts { head: head.into(), body: batch.body }
        }
        Ok(None) => Parts::whole(head(NOT_YET, 0).into()),
        Err(e) => refusal(&e),
    }
}

/// Encodes heights.
pub fn heights(position: &Position) -> Parts {
    let Heights { relay, para, relay_target, para_target } = position.heights;
    let numbers =
        [relay.map(|n| n.0), para.map(|n| n.0), relay_target.map(|n| n.0), para_target.map(|n| n.0)];
    let mut head = head(FOUND, 1 + 16 + 32);
    head.put_u8(numbers.iter().enumerate().map(|(i, n)| u8::from(n.is_some()) << i).sum());
    // A number for each height, also for one that is not there, so that the layout is fixed.
    numbers.iter().for_each(|number| head.put_u32(number.unwrap_or(0)));
    head.put_slice(&position.identity.unwrap_or_default().0);
    Parts::whole(head.into())
}

/// Encodes a source's answer to a request for its genesis.
pub fn genesis(answer: Result<Genesis, Error>) -> Parts {
    match answer {
        Ok(genesis) => {
            let mut head = head(FOUND, 76 + genesis.info.len());
            head.put_u32(genesis.para_id);
            head.put_u32(genesis.relay_number.0);
            head.put_slice(&genesis.relay_hash.0);
            head.put_slice(&genesis.chain_identity.0);
            // Cannot overflow: the info is one header, one authority set and one proof, far below 4 GiB.
            head.put_u32(genesis.info.len() as u32);
            head.put_slice(&genesis.info);
            Parts { head: head.into(), body: genesis.state }
        }
        Err(e) => refusal(&e),
    }
}

fn refusal(e: &Error) -> Parts {
    let mut out;
    match e {
        Error::NotReady => out = head(NOT_READY, 0),
        Error::BadCursor { reason, .. } => {
            out = head(BAD_CURSOR, reason.len());
            let end = (0..=MAX_REASON_BYTES.min(reason.len())).rfind(|i| reason.is_char_boundary(*i));
            out.put_slice(&reason.as_bytes()[..end.unwrap_or(0)]);
        }
        Error::TooLarge { size_bytes, .. } => {
            out = head(TOO_LARGE, 8);
            out.put_u64(*size_bytes as u64);
        }
        // Details of local failures are for our own log, not for peers.
        _ => out = head(FAILED, 0),
    }
    Parts::whole(out.into())
}

/// Decodes version and status; the remaining bytes are the value's.
fn open(bytes: &mut Bytes) -> Result<Reply<()>, Malformed> {
    let version = bytes.try_get_u8().map_err(|_| Malformed::Short)?;
    if version != VERSION {
        return Err(Malformed::Version(version));
    }
    Ok(match bytes.try_get_u8().map_err(|_| Malformed::Short)? {
        FOUND => Ok(Some(())),
        NOT_YET => Ok(None),
        NOT_READY => Err(Refused::NotReady),
        BAD_CURSOR => {
            // Cut again: another implementation may not keep the limit.
            let text = String::from_utf8_lossy(&bytes[..bytes.len().min(MAX_REASON_BYTES)]).into_owned();
            Err(Refused::BadCursor(text))
        }
        TOO_LARGE => {
            let size = bytes.try_get_u64().map_err(|_| Malformed::Short)?;
            Err(Refused::TooLarge(usize::try_from(size).unwrap_or(usize::MAX)))
        }
        FAILED => Err(Refused::Failed),
        other => return Err(Malformed::Status(other)),
    })
}

fn read<T>(
    mut bytes: Bytes,
    found: impl FnOnce(&mut Bytes) -> Result<T, Malformed>,
) -> Result<Reply<T>, Malformed> {
    Ok(match open(&mut bytes)? {
        Ok(Some(())) => Ok(Some(found(&mut bytes)?)),
        Ok(None) => Ok(None),
        Err(refused) => Err(refused),
    })
}

fn u32(bytes: &mut Bytes) -> Result<u32, Malformed> {
    bytes.try_get_u32().map_err(|_| Malformed::Short)
}

fn hash(bytes: &mut Bytes) -> Result<Hash, Malformed> {
    let mut hash = Hash::default();
    bytes.try_copy_to_slice(&mut hash.0).map_err(|_| Malformed::Short)?;
    Ok(hash)
}

/// Decodes an answer to `headers:…`. The body is not checked.
///
/// # Errors
/// [`Malformed`].
pub fn read_headers(bytes: Bytes) -> Result<Reply<HeaderBatch>, Malformed> {
    read(bytes, |bytes| {
        let relay = Span { first: RelayNumber(u32(bytes)?), last: RelayNumber(u32(bytes)?) };
        let para = Span { first: ParaNumber(u32(bytes)?), last: ParaNumber(u32(bytes)?) };
        if relay.first > relay.last {
            return Err(Malformed::Nonsense("that a batch has no relay header"));
        }
        // A last number below the first: no parachain headers.
        let para = (para.first <= para.last).then_some(para);
        Ok(HeaderBatch { relay, para, body: std::mem::take(bytes) })
    })
}

/// Decodes an answer to `blocks:…`. The body is not checked.
///
/// # Errors
/// [`Malformed`].
pub fn read_blocks(bytes: Bytes) -> Result<Reply<BlockBatch>, Malformed> {
    read(bytes, |bytes| {
        let blocks = Span { first: ParaNumber(u32(bytes)?), last: ParaNumber(u32(bytes)?) };
        if blocks.first > blocks.last {
            return Err(Malformed::Nonsense("that a batch has no block"));
        }
        Ok(BlockBatch { blocks, body: std::mem::take(bytes) })
    })
}

/// Decodes an answer to `heights:…`.
///
/// # Errors
/// [`Malformed`].
pub fn read_heights(bytes: Bytes) -> Result<Position, Malformed> {
    let answer = read(bytes, |bytes| {
        let there = bytes.try_get_u8().map_err(|_| Malformed::Short)?;
        // Read even if it is not there, see [`heights`].
        let mut number = |bit: u8| Ok(Some(u32(bytes)?).filter(|_| there & bit != 0));
        let heights = Heights {
            relay: number(1)?.map(RelayNumber),
            para: number(2)?.map(ParaNumber),
            relay_target: number(4)?.map(RelayNumber),
            para_target: number(8)?.map(ParaNumber),
        };
        let identity = Some(hash(bytes)?).filter(|identity| *identity != Hash::default());
        Ok(Position { heights, identity })
    })?;
    answer.ok().flatten().ok_or(Malformed::Nonsense("that there are no heights"))
}

/// Decodes an answer to `genesis`.
///
/// # Errors
/// [`Malformed`].
pub fn read_genesis(bytes: Bytes) -> Result<Reply<Genesis>, Malformed> {
    read(bytes, |bytes| {
        let (para_id, relay_number) = (u32(bytes)?, RelayNumber(u32(bytes)?));
        let (relay_hash, chain_identity) = (hash(bytes)?, hash(bytes)?);
        let info = u32(bytes)? as usize;
        if info > bytes.len() {
            return Err(Malformed::Short);
        }
        let info = bytes.split_to(info);
        let state = std::mem::take(bytes);
        Ok(Genesis { para_id, relay_number, relay_hash, chain_identity, info, state })
    })
}
