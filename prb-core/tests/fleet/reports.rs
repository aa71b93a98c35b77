//! Problems that the status reports, panics and the shutdown.

use super::*;

#[tokio::test(start_paused = true)]
async fn worker_of_another_pool_is_reported() {
    let mut rig = Rig::new(1, 10).await;
    rig.put_pool(PoolId(2), true).await;
    rig.run();
    rig.start();
    rig.until_all(State::Active).await;
    rig.edit_worker(0, |w| w.pid = PoolId(2)).await;
    rig.until_worker(0, "the other pool", |w| w.state == State::Error && w.message.contains("pool 1")).await;
    let before = rig.chain.events().len();
    tokio::time::sleep(BLOCK * 20).await;
    assert_eq!(rig.chain.events().len(), before, "nothing is sent for it");
    assert_eq!(rig.status(0).lag, Some(0), "it is kept in sync");
}

#[tokio::test(start_paused = true)]
async fn two_workers_with_one_key_are_reported() {
    let mut rig = Rig::new(1, 10).await;
    let twin = rig.add_worker(POOL).await;
    rig.connect.add(&endpoint(twin), ScriptedWorker::new(0));
    rig.run();
    rig.start();
    let reported = |s: &fleet::FleetStatus| {
        s.count(State::Active) == 1 && s.workers.iter().any(|w| w.message.contains("same public key"))
    };
    rig.until("one reported", reported).await;
    // When the holder goes, the other one takes its place.
    let holder = rig.ids[usize::from(rig.status(1).state == State::Active)];
    rig.inventory.apply(vec![Edit::RemoveWorker(holder)]).await.unwrap();
    rig.until("the other", |s| s.workers.len() == 1 && s.count(State::Active) == 1).await;
}

#[tokio::test(start_paused = true)]
async fn unresponsive_worker_stays_active_and_is_reported() {
    let mut rig = Rig::new(1, 10).await;
    rig.run();
    rig.start();
    rig.until_all(State::Active).await;
    let sent = rig.chain.events().len();
    rig.chain.set_session_state(rig.key(0), SessionState::WorkerUnresponsive);
    rig.until_worker(0, "unresponsive", |w| w.message.contains("Unresponsive")).await;
    assert_eq!(rig.status(0).state, State::Active);
    tokio::time::sleep(BLOCK * 5).await;
    assert_eq!(rig.status(0).lag, Some(0));
    rig.chain.set_session_state(rig.key(0), SessionState::WorkerIdle);
    rig.until_worker(0, "responsive", |w| &*w.message == "Computing").await;
    assert_eq!(rig.chain.events().len(), sent);
}

#[tokio::test(start_paused = true)]
async fn sync_only_sends_nothing() {
    let mut rig = Rig::new(2, 10).await;
    rig.run();
    let settings = Settings::default().with_sync_only(true);
    rig.start_with(Rig::config().with_settings(settings));
    rig.until_all(State::Synched).await;
    tokio::time::sleep(BLOCK * 10).await;
    assert!(rig.chain.events().is_empty());
}

#[tokio::test(start_paused = true)]
async fn low_scores_register_again_if_a_minimum_is_enforced() {
    let config = chain_memory::Config::default().with_score(None);
    let mut rig = Rig::with(config, 1, 10).await;
    rig.run();
    let settings = Settings::default().with_enforce_min_bench_score(true);
    rig.start_with(Rig::config().with_settings(settings));
    rig.until_worker(0, "waiting", |w| w.message.contains("benchmark score")).await;
    let key = rig.key(0);
    rig.chain.set_score(key, 49);
    rig.until_worker(0, "too low", |w| w.message.contains("49")).await;
    let chain = rig.chain.clone();
    let registered =
        || chain.events().iter().filter(|e| matches!(e.call, Call::RegisterWorker { .. })).count();
    rig.until("registered again", |_| registered() == 2).await;
    tokio::time::sleep(BLOCK * 10).await;
    assert_eq!(registered(), 2, "a benchmark is given its time");
    rig.chain.set_score(key, 50);
    rig.until_all(State::Active).await;
}

/// Somebody else registers the worker shortly before its benchmark is overdue.
#[tokio::test(start_paused = true)]
async fn benchmark_of_another_registration_is_given_its_time() {
    let mut rig = Rig::with(chain_memory::Config::default().with_score(None), 1, 10).await;
    rig.run();
    let settings = Settings::default().with_enforce_min_bench_score(true);
    rig.start_with(Rig::config().with_settings(settings));
    rig.until_worker(0, "waiting", |w| w.message.contains("benchmark score")).await;
    let registered = |rig: &Rig| {
        let calls = rig.chain.events().into_iter().map(|event| event.call);
        calls.filter(|call| matches!(call, Call::RegisterWorker { .. })).collect::<Vec<_>>()
    };
    tokio::time::sleep(BLOCK * 20).await;
    let mut again = registered(&rig).remove(0);
    let Call::RegisterWorker { replaces, .. } = &mut again else { panic!("{again:?}") };
    *replaces = rig.chain.worker(rig.key(0)).registration.map(|registration| registration.last_updated);
    rig.submit(again).await;
    tokio::time::sleep(BLOCK * 15).await;
    assert_eq!(registered(&rig).len(), 2, "each benchmark is given its time");
    rig.until("registered again", |_| registered(&rig).len() == 3).await;
}

