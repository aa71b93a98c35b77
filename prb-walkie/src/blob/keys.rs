//! The key space: textual keys of blobs.
//!
//! Keys of the original bridge and their blobs (`a` to `b` are parachain headers, -1 for none):
//!
//! | key | blob |
//! |---|---|
//! | `genesis:{paraId}:pb` | protobuf `Genesis` |
//! | `rangeByParentBlock:{n}:pb` | protobuf `RangeMeta` of the ranges from relay block n on |
//! | `drySyncHeader:{pa}:{pb}:{a}:{b}` | SCALE `SyncCombinedHeadersReq`: relay headers to the next justified one |
//! | `blobRange:{pa}:{pb}:{a}:{b}:SyncHeaderReq` | the same to the end of the authority set |
//! | `rangeParaBlock:key:{n}` | JSON `{bufferKey?, firstBlockNumber, lastBlockNumber}` |
//! | `dryParaBlock:{n}` | SCALE `Vec<BlockHeaderWithChanges>` of one block |
//! | `rangeParaBlock:buffer:{n}` | the same, of several |
//!
//! Our keys ask by cursor, as [`BlobSource`](prb_core::blob::BlobSource) does; [`answer`](super::answer)
//! defines their blobs:
//!
//! | key | asks for |
//! |---|---|
//! | `genesis` | what a worker starts from |
//! | `heights:{relay}:{para}:{wait_ms}` | the heights, once they are above these (-1: none), or after the wait; at once over `/blob` and `GetBlobByKey` |
//! | `headers:{relay}:{para}:{max_bytes}` | the next header batch |
//! | `blocks:{from}:{to}:{max_bytes}` | the next blocks |
//!
//! Parsing is strict: decimal numbers without sign or leading zeros, and no surrounding space. So each key
//! has exactly one spelling, and caches may compare the text.

use std::borrow::Cow;
use std::{fmt, str::Split};

use prb_core::{
    blob::{BlockCursor, HeaderCursor, Span},
    primitives::{ParaNumber, RelayNumber},
};

/// The longest key that is accepted, in bytes. The longest valid one has under 80.
pub const MAX_KEY_BYTES: usize = 256;

/// Relay headers and the parachain headers with them, as in the original's keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct HeaderRange {
    /// First relay header.
    pub relay_first: RelayNumber,
    /// Last relay header.
    pub relay_last: RelayNumber,
    /// First and last parachain header, if any.
    pub para: Option<(ParaNumber, ParaNumber)>,
}

impl HeaderRange {
    /// Creates the range of two spans.
    pub fn of(relay: Span<RelayNumber>, para: Option<Span<ParaNumber>>) -> Self {
        Self {
            relay_first: relay.first,
            relay_last: relay.last,
            para: para.map(|span| (span.first, span.last)),
        }
    }
}

/// A key. `Display` writes what [`parse`](Self::parse) reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Key {
    /// The original's genesis of a parachain.
    OriginalGenesis {
        /// The parachain's id.
        para_id: u32,
    },
    /// The ranges from a relay block on.
    RangeByParentBlock(RelayNumber),
    /// Headers to the next justified one.
    DrySyncHeader(HeaderRange),
    /// Headers to the end of the authority set.
    BlobRange(HeaderRange),
    /// The number of blocks available at once from this one on.
    RangeParaBlockKey(ParaNumber),
    /// One block.
    DryParaBlock(ParaNumber),
    /// Several blocks.
    RangeParaBlockBuffer(ParaNumber),
    /// What a worker is initialised with.
    Genesis,
    /// Heights above these.
    Heights {
        /// The relay height that the requester knows.
        relay: Option<RelayNumber>,
        /// The parachain height that the requester knows.
        para: Option<ParaNumber>,
        /// How long the answer may be delayed, in ms.
        wait_ms: u32,
    },
    /// The next header batch.
    Headers {
        /// Where the batch starts.
        cursor: HeaderCursor,
        /// The maximum size of its body, in bytes.
        max_bytes: u32,
    },
    /// The next blocks.
    Blocks {
        /// The blocks.
        cursor: BlockCursor,
        /// The maximum size of their body, in bytes.
        max_bytes: u32,
    },
}

