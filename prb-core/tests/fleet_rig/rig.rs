//! A fleet of scripted workers on a chain, a source, a queue and an inventory in memory.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used)]

use std::{sync::Arc, time::Duration};

use prb_core::{
    blob::{
        BlobSource, Genesis,
        memory::{JustifiedBlock, MemorySource, empty_genesis},
    },
    chain::{
        Call, ChainReader,
        memory::{self as chain_memory, MemoryChain},
    },
    fleet::{self, Fleet, FleetStatus, Parts, WorkerStatus},
    inventory::{Edit, Inventory, Operator, Pool, Worker, memory::MemoryInventory},
    primitives::{AccountId, Hash, ParaNumber, PoolId, RelayNumber, WorkerKey},
    pruntime::scripted::{ScriptedConnect, ScriptedWorker},
    queue::{CallOutcome, Job, JobQueue, JobSigner, memory::MemoryQueue},
    signer::memory::MemorySigners,
    trade::{self, Trader, accounts::MemoryAccounts},
    vault::{Vault, memory::MemoryVault},
    wire::{Header, MessageOrigin, StorageChanges},
    worker::State,
};
use secrecy::SecretString;
use tokio::{task::JoinSet, time::timeout};
use uuid::Uuid;

pub const PHA: u128 = 1_000_000_000_000;
pub const STAKE: u128 = 100 * PHA;
pub const POOL: PoolId = PoolId(1);
/// Virtual time of a parachain block.
pub const BLOCK: Duration = Duration::from_secs(12);

/// A header whose parent is not looked at.
pub fn header(number: u32) -> Header {
    Header {
        parent_hash: Hash::default(),
        number,
        state_root: Hash::default(),
        extrinsics_root: Hash::default(),
        digest: vec![],
    }
}

/// Adds `blocks` parachain blocks to a source, each with two relay blocks, the second justified.
pub fn grow(source: &MemorySource, blocks: u32) {
    for _ in 0..blocks {
        let heights = *source.heights().borrow();
        let relay = heights.relay.map_or(0, |n| n.0);
        let para = heights.para.map_or(0, |n| n.0 + 1);
        if para == 0 {
            source.push_para_header(&header(0));
        }
        let para = para.max(1);
        source.push_para_header(&header(para));
        source.push_changes(&StorageChanges::default());
        source.push_relay(&header(relay + 1), None);
        let justified = JustifiedBlock {
            justification: vec![1],
            para_head: Some(ParaNumber(para)),
            proof: vec![],
            next_set: None,
        };
        source.push_relay(&header(relay + 2), Some(justified));
    }
}

pub fn account(pool: PoolId) -> AccountId {
    MemoryChain::account_of(&secret(pool))
}

fn secret(pool: PoolId) -> String {
    format!("//Operator{pool}")
}

pub struct Rig {
    pub source: Arc<MemorySource>,
    pub chain: MemoryChain,
    pub queue: MemoryQueue,
    pub inventory: Arc<MemoryInventory>,
    pub connect: ScriptedConnect,
    pub workers: Vec<ScriptedWorker>,
    pub ids: Vec<Uuid>,
    pub vault: Arc<MemoryVault>,
    pub fleet: Option<Fleet>,
    trader: Option<Trader>,
    tasks: JoinSet<()>,
}

impl Rig {
    /// A chain with `history` blocks and `workers` workers of one pool that has stake for all.
    pub async fn new(workers: usize, history: u32) -> Self {
        Self::with(chain_memory::Config::default(), workers, history).await
    }

    pub async fn with(config: chain_memory::Config, workers: usize, history: u32) -> Self {
        let mut rig = Self {
            source: Arc::new(MemorySource::new(genesis())),
            chain: MemoryChain::new(config),
            queue: MemoryQueue::default(),
            inventory: Arc::new(MemoryInventory::default()),
            connect: ScriptedConnect::default(),
            workers: Vec::new(),
            ids: Vec::new(),
            vault: Arc::new(MemoryVault::new()),
            fleet: None,
            trader: None,
            tasks: JoinSet::new(),
        };
        rig.blocks(history);
        rig.put_pool(POOL, true).await;
        for _ in 0..workers {
            rig.add_worker(POOL).await;
        }
        rig
    }

