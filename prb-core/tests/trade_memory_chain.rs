//! The chain in memory: the life of a worker, the pallets' refusals, faults.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{sync::Arc, time::Duration};

use codec::Encode;
use prb_core::{
    chain::{
        Call, CallBatch, ChainReader, ChainSubmitter, Effect, Followed, SubmitError, SubmitProgress,
        memory::{Config, Fault, MemoryChain},
    },
    conformance,
    primitives::{AccountId, Balance, Hash, ParaNumber, PoolId, WorkerKey},
    signer::{Signer, memory::MemorySigner},
    wire::{Message, MessageOrigin, SignedMessage, WorkerRegistrationInfoV2},
};
use tokio::time::timeout;

const PHA: Balance = 1_000_000_000_000;
const POOL: PoolId = PoolId(1);
const W: WorkerKey = WorkerKey([7; 32]);

/// Who signs, and for whom.
#[derive(Clone)]
struct Signs {
    signer: MemorySigner,
    operator: AccountId,
    proxied: Option<AccountId>,
}

fn signer(secret: &str) -> Signs {
    Signs { signer: MemorySigner::new(secret), operator: MemoryChain::account_of(secret), proxied: None }
}

fn register(operator: AccountId, replaces: Option<u64>) -> Call {
    register_of(W, operator, replaces)
}

fn register_of(worker: WorkerKey, operator: AccountId, replaces: Option<u64>) -> Call {
    let info = WorkerRegistrationInfoV2 {
        version: 1,
        machine_id: vec![],
        pubkey: worker,
        ecdh_pubkey: [0; 32],
        genesis_block_hash: Hash::default(),
        features: vec![],
        operator: Some(operator),
        para_id: 2004,
        max_consensus_version: 1,
    };
    Call::RegisterWorker { worker, runtime_info: info.encode(), attestation: vec![], replaces }
}

fn message(sequence: u64) -> Call {
    let message = Message { sender: MessageOrigin::Worker(W), destination: vec![], payload: vec![] };
    Call::SyncOffchainMessage(SignedMessage { message, sequence, signature: vec![0; 64] })
}

/// Sends one batch and makes the block that holds it.
async fn send(
    chain: &MemoryChain,
    signer: Signs,
    calls: Vec<Call>,
) -> Result<Vec<Option<String>>, SubmitError> {
    let batch = CallBatch::new(Arc::new(signer.signer), calls).with_proxied(signer.proxied);
    let progress = tokio::sync::mpsc::channel(1).0;
    let submit = chain.submit(&batch, progress);
    tokio::pin!(submit);
    let pending = timeout(Duration::ZERO, &mut submit).await;
    let outcome = match pending {
        Ok(result) => result?,
        Err(_) => {
            chain.produce_block();
            submit.await?
        }
    };
    assert_eq!(outcome.number, chain.head());
    Ok(outcome.calls.into_iter().map(|r| r.err().map(|e| e.name)).collect())
}

async fn one(chain: &MemoryChain, signer: &Signs, call: Call) -> Option<String> {
    let effect = chain.effects(signer.operator, std::slice::from_ref(&call)).await.unwrap();
    let result = send(chain, signer.clone(), vec![call.clone()]).await.unwrap().remove(0);
    if result.is_none() {
        assert_eq!(effect.calls, [Effect::Missing], "{} had its effect before", call.name());
        let after = chain.effects(signer.operator, &[call]).await.unwrap();
        assert_eq!((after.calls, after.block), (vec![Effect::Present], chain.head()));
    }
    result
}

fn following(workers: &[WorkerKey]) -> Followed {
    Followed::default().with_workers(workers.iter().copied().collect())
}

