//! Opens a node's WebSocket: looks its name up, connects, and makes the handshakes.
//!
//! The WebSocket library could do all of this, but would block a thread of the runtime while it looks a name up, follow
//! a node to any other address, and read a head without end.

use std::{
    error::Error as StdError,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use jsonrpsee::{
    client_transport::ws::{WsError, WsHandshakeError},
    core::client::Error as RpcError,
    ws_client::{WsClient, WsClientBuilder},
};
use prb_core::{
    pruntime::http::tls,
    text::{describe, duration, shorten},
};
use reqwest::Url;
use soketto::{base, connection};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpStream, lookup_host},
    time::timeout,
};
use tokio_rustls::{TlsConnector, rustls::pki_types::ServerName};

use super::node::MAX_CAUSE_BYTES;

/// Why there is no connection.
pub(super) type Failure = Box<dyn StdError + Send + Sync>;

/// Most bytes of the head that answers a WebSocket's handshake.
const MAX_HEAD_BYTES: usize = 64 * 1024;

/// Opens a connection to the first address of the endpoint's name that accepts one. Each address, and each handshake,
/// has `limit`. Trusts `certificates_pem` besides the known authorities.
pub(super) async fn open(
    endpoint: &str,
    certificates_pem: &[u8],
    builder: &WsClientBuilder,
    limit: Duration,
) -> Result<WsClient, Failure> {
    let target = Target::new(endpoint, certificates_pem)?;
    open_at(&target, endpoint, builder, limit, look_up).await
}

async fn look_up(host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
    Ok(lookup_host((host, port)).await?.collect())
}

/// As [`open`], with another lookup of the name.
async fn open_at(
    target: &Target,
    endpoint: &str,
    builder: &WsClientBuilder,
    limit: Duration,
    lookup: impl AsyncFnOnce(&str, u16) -> io::Result<Vec<SocketAddr>>,
) -> Result<WsClient, Failure> {
    let addresses = lookup(&target.host, target.port).await;
    let addresses = addresses.map_err(|e| format!("its name cannot be looked up: {}", describe(&e)))?;
    let mut failure = "its name has no address".into();
    for address in addresses {
        let connected = timeout(limit, target.connect(address)).await;
        let connected = connected.unwrap_or_else(|_| Err(late(limit)));
        match connected {
            Ok(stream) => match builder.clone().build_with_stream(endpoint, stream).await {
                Ok(client) => return Ok(client),
                Err(e) => failure = cause(&e),
            },
            Err(e) => failure = e,
        }
    }
    Err(failure)
}

pub(super) fn late(limit: Duration) -> Failure {
    format!("no connection within {}", duration(limit)).into()
}

/// The client's error as text of bounded length.
// It quotes a message that is no JSON-RPC in full, and the node chooses that message's length.
pub(super) fn cause(error: &RpcError) -> Failure {
    if let RpcError::Transport(e) = error
        && let Some(WsHandshakeError::Redirected { status_code, .. }) = e.downcast_ref()
    {
        // Without the location, which may repeat a key of the endpoint.
        return format!(
            "it answers with a redirect ({status_code}), which is not followed: set the endpoint that it leads to"
        )
        .into();
    }
    shorten(&describe(error), MAX_CAUSE_BYTES).into()
}

/// Whether the connection ended because of a message that exceeds its limit.
pub(super) fn is_too_large(error: &RpcError) -> bool {
    let transport = match error {
        RpcError::Transport(e) => e,
        RpcError::RestartNeeded(e) => return is_too_large(e),
        _ => return false,
    };
    let Some(WsError::Connection(e)) = transport.downcast_ref() else { return false };
    matches!(
        e,
        connection::Error::MessageTooLarge { .. }
            | connection::Error::Codec(base::Error::PayloadTooLarge { .. })
    )
}

