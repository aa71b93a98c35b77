//! Tests that acknowledgements are not delayed. Originals write a message in pieces and wait for the
//! acknowledgement of each; Linux would delay it by 40 ms in every call.
//!
//! Only the fastest tenth of the calls is measured: a busy machine slows down some, a delayed acknowledgement
//! all.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use prb_walkie::{
    blob::{
        client::{Bounds, Client, Config},
        server::{self, Server},
    },
    proto::Role,
};
use serde_json::Value;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    js::{Peer, Tool},
    ours::{self, Patterns},
};

/// Less than one delay.
const PROMPT: Duration = Duration::from_millis(30);
/// Linux acknowledges a new connection at once for a while, so these calls are not measured.
const WARM_UP: usize = 40;

/// The duration of the fastest tenth of 40 calls.
async fn fastest_tenth(mut call: impl AsyncFnMut()) -> Duration {
    let mut times = Vec::new();
    for _ in 0..WARM_UP + 40 {
        let before = Instant::now();
        call().await;
        times.push(before.elapsed());
    }
    let times = &mut times[WARM_UP..];
    times.sort_unstable();
    times[4]
}

fn assert_is_prompt(figures: &Value) {
    let fastest = figures["p10Ms"].as_f64().unwrap();
    assert!(fastest < PROMPT.as_secs_f64() * 1e3, "{figures}");
}

#[tokio::test]
async fn calls_have_no_delayed_acknowledgements() {
    let theirs = Peer::start(&["--shy"]).await;
    let node = ours::start(Role::LifecycleManager, |config| {
        config.boot_nodes = vec![theirs.address.parse().unwrap()];
    })
    .await;
    ours::peer(&node, &theirs.peer_id, "connected", |peer| peer.connected).await;
    let client = node.client(theirs.peer_id.parse().unwrap());
    let fastest =
        fastest_tenth(async || assert!(client.blob_by_key("pattern:9").await.unwrap().is_some())).await;
    assert!(fastest < PROMPT, "{fastest:?}");

    let figures = Tool::run("peer.js", &["bench", "--addr", &ours::address(&node), "--seconds", "5"]).await;
    assert_is_prompt(&figures[0]);
}

#[tokio::test]
async fn blobs_have_no_delayed_acknowledgements() {
    let mut theirs = Tool::start("blob-server.js", &["--quiet"]);
    let address = format!("127.0.0.1:{}", theirs.event("listening").await["port"]).parse().unwrap();
    let client = Client::start(address, "javascript", Config::default());
    let bounds = Bounds { max_bytes: 1 << 20, timeout: Duration::from_secs(60) };
    let fastest =
        fastest_tenth(async || assert!(client.get("pattern:9", bounds).await.unwrap().is_some())).await;
    assert!(fastest < PROMPT, "{fastest:?}");

    let bind = Server::bind("127.0.0.1:0".parse().unwrap(), Arc::new(Patterns), server::Config::default());
    let server = bind.await.unwrap();
    let port = server.local_addr().port().to_string();
    let _server = AbortOnDropHandle::new(tokio::spawn(server.run(CancellationToken::new())));
    let figures =
        Tool::run("blob-client.js", &["--port", &port, "--bench", "--seconds", "5", "pattern:9"]).await;
    assert_is_prompt(&figures[0]);
}
