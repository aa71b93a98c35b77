//! JavaScript to JavaScript: the baseline of the original's behaviour.

use serde_json::json;

use crate::js::Peer;

#[tokio::test]
async fn original_peers_meet_and_call_each_other() {
    let provider =
        &["--role", "WR_DATA_PROVIDER_INT", "--chain-identity", "0x01", "--bridge-identity", "control"];
    let mut one = Peer::start(provider).await;
    let mut two = Peer::start(&["--boot", &one.address, "--role", "WR_LIFECYCLE_MANAGER"]).await;

    let met = two.tool.event("hello-answered").await;
    assert_eq!(met["peerId"], *one.peer_id);
    assert_eq!(met["info"]["role"], "WR_DATA_PROVIDER_INT");
    assert_eq!(met["info"]["chainIdentity"], "0x01");
    assert_eq!(met["info"]["bridgeIdentity"], "control");
    // A peer that is dialled dials back.
    let back = one.tool.event("hello-answered").await;
    assert_eq!(back["peerId"], *two.peer_id);
    assert_eq!(back["info"]["role"], "WR_LIFECYCLE_MANAGER");

    let address = one.address.clone();
    let absent = two.call(&address, "ListPool", json!({})).await;
    assert_eq!(absent["error"], json!({ "type": "NOT_FOUND", "message": "Handler not implemented." }));
    let unknown = two.call(&address, "Nonsense", json!({})).await;
    assert_eq!(unknown["error"]["type"], "SERVER");
    let garbage = json!({ "command": "raw", "addr": address, "protocol": "/pb", "hex": "ff" });
    let garbage = two.tool.ask(garbage).await;
    assert_eq!(garbage["response"]["error"]["type"], "SERVER");
    assert_eq!(garbage["response"]["requestNonce"], json!(null));

    let blob = json!({ "command": "blob", "addr": address, "key": "pattern:3000000" });
    assert_eq!(two.tool.ask(blob).await["size"], 3_000_000);
    let blob = two.call(&address, "GetBlobByKey", json!({ "key": "nothing" })).await;
    assert_eq!(blob["data"], json!({ "key": "nothing", "empty": true }));
}
