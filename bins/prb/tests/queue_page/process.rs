//! `prb trader` as a process: it serves the page before Redis and the chain are available.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use prb_walkie::identity::{Identity, Role};
use tempfile::TempDir;

use crate::rig::*;

/// A trader; killed when dropped.
struct Trader(Child);

impl Trader {
    fn start(folder: &TempDir, page: &str) -> Self {
        // The lifecycle manager's identity, which a trader needs.
        let identity = folder.path().join("id");
        if Identity::load(&identity, Role::Lifecycle).unwrap().is_none() {
            Identity::generate().unwrap().store(&identity, Role::Lifecycle).unwrap();
        }
        let child = Command::new(env!("CARGO_BIN_EXE_prb"))
            .env_clear()
            .env("PHALA_MODULE", "trade")
            .env("PHALA_CHAIN_ENDPOINT", "ws://127.0.0.1:9")
            .env("PHALA_Q_REDIS_ENDPOINT", "redis://127.0.0.1:9")
            .env("PHALA_PEER_ID_PREFIX", folder.path().join("id"))
            .env("PRB_OPS_LISTEN", "none")
            .env("PRB_QUEUE_PAGE_LISTEN", page)
            .env("PRB_API_TOKEN", TOKEN)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        Self(child)
    }
}

impl Drop for Trader {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn trader_serves_the_page_without_redis() {
    let folder = TempDir::new().unwrap();
    let held = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address: SocketAddr = held.local_addr().unwrap();

    // The configured port is in use, perhaps by a predecessor that still stops: a supervisor is to try again.
    let mut trader = Trader::start(&folder, &address.to_string());
    let status = tokio::task::spawn_blocking(move || {
        let status = trader.0.wait().unwrap();
        let mut text = String::new();
        std::io::Read::read_to_string(&mut trader.0.stderr.take().unwrap(), &mut text).unwrap();
        (status, text)
    });
    let (status, text) = status.await.unwrap();
    assert_eq!(status.code(), Some(1), "{text}");
    assert!(text.contains("PRB_QUEUE_PAGE_LISTEN") && text.contains(&address.to_string()), "{text}");

    drop(held);
    let trader = Trader::start(&folder, &address.to_string());
    let start = Instant::now();
    while tokio::net::TcpStream::connect(address).await.is_err() {
        assert!(start.elapsed() < LONG, "the page is not open");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let host = format!("Host: {address}\r\nAccept: text/html\r\n");
    let answer = ask(address, &format!("GET / HTTP/1.1\r\n{host}")).await;
    assert_eq!(answer.has(&["The queue does not answer"]).lacks(&[TOKEN]).status, 503);
    let answer = ask(address, &format!("POST /jobs/1/retry HTTP/1.1\r\n{host}Content-Length: 0\r\n")).await;
    assert_eq!(answer.status, 401, "it has read the token");
    drop(trader);
}
