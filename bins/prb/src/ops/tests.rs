//! Tests of the ops port over real sockets.
#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::*;
use crate::{
    config::OpsListen,
    listen::{HEADER_TIMEOUT, MAX_CONNECTIONS, WRITE_TIMEOUT},
};

async fn local() -> Ops {
    let listen = Some(OpsListen::At((Ipv4Addr::LOCALHOST, 0).into()));
    Ops::open(&OpsArgs { ops_listen: listen }, 0).await.unwrap().unwrap()
}

/// Returns status and body.
async fn ask(ops: &Ops, path: &str) -> (u16, String) {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    answered(ops.address(), &request).await.unwrap()
}

/// As [`ask`]; `None` if the connection was a reserved one, which answers other paths with nothing, or was
/// closed.
async fn try_ask(ops: &Ops, path: &str) -> Option<(u16, String)> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    answered(ops.address(), &request).await.filter(|(status, _)| *status != 404)
}

async fn answered(address: SocketAddr, request: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect(address).await.ok()?;
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
}

async fn readyz(ops: &Ops) -> (u16, Value) {
    let (status, body) = ask(ops, "/readyz").await;
    (status, serde_json::from_str(&body).unwrap())
}

#[tokio::test]
async fn readiness_follows_the_probe() {
    let ops = local().await;
    assert_eq!(ask(&ops, "/livez").await, (200, "{\"live\":true}".into()));
    let (status, body) = readyz(&ops).await;
    assert_eq!((status, &body["reasons"][0]["code"]), (503, &json!("starting")));

    let reasons = Arc::new(RwLock::new(vec![Reason::new(Code::Syncing, "it is dark")]));
    let seen = Arc::clone(&reasons);
    ops.watch(Probe::new(move || seen.read().unwrap().clone()));
    let expected = json!({ "ready": false, "reasons": [{ "code": "syncing", "message": "it is dark" }] });
    assert_eq!(readyz(&ops).await, (503, expected));
    reasons.write().unwrap().clear();
    assert_eq!(readyz(&ops).await, (200, json!({ "ready": true, "reasons": [] })));
    assert_eq!(ask(&ops, "/elsewhere").await.0, 404);
    ops.stop().await;
}

#[tokio::test]
async fn names_of_other_machines_are_refused_on_loopback() {
    let status = async |ops: &Ops, request: &str| {
        answered(ops.address(), &format!("{request}\r\n\r\n")).await.unwrap().0
    };
    let ops = local().await;
    let own = format!("GET /metrics HTTP/1.1\r\nConnection: close\r\nHost: {}", guard::own_name());
    for known in [&own, "GET /livez HTTP/1.0", "GET /livez HTTP/1.0\r\nHost: 127.0.0.1:18012"] {
        assert_ne!(status(&ops, known).await, 421, "{known}");
    }
    for foreign in [
        "GET /metrics HTTP/1.0\r\nHost: evil.example:18012",
        "GET http://evil.example/metrics HTTP/1.0",
        "GET /readyz HTTP/1.0\r\nHost: localhost\r\nHost: evil.example",
    ] {
        assert_eq!(status(&ops, foreign).await, 421, "{foreign}");
    }
    ops.stop().await;
    // Others reach it by any name, such as a service's.
    let listen = Some(OpsListen::At((Ipv4Addr::UNSPECIFIED, 0).into()));
    let ops = Ops::open(&OpsArgs { ops_listen: listen }, 0).await.unwrap().unwrap();
    let to = SocketAddr::from((Ipv4Addr::LOCALHOST, ops.address().port()));
    let named = "GET /livez HTTP/1.0\r\nHost: prb.fleet.example\r\n\r\n";
    assert_eq!(answered(to, named).await.unwrap().0, 200);
    ops.stop().await;
}

#[tokio::test]
async fn metrics_are_shown_with_fixed_buckets() {
    let ops = local().await;
    metrics::counter!("prb_ops_test_total", "kind" => "a").increment(3);
    metrics::histogram!("prb_ops_test_seconds").record(0.02);
    let (status, text) = ask(&ops, "/metrics").await;
    assert_eq!(status, 200);
    assert!(text.contains("prb_ops_test_total{kind=\"a\"} 3"), "{text}");
    assert!(text.contains("prb_ops_test_seconds_bucket{le=\"0.05\"} 1"), "{text}");
    ops.stop().await;
}

#[tokio::test]
async fn taken_default_port_is_skipped_and_taken_configured_port_is_an_error() {
    let holder = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let address = holder.local_addr().unwrap();
    let by_default = Ops::open(&OpsArgs::default(), address.port()).await.unwrap();
    assert!(by_default.is_none());
    let chosen = OpsArgs { ops_listen: Some(OpsListen::At(address)) };
    let error = format!("{:#}", Ops::open(&chosen, 0).await.unwrap_err());
    assert!(error.contains(&address.to_string()) && error.contains("PRB_OPS_LISTEN"), "{error}");
    let off = OpsArgs { ops_listen: Some(OpsListen::Off) };
    assert!(Ops::open(&off, 0).await.unwrap().is_none());
}

#[tokio::test]
async fn silent_connections_do_not_block_others() {
    let ops = local().await;
    let mut silent = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        silent.push(TcpStream::connect(ops.address()).await.unwrap());
    }
    // `/livez` is answered at once; the rest once the first silent connection is closed.
    let soon = HEADER_TIMEOUT / 4;
    let answer = tokio::time::timeout(soon, ask(&ops, "/livez")).await.unwrap();
    assert_eq!(answer.0, 200);
    let limit = HEADER_TIMEOUT * 3;
    let until_served = async { while try_ask(&ops, "/readyz").await.is_none() {} };
    tokio::time::timeout(limit, until_served).await.unwrap();
    ops.stop().await;
}

/// Sends pipelined requests repeatedly without reading.
async fn greedy(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let requests = "GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(5_000);
    // Requests that the port does not accept any more are not waited for.
    let _ = tokio::time::timeout(HEADER_TIMEOUT / 20, stream.write_all(requests.as_bytes())).await;
    stream
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_never_read_do_not_block_others() {
    let ops = local().await;
    metrics::counter!("prb_ops_test_total", "kind" => "x".repeat(2000)).increment(1);
    let mut greedy_ones = JoinSet::new();
    for _ in 0..MAX_CONNECTIONS {
        greedy_ones.spawn(greedy(ops.address()));
    }
    let held = greedy_ones.join_all().await;
    let answer = tokio::time::timeout(HEADER_TIMEOUT / 4, ask(&ops, "/livez")).await.unwrap();
    assert_eq!(answer.0, 200);
    let until_served = async { while try_ask(&ops, "/metrics").await.is_none() {} };
    // Each of them is ended after the time-out for writes; on a busy machine also their requests take time.
    tokio::time::timeout(WRITE_TIMEOUT * 12, until_served).await.unwrap();
    drop(held);
    ops.stop().await;
}

#[tokio::test]
async fn stopped_port_is_closed() {
    let ops = local().await;
    let address = ops.address();
    ops.stop().await;
    assert!(TcpStream::connect(address).await.is_err());
}
