//! Tests with a Redis that is killed, flushed, hangs or drops connections, and with consumers that leave:
//! nobody waits forever, and no job is lost without its submitter being told.
#![allow(clippy::unwrap_used)]

mod support;

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use prb_core::{
    conformance::queue::job,
    primitives::AccountId,
    queue::{Error, JobHandle, JobId, JobQueue},
    trade::accounts::AccountLeases,
};
use prb_queue::redis::{Config, RedisQueue};
use support::{LONG, Persistence, Server, done, fresh_name, lease, outcome_of};
use tokio::{task::JoinSet, time::timeout};

const TTL: Duration = Duration::from_secs(30);

fn quick(server: &Server) -> Config {
    server
        .config()
        .with_name(fresh_name())
        .with_stall_interval(Duration::from_millis(500))
        .with_poll_interval(Duration::from_millis(250))
        .with_call_timeout(Duration::from_secs(20))
        .with_outage_limit(Duration::from_secs(30))
}

/// Consumers that complete every job with an outcome naming its pool, whatever Redis does; counts how often
/// each job was handed out.
struct Consumers {
    _tasks: JoinSet<()>,
    hand_outs: Arc<Mutex<HashMap<JobId, u32>>>,
    lost: Arc<AtomicU32>,
}

impl Consumers {
    fn start(queue: &RedisQueue, count: usize) -> Self {
        let mut tasks = JoinSet::new();
        let hand_outs = Arc::new(Mutex::new(HashMap::new()));
        let lost = Arc::new(AtomicU32::new(0));
        for _ in 0..count {
            tasks.spawn(consume(queue.clone(), hand_outs.clone(), lost.clone()));
        }
        Self { _tasks: tasks, hand_outs, lost }
    }

    fn most_hand_outs(&self) -> u32 {
        self.hand_outs.lock().unwrap().values().max().copied().unwrap_or_default()
    }
}

async fn consume(queue: RedisQueue, hand_outs: Arc<Mutex<HashMap<JobId, u32>>>, lost: Arc<AtomicU32>) {
    loop {
        let leased = match queue.lease(TTL).await {
            Ok(leased) => leased,
            Err(Error::Unavailable(_)) => continue,
            Err(e) => panic!("{e}"),
        };
        *hand_outs.lock().unwrap().entry(leased.id).or_default() += 1;
        let outcome = done(u32::try_from(leased.job.pool.0).unwrap());
        while let Err(e) = queue.complete(leased.id, leased.token, outcome.clone()).await {
            match e {
                Error::Unavailable(_) => {}
                Error::LeaseLost { .. } => {
                    lost.fetch_add(1, Ordering::Relaxed);
                    break;
                }
                e => panic!("{e}"),
            }
        }
    }
}

/// Submits until Redis accepts.
async fn submit(queue: &RedisQueue, n: u8) -> JobHandle {
    let until = tokio::time::Instant::now() + LONG;
    loop {
        match queue.submit(job(n, 0)).await {
            Ok(handle) => return handle,
            Err(e) if e.is_retryable() && tokio::time::Instant::now() < until => {}
            Err(e) => panic!("{e}"),
        }
    }
}

/// Submits `count` jobs from many tasks; each checks that it gets its own job's outcome. Returns how many
/// were done and how many were reported as gone.
async fn load(queue: &RedisQueue, count: u32) -> (u32, u32) {
    let mut submitters = JoinSet::new();
    for lane in 0..20 {
        let queue = queue.clone();
        submitters.spawn(async move {
            let (mut finished, mut gone) = (0, 0);
            for n in (lane..count).step_by(20) {
                let n = (n % 251) as u8;
                match outcome_of(submit(&queue, n).await).await {
                    Ok(outcome) => {
                        assert_eq!(outcome, done(n.into()), "another job's outcome");
                        finished += 1;
                    }
                    Err(failure) => {
                        assert!(failure.message.contains("submit again"), "{failure}");
                        gone += 1;
                    }
                }
            }
            (finished, gone)
        });
    }
    let mut sum = (0, 0);
    while let Some(lane) = submitters.join_next().await {
        let (finished, gone) = lane.unwrap();
        sum = (sum.0 + finished, sum.1 + gone);
    }
    sum
}

