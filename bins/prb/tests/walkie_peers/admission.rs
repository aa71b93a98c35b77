//! Management access of the original's peers: from this machine, by whitelist, or with the bare key.

use serde_json::{Value, json};

use crate::{
    js::Peer,
    setup::{self, LIMIT, call, refused},
    support::{Net, chain, daemons::manager},
};

const KEY: &str = "0f1e2d3c4b5a69788796a5b4c3d2e1f0";

async fn auth_in_hello(theirs: &mut Peer, address: &str) -> Value {
    let hello = json!({ "hostname": "js", "peerId": theirs.peer_id, "role": "WR_CLIENT" });
    call(theirs, address, "Hello", hello).await["auth"].take()
}

#[tokio::test(flavor = "multi_thread")]
async fn originals_are_admitted_by_key_or_whitelist() {
    let net = Net::start(chain(), 0).await;
    let mut theirs = Peer::start(&["--shy"]).await;
    let mut stranger = Peer::start(&["--shy"]).await;
    let settings = [
        ("bare", "PRB_WALKIE_PSK_BARE", "true".to_owned()),
        ("keyed", "PRB_WALKIE_PSK_BARE", "false".to_owned()),
        ("named", "PRB_WALKIE_WHITELIST", theirs.peer_id.clone()),
    ];
    for (name, variable, value) in settings {
        let mut manager = manager(&net, name).set("PHALA_LIFECYCLE_CONFIG_MODE", true).set(variable, value);
        if name != "named" {
            manager.put("PRB_WALKIE_PSK", KEY);
        }
        manager.start();
        manager.until_unready(&[], LIMIT).await;
        let address = setup::address(&manager).await;
        let shows = |key: &str| json!({ "type": "AT_PSK", "authString": key });
        if name == "named" {
            assert_eq!(auth_in_hello(&mut theirs, &address).await, "AS_GRANTED");
        } else {
            assert_eq!(auth_in_hello(&mut theirs, &address).await, "AS_NEED_AUTH");
            assert_eq!(refused(&mut theirs, &address, "ListPool", json!({})).await.0, "UNAUTHORIZED");
            let wrong = call(&mut theirs, &address, "Auth", shows("not the key at all")).await;
            assert_eq!(wrong["status"], "AS_REJECTED", "{name}");
            let shown = call(&mut theirs, &address, "Auth", shows(KEY)).await;
            let expected = if name == "bare" { "AS_GRANTED" } else { "AS_REJECTED" };
            assert_eq!(shown["status"], expected, "{name}");
        }
        match name {
            "keyed" => {
                assert_eq!(refused(&mut theirs, &address, "ListPool", json!({})).await.0, "UNAUTHORIZED");
            }
            _ => {
                assert_eq!(auth_in_hello(&mut theirs, &address).await, "AS_GRANTED");
                // Over another connection: the peer is admitted, not only one of its connections.
                assert_eq!(call(&mut theirs, &address, "ListPool", json!({})).await, json!({}));
            }
        }
        for method in ["ListPool", "CreatePool", "UpdateWorker", "KickWorker", "GetWorkerStatus"] {
            let (kind, _) = refused(&mut stranger, &address, method, json!({})).await;
            assert_eq!(kind, "UNAUTHORIZED", "{name}: {method}");
        }
        assert!(!manager.log().contains(KEY), "{name}");
        manager.stop().await;
    }
    net.shutdown().await;
}
