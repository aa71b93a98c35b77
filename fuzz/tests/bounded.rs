//! Runs every fuzz target on a bounded number of inputs: valid ones and mutations of them.
//!
//! `PRB_FUZZ_INPUTS` sets the number of inputs for each target, `PRB_FUZZ_SEED` repeats a run, and
//! `PRB_FUZZ_CORPUS` names a folder that the valid inputs are written to, for libFuzzer to start from.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
};

use codec::Encode;
use prb_chain::rpc::{self, NodePool};
use prb_core::{
    blob::memory::MemorySource,
    chain::Call,
    primitives::{AccountId, Hash, PoolId, WorkerKey},
    prpc,
    queue::{Job, JobSigner},
    vault::Sealed,
    wire::{AuthoritySet, WorkerRegistrationInfoV2},
};
use prb_devnet::{Config, Devnet};
use prb_fuzz::{answers, archives, calls, frames, identity, jobs, keys, mdns, nodes, proofs, workers};
use prb_walkie::{
    blob::{Lookup, frame, keyspace::KeySpace},
    identity::Identity,
    proto::Request,
};
use prost::Message;
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Value, json};

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
fn bounded(name: &str, target: fn(&[u8]), seeds: &[Vec<u8>]) {
    if let Some(corpus) = std::env::var_os("PRB_FUZZ_CORPUS") {
        let folder = Path::new(&corpus).join(name);
        fs::create_dir_all(&folder).unwrap();
        for (at, seed) in seeds.iter().enumerate() {
            fs::write(folder.join(format!("valid-{at}")), seed).unwrap();
        }
    }
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
    bounded("frames", frames::run, &[[request.clone(), answer.clone()].concat(), request, answer]);
}

#[test]
fn keys_of_blobs() {
    bounded("keys", keys::run, &KEYS.map(|key| key.as_bytes().to_vec()));
}

#[test]
fn answers_of_providers() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let space = KeySpace::new(std::sync::Arc::new(MemorySource::of_empty_blocks(20)), Default::default());
    let blob = |key: &str| runtime.block_on(space.get(key)).ok().flatten();
    let blobs: Vec<Vec<u8>> = KEYS.iter().filter_map(|key| blob(key)).map(|blob| blob.to_vec()).collect();
    assert!(blobs.len() > 3, "the seeds are missing");
    bounded("answers", answers::run, &blobs);
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
    bounded("calls", calls::run, &seeds);
}

#[test]
fn packets_from_the_local_network() {
    // A query for ipfs.local, and an answer with a name pointer that points to itself.
    let name = b"\x04ipfs\x05local\x00";
    let question = [&[0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0][..], name, &[0, 12, 0, 1]].concat();
    let answer =
        [&[0, 0, 0x84, 0, 0, 0, 0, 1, 0, 0, 0, 0][..], name, &[0, 12, 0, 1, 0, 0, 0, 120, 0, 2, 0xc0, 12]]
            .concat();
    bounded("mdns", mdns::run, &[question, answer]);
}

#[test]
fn identity_files_and_addresses() {
    let file = Identity::generate().unwrap().to_bytes().unwrap().to_vec();
    let addresses =
        b"/ip4/10.0.0.1/tcp/28888/p2p/QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N,/dns4/x/tcp/1".to_vec();
    bounded("identity", identity::run, &[file, addresses]);
}

/// A node's answers.
struct NodeAnswers {
    json: Vec<Vec<u8>>,
    proofs: Vec<Vec<u8>>,
}

/// Asks the nodes of a devnet what the ingest asks.
async fn answers_of_nodes() -> NodeAnswers {
    let config = Config { history: 40, set_length: 10, justification_period: 8, ..Config::default() };
    let devnet = Devnet::start(config).await.unwrap();
    let pool = |chain, url| NodePool::new(chain, rpc::Config::new([url])).unwrap();
    let (relay, para) = (pool("relay", devnet.relay().url()), pool("para", devnet.para().url()));
    let head: Value = relay.request("chain_getFinalizedHead", rpc::NO_PARAMS).await.unwrap();
    let header: Value = relay.request("chain_getHeader", json!([head])).await.unwrap();
    let block: Value = relay.request("chain_getBlock", json!([head])).await.unwrap();
    let proof: Value = relay.request("grandpa_proveFinality", json!([1])).await.unwrap();
    let keys = prb_chain::internals::verify::state::authority_keys();
    let keys = keys.map(|key| hex(&key));
    let read: Value = relay.request("state_getReadProof", json!([keys, head])).await.unwrap();
    let para_head: Value = para.request("chain_getBlockHash", json!([2])).await.unwrap();
    let changes: Value = para.request("pha_getStorageChanges", json!([para_head, para_head])).await.unwrap();
    let proof = bytes(&proof);
    let decoded = prb_chain::internals::verify::FinalityProof::decode(&proof).unwrap();
    let (number, hash) = prb_chain::internals::verify::grandpa::target(&decoded.justification).unwrap();
    let root = Hash(bytes(&header["stateRoot"]).try_into().unwrap());
    let nodes: Vec<Vec<u8>> = read["proof"].as_array().unwrap().iter().map(bytes).collect();
    let set = prb_chain::internals::verify::state::authority_set(root, nodes.clone()).unwrap();
    let input = |state_root, justification: &[u8], set: AuthoritySet| {
        let (nodes, justification) = (nodes.clone(), justification.to_vec());
        proofs::Input { state_root, nodes, para_id: 2000, justification, number, hash, set }.encode()
    };
    let proofs = vec![
        input(Some(root), &decoded.justification, set.clone()),
        input(None, &[], set),
        decoded.justification,
        proof,
    ];
    let json = [header, block, read, changes[0].clone(), json!("0x0102"), json!([1, 2, 255])];
    devnet.shutdown().await;
    NodeAnswers { json: json.iter().map(|value| value.to_string().into_bytes()).collect(), proofs }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold("0x".to_owned(), |text, byte| text + &format!("{byte:02x}"))
}

