//! Tests of retracted blocks, refused transactions and held requests, from the view of clients.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use codec::Decode;
use prb_devnet::{Config, Devnet, InvalidTransaction, PoolError, Retracted};
use prb_devnet_runtime::Header;
use serde_json::{Value as Json, json};
use sp_consensus_grandpa::GrandpaJustification;
use subxt::{
    OnlineClient, SubstrateConfig,
    dynamic::{self, Value},
};
use subxt_rpcs::{RpcClient, client::RpcSubscription, rpc_params};
use subxt_signer::{bip39::Mnemonic, sr25519::Keypair};

struct Rig {
    devnet: Devnet,
    client: OnlineClient<SubstrateConfig>,
    rpc: RpcClient,
}

impl Rig {
    async fn new() -> Self {
        let devnet = Devnet::start(Config { history: 10, ..Config::default() }).await.unwrap();
        let rpc = RpcClient::from_insecure_url(devnet.para().url()).await.unwrap();
        let client = OnlineClient::from_insecure_url(devnet.para().url()).await.unwrap();
        Self { devnet, client, rpc }
    }

    fn ticks(&self, count: u32) {
        for _ in 0..count {
            self.devnet.tick().unwrap();
        }
    }

    /// Injects a fault by a call; either node takes it.
    async fn inject(&self, fault: &str) {
        self.rpc.request::<()>("devnet_inject", rpc_params![fault]).await.unwrap();
    }

    /// The parachain's head in the state of a relay block.
    fn para_head_at(&self, relay_block: u32) -> Option<Vec<u8>> {
        let relay = self.devnet.relay();
        let hash = relay.block_hash(relay_block).unwrap();
        relay.storage(&head_key_of(self.devnet.para_id()), hash).unwrap()
    }

    async fn signed(&self, nonce: u64) -> String {
        let signer =
            Keypair::from_phrase(&Mnemonic::parse(&self.devnet.pools()[0].mnemonic).unwrap(), None).unwrap();
        let at = self.client.at_current_block().await.unwrap();
        let payload = dynamic::transaction("System", "remark_with_event", (Value::from_bytes("x"),));
        let params = subxt::config::DefaultExtrinsicParamsBuilder::<SubstrateConfig>::new()
            .nonce(nonce)
            .mortal(64)
            .build();
        let signed = at.transactions().create_signed(&payload, &signer, params).await.unwrap();
        format!("0x{}", hex::encode(signed.encoded()))
    }

    async fn watch(&self, extrinsic: &str) -> RpcSubscription<Json> {
        let method = "author_submitAndWatchExtrinsic";
        self.rpc.subscribe(method, rpc_params![extrinsic], "author_unwatchExtrinsic").await.unwrap()
    }
}

