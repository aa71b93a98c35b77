//! Tests of an operator's account from which other programs send as well.

use std::time::Duration;

use prb_chain::submit::Submitter;
use prb_core::chain::{ChainSubmitter, SubmitError, SubmitProgress};
use prb_devnet::{Config, TransactionFault};
use tokio::sync::mpsc;

use crate::{
    net::{Net, Worker, config, until},
    outside::Outside,
    storm::occurrences,
    troubles::{SUBMIT, asked},
};

/// Longer than a test: what waits for a transaction's whole lifetime does not end in time.
const LIFETIME: u32 = 4_096;
/// Most parachain blocks that a batch may take: on a slow machine, blocks come faster than answers.
const MOST_BLOCKS: u32 = 120;

fn submitter(net: &Net) -> Submitter {
    // On a slow machine the others are often faster.
    let patient = config().with_mortality_blocks(LIFETIME).with_unavailable_after(Duration::from_secs(50));
    Submitter::new(net.pool.clone(), patient).unwrap()
}

/// Runs `work` while another program sends a transaction with each block.
pub(crate) async fn beside_another<T>(net: &Net, work: impl Future<Output = T>) -> T {
    let outside = Outside::new(net).await;
    assert!(outside.send(net).await);
    net.still(async {
        tokio::select! { done = work => done, _ = outside.send_with_each_block(net) => unreachable!() }
    })
    .await
}

/// Registers a worker, and sends its first messages one after the other. Returns the blocks that each batch took.
async fn batches(net: &Net, worker: &Worker, messages: u64) -> Vec<u32> {
    let (submitter, para) = (submitter(net), net.devnet.para());
    let calls =
        std::iter::once(worker.register(net)).chain((0..messages).map(|n| worker.bench_report(net, n)));
    let mut took = Vec::new();
    for call in calls {
        let from = para.best_number();
        let (sender, _progress) = mpsc::channel(8);
        let outcome = submitter.submit(&net.batch([call]), sender).await.unwrap();
        assert_eq!(outcome.calls, [Ok(())]);
        took.push(outcome.number.0 - from);
    }
    took
}

#[tokio::test(flavor = "multi_thread")]
async fn program_that_sends_with_each_block_does_not_hold_up_batches() {
    let net = Net::start(Config::default()).await;
    let worker = Worker::new(1);
    let took = beside_another(&net, batches(&net, &worker, 5)).await;
    assert!(took.iter().all(|blocks| *blocks <= MOST_BLOCKS), "{took:?}");
    assert_eq!(net.ingress(&worker), 5);
    for sequence in 0..5 {
        assert_eq!(occurrences(&net, &worker.bench_report(&net, sequence)), 1);
    }
    net.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn traders_with_one_account_each_get_a_fair_part() {
    const EACH: u64 = 6;
    let net = Net::start(Config::default()).await;
    let workers = Worker::several(3);
    let all = futures::future::join_all(workers.iter().map(|worker| batches(&net, worker, EACH)));
    let took = net.ticking(all).await;
    assert!(took.iter().flatten().all(|blocks| *blocks <= MOST_BLOCKS), "{took:?}");
    for worker in &workers {
        assert_eq!(net.ingress(worker), EACH);
    }
    assert_eq!(net.transactions(), 3 * (usize::try_from(EACH).unwrap() + 1), "something was sent twice");
    net.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn transaction_of_a_dead_trader_is_not_sent_again_among_those_of_others() {
    let net = Net::start(Config::default()).await;
    let (worker, outside) = (Worker::new(1), Outside::new(&net).await);
    beside_another(&net, batches(&net, &worker, 0)).await;
    let batch = net.batch([worker.bench_report(&net, 0)]);
    // It dies with its transaction in the pool, behind another program's. That one sends nothing meanwhile, so that it
    // does not get the nonce.
    let faults = net.devnet.para().faults();
    faults.hold(SUBMIT);
    net.devnet.para().reset_rpc_counters();
    let (sender, mut progress) = mpsc::channel(8);
    let one = submitter(&net);
    let others = async {
        tokio::select! {
            () = asked(&net.devnet, SUBMIT, 1) => {}
            _ = outside.send_with_each_block(&net) => unreachable!(),
        }
        assert!(outside.send(&net).await);
        faults.release(SUBMIT);
        until(&mut progress, |p| matches!(p, SubmitProgress::Submitted { .. })).await;
    };
    net.still(async {
        tokio::select! {
            outcome = one.submit(&batch, sender) => panic!("{outcome:?}"),
            () = others => {}
        }
    })
    .await;
    drop(one);
    assert!(net.devnet.para().pending_extrinsics().len() >= 2);
    let (sender, _progress) = mpsc::channel(8);
    let next = submitter(&net);
    let effects = beside_another(&net, async {
        let effects = next.effects(batch.operator(), &batch.calls).await.unwrap();
        // A caller that does not ask first.
        let again = submitter(&net).submit(&batch, sender).await;
        (effects, again)
    });
    let (effects, again) = effects.await;
    assert_eq!(effects.calls, [prb_core::chain::Effect::Present]);
    match again {
        // The chain refuses the message: a caller reads the effects first.
        Ok(outcome) => assert!(outcome.calls[0].is_err()),
        Err(SubmitError::Lost { .. }) => {}
        Err(other) => panic!("{other:?}"),
    }
    assert_eq!(net.ingress(&worker), 1);
    tokio::time::timeout(Duration::from_secs(60), net.stop()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn own_transaction_that_waits_behind_a_missing_nonce_is_not_sent_again() {
    let net = Net::start(Config::default()).await;
    let (one, other, outside) = (Worker::new(1), Worker::new(2), Outside::new(&net).await);
    let (submitter, para) = (net.submitter(), net.devnet.para());
    let (sender, _progress) = mpsc::channel(8);
    let first = net.batch([one.register(&net)]);
    beside_another(&net, submitter.submit(&first, sender)).await.unwrap();
    net.finalise(para.best_number() + 2);
    let before = net.transactions();
    // The lease is lost while the transaction is in the pool, behind another program's.
    assert!(outside.send(&net).await);
    let others = para.pending_extrinsics();
    let (sender, mut progress) = mpsc::channel(8);
    let batch = net.batch([other.register(&net)]);
    net.still(async {
        tokio::select! {
            outcome = submitter.submit(&batch, sender) => panic!("{outcome:?}"),
            () = until(&mut progress, |p| matches!(p, SubmitProgress::Submitted { .. })) => {}
        }
    })
    .await;
    let ours = para.pending_extrinsics().into_iter().find(|xt| !others.contains(xt)).unwrap();
    // The other program's is dropped, and another node returns ours.
    para.faults().transactions(TransactionFault::Dropped);
    net.tick();
    net.tick();
    assert!(para.pending_extrinsics().is_empty());
    para.faults().transactions(TransactionFault::None);
    para.submit(ours).unwrap();
    submitter.forget(batch.operator());
    net.done(&submitter, batch.calls.clone()).await;
    net.finalise(para.best_number() + 4);
    assert_eq!(net.transactions() - before, 1, "it was sent twice");
    net.stop().await;
}
