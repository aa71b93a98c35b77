//! What fails, what is retried, and how a trader stops.

use std::sync::Arc;

use prb_core::{
    chain::memory::{self, Fault, MemoryChain},
    primitives::PHALA_SS58_PREFIX,
    queue::{CallOutcome, Job, JobQueue, JobSigner},
    trade::{Config, Parts, Trader, accounts::MemoryAccounts},
    vault::Sealed,
};
use tokio::time::{Instant, sleep, timeout};

use crate::rig::*;

#[tokio::test(start_paused = true)]
async fn transient_failures_are_retried_up_to_the_jobs_limit() {
    let rig = Rig::new().await;
    let _trader = rig.trader(Config::default());
    let alice = account("//Alice");
    for fault in [Fault::Unavailable, Fault::Refused { retryable: true }, Fault::Lost] {
        rig.chain.inject(alice, fault);
    }
    let handle = rig.submit(rig.job("//Alice", 1, 0, 1, 3)).await;
    assert_eq!(rig.outcomes(handle).await, [CallOutcome::Done]);
    for _ in 0..2 {
        rig.chain.inject(alice, Fault::Unavailable);
    }
    let handle = rig.submit(rig.job("//Alice", 1, 1, 1, 1)).await;
    let failure = rig.outcome(handle).await.unwrap_err();
    assert!(failure.message.contains("no chain node is reachable: connection refused"), "{failure}");
    assert!(failure.message.contains(&alice.to_ss58(PHALA_SS58_PREFIX)), "{failure}");
}

#[tokio::test(start_paused = true)]
async fn uncertain_outcome_is_looked_up() {
    let rig = Rig::new().await;
    let _trader = rig.trader(Config::default());
    let alice = account("//Alice");
    rig.chain.inject(alice, Fault::UnknownIncluded);
    let included = rig.submit(rig.job("//Alice", 1, 0, 1, 0)).await;
    assert_eq!(rig.outcomes(included).await, [CallOutcome::AlreadyDone]);
    rig.chain.inject(alice, Fault::UnknownDropped);
    let dropped = rig.submit(rig.job("//Alice", 1, 1, 1, 1)).await;
    assert_eq!(rig.outcomes(dropped).await, [CallOutcome::Done]);
    rig.chain.inject(alice, Fault::Lost);
    let lost = rig.submit(rig.job("//Alice", 1, 2, 1, 0)).await;
    assert!(rig.outcome(lost).await.is_err());
    assert_eq!(rig.chain.events().len(), 2);
}

