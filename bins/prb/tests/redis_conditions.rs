//! Conditions that a Redis gets into, as the daemons that need it show them: a code with the cause, a line of the log
//! with server and cause and not one for every try, and work again without a restart once the cause is gone.
#![allow(clippy::unwrap_used, missing_docs)]

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use prb_walkie::identity::{Identity, Role};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    task::JoinSet,
    time::{Instant, sleep},
};

mod support;
use support::{
    Net, chain,
    daemons::{Daemon, free_port, manager},
    redis::Redis,
};

const LIMIT: Duration = Duration::from_secs(60);
/// Warnings of one condition at most: each part of a daemon that meets it may tell it, and how it began.
const MAX_LINES: usize = 12;

/// A proxy before a Redis that can make it look older, and let connections go dead.
struct Proxy {
    port: u16,
    shared: Arc<Shared>,
    _task: JoinSet<()>,
}

#[derive(Default)]
struct Shared {
    looks_older: AtomicBool,
    made: AtomicUsize,
    /// Connections below this number get nothing through any more, and stay open.
    dead_below: AtomicUsize,
    /// Those below this one are hung up.
    ended_below: AtomicUsize,
}

impl Shared {
    fn reaches(&self, limit: &AtomicUsize) {
        limit.store(self.made.load(Ordering::SeqCst), Ordering::SeqCst);
    }
}

impl Proxy {
    async fn to(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let here = listener.local_addr().unwrap().port();
        let shared = Arc::<Shared>::default();
        let own = Arc::clone(&shared);
        let mut task = JoinSet::new();
        task.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((near, _)) = listener.accept().await {
                let number = own.made.fetch_add(1, Ordering::SeqCst);
                let Ok(far) = TcpStream::connect(("127.0.0.1", port)).await else { continue };
                let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
                connections.spawn(pump(near_in, far_out, number, Arc::clone(&own)));
                connections.spawn(pump(far_in, near_out, number, Arc::clone(&own)));
                while connections.try_join_next().is_some() {}
            }
        });
        Self { port: here, shared, _task: task }
    }
}

async fn pump(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, number: usize, shared: Arc<Shared>) {
    let is_below = |limit: &AtomicUsize| number < limit.load(Ordering::SeqCst);
    let ended = async {
        while !is_below(&shared.ended_below) {
            sleep(Duration::from_millis(50)).await;
        }
    };
    let pumped = async {
        let mut buffer = vec![0; 64 * 1024];
        while let Ok(bytes @ 1..) = from.read(&mut buffer).await {
            if is_below(&shared.dead_below) {
                continue;
            }
            let part = &mut buffer[..bytes];
            if shared.looks_older.load(Ordering::SeqCst)
                && let Some(at) = part.windows(14).position(|words| words == b"redis_version:")
            {
                part[at + 14..at + 20].copy_from_slice(b"6.0.16");
            }
            if to.write_all(part).await.is_err() {
                break;
            }
        }
        if is_below(&shared.dead_below) {
            // Neither end learns that the other has gone.
            std::future::pending::<()>().await;
        }
    };
    tokio::select! { () = ended => {}, () = pumped => {} }
}

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
    let dead = async || proxy.shared.reaches(&proxy.shared.dead_below);
    daemons.in_condition("check the network path", dead, async || {}).await;
    daemons
        .in_condition(
            "Redis 6.0.16 is too old",
            async || {
                proxy.shared.looks_older.store(true, Ordering::SeqCst);
                proxy.shared.reaches(&proxy.shared.ended_below);
            },
            async || {
                proxy.shared.looks_older.store(false, Ordering::SeqCst);
                proxy.shared.reaches(&proxy.shared.ended_below);
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