fn bytes(value: &Value) -> Vec<u8> {
    let digits = value.as_str().unwrap().trim_start_matches("0x");
    (0..digits.len() / 2).map(|at| u8::from_str_radix(&digits[2 * at..2 * at + 2], 16).unwrap()).collect()
}

#[test]
fn answers_and_proofs_of_chain_nodes() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let seeds = runtime.block_on(answers_of_nodes());
    bounded("nodes", nodes::run, &seeds.json);
    bounded("proofs", proofs::run, &seeds.proofs);
}

#[test]
fn files_of_archives() {
    // A list of two items, and a piece with two headers and a proof of one node.
    let list = [&[2, 0, 0, 0, 3, 0, 0, 0, 4, 0, 0, 0][..], b"onea"].concat();
    let part = |bytes: &[u8]| [&(bytes.len() as u32).to_le_bytes()[..], bytes].concat();
    let piece = [part(&list), part(b"justification"), part(&[1, 0, 0, 0, 1, 0, 0, 0, 9])].concat();
    let of = |content: &[u8]| [&2u32.to_le_bytes()[..], content].concat();
    bounded("archives", archives::run, &[of(&list), of(&piece)]);
}

#[test]
fn answers_of_workers() {
    let expected = workers::expected();
    let info = WorkerRegistrationInfoV2 {
        version: 0x0002_0300,
        machine_id: vec![1; 16],
        pubkey: expected.worker,
        ecdh_pubkey: [6; 32],
        genesis_block_hash: expected.relay_genesis,
        features: vec![4, 1],
        operator: Some(expected.operator),
        para_id: expected.para_id,
        max_consensus_version: 1,
    };
    // `Some`, a DCAP report with a short quote, and no collateral.
    let report = [&[1, 1][..], &Encode::encode(&b"quote".to_vec()), &[0]].concat();
    let attestation = prpc::Attestation { version: 2, encoded_report: report, ..Default::default() };
    let registration = prpc::InitRuntimeResponse {
        encoded_runtime_info: info.encode(),
        attestation: Some(attestation),
        ..Default::default()
    };
    let info = prpc::PhactoryInfo { initialized: true, headernum: 5, blocknum: 7, ..Default::default() };
    let messages = prpc::EgressMessages { encoded_messages: vec![4, 1, 2, 3] };
    let seeds = [
        registration.encode_to_vec(),
        info.encode_to_vec(),
        messages.encode_to_vec(),
        prpc::SyncedTo { synced_to: 9 }.encode_to_vec(),
    ];
    bounded("workers", workers::run, &seeds);
}

#[test]
fn jobs_from_redis() {
    let (pool, worker, stake) = (PoolId(7), WorkerKey([3; 32]), u128::MAX);
    let signer = JobSigner { operator: AccountId([1; 32]), key: Sealed(vec![0xab]), proxied: None };
    let job = |calls: Vec<Call>| Job { pool, signer: signer.clone(), calls, retries: 3 };
    let jobs = [
        job(vec![Call::AddWorker { pool, worker }]),
        job(vec![Call::StartComputing { pool, worker, stake }, Call::StopComputing { pool, worker }]),
        job(vec![Call::RegisterWorker {
            worker,
            runtime_info: vec![1],
            attestation: vec![0],
            replaces: Some(9),
        }]),
    ];
    let mut seeds: Vec<_> = jobs.iter().map(prb_queue::internals::write_job).collect();
    assert!(seeds.iter().all(|seed| prb_queue::internals::read_job(seed).is_some()), "the seeds are jobs");
    let of_the_original = json!({
        "data": { "action": "START_COMPUTING", "payload": { "pid": "7", "publicKey": hex(&worker.0), "stake": "1" } },
        "options": { "timestamp": 1, "stacktraces": [] }, "status": "created", "progress": 0,
    });
    seeds.push(of_the_original.to_string().into_bytes());
    bounded("jobs", jobs::run, &seeds);
}
