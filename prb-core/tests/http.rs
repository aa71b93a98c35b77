//! The HTTP client against real sockets.
#![cfg(feature = "http")]
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use prb_core::{
    prpc::{Method, PhactoryInfo, ServerError},
    pruntime::{
        Connect, Error, PRuntime, PRuntimeClient,
        http::{HttpConfig, HttpConnect},
    },
};
use prost::Message;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::JoinSet,
};

/// What the server does with a request.
#[derive(Clone)]
enum Reply {
    Answer(u16, Vec<u8>),
    /// A body without an end, in chunks.
    Endless,
    /// Closes the connection without an answer.
    Close,
    /// Never answers.
    Silent,
}

struct Server {
    endpoint: String,
    requests: mpsc::UnboundedReceiver<(String, Vec<u8>)>,
    connections: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

async fn serve(reply: Reply) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let (sender, requests) = mpsc::unbounded_channel();
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut open = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            counted.fetch_add(1, Ordering::SeqCst);
            open.spawn(talk(stream, reply.clone(), sender.clone()));
        }
    });
    Server { endpoint, requests, connections, _tasks: tasks }
}

async fn talk(mut stream: TcpStream, reply: Reply, requests: mpsc::UnboundedSender<(String, Vec<u8>)>) {
    let mut buffer = Vec::new();
    loop {
        let end = loop {
            if let Some(end) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
                break end + 4;
            }
            if stream.read_buf(&mut buffer).await.unwrap_or(0) == 0 {
                return;
            }
        };
        let head = String::from_utf8(buffer[..end].to_vec()).unwrap();
        let length =
            head.lines().find_map(|l| l.to_lowercase().strip_prefix("content-length:")?.trim().parse().ok());
        let length: usize = length.unwrap_or(0);
        while buffer.len() < end + length {
            if stream.read_buf(&mut buffer).await.unwrap_or(0) == 0 {
                return;
            }
        }
        let body = buffer[end..end + length].to_vec();
        buffer.drain(..end + length);
        let _ = requests.send((head.lines().next().unwrap().to_owned(), body));
        match &reply {
            Reply::Answer(status, body) => {
                let head = format!("HTTP/1.1 {status} Any\r\ncontent-length: {}\r\n\r\n", body.len());
                let answer = [head.as_bytes(), body].concat();
                if stream.write_all(&answer).await.is_err() {
                    return;
                }
            }
            Reply::Endless => {
                let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n";
                stream.write_all(head).await.unwrap();
                let chunk = [b"1000\r\n".as_slice(), &[7; 0x1000], b"\r\n"].concat();
                while stream.write_all(&chunk).await.is_ok() {}
                return;
            }
            Reply::Close => return,
            Reply::Silent => std::future::pending().await,
        }
    }
}

fn config() -> HttpConfig {
    HttpConfig { request_timeout: Duration::from_secs(5), ..HttpConfig::default() }
}

fn client(endpoint: &str, config: HttpConfig) -> Arc<dyn PRuntimeClient> {
    HttpConnect::new(config).unwrap().connect(endpoint).unwrap()
}

fn error(message: &str) -> Vec<u8> {
    ServerError { message: message.to_owned() }.encode_to_vec()
}

#[tokio::test]
async fn a_call_is_a_post_of_protobuf() {
    let info = PhactoryInfo { headernum: 7, version: "2.0.0".into(), ..Default::default() };
    let mut server = serve(Reply::Answer(200, info.encode_to_vec())).await;
    // A slash at the end of the endpoint changes nothing.
    let client = client(&format!("{}/", server.endpoint), config());
    assert_eq!(PRuntime::new(Arc::clone(&client)).info().await.unwrap(), info);
    let (line, body) = server.requests.recv().await.unwrap();
    assert_eq!((line.as_str(), body.len()), ("POST /prpc/PhactoryAPI.GetInfo HTTP/1.1", 0));

    let blocks = Bytes::from(vec![5; 3 << 20]);
    client.call(Method::DispatchBlocks, blocks.clone()).await.unwrap();
    let (line, body) = server.requests.recv().await.unwrap();
    assert_eq!(line, "POST /prpc/PhactoryAPI.DispatchBlocks HTTP/1.1");
    assert!(body == blocks);
}

