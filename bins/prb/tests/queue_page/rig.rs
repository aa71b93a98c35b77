//! A page on a port of its own, jobs for it, and a raw HTTP client.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use prb::{
    config::{OpsListen, PageArgs},
    pages::queue::{self, Source},
    token::Access,
};
use prb_core::{
    chain::Call,
    primitives::{AccountId, Hash, ParaNumber, PoolId, WorkerKey},
    queue::{
        CallOutcome, Job, JobFailure, JobId, JobOutcome, JobQueue, JobSigner,
        admin::QueueAdmin,
        memory::{Config, MemoryQueue},
    },
    vault::Sealed,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

/// Timeout that is long enough even on a loaded machine.
pub const LONG: Duration = Duration::from_secs(60);
pub const TOKEN: &str = "a-token-of-this-test";
/// A sealed key, which must never be shown.
pub const SEALED: &[u8] = b"a sealed key that nobody may see";

/// A page that is served until dropped.
pub struct Page {
    pub address: SocketAddr,
    _folder: TempDir,
    _tasks: JoinSet<()>,
}

impl Page {
    pub async fn of<Q: JobQueue + QueueAdmin + Clone + 'static>(queue: &Q) -> Self {
        let source = Source { queue: Arc::new(queue.clone()), admin: Arc::new(queue.clone()) };
        Self::start(source, Some(TOKEN)).await
    }

    pub async fn start(source: Source, token: Option<&str>) -> Self {
        let folder = TempDir::new().unwrap();
        let file = folder.path().join("token");
        let args = PageArgs {
            queue_page_listen: Some(OpsListen::At(([127, 0, 0, 1], 0).into())),
            api_token_file: token.map(|token| {
                std::fs::write(&file, format!("{token}\n")).unwrap();
                file
            }),
            ..PageArgs::default()
        };
        let access = Access::given(&args).unwrap();
        let site = queue::open(&args, &access, source).await.unwrap().unwrap();
        let address = site.address();
        let mut tasks = JoinSet::new();
        tasks.spawn(site.serve());
        Self { address, _folder: folder, _tasks: tasks }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Sends a browser's request.
    pub async fn get(&self, path: &str) -> Answer {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: {}\r\nAccept: text/html\r\n", self.address)).await
    }

    /// Sends a change of several jobs in the form of the page's script.
    pub async fn act(&self, token: Option<&str>, body: &str) -> Answer {
        let token = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
        let length = body.len();
        let head =
            format!("POST /act HTTP/1.1\r\nHost: {}\r\nContent-Length: {length}\r\n{token}", self.address);
        tokio::time::timeout(LONG, ask_with(self.address, &head, body)).await.expect("no answer")
    }

    /// Sends a change in the form of the page's script.
    pub async fn post(&self, path: &str, token: Option<&str>) -> Answer {
        let token = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
        let head = format!("POST {path} HTTP/1.1\r\nHost: {}\r\nContent-Length: 0\r\n{token}", self.address);
        self.send(&head).await
    }

    /// Sends a request head unchanged.
    pub async fn send(&self, head: &str) -> Answer {
        tokio::time::timeout(LONG, ask(self.address, head)).await.expect("no answer")
    }
}

/// Sends a request head to an address.
pub async fn ask(address: SocketAddr, head: &str) -> Answer {
    ask_with(address, head, "").await
}

async fn ask_with(address: SocketAddr, head: &str, body: &str) -> Answer {
    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(format!("{head}Connection: close\r\n\r\n{body}").as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    // A refused request may be closed before all of it was read; what was received counts.
    let _ = stream.read_to_end(&mut bytes).await;
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
}

/// An answer.
pub struct Answer {
    pub status: u16,
    /// In lower case.
    pub head: String,
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

/// Creates a queue in memory with a large limit.
pub fn memory() -> MemoryQueue {
    MemoryQueue::new(Config::default().with_max_jobs(20_000))
}

/// Worker `n`.
pub fn worker(n: u64) -> WorkerKey {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&n.to_be_bytes());
    key[8..16].fill(0xfe);
    WorkerKey(key)
}

/// A job of pool `n` % 20 whose calls are about worker `n`.
pub fn job(n: u64) -> Job {
    let pool = PoolId(n % 20);
    let worker = worker(n);
    let signer = JobSigner { operator: AccountId([2; 32]), key: Sealed(SEALED.to_vec()), proxied: None };
    let calls = vec![Call::AddWorker { pool, worker }, Call::StartComputing { pool, worker, stake: 12_345 }];
    Job { pool, signer, calls, retries: 0 }
}

/// Adds jobs 1 to `count`.
pub async fn submit(queue: &impl JobQueue, count: u64) {
    for n in 1..=count {
        queue.submit(job(n)).await.unwrap();
    }
}

/// Takes the oldest job.
pub async fn take(queue: &impl JobQueue) -> (JobId, u64) {
    let lease = tokio::time::timeout(LONG, queue.lease(LONG)).await.expect("no job").unwrap();
    (lease.id, lease.token)
}

/// Completes the oldest job; its second call fails on chain.
pub async fn carry_out(queue: &impl JobQueue, error: &str) -> JobId {
    let (id, token) = take(queue).await;
    let calls = vec![CallOutcome::Done, CallOutcome::Failed(error.to_owned())];
    let extrinsic = Some(Hash([0xab; 32]));
    let outcome = JobOutcome { calls, block: ParaNumber(1_234_567), extrinsic, fee: Some(12_500_000_000) };
    queue.complete(id, token, outcome).await.unwrap();
    id
}

/// Fails the oldest job.
pub async fn give_up(queue: &impl JobQueue, message: &str) -> JobId {
    let (id, token) = take(queue).await;
    queue.fail(id, token, JobFailure { message: message.to_owned() }, None).await.unwrap();
    id
}