/// What an endpoint leads to.
struct Target {
    host: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl Target {
    fn new(endpoint: &str, certificates_pem: &[u8]) -> Result<Self, Failure> {
        let url = Url::parse(endpoint)?;
        // Of an IPv6 address without its brackets.
        let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let port = url.port_or_known_default().unwrap_or_default();
        let tls = match url.scheme() {
            "wss" => {
                let connector = TlsConnector::from(Arc::new(tls::client_config(certificates_pem)?));
                Some((connector, ServerName::try_from(host.clone())?))
            }
            _ => None,
        };
        Ok(Self { host, port, tls })
    }

    async fn connect(&self, address: SocketAddr) -> Result<BoundedHead<Box<dyn Stream>>, Failure> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let stream: Box<dyn Stream> = match &self.tls {
            Some((connector, name)) => {
                let connected = connector.connect(name.clone(), stream).await;
                Box::new(connected.inspect_err(|_| tls::handshake_failed())?)
            }
            None => Box::new(stream),
        };
        Ok(BoundedHead { stream, head: Some(Head::default()) })
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// The head of an HTTP answer, as far as it has come.
#[derive(Debug, Default)]
struct Head {
    bytes: usize,
    /// Whether it has a line. Empty ones in front of it are skipped.
    has_begun: bool,
    /// Bytes of the current line.
    line: usize,
}

impl Head {
    /// Reads what follows; returns whether that contains its end.
    fn read(&mut self, bytes: &[u8]) -> bool {
        self.bytes += bytes.len();
        for byte in bytes {
            match byte {
                b'\n' if self.line == 0 && self.has_begun => return true,
                b'\n' => self.line = 0,
                b'\r' => {}
                _ => (self.line, self.has_begun) = (self.line + 1, true),
            }
        }
        false
    }
}

/// A stream that fails if it begins with a head that is too long.
struct BoundedHead<S> {
    stream: S,
    /// Until it has ended.
    head: Option<Head>,
}

impl<S: AsyncRead + Unpin> AsyncRead for BoundedHead<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(context, buffer))?;
        if let Some(head) = &mut self.head {
            if head.read(&buffer.filled()[before..]) {
                self.head = None;
            } else if head.bytes > MAX_HEAD_BYTES {
                let text = format!("the answer's head has more than {MAX_HEAD_BYTES} bytes");
                return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, text)));
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for BoundedHead<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use jsonrpsee::{RpcModule, server};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    /// Opens a connection to a node whose name has these addresses.
    async fn open_with(addresses: io::Result<Vec<SocketAddr>>) -> Result<WsClient, String> {
        let endpoint = "ws://node.example:9944";
        let target = Target::new(endpoint, &[]).unwrap();
        let lookup = async |host: &str, port| {
            assert_eq!((host, port), ("node.example", 9944));
            addresses
        };
        let builder = WsClientBuilder::new();
        let opened = open_at(&target, endpoint, &builder, LIMIT, lookup);
        timeout(LIMIT * 2, opened).await.unwrap().map_err(|e| e.to_string())
    }

    #[tokio::test]
    async fn each_address_of_a_name_is_tried() {
        let dead = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let server = server::Server::builder().build("127.0.0.1:0").await.unwrap();
        let alive = server.local_addr().unwrap();
        let _running = server.start(RpcModule::new(()));
        assert!(open_with(Ok(vec![dead, alive])).await.unwrap().is_connected());
        let error = open_with(Ok(vec![dead, dead])).await.unwrap_err();
        assert!(error.contains("refused"), "{error}");
    }

    #[tokio::test]
    async fn failed_lookup_is_reported_with_its_cause() {
        let error = open_with(Err(io::Error::other("the name server is away"))).await.unwrap_err();
        assert_eq!(error, "its name cannot be looked up: the name server is away");
        assert_eq!(open_with(Ok(vec![])).await.unwrap_err(), "its name has no address");
    }

    fn ends(pieces: &[&str]) -> bool {
        let mut head = Head::default();
        pieces.iter().any(|piece| head.read(piece.as_bytes()))
    }

    #[test]
    fn a_head_ends_with_an_empty_line() {
        assert!(ends(&["HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\n\r\n\u{1}frame"]));
        assert!(ends(&["HTTP/1.1 200 OK\n\n"]));
        assert!(ends(&["HTTP/1.1 200 OK\r", "\n", "\r", "\n"]));
        assert!(!ends(&["HTTP/1.1 200 OK\r\n", "A: b\r\n", "C: d\r\n"]));
        // Parsers skip empty lines in front of it.
        assert!(!ends(&["\r\n\r\n\r\n", "\n\n"]));
        assert!(ends(&["\r\nHTTP/1.1 200 OK\r\n\r\n"]));
    }

    #[test]
    fn an_endpoint_leads_to_a_host_and_a_port() {
        let target = |endpoint| Target::new(endpoint, &[]).map(|target| (target.host, target.port)).ok();
        assert_eq!(target("ws://a.example/key"), Some(("a.example".into(), 80)));
        assert_eq!(target("wss://u:p@a.example"), Some(("a.example".into(), 443)));
        assert_eq!(target("wss://[::1]:9944"), Some(("::1".into(), 9944)));
    }
}
