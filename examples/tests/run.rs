//! Runs each example as a program and checks its output.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{ffi::OsStr, process::Stdio, time::Duration};

use clap::Parser;
use prb::{
    all::Bridge,
    config::{Cli, Command},
};
use prb_devnet::{Config, Devnet, Epoch, worker};
use prb_walkie::{
    identity::Identity,
    node::{self, Node},
    proto::{Role, data_provider::Info},
    rpc::{Handlers, calls},
};

/// Timeout of an example.
const TIMEOUT: Duration = Duration::from_secs(120);

/// Runs a program to its end and returns its output.
async fn run(program: &str, args: &[impl AsRef<OsStr>], variables: &[(&str, &str)]) -> String {
    let child = tokio::process::Command::new(program)
        .args(args)
        .envs(variables.iter().copied())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let output =
        tokio::time::timeout(TIMEOUT, child.wait_with_output()).await.expect("not done in time").unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{program}: {text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

const NO_ARGS: [&str; 0] = [];

async fn devnet() -> Devnet {
    let config = Config { history: 20, block_ms: 200, epoch: Epoch::HistoryEndsNow, ..Config::default() };
    let devnet = Devnet::start(config).await.unwrap();
    devnet.spawn_ticker().await;
    devnet
}

/// `cargo demo` is a tool, and no example to read.
#[test]
fn examples_fit_on_a_page() {
    fn look(folder: &std::path::Path, long: &mut Vec<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let is_left_out = ["tests", "demo.rs"].iter().any(|name| path.ends_with(name));
            if path.is_dir() && !is_left_out {
                look(&path, long);
            } else if path.extension().is_some_and(|end| end == "rs") && !is_left_out {
                let lines = std::fs::read_to_string(&path).unwrap().lines().count();
                if lines >= 80 {
                    long.push(format!("{} has {lines} lines", path.display()));
                }
            }
        }
    }
    let mut long = Vec::new();
    look(std::path::Path::new(env!("CARGO_MANIFEST_DIR")), &mut long);
    assert_eq!(long, [""; 0]);
}

#[tokio::test]
async fn embed() {
    let text = run(env!("CARGO_BIN_EXE_embed"), &NO_ARGS, &[]).await;
    assert!(text.starts_with("block 1: "), "{text}");
}

#[tokio::test]
async fn decorator() {
    let text = run(env!("CARGO_BIN_EXE_decorator"), &NO_ARGS, &[]).await;
    assert!(text.contains("would stake 500000000000000000, and the limit is 50000000000000000"), "{text}");
}

#[tokio::test]
async fn sqlite_queue() {
    let text = run(env!("CARGO_BIN_EXE_sqlite_queue"), &NO_ARGS, &[]).await;
    assert_eq!(text, "the queue conforms\njob 1 survived a restart\n");
}

#[tokio::test]
async fn own_source() {
    let text = run(env!("CARGO_BIN_EXE_own_source"), &NO_ARGS, &[]).await;
    assert!(text.starts_with("a lifecycle manager fetched Some(Span { first: RelayNumber("), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn walkie_client() {
    let info = Info { para_id: 2004, para_processed_height: 77, ..Info::default() };
    let handlers = Handlers::new().on(calls::GetDataProviderInfo, move |_, _| async move { Ok(info) });
    let identity = tokio::task::spawn_blocking(Identity::generate).await.unwrap().unwrap();
    let provider = Node::start(
        node::Config::new(identity, Role::DataProviderInt)
            .with_listen(vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()])
            .with_mdns(false)
            .with_handlers(handlers),
    );
    let provider = provider.await.unwrap();
    let address = provider.listen_addresses()[0].to_string();
    let text = run(env!("CARGO_BIN_EXE_walkie_client"), &[address], &[]).await;
    assert!(text.contains("DataProviderInt") && text.contains("parachain 77 of"), "{text}");
    provider.stop(Duration::from_secs(1)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn real_nodes() {
    let devnet = devnet().await;
    let mut workers = worker::spawn_all("0", 1, 0, None).await.unwrap();
    let (folder, pool) = (tempfile::tempdir().unwrap(), devnet.pools()[0].clone());
    let args = [
        devnet.relay().url(),
        devnet.para().url(),
        pool.pid.to_string(),
        workers[0].endpoint(),
        folder.path().display().to_string(),
    ];
    let text = run(env!("CARGO_BIN_EXE_real_nodes"), &args, &[("OPERATOR", &pool.mnemonic)]).await;
    assert!(text.trim_end().lines().last().unwrap().starts_with("S_ACTIVE: "), "{text}");
    workers.remove(0).shutdown().await;
    devnet.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn own_signer() {
    let devnet = devnet().await;
    let mnemonic = devnet.pools()[0].mnemonic.clone();
    let text =
        run(env!("CARGO_BIN_EXE_own_signer"), &[devnet.para().url()], &[("OPERATOR", &mnemonic)]).await;
    // A batch with an invalid signature would not be included in a block.
    assert!(text.starts_with("final in block ") && text.contains("WorkerNotRegistered"), "{text}");
    devnet.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dashboard() {
    let devnet = devnet().await;
    let folder = tempfile::tempdir().unwrap();
    let fleet = folder.path().join("fleet.toml");
    let file = format!(
        "[[pools]]\npid = 1\noperator = \"{}\"\n[[workers]]\nname = \"rack-1-a\"\npid = 1\nstake = \"1\"\n\
         endpoint = \"http://127.0.0.1:9\"\n",
        devnet.pools()[0].mnemonic
    );
    std::fs::write(&fleet, file).unwrap();
    let (relay, para, data) = (devnet.relay().url(), devnet.para().url(), folder.path().join("data"));
    let args = [
        "prb",
        "all",
        "--parent-chain-endpoint",
        &relay,
        "--chain-endpoint",
        &para,
        "--data",
        data.to_str().unwrap(),
        "--fleet",
        fleet.to_str().unwrap(),
        "--api-listen=127.0.0.1:0",
        "--queue-page-listen=none",
        "--console-listen=none",
    ];
    let Command::All(args) = Cli::try_parse_from(args).unwrap().command else { panic!("not `all`") };
    let bridge = Bridge::start(&args).await.ok().unwrap();
    let base = format!("http://{}", bridge.api().unwrap());
    let text = run(env!("CARGO_BIN_EXE_dashboard"), &[base], &[]).await;
    assert!(text.starts_with("1 workers\nS_") && text.contains("pool 1      rack-1-a"), "{text}");
    bridge.stop().await;
    devnet.shutdown().await;
}
