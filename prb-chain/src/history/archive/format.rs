//! The file format of archives. Reading checks every bound before it allocates memory.

use std::io::{self, Read, Write};

use codec::{Decode, Encode};
use prb_core::primitives::Hash;

use crate::{
    history::Piece,
    store::{
        Part,
        segment::{self, Segment},
    },
};

const MAGIC: [u8; 8] = *b"PRBBLKS\0";
/// The version that this code reads and writes.
const VERSION: u16 = 1;
pub(super) const HEAD_LEN: usize = 120;
pub(super) const FRAME_LEN: usize = 48;
/// Most bytes of a frame's content.
pub(super) const MAX_CONTENT: usize = 256 << 20;
/// Most bytes of a frame's compressed content: Zstandard adds less than this to incompressible data.
const MAX_PACKED: usize = MAX_CONTENT + MAX_CONTENT / 64;
/// Blocks of a frame.
pub(super) const MAX_BLOCKS: u32 = 1 << 20;
/// Most bytes of a header: far more than the largest authority set takes.
const MAX_HEADER: usize = 1 << 20;
/// Most bytes of a justification, and of a proof.
const MAX_PROOF: usize = 32 << 20;
/// Most nodes of a proof.
const MAX_NODES: u32 = 65_536;

/// The content of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// The start of the chains.
    Genesis,
    /// Relay headers.
    Relay,
    /// Parachain headers.
    Headers,
    /// Storage changes.
    Changes,
}

impl Kind {
    pub(super) const ALL: [Self; 4] = [Self::Genesis, Self::Relay, Self::Headers, Self::Changes];

    /// Its name in file names.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Genesis => "genesis",
            Self::Relay => "relay",
            Self::Headers => "headers",
            Self::Changes => "changes",
        }
    }

    /// The part of a store that it has.
    pub(super) const fn part(self) -> Part {
        match self {
            Self::Genesis => Part::Genesis,
            Self::Relay => Part::Relay,
            Self::Headers => Part::ParaHeaders,
            Self::Changes => Part::Changes,
        }
    }

    pub(super) fn file_name(self, first: u32) -> String {
        match self {
            Self::Genesis => "genesis.prb".to_owned(),
            kind => format!("{}-{first:010}.prb", kind.name()),
        }
    }
}

/// The chains of an archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct Chain {
    pub(super) para_id: u32,
    pub(super) identity: Hash,
    pub(super) relay_number: u32,
    pub(super) relay_hash: Hash,
}

/// The head of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    pub(super) kind: Kind,
    pub(super) chain: Chain,
    pub(super) first: u32,
}

impl Head {
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut head = MAGIC.to_vec();
        (VERSION, self.kind as u8, 0u8).encode_to(&mut head);
        (self.chain, self.first).encode_to(&mut head);
        let hash = Hash::of(&head);
        head.extend_from_slice(&hash.0);
        head
    }

    /// Decodes a head; also returns its hash.
    pub(super) fn decode(head: &[u8; HEAD_LEN]) -> Result<(Self, Hash), String> {
        let (content, hash) = head.split_at(HEAD_LEN - 32);
        let Some(mut rest) = content.strip_prefix(&MAGIC) else {
            return Err("it is not a file of an archive".into());
        };
        let bad = |_| "its head cannot be read".to_owned();
        let (version, kind, _) = <(u16, u8, u8)>::decode(&mut rest).map_err(bad)?;
        // Before the hash: a newer version may have a head of another structure.
        if version != VERSION {
            return Err(format!(
                "it has version {version}, but this program reads version {VERSION}: use a newer program"
            ));
        }
        let found = Hash::of(content);
        if found.0 != *hash {
            return Err("its head is damaged".into());
        }
        let kind =
            *Kind::ALL.get(usize::from(kind)).ok_or_else(|| format!("it is of unknown kind {kind}"))?;
        let (chain, first) = <(Chain, u32)>::decode(&mut rest).map_err(bad)?;
        Ok((Self { kind, chain, first }, found))
    }
}

/// The bytes before a frame's content, or at the end of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub(super) struct FrameHead {
    content: u32,
    packed: u32,
    /// The first block; at the end of a file, the number after the last block.
    pub(super) first: u32,
    /// Number of blocks; at the end of a file, number of frames.
    pub(super) count: u32,
    hash: Hash,
}

