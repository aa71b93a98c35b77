//! The submitter: outcomes, proxies, nonces, and fates.

use std::{sync::Arc, time::Duration};

use codec::Encode;
use prb_chain::submit::Submitter;
use prb_core::{
    chain::{Call, ChainSubmitter, Effect, SubmitError, SubmitProgress},
    primitives::{AccountId, PHALA_SS58_PREFIX, PoolId},
};
use prb_devnet::{Config, TransactionFault, runtime::types};
use sp_core::Pair as _;
use tokio::sync::mpsc;

use crate::net::{Claiming, MORTALITY, Net, STAKE, Worker, config, pool_of, signer_of, until};

fn names(outcome: &prb_core::chain::BatchOutcome) -> Vec<&str> {
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
async fn a_worker_gets_from_nothing_to_computing_and_back() {
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
async fn a_proxied_pool_is_served_by_its_operator() {
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
    // A proxy of nobody: nothing ran.
    let mut wrong = net.batch([worker.add(1)]);
    wrong.proxied = Some(AccountId([3; 32]));
    match net.send(&submitter, &wrong).await {
        Err(SubmitError::Dispatch(e)) => assert_eq!(e.name, "Proxy::NotProxy"),
        other => panic!("{other:?}"),
    }
    net.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_follow_one_another_in_order() {
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
async fn a_node_that_goes_away_before_finality_does_not_lose_the_outcome() {
    let net = Net::start(Config::default()).await;
    let (worker, submitter) = (Worker::new(1), net.submitter());
    let (sender, mut progress) = mpsc::channel(8);
    let batch = net.batch([worker.register(&net), worker.add(1)]);
    let submission = submitter.submit(&batch, sender);
    let away = async {
        until(&mut progress, |p| matches!(p, SubmitProgress::Submitted { .. })).await;
        net.devnet.para().stop_rpc().await;
        let gone_at = net.devnet.para().finalized_number();
        // It is included and final while nobody can see it.
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
async fn a_watch_that_says_nothing_is_not_waited_for() {
    let net = Net::start(Config::default()).await;
    let worker = Worker::new(1);
    let impatient = config().with_mortality_blocks(64).with_watch_patience(Duration::from_millis(50));
    let submitter = Submitter::new(net.pool.clone(), impatient).unwrap();
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
    // Not before no block could hold it.
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
async fn a_dropped_transaction_is_lost_once_it_expired() {
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
async fn a_transaction_that_its_node_forgot_is_sent_again() {
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

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_whose_nonce_is_taken_is_lost_at_once() {
    let net = Net::start(Config::default()).await;
    let (worker, other) = (Worker::new(1), Worker::new(2));
    let patient = config().with_mortality_blocks(1024);
    let (first, second) = (Submitter::new(net.pool.clone(), patient).unwrap(), net.submitter());
    net.devnet.para().faults().transactions(TransactionFault::Swallowed);
    let (sender, mut progress) = mpsc::channel(8);
    let batch = net.batch([worker.register(&net)]);
    let lost = first.submit(&batch, sender);
    let taken = async {
        until(&mut progress, |p| matches!(p, SubmitProgress::Submitted { .. })).await;
        net.devnet.para().faults().heal();
        let (sender, _) = mpsc::channel(8);
        second.submit(&net.batch([other.register(&net)]), sender).await.unwrap()
    };
    let (lost, _) = net.ticking(async { tokio::join!(lost, taken) }).await;
    match lost {
        Err(SubmitError::Lost { reason }) => assert!(reason.contains("took its nonce"), "{reason}"),
        other => panic!("{other:?}"),
    }
    assert!(net.worker_info(&worker).is_none() && net.worker_info(&other).is_some());
    net.stop().await;
}

/// A submitter that knows the runtime already, so that it does not lose time before it asks for anything.
async fn warm(net: &Net) -> Submitter {
    let submitter = net.submitter();
    net.still(submitter.effects(AccountId([9; 32]), &[])).await.unwrap();
    submitter
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_program_waits_for_what_its_predecessor_sent() {
    let net = Net::start(Config::default()).await;
    let worker = Worker::new(1);
    net.done(&net.submitter(), [worker.register(&net)]).await;
    let batch = net.batch([worker.bench_report(&net, 0)]);
    let before = net.submitter();
    let (sender, mut progress) = mpsc::channel(8);
    {
        // No block is authored: the transaction stays in the pool, and its sender dies.
        let submission = before.submit(&batch, sender);
        let submitted = until(&mut progress, |p| matches!(p, SubmitProgress::Submitted { .. }));
        net.still(async {
            tokio::select! {
                outcome = submission => panic!("{outcome:?}"),
                () = submitted => {}
            }
        })
        .await;
    }
    drop(before);
    assert_eq!(net.ingress(&worker), 0);
    let after = warm(&net).await;
    let effects = after.effects(batch.operator(), &batch.calls);
    tokio::pin!(effects);
    let early = tokio::time::timeout(Duration::from_millis(500), &mut effects).await;
    assert!(early.is_err(), "{early:?}");
    let effects = net.ticking(effects).await.unwrap();
    assert_eq!(effects.calls, [Effect::Present]);
    assert!(effects.block.0 <= net.devnet.para().finalized_number());
    net.done(&after, [worker.bench_report(&net, 1)]).await;
    assert_eq!((net.ingress(&worker), net.transactions()), (2, 3));
    net.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_waits_for_the_predecessors_transaction_too() {
    let net = Net::start(Config::default()).await;
    let (a, b) = (Worker::new(1), Worker::new(2));
    let before = net.submitter();
    let (sender, mut progress) = mpsc::channel(8);
    let first = net.batch([a.register(&net)]);
    net.still(async {
        tokio::select! {
            outcome = before.submit(&first, sender) => panic!("{outcome:?}"),
            () = until(&mut progress, |p| matches!(p, SubmitProgress::Submitted { .. })) => {}
        }
    })
    .await;
    let after = warm(&net).await;
    let (sender, _) = mpsc::channel(8);
    let second = net.batch([b.register(&net)]);
    let submission = after.submit(&second, sender);
    tokio::pin!(submission);
    let early = tokio::time::timeout(Duration::from_millis(500), &mut submission).await;
    assert!(early.is_err(), "{early:?}");
    assert_eq!(net.devnet.para().pending_extrinsics().len(), 1, "sent beside the first one");
    net.ticking(submission).await.unwrap();
    assert!(net.worker_info(&a).is_some() && net.worker_info(&b).is_some());
    net.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_that_cannot_pay_is_named_before_anything_is_sent() {
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
async fn keys_and_calls_that_do_not_fit_are_refused_with_reasons() {
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
async fn a_batch_that_no_block_can_hold_is_told_apart() {
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
async fn nodes_that_stay_away_are_told_from_lost_transactions() {
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
    // Its fate can be asked for once a node is back.
    net.devnet.para().start_rpc().await.unwrap();
    let effects = net.ticking(submitter.effects(batch.operator(), &batch.calls)).await.unwrap();
    assert_eq!(effects.calls, [Effect::Present]);
    net.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_node_holds_nobody_up() {
    let net = Net::start(Config::default()).await;
    let worker = Worker::new(1);
    // Port 1 is nobody's.
    let pool = pool_of(["ws://127.0.0.1:1".to_owned(), net.devnet.para().url()]);
    let submitter = Submitter::new(pool, config()).unwrap();
    net.scored(&submitter, std::slice::from_ref(&worker)).await;
    assert_eq!(net.ingress(&worker), 1);
    net.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn runtime_upgrades_are_survived() {
    let net = Net::start(Config::default()).await;
    let (worker, submitter) = (Worker::new(1), net.submitter());
    net.done(&submitter, [worker.register(&net)]).await;
    // A batch in the very block that sets the new code: the old runtime ran it and wrote its events.
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

#[tokio::test(flavor = "multi_thread")]
async fn effects_are_those_on_chain() {
    let net = Net::start(Config { cool_down_secs: 0, ..Config::default() }).await;
    let (worker, submitter) = (Worker::new(1), net.submitter());
    let (pool, key) = (PoolId(1), worker.key());
    let operator = net.operator(0);
    let registered_again = |replaces| {
        let Call::RegisterWorker { worker, runtime_info, attestation, .. } = worker.register(&net) else {
            panic!()
        };
        Call::RegisterWorker { worker, runtime_info, attestation, replaces }
    };
    let restart = |stake| Call::RestartComputing { pool, worker: key, stake };
    let stop = Call::StopComputing { pool, worker: key };
    let (reclaim, remove) =
        (Call::ReclaimWorker { pool, worker: key }, Call::RemoveWorker { pool, worker: key });
    let check = async |calls: &[(Call, bool)]| {
        let (calls, expected): (Vec<_>, Vec<_>) = calls.iter().cloned().unzip();
        let found = net.ticking(submitter.effects(operator, &calls)).await.unwrap();
        let found: Vec<_> = found.calls.iter().map(|effect| *effect == Effect::Present).collect();
        assert_eq!(found, expected, "{calls:?}");
    };
    check(&[
        (worker.register(&net), false),
        (worker.bench_report(&net, 0), false),
        (worker.add(1), false),
        (remove.clone(), true),
        (worker.start(1, STAKE), false),
        (restart(STAKE), false),
    ])
    .await;
    net.scored(&submitter, std::slice::from_ref(&worker)).await;
    let updated = net.worker_info(&worker).unwrap().last_updated;
    net.done(&submitter, [worker.add(1), worker.start(1, STAKE)]).await;
    check(&[
        (worker.register(&net), true),
        (registered_again(Some(updated)), false),
        (registered_again(Some(updated - 1)), true),
        (worker.bench_report(&net, 0), true),
        (worker.bench_report(&net, 1), false),
        (worker.add(1), true),
        (worker.add(2), false),
        (remove.clone(), false),
        (worker.start(1, STAKE), true),
        (restart(STAKE), true),
        (restart(STAKE + 1), false),
        (stop.clone(), false),
    ])
    .await;
    net.done(&submitter, [stop.clone()]).await;
    check(&[(stop, true), (reclaim.clone(), false), (worker.start(1, STAKE), false)]).await;
    net.done(&submitter, [reclaim.clone(), remove.clone()]).await;
    check(&[(reclaim, true), (remove, true), (worker.add(1), false)]).await;
    net.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn announced_endpoints_are_seen() {
    use prb_core::wire::{VersionedWorkerEndpoints, WorkerEndpointPayload};
    let net = Net::start(Config::default()).await;
    let (worker, submitter) = (Worker::new(1), net.submitter());
    net.done(&submitter, [worker.register(&net)]).await;
    let announce = |url: &str| {
        let payload = WorkerEndpointPayload {
            pubkey: worker.key(),
            versioned_endpoints: VersionedWorkerEndpoints::V1(vec![url.into()]),
            signing_time: net.devnet.timestamp(1),
        };
        let mut signed = vec![0xff, 2];
        payload.encode_to(&mut signed);
        Call::UpdateWorkerEndpoint { payload, signature: worker.pair.sign(&signed).0.to_vec() }
    };
    net.done(&submitter, [announce("http://one")]).await;
    let calls = [announce("http://one"), announce("http://two")];
    let effects = net.ticking(submitter.effects(net.operator(0), &calls)).await.unwrap();
    assert_eq!(effects.calls, [Effect::Present, Effect::Missing]);
    net.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn registrations_of_the_first_version_are_sent_and_recognised() {
    let net = Net::start(Config { ias_attestation: true, ..Config::default() }).await;
    let (worker, other, submitter) = (Worker::new(1), Worker::new(2), net.submitter());
    let effect = async |call: &Call| {
        let operator = net.operator(0);
        net.ticking(submitter.effects(operator, std::slice::from_ref(call))).await.unwrap().calls[0]
    };
    let first = worker.register_v1(&net, None);
    assert_eq!(effect(&first).await, Effect::Missing);
    net.done(&submitter, [first.clone()]).await;
    assert_eq!(effect(&first).await, Effect::Present);
    let info = net.worker_info(&worker).unwrap();
    assert_eq!(info.attestation_provider, Some(types::AttestationProvider::Ias));
    let again = worker.register_v1(&net, Some(info.last_updated));
    assert_eq!(effect(&again).await, Effect::Missing);
    net.done(&submitter, [again.clone()]).await;
    assert_eq!(effect(&again).await, Effect::Present);
    // By another call, it is not what this one would make.
    net.done(&submitter, [worker.register(&net)]).await;
    assert_eq!(effect(&first).await, Effect::Missing);
    // Another worker's report.
    let Call::RegisterWorkerV1 { attestation, .. } = first else { panic!() };
    let Call::RegisterWorkerV1 { worker: key, runtime_info, replaces, .. } = other.register_v1(&net, None)
    else {
        panic!()
    };
    let forged = Call::RegisterWorkerV1 { worker: key, runtime_info, attestation, replaces };
    let outcome = net.send(&submitter, &net.batch([forged])).await.unwrap();
    assert_eq!(names(&outcome), ["PhalaRegistry::InvalidRuntimeInfoHash"]);
    net.stop().await;
    // As the service is retired, so is the call.
    let net = Net::start(Config::default()).await;
    let batch = net.batch([worker.register_v1(&net, None)]);
    let outcome = net.send(&net.submitter(), &batch).await.unwrap();
    assert_eq!(names(&outcome), ["PhalaRegistry::IASAttestationDisabled"]);
    net.stop().await;
}
