//! Strangers at the ports that speak HTTP: pipelines that nobody reads, requests that never end.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinSet,
    time::sleep,
};

use crate::{Targets, sockets::connect};

/// Attackers of each port.
const EACH: u8 = 24;

/// Ask again and again, and read nothing.
pub(crate) fn unread_pipelines(targets: &Targets) -> JoinSet<()> {
    let mut attackers = JoinSet::new();
    for to in targets.http.clone() {
        for number in 0..EACH {
            attackers.spawn(async move {
                let requests = "GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".repeat(1000);
                loop {
                    let Some(mut stream) = connect(2 + number % 8, to).await else {
                        sleep(Duration::from_millis(100)).await;
                        continue;
                    };
                    while stream.write_all(requests.as_bytes()).await.is_ok() {}
                }
            });
        }
    }
    attackers
}

/// Heads and bodies that come a byte at a time, and streams that nobody closes.
pub(crate) fn slow_requests(targets: &Targets) -> JoinSet<()> {
    let mut attackers = JoinSet::new();
    for to in targets.http.clone() {
        for number in 0..EACH {
            attackers.spawn(async move {
                let begin = match number % 3 {
                    0 => "GET / HTTP/1.1\r\nX-Slow: ",
                    1 => "POST /api/v1/pools HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 1000000\r\n\r\n",
                    _ => "GET /api/v1/stream/workers HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: text/event-stream\r\n\r\n",
                };
                loop {
                    let Some(mut stream) = connect(2 + number % 8, to).await else {
                        sleep(Duration::from_millis(100)).await;
                        continue;
                    };
                    let mut open = stream.write_all(begin.as_bytes()).await.is_ok();
                    let mut some = [0; 1024];
                    while open {
                        sleep(Duration::from_millis(200)).await;
                        open = match number % 3 {
                            2 => stream.read(&mut some).await.is_ok_and(|read| read > 0),
                            _ => stream.write_all(b"x").await.is_ok(),
                        };
                    }
                }
            });
        }
    }
    attackers
}