impl FrameHead {
    pub(super) const fn is_end(&self) -> bool {
        self.packed == 0
    }

    /// The end of a file with these frames.
    pub(super) const fn end(next: u32, frames: u32, chain: Hash) -> Self {
        Self { content: 0, packed: 0, first: next, count: frames, hash: chain }
    }

    fn hash_of(&self, packed: &[u8]) -> Hash {
        let mut hashed = (self.content, self.packed, self.first, self.count).encode();
        hashed.extend_from_slice(packed);
        Hash::of(&hashed)
    }
}

/// A frame with its content.
#[derive(Debug)]
pub(super) struct Frame {
    pub(super) first: u32,
    pub(super) count: u32,
    pub(super) content: Vec<u8>,
    pub(super) hash: Hash,
}

/// Adds a frame to the running hash.
pub(super) fn chained(before: Hash, frame: Hash) -> Hash {
    Hash::of(&(before, frame).encode())
}

/// Writes a frame; returns its hash and size in bytes.
pub(super) fn write_frame(
    out: &mut impl Write,
    first: u32,
    count: u32,
    content: &[u8],
    level: i32,
) -> io::Result<(Hash, u64)> {
    let too_large = || io::Error::new(io::ErrorKind::InvalidInput, "a block is too large for an archive");
    if content.len() > MAX_CONTENT || count > MAX_BLOCKS {
        return Err(too_large());
    }
    let packed = zstd::bulk::compress(content, level)?;
    let len = |bytes: &[u8]| u32::try_from(bytes.len()).map_err(|_| too_large());
    let mut head =
        FrameHead { content: len(content)?, packed: len(&packed)?, first, count, hash: Hash::default() };
    head.hash = head.hash_of(&packed);
    out.write_all(&head.encode())?;
    out.write_all(&packed)?;
    Ok((head.hash, (FRAME_LEN + packed.len()) as u64))
}

/// Reads the next frame head; `left` is the number of bytes left in the file.
pub(super) fn read_frame_head(input: &mut impl Read, left: u64) -> Result<FrameHead, String> {
    let mut head = [0; FRAME_LEN];
    if left < FRAME_LEN as u64 {
        return Err("it is truncated".into());
    }
    input.read_exact(&mut head).map_err(|e| e.to_string())?;
    let head = FrameHead::decode(&mut &head[..]).map_err(|_| "a frame cannot be read".to_owned())?;
    if !head.is_end() {
        if u64::from(head.packed) > left - FRAME_LEN as u64 {
            return Err("it is truncated, or a frame's length is damaged".into());
        }
        if head.packed as usize > MAX_PACKED
            || head.content as usize > MAX_CONTENT
            || head.count > MAX_BLOCKS
            || head.count == 0
        {
            return Err("a frame's head is damaged".into());
        }
    }
    Ok(head)
}

/// Length of a frame's compressed content.
pub(super) const fn packed_len(head: &FrameHead) -> u64 {
    head.packed as u64
}

/// Reads the content after a frame's head.
pub(super) fn read_frame(input: &mut impl Read, head: &FrameHead) -> Result<Frame, String> {
    let mut packed = vec![0; head.packed as usize];
    input.read_exact(&mut packed).map_err(|e| e.to_string())?;
    // Before decompression: a damaged frame never reaches the decoder.
    if head.hash_of(&packed) != head.hash {
        return Err("a frame is damaged: its hash differs".into());
    }
    let content = zstd::bulk::decompress(&packed, head.content as usize).map_err(|e| e.to_string())?;
    if content.len() != head.content as usize {
        return Err("a frame's content differs in length from its head".into());
    }
    Ok(Frame { first: head.first, count: head.count, content, hash: head.hash })
}

/// Checks the end of a file against its frames.
pub(super) fn check_end(end: &FrameHead, next: u32, frames: u32, chain: Hash) -> Result<(), String> {
    if *end == FrameHead::end(next, frames, chain) { Ok(()) } else { Err("its end is damaged".into()) }
}

/// Decodes a list that must have `count` items.
pub(super) fn list(content: &[u8], count: u32, most_each: usize) -> Result<Vec<&[u8]>, String> {
    let bad = || "a frame's content cannot be read".to_owned();
    let items = Segment::read(content).filter(|items| items.count() == count).ok_or_else(bad)?;
    (0..count).map(|i| items.get(i).filter(|item| item.len() <= most_each).ok_or_else(bad)).collect()
}

