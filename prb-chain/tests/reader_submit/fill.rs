//! Batches by weight: the trade engine fills the parachain's blocks.

use std::{sync::Arc, time::Duration};

use codec::Compact;
use prb_chain::{
    rpc::{self, NodePool},
    submit::{self, Submitter},
};
use prb_core::{
    chain::{ChainSubmitter, SubmitError},
    primitives::PoolId,
    queue::{Job, JobFailure, JobOutcome, JobQueue, JobSigner, memory::MemoryQueue},
    trade::{self, Parts, Trader},
    vault::{Vault, memory::MemoryVault},
};
use prb_devnet::Config;
use secrecy::ExposeSecret;
use tokio::{sync::mpsc, task::JoinSet, time::sleep};

use crate::net::{Net, Worker, config, is_signed};

/// As the devnet's runtime has it: three quarters of a second of computation, in picoseconds.
const NORMAL_WEIGHT: u64 = 750_000_000_000;

/// A test that is not done by then never will be.
const PATIENCE: Duration = Duration::from_secs(300);

type Weights = [(Compact<u64>, Compact<u64>); 3];

/// What ordinary transactions took of a block, in percent.
fn filled(net: &Net, block: u32) -> u64 {
    let weights: Weights = net.value_at(block, "System", "BlockWeight", &[]).unwrap();
    weights[0].0.0 * 100 / NORMAL_WEIGHT
}

/// A trader with a backlog, and nothing set by hand but what makes the devnet's blocks come faster.
struct Backlog {
    net: Net,
    trader: Trader,
    outcomes: JoinSet<Result<JobOutcome, JobFailure>>,
    operators: usize,
    calls: usize,
}

impl Backlog {
    /// Jobs of `calls` calls for each of `operators`.
    async fn new(operators: u64, jobs: u64, calls: u32) -> Self {
        let net = Net::start(Config { pools: operators, ..Config::default() }).await;
        let (queue, vault) = (MemoryQueue::default(), Arc::new(MemoryVault::new()));
        let mut outcomes = JoinSet::new();
        for pool in 0..operators {
            let signer = net.signer(pool as usize);
            let key = vault.seal(&signer.secret.expose_secret().into()).await.unwrap();
            for job in 0..jobs {
                // Each call fails, and weighs as much as one that does not.
                let worker = |n: u32| Worker::new((pool * jobs + job) as u32 * 1_000 + n);
                let calls = (0..calls).map(|n| worker(n).add(pool + 1)).collect();
                let signer = JobSigner { operator: signer.operator, key: key.clone(), proxied: None };
                let job = Job { pool: PoolId(pool + 1), signer, calls, retries: 0 };
                outcomes.spawn(queue.submit(job).await.unwrap().outcome());
            }
        }
        // Blocks come so fast here that a transaction that is signed slowly would expire, and a busy machine's
        // answers so slowly that no patience may run out.
        let config = submit::Config { mortality_blocks: 1024, ..submit::Config::default() };
        let node = rpc::Config::new([net.devnet.para().url()]);
        let submitter = Arc::new(Submitter::new(NodePool::new("para", node).unwrap(), config).unwrap());
        let parts = Parts { queue: Arc::new(queue), submitter, vault };
        let trader = Trader::start(trade::Config::default(), parts).unwrap();
        let calls = operators as usize * jobs as usize * calls as usize;
        Self { net, trader, outcomes, operators: operators as usize, calls }
    }

    /// Transactions that wait for a block, those in blocks that are not final, and the calls that are in none.
    fn count(&self) -> (usize, usize, usize) {
        /// Bytes of a call.
        const CALL: usize = 42;
        let para = self.net.devnet.para();
        let pool = para.pending_extrinsics();
        let blocks = (1..=para.best_number()).map(|n| (n, para.extrinsics(n).unwrap()));
        let sent: Vec<_> = blocks
            .flat_map(|(n, all)| all.into_iter().filter(|xt| is_signed(xt)).map(move |xt| (n, xt.len())))
            .collect();
        let open = sent.iter().filter(|(n, _)| *n > para.finalized_number()).count();
        let bytes = sent.iter().map(|(_, len)| *len).chain(pool.iter().map(Vec::len));
        let calls: usize = bytes.map(|bytes| bytes / CALL).sum();
        (pool.len(), open, self.calls.saturating_sub(calls))
    }

    /// Makes blocks, each when the trader has sent what a block takes, or all that may be on its way: so this
    /// machine's speed is not measured. Gives how full the blocks were, in percent, until the backlog was less
    /// than `tail` calls.
    async fn fill(mut self, tail: usize) -> Vec<u64> {
        let mut blocks = Vec::new();
        tokio::time::timeout(PATIENCE, self.make_blocks(tail, &mut blocks)).await.expect("not done in time");
        let status = self.trader.status().borrow().clone();
        assert_eq!((status.jobs_failed, status.failed_batches), (0, 0), "a batch was refused");
        let filled = blocks.into_iter().map(|block| filled(&self.net, block)).collect();
        drop(self.trader);
        self.net.stop().await;
        filled
    }

    async fn make_blocks(&mut self, tail: usize, blocks: &mut Vec<u32>) {
        loop {
            let (waiting, open, left) = self.count();
            if left < tail {
                break;
            }
            let status = self.trader.status().borrow().clone();
            assert_eq!(status.jobs_failed, 0, "{:?}", status.lanes);
            let busy = status.lanes.values().filter(|lane| lane.jobs > 0).count();
            if status.lanes.len() == self.operators && (waiting >= 2 || waiting + open >= busy) {
                let before = self.net.devnet.para().best_number();
                self.net.tick();
                blocks.extend(before + 1..=self.net.devnet.para().best_number());
            } else {
                sleep(Duration::from_millis(20)).await;
            }
        }
        while !self.outcomes.is_empty() {
            tokio::select! {
                Some(outcome) = self.outcomes.join_next() => drop(outcome.unwrap().unwrap()),
                () = sleep(Duration::from_millis(50)) => self.net.tick(),
            }
        }
    }
}

/// Several operators, each with more to send than its share of a block.
#[tokio::test(flavor = "multi_thread")]
async fn several_operators_fill_blocks() {
    let blocks = Backlog::new(8, 80, 100).await.fill(28_000).await;
    // They learn of one another with their first batches.
    let steady = &blocks[blocks.len().min(2)..];
    assert!(steady.len() >= 3 && steady.iter().all(|filled| (90..=100).contains(filled)), "{blocks:?}");
}

/// What one transaction can take is 87 percent: the rest is kept for the block's own work.
#[tokio::test(flavor = "multi_thread")]
async fn an_operator_that_is_alone_takes_what_a_transaction_can() {
    for (jobs, calls, tail) in [(200, 100, 8_000), (9_900, 1, 1_000)] {
        let blocks = Backlog::new(1, jobs, calls).await.fill(tail).await;
        let used: Vec<_> = blocks.into_iter().filter(|filled| *filled > 0).collect();
        assert!(!used.is_empty() && used.iter().all(|filled| (79..=87).contains(filled)), "{used:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fits_is_told_before_anything_is_sent() {
    let net = Net::start(Config::default()).await;
    let worker = Worker::new(1);
    for percent in [10, 50, 100] {
        let config = submit::Config { max_block_percent: percent, lone_block_percent: percent, ..config() };
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
