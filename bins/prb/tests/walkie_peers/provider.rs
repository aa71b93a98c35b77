//! `prb data-provider` with the original's peers: every method, and blobs over each of three protocols.

use serde_json::{Value, json};
use tokio::time::{Duration, Instant, sleep};

use crate::{
    js::{Peer, Tool},
    setup::{self, LIMIT, base64, call, refused},
    support::{Net, chain, daemons::provider},
};

/// Returns a provider's info, once it is at the tip.
pub(crate) async fn info_at_tip(theirs: &mut Peer, address: &str) -> Value {
    let start = Instant::now();
    loop {
        let info = call(theirs, address, "GetDataProviderInfo", json!({})).await;
        if info["status"] == "S_IDLE" {
            return info;
        }
        assert!(start.elapsed() < LIMIT, "{info}");
        sleep(Duration::from_millis(200)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn peers_can_use_every_method_of_a_data_provider() {
    let net = Net::start(chain(), 0).await;
    let mut provider = provider(&net, "dp");
    provider.start();
    let address = setup::address(&provider).await;
    let (_, id) = address.split_once("/p2p/").unwrap();
    let mut theirs = Peer::start(&["--shy"]).await;

    let info = info_at_tip(&mut theirs, &address).await;
    let number = |name: &str| info[name].as_i64().unwrap_or_default();
    assert_eq!(info["paraId"], 2004);
    assert!(number("parentProcessedHeight") > 250 && number("paraProcessedHeight") > 100, "{info}");
    for (more, less) in [("Target", "ProcessedHeight"), ("FetchedHeight", "ProcessedHeight")] {
        for chain in ["parent", "para"] {
            assert!(number(&format!("{chain}{more}")) >= number(&format!("{chain}{less}")), "{info}");
        }
    }
    assert!(number("parentCommittedHeight") >= number("parentProcessedHeight"), "{info}");
    assert!(number("paraCommittedHeight") >= number("paraProcessedHeight"), "{info}");
    let greeting =
        json!({ "hostname": "js", "peerId": theirs.peer_id, "role": "WR_CLIENT", "bridgeIdentity": "x" });
    let hello = call(&mut theirs, &address, "Hello", greeting).await;
    assert_eq!((&hello["peerId"], &hello["role"]), (&json!(id), &json!("WR_DATA_PROVIDER_INT")));
    assert_eq!(hello["chainIdentity"], setup::chain_identity(&net));

    blobs_by_three_ways(&net, &mut theirs, &address, &info).await;
    blocks_by_token(&net, &mut theirs, &address).await;

    // Methods that it does not support, and unknown ones.
    for method in ["ListPool", "CreateWorker", "KickWorker", "GetWorkerStatus"] {
        let (kind, message) = refused(&mut theirs, &address, method, json!({})).await;
        assert_eq!((&*kind, &*message), ("NOT_FOUND", "Handler not implemented."), "{method}");
    }
    assert_eq!(refused(&mut theirs, &address, "Nonsense", json!({})).await.0, "SERVER");
    let garbage = json!({ "command": "raw", "addr": address, "protocol": "/pb", "hex": "ff" });
    assert_eq!(theirs.tool.ask(garbage).await["response"]["error"]["type"], "SERVER");
    provider.stop().await;
    net.shutdown().await;
}

/// Each kind of the original's keys, over `/blob`, `GetBlobByKey` and the blob server.
async fn blobs_by_three_ways(net: &Net, theirs: &mut Peer, address: &str, info: &Value) {
    let start = info["parentStartHeader"].as_i64().unwrap_or_default();
    let decoded = async |theirs: &mut Peer, key: &str, message: &str| {
        let ask = json!({ "command": "blob", "addr": address, "key": key, "decode": message });
        theirs.tool.ask(ask).await["message"].take()
    };
    let genesis = decoded(theirs, "genesis:2004:pb", "Genesis").await;
    assert_eq!(genesis["paraId"], 2004);
    assert_eq!(genesis["parentNumber"].as_i64().unwrap_or_default(), start);
    assert!(
        !base64(&genesis["bridgeGenesisInfo"]).is_empty() && !base64(&genesis["genesisState"]).is_empty()
    );
    let first = format!("rangeByParentBlock:{}:pb", start + 1);
    let meta = decoded(theirs, &first, "RangeMeta").await;
    assert_eq!(meta["parentStartBlock"], start + 1);
    assert!(meta["blobParentStopBlock"].as_i64() >= meta["parentStopBlock"].as_i64(), "{meta}");
    assert_eq!(meta["latestSetId"], 1, "{meta}");

    let [dry, set] = ["drySyncHeaderReqKey", "blobSyncHeaderReqKey"].map(|key| meta[key].as_str().unwrap());
    let there = [
        "genesis:2004:pb",
        &first,
        dry,
        set,
        "rangeParaBlock:key:1",
        "rangeParaBlock:buffer:1",
        "dryParaBlock:1",
        "dryParaBlock:100",
    ];
    let missing = ["genesis:1:pb", "dryParaBlock:1000000", "rangeParaBlock:key:0", "nonsense"];
    let port = info["blobServerPort"].to_string();
    let keys: Vec<_> = ["--port", &port].into_iter().chain(there).chain(missing).collect();
    let by_tcp = Tool::run("blob-client.js", &keys).await;
    let answer = |key: &str| by_tcp.iter().find(|answer| answer["key"] == key).unwrap();
    for key in there {
        let ask = json!({ "command": "blob", "addr": address, "key": key, "whole": true });
        let by_stream = theirs.tool.ask(ask).await;
        let by_call = call(theirs, address, "GetBlobByKey", json!({ "key": key })).await;
        assert!(by_stream["size"].as_u64().unwrap() > 0, "{key}");
        assert_eq!(by_stream["sha256"], answer(key)["sha256"], "{key}");
        assert_eq!(by_stream["size"], answer(key)["size"], "{key}");
        assert!(by_call["data"] == by_stream["base64"] && by_call["key"] == key, "{key}");
        assert_ne!(by_call["empty"], true, "{key}");
    }
    for key in missing {
        assert_eq!(*answer(key), json!({ "event": "missing", "key": key }));
        let ask = json!({ "command": "blob", "addr": address, "key": key });
        assert_eq!(theirs.tool.ask(ask).await["size"], 0, "{key}");
        let by_call = call(theirs, address, "GetBlobByKey", json!({ "key": key })).await;
        assert_eq!(by_call, json!({ "key": key, "empty": true }));
    }
    let buffer = theirs
        .tool
        .ask(json!({ "command": "blob", "addr": address, "key": "rangeParaBlock:key:1", "whole": true }));
    let buffer: Value = serde_json::from_slice(&base64(&buffer.await["base64"])).unwrap();
    let expected =
        json!({ "bufferKey": "rangeParaBlock:buffer:1", "firstBlockNumber": 1, "lastBlockNumber": 15 });
    assert_eq!(buffer, expected);
    assert!(net.devnet.para().finalized_number() > 15);
}

/// `WantBlob` and `GetBlobWithToken`, for both chains.
async fn blocks_by_token(net: &Net, theirs: &mut Peer, address: &str) {
    let (_, id) = address.split_once("/p2p/").unwrap();
    let mut thief = Peer::start(&["--shy"]).await;
    for (kind, node) in [("BT_PARA_BLOCK", net.devnet.para()), ("BT_PARENT_BLOCK", net.devnet.relay())] {
        let meta = call(theirs, address, "WantBlob", json!({ "number": 20, "type": kind })).await;
        assert_eq!(
            (&meta["number"], &meta["type"], &meta["originPeer"]),
            (&json!(20), &json!(kind), &json!(id))
        );
        assert_eq!(base64(&meta["hash"]), node.block_hash(20).unwrap().0, "{kind}");
        let expires: i64 = meta["tokenExpiresAt"].as_str().unwrap().parse().unwrap();
        assert!(expires > setup::now_ms(), "{kind}");
        let token = json!({ "token": meta["getToken"] });
        let (refusal, _) = refused(&mut thief, address, "GetBlobWithToken", token.clone()).await;
        assert_eq!(refusal, "UNAUTHORIZED");
        // Another connection of the same peer.
        let blob = call(theirs, address, "GetBlobWithToken", token).await;
        assert_eq!((&blob["number"], &blob["type"]), (&json!(20), &json!(kind)));
        assert!(base64(&blob["data"]).len() > 32, "{kind}");
    }
    let none = json!({ "number": 1_000_000, "type": "BT_PARA_BLOCK" });
    assert_eq!(refused(theirs, address, "WantBlob", none).await.0, "NOT_FOUND");
    assert_eq!(refused(theirs, address, "WantBlob", json!({ "number": 20 })).await.0, "SERVER");
    let forged = json!({ "token": "00000000" });
    assert_eq!(refused(theirs, address, "GetBlobWithToken", forged).await.0, "UNAUTHORIZED");
}