#[tokio::test(start_paused = true)]
async fn lifecycle_of_a_worker() {
    let alice = signer("//Alice");
    let (pool, worker) = (POOL, W);
    let chain = MemoryChain::new(Config::default().with_cool_down_secs(24));
    chain.add_pool(POOL, alice.operator, 100 * PHA);
    chain.follow(following(&[W]));
    let add = Call::AddWorker { pool, worker };
    let start = |stake| Call::StartComputing { pool, worker, stake };
    let restart = |stake| Call::RestartComputing { pool, worker, stake };
    let stop = Call::StopComputing { pool, worker };
    let reclaim = Call::ReclaimWorker { pool, worker };
    let named = |name: &str| Some(name.to_owned());

    assert_eq!(one(&chain, &alice, add.clone()).await, named("PhalaStakePoolv2::WorkerNotRegistered"));
    assert_eq!(one(&chain, &alice, register(alice.operator, None)).await, None);
    assert_eq!(one(&chain, &alice, add.clone()).await, named("PhalaStakePoolv2::BenchmarkMissing"));
    chain.produce_block();
    assert_eq!(chain.worker(W).registration.unwrap().initial_score, Some(1_000));
    assert_eq!(one(&chain, &alice, start(50 * PHA)).await, named("PhalaStakePoolv2::WorkerDoesNotExist"));
    assert_eq!(one(&chain, &alice, add.clone()).await, None);
    assert_eq!(one(&chain, &alice, add).await, named("PhalaStakePoolv2::WorkerExists"));
    assert_eq!(one(&chain, &alice, start(101 * PHA)).await, named("PhalaStakePoolv2::InsufficientFreeStake"));
    assert_eq!(one(&chain, &alice, start(PHA)).await, named("PhalaComputation::InsufficientStake"));
    assert_eq!(one(&chain, &alice, start(50 * PHA)).await, None);
    assert_eq!(chain.free_stake(POOL), Some(50 * PHA));
    assert_eq!(
        one(&chain, &alice, restart(50 * PHA)).await,
        named("PhalaStakePoolv2::CannotRestartWithLessStake")
    );
    assert_eq!(
        one(&chain, &alice, restart(101 * PHA)).await,
        named("PhalaStakePoolv2::InsufficientFreeStake")
    );
    assert_eq!(chain.worker(W).session.unwrap().stake, Some(50 * PHA), "a failed call changes nothing");
    assert_eq!(one(&chain, &alice, restart(60 * PHA)).await, None);
    assert_eq!(chain.free_stake(POOL), Some(40 * PHA));
    assert_eq!(one(&chain, &alice, stop.clone()).await, None);
    assert_eq!(one(&chain, &alice, stop).await, named("PhalaStakePoolv2::WorkerAlreadyStopped"));
    // The block of the second stop was 12 s after the first.
    assert_eq!(one(&chain, &alice, reclaim).await, None);
    assert_eq!(one(&chain, &alice, Call::RemoveWorker { pool, worker }).await, None);
    assert_eq!(chain.free_stake(POOL), Some(100 * PHA));
    let view = chain.views().borrow().clone().unwrap();
    let shown = view.workers[&W].as_ref().unwrap();
    assert_eq!((view.block, shown.pool), (chain.head(), None));
    assert_eq!(**shown, chain.worker(W));
}

#[tokio::test(start_paused = true)]
async fn ownership_is_checked() {
    let (alice, bob) = (signer("//Alice"), signer("//Bob"));
    let chain = MemoryChain::new(Config::default().with_benchmark_blocks(0).with_score(None));
    chain.add_pool(POOL, alice.operator, 100 * PHA);
    one(&chain, &bob, register(bob.operator, None)).await;
    chain.set_score(W, 500);
    let add = Call::AddWorker { pool: POOL, worker: W };
    assert_eq!(one(&chain, &alice, add.clone()).await.unwrap(), "PhalaStakePoolv2::UnauthorizedOperator");
    assert_eq!(one(&chain, &bob, add.clone()).await.unwrap(), "PhalaStakePoolv2::UnauthorizedPoolOwner");
    // Bob acts for Alice once he is her proxy.
    let updated = chain.worker(W).registration.unwrap().last_updated;
    let proxied = Signs { proxied: Some(alice.operator), ..bob.clone() };
    let refused = send(&chain, proxied.clone(), vec![add.clone()]).await.unwrap_err();
    assert!(matches!(&refused, SubmitError::Dispatch(e) if e.name == "Proxy::NotProxy"), "{refused}");
    chain.set_proxy(alice.operator, bob.operator);
    let calls = vec![register(alice.operator, Some(updated)), add];
    assert_eq!(send(&chain, proxied, calls).await.unwrap(), [None, None]);
}

