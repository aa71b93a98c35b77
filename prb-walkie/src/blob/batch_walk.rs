//! Walks through encoded batches without decoding their items: finds where each item ends and its number.
//!
//! Batches come off the wire, so nothing here panics or allocates by a claimed length. There are two uses: a
//! provider's batch is checked before a worker gets it, and batches are converted between pRuntime's protobuf
//! API (ours) and the SCALE requests of its older API (the original's), moving items as slices.
//!
//! Not for: verifying proofs. Justifications, proofs and state roots are checked by pRuntime.

use bytes::Bytes;
use codec::{Compact, Decode, Encode};
use prb_core::{
    blob::{BlockBatch, HeaderBatch, HeaderCursor, Span},
    primitives::{Hash, ParaNumber, RelayNumber},
    prpc::{Blocks, CombinedHeadersToSync},
    wire::encode_vec_from_parts,
};
use prost::{
    Message,
    encoding::{WireType, encode_key, encode_varint},
};

/// What is wrong with a batch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Malformed {
    /// Invalid protobuf.
    #[error("the batch is not protobuf: {0}")]
    Protobuf(#[from] prost::DecodeError),
    /// Invalid SCALE.
    #[error("the {0} cannot be decoded")]
    Scale(&'static str),
    /// It contains other items than it claims.
    #[error("the {what} are not {expected}")]
    OtherSpan {
        /// The kind of items.
        what: &'static str,
        /// The expected ones.
        expected: String,
    },
    /// A header's parent is not the header before it.
    #[error("{what} {number} does not follow the one before it")]
    Unchained {
        /// The chain.
        what: &'static str,
        /// Its number.
        number: u32,
    },
    /// A relay header other than the last is justified, or the last is not.
    #[error("a justification is missing at the last relay header or present at another")]
    Justification,
    /// Parachain headers without a proof.
    #[error("the parachain headers come without a proof")]
    NoProof,
}

type Result<T> = std::result::Result<T, Malformed>;

/// The remaining input, with a name for errors.
struct Input<'a> {
    rest: &'a [u8],
    what: &'static str,
}

impl<'a> Input<'a> {
    const fn new(rest: &'a [u8], what: &'static str) -> Self {
        Self { rest, what }
    }

    const fn bad(&self) -> Malformed {
        Malformed::Scale(self.what)
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or_else(|| self.bad())?;
        self.rest = rest;
        Ok(taken)
    }

    fn byte(&mut self) -> Result<u8> {
        Ok(self.take(1)?[0])
    }

    fn compact(&mut self) -> Result<u32> {
        Compact::<u32>::decode(&mut self.rest).map(|n| n.0).map_err(|_| self.bad())
    }

    /// Reads a `Vec<u8>`, without its length.
    fn bytes(&mut self) -> Result<&'a [u8]> {
        let len = self.compact()?;
        self.take(len as usize)
    }

    /// Walks through a `Vec` with `item`. Every item takes at least a byte, so a false count ends at the input's
    /// end.
    fn list(&mut self, mut item: impl FnMut(&mut Self) -> Result<()>) -> Result<()> {
        for _ in 0..self.compact()? {
            item(self)?;
        }
        Ok(())
    }

    /// Returns the slice that `walk` consumes.
    fn slice(&mut self, walk: impl FnOnce(&mut Self) -> Result<()>) -> Result<&'a [u8]> {
        let start = self.rest;
        walk(self)?;
        Ok(&start[..start.len() - self.rest.len()])
    }

    fn end(&self) -> Result<()> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.bad()) }
    }

    fn header(&mut self) -> Result<HeaderRef<'a>> {
        let start = self.rest;
        let parent = self.take(32)?;
        let number = self.compact()?;
        // State root and extrinsics root.
        self.take(64)?;
        self.list(|input| {
            // Variants and fields as in `prb_core::wire::DigestItem`.
            match input.byte()? {
                0 => input.bytes().map(drop),
                4..=6 => input.take(4).and_then(|_| input.bytes()).map(drop),
                8 => Ok(()),
                _ => Err(input.bad()),
            }
        })?;
        Ok(HeaderRef { bytes: &start[..start.len() - self.rest.len()], parent, number })
    }

    /// Walks through a `Vec<(Vec<u8>, Option<Vec<u8>>)>`.
    fn key_changes(&mut self) -> Result<()> {
        self.list(|input| {
            input.bytes()?;
            input.option(|input| input.bytes().map(drop)).map(drop)
        })
    }

    /// Walks through an `Option`; returns whether it is `Some`.
    fn option(&mut self, some: impl FnOnce(&mut Self) -> Result<()>) -> Result<bool> {
        match self.byte()? {
            0 => Ok(false),
            1 => some(self).map(|()| true),
            _ => Err(self.bad()),
        }
    }

    fn storage_changes(&mut self) -> Result<()> {
        self.key_changes()?;
        self.list(|input| {
            input.bytes()?;
            input.key_changes()
        })
    }

    /// Reads the items of a `Vec<Vec<u8>>`.
    fn proof(&mut self) -> Result<Vec<&'a [u8]>> {
        let mut nodes = Vec::new();
        self.list(|input| {
            nodes.push(input.bytes()?);
            Ok(())
        })?;
        Ok(nodes)
    }

    fn authority_set_change(&mut self) -> Result<()> {
        // Authorities (key and weight), the set's id, and the proof.
        self.list(|input| input.take(40).map(drop))?;
        self.take(8)?;
        self.proof().map(drop)
    }

    /// Reads a `Vec<HeaderToSync>`.
    fn relay_headers(&mut self) -> Result<Vec<RelayRef<'a>>> {
        let mut headers = Vec::new();
        self.list(|input| {
            let start = input.rest;
            let header = input.header()?;
            let justified = input.option(|input| input.bytes().map(drop))?;
            let bytes = &start[..start.len() - input.rest.len()];
            headers.push(RelayRef { bytes, header, justified });
            Ok(())
        })?;
        Ok(headers)
    }

    /// Reads a `Vec<Header>`.
    fn headers(&mut self) -> Result<Vec<HeaderRef<'a>>> {
        let mut headers = Vec::new();
        self.list(|input| {
            headers.push(input.header()?);
            Ok(())
        })?;
        Ok(headers)
    }
}

