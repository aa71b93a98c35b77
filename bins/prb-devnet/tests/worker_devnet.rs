//! Workers fed from the devnet's own blocks: synced over set changes, registered, benchmarked, computing.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;

use codec::{Compact, Decode, Encode};
use prb_core::{
    prpc::{self, Method},
    wire::{
        AuthoritySet, BlockHeaderWithChanges, EgressMessages, GenesisBlockInfo, Header, HeaderToSync,
        StorageChanges,
    },
};
use prb_devnet::{
    Config, Devnet, Node, truth,
    worker::{self, WorkerHandle},
};
use prb_devnet_runtime::{
    PHA,
    pallets::{computation, mq, registry, stake_pool},
    para::v1::{Runtime, RuntimeCall, SPEC_VERSION},
    types::{WorkerRegistrationInfoV2, WorkerState},
};
use prost::Message;
use sp_core::{H256, Pair, sr25519};
use sp_io::hashing::{blake2_256, twox_64, twox_128};
use tokio::task::JoinSet;

/// Most blocks in a dispatch.
const DISPATCH: u32 = 50;

fn item(pallet: &str, name: &str) -> Vec<u8> {
    [twox_128(pallet.as_bytes()), twox_128(name.as_bytes())].concat()
}

fn wire<T: Decode>(value: &impl Encode) -> T {
    T::decode(&mut &*value.encode()).unwrap()
}

/// Carries blocks from the chains to a worker, and messages back; the smallest bridge there is.
#[derive(Clone)]
struct Bridge {
    devnet: Devnet,
    worker: Arc<WorkerHandle>,
    client: reqwest::Client,
}

impl Bridge {
    fn new(devnet: &Devnet, worker: WorkerHandle) -> Self {
        Self { devnet: devnet.clone(), worker: Arc::new(worker), client: reqwest::Client::new() }
    }

    async fn call<A: Message + Default>(&self, method: Method, request: &impl Message) -> A {
        let url = format!("{}/prpc/PhactoryAPI.{}", self.worker.endpoint(), method.name());
        let response = self.client.post(url).body(request.encode_to_vec()).send().await.unwrap();
        let status = response.status();
        let body = response.bytes().await.unwrap();
        assert!(status.is_success(), "{method:?}: {:?}", prpc::ServerError::decode(body));
        A::decode(body).unwrap()
    }

    async fn info(&self) -> prpc::PhactoryInfo {
        self.call(Method::GetInfo, &()).await
    }

    async fn init(&self) {
        let (relay, para) = (self.devnet.relay(), self.devnet.para());
        let start = relay.block_hash(1).unwrap();
        let keys = [item("Grandpa", "Authorities"), item("Grandpa", "CurrentSetId")];
        let read = |key| relay.storage(key, start).unwrap().unwrap();
        let genesis = GenesisBlockInfo {
            block_header: header(relay, 1),
            authority_set: AuthoritySet {
                list: Decode::decode(&mut &*read(&keys[0])).unwrap(),
                id: Decode::decode(&mut &*read(&keys[1])).unwrap(),
            },
            proof: relay.read_proof(&keys, start).unwrap(),
        };
        let state = para.storage_pairs(&[], para.block_hash(0).unwrap()).unwrap();
        let request = prpc::InitRuntimeRequest {
            skip_ra: true,
            encoded_genesis_info: genesis.encode().into(),
            encoded_genesis_state: state.encode().into(),
            is_parachain: true,
            ..Default::default()
        };
        let _: prpc::InitRuntimeResponse = self.call(Method::InitRuntime, &request).await;
    }

    /// The last justified block that one batch from `next` on may end at.
    fn batch_end(&self, next: u32) -> Option<u32> {
        let relay = self.devnet.relay();
        let finalized = relay.finalized_number();
        let set_end = (next..=finalized).find(|n| header(relay, *n).scheduled_change().is_some());
        let last = set_end.unwrap_or(finalized);
        (next..=last).rev().find(|number| relay.justification(*number).is_some())
    }

    async fn sync_headers(&self, next: u32, end: u32, next_para: u32) {
        let relay = self.devnet.relay();
        let headers: Vec<HeaderToSync> = (next..=end)
            .map(|number| HeaderToSync {
                header: header(relay, number),
                justification: relay.justification(number).filter(|_| number == end),
            })
            .collect();
        let at = relay.block_hash(end).unwrap();
        let key = {
            let id = Encode::encode(&self.devnet.para_id());
            [item("Paras", "Heads"), twox_64(&id).to_vec(), id].concat()
        };
        let head: Vec<u8> = Decode::decode(&mut &*relay.storage(&key, at).unwrap().unwrap()).unwrap();
        let head = Header::decode(&mut &*head).unwrap().number;
        let para: Vec<Header> = (next_para..=head).map(|n| header(self.devnet.para(), n)).collect();
        let proof = if para.is_empty() { Vec::new() } else { relay.read_proof(&[key], at).unwrap() };
        let request = prpc::CombinedHeadersToSync {
            encoded_relaychain_headers: headers.encode().into(),
            authority_set_change: None,
            encoded_parachain_headers: para.encode().into(),
            proof,
        };
        let to: prpc::HeadersSyncedTo = self.call(Method::SyncCombinedHeaders, &request).await;
        assert_eq!(to.relaychain_synced_to, end);
    }

