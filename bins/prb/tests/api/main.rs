//! The management API of a `prb all` on a devnet: entries, commands, jobs, and refusals.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs, unreachable_pub)]

use std::{
    os::unix::fs::PermissionsExt,
    time::{Duration, Instant},
};

use prb::all::Bridge;
use prb_devnet::Config;
use serde_json::{Value, json};

mod client;
mod many;
mod openapi;
mod removal;
mod streams;
#[path = "../support/mod.rs"]
mod support;

use client::Client;
use support::{Net, STAKE, chain};

const LIMIT: Duration = Duration::from_secs(60);

/// Starts a net with a `prb all` without a fleet file, and a client with its token.
async fn started(config: Config, workers: u32) -> (Net, Bridge, Client) {
    let net = Net::start(config, workers).await;
    let bridge =
        net.bridge_of_inventory(&["--api-listen", "127.0.0.1:0", "--queue-page-listen", "none"]).await;
    let file = net.dir.path().join("data/api-token");
    assert_eq!(std::fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let token = std::fs::read_to_string(file).unwrap().trim().to_owned();
    let client = Client { address: bridge.api().unwrap(), token: Some(token) };
    (net, bridge, client)
}

async fn ended(net: Net, bridge: Bridge) {
    bridge.stop().await;
    net.shutdown().await;
}

fn pool(net: &Net, index: usize) -> Value {
    let pool = &net.devnet.pools()[index];
    json!({ "pid": pool.pid, "secret": pool.mnemonic })
}

fn worker(pid: u64, n: usize) -> Value {
    json!({ "pid": pid, "name": format!("w{n}"), "endpoint": format!("http://127.0.0.1:{}", n + 1), "stake": "1" })
}

async fn until(what: &str, mut met: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !met().await {
        assert!(start.elapsed() < LIMIT, "not within {LIMIT:?}: {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn added_worker_starts_computing_and_is_stopped() {
    let (net, bridge, api) = started(chain(), 1).await;
    let pid = net.devnet.pools()[0].pid;
    let made = api.post("/pools", json!({ "pools": [pool(&net, 0)] })).await.is(201);
    assert_eq!(made.body["pools"][0]["name"], format!("pool-{pid}"));
    let endpoint = net.workers[0].endpoint();
    let entry = json!({ "pid": pid, "name": "w0", "endpoint": endpoint, "stake": STAKE.to_string() });
    api.post("/workers", json!({ "workers": [entry] })).await.is(201);
    until("it computes", async || api.get("/workers/w0").await.body["state"] == "S_ACTIVE").await;

    computing_worker_is_shown(&api, pid).await;
    fleet_is_counted(&api).await;
    jobs_are_listed_and_removed(&api).await;
    removal::computing_worker_is_not_deleted(&api).await;
    removal::pool_of_computing_worker_is_kept(&api, pid).await;
    worker_is_stopped(&api, pid).await;
    invalid_commands_are_refused(&api).await;
    answers_have_no_secret(&api, &net.devnet.pools()[0].mnemonic).await;
    ended(net, bridge).await;
}

async fn computing_worker_is_shown(api: &Client, pid: u64) {
    let shown = api.get("/workers/w0").await.is(200).body;
    assert_eq!(shown["reason"], "computing", "{shown}");
    assert_eq!(shown["goal"], "compute");
    assert_eq!(shown["on_chain"]["session"]["state"], "WorkerIdle");
    assert_eq!(shown["on_chain"]["session"]["stake"], STAKE.to_string());
    assert_eq!(shown["on_chain"]["pool"], pid);
    assert!(shown["pruntime"]["version"].is_string());
    assert_eq!(shown["key_change"], json!(null), "{shown}");
    assert_eq!(shown["saved"]["seen_keys"]["key"], shown["public_key"], "{shown}");
    let events = api.get("/workers/w0/events").await.is(200).body;
    let kinds: Vec<_> =
        events["events"].as_array().unwrap().iter().map(|event| event["kind"].clone()).collect();
    assert!(kinds.contains(&json!("operation-done")) && kinds.contains(&json!("state")), "{kinds:?}");
    let last = events["events"].as_array().unwrap().last().unwrap()["number"].as_u64().unwrap();
    let none = api.get(&format!("/workers/w0/events?after={last}")).await.is(200).body;
    assert_eq!(none["events"], json!([]));
}

async fn fleet_is_counted(api: &Client) {
    let status = api.get("/status").await.is(200).body;
    assert_eq!(status["workers"]["by_state"]["S_ACTIVE"], 1, "{status}");
    assert_eq!(status["workers"]["at_stake"], STAKE.to_string());
    assert_eq!((&status["daemon"], &status["editable"]), (&json!("all"), &json!(true)));
    let pools = api.get("/pools").await.is(200).body;
    assert_eq!(pools["pools"][0]["workers"], 1);
    assert!(pools["pools"][0]["on_chain"]["owner"].is_string(), "{pools}");
    assert_eq!(api.get("/providers").await.is(200).body, json!({ "providers": [] }));
}

/// The jobs that registered, added and started the worker.
async fn jobs_are_listed_and_removed(api: &Client) {
    let jobs = api.get("/jobs?state=succeeded&limit=2").await.is(200).body;
    assert!(jobs["total"].as_u64().unwrap() >= 3 && jobs["jobs"].as_array().unwrap().len() == 2, "{jobs}");
    let job = format!("/jobs/{}", jobs["jobs"][0]["id"]);
    assert!(api.get(&job).await.is(200).body["calls"][0].is_string());
    assert_eq!(api.post(&format!("{job}/retry"), json!({})).await.is(409).code(), "not-failed");
    api.delete(&job).await.is(200);
    api.delete(&job).await.is(404);
    api.get("/jobs/x").await.is(404);
}

/// First as a dry run, which returns what would happen, and changes nothing.
async fn worker_is_stopped(api: &Client, pid: u64) {
    let preview = api.post("/commands/stop?dry_run=true", json!({ "workers": ["w?"] })).await.is(200).body;
    assert!(preview["workers"][0]["answer"].as_str().unwrap().contains("stop"), "{preview}");
    assert_eq!(api.get("/workers/w0").await.body["goal"], "compute");
    let answer = api.post("/commands/stop", json!({ "pool": pid })).await.is(200).body;
    assert_eq!((&answer["taken"], &answer["workers"][0]["name"]), (&json!(1), &json!("w0")));
    until("it cools down", async || {
        api.get("/workers/w0").await.body["on_chain"]["session"]["state"] == "WorkerCoolingDown"
    })
    .await;
    api.delete("/workers/w0?dry_run=true").await.is(200);
}

async fn invalid_commands_are_refused(api: &Client) {
    for (command, selection, status) in [
        ("stop", json!({}), 422),
        ("stop", json!({ "workers": ["nobody"] }), 404),
        ("stop", json!({ "pool": 99_999 }), 404),
        ("dance", json!({ "workers": ["*"] }), 404),
        ("stop", json!({ "worker": ["w0"] }), 400),
    ] {
        api.post(&format!("/commands/{command}"), selection).await.is(status);
    }
}

async fn answers_have_no_secret(api: &Client, mnemonic: &str) {
    for path in ["/pools", "/workers", "/status", "/jobs", "/workers/w0", "/openapi.json"] {
        let body = api.get(path).await.is(200).body.to_string();
        assert!(!body.contains(mnemonic) && !body.contains("\"key\":{"), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn edits_are_applied_completely_or_refused_with_every_fault() {
    let (net, bridge, api) = started(Config { history: 0, ..chain() }, 0).await;
    let pid = net.devnet.pools()[0].pid;
    faulty_pools_are_refused(&net, &api).await;
    faulty_workers_are_refused(&api, pid).await;
    workers_are_listed_in_pages_and_by_filter(&api).await;
    items_of_an_edit_are_applied_together(&api).await;
    pool_in_use_is_only_deleted_by_force(&api, pid).await;
    oversized_and_malformed_requests_are_refused(&api, pid).await;
    ended(net, bridge).await;
}

async fn faulty_pools_are_refused(net: &Net, api: &Client) {
    let bad = json!({ "pools": [
        { "pid": 1, "secret": "no mnemonic at all" }, { "pid": 1, "sync_only": true },
        { "pid": 2, "sync_only": true, "name": "pool-1" }, { "secret": "x" }, { "pid": 3, "color": "red" },
        { "pid": 4, "sync_only": true, "name": format!("{} ", net.devnet.pools()[0].mnemonic) },
        { "pid": 5, "secret": "/run/secrets/pool-5" },
    ] });
    let refused = api.post("/pools", bad).await.is(422).body;
    let places: Vec<_> = refused["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| (e["index"].clone(), e["field"].clone()))
        .collect();
    let expected = [(0, "secret"), (2, "name"), (3, "pid"), (4, "color"), (5, "name"), (6, "secret")];
    let expected = expected.map(|(i, f)| (json!(i), json!(f)));
    assert_eq!(places, expected, "{refused}");
    for secret in ["no mnemonic at all", &net.devnet.pools()[0].mnemonic, "/run/secrets"] {
        assert!(!refused.to_string().contains(secret), "{refused}");
    }
    assert_eq!(api.get("/pools").await.body["total"], 0);
    api.post("/pools", json!({ "pools": [pool(net, 0)] })).await.is(201);
}

/// Five of 300 workers are faulty, each for a different reason; the others are valid.
async fn faulty_workers_are_refused(api: &Client, pid: u64) {
    let mut workers: Vec<Value> = (0..300).map(|n| worker(pid, n)).collect();
    workers[7]["stake"] = json!("1.5");
    workers[50]["endpoint"] = json!("10.0.0.1:8000");
    workers[99]["pid"] = json!(77);
    workers[200]["name"] = json!("w3");
    workers[299]["enabled"] = json!("yes");
    for dry_run in [true, false] {
        let path = format!("/workers?dry_run={dry_run}");
        let refused = api.post(&path, json!({ "workers": workers })).await.is(422).body;
        let faults = refused["entries"].as_array().unwrap();
        let seen: Vec<_> =
            faults.iter().map(|f| (f["index"].as_u64().unwrap(), f["field"].as_str().unwrap())).collect();
        let expected = [(7, "stake"), (50, "endpoint"), (99, "pid"), (200, "name"), (299, "enabled")];
        assert_eq!(seen, expected, "{refused}");
        assert!(faults[3]["message"].as_str().unwrap().contains("\"w3\""), "{refused}");
        assert_eq!(api.get("/workers").await.body["total"], 0);
    }
    workers.retain(|worker| !["w7", "w50", "w99", "w299"].map(Value::from).contains(&worker["name"]));
    workers.remove(197);
    api.post("/workers?dry_run=true", json!({ "workers": workers })).await.is(200);
    for dry_run in [true, false] {
        let path = format!("/workers?dry_run={dry_run}");
        let body = Some(json!({ "workers": workers }));
        let stale = api.ask("POST", &path, body, &[("if-match", "\"another\"")]).await;
        assert_eq!(stale.is(412).code(), "changed");
    }
    assert_eq!(api.get("/workers").await.body["total"], 0);
    api.post("/workers", json!({ "workers": workers })).await.is(201);
}

async fn workers_are_listed_in_pages_and_by_filter(api: &Client) {
    let page = api.get("/workers?offset=290&limit=100").await.is(200).body;
    assert_eq!((page["total"].as_u64(), page["workers"].as_array().unwrap().len()), (Some(295), 5));
    assert_eq!(api.get("/workers?name=w1?").await.body["total"], 10);
    assert_eq!(api.get("/workers?state=S_ACTIVE").await.body["total"], 0);
    for bad in ["limit=0", "limit=1001", "state=ACTIVE", "offset=-1", "colour=red"] {
        assert_eq!(api.get(&format!("/workers?{bad}")).await.is(400).code(), "bad-request", "{bad}");
    }
}

/// Two workers swap their names in one edit; with one more faulty item, nothing changes.
async fn items_of_an_edit_are_applied_together(api: &Client) {
    let swap = |more: &[Value]| {
        let mut items = vec![
            json!({ "id": "w1", "set": { "name": "w2" } }),
            json!({ "id": "w2", "set": { "name": "w1" } }),
        ];
        items.extend_from_slice(more);
        json!({ "items": items })
    };
    let before = api.get("/workers/w1").await.body["id"].clone();
    let gone = json!({ "id": "w7", "delete": true });
    let both = json!({ "id": "w3", "delete": true, "set": {} });
    let refused = api.patch("/workers", swap(&[gone, both])).await.is(422).body;
    assert_eq!(
        (refused["entries"][0]["index"].as_u64(), refused["entries"][1]["index"].as_u64()),
        (Some(2), Some(3))
    );
    assert_eq!(api.get("/workers/w1").await.body["id"], before);
    api.patch("/workers", swap(&[json!({ "id": "w3", "delete": true })])).await.is(200);
    assert_eq!(api.get("/workers/w2").await.body["id"], before);
    api.get("/workers/w3").await.is(404);
}

async fn pool_in_use_is_only_deleted_by_force(api: &Client, pid: u64) {
    let refused = api.delete(&format!("/pools/{pid}")).await.is(409);
    assert_eq!(refused.code(), "in-use");
    api.delete(&format!("/pools/{pid}?force=true")).await.is(200);
    until("it waits for its pool", async || {
        api.get("/workers/w1").await.body["reason"] == "pool-not-in-inventory"
    })
    .await;
}

/// 10,001 entries, eight MiB, no JSON.
async fn oversized_and_malformed_requests_are_refused(api: &Client, pid: u64) {
    let many: Vec<_> = (0..10_001).map(|n| worker(pid, n)).collect();
    assert_eq!(api.post("/workers", json!({ "workers": many })).await.is(413).code(), "too-many");
    let large = json!({ "workers": [{ "name": "x".repeat(9 << 20) }] });
    assert_eq!(api.post("/workers", large).await.is(413).code(), "too-large");
    let secret = "{\"pools\": [{\"secret\": \"bottom drive obey";
    let cut = api.send("POST", "/pools", secret, &[]).await.is(400);
    assert!(!cut.body.to_string().contains("bottom"), "{cut:?}");
    assert_eq!(api.send("PUT", "/pools", "", &[]).await.is(405).code(), "method-not-allowed");
    assert_eq!(api.get("/nothing").await.is(404).code(), "not-found");
}

#[tokio::test(flavor = "multi_thread")]
async fn second_of_two_editors_is_refused_and_names_are_text() {
    let (net, bridge, api) = started(Config { history: 0, ..chain() }, 0).await;
    let pid = net.devnet.pools()[0].pid;
    api.post("/pools", json!({ "pools": [{ "pid": pid, "sync_only": true }] })).await.is(201);
    api.post("/workers", json!({ "workers": [worker(pid, 1), worker(pid, 2)] })).await.is(201);
    edits_of_an_outdated_version_are_refused(&api).await;
    concurrent_edits_of_different_fields_are_all_kept(&api).await;

    let refused = api.post("/commands/stop", json!({ "workers": ["w2"] })).await.is(409).body;
    assert_eq!((&refused["taken"], &refused["workers"][0]["code"]), (&json!(0), &json!("not-running")));

    names_are_text(&api).await;
    ended(net, bridge).await;
}

/// Two editors have read version one: the second to save is refused, and the first one's edit is kept.
async fn edits_of_an_outdated_version_are_refused(api: &Client) {
    let seen = api.get("/workers/w1").await.is(200).etag.unwrap();
    let save = async |stake: &str, etag: &str| {
        api.ask("PATCH", "/workers/w1", Some(json!({ "stake": stake })), &[("if-match", etag)]).await
    };
    let saved = save("100", &seen).await.is(200);
    assert_eq!(save("200", &seen).await.is(412).code(), "changed");
    assert_eq!(api.get("/workers/w1").await.body["stake"], "100");
    save("200", &saved.etag.unwrap()).await.is(200);
    save("300", "bad").await.is(400);
    let deleted = api.ask("DELETE", "/workers/w1", None, &[("if-match", &seen)]).await;
    assert_eq!(deleted.is(412).code(), "changed");

    // An edit changes the version of its entry and of the list, but of no other entry.
    let (one, all) = (api.get("/workers/w1").await.etag, api.get("/workers").await.etag.unwrap());
    api.patch("/workers/w2", json!({ "stake": 7 })).await.is(200);
    assert_eq!(api.get("/workers/w1").await.etag, one);
    let bulk = json!({ "items": [{ "id": "w1", "delete": true }] });
    let refused = api.ask("PATCH", "/workers", Some(bulk), &[("if-match", &all)]).await;
    assert_eq!(refused.is(412).code(), "changed");

    // In an edit of several entries, each can have its expected version.
    let stale = json!({ "items": [
        { "id": "w2", "set": { "stake": "8" } }, { "id": "w1", "version": seen.trim_matches('"'), "delete": true }
    ] });
    let refused = api.patch("/workers", stale).await.is(412);
    assert_eq!(refused.body["entries"][0]["index"], 1);
    assert_eq!(api.get("/workers/w2").await.body["stake"], "7");
}

async fn concurrent_edits_of_different_fields_are_all_kept(api: &Client) {
    let edits = (0..20).map(|n| {
        let (field, value) = if n % 2 == 0 { ("stake", json!("9")) } else { ("enabled", json!(false)) };
        async move {
            loop {
                let answer = api.patch("/workers/w2", json!({ field: value.clone() })).await;
                if ![503, 412].contains(&answer.status) {
                    return answer.is(200);
                }
            }
        }
    });
    futures_join(edits).await;
    let both = api.get("/workers/w2").await.body;
    assert_eq!((&both["stake"], &both["enabled"]), (&json!("9"), &json!(false)));
}

async fn names_are_text(api: &Client) {
    let name = "<script>alert(1)</script> \"quoted\" & 100%";
    api.patch("/workers/w2", json!({ "name": name })).await.is(200);
    let listed = api.get("/workers?name=%3Cscript*").await.is(200);
    assert_eq!(listed.body["workers"][0]["name"], name);
    assert!(listed.head.contains("content-type: application/json") && listed.head.contains("nosniff"));
    api.patch("/workers/w1", json!({ "name": "a\u{1b}[2Jb" })).await.is(422);
}

async fn futures_join<T>(all: impl Iterator<Item = impl Future<Output = T>>) {
    let mut all: Vec<_> = all.map(Box::pin).collect();
    std::future::poll_fn(|cx| {
        all.retain_mut(|one| one.as_mut().poll(cx).is_pending());
        if all.is_empty() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

/// A pool is removed while workers are added to it: one of the two is refused, whichever comes first.
#[tokio::test(flavor = "multi_thread")]
async fn pool_is_not_deleted_with_concurrently_added_workers() {
    let (net, bridge, api) = started(Config { history: 0, ..chain() }, 0).await;
    let pid = net.devnet.pools()[0].pid;
    let (mut removed, mut kept) = (0, 0);
    for _ in 0..60 {
        let pool = json!({ "pools": [{ "pid": pid, "sync_only": true, "enabled": false }] });
        api.post("/pools", pool).await;
        let (path, workers) = (format!("/pools/{pid}"), json!({ "workers": [worker(pid, 1)] }));
        let (gone, come) = tokio::join!(api.delete(&path), api.post("/workers", workers));
        match (gone.status, come.status) {
            (200, 404 | 422) => removed += 1,
            (409 | 412, 201) => kept += 1,
            _ => panic!("{gone:?} {come:?}"),
        }
        api.delete("/workers/w1").await;
    }
    assert_eq!(removed + kept, 60);
    ended(net, bridge).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_no_token_reads_and_other_hosts_do_nothing() {
    let (net, bridge, api) = started(Config { history: 0, ..chain() }, 0).await;
    let token = api.token.clone().unwrap();
    let (anyone, liar) =
        (Client { token: None, ..api }, Client { token: Some("0123456789abcdef".repeat(2)), ..api });
    anyone.get("/status").await.is(200);
    liar.get("/status").await.is(200);
    let attempts = [
        ("POST", "/pools"),
        ("PATCH", "/pools"),
        ("PATCH", "/pools/1"),
        ("DELETE", "/pools/1"),
        ("POST", "/workers"),
        ("DELETE", "/workers/w"),
        ("POST", "/commands/stop"),
        ("POST", "/jobs/1/retry"),
        ("DELETE", "/jobs/1"),
    ];
    for (method, path) in attempts {
        for client in [&anyone, &liar] {
            let refused = client.ask(method, path, Some(json!({})), &[]).await.is(401);
            assert!(refused.head.contains("www-authenticate"), "{refused:?}");
            assert!(refused.body["message"].as_str().unwrap().contains("api-token"), "{refused:?}");
            assert!(!refused.body.to_string().contains(&token), "{refused:?}");
        }
    }
    assert_eq!(
        anyone.ask("GET", "/status", None, &[("host", "evil.example")]).await.is(421).code(),
        "unknown-host"
    );
    anyone.ask("GET", "/status", None, &[("x-forwarded-for", "1.2.3.4")]).await.is(401);
    let origin = [("origin", "http://evil.example")];
    assert_eq!(api.ask("GET", "/status", None, &origin).await.is(403).code(), "foreign-origin");
    ended(net, bridge).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_of_a_fleet_file_are_read_only() {
    let net = Net::start(Config { history: 0, ..chain() }, 1).await;
    let token = net.dir.path().join("token");
    std::fs::write(&token, "a-token-of-this-test\n").unwrap();
    let token_file = token.to_str().unwrap().to_owned();
    let fleet = net.fleet().to_str().unwrap().to_owned();
    let further = ["--api-listen", "127.0.0.1:0", "--queue-page-listen", "none", "--fleet", &fleet];
    let bridge = net.bridge_of_inventory(&[&further[..], &["--api-token-file", &token_file]].concat()).await;
    let api = Client { address: bridge.api().unwrap(), token: Some("a-token-of-this-test".into()) };
    assert_eq!(api.get("/status").await.is(200).body["editable"], false);
    let refused = api.patch("/workers/w0", json!({ "stake": "1" })).await.is(409);
    assert_eq!(refused.code(), "kept-in-file");
    assert!(refused.body["message"].as_str().unwrap().contains("fleet.toml"), "{refused:?}");
    // Commands are accepted nevertheless.
    until("it runs", async || {
        api.post("/commands/restart", json!({ "workers": ["w0"] })).await.status == 200
    })
    .await;
    ended(net, bridge).await;
}
