//! `prb lifecycle` with an original's monitor: every method, with running workers.

use std::time::Duration;

use prb_devnet::{runtime::para::Operation, truth};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::{
    js::Peer,
    setup::{self, LIMIT, call, refused},
    support::{
        Net, STAKE, chain,
        daemons::{manager, provider},
    },
};

/// A monitor of the original, and the lifecycle manager that it observes.
struct Monitor {
    peer: Peer,
    manager: String,
}

impl Monitor {
    /// Starts one with only a data provider as boot node, and discovers the manager through it.
    async fn find(boot: &str, manager: &str) -> Self {
        let mut peer = Peer::start(&["--boot", boot, "--role", "WR_CLIENT"]).await;
        let is_it = |e: &Value| e["event"] == "hello-answered" && e["peerId"] == *manager;
        let met = peer.tool.find("the manager", is_it).await;
        // The content of `/ptp/discover`.
        let known = peer.tool.ask(json!({ "command": "peers" })).await;
        let shown = &known["peers"][manager];
        assert_eq!((&shown["role"], &shown["peerId"]), (&json!("WR_LIFECYCLE_MANAGER"), &json!(manager)));
        assert!(!shown["hostname"].as_str().unwrap().is_empty());
        let roles: Vec<_> = known["peers"].as_object().unwrap().values().map(|peer| &peer["role"]).collect();
        assert!(roles.contains(&&json!("WR_DATA_PROVIDER_INT")), "{known}");
        let address = met["remoteAddr"].as_str().unwrap();
        let manager =
            if address.contains("/p2p/") { address.into() } else { format!("{address}/p2p/{manager}") };
        Self { peer, manager }
    }

    /// Makes the call of `/ptp/proxy/:peerId/:method`, which must succeed.
    async fn ask(&mut self, method: &str, request: Value) -> Value {
        call(&mut self.peer, &self.manager, method, request).await
    }

    async fn refused(&mut self, method: &str, request: Value) -> (String, String) {
        refused(&mut self.peer, &self.manager, method, request).await
    }

    async fn states(&mut self) -> Vec<Value> {
        let states = self.ask("GetWorkerStatus", json!({})).await;
        states["workerStates"].as_array().cloned().unwrap_or_default()
    }