/// Waits until Redis has `count` more jobs.
async fn jobs_more(server: &Server, config: &Config, count: u64) {
    let key = format!("GET bq:{}:id", config.name);
    let start: Option<u64> = server.command(&key).await;
    let until = tokio::time::Instant::now() + LONG;
    loop {
        let now: Option<u64> = server.command(&key).await;
        if now.unwrap_or_default() >= start.unwrap_or_default() + count {
            return;
        }
        assert!(tokio::time::Instant::now() < until, "no jobs come");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_redis_with_persistence_loses_nothing() {
    support::log();
    let mut server = Server::with(Persistence::AppendOnly);
    let config = quick(&server);
    let (submitters, consumer) =
        (RedisQueue::start(config.clone()).unwrap(), RedisQueue::start(config.clone()).unwrap());
    let consumers = Consumers::start(&consumer, 16);
    let work = tokio::spawn(async move { load(&submitters, 2000).await });
    for _ in 0..5 {
        jobs_more(&server, &config, 50).await;
        server.kill();
        server.restart();
    }
    let (finished, gone) = timeout(LONG * 3, work).await.unwrap().unwrap();
    assert_eq!((finished, gone), (2000, 0), "done and gone");
    assert_eq!(consumers.most_hand_outs(), 1, "a job was handed out again though its consumer lived");
    assert_eq!(consumer.stats().await.unwrap().active, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_redis_that_restarts_empty_is_reported_to_submitters() {
    let mut server = Server::start();
    let config = quick(&server);
    let (submitters, consumer) =
        (RedisQueue::start(config.clone()).unwrap(), RedisQueue::start(config.clone()).unwrap());
    let _consumers = Consumers::start(&consumer, 16);
    let work = tokio::spawn(async move { load(&submitters, 2000).await });
    for _ in 0..5 {
        jobs_more(&server, &config, 50).await;
        server.kill();
        server.restart();
    }
    let (finished, gone) = timeout(LONG * 3, work).await.unwrap().unwrap();
    assert_eq!(finished + gone, 2000);
    assert!(finished > 1000, "only {finished} were done");
}

#[tokio::test]
async fn flush_is_reported_to_submitters_and_consumers() {
    let server = Server::start();
    let config = quick(&server);
    let queue = RedisQueue::start(config.clone()).unwrap();
    let (waiting, held) = (submit(&queue, 1).await, submit(&queue, 2).await);
    let leased = lease(&queue, TTL).await;
    let _: () = server.command("FLUSHALL").await;
    for handle in [waiting, held] {
        let failure = outcome_of(handle).await.unwrap_err();
        assert!(failure.message.contains("check the chain and submit again"), "{failure}");
    }
    let pair = [(leased.id, leased.token)];
    assert_eq!(queue.heartbeat(&pair, TTL).await.unwrap(), [leased.id]);
    let late = queue.complete(leased.id, leased.token, done(1)).await;
    assert!(matches!(late, Err(Error::LeaseLost { .. })), "{late:?}");
    // The queue continues, with ids from the beginning.
    let handle = submit(&queue, 3).await;
    let leased = lease(&queue, TTL).await;
    assert_eq!((handle.id, leased.id), (JobId(1), JobId(1)));
    queue.complete(leased.id, leased.token, done(3)).await.unwrap();
    assert_eq!(outcome_of(handle).await, Ok(done(3)));
}

#[tokio::test]
async fn reused_id_is_another_job() {
    let server = Server::start();
    // Polling is slow, so the event of the other job arrives first.
    let config = quick(&server).with_poll_interval(Duration::from_secs(3));
    let (first, second) = (RedisQueue::start(config.clone()).unwrap(), RedisQueue::start(config).unwrap());
    let lost = submit(&first, 1).await;
    let old = lease(&first, TTL).await;
    let _: () = server.command("FLUSHALL").await;
    let handle = submit(&second, 2).await;
    assert_eq!(handle.id, lost.id);
    let new = lease(&second, TTL).await;
    let late = first.complete(old.id, old.token, done(1)).await;
    assert!(matches!(late, Err(Error::LeaseLost { .. })), "ended somebody else's lease: {late:?}");
    second.complete(new.id, new.token, done(2)).await.unwrap();
    assert_eq!(outcome_of(handle).await, Ok(done(2)));
    let failure = outcome_of(lost).await.unwrap_err();
    assert!(failure.message.contains("gone"), "{failure}");
}

#[tokio::test]
async fn lasting_outage_is_reported_in_time() {
    let mut server = Server::start();
    let config =
        quick(&server).with_call_timeout(Duration::from_secs(1)).with_outage_limit(Duration::from_secs(2));
    let queue = RedisQueue::start(config).unwrap();
    queue.ready().await.unwrap();
    let handle = submit(&queue, 1).await;
    let leased = lease(&queue, TTL).await;
    let waiting = tokio::spawn({
        let queue = queue.clone();
        async move { queue.lease(TTL).await }
    });
    server.kill();
    let unavailable = |what: &str, error: Option<Error>| {
        assert!(matches!(error, Some(Error::Unavailable(_))), "{what} gave {error:?}");
    };
    unavailable("a lease that waits", timeout(LONG, waiting).await.unwrap().unwrap().err());
    unavailable("ready", timeout(LONG, queue.ready()).await.unwrap().err());
    unavailable("submit", timeout(LONG, queue.submit(job(1, 0))).await.unwrap().err());
    let ended = queue.complete(leased.id, leased.token, done(1));
    unavailable("complete", timeout(LONG, ended).await.unwrap().err());
    unavailable("stats", timeout(LONG, queue.stats()).await.unwrap().err());
    let pair = [(leased.id, leased.token)];
    unavailable("heartbeat", timeout(LONG, queue.heartbeat(&pair, TTL)).await.unwrap().err());
    let failure = outcome_of(handle).await.unwrap_err();
    assert!(failure.message.contains("has been unavailable for 2 s"), "{failure}");
    // Redis returns.
    server.restart();
    let handle = submit(&queue, 9).await;
    let leased = lease(&queue, TTL).await;
    queue.complete(leased.id, leased.token, done(9)).await.unwrap();
    assert_eq!(outcome_of(handle).await, Ok(done(9)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lost_connections_neither_lose_nor_duplicate_jobs() {
    support::log();
    let server = Server::start();
    let config = quick(&server);
    let (submitters, consumer) =
        (RedisQueue::start(config.clone()).unwrap(), RedisQueue::start(config.clone()).unwrap());
    let consumers = Consumers::start(&consumer, 16);
    let work = tokio::spawn(async move { load(&submitters, 2000).await });
    let mut kill = server.connection().await;
    for round in 0..30 {
        jobs_more(&server, &config, 40).await;
        // All but the connection that kills.
        let kind = if round % 2 == 0 { "normal" } else { "pubsub" };
        let words = ["KILL", "TYPE", kind, "SKIPME", "yes"];
        let _: u32 = redis::cmd("CLIENT").arg(&words).query_async(&mut kill).await.unwrap();
    }
    let (finished, gone) = timeout(LONG * 2, work).await.unwrap().unwrap();
    assert_eq!((finished, gone), (2000, 0), "done and gone");
    assert_eq!(consumers.most_hand_outs(), 1, "a job was handed out twice");
    let lost = consumers.lost.load(Ordering::Relaxed);
    assert_eq!(lost, 0, "consumers were told that leases were lost which they had ended");
    let jobs: u32 = server.command(&format!("HLEN bq:{}:jobs", config.name)).await;
    assert_eq!(jobs, 2000, "a job was added twice");
}

#[tokio::test]
async fn outcomes_arrive_without_events() {
    let server = Server::start();
    // A Redis user that may not subscribe: no event ever arrives.
    let config = quick(&server);
    let rule = "ACL SETUSER deaf on >secret ~* +@all resetchannels";
    let _: () = server.command(rule).await;
    let queue = RedisQueue::start(config.clone()).unwrap();
    let url = format!("redis://deaf:secret@127.0.0.1:{}", server.port);
    let deaf = RedisQueue::start(config.with_url(url)).unwrap();
    let handle = submit(&deaf, 1).await;
    let leased = lease(&queue, TTL).await;
    queue.complete(leased.id, leased.token, done(1)).await.unwrap();
    assert_eq!(outcome_of(handle).await, Ok(done(1)));
    let handle = submit(&deaf, 2).await;
    let leased = lease(&queue, TTL).await;
    let failure = prb_core::queue::JobFailure { message: "two\nlines".into() };
    queue.fail(leased.id, leased.token, failure.clone(), None).await.unwrap();
    assert_eq!(outcome_of(handle).await, Err(failure));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hanging_redis_loses_nothing() {
    let server = Server::start();
    let config = quick(&server).with_call_timeout(Duration::from_secs(1));
    let (submitters, consumer) =
        (RedisQueue::start(config.clone()).unwrap(), RedisQueue::start(config.clone()).unwrap());
    let consumers = Consumers::start(&consumer, 16);
    let mut work = tokio::spawn(async move { load(&submitters, 400).await });
    jobs_more(&server, &config, 50).await;
    server.signal("-STOP");
    let early = timeout(Duration::from_secs(3), &mut work).await;
    server.signal("-CONT");
    assert!(early.is_err(), "all was done before the server hung");
    let (finished, gone) = timeout(LONG * 2, work).await.unwrap().unwrap();
    assert_eq!((finished, gone), (400, 0), "done and gone");
    assert_eq!(consumers.most_hand_outs(), 1, "a job was handed out twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cancelled_leases_lose_no_job() {
    let server = Server::start();
    let queue = RedisQueue::start(quick(&server)).unwrap();
    let mut leavers = JoinSet::new();
    for n in 0..16u64 {
        let queue = queue.clone();
        leavers.spawn(async move {
            for round in 0..100 {
                // Dropped at every stage: before the take, during it, and with the job on its way.
                let delay = Duration::from_micros((n * 37 + round * 101) % 1500);
                if let Ok(leased) = timeout(delay, queue.lease(TTL)).await {
                    let leased = leased.unwrap();
                    assert_eq!(leased.attempt, 0, "a cancelled call leased the job before");
                    queue.complete(leased.id, leased.token, done(1)).await.unwrap();
                }
            }
        });
    }
    let mut handles = Vec::new();
    for n in 0..200 {
        handles.push(submit(&queue, n).await);
    }
    while let Some(left) = leavers.join_next().await {
        left.unwrap();
    }
    // The remaining jobs are all still handed out for the first time.
    let rest = tokio::spawn({
        let queue = queue.clone();
        async move {
            loop {
                let leased = queue.lease(TTL).await.unwrap();
                assert_eq!(leased.attempt, 0, "a cancelled call leased the job before");
                queue.complete(leased.id, leased.token, done(1)).await.unwrap();
            }
        }
    });
    for handle in handles {
        assert_eq!(outcome_of(handle).await, Ok(done(1)));
    }
    assert!(!rest.is_finished());
}

#[tokio::test]
async fn expired_lease_of_dead_process_is_noticed_by_waiting_consumer() {
    let server = Server::start();
    // The stall check would recover the job as well, so it is slow here.
    let config = quick(&server).with_stall_interval(LONG * 5);
    let (dying, other) = (RedisQueue::start(config.clone()).unwrap(), RedisQueue::start(config).unwrap());
    submit(&other, 1).await;
    let first = lease(&other, LONG * 5).await;
    other.complete(first.id, first.token, done(1)).await.unwrap();
    let handle = submit(&other, 1).await;
    let left = lease(&dying, Duration::from_millis(1500)).await;
    drop(dying);
    let again = lease(&other, TTL).await;
    assert_eq!((again.id, again.attempt), (left.id, 1));
    other.complete(again.id, again.token, done(2)).await.unwrap();
    assert_eq!(outcome_of(handle).await, Ok(done(2)));
}

/// Moves every time that Redis has kept ahead by a day: what a clock finds that is set back by a day.
async fn set_clock_back(server: &Server, config: &Config) {
    const SCRIPT: &str = "local p, day = ARGV[1], 86400000 \
        for _, name in ipairs({ 'delayed', 'prb:leases', 'prb:ended' }) do \
            for _, id in ipairs(redis.call('ZRANGE', p .. name, 0, -1)) do \
                redis.call('ZINCRBY', p .. name, day, id) \
            end \
        end \
        for _, key in ipairs(redis.call('KEYS', p .. '*')) do \
            local left = redis.call('PTTL', key) \
            if left > 0 then redis.call('PEXPIRE', key, left + day) end \
        end \
        return redis.call('HINCRBY', p .. 'prb:meta', 'clock', day)";
    let mut command = redis::cmd("EVAL");
    command.arg(SCRIPT).arg(0).arg(format!("bq:{}:", config.name));
    let clock: u64 = command.query_async(&mut server.connection().await).await.unwrap();
    assert!(clock > 86_400_000 * 365, "the queue keeps no time");
}

/// Leases and delays that were to end soon do not last until the clock has caught up.
#[tokio::test]
async fn clock_that_is_set_back_delays_no_job() {
    const SOON: Duration = Duration::from_secs(3);
    const ACCOUNT: AccountId = AccountId([7; 32]);
    let server = Server::start();
    let config = quick(&server);
    let (dying, other) =
        (RedisQueue::start(config.clone()).unwrap(), RedisQueue::start(config.clone()).unwrap());
    let (first, second) = (submit(&other, 1).await, submit(&other, 2).await);
    let left = lease(&dying, SOON).await;
    let delayed = lease(&other, TTL).await;
    other.release(&[(delayed.id, delayed.token)], SOON).await.unwrap();
    dying.accounts().acquire(ACCOUNT, SOON).await.unwrap().unwrap();
    drop(dying);
    set_clock_back(&server, &config).await;
    let mut again = Vec::new();
    for _ in 0..2 {
        let lease = lease(&other, TTL).await;
        again.push(lease.id);
        other.complete(lease.id, lease.token, done(2)).await.unwrap();
    }
    again.sort();
    assert_eq!(again, [left.id, delayed.id]);
    assert_eq!((outcome_of(first).await, outcome_of(second).await), (Ok(done(2)), Ok(done(2))));
    let accounts = other.accounts();
    let taken = async { while accounts.acquire(ACCOUNT, SOON).await.unwrap().is_none() {} };
    assert!(timeout(LONG, taken).await.is_ok(), "the account of a trader that has ended stays leased");
}

#[tokio::test]
async fn closed_queue_returns_closed() {
    let server = Server::start();
    let queue = RedisQueue::start(quick(&server)).unwrap();
    let handle = submit(&queue, 1).await;
    lease(&queue, TTL).await;
    let waiting = tokio::spawn({
        let queue = queue.clone();
        async move { queue.lease(TTL).await }
    });
    tokio::task::yield_now().await;
    queue.close();
    assert!(matches!(timeout(LONG, waiting).await.unwrap().unwrap(), Err(Error::Closed)));
    assert!(matches!(queue.submit(job(1, 0)).await, Err(Error::Closed)));
    assert!(outcome_of(handle).await.unwrap_err().message.contains("closed"));
}

/// A full lane hands jobs back repeatedly, then its trader dies.
#[tokio::test]
async fn handed_back_jobs_keep_order_when_leases_expire() {
    let server = Server::start();
    let queue = RedisQueue::start(quick(&server)).unwrap();
    for n in 1..=3 {
        drop(submit(&queue, n).await);
    }
    for _ in 0..5 {
        let mut leases = Vec::new();
        for _ in 1..=3 {
            let leased = lease(&queue, TTL).await;
            leases.push((leased.id, leased.token));
        }
        queue.release(&leases, Duration::ZERO).await.unwrap();
    }
    for _ in 1..=3 {
        lease(&queue, Duration::from_millis(300)).await;
    }
    tokio::time::sleep(Duration::from_millis(400)).await;
    // Younger than all of them.
    drop(submit(&queue, 4).await);
    let mut ids = Vec::new();
    for _ in 1..=4 {
        ids.push(lease(&queue, TTL).await.id.0);
    }
    assert_eq!(ids, [1, 2, 3, 4]);
}
