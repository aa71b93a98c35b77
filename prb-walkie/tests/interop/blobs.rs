//! Tests of blobs over TCP: the original's client with our server, and our client with the original's server.

use std::{sync::Arc, time::Duration};

use prb_walkie::blob::{
    client::{Bounds, Client, Config, Error, Link},
    server::{self, Server},
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tokio::time::timeout;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    js::Tool,
    ours::{Patterns, TIMEOUT, pattern},
};

const BOUNDS: Bounds = Bounds { max_bytes: 64 << 20, timeout: Duration::from_secs(60) };

/// Runs our server on a port of 127.0.0.1 while the handle lives.
async fn serve() -> (u16, AbortOnDropHandle<()>) {
    let server = Server::bind("127.0.0.1:0".parse().unwrap(), Arc::new(Patterns), server::Config::default());
    let server = server.await.unwrap();
    let port = server.local_addr().port();
    (port, AbortOnDropHandle::new(tokio::spawn(server.run(CancellationToken::new()))))
}

/// Starts the original's server, and our client of it.
async fn connect() -> (Tool, Client) {
    let mut tool = Tool::start("blob-server.js", &[]);
    let port = tool.event("listening").await["port"].as_u64().unwrap();
    let address = format!("127.0.0.1:{port}").parse().unwrap();
    (tool, Client::start(address, "javascript", Config::default()))
}

#[tokio::test]
async fn original_client_fetches_from_our_server() {
    let (port, _server) = serve().await;
    let port = port.to_string();
    // 17 bytes are the shortest answer with a blob; 111 and 112 give frames whose length takes one and two
    // bytes.
    let sizes = [1, 2, 111, 112, 16_367, 16_368, 1_000_000, 5_000_000];
    let keys: Vec<_> = sizes.iter().map(|size| format!("pattern:{size}")).collect();
    let mut args = vec!["--port", &port, "nothing", "pattern:0", "ключ", " \tpattern:7 \n"];
    args.extend(keys.iter().map(String::as_str));
    let answers = Tool::run("blob-client.js", &args).await;
    assert_eq!(answers.len(), args.len() - 2, "{answers:?}");

    let of = |key: &str| answers.iter().find(|answer| answer["key"] == key).unwrap();
    for key in ["nothing", "pattern:0", "ключ"] {
        assert_eq!(*of(key), json!({ "event": "missing", "key": key }));
    }
    let expected = |key: &str, size: u32| {
        let sha256 = hex::encode(Sha256::digest(pattern(size)));
        json!({ "event": "blob", "key": key, "size": size, "sha256": sha256 })
    };
    for (key, size) in keys.iter().zip(sizes) {
        assert_eq!(*of(key), expected(key, size));
    }
    // The original's server trims keys.
    assert_eq!(*of(" \tpattern:7 \n"), expected(" \tpattern:7 \n", 7));
}

#[tokio::test]
async fn original_client_pipelines_at_our_server() {
    let (port, _server) = serve().await;
    let keys: Vec<_> = (1..=500).map(|size| format!("pattern:{size}")).collect();
    let port = port.to_string();
    let args: Vec<_> = ["--port", &port].into_iter().chain(keys.iter().map(String::as_str)).collect();
    let answers = Tool::run("blob-client.js", &args).await;
    let mut sizes: Vec<_> = answers.iter().map(|answer| answer["size"].as_u64().unwrap()).collect();
    sizes.sort_unstable();
    assert!(sizes.into_iter().eq(1..=500));
}

#[tokio::test]
async fn our_client_fetches_from_original_server() {
    let (_tool, client) = connect().await;
    for size in [1, 2, 111, 112, 16_367, 16_368, 1_000_000, 5_000_000] {
        let blob = client.get(&format!("pattern:{size}"), BOUNDS).await.unwrap().unwrap();
        assert!(blob == pattern(size), "{size}");
    }
    for key in ["nothing", "pattern:0", "ключ"] {
        assert_eq!(client.get(key, BOUNDS).await.unwrap(), None, "{key}");
    }
}

/// Answers arrive in another order than the requests: the first ones last.
#[tokio::test]
async fn our_client_pipelines_at_original_server() {
    let (mut tool, client) = connect().await;
    let late = (1..=10).map(|n| format!("late:300:pattern:{n}"));
    let prompt = (1..=20).map(|n| format!("pattern:{n}"));
    let all = late.chain(prompt).map(|key| {
        let client = &client;
        async move {
            let size = key.rsplit(':').next().unwrap().parse().unwrap();
            assert!(client.get(&key, BOUNDS).await.unwrap().unwrap() == pattern(size), "{key}");
        }
    });
    futures::future::join_all(all).await;
    assert_eq!(tool.event("asked").await["key"], "late:300:pattern:1");
}

#[tokio::test]
async fn our_client_refuses_bad_bytes_of_original_server() {
    let (mut tool, client) = connect().await;
    let (bad, good) = (client.get("corrupt:pattern:1000000", BOUNDS), client.get("pattern:100", BOUNDS));
    let (bad, good) = tokio::join!(bad, good);
    match bad.unwrap_err() {
        Error::BadBytes { provider, reason } => assert!(reason.contains("checksum"), "{provider}: {reason}"),
        other => panic!("{other:?}"),
    }
    // The frame was complete, so the connection stays in sync.
    assert!(good.unwrap().unwrap() == pattern(100));

    let small = Bounds { max_bytes: 1000, ..BOUNDS };
    assert!(matches!(client.get("pattern:1001", small).await.unwrap_err(), Error::BadBytes { .. }));
    let asked = tool.find("a request", |e: &Value| e["key"] == "pattern:1001").await;
    assert_eq!(asked["event"], "asked");

    // A server that never answers: the connection is made again.
    let (_tool, client) = connect().await;
    let mut link = client.link();
    timeout(TIMEOUT, link.wait_for(|link| *link == Link::Up)).await.expect("a connection").unwrap();
    let soon = Bounds { timeout: Duration::from_secs(1), ..BOUNDS };
    assert!(matches!(client.get("silent", soon).await.unwrap_err(), Error::TimedOut { .. }));
    timeout(TIMEOUT, link.changed()).await.expect("its end").unwrap();
    timeout(TIMEOUT, link.wait_for(|link| *link == Link::Up)).await.expect("another connection").unwrap();
    assert!(client.get("pattern:100", BOUNDS).await.unwrap().unwrap() == pattern(100));
}