#[tokio::test(start_paused = true)]
async fn sequences_are_checked() {
    let alice = signer("//Alice");
    let chain = MemoryChain::default();
    chain.set_ingress(W, 3);
    let results = send(&chain, alice.clone(), [2, 4, 3, 3, 4].map(message).to_vec()).await.unwrap();
    let bad = Some("PhalaMq::BadSequence".to_owned());
    assert_eq!(results, [bad.clone(), bad.clone(), None, bad, None]);
    assert_eq!(chain.worker(W).ingress_sequence, 5);
    assert_eq!(chain.events().len(), 5);
    let effects = chain.effects(alice.operator, &[4, 5].map(message)).await.unwrap();
    assert_eq!(effects.calls, [Effect::Present, Effect::Missing]);
}

#[tokio::test(start_paused = true)]
async fn signers_are_checked() {
    let chain = MemoryChain::new(Config::default().with_fee(10));
    let alice = signer("//Alice");
    let forged =
        Signs { signer: alice.signer.with_claimed_account(MemoryChain::account_of("//Bob")), ..alice };
    let refused = send(&chain, forged, vec![message(0)]).await.unwrap_err();
    assert!(matches!(refused, SubmitError::BadKey { .. }) && !refused.is_retryable(), "{refused}");
    let alice = signer("//Alice");
    chain.fund(alice.operator, 15);
    send(&chain, alice.clone(), vec![message(0)]).await.unwrap();
    let refused = send(&chain, alice, vec![message(1)]).await.unwrap_err();
    assert!(matches!(refused, SubmitError::InsufficientFees { available: 5, needed: 10, .. }), "{refused}");
}

#[tokio::test(start_paused = true)]
async fn faults_apply_to_batches_in_order() {
    let alice = signer("//Alice");
    let chain = MemoryChain::default();
    for fault in [
        Fault::Unavailable,
        Fault::Refused { retryable: true },
        Fault::Lost,
        Fault::UnknownDropped,
        Fault::UnknownIncluded,
    ] {
        chain.inject(alice.operator, fault);
    }
    for expected in ["no chain node", "refused", "was not included", "not known", "not known"] {
        let error = send(&chain, alice.clone(), vec![message(0)]).await.unwrap_err();
        assert!(error.to_string().contains(expected) && error.is_retryable(), "{error}");
    }
    // The last one is on its way: a query of effects waits for it.
    let sent = [message(0)];
    let effects = chain.effects(alice.operator, &sent);
    tokio::pin!(effects);
    assert!(timeout(Duration::from_secs(1), &mut effects).await.is_err());
    chain.produce_block();
    assert_eq!(effects.await.unwrap().calls, [Effect::Present]);
}

#[tokio::test(start_paused = true)]
async fn hanging_account_blocks_no_other() {
    let (alice, bob) = (signer("//Alice"), signer("//Bob"));
    let chain = MemoryChain::default();
    chain.hang(alice.operator, true);
    let stuck = tokio::spawn({
        let (chain, alice) = (chain.clone(), alice.clone());
        async move { send(&chain, alice, vec![message(1)]).await }
    });
    assert_eq!(send(&chain, bob, vec![message(0)]).await.unwrap(), [None]);
    assert!(!stuck.is_finished());
    chain.hang(alice.operator, false);
    tokio::task::yield_now().await;
    chain.produce_block();
    assert_eq!(stuck.await.unwrap().unwrap(), [None]);
}

#[tokio::test(start_paused = true)]
async fn views_come_with_blocks() {
    let chain = MemoryChain::new(Config::default().with_max_tracked(1));
    let mut views = chain.views();
    let other = WorkerKey([8; 32]);
    chain.follow(following(&[W, other]));
    assert!(views.borrow_and_update().as_ref().unwrap().workers.is_empty(), "not before the next block");
    tokio::select! {
        () = chain.run(Duration::from_secs(12)) => unreachable!(),
        seen = views.wait_for(|v| v.as_ref().is_some_and(|v| v.block.0 >= 3)) => {
            let view = seen.unwrap().clone().unwrap();
            assert!(view.workers[&W].is_ok());
            let refused = view.workers[&other].as_ref().unwrap_err().to_string();
            assert_eq!(refused, "the reader follows at most 1 workers");
        }
    }
    chain.follow(Followed::default());
    chain.produce_block();
    assert!(views.borrow_and_update().as_ref().unwrap().workers.is_empty());
    chain.close_views();
    assert!(views.changed().await.is_err());
    chain.produce_block();
}