#[tokio::test]
async fn errors_are_the_workers_own_words() {
    let long = error(&"ä".repeat(5000));
    let cases = [
        (400, error("DecodeError(x)"), "DecodeError(x)"),
        (404, error("Method not found"), "Method not found"),
        (500, error("RCU in progress, please try the request again later"), "RCU in progress"),
        (413, b"payload too large\n".to_vec(), "payload too large"),
        (503, b"broken body".to_vec(), "broken body"),
        (500, b"\xff\xffno protobuf".to_vec(), "no protobuf"),
        (502, vec![], "Bad Gateway"),
        (500, long, "ä"),
    ];
    for (status, body, expected) in cases {
        let server = serve(Reply::Answer(status, body)).await;
        let error = client(&server.endpoint, config()).call(Method::Echo, Bytes::new()).await.unwrap_err();
        match &error {
            Error::Refused { method: "Echo", status: got, message } => {
                assert_eq!(*got, status);
                assert!(message.contains(expected), "{message}");
                assert!(message.len() <= 1024 + '…'.len_utf8());
            }
            other => panic!("{other:?}"),
        }
        assert_eq!(error.is_busy(), expected.starts_with("RCU"));
    }
}

#[tokio::test]
async fn answers_and_requests_have_a_size_limit() {
    let mut server = serve(Reply::Endless).await;
    let config = HttpConfig { answer_limit_bytes: 100_000, ..config() };
    let client = client(&server.endpoint, config);
    let error = client.call(Method::Echo, Bytes::new()).await.unwrap_err();
    assert!(matches!(error, Error::BadAnswer { .. }), "{error:?}");
    server.requests.recv().await.unwrap();

    let large = Bytes::from(vec![0; 1025]);
    let error = client.call(Method::GetInfo, large).await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { size_bytes: 1025, limit_bytes: 1024, .. }), "{error:?}");
    assert!(server.requests.try_recv().is_err(), "it was not sent");

    let server = serve(Reply::Answer(200, vec![0xff; 20])).await;
    let error = PRuntime::new(self::client(&server.endpoint, self::config())).info().await.unwrap_err();
    assert!(matches!(error, Error::BadAnswer { method: "GetInfo", .. }), "{error:?}");
}

#[tokio::test]
async fn silence_ends_after_the_methods_own_time() {
    let server = serve(Reply::Silent).await;
    let config = HttpConfig {
        request_timeout: Duration::from_millis(50),
        sync_timeout: Duration::from_millis(300),
        ..HttpConfig::default()
    };
    let client = client(&server.endpoint, config.clone());
    for (method, limit) in [
        (Method::GetInfo, config.request_timeout),
        (Method::SyncCombinedHeaders, config.sync_timeout),
        (Method::InitRuntime, config.sync_timeout),
    ] {
        let before = std::time::Instant::now();
        let error = client.call(method, Bytes::new()).await.unwrap_err();
        assert!(matches!(error, Error::TimedOut { limit: l, .. } if l == limit), "{error:?}");
        assert!(before.elapsed() >= limit);
        assert!(error.is_connection());
    }
}

#[tokio::test]
async fn a_worker_that_is_not_there_is_unreachable() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let client = client(&endpoint, config());
    let error = client.call(Method::GetInfo, Bytes::new()).await.unwrap_err();
    assert!(matches!(&error, Error::Unreachable { endpoint: e, .. } if *e == endpoint), "{error:?}");
    assert!(matches!(client.kick().await, Err(Error::Unreachable { .. })));

    let server = serve(Reply::Close).await;
    let client = self::client(&server.endpoint, config());
    let error = client.call(Method::GetInfo, Bytes::new()).await.unwrap_err();
    assert!(matches!(error, Error::Unreachable { .. }), "{error:?}");
}

#[tokio::test]
async fn a_kick_may_break_the_connection() {
    for reply in [Reply::Close, Reply::Answer(200, vec![]), Reply::Silent] {
        let mut server = serve(reply).await;
        let config = HttpConfig { request_timeout: Duration::from_millis(200), ..HttpConfig::default() };
        client(&server.endpoint, config).kick().await.unwrap();
        assert_eq!(server.requests.recv().await.unwrap().0, "POST /kick HTTP/1.1");
    }
}

#[tokio::test]
async fn connections_are_kept_only_where_so_configured() {
    for keep_alive in [None, Some(Duration::from_secs(60))] {
        let server = serve(Reply::Answer(200, vec![])).await;
        let client = client(&server.endpoint, HttpConfig { keep_alive, ..config() });
        for _ in 0..5 {
            client.call(Method::Echo, Bytes::new()).await.unwrap();
        }
        let opened = server.connections.load(Ordering::SeqCst);
        // A connection is given back by a task of its own, which may be late once.
        assert!(if keep_alive.is_some() { opened < 5 } else { opened == 5 }, "{opened} connections");
    }
}

#[test]
fn only_plain_http_urls_are_endpoints() {
    let connect = HttpConnect::new(HttpConfig::default()).unwrap();
    for bad in ["", "10.0.0.1:8000", "https://10.0.0.1", "ftp://10.0.0.1", "http://"] {
        assert!(connect.connect(bad).is_err(), "{bad}");
    }
    assert!(connect.connect(" http://10.0.0.1:8000/ ").is_ok());
}