    async fn dispatch(&self, range: std::ops::RangeInclusive<u32>) {
        let para = self.devnet.para();
        let blocks: Vec<BlockHeaderWithChanges> = range
            .map(|number| BlockHeaderWithChanges {
                block_header: header(para, number),
                storage_changes: wire::<StorageChanges>(&para.storage_changes(number).unwrap()),
            })
            .collect();
        let request = prpc::Blocks { encoded_blocks: blocks.encode().into() };
        let _: prpc::SyncedTo = self.call(Method::DispatchBlocks, &request).await;
    }

    /// Brings the worker to the last justified block.
    async fn sync(&self) -> prpc::PhactoryInfo {
        loop {
            let info = self.info().await;
            if info.blocknum < info.para_headernum {
                let last = (info.para_headernum - 1).min(info.blocknum + DISPATCH - 1);
                self.dispatch(info.blocknum..=last).await;
            } else if let Some(end) = self.batch_end(info.headernum) {
                self.sync_headers(info.headernum, end, info.para_headernum).await;
            } else {
                return info;
            }
        }
    }

    /// Lets the chains go on for two relay blocks, one of the parachain, and the worker follow.
    async fn step(&self) -> prpc::PhactoryInfo {
        self.devnet.tick().unwrap();
        self.devnet.tick().unwrap();
        self.sync().await
    }

    /// Sends a call of pool 1's operator.
    fn submit(&self, call: impl Into<RuntimeCall>) {
        let (para, pool) = (self.devnet.para(), &self.devnet.pools()[0]);
        let (pair, _) = sr25519::Pair::from_phrase(&pool.mnemonic, None).unwrap();
        let nonce = para.next_nonce(&pair.public().0).unwrap();
        let genesis = para.block_hash(0).unwrap();
        para.submit(signed(&pair, nonce, genesis, &call.into().encode())).unwrap();
    }

    /// Carries the messages that the chain wants next.
    async fn relay_messages(&self) {
        let egress: prpc::EgressMessages = self.call(Method::GetEgressMessages, &()).await;
        let egress = EgressMessages::decode(&mut &*egress.encoded_messages).unwrap();
        for (sender, messages) in egress {
            let wanted = self.devnet.para().next_sequence(&wire(&sender)).unwrap();
            for message in messages.iter().filter(|message| message.sequence >= wanted) {
                self.submit(mq::Call::<Runtime>::sync_offchain_message { signed_message: wire(message) });
            }
        }
    }

    fn truth(&self) -> truth::WorkerTruth {
        truth::worker(self.devnet.para(), self.worker.public_key().0).unwrap()
    }

    fn pubkey(&self) -> sr25519::Public {
        sr25519::Public::from_raw(self.worker.public_key().0)
    }

    /// Steps, carrying messages, until the chain says so; at most `blocks` parachain blocks.
    async fn until(&self, blocks: u32, reached: impl Fn(&truth::WorkerTruth) -> bool) {
        for _ in 0..blocks {
            if reached(&self.truth()) {
                return;
            }
            self.relay_messages().await;
            self.step().await;
        }
        panic!("not within {blocks} blocks: {:?}", self.truth());
    }

    async fn register(&self) {
        let operator = self.devnet.pools()[0].operator.encode();
        let request =
            prpc::GetRuntimeInfoRequest { force_refresh_ra: false, encoded_operator: Some(operator) };
        let response: prpc::InitRuntimeResponse = self.call(Method::GetRuntimeInfo, &request).await;
        let info = WorkerRegistrationInfoV2::decode(&mut &*response.encoded_runtime_info).unwrap();
        let report = response.attestation.unwrap().encoded_report;
        let attestation = Decode::decode(&mut &*report).unwrap();
        self.submit(registry::Call::<Runtime>::register_worker_v2 { pruntime_info: info, attestation });
    }
}

fn header(node: &Node, number: u32) -> Header {
    wire(&node.header(number).unwrap())
}

/// An immortal extrinsic, version 4, without a tip.
fn signed(pair: &sr25519::Pair, nonce: u32, genesis: H256, call: &[u8]) -> Vec<u8> {
    let extension = [vec![0], Compact(nonce).encode(), Compact(0u128).encode()].concat();
    let implied = (SPEC_VERSION, 1u32, genesis, genesis).encode();
    let mut payload = [call, &extension, &implied].concat();
    if payload.len() > 256 {
        payload = blake2_256(&payload).to_vec();
    }
    let signature = pair.sign(&payload).0;
    let body = [&[0x84, 0], &pair.public().0[..], &[1], &signature, &extension, call].concat();
    Encode::encode(&body)
}