#[tokio::test(start_paused = true)]
async fn views_may_be_late() {
    let chain = MemoryChain::new(Config::default().with_view_delay_blocks(2));
    let other = WorkerKey([8; 32]);
    chain.follow(following(&[W, other]));
    chain.produce_block();
    chain.set_ingress(W, 5);
    let shown = |chain: &MemoryChain| {
        let view = chain.views().borrow().clone().unwrap();
        (view.block.0, view.workers.get(&W).map(|w| w.as_ref().unwrap().ingress_sequence), view.workers.len())
    };
    assert_eq!(shown(&chain), (0, None, 0));
    chain.produce_block();
    chain.produce_block();
    assert_eq!(shown(&chain), (1, Some(0), 2), "block 1 was before the change");
    chain.follow(following(&[W]));
    chain.produce_block();
    assert_eq!(shown(&chain), (2, Some(5), 1), "what left is gone at once");
}

/// The chain as the suite of submitters drives it.
struct Driven(MemoryChain);

impl conformance::submitter::TestChain for Driven {
    fn submitter(&self) -> Arc<dyn ChainSubmitter> {
        Arc::new(self.0.clone())
    }

    fn signer(&self) -> Arc<dyn Signer> {
        Arc::new(MemorySigner::new("//Alice"))
    }

    fn forged(&self) -> Arc<dyn Signer> {
        Arc::new(MemorySigner::new("//Mallory").with_claimed_account(MemoryChain::account_of("//Alice")))
    }

    fn poor(&self) -> Arc<dyn Signer> {
        self.0.fund(MemoryChain::account_of("//Poor"), 3);
        Arc::new(MemorySigner::new("//Poor"))
    }

    fn call(&self, n: u32) -> Call {
        register_of(WorkerKey([n as u8; 32]), MemoryChain::account_of("//Alice"), None)
    }

    fn make_block(&self) {
        self.0.produce_block();
    }

    fn finalised(&self) -> ParaNumber {
        self.0.finalised()
    }
}

#[tokio::test(start_paused = true)]
async fn conforms_as_a_submitter_with_any_finality_delay() {
    for finality_blocks in [0, 1, 3] {
        let chain = MemoryChain::new(Config::default().with_fee(10).with_finality_blocks(finality_blocks));
        conformance::submitter::all(&Driven(chain)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn outcomes_and_views_wait_for_finality() {
    let alice = signer("//Alice");
    let chain = MemoryChain::new(Config::default().with_finality_blocks(2));
    chain.follow(following(&[W]));
    let batch = CallBatch::new(Arc::new(alice.signer), vec![register(alice.operator, None)]);
    let (progress, mut reports) = tokio::sync::mpsc::channel(4);
    let submit = chain.submit(&batch, progress);
    tokio::pin!(submit);
    for block in 1..=3 {
        let pending = timeout(Duration::ZERO, &mut submit).await;
        assert!(pending.is_err(), "an outcome before block {block}: {pending:?}");
        let view = chain.views().borrow().clone().unwrap();
        let seen = view.workers.get(&W);
        assert!(seen.is_none_or(|worker| worker.as_ref().unwrap().registration.is_none()));
        chain.produce_block();
    }
    let outcome = submit.await.unwrap();
    assert_eq!((outcome.number, chain.finalised(), chain.head().0), (ParaNumber(1), ParaNumber(1), 3));
    let view = chain.views().borrow().clone().unwrap();
    assert!(view.workers[&W].as_ref().unwrap().registration.is_some());
    assert!(matches!(reports.recv().await, Some(SubmitProgress::Submitted { .. })));
    assert_eq!(reports.recv().await, Some(SubmitProgress::InBlock { block: outcome.block }));
}
