//! Tests of the submitter: outcomes, proxies, nonces, effects.

use std::{sync::Arc, time::Duration};

use codec::Encode;
use prb_chain::submit::Submitter;
use prb_core::{
    chain::{BatchOutcome, Call, ChainSubmitter, Effect, SubmitError, SubmitProgress},
    primitives::{AccountId, PHALA_SS58_PREFIX, PoolId},
};
use prb_devnet::{Config, TransactionFault};
use sp_core::Pair as _;
use tokio::sync::mpsc;

use crate::net::{Claiming, MORTALITY, Net, STAKE, Worker, config, pool_of, signer_of, until};

pub(crate) fn names(outcome: &BatchOutcome) -> Vec<&str> {
    outcome.calls.iter().map(|call| call.as_ref().map_or_else(|e| e.name.as_str(), |()| "ok")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn each_call_has_its_own_outcome_by_name() {
    let net = Net::start(Config::default()).await;
    let (a, b) = (Worker::new(1), Worker::new(2));
    let submitter = net.submitter();
    let (sender, mut progress) = mpsc::channel(8);
    let batch = net.batch([a.register(&net), a.add(1), b.add(1), a.bench_report(&net, 5)]);
    let outcome = net.ticking(submitter.submit(&batch, sender)).await.unwrap();
    assert_eq!(
        names(&outcome),
        [
            "ok",
            "PhalaStakePoolv2::BenchmarkMissing",
            "PhalaStakePoolv2::WorkerNotRegistered",
            "PhalaMq::BadSequence"
        ]
    );
    let extrinsic = outcome.extrinsic;
    assert_eq!(progress.recv().await, Some(SubmitProgress::Submitted { extrinsic }));
    assert_eq!(progress.recv().await, Some(SubmitProgress::InBlock { block: outcome.block }));
    // The outcome is that of a final block.
    let para = net.devnet.para();
    assert!(outcome.number.0 <= para.finalized_number());
    assert_eq!(para.block_hash(outcome.number.0).unwrap().0, outcome.block.0);
    assert!(net.worker_info(&a).is_some());
    assert!(net.worker_info(&b).is_none());
    net.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn worker_is_added_started_stopped_and_removed() {
    let net = Net::start(Config { cool_down_secs: 0, ..Config::default() }).await;
    let (worker, submitter) = (Worker::new(1), net.submitter());
    net.scored(&submitter, std::slice::from_ref(&worker)).await;
    net.done(&submitter, [worker.add(1), worker.start(1, STAKE)]).await;
    assert!(net.session_info(1, &worker).unwrap().state.is_computing());
    let (pool, key) = (PoolId(1), worker.key());
    net.done(&submitter, [Call::RestartComputing { pool, worker: key, stake: 2 * STAKE }]).await;
    net.done(&submitter, [Call::StopComputing { pool, worker: key }]).await;
    let again = net.send(&submitter, &net.batch([Call::StopComputing { pool, worker: key }])).await.unwrap();
    assert_eq!(names(&again), ["PhalaStakePoolv2::WorkerAlreadyStopped"]);
    net.done(&submitter, [Call::ReclaimWorker { pool, worker: key }]).await;
    net.done(&submitter, [Call::RemoveWorker { pool, worker: key }]).await;
    assert_eq!(net.value::<u64>("PhalaStakePoolv2", "WorkerAssignments", &key.0), None);
    net.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn operator_acts_for_a_proxied_pool() {
    let net = Net::start(Config { proxied_pools: 1, ..Config::default() }).await;
    let (worker, submitter) = (Worker::new(1), net.submitter());
    assert!(net.proxied(0).is_some());
    net.scored(&submitter, std::slice::from_ref(&worker)).await;
    // Without the proxy, the operator does not own the pool.
    let mut bare = net.batch([worker.add(1)]);
    bare.proxied = None;
    let outcome = net.send(&submitter, &bare).await.unwrap();
    assert_eq!(names(&outcome), ["PhalaStakePoolv2::UnauthorizedOperator"]);
    let batch = net.batch([worker.add(1), worker.start(1, STAKE), worker.start(1, STAKE)]);
    let outcome = net.send(&submitter, &batch).await.unwrap();
    assert_eq!(names(&outcome), ["ok", "ok", "PhalaComputation::WorkerNotReady"]);
    assert!(outcome.fee.is_some_and(|fee| fee > 0), "{:?}", outcome.fee);
    assert!(net.session_info(1, &worker).unwrap().state.is_computing());
    // Nobody's proxy: nothing was executed.
    let mut wrong = net.batch([worker.add(1)]);
    wrong.proxied = Some(AccountId([3; 32]));
    match net.send(&submitter, &wrong).await {
        Err(SubmitError::Dispatch(e)) => assert_eq!(e.name, "Proxy::NotProxy"),
        other => panic!("{other:?}"),
    }
    net.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_are_sent_in_order() {
    let net = Net::start(Config::default()).await;
    let (worker, submitter) = (Worker::new(1), net.submitter());
    net.done(&submitter, [worker.register(&net)]).await;
    let mut last = 0;
    for first in [0, 3, 6] {
        let calls = (first..first + 3).map(|sequence| worker.bench_report(&net, sequence));
        let outcome = net.done(&submitter, calls).await;
        assert!(outcome.number.0 > last);
        last = outcome.number.0;
    }
    assert_eq!(net.ingress(&worker), 9);
    assert_eq!(net.transactions(), 4);
    net.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connection_loss_before_finality_keeps_the_outcome() {
    let net = Net::start(Config::default()).await;
    let (worker, submitter) = (Worker::new(1), net.submitter());
    let (sender, mut progress) = mpsc::channel(8);
    let batch = net.batch([worker.register(&net), worker.add(1)]);
    let submission = submitter.submit(&batch, sender);
    let away = async {
        until(&mut progress, |p| matches!(p, SubmitProgress::Submitted { .. })).await;
        net.devnet.para().stop_rpc().await;
        let gone_at = net.devnet.para().finalized_number();
        // It is included and finalised while the node is unreachable.
        let mut finalised = net.devnet.para().subscribe_finalized();
        finalised.wait_for(|n| *n >= gone_at + 4).await.unwrap();
        net.devnet.para().start_rpc().await.unwrap();
    };
    let (outcome, ()) = net.ticking(async { tokio::join!(submission, away) }).await;
    assert_eq!(names(&outcome.unwrap()), ["ok", "PhalaStakePoolv2::BenchmarkMissing"]);
    assert_eq!(net.transactions(), 1);
    net.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_subscription_is_not_waited_for() {
    let net = Net::start(Config::default()).await;
    let worker = Worker::new(1);
    let short_timeout = config().with_mortality_blocks(64).with_watch_timeout(Duration::from_millis(50));
    let submitter = Submitter::new(net.pool.clone(), short_timeout).unwrap();
    net.devnet.para().faults().transactions(TransactionFault::Swallowed);
    let batch = net.batch([worker.register(&net)]);
    let sent_at = net.devnet.para().finalized_number();
    match net.send(&submitter, &batch).await {
        Err(e @ SubmitError::Lost { .. }) => {
            assert!(e.is_retryable());
            assert!(e.to_string().contains("expired"), "{e}");
        }
        other => panic!("{other:?}"),
    }
    // Not before no block could include it.
    assert!(net.devnet.para().finalized_number() >= sent_at + 63);
    net.devnet.para().faults().heal();
    assert_eq!(
        net.ticking(submitter.effects(batch.operator(), &batch.calls)).await.unwrap().calls,
        [Effect::Missing]
    );
    net.done(&submitter, [worker.register(&net)]).await;
    assert_eq!(net.transactions(), 1);
    net.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dropped_transaction_is_lost_once_expired() {
    let net = Net::start(Config::default()).await;
    let (worker, submitter) = (Worker::new(1), net.submitter());
    net.devnet.para().faults().transactions(TransactionFault::Dropped);
    let sent_at = net.devnet.para().finalized_number();
    match net.send(&submitter, &net.batch([worker.register(&net)])).await {
        Err(SubmitError::Lost { reason }) => assert!(reason.contains("expired"), "{reason}"),
        other => panic!("{other:?}"),
    }
    assert!(net.devnet.para().finalized_number() >= sent_at + MORTALITY - 1);
    net.devnet.para().faults().heal();
    net.done(&submitter, [worker.register(&net)]).await;
    net.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn transaction_forgotten_by_its_node_is_sent_again() {
    let net = Net::start(Config::default()).await;
    let (worker, submitter) = (Worker::new(1), net.submitter());
    let para = net.devnet.para();
    para.faults().transactions(TransactionFault::Swallowed);
    let (sender, mut progress) = mpsc::channel(8);
    let batch = net.batch([worker.register(&net)]);
    let restarted = async {
        until(&mut progress, |p| matches!(p, SubmitProgress::Submitted { .. })).await;
        para.faults().heal();
        para.stop_rpc().await;
        para.start_rpc().await.unwrap();
    };
    let (outcome, ()) =
        net.ticking(async { tokio::join!(submitter.submit(&batch, sender), restarted) }).await;
    assert_eq!(names(&outcome.unwrap()), ["ok"]);
    assert_eq!(net.transactions(), 1);
    net.stop().await;
}

/// Sends a batch whose nonce another transaction of the account gets, with a call of the other one.
async fn with_a_used_nonce(net: &Net, call: Call, others: Call) -> Result<BatchOutcome, SubmitError> {
    let long_mortality = config().with_mortality_blocks(1024);
    let (first, second) = (Submitter::new(net.pool.clone(), long_mortality).unwrap(), net.submitter());
    net.devnet.para().faults().transactions(TransactionFault::Swallowed);
    let (sender, mut progress) = mpsc::channel(8);
    let batch = net.batch([call]);
    let sent = first.submit(&batch, sender);
    let taken = async {
        until(&mut progress, |p| matches!(p, SubmitProgress::Submitted { .. })).await;
        net.devnet.para().faults().heal();
        let (sender, _) = mpsc::channel(8);
        second.submit(&net.batch([others]), sender).await.unwrap()
    };
    let (outcome, _) = net.ticking(async { tokio::join!(sent, taken) }).await;
    assert!(net.devnet.para().finalized_number() < 1024, "it was waited for");
    outcome
}

#[tokio::test(flavor = "multi_thread")]
async fn transaction_with_a_used_nonce_is_built_again_at_once() {
    let net = Net::start(Config::default()).await;
    let (worker, other) = (Worker::new(1), Worker::new(2));
    let outcome = with_a_used_nonce(&net, worker.register(&net), other.register(&net)).await;
    assert_eq!(names(&outcome.unwrap()), ["ok"]);
    assert!(net.worker_info(&worker).is_some() && net.worker_info(&other).is_some());
    assert_eq!(net.transactions(), 2);
    net.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn transaction_with_a_used_nonce_is_lost_if_the_other_has_its_calls() {
    let net = Net::start(Config::default()).await;
    let call = Worker::new(1).register(&net);
    match with_a_used_nonce(&net, call.clone(), call).await {
        Err(SubmitError::Lost { reason }) => assert!(reason.contains("calls are on chain"), "{reason}"),
        other => panic!("{other:?}"),
    }
    assert_eq!(net.transactions(), 1);
    net.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn insufficient_fees_are_reported_before_sending() {
    let net = Net::start(Config::default()).await;
    let worker = Worker::new(1);
    let mut batch = net.batch([worker.register(&net)]);
    let poor = AccountId(sp_core::sr25519::Pair::from_string("//Poor", None).unwrap().public().0);
    (batch.signer, batch.proxied) = (signer_of("//Poor"), None);
    match net.send(&net.submitter(), &batch).await {
        Err(SubmitError::InsufficientFees { account, available, needed }) => {
            assert_eq!(account, poor.to_ss58(PHALA_SS58_PREFIX));
            assert_eq!(available, 0);
            assert!(needed > 0);
        }
        other => panic!("{other:?}"),
    }
    let counts = net.pool.counters().snapshot().by_method;
    assert!(!counts.contains_key("author_submitAndWatchExtrinsic"), "{counts:?}");
    net.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unusable_keys_and_calls_are_refused_with_reasons() {
    let net = Net::start(Config::default()).await;
    let (worker, submitter) = (Worker::new(1), net.submitter());
    let mut batch = net.batch([worker.register(&net)]);
    batch.signer = Arc::new(Claiming(net.operator(0), signer_of("//Alice")));
    match net.send(&submitter, &batch).await {
        Err(SubmitError::BadKey { account, reason }) => {
            assert_eq!(account, batch.operator().to_ss58(PHALA_SS58_PREFIX));
            assert!(!reason.contains("Alice"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    let garbled = Call::RegisterWorker {
        worker: worker.key(),
        runtime_info: vec![1, 2, 3],
        attestation: vec![0],
        replaces: None,
    };
    match net.send(&submitter, &net.batch([garbled])).await {
        Err(SubmitError::Unsupported { call, .. }) => {
            assert_eq!(call, "PhalaRegistry::register_worker_v2");
        }
        other => panic!("{other:?}"),
    }
    assert!(Submitter::new(net.pool.clone(), config().with_mortality_blocks(10)).is_err());
    net.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn batch_too_large_for_any_block_is_reported() {
    let net = Net::start(Config::default()).await;
    let worker = Worker::new(1);
    let Call::RegisterWorker { worker: key, runtime_info, .. } = worker.register(&net) else { panic!() };
    // `AttestationReport::SgxDcap` with a quote of a megabyte.
    let mut attestation = vec![1, 1];
    vec![0_u8; 1 << 20].encode_to(&mut attestation);
    attestation.push(0);
    let call = Call::RegisterWorker { worker: key, runtime_info, attestation, replaces: None };
    match net.send(&net.submitter(), &net.batch(vec![call; 6])).await {
        Err(SubmitError::TooLarge { calls: 6, fits: 3, reason }) => {
            assert!(reason.contains("bytes"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    // Few bytes, but more weight than a block has.
    let (sender, _) = mpsc::channel(8);
    match net.still(net.submitter().submit(&net.batch(vec![worker.add(1); 20_000]), sender)).await {
        Err(SubmitError::TooLarge { calls: 20_000, fits, reason }) => {
            assert!(fits == 10_922 && reason.contains("a batch may have"), "{fits}: {reason}");
        }
        other => panic!("{other:?}"),
    }
    net.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unreachable_nodes_are_distinguished_from_lost_transactions() {
    let net = Net::start(Config::default()).await;
    let (worker, submitter) = (Worker::new(1), net.submitter());
    let (sender, mut progress) = mpsc::channel(8);
    let batch = net.batch([worker.register(&net)]);
    let gone = async {
        until(&mut progress, |p| matches!(p, SubmitProgress::Submitted { .. })).await;
        net.devnet.para().stop_rpc().await;
    };
    let (outcome, ()) = net.still(async { tokio::join!(submitter.submit(&batch, sender), gone) }).await;
    match outcome {
        Err(SubmitError::Unknown { waited, .. }) => assert!(waited >= Duration::from_secs(3)),
        other => panic!("{other:?}"),
    }
    let (sender, _) = mpsc::channel(8);
    let unavailable = net.still(submitter.submit(&batch, sender)).await;
    assert!(matches!(unavailable, Err(SubmitError::Unavailable(_))), "{unavailable:?}");
    // Its outcome can be queried once a node is back.
    net.devnet.para().start_rpc().await.unwrap();
    let effects = net.ticking(submitter.effects(batch.operator(), &batch.calls)).await.unwrap();
    assert_eq!(effects.calls, [Effect::Present]);
    net.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn dead_node_delays_nobody() {
    let net = Net::start(Config::default()).await;
    let worker = Worker::new(1);
    // Nobody listens on port 1.
    let pool = pool_of(["ws://127.0.0.1:1".to_owned(), net.devnet.para().url()]);
    let submitter = Submitter::new(pool, config()).unwrap();
    net.scored(&submitter, std::slice::from_ref(&worker)).await;
    assert_eq!(net.ingress(&worker), 1);
    net.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn submissions_survive_runtime_upgrades() {
    let net = Net::start(Config::default()).await;
    let (worker, submitter) = (Worker::new(1), net.submitter());
    net.done(&submitter, [worker.register(&net)]).await;
    // A batch in the same block that sets the new code: the old runtime executed it and wrote its events.
    net.devnet.pause_para(true);
    let (sender, mut progress) = mpsc::channel(8);
    let batch = net.batch([worker.add(1), worker.bench_report(&net, 0)]);
    let upgrade = async {
        until(&mut progress, |p| matches!(p, SubmitProgress::Submitted { .. })).await;
        net.devnet.upgrade_para_runtime();
        net.devnet.pause_para(false);
    };
    let (outcome, ()) = net.ticking(async { tokio::join!(submitter.submit(&batch, sender), upgrade) }).await;
    let outcome = outcome.unwrap();
    assert_eq!(names(&outcome), ["PhalaStakePoolv2::BenchmarkMissing", "ok"]);
    let para = net.devnet.para();
    let changes = para.storage_changes(outcome.number.0).unwrap();
    assert!(changes.main.iter().any(|(key, _)| key == b":code"), "not the block of the upgrade");
    // The new runtime has other indexes.
    let batch = net.batch([worker.add(1), worker.add(1)]);
    let outcome = net.send(&submitter, &batch).await.unwrap();
    assert_eq!(names(&outcome), ["ok", "PhalaStakePoolv2::WorkerExists"]);
    net.stop().await;
}
