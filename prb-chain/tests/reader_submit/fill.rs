//! Batches by weight: the trade engine fills the parachain's blocks.

use std::{sync::Arc, time::Duration};

use codec::Compact;
use prb_chain::submit::{self, Submitter};
use prb_core::{
    chain::{ChainSubmitter, SubmitError},
    primitives::PoolId,
    queue::{Job, JobQueue, JobSigner, MAX_CALLS_PER_JOB, memory::MemoryQueue},
    trade::{self, Parts, Trader},
    vault::{Vault, memory::MemoryVault},
};
use prb_devnet::Config;
use secrecy::ExposeSecret;
use tokio::{sync::mpsc, task::JoinSet};

use crate::net::{Net, Worker, config};

/// As the devnet's runtime has it: three quarters of a second of computation, in picoseconds.
const NORMAL_WEIGHT: u64 = 750_000_000_000;

type Weights = [(Compact<u64>, Compact<u64>); 3];

/// What ordinary transactions took of a block, in percent.
fn filled(net: &Net, block: u32) -> u64 {
    let weights: Weights = net.value_at(block, "System", "BlockWeight", &[]).unwrap();
    weights[0].0.0 * 100 / NORMAL_WEIGHT
}

#[tokio::test(flavor = "multi_thread")]
async fn blocks_are_filled() {
    const POOLS: u64 = 4;
    const JOBS: u64 = 20;
    let net = Net::start(Config { pools: POOLS, ..Config::default() }).await;
    let (queue, vault) = (MemoryQueue::default(), Arc::new(MemoryVault::new()));
    let mut handles = Vec::new();
    for pool in 0..POOLS {
        let signer = net.signer(pool as usize);
        let key = vault.seal(&signer.secret.expose_secret().into()).await.unwrap();
        for job in 0..JOBS {
            // Each call fails, and weighs as much as one that does not.
            let worker = |n: u32| Worker::new((pool * JOBS + job) as u32 * 1_000 + n);
            let calls = (0..MAX_CALLS_PER_JOB as u32).map(|n| worker(n).add(pool + 1)).collect();
            let signer = JobSigner { operator: signer.operator, key: key.clone(), proxied: None };
            let job = Job { pool: PoolId(pool + 1), signer, calls, retries: 0 };
            handles.push(queue.submit(job).await.unwrap());
        }
    }
    let submitter: Arc<dyn ChainSubmitter> = Arc::new(Submitter::new(net.pool.clone(), config()).unwrap());
    let engine = trade::Config { max_calls: usize::MAX, ..trade::Config::default() };
    let trader = Trader::start(engine, Parts { queue: Arc::new(queue), submitter, vault }).unwrap();
    // Blocks wait until every lane has sent, so that the test does not measure this machine.
    let para = net.devnet.para();
    net.still(async {
        while para.pending_extrinsics().len() < POOLS as usize {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let mut outcomes: JoinSet<_> = handles.into_iter().map(|handle| handle.outcome()).collect();
    net.ticking(async {
        while let Some(outcome) = outcomes.join_next().await {
            assert_eq!(outcome.unwrap().unwrap().calls.len(), MAX_CALLS_PER_JOB);
        }
    })
    .await;
    let fullest = (1..=para.finalized_number()).map(|block| filled(&net, block)).max().unwrap();
    assert!((90..=100).contains(&fullest), "the fullest block is filled to {fullest}%");
    let status = trader.status().borrow().clone();
    assert_eq!((status.jobs_failed, status.failed_batches), (0, 0), "a batch was refused");
    drop(trader);
    net.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fits_is_told_before_anything_is_sent() {
    let net = Net::start(Config::default()).await;
    let worker = Worker::new(1);
    for percent in [10, 50, 100] {
        let config = submit::Config { max_block_percent: percent, ..config() };
        let submitter = Submitter::new(net.pool.clone(), config).unwrap();
        let mut calls = 6_000;
        let fits = loop {
            let (sender, _progress) = mpsc::channel(8);
            let batch = net.batch(vec![worker.add(1); calls]);
            let submission = submitter.submit(&batch, sender);
            tokio::pin!(submission);
            match net.ticking(submission).await {
                Err(SubmitError::TooLarge { calls: of, fits, .. }) => {
                    assert!(of == calls && fits < calls);
                    calls = fits;
                }
                other => break (other.unwrap().number.0, calls),
            }
        };
        let filled = filled(&net, fits.0);
        // One transaction may not take what is kept for the block's own work.
        let most = u64::from(percent).min(87);
        assert!((most * 9 / 10..=most).contains(&filled), "{percent}%: {} calls take {filled}%", fits.1);
    }
    net.stop().await;
}
