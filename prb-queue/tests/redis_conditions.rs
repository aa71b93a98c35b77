//! Tests of conditions that a Redis gets into: calls and readiness report each with the server and a remedy,
//! and recover without a restart once its cause is gone.
#![allow(clippy::unwrap_used)]

#[path = "support/proxy.rs"]
mod proxy;
mod support;

use std::{fs, time::Duration};

use prb_core::{
    conformance::queue::job,
    queue::{JobFailure, JobQueue},
};
use prb_queue::redis::{Config, RedisQueue};
use proxy::Proxy;
use support::{
    LONG, Persistence, Server, captured_log::CapturedLog, done, fresh_name, lease, outcome_of, with_causes,
};
use tokio::time::{Instant, sleep, timeout};

const TTL: Duration = Duration::from_secs(30);

fn config(url: String) -> Config {
    Config::new(url)
        .with_name(fresh_name())
        .with_stall_interval(Duration::from_millis(200))
        .with_poll_interval(Duration::from_millis(200))
        .with_call_timeout(Duration::from_secs(2))
}

fn queue(server: &Server) -> RedisQueue {
    RedisQueue::start(config(server.url())).unwrap()
}

/// Waits until readiness fails with these words.
async fn unready(queue: &RedisQueue, words: &[&str]) {
    let until = Instant::now() + LONG;
    loop {
        let ready = queue.ready().await.map_err(|error| with_causes(&error));
        match &ready {
            Err(text) if words.iter().all(|word| text.contains(word)) => return,
            _ => assert!(Instant::now() < until, "{words:?}: {ready:?}"),
        }
        sleep(Duration::from_millis(20)).await;
    }
}

/// Waits until a job is submitted and readiness succeeds.
async fn works(queue: &RedisQueue) {
    let until = Instant::now() + LONG;
    let handle = loop {
        match queue.submit(job(1, 0)).await {
            Ok(handle) => break handle,
            Err(error) => assert!(Instant::now() < until, "{}", with_causes(&error)),
        }
        sleep(Duration::from_millis(20)).await;
    };
    let taken = lease(queue, TTL).await;
    queue.complete(taken.id, taken.token, done(7)).await.unwrap();
    assert_eq!(outcome_of(handle).await.unwrap().block.0, 7);
    while let Err(error) = queue.ready().await {
        assert!(Instant::now() < until, "{}", with_causes(&error));
        sleep(Duration::from_millis(20)).await;
    }
}

/// Asserts that a submission fails with these words and the server's address.
async fn refused(queue: &RedisQueue, server: &Server, words: &str) {
    let error = with_causes(&queue.submit(job(1, 0)).await.unwrap_err());
    assert!(error.contains(words) && error.contains(&server.port.to_string()), "{error}");
    unready(queue, &[words, &server.port.to_string()]).await;
}

#[tokio::test]
async fn loading_server_is_reported_until_it_is_ready() {
    let mut server = Server::start();
    let fill = "for i = 1, 3000 do redis.call('SET', i, string.rep('x', 200)) end return 1";
    let _: u32 =
        redis::cmd("EVAL").arg(fill).arg(0).query_async(&mut server.connection().await).await.unwrap();
    let queue = queue(&server);
    works(&queue).await;
    let _: String = server.command("SAVE").await;
    server.kill();
    server.restart_with(&["--key-load-delay", "2000", "--loading-process-events-interval-bytes", "1024"]);
    unready(&queue, &["loading its data set", &server.port.to_string()]).await;
    works(&queue).await;
}

#[tokio::test]
async fn server_that_cannot_save_is_reported_until_it_can() {
    let server = Server::with_arguments(&["--enable-protected-configs", "yes"]);
    let queue = queue(&server);
    works(&queue).await;
    let set = async |name: &str, value: &str| {
        let mut connection = server.connection().await;
        let _: String =
            redis::cmd("CONFIG").arg("SET").arg(name).arg(value).query_async(&mut connection).await.unwrap();
    };
    let saved = async || {
        let _: redis::RedisResult<String> =
            redis::cmd("BGSAVE").query_async(&mut server.connection().await).await;
        let until = Instant::now() + LONG;
        loop {
            let info: String = server.command("INFO persistence").await;
            if info.contains("rdb_bgsave_in_progress:0") {
                return info.contains("rdb_last_bgsave_status:ok");
            }
            assert!(Instant::now() < until);
            sleep(Duration::from_millis(20)).await;
        }
    };
    set("save", "3600 1").await;
    fs::remove_dir_all(server.dir()).unwrap();
    assert!(!saved().await);
    refused(&queue, &server, "cannot write its data to disk").await;
    fs::create_dir(server.dir()).unwrap();
    set("dir", server.dir().to_str().unwrap()).await;
    assert!(saved().await);
    works(&queue).await;
}

