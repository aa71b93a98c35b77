//! Conformance suite of [`BlobSource`].
//!
//! A backend implements [`Backend`], which fills it with a [`Sample`], and calls [`run`] in a test.
//! Justifications and proofs of a sample are arbitrary bytes: the suite checks the selection and encoding of
//! batches, by decoding each body and by comparing with an exhaustive search for the largest batch.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;

use async_trait::async_trait;
use codec::{Decode, DecodeAll, Encode};
use prost::Message;
use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::{
    blob::{BlobSource, BlockCursor, Error, Genesis, HeaderCursor, Heights, memory::JustifiedBlock},
    primitives::{Hash, ParaNumber, RelayNumber},
    prpc,
    wire::{
        AuthoritySet, AuthoritySetChange, BlockHeaderWithChanges, DigestItem, GenesisBlockInfo, Header,
        HeaderToSync, StorageChanges,
    },
};

/// A limit that no sample reaches.
const NO_LIMIT: usize = 64 << 20;

/// A relay block of a sample.
#[derive(Clone, Debug)]
pub struct RelayBlock {
    /// Its header.
    pub header: Header,
    /// Set if a batch can end at it.
    pub justified: Option<JustifiedBlock>,
}

/// Two chains with plausible headers and made-up proofs.
#[derive(Clone, Debug)]
pub struct Sample {
    /// The relay block before the first.
    pub genesis_number: RelayNumber,
    /// The authority set that justifies the first blocks.
    pub genesis_set: AuthoritySet,
    /// Consecutive relay blocks.
    pub relay: Vec<RelayBlock>,
    /// Parachain headers from block 0.
    pub para: Vec<Header>,
    /// Changes of each parachain block; those of block 0 are never served.
    pub changes: Vec<StorageChanges>,
}

impl Sample {
    /// Creates a sample with this number of relay blocks; equal seeds yield equal samples.
    pub fn generate(seed: u64, blocks: u32) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let genesis_number = RelayNumber(rng.random_range(1..50));
        let mut set = AuthoritySet { list: vec![([1; 32], 1)], id: rng.random_range(0..5) };
        let mut sample = Self {
            genesis_number,
            genesis_set: set.clone(),
            relay: Vec::new(),
            para: vec![header(0, Hash::default(), &mut rng)],
            changes: vec![StorageChanges::default()],
        };
        // Short, so that a sample contains several sets, and sets with one justification or several.
        let (set_length, spacing) = (rng.random_range(1..20), rng.random_range(1..6));
        let mut parent = Hash::default();
        let mut head = 0;
        for i in 1..=blocks {
            let header = header(genesis_number.0 + i, parent, &mut rng);
            parent = header.hash();
            // Half of the blocks advance the parachain; it pauses in every third stretch of 16.
            if (i / 16) % 3 != 2 && rng.random_bool(0.5) {
                sample.extend_para(&mut rng);
                head += 1;
            }
            let next_set = (i % set_length == 0).then(|| {
                set = AuthoritySet { list: vec![(rng.random(), 1)], id: set.id + 1 };
                set.clone()
            });
            let justified = (next_set.is_some() || i % spacing == 0).then(|| JustifiedBlock {
                justification: random_bytes(&mut rng, 10..200),
                para_head: Some(ParaNumber(head)),
                proof: (0..3).map(|_| random_bytes(&mut rng, 1..100)).collect(),
                next_set,
            });
            sample.relay.push(RelayBlock { header, justified });
        }
        sample
    }

    fn extend_para(&mut self, rng: &mut StdRng) {
        let parent = self.para[self.para.len() - 1].hash();
        self.para.push(header(self.para.len() as u32, parent, rng));
        let main = (0..rng.random_range(0..8))
            .map(|_| (random_bytes(rng, 1..40), rng.random_bool(0.8).then(|| random_bytes(rng, 0..300))))
            .collect();
        self.changes.push(StorageChanges { main, child: Vec::new() });
    }

    /// A plausible genesis, without valid proofs.
    pub fn genesis(&self) -> Genesis {
        let block_header = Header {
            parent_hash: Hash::default(),
            number: self.genesis_number.0,
            state_root: Hash::default(),
            extrinsics_root: Hash::default(),
            digest: Vec::new(),
        };
        let relay_hash = block_header.hash();
        let authority_set = self.genesis_set.clone();
        let info = GenesisBlockInfo { block_header, authority_set, proof: vec![vec![1, 2, 3]] };
        let state = vec![(b":code".to_vec(), vec![7u8; 100]), (b"key".to_vec(), Vec::new())];
        Genesis {
            para_id: 2004,
            relay_number: self.genesis_number,
            relay_hash,
            chain_identity: self.para.get(1).map(Header::hash).unwrap_or_default(),
            info: info.encode().into(),
            state: state.encode().into(),
        }
    }

    /// The heights of a source that has this number of relay blocks and the whole parachain.
    pub fn heights(&self, relay_blocks: usize) -> (Option<RelayNumber>, Option<ParaNumber>) {
        let last = self.relay[..relay_blocks].iter().rev().find(|block| block.justified.is_some());
        (
            last.map(|block| RelayNumber(block.header.number)),
            last.and_then(|block| block.justified.as_ref()?.para_head),
        )
    }
}

