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
        Connect, ConnectError, Error, PRuntime, PRuntimeClient,
        http::{BuildError, HttpConfig, HttpConnect},
    },
};
use prost::Message;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
    sync::mpsc,
    task::JoinSet,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    },
};

/// What the server does with a request.
#[derive(Clone)]
enum Reply {
    Answer(u16, Vec<u8>),
    /// A body without an end, in chunks.
    Endless,
    /// Sends to another address.
    Redirect(String),
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
    serve_over(None, reply).await
}

/// The TLS of a server whose certificate the authority in `tests/tls` vouches for.
fn tls() -> TlsAcceptor {
    let chain = CertificateDer::pem_slice_iter(include_bytes!("tls/server.pem"));
    let key = PrivateKeyDer::from_pem_slice(include_bytes!("tls/server.key")).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain.map(Result::unwrap).collect(), key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

async fn serve_over(tls: Option<TlsAcceptor>, reply: Reply) -> Server {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let scheme = if tls.is_some() { "https" } else { "http" };
    let endpoint = format!("{scheme}://{}", listener.local_addr().unwrap());
    let (sender, requests) = mpsc::unbounded_channel();
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut open = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            counted.fetch_add(1, Ordering::SeqCst);
            let (tls, reply, sender) = (tls.clone(), reply.clone(), sender.clone());
            open.spawn(async move {
                match tls {
                    None => talk(stream, reply, sender).await,
                    Some(tls) => {
                        if let Ok(stream) = tls.accept(stream).await {
                            talk(stream, reply, sender).await;
                        }
                    }
                }
            });
        }
    });
    Server { endpoint, requests, connections, _tasks: tasks }
}

