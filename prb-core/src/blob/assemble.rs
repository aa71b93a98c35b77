//! Assembly of batches from encoded pieces, shared by every [`BlobSource`](super::BlobSource) that stores
//! blocks.
//!
//! A [`ChainPieces`] provides the encoded pieces of a chain at one moment. [`headers`] and [`blocks`] choose the
//! largest run that pRuntime's rules and the byte limit permit, and write the request body by copying each
//! piece once into one allocation.
//!
//! Not for: verification; the pieces are trusted.

use bytes::Bytes;
use codec::{Compact, CompactLen, Decode, Encode};
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};

use super::{
    BlockBatch, BlockCursor, Error, HeaderBatch, HeaderCursor, Span,
    range::{Range, Ranges},
};
use crate::primitives::{ParaNumber, RelayNumber};

mod pieces;

pub use pieces::{BatchEnd, ChainPieces};

/// Consecutive encoded items, with their cumulative sizes.
struct Run<'a> {
    items: Vec<&'a [u8]>,
    ends: Vec<usize>,
    limit: usize,
}

impl<'a> Run<'a> {
    const fn new(limit: usize) -> Self {
        Self { items: Vec::new(), ends: Vec::new(), limit }
    }

    /// Adds an item; returns false once the run exceeds its byte limit.
    fn push(&mut self, item: &'a [u8]) -> bool {
        let end = self.bytes(self.items.len()) + item.len();
        // The item that exceeds the limit is kept: it gives `cut_before` a lower bound of the size.
        self.items.push(item);
        self.ends.push(end);
        end <= self.limit
    }

    /// If the run ended before `count` items because of the limit, returns its size, which exceeds the limit.
    fn cut_before(&self, count: usize) -> Option<usize> {
        let bytes = self.bytes(self.items.len());
        (count > self.items.len() && bytes > self.limit).then_some(bytes)
    }

    /// Size of the first `count` items, in bytes.
    fn bytes(&self, count: usize) -> usize {
        count.checked_sub(1).map_or(0, |last| self.ends[last])
    }
}

fn storage(e: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Storage(e.into())
}

/// Returns the largest header batch at the cursor: see [`BlobSource::headers`](super::BlobSource::headers).
///
/// # Errors
/// [`Error::BadCursor`], [`Error::TooLarge`]; [`Error::Storage`] if the pieces cannot be read.
pub fn headers<V: ChainPieces>(
    view: &V,
    cursor: HeaderCursor,
    max_bytes: usize,
) -> Result<Option<HeaderBatch>, Error> {
    headers_among(view, cursor, &ends_of_set(view, cursor.relay)?, max_bytes)
}

/// Returns the header batch that ends at the first possible block from `end` on: see
/// [`RangeSource::headers_to`](super::range::RangeSource::headers_to).
///
/// # Errors
/// [`Error::BadCursor`], [`Error::TooLarge`]; [`Error::Storage`] if the pieces cannot be read.
pub fn headers_to<V: ChainPieces>(
    view: &V,
    cursor: HeaderCursor,
    end: RelayNumber,
    max_bytes: usize,
) -> Result<Option<HeaderBatch>, Error> {
    let ends = ends_of_set(view, cursor.relay)?;
    let at = ends.partition_point(|block| block.number < end);
    headers_among(view, cursor, ends.get(at..=at).unwrap_or_default(), max_bytes)
}

/// Returns the ranges that begin at a relay header: see
/// [`RangeSource::ranges`](super::range::RangeSource::ranges).
///
/// # Errors
/// [`Error::BadCursor`]; [`Error::Storage`] if the pieces cannot be read.
pub fn ranges<V: ChainPieces>(view: &V, from: RelayNumber) -> Result<Option<Ranges>, Error> {
    let ends = ends_of_set(view, from)?;
    // Without an earlier batch end, the range starts at the genesis and contains the parachain headers from block 0 on.
    let before = view.batch_end_before(from).map_err(storage)?;
    let first_para = before.and_then(|end| end.para_head).map_or(ParaNumber(0), ParaNumber::next);
    let range = |end: &BatchEnd<'_>| Range {
        relay: Span { first: from, last: end.number },
        para: end.para_head.filter(|head| *head >= first_para).map(|last| Span { first: first_para, last }),
        set_id: end.set_id,
        ends_set: end.next_set.is_some(),
    };
    for longest in ends.iter().rev() {
        if has_para_header(view, longest.para_head)? {
            // Headers are stored without gaps: if the last range is available, so is the first.
            return Ok(Some(Ranges { shortest: range(&ends[0]), longest: range(longest) }));
        }
    }
    Ok(None)
}

fn has_para_header<V: ChainPieces>(view: &V, head: Option<ParaNumber>) -> Result<bool, Error> {
    let Some(head) = head else { return Ok(true) };
    let mut found = false;
    view.para_headers(Span { first: head, last: head }, &mut |_| {
        found = true;
        false
    })
    .map_err(storage)?;
    Ok(found)
}