fn header(number: u32, parent_hash: Hash, rng: &mut StdRng) -> Header {
    Header {
        parent_hash,
        number,
        state_root: Hash(rng.random()),
        extrinsics_root: Hash(rng.random()),
        digest: vec![DigestItem::Seal(*b"BABE", random_bytes(rng, 0..90))],
    }
}

fn random_bytes(rng: &mut StdRng, len: std::ops::Range<usize>) -> Vec<u8> {
    let len = rng.random_range(len);
    (0..len).map(|_| rng.random()).collect()
}

/// A source under test.
#[async_trait]
pub trait Backend: Send {
    /// Creates an empty source for the sample's chain.
    async fn create(sample: &Sample) -> Self;

    /// Adds relay blocks to the source.
    async fn push_relay(&mut self, blocks: &[RelayBlock]);

    /// Adds parachain blocks: header and changes.
    async fn push_para(&mut self, blocks: &[(Header, StorageChanges)]);

    /// The source.
    fn source(&self) -> Arc<dyn BlobSource>;
}

/// Runs the suite.
///
/// ```
/// use prb_core::conformance::blob::{self, Backend};
///
/// /// `Own` creates a source and adds the suite's blocks to it.
/// async fn conforms<Own: Backend>() {
///     blob::run::<Own>().await;
/// }
/// ```
///
/// # Panics
/// If the backend violates the seam's contract.
pub async fn run<B: Backend>() {
    // Different set lengths and spacings of justifications; few enough to stay fast with a real database.
    for seed in 0..6 {
        grows::<B>(&Sample::generate(seed, 90)).await;
    }
    headers_wait_for_the_parachain::<B>(&Sample::generate(7, 60)).await;
}

/// Header and changes of each parachain block.
pub(super) fn para_blocks(sample: &Sample) -> Vec<(Header, StorageChanges)> {
    sample.para.iter().cloned().zip(sample.changes.iter().cloned()).collect()
}

async fn grows<B: Backend>(sample: &Sample) {
    let mut backend = B::create(sample).await;
    let mut heights = backend.source().heights();
    let first = sample.genesis_number.next();
    let start = HeaderCursor { relay: first, para: ParaNumber(0) };
    assert!(matches!(backend.source().headers(start, NO_LIMIT).await, Ok(None)), "nothing is there yet");

    backend.push_para(&para_blocks(sample)).await;
    let half = sample.relay.len() / 2;
    backend.push_relay(&sample.relay[..half]).await;
    // Everything so far is known: only the growth that follows may notify.
    heights.mark_unchanged();
    backend.push_relay(&sample.relay[half..]).await;
    assert!(heights.has_changed().unwrap(), "growth is not published");
    let Heights { relay, para, .. } = *heights.borrow_and_update();
    assert_eq!(
        (relay, para),
        sample.heights(sample.relay.len()),
        "the published heights (relay, para) once everything is stored"
    );

    let source = backend.source();
    for relay in first.0..=first.0 + sample.relay.len() as u32 + 1 {
        // Cursors behind the proven head as well: a worker that lost parachain headers requests from there.
        for back in [0, 1, 5] {
            check_headers(sample, &*source, RelayNumber(relay), back).await;
        }
    }
    let before = HeaderCursor { relay: sample.genesis_number, para: ParaNumber(0) };
    let refused = source.headers(before, NO_LIMIT).await;
    assert!(matches!(refused, Err(Error::BadCursor { .. })), "the genesis itself is no cursor: {refused:?}");
    check_blocks(sample, &*source).await;
}

