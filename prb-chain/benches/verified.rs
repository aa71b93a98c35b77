//! What it costs a manager to verify header batches of data providers: once for each batch, whatever the number of
//! workers. A thousand authorities sign, as on Kusama.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use codec::Encode as _;
use criterion::{Criterion, criterion_group, criterion_main};
use finality_grandpa::{Commit, Message, Precommit, SignedPrecommit};
use prb_chain::{
    internals::verify::state::authority_keys,
    verified::{Config, VerifiedSource},
};
use prb_core::{
    blob::{
        BlobSource, BlockBatch, BlockCursor, Error, Genesis, HeaderBatch, HeaderCursor, Heights, Span,
        memory::empty_genesis,
    },
    primitives::{Hash, ParaNumber, RelayNumber},
    prpc::CombinedHeadersToSync,
    wire::{AuthoritySet, DigestItem, GenesisBlockInfo, Header, HeaderToSync},
};
use prost::Message as _;
use sp_consensus_grandpa::{AuthorityId, AuthoritySignature, GrandpaJustification, localized_payload};
use sp_core::{Pair, crypto::UncheckedFrom, ed25519};
use sp_runtime::{generic, traits::BlakeTwo256};
use sp_trie::{LayoutV0, MemoryDB, TrieDBMutBuilder, TrieMut};
use tokio::{runtime::Runtime, sync::watch};

const AUTHORITIES: u32 = 1000;
const BLOCKS: u32 = 60;
/// Relay blocks in one batch of a worker that catches up: those of an hour.
const LONG: u32 = 600;
const NO_LIMIT: usize = 1 << 30;

type SubstrateHeader = generic::Header<u32, BlakeTwo256>;

/// A chain whose every header has a justification.
#[derive(Debug)]
struct Chain {
    genesis: Genesis,
    headers: Vec<Header>,
    justifications: Vec<Vec<u8>>,
    heights: watch::Sender<Heights>,
}

fn header(number: u32, parent_hash: Hash, state_root: Hash) -> Header {
    let digest = vec![DigestItem::Seal(*b"BABE", vec![9; 250])];
    Header { parent_hash, number, state_root, extrinsics_root: Hash([8; 32]), digest }
}

fn justify(pairs: &[ed25519::Pair], set_id: u64, header: &Header) -> Vec<u8> {
    let target_hash = sp_core::H256(header.hash().0);
    let precommit = Precommit { target_hash, target_number: header.number };
    let payload = localized_payload(1, set_id, &Message::Precommit(precommit.clone()));
    // Two thirds and one, as nodes stop there.
    let voters = pairs.iter().take(pairs.len() * 2 / 3 + 1);
    let precommits = voters.map(|pair| SignedPrecommit {
        precommit: precommit.clone(),
        signature: AuthoritySignature::from(pair.sign(&payload)),
        id: AuthorityId::unchecked_from(pair.public().0),
    });
    let commit = Commit { target_hash, target_number: header.number, precommits: precommits.collect() };
    GrandpaJustification::<SubstrateHeader> { round: 1, commit, votes_ancestries: vec![] }.encode()
}

fn genesis(set: &AuthoritySet) -> (Genesis, Header) {
    let (mut db, mut root) = (MemoryDB::<BlakeTwo256>::default(), Default::default());
    {
        let mut trie = TrieDBMutBuilder::<LayoutV0<BlakeTwo256>>::new(&mut db, &mut root).build();
        let [list, _, id] = authority_keys();
        trie.insert(&list, &set.list.encode()).unwrap();
        trie.insert(&id, &set.id.to_le_bytes()).unwrap();
    }
    let proof = db.drain().into_values().map(|(node, _)| node).collect();
    let block_header = header(0, Hash::default(), Hash(root.0));
    let info = GenesisBlockInfo { block_header: block_header.clone(), authority_set: set.clone(), proof };
    let genesis = Genesis {
        relay_hash: block_header.hash(),
        info: info.encode().into(),
        ..empty_genesis(RelayNumber(0))
    };
    (genesis, block_header)
}