async fn next(subscription: &mut RpcSubscription<Json>) -> Json {
    let next = tokio::time::timeout(std::time::Duration::from_secs(60), subscription.next());
    next.await.expect("no status").unwrap().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn retracted_transaction_is_included_in_another_block() {
    let rig = Rig::new().await;
    let (devnet, para) = (&rig.devnet, rig.devnet.para());
    devnet.hold_para(true);
    let mut watched = rig.watch(&rig.signed(0).await).await;
    rig.ticks(4);
    assert_eq!(next(&mut watched).await, "ready");
    assert!(next(&mut watched).await.get("broadcast").is_some());
    let first = next(&mut watched).await["inBlock"].clone();
    let (best, finalized) = (para.best_number(), para.finalized_number());
    let old = para.block_hash(best).unwrap();
    let replaced = devnet.reorganise_para(Retracted::Pooled).unwrap();
    assert_eq!((replaced, para.best_number(), para.finalized_number()), (best - finalized, best, finalized));
    assert_ne!(para.block_hash(best), Some(old));
    assert_eq!(next(&mut watched).await, json!({ "retracted": first }));
    // The retracted block is known by its hash but not part of the chain.
    let block: Json = rig.rpc.request("chain_getBlock", rpc_params![first.clone()]).await.unwrap();
    assert_eq!(block["block"]["extrinsics"].as_array().unwrap().len(), 3);
    let nonce: u32 = rig
        .rpc
        .request("system_accountNextIndex", rpc_params![devnet.pools()[0].operator.to_string()])
        .await
        .unwrap();
    assert_eq!(nonce, 1, "it is back in the pool");
    devnet.hold_para(false);
    rig.ticks(6);
    assert_eq!(next(&mut watched).await, "ready");
    assert!(next(&mut watched).await.get("broadcast").is_some());
    let second = next(&mut watched).await["inBlock"].clone();
    assert_ne!(second, first);
    assert_eq!(next(&mut watched).await, json!({ "finalized": second }));
    devnet.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn final_blocks_are_not_retracted() {
    let rig = Rig::new().await;
    rig.ticks(1);
    let para = rig.devnet.para();
    let (best, hash) = (para.best_number(), para.block_hash(para.best_number()));
    let replaced = rig.devnet.reorganise_para(Retracted::Pooled).unwrap();
    assert_eq!((replaced, para.best_number(), para.block_hash(best)), (0, best, hash));
    rig.ticks(8);
    assert!(para.finalized_number() > best);
    rig.devnet.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn watching_ends_after_the_finality_timeout() {
    let rig = Rig::new().await;
    rig.devnet.hold_para(true);
    rig.devnet.para().faults().finality_timeout(2);
    let mut watched = rig.watch(&rig.signed(0).await).await;
    rig.ticks(10);
    let mut statuses = Vec::new();
    while statuses.last().is_none_or(|status: &Json| status.get("finalityTimeout").is_none()) {
        statuses.push(next(&mut watched).await);
    }
    let in_block = statuses[statuses.len() - 2]["inBlock"].clone();
    assert_eq!(statuses.last().unwrap()["finalityTimeout"], in_block);
    rig.devnet.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_are_refused_as_configured() {
    let rig = Rig::new().await;
    let faults = rig.devnet.para().faults();
    let stale = PoolError::Invalid(InvalidTransaction::Stale);
    faults.refuse_transactions([stale, PoolError::Banned, PoolError::TooLowPriority { old: 2, new: 1 }]);
    let extrinsic = rig.signed(0).await;
    for expected in [1010, 1012, 1014] {
        let answer: Result<Json, _> =
            rig.rpc.request("author_submitExtrinsic", rpc_params![&extrinsic]).await;
        match answer {
            Err(subxt_rpcs::Error::User(error)) => assert_eq!(error.code, expected),
            other => panic!("{other:?}"),
        }
    }
    let _: Json = rig.rpc.request("author_submitExtrinsic", rpc_params![&extrinsic]).await.unwrap();
    rig.devnet.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_of_a_held_method_wait() {
    let rig = Rig::new().await;
    let faults = rig.devnet.para().faults();
    faults.hold("system_health");
    let held = rig.rpc.request::<Json>("system_health", rpc_params![]);
    tokio::pin!(held);
    tokio::select! {
        answer = &mut held => panic!("{answer:?}"),
        answer = rig.rpc.request::<Json>("system_chain", rpc_params![]) => drop(answer.unwrap()),
    }
    faults.release("system_health");
    held.await.unwrap();
    rig.devnet.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_delay_finality_take_the_parachain_off_and_fork_it() {
    let rig = Rig::new().await;
    let (relay, para) = (rig.devnet.relay(), rig.devnet.para());

    rig.inject("finality-lag=200").await;
    let before = relay.finalized_number();
    rig.ticks(150);
    assert_eq!((relay.finalized_number(), relay.best_number()), (before, before + 151));
    rig.inject("finality-lag=0").await;
    rig.ticks(1);
    assert_eq!(relay.finalized_number(), before + 151);

    rig.inject("offboard").await;
    rig.ticks(4);
    let (gone, best) = (relay.best_number(), para.best_number());
    assert_eq!(rig.para_head_at(gone), None);
    rig.inject("onboard").await;
    rig.ticks(6);
    assert!(rig.para_head_at(gone + 1).is_some() && para.finalized_number() > best);

    // The parachain block of an even relay block is not included yet.
    rig.ticks(relay.best_number() % 2);
    let retracted = para.block_hash(para.best_number());
    rig.inject("fork").await;
    rig.ticks(1);
    let forked = para.block_hash(para.best_number());
    assert_ne!(forked, retracted);
    rig.ticks(1);
    assert!(
        forked.is_some() && (0..=para.best_number()).any(|number| para.block_hash(number) == forked),
        "once"
    );
    rig.devnet.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_change_blocks_and_justifications_until_the_chains_are_healed() {
    let rig = Rig::new().await;
    let (relay, para) = (rig.devnet.relay(), rig.devnet.para());
    rig.ticks(12);

    for fault in ["equivocate", "repeat-ancestry", "heads-per-relay-block=3", "burst=300000"] {
        rig.inject(fault).await;
    }
    let best = para.best_number();
    rig.ticks(6);
    assert_eq!(para.best_number(), best + 9);
    let changed = |number| {
        let changes = para.storage_changes(number).unwrap();
        changes.main.iter().filter_map(|(_, value)| Some(value.as_ref()?.len())).sum::<usize>()
    };
    assert_eq!((best + 1..=best + 9).filter(|number| changed(*number) >= 300_000).count(), 1);
    let justification = relay.justification(relay.finalized_number()).unwrap();
    let justification = GrandpaJustification::<Header>::decode(&mut &*justification).unwrap();
    assert_eq!(justification.commit.precommits.len(), 5, "four votes, and one a second time");
    assert_eq!(justification.votes_ancestries.len(), 2);

    rig.inject("finality-lag=9").await;
    rig.inject("offboard").await;
    let _: () = rig.rpc.request("devnet_heal", rpc_params![]).await.unwrap();
    rig.ticks(4);
    assert_eq!(relay.finalized_number() + 1, relay.best_number());
    assert!(rig.para_head_at(relay.best_number()).is_some());
    rig.devnet.shutdown().await;
}

/// The key of the parachain's entry in `Paras::Heads`.
fn head_key_of(para_id: u32) -> Vec<u8> {
    let id = para_id.to_le_bytes();
    let hash = |text: &[u8]| sp_io::hashing::twox_128(text).to_vec();
    [hash(b"Paras"), hash(b"Heads"), sp_io::hashing::twox_64(&id).to_vec(), id.to_vec()].concat()
}
