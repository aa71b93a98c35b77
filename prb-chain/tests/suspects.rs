//! Tests that a worker's refusal of storage changes makes the ingest recheck them.

#![allow(clippy::unwrap_used)]

use std::{fs::OpenOptions, os::unix::fs::FileExt, sync::Arc, time::Duration};

use codec::Encode;
use prb_chain::{
    ingest::{self, Ingest, Suspects},
    internals::store::segment,
    rpc::{self, NodePool},
    source::StoreSource,
    store::{self, Store},
};
use prb_core::{
    blob::{
        BlobSource, RefusedData, Span,
        cache::{self, CachedSource},
    },
    primitives::{ParaNumber, RelayNumber},
    prpc::InitRuntimeRequest,
    pruntime::{
        Connect, PRuntime,
        http::{HttpConfig, HttpConnect},
    },
    sync::{
        BatchSizes, Driver, Error, Lane, Limits, Outcome, PlannedStep, Position, TransferBudget,
        TransferLimits,
    },
};
use prb_devnet::{
    Config, Devnet,
    worker::{Worker, WorkerConfig, WorkerHandle},
};
use tempfile::TempDir;
use tokio::{task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;

/// Timeout of a test.
const TIMEOUT: Duration = Duration::from_secs(60);

/// A store filled by an ingest, and the source for workers.
struct Provider {
    store: Arc<Store>,
    suspects: Suspects,
    source: Arc<dyn BlobSource>,
    cancel: CancellationToken,
    task: JoinHandle<Result<(), ingest::Error>>,
    _dir: TempDir,
}

impl Provider {
    async fn filled_from(devnets: &[Devnet]) -> Self {
        let dir = TempDir::new().unwrap();
        let urls = |url: fn(&Devnet) -> String| rpc::Config::new(devnets.iter().map(url));
        let relay = NodePool::new("relay", urls(|devnet| devnet.relay().url())).unwrap();
        let para = NodePool::new("para", urls(|devnet| devnet.para().url())).unwrap();
        let store = Arc::new(Store::open(dir.path(), store::Config::default()).unwrap());
        let ingest = Ingest::new(relay, para, Arc::clone(&store), ingest::Config::default());
        let suspects = ingest.suspects();
        let stored = Arc::new(StoreSource::new(Arc::clone(&store)).with_suspects(suspects.clone()));
        let source = Arc::new(CachedSource::new(stored, cache::Config::default()));
        let cancel = CancellationToken::new();
        let task = tokio::spawn(ingest.run(cancel.clone()));
        let truth = &devnets[0];
        let relay = RelayNumber(truth.relay().finalized_number());
        let para = ParaNumber(truth.para().finalized_number());
        let mut heights = store.heights();
        let filled = heights.wait_for(|h| h.relay >= Some(relay) && h.para >= Some(para));
        timeout(TIMEOUT, filled).await.unwrap().unwrap();
        Self { store, suspects, source, cancel, task, _dir: dir }
    }

    async fn until_right(&self, number: u32, truth: &Devnet) {
        let right = truth.para().storage_changes(number).unwrap().encode();
        let mended = async {
            while self.store.changes(ParaNumber(number)).unwrap() != right {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(TIMEOUT, mended).await.unwrap();
    }

    async fn stop(self) {
        self.cancel.cancel();
        self.task.await.unwrap().unwrap();
    }
}

async fn initialised(worker: &WorkerHandle, source: &dyn BlobSource) -> PRuntime {
    let connect = HttpConnect::new(HttpConfig::default()).unwrap();
    let client = PRuntime::new(connect.connect(&worker.endpoint()).unwrap());
    let genesis = source.genesis().await.unwrap();
    let request = InitRuntimeRequest {
        encoded_genesis_info: genesis.info,
        encoded_genesis_state: genesis.state,
        is_parachain: true,
        ..Default::default()
    };
    client.init(&request).await.unwrap();
    client
}

/// Syncs a worker to the tip, or until it refuses something; returns the refusal.
async fn drive(client: &PRuntime, source: &Arc<dyn BlobSource>) -> Option<String> {
    let budget = TransferBudget::new(TransferLimits::new(64 << 20));
    let driver = Driver::new(Arc::clone(source), budget);
    let mut at = Position::of(&client.info().await.unwrap());
    loop {
        let heights = *driver.heights().borrow();
        let limits = Limits::default().with_idle_relay_headers(0);
        let planned = PlannedStep::of(at, heights, &limits, Lane::CatchUp);
        match driver.step(client.clone(), planned, BatchSizes::new(8 << 20)).await.result {
            Ok(Outcome::Advanced { position, .. }) => at = position,
            Ok(Outcome::NotYet { .. }) => return None,
            Err(Error::Worker(e)) => return Some(e.refusal().unwrap().to_owned()),
            Err(e) => panic!("{e}"),
        }
    }
}

fn config() -> Config {
    Config { history: 200, set_length: 25, justification_period: 8, ..Config::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_changes_are_replaced_after_a_workers_refusal() {
    let devnets = [Devnet::start(config()).await.unwrap(), Devnet::start(config()).await.unwrap()];
    let [liar, honest] = &devnets;
    [20, 21, 60].into_iter().for_each(|block| liar.para().faults().corrupt_storage_changes(block));
    // At first everything comes from the lying node.
    honest.para().faults().refuse("pha_getStorageChanges");
    let provider = Provider::filled_from(&devnets).await;
    honest.para().faults().heal();
    let truth = |n| honest.para().storage_changes(n).unwrap().encode();
    for block in [20, 21, 60] {
        assert_ne!(provider.store.changes(ParaNumber(block)).unwrap(), truth(block), "the fault was seen");
    }

    let worker = Worker::spawn(WorkerConfig::new("suspects", 0)).await.unwrap();
    let client = initialised(&worker, &*provider.source).await;
    let refused = timeout(TIMEOUT, drive(&client, &provider.source)).await.unwrap().unwrap();
    assert!(refused.starts_with("StateRootMismatch block=20 "), "{refused}");
    for block in [20, 21, 60] {
        provider.until_right(block, honest).await;
    }
    // The cache has dropped the refused batch.
    assert_eq!(timeout(TIMEOUT, drive(&client, &provider.source)).await.unwrap(), None);
    assert_eq!(worker.info().blocknum, honest.para().finalized_number() + 1);
    for n in 1..=honest.para().finalized_number() {
        assert_eq!(provider.store.changes(ParaNumber(n)).unwrap(), truth(n), "block {n}");
    }
    worker.shutdown().await;
    provider.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_worker_costs_one_recheck() {
    let devnet = Devnet::start(config()).await.unwrap();
    let provider = Provider::filled_from(std::slice::from_ref(&devnet)).await;
    let looks = || devnet.para().rpc_counters().get("pha_getStorageChanges").copied().unwrap_or_default();
    let before = looks();
    // One block is really wrong, but not the one that the worker complains about.
    provider.store.replace_changes(ParaNumber(40), &[vec![0, 0]]).unwrap();
    let blocks = Span { first: ParaNumber(30), last: ParaNumber(35) };
    let message = "StateRootMismatch block=33 expected=0x01 actual=0x02".to_owned();
    let refusal = RefusedData::Blocks { blocks, at: Some(ParaNumber(33)), message };
    for _ in 0..1000 {
        provider.source.refused(&refusal);
        tokio::task::yield_now().await;
    }
    // A block that is not stored, and a report without a block.
    provider.suspects.report(ParaNumber(u32::MAX));
    provider.source.refused(&RefusedData::Blocks { blocks, at: None, message: "DecodeError(x)".into() });
    // Rechecks run in order: once this one is done, all before it are.
    let last = async {
        loop {
            // The queue may still be full of the others.
            provider.suspects.report(ParaNumber(40));
            if provider.store.changes(ParaNumber(40)).unwrap() != [0, 0] {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(TIMEOUT, last).await.unwrap();
    provider.until_right(40, &devnet).await;
    // One for block 33, one for block 40, one for those after it.
    assert!(looks() - before <= 3, "{} looks", looks() - before);
    provider.stop().await;
}

/// Data changed by the disk is fetched again, although nodes and digest are unchanged.
#[tokio::test(flavor = "multi_thread")]
async fn segment_changed_on_disk_is_fetched_again() {
    let devnet = Devnet::start(config()).await.unwrap();
    let provider = Provider::filled_from(std::slice::from_ref(&devnet)).await;
    let number = ParaNumber(5);
    let (span, _) = provider.store.segment_of(number).unwrap();
    let items = (span.first.0..=span.last.0).map(|n| provider.store.changes(ParaNumber(n)).unwrap());
    let items: Vec<_> = items.collect();
    let encoded = segment::write(&items.iter().map(Vec::as_slice).collect::<Vec<_>>());
    let path = provider.store.path().join("data.mdb");
    let file = std::fs::read(&path).unwrap();
    let places = file.windows(encoded.len()).enumerate().filter(|(_, window)| *window == encoded);
    // Its number of items: nothing of it can be decoded then.
    let database = OpenOptions::new().write(true).open(&path).unwrap();
    places.for_each(|(at, _)| database.write_all_at(&[0xff; 4], at as u64).unwrap());
    assert!(provider.store.changes(number).is_err());
    let blocks = Span { first: ParaNumber(1), last: ParaNumber(9) };
    provider.source.refused(&RefusedData::Blocks {
        blocks,
        at: Some(number),
        message: "StateRootMismatch".into(),
    });
    let mended = async {
        while provider.store.changes(number).is_err() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(TIMEOUT, mended).await.unwrap();
    provider.until_right(5, &devnet).await;
    assert_eq!(provider.store.verify(&mut |_| true).unwrap().faults, []);
    provider.stop().await;
}
