//! A fleet on parts in memory, in virtual time: from nothing to computing, and back there after faults.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use prb_core::{
    blob::{
        self, BlobSource, BlockBatch, BlockCursor, Genesis, HeaderBatch, HeaderCursor, Heights,
        memory::MemorySource,
    },
    chain::{
        Call, ChainReader, ChainView, Followed, SessionState,
        memory::{self as chain_memory, MemoryChain},
    },
    fleet::{self, Command, CommandError},
    inventory::{Edit, Goal, Inventory},
    primitives::PoolId,
    prpc::Method,
    pruntime::{
        Connect, ConnectError, PRuntimeClient,
        scripted::{Failure, Restart, ScriptedWorker},
    },
    queue::JobQueue,
    worker::{Settings, State},
};
use tokio::sync::watch;
use uuid::Uuid;

mod hostile;
mod reports;

#[path = "../fleet_rig/rig.rs"]
mod rig;
use rig::{BLOCK, POOL, Rig, STAKE, account, endpoint};

#[tokio::test(start_paused = true)]
async fn new_workers_start_computing_and_stay_at_the_tip() {
    let mut rig = Rig::new(7, 50).await;
    rig.run();
    let config = Rig::config().with_max_workers_per_runner(3);
    rig.start_with(config);
    rig.until_all(State::Active).await;
    let status = rig.fleet().status();
    assert_eq!(status.runners, 3);
    for runner in 0..3 {
        assert!(status.workers.iter().filter(|w| w.runner == Some(runner)).count() <= 3);
    }
    let head = rig.chain.head();
    rig.until("blocks at the tip", |s| {
        s.workers.iter().all(|w| w.position.unwrap().dispatched_to() >= Some((head.0 + 5).into()))
    })
    .await;
    for (index, worker) in rig.workers.iter().enumerate() {
        assert_eq!(worker.overlaps(), 0);
        assert_eq!(worker.count(Method::InitRuntime), 1);
        let on_chain = rig.chain.worker(worker.key());
        assert_eq!(on_chain.pool, Some(POOL));
        let session = on_chain.session.unwrap();
        assert_eq!((session.state, session.stake), (SessionState::WorkerIdle, Some(STAKE)));
        assert_eq!(rig.status(index).public_key, Some(worker.key()));
        assert_eq!(rig.status(index).lag, Some(0));
    }
    // Once each, and nothing failed.
    let events = rig.chain.events();
    assert_eq!(events.len(), 3 * rig.workers.len());
    assert!(events.iter().all(|e| e.result.is_ok()), "{events:?}");
    assert!(rig.fleet().stop().await);
    rig.fleet().ended().await;
}

#[tokio::test(start_paused = true)]
async fn at_the_tip_a_block_costs_a_worker_three_calls() {
    let mut rig = Rig::new(1, 10).await;
    rig.run();
    rig.start();
    rig.until_all(State::Active).await;
    let calls = |worker: &ScriptedWorker| {
        [Method::SyncCombinedHeaders, Method::DispatchBlocks, Method::GetInfo, Method::GetEgressMessages]
            .map(|m| worker.count(m))
    };
    let (before, head) = (calls(&rig.workers[0]), rig.chain.head().0);
    tokio::time::sleep(BLOCK * 100).await;
    let blocks = u64::from(rig.chain.head().0 - head);
    assert!(blocks >= 99);
    let after = calls(&rig.workers[0]);
    let spent: Vec<u64> = after.iter().zip(before).map(|(a, b)| a - b).collect();
    assert_eq!(spent, [blocks, blocks, blocks, 0], "headers, blocks, infos, messages");
}

