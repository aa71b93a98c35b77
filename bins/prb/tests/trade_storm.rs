//! Traders, lifecycle manager and Redis are killed repeatedly under a load of jobs: every effect is on chain
//! once, every submitter gets its outcome, and nothing waits forever.
//!
//! Variables: `PRB_TEST_STORM_JOBS` (200), `PRB_TEST_STORM_KILLS` (4), `PRB_TEST_STORM_WORKERS` (6 real
//! workers, whose manager is killed as well) and `PRB_TEST_STORM_SEED` (1). The full check has 2000 jobs, 30
//! kills and 20 workers.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{path::PathBuf, time::Duration};

use prb_core::queue::JobQueue;
use prb_devnet::Config;
use prb_queue::redis::{self, RedisQueue};
use prb_walkie::{
    identity::{self, Identity},
    proto::Role,
    vault::RsaVault,
};
use rand::{Rng, SeedableRng, rngs::StdRng, seq::SliceRandom};
use tokio::time::{Instant, sleep};

mod support;
use support::{
    Net, chain,
    daemons::{Daemon, TestPeer, assign, manager, provider},
    load::Load,
    redis::Redis,
};

const POOLS: usize = 20;
const LIMIT: Duration = Duration::from_secs(180);

fn variable(name: &str, default: usize) -> usize {
    std::env::var(name).map_or(default, |text| text.parse().unwrap())
}

/// The processes that are killed together.
#[derive(Clone, Copy, Debug)]
struct Victims {
    trader: bool,
    manager: bool,
    redis: bool,
}

/// Each alone, every pair, and all, repeated in a random order; single ones and all come first if only a few
/// are requested.
fn schedule(kills: usize, random: &mut StdRng) -> Vec<Victims> {
    let all = [0b001, 0b100, 0b111, 0b010, 0b011, 0b101, 0b110];
    let mut kinds: Vec<u32> = all.into_iter().cycle().take(kills).collect();
    kinds.shuffle(random);
    let victims = |kind: u32| Victims { trader: kind & 1 > 0, manager: kind & 2 > 0, redis: kind & 4 > 0 };
    kinds.into_iter().map(victims).collect()
}

/// The processes. Prints their output if the test fails.
struct Scene {
    traders: [Daemon; 2],
    manager: Daemon,
    provider: Daemon,
    redis: Redis,
    /// Whether Redis kept its data at its last restart.
    had_data: bool,
    story: Vec<String>,
}

impl Drop for Scene {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return;
        }
        for line in &self.story {
            eprintln!("{line}");
        }
        for daemon in self.traders.iter().chain([&self.manager, &self.provider]) {
            eprintln!("---- {}: unready {:?}\n{}", daemon.name(), daemon.unready(), daemon.log_tail());
        }
        for question in [
            "LRANGE bq:prbmq__main:waiting 0 -1",
            "LRANGE bq:prbmq__main:active 0 -1",
            "ZRANGE bq:prbmq__main:delayed 0 -1 WITHSCORES",
            "ZRANGE bq:prbmq__main:prb:leases 0 -1 WITHSCORES",
            "HGETALL bq:prbmq__main:prb:books",
            "KEYS bq:prbmq__main:prb:account:*",
            "TIME",
        ] {
            let answer = self.redis.ask(question).unwrap_or_default();
            let words: Vec<_> = answer.lines().filter(|line| !line.starts_with(['$', '*', '+'])).collect();
            eprintln!("---- {question}\n{}", words[..words.len().min(400)].join(" "));
        }
    }
}

impl Scene {
    /// Kills them, and restarts them after a moment.
    async fn kill(&mut self, victims: Victims, random: &mut StdRng) {
        let all = victims.trader && victims.manager && victims.redis;
        let one = random.random_range(0..2);
        let traders = if !victims.trader {
            vec![]
        } else if all {
            vec![0, 1]
        } else {
            vec![one]
        };
        traders.iter().for_each(|trader| self.traders[*trader].kill());
        if victims.redis {
            self.redis.kill();
        }
        if victims.manager {
            self.manager.kill();
        }
        sleep(Duration::from_millis(random.random_range(0..1_500))).await;
        if victims.redis {
            self.had_data = !self.had_data;
            self.redis.restart(self.had_data);
        }
        sleep(Duration::from_millis(random.random_range(0..500))).await;
        traders.iter().for_each(|trader| self.traders[*trader].start());
        if victims.manager {
            self.manager.start();
        }
        let data = if victims.redis { if self.had_data { ", with its data" } else { ", empty" } } else { "" };
        let line = format!("killed traders {traders:?}, {victims:?}{data}");
        eprintln!("{line}");
        self.story.push(line);
    }

