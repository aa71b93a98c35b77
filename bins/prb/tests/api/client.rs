//! A raw client of the management API, which sends request heads unchanged and reads complete answers.

use std::{net::SocketAddr, time::Duration};

use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

/// Longer than the API's own limit for a request.
const LONG: Duration = Duration::from_secs(120);

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub etag: Option<String>,
    pub head: String,
    pub body: Value,
}

impl Answer {
    #[track_caller]
    pub fn is(self, status: u16) -> Self {
        assert_eq!(self.status, status, "{self:?}");
        self
    }

    /// Returns the code of a refusal.
    pub fn code(&self) -> &str {
        self.body["code"].as_str().unwrap_or_default()
    }
}

pub struct Client {
    pub address: SocketAddr,
    pub token: Option<String>,
}

impl Client {
    pub async fn get(&self, path: &str) -> Answer {
        self.ask("GET", path, None, &[]).await
    }

    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.ask("POST", path, Some(body), &[]).await
    }

    pub async fn patch(&self, path: &str, body: Value) -> Answer {
        self.ask("PATCH", path, Some(body), &[]).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.ask("DELETE", path, None, &[]).await
    }

    pub async fn ask(
        &self,
        method: &str,
        path: &str,
        body: Option<Value>,
        headers: &[(&str, &str)],
    ) -> Answer {
        let body = body.map(|body| body.to_string()).unwrap_or_default();
        self.send(method, path, &body, headers).await
    }

    /// Sends a body unchanged. A `host` header replaces the default one.
    pub async fn send(&self, method: &str, path: &str, body: &str, headers: &[(&str, &str)]) -> Answer {
        let mut head = format!("{method} /api/v1{path} HTTP/1.1\r\nConnection: close\r\n");
        if !headers.iter().any(|(name, _)| *name == "host") {
            head += &format!("Host: {}\r\n", self.address);
        }
        if let Some(token) = &self.token {
            head += &format!("Authorization: Bearer {token}\r\n");
        }
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += &format!("Content-Type: application/json\r\nContent-Length: {}\r\n\r\n", body.len());
        let mut bytes = Vec::new();
        let exchange = async {
            let mut stream = TcpStream::connect(self.address).await.unwrap();
            // The server may refuse the head and close the connection before the whole body is sent.
            let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
            let _ = stream.read_to_end(&mut bytes).await;
        };
        timeout(LONG, exchange).await.unwrap_or_else(|_| panic!("no answer to {method} {path}"));
        let text = String::from_utf8(bytes).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
        let head = head.to_ascii_lowercase();
        let etag = head.lines().find_map(|line| line.strip_prefix("etag: ")).map(str::to_owned);
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        Answer { status, etag, body: serde_json::from_str(body).unwrap_or(Value::Null), head }
    }
}

/// Server-sent events in their order.
pub struct Events {
    stream: TcpStream,
    seen: String,
}

impl Events {
    pub async fn open(client: &Client, path: &str) -> Self {
        Self::open_from(1, client, path).await
    }

    /// From 127.0.0.x.
    pub async fn open_from(from: u8, client: &Client, path: &str) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from(([127, 0, 0, from], 0))).unwrap();
        let mut stream = socket.connect(client.address).await.unwrap();
        let head = format!(
            "GET /api/v1{path} HTTP/1.1\r\nHost: {}\r\nAccept: text/event-stream\r\n\r\n",
            client.address
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        Self { stream, seen: String::new() }
    }

    /// The status that the stream begins with.
    pub async fn status(&mut self) -> u16 {
        let mut begin = [0; 12];
        timeout(LONG, self.stream.read_exact(&mut begin)).await.expect("no status").unwrap();
        std::str::from_utf8(&begin[9..]).unwrap().parse().unwrap()
    }

    /// The data of the next event.
    pub async fn next(&mut self) -> Value {
        let read = async {
            loop {
                if let Some((event, rest)) = self.seen.split_once("\n\n") {
                    let (event, rest) = (event.to_owned(), rest.to_owned());
                    self.seen = rest;
                    if let Some((_, data)) = event.split_once("data: ") {
                        return serde_json::from_str(data).unwrap();
                    }
                    continue;
                }
                let mut buffer = [0; 65_536];
                let length = self.stream.read(&mut buffer).await.unwrap();
                assert!(length > 0, "the stream has ended: {}", self.seen);
                // Chunk lengths are on lines of their own.
                let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
                let is_length = |line: &str| {
                    !line.is_empty() && line.len() < 7 && line.bytes().all(|byte| byte.is_ascii_hexdigit())
                };
                self.seen.extend(text.split("\r\n").filter(|line| !is_length(line)));
            }
        };
        timeout(LONG, read).await.expect("no event")
    }
}
