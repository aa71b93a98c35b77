//! Tests of the submitter on a chain with reorganisations, a node that drops, refuses and stalls, and nodes
//! that disagree.

use std::time::Duration;

use prb_chain::submit::{self, Submitter};
use prb_core::chain::{ChainSubmitter, Effect, SubmitError, SubmitProgress};
use prb_devnet::{
    Config, Devnet, InvalidTransaction, PoolError, Retracted, TransactionFault, UnknownTransaction,
};
use tokio::sync::mpsc;

use crate::{
    net::{MORTALITY, Net, Worker, config, pool_of, until},
    outside::remark,
};

pub(crate) const SUBMIT: &str = "author_submitAndWatchExtrinsic";

fn is_submitted(progress: &SubmitProgress) -> bool {
    matches!(progress, SubmitProgress::Submitted { .. })
}

pub(crate) async fn in_block(progress: &mut mpsc::Receiver<SubmitProgress>) -> [u8; 32] {
    loop {
        if let SubmitProgress::InBlock { block } = progress.recv().await.expect("the submission ended") {
            return block.0;
        }
    }
}

/// Lives long enough for a test in which no transaction may expire.
fn long_lived() -> submit::Config {
    config().with_mortality_blocks(1024)
}

pub(crate) fn submitter(net: &Net, config: submit::Config) -> Submitter {
    Submitter::new(net.pool.clone(), config).unwrap()
}

