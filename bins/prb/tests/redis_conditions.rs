//! Conditions that a Redis gets into, as the daemons that need it show them: a code with the cause, a line of the log
//! with server and cause and not one for every try, and work again without a restart once the cause is gone.
#![allow(clippy::unwrap_used, missing_docs)]

use std::time::Duration;

use prb_walkie::identity::{Identity, Role};
use serde_json::Value;
use tokio::time::{Instant, sleep};

#[path = "../../../prb-queue/tests/support/proxy.rs"]
mod proxy;
mod support;
use proxy::Proxy;
use support::{
    Net, chain,
    daemons::{Daemon, free_port, manager},
    redis::Redis,
};

const LIMIT: Duration = Duration::from_secs(60);
/// Warnings of one condition at most: each part of a daemon that meets it may tell it, and how it began.
const MAX_LINES: usize = 12;

/// A trader and a lifecycle manager on one Redis.
struct Daemons {
    all: [Daemon; 2],
    /// How the server stands in messages.
    server: String,
}

impl Daemons {
    async fn start(net: &Net, port: u16) -> Self {
        let url = format!("redis://127.0.0.1:{port}");
        let trader = Daemon::new(net.dir.path(), "trade", "trader")
            .set("PHALA_CHAIN_ENDPOINT", net.devnet.para().url())
            .set("PHALA_Q_REDIS_ENDPOINT", &url)
            .set("PRB_QUEUE_PAGE_LISTEN", "none");
        Identity::generate().unwrap().store(&trader.identity_folder(), Role::Lifecycle).unwrap();
        let manager = manager(net, "lm")
            .set("USE_BUILT_IN_TRADER", false)
            .set("PHALA_Q_REDIS_ENDPOINT", &url)
            .set("PRB_CONSOLE_LISTEN", "none")
            .set("PRB_API_LISTEN", "none");
        let mut all = [trader, manager];
        all.iter_mut().for_each(Daemon::start);
        let daemons = Self { all, server: format!("127.0.0.1:{port}") };
        daemons.are_well().await;
        daemons
    }

    /// Waits until neither misses its queue.
    async fn are_well(&self) {
        for daemon in &self.all {
            let start = Instant::now();
            while daemon.unready().is_none_or(|codes| codes.contains(&"queue_unreachable".to_owned())) {
                assert!(start.elapsed() < LIMIT, "{}: {}", daemon.name(), daemon.log_tail());
                sleep(Duration::from_millis(100)).await;
            }
        }
    }

