//! Tests that workers accept the store's batches for random histories, and that a history costs few calls and
//! little disk space.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{sync::Arc, time::Duration};

use codec::Encode;
use prb_chain::{
    ingest::{Config, Ingest},
    rpc::{self, NodePool},
    source::StoreSource,
    store::{self, Store},
};
use prb_core::primitives::{ParaNumber, RelayNumber};
use prb_devnet::Devnet;
use proptest::prelude::*;
use rand::{Rng, SeedableRng, rngs::StdRng};
use tempfile::TempDir;
use tokio::{task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;

#[path = "support/workers.rs"]
mod workers;

const LIMIT: Duration = Duration::from_secs(60);

/// Sizes of batches, small and large ones.
fn batch_bytes(rng: &mut StdRng) -> usize {
    if rng.random_bool(0.5) { rng.random_range(1..20_000) } else { workers::ENOUGH }
}

/// An ingest at work.
struct Fetching {
    relay: NodePool,
    para: NodePool,
    store: Arc<Store>,
    cancel: CancellationToken,
    task: JoinHandle<Result<(), prb_chain::ingest::Error>>,
    dir: TempDir,
}

impl Fetching {
    fn start(devnet: &Devnet) -> Self {
        let dir = TempDir::new().unwrap();
        let store = Arc::new(Store::open(&dir.path().join("blocks"), store::Config::default()).unwrap());
        let relay = NodePool::new("relay", rpc::Config::new([devnet.relay().url()])).unwrap();
        let para = NodePool::new("para", rpc::Config::new([devnet.para().url()])).unwrap();
        let ingest = Ingest::new(relay.clone(), para.clone(), Arc::clone(&store), Config::default());
        let cancel = CancellationToken::new();
        let task = tokio::spawn(ingest.run(cancel.clone()));
        Self { relay, para, store, cancel, task, dir }
    }

    /// Waits until everything that is final and provable is stored.
    async fn until_at(&self, relay: u32, para: u32) {
        let mut heights = self.store.heights();
        let there = heights.wait_for(|h| {
            h.relay >= Some(RelayNumber(relay)) && (para == 0 || h.para >= Some(ParaNumber(para)))
        });
        if timeout(LIMIT, there).await.is_err() {
            panic!("wanted {relay}/{para}, got {:?}, {:?}", self.store.heights().borrow(), self.store);
        }
    }

    async fn stop(self) -> TempDir {
        self.cancel.cancel();
        self.task.await.unwrap().unwrap();
        self.dir
    }
}

/// Shape of a random history.
#[derive(Clone, Debug)]
struct History {
    set_length: u32,
    justification_period: u32,
    finality_proofs: bool,
    /// Numbers of relay blocks alternately with and without parachain blocks.
    stretches: Vec<u32>,
    seed: u64,
}

fn histories() -> impl Strategy<Value = History> {
    (
        prop_oneof![Just(0u32), 1..4u32, 4..40u32],
        prop_oneof![Just(0u32), Just(1), 2..20u32],
        any::<bool>(),
        prop::collection::vec(1..40u32, 1..5),
        any::<u64>(),
    )
        .prop_map(|(set_length, justification_period, finality_proofs, stretches, seed)| History {
            set_length,
            justification_period,
            finality_proofs,
            stretches,
            seed,
        })
}

async fn accepted(history: History) {
    let config = prb_devnet::Config {
        set_length: history.set_length,
        justification_period: history.justification_period,
        history: 4,
        seed: history.seed,
        ..prb_devnet::Config::default()
    };
    let devnet = Devnet::start(config).await.unwrap();
    for (i, length) in history.stretches.iter().enumerate() {
        devnet.pause_para(i % 2 == 1);
        for _ in 0..*length {
            devnet.tick().unwrap();
        }
    }
    if !history.finality_proofs {
        devnet.relay().faults().refuse("grandpa_proveFinality");
    }
    // Without finality proofs, only the justifications stored with blocks prove anything.
    let is_provable = |n: &u32| {
        history.finality_proofs && *n == devnet.relay().finalized_number()
            || devnet.relay().justification(*n).is_some()
    };
    let finalized = devnet.relay().finalized_number();
    let provable = (2..=finalized).rev().find(is_provable);
    let fetching = Fetching::start(&devnet);
    let source = StoreSource::new(Arc::clone(&fetching.store));
    match provable {
        // Justifications in the middle of a set are only looked for near the tip.
        Some(provable) if history.finality_proofs || finalized - provable < 16 => {
            let para = if history.finality_proofs { devnet.para().finalized_number() } else { 0 };
            fetching.until_at(provable, para).await;
        }
        _ => {
            let mut heights = fetching.store.heights();
            timeout(LIMIT, heights.wait_for(|h| h.relay_target.is_some())).await.unwrap().unwrap();
        }
    }
    let (handle, api) = workers::start(&source).await;
    let mut rng = StdRng::seed_from_u64(history.seed);
    workers::feed(&source, &api, || batch_bytes(&mut rng)).await;
    if history.finality_proofs {
        let info = api.info().await.unwrap();
        assert_eq!(info.headernum, finalized + 1);
        assert_eq!(info.blocknum, devnet.para().finalized_number() + 1);
    }
    // The next blocks arrive while the worker is in the middle.
    for _ in 0..5 {
        devnet.tick().unwrap();
    }
    if history.finality_proofs {
        fetching.until_at(devnet.relay().finalized_number(), devnet.para().finalized_number()).await;
        workers::feed(&source, &api, || batch_bytes(&mut rng)).await;
        assert_eq!(api.info().await.unwrap().headernum, devnet.relay().finalized_number() + 1);
    }
    handle.shutdown().await;
    fetching.stop().await;
    devnet.shutdown().await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 0, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn workers_accept_random_histories(history in histories()) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(accepted(history));
    }
}

