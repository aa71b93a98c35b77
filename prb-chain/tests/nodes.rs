//! Tests of imperfect nodes: limited, pruned, hanging, of another chain, or announcing heads that no other node
//! has. With such a node alone, and with a good one beside it, nothing is lost and nothing waits forever.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{path::Path, sync::Arc, time::Duration};

use codec::Encode;
use prb_chain::{
    ingest::{self, Ingest},
    rpc::{self, Capability, NO_PARAMS, NodePool, Refusal},
    store::{self, Store},
};
use prb_core::primitives::{ParaNumber, RelayNumber};
use prb_devnet::{Config, Devnet, ProofFault, RpcLimits};
use tempfile::TempDir;
use tokio::{task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;

#[path = "nodes/answers.rs"]
mod answers;
#[path = "nodes/handshakes.rs"]
mod handshakes;
#[path = "nodes/heads.rs"]
mod heads;
#[path = "nodes/history.rs"]
mod history;
#[path = "nodes/proofs.rs"]
mod proofs;
#[path = "support/answers.rs"]
mod proxy;
#[path = "nodes/requests.rs"]
mod requests;
#[path = "nodes/start.rs"]
mod start;

/// Timeout of a test.
const TIMEOUT: Duration = Duration::from_secs(30);

fn config() -> Config {
    Config { history: 120, set_length: 25, justification_period: 8, ..Config::default() }
}

async fn devnets<const N: usize>(config: Config) -> [Devnet; N] {
    let mut all = Vec::new();
    for _ in 0..N {
        all.push(Devnet::start(config.clone()).await.unwrap());
    }
    all.try_into().ok().unwrap()
}

fn quick(endpoints: Vec<String>) -> rpc::Config {
    rpc::Config::new(endpoints)
        .with_request_timeout(Duration::from_millis(1500))
        .with_connect_timeout(Duration::from_millis(1500))
        .with_reconnect_min(Duration::from_millis(20))
        .with_reconnect_max(Duration::from_millis(500))
        .with_stall_after(Duration::from_millis(800))
        .with_poll_interval(Duration::from_millis(100))
}

fn relay_pool(devnets: &[&Devnet]) -> NodePool {
    NodePool::new("relay", quick(devnets.iter().map(|devnet| devnet.relay().url()).collect())).unwrap()
}

fn para_pool(devnets: &[&Devnet]) -> NodePool {
    NodePool::new("para", quick(devnets.iter().map(|devnet| devnet.para().url()).collect())).unwrap()
}

/// Restarts the node's server with other limits.
async fn limit(node: &Arc<prb_devnet::Node>, limits: RpcLimits) {
    node.stop_rpc().await;
    node.set_rpc_limits(limits);
    node.start_rpc().await.unwrap();
}

struct Fetching {
    relay: NodePool,
    para: NodePool,
    store: Arc<Store>,
    cancel: CancellationToken,
    task: JoinHandle<Result<(), ingest::Error>>,
    dir: TempDir,
}

impl Fetching {
    fn start(devnets: &[&Devnet]) -> Self {
        Self::between(relay_pool(devnets), para_pool(devnets), TempDir::new().unwrap())
    }

    fn between(relay: NodePool, para: NodePool, dir: TempDir) -> Self {
        Self::with(relay, para, dir, |config| config)
    }

    fn with(
        relay: NodePool,
        para: NodePool,
        dir: TempDir,
        change: impl FnOnce(ingest::Config) -> ingest::Config,
    ) -> Self {
        let path: &Path = dir.path();
        let store = Arc::new(Store::open(path, store::Config::default()).unwrap());
        let config = ingest::Config::default()
            .with_retry_min(Duration::from_millis(10))
            .with_retry_max(Duration::from_millis(200));
        let ingest = Ingest::new(relay.clone(), para.clone(), Arc::clone(&store), change(config));
        let cancel = CancellationToken::new();
        let task = tokio::spawn(ingest.run(cancel.clone()));
        Self { relay, para, store, cancel, task, dir }
    }

    /// Waits until everything that is final is stored, and compares it with the devnet's blocks.
    async fn has_all_of(&self, truth: &Devnet) {
        let (relay, para) = (truth.relay().finalized_number(), truth.para().finalized_number());
        self.reaches(relay, para).await;
        let view = self.store.view().unwrap();
        for n in 2..=relay {
            let header = truth.relay().header(n).unwrap().encode();
            assert_eq!(view.relay_header(RelayNumber(n)).unwrap(), Some(&*header), "relay header {n}");
        }
        for n in 1..=para {
            let header = truth.para().header(n).unwrap().encode();
            assert_eq!(view.para_header(ParaNumber(n)).unwrap(), Some(&*header), "parachain header {n}");
            let changes = truth.para().storage_changes(n).unwrap().encode();
            assert_eq!(view.changes(ParaNumber(n)).unwrap(), Some(&*changes), "changes of block {n}");
        }
    }

    async fn reaches(&self, relay: u32, para: u32) {
        let mut heights = self.store.heights();
        let there =
            heights.wait_for(|h| h.relay >= Some(RelayNumber(relay)) && h.para >= Some(ParaNumber(para)));
        if timeout(TIMEOUT, there).await.is_err() {
            panic!("wanted {relay} and {para}, got {:?}: {:?} {:?}", self.store, self.relay, self.para);
        }
    }

    async fn stop(self) -> TempDir {
        self.cancel.cancel();
        self.task.await.unwrap().unwrap();
        // What was written last may still hold the store for a moment, and with it the lock of the folder.
        let store = Arc::downgrade(&self.store);
        drop((self.store, self.relay, self.para));
        until("the store is closed", || store.strong_count() == 0).await;
        self.dir
    }
}

/// Waits until a condition holds.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let wait = async {
        while !is_so() {
            tokio::task::yield_now().await;
        }
    };
    timeout(TIMEOUT, wait).await.unwrap_or_else(|_| panic!("not in time: {what}"));
}
