//! A simulated fleet, its console on a port of its own, and a raw HTTP client.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use axum::http::StatusCode;
use prb::{
    config::{OpsListen, PageArgs},
    console::{
        self, Console,
        backend::{Backend, CommandResult, Edit, Error, Preview},
        view::{FleetView, PoolView, Tip, WorkerView},
    },
    pages::queue::Source,
    token::Access,
};
use prb_core::{
    chain::{PoolOnChain, Registration, Session, SessionState, WorkerOnChain},
    inventory::{Goal, KeyChange, Worker},
    primitives::{AccountId, PoolId, WorkerKey},
    prpc::{MemoryUsage, PhactoryInfo},
    queue::{JobId, Stats, memory::MemoryQueue},
    worker::{Command, Event, InFlight, Stage, State},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
};
use uuid::Uuid;

/// Timeout that is long enough even on a loaded machine.
pub const LONG: Duration = Duration::from_secs(60);
pub const TOKEN: &str = "a-token-of-this-test";
pub const PHA: u128 = 1_000_000_000_000;
/// A name that would be markup if it were not escaped.
pub const NASTY: &str = "<b onmouseover=alert(1)>rack</b> \"&amp;'";

/// A simulated fleet that records commands and edits.
#[derive(Debug)]
pub struct Made {
    pub fleet: Mutex<Arc<FleetView>>,
    pub commands: Mutex<Vec<(Vec<Uuid>, Command)>>,
    pub edits: Mutex<Vec<Edit>>,
    pub trouble: Mutex<Option<Error>>,
    pub read_only: Option<String>,
}

impl Made {
    pub fn new(fleet: FleetView) -> Arc<Self> {
        Arc::new(Self {
            fleet: Mutex::new(Arc::new(fleet)),
            commands: Mutex::default(),
            edits: Mutex::default(),
            trouble: Mutex::default(),
            read_only: None,
        })
    }

    pub fn change(&self, change: impl FnOnce(&mut FleetView)) {
        change(Arc::make_mut(&mut self.fleet.lock().unwrap()));
    }
}

#[async_trait]
impl Backend for Made {
    async fn fleet(&self) -> Result<Arc<FleetView>, Error> {
        match &*self.trouble.lock().unwrap() {
            Some(error) => Err(error.clone()),
            None => Ok(Arc::clone(&self.fleet.lock().unwrap())),
        }
    }

    async fn events(&self, _id: Uuid) -> Result<Option<Vec<Event>>, Error> {
        Ok(Some(Vec::new()))
    }

    fn commands(&self) -> &'static [Command] {
        &Command::ALL
    }

    async fn preview(&self, ids: &[Uuid], command: Command) -> Result<Vec<Preview>, Error> {
        let fleet = self.fleet().await?;
        let preview = |id: &Uuid| {
            let worker = fleet.workers.iter().find(|worker| worker.entry.id == *id);
            let worker =
                worker.ok_or_else(|| Error::new(StatusCode::NOT_FOUND, "there is no such worker"))?;
            let answer = if worker.entry.enabled {
                Ok(format!("will {command}"))
            } else {
                Err(format!("worker {} does not run", worker.entry.name))
            };
            Ok((*id, answer))
        };
        ids.iter().map(preview).collect()
    }

    async fn command(&self, ids: &[Uuid], command: Command) -> Result<CommandResult, Error> {
        self.commands.lock().unwrap().push((ids.to_vec(), command));
        Ok(CommandResult { taken: ids.len(), refused: Vec::new(), not_stored: None })
    }

    fn read_only(&self) -> Option<&str> {
        self.read_only.as_deref()
    }

    async fn edit(&self, edit: Edit, version: &str) -> Result<(), Error> {
        if let Edit::PutWorker(Some(id), _) | Edit::RemoveWorker(id) = &edit {
            let fleet = self.fleet.lock().unwrap();
            let worker = fleet.workers.iter().find(|worker| worker.entry.id == *id);
            if worker.is_none_or(|worker| worker.version() != version) {
                return Err(Error::changed());
            }
        }
        if let Edit::PutPool(None, value) = &edit
            && self.fleet.lock().unwrap().pools.iter().any(|pool| pool.pid == value.pid.0)
        {
            return Err(Error::new(StatusCode::CONFLICT, "pools[0]: pid is taken by \"pool 7\""));
        }
        self.edits.lock().unwrap().push(edit);
        Ok(())
    }
}

