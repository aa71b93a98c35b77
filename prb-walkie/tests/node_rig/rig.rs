//! Test nodes on loopback addresses, and a bare libp2p peer with scripted answers.

use std::{
    io,
    sync::{Arc, LazyLock, Mutex},
    time::Duration,
};

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, StreamExt};
use libp2p::{
    StreamProtocol, Swarm, Transport,
    core::upgrade::Version,
    identify, noise,
    request_response::{self, Message, OutboundFailure, ProtocolSupport},
    swarm::{NetworkBehaviour, SwarmEvent, dial_opts::DialOpts},
    tcp,
};
use prb_core::primitives::Hash;
use prb_walkie::{
    identity::Identity,
    node::{Config, Multiaddr, Node, Peer, PeerId, PeerTable},
    proto::Role,
};
use tokio::{
    sync::{Notify, mpsc, oneshot},
    task::JoinHandle,
};

/// Longer than anything takes here, on any machine.
pub const LONG: Duration = Duration::from_secs(60);
pub const CHAIN: Hash = Hash([7; 32]);

/// A cached key, because generating RSA keys takes a while.
pub fn identity(n: usize) -> Identity {
    static MADE: LazyLock<Mutex<Vec<Identity>>> = LazyLock::new(Mutex::default);
    let mut made = MADE.lock().unwrap();
    while made.len() <= n {
        made.push(Identity::generate().unwrap());
    }
    made[n].clone()
}

/// A node of the chain [`CHAIN`] on a loopback port, without discovery. `n` selects one of the test identities.
pub fn config(n: usize, role: Role) -> Config {
    let mut config = Config::new(identity(n), role);
    config.listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
    config.mdns = false;
    config.hostname = format!("host-{n}");
    config.chain_identity = Some(CHAIN);
    config.limits.redial.first = Duration::from_millis(50);
    config.limits.redial.max = Duration::from_millis(500);
    config.limits.discovery_interval = Duration::from_millis(500);
    config
}

pub async fn start(config: Config) -> Node {
    Node::start(config).await.unwrap()
}

/// An address at which others can dial the node.
pub fn address(node: &Node) -> Multiaddr {
    format!("{}/p2p/{}", node.listen_addresses()[0], node.peer_id()).parse().unwrap()
}

/// Starts a node that has another one as its boot node.
pub async fn start_knowing(mut config: Config, other: &Node) -> Node {
    config.boot_nodes = vec![address(other)];
    start(config).await
}

/// Waits until a condition holds for a node's table.
pub async fn until(node: &Node, what: &str, is: impl FnMut(&Arc<PeerTable>) -> bool) -> Arc<PeerTable> {
    let mut peers = node.peers();
    let found = tokio::time::timeout(LONG, peers.wait_for(is)).await.map(|r| r.unwrap().clone());
    found.unwrap_or_else(|_| panic!("not in time: {what}; the table is {:#?}", *node.peers().borrow()))
}

/// Waits until a condition holds for a peer in a node's table.
pub async fn until_peer(node: &Node, other: PeerId, what: &str, is: impl Fn(&Peer) -> bool) -> Arc<Peer> {
    let table = until(node, what, |table| table.get(&other).is_some_and(|peer| is(peer))).await;
    table.get(&other).unwrap().clone()
}

/// Waits until two nodes have each other as usable.
pub async fn until_friends(a: &Node, b: &Node) {
    until_peer(a, b.peer_id(), "the other is usable", Peer::is_usable).await;
    until_peer(b, a.peer_id(), "the other is usable", Peer::is_usable).await;
}

/// Has a bare peer leave an answer unread.
#[derive(Debug, Default)]
pub struct Hold {
    /// Told when the first byte of an answer has arrived.
    pub begun: Notify,
    /// To be told before the rest is read.
    pub go_on: Notify,
}

#[derive(Clone, Debug, Default)]
pub struct RawCodec(Option<Arc<Hold>>);

impl request_response::Codec for RawCodec {
    type Protocol = StreamProtocol;
    type Request = Vec<u8>;
    type Response = Vec<u8>;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Vec<u8>>
    where
        T: AsyncRead + Unpin + Send,
    {
        let mut bytes = Vec::new();
        io.read_to_end(&mut bytes).await.map(|_| bytes)
    }

    async fn read_response<T>(&mut self, protocol: &StreamProtocol, io: &mut T) -> io::Result<Vec<u8>>
    where
        T: AsyncRead + Unpin + Send,
    {
        let Some(hold) = &self.0 else { return self.read_request(protocol, io).await };
        let mut bytes = vec![0];
        io.read_exact(&mut bytes).await?;
        hold.begun.notify_one();
        hold.go_on.notified().await;
        io.read_to_end(&mut bytes).await.map(|_| bytes)
    }

    async fn write_request<T>(&mut self, _: &StreamProtocol, io: &mut T, bytes: Vec<u8>) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        io.write_all(&bytes).await
    }

    async fn write_response<T>(
        &mut self,
        protocol: &StreamProtocol,
        io: &mut T,
        bytes: Vec<u8>,
    ) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        self.write_request(protocol, io, bytes).await
    }
}

#[derive(NetworkBehaviour)]
struct RawBehaviour {
    pb: request_response::Behaviour<RawCodec>,
    identify: identify::Behaviour,
}

/// A bare peer's answer to a request; `None` for never.
pub type Answer = Box<dyn FnMut(Vec<u8>) -> Option<Vec<u8>> + Send>;
type Asked = (PeerId, Vec<u8>, oneshot::Sender<Result<Vec<u8>, OutboundFailure>>);

