//! Honest users of the daemons at an address of their own: whatever strangers do, each is served.

use std::{
    net::{Ipv4Addr, SocketAddr},
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use prb_walkie::{
    identity::Identity,
    node::{self, Multiaddr, Node},
    proto::Role,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

use crate::{KEY, sockets::request};

/// How long an honest user may be without an answer: long, as a busy machine's development build takes seconds for a
/// newcomer's handshakes and proofs. Where strangers hold all slots, no time is enough.
const PATIENCE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(200);
pub(crate) const TOKEN: &str = "the-operators-token-of-this-test";

/// The daemons' ports, as honest users reach them.
#[derive(Clone)]
pub(crate) struct Ports {
    pub(crate) from: Ipv4Addr,
    pub(crate) api: SocketAddr,
    pub(crate) console: SocketAddr,
    pub(crate) monitor: SocketAddr,
    pub(crate) blobs: SocketAddr,
    pub(crate) manager: Multiaddr,
}

/// Users that ask again and again until dropped.
pub(crate) struct Honest {
    users: Arc<[User]>,
    _tasks: JoinSet<()>,
}

struct User {
    name: &'static str,
    served: Mutex<Served>,
}

/// What a user has got.
struct Served {
    /// When the last question that was answered was asked.
    asked: Instant,
    answered: Instant,
    /// The longest time without an answer.
    longest: Duration,
}

type Ask = Pin<Box<dyn Future<Output = bool> + Send>>;
type Question = Box<dyn Fn() -> Ask + Send>;

impl Honest {
    pub(crate) async fn start(ports: &Ports) -> Self {
        let identities = [identity().await, identity().await];
        let [stays, comes] = identities;
        let node = node(stays, &ports.manager).await;
        let asks: [(&str, Question); 6] = [
            ("the operator's console", {
                let ports = ports.clone();
                Box::new(move || Box::pin(get(ports.from, ports.console, "/")))
            }),
            ("the monitor's console", {
                let ports = ports.clone();
                Box::new(move || Box::pin(get(ports.from, ports.monitor, "/")))
            }),
            ("the operator's API", {
                let ports = ports.clone();
                Box::new(move || Box::pin(get(ports.from, ports.api, "/api/v1/workers")))
            }),
            ("a manager's new blob connection", {
                let ports = ports.clone();
                Box::new(move || Box::pin(heights(ports.from, ports.blobs)))
            }),
            ("a peer that knows the key", Box::new(move || Box::pin(list(node.clone())))),
            ("a newcomer that knows the key", {
                let address = ports.manager.clone();
                Box::new(move || {
                    let (identity, address) = (comes.clone(), address.clone());
                    Box::pin(async move {
                        let node = self::node(identity, &address).await;
                        let listed = list(node.clone()).await;
                        node.stop(Duration::from_secs(1)).await;
                        listed
                    })
                })
            }),
        ];
        let now = Instant::now();
        let user = |name| User {
            name,
            served: Mutex::new(Served { asked: now, answered: now, longest: Duration::ZERO }),
        };
        let users: Arc<[_]> = asks.iter().map(|(name, _)| user(*name)).collect();
        let mut tasks = JoinSet::new();
        for (at, (_, ask)) in asks.into_iter().enumerate() {
            let users = users.clone();
            tasks.spawn(async move {
                loop {
                    let asked = Instant::now();
                    if timeout(PATIENCE / 2, ask()).await == Ok(true) {
                        users[at].is_served(asked);
                    }
                    sleep(PAUSE).await;
                }
            });
        }
        let honest = Self { users, _tasks: tasks };
        honest.are_served("without an attack").await;
        honest
    }

    /// Waits until each has been answered from now on; panics if one was or is without an answer for too long.
    pub(crate) async fn are_served(&self, attack: &str) {
        let now = Instant::now();
        for user in self.users.iter() {
            while user.served.lock().unwrap().asked < now {
                assert!(now.elapsed() < PATIENCE, "{attack}: {} is not served", user.name);
                sleep(PAUSE / 10).await;
            }
        }
        let mut longest = Vec::new();
        for user in self.users.iter() {
            let longest_wait = std::mem::take(&mut user.served.lock().unwrap().longest);
            assert!(longest_wait < PATIENCE, "{attack}: {} was not served for {longest_wait:?}", user.name);
            longest.push(format!("{:.1}", longest_wait.as_secs_f64()));
        }
        println!("{attack}: honest users waited for {} s at most", longest.join(", "));
    }
}

impl User {
    fn is_served(&self, asked: Instant) {
        let mut served = self.served.lock().unwrap();
        served.longest = served.longest.max(served.answered.elapsed());
        (served.asked, served.answered) = (asked, Instant::now());
    }
}

async fn identity() -> Identity {
    tokio::task::spawn_blocking(Identity::generate).await.unwrap().unwrap()
}

async fn node(identity: Identity, boot_node: &Multiaddr) -> Arc<Node> {
    let mut config = node::Config::new(identity, Role::Client);
    config.listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
    config.mdns = false;
    config.boot_nodes = vec![boot_node.clone()];
    config.auth.psk = Some(KEY.into());
    Arc::new(Node::start(config).await.unwrap())
}

/// Asks the manager for its workers.
async fn list(node: Arc<Node>) -> bool {
    let mut peers = node.peers();
    let is_there = |peer: &Arc<node::Peer>| peer.role == Role::LifecycleManager && peer.connected;
    if peers.wait_for(|table| table.iter().any(is_there)).await.is_err() {
        return false;
    }
    let peer = peers.borrow().iter().find(|peer| is_there(peer)).map(|peer| peer.peer_id);
    match peer {
        Some(peer) => node.client(peer).list_workers().await.is_ok(),
        None => false,
    }
}

async fn connect(from: Ipv4Addr, to: SocketAddr) -> Option<TcpStream> {
    let socket = TcpSocket::new_v4().ok()?;
    socket.bind((from, 0).into()).ok()?;
    socket.connect(to).await.ok()
}

async fn get(from: Ipv4Addr, to: SocketAddr, path: &str) -> bool {
    let Some(mut stream) = connect(from, to).await else { return false };
    let head = format!(
        "GET {path} HTTP/1.1\r\nHost: {to}\r\nAuthorization: Bearer {TOKEN}\r\nConnection: close\r\n\r\n"
    );
    let mut answer = String::new();
    stream.write_all(head.as_bytes()).await.is_ok()
        && stream.read_to_string(&mut answer).await.is_ok()
        && answer.starts_with("HTTP/1.1 200")
}

/// Asks for the provider's heights on a connection of its own.
async fn heights(from: Ipv4Addr, to: SocketAddr) -> bool {
    let Some(mut stream) = connect(from, to).await else { return false };
    let mut start = [0; 9];
    stream.write_all(&request(7, "heights:-1:-1:0")).await.is_ok()
        && stream.read_exact(&mut start).await.is_ok()
        && start[1..] == 7_u64.to_be_bytes()
        && start[0] > 8
}
