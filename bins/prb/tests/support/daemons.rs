//! Daemons as processes, each with a folder, an ops port and a log; and a peer-to-peer client.
#![allow(clippy::unwrap_used, dead_code, unreachable_pub)]

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use prb_walkie::{
    identity::Identity,
    node::{self, Multiaddr, Node, PeerId},
    proto::{FullAccount, Role, db, lifecycle as lm},
    rpc::Client,
};
use secrecy::SecretString;
use serde_json::Value;

pub use super::ports::free_port;
use super::{EXIT_LIMIT, Net, Process, STAKE};

/// A port of a process that answers plain requests, such as its ops port.
pub struct Probe(SocketAddr);

impl Probe {
    /// Creates one with a free port.
    pub fn new() -> Self {
        Self((Ipv4Addr::LOCALHOST, free_port()).into())
    }

    /// Creates one for a port of this machine.
    pub fn at(port: u16) -> Self {
        Self((Ipv4Addr::LOCALHOST, port).into())
    }

    pub fn address(&self) -> SocketAddr {
        self.0
    }

    /// Requests a path; returns status and body, or `None` if the port is closed.
    pub fn ask(&self, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(self.0).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.0).ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (head, body) = answer.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    }

    /// Waits until the port answers.
    pub async fn until_live(&self, limit: Duration) {
        let start = Instant::now();
        while self.ask("/livez").is_none() {
            assert!(start.elapsed() < limit, "the ops port is not open");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// A daemon that can be started, killed and restarted with the same folder, ports and settings.
pub struct Daemon {
    name: String,
    module: &'static str,
    variables: Vec<(String, String)>,
    folder: PathBuf,
    walkie: u16,
    ops: SocketAddr,
    /// The command prefix that starts it.
    launcher: Vec<String>,
    process: Option<Process>,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("{} when the test failed:\n{}", self.name, self.log_tail());
        }
    }
}

impl Daemon {
    /// Creates a daemon that is not started yet, with a folder below `folder`.
    pub fn new(folder: &Path, module: &'static str, name: &str) -> Self {
        let folder = folder.join(name);
        std::fs::create_dir_all(&folder).unwrap();
        let (walkie, ops) = (free_port(), free_port());
        let daemon = Self {
            name: name.to_owned(),
            module,
            variables: Vec::new(),
            walkie,
            ops: (Ipv4Addr::LOCALHOST, ops).into(),
            launcher: Vec::new(),
            process: None,
            folder: folder.clone(),
        };
        daemon
            .set("PHALA_MODULE", module)
            .set("PHALA_LOCAL_DB_PATH", folder.join("db").display())
            .set("PHALA_PEER_ID_PREFIX", folder.join("id").display())
            .set("PHALA_WALKIE_LISTEN_ADDRESSES", format!("/ip4/127.0.0.1/tcp/{walkie}"))
            .set("PRB_OPS_LISTEN", format!("127.0.0.1:{ops}"))
            .set("PHALA_LOGGER_LEVEL", std::env::var("PRB_TEST_LOG").unwrap_or_else(|_| "info".into()))
    }