    /// Makes blocks on chain and in the source.
    pub fn blocks(&self, blocks: u32) {
        for _ in 0..blocks {
            self.chain.produce_block();
            grow(&self.source, 1);
        }
    }

    pub async fn put_pool(&self, pid: PoolId, with_operator: bool) {
        self.chain.add_pool(pid, account(pid), 1_000_000 * PHA);
        let key = self.vault.seal(&SecretString::from(secret(pid))).await.unwrap();
        let mut pool = Pool::new(Uuid::from_u128(u128::from(pid.0)), pid, format!("pool {pid}"));
        pool.operator = with_operator.then(|| Operator { account: account(pid), key });
        self.inventory.apply(vec![Edit::PutPool(pool)]).await.unwrap();
    }

    /// Adds a worker that is found, and gives its index.
    pub async fn add_worker(&mut self, pid: PoolId) -> usize {
        let index = self.workers.len();
        let worker = ScriptedWorker::new(index as u32);
        self.connect.add(&endpoint(index), worker.clone());
        self.live(&worker);
        self.workers.push(worker);
        let id = Uuid::from_u128(1000 + index as u128);
        self.ids.push(id);
        let entry = Worker::new(id, pid, format!("worker {index:05}"), endpoint(index), STAKE);
        self.inventory.apply(vec![Edit::PutWorker(entry)]).await.unwrap();
        index
    }

    /// Lets a worker of the test's own live on this rig's chain.
    pub fn adopt(&self, worker: &ScriptedWorker) {
        self.live(worker);
    }

    /// Lets a worker forget messages that the chain has taken, and know the chain's time.
    fn live(&self, worker: &ScriptedWorker) {
        let (chain, key) = (self.chain.clone(), worker.key());
        worker.after_dispatch(move |state| {
            let on_chain = chain.worker(key);
            let of_others = |sender: &MessageOrigin| taken(&chain, sender);
            state.egress.retain(|m| match &m.message.sender {
                MessageOrigin::Worker(_) => m.sequence >= on_chain.ingress_sequence,
                sender => m.sequence >= of_others(sender),
            });
            state.info.pending_messages = state.egress.len() as u64;
            state.info.registered = on_chain.registration.is_some();
            let secs = chain_memory::Config::GENESIS_SECS + 12 * u64::from(state.info.blocknum - 1);
            state.info.current_block_time = secs * 1000;
        });
    }

    pub async fn edit_worker(&self, index: usize, edit: impl FnOnce(&mut Worker)) {
        let snapshot = self.inventory.snapshots().borrow().clone();
        let mut worker = (**snapshot.workers.iter().find(|w| w.id == self.ids[index]).unwrap()).clone();
        edit(&mut worker);
        self.inventory.apply(vec![Edit::PutWorker(worker)]).await.unwrap();
    }

    pub fn config() -> fleet::Config {
        fleet::Config::default()
    }

    pub fn start(&mut self) {
        self.start_with(Self::config());
    }

    pub fn start_with(&mut self, config: fleet::Config) {
        self.start_from(Arc::clone(&self.source) as Arc<dyn BlobSource>, config);
    }

    /// The fleet's parts, with chain data from `source`.
    pub fn parts(&self, source: Arc<dyn BlobSource>) -> Parts {
        Parts::new(
            Arc::clone(&self.inventory) as Arc<dyn Inventory>,
            source,
            Arc::new(self.chain.clone()) as Arc<dyn ChainReader>,
            Arc::new(self.queue.clone()) as Arc<dyn JobQueue>,
            Arc::new(self.connect.clone()),
        )
    }