/// Reads a file, and the bytes as the content of frames, for the fuzz target of archives; panics on a violation.
// Here, because a frame has a hash that a fuzzer does not guess, and only the program itself packs its content.
#[doc(hidden)]
pub fn read_archive(bytes: &[u8]) {
    if let Some((head, mut rest)) = bytes.split_first_chunk::<HEAD_LEN>() {
        let _ = Head::decode(head);
        loop {
            let left = rest.len() as u64;
            let Ok(head) = read_frame_head(&mut rest, left) else { break };
            if head.is_end() || read_frame(&mut rest, &head).is_err() {
                break;
            }
        }
    }
    let Some((count, content)) = bytes.split_first_chunk::<4>() else { return };
    let count = u32::from_le_bytes(*count).clamp(1, MAX_BLOCKS);
    let mut packed = Vec::new();
    let (hash, _) = write_frame(&mut packed, 7, count, content, 1).unwrap_or_default();
    let mut input = packed.as_slice();
    let head = read_frame_head(&mut input, packed.len() as u64);
    let frame = head.and_then(|head| read_frame(&mut input, &head));
    let frame = frame.unwrap_or_else(|reason| panic!("a frame of {} bytes: {reason}", content.len()));
    assert!(frame.content == content && frame.hash == hash && input.is_empty());
    for kind in [Kind::Headers, Kind::Changes] {
        if let Ok(items) = items(&frame, kind, 1, 3) {
            assert!(items.len() <= 3);
        }
    }
    if let Ok(pieces) = pieces(&frame.content, frame.count) {
        assert_eq!(pieces.iter().map(|piece| piece.headers.len()).sum::<usize>(), count as usize);
    }
}

fn put_part(content: &mut Vec<u8>, part: &[u8]) {
    content.extend((part.len() as u32).to_le_bytes());
    content.extend_from_slice(part);
}

/// Appends a piece to a relay frame's content.
pub(super) fn put_piece(content: &mut Vec<u8>, headers: &[&[u8]], justification: &[u8], proof: &[&[u8]]) {
    put_part(content, &segment::write(headers));
    put_part(content, justification);
    put_part(content, &if proof.is_empty() { Vec::new() } else { segment::write(proof) });
}

fn take_part<'a>(content: &mut &'a [u8], most: usize) -> Option<&'a [u8]> {
    let (len, rest) = content.split_first_chunk::<4>()?;
    let len = u32::from_le_bytes(*len) as usize;
    let (part, rest) = rest.split_at_checked(len).filter(|_| len <= most)?;
    *content = rest;
    Some(part)
}

/// Decodes the pieces of a relay frame with `count` headers in total.
pub(super) fn pieces(mut content: &[u8], count: u32) -> Result<Vec<Piece>, String> {
    let bad = || "a frame's content cannot be read".to_owned();
    let (mut pieces, mut left) = (Vec::new(), count);
    while !content.is_empty() {
        let headers = take_part(&mut content, MAX_CONTENT).ok_or_else(bad)?;
        let justification = take_part(&mut content, MAX_PROOF).ok_or_else(bad)?.to_vec();
        let proof = take_part(&mut content, MAX_PROOF).ok_or_else(bad)?;
        let number = Segment::read(headers).map_or(0, |headers| headers.count());
        left = left.checked_sub(number).filter(|_| number > 0).ok_or_else(bad)?;
        let headers = list(headers, number, MAX_HEADER)?.into_iter().map(<[u8]>::to_vec).collect();
        let proof = match Segment::read(proof) {
            None if proof.is_empty() => Vec::new(),
            Some(nodes) if nodes.count() <= MAX_NODES => {
                list(proof, nodes.count(), MAX_PROOF)?.into_iter().map(<[u8]>::to_vec).collect()
            }
            _ => return Err(bad()),
        };
        pieces.push(Piece { headers, justification, proof });
    }
    if left == 0 { Ok(pieces) } else { Err(bad()) }
}