#[tokio::test(start_paused = true)]
async fn messages_reach_the_chain_once_and_in_order() {
    let mut rig = Rig::new(2, 10).await;
    rig.run();
    rig.start();
    rig.until_all(State::Active).await;
    for (index, worker) in rig.workers.iter().enumerate() {
        let key = worker.key();
        // 250 at once: three jobs; then one a block.
        worker.edit(|s| (0..250).for_each(|n| s.push_message(key, n, b"heartbeat")));
        for n in 250..260 {
            tokio::time::sleep(BLOCK).await;
            rig.workers[index].edit(|s| s.push_message(key, n, b"heartbeat"));
        }
    }
    let keys: Vec<_> = rig.workers.iter().map(ScriptedWorker::key).collect();
    let chain = rig.chain.clone();
    rig.until("all messages", |_| keys.iter().all(|k| chain.worker(*k).ingress_sequence == 260)).await;
    let sent = rig.chain.events().into_iter().filter(|e| matches!(e.call, Call::SyncOffchainMessage(_)));
    let sent: Vec<_> = sent.collect();
    assert_eq!(sent.len(), 2 * 260, "each once");
    assert!(sent.iter().all(|e| e.result.is_ok()));
    tokio::time::sleep(BLOCK * 3).await;
    let asked = rig.workers[0].count(Method::GetEgressMessages);
    tokio::time::sleep(BLOCK * 20).await;
    assert_eq!(rig.workers[0].count(Method::GetEgressMessages), asked, "none are pending");
}

#[tokio::test(start_paused = true)]
async fn failed_messages_are_resent_from_the_chains_sequence() {
    let mut rig = Rig::new(1, 10).await;
    rig.run();
    rig.start();
    rig.until_all(State::Active).await;
    let key = rig.key(0);
    rig.chain.inject(account(POOL), chain_memory::Fault::Lost);
    rig.workers[0].edit(|s| (0..3).for_each(|n| s.push_message(key, n, b"heartbeat")));
    rig.until_worker(0, "the failure shown", |w| w.message.contains("Its messages do not reach the chain"))
        .await;
    assert_eq!(rig.status(0).state, State::Active);
    // Somebody else has sent the first one meanwhile.
    rig.chain.set_ingress(key, 1);
    let chain = rig.chain.clone();
    rig.until("the messages", |_| chain.worker(key).ingress_sequence == 3).await;
    rig.until_worker(0, "the failure forgotten", |w| &*w.message == "Computing").await;
    // All of the next ones: nothing is left to send, and no job ends well.
    rig.chain.inject(account(POOL), chain_memory::Fault::Lost);
    rig.workers[0].edit(|s| (3..6).for_each(|n| s.push_message(key, n, b"heartbeat")));
    rig.until_worker(0, "the next failure", |w| w.message.contains("Its messages do not reach the chain"))
        .await;
    rig.chain.set_ingress(key, 6);
    rig.until_worker(0, "nothing left to send", |w| &*w.message == "Computing").await;
}

#[tokio::test(start_paused = true)]
async fn edits_apply_immediately() {
    let mut rig = Rig::new(2, 10).await;
    rig.run();
    rig.start();
    rig.until_all(State::Active).await;

    // More stake.
    rig.edit_worker(0, |w| w.stake = 2 * STAKE).await;
    let (chain, key) = (rig.chain.clone(), rig.key(0));
    let raised = |e: &chain_memory::Event| matches!(e.call, Call::RestartComputing { stake, .. } if stake == 2 * STAKE);
    rig.until("more stake", |_| chain.worker(key).session.unwrap().stake == Some(2 * STAKE)).await;
    assert_eq!(rig.chain.events().iter().filter(|e| raised(e)).count(), 1);

    // Less stake changes nothing.
    rig.edit_worker(0, |w| w.stake = STAKE).await;
    tokio::time::sleep(BLOCK * 10).await;
    assert_eq!(rig.chain.worker(key).session.unwrap().stake, Some(2 * STAKE));

    // Another endpoint of the same machine.
    rig.connect.add("http://elsewhere", rig.workers[1].clone());
    rig.edit_worker(1, |w| w.endpoint = "http://elsewhere".into()).await;
    rig.until_worker(1, "computing there", |w| {
        w.worker.endpoint.contains("elsewhere") && w.state == State::Active
    })
    .await;
    assert_eq!(rig.chain.events().iter().filter(|e| matches!(e.call, Call::AddWorker { .. })).count(), 2);

    // Disabled, removed.
    rig.edit_worker(0, |w| w.enabled = false).await;
    rig.until_worker(0, "idle", |w| w.state == State::Idle && w.runner.is_none()).await;
    let calls = rig.workers[0].calls().len();
    tokio::time::sleep(BLOCK * 20).await;
    assert_eq!(rig.workers[0].calls().len(), calls, "an idle worker is left alone");
    let command = rig.fleet().command(rig.ids[0], Command::Restart);
    assert!(matches!(command, Err(CommandError::NotRunning { .. })));
    rig.edit_worker(0, |w| w.enabled = true).await;
    rig.until_worker(0, "computing again", |w| w.state == State::Active).await;
    rig.inventory.apply(vec![Edit::RemoveWorker(rig.ids[0])]).await.unwrap();
    rig.until("one worker", |s| s.workers.len() == 1).await;
    assert!(rig.fleet().worker(rig.ids[0]).is_none());
}

