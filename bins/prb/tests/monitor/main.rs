//! `prb monitor` as a process among real daemons: the original's JSON calls, and the console of peers.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "../support/mod.rs"]
mod support;

mod hostile;

use std::{
    io::{Read, Write},
    net::TcpStream,
    process::Command,
    time::{Duration, Instant},
};

use prb_devnet::Config;
use serde_json::{Value, json};
use support::{
    Net, STAKE,
    daemons::{Daemon, free_port, manager, provider},
};

/// Time limit that is long enough on a loaded machine.
const LIMIT: Duration = Duration::from_secs(90);
const TOKEN: &str = "a-token-of-this-test";

struct Http {
    port: u16,
}

struct Answer {
    status: u16,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }

    #[track_caller]
    fn has(&self, texts: &[&str]) {
        for text in texts {
            assert!(self.body.contains(text), "{text:?} is missing in\n{}", self.body);
        }
    }
}

impl Http {
    fn try_send(&self, verb: &str, path: &str, headers: &str, body: &str) -> Option<Answer> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let length = body.len();
        let head = format!("{verb} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n{headers}");
        write!(stream, "{head}Content-Length: {length}\r\n\r\n{body}").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        let (head, body) = text.split_once("\r\n\r\n")?;
        Some(Answer { status: head.split(' ').nth(1)?.parse().ok()?, body: body.to_owned() })
    }

    fn send(&self, verb: &str, path: &str, headers: &str, body: &str) -> Answer {
        self.try_send(verb, path, headers, body).expect("no answer")
    }

    fn get(&self, path: &str) -> Answer {
        self.send("GET", path, "Accept: text/html\r\n", "")
    }

    fn call(&self, peer: &str, method: &str, request: &Value) -> Answer {
        self.send("POST", &format!("/ptp/proxy/{peer}/{method}"), "", &request.to_string())
    }

    /// Waits for an answer that satisfies a condition.
    async fn until(&self, what: &str, path: &str, is_it: impl Fn(&Answer) -> bool) -> Answer {
        let start = Instant::now();
        loop {
            if let Some(answer) = self.try_send("GET", path, "", "")
                && is_it(&answer)
            {
                return answer;
            }
            assert!(start.elapsed() < LIMIT, "{what}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

fn monitor(net: &Net, port: u16, walkie: &str, boot: &[&Daemon]) -> Daemon {
    let boot: Vec<_> = boot.iter().map(|daemon| daemon.address().to_string()).collect();
    Daemon::new(net.dir.path(), "monitor", "monitor")
        .set("PORT", port)
        .set("HOST", "127.0.0.1")
        .set("PTP_BOOT_NODES", boot.join(","))
        .set("PTP_LISTEN_ADDRESSES", walkie)
        .set("PHALA_WALKIE_DISABLE_MDNS_DISCOVERY", true)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_originals_calls_and_the_console_of_peers() {
    let config = Config { history: 60, block_ms: 500, ..Config::default() };
    let net = Net::start(config, 1).await;
    let mut provider = provider(&net, "dp");
    let (console, api) = (free_port(), free_port());
    let mut manager = manager(&net, "lm")
        .set("PHALA_WALKIE_BOOT_NODES", provider.address())
        .set("PRB_API_LISTEN", format!("127.0.0.1:{api}"))
        .set("PRB_CONSOLE_LISTEN", format!("127.0.0.1:{console}"));
    let port = free_port();
    let walkie = format!("/ip4/127.0.0.1/tcp/{}", free_port());
    let mut monitor = monitor(&net, port, &walkie, &[&provider, &manager]);
    provider.start();
    manager.start();
    monitor.start();
    let http = Http { port };
    let (dp, lm) = (provider.peer_id(LIMIT).await, manager.peer_id(LIMIT).await);
    let found = |answer: &Answer| answer.body.contains(&dp) && answer.body.contains(&lm);
    let discovered = http.until("both are found", "/ptp/discover", found).await;
    discover(&discovered.json(), &dp, &lm);
    let path = format!("/ptp/proxy/{dp}/GetDataProviderInfo");
    let knows = |answer: &Answer| answer.body.contains(r#""paraId":2004"#);
    let info = http.until("the provider knows its chain", &path, knows).await;
    envelope(&info.json());

    pools_and_workers(&net, &http, &lm);
    updates(&net, &http, &lm);
    refusals(&http, &dp, &lm);
    pages(&http, &Http { port: console }, &Http { port: api }, &dp, &lm).await;

    hostile::Managers::start(&walkie).await.are_endured(&http, &lm).await;
    let peak = monitor.peak_memory_bytes() >> 20;
    assert!(peak < 400, "{peak} MiB");

    // The same identity after a restart; with a token, changes need it.
    let before = monitor.peer_id(LIMIT).await;
    monitor.stop().await;
    monitor.put("PRB_API_TOKEN", TOKEN);
    monitor.start();
    http.until("both are found again", "/ptp/discover", found).await;
    assert_eq!(monitor.log().matches("Got my peer id").count(), 2);
    assert_eq!(monitor.peer_id(LIMIT).await, before);
    let path = format!("/ptp/proxy/{lm}/KickWorker");
    assert_eq!(http.send("POST", &path, "", "{}").status, 401);
    let bearer = format!("Authorization: Bearer {TOKEN}\r\n");
    assert_eq!(http.send("POST", &path, &bearer, "{}").status, 200);
    assert_eq!(http.send("POST", &format!("/ptp/proxy/{lm}/ListWorker"), "", "").status, 200);

    // A peer that has disappeared.
    manager.stop().await;
    let gone = http.call(&lm, "ListPool", &json!({}));
    assert!(matches!(gone.status, 502 | 504), "{}: {}", gone.status, gone.body);
    assert_eq!(gone.json()["meta"]["error"]["type"], "SERVER");
    monitor.stop().await;
    provider.stop().await;
    net.shutdown().await;
}

fn discover(found: &Value, dp: &str, lm: &str) {
    let (provider, manager) = (&found["dataProviders"][0], &found["lifecycleManagers"][0]);
    assert_eq!((&provider["peerId"], &provider["role"]), (&json!(dp), &json!(1)));
    assert_eq!((&manager["peerId"], &manager["role"]), (&json!(lm), &json!(3)));
    assert_eq!(provider["bridgeIdentity"], "default");
    assert!(provider["remoteAddr"].as_str().unwrap().starts_with("/ip4/127.0.0.1/tcp/"), "{provider}");
    assert!(!provider["hostname"].as_str().unwrap().is_empty());
    assert!(provider["chainIdentity"].is_string() && provider.as_object().unwrap().len() == 6, "{provider}");
}

fn envelope(answer: &Value) {
    assert_eq!(answer["hasError"], false);
    let meta = &answer["meta"];
    assert!(meta["createdAt"].as_str().unwrap().parse::<u64>().unwrap() > 1_700_000_000_000, "{meta}");
    let nonce = |name: &str| meta[name].as_str().unwrap().len();
    assert_eq!((nonce("requestNonce"), nonce("nonce")), (36, 36));
    assert_eq!(meta["hasError"], false);
    let info = answer["data"].as_object().unwrap();
    assert_eq!(info.len(), 12, "{info:?}");
    assert!(matches!(info["status"].as_str(), Some("S_SYHCHING" | "S_IDLE")), "{info:?}");
}

/// The import of the original's guide, and its answers.
fn pools_and_workers(net: &Net, http: &Http, lm: &str) {
    let chain = &net.devnet.pools()[0];
    let pid = chain.pid.to_string();
    let pool = json!({
        "pid": chain.pid, "name": "shelf", "owner": { "mnemonic": chain.mnemonic }, "enabled": true,
        "realPhalaSs58": null, "syncOnly": true,
    });
    let answer = http.call(lm, "CreatePool", &json!({ "pools": [pool] }));
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert!(!answer.body.contains(&chain.mnemonic));
    let made = answer.json()["data"]["pools"][0].clone();
    assert_eq!(
        (&made["pid"], &made["deleted"], &made["enabled"]),
        (&json!(pid), &json!(false), &json!(true))
    );
    assert!(made["owner"]["ss58Phala"].is_string() && made["owner"]["polkadotJson"].is_null(), "{made}");

    let worker = json!({
        "pid": pid, "name": "w<0>", "endpoint": net.workers[0].endpoint(), "stake": STAKE.to_string(), "enabled": true,
    });
    let answer = http.call(lm, "CreateWorker", &json!({ "workers": [worker] }));
    let made = answer.json()["data"]["workers"][0].clone();
    let uuid = made["uuid"].as_str().unwrap();
    // The original's encoder writes explicitly set fields even if they are false.
    let expected = format!(
        r#"{{"data":{{"workers":[{{"uuid":"{uuid}","pid":"{pid}","name":"w<0>","endpoint":"{}","enabled":true,"deleted":false,"stake":"{STAKE}","syncOnly":false}}]}},"hasError":false,"meta":{{"createdAt":""#,
        net.workers[0].endpoint()
    );
    assert!(answer.body.starts_with(&expected), "{}\n{expected}", answer.body);
    let status = http.call(lm, "GetWorkerStatus", &json!({ "ids": [uuid] })).json();
    let state = &status["data"]["workerStates"][0];
    assert!(state["status"].as_str().unwrap().starts_with("S_"), "{state}");
    assert!(state["initialized"].is_boolean() && state["paraBlockDispatchedTo"].is_i64(), "{state}");
    assert_eq!(state["worker"], made);
    let none = http.call(lm, "KickWorker", &json!({}));
    assert!(none.body.starts_with(r#"{"data":{},"hasError":false,"meta":{"#), "{}", none.body);
}

/// The guide's updates: whole values by any kind of id, numbers as texts, unknown keys, and deletion.
fn updates(net: &Net, http: &Http, lm: &str) {
    let pid = net.devnet.pools()[0].pid;
    let listed = |method: &str, list: &str| http.call(lm, method, &json!({})).json()["data"][list].clone();
    let before = listed("ListPool", "pools")[0].clone();
    let value =
        json!({ "pid": pid.to_string(), "name": "shelf", "enabled": true, "syncOnly": true, "color": "red" });
    let items = json!({ "items": [{ "id": { "pid": pid.to_string() }, "pool": value }] });
    let answer = http.call(lm, "UpdatePool", &items).json();
    assert_eq!(answer["data"]["pools"][0], before, "no mnemonic leaves the operator: {answer}");

    let second = json!({ "pid": pid, "name": "w-2", "endpoint": "http://10.0.0.2:8000", "stake": "7", "enabled": false });
    let made = http.call(lm, "CreateWorker", &json!({ "workers": [second] })).json();
    let uuid = made["data"]["workers"][0]["uuid"].clone();
    let taken = http.call(lm, "CreateWorker", &json!({ "workers": [second] }));
    assert_eq!(taken.status, 200, "a refusal of the manager's is an answer");
    let taken = taken.json();
    assert_eq!((&taken["hasError"], &taken["error"]["type"]), (&json!(true), &json!(3)), "{taken}");
    assert_eq!(
        (&taken["meta"]["error"]["type"], &taken["data"]),
        (&json!("DUPLICATED"), &json!(null)),
        "{taken}"
    );
    assert!(taken["meta"]["requestNonce"].is_string() && taken["meta"]["createdAt"].is_string(), "{taken}");
    let mut value = second.clone();
    value["stake"] = json!("8");
    for id in [json!({ "uuid": uuid }), json!({ "name": "w-2" })] {
        let answer =
            http.call(lm, "UpdateWorker", &json!({ "items": [{ "id": id, "worker": value }] })).json();
        assert_eq!(answer["data"]["workers"][0]["stake"], "8", "{answer}");
        assert_eq!(answer["data"]["workers"][0]["uuid"], uuid);
    }
    assert_eq!(listed("ListWorker", "workers").as_array().unwrap().len(), 2);
    let gone = json!({ "items": [{ "id": { "uuid": uuid }, "worker": { "deleted": true } }] });
    let answer = http.call(lm, "UpdateWorker", &gone);
    assert!(answer.body.starts_with(r#"{"data":{},"hasError":false,"meta":{"#), "{}", answer.body);
    // By any verb, and without a body.
    for verb in ["GET", "DELETE", "PUT"] {
        let answer = http.send(verb, &format!("/ptp/proxy/{lm}/ListWorker"), "", "").json();
        assert_eq!(answer["data"]["workers"].as_array().unwrap().len(), 1, "{verb}: {answer}");
    }
    let states = listed("GetWorkerStatus", "workerStates");
    let session = states[0]["sessionInfoJson"].as_str().unwrap();
    assert!(serde_json::from_str::<Value>(session).unwrap()["runtimeInfo"].is_object(), "{session}");
    assert!(session.starts_with("{\n  \""), "indented by two spaces: {session}");
}

fn refusals(http: &Http, dp: &str, lm: &str) {
    // A peer's own refusal is passed on as an answer.
    let refused = http.call(dp, "ListPool", &json!({}));
    assert_eq!(refused.status, 200);
    assert!(
        refused.body.starts_with(
            r#"{"hasError":true,"error":{"type":2,"message":"Handler not implemented."},"meta":{"#
        ),
        "{}",
        refused.body
    );
    let error = &refused.json()["meta"]["error"];
    assert_eq!(*error, json!({ "type": "NOT_FOUND", "message": "Handler not implemented." }));

    let stranger = "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N";
    for (path, body, status, kind) in [
        (format!("/ptp/proxy/{stranger}/ListPool"), "", 404, 2),
        ("/ptp/proxy/nobody/ListPool".to_owned(), "", 404, 2),
        (format!("/ptp/proxy/{lm}/DropTables"), "", 404, 2),
        (format!("/ptp/proxy/{lm}/ListPool"), "{", 400, 1),
        (format!("/ptp/proxy/{lm}/CreateWorker"), r#"{"workers":[{"pid":"x"}]}"#, 400, 1),
    ] {
        let answer = http.send("PUT", &path, "", body);
        assert_eq!(answer.status, status, "{path}: {}", answer.body);
        let answer = answer.json();
        assert_eq!((&answer["hasError"], &answer["error"]["type"]), (&json!(true), &json!(kind)), "{path}");
        assert_eq!(answer["meta"]["error"]["message"], answer["error"]["message"]);
    }
    // Another site's page in a browser on this machine, and a local proxy.
    for header in [
        "Origin: https://evil.example\r\n",
        "Sec-Fetch-Site: cross-site\r\n",
        "X-Forwarded-For: 203.0.113.7\r\n",
        "Forwarded: for=203.0.113.7\r\n",
    ] {
        let answer = http.send("POST", &format!("/ptp/proxy/{lm}/KickWorker"), header, "{}");
        assert_eq!((answer.status, &answer.json()["meta"]["error"]["type"]), (403, &json!("UNAUTHORIZED")));
    }
}

async fn pages(http: &Http, own: &Http, api: &Http, dp: &str, lm: &str) {
    http.get("/").has(&[
        "Lifecycle managers (1)",
        "Data providers (1)",
        &format!("/managers/{lm}"),
        &format!("/providers/{dp}"),
    ]);
    http.get(&format!("/providers/{dp}")).has(&[
        "Relay chain",
        "2,004",
        "Committed",
        "Chain nodes",
        "in use",
        "Block store",
        "Free",
    ]);
    let base = format!("/managers/{lm}");
    manager_pages(http, &base);
    let bearer = pages_need_the_token(http, &base);
    two_editors(http, &base, &bearer);
    all_fields(http, own, &base, &bearer).await;
    // The manager's own console, with what only it knows.
    own.until("the manager's console", "/workers", |answer| answer.body.contains("w&lt;0&gt;")).await;
    own.get("/").has(&["State read at block", "/transactions"]);
    own.get("/transactions").has(&["Transactions", "href=\"/transactions?state=waiting\"", "/workers"]);
    own.get("/chain-data").has(&["Chain nodes", "parachain", "in use", "Free"]);
    data_provider_is_shown(http, own, api, dp, &base).await;
}

fn manager_pages(http: &Http, base: &str) {
    let listed = http.get(&format!("{base}/workers?columns=all"));
    assert_eq!(listed.status, 200);
    listed.has(&["w&lt;0&gt;", &format!("{base}/workers/confirm"), "1–1"]);
    http.get(base).has(&["1 worker in 1 pool"]);
    http.get(&format!("{base}/pools")).has(&["shelf", &format!("{base}/pools/new")]);
    assert_eq!(http.get("/managers/nobody/workers").status, 404);
}

/// Without the token the pages change nothing; it is in a file that the monitor created. Returns a header with it.
fn pages_need_the_token(http: &Http, base: &str) -> String {
    let command = http.send("POST", &format!("{base}/workers/command"), "", "command=restart&ids=");
    assert_eq!(command.status, 401, "{}", command.body);
    let message = command.json()["message"].as_str().unwrap().to_owned();
    let file = message.split("is in the file ").nth(1).unwrap().split(". ").next().unwrap();
    let token = std::fs::read_to_string(file).unwrap();
    http.get(base).has(&[&format!("the file {file}")]);
    assert!(!http.get(base).body.contains(token.trim()));
    format!("Authorization: Bearer {}\r\n", token.trim())
}

/// Why the data provider is trusted, and what it has served: at the manager, at the monitor, from the API and the
/// command line.
async fn data_provider_is_shown(http: &Http, own: &Http, api: &Http, dp: &str, base: &str) {
    let table = [&format!("id=\"provider-{dp}\""), "Data providers", "in use", "It is a boot node"];
    let is_used = |answer: &Answer| {
        table.iter().all(|text| answer.body.contains(*text)) && served(&answer.body, dp) > 0
    };
    own.until("the provider is used", "/chain-data", is_used).await;
    http.until("the provider is told of", &format!("{base}/chain-data"), is_used).await;
    http.get(&format!("{base}/chain-data")).has(&[
        "Chain data of the manager",
        "Chain nodes",
        "parachain",
        "Free",
    ]);
    own.get(&format!("/providers/{dp}")).has(&[
        "As this manager uses it",
        "It is a boot node",
        "Block store",
    ]);
    let told = api.get("/api/v1/providers").json();
    let provider = &told["providers"][0];
    assert_eq!(
        (&provider["state"], &provider["provenance"]),
        (&json!("ready"), &json!("boot_node")),
        "{told}"
    );
    assert!(provider["answered"].as_u64().unwrap() > 0 && provider["refused"] == 0, "{told}");
    let listed = Command::new(env!("CARGO_BIN_EXE_prb"))
        .args(["provider", "list", "--api", &format!("http://127.0.0.1:{}", api.port)])
        .env_clear()
        .output()
        .unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(
        listed.contains("boot_node") && listed.contains("ready") && listed.contains("SERVED"),
        "{listed}"
    );
    own.get("/peers").has(&[dp, "Data providers (1)"]);
}

/// Returns how many blobs a provider has served, according to the page.
fn served(page: &str, provider: &str) -> u64 {
    let row = page.split(&format!("id=\"provider-{provider}\"")).nth(1).unwrap_or_default();
    let cell = row.split("data-label=\"Served\">").nth(1).unwrap_or_default();
    cell.split('<').next().unwrap_or_default().replace(',', "").parse().unwrap_or_default()
}

/// The form of a peer's worker has the fields that the manager's own form has, and they arrive there.
async fn all_fields(http: &Http, own: &Http, base: &str, bearer: &str) {
    let listed = http.get(&format!("{base}/workers")).body;
    let path = listed.split("href=\"").find(|link| {
        link.starts_with(&format!("{base}/workers/"))
            && link.split('"').next().unwrap().ends_with(|last: char| last.is_ascii_hexdigit())
    });
    let path = path.unwrap().split('"').next().unwrap().to_owned();
    let id = path.rsplit('/').next().unwrap();
    let form = http.get(&format!("{path}/edit"));
    form.has(&["name=\"gatekeeper\"", "name=\"endpoints\"", "name=\"after_stop\""]);
    let value = |name: &str| {
        let at = form.body.split(&format!("name=\"{name}\"")).nth(1).unwrap();
        at.split("value=\"").nth(1).unwrap().split('"').next().unwrap().to_owned()
    };
    let (version, endpoint, stake) = (value("version"), value("endpoint"), value("stake"));
    let pid = form.body.split("<option value=\"").nth(1).unwrap().split('"').next().unwrap();
    let body = format!(
        "id={id}&version={version}&name=w%3C0%3E&pid={pid}&endpoint={endpoint}&stake={stake}&enabled=1&sync_only=1\
         &gatekeeper=1&endpoints=https://a.example.org,+https://b.example.org&after_stop=start-again"
    );
    let saved = http.send("POST", &format!("{base}/workers/save"), bearer, &body);
    assert_eq!(saved.status, 200, "{}", saved.body);
    let (path, announced) = (format!("/workers/{id}/edit"), "https://a.example.org, https://b.example.org");
    let shown = own.until("the edit at the manager", &path, |answer| answer.body.contains(announced)).await;
    shown.has(&["value=\"start-again\" selected", "name=\"gatekeeper\" value=\"1\" checked"]);
}

/// Of two editors of the same pool of a peer, the second is refused; a pool in use is neither deleted nor gets another
/// number.
fn two_editors(http: &Http, base: &str, bearer: &str) {
    let pools = http.get(&format!("{base}/pools")).body;
    let edit =
        pools.split("href=\"").find(|link| link.contains("/edit\"")).unwrap().split('"').next().unwrap();
    let id = edit.rsplit('/').nth(1).unwrap();
    let form = http.get(edit).body;
    let field = |name: &str| {
        let start = format!("name=\"{name}\" required");
        let value = form.split(&start).nth(1).unwrap().split("value=\"").nth(1).unwrap();
        value.split('"').next().unwrap().to_owned()
    };
    let version = form.split("name=\"version\" value=\"").nth(1).unwrap().split('"').next().unwrap();
    let pid = field("pid");
    let save = |name: &str| {
        let body = format!("id={id}&version={version}&pid={pid}&name={name}&enabled=1&sync_only=1");
        http.send("POST", &format!("{base}/pools/save"), bearer, &body)
    };
    let first = save("shelf-1");
    assert_eq!(first.status, 200, "{}", first.body);
    let second = save("shelf-2");
    assert_eq!(second.status, 409, "{}", second.body);
    second.has(&["Somebody else has changed it"]);
    http.get(&format!("{base}/pools")).has(&["shelf-1"]);
    let form = http.get(edit).body;
    let version = form.split("name=\"version\" value=\"").nth(1).unwrap().split('"').next().unwrap();
    let remove =
        http.send("POST", &format!("{base}/pools/remove"), bearer, &format!("id={id}&version={version}"));
    assert_eq!(remove.status, 409, "{}", remove.body);
    remove.has(&["The pool has 1 worker"]);
    let body = format!("id={id}&version={version}&pid=99999&name=shelf-1&enabled=1&sync_only=1");
    let renumber = http.send("POST", &format!("{base}/pools/save"), bearer, &body);
    assert_eq!(renumber.status, 409, "{}", renumber.body);
    renumber.has(&["The pool has 1 worker"]);
}