/// A client that panics while its flag is set.
#[derive(Debug)]
struct Panicking(ScriptedWorker, Arc<AtomicU64>);

#[async_trait::async_trait]
impl PRuntimeClient for Panicking {
    async fn call(
        &self,
        method: Method,
        body: bytes::Bytes,
    ) -> Result<bytes::Bytes, prb_core::pruntime::Error> {
        let left = self.1.load(Ordering::Relaxed);
        if method == Method::DispatchBlocks && left > 0 {
            self.1.store(left - 1, Ordering::Relaxed);
            panic!("scripted panic");
        }
        self.0.call(method, body).await
    }

    async fn kick(&self) -> Result<(), prb_core::pruntime::Error> {
        self.0.kick().await
    }
}

#[derive(Debug)]
struct PanickingConnect(prb_core::pruntime::scripted::ScriptedConnect, ScriptedWorker, Arc<AtomicU64>);

impl Connect for PanickingConnect {
    fn connect(&self, endpoint: &str) -> Result<Arc<dyn PRuntimeClient>, ConnectError> {
        if endpoint == rig::endpoint(0) {
            return Ok(Arc::new(Panicking(self.1.clone(), Arc::clone(&self.2))));
        }
        self.0.connect(endpoint)
    }
}

/// Starts a fleet whose first worker panics as often as `panics` says, and waits for a panic.
async fn start_panicking(rig: &mut Rig, panics: &Arc<AtomicU64>) {
    let connect = PanickingConnect(rig.connect.clone(), rig.workers[0].clone(), Arc::clone(panics));
    let parts = fleet::Parts::new(
        rig.inventory.clone(),
        rig.source.clone(),
        Arc::new(rig.chain.clone()),
        Arc::new(rig.queue.clone()),
        Arc::new(connect),
    );
    rig.fleet = Some(fleet::Fleet::start(parts, Rig::config()));
    rig.until_worker(0, "the panic", |w| w.state == State::Error && w.message.contains("scripted panic"))
        .await;
}

#[tokio::test(start_paused = true)]
async fn panicked_worker_task_is_restarted() {
    let mut rig = Rig::new(4, 10).await;
    rig.run();
    let panics = Arc::new(AtomicU64::new(3));
    start_panicking(&mut rig, &panics).await;
    rig.until_all(State::Active).await;
    assert_eq!(panics.load(Ordering::Relaxed), 0);
    for worker in &rig.workers[1..] {
        assert_eq!(worker.count(Method::InitRuntime), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn command_for_a_panicked_worker_outlives_a_shutdown() {
    let mut rig = Rig::new(1, 10).await;
    rig.run();
    start_panicking(&mut rig, &Arc::new(AtomicU64::new(u64::MAX))).await;
    rig.fleet().command(rig.ids[0], Command::Stop).unwrap();
    assert!(rig.fleet().stop().await);
    assert_eq!(rig.inventory.snapshots().borrow().saved(rig.ids[0]).goal, Goal::Stop);
}

#[tokio::test(start_paused = true)]
async fn stalled_worker_is_reported() {
    let mut rig = Rig::new(2, 10).await;
    rig.run();
    rig.workers[0].fail_always(Method::DispatchBlocks, Some(Failure::Hang));
    rig.start();
    rig.until_worker(0, "stalled", |w| w.stalled).await;
    assert!(!rig.status(1).stalled);
    rig.until_worker(1, "computing", |w| w.state == State::Active).await;
    // Let loose, by the operator's hand.
    rig.workers[0].fail_always(Method::DispatchBlocks, None);
    rig.fleet().command(rig.ids[0], Command::Restart).unwrap();
    rig.until_all(State::Active).await;
    assert!(!rig.status(0).stalled);
}

#[tokio::test(start_paused = true)]
async fn slow_worker_with_progress_is_not_reported() {
    let mut rig = Rig::new(1, 10).await;
    rig.run();
    // There is always more for it, and each call takes a while.
    rig.workers[0].set_latency(Method::DispatchBlocks, Duration::from_secs(80));
    rig.start();
    for _ in 0..200 {
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert!(!rig.status(0).stalled);
    }
    assert!(rig.status(0).lag.unwrap() > 0);
}

#[tokio::test(start_paused = true)]
async fn stop_does_not_wait_for_hanging_workers() {
    let mut rig = Rig::new(20, 10).await;
    rig.run();
    for worker in &rig.workers {
        worker.fail_always(Method::SyncCombinedHeaders, Some(Failure::Hang));
    }
    rig.start();
    rig.until_all(State::Synching).await;
    let before = tokio::time::Instant::now();
    assert!(rig.fleet().stop().await);
    assert!(before.elapsed() < Duration::from_secs(5));
    // A fleet that was stopped is stopped again without harm, and can be followed by another.
    assert!(rig.fleet().stop().await);
    for worker in &rig.workers {
        worker.fail_always(Method::SyncCombinedHeaders, None);
    }
    rig.start();
    rig.until_all(State::Active).await;
    for worker in &rig.workers {
        assert_eq!(worker.overlaps(), 0);
    }
}