/// Worker `n`, computing at the tip.
pub fn worker(n: u64) -> WorkerView {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&n.to_be_bytes());
    let (id, pid) = (Uuid::from_u64_pair(1, n), PoolId(n % 20 + 1));
    let entry = Worker::new(
        id,
        pid,
        format!("rack-{:02}-{n:04}", n % 40),
        format!("http://10.0.0.1:{n}"),
        20_000 * PHA,
    );
    WorkerView {
        entry: Arc::new(entry),
        state: State::Active,
        reason: Some("computing"),
        message: "Computing".into(),
        message_at: Some(SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + n)),
        relay_header: Some(2_000_000),
        para_header: Some(1_000_000),
        para_block: Some(1_000_000 - u32::try_from(n % 3).unwrap()),
        lag: Some(u32::try_from(n % 3).unwrap()),
        key: Some(WorkerKey(key)),
        info: Some(Arc::new(pruntime_info())),
        chain: Some(Arc::new(on_chain(n, pid, WorkerKey(key)))),
        goal: Some(Goal::Compute),
        stalled: Some(false),
        failures: Some(0),
        checkpoint: None,
        key_change: None,
        in_flight: None,
    }
}

fn on_chain(n: u64, pid: PoolId, key: WorkerKey) -> WorkerOnChain {
    let mut chain = WorkerOnChain::default();
    chain.pool = Some(pid);
    chain.registration = Some(Registration {
        pubkey: key,
        ecdh_pubkey: [0; 32],
        runtime_version: 0x20300,
        last_updated: 1_700_000_000,
        operator: Some(AccountId([2; 32])),
        attestation_provider: None,
        confidence_level: u8::try_from(n % 5 + 1).unwrap(),
        initial_score: Some(2000),
        features: vec![1, 4],
    });
    chain.session = Some(Session {
        account: AccountId([3; 32]),
        state: SessionState::WorkerIdle,
        ve: 20_000 << 64,
        v: (20_100 + u128::from(n)) << 64,
        v_updated_at: 1_700_000_100,
        p_init: 2000,
        p_instant: 1950 + u32::try_from(n % 100).unwrap(),
        iterations: 123_456,
        working_start_time: 1_699_000_000,
        challenge_time_last: 1_700_000_090,
        cool_down_start: 0,
        total_reward: u128::from(n) * PHA / 7,
        stake: Some(20_000 * PHA),
    });
    chain
}

fn pruntime_info() -> PhactoryInfo {
    let memory = MemoryUsage {
        rust_used: 300 << 20,
        rust_peak_used: 400 << 20,
        total_peak_used: 512 << 20,
        ..MemoryUsage::default()
    };
    PhactoryInfo {
        initialized: true,
        version: "2.3.0".into(),
        git_revision: "c0ffee12c0ffee12c0ffee12".into(),
        memory_usage: Some(memory),
        ..PhactoryInfo::default()
    }
}

/// Puts a worker into one of several troubles, by its number.
pub fn trouble(worker: &mut WorkerView, n: u64) {
    let troubles = [
        (State::Error, "unreachable", "http://10.0.0.1: connection refused"),
        (
            State::Error,
            "free-stake-short",
            "Pool 7 has 1,000 PHA free, 20,000 PHA are needed: 19,000 PHA are missing",
        ),
        (State::Active, "unresponsive", "Computing, and the chain misses its heartbeats"),
        (State::PreActive, "key-changed", "Another key answers, and the last one has 20,000 PHA at stake"),
        (State::Synching, "no-progress", "It takes batches and stays at block 900,000"),
    ];
    let (state, reason, message) = troubles[usize::try_from(n % 5).unwrap()];
    (worker.state, worker.reason, worker.message) = (state, Some(reason), message.into());
    if reason == "unresponsive" {
        let chain = Arc::make_mut(worker.chain.as_mut().unwrap());
        chain.session.as_mut().unwrap().state = SessionState::WorkerUnresponsive;
    }
    if reason == "no-progress" {
        (worker.stalled, worker.lag) = (Some(true), Some(100_000));
    }
}

