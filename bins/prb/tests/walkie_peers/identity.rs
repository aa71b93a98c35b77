//! Identity files: ours read by the original's libraries, and theirs by ours.

use std::os::unix::fs::PermissionsExt;

use serde_json::{Value, json};

use crate::{
    js::{Peer, Tool},
    setup::{self, LIMIT, call},
    support::{
        Net, chain,
        daemons::{manager, provider},
    },
};

/// Returns the output of peer-id for a file, which it creates if missing.
async fn js_peer_id(file: &std::path::Path) -> String {
    let printed = Tool::run("peer.js", &["identity", "--identity", file.to_str().unwrap()]).await;
    assert_eq!(printed[0]["keyType"], "RsaPrivateKey");
    printed[0]["peerId"].as_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn original_can_use_our_identity_file() {
    let net = Net::start(chain(), 0).await;
    let mut provider = provider(&net, "dp");
    provider.start();
    let id = provider.peer_id(LIMIT).await;
    provider.stop().await;
    let file = provider.identity_folder().join("DATA_PROVIDER");
    assert_eq!(js_peer_id(&file).await, id);
    let mut there =
        Peer::start(&["--identity", file.to_str().unwrap(), "--role", "WR_DATA_PROVIDER_INT"]).await;
    assert_eq!(there.peer_id, id);

    // A daemon of ours that knows only its id meets it as the same peer.
    let mut manager = manager(&net, "lm")
        .set("PHALA_LIFECYCLE_CONFIG_MODE", true)
        .set("PHALA_WALKIE_BOOT_NODES", &there.address);
    manager.start();
    let greeting = |e: &Value| e["event"] == "request" && e["method"] == "Hello";
    let greeting = there.tool.find("a Hello", greeting).await;
    assert_eq!(greeting["peerId"], manager.peer_id(LIMIT).await);
    setup::until("it is met", || {
        manager.log().lines().any(|line| line.contains("met a peer") && line.contains(&id))
    })
    .await;
    manager.stop().await;
    net.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn original_identity_file_can_be_used() {
    let net = Net::start(chain(), 0).await;
    let mut manager = manager(&net, "lm").set("PHALA_LIFECYCLE_CONFIG_MODE", true);
    std::fs::create_dir_all(manager.identity_folder()).unwrap();
    let file = manager.identity_folder().join("LIFECYCLE");
    let id = js_peer_id(&file).await;
    // The original writes it readable for everybody.
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let written = std::fs::read(&file).unwrap();
    let mut theirs = Peer::start(&["--shy"]).await;
    let pool = &net.devnet.pools()[0];
    let make = json!({ "pools": [{ "pid": pool.pid.to_string(), "name": "a", "owner": { "mnemonic": pool.mnemonic } }] });
    let mut listed = Value::Null;
    for start in 0..2 {
        manager.start();
        let address = setup::address(&manager).await;
        // It dials by the id, which noise verifies.
        assert!(address.ends_with(&id), "{address}");
        until_reached(&mut theirs, &address).await;
        if start == 0 {
            call(&mut theirs, &address, "CreatePool", make.clone()).await;
            listed = call(&mut theirs, &address, "ListPool", json!({})).await;
        }
        assert_eq!(call(&mut theirs, &address, "ListPool", json!({})).await, listed);
        manager.stop().await;
    }
    assert_eq!(std::fs::read(&file).unwrap(), written, "it is read, not written");
    net.shutdown().await;
}

/// Waits until a daemon that has just logged its peer id also listens.
async fn until_reached(theirs: &mut Peer, address: &str) {
    let start = tokio::time::Instant::now();
    loop {
        let ping = theirs.tool.send(json!({ "command": "ping", "addr": address })).await;
        let answer = theirs.tool.answer(ping).await;
        if answer["event"] == "done" {
            return;
        }
        assert!(start.elapsed() < LIMIT, "{answer}");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}