/// Waits until a method was called this often.
pub(crate) async fn asked(devnet: &Devnet, method: &str, times: u64) {
    while devnet.para().rpc_counters().get(method).copied().unwrap_or_default() < times {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits until `count` more blocks are authored.
async fn blocks(devnet: &Devnet, count: u32) {
    let mut best = devnet.para().subscribe_best();
    let from = *best.borrow_and_update();
    best.wait_for(|best| *best >= from + count).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn dropped_transaction_is_sent_again() {
    let net = Net::start(Config::default()).await;
    let (worker, submitter) = (Worker::new(1), submitter(&net, long_lived()));
    net.devnet.para().faults().transactions(TransactionFault::Dropped);
    let (sender, mut progress) = mpsc::channel(8);
    let batch = net.batch([worker.register(&net)]);
    let dropped = async {
        until(&mut progress, is_submitted).await;
        blocks(&net.devnet, 2).await;
        net.devnet.para().faults().heal();
    };
    let (outcome, ()) = net.ticking(async { tokio::join!(submitter.submit(&batch, sender), dropped) }).await;
    assert_eq!(outcome.unwrap().calls, [Ok(())]);
    assert_eq!(net.transactions(), 1);
    net.stop().await;
}

/// Tracks a batch over a fork that removes its first block.
async fn over_a_fork(retracted: Retracted) {
    let net = Net::start(Config::default()).await;
    let (worker, submitter) = (Worker::new(1), submitter(&net, long_lived()));
    net.devnet.hold_para(true);
    let (sender, mut progress) = mpsc::channel(64);
    let batch = net.batch([worker.register(&net), worker.bench_report(&net, 0)]);
    let forked = async {
        let first = in_block(&mut progress).await;
        assert!(net.devnet.reorganise_para(retracted).unwrap() > 0);
        net.devnet.hold_para(false);
        first
    };
    let (outcome, first) =
        net.ticking(async { tokio::join!(submitter.submit(&batch, sender), forked) }).await;
    let outcome = outcome.unwrap();
    assert_eq!(outcome.calls, [Ok(()), Ok(())]);
    assert_ne!(outcome.block.0, first, "the outcome is that of a block that is not in the chain");
    let hash = net.devnet.para().block_hash(outcome.number.0).unwrap();
    assert_eq!(outcome.block.0, hash.0);
    assert_eq!(in_block(&mut progress).await, outcome.block.0, "the second block was not told");
    assert_eq!((net.transactions(), net.ingress(&worker)), (1, 1));
    net.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retracted_transaction_is_tracked_into_its_next_block() {
    over_a_fork(Retracted::Pooled).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retracted_and_dropped_transaction_is_sent_again() {
    over_a_fork(Retracted::Lost).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn late_finality_keeps_the_outcome() {
    let net = Net::start(Config::default()).await;
    let (worker, submitter) = (Worker::new(1), submitter(&net, long_lived()));
    net.devnet.hold_para(true);
    net.devnet.para().faults().finality_timeout(2);
    let (sender, mut progress) = mpsc::channel(8);
    let batch = net.batch([worker.register(&net)]);
    let late = async {
        in_block(&mut progress).await;
        blocks(&net.devnet, 8).await;
        net.devnet.hold_para(false);
    };
    let (outcome, ()) = net.ticking(async { tokio::join!(submitter.submit(&batch, sender), late) }).await;
    assert_eq!(outcome.unwrap().calls, [Ok(())]);
    assert_eq!(net.transactions(), 1);
    net.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn temporary_refusals_are_retried() {
    let net = Net::start(Config::default()).await;
    let (worker, submitter) = (Worker::new(1), net.submitter());
    net.done(&submitter, [worker.register(&net)]).await;
    let refusals = [
        // 1010, 1011, 1012, 1014, 1016.
        PoolError::Invalid(InvalidTransaction::Stale),
        PoolError::Invalid(InvalidTransaction::BadProof),
        PoolError::Invalid(InvalidTransaction::AncientBirthBlock),
        PoolError::Unknown(UnknownTransaction::CannotLookup),
        PoolError::Banned,
        PoolError::TooLowPriority { old: 2, new: 1 },
        PoolError::Full,
    ];
    for (sequence, refusal) in refusals.into_iter().enumerate() {
        let what = format!("{refusal:?}");
        net.devnet.para().faults().refuse_transactions([refusal.clone(), refusal]);
        let batch = net.batch([worker.bench_report(&net, sequence as u64)]);
        let outcome = net.send(&submitter, &batch).await.unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_eq!(outcome.calls, [Ok(())], "{what}");
    }
    assert_eq!((net.transactions(), net.ingress(&worker)), (8, 7));
    net.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn permanent_refusals_are_reported_with_nothing_in_flight() {
    let net = Net::start(Config::default()).await;
    let worker = Worker::new(1);
    let short_timeout = config().with_unavailable_after(Duration::from_millis(300));
    let submitter = submitter(&net, short_timeout);
    let faults = net.devnet.para().faults();
    faults.refuse_transactions(vec![PoolError::Full; 10_000]);
    match net.send(&submitter, &net.batch([worker.register(&net)])).await {
        Err(SubmitError::Refused { reason, retryable: true }) => assert!(reason.contains("1016"), "{reason}"),
        other => panic!("{other:?}"),
    }
    faults.heal();
    faults.refuse_transactions([PoolError::Invalid(InvalidTransaction::Call)]);
    match net.send(&submitter, &net.batch([worker.register(&net)])).await {
        Err(SubmitError::Refused { retryable: false, .. }) => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(net.transactions(), 0);
    net.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn full_pool_is_waited_for() {
    let net = Net::start(Config { pools: 2, max_pool_transactions: 1, ..Config::default() }).await;
    let worker = Worker::new(1);
    let (one, other) = (net.submitter(), net.submitter());
    let first = net.batch([worker.register(&net)]);
    let (sender, mut progress) = mpsc::channel(8);
    let second = {
        let mut batch = net.batch([worker.add(1)]);
        batch.signer = net.signer(1);
        batch
    };
    let filled = async {
        until(&mut progress, is_submitted).await;
        let (sender, _) = mpsc::channel(8);
        let waiting = other.submit(&second, sender);
        tokio::pin!(waiting);
        // The pool is full until the first one is in a block.
        tokio::select! {
            outcome = &mut waiting => panic!("{outcome:?}"),
            () = asked(&net.devnet, SUBMIT, 3) => {}
        }
        net.ticking(waiting).await
    };
    let (first, second) = net.still(async { tokio::join!(one.submit(&first, sender), filled) }).await;
    assert_eq!(first.unwrap().calls, [Ok(())]);
    assert!(second.is_ok(), "{second:?}");
    net.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nonces_used_by_others_are_skipped() {
    let net = Net::start(Config::default()).await;
    let (worker, submitter) = (Worker::new(1), net.submitter());
    net.done(&submitter, [worker.register(&net)]).await;
    // Another program has used the account in between, and its next transaction is still in the pool.
    net.devnet.para().submit(remark(&net, 1, 0).await).unwrap();
    net.finalise(net.devnet.para().best_number() + 1);
    net.devnet.para().submit(remark(&net, 2, 0).await).unwrap();
    net.done(&submitter, [worker.bench_report(&net, 0)]).await;
    assert_eq!((net.transactions(), net.ingress(&worker)), (4, 1));
    net.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn usurped_transaction_is_built_again_once_the_other_is_final() {
    let net = Net::start(Config::default()).await;
    let (worker, submitter) = (Worker::new(1), submitter(&net, long_lived()));
    let (sender, mut progress) = mpsc::channel(8);
    let batch = net.batch([worker.register(&net)]);
    let usurper = remark(&net, 0, 1_000_000).await;
    // No block is authored before the other transaction is in the pool.
    net.devnet.pause_para(true);
    let usurped = async {
        until(&mut progress, is_submitted).await;
        net.devnet.para().submit(usurper).unwrap();
        net.devnet.pause_para(false);
    };
    let (outcome, ()) = net.ticking(async { tokio::join!(submitter.submit(&batch, sender), usurped) }).await;
    assert_eq!(outcome.unwrap().calls, [Ok(())]);
    assert_eq!(net.transactions(), 2);
    net.stop().await;
}

/// Two traders that both believe to hold an account's lease, as for a moment after Redis has lost its data.
async fn two_traders(first_is_final: bool) {
    let net = Net::start(Config::default()).await;
    let worker = Worker::new(1);
    let (one, other) = (net.submitter(), net.submitter());
    let batch = net.batch([worker.register(&net)]);
    let operator = batch.operator();
    // The other trader knows that nothing was done.
    let effects = net.ticking(other.effects(operator, &batch.calls)).await.unwrap();
    assert_eq!(effects.calls, [Effect::Missing]);
    if first_is_final {
        net.done(&one, batch.calls.clone()).await;
    } else {
        // It dies with its transaction in the pool.
        let (sender, mut progress) = mpsc::channel(8);
        net.still(async {
            tokio::select! {
                outcome = one.submit(&batch, sender) => panic!("{outcome:?}"),
                () = until(&mut progress, is_submitted) => {}
            }
        })
        .await;
    }
    match net.send(&other, &batch).await {
        Err(e @ SubmitError::Lost { .. }) => assert!(e.to_string().contains("came first"), "{e}"),
        other => panic!("{other:?}"),
    }
    let effects = net.ticking(other.effects(operator, &batch.calls)).await.unwrap();
    assert_eq!(effects.calls, [Effect::Present]);
    net.done(&other, [worker.bench_report(&net, 0)]).await;
    assert_eq!(net.transactions(), 2);
    net.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_pending_at_another_trader_are_not_sent_again() {
    two_traders(false).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_done_by_another_trader_are_not_sent_again() {
    two_traders(true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn crash_leaves_nothing_behind_anothers_transaction() {
    let net = Net::start(Config::default()).await;
    let (worker, submitter) = (Worker::new(1), net.submitter());
    net.done(&submitter, [worker.bench_report(&net, 0)]).await;
    // Another program's transaction is in the pool before ours is sent.
    let (para, faults) = (net.devnet.para(), net.devnet.para().faults());
    faults.transactions(TransactionFault::Dropped);
    para.submit(remark(&net, 1, 0).await).unwrap();
    let (sender, _progress) = mpsc::channel(8);
    let batch = net.batch([worker.register(&net)]);
    let looked_at = para.rpc_counters().get("system_accountNextIndex").copied().unwrap_or_default() + 3;
    net.still(async {
        tokio::select! {
            outcome = submitter.submit(&batch, sender) => panic!("{outcome:?}"),
            () = asked(&net.devnet, "system_accountNextIndex", looked_at) => {}
        }
    })
    .await;
    // It dies, and the other transaction is dropped.
    drop(submitter);
    net.tick();
    net.tick();
    faults.heal();
    assert!(para.pending_extrinsics().is_empty());
    let next = net.submitter();
    let effects = net.ticking(next.effects(batch.operator(), &batch.calls)).await.unwrap();
    assert_eq!(effects.calls, [Effect::Missing]);
    net.done(&next, batch.calls.clone()).await;
    net.finalise(para.best_number() + 4);
    assert_eq!(net.transactions(), 2, "the registration was sent twice");
    net.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn transaction_is_signed_again_after_an_upgrade_before_sending() {
    let net = Net::start(Config::default()).await;
    let (worker, submitter) = (Worker::new(1), net.submitter());
    let faults = net.devnet.para().faults();
    faults.hold(SUBMIT);
    let batch = net.batch([worker.register(&net)]);
    let (sender, _progress) = mpsc::channel(8);
    let upgraded = async {
        asked(&net.devnet, SUBMIT, 1).await;
        net.devnet.upgrade_para_runtime();
        blocks(&net.devnet, 3).await;
        faults.release(SUBMIT);
    };
    let (outcome, ()) = net.ticking(async { tokio::join!(submitter.submit(&batch, sender), upgraded) }).await;
    assert_eq!(outcome.unwrap().calls, [Ok(())]);
    assert!(net.devnet.para().rpc_counters()[SUBMIT] >= 2, "the first one was not refused");
    assert_eq!(net.transactions(), 1);
    net.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn upgrade_before_inclusion_loses_the_transaction_at_once() {
    let net = Net::start(Config::default()).await;
    let (worker, submitter) = (Worker::new(1), submitter(&net, long_lived()));
    // It is not accepted into the pool until the new runtime is in force.
    net.devnet.para().faults().transactions(TransactionFault::Swallowed);
    let (sender, mut progress) = mpsc::channel(8);
    let batch = net.batch([worker.register(&net)]);
    let upgraded = async {
        until(&mut progress, is_submitted).await;
        net.devnet.upgrade_para_runtime();
        blocks(&net.devnet, 4).await;
        net.devnet.para().faults().heal();
    };
    let (lost, ()) = net.ticking(async { tokio::join!(submitter.submit(&batch, sender), upgraded) }).await;
    match lost {
        Err(e @ SubmitError::Lost { .. }) => {
            assert!(e.is_retryable() && e.to_string().contains("the runtime was upgraded"), "{e}");
        }
        other => panic!("{other:?}"),
    }
    net.done(&submitter, [worker.register(&net)]).await;
    assert_eq!(net.transactions(), 1);
    net.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn stall_beyond_all_timeouts_changes_no_outcome() {
    // Longer than the timeouts of requests, subscriptions and unreachable nodes before anything is sent; shorter
    // than the time after which a sent transaction's outcome counts as unknown.
    const STALL: Duration = Duration::from_millis(2_500);
    let net = Net::start(Config::default()).await;
    let (worker, submitter) = (Worker::new(1), submitter(&net, long_lived()));
    let faults = net.devnet.para().faults();
    let (sender, mut progress) = mpsc::channel(8);
    let batch = net.batch([worker.register(&net)]);
    let stalled = async {
        until(&mut progress, is_submitted).await;
        faults.hang(true);
        tokio::time::sleep(STALL).await;
        faults.hang(false);
    };
    let (outcome, ()) = net.ticking(async { tokio::join!(submitter.submit(&batch, sender), stalled) }).await;
    assert_eq!(outcome.unwrap().calls, [Ok(())]);
    // A chain that authors no blocks.
    let (sender, _progress) = mpsc::channel(8);
    let batch = net.batch([worker.bench_report(&net, 0)]);
    let submission = submitter.submit(&batch, sender);
    tokio::pin!(submission);
    let early = tokio::time::timeout(STALL, &mut submission).await;
    assert!(early.is_err(), "{early:?}");
    assert_eq!(net.ticking(submission).await.unwrap().calls, [Ok(())]);
    assert_eq!((net.transactions(), net.ingress(&worker)), (2, 1));
    net.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lifetime_counts_from_the_final_head() {
    let net = Net::start(Config::default()).await;
    let (worker, submitter) = (Worker::new(1), net.submitter());
    let para = net.devnet.para();
    net.devnet.hold_para(true);
    (0..8).for_each(|_| net.tick());
    assert!(para.best_number() > para.finalized_number() + 2);
    let (sender, mut progress) = mpsc::channel(8);
    let batch = net.batch([worker.register(&net)]);
    net.still(async {
        tokio::select! {
            outcome = submitter.submit(&batch, sender) => panic!("{outcome:?}"),
            () = until(&mut progress, is_submitted) => {}
        }
    })
    .await;
    let pending = para.pending_extrinsics().remove(0);
    // A length prefix of two or four bytes; version, `MultiAddress::Id`, `MultiSignature::Sr25519`; the era.
    let prefix = 1 << (pending[0] & 3);
    let era = u16::from_le_bytes([pending[prefix + 99], pending[prefix + 100]]);
    let period = 2_u32 << (era & 15);
    assert_eq!((period, u32::from(era >> 4)), (MORTALITY, para.finalized_number() % MORTALITY));
    net.stop().await;
}

/// Two nodes with one history, the second of which does not get the first one's new blocks.
async fn two_nodes() -> (Net, Net) {
    let (one, other) = (Net::start(Config::default()).await, Net::start(Config::default()).await);
    assert_eq!(one.devnet.para().block_hash(1), other.devnet.para().block_hash(1));
    (one, other)
}

#[tokio::test(flavor = "multi_thread")]
async fn lagging_node_is_not_used() {
    let (live, lagging) = two_nodes().await;
    live.finalise(live.devnet.para().finalized_number() + 2);
    // The lagging node is preferred unless something is recorded against it.
    let urls = [lagging.devnet.para().url(), live.devnet.para().url()];
    let submitter = Submitter::new(pool_of(urls), config()).unwrap();
    let worker = Worker::new(1);
    let batch = live.batch([worker.register(&live)]);
    let outcome = live.send(&submitter, &batch).await.unwrap();
    assert_eq!(outcome.calls, [Ok(())]);
    assert!(lagging.devnet.para().pending_extrinsics().is_empty(), "it was sent to the node that lags");
    let operator = batch.operator();
    let effects = live.ticking(submitter.effects(operator, &batch.calls)).await.unwrap();
    assert_eq!(effects.calls, [Effect::Present]);
    live.done(&submitter, [worker.bench_report(&live, 0)]).await;
    // On its own it knows less than was seen before: no answer is better.
    live.devnet.para().stop_rpc().await;
    match live.still(submitter.effects(operator, &batch.calls)).await {
        Err(SubmitError::Unavailable(e)) => assert!(e.to_string().contains("was already final"), "{e}"),
        other => panic!("{other:?}"),
    }
    live.stop().await;
    lagging.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn disagreeing_nodes_do_not_lose_a_transaction() {
    let (holder, other) = two_nodes().await;
    let urls = [holder.devnet.para().url(), other.devnet.para().url()];
    let long_timeout = config().with_watch_timeout(Duration::from_secs(3));
    let submitter = Submitter::new(pool_of(urls), long_timeout).unwrap();
    let worker = Worker::new(1);
    let batch = holder.batch([worker.register(&holder)]);
    let (sender, mut progress) = mpsc::channel(8);
    let ahead = async {
        until(&mut progress, is_submitted).await;
        // The other node's chain advances beyond the transaction's lifetime without it.
        other.finalise(holder.devnet.para().best_number() + MORTALITY + 8);
        asked(&other.devnet, "chain_getBlock", 1).await;
        holder.ticking(std::future::pending::<()>()).await
    };
    let outcome = holder.still(async {
        tokio::select! { outcome = submitter.submit(&batch, sender) => outcome, () = ahead => unreachable!() }
    });
    let outcome = outcome.await.unwrap();
    assert_eq!(outcome.calls, [Ok(())]);
    assert_eq!(holder.devnet.para().block_hash(outcome.number.0).unwrap().0, outcome.block.0);
    holder.stop().await;
    other.stop().await;
}
