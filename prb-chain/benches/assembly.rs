//! Benchmark of assembling a batch from the store, against a copy of the same bytes.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{hint::black_box, path::Path};

use codec::Encode;
use criterion::{
    BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime,
};
use prb_chain::{
    internals::{
        store::{NewJustifiedBlock, ParaHead, RelayBatch},
        verify::Start,
    },
    store::{Config, Store},
};
use prb_core::{
    blob::{BlockCursor, HeaderCursor, assemble, memory::empty_genesis},
    primitives::{Hash, ParaNumber, RelayNumber},
    wire::{AuthoritySet, DigestItem, Header, StorageChanges},
};

/// Relay blocks of an authority set, as on Kusama.
const SET_LENGTH: u32 = 600;
const SETS: u32 = 2;
/// A justification of 300 authorities.
const JUSTIFICATION_BYTES: usize = 36_000;
const NO_LIMIT: usize = 1 << 30;

fn header(number: u32, parent_hash: Hash, log: usize) -> Header {
    Header {
        parent_hash,
        number,
        state_root: Hash([7; 32]),
        extrinsics_root: Hash([8; 32]),
        digest: vec![DigestItem::Seal(*b"BABE", vec![9; log])],
    }
}

/// 100 changes of 100 bytes.
fn changes(block: u32) -> Vec<u8> {
    let main = (0..100u32)
        .map(|i| {
            let value = Hash::of(&(i, block).encode()).0.repeat(4);
            (Hash::of(&i.encode()).0.to_vec(), Some(value[..100].to_vec()))
        })
        .collect();
    StorageChanges { main, child: vec![] }.encode()
}

fn fill(path: &Path) -> Store {
    let store = Store::open(path, Config::default()).unwrap();
    let mut set = AuthoritySet { list: vec![([1; 32], 1); 300], id: 0 };
    let start = Start { number: 0, hash: Hash::default(), set: set.clone() };
    store.set_genesis(&start, &empty_genesis(RelayNumber(0))).unwrap();
    let (mut relay_parent, mut para_parent, mut para) = (Hash::default(), Hash::default(), Vec::new());
    for number in 0..=SETS * SET_LENGTH / 2 {
        let encoded = header(number, para_parent, 120).encode();
        para_parent = Hash::of(&encoded);
        para.push(encoded);
    }
    for i in 0..SETS {
        let first = i * SET_LENGTH + 1;
        let mut headers = Vec::new();
        for number in first..first + SET_LENGTH {
            let encoded = header(number, relay_parent, 250).encode();
            relay_parent = Hash::of(&encoded);
            headers.push(encoded);
        }
        let head = (i + 1) * SET_LENGTH / 2;
        set.id += 1;
        let block = NewJustifiedBlock {
            number: RelayNumber(first + SET_LENGTH - 1),
            justification: vec![3; JUSTIFICATION_BYTES],
            set_id: set.id - 1,
            next_set: Some(set.clone()),
            para_head: Some(ParaHead { number: ParaNumber(head), hash: Hash::of(&para[head as usize]) }),
            proof: vec![vec![4; 500]; 8],
        };
        store
            .append_relay(&RelayBatch { first: RelayNumber(first), headers, justified: vec![block] })
            .unwrap();
    }
    store.append_para_headers(ParaNumber(0), &para).unwrap();
    let blocks: Vec<_> = (1..para.len() as u32).map(changes).collect();
    store.append_changes(ParaNumber(1), &blocks).unwrap();
    store
}

fn against_copy(group: &mut BenchmarkGroup<'_, WallTime>, body: &[u8], mut assemble: impl FnMut()) {
    group.throughput(Throughput::Bytes(body.len() as u64));
    group.bench_function("copy of the same bytes", |b| b.iter(|| black_box(body).to_vec()));
    group.bench_function("assembly", |b| b.iter(&mut assemble));
}

fn benches(c: &mut Criterion) {
    let dir = tempfile::TempDir::new().unwrap();
    let store = fill(dir.path());

    let cursor = HeaderCursor { relay: RelayNumber(1), para: ParaNumber(0) };
    let headers = || assemble::headers(&store.view().unwrap(), cursor, NO_LIMIT).unwrap().unwrap();
    let mut group = c.benchmark_group("headers of a set of 600");
    against_copy(&mut group, &headers().body, || drop(black_box(headers())));
    group.finish();

    for (name, count) in [("1 block", 1), ("30 blocks", 30), ("300 blocks", 300)] {
        let cursor = BlockCursor { from: ParaNumber(1), to: ParaNumber(count) };
        let blocks = || assemble::blocks(&store.view().unwrap(), cursor, NO_LIMIT).unwrap().unwrap();
        let mut group = c.benchmark_group(name);
        against_copy(&mut group, &blocks().body, || drop(black_box(blocks())));
        group.finish();
    }
}

criterion_group!(assembly, benches);
criterion_main!(assembly);
