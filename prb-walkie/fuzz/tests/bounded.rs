//! Runs every fuzz target on a bounded number of inputs: valid ones and mutations of them.
//!
//! `PRB_FUZZ_INPUTS` sets the number of inputs for each target, `PRB_FUZZ_SEED` repeats a run.
#![allow(clippy::unwrap_used)]

use std::panic::{AssertUnwindSafe, catch_unwind};

use prb_core::blob::memory::MemorySource;
use prb_walkie::{
    blob::{Lookup, frame, keyspace::KeySpace},
    identity::Identity,
    proto::Request,
};
use prb_walkie_fuzz::{answers, calls, frames, identity, keys, mdns};
use prost::Message;
use rand::{Rng, SeedableRng, rngs::StdRng};

/// Inputs for each target.
const INPUTS: u32 = 3_000;
/// Longest input, in bytes.
const MAX_BYTES: usize = 4096;
/// Boundary values of lengths, numbers and tags.
const EDGES: [u8; 8] = [0, 1, 0x7f, 0x80, 0xff, 0x0a, 0x12, b':'];

const KEYS: [&str; 10] = [
    "genesis:2004:pb",
    "rangeByParentBlock:7:pb",
    "drySyncHeader:1:9:-1:-1",
    "blobRange:1:9:2:5:SyncHeaderReq",
    "rangeParaBlock:key:3",
    "dryParaBlock:3",
    "rangeParaBlock:buffer:3",
    "heights:1:2:0",
    "headers:1:1:65536",
    "blocks:1:10:65536",
];

fn number<T: std::str::FromStr>(name: &str) -> Option<T> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// Runs a target on each seed and on mutations of them.
fn bounded(target: fn(&[u8]), seeds: &[Vec<u8>]) {
    let seed = number("PRB_FUZZ_SEED").unwrap_or_else(|| rand::rng().random());
    let mut rng = StdRng::seed_from_u64(seed);
    let check = |input: &[u8]| {
        let result = catch_unwind(AssertUnwindSafe(|| target(input)));
        assert!(result.is_ok(), "PRB_FUZZ_SEED={seed}, input {input:02x?}");
    };
    seeds.iter().for_each(|seed| check(seed));
    check(&[]);
    for _ in 0..number("PRB_FUZZ_INPUTS").unwrap_or(INPUTS) {
        check(&mutated(seeds, &mut rng));
    }
}

fn mutated(seeds: &[Vec<u8>], rng: &mut StdRng) -> Vec<u8> {
    let pick = |rng: &mut StdRng| seeds[rng.random_range(0..seeds.len())].clone();
    let mut input = pick(rng);
    for _ in 0..rng.random_range(1..6) {
        let at = rng.random_range(0..=input.len());
        match rng.random_range(0..6) {
            0 => input.truncate(at),
            1 => input.insert(at, EDGES[rng.random_range(0..EDGES.len())]),
            2 => drop(input.splice(at.., pick(rng))),
            3 => input.extend((0..rng.random_range(1..64)).map(|_| rng.random::<u8>())),
            kind => {
                if let Some(byte) = input.get_mut(at) {
                    *byte = if kind == 4 { rng.random() } else { EDGES[rng.random_range(0..EDGES.len())] };
                }
            }
        }
    }
    input.truncate(MAX_BYTES);
    input
}

#[test]
fn frames_of_the_blob_wire() {
    let mut request = Vec::new();
    frame::put_request([7; 8], KEYS[0], &mut request);
    let mut answer = Vec::new();
    frame::put_answer([7; 8], Some(b"a blob"), &mut answer);
    bounded(frames::run, &[[request.clone(), answer.clone()].concat(), request, answer]);
}

#[test]
fn keys_of_blobs() {
    bounded(keys::run, &KEYS.map(|key| key.as_bytes().to_vec()));
}

#[test]
fn answers_of_providers() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let space = KeySpace::new(std::sync::Arc::new(MemorySource::of_empty_blocks(20)), Default::default());
    let blob = |key: &str| runtime.block_on(space.get(key)).ok().flatten();
    let blobs: Vec<Vec<u8>> = KEYS.iter().filter_map(|key| blob(key)).map(|blob| blob.to_vec()).collect();
    assert!(blobs.len() > 3, "the seeds are missing");
    bounded(answers::run, &blobs);
}

#[test]
fn calls_of_strangers_and_operators() {
    let methods =
        ["Hello", "Auth", "ListPool", "CreateWorker", "UpdatePool", "GetWorkerStatus", "GetBlobByKey", "x"];
    let seeds = methods.map(|method| {
        let request = Request {
            created_at: 1,
            nonce: "nonce".into(),
            data: vec![0x0a, 0x04, 0x08, 0x07, 0x12, 0x00].into(),
            method: method.into(),
        };
        // The first byte selects the caller.
        [vec![1], request.encode_to_vec()].concat()
    });
    bounded(calls::run, &seeds);
}

#[test]
fn packets_from_the_local_network() {
    // A query for ipfs.local, and an answer with a name pointer that points to itself.
    let name = b"\x04ipfs\x05local\x00";
    let question = [&[0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], name, &[0, 12, 0, 1]].concat();
    let answer =
        [&[0, 0, 0x84, 0, 0, 0, 0, 1, 0, 0, 0, 0][..], name, &[0, 12, 0, 1, 0, 0, 0, 120, 0, 2, 0xc0, 12]]
            .concat();
    bounded(mdns::run, &[question, answer]);
}

#[test]
fn identity_files_and_addresses() {
    let file = Identity::generate().unwrap().to_bytes().unwrap().to_vec();
    let addresses =
        b"/ip4/10.0.0.1/tcp/28888/p2p/QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N,/dns4/x/tcp/1".to_vec();
    bounded(identity::run, &[file, addresses]);
}