/// Returns the batch ends from a relay header on, up to the one that changes the set: a batch must not cross a
/// change except at its last header.
fn ends_of_set<V: ChainPieces>(view: &V, from: RelayNumber) -> Result<Vec<BatchEnd<'_>>, Error> {
    if from < view.first_relay() {
        return Err(Error::BadCursor {
            cursor: format!("relay {from}"),
            reason: format!("workers start at relay header {}", view.first_relay()),
        });
    }
    let mut ends = Vec::new();
    view.batch_ends(from, &mut |end| {
        ends.push(end);
        end.next_set.is_none()
    })
    .map_err(storage)?;
    Ok(ends)
}

/// Returns the largest header batch at the cursor that ends at one of these blocks.
fn headers_among<V: ChainPieces>(
    view: &V,
    cursor: HeaderCursor,
    ends: &[BatchEnd<'_>],
    max_bytes: usize,
) -> Result<Option<HeaderBatch>, Error> {
    let Some(last) = ends.last() else { return Ok(None) };

    let mut relay = Run::new(max_bytes);
    let span = Span { first: cursor.relay, last: last.number };
    view.relay_headers(span, &mut |header| relay.push(header)).map_err(storage)?;
    let mut para = Run::new(max_bytes);
    // The newest head bounds the parachain headers that any of the ends requires.
    if let Some(head) = ends.iter().rev().find_map(|end| end.para_head).filter(|head| *head >= cursor.para) {
        let span = Span { first: cursor.para, last: head };
        view.para_headers(span, &mut |header| para.push(header)).map_err(storage)?;
    }

    // The longest first: the size grows with the end, so that the first batch that fits is the largest.
    let mut smallest = None;
    for end in ends.iter().rev() {
        let plan = match HeaderPlan::ending_at(cursor, *end, &relay, &para)? {
            Planned::Plan(plan) => plan,
            // The relay headers of a set may be stored before the parachain headers that they prove.
            Planned::Missing => continue,
            Planned::TooLarge(at_least) => {
                smallest = Some(at_least);
                continue;
            }
        };
        let size_bytes = plan.size_bytes();
        if size_bytes <= max_bytes {
            return Ok(Some(plan.write(size_bytes)));
        }
        smallest = Some(size_bytes);
    }
    match smallest {
        Some(size_bytes) => Err(too_large(format!("relay {}", cursor.relay), size_bytes, max_bytes)),
        None => Ok(None),
    }
}

const fn too_large(cursor: String, size_bytes: usize, limit_bytes: usize) -> Error {
    Error::TooLarge { cursor, size_bytes, limit_bytes }
}

/// A header batch that is not written yet.
struct HeaderPlan<'a> {
    cursor: HeaderCursor,
    end: BatchEnd<'a>,
    relay: &'a [&'a [u8]],
    relay_bytes: usize,
    para: &'a [&'a [u8]],
    para_bytes: usize,
    /// The proof's trie nodes; empty if no parachain header needs a proof.
    proof: Vec<&'a [u8]>,
}

/// Whether a batch can end at a block.
enum Planned<'a> {
    Plan(HeaderPlan<'a>),
    /// Required headers are not available yet.
    Missing,
    /// Its headers alone have at least this size in bytes, which exceeds the limit.
    TooLarge(usize),
}

impl<'a> HeaderPlan<'a> {
    fn ending_at(
        cursor: HeaderCursor,
        end: BatchEnd<'a>,
        relay: &'a Run<'a>,
        para: &'a Run<'a>,
    ) -> Result<Planned<'a>, Error> {
        // Not negative: the batch ends from the cursor on were requested.
        let relay_count = (end.number.0 - cursor.relay.0) as usize + 1;
        let para_count = end.para_head.map_or(0, |head| (head.0 + 1).saturating_sub(cursor.para.0)) as usize;
        if let Some(bytes) = relay.cut_before(relay_count).or_else(|| para.cut_before(para_count)) {
            return Ok(Planned::TooLarge(bytes));
        }
        if relay_count > relay.items.len() || para_count > para.items.len() {
            return Ok(Planned::Missing);
        }
        let proof = if para_count == 0 { Vec::new() } else { split_vec(end.proof)? };
        Ok(Planned::Plan(Self {
            cursor,
            end,
            relay: &relay.items[..relay_count],
            relay_bytes: relay.bytes(relay_count),
            para: &para.items[..para_count],
            para_bytes: para.bytes(para_count),
            proof,
        }))
    }

    /// Size of SCALE `Vec<HeaderToSync>`: each header is followed by an `Option` byte; the last one has its
    /// justification.
    fn relay_len(&self) -> usize {
        let justification = self.end.justification.len();
        vec_prefix_len(self.relay.len())
            + self.relay_bytes
            + self.relay.len()
            + vec_prefix_len(justification)
            + justification
    }

    fn change_len(&self) -> Option<usize> {
        self.end.next_set.map(|set| set.len() + self.end.proof.len())
    }

    fn para_len(&self) -> usize {
        vec_prefix_len(self.para.len()) + self.para_bytes
    }

    fn size_bytes(&self) -> usize {
        field_len(1, self.relay_len())
            + self.change_len().map_or(0, |len| field_len(2, len))
            + field_len(3, self.para_len())
            + self.proof.iter().map(|node| field_len(4, node.len())).sum::<usize>()
    }

    fn write(&self, size_bytes: usize) -> HeaderBatch {
        let mut body = Vec::with_capacity(size_bytes);
        start_field(1, self.relay_len(), &mut body);
        put_vec_prefix(self.relay.len(), &mut body);
        for (i, header) in self.relay.iter().enumerate() {
            body.extend_from_slice(header);
            body.push(u8::from(i + 1 == self.relay.len()));
        }
        put_vec_prefix(self.end.justification.len(), &mut body);
        body.extend_from_slice(self.end.justification);
        // Only old versions of pRuntime use this field (see `AuthoritySetChange`); current ones decode and
        // ignore it.
        if let (Some(set), Some(len)) = (self.end.next_set, self.change_len()) {
            start_field(2, len, &mut body);
            body.extend_from_slice(set);
            body.extend_from_slice(self.end.proof);
        }
        // Always written: the worker decodes this field as SCALE, where an empty list is one byte, not an
        // absent field.
        start_field(3, self.para_len(), &mut body);
        put_vec_prefix(self.para.len(), &mut body);
        self.para.iter().for_each(|header| body.extend_from_slice(header));
        for node in &self.proof {
            start_field(4, node.len(), &mut body);
            body.extend_from_slice(node);
        }
        debug_assert_eq!(body.len(), size_bytes, "one allocation of the right size");
        let last_para = self.cursor.para.0 + self.para.len() as u32;
        HeaderBatch {
            relay: Span { first: self.cursor.relay, last: self.end.number },
            para: (!self.para.is_empty())
                .then(|| Span { first: self.cursor.para, last: ParaNumber(last_para - 1) }),
            body: Bytes::from(body),
        }
    }
}

