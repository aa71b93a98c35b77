//! As many entries in one call as an inventory holds.

use prb_devnet::Config;
use serde_json::{Value, json};

use super::{chain, ended, pool, started, worker};

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_edits_in_one_call_are_whole_or_nothing() {
    let (net, bridge, api) = started(Config { history: 0, ..chain() }, 0).await;
    let pid = net.devnet.pools()[0].pid;
    let mut first = pool(&net, 0);
    first["enabled"] = json!(false);
    api.post("/pools", json!({ "pools": [first] })).await.is(201);
    let workers: Vec<Value> = (0..10_000).map(|n| worker(pid, n)).collect();
    api.post("/workers", json!({ "workers": workers })).await.is(201);
    let names: Vec<_> = (0..10_001).map(|n| format!("w{n}")).collect();
    let command = api.post("/commands/stop", json!({ "workers": names })).await;
    assert_eq!(command.is(413).code(), "too-many");
    let stakes = async || {
        let page = api.get("/workers?limit=1000").await.is(200).body;
        let stakes: std::collections::BTreeSet<String> =
            page["workers"].as_array().unwrap().iter().map(|worker| worker["stake"].to_string()).collect();
        (page["total"].as_u64().unwrap(), stakes)
    };
    let item = |n: usize, stake: &str| json!({ "id": format!("w{n}"), "set": { "stake": stake } });
    let mut items: Vec<Value> = (0..10_000).map(|n| item(n, "7")).collect();
    // Two at fault, and one that there is no room for.
    items[17] = item(17, "seven");
    items[4_711]["version"] = json!("another");
    items[9_999] = json!({ "add": worker(pid, 3) });
    let refused = api.patch("/workers", json!({ "items": items })).await.is(422).body;
    let faults: Vec<_> =
        refused["entries"].as_array().unwrap().iter().map(|f| (&f["index"], &f["code"])).collect();
    let none = Value::Null;
    let expected =
        [(&none, &json!("full")), (&json!(17), &json!("invalid")), (&json!(4_711), &json!("changed"))];
    assert_eq!(faults, expected, "{}", refused["message"]);
    assert_eq!(stakes().await, (10_000, ["\"1\"".to_owned()].into()), "nothing was changed");
    // More faults than are found one after the other: each is named, and no other.
    let at_fault: Vec<usize> = (0..20).map(|n| 500 * n + 3).collect();
    let mut many: Vec<Value> = (0..10_000).map(|n| item(n, "8")).collect();
    for n in &at_fault {
        many[*n]["set"]["endpoint"] = json!(format!("http://127.0.0.1:{n}"));
    }
    let refused = api.patch("/workers", json!({ "items": many })).await.is(409).body;
    let named: Vec<_> =
        refused["entries"].as_array().unwrap().iter().map(|fault| fault["index"].as_u64().unwrap()).collect();
    assert!(named.iter().eq(at_fault.iter().map(|n| *n as u64).collect::<Vec<_>>().iter()), "{named:?}");
    // In place of one that goes, another may come.
    items[17] = item(17, "7");
    items[4_711] = json!({ "id": "w4711", "delete": true });
    items[9_999] = json!({ "add": { "pid": pid, "name": "new", "endpoint": "http://new", "stake": "7" } });
    api.patch("/workers", json!({ "items": items })).await.is(200);
    let (total, seen) = stakes().await;
    assert_eq!((total, seen.contains("\"7\"")), (10_000, true), "{seen:?}");
    api.get("/workers/new").await.is(200);
    api.get("/workers/w4711").await.is(404);
    assert_eq!(api.get("/workers/w9999").await.is(200).body["stake"], "1", "no item was about it");
    ended(net, bridge).await;
}