/// The newest parachain header in the state of any relay block before this one.
pub(super) fn head_before(sample: &Sample, relay: RelayNumber) -> Option<u32> {
    let ends = sample.relay.iter().filter(|block| block.header.number < relay.0);
    ends.filter_map(|block| block.justified.as_ref()?.para_head).next_back().map(|head| head.0)
}

async fn check_headers(sample: &Sample, source: &dyn BlobSource, relay: RelayNumber, back: u32) {
    // A worker's next parachain header after the batches up to this relay header.
    let next = head_before(sample, relay).map_or(0, |head| head + 1);
    let cursor = HeaderCursor { relay, para: ParaNumber(next.saturating_sub(back)) };
    let all = possible_batches(sample, cursor);
    let Some(largest) = all.last() else {
        assert!(matches!(source.headers(cursor, NO_LIMIT).await, Ok(None)), "no batch end after {cursor:?}");
        return;
    };
    for wanted in [largest, &all[0], &all[all.len() / 2]] {
        let batch = source.headers(cursor, wanted.len()).await.unwrap().unwrap();
        // Proofs and justifications differ in size, so a later end may fit although this one does not.
        let fitting = all.iter().rfind(|body| body.len() <= wanted.len()).unwrap();
        assert!(batch.body.len() <= wanted.len(), "the batch at {cursor:?} exceeds the limit");
        assert_eq!(batch.body, *fitting, "the largest batch at {cursor:?} in {} bytes", wanted.len());
        check_header_body(sample, cursor, &batch);
    }
    let smallest = all.iter().map(Vec::len).min().unwrap();
    let refused = source.headers(cursor, smallest - 1).await;
    assert!(matches!(refused, Err(Error::TooLarge { .. })), "{refused:?}");
}

/// Builds every valid batch at the cursor, by its end, exhaustively.
pub(super) fn possible_batches(sample: &Sample, cursor: HeaderCursor) -> Vec<Vec<u8>> {
    let mut headers = Vec::new();
    let mut bodies = Vec::new();
    for block in sample.relay.iter().skip_while(|block| block.header.number < cursor.relay.0) {
        headers.push(HeaderToSync { header: block.header.clone(), justification: None });
        let Some(justified) = &block.justified else { continue };
        let mut relay = headers.clone();
        relay.last_mut().unwrap().justification = Some(justified.justification.clone());
        let head = justified.para_head.map_or(0, |head| head.0 as usize + 1);
        let para = sample.para.get(cursor.para.0 as usize..head).unwrap_or_default();
        let change = justified.next_set.clone().map(|authority_set| AuthoritySetChange {
            authority_set,
            authority_proof: justified.proof.clone(),
        });
        let body = prpc::CombinedHeadersToSync {
            encoded_relaychain_headers: relay.encode().into(),
            authority_set_change: change.map(|change| change.encode()),
            encoded_parachain_headers: para.to_vec().encode().into(),
            proof: if para.is_empty() { Vec::new() } else { justified.proof.clone() },
        };
        bodies.push(body.encode_to_vec());
        if justified.next_set.is_some() {
            break;
        }
    }
    bodies
}

fn check_header_body(sample: &Sample, cursor: HeaderCursor, batch: &crate::blob::HeaderBatch) {
    let body = prpc::CombinedHeadersToSync::decode(batch.body.clone()).unwrap();
    let relay = Vec::<HeaderToSync>::decode_all(&mut &*body.encoded_relaychain_headers).unwrap();
    assert_eq!(relay[0].header.number, cursor.relay.0, "the first relay header is the cursor's");
    assert_eq!(
        relay.last().unwrap().header.number,
        batch.relay.last.0,
        "`HeaderBatch::relay` ends at the last header of the body"
    );
    assert_eq!(batch.relay.first, cursor.relay, "`HeaderBatch::relay` begins at the cursor");
    let justified = relay.iter().filter(|header| header.justification.is_some()).count();
    assert_eq!(justified, 1, "only the last header carries a justification");
    assert!(relay.last().unwrap().justification.is_some(), "the last relay header has the justification");
    let para = Vec::<Header>::decode_all(&mut &*body.encoded_parachain_headers).unwrap();
    match batch.para {
        None => {
            assert!(para.is_empty(), "the body has parachain headers although `HeaderBatch::para` is `None`")
        }
        Some(span) => {
            assert_eq!(span.first, cursor.para, "`HeaderBatch::para` begins at the cursor");
            assert_eq!(
                para,
                sample.para[span.first.0 as usize..=span.last.0 as usize],
                "the parachain headers of the batch at {cursor:?}"
            );
        }
    }
}