impl Chain {
    fn new() -> Self {
        let pairs: Vec<_> =
            (0..AUTHORITIES).map(|i| ed25519::Pair::from_seed(&Hash::of(&i.to_le_bytes()).0)).collect();
        let list = pairs.iter().map(|pair| (pair.public().0, 1)).collect();
        let set = AuthoritySet { list, id: 7 };
        let (genesis, start) = genesis(&set);
        let (mut headers, mut parent) = (Vec::new(), start.hash());
        for number in 1..=LONG {
            let header = header(number, parent, Hash([7; 32]));
            parent = header.hash();
            headers.push(header);
        }
        let is_stop = |header: &&Header| header.number <= BLOCKS || header.number == LONG;
        let justifications =
            headers.iter().filter(is_stop).map(|header| justify(&pairs, set.id, header)).collect();
        Self { genesis, headers, justifications, heights: watch::Sender::default() }
    }

    fn batch(&self, first: u32, last: u32) -> HeaderBatch {
        let at = if last == LONG { self.justifications.len() - 1 } else { last as usize - 1 };
        let headers = &self.headers[first as usize - 1..last as usize];
        let relay: Vec<_> = headers
            .iter()
            .map(|header| HeaderToSync {
                header: header.clone(),
                justification: (header.number == last).then(|| self.justifications[at].clone()),
            })
            .collect();
        let body = CombinedHeadersToSync {
            encoded_relaychain_headers: relay.encode().into(),
            encoded_parachain_headers: Vec::<Header>::new().encode().into(),
            ..CombinedHeadersToSync::default()
        };
        let relay = Span { first: RelayNumber(first), last: RelayNumber(last) };
        HeaderBatch { relay, para: None, body: body.encode_to_vec().into() }
    }
}

#[async_trait]
impl BlobSource for Chain {
    fn heights(&self) -> watch::Receiver<Heights> {
        self.heights.subscribe()
    }

    async fn genesis(&self) -> Result<Genesis, Error> {
        Ok(self.genesis.clone())
    }

    /// Small limits are for the tip.
    async fn headers(&self, cursor: HeaderCursor, max_bytes: usize) -> Result<Option<HeaderBatch>, Error> {
        let first = cursor.relay.0;
        Ok(Some(self.batch(first, if max_bytes == NO_LIMIT { LONG } else { first })))
    }

    async fn blocks(&self, _: BlockCursor, _: usize) -> Result<Option<BlockBatch>, Error> {
        Ok(None)
    }
}

fn cursor(relay: u32) -> HeaderCursor {
    HeaderCursor { relay: RelayNumber(relay), para: ParaNumber(0) }
}

/// The time that a source takes for the blocks, each once, `iters` of them in all.
fn each_once(
    runtime: &Runtime,
    iters: u64,
    max_bytes: usize,
    source: impl Fn() -> Arc<dyn BlobSource>,
) -> Duration {
    let (mut spent, mut left) = (Duration::ZERO, iters);
    while left > 0 {
        let source = source();
        runtime.block_on(source.headers(cursor(1), max_bytes)).unwrap();
        for number in 2..=BLOCKS.min(u32::try_from(left + 1).unwrap_or(BLOCKS)) {
            let start = Instant::now();
            runtime.block_on(source.headers(cursor(number), max_bytes)).unwrap();
            spent += start.elapsed();
            left -= 1;
        }
    }
    spent
}

fn benches(c: &mut Criterion) {
    let runtime = Runtime::new().unwrap();
    let chain = Arc::new(Chain::new());
    let plain = || Arc::clone(&chain) as Arc<dyn BlobSource>;
    let verified =
        || Arc::new(VerifiedSource::open(Arc::clone(&chain), Config::default())) as Arc<dyn BlobSource>;

    let mut group = c.benchmark_group("a block at the tip");
    group.sample_size(10);
    group.bench_function("passed on", |b| b.iter_custom(|n| each_once(&runtime, n, 1, plain)));
    group.bench_function("verified", |b| b.iter_custom(|n| each_once(&runtime, n, 1, verified)));
    let known = verified();
    runtime.block_on(known.headers(cursor(1), 1)).unwrap();
    group.bench_function("known", |b| b.iter(|| runtime.block_on(known.headers(cursor(1), 1)).unwrap()));
    group.finish();

    // Workers that catch up ask at other places, for batches that end at the same justified block.
    let mut group = c.benchmark_group("600 headers of an hour");
    group.sample_size(10);
    group.bench_function("passed on", |b| b.iter_custom(|n| each_once(&runtime, n, NO_LIMIT, plain)));
    group.bench_function("verified", |b| b.iter_custom(|n| each_once(&runtime, n, NO_LIMIT, verified)));
    group.finish();
}

criterion_group!(verified, benches);
criterion_main!(verified);
