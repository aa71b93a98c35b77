//! Tests of nodes that answer the handshake of a WebSocket with something else.

use std::{io::ErrorKind, net::SocketAddr};

use prb_core::text::describe;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    },
};
use tokio_util::task::AbortOnDropHandle;

use super::*;

/// A server that answers each connection with `respond`, and reports each one's end.
async fn server<F>(respond: fn(TcpStream, String) -> F, text: String) -> (SocketAddr, Ends)
where
    F: Future<Output = usize> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (ended, ends) = mpsc::unbounded_channel();
    let task = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = ended.send(respond(stream, text.clone()).await);
        }
    });
    (address, Ends { ends, _task: AbortOnDropHandle::new(task) })
}

struct Ends {
    ends: mpsc::UnboundedReceiver<usize>,
    _task: AbortOnDropHandle<()>,
}

/// Answers a request, and waits for the end of the connection.
async fn answer(mut stream: TcpStream, text: String) -> usize {
    let mut buffer = [0; 4096];
    let mut read = stream.read(&mut buffer).await.unwrap_or(0);
    let _ = stream.write_all(text.as_bytes()).await;
    let mut all = 0;
    while read > 0 {
        all += read;
        read = stream.read(&mut buffer).await.unwrap_or(0);
    }
    all
}

/// Answers with a head without end; returns its bytes that were taken.
async fn endless_head(mut stream: TcpStream, start: String) -> usize {
    let mut sent = 0;
    let mut next = start;
    loop {
        match stream.write(next.as_bytes()).await {
            Ok(0) => return sent,
            Ok(count) => sent += count,
            Err(e) if e.kind() == ErrorKind::Interrupted => {}
            Err(_) => return sent,
        }
        next = "x".repeat(4096);
    }
}

async fn refusal(endpoint: String, config: impl FnOnce(rpc::Config) -> rpc::Config) -> String {
    let pool = NodePool::new("relay", config(quick(vec![endpoint]))).unwrap();
    describe(&pool.pick().request::<String>("system_chain", NO_PARAMS).await.unwrap_err())
}

#[tokio::test(flavor = "multi_thread")]
async fn redirects_are_not_followed() {
    let (inside, mut asked) = server(answer, String::new()).await;
    for location in [format!("ws://{inside}/admin?reboot"), "/elsewhere?key=secret".into()] {
        let found = format!("HTTP/1.1 302 Found\r\nLocation: {location}\r\n\r\n");
        let (node, _ends) = server(answer, found).await;
        let error = refusal(format!("ws://{node}/?key=secret"), |config| config).await;
        assert!(asked.ends.try_recv().is_err(), "a node sent us to another server");
        assert!(error.contains("302") && error.contains("redirect") && !error.contains("secret"), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn answer_to_a_handshake_without_end_is_not_read() {
    for start in ["HTTP/1.1 101 Switching Protocols\r\nX: ", "HTTP/1.1 200 OK\r\n", "\r\n\r\n\r\n"] {
        let (node, mut ends) = server(endless_head, start.into()).await;
        // It ends because of its size: the time would be long enough for all of the test.
        let patient = |config: rpc::Config| config.with_connect_timeout(TIMEOUT * 4);
        let error = timeout(TIMEOUT, refusal(format!("ws://{node}"), patient)).await.expect("it is read on");
        let sent = timeout(TIMEOUT, ends.ends.recv()).await.expect("it is read on").unwrap();
        // What the system buffers, too.
        assert!(sent < 16 << 20, "{sent} bytes of a head were taken");
        assert!(error.contains("not connected"), "{error}");
    }
}

/// The authority of the test servers' certificates.
const AUTHORITY: &[u8] = include_bytes!("../../../prb-core/tests/tls/ca.pem");

/// The TLS of a server at 127.0.0.1.
fn tls() -> TlsAcceptor {
    let chain = CertificateDer::pem_slice_iter(include_bytes!("../../../prb-core/tests/tls/server.pem"));
    let key =
        PrivateKeyDer::from_pem_slice(include_bytes!("../../../prb-core/tests/tls/server.key")).unwrap();
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain.map(Result::unwrap).collect(), key)
        .unwrap();
    TlsAcceptor::from(Arc::new(config))
}

/// A TLS server in front of a node; returns its port.
async fn behind_tls(node: String) -> (u16, AbortOnDropHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let task = tokio::spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let node = node.clone();
            connections.spawn(async move {
                // The client ends the handshakes of servers that it does not trust.
                let Ok(mut client) = tls().accept(stream).await else { return };
                let mut node = TcpStream::connect(node).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut client, &mut node).await;
            });
        }
    });
    (port, AbortOnDropHandle::new(task))
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_of_wss_nodes_are_verified() {
    let [devnet] = devnets::<1>(config()).await;
    let (port, _server) = behind_tls(devnet.relay().url().replace("ws://", "")).await;
    let trusting = |config: rpc::Config| {
        config.with_root_certificates_pem(AUTHORITY.to_vec()).with_connect_timeout(TIMEOUT)
    };
    let pool = NodePool::new("relay", trusting(quick(vec![format!("wss://127.0.0.1:{port}")]))).unwrap();
    let asked = pool.pick().request::<String>("system_chain", NO_PARAMS).await;
    assert!(asked.is_ok(), "{asked:?}");

    let stranger = refusal(format!("wss://127.0.0.1:{port}"), |config| config.with_connect_timeout(TIMEOUT));
    let stranger = stranger.await;
    assert!(stranger.contains("UnknownIssuer"), "{stranger}");
    let misnamed = refusal(format!("wss://localhost:{port}"), trusting).await;
    assert!(misnamed.contains("not valid for name"), "{misnamed}");
    let unreadable = refusal(format!("wss://127.0.0.1:{port}"), |config| {
        config.with_root_certificates_pem(b"-----BEGIN CERTIFICATE-----".to_vec())
    });
    let unreadable = unreadable.await;
    assert!(unreadable.contains("certificate"), "{unreadable}");
}
