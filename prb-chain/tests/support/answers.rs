//! A WebSocket proxy in front of a node that replaces some of its answers, by method.
#![allow(dead_code, clippy::unwrap_used)]

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinSet,
};

/// Largest handshake or frame, in bytes.
const MAX_BYTES: usize = 64 << 20;
const TEXT: u8 = 1;
/// The bit of a message's last frame, and that of a masked payload.
const LAST: u8 = 0x80;
const MASKED: u8 = 0x80;

/// A message that passes the proxy.
pub(crate) struct Message<'a> {
    /// Number of the connection, from 0 on.
    pub(crate) connection: usize,
    /// The method of the request, of the request that this answers, or of the notification.
    pub(crate) method: &'a str,
    /// The whole message.
    pub(crate) json: &'a Value,
    /// Whether it is a request, which the node has not received yet.
    pub(crate) is_request: bool,
}

impl Message<'_> {
    /// Whether it is an answer to this method, or its notification.
    pub(crate) fn answers(&self, method: &str) -> bool {
        !self.is_request && self.method == method
    }

    /// Whether it is a request of this method.
    pub(crate) fn asks(&self, method: &str) -> bool {
        self.is_request && self.method == method
    }

    /// An answer with this result in place of the message.
    pub(crate) fn with_result(&self, result: Value) -> Reply {
        Reply::Text(vec![result_of(&self.json["id"], result)])
    }

    /// An answer with this error in place of the message.
    pub(crate) fn with_error(&self, code: i32, message: &str) -> Reply {
        let error = serde_json::json!({ "code": code, "message": message });
        Reply::Text(vec![
            serde_json::json!({ "jsonrpc": "2.0", "id": self.json["id"], "error": error }).to_string(),
        ])
    }
}

pub(crate) fn result_of(id: &Value, result: Value) -> String {
    serde_json::json!({ "jsonrpc": "2.0", "id": id, "result": result }).to_string()
}

/// What happens to a message.
pub(crate) enum Reply {
    /// It passes.
    Pass,
    /// It is not delivered.
    Nothing,
    /// These go to the client in its place.
    Text(Vec<String>),
    /// As `Text`, and the last one again at intervals.
    Repeat(Vec<String>, Duration),
}

/// The proxy, until it is dropped.
#[derive(Debug)]
pub(crate) struct Proxy {
    url: String,
    _task: JoinSet<()>,
}

type Script = dyn Fn(Message<'_>) -> Reply + Send + Sync;

impl Proxy {
    /// In front of the node at `url`; the script decides about each message.
    pub(crate) async fn start(
        url: &str,
        script: impl Fn(Message<'_>) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let node = url.trim_start_matches("ws://").to_owned();
        let script: Arc<Script> = Arc::new(script);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("ws://{}", listener.local_addr().unwrap());
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut connections = JoinSet::new();
            for number in 0.. {
                let Ok((client, _)) = listener.accept().await else { return };
                let (node, script) = (node.clone(), Arc::clone(&script));
                connections.spawn(async move {
                    let Ok(node) = TcpStream::connect(node).await else { return };
                    // Either end may go away at any time.
                    let _ = serve(client, node, number, script).await;
                });
            }
        });
        Self { url, _task: task }
    }

    pub(crate) fn url(&self) -> String {
        self.url.clone()
    }
}

/// Methods by request id.
type Methods = Arc<Mutex<HashMap<String, String>>>;

async fn serve(
    client: TcpStream,
    node: TcpStream,
    connection: usize,
    script: Arc<Script>,
) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    node.set_nodelay(true)?;
    let ((from_client, mut to_client), (from_node, mut to_node)) = (client.into_split(), node.into_split());
    let (mut from_client, mut from_node) = (BufReader::new(from_client), BufReader::new(from_node));
    to_node.write_all(&handshake(&mut from_client).await?).await?;
    to_client.write_all(&handshake(&mut from_node).await?).await?;
    let methods = Methods::default();
    // Both directions write to the client.
    let (queue, queued) = mpsc::channel(64);
    let up = pass(&mut from_client, Some(&mut to_node), &queue, (connection, &*script), &methods);
    let down = pass(
        &mut from_node,
        None::<&mut tokio::net::tcp::OwnedWriteHalf>,
        &queue,
        (connection, &*script),
        &methods,
    );
    tokio::select! {
        ended = up => ended,
        ended = down => ended,
        ended = write(queued, &mut to_client) => ended,
    }
}

async fn handshake(from: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Vec<u8>> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && head.len() < MAX_BYTES {
        head.push(from.read_u8().await?);
    }
    Ok(head)
}

