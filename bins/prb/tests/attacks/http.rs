//! Strangers at the ports that speak HTTP: pipelines that nobody reads, requests that never end, guesses.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
    time::sleep,
};

use crate::Targets;

/// Attackers of each port.
const EACH: usize = 96;

/// Attacks every port from all addresses, again and again.
fn attack<F>(targets: &Targets, each: fn(usize, TcpStream) -> F) -> JoinSet<()>
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut attackers = JoinSet::new();
    for to in targets.http.clone() {
        for number in 0..EACH {
            let sources = targets.sources.clone();
            attackers.spawn(async move {
                loop {
                    match sources.connect(number, to).await {
                        Some(stream) => each(number, stream).await,
                        None => sleep(Duration::from_millis(100)).await,
                    }
                }
            });
        }
    }
    attackers
}

/// Ask again and again, and read nothing.
pub(crate) fn unread_pipelines(targets: &Targets) -> JoinSet<()> {
    attack(targets, |_, mut stream| async move {
        let requests = "GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".repeat(1000);
        while stream.write_all(requests.as_bytes()).await.is_ok() {}
    })
}

/// Heads, bodies and chunks that come a byte at a time, streams that nobody closes, upgrades to what is not there, and
/// connections that are kept alive with a request now and then.
pub(crate) fn slow_requests(targets: &Targets) -> JoinSet<()> {
    attack(targets, |number, mut stream| async move {
        let host = "Host: 127.0.0.1\r\n";
        let (begin, more) = match number % 6 {
            0 => ("GET / HTTP/1.1\r\nX-Slow: ".to_owned(), "x"),
            1 => (format!("POST /api/v1/pools HTTP/1.1\r\n{host}Content-Length: 1000000\r\n\r\n"), "x"),
            2 => (
                format!("POST /api/v1/pools HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\n\r\n"),
                "1\r\nx\r\n",
            ),
            3 => {
                let head = "Accept: text/event-stream\r\n\r\n";
                (format!("GET /api/v1/stream/workers HTTP/1.1\r\n{host}{head}"), "")
            }
            4 => {
                let head = "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
                (format!("GET / HTTP/1.1\r\n{host}{head}"), "\0")
            }
            _ => (format!("GET /livez HTTP/1.1\r\n{host}\r\n"), "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n"),
        };
        let mut open = stream.write_all(begin.as_bytes()).await.is_ok();
        let mut some = [0; 1024];
        while open {
            sleep(Duration::from_millis(200)).await;
            open = match number % 6 {
                3 => stream.read(&mut some).await.is_ok_and(|read| read > 0),
                _ => stream.write_all(more.as_bytes()).await.is_ok(),
            };
        }
    })
}

/// Changes with other tokens, as fast as they are refused.
pub(crate) fn token_guesses(targets: &Targets) -> JoinSet<()> {
    attack(targets, |number, mut stream| async move {
        let mut answer = [0; 4096];
        for guess in 0_u64.. {
            let head = "POST /api/v1/pools HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\n";
            let token = format!("Authorization: Bearer a-guess-of-the-token-{number}-{guess}\r\n\r\n");
            if stream.write_all(format!("{head}{token}").as_bytes()).await.is_err() {
                return;
            }
            match stream.read(&mut answer).await {
                Ok(1..) => assert!(!answer.starts_with(b"HTTP/1.1 2"), "a guess was let in"),
                _ => return,
            }
        }
    })
}
