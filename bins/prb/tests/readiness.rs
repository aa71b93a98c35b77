//! `/readyz` of processes: not ready before they have what they need, and again when they lose it.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    collections::BTreeSet,
    path::Path,
    process::{Command, Stdio},
    time::Duration,
};

use prb_devnet::{Config, Devnet};
use prb_walkie::identity::{Identity, Role};
use serde_json::Value;
use tokio::time::{Instant, sleep};

mod support;
use support::{
    Net, chain,
    daemons::{Daemon, Probe, free_port, manager, provider},
    redis::Redis,
};

const LIMIT: Duration = Duration::from_secs(60);

/// Returns metrics that have a type and no help.
fn undescribed(metrics: &str) -> BTreeSet<&str> {
    let of = |kind| {
        let lines = metrics.lines().filter_map(move |line| line.strip_prefix(kind)?.split(' ').next());
        lines.collect::<BTreeSet<_>>()
    };
    of("# TYPE ").difference(&of("# HELP ")).copied().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_follows_outages_of_nodes_and_providers() {
    let net = Net::start(chain(), 0).await;
    let mut provider = provider(&net, "dp");
    let mut manager = manager(&net, "lm").set("PHALA_WALKIE_BOOT_NODES", provider.address());
    provider.start();
    manager.start();
    provider.until_unready(&[], LIMIT).await;
    manager.until_unready(&[], LIMIT).await;
    for daemon in [&provider, &manager] {
        let metrics = daemon.ops("/metrics").unwrap().1;
        assert_eq!(undescribed(&metrics), BTreeSet::new());
        assert!(metrics.contains("prb_build_info{version="), "{metrics}");
    }

    net.devnet.relay().stop_rpc().await;
    net.devnet.para().stop_rpc().await;
    provider.until_unready(&["no_relay_node", "no_para_node"], LIMIT).await;
    manager.until_unready(&["no_para_node"], LIMIT).await;
    causes_are_told(&provider, &manager).await;
    provider.kill();
    manager.until_unready(&["no_data_provider", "no_para_node"], LIMIT).await;
    let refused =
        |line: &str| line.contains("a boot node cannot be reached") && line.contains("Connection refused");
    let start = Instant::now();
    while !manager.log().lines().any(refused) {
        assert!(start.elapsed() < LIMIT, "the log does not name the boot node");
        sleep(Duration::from_millis(50)).await;
    }
    net.devnet.relay().start_rpc().await.unwrap();
    net.devnet.para().start_rpc().await.unwrap();
    provider.start();
    provider.until_unready(&[], LIMIT).await;
    manager.until_unready(&[], LIMIT).await;
    assert!(manager.log().contains("a boot node can be reached"));
    manager.stop().await;
    provider.stop().await;
    net.shutdown().await;
}

/// Its peer-to-peer port can be reached, its blobs cannot: a firewall, or a server at another address.
#[tokio::test(flavor = "multi_thread")]
async fn provider_whose_blobs_cannot_be_reached_is_named() {
    let net = Net::start(chain(), 0).await;
    let mut provider = provider(&net, "dp").set("PRB_BLOB_SERVER_ADDRESS", "127.0.0.2");
    let mut manager = manager(&net, "lm").set("PHALA_WALKIE_BOOT_NODES", provider.address());
    provider.start();
    manager.start();
    provider.until_unready(&[], LIMIT).await;
    manager.until_unready(&["no_data_provider"], LIMIT).await;
    let start = Instant::now();
    loop {
        let told = reasons(&manager).pop().map(|(_, message)| message).unwrap_or_default();
        let logged = manager.log().contains("a data provider's blob server cannot be reached");
        if logged && told.contains("refused") && told.contains("127.0.0.1") {
            break;
        }
        assert!(start.elapsed() < LIMIT, "{told}");
        sleep(Duration::from_millis(100)).await;
    }
    provider.stop().await;
    provider.put("PRB_BLOB_SERVER_ADDRESS", "127.0.0.1");
    provider.start();
    manager.until_unready(&[], LIMIT).await;
    manager.stop().await;
    provider.stop().await;
    net.shutdown().await;
}

/// Returns codes and messages of the reasons why a daemon is not ready.
fn reasons(daemon: &Daemon) -> Vec<(String, String)> {
    listed(&daemon.ops("/readyz").unwrap().1, "reasons")
}

fn listed(body: &str, field: &str) -> Vec<(String, String)> {
    let body: Value = serde_json::from_str(body).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let reasons = body[field].as_array().unwrap_or_else(|| panic!("no {field} in {body}"));
    reasons.iter().map(|reason| (text(&reason["code"]), text(&reason["message"]))).collect()
}

/// For as long as nodes are away, each answer has the cause, also between two attempts to connect.
async fn causes_are_told(provider: &Daemon, manager: &Daemon) {
    let mut waits = 0;
    let start = Instant::now();
    while waits < 3 {
        assert!(start.elapsed() < LIMIT, "no node was in backoff");
        for daemon in [provider, manager] {
            for (_, message) in reasons(daemon).into_iter().filter(|(code, _)| code.ends_with("_node")) {
                assert!(message.to_lowercase().contains("refused"), "{message}");
                waits += usize::from(message.contains("next try in"));
            }
        }
        sleep(Duration::from_millis(50)).await;
    }
    let log = provider.log() + &manager.log();
    for line in log.lines().filter(|line| line.contains("next try in")) {
        assert!(line.to_lowercase().contains("refused"), "{line}");
    }
}

/// A `prb all` without workers on these nodes, with the ports of its API and its console.
fn bridge(folder: &Path, name: &str, relay: &str, para: &str) -> (Daemon, Probe, Probe) {
    let (api, console) = (Probe::new(), Probe::new());
    let bridge = Daemon::new(folder, "all", name)
        .set("PRB_DATA", folder.join(name).join("data").display())
        .set("PHALA_PARENT_CHAIN_ENDPOINT", relay)
        .set("PHALA_CHAIN_ENDPOINT", para)
        .set("PRB_API_LISTEN", api.address())
        .set("PRB_CONSOLE_LISTEN", console.address())
        .set("PRB_QUEUE_PAGE_LISTEN", "none");
    (bridge, api, console)
}

/// The output of `prb status`.
fn status(api: &Probe, further: &[&str]) -> String {
    let url = format!("http://{}", api.address());
    let output = Command::new(env!("CARGO_BIN_EXE_prb"))
        .arg("status")
        .args(further)
        .env_clear()
        .env("PRB_API_URL", url)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn reasons_are_shown_by_console_api_and_command() {
    const CALM: &str = "Nothing. Waiting workers continue by themselves.";
    let net = Net::start(chain(), 0).await;
    let (relay, para) = (net.devnet.relay(), net.devnet.para());
    let (mut bridge, api, console) = bridge(net.dir.path(), "all", &relay.url(), &para.url());
    bridge.start();
    bridge.until_unready(&[], LIMIT).await;
    assert_eq!(listed(&api.ask("/api/v1/status").unwrap().1, "not_ready"), []);
    assert!(status(&api, &[]).starts_with("daemon "));
    until_page_has(&console, &[CALM]).await;

    relay.stop_rpc().await;
    para.stop_rpc().await;
    let codes = ["no_relay_node", "no_para_node"];
    bridge.until_unready(&codes, LIMIT).await;
    for answer in [api.ask("/api/v1/status").unwrap().1, status(&api, &["--json"])] {
        let shown: Vec<_> = listed(&answer, "not_ready").into_iter().map(|(code, _)| code).collect();
        assert_eq!(shown, codes, "{answer}");
        assert!(answer.contains("Start the node, or correct `PHALA_CHAIN_ENDPOINT`"), "{answer}");
    }
    let text = status(&api, &[]);
    assert!(text.starts_with("not ready: no_relay_node: no node of the relay chain answers"), "{text}");
    assert!(text.contains("\n  Start the node, or correct `PHALA_PARENT_CHAIN_ENDPOINT`"), "{text}");
    let [no_para, daemon] = ["\nnot ready: no_para_node: ", "\ndaemon "].map(|line| text.find(line).unwrap());
    assert!(no_para < daemon, "{text}");
    // It is at most a second old.
    let page = until_page_has(&console, &codes).await;
    assert!(page.contains("Start the node, or correct <code>PHALA_CHAIN_ENDPOINT</code>"), "{page}");
    assert!(!page.contains(CALM), "{page}");
    bridge.stop().await;
    net.shutdown().await;
}

/// Waits until the console's first page has these texts; returns the page.
async fn until_page_has(console: &Probe, texts: &[&str]) -> String {
    let start = Instant::now();
    loop {
        let page = console.ask("/").unwrap().1;
        if texts.iter().all(|text| page.contains(text)) {
            return page;
        }
        assert!(start.elapsed() < LIMIT, "{texts:?} are not in {page}");
        sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_of_other_chains_are_named_with_the_error_of_the_start() {
    let net = Net::start(chain(), 0).await;
    let other = Devnet::start(Config { para_id: 2100, ..chain() }).await.unwrap();
    let (relay, para) = (net.devnet.relay().url(), net.devnet.para().url());
    for (name, relay, para, cause) in [
        ("swapped", &para, &relay, "check that the endpoints of relay chain and parachain are not swapped"),
        ("other", &relay, &other.para().url(), "does not serve the relay chain of the parachain that"),
    ] {
        let (mut bridge, ..) = bridge(net.dir.path(), name, relay, para);
        bridge.start();
        bridge.until_live(LIMIT).await;
        let names_cause =
            |(code, message): &(String, String)| code == "chain_unknown" && message.contains(cause);
        let start = Instant::now();
        while !reasons(&bridge).iter().any(names_cause) {
            assert!(start.elapsed() < LIMIT, "{:?}\n{}", reasons(&bridge), bridge.log_tail());
            sleep(Duration::from_millis(100)).await;
        }
        if name == "swapped" {
            no_capability_is_missing(&bridge).await;
        }
        bridge.stop().await;
    }
    other.shutdown().await;
    net.shutdown().await;
}

/// The relay chain's node was asked for storage changes, which it does not offer; but it is the wrong node.
async fn no_capability_is_missing(bridge: &Daemon) {
    let start = Instant::now();
    while !bridge.log().contains("\"storage_changes\"") {
        assert!(start.elapsed() < LIMIT, "{}", bridge.log_tail());
        sleep(Duration::from_millis(100)).await;
    }
    let reasons = reasons(bridge);
    assert!(reasons.iter().all(|(code, _)| code != "storage_changes_missing"), "{reasons:?}");
}

/// A trader on an available chain.
fn trader(net: &Net, redis: &str) -> Daemon {
    let trader = Daemon::new(net.dir.path(), "trade", "trader")
        .set("PHALA_CHAIN_ENDPOINT", net.devnet.para().url())
        .set("PHALA_Q_REDIS_ENDPOINT", redis)
        .set("PRB_QUEUE_PAGE_LISTEN", "none");
    Identity::generate().unwrap().store(&trader.identity_folder(), Role::Lifecycle).unwrap();
    trader
}

#[tokio::test(flavor = "multi_thread")]
async fn trader_is_ready_while_it_can_lease_jobs() {
    let net = Net::start(chain(), 0).await;
    let mut redis = Redis::start(net.dir.path());
    let mut trader = trader(&net, &redis.url());
    trader.start();
    trader.until_unready(&[], LIMIT).await;
    redis.kill();
    trader.until_unready(&["queue_unreachable"], LIMIT).await;
    let told = trader.ops("/readyz").unwrap().1;
    assert!(told.contains("127.0.0.1") && told.to_lowercase().contains("refused"), "{told}");
    // Every log line about it has the server and the cause.
    let log = trader.log();
    let lines: Vec<_> = log.lines().filter(|line| line.contains("queue is unavailable")).collect();
    assert!(lines.iter().all(|line| line.contains("redis://127.0.0.1:")), "{lines:#?}");
    assert!(!lines.is_empty(), "{log}");
    redis.restart(true);
    trader.until_unready(&[], LIMIT).await;
    trader.stop().await;
    drop(redis);

    // A Redis that cannot run the queue.
    let port = free_port();
    let child = Command::new("redis-server")
        .args(["--port", &port.to_string(), "--save", "", "--rename-command", "BLMOVE", ""])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let _old = support::Process::of(child);
    trader.put("PHALA_Q_REDIS_ENDPOINT", format!("redis://127.0.0.1:{port}"));
    trader.start();
    // After it has waited for a job.
    sleep(Duration::from_secs(3)).await;
    trader.until_unready(&["queue_unreachable"], LIMIT).await;
    let told = trader.ops("/readyz").unwrap().1;
    assert!(told.contains("6.2") && told.contains(&port.to_string()), "{told}");
    trader.stop().await;
    net.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn open_files_limit_is_raised_and_a_low_one_is_reported() {
    let net = Net::start(chain(), 0).await;
    let mut provider = provider(&net, "dp");
    provider = provider
        .launched_by(&["sh", "-c", "ulimit -Sn 256 && ulimit -Hn 700 && exec \"$0\""], [127, 0, 0, 1].into());
    provider.start();
    provider.until_unready(&[], LIMIT).await;
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", provider.process_id())).unwrap();
    let files = limits.lines().find(|line| line.starts_with("Max open files")).unwrap();
    assert_eq!(files.split_whitespace().skip(3).take(2).collect::<Vec<_>>(), ["700", "700"], "{files}");
    assert!(provider.log().contains("LimitNOFILE"), "{}", provider.log_tail());
    provider.stop().await;
    net.shutdown().await;
}

/// A certificate of a test authority, for 127.0.0.1.
fn certificates(folder: &std::path::Path) {
    let script = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=ca \
                  -keyout ca.key -out ca.crt && openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes \
                  -subj /CN=redis -keyout redis.key -out redis.csr && printf 'subjectAltName=IP:127.0.0.1' > ext && \
                  openssl x509 -req -in redis.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -extfile ext \
                  -out redis.crt";
    let made = Command::new("sh").args(["-c", script]).current_dir(folder).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn redis_is_reached_over_tls() {
    let net = Net::start(chain(), 0).await;
    let folder = net.dir.path();
    certificates(folder);
    let port = free_port();
    let child = Command::new("redis-server")
        .args(["--port", "0", "--tls-port", &port.to_string(), "--save", "", "--tls-auth-clients", "no"])
        .args(["--tls-cert-file", "redis.crt", "--tls-key-file", "redis.key", "--tls-ca-cert-file", "ca.crt"])
        .current_dir(folder)
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let _redis = support::Process::of(child);
    let mut trader = trader(&net, &format!("rediss://127.0.0.1:{port}"));
    // The certificate's authority is not trusted.
    trader.start();
    let start = Instant::now();
    while !trader.ops("/readyz").is_some_and(|(_, told)| told.contains("certificate")) {
        assert!(start.elapsed() < LIMIT, "{}", trader.log_tail());
        sleep(Duration::from_millis(100)).await;
    }
    trader.stop().await;
    trader.put("SSL_CERT_FILE", folder.join("ca.crt").display());
    trader.start();
    trader.until_unready(&[], LIMIT).await;
    trader.stop().await;
    net.shutdown().await;
}