#[tokio::test]
async fn server_out_of_memory_is_reported_until_raised() {
    let server = Server::start();
    let queue = queue(&server);
    works(&queue).await;
    let _: String = server.command("CONFIG SET maxmemory 1").await;
    refused(&queue, &server, "out of memory").await;
    let _: String = server.command("CONFIG SET maxmemory 0").await;
    works(&queue).await;
}

#[tokio::test]
async fn missing_and_unneeded_passwords_are_reported() {
    let mut server = Server::start();
    let queue = queue(&server);
    works(&queue).await;
    server.kill();
    server.restart_with(&["--requirepass", "swordfish"]);
    unready(&queue, &["requires a password", &server.port.to_string()]).await;
    let refused = with_causes(&queue.submit(job(1, 0)).await.unwrap_err());
    assert!(refused.contains("requires a password"), "{refused}");

    let url = server.url().replace("//", "//:swordfish@");
    let with_password = RedisQueue::start(config(url.clone())).unwrap();
    works(&with_password).await;
    let mut connection = redis::Client::open(url).unwrap().get_multiplexed_async_connection().await.unwrap();
    let open = ["SET", "requirepass", ""];
    let _: String = redis::cmd("CONFIG").arg(&open).query_async(&mut connection).await.unwrap();
    works(&queue).await;
    server.kill();
    server.restart();
    unready(&with_password, &["or has no password set", &server.port.to_string()]).await;
    let text = with_causes(&with_password.ready().await.unwrap_err());
    assert!(!text.contains("swordfish"), "{text}");
}

/// A proxy connects to a server that has started again, and does not tell its clients.
#[tokio::test]
async fn password_is_sent_again_when_a_connection_has_lost_it() {
    let mut server = Server::start();
    server.kill();
    server.restart_with(&["--requirepass", "swordfish"]);
    let (port, _proxy) = proxy::keeping_connections(server.port).await;
    let queue = RedisQueue::start(config(format!("redis://:swordfish@127.0.0.1:{port}"))).unwrap();
    works(&queue).await;
    server.kill();
    server.restart_with(&["--requirepass", "swordfish"]);
    works(&queue).await;
}

#[tokio::test]
async fn jobs_end_once_for_a_user_that_may_not_publish() {
    let server = Server::start();
    // What ACL SETUSER gives since Redis 7: no channel.
    let rule = "ACL SETUSER mute on >secret ~bq:* +@all resetchannels";
    let _: () = server.command(rule).await;
    let config = config(server.url());
    let queue = RedisQueue::start(config.clone()).unwrap();
    let url = server.url().replace("//", "//mute:secret@");
    let mute = RedisQueue::start(config.clone().with_url(url)).unwrap();
    let mut handles = Vec::new();
    for n in 1..=3 {
        handles.push(queue.submit(job(n, 1)).await.unwrap());
    }
    let failure = JobFailure { message: "no".into() };
    let [first, second, third] = [lease(&mute, TTL).await, lease(&mute, TTL).await, lease(&mute, TTL).await];
    mute.complete(first.id, first.token, done(1)).await.unwrap();
    mute.fail(second.id, second.token, failure.clone(), None).await.unwrap();
    mute.fail(third.id, third.token, failure.clone(), Some(Duration::from_millis(50))).await.unwrap();
    let again = lease(&mute, TTL).await;
    assert_eq!(again.id, third.id);
    mute.complete(again.id, again.token, done(3)).await.unwrap();
    let mut outcomes = Vec::new();
    for handle in handles {
        outcomes.push(outcome_of(handle).await);
    }
    assert_eq!(outcomes, [Ok(done(1)), Err(failure), Ok(done(3))]);
    let ended: [u32; 2] = [
        server.command(&format!("SCARD bq:{}:succeeded", config.name)).await,
        server.command(&format!("SCARD bq:{}:failed", config.name)).await,
    ];
    assert_eq!(ended, [2, 1]);
}

#[tokio::test]
async fn user_without_script_permission_is_reported_until_granted() {
    let server = Server::start();
    let _: String = server.command("ACL SETUSER bridge on >swordfish ~* &* +@all -@scripting").await;
    let queue = RedisQueue::start(config(server.url().replace("//", "//bridge:swordfish@"))).unwrap();
    refused(&queue, &server, "user lacks a permission").await;
    let _: String = server.command("ACL SETUSER bridge +@scripting").await;
    works(&queue).await;
}

