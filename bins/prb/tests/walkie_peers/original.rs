//! The original in place of ours: its data provider for our lifecycle manager, and its lifecycle manager for
//! our data provider. Its provider serves copies of our blobs; blobs that its manager requests are sent to a
//! worker unchanged. The workers verify every block.

use prb_core::prpc::Method;
use prb_walkie::proto::Role;

use crate::{
    js::{Peer, Tool},
    provider::info_at_tip,
    setup::{self, LIMIT, until},
    support::{
        Net, chain,
        daemons::{Daemon, TestPeer, assign, manager, provider},
    },
};

const GROUP: &str = "js-original";

/// Starts a data provider of ours with all blocks; returns its blob server's port, too.
async fn source(net: &Net) -> (Daemon, String) {
    let mut provider = provider(net, "dp").set("PHALA_BRIDGE_IDENTITY", "js-source");
    provider.start();
    let mut theirs = Peer::start(&["--shy"]).await;
    let info = info_at_tip(&mut theirs, &setup::address(&provider).await).await;
    (provider, info["blobServerPort"].to_string())
}

/// Starts the original's data provider, which copies from that port.
async fn original(net: &Net, port: &str) -> Peer {
    let chain = setup::chain_identity(net);
    let mut tool = Tool::start(
        "data-provider.js",
        &[
            "--copy",
            port,
            "--para-id",
            "2004",
            "--chain-identity",
            &chain,
            "--bridge-identity",
            GROUP,
            "--listen",
            "/ip4/127.0.0.1/tcp/0",
        ],
    );
    tool.find("a copy of the history", |e| e["event"] == "height" && e["para"].as_u64() > Some(100)).await;
    Peer::ready(tool).await
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_sync_from_an_originals_data_provider() {
    let net = Net::start(chain(), 2).await;
    let (mut source, port) = source(&net).await;
    let mut theirs = original(&net, &port).await;
    let mut manager = manager(&net, "lm")
        .set("PHALA_BRIDGE_IDENTITY", GROUP)
        .set("PHALA_WALKIE_BOOT_NODES", &theirs.address);
    manager.start();
    let test_peer = TestPeer::new(vec![manager.address()], GROUP).await;
    let client = test_peer.find(Role::LifecycleManager, GROUP, LIMIT).await;
    assign(&net, &client, &[0], &[0, 1]).await;
    // From the first block to the tip, including registration and start.
    net.until_active(0..2, LIMIT).await;
    net.assert_done_once();
    manager.until_unready(&[], LIMIT).await;
    assert_eq!(manager.usable_peers(), Some(1), "the source is of another group");
    for kind in
        ["genesis", "rangeByParentBlock", "blobRange", "drySyncHeader", "rangeParaBlock", "dryParaBlock"]
    {
        theirs.tool.find(kind, |e| e["event"] == "asked" && e["kind"] == kind).await;
    }
    let log = manager.log();
    let found = log.lines().find(|line| line.contains("\"data provider found")).unwrap();
    assert!(found.contains(&theirs.peer_id), "{found}");
    let suspended: Vec<_> = log.lines().filter(|line| line.contains("data provider suspended")).collect();
    assert!(suspended.is_empty(), "{suspended:#?}");
    for worker in &net.workers {
        assert!(worker.calls(Method::SyncCombinedHeaders) > 0);
    }

    // The original dies; ours continues at the same block, with other batch boundaries.
    let peer = theirs.peer_id.clone();
    source.put("PHALA_BRIDGE_IDENTITY", GROUP);
    source.put("PHALA_WALKIE_BOOT_NODES", manager.address());
    source.stop().await;
    theirs.tool.kill().await;
    until("the original is away", || manager.usable_peers() == Some(0)).await;
    source.start();
    until("ours is found", || manager.usable_peers() == Some(1)).await;
    let tip = net.devnet.para().finalized_number();
    until("new blocks come", || net.workers.iter().all(|worker| worker.info().blocknum > tip + 5)).await;
    net.until_active(0..2, LIMIT).await;
    net.assert_done_once();
    let log = manager.log();
    let failed = log.lines().filter(|line| line.contains("sync failed"));
    let refused: Vec<_> = failed.filter(|line| !line.contains("no chain data")).collect();
    assert!(refused.is_empty(), "a worker refused what it was sent from {peer}, or after it: {refused:?}");
    manager.stop().await;
    source.stop().await;
    test_peer.close().await;
    net.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn originals_lifecycle_manager_syncs_a_worker_from_our_provider() {
    let net = Net::start(chain(), 1).await;
    let (mut source, port) = source(&net).await;
    let worker = &net.workers[0];
    // Some of them do not exist yet.
    let until = net.devnet.para().finalized_number() + 5;
    let endpoint = worker.endpoint();
    let until_text = until.to_string();
    let args = ["--port", &port, "--para-id", "2004", "--worker", &endpoint, "--until", &until_text];
    let mut printed = Tool::run("lifecycle-manager.js", &args).await;
    let end = printed.pop().unwrap();
    assert_eq!(end["event"], "synced");
    let info = worker.info();
    assert!(info.blocknum > until, "{end}: {info:?}");
    assert_eq!(end["dispatched"], info.blocknum - 1);
    assert_eq!(end["para"], info.para_headernum - 1);
    assert_eq!(end["relay"], info.headernum - 1);
    let asked = |kind: &str| end["asked"][kind].as_u64().unwrap_or_default();
    // The large batches of the catch-up; the tip needs neither.
    for kind in ["genesis:pb", "rangeByParentBlock:pb", "drySyncHeader", "blobRange:SyncHeaderReq"] {
        assert!(asked(kind) > 0, "{kind}: {end}");
    }
    assert!(asked("rangeParaBlock:buffer") > 0 && asked("dryParaBlock") > 0, "{end}");
    source.stop().await;
    net.shutdown().await;
}
