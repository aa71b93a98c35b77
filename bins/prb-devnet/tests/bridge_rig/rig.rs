//! A minimal bridge, for tests that feed workers from a devnet's own blocks.

#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used)]

use std::sync::Arc;

use codec::{Compact, Decode, Encode};
use prb_core::{
    prpc::{self, Method},
    wire::{
        AuthoritySet, BlockHeaderWithChanges, EgressMessages, GenesisBlockInfo, Header, HeaderToSync,
        StorageChanges,
    },
};
use prb_devnet::{Devnet, Node, truth, worker::WorkerHandle};
use prb_devnet_runtime::{
    pallets::{mq, registry},
    para::v1::{Runtime, RuntimeCall, SPEC_VERSION},
    types::WorkerRegistrationInfoV2,
};
use prost::Message;
use sp_core::{H256, Pair, sr25519};
use sp_io::hashing::{blake2_256, twox_64, twox_128};

/// An HTTP client.
pub fn http() -> reqwest::Client {
    // Another test of the process may have installed it first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::new()
}

/// Most blocks in a dispatch.
pub const DISPATCH: u32 = 50;

pub fn item(pallet: &str, name: &str) -> Vec<u8> {
    [twox_128(pallet.as_bytes()), twox_128(name.as_bytes())].concat()
}

pub fn wire<T: Decode>(value: &impl Encode) -> T {
    T::decode(&mut &*value.encode()).unwrap()
}

/// Carries blocks from the chains to a worker, and messages back.
#[derive(Clone)]
pub struct Bridge {
    pub devnet: Devnet,
    pub worker: Arc<WorkerHandle>,
    client: reqwest::Client,
}

impl Bridge {
    pub fn new(devnet: &Devnet, worker: WorkerHandle) -> Self {
        Self { devnet: devnet.clone(), worker: Arc::new(worker), client: http() }
    }

    pub async fn call<A: Message + Default>(&self, method: Method, request: &impl Message) -> A {
        let url = format!("{}/prpc/PhactoryAPI.{}", self.worker.endpoint(), method.name());
        let response = self.client.post(url).body(request.encode_to_vec()).send().await.unwrap();
        let status = response.status();
        let body = response.bytes().await.unwrap();
        assert!(status.is_success(), "{method:?}: {:?}", prpc::ServerError::decode(body));
        A::decode(body).unwrap()
    }

    pub async fn info(&self) -> prpc::PhactoryInfo {
        self.call(Method::GetInfo, &()).await
    }

    pub async fn init(&self) {
        let _: prpc::InitRuntimeResponse = self.call(Method::InitRuntime, &self.init_request()).await;
    }

    /// Builds a request without attestation and operator.
    pub fn init_request(&self) -> prpc::InitRuntimeRequest {
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
        prpc::InitRuntimeRequest {
            skip_ra: true,
            encoded_genesis_info: genesis.encode().into(),
            encoded_genesis_state: state.encode().into(),
            is_parachain: true,
            ..Default::default()
        }
    }

    /// The last justified block at which one batch from `next` on may end.
    pub fn batch_end(&self, next: u32) -> Option<u32> {
        let relay = self.devnet.relay();
        let finalized = relay.finalized_number();
        let set_end = (next..=finalized).find(|n| header(relay, *n).scheduled_change().is_some());
        let last = set_end.unwrap_or(finalized);
        (next..=last).rev().find(|number| relay.justification(*number).is_some())
    }

    pub async fn sync_headers(&self, next: u32, end: u32, next_para: u32) {
        let (request, _) = self.headers_request(next, end, next_para);
        let to: prpc::HeadersSyncedTo = self.call(Method::SyncCombinedHeaders, &request).await;
        assert_eq!(to.relaychain_synced_to, end);
    }

    /// Builds a request with the relay headers to `end`, and the parachain headers to the head that it names.
    pub fn headers_request(&self, next: u32, end: u32, next_para: u32) -> (prpc::CombinedHeadersToSync, u32) {
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
        (request, head)
    }

    pub async fn dispatch(&self, range: std::ops::RangeInclusive<u32>) {
        let _: prpc::SyncedTo = self.call(Method::DispatchBlocks, &self.blocks_request(range)).await;
    }

    pub fn blocks_request(&self, range: std::ops::RangeInclusive<u32>) -> prpc::Blocks {
        let para = self.devnet.para();
        let blocks: Vec<BlockHeaderWithChanges> = range
            .map(|number| BlockHeaderWithChanges {
                block_header: header(para, number),
                storage_changes: wire::<StorageChanges>(&para.storage_changes(number).unwrap()),
            })
            .collect();
        prpc::Blocks { encoded_blocks: blocks.encode().into() }
    }

    /// Syncs the worker to the last justified block.
    pub async fn sync(&self) -> prpc::PhactoryInfo {
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

    /// Advances the chains by two relay blocks and one parachain block, and syncs the worker.
    pub async fn step(&self) -> prpc::PhactoryInfo {
        self.devnet.tick().unwrap();
        self.devnet.tick().unwrap();
        self.sync().await
    }

    /// Submits a call of pool 1's operator.
    pub fn submit(&self, call: impl Into<RuntimeCall>) {
        let (para, pool) = (self.devnet.para(), &self.devnet.pools()[0]);
        let (pair, _) = sr25519::Pair::from_phrase(&pool.mnemonic, None).unwrap();
        let nonce = para.next_nonce(&pair.public().0).unwrap();
        let genesis = para.block_hash(0).unwrap();
        para.submit(signed(&pair, nonce, genesis, &call.into().encode())).unwrap();
    }

    /// Submits the messages that the chain expects next.
    pub async fn relay_messages(&self) {
        let egress: prpc::EgressMessages = self.call(Method::GetEgressMessages, &()).await;
        let egress = EgressMessages::decode(&mut &*egress.encoded_messages).unwrap();
        for (sender, messages) in egress {
            let wanted = self.devnet.para().next_sequence(&wire(&sender)).unwrap();
            for message in messages.iter().filter(|message| message.sequence >= wanted) {
                self.submit(mq::Call::<Runtime>::sync_offchain_message { signed_message: wire(message) });
            }
        }
    }

    pub fn truth(&self) -> truth::WorkerTruth {
        truth::worker(self.devnet.para(), self.worker.public_key().0).unwrap()
    }

    pub fn pubkey(&self) -> sr25519::Public {
        sr25519::Public::from_raw(self.worker.public_key().0)
    }

    /// Steps and submits messages until the condition holds on chain; at most `blocks` parachain blocks.
    pub async fn until(&self, blocks: u32, reached: impl Fn(&truth::WorkerTruth) -> bool) {
        for _ in 0..blocks {
            if reached(&self.truth()) {
                return;
            }
            self.relay_messages().await;
            self.step().await;
        }
        panic!("not within {blocks} blocks: {:?}", self.truth());
    }

    pub async fn register(&self) {
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

pub fn header(node: &Node, number: u32) -> Header {
    wire(&node.header(number).unwrap())
}

/// An immortal extrinsic, version 4, without a tip.
pub fn signed(pair: &sr25519::Pair, nonce: u32, genesis: H256, call: &[u8]) -> Vec<u8> {
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