#[tokio::test(start_paused = true)]
async fn worker_that_lost_its_state_recovers() {
    let mut rig = Rig::new(3, 40).await;
    rig.run();
    rig.start();
    rig.until_all(State::Active).await;
    rig.workers[1].lose_state();
    rig.until_worker(1, "its state's loss", |w| w.state != State::Active).await;
    assert_eq!(rig.fleet().status().count(State::Active), 2, "the others are not held up");
    rig.until_all(State::Active).await;
    assert_eq!(rig.workers[1].count(Method::InitRuntime), 2);
    assert_eq!(rig.workers[1].overlaps(), 0);
    assert!(rig.chain.events().iter().all(|e| e.result.is_ok()));
}

#[tokio::test(start_paused = true)]
async fn unreachable_worker_is_reconnected() {
    let mut rig = Rig::new(2, 10).await;
    rig.run();
    rig.start();
    rig.until_all(State::Active).await;
    rig.workers[0].set_down(true);
    rig.until_worker(0, "an error", |w| w.state == State::Error).await;
    let status = rig.status(0);
    assert!(status.message.contains("unreachable"), "{}", status.message);
    assert!(status.failures >= 3);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert_eq!(rig.status(0).state, State::Error);
    assert_eq!(rig.status(1).state, State::Active);
    let asked = rig.workers[0].count(Method::GetInfo);
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert!(rig.workers[0].count(Method::GetInfo) - asked <= 21, "it is asked less and less often");
    rig.workers[0].set_down(false);
    rig.until_all(State::Active).await;
}

#[tokio::test(start_paused = true)]
async fn rejected_batch_is_observed_and_planned_again() {
    let mut rig = Rig::new(1, 60).await;
    rig.run();
    let worker = rig.workers[0].clone();
    // Taken, but the answer is lost; refused; died.
    worker.fail_next(Method::SyncCombinedHeaders, Failure::AnswerLost);
    worker.fail_next(Method::DispatchBlocks, Failure::AnswerLost);
    worker.fail_next(
        Method::DispatchBlocks,
        Failure::refuse("StateRootMismatch block=5 expected=0x actual=0x"),
    );
    worker.fail_next(Method::DispatchBlocks, Failure::Unreachable);
    worker.fail_next(Method::InitRuntime, Failure::Unreachable);
    rig.start();
    rig.until_all(State::Active).await;
    assert_eq!(worker.overlaps(), 0);
    let calls: Vec<Method> = worker.calls().into_iter().map(|(method, _)| method).collect();
    let after = |method: Method| {
        calls.windows(2).filter(move |pair| pair[0] == method).map(|pair| pair[1]).collect::<Vec<_>>()
    };
    assert_eq!(after(Method::InitRuntime), [Method::GetInfo; 2]);
    assert_eq!(after(Method::SyncCombinedHeaders)[0], Method::GetInfo, "an answer was lost");
    assert_eq!(after(Method::DispatchBlocks)[..3], [Method::GetInfo; 3], "refused or lost");
}

/// A reader whose views come late, as when its node is behind the trader's.
#[derive(Debug)]
struct Late(MemoryChain, watch::Receiver<Option<Arc<ChainView>>>);

impl ChainReader for Late {
    fn views(&self) -> watch::Receiver<Option<Arc<ChainView>>> {
        self.1.clone()
    }