/// Returns as many blocks from the cursor as fit: see [`BlobSource::blocks`](super::BlobSource::blocks).
///
/// # Errors
/// [`Error::BadCursor`], [`Error::TooLarge`]; [`Error::Storage`] if the pieces cannot be read.
pub fn blocks<V: ChainPieces>(
    view: &V,
    cursor: BlockCursor,
    max_bytes: usize,
) -> Result<Option<BlockBatch>, Error> {
    if cursor.from.0 == 0 {
        return Err(Error::BadCursor {
            cursor: "block 0".into(),
            reason: "block 0 is in the genesis state".into(),
        });
    }
    // The worker must get more headers first.
    if cursor.to < cursor.from {
        return Ok(None);
    }
    let (mut parts, mut bytes) = (Vec::new(), 0);
    let mut too_big = None;
    view.para_blocks(Span { first: cursor.from, last: cursor.to }, &mut |header, changes| {
        let with = bytes + header.len() + changes.len();
        let size = field_len(1, vec_prefix_len(parts.len() + 1) + with);
        if size > max_bytes {
            too_big = Some(size);
            return false;
        }
        bytes = with;
        parts.push((header, changes));
        true
    })
    .map_err(storage)?;
    if parts.is_empty() {
        return too_big.map_or(Ok(None), |size_bytes| {
            Err(too_large(format!("block {}", cursor.from), size_bytes, max_bytes))
        });
    }
    let len = vec_prefix_len(parts.len()) + bytes;
    let mut body = Vec::with_capacity(field_len(1, len));
    start_field(1, len, &mut body);
    put_vec_prefix(parts.len(), &mut body);
    for (header, changes) in &parts {
        body.extend_from_slice(header);
        body.extend_from_slice(changes);
    }
    let last = ParaNumber(cursor.from.0 + (parts.len() - 1) as u32);
    Ok(Some(BlockBatch { blocks: Span { first: cursor.from, last }, body: Bytes::from(body) }))
}

/// Splits a SCALE `Vec<Vec<u8>>` into its items, without copying.
fn split_vec(encoded: &[u8]) -> Result<Vec<&[u8]>, Error> {
    let mut rest = encoded;
    let mut items = Vec::new();
    let count = Compact::<u32>::decode(&mut rest).map_err(storage)?.0;
    for _ in 0..count {
        let len = Compact::<u32>::decode(&mut rest).map_err(storage)?.0 as usize;
        let (item, after) =
            rest.split_at_checked(len).ok_or_else(|| storage("a stored proof is cut short"))?;
        items.push(item);
        rest = after;
    }
    Ok(items)
}

// The casts cannot truncate: batches are in memory, and the caller limits them to far below `u32::MAX`.
fn vec_prefix_len(count: usize) -> usize {
    Compact::<u32>::compact_len(&(count as u32))
}

fn put_vec_prefix(count: usize, into: &mut Vec<u8>) {
    Compact(count as u32).encode_to(into);
}

fn field_len(tag: u32, len: usize) -> usize {
    key_len(tag) + encoded_len_varint(len as u64) + len
}

fn start_field(tag: u32, len: usize, into: &mut Vec<u8>) {
    encode_key(tag, WireType::LengthDelimited, into);
    encode_varint(len as u64, into);
}
