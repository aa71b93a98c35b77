//! A fleet on real nodes: verified ingest, worker management and the trader in one process.
//!
//! Why: this is `prb all` without its files, API and console. A program with its own inventory, metrics or scheduler
//! starts from this wiring and replaces parts of it. Three details are easy to miss: `with_suspects` makes the ingest
//! fetch blocks again that a worker cannot apply; the cache lets a thousand workers at the tip share one batch; and
//! operators' keys are sealed everywhere but in the trader's signers.
//!
//! `OPERATOR='mnemonic' cargo run --package prb-examples --bin real_nodes -- \
//!     ws://relay-node:9945 ws://para-node:9944 12 http://worker:8000 /var/lib/mine`
use std::{path::Path, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use prb_chain::{
    ingest, keys::OperatorKey, reader, rpc, signer::VaultSigners, source::StoreSource, store, submit,
};
use prb_core::{
    blob::cache::{self, CachedSource},
    fleet::{self, Fleet},
    inventory::{Edit, Inventory, Operator, Pool, Worker, memory::MemoryInventory},
    primitives::PoolId,
    pruntime::http::{HttpConfig, HttpConnect},
    queue::memory::MemoryQueue,
    trade::{self, Trader, accounts::MemoryAccounts},
    vault::Vault,
    worker::State,
};
use prb_walkie::{identity, vault::RsaVault};
use tokio_util::sync::CancellationToken;

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [relay, para, pid, worker, data] = &args[..] else { bail!("usage: RELAY PARA POOL WORKER FOLDER") };
    let (data, stop) = (Path::new(data), CancellationToken::new());

    let (relay, para) = (rpc::Config::new([relay]), rpc::Config::new([para]));
    let (relay, para) = (rpc::NodePool::new("relay", relay)?, rpc::NodePool::new("para", para)?);
    let store = Arc::new(store::Store::open(&data.join("blocks"), store::Config::default())?);
    let ingest = ingest::Ingest::new(relay, para.clone(), Arc::clone(&store), ingest::Config::default());
    let source = Arc::new(StoreSource::new(store).with_suspects(ingest.suspects()));
    let source = Arc::new(CachedSource::new(source, cache::Config::default()));
    let (reader, reading) = reader::Reader::new(para.clone(), reader::Config::default());
    let (ingesting, reading) =
        (tokio::spawn(ingest.run(stop.clone())), tokio::spawn(reading.run(stop.clone())));

    let secret = std::env::var("OPERATOR").context("OPERATOR is not set")?.into();
    let identity = identity::Identity::load_or_generate(&data.join("id"), identity::Role::Lifecycle).await?;
    let vault = RsaVault::new(&identity);
    let account = OperatorKey::from_secret(&secret)?.account();
    let operator = Operator { account, key: vault.seal(&secret).await? };
    let (pid, inventory) = (PoolId(pid.parse()?), Arc::new(MemoryInventory::default()));
    let pool = Pool::new(uuid::Uuid::new_v4(), pid, "pool").with_operator(operator);
    let worker = Worker::new(uuid::Uuid::new_v4(), pid, "worker", worker, 100_000_000_000_000);
    inventory.apply(vec![Edit::PutPool(pool), Edit::PutWorker(worker)]).await?;

    let queue = Arc::new(MemoryQueue::default());
    let submitter = Arc::new(submit::Submitter::new(para, submit::Config::default())?);
    let (signers, accounts) =
        (Arc::new(VaultSigners::new(Arc::new(vault))), Arc::new(MemoryAccounts::default()));
    let parts = trade::Parts { queue: queue.clone(), submitter, signers, accounts };
    let trader = Trader::start(trade::Config::default(), parts)?;
    let connect = Arc::new(HttpConnect::new(HttpConfig::default())?);
    let parts = fleet::Parts::new(inventory, source, Arc::new(reader), queue, connect);
    let fleet = Fleet::start(parts, fleet::Config::default());
    let mut changes = fleet.changes();
    while fleet.status().count(State::Active) == 0 {
        tokio::time::timeout(Duration::from_secs(60), changes.changed()).await??;
        for worker in fleet.status().workers {
            println!("{}: {}", worker.state.as_str(), worker.message);
        }
    }
    // In this order: stop new jobs, finish batches in flight, then stop reading the chains.
    fleet.stop().await;
    trader.stop(Duration::from_secs(2)).await?;
    stop.cancel();
    reading.await?;
    Ok(ingesting.await??)
}