    fn follow(&self, followed: Followed) {
        self.0.follow(followed);
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_sent_twice_with_late_views() {
    let mut rig = Rig::new(2, 10).await;
    rig.run();
    let (late, views) = watch::channel(None);
    let mut now = rig.chain.views();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(async move {
        let mut line = std::collections::VecDeque::new();
        while now.changed().await.is_ok() {
            line.push_back(now.borrow_and_update().clone());
            if line.len() > 5 {
                late.send_replace(line.pop_front().unwrap());
            }
        }
    });
    let parts = fleet::Parts::new(
        rig.inventory.clone(),
        rig.source.clone(),
        Arc::new(Late(rig.chain.clone(), views)),
        Arc::new(rig.queue.clone()),
        Arc::new(rig.connect.clone()),
    );
    rig.fleet = Some(fleet::Fleet::start(parts, Rig::config()));
    rig.until_all(State::Active).await;
    tokio::time::sleep(BLOCK * 10).await;
    let stats = rig.queue.stats().await.unwrap();
    assert_eq!((stats.succeeded, stats.failed), (6, 0), "register, add and start, of each");
}

/// A source whose heights promise more than it gives.
#[derive(Debug)]
struct Promising(Arc<MemorySource>, AtomicU64);

#[async_trait::async_trait]
impl BlobSource for Promising {
    fn heights(&self) -> watch::Receiver<Heights> {
        self.0.heights()
    }

    async fn genesis(&self) -> Result<Genesis, blob::Error> {
        self.0.genesis().await
    }

    async fn headers(&self, _: HeaderCursor, _: usize) -> Result<Option<HeaderBatch>, blob::Error> {
        let asked = self.1.fetch_add(1, Ordering::SeqCst);
        assert!(asked < 1000, "asked again and again");
        Ok(None)
    }

    async fn blocks(&self, cursor: BlockCursor, max: usize) -> Result<Option<BlockBatch>, blob::Error> {
        self.0.blocks(cursor, max).await
    }
}

#[tokio::test(start_paused = true)]
async fn source_without_data_is_retried_when_it_grows() {
    let mut rig = Rig::new(1, 10).await;
    let source = Arc::new(Promising(rig.source.clone(), AtomicU64::new(0)));
    rig.start_from(Arc::clone(&source) as Arc<dyn BlobSource>, Rig::config());
    rig.until_all(State::Synching).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let asked = source.1.load(Ordering::SeqCst);
    assert!(asked <= 8, "{asked} times in a minute");
    for _ in 0..5 {
        rig.blocks(1);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!((asked + 5..asked + 7).contains(&source.1.load(Ordering::SeqCst)));
}

#[tokio::test(start_paused = true)]
async fn commands_reach_one_worker() {
    let mut rig = Rig::new(2, 10).await;
    rig.run();
    rig.start();
    rig.until_all(State::Active).await;
    assert_eq!(
        rig.fleet().command(Uuid::max(), Command::Kick),
        Err(CommandError::Unknown { id: Uuid::max() })
    );

    rig.workers[0].set_restart(Restart::Lost);
    rig.fleet().command(rig.ids[0], Command::Kick).unwrap();
    rig.until_worker(0, "kicked", |w| w.state == State::Kicked).await;
    assert_eq!((rig.workers[0].kicks(), rig.workers[1].kicks()), (1, 0));
    rig.until_all(State::Active).await;

    let registered = || {
        let events = rig.chain.events();
        events.iter().filter(|e| matches!(e.call, Call::RegisterWorker { .. })).count()
    };
    assert_eq!(registered(), 2);
    rig.fleet().command(rig.ids[1], Command::RegisterAgain).unwrap();
    rig.until("registered again", |_| registered() == 3).await;
    rig.until_all(State::Active).await;
    tokio::time::sleep(BLOCK * 10).await;
    assert_eq!(registered(), 3, "registered again, once");
    rig.until_all(State::Active).await;

    // A hanging worker can be kicked.
    rig.workers[1].fail_always(Method::GetInfo, Some(Failure::Hang));
    tokio::time::sleep(BLOCK * 2).await;
    rig.fleet().command(rig.ids[1], Command::Kick).unwrap();
    tokio::time::sleep(BLOCK).await;
    assert_eq!(rig.workers[1].kicks(), 1);
    rig.fleet().stop().await;
    assert_eq!(rig.fleet().command(rig.ids[1], Command::Kick), Err(CommandError::Stopped));
}