#[tokio::test(start_paused = true)]
async fn outcome_of_a_hanging_submitter_is_uncertain() {
    let rig = Rig::new().await;
    let trader = rig.trader(Config::default().with_submit_timeout(ms(30_000)));
    let alice = account("//Alice");
    let handle = rig.submit(rig.job("//Alice", 1, 0, 1, 9)).await;
    rig.pending(1).await;
    rig.chain.hang(alice, true);
    sleep(ms(100_000)).await;
    let error = trader.status().borrow().lanes[&alice].last_error.clone().unwrap();
    assert!(error.contains("not known after 30 s"), "{error}");
    rig.chain.hang(alice, false);
    assert_eq!(rig.outcomes(handle).await, [CallOutcome::AlreadyDone]);
    assert_eq!(rig.chain.events().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn permanent_failures_are_reported_at_once() {
    let rig = Rig::on(MemoryChain::new(memory::Config::default().with_fee(10))).await;
    let _trader = rig.trader(Config::default());
    rig.chain.fund(account("//Alice"), 3);
    let start = Instant::now();
    let poor = rig.submit(rig.job("//Alice", 1, 0, 1, 9)).await;
    let message = rig.outcome(poor).await.unwrap_err().message;
    for part in [account("//Alice").to_ss58(PHALA_SS58_PREFIX).as_str(), "3 units free", "10 needed"] {
        assert!(message.contains(part), "{message}");
    }
    let forged = JobSigner { operator: account("//Bob"), ..rig.signer("//Carol") };
    let forged = rig.submit(Job { signer: forged, ..rig.job("//Bob", 1, 0, 1, 9) }).await;
    let message = rig.outcome(forged).await.unwrap_err().message;
    assert!(message.contains("is not usable: it is another account's"), "{message}");
    assert!(!message.contains("//Carol"), "{message}");
    let proxied = JobSigner { proxied: Some(account("//Carol")), ..rig.signer("//Bob") };
    let proxied = rig.submit(Job { signer: proxied, ..rig.job("//Bob", 1, 0, 1, 9) }).await;
    let message = rig.outcome(proxied).await.unwrap_err().message;
    assert!(message.contains("Proxy::NotProxy"), "{message}");
    assert!(start.elapsed() < ms(10_000), "a retry was tried: {:?}", start.elapsed());
    // Another trader might open it, and is given a minute.
    let unsealed = JobSigner { key: Sealed(vec![0; 40]), ..rig.signer("//Bob") };
    let unsealed = rig.submit(Job { signer: unsealed, ..rig.job("//Bob", 1, 0, 1, 9) }).await;
    let message = rig.outcome(unsealed).await.unwrap_err().message;
    assert!(message.contains("cannot be opened"), "{message}");
    assert!((ms(55_000)..ms(90_000)).contains(&start.elapsed()), "left for {:?}", start.elapsed());
    assert!(rig.chain.events().is_empty());
}

#[tokio::test(start_paused = true)]
async fn one_jobs_refused_call_fails_no_other_job() {
    let rig = Rig::new().await;
    let trader = rig.trader(Config::default());
    // The batch of three is refused, then that of the first two, then the first; the others are as they
    // should be.
    for _ in 0..3 {
        rig.chain.inject(account("//Alice"), Fault::Refused { retryable: false });
    }
    let mut handles = Vec::new();
    for w in 0..3 {
        handles.push(rig.submit(rig.job("//Alice", w, 0, 1, 0)).await);
    }
    let mut outcomes = Vec::new();
    for handle in handles {
        outcomes.push(rig.outcome(handle).await.map(|outcome| outcome.calls));
    }
    assert!(outcomes[0].as_ref().unwrap_err().message.contains("injected refusal"));
    assert_eq!(outcomes[1..], [Ok(vec![CallOutcome::Done]), Ok(vec![CallOutcome::Done])]);
    assert_eq!((trader.status().borrow().failed_batches, rig.chain.events().len()), (3, 2));
}

#[tokio::test(start_paused = true)]
async fn batch_too_large_for_a_block_is_split() {
    let chain = MemoryChain::new(memory::Config::default().with_max_batch_calls(7));
    let rig = Rig::on(chain).await;
    let trader = rig.trader(Config::default());
    // A job of more calls than fit, and small ones beside it.
    let large = rig.submit(rig.job("//Alice", 1, 0, 20, 0)).await;
    let small = rig.submit(rig.job("//Alice", 2, 0, 2, 0)).await;
    let outcome = rig.outcome(large).await.unwrap();
    assert_eq!(outcome.calls, vec![CallOutcome::Done; 20]);
    assert_eq!(rig.outcomes(small).await, vec![CallOutcome::Done; 2]);
    assert_eq!(trader.status().borrow().jobs_failed, 0);
    let blocks = rig.chain.events();
    let largest = (1..=rig.chain.head().0).map(|n| blocks.iter().filter(|e| e.block.0 == n).count()).max();
    assert_eq!(largest, Some(7), "what fits is used");
    let last = blocks.iter().rfind(|event| event.call == message(1, 19)).unwrap();
    assert_eq!(outcome.block, last.block, "the outcome names the block that shows all of it");
}

#[tokio::test(start_paused = true)]
async fn call_too_large_for_a_block_fails_alone() {
    let chain = MemoryChain::new(memory::Config::default().with_max_batch_calls(0));
    let rig = Rig::on(chain).await;
    let _trader = rig.trader(Config::default());
    let handle = rig.submit(rig.job("//Alice", 1, 0, 3, 9)).await;
    let message = rig.outcome(handle).await.unwrap_err().message;
    assert!(message.contains("do not fit in a block"), "{message}");
}

#[tokio::test(start_paused = true)]
async fn stopping_ends_what_is_sent_and_hands_back_the_rest() {
    let rig = Rig::new().await;
    let trader = rig.trader(Config::default());
    let sent = rig.submit(rig.job("//Alice", 1, 0, 1, 0)).await;
    rig.pending(1).await;
    let unsent =
        [rig.submit(rig.job("//Alice", 1, 1, 1, 0)).await, rig.submit(rig.job("//Bob", 2, 0, 1, 0)).await];
    sleep(ms(10)).await;
    let start = Instant::now();
    let (report, ()) = tokio::join!(trader.stop(ms(5_000)), async {
        sleep(ms(2_000)).await;
        rig.chain.produce_block();
    });
    assert_eq!(report.unwrap().jobs_released, 2);
    assert!(start.elapsed() < ms(2_100), "it waits no longer than it must: {:?}", start.elapsed());
    assert_eq!(sent.outcome().await.unwrap().calls, [CallOutcome::Done]);
    let stats = rig.queue.stats().await.unwrap();
    assert_eq!((stats.waiting, stats.active), (2, 0));
    let _next = rig.trader(Config::default());
    for handle in unsent {
        assert_eq!(rig.outcomes(handle).await, [CallOutcome::Done]);
    }
}

#[tokio::test(start_paused = true)]
async fn stopping_keeps_its_deadline() {
    let rig = Rig::new().await;
    let trader = rig.trader(Config::default());
    let handle = rig.submit(rig.job("//Alice", 1, 0, 1, 0)).await;
    rig.pending(1).await;
    let start = Instant::now();
    assert_eq!(trader.stop(ms(3_000)).await.unwrap().jobs_released, 1);
    assert_eq!(start.elapsed(), ms(3_000));
    assert_eq!(rig.queue.stats().await.unwrap().waiting, 1);
    let _next = rig.trader(Config::default());
    assert_eq!(rig.outcomes(handle).await, [CallOutcome::AlreadyDone]);
    assert_eq!(rig.chain.events().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn trader_ends_with_its_queue() {
    let rig = Rig::new().await;
    let mut trader = rig.trader(Config::default());
    assert!(timeout(ms(1_000), trader.ended()).await.is_err());
    let handle = rig.submit(rig.job("//Alice", 1, 0, 1, 0)).await;
    sleep(ms(10)).await;
    rig.queue.close();
    timeout(ms(5_000), trader.ended()).await.expect("it goes on without a queue").unwrap();
    assert!(handle.outcome().await.is_err());
    assert!(trader.status().borrow().stopping);
}

#[tokio::test]
async fn settings_of_zero_are_refused() {
    let rig = Rig::new().await;
    let parts = Parts {
        queue: Arc::new(rig.queue.clone()),
        submitter: Arc::new(rig.chain.clone()),
        signers: signers(&rig.vault),
        accounts: Arc::new(MemoryAccounts::default()),
    };
    let error = Trader::start(Config::default().with_max_lanes(0), parts).unwrap_err();
    assert_eq!(error.to_string(), "the trade engine's setting max_lanes must be greater than zero");
}
