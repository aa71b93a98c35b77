//! Tests the trade engine on a devnet with a sequence of faults: every submitter learns its outcome, and
//! nothing is done twice.

use std::{sync::Arc, time::Duration};

use codec::Encode;
use futures::future::join_all;
use prb_chain::{signer::VaultSigners, submit::Submitter};
use prb_core::{
    chain::Call,
    primitives::PoolId,
    queue::{CallOutcome, Job, JobQueue, memory::MemoryQueue},
    trade::{self, Parts, Trader, accounts::MemoryAccounts},
    vault::memory::MemoryVault,
};
use prb_devnet::{Config, InvalidTransaction, PoolError, Retracted, TransactionFault};
use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::net::{Net, Worker, config};

const WORKERS: u32 = 4;
const ROUNDS: u64 = 12;
const PER_JOB: u64 = 2;
const TROUBLES: u32 = 24;

/// Injects a fault and ends the previous one.
async fn trouble(net: &Net, rng: &mut StdRng) {
    let (devnet, para) = (&net.devnet, net.devnet.para());
    para.faults().heal();
    para.start_rpc().await.unwrap();
    match rng.random_range(0..10) {
        0 => para.faults().transactions(TransactionFault::Dropped),
        1 => para.faults().transactions(TransactionFault::Swallowed),
        2 => para.faults().refuse_transactions([
            PoolError::Banned,
            PoolError::TooLowPriority { old: 2, new: 1 },
            PoolError::Invalid(InvalidTransaction::Stale),
        ]),
        3 => para.faults().refuse_transactions(vec![PoolError::Full; 5]),
        4 => para.faults().hang(true),
        5 => para.stop_rpc().await,
        6 => devnet.hold_para(true),
        // As behind a load balancer that gives each call to the next of two nodes.
        8 => para.faults().alternate(Some(3)),
        7 => {
            let retracted = if rng.random() { Retracted::Pooled } else { Retracted::Lost };
            devnet.reorganise_para(retracted).unwrap();
            devnet.hold_para(false);
        }
        _ => devnet.hold_para(false),
    }
}

/// The number of final transactions that contain a message.
pub(crate) fn occurrences(net: &Net, call: &Call) -> usize {
    let Call::SyncOffchainMessage(signed) = call else { panic!() };
    let wanted = (&signed.message, signed.sequence).encode();
    let para = net.devnet.para();
    let blocks = (1..=para.finalized_number()).flat_map(|n| para.extrinsics(n).unwrap());
    blocks.map(|bytes| bytes.windows(wanted.len()).filter(|window| **window == wanted).count()).sum()
}

fn trader(net: &Net, queue: &MemoryQueue, vault: &Arc<MemoryVault>) -> Trader {
    let brisk = config().with_mortality_blocks(64);
    let submitter = Arc::new(Submitter::new(net.pool.clone(), brisk).unwrap());
    let ms = Duration::from_millis;
    let engine = trade::Config::default()
        .with_linger(ms(20))
        .with_max_wait(ms(100))
        .with_retry_min(ms(20))
        .with_retry_max(ms(200));
    let (signers, accounts) = (
        Arc::new(VaultSigners::new(Arc::clone(vault) as Arc<dyn prb_core::vault::Vault>)),
        Arc::new(MemoryAccounts::default()),
    );
    let parts = Parts { queue: Arc::new(queue.clone()), submitter, signers, accounts };
    Trader::start(engine, parts).unwrap()
}

async fn storm(seed: u64) {
    let net = Net::start(Config { pools: 2, ..Config::default() }).await;
    let workers = Worker::several(WORKERS);
    net.done(&net.submitter(), workers.iter().map(|worker| worker.register(&net))).await;
    let (queue, vault) = (MemoryQueue::default(), Arc::new(MemoryVault::new()));
    let trader = trader(&net, &queue, &vault);
    let ms = Duration::from_millis;
    let mut keys = Vec::new();
    for pool in 0..2 {
        keys.push(net.job_signer(pool, &*vault).await);
    }
    let job = |worker: usize, round: u64| {
        let pool = worker % 2;
        let from = round * PER_JOB;
        let calls = (from..from + PER_JOB).map(|n| workers[worker].bench_report(&net, n)).collect();
        let signer = keys[pool].clone();
        Job { pool: PoolId(pool as u64 + 1), signer, calls, retries: 100 }
    };
    // As a lifecycle manager does: a worker's next messages are sent once the outcome of the previous ones is
    // known.
    let work = join_all((0..workers.len()).map(|worker| {
        let (queue, job) = (&queue, &job);
        async move {
            for round in 0..ROUNDS {
                let handle = queue.submit(job(worker, round)).await.unwrap();
                let outcome = handle.outcome().await.unwrap_or_else(|e| panic!("seed {seed}: {e}"));
                let done = |call: &CallOutcome| matches!(call, CallOutcome::Done | CallOutcome::AlreadyDone);
                assert!(outcome.calls.iter().all(done), "seed {seed}: {:?}", outcome.calls);
            }
        }
    }));
    let driven = async {
        let mut rng = StdRng::seed_from_u64(seed);
        for round in 0..TROUBLES {
            trouble(&net, &mut rng).await;
            if round == TROUBLES / 2 {
                net.devnet.upgrade_para_runtime();
            }
            for _ in 0..rng.random_range(4..16) {
                net.tick();
                tokio::time::sleep(ms(20)).await;
            }
        }
        net.devnet.para().faults().heal();
        net.devnet.para().start_rpc().await.unwrap();
        net.devnet.hold_para(false);
        net.ticking(std::future::pending::<()>()).await
    };
    tokio::select! { _ = work => {}, () = driven => unreachable!() }
    for round in 0..ROUNDS {
        for call in (0..workers.len()).flat_map(|worker| job(worker, round).calls) {
            assert_eq!(occurrences(&net, &call), 1, "seed {seed}: sent again, though done");
        }
    }
    for worker in &workers {
        assert_eq!(net.ingress(worker), ROUNDS * PER_JOB, "seed {seed}");
    }
    drop(trader);
    net.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_or_done_twice() {
    for seed in 0..3 {
        storm(seed).await;
    }
}
