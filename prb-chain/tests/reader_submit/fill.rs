//! Tests of batch sizes by our own minimum estimates: the trade engine grows its transactions after
//! inclusion, up to their share of a block, whatever the runtime declares for the calls.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use prb_chain::{
    rpc::{self, NodePool},
    signer::VaultSigners,
    submit::{self, Submitter},
};
use prb_core::{
    chain::{ChainSubmitter, SubmitError},
    primitives::PoolId,
    queue::{Job, JobQueue, memory::MemoryQueue},
    trade::{self, Parts, Trader, accounts::MemoryAccounts},
    vault::memory::MemoryVault,
};
use prb_devnet::Config;
use tokio::{sync::mpsc, task::JoinSet, time::sleep};

use crate::net::{Net, Worker, config, is_signed};

/// Timeout of a test.
const TIMEOUT: Duration = Duration::from_secs(120);
/// Length of an `add_worker` call in a batch.
const CALL_BYTES: usize = 42;
/// More calls than fit into a share of 85 percent by proof size, at 8 KiB each.
const MOST_CALLS: usize = 420;

/// Number of calls in each transaction, oldest first.
fn transactions(net: &Net) -> Vec<usize> {
    let para = net.devnet.para();
    let blocks: BTreeMap<u32, Vec<usize>> = (1..=para.finalized_number())
        .map(|n| {
            let all = para.extrinsics(n).unwrap();
            (n, all.iter().filter(|xt| is_signed(xt)).map(|xt| xt.len() / CALL_BYTES).collect())
        })
        .collect();
    blocks.into_values().flatten().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_start_small_and_grow_up_to_their_share() {
    let net = Net::start(Config::default()).await;
    let (queue, vault) = (MemoryQueue::default(), Arc::new(MemoryVault::new()));
    let signer = net.job_signer(0, &*vault).await;
    let mut outcomes = JoinSet::new();
    for job in 0..20 {
        // Each call fails, and is as long as a successful one.
        let calls = (0..100).map(|n| Worker::new(job * 1_000 + n).add(1)).collect();
        let job = Job { pool: PoolId(1), signer: signer.clone(), calls, retries: 0 };
        outcomes.spawn(queue.submit(job).await.unwrap().outcome());
    }
    // Blocks come so fast here that a transaction could expire while it is being signed.
    let config = submit::Config::default().with_mortality_blocks(1024);
    let node = rpc::Config::new([net.devnet.para().url()]);
    let submitter = Arc::new(Submitter::new(NodePool::new("para", node).unwrap(), config).unwrap());
    let (signers, accounts) = (Arc::new(VaultSigners::new(vault)), Arc::new(MemoryAccounts::default()));
    let parts = Parts { queue: Arc::new(queue), submitter, signers, accounts };
    let trader = Trader::start(trade::Config::default(), parts).unwrap();
    let all = async {
        while !outcomes.is_empty() {
            tokio::select! {
                Some(outcome) = outcomes.join_next() => drop(outcome.unwrap().unwrap()),
                () = sleep(Duration::from_millis(50)) => net.tick(),
            }
        }
    };
    tokio::time::timeout(TIMEOUT, all).await.expect("not done in time");
    let sent = transactions(&net);
    // The jobs of the first batch may have arrived one after the other.
    assert!(sent[0] <= 102, "{sent:?}");
    assert!(sent.windows(2).all(|pair| pair[1] <= 2 * pair[0].max(100) + 4), "{sent:?}");
    assert!(sent.iter().all(|calls| *calls <= MOST_CALLS), "{sent:?}");
    assert!(sent.iter().any(|calls| *calls > 202), "it does not grow: {sent:?}");
    let status = trader.status().borrow().clone();
    assert_eq!((status.jobs_failed, status.failed_batches), (0, 0), "a batch was refused");
    drop(trader);
    net.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn fitting_number_of_calls_is_reported_before_signing() {
    let net = Net::start(Config::default()).await;
    let worker = Worker::new(1);
    for percent in [10, 50, 100] {
        let config = config().with_max_block_percent(percent).with_lone_block_percent(percent);
        let submitter = Submitter::new(net.pool.clone(), config).unwrap();
        let mut calls = 6_000;
        let sent = loop {
            let (sender, _progress) = mpsc::channel(8);
            let batch = net.batch(vec![worker.add(1); calls]);
            match net.ticking(submitter.submit(&batch, sender)).await {
                Err(SubmitError::TooLarge { calls: of, fits, .. }) => {
                    assert!(of == calls && fits < calls);
                    calls = fits;
                }
                other => {
                    other.unwrap();
                    break calls;
                }
            }
        };
        let most = MOST_CALLS * usize::from(percent) / 85 + 10;
        assert!((1..=most).contains(&sent), "{percent}%: {sent} calls");
    }
    net.stop().await;
}