/// Passes frames: a client's to the node, the node's to the client's queue.
async fn pass(
    from: &mut (impl AsyncRead + Unpin),
    mut node: Option<&mut (impl AsyncWrite + Unpin)>,
    client: &mpsc::Sender<(Vec<Vec<u8>>, Option<Duration>)>,
    (connection, script): (usize, &Script),
    methods: &Methods,
) -> std::io::Result<()> {
    loop {
        let frame = Frame::read(from).await?;
        let is_request = node.is_some();
        let reply = match serde_json::from_slice::<Value>(&frame.payload) {
            Ok(json) if frame.bytes[0] & 0x0f == TEXT => {
                let method = method(&json, methods, is_request);
                script(Message { connection, method: &method, json: &json, is_request })
            }
            _ => Reply::Pass,
        };
        let frames = |texts: Vec<String>| texts.iter().map(|text| text_frame(text.as_bytes())).collect();
        let (frames, every): (Vec<_>, _) = match reply {
            Reply::Nothing => continue,
            Reply::Pass => {
                if let Some(node) = &mut node {
                    node.write_all(&frame.bytes).await?;
                    continue;
                }
                (vec![frame.bytes], None)
            }
            Reply::Text(texts) => (frames(texts), None),
            Reply::Repeat(texts, every) => (frames(texts), Some(every)),
        };
        if client.send((frames, every)).await.is_err() {
            return Ok(());
        }
    }
}

/// The method of a request or notification, or of the request that a message answers.
fn method(json: &Value, methods: &Methods, is_request: bool) -> String {
    let (id, named) = (json["id"].to_string(), json["method"].as_str());
    let mut methods = methods.lock().unwrap();
    match named {
        Some(named) if is_request => {
            methods.insert(id, named.to_owned());
            named.to_owned()
        }
        Some(named) => named.to_owned(),
        None => methods.remove(&id).unwrap_or_default(),
    }
}

async fn write(
    mut queued: mpsc::Receiver<(Vec<Vec<u8>>, Option<Duration>)>,
    client: &mut (impl AsyncWrite + Unpin),
) -> std::io::Result<()> {
    let mut repeated: Option<(Vec<u8>, Duration)> = None;
    loop {
        let wait = repeated.as_ref().map_or(Duration::MAX, |(_, every)| *every);
        match tokio::time::timeout(wait, queued.recv()).await {
            Ok(None) => return Ok(()),
            Ok(Some((frames, every))) => {
                for frame in &frames {
                    client.write_all(frame).await?;
                }
                if let Some(every) = every {
                    repeated = frames.into_iter().next_back().map(|frame| (frame, every));
                }
            }
            Err(_) => {
                if let Some((frame, _)) = &repeated {
                    client.write_all(frame).await?;
                }
            }
        }
    }
}

struct Frame {
    /// As received.
    bytes: Vec<u8>,
    /// Without its mask.
    payload: Vec<u8>,
}

impl Frame {
    async fn read(from: &mut (impl AsyncRead + Unpin)) -> std::io::Result<Self> {
        let mut bytes = vec![0; 2];
        from.read_exact(&mut bytes).await?;
        let more = match bytes[1] & !MASKED {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let mut length = vec![0; more];
        from.read_exact(&mut length).await?;
        let size = match more {
            0 => usize::from(bytes[1] & !MASKED),
            _ => length.iter().fold(0, |size, byte| size << 8 | usize::from(*byte)),
        };
        assert!(size <= MAX_BYTES, "neither end sends such frames");
        let is_masked = bytes[1] & MASKED != 0;
        bytes.extend(length);
        let start = bytes.len() + if is_masked { 4 } else { 0 };
        bytes.resize(start + size, 0);
        let header = start - if is_masked { 4 } else { 0 };
        from.read_exact(&mut bytes[header..]).await?;
        let mut payload = bytes[start..].to_vec();
        if is_masked {
            let mask = bytes[header..start].to_vec();
            payload.iter_mut().zip(mask.iter().cycle()).for_each(|(byte, mask)| *byte ^= mask);
        }
        Ok(Self { bytes, payload })
    }
}

fn text_frame(payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![LAST | TEXT];
    match payload.len() {
        bytes @ 0..126 => frame.push(bytes as u8),
        bytes @ 126..=0xffff => {
            frame.push(126);
            frame.extend((bytes as u16).to_be_bytes());
        }
        bytes => {
            frame.push(127);
            frame.extend((bytes as u64).to_be_bytes());
        }
    }
    frame.extend(payload);
    frame
}