async fn check_blocks(sample: &Sample, source: &dyn BlobSource) {
    let tip = source.heights().borrow().para.unwrap();
    let span = |from, to| BlockCursor { from: ParaNumber(from), to: ParaNumber(to) };
    let full = source.blocks(span(1, tip.0), NO_LIMIT).await.unwrap().unwrap();
    assert_eq!(
        (full.blocks.first.0, full.blocks.last),
        (1, tip),
        "without a limit all blocks to the tip are returned"
    );
    for from in 1..=tip.0 {
        for to in [from, (from + 3).min(tip.0)] {
            let batch = source.blocks(span(from, to), NO_LIMIT).await.unwrap().unwrap();
            assert_eq!(
                (batch.blocks.first.0, batch.blocks.last.0),
                (from, to),
                "the blocks of the batch (first, last)"
            );
            // Encoded from the types, not from stored slices: an independent second implementation.
            let expected: Vec<_> = (from..=to).map(|n| block(sample, n)).collect();
            let body = prpc::Blocks { encoded_blocks: expected.encode().into() }.encode_to_vec();
            assert_eq!(batch.body, body, "the body of blocks {from} to {to}");
            let shorter = source.blocks(span(from, to), body.len() - 1).await;
            match shorter {
                Ok(Some(batch)) => assert_eq!(batch.blocks.last.0, to - 1, "all but the last fit"),
                Err(Error::TooLarge { .. }) => assert_eq!(from, to, "all but the last block fit"),
                other => panic!("blocks {from} to {to} with one byte too few: {other:?}"),
            }
        }
    }
    let beyond = sample.para.len() as u32;
    assert!(
        matches!(source.blocks(span(beyond, beyond + 5), NO_LIMIT).await, Ok(None)),
        "blocks beyond the tip are not available yet"
    );
    assert!(
        matches!(source.blocks(span(0, 3), NO_LIMIT).await, Err(Error::BadCursor { .. })),
        "block 0 is refused: it is in the genesis state"
    );
    assert!(matches!(source.blocks(span(3, 2), NO_LIMIT).await, Ok(None)), "the worker has no header of it");
    let decoded = prpc::Blocks::decode(full.body).unwrap();
    let blocks = Vec::<BlockHeaderWithChanges>::decode(&mut &*decoded.encoded_blocks).unwrap();
    assert!(
        blocks.iter().map(|block| block.block_header.number).eq(1..=tip.0),
        "the body has the blocks 1 to {tip} in order"
    );
}

fn block(sample: &Sample, number: u32) -> BlockHeaderWithChanges {
    BlockHeaderWithChanges {
        block_header: sample.para[number as usize].clone(),
        storage_changes: sample.changes[number as usize].clone(),
    }
}

/// Relay headers whose state names parachain headers that are not available yet are not served.
async fn headers_wait_for_the_parachain<B: Backend>(sample: &Sample) {
    let mut backend = B::create(sample).await;
    backend.push_relay(&sample.relay).await;
    let blocks = para_blocks(sample);
    let stored = blocks.len() / 2;
    backend.push_para(&blocks[..stored]).await;
    let source = backend.source();
    let Heights { relay, para, .. } = *source.heights().borrow();
    let last = (stored - 1) as u32;
    assert!(para.unwrap().0 <= last, "`Heights::para` is beyond the newest stored parachain block, {last}");
    let covered = sample.relay.iter().rfind(|block| {
        block.justified.as_ref().is_some_and(|at| at.para_head.is_some_and(|head| head.0 <= last))
    });
    assert_eq!(
        relay.map(|n| n.0),
        covered.map(|block| block.header.number),
        "`Heights::relay` is the newest justified block whose parachain headers, up to the head that its state names, \
         are stored: here up to {last}"
    );
    let cursor = HeaderCursor { relay: relay.unwrap().next(), para: para.unwrap().next() };
    assert!(matches!(source.headers(cursor, NO_LIMIT).await, Ok(None)), "the parachain is behind");
    backend.push_para(&blocks[stored..]).await;
    assert!(
        source.headers(cursor, NO_LIMIT).await.unwrap().is_some(),
        "a batch is available once the parachain's blocks are"
    );
}