pub fn pool(pid: u64) -> PoolView {
    let mut chain = PoolOnChain::default();
    (chain.owner, chain.free_stake, chain.releasing_stake) = (AccountId([2; 32]), 1_000 * PHA, 250 * PHA);
    chain.total_value = 1_000_000 * PHA;
    PoolView {
        id: Uuid::from_u64_pair(2, pid),
        version: "1".into(),
        pid,
        name: format!("pool {pid}"),
        enabled: true,
        sync_only: false,
        after_stop: Some(None),
        operator: Some(AccountId([2; 32])),
        proxied: None,
        chain: Some(Ok(Arc::new(Some(chain)))),
        account: Some(Ok(Arc::default())),
    }
}

/// Creates `count` workers in 20 pools; one in `every` has trouble.
pub fn fleet(count: u64, every: u64) -> FleetView {
    let worker = |n: u64| {
        let mut worker = worker(n);
        if n.is_multiple_of(every) {
            trouble(&mut worker, n / every);
        }
        if n % 97 == 80 {
            let since = SystemTime::now();
            worker.in_flight =
                Some(InFlight { operation: "restart", stage: Stage::Queued, since, job: Some(JobId(n)) });
            worker.key_change = Some(KeyChange { at_ms: n * 1_000_000_000, block: None });
        }
        worker
    };
    let mut workers: Vec<_> = (1..=count).map(worker).collect();
    workers.sort_by(|a, b| a.entry.name.cmp(&b.entry.name));
    let tip = Tip {
        relay: Some(2_000_000),
        relay_target: Some(2_000_003),
        para: Some(1_000_000),
        para_target: Some(1_000_001),
    };
    FleetView {
        workers,
        pools: (1..=20).map(pool).collect(),
        tip,
        chain_block: Some(1_000_000),
        notes: Vec::new(),
        not_ready: Vec::new(),
        jobs: Some(Stats { waiting: 1, delayed: 2, active: 4, succeeded: 1234, failed: 7 }),
        takes_settings: true,
        providers: None,
        chain_nodes: None,
    }
}

/// A console that is served until dropped.
pub struct Page {
    pub address: SocketAddr,
    pub console: Console,
    _folder: TempDir,
    _tasks: JoinSet<()>,
}

impl Page {
    pub async fn of(made: &Arc<Made>) -> Self {
        Self::with_queue(made, &MemoryQueue::default()).await
    }

    pub async fn with_queue(made: &Arc<Made>, queue: &MemoryQueue) -> Self {
        Self::over(Arc::<Made>::clone(made), queue).await
    }

    pub async fn over(backend: Arc<dyn Backend>, queue: &MemoryQueue) -> Self {
        let queue = Source { queue: Arc::new(queue.clone()), admin: Arc::new(queue.clone()) };
        Self::of_console(Console::of_fleet(backend).with_queue(queue)).await
    }

