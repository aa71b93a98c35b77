//! A stranger at an address of its own that takes answers a few bytes at a time.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures::{AsyncRead, AsyncWrite, FutureExt, StreamExt, future::BoxFuture};
use libp2p::{
    Multiaddr, PeerId, StreamProtocol, Swarm, Transport, TransportError,
    core::{
        transport::{DialOpts, ListenerId, TransportEvent},
        upgrade::Version,
    },
    identity::Keypair,
    multiaddr::Protocol,
    noise,
    request_response::{self, ProtocolSupport},
    swarm::{SwarmEvent, dial_opts},
    tcp,
};
use tokio::{
    net::TcpSocket,
    sync::watch,
    task::JoinHandle,
    time::{Sleep, sleep},
};

use super::rig::{LONG, RawCodec};

/// Bytes that are read at once: enough for the handshake, and the beginning of an answer.
const AT_ONCE: usize = 64 * 1024;
/// What is read after that, and how often: nobody is idle, but nothing gets done.
const STEP: usize = 2048;
const PAUSE: Duration = Duration::from_millis(250);

/// A peer that calls once, and reads the answer for hours.
pub struct Trickle {
    task: JoinHandle<()>,
}

impl Drop for Trickle {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Trickle {
    /// Connects from `from` and asks for a large answer. Returns once its beginning is read; `None` if the node has
    /// closed the connection before.
    pub async fn start(from: Ipv4Addr, node: PeerId, at: Multiaddr, request: Vec<u8>) -> Option<Self> {
        let key = Keypair::generate_ed25519();
        let (slow, mut is_slow) = watch::channel(false);
        let transport = From { ip: from, slow }
            .upgrade(Version::V1)
            .authenticate(noise::Config::new(&key).unwrap())
            .multiplex(libp2p_mplex::Config::new())
            .boxed();
        let pb = request_response::Behaviour::with_codec(
            RawCodec::default(),
            [(StreamProtocol::new("/pb"), ProtocolSupport::Full)],
            request_response::Config::default().with_request_timeout(LONG * 10),
        );
        let config = libp2p::swarm::Config::with_tokio_executor().with_idle_connection_timeout(LONG * 10);
        let mut swarm = Swarm::new(transport, pb, key.public().to_peer_id(), config);
        swarm.dial(dial_opts::DialOpts::peer_id(node).addresses(vec![at]).build()).unwrap();
        swarm.behaviour_mut().send_request(&node, request);
        let (ended, mut end) = tokio::sync::oneshot::channel();
        let task = tokio::spawn(async move {
            loop {
                if let SwarmEvent::OutgoingConnectionError { .. } | SwarmEvent::ConnectionClosed { .. } =
                    swarm.select_next_some().await
                {
                    let _ = ended.send(());
                    break;
                }
            }
        });
        let begun = async {
            tokio::select! {
                slow = is_slow.wait_for(|slow| *slow) => slow.is_ok(),
                _ = &mut end => false,
            }
        };
        let begun = tokio::time::timeout(LONG, begun).await.expect("an answer or an end");
        begun.then_some(Self { task })
    }
}

/// TCP from an address, with a small buffer.
struct From {
    ip: Ipv4Addr,
    slow: watch::Sender<bool>,
}

impl Transport for From {
    type Output = Socket;
    type Error = io::Error;
    type ListenerUpgrade = BoxFuture<'static, io::Result<Socket>>;
    type Dial = BoxFuture<'static, io::Result<Socket>>;

    fn listen_on(&mut self, _: ListenerId, address: Multiaddr) -> Result<(), TransportError<io::Error>> {
        Err(TransportError::MultiaddrNotSupported(address))
    }

    fn remove_listener(&mut self, _: ListenerId) -> bool {
        false
    }

    fn dial(&mut self, address: Multiaddr, _: DialOpts) -> Result<Self::Dial, TransportError<io::Error>> {
        let mut parts = address.iter();
        let (Some(Protocol::Ip4(ip)), Some(Protocol::Tcp(port))) = (parts.next(), parts.next()) else {
            return Err(TransportError::MultiaddrNotSupported(address));
        };
        let (from, slow) = (self.ip, self.slow.clone());
        let connect = async move {
            let socket = TcpSocket::new_v4()?;
            socket.set_recv_buffer_size(16 * 1024)?;
            socket.bind((from, 0).into())?;
            let stream = socket.connect(SocketAddr::from((ip, port))).await?;
            Ok(Socket { stream: tcp::tokio::TcpStream(stream), left: AT_ONCE, pause: None, slow })
        };
        Ok(connect.boxed())
    }

    fn poll(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<TransportEvent<Self::ListenerUpgrade, io::Error>> {
        Poll::Pending
    }
}

/// A connection that is read slowly after its beginning.
struct Socket {
    stream: tcp::tokio::TcpStream,
    left: usize,
    pause: Option<Pin<Box<Sleep>>>,
    slow: watch::Sender<bool>,
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        if self.left == 0 {
            self.slow.send_replace(true);
            ready!(self.pause.get_or_insert_with(|| Box::pin(sleep(PAUSE))).as_mut().poll(cx));
            (self.left, self.pause) = (STEP, None);
        }
        let most = buffer.len().min(self.left);
        let count = ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer[..most]))?;
        self.left -= count;
        Poll::Ready(Ok(count))
    }
}

impl AsyncWrite for Socket {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_close(cx)
    }
}