/// Returns at most `most` items of a frame of headers or changes, from the one at `skip` on.
pub(super) fn items(frame: &Frame, kind: Kind, skip: u32, most: u32) -> Result<Vec<Vec<u8>>, String> {
    let most_each = if kind == Kind::Headers { MAX_HEADER } else { MAX_CONTENT };
    let items = list(&frame.content, frame.count, most_each)?;
    Ok(items.into_iter().skip(skip as usize).take(most as usize).map(<[u8]>::to_vec).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn chain() -> Chain {
        Chain { para_id: 2000, identity: Hash([1; 32]), relay_number: 7, relay_hash: Hash([2; 32]) }
    }

    #[test]
    fn heads_round_trip_and_damaged_ones_are_refused() {
        let head = Head { kind: Kind::Changes, chain: chain(), first: 5 };
        let encoded: [u8; HEAD_LEN] = head.encode().try_into().unwrap();
        assert_eq!(Head::decode(&encoded).unwrap().0, head);
        for at in 0..HEAD_LEN {
            let mut damaged = encoded;
            damaged[at] ^= 4;
            assert!(Head::decode(&damaged).is_err(), "{at}");
        }
        assert_eq!(FrameHead::end(1, 2, Hash::default()).encode().len(), FRAME_LEN);
    }

    #[test]
    fn frames_round_trip_and_damaged_ones_are_refused() {
        let content = segment::write(&[b"one", b"two", b""]);
        let mut file = Vec::new();
        let (hash, bytes) = write_frame(&mut file, 9, 3, &content, 3).unwrap();
        assert_eq!(bytes, file.len() as u64);
        let read = |mut file: &[u8]| {
            let left = file.len() as u64;
            let head = read_frame_head(&mut file, left)?;
            read_frame(&mut file, &head)
        };
        let frame = read(&file).unwrap();
        assert_eq!((frame.first, frame.count, frame.hash, &frame.content), (9, 3, hash, &content));
        assert_eq!(items(&frame, Kind::Changes, 1, 1).unwrap(), [b"two".to_vec()]);
        for at in 0..file.len() {
            let mut damaged = file.clone();
            damaged[at] ^= 4;
            assert!(read(&damaged).is_err(), "{at}");
            assert!(read(&file[..at]).is_err(), "{at}");
        }
    }

    /// A frame with arbitrary head values and a matching hash.
    fn forged(content: u32, packed: &[u8]) -> Result<Frame, String> {
        let mut head =
            FrameHead { content, packed: packed.len() as u32, first: 0, count: 1, hash: Hash::default() };
        head.hash = head.hash_of(packed);
        let file = [&head.encode()[..], packed].concat();
        let mut input = &file[..];
        let head = read_frame_head(&mut input, file.len() as u64)?;
        read_frame(&mut input, &head)
    }

    #[test]
    fn content_longer_than_declared_is_refused() {
        let bomb = zstd::bulk::compress(&vec![0; 8 << 20], 3).unwrap();
        assert!(bomb.len() < 4096);
        assert!(forged(1000, &bomb).is_err());
        assert!(forged(9 << 20, &bomb).is_err());
        assert!(forged(u32::MAX, &bomb).is_err());
        assert!(forged(100, b"no Zstandard").is_err());
        assert!(forged(8 << 20, &bomb).is_ok());
    }

    #[test]
    fn inconsistent_lists_are_refused() {
        // Sixteen million empty items in a frame of one block.
        let mut many = (1u32 << 24).to_le_bytes().to_vec();
        many.resize(4 + 4 * (1 << 24), 0);
        assert!(list(&many, 1, 10).is_err());
        assert!(list(&segment::write(&[&[0; 11]]), 1, 10).is_err());
        // End positions that decrease.
        let mut back = segment::write(&[b"aaaa", b"bb"]);
        back[4..8].copy_from_slice(&60u32.to_le_bytes());
        assert!(list(&back, 2, 10).is_err());
        assert!(pieces(&[1, 2, 3], 1).is_err());
        let mut content = Vec::new();
        put_piece(&mut content, &[b"h1", b"h2"], b"j", &[]);
        assert_eq!(pieces(&content, 2).unwrap()[0].headers.len(), 2);
        assert!(pieces(&content, 1).is_err() && pieces(&content, 3).is_err());
        for cut in 1..content.len() {
            assert!(pieces(&content[..cut], 2).is_err(), "{cut}");
        }
    }
}