    pub async fn of_console(console: Console) -> Self {
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("token");
        std::fs::write(&file, format!("{TOKEN}\n")).unwrap();
        let args = PageArgs {
            console_listen: Some(OpsListen::At(([127, 0, 0, 1], 0).into())),
            api_token_file: Some(file),
            ..PageArgs::default()
        };
        let access = Access::given(&args).unwrap();
        let site = console::open(&args, &access, console.clone()).await.unwrap().unwrap();
        let address = site.address();
        let mut tasks = JoinSet::new();
        tasks.spawn(site.serve());
        Self { address, console, _folder: folder, _tasks: tasks }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Sends a browser's request.
    pub async fn get(&self, path: &str) -> Answer {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: {}\r\nAccept: text/html\r\n", self.address), "")
            .await
    }

    /// Sends a change in the form of the page's script.
    pub async fn post(&self, path: &str, token: Option<&str>, body: &str) -> Answer {
        let token = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
        let (address, length) = (self.address, body.len());
        self.send(
            &format!("POST {path} HTTP/1.1\r\nHost: {address}\r\nContent-Length: {length}\r\n{token}"),
            body,
        )
        .await
    }

    pub async fn send(&self, head: &str, body: &str) -> Answer {
        tokio::time::timeout(LONG, ask(self.address, head, body)).await.expect("no answer")
    }

    /// Opens a stream of changes.
    pub async fn stream(&self, path: &str) -> Stream {
        self.stream_from(1, path).await
    }

    /// The same from 127.0.0.x.
    pub async fn stream_from(&self, from: u8, path: &str) -> Stream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from(([127, 0, 0, from], 0))).unwrap();
        let mut stream = socket.connect(self.address).await.unwrap();
        let head =
            format!("GET {path} HTTP/1.1\r\nHost: {}\r\nAccept: text/event-stream\r\n\r\n", self.address);
        stream.write_all(head.as_bytes()).await.unwrap();
        Stream { stream, seen: String::new() }
    }
}

async fn ask(address: SocketAddr, head: &str, body: &str) -> Answer {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(format!("{head}Connection: close\r\n\r\n{body}").as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    // A refused request may be closed before all of it was read; what was received counts.
    let _ = stream.read_to_end(&mut bytes).await;
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, body: body.to_owned() }
}

/// Events in their order.
pub struct Stream {
    stream: TcpStream,
    seen: String,
}

impl Stream {
    /// Returns the status that it begins with.
    pub async fn status(&mut self) -> u16 {
        let mut begin = [0; 12];
        let read = tokio::time::timeout(LONG, self.stream.read_exact(&mut begin)).await;
        read.expect("no status").unwrap();
        std::str::from_utf8(&begin[9..]).unwrap().parse().unwrap()
    }

    /// Returns the next event's data.
    pub async fn next(&mut self) -> serde_json::Value {
        let read = async {
            loop {
                if let Some((event, rest)) = self.seen.split_once("\n\n") {
                    let (event, rest) = (event.to_owned(), rest.to_owned());
                    self.seen = rest;
                    if let Some((_, data)) = event.split_once("data: ") {
                        return serde_json::from_str(&data.replace("\r\n", "")).unwrap();
                    }
                    continue;
                }
                let mut buffer = [0; 65_536];
                let length = self.stream.read(&mut buffer).await.unwrap();
                assert!(length > 0, "the stream has ended: {}", self.seen);
                self.seen.push_str(&without_chunks(&String::from_utf8_lossy(&buffer[..length])));
            }
        };
        tokio::time::timeout(LONG, read).await.expect("no event")
    }
}

/// Removes chunk lengths that are on lines of their own.
fn without_chunks(text: &str) -> String {
    let is_length =
        |line: &str| !line.is_empty() && line.len() < 7 && line.bytes().all(|b| b.is_ascii_hexdigit());
    text.split("\r\n").filter(|line| !is_length(line)).collect()
}

/// An answer.
pub struct Answer {
    pub status: u16,
    pub body: String,
}

impl Answer {
    /// Panics with the texts that the body lacks.
    #[track_caller]
    pub fn has(&self, texts: &[&str]) -> &Self {
        for text in texts {
            assert!(self.body.contains(text), "{text:?} is missing in\n{}", self.body);
        }
        self
    }

    #[track_caller]
    pub fn lacks(&self, texts: &[&str]) -> &Self {
        for text in texts {
            assert!(!self.body.contains(text), "{text:?} is in\n{}", self.body);
        }
        self
    }

    /// Returns how many times the body contains a text.
    pub fn count(&self, text: &str) -> usize {
        self.body.matches(text).count()
    }
}