    /// Puts the server into a condition and takes it out again; each daemon says so meanwhile.
    async fn in_condition(&self, words: &str, begin: impl AsyncFnOnce(), end: impl AsyncFnOnce()) {
        let before = self.all.each_ref().map(|daemon| daemon.log().len());
        begin().await;
        for daemon in &self.all {
            let start = Instant::now();
            let told = || daemon.ops("/readyz").map(|(_, body)| body).unwrap_or_default();
            let fits = |body: &str| {
                let body: Value = serde_json::from_str(body).unwrap_or_default();
                body["reasons"].as_array().is_some_and(|reasons| {
                    reasons.iter().any(|reason| {
                        let message = reason["message"].as_str().unwrap_or_default();
                        reason["code"] == "queue_unreachable"
                            && message.contains(words)
                            && message.contains(&self.server)
                    })
                })
            };
            while !fits(&told()) {
                assert!(
                    start.elapsed() < LIMIT,
                    "{words}: {}: {}\n{}",
                    daemon.name(),
                    told(),
                    daemon.log_tail()
                );
                sleep(Duration::from_millis(100)).await;
            }
        }
        // It stays so for a while, in which it is tried again and again.
        sleep(Duration::from_secs(2)).await;
        for (daemon, before) in self.all.iter().zip(before) {
            let log = daemon.log().split_off(before);
            let warnings: Vec<_> = log.lines().filter(|line| line.contains("\"WARN\"")).collect();
            let named = warnings.iter().filter(|line| line.contains(words) && line.contains(&self.server));
            assert!(named.count() > 0, "{words}: {} says nothing: {warnings:#?}", daemon.name());
            assert!(warnings.len() <= MAX_LINES, "{words}: {} floods the log: {warnings:#?}", daemon.name());
        }
        end().await;
        self.are_well().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_refuses_is_named_by_trader_and_manager() {
    let net = Net::start(chain(), 0).await;
    let redis = Redis::with_arguments(net.dir.path(), &["--appendonly", "no"]);
    let mut daemons = Daemons::start(&net, redis.port()).await;
    let ask = async |command: &str| {
        let answer = redis.ask(command).unwrap();
        assert!(!answer.starts_with('-'), "{command}: {answer}");
    };

    let master = free_port();
    daemons
        .in_condition(
            "a replica",
            async || ask(&format!("REPLICAOF 127.0.0.1 {master}")).await,
            async || ask("REPLICAOF NO ONE").await,
        )
        .await;
    daemons
        .in_condition(
            "out of memory",
            async || ask("CONFIG SET maxmemory 1").await,
            async || ask("CONFIG SET maxmemory 0").await,
        )
        .await;
    daemons
        .in_condition(
            "lacks a permission",
            async || ask("ACL SETUSER default -@scripting").await,
            async || ask("ACL SETUSER default +@scripting").await,
        )
        .await;
    for daemon in &mut daemons.all {
        daemon.stop().await;
    }
    net.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_cannot_save_is_cut_off_or_too_old_is_named_by_trader_and_manager() {
    let net = Net::start(chain(), 0).await;
    let arguments = ["--appendonly", "no", "--enable-protected-configs", "yes"];
    let redis = Redis::with_arguments(net.dir.path(), &arguments);
    let proxy = Proxy::to(redis.port()).await;
    let mut daemons = Daemons::start(&net, proxy.port).await;
    let ask = async |command: &str| {
        let answer = redis.ask(command).unwrap();
        assert!(!answer.starts_with('-'), "{command}: {answer}");
    };

    let cannot_save = async || {
        ask("CONFIG SET save \"3600 1\"").await;
        std::fs::remove_dir_all(redis.folder()).unwrap();
        let start = Instant::now();
        while !redis.ask("INFO persistence").unwrap().contains("rdb_last_bgsave_status:err") {
            let _ = redis.ask("BGSAVE");
            assert!(start.elapsed() < LIMIT);
            sleep(Duration::from_millis(100)).await;
        }
    };
    let can_save = async || {
        std::fs::create_dir(redis.folder()).unwrap();
        ask(&format!("CONFIG SET dir {}", redis.folder().display())).await;
        let start = Instant::now();
        while !redis.ask("INFO persistence").unwrap().contains("rdb_last_bgsave_status:ok") {
            let _ = redis.ask("BGSAVE");
            assert!(start.elapsed() < LIMIT);
            sleep(Duration::from_millis(100)).await;
        }
        ask("CONFIG SET save \"\"").await;
    };
    daemons.in_condition("cannot write its data to disk", cannot_save, can_save).await;
    let dead = async || proxy.silence();
    daemons.in_condition("check the network path", dead, async || {}).await;
    daemons
        .in_condition(
            "Redis 6.0.16 is too old",
            async || {
                proxy.set_older(true);
                proxy.close();
            },
            async || {
                proxy.set_older(false);
                proxy.close();
            },
        )
        .await;
    for daemon in &mut daemons.all {
        daemon.stop().await;
    }
    net.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_redis_that_comes_back_loading_or_with_a_password_is_named() {
    let net = Net::start(chain(), 0).await;
    let redis = Redis::with_arguments(net.dir.path(), &["--appendonly", "no"]);
    let mut daemons = Daemons::start(&net, redis.port()).await;
    let fill = "EVAL \"for i = 1, 3000 do redis.call('SET', i, string.rep('x', 200)) end return 1\" 0";
    assert!(redis.ask(fill).unwrap().starts_with(":1"));
    assert!(redis.ask("SAVE").unwrap().starts_with("+OK"));
    let redis = std::cell::RefCell::new(redis);
    let slowly = ["--key-load-delay", "3000", "--loading-process-events-interval-bytes", "1024"];
    daemons
        .in_condition("loading its data set", async || redis.borrow_mut().replace(&slowly), async || {})
        .await;
    let password = ["--requirepass", "swordfish-of-the-test"];
    daemons
        .in_condition(
            "requires a password",
            async || redis.borrow_mut().replace(&password),
            async || {
                let open = "AUTH swordfish-of-the-test\r\nCONFIG SET requirepass \"\"";
                assert!(!redis.borrow().ask(open).unwrap().contains("-ERR"));
            },
        )
        .await;
    for daemon in &mut daemons.all {
        assert!(!daemon.log().contains("swordfish"), "{}", daemon.log_tail());
        daemon.stop().await;
    }
    net.shutdown().await;
}