    pub fn start_from(&mut self, source: Arc<dyn BlobSource>, config: fleet::Config) {
        self.fleet = Some(Fleet::start(self.parts(source), config));
    }

    /// Starts a trader, and a chain that makes a block every [`BLOCK`].
    pub fn run(&mut self) {
        self.trade();
        self.tick();
    }

    pub fn trade(&mut self) {
        let parts = trade::Parts {
            queue: Arc::new(self.queue.clone()),
            submitter: Arc::new(self.chain.clone()),
            signers: Arc::new(MemorySigners::new(Arc::clone(&self.vault) as Arc<dyn Vault>)),
            accounts: Arc::new(MemoryAccounts::default()),
        };
        self.trader = Some(Trader::start(trade::Config::default(), parts).unwrap());
    }

    /// Stops the trader; it hands back what it has leased.
    pub async fn stop_trading(&mut self) {
        self.trader.take().unwrap().stop(Duration::from_secs(60)).await.unwrap();
    }

    pub fn tick(&mut self) {
        let (source, chain) = (Arc::clone(&self.source), self.chain.clone());
        self.tasks.spawn(async move {
            loop {
                tokio::time::sleep(BLOCK).await;
                chain.produce_block();
                grow(&source, 1);
            }
        });
    }

    /// Sends a call of the pool's operator, as by hand.
    pub async fn submit(&self, call: Call) {
        let pool = self.inventory.snapshots().borrow().pool(POOL).unwrap().clone();
        let operator = pool.operator.clone().unwrap();
        let signer = JobSigner { operator: operator.account, key: operator.key, proxied: None };
        let job = Job { pool: POOL, signer, calls: vec![call], retries: 0 };
        let outcome = self.queue.submit(job).await.unwrap().outcome().await.unwrap();
        assert_eq!(outcome.calls, [CallOutcome::Done]);
    }

    pub fn fleet(&self) -> &Fleet {
        self.fleet.as_ref().unwrap()
    }

    pub fn status(&self, index: usize) -> Arc<WorkerStatus> {
        self.fleet().worker(self.ids[index]).unwrap()
    }

    pub fn key(&self, index: usize) -> WorkerKey {
        self.workers[index].key()
    }

    /// Waits (for virtual minutes) until the fleet is as wanted.
    pub async fn until(&self, what: &str, wanted: impl Fn(&FleetStatus) -> bool) {
        let fleet = self.fleet();
        let mut changes = fleet.changes();
        let waiting = async {
            loop {
                changes.borrow_and_update();
                if wanted(&fleet.status()) {
                    return;
                }
                changes.changed().await.unwrap();
            }
        };
        if timeout(Duration::from_secs(1800), waiting).await.is_err() {
            let table: Vec<_> = fleet
                .status()
                .workers
                .iter()
                .take(10)
                .map(|w| format!("{} {} {:?} {}", w.worker.name, w.state, w.position, w.message))
                .collect();
            panic!("{what} did not come:\n{}", table.join("\n"));
        }
    }

    pub async fn until_all(&self, state: State) {
        self.until(state.as_str(), |s| !s.workers.is_empty() && s.count(state) == s.workers.len()).await;
    }

    pub async fn until_worker(&self, index: usize, what: &str, wanted: impl Fn(&WorkerStatus) -> bool) {
        let id = self.ids[index];
        self.until(what, |s| s.workers.iter().any(|w| w.worker.id == id && wanted(w))).await;
    }
}

/// Messages of a sender that the chain has taken.
fn taken(chain: &MemoryChain, sender: &MessageOrigin) -> u64 {
    let is = |call: &Call| matches!(call, Call::SyncOffchainMessage(m) if m.message.sender == *sender);
    chain.events().iter().filter(|event| is(&event.call) && event.result.is_ok()).count() as u64
}

pub fn endpoint(index: usize) -> String {
    format!("http://10.0.0.1:{}", 10_000 + index)
}

/// Workers start after relay block 0.
pub fn genesis() -> Genesis {
    empty_genesis(RelayNumber(0))
}