    /// Polls every second, like its page, until all workers are in a state.
    async fn until_all(&mut self, count: usize, status: &str) -> Vec<Value> {
        let start = Instant::now();
        loop {
            let states = self.states().await;
            if states.len() == count && states.iter().all(|state| state["status"] == status) {
                return states;
            }
            assert!(start.elapsed() < LIMIT, "not {status}: {states:#?}");
            sleep(Duration::from_secs(1)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn monitor_can_use_every_method_of_a_lifecycle_manager() {
    let net = Net::start(chain(), 2).await;
    let mut provider = provider(&net, "dp");
    let mut manager = manager(&net, "lm").set("PHALA_WALKIE_BOOT_NODES", provider.address());
    provider.start();
    manager.start();
    manager.until_unready(&[], LIMIT).await;
    let boot = setup::address(&provider).await;
    let mut monitor = Monitor::find(&boot, &manager.peer_id(LIMIT).await).await;

    assert_eq!(monitor.ask("ListPool", json!({})).await, json!({}));
    assert_eq!(monitor.ask("ListWorker", json!({})).await, json!({}));
    assert_eq!(monitor.ask("GetWorkerStatus", json!({})).await, json!({}));
    pools(&net, &mut monitor).await;
    let ids = workers(&net, &mut monitor).await;
    let states = monitor.until_all(2, "S_ACTIVE").await;
    for (state, worker) in states.iter().zip(&net.workers) {
        status(&net, state, worker.public_key().0);
    }
    let one = monitor.ask("GetWorkerStatus", json!({ "ids": [ids[1]] })).await;
    assert_eq!(one["workerStates"][0]["worker"], states[1]["worker"]);
    commands(&net, &mut monitor, &ids).await;
    deletions(&mut monitor, &ids).await;

    for method in ["GetDataProviderInfo", "WantBlob", "GetBlobByKey", "GetBlobWithToken"] {
        let (kind, message) = monitor.refused(method, json!({})).await;
        assert_eq!((&*kind, &*message), ("NOT_FOUND", "Handler not implemented."), "{method}");
    }
    assert!(!manager.log().contains(&net.devnet.pools()[0].mnemonic));
    manager.stop().await;
    provider.stop().await;
    net.shutdown().await;
}

/// Pools are created, listed and changed by each kind of id; one keeps its operator.
async fn pools(net: &Net, monitor: &mut Monitor) {
    let chain = &net.devnet.pools()[0];
    let pid = chain.pid.to_string();
    let pool = json!({
        "pid": pid, "name": "shelf", "owner": { "mnemonic": chain.mnemonic }, "realPhalaSs58": "",
        "enabled": true, "syncOnly": false,
    });
    let spare = json!({ "pid": u64::MAX.to_string(), "name": "größter", "enabled": false, "syncOnly": true });
    let made = monitor.ask("CreatePool", json!({ "pools": [pool, spare] })).await;
    let mut shelf = made["pools"][0].clone();
    let uuid = shelf["uuid"].clone();
    assert_eq!(uuid.as_str().unwrap().len(), 36);
    let operator: prb_core::primitives::AccountId =
        prb_core::primitives::AccountId(*AsRef::<[u8; 32]>::as_ref(&chain.operator));
    let owner = json!({
        "ss58Phala": operator.to_ss58(prb_core::primitives::PHALA_SS58_PREFIX),
        "ss58Polkadot": operator.to_ss58(prb_core::primitives::POLKADOT_SS58_PREFIX),
    });
    assert_eq!(shelf, json!({ "uuid": uuid, "owner": owner, "pid": pid, "name": "shelf", "enabled": true }));
    let largest = &made["pools"][1];
    assert_eq!((&largest["pid"], &largest["syncOnly"]), (&json!("18446744073709551615"), &json!(true)));
    assert_eq!(largest["name"], "größter");
    let listed = monitor.ask("ListPool", json!({})).await;
    let listed = listed["pools"].as_array().unwrap();
    assert!(listed.len() == 2 && listed.contains(&shelf) && listed.contains(largest), "{listed:?}");

    let (kind, message) = monitor.refused("CreatePool", json!({ "pools": [pool] })).await;
    assert_eq!(kind, "DUPLICATED");
    assert!(message.contains("taken"), "{message}");
    // Updates replace whole values; without a mnemonic, or with a blank one, the operator stays.
    for (id, name) in [
        (json!({ "uuid": uuid }), "by uuid"),
        (json!({ "name": "by uuid" }), "by name"),
        (json!({ "pid": pid }), "rack"),
    ] {
        let value = json!({ "pid": pid, "name": name, "owner": { "mnemonic": "" }, "enabled": true });
        let updated = monitor.ask("UpdatePool", json!({ "items": [{ "id": id, "pool": value }] })).await;
        shelf["name"] = json!(name);
        assert_eq!(updated, json!({ "pools": [shelf] }));
    }
    let delete = json!({ "items": [{ "id": { "pid": u64::MAX.to_string() }, "pool": { "deleted": true } }] });
    assert_eq!(monitor.ask("UpdatePool", delete.clone()).await, json!({}));
    assert_eq!(monitor.refused("UpdatePool", delete).await.0, "NOT_FOUND");
    assert_eq!(monitor.ask("ListPool", json!({})).await, json!({ "pools": [shelf] }));
}

/// The same for workers; returns the ids of the net's workers.
async fn workers(net: &Net, monitor: &mut Monitor) -> Vec<String> {
    let pid = net.devnet.pools()[0].pid.to_string();
    let value = |name: &str, endpoint: &str, sync_only: bool| {
        json!({
            "pid": pid, "name": name, "endpoint": endpoint, "stake": STAKE.to_string(), "enabled": true,
            "syncOnly": sync_only,
        })
    };
    let endpoints = [net.workers[0].endpoint(), net.workers[1].endpoint()];
    let off = "http://127.0.0.1:1";
    let values =
        [value("w0", &endpoints[0], false), value("wrong", &endpoints[1], true), value("off", off, true)];
    let made = monitor.ask("CreateWorker", json!({ "workers": values })).await;
    let made = made["workers"].as_array().unwrap().clone();
    let mut first = values[0].clone();
    first.as_object_mut().unwrap().remove("syncOnly");
    first["uuid"] = made[0]["uuid"].clone();
    assert_eq!(made[0], first);
    let (kind, message) = monitor.refused("CreateWorker", json!({ "workers": [values[0]] })).await;
    assert!(kind == "DUPLICATED" && message.contains("w0"), "{kind}: {message}");

    // One is corrected by its name, one deleted by its id.
    let right = json!({ "id": { "name": "wrong" }, "worker": value("w1", &endpoints[1], false) });
    let gone = json!({ "id": { "uuid": made[2]["uuid"] }, "worker": { "deleted": true } });
    let updated = monitor.ask("UpdateWorker", json!({ "items": [right, gone] })).await;
    assert_eq!(updated["workers"][0]["name"], "w1");
    assert_eq!(updated["workers"][0]["uuid"], made[1]["uuid"]);
    let listed = monitor.ask("ListWorker", json!({})).await;
    assert_eq!(listed, json!({ "workers": [made[0], updated["workers"][0]] }));
    let id = |index: usize| made[index]["uuid"].as_str().unwrap().to_owned();
    vec![id(0), id(1)]
}

/// Every field of an active worker.
fn status(net: &Net, state: &Value, key: [u8; 32]) {
    let number = |name: &str| state[name].as_i64().unwrap();
    assert!(number("parentHeaderSynchedTo") > 250, "{state}");
    assert!(number("paraHeaderSynchedTo") > 100, "{state}");
    assert!((100..=number("paraHeaderSynchedTo")).contains(&number("paraBlockDispatchedTo")), "{state}");
    assert_eq!(state["initialized"], true);
    assert_eq!(state["worker"]["pid"], net.devnet.pools()[0].pid.to_string());
    let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(state["publicKey"], hex);
    let message = state["lastMessage"].as_str().unwrap();
    assert!(message.starts_with("[20") && message.contains("] "), "{message}");
    let session: Value = serde_json::from_str(state["sessionInfoJson"].as_str().unwrap()).unwrap();
    assert_eq!(session["state"], "WorkerIdle");
    assert_eq!(session["raw"]["state"], "WorkerIdle");
    assert_eq!(session["runtimeInfo"]["publicKey"], hex);
    assert!(session["v"].as_str().unwrap().contains('.') && session["ve"].is_string());
    assert!(session["stats"]["totalReward"].as_str().unwrap().ends_with("PHA"));
    assert!(state["workerAccountId"].as_str().unwrap().len() > 40, "{state}");
}

/// Restart, re-attestation, kick: answered at once, done soon after.
async fn commands(net: &Net, monitor: &mut Monitor, ids: &[String]) {
    let registered = || {
        let all = truth::operations(net.devnet.para()).unwrap();
        all.iter().filter(|(_, operation)| matches!(operation, Operation::Registered(_))).count()
    };
    assert_eq!(registered(), 2);
    let told = monitor.ask("RestartWorker", json!({ "ids": [ids[0]] })).await;
    assert_eq!(told["workerStates"].as_array().unwrap().len(), 1);
    assert_eq!(told["workerStates"][0]["worker"]["uuid"], ids[0]);
    monitor.until_all(2, "S_ACTIVE").await;
    assert_eq!(net.workers[0].restart_count(), 0, "its process was left alone");

    let told = monitor.ask("RefreshRaAndRestartWorker", json!({ "ids": ids })).await;
    let told: Vec<_> =
        told["workerStates"].as_array().unwrap().iter().map(|s| &s["worker"]["uuid"]).collect();
    assert_eq!(told, ids.iter().collect::<Vec<_>>());
    setup::until("both are registered again", || registered() == 4).await;
    monitor.until_all(2, "S_ACTIVE").await;

    let told = monitor.ask("KickWorker", json!({ "ids": [ids[1]] })).await;
    assert_eq!(told["workerStates"][0]["worker"]["uuid"], ids[1]);
    setup::until("one was kicked", || net.workers[1].kick_count() == 1).await;
    net.until_active(0..2, LIMIT).await;
    monitor.until_all(2, "S_ACTIVE").await;
    assert_eq!((net.workers[0].kick_count(), net.workers[1].restart_count()), (0, 1));

    for method in ["RestartWorker", "RefreshRaAndRestartWorker", "KickWorker", "GetWorkerStatus"] {
        for stranger in ["nobody", "00000000-0000-4000-8000-000000000000"] {
            let (kind, message) = monitor.refused(method, json!({ "ids": [stranger] })).await;
            assert!(kind == "NOT_FOUND" && message.contains(stranger), "{method}: {kind} {message}");
        }
    }
    // A list without workers changes nothing.
    assert_eq!(monitor.ask("KickWorker", json!({})).await, json!({}));
    assert_eq!(net.workers.iter().map(|worker| worker.kick_count()).sum::<u64>(), 1);
}

async fn deletions(monitor: &mut Monitor, ids: &[String]) {
    let pool = monitor.ask("ListPool", json!({})).await["pools"][0]["uuid"].take();
    let delete = |ids: &[String]| -> Vec<_> {
        ids.iter().map(|id| json!({ "id": { "uuid": id }, "worker": { "deleted": true } })).collect()
    };
    assert_eq!(monitor.ask("UpdateWorker", json!({ "items": delete(&ids[..1]) })).await, json!({}));
    assert_eq!(monitor.until_all(1, "S_ACTIVE").await[0]["worker"]["uuid"], ids[1]);
    assert_eq!(monitor.ask("UpdateWorker", json!({ "items": delete(&ids[1..]) })).await, json!({}));
    let gone = json!({ "items": [{ "id": { "uuid": pool }, "pool": { "deleted": true } }] });
    assert_eq!(monitor.ask("UpdatePool", gone).await, json!({}));
    for method in ["ListPool", "ListWorker", "GetWorkerStatus"] {
        assert_eq!(monitor.ask(method, json!({})).await, json!({}), "{method}");
    }
}