fn assert_synced(devnet: &Devnet, info: &prpc::PhactoryInfo) {
    let (relay, para) = (devnet.relay().finalized_number(), devnet.para().finalized_number());
    assert_eq!((info.headernum, info.para_headernum, info.blocknum), (relay + 1, para + 1, para + 1));
    assert_eq!(info.state_root, hex::encode(devnet.para().header(para).unwrap().state_root));
}

fn devnet(config: Config) -> Devnet {
    Devnet::build(config).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_sync_over_set_changes_and_a_pause_of_the_parachain() {
    let config = Config { history: 60, set_length: 13, justification_period: 4, ..Config::default() };
    let devnet = devnet(config);
    devnet.pause_para(true);
    for _ in 0..40 {
        devnet.tick().unwrap();
    }
    devnet.pause_para(false);
    // The last finalized block is 116 of 117: a justified one.
    for _ in 0..17 {
        devnet.tick().unwrap();
    }
    let mut tasks = JoinSet::new();
    for worker in devnet.spawn_workers(8, 0, None).await.unwrap() {
        let bridge = Bridge::new(&devnet, worker);
        tasks.spawn(async move {
            bridge.init().await;
            let info = bridge.sync().await;
            assert_synced(&bridge.devnet, &info);
            assert_eq!(bridge.worker.overlapping_calls(), 0);
        });
    }
    assert_eq!(tasks.join_all().await.len(), 8);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_registers_is_scored_computes_and_answers() {
    let computation =
        computation::Parameters { heartbeat_interval: 2, heartbeat_window: 6, ..Default::default() };
    let devnet = devnet(Config { history: 20, set_length: 25, computation, ..Config::default() });
    let worker = devnet.spawn_workers(1, 0, None).await.unwrap().remove(0);
    let bridge = Bridge::new(&devnet, worker);
    bridge.init().await;
    assert_synced(&devnet, &bridge.sync().await);

    bridge.register().await;
    bridge.until(5, |worker| worker.registered).await;
    bridge.until(20, |worker| worker.score.is_some()).await;
    assert!(bridge.info().await.registered);
    // What the report lost on its way: some blocks of the benchmark's eight.
    let score = bridge.truth().score.unwrap();
    assert!((1000..=2000).contains(&score), "{score}");

    let pubkey = bridge.pubkey();
    bridge.submit(stake_pool::Call::<Runtime>::add_worker { pid: 1, pubkey });
    bridge.until(5, |worker| worker.pool == Some(1)).await;
    let stake = 20_000 * PHA;
    bridge.submit(stake_pool::Call::<Runtime>::start_computing { pid: 1, worker: pubkey, stake });
    bridge.until(5, |worker| worker.session == Some(WorkerState::WorkerIdle)).await;
    for _ in 0..30 {
        bridge.relay_messages().await;
        bridge.step().await;
        assert_eq!(bridge.truth().session, Some(WorkerState::WorkerIdle));
    }
    // The chain takes the heartbeats, and the worker sees that it has.
    assert!(bridge.info().await.pending_messages < 5);

    for _ in 0..20 {
        bridge.step().await;
    }
    assert_eq!(bridge.truth().session, Some(WorkerState::WorkerUnresponsive));
    assert!(bridge.info().await.pending_messages > 5);
    bridge.until(8, |worker| worker.session == Some(WorkerState::WorkerIdle)).await;

    // A worker that lost its state replays its life and comes to the same sequence.
    bridge.worker.go_away(false).await;
    bridge.worker.come_back().await.unwrap();
    bridge.init().await;
    let info = bridge.sync().await;
    assert_synced(&devnet, &info);
    assert!(info.registered && info.pending_messages < 5);
    for _ in 0..20 {
        bridge.relay_messages().await;
        bridge.step().await;
    }
    assert_eq!(bridge.truth().session, Some(WorkerState::WorkerIdle));
    assert!(bridge.info().await.pending_messages < 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_starts_from_a_later_state() {
    let devnet = devnet(Config { history: 100, ..Config::default() });
    let worker = worker::spawn_all("seed", 1, 0, None).await.unwrap().remove(0);
    let bridge = Bridge::new(&devnet, worker);
    bridge.init().await;
    let para = devnet.para();
    let state = para.storage_pairs(&[], para.block_hash(30).unwrap()).unwrap();
    let request = prpc::ChainState { block_number: 30, encoded_state: state.encode().into() };
    let () = bridge.call(Method::LoadChainState, &request).await;
    // Headers of blocks before it are not wanted: go where the relay chain knows block 30 at least.
    let end = 64;
    bridge.sync_headers(2, 50, u32::MAX).await;
    bridge.sync_headers(51, end, 30).await;
    assert_synced(&devnet, &bridge.sync().await);
}
