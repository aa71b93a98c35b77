//! Streams of workers' changes, and their shares by address.

use prb_devnet::Config;
use serde_json::{Value, json};

use super::{chain, client, ended, started, worker};

#[tokio::test(flavor = "multi_thread")]
async fn stream_has_all_workers_then_changes() {
    let (net, bridge, api) = started(Config { history: 0, ..chain() }, 0).await;
    let pid = net.devnet.pools()[0].pid;
    api.post("/pools", json!({ "pools": [{ "pid": pid, "sync_only": true, "enabled": false }] }))
        .await
        .is(201);
    let workers: Vec<_> = (0..50).map(|n| worker(pid, n)).collect();
    api.post("/workers", json!({ "workers": workers })).await.is(201);
    let mut events = client::Events::open(&api, "/stream/workers?name=w1*").await;
    let names = |event: &Value| -> Vec<String> {
        event["workers"].as_array().unwrap().iter().map(|w| w["name"].as_str().unwrap().to_owned()).collect()
    };
    let first = events.next().await;
    assert_eq!((&first["all"], names(&first).len()), (&json!(true), 11), "{first}");
    // One worker that matches the query, one that does not, and one that no longer does.
    api.patch("/workers/w2", json!({ "stake": "8" })).await.is(200);
    api.patch("/workers/w12", json!({ "stake": "8" })).await.is(200);
    let mut next = events.next().await;
    // Changes made by the fleet are included, too.
    while names(&next) != ["w12"] || next["workers"][0]["stake"] != "8" {
        next = events.next().await;
    }
    assert_eq!(next["all"], false);
    let id = api.get("/workers/w13").await.body["id"].clone();
    api.patch("/workers/w13", json!({ "name": "another" })).await.is(200);
    while next["gone"] != json!([id]) {
        next = events.next().await;
    }
    for (query, headers, status) in [
        ("?limit=5", None, 400),
        ("?state=ACTIVE", None, 400),
        ("", Some(("accept", "application/json")), 406),
    ] {
        let headers: Vec<_> = headers.into_iter().collect();
        let refused = api.ask("GET", &format!("/stream/workers{query}"), None, &headers).await;
        assert_eq!(refused.status, status, "{query}");
    }
    drop(events);
    ended(net, bridge).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn streams_of_one_address_leave_others_theirs() {
    let (net, bridge, api) = started(chain(), 0).await;
    let mut held = Vec::new();
    for (from, share) in [(2, 4), (3, 4)] {
        for _ in 0..share {
            let mut stream = client::Events::open_from(from, &api, "/stream/workers").await;
            assert_eq!(stream.status().await, 200);
            held.push(stream);
        }
        let mut refused = client::Events::open_from(from, &api, "/stream/workers").await;
        assert_eq!(refused.status().await, 503, "127.0.0.{from} has its share");
    }
    let mut local = client::Events::open(&api, "/stream/workers").await;
    assert_eq!(local.status().await, 200);
    drop((held, local));
    ended(net, bridge).await;
}