#[derive(Clone, Copy)]
struct HeaderRef<'a> {
    bytes: &'a [u8],
    parent: &'a [u8],
    number: u32,
}

#[derive(Clone, Copy)]
struct RelayRef<'a> {
    /// Header and justification.
    bytes: &'a [u8],
    header: HeaderRef<'a>,
    justified: bool,
}

/// Checks that headers are those of the span, each the parent of the next.
fn check_chain(headers: &[HeaderRef<'_>], first: u32, last: u32, what: &'static str) -> Result<()> {
    let numbers = headers.iter().map(|header| header.number);
    if !numbers.eq(first..=last) {
        return Err(Malformed::OtherSpan { what, expected: format!("{first} to {last}") });
    }
    for pair in headers.windows(2) {
        if Hash::of(pair[0].bytes).0 != pair[1].parent {
            return Err(Malformed::Unchained { what, number: pair[1].number });
        }
    }
    Ok(())
}

const RELAY: &str = "relay headers";
const PARA: &str = "parachain headers";

/// Checks that a header batch's body matches its spans.
///
/// # Errors
/// [`Malformed`].
pub fn check_headers(batch: &HeaderBatch) -> Result<()> {
    let body = CombinedHeadersToSync::decode(batch.body.clone())?;
    let mut input = Input::new(&body.encoded_relaychain_headers, RELAY);
    let relay = input.relay_headers()?;
    input.end()?;
    let mut input = Input::new(&body.encoded_parachain_headers, PARA);
    let para = input.headers()?;
    input.end()?;
    if let Some(change) = &body.authority_set_change {
        let mut input = Input::new(change, "change of the authority set");
        input.authority_set_change()?;
        input.end()?;
    }
    check(&relay, batch.relay, &para, batch.para, body.proof.is_empty())
}

fn check(
    relay: &[RelayRef<'_>],
    relay_span: Span<RelayNumber>,
    para: &[HeaderRef<'_>],
    para_span: Option<Span<ParaNumber>>,
    no_proof: bool,
) -> Result<()> {
    let headers: Vec<_> = relay.iter().map(|item| item.header).collect();
    check_chain(&headers, relay_span.first.0, relay_span.last.0, RELAY)?;
    // pRuntime verifies the justification of the last header; the others are verified as its ancestors.
    let justified = relay.iter().filter(|item| item.justified).count();
    if justified != 1 || !relay.last().is_some_and(|last| last.justified) {
        return Err(Malformed::Justification);
    }
    match para_span {
        None if para.is_empty() => Ok(()),
        None => Err(Malformed::OtherSpan { what: PARA, expected: "none".into() }),
        Some(_) if no_proof => Err(Malformed::NoProof),
        Some(span) => check_chain(para, span.first.0, span.last.0, PARA),
    }
}

/// Checks that a block batch's body matches its span.
///
/// # Errors
/// [`Malformed`].
pub fn check_blocks(batch: &BlockBatch) -> Result<()> {
    const WHAT: &str = "blocks";
    let body = Blocks::decode(batch.body.clone())?;
    let mut input = Input::new(&body.encoded_blocks, WHAT);
    let Span { first, last } = batch.blocks;
    let mut numbers = first.0..=last.0;
    let mut same = true;
    input.list(|input| {
        same &= numbers.next() == Some(input.header()?.number);
        input.storage_changes()
    })?;
    input.end()?;
    if !same || numbers.next().is_some() {
        return Err(Malformed::OtherSpan { what: WHAT, expected: format!("{first} to {last}") });
    }
    Ok(())
}

/// Returns number and hash of the block in a SCALE `GenesisBlockInfo`, checking it to its end.
///
/// # Errors
/// [`Malformed`].
pub fn genesis_block(info: &[u8]) -> Result<(RelayNumber, Hash)> {
    let mut input = Input::new(info, "genesis info");
    let header = input.header()?;
    // Set and proof are encoded as in a change of the authority set.
    input.authority_set_change()?;
    input.end()?;
    Ok((RelayNumber(header.number), Hash::of(header.bytes)))
}

/// Checks that bytes are a genesis state: a SCALE `Vec<(key, value)>`.
///
/// # Errors
/// [`Malformed`].
pub fn check_state(state: &[u8]) -> Result<()> {
    let mut input = Input::new(state, "genesis state");
    input.list(|input| input.bytes().and_then(|_| input.bytes()).map(drop))?;
    input.end()
}

/// Converts the body of a header batch to a SCALE `SyncCombinedHeadersReq`.
///
/// # Errors
/// [`Malformed::Protobuf`].
pub fn request_of_headers(body: &Bytes) -> Result<Bytes> {
    let decoded = CombinedHeadersToSync::decode(body.clone())?;
    // Protobuf's overhead exceeds SCALE's except for the lengths of proof nodes.
    let mut out = Vec::with_capacity(body.len() + 8 + 4 * decoded.proof.len());
    out.extend_from_slice(&decoded.encoded_relaychain_headers);
    match &decoded.authority_set_change {
        None => out.push(0),
        Some(change) => {
            out.push(1);
            out.extend_from_slice(change);
        }
    }
    out.extend_from_slice(&decoded.encoded_parachain_headers);
    decoded.proof.encode_to(&mut out);
    Ok(out.into())
}

/// Returns the SCALE `Vec<BlockHeaderWithChanges>` in the body of a block batch, as a slice of it.
///
/// # Errors
/// [`Malformed::Protobuf`].
pub fn request_of_blocks(body: &Bytes) -> Result<Bytes> {
    Ok(Blocks::decode(body.clone())?.encoded_blocks)
}

/// Converts a SCALE `SyncCombinedHeadersReq` to the header batch for a cursor. Headers before the cursor are
/// skipped, as pRuntime does. `None` if the request begins after the cursor or ends before it.
///
/// # Errors
/// [`Malformed`], also if the headers do not form a chain.
pub fn headers_of_request(request: &[u8], cursor: HeaderCursor) -> Result<Option<HeaderBatch>> {
    let mut input = Input::new(request, "headers request");
    let mut relay = input.relay_headers()?;
    let mut change = None;
    let there = input.byte()?;
    if there > 1 {
        return Err(input.bad());
    } else if there == 1 {
        change = Some(input.slice(Input::authority_set_change)?);
    }
    let mut para = input.headers()?;
    let mut proof = input.proof()?;
    input.end()?;

    relay.drain(..relay.partition_point(|item| item.header.number < cursor.relay.0));
    para.drain(..para.partition_point(|header| header.number < cursor.para.0));
    let (Some(first), Some(last)) = (relay.first(), relay.last()) else { return Ok(None) };
    let relay_span = Span { first: RelayNumber(first.header.number), last: RelayNumber(last.header.number) };
    let para_span = para
        .first()
        .zip(para.last())
        .map(|(first, last)| Span { first: ParaNumber(first.number), last: ParaNumber(last.number) });
    if relay_span.first != cursor.relay || para_span.is_some_and(|span| span.first != cursor.para) {
        return Ok(None);
    }
    check(&relay, relay_span, &para, para_span, proof.is_empty())?;
    // Without headers there is nothing to prove.
    if para.is_empty() {
        proof.clear();
    }
    let body = write_headers(request.len(), &relay, change, &para, &proof);
    Ok(Some(HeaderBatch { relay: relay_span, para: para_span, body }))
}

fn write_headers(
    about_bytes: usize,
    relay: &[RelayRef<'_>],
    change: Option<&[u8]>,
    para: &[HeaderRef<'_>],
    proof: &[&[u8]],
) -> Bytes {
    let mut body = Vec::with_capacity(about_bytes + 64 + 4 * proof.len());
    let relay_bytes = relay.iter().map(|item| item.bytes.len()).sum();
    put_list(1, relay.len(), relay_bytes, relay.iter().map(|item| item.bytes), &mut body);
    if let Some(change) = change {
        put_field(2, change, &mut body);
    }
    let para_bytes = para.iter().map(|header| header.bytes.len()).sum();
    put_list(3, para.len(), para_bytes, para.iter().map(|header| header.bytes), &mut body);
    proof.iter().for_each(|node| put_field(4, node, &mut body));
    body.into()
}

/// Converts a SCALE `Vec<BlockHeaderWithChanges>` to a block batch with the blocks of `within` only. `None`
/// if it does not begin at or before the span.
///
/// # Errors
/// [`Malformed`].
pub fn blocks_of_request(request: &[u8], within: Span<ParaNumber>) -> Result<Option<BlockBatch>> {
    let mut input = Input::new(request, "blocks");
    let mut blocks = Vec::new();
    input.list(|input| {
        let start = input.rest;
        let number = input.header()?.number;
        input.storage_changes()?;
        blocks.push((number, &start[..start.len() - input.rest.len()]));
        Ok(())
    })?;
    input.end()?;
    blocks.retain(|(number, _)| (within.first.0..=within.last.0).contains(number));
    let (Some(first), Some(last)) = (blocks.first(), blocks.last()) else { return Ok(None) };
    let span = Span { first: ParaNumber(first.0), last: ParaNumber(last.0) };
    // The buffer begins later: these blocks would leave a gap.
    if span.first != within.first {
        return Ok(None);
    }
    if !blocks.iter().map(|(number, _)| *number).eq(span.first.0..=span.last.0) {
        let expected = format!("{} to {}", span.first, span.last);
        return Err(Malformed::OtherSpan { what: "blocks", expected });
    }
    let mut body = Vec::with_capacity(request.len() + 16);
    let bytes = blocks.iter().map(|(_, block)| block.len()).sum();
    put_list(1, blocks.len(), bytes, blocks.iter().map(|(_, block)| *block), &mut body);
    Ok(Some(BlockBatch { blocks: span, body: body.into() }))
}

/// Returns the first item of a SCALE `Vec<HeaderToSync>`, and its header's hash.
///
/// # Errors
/// [`Malformed`].
pub fn first_relay_header(body: &Bytes) -> Result<(Bytes, Hash)> {
    let headers = CombinedHeadersToSync::decode(body.clone())?.encoded_relaychain_headers;
    let mut input = Input::new(&headers, RELAY);
    if input.compact()? == 0 {
        return Err(input.bad());
    }
    let mut hash = Hash::default();
    let item = input.slice(|input| {
        hash = Hash::of(input.header()?.bytes);
        input.option(|input| input.bytes().map(drop)).map(drop)
    })?;
    Ok((headers.slice_ref(item), hash))
}

/// Returns the first item of a block batch's body, and its header's hash.
///
/// # Errors
/// [`Malformed`].
pub fn first_block(body: &Bytes) -> Result<(Bytes, Hash)> {
    let blocks = request_of_blocks(body)?;
    let mut input = Input::new(&blocks, "blocks");
    if input.compact()? == 0 {
        return Err(input.bad());
    }
    let mut hash = Hash::default();
    let item = input.slice(|input| {
        hash = Hash::of(input.header()?.bytes);
        input.storage_changes()
    })?;
    Ok((blocks.slice_ref(item), hash))
}

fn put_field(tag: u32, bytes: &[u8], into: &mut Vec<u8>) {
    encode_key(tag, WireType::LengthDelimited, into);
    encode_varint(bytes.len() as u64, into);
    into.extend_from_slice(bytes);
}

/// Appends a protobuf field that is a SCALE `Vec` of encoded items.
fn put_list<'a>(
    tag: u32,
    count: usize,
    bytes: usize,
    items: impl Iterator<Item = &'a [u8]>,
    into: &mut Vec<u8>,
) {
    // Cannot overflow: counts come from requests in memory, whose size is limited.
    let count = count as u32;
    encode_key(tag, WireType::LengthDelimited, into);
    encode_varint((Compact(count).encoded_size() + bytes) as u64, into);
    encode_vec_from_parts(count, items, into);
}