/// Strips the waiting time from a key, where an answer may not be delayed: of a peer's call, which would occupy a call
/// slot that others need, and of a connection to the blob server that waits for enough answers.
pub(crate) fn without_wait(key: &str) -> Cow<'_, str> {
    match Key::parse(key) {
        Some(Key::Heights { relay, para, wait_ms: 1.. }) => {
            Cow::Owned(Key::Heights { relay, para, wait_ms: 0 }.to_string())
        }
        _ => Cow::Borrowed(key),
    }
}

impl Key {
    /// Parses a key; `None` if it is invalid.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() > MAX_KEY_BYTES {
            return None;
        }
        let mut parts = Parts(text.split(':'));
        let key = match parts.word()? {
            "genesis" => match parts.0.next() {
                None => Self::Genesis,
                Some(id) => parts.end_with("pb", Self::OriginalGenesis { para_id: number(id)? })?,
            },
            "rangeByParentBlock" => {
                let from = RelayNumber(parts.number()?);
                parts.end_with("pb", Self::RangeByParentBlock(from))?
            }
            "drySyncHeader" => Self::DrySyncHeader(parts.header_range()?),
            "blobRange" => {
                let range = parts.header_range()?;
                parts.end_with("SyncHeaderReq", Self::BlobRange(range))?
            }
            "rangeParaBlock" => match parts.word()? {
                "key" => Self::RangeParaBlockKey(ParaNumber(parts.number()?)),
                "buffer" => Self::RangeParaBlockBuffer(ParaNumber(parts.number()?)),
                _ => return None,
            },
            "dryParaBlock" => Self::DryParaBlock(ParaNumber(parts.number()?)),
            "heights" => Self::Heights {
                relay: parts.optional()?.map(RelayNumber),
                para: parts.optional()?.map(ParaNumber),
                wait_ms: parts.number()?,
            },
            "headers" => Self::Headers {
                cursor: HeaderCursor {
                    relay: RelayNumber(parts.number()?),
                    para: ParaNumber(parts.number()?),
                },
                max_bytes: parts.number()?,
            },
            "blocks" => Self::Blocks {
                cursor: BlockCursor { from: ParaNumber(parts.number()?), to: ParaNumber(parts.number()?) },
                max_bytes: parts.number()?,
            },
            _ => return None,
        };
        parts.0.next().is_none().then_some(key)
    }
}

/// The parts between colons.
struct Parts<'a>(Split<'a, char>);

impl<'a> Parts<'a> {
    fn word(&mut self) -> Option<&'a str> {
        self.0.next()
    }

    fn number(&mut self) -> Option<u32> {
        number(self.word()?)
    }

    /// Parses a number, or -1 for `None`.
    fn optional(&mut self) -> Option<Option<u32>> {
        match self.word()? {
            "-1" => Some(None),
            text => number(text).map(Some),
        }
    }

    fn header_range(&mut self) -> Option<HeaderRange> {
        let (relay_first, relay_last) = (RelayNumber(self.number()?), RelayNumber(self.number()?));
        let para = match (self.optional()?, self.optional()?) {
            (None, None) => None,
            (Some(first), Some(last)) if first <= last => Some((ParaNumber(first), ParaNumber(last))),
            _ => return None,
        };
        (relay_first <= relay_last).then_some(HeaderRange { relay_first, relay_last, para })
    }

    fn end_with(&mut self, word: &str, key: Key) -> Option<Key> {
        (self.word()? == word).then_some(key)
    }
}

fn number(text: &str) -> Option<u32> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    // `u32::from_str` accepts a plus sign; two spellings of one number would be two keys.
    let plain = digits && (text.len() == 1 || !text.starts_with('0'));
    plain.then(|| text.parse().ok()).flatten()
}

/// Displays `n`, or -1.
struct OrNone(Option<u32>);

impl fmt::Display for OrNone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(number) => number.fmt(f),
            None => f.write_str("-1"),
        }
    }
}