async fn talk(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    reply: Reply,
    requests: mpsc::UnboundedSender<(String, Vec<u8>)>,
) {
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
            Reply::Redirect(location) => {
                let head = format!("HTTP/1.1 307 Any\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n");
                if stream.write_all(head.as_bytes()).await.is_err() {
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
    HttpConfig::default().with_request_timeout(Duration::from_secs(5))
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
async fn errors_keep_the_workers_text() {
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
    let config = config().with_answer_limit_bytes(100_000);
    let client = client(&server.endpoint, config);
    let error = client.call(Method::Echo, Bytes::new()).await.unwrap_err();
    assert!(matches!(error, Error::BadAnswer { .. }), "{error:?}");
    server.requests.recv().await.unwrap();
    for (method, limit) in [(Method::GetInfo, "1048576"), (Method::GetEgressMessages, "16777216")] {
        let client = self::client(&server.endpoint, self::config());
        let error = client.call(method, Bytes::new()).await.unwrap_err();
        assert!(error.to_string().contains(limit), "{error}");
        server.requests.recv().await.unwrap();
    }

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
    let config = HttpConfig::default()
        .with_request_timeout(Duration::from_millis(50))
        .with_sync_timeout(Duration::from_millis(300))
        .with_attestation_timeout(Duration::from_millis(200))
        .with_checkpoint_timeout(Duration::from_millis(400));
    let client = client(&server.endpoint, config.clone());
    for (method, limit) in [
        (Method::GetInfo, config.request_timeout),
        (Method::SyncCombinedHeaders, config.sync_timeout),
        (Method::InitRuntime, config.sync_timeout),
        (Method::GetRuntimeInfo, config.attestation_timeout),
        (Method::TakeCheckpoint, config.checkpoint_timeout),
    ] {
        let before = std::time::Instant::now();
        let error = client.call(method, Bytes::new()).await.unwrap_err();
        assert!(matches!(error, Error::TimedOut { limit: l, .. } if l == limit), "{error:?}");
        assert!(before.elapsed() >= limit);
        assert!(error.is_connection());
    }
}

#[tokio::test]
async fn closed_port_is_unreachable() {
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
async fn a_kick_may_only_break_the_connection() {
    let config = HttpConfig::default().with_request_timeout(Duration::from_millis(200));
    for (reply, status) in [
        (Reply::Close, None),
        (Reply::Answer(200, vec![]), None),
        (Reply::Answer(204, vec![]), None),
        (Reply::Answer(404, vec![]), Some(404)),
        (Reply::Answer(500, error("no")), Some(500)),
        (Reply::Answer(302, vec![]), Some(302)),
    ] {
        let mut server = serve(reply).await;
        let kicked = client(&format!("{}/", server.endpoint), config.clone()).kick().await;
        assert_eq!(server.requests.recv().await.unwrap().0, "POST /kick HTTP/1.1");
        match (kicked, status) {
            (Ok(()), None) => {}
            (Err(Error::Refused { method: "kick", status, .. }), Some(expected)) => {
                assert_eq!(status, expected);
            }
            (kicked, status) => panic!("{kicked:?} for {status:?}"),
        }
    }
    let server = serve(Reply::Silent).await;
    let error = client(&server.endpoint, config).kick().await.unwrap_err();
    assert!(matches!(error, Error::TimedOut { method: "kick", .. }), "{error:?}");
}

#[tokio::test]
async fn https_endpoints_are_verified() {
    let info = PhactoryInfo { version: "2.0.0".into(), ..Default::default() };
    let server = serve_over(Some(tls()), Reply::Answer(200, info.encode_to_vec())).await;
    let trusting = HttpConfig::default().with_root_certificates_pem(include_bytes!("tls/ca.pem").to_vec());
    let call =
        |endpoint: String, config| async move { PRuntime::new(client(&endpoint, config)).info().await };
    assert_eq!(call(server.endpoint.clone(), trusting.clone()).await.unwrap(), info);

    // Nobody vouches for it; and a name that is not in the certificate.
    let stranger = call(server.endpoint.clone(), config()).await.unwrap_err();
    assert!(matches!(stranger, Error::Unreachable { .. }), "{stranger:?}");
    let named = server.endpoint.replace("127.0.0.1", "localhost");
    assert!(matches!(call(named, trusting).await, Err(Error::Unreachable { .. })));

    let bad = config().with_root_certificates_pem(b"-----BEGIN CERTIFICATE-----".to_vec());
    let error = HttpConnect::new(bad).unwrap_err();
    assert!(matches!(error, BuildError::Certificates(_)), "{error:?}");
}

#[tokio::test]
async fn redirects_are_not_followed() {
    let mut elsewhere = serve(Reply::Answer(200, vec![])).await;
    let server = serve(Reply::Redirect(format!("{}/inside?key=secret", elsewhere.endpoint))).await;
    let client = client(&server.endpoint, config());
    let called = PRuntime::new(Arc::clone(&client)).info().await.map(drop);
    for result in [called, client.kick().await] {
        let Err(Error::Refused { status: 307, message, .. }) = result else { panic!("{result:?}") };
        let target = format!("it redirects to {} (307)", elsewhere.endpoint);
        assert!(message.starts_with(&target) && !message.contains("secret"), "{message}");
    }
    assert!(elsewhere.requests.try_recv().is_err(), "a worker sent us to another server");
}

#[tokio::test]
async fn connections_are_kept_only_where_so_configured() {
    for keep_alive in [None, Some(Duration::from_secs(60))] {
        let server = serve(Reply::Answer(200, vec![])).await;
        let client = client(&server.endpoint, config().with_keep_alive(keep_alive));
        for _ in 0..5 {
            client.call(Method::Echo, Bytes::new()).await.unwrap();
        }
        let opened = server.connections.load(Ordering::SeqCst);
        // A connection is given back by a task of its own, which may be late once.
        assert!(if keep_alive.is_some() { opened < 5 } else { opened == 5 }, "{opened} connections");
    }
}

#[test]
fn endpoints_are_http_or_https_urls() {
    let connect = HttpConnect::new(HttpConfig::default()).unwrap();
    for bad in [
        "",
        "10.0.0.1:8000",
        "ftp://10.0.0.1",
        "http://",
        "http://a/?key=hunter2",
        "http://a/#b",
        "http://a:0",
    ] {
        let error = connect.connect(bad).unwrap_err();
        assert!(matches!(error, ConnectError::Endpoint { .. }) && !error.is_retryable(), "{bad}: {error:?}");
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
    }
    for good in [" http://10.0.0.1:8000/ ", "https://worker.example.org/some/path//"] {
        assert!(connect.connect(good).is_ok(), "{good}");
    }
}

#[tokio::test]
async fn passwords_in_endpoints_are_not_shown() {
    let connect = HttpConnect::new(HttpConfig::default()).unwrap();
    let error = connect.connect("ftp://user:secret@10.0.0.1").unwrap_err();
    assert!(!format!("{error} {error:?}").contains("secret"), "{error:?}");
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let client = client(&format!("http://user:secret@{address}/"), config());
    let error = client.call(Method::GetInfo, Bytes::new()).await.unwrap_err();
    assert!(!format!("{error} {error:?} {client:?}").contains("secret"), "{error:?}");
    assert!(error.to_string().contains(&address.to_string()), "{error}");
}

#[tokio::test]
async fn path_prefixes_are_kept() {
    let mut server = serve(Reply::Answer(200, vec![])).await;
    let client = client(&format!("{}/worker/7/", server.endpoint), config());
    client.call(Method::Echo, Bytes::new()).await.unwrap();
    assert_eq!(server.requests.recv().await.unwrap().0, "POST /worker/7/prpc/PhactoryAPI.Echo HTTP/1.1");
}