    /// Stops the traders, which are ready by then, and the provider.
    async fn stop(mut self) {
        for trader in &mut self.traders {
            trader.until_unready(&[], LIMIT).await;
            trader.stop().await;
        }
        self.provider.stop().await;
    }

    /// Waits until no job is left.
    async fn until_empty(&self, queue: &RedisQueue) -> Result<(), String> {
        let start = Instant::now();
        loop {
            let stats = queue.stats().await.map_err(|e| e.to_string())?;
            if stats.waiting + stats.active + stats.delayed == 0 {
                return Ok(());
            }
            if start.elapsed() > LIMIT {
                return Err(format!("jobs are left in the queue: {stats:?}"));
            }
            sleep(Duration::from_millis(100)).await;
        }
    }
}

/// The daemons, not yet started; traders have the manager's identity.
fn scene(net: &Net) -> Scene {
    let folder = net.dir.path();
    let redis = Redis::start(folder);
    let provider = provider(net, "dp");
    let manager = manager(net, "lm")
        .set("USE_BUILT_IN_TRADER", false)
        .set("PHALA_Q_REDIS_ENDPOINT", redis.url())
        .set("PHALA_WALKIE_BOOT_NODES", provider.address());
    let trader = |name| {
        Daemon::new(folder, "trade", name)
            .set("PHALA_CHAIN_ENDPOINT", net.devnet.para().url())
            .set("PHALA_PEER_ID_PREFIX", manager_keys(net).display())
            .set("PHALA_Q_REDIS_ENDPOINT", redis.url())
            .set("PRB_QUEUE_PAGE_LISTEN", "none")
    };
    let traders = [trader("trader"), trader("spare")];
    Scene { traders, manager, provider, redis, had_data: false, story: Vec::new() }
}

fn manager_keys(net: &Net) -> PathBuf {
    net.dir.path().join("lm").join("id")
}

#[tokio::test(flavor = "multi_thread")]
async fn under_repeated_kills_each_effect_is_on_chain_exactly_once() {
    let (jobs, kills) = (variable("PRB_TEST_STORM_JOBS", 200), variable("PRB_TEST_STORM_KILLS", 4));
    let (workers, seed) = (variable("PRB_TEST_STORM_WORKERS", 6), variable("PRB_TEST_STORM_SEED", 1) as u64);
    let failed = |error: String| -> ! { panic!("seed {seed}: {error}") };
    let start = Instant::now();
    let mut random = StdRng::seed_from_u64(seed);
    let net = Net::start(Config { pools: POOLS as u64, ..chain() }, workers as u32).await;
    let mut scene = scene(&net);
    scene.provider.start();
    scene.manager.start();
    let test_peer = TestPeer::new(vec![scene.manager.address()], "default").await;
    let client = test_peer.find(Role::LifecycleManager, "default", LIMIT).await;
    let pools: Vec<_> = (0..POOLS).collect();
    assign(&net, &client, &pools, &(0..workers).collect::<Vec<_>>()).await;
    scene.traders.iter_mut().for_each(Daemon::start);

    let identity = Identity::load(&manager_keys(&net), identity::Role::Lifecycle).unwrap().unwrap();
    let queue = RedisQueue::start(redis::Config::new(scene.redis.url())).unwrap();
    let mut load = Load::start(&net, &queue, &RsaVault::new(&identity), jobs).await;
    for (n, victims) in schedule(kills, &mut random).into_iter().enumerate() {
        // Kills are spread over the time with work.
        let wanted = load.jobs * n / (kills + 1);
        load.until_done(wanted).await.unwrap_or_else(|e| failed(format!("{e}, {:?}", load.tally)));
        sleep(Duration::from_millis(random.random_range(0..1_500))).await;
        eprint!("{:.1?}, {} jobs done: ", start.elapsed(), load.done());
        scene.kill(victims, &mut random).await;
    }
    load.returned().await.unwrap_or_else(|e| failed(format!("{e}, {:?}", load.tally)));
    net.until_active(0..workers, LIMIT).await;
    let (jobs, elapsed) = (load.jobs, start.elapsed());
    eprintln!("seed {seed}: {jobs} jobs over {POOLS} pools, {kills} kills, {elapsed:.1?}, {:?}", load.tally);

    // The manager's workers create new jobs as long as it runs.
    scene.manager.stop().await;
    scene.until_empty(&queue).await.unwrap_or_else(|e| failed(e));
    load.check_events(net.devnet.para()).unwrap_or_else(|e| failed(e));
    net.assert_done_once();
    scene.stop().await;
    test_peer.close().await;
    net.shutdown().await;
}
