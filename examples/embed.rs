//! The worker management on in-memory parts: a scripted worker goes from nothing to computing.
//!
//! Why: the engines depend on traits only. A program that replaces a part (the queue, the store, the chain) can test
//! it against these doubles (prb-core's feature `testing`), which need no network, no enclave and no real clock: under
//! Tokio's paused time the whole run takes milliseconds. Start here, then replace one part at a time.
use std::{sync::Arc, time::Duration};

use prb_core::{
    blob::memory::MemorySource,
    chain::memory::{Config, MemoryChain},
    fleet::{self, Fleet},
    inventory::{Edit, Inventory, Operator, Pool, Worker, memory::MemoryInventory},
    primitives::PoolId,
    pruntime::scripted::{ScriptedConnect, ScriptedWorker},
    queue::memory::MemoryQueue,
    signer::memory::MemorySigners,
    trade::{self, Trader, accounts::MemoryAccounts},
    vault::{Vault, memory::MemoryVault},
    worker::State,
};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    // The trait implementations. Each can be a custom type.
    let chain = Arc::new(MemoryChain::new(Config::default()));
    let source = Arc::new(MemorySource::of_empty_blocks(3));
    let (queue, vault) = (Arc::new(MemoryQueue::default()), Arc::new(MemoryVault::new()));
    let (inventory, connect) = (Arc::new(MemoryInventory::default()), Arc::new(ScriptedConnect::default()));
    connect.add("http://worker-1", ScriptedWorker::new(1));

    // The entries to manage: a pool with its operator's key, and a worker that stakes 100 PHA.
    let (id, pid, secret) = (uuid::Uuid::new_v4(), PoolId(1), "operator".to_owned());
    let account = MemoryChain::account_of(&secret);
    chain.add_pool(pid, account, 1_000_000_000_000_000);
    let operator = Operator { account, key: vault.seal(&secret.into()).await? };
    let pool = Pool::new(id, pid, "pool").with_operator(operator);
    let worker = Worker::new(id, pid, "worker-1", "http://worker-1", 100_000_000_000_000);
    inventory.apply(vec![Edit::PutPool(pool), Edit::PutWorker(worker)]).await?;

    // The engines.
    let (signers, accounts) = (Arc::new(MemorySigners::new(vault)), Arc::new(MemoryAccounts::default()));
    let parts = trade::Parts { queue: queue.clone(), submitter: chain.clone(), signers, accounts };
    let trader = Trader::start(trade::Config::default(), parts)?;
    let parts = fleet::Parts::new(inventory, source, chain.clone(), queue, connect);
    let fleet = Fleet::start(parts, fleet::Config::default());
    // The worker is initialised, synced, registered and started; the in-memory chain produces a block when told to.
    while fleet.status().count(State::Active) == 0 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let status = &fleet.status().workers[..];
        println!("block {}: {:?}", chain.produce_block(), status.first().map(|w| w.message.clone()));
    }
    // The fleet first: it submits no more jobs, and the trader finishes those in flight.
    fleet.stop().await;
    trader.stop(Duration::from_secs(1)).await?;
    Ok(())
}