/// Most round trips for each relay block of a history.
const CALLS_PER_RELAY_BLOCK: f64 = 0.1;
/// Most bytes on disk for each byte of SCALE that was fetched.
const DISK_PER_RAW: f64 = 1.25;

#[tokio::test(flavor = "multi_thread")]
async fn history_costs_few_calls_and_little_disk() {
    const BLOCKS: u32 = 2000;
    let config = prb_devnet::Config {
        history: BLOCKS,
        changes_per_block: 100,
        change_bytes: 100,
        ..prb_devnet::Config::default()
    };
    let devnet = Devnet::start(config).await.unwrap();
    let fetching = Fetching::start(&devnet);
    let (relay, para) = (devnet.relay().finalized_number(), devnet.para().finalized_number());
    fetching.until_at(relay, para).await;
    let calls = |pool: &NodePool| pool.counters().snapshot();
    let (on_relay, on_para) = (calls(&fetching.relay), calls(&fetching.para));
    let per_block = (on_relay.round_trips + on_para.round_trips) as f64 / f64::from(BLOCKS);

    let mut raw = 0;
    for n in 2..=relay {
        let header = devnet.relay().header(n).unwrap().encode().len();
        raw += header;
    }
    for n in 0..=para {
        raw += devnet.para().header(n).unwrap().encode().len();
        raw += devnet.para().storage_changes(n).unwrap().encode().len();
    }
    // At the end of a set: its justification and read proof.
    let set_ends: Vec<u32> = (2..=relay).filter(|n| n % 50 == 0).collect();
    for n in &set_ends {
        raw += devnet.relay().justification(*n).unwrap().len();
    }
    let disk = fetching.store.disk_bytes().unwrap();
    let ratio = disk as f64 / raw as f64;
    println!(
        "{per_block:.3} round trips a relay block ({} calls); {disk} bytes on disk for {raw} raw: {ratio:.3}",
        on_relay.calls + on_para.calls
    );
    assert!(per_block <= CALLS_PER_RELAY_BLOCK, "{per_block} round trips a relay block");
    assert!(ratio <= DISK_PER_RAW, "{ratio} bytes on disk for a raw byte");
    fetching.stop().await;
    devnet.shutdown().await;
}
