//! Tests of a trader during a stall. By default with short timeouts; with production settings for
//! `PRB_TEST_STALL_SECS` seconds if that is set.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use prb_chain::{
    rpc::{self, NodePool},
    signer::VaultSigners,
    submit::{self, Submitter},
};
use prb_core::{
    primitives::PoolId,
    queue::{CallOutcome, Job, JobHandle, JobQueue, JobSigner, memory::MemoryQueue},
    trade::{self, Parts, Trader, accounts::MemoryAccounts},
    vault::memory::MemoryVault,
};
use prb_devnet::Config;
use tokio::time::{Instant, sleep};

use crate::{
    net::{Net, Worker, config},
    storm::occurrences,
};

/// Longer than the timeouts of requests, subscriptions and unreachable nodes; shorter than the time after
/// which a sent transaction's outcome counts as unknown.
const SCALED: Duration = Duration::from_millis(2_500);
const WORKERS: u32 = 3;

/// The duration of a stall with production settings, if requested.
fn in_full() -> Option<Duration> {
    std::env::var("PRB_TEST_STALL_SECS").ok()?.parse().ok().map(Duration::from_secs)
}

#[derive(Clone, Copy, Debug)]
enum Stall {
    /// Nodes do not answer.
    Nodes,
    /// No block is authored.
    Chain,
}

struct Rig {
    net: Net,
    queue: MemoryQueue,
    trader: Trader,
    signer: JobSigner,
    workers: Vec<Worker>,
    length: Duration,
}

impl Rig {
    async fn new() -> Self {
        let net = Net::start(Config::default()).await;
        let workers = Worker::several(WORKERS);
        net.done(&net.submitter(), workers.iter().map(|worker| worker.register(&net))).await;
        let (queue, vault) = (MemoryQueue::default(), Arc::new(MemoryVault::new()));
        let signer = net.job_signer(0, &*vault).await;
        let (pool, submit) = match in_full() {
            Some(_) => {
                let node = rpc::Config::new([net.devnet.para().url()]);
                // Blocks come faster than in production.
                let submit = submit::Config::default().with_mortality_blocks(4096);
                (NodePool::new("para", node).unwrap(), submit)
            }
            None => (net.pool.clone(), config().with_mortality_blocks(1024)),
        };
        let submitter = Arc::new(Submitter::new(pool, submit).unwrap());
        let (signers, accounts) = (Arc::new(VaultSigners::new(vault)), Arc::new(MemoryAccounts::default()));
        let parts = Parts { queue: Arc::new(queue.clone()), submitter, signers, accounts };
        let trader = Trader::start(trade::Config::default(), parts).unwrap();
        let length = in_full().unwrap_or(SCALED);
        Self { net, queue, trader, signer, workers, length }
    }

    /// Submits a job with each worker's message of this number.
    async fn submit(&self, sequence: u64) -> Vec<JobHandle> {
        let mut handles = Vec::new();
        for worker in &self.workers {
            let signer = self.signer.clone();
            let calls = vec![worker.bench_report(&self.net, sequence)];
            let job = Job { pool: PoolId(1), signer, calls, retries: 100 };
            handles.push(self.queue.submit(job).await.unwrap());
        }
        handles
    }

    /// Stalls; returns the states that the trader showed meanwhile.
    async fn stall(&self, what: Stall) -> BTreeSet<String> {
        let faults = self.net.devnet.para().faults();
        let mut shown = BTreeSet::new();
        let over = Instant::now() + self.length;
        if let Stall::Nodes = what {
            faults.hang(true);
        }
        while Instant::now() < over {
            let lane = self.trader.status().borrow().lanes.values().next().cloned().unwrap_or_default();
            let phase = format!("{:?}", lane.phase);
            let phase = phase.split([' ', '{']).next().unwrap().to_owned();
            shown.insert(format!("{phase}, {} jobs: {:?}", lane.jobs, lane.last_error));
            match what {
                Stall::Nodes => self.net.tick(),
                Stall::Chain => {}
            }
            sleep(Duration::from_millis(50)).await;
        }
        faults.hang(false);
        shown
    }
}

async fn through(what: Stall) {
    let rig = Rig::new().await;
    let limit = Duration::from_secs(120) + 4 * rig.length;
    let done = |outcome: &CallOutcome| matches!(outcome, CallOutcome::Done | CallOutcome::AlreadyDone);
    let all = async {
        let mut handles = rig.submit(0).await;
        while rig.net.devnet.para().pending_extrinsics().is_empty() {
            sleep(Duration::from_millis(5)).await;
        }
        // Some jobs are in flight, others arrive meanwhile.
        let (shown, later) = tokio::join!(rig.stall(what), async {
            sleep(rig.length / 2).await;
            rig.submit(1).await
        });
        handles.extend(later);
        let waiting = handles.into_iter().map(JobHandle::outcome);
        let outcomes = futures::future::join_all(waiting);
        tokio::pin!(outcomes);
        let outcomes = loop {
            tokio::select! {
                outcomes = &mut outcomes => break outcomes,
                () = sleep(Duration::from_millis(20)) => rig.net.tick(),
            }
        };
        let outcomes = outcomes.into_iter().flat_map(|outcome| outcome.unwrap().calls);
        assert!(outcomes.into_iter().all(|outcome| done(&outcome)), "{what:?}");
        shown
    };
    let shown = tokio::time::timeout(limit, all).await.expect("not done in time");
    // The trader must not claim that all is well.
    assert!(shown.iter().all(|shown| !shown.starts_with("Collecting")), "{what:?}: {shown:?}");
    println!("{what:?} stalled for {:?}: the trader showed {shown:#?}", rig.length);
    for worker in &rig.workers {
        for sequence in 0..2 {
            let call = worker.bench_report(&rig.net, sequence);
            assert_eq!(occurrences(&rig.net, &call), 1, "{what:?}");
        }
        assert_eq!(rig.net.ingress(worker), 2, "{what:?}");
    }
    let status = rig.trader.status().borrow().clone();
    println!("{} batches, {} failed", status.batches, status.failed_batches);
    drop(rig.trader);
    rig.net.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_survive_unresponsive_nodes() {
    through(Stall::Nodes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_survive_a_chain_without_blocks() {
    through(Stall::Chain).await;
}
