//! The ops port over real sockets.
#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::*;
use crate::{
    config::OpsListen,
    listen::{HEADER_TIMEOUT, MAX_CONNECTIONS},
};

async fn local() -> Ops {
    let listen = Some(OpsListen::At((Ipv4Addr::LOCALHOST, 0).into()));
    Ops::open(&OpsArgs { ops_listen: listen }, 0).await.unwrap().unwrap()
}

/// Status and body.
async fn ask(ops: &Ops, path: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(ops.address()).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
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

    let reasons = Arc::new(RwLock::new(vec![Reason::new("no_light", "it is dark")]));
    let seen = Arc::clone(&reasons);
    ops.watch(Arc::new(move || seen.read().unwrap().clone()));
    let expected = json!({ "ready": false, "reasons": [{ "code": "no_light", "message": "it is dark" }] });
    assert_eq!(readyz(&ops).await, (503, expected));
    reasons.write().unwrap().clear();
    assert_eq!(readyz(&ops).await, (200, json!({ "ready": true, "reasons": [] })));
    assert_eq!(ask(&ops, "/elsewhere").await.0, 404);
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
async fn a_taken_default_is_gone_without_and_a_taken_choice_is_refused() {
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
async fn those_who_never_ask_do_not_keep_others_out_for_ever() {
    let ops = local().await;
    let mut silent = Vec::new();
    for _ in 0..MAX_CONNECTIONS {
        silent.push(TcpStream::connect(ops.address()).await.unwrap());
    }
    // Served once the first of them is hung up on, after the header time-out.
    let limit = HEADER_TIMEOUT * 3;
    let answer = tokio::time::timeout(limit, ask(&ops, "/livez")).await.unwrap();
    assert_eq!(answer.0, 200);
    ops.stop().await;
}

#[tokio::test]
async fn a_stopped_port_is_closed() {
    let ops = local().await;
    let address = ops.address();
    ops.stop().await;
    assert!(TcpStream::connect(address).await.is_err());
}
