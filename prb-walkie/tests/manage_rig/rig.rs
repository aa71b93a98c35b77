//! A node with the management calls, and a bare peer that calls it.
#![allow(unreachable_pub, clippy::unwrap_used)]

use std::{
    io,
    sync::{Arc, LazyLock, Mutex},
    time::Duration,
};

use bytes::Bytes;
use prb_core::{
    blob::{BlobSource, memory::MemorySource},
    chain::memory::{Config, MemoryChain},
    fleet::{self, Fleet},
    inventory::memory::MemoryInventory,
    manage::{KeyError, Manager, OperatorKeys, Parts},
    primitives::AccountId,
    pruntime::scripted::{ScriptedConnect, ScriptedWorker},
    queue::memory::MemoryQueue,
    trade::{self, Trader},
    worker::State,
};
use prb_walkie::{
    manage,
    node::Node,
    proto::{Request, Response, ResponseError, Role, db},
    rpc::Handlers,
    vault::RsaVault,
};
use prost::Message;
use secrecy::{ExposeSecret, SecretString};
use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

use super::rig::{LONG, RawPeer, address, config, identity, start};

pub const MNEMONIC: &str = "bottom drive obey lake curtain smoke basket hold race lonely fit walk";
pub const PHA: u128 = 1_000_000_000_000;

pub fn endpoint(n: u16) -> String {
    format!("http://10.0.0.1:{}", 10_000 + n)
}

pub fn worker(n: u16) -> db::Worker {
    db::Worker {
        pid: 1,
        name: format!("worker {n}"),
        endpoint: endpoint(n),
        enabled: true,
        stake: (100 * PHA).to_string(),
        ..db::Worker::default()
    }
}

/// A key ring that accepts any text without a question mark.
#[derive(Debug)]
struct Keys;

impl OperatorKeys for Keys {
    fn account(&self, secret: &SecretString) -> Result<AccountId, KeyError> {
        if secret.expose_secret().contains('?') {
            return Err(KeyError::Invalid("it is no mnemonic".into()));
        }
        Ok(MemoryChain::account_of(secret.expose_secret()))
    }
}

pub struct Bench {
    pub manager: Manager,
    pub inventory: Arc<MemoryInventory>,
    pub vault: Arc<RsaVault>,
    pub chain: MemoryChain,
    source: Arc<MemorySource>,
    workers: ScriptedConnect,
    fleet: Option<Fleet>,
    trader: Option<Trader>,
    node: Node,
    caller: RawPeer,
}

impl Bench {
    /// Creates a bench with a fleet and a trader, or with neither.
    pub async fn new(with_fleet: bool) -> Self {
        let inventory = Arc::new(MemoryInventory::default());
        let vault = Arc::new(RsaVault::new(&identity(0)));
        let chain = MemoryChain::new(Config::default());
        let source = Arc::new(MemorySource::of_empty_blocks(3));
        let workers = ScriptedConnect::default();
        let queue = Arc::new(MemoryQueue::default());
        let fleet = with_fleet.then(|| {
            let parts = fleet::Parts::new(
                inventory.clone(),
                source.clone(),
                Arc::new(chain.clone()),
                queue.clone(),
                Arc::new(workers.clone()),
            );
            Fleet::start(parts, fleet::Config::default())
        });
        let trader = with_fleet.then(|| {
            let parts = trade::Parts {
                queue,
                submitter: Arc::new(chain.clone()),
                signers: Arc::new(prb_core::signer::memory::MemorySigners::new(vault.clone())),
                accounts: Arc::new(prb_core::trade::accounts::MemoryAccounts::default()),
            };
            Trader::start(trade::Config::default(), parts).unwrap()
        });
        let manager = Manager::new(Parts {
            inventory: inventory.clone(),
            vault: vault.clone(),
            keys: Arc::new(Keys),
            fleet: fleet.clone(),
        });
        let mut server = config(0, Role::LifecycleManager);
        server.handlers = manage::handlers(manager.clone(), manage::Sources::default(), Handlers::new());
        let node = start(server).await;
        let caller = RawPeer::start(1, Some(address(&node)), Box::new(|_| None)).await;
        Self { manager, inventory, vault, chain, source, workers, fleet, trader, node, caller }
    }

    /// Returns the raw answer.
    pub async fn raw(&self, method: &str, data: Vec<u8>) -> Vec<u8> {
        let request = Request {
            created_at: 1_650_000_000_000,
            nonce: "nonce".into(),
            data: data.into(),
            method: method.into(),
        };
        self.caller.ask(self.node.peer_id(), request.encode_to_vec()).await.unwrap()
    }

    pub async fn ask(&self, method: &str, data: Vec<u8>) -> Result<Bytes, ResponseError> {
        let answer = Response::decode(self.raw(method, data).await.as_slice()).unwrap();
        assert_eq!((answer.request_nonce.as_str(), answer.has_error), ("nonce", answer.error.is_some()));
        answer.error.map_or(Ok(answer.data), Err)
    }

    pub async fn ok<A: Message + Default>(&self, method: &str, request: &impl Message) -> A {
        let answer = self.ask(method, request.encode_to_vec()).await;
        A::decode(answer.unwrap_or_else(|error| panic!("{method}: {error:?}"))).unwrap()
    }

    /// Puts a worker at the `n`th endpoint.
    pub fn connect(&self, n: u16) -> ScriptedWorker {
        let worker = ScriptedWorker::new(n.into());
        self.workers.add(&endpoint(n), worker.clone());
        for status in self.manager.status(&[]).unwrap() {
            // The fleet may have tried this endpoint already and be backing off.
            let _ = self.manager.restart(&[status.worker.id]);
        }
        worker
    }

    /// Waits for a condition while producing blocks.
    pub async fn until(&self, what: &str, mut is: impl FnMut() -> bool) {
        let waiting = async {
            while !is() {
                tokio::time::sleep(Duration::from_millis(20)).await;
                self.chain.produce_block();
            }
        };
        if tokio::time::timeout(LONG, waiting).await.is_err() {
            panic!("{what} did not come: {:#?}", self.manager.status(&[]));
        }
    }

    /// Waits until all enabled workers are active.
    pub async fn until_active(&self) {
        let manager = self.manager.clone();
        self.until("computing", move || {
            let all = manager.status(&[]).unwrap();
            all.iter().filter(|status| status.worker.enabled).all(|status| status.state == State::Active)
        })
        .await;
        assert!(self.source.heights().borrow().para.is_some());
    }

    pub async fn stop(self) {
        if let (Some(fleet), Some(trader)) = (self.fleet, self.trader) {
            tokio::time::timeout(LONG, fleet.stop()).await.expect("the fleet's end");
            trader.stop(Duration::from_secs(5)).await.unwrap();
        }
        self.node.stop(LONG).await;
    }
}

/// Captures the log of this process.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.0.lock().unwrap()).into_owned()
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

/// Captures everything that our crates log, and others from `debug` on.
pub fn capture_log() -> Log {
    static LOG: LazyLock<Log> = LazyLock::new(|| {
        let log = Log::default();
        let filter = EnvFilter::new("debug,prb_core=trace,prb_walkie=trace");
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(log.clone()).with_ansi(false).init();
        log
    });
    LOG.clone()
}