    /// Starts it with a command prefix, and uses another address to reach it.
    #[must_use]
    pub fn launched_by(mut self, launcher: &[&str], ip: Ipv4Addr) -> Self {
        self.launcher = launcher.iter().map(|word| (*word).to_owned()).collect();
        self.ops.set_ip(ip.into());
        // The address may not exist yet when it starts.
        let everywhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, self.ops.port()));
        self.set("PRB_OPS_LISTEN", everywhere)
    }

    /// Uses another address to reach it from now on.
    pub const fn moved_to(&mut self, ip: Ipv4Addr) {
        self.ops.set_ip(std::net::IpAddr::V4(ip));
    }

    /// Sets a variable, replacing an earlier value.
    #[must_use]
    pub fn set(mut self, name: &str, value: impl std::fmt::Display) -> Self {
        self.put(name, value);
        self
    }

    /// Sets a variable of an existing daemon; used from the next start.
    pub fn put(&mut self, name: &str, value: impl std::fmt::Display) {
        self.variables.retain(|(other, _)| other != name);
        self.variables.push((name.to_owned(), value.to_string()));
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns the value of a variable.
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.variables.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    /// Returns its peer-to-peer address.
    pub fn address(&self) -> Multiaddr {
        format!("/ip4/{}/tcp/{}", self.ops.ip(), self.walkie).parse().unwrap()
    }

    pub const fn walkie_port(&self) -> u16 {
        self.walkie
    }

    /// Starts `prb` with variables only.
    pub fn start(&mut self) {
        assert!(self.process.is_none(), "{} runs already", self.name);
        let log =
            std::fs::OpenOptions::new().create(true).append(true).open(self.folder.join("log")).unwrap();
        // Another build of the same program, such as a release.
        let binary = std::env::var("PRB_TEST_BINARY");
        let binary = binary.as_deref().unwrap_or(env!("CARGO_BIN_EXE_prb"));
        let words: Vec<_> = self.launcher.iter().map(String::as_str).chain([binary]).collect();
        let child = Command::new(words[0])
            .args(&words[1..])
            // Variables of the surroundings must not configure it.
            .env_clear()
            .envs(self.variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.process = Some(Process::of(child));
    }

    pub fn process_id(&self) -> u32 {
        self.process.as_ref().unwrap().id()
    }

    /// Starts it and waits until it exits with code 2; returns its log.
    pub async fn refuses(&mut self, limit: Duration) -> String {
        self.ends_with(2, limit).await;
        self.log()
    }

    /// Starts it and waits until it exits with this code.
    pub async fn ends_with(&mut self, code: i32, limit: Duration) {
        self.start();
        let ended = self.process.take().unwrap().wait(limit).await;
        assert_eq!(ended, Some(code), "{}", self.log_tail());
    }

    /// Starts it and waits until it has opened its files, or until it has ended; returns the exit code then.
    pub async fn starts_or_ends(&mut self, limit: Duration) -> Option<i32> {
        self.start();
        let start = Instant::now();
        while self.unready().is_none_or(|codes| codes.contains(&"starting".to_owned())) {
            if !self.process.as_mut().unwrap().is_running() {
                return self.process.take().unwrap().wait(limit).await;
            }
            assert!(start.elapsed() < limit, "neither started nor ended: {}", self.log_tail());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        None
    }

    /// Waits until its ops port answers.
    pub async fn until_live(&self, limit: Duration) {
        Probe(self.ops).until_live(limit).await;
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        let mut process = self.process.take().unwrap();
        assert!(process.is_running(), "{} ended by itself:\n{}", self.name, self.log_tail());
        process.kill();
    }

    /// Sends SIGTERM; it must exit with code 0.
    pub async fn stop(&mut self) {
        let mut process = self.process.take().unwrap();
        assert!(process.is_running(), "{} ended by itself:\n{}", self.name, self.log_tail());
        process.signal("TERM");
        let code = process.wait(EXIT_LIMIT).await;
        assert_eq!(code, Some(0), "{}:\n{}", self.name, self.log_tail());
    }

    /// Returns the folder of its identity file.
    pub fn identity_folder(&self) -> PathBuf {
        self.folder.join("id")
    }

    /// Waits until its newest process has logged its peer id.
    pub async fn peer_id(&self, limit: Duration) -> String {
        let start = Instant::now();
        loop {
            let log = self.log();
            let told = log.lines().rev().find(|line| line.contains("Got my peer id"));
            if let Some(line) = told.and_then(|line| serde_json::from_str::<Value>(line).ok()) {
                return line["fields"]["peer_id"].as_str().unwrap().to_owned();
            }
            assert!(start.elapsed() < limit, "{} does not tell who it is:\n{}", self.name, self.log_tail());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// Files and sockets that its process has open.
    pub fn open_files(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.process_id())).unwrap().count()
    }

    /// Where its ops port is.
    pub const fn ops_address(&self) -> SocketAddr {
        self.ops
    }

    /// The most memory that its process has had, in bytes.
    pub fn peak_memory_bytes(&self) -> u64 {
        let status = format!("/proc/{}/status", self.process.as_ref().unwrap().id());
        let status = std::fs::read_to_string(status).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// Sends a signal by its name.
    pub fn signal(&self, name: &str) {
        self.process.as_ref().unwrap().signal(name);
    }

    pub fn log_tail(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    /// Requests a path of the ops port; returns status and body, or `None` if it is closed.
    pub fn ops(&self, path: &str) -> Option<(u16, String)> {
        Probe(self.ops).ask(path)
    }

    /// Returns the number of connected usable peers of its chain and group.
    pub fn usable_peers(&self) -> Option<u32> {
        self.gauge("prb_usable_peers")
    }

    /// Returns the number of data providers that a manager can ask now.
    pub fn usable_providers(&self) -> Option<u32> {
        self.gauge("prb_blob_providers_usable")
    }

    /// Returns the value of a metric without labels.
    fn gauge(&self, name: &str) -> Option<u32> {
        let metrics = self.ops("/metrics")?.1;
        let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
        line.parse().ok()
    }

    /// Returns the codes of the reasons why it is not ready; empty if it is.
    pub fn unready(&self) -> Option<Vec<String>> {
        let (_, body) = self.ops("/readyz")?;
        let body: Value = serde_json::from_str(&body).ok()?;
        let reasons = body["reasons"].as_array()?;
        Some(reasons.iter().map(|reason| reason["code"].as_str().unwrap().to_owned()).collect())
    }

    /// Waits until its reasons are these.
    pub async fn until_unready(&self, codes: &[&str], limit: Duration) {
        let start = Instant::now();
        loop {
            let now = self.unready();
            if now.as_ref().is_some_and(|now| now == codes) {
                return;
            }
            assert!(
                start.elapsed() < limit,
                "{}: {now:?} instead of {codes:?}\n{}",
                self.name,
                self.log_tail()
            );
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}

/// Creates a data provider of the net, not started yet.
pub fn provider(net: &Net, name: &str) -> Daemon {
    Daemon::new(net.dir.path(), "data_provider", name)
        .set("PHALA_CHAIN_ENDPOINT", net.devnet.para().url())
        .set("PHALA_PARENT_CHAIN_ENDPOINT", net.devnet.relay().url())
        .set("PHALA_DATA_PROVIDER_LOCAL_SERVER_PORT", free_port())
        .set("PHALA_WALKIE_DISABLE_MDNS_DISCOVERY", true)
}

/// Creates a lifecycle manager of the net, not started yet.
pub fn manager(net: &Net, name: &str) -> Daemon {
    Daemon::new(net.dir.path(), "lifecycle", name)
        .set("PHALA_CHAIN_ENDPOINT", net.devnet.para().url())
        .set("USE_BUILT_IN_TRADER", true)
        .set("PHALA_WALKIE_DISABLE_MDNS_DISCOVERY", true)
}

/// Adds some of the net's pools with their operators, and workers of them, to a manager.
pub async fn assign(net: &Net, client: &Client, pools: &[usize], workers: &[usize]) {
    let endpoints: Vec<_> = net.workers.iter().map(super::WorkerHandle::endpoint).collect();
    assign_at(net, client, pools, workers, &endpoints).await;
}

/// The same with other endpoints of the net's workers.
pub async fn assign_at(net: &Net, client: &Client, pools: &[usize], workers: &[usize], endpoints: &[String]) {
    let pool = |index: &usize| {
        let pool = &net.devnet.pools()[*index];
        let mut owner = FullAccount::default();
        owner.mnemonic.clone_from(&pool.mnemonic);
        db::Pool {
            owner: Some(owner),
            pid: pool.pid,
            name: format!("pool-{}", pool.pid),
            enabled: true,
            ..db::Pool::default()
        }
    };
    let made = client.create_pools(lm::CreatePool { pools: pools.iter().map(pool).collect() }).await.unwrap();
    assert_eq!(made.pools.len(), pools.len());
    let mnemonics = made.pools.iter().filter_map(|pool| pool.owner.as_ref()).map(|owner| &owner.mnemonic);
    assert!(mnemonics.into_iter().all(String::is_empty), "a mnemonic came back");
    let worker = |(place, index): (usize, &usize)| db::Worker {
        pid: net.devnet.pools()[pools[place % pools.len()]].pid,
        name: format!("w{index}"),
        endpoint: endpoints[*index].clone(),
        enabled: true,
        stake: STAKE.to_string(),
        ..db::Worker::default()
    };
    let workers: Vec<_> = workers.iter().enumerate().map(worker).collect();
    let made = client.create_workers(lm::CreateWorker { workers: workers.clone() }).await.unwrap();
    assert_eq!(made.workers.len(), workers.len());
}

/// A peer-to-peer client that acts as the operator.
pub struct TestPeer {
    node: Node,
}

impl TestPeer {
    /// Creates a client with these boot nodes, in the group of that bridge identity; with mDNS if there are none.
    pub async fn new(boot_nodes: Vec<Multiaddr>, bridge_identity: &str) -> Self {
        Self::start(boot_nodes, bridge_identity, None).await
    }

    /// The same with the key for management.
    pub async fn with_key(boot_nodes: Vec<Multiaddr>, bridge_identity: &str, key: &str) -> Self {
        Self::start(boot_nodes, bridge_identity, Some(key.into())).await
    }

    pub fn peer_id(&self) -> PeerId {
        self.node.peer_id()
    }

    pub fn address(&self) -> Multiaddr {
        self.node.listen_addresses().remove(0)
    }

    async fn start(boot_nodes: Vec<Multiaddr>, bridge_identity: &str, key: Option<SecretString>) -> Self {
        let identity = tokio::task::spawn_blocking(Identity::generate).await.unwrap().unwrap();
        let mut config = node::Config::new(identity, Role::Client);
        config.mdns = boot_nodes.is_empty();
        config.boot_nodes = boot_nodes;
        config.bridge_identity = bridge_identity.to_owned();
        config.ignore_bridge_identity = true;
        config.hostname = "test_peer".into();
        config.auth.psk = key;
        if !config.mdns {
            config.listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
        }
        Self { node: Node::start(config).await.unwrap() }
    }

    /// Waits for the connected peer of a role and bridge identity.
    pub async fn find(&self, role: Role, bridge_identity: &str, limit: Duration) -> Client {
        self.node.client(self.peer(role, bridge_identity, limit).await)
    }

    async fn peer(&self, role: Role, bridge_identity: &str, limit: Duration) -> PeerId {
        let mut peers = self.node.peers();
        let found = async {
            loop {
                let fits = |peer: &&std::sync::Arc<node::Peer>| {
                    peer.role == role && peer.bridge_identity == bridge_identity && peer.connected
                };
                let peer = peers.borrow_and_update().iter().find(fits).map(|peer| peer.peer_id);
                match peer {
                    Some(peer) => return peer,
                    None => peers.changed().await.unwrap(),
                }
            }
        };
        tokio::time::timeout(limit, found)
            .await
            .unwrap_or_else(|_| panic!("no {role:?} of {bridge_identity}"))
    }

    pub async fn close(self) {
        self.node.stop(Duration::from_secs(1)).await;
    }
}
