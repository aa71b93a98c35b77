//! Effects of calls: those of a predecessor, and recognising what is on chain already.

use std::time::Duration;

use codec::Encode;
use prb_chain::submit::Submitter;
use prb_core::{
    chain::{Call, ChainSubmitter, Effect, SubmitProgress},
    primitives::{AccountId, PoolId},
};
use prb_devnet::{Config, runtime::types};
use sp_core::Pair as _;
use tokio::sync::mpsc;

use crate::{
    net::{Net, STAKE, Worker, until},
    submit::names,
};

/// A submitter that knows the runtime already, so that it loses no time before its first request.
async fn warm(net: &Net) -> Submitter {
    let submitter = net.submitter();
    net.still(submitter.effects(AccountId([9; 32]), &[])).await.unwrap();
    submitter
}

#[tokio::test(flavor = "multi_thread")]
async fn effects_wait_for_a_predecessors_transaction() {
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
async fn batch_waits_for_a_predecessors_transaction() {
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
async fn effects_match_the_chain() {
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
    let every_kind = net.ticking(submitter.effects(operator, &Call::samples())).await.unwrap();
    for (call, effect) in Call::samples().iter().zip(every_kind.calls) {
        let ends = ["remove_worker", "stop_computing", "reclaim_pool_worker"];
        let is_end = ends.iter().any(|name| call.name().ends_with(name));
        assert_eq!(effect == Effect::Present, is_end, "of an unknown worker: {call:?}");
    }
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
async fn announced_endpoints_are_recognised() {
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
async fn version_1_registrations_are_sent_and_recognised() {
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
    // After another call, the state is not what this one would cause.
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
    // The call is retired along with the service.
    let net = Net::start(Config::default()).await;
    let batch = net.batch([worker.register_v1(&net, None)]);
    let outcome = net.send(&net.submitter(), &batch).await.unwrap();
    assert_eq!(names(&outcome), ["PhalaRegistry::IASAttestationDisabled"]);
    net.stop().await;
}