#[tokio::test]
async fn server_before_6_2_is_reported_with_its_version() {
    let server = Server::start();
    let proxy = Proxy::to(server.port).await;
    proxy.set_older(true);
    let queue = RedisQueue::start(config(proxy.url())).unwrap();
    unready(&queue, &["Redis 6.0.16 is too old", "6.2", &proxy.port.to_string()]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn silently_dead_connections_are_replaced() {
    let server = Server::start();
    let proxy = Proxy::to(server.port).await;
    let queue = RedisQueue::start(config(proxy.url())).unwrap();
    works(&queue).await;
    let waiting = tokio::spawn({
        let queue = queue.clone();
        async move { lease(&queue, TTL).await }
    });
    proxy.silence();
    let until = Instant::now() + LONG;
    let handle = loop {
        match queue.submit(job(2, 0)).await {
            Ok(handle) => break handle,
            Err(error) => {
                let error = with_causes(&error);
                assert!(
                    error.contains("check the network path") && error.contains(&proxy.port.to_string()),
                    "{error}"
                );
                assert!(Instant::now() < until, "{error}");
            }
        }
    };
    let taken = timeout(LONG, waiting).await.unwrap().unwrap();
    queue.complete(taken.id, taken.token, done(9)).await.unwrap();
    assert_eq!(outcome_of(handle).await.unwrap().block.0, 9);
    works(&queue).await;
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn idle_connections_use_tcp_keepalive() {
    let server = Server::start();
    let queue = queue(&server);
    works(&queue).await;
    let until = Instant::now() + LONG;
    // From /proc/net/tcp: the remote port, the state (01 is established), the timer (02 is for keepalive
    // probes).
    let remote = format!(":{:04X}", server.port);
    loop {
        let table = fs::read_to_string("/proc/net/tcp").unwrap();
        let timers: Vec<_> = table
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>())
            .filter(|cells| cells.len() > 5 && cells[2].ends_with(&remote) && cells[3] == "01")
            .map(|cells| cells[5][..2].to_owned())
            .collect();
        if !timers.is_empty() && timers.iter().all(|timer| timer == "02") {
            return;
        }
        assert!(Instant::now() < until, "{timers:?}");
        sleep(Duration::from_millis(20)).await;
    }
}

/// An error of a consumer that has left does not keep the queue unready.
#[tokio::test]
async fn error_of_departed_consumer_becomes_stale() {
    let server = Server::start();
    let proxy = Proxy::to(server.port).await;
    let queue = RedisQueue::start(config(proxy.url()).with_call_timeout(Duration::from_millis(300))).unwrap();
    let _: String = server.command("ACL SETUSER default -blmove").await;
    let error = with_causes(&queue.lease(TTL).await.unwrap_err());
    assert!(error.contains("lacks a permission"), "{error}");
    unready(&queue, &["lacks a permission"]).await;
    // No consumer is waiting now, so nothing retries.
    let _: String = server.command("ACL SETUSER default +blmove").await;
    let until = Instant::now() + LONG;
    while let Err(error) = queue.ready().await {
        assert!(Instant::now() < until, "{}", with_causes(&error));
        sleep(Duration::from_millis(20)).await;
    }
}

/// On one thread, whose log is read.
#[tokio::test]
async fn server_that_evicts_jobs_is_named_at_the_start_and_when_it_is_reconfigured() {
    let (log, subscriber) = CapturedLog::with_subscriber();
    let _logged = tracing::subscriber::set_default(subscriber);
    let server = Server::with_arguments(&["--maxmemory", "64mb", "--maxmemory-policy", "allkeys-lru"]);
    let queue = queue(&server);
    let port = server.port.to_string();
    log.until(&["WARN", "allkeys-lru", "noeviction", &port]).await;
    // It works, and tells it no further time.
    works(&queue).await;
    let set = async |setting: &str| server.command::<String>(&format!("CONFIG SET {setting}")).await;
    set("maxmemory-policy noeviction").await;
    log.until(&["INFO", "deletes no keys any more", &port]).await;
    assert_eq!(log.count(&["WARN", "deletes keys"]), 1);
    set("maxmemory-policy volatile-ttl").await;
    log.until(&["WARN", "volatile-ttl", &port]).await;
    // Without a limit it deletes nothing.
    set("maxmemory 0").await;
    let until = Instant::now() + LONG;
    while log.count(&["INFO", "deletes no keys any more"]) < 2 {
        assert!(Instant::now() < until, "the limit is gone, and nothing is logged");
        sleep(Duration::from_millis(20)).await;
    }
}

/// On one thread, whose log is read.
#[tokio::test]
async fn server_that_returns_to_snapshots_is_named_at_the_start() {
    let (log, subscriber) = CapturedLog::with_subscriber();
    let _logged = tracing::subscriber::set_default(subscriber);
    let server = Server::with_arguments(&["--save", "3600 1"]);
    let risky = queue(&server);
    let port = server.port.to_string();
    log.until(&["WARN", "returns to its last snapshot", "appendonly yes", &port]).await;
    works(&risky).await;
    // Neither one that loses all its jobs nor one that loses none is named.
    for persistence in [Persistence::None, Persistence::AppendOnly] {
        let server = Server::with(persistence);
        works(&queue(&server)).await;
    }
    assert_eq!(log.count(&["WARN", "returns to its last snapshot"]), 1);
}

/// Two nodes that share the slots, so that each has a part of what the queue needs.
async fn cluster() -> [Server; 2] {
    let nodes = [(); 2].map(|()| Server::with_arguments(&["--cluster-enabled", "yes"]));
    for (node, slots) in nodes.iter().zip(["0 8191", "8192 16383"]) {
        let _: String = node.command(&format!("CLUSTER ADDSLOTSRANGE {slots}")).await;
    }
    let _: String = nodes[0].command(&format!("CLUSTER MEET 127.0.0.1 {}", nodes[1].port)).await;
    let until = Instant::now() + LONG;
    for node in &nodes {
        while !node.command::<String>("CLUSTER INFO").await.contains("cluster_state:ok") {
            assert!(Instant::now() < until, "the nodes of the cluster do not find each other");
            sleep(Duration::from_millis(20)).await;
        }
    }
    nodes
}

#[tokio::test]
async fn nodes_of_a_cluster_are_reported() {
    let nodes = cluster().await;
    // The slots that a queue's keys fall into follow from its name; the other node redirects.
    let slot: u32 = nodes[0].command("CLUSTER KEYSLOT bq:jobs:waiting").await;
    let node = &nodes[usize::from(slot < 8192)];
    let queue = RedisQueue::start(config(node.url()).with_name("jobs".to_owned())).unwrap();
    let refused = timeout(LONG, queue.lease(TTL)).await.unwrap();
    let error = with_causes(&refused.unwrap_err());
    assert!(error.contains("a node of a Redis cluster") && error.contains(&node.port.to_string()), "{error}");
    unready(&queue, &["a node of a Redis cluster", &node.port.to_string()]).await;
    let with_database = RedisQueue::start(config(format!("{}/3", nodes[0].url()))).unwrap();
    unready(&with_database, &["a Redis cluster has no databases"]).await;
}

#[tokio::test]
async fn queues_in_different_databases_are_separate() {
    let server = Server::start();
    let of = |database: u32| config(format!("{}/{database}", server.url())).with_name("same".to_owned());
    let [first, second] = [1, 2].map(|database| RedisQueue::start(of(database)).unwrap());
    works(&first).await;
    let handle = first.submit(job(4, 0)).await.unwrap();
    // Not even by the events of the other one, which are the same for all databases.
    works(&second).await;
    assert_eq!(second.stats().await.unwrap().waiting, 0);
    let taken = lease(&first, TTL).await;
    first.complete(taken.id, taken.token, done(4)).await.unwrap();
    assert_eq!(outcome_of(handle).await.unwrap().block.0, 4);
    let missing = RedisQueue::start(of(16)).unwrap();
    unready(&missing, &["no database of this number", "URL", &server.port.to_string()]).await;
}

/// One command of a pipeline, or of a script, fails.
#[tokio::test]
async fn keys_that_another_program_has_written_are_reported() {
    let server = Server::start();
    let config = config(server.url());
    let queue = RedisQueue::start(config.clone()).unwrap();
    works(&queue).await;
    let handle = queue.submit(job(3, 0)).await.unwrap();
    let key = format!("bq:{}:succeeded", config.name);
    let _: u32 = server.command(&format!("DEL {key}")).await;
    let _: String = server.command(&format!("SET {key} text")).await;
    unready(&queue, &["WRONGTYPE", "another program", &server.port.to_string()]).await;
    let error = with_causes(&queue.stats().await.unwrap_err());
    assert!(error.contains("WRONGTYPE") && error.contains(&server.port.to_string()), "{error}");
    let _: u32 = server.command(&format!("DEL {key}")).await;
    let taken = lease(&queue, TTL).await;
    queue.complete(taken.id, taken.token, done(3)).await.unwrap();
    assert_eq!(outcome_of(handle).await.unwrap().block.0, 3);
    works(&queue).await;
}