impl fmt::Display for HeaderRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let first = OrNone(self.para.map(|(first, _)| first.0));
        let last = OrNone(self.para.map(|(_, last)| last.0));
        write!(f, "{}:{}:{first}:{last}", self.relay_first, self.relay_last)
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OriginalGenesis { para_id } => write!(f, "genesis:{para_id}:pb"),
            Self::RangeByParentBlock(from) => write!(f, "rangeByParentBlock:{from}:pb"),
            Self::DrySyncHeader(range) => write!(f, "drySyncHeader:{range}"),
            Self::BlobRange(range) => write!(f, "blobRange:{range}:SyncHeaderReq"),
            Self::RangeParaBlockKey(number) => write!(f, "rangeParaBlock:key:{number}"),
            Self::DryParaBlock(number) => write!(f, "dryParaBlock:{number}"),
            Self::RangeParaBlockBuffer(number) => write!(f, "rangeParaBlock:buffer:{number}"),
            Self::Genesis => f.write_str("genesis"),
            Self::Heights { relay, para, wait_ms } => {
                let (relay, para) = (OrNone(relay.map(|n| n.0)), OrNone(para.map(|n| n.0)));
                write!(f, "heights:{relay}:{para}:{wait_ms}")
            }
            Self::Headers { cursor: HeaderCursor { relay, para }, max_bytes } => {
                write!(f, "headers:{relay}:{para}:{max_bytes}")
            }
            Self::Blocks { cursor: BlockCursor { from, to }, max_bytes } => {
                write!(f, "blocks:{from}:{to}:{max_bytes}")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn original_keys_are_parsed() {
        let range = |relay_first, relay_last, para| HeaderRange {
            relay_first: RelayNumber(relay_first),
            relay_last: RelayNumber(relay_last),
            para,
        };
        let para = Some((ParaNumber(7), ParaNumber(9)));
        for (text, key) in [
            ("genesis:2004:pb", Key::OriginalGenesis { para_id: 2004 }),
            ("rangeByParentBlock:8325312:pb", Key::RangeByParentBlock(RelayNumber(8_325_312))),
            ("drySyncHeader:10:20:7:9", Key::DrySyncHeader(range(10, 20, para))),
            ("drySyncHeader:10:10:-1:-1", Key::DrySyncHeader(range(10, 10, None))),
            ("blobRange:10:20:7:9:SyncHeaderReq", Key::BlobRange(range(10, 20, para))),
            ("rangeParaBlock:key:1", Key::RangeParaBlockKey(ParaNumber(1))),
            ("rangeParaBlock:buffer:0", Key::RangeParaBlockBuffer(ParaNumber(0))),
            ("dryParaBlock:4294967295", Key::DryParaBlock(ParaNumber(u32::MAX))),
        ] {
            assert_eq!(Key::parse(text), Some(key), "{text}");
            assert_eq!(key.to_string(), text);
        }
    }

    #[test]
    fn invalid_keys_are_rejected() {
        let long = format!("dryParaBlock:{}", "1".repeat(300));
        for text in [
            "",
            ":",
            "genesis:",
            "genesis:2004",
            "genesis:2004:pb:",
            "genesis:2004:pbx",
            "Genesis",
            "genesis ",
            "dryParaBlock:",
            "dryParaBlock:+1",
            "dryParaBlock:01",
            "dryParaBlock:-1",
            "dryParaBlock:4294967296",
            "dryParaBlock:1:2",
            "dryParaBlock:٣",
            "drySyncHeader:2:1:-1:-1",
            "drySyncHeader:1:2:-1:3",
            "drySyncHeader:1:2:4:3",
            "drySyncHeader:1:2:3",
            "blobRange:1:2:3:4",
            "blobRange:1:2:3:4:x",
            "rangeParaBlock:1",
            "rangeParaBlock:mark:1",
            "heights:1:2",
            "heights:-2:1:0",
            "headers:1:2",
            "headers:1:-1:5",
            "blocks:1:2:3:4",
            "rangeByParentBlock:1",
            "rangeByParaBlock:1:pb",
            &long,
        ] {
            assert_eq!(Key::parse(text), None, "{text:?}");
        }
    }
}