/// A peer with an original's multiplexer that speaks `/pb` in raw bytes.
pub struct RawPeer {
    pub peer_id: PeerId,
    pub address: Multiaddr,
    asked: mpsc::Sender<Asked>,
    /// Number of closed connections.
    pub closed: Arc<Mutex<usize>>,
    task: JoinHandle<()>,
}

impl Drop for RawPeer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl RawPeer {
    pub async fn start(n: usize, dial: Option<Multiaddr>, answer: Answer) -> Self {
        Self::start_with(n, dial, answer, None).await
    }

    /// A peer that dials the node and leaves answers unread.
    pub async fn start_slow(n: usize, dial: Multiaddr, hold: Arc<Hold>) -> Self {
        Self::start_with(n, Some(dial), Box::new(|_| None), Some(hold)).await
    }

    async fn start_with(n: usize, dial: Option<Multiaddr>, answer: Answer, hold: Option<Arc<Hold>>) -> Self {
        let key = libp2p::identity::Keypair::from_protobuf_encoding(&identity(n).private_protobuf().unwrap())
            .unwrap();
        let peer_id = key.public().to_peer_id();
        let transport = tcp::tokio::Transport::new(tcp::Config::new().nodelay(true))
            .upgrade(Version::V1)
            .authenticate(noise::Config::new(&key).unwrap())
            .multiplex(multiplexer(hold.is_some()))
            .boxed();
        let pb = request_response::Behaviour::with_codec(
            RawCodec(hold),
            [(StreamProtocol::new("/pb"), ProtocolSupport::Full)],
            request_response::Config::default().with_request_timeout(LONG),
        );
        let identify = identify::Behaviour::new(identify::Config::new("ipfs/0.1.0".to_owned(), key.public()));
        let config = libp2p::swarm::Config::with_tokio_executor().with_idle_connection_timeout(LONG);
        let mut swarm = Swarm::new(transport, RawBehaviour { pb, identify }, peer_id, config);
        swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse().unwrap()).unwrap();
        let listening = async {
            loop {
                match swarm.select_next_some().await {
                    SwarmEvent::NewListenAddr { address, .. } => break address,
                    SwarmEvent::ListenerClosed { reason, .. } => panic!("it does not listen: {reason:?}"),
                    _ => {}
                }
            }
        };
        let address = tokio::time::timeout(LONG, listening).await.expect("an address to listen on");
        let address: Multiaddr = format!("{address}/p2p/{peer_id}").parse().unwrap();
        if let Some(other) = dial {
            swarm.dial(DialOpts::unknown_peer_id().address(other).allocate_new_port().build()).unwrap();
            tokio::time::timeout(LONG, until_connected(&mut swarm)).await.expect("a connection");
        }
        let (asked, inbox) = mpsc::channel(64);
        let closed = Arc::new(Mutex::new(0));
        let task = tokio::spawn(drive(swarm, inbox, answer, Arc::clone(&closed)));
        Self { peer_id, address, asked, closed, task }
    }

    /// Sends bytes to a connected peer and returns the answer.
    pub async fn ask(&self, peer: PeerId, bytes: Vec<u8>) -> Result<Vec<u8>, OutboundFailure> {
        let (sender, answer) = oneshot::channel();
        self.asked.send((peer, bytes, sender)).await.unwrap();
        tokio::time::timeout(LONG, answer).await.unwrap().unwrap()
    }
}

/// One that leaves what is not read with the sender, or an original's.
fn multiplexer(is_slow: bool) -> libp2p_mplex::Config {
    let mut config = libp2p_mplex::Config::new();
    if is_slow {
        config.set_max_buffer_behaviour(libp2p_mplex::MaxBufferBehaviour::Block).set_max_buffer_size(1);
    }
    config
}

async fn until_connected(swarm: &mut Swarm<RawBehaviour>) {
    loop {
        match swarm.select_next_some().await {
            SwarmEvent::ConnectionEstablished { .. } => break,
            SwarmEvent::OutgoingConnectionError { error, .. } => panic!("no connection: {error:?}"),
            _ => {}
        }
    }
}

async fn drive(
    mut swarm: Swarm<RawBehaviour>,
    mut inbox: mpsc::Receiver<Asked>,
    mut answer: Answer,
    closed: Arc<Mutex<usize>>,
) {
    let mut waiting = std::collections::HashMap::new();
    // Channels of calls that are never answered: dropping one would end its call.
    let mut silent = Vec::new();
    loop {
        let event = tokio::select! {
            Some((peer, bytes, sender)) = inbox.recv() => {
                waiting.insert(swarm.behaviour_mut().pb.send_request(&peer, bytes), sender);
                continue;
            }
            event = swarm.select_next_some() => event,
        };
        use request_response::Event;
        match event {
            SwarmEvent::ConnectionClosed { .. } => *closed.lock().unwrap() += 1,
            SwarmEvent::Behaviour(RawBehaviourEvent::Pb(Event::Message { message, .. })) => match message {
                Message::Request { request, channel, .. } => match answer(request) {
                    Some(bytes) => drop(swarm.behaviour_mut().pb.send_response(channel, bytes)),
                    None => silent.push(channel),
                },
                Message::Response { request_id, response } => {
                    let sender: oneshot::Sender<_> = waiting.remove(&request_id).unwrap();
                    let _ = sender.send(Ok(response));
                }
            },
            SwarmEvent::Behaviour(RawBehaviourEvent::Pb(Event::OutboundFailure {
                request_id,
                error,
                ..
            })) => {
                let _ = waiting.remove(&request_id).unwrap().send(Err(error));
            }
            _ => {}
        }
    }
}
