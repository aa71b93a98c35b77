//! Runs the reader on the seam's conformance suite, on the devnet.

use std::sync::Mutex;

use async_trait::async_trait;
use prb_chain::{reader::Reader, submit::Submitter};
use prb_core::{
    chain::ChainReader,
    conformance::reader::{Controls, WORKERS, all},
    primitives::WorkerKey,
};
use prb_devnet::Config;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{
    net::{Net, Worker, pool_of},
    proxy::Proxy,
    reader::quick,
};

struct Devnet {
    net: Net,
    proxy: Proxy,
    submitter: Submitter,
    workers: Vec<Worker>,
    reader: Reader,
    cancel: CancellationToken,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl std::fmt::Debug for Devnet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Devnet").field("reader", &self.reader).finish_non_exhaustive()
    }
}

impl Devnet {
    async fn start() -> Self {
        let net = Net::start(Config::default()).await;
        let submitter = net.submitter();
        let mut workers = Worker::several(WORKERS as u32);
        workers.sort_unstable_by_key(Worker::key);
        net.done(&submitter, workers.iter().map(|worker| worker.register(&net))).await;
        let proxy = Proxy::start(&net.devnet.para().url()).await;
        let config = quick().with_max_workers(WORKERS + 1);
        let (reader, task) = Reader::new(pool_of([proxy.url()]), config);
        let cancel = CancellationToken::new();
        let task = Mutex::new(Some(tokio::spawn(task.run(cancel.clone()))));
        Self { net, proxy, submitter, workers, reader, cancel, task }
    }

    fn known(&self, key: WorkerKey) -> &Worker {
        self.workers.iter().find(|worker| worker.key() == key).unwrap()
    }
}

impl Drop for Devnet {
    fn drop(&mut self) {
        self.cancel.cancel();
        self.proxy.stop();
    }
}

#[async_trait]
impl Controls for Devnet {
    fn reader(&self) -> &dyn ChainReader {
        &self.reader
    }

    fn worker(&self, n: usize) -> WorkerKey {
        self.workers[n].key()
    }

    async fn progress(&self) {
        self.net.finalise(self.net.devnet.para().finalized_number() + 1);
    }

    async fn change(&self, worker: WorkerKey) {
        let worker = self.known(worker);
        let report = worker.bench_report(&self.net, self.net.ingress(worker));
        self.net.done(&self.submitter, [report]).await;
    }

    async fn set_unreadable(&self, worker: WorkerKey, unreadable: bool) {
        use sp_crypto_hashing::{twox_64, twox_128};
        let mut key = [twox_128(b"PhalaRegistry"), twox_128(b"Workers")].concat();
        key.extend(twox_64(&worker.0));
        key.extend(worker.0);
        self.proxy.set_garbled(&key, unreadable);
        // Registered again to change it.
        let register = self.known(worker).register(&self.net);
        self.net.done(&self.submitter, [register]).await;
    }

    async fn close(&self) {
        self.cancel.cancel();
        let task = self.task.lock().unwrap().take();
        if let Some(task) = task {
            task.await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn reader_passes_conformance_suite() {
    all(Devnet::start).await;
}
