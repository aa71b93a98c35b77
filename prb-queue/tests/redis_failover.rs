//! Tests of a Redis that becomes a replica and keeps its connections, and of one that lacks a requirement.
#![allow(clippy::unwrap_used)]

mod support;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    time::Duration,
};

use prb_core::{
    conformance::queue::job, primitives::AccountId, queue::JobQueue, trade::accounts::AccountLeases,
};
use prb_queue::redis::{Config, RedisQueue};
use support::{LONG, Server, captured_log::CapturedLog, done, fresh_name, lease, outcome_of, with_causes};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::{Instant, sleep, timeout},
};

const TTL: Duration = Duration::from_secs(30);

fn quick(server: &Server) -> Config {
    server
        .config()
        .with_name(fresh_name())
        .with_stall_interval(Duration::from_millis(200))
        .with_poll_interval(Duration::from_millis(200))
        .with_call_timeout(Duration::from_secs(2))
}

#[tokio::test(flavor = "multi_thread")]
async fn failover_that_keeps_connections_recovers_and_is_logged_once() {
    let (log, subscriber) = CapturedLog::with_subscriber();
    tracing::subscriber::set_global_default(subscriber).unwrap();

    let (mut old, new) = (Server::start(), Server::start());
    let queue = RedisQueue::start(quick(&old)).unwrap();
    let before = queue.submit(job(1, 0)).await.unwrap();
    let taken = lease(&queue, TTL).await;

    // Demoted on the live connection: writes fail, and nothing waits forever.
    let _: String = old.command(&format!("REPLICAOF 127.0.0.1 {}", new.port)).await;
    let started = Instant::now();
    let refused = with_causes(&queue.submit(job(2, 0)).await.unwrap_err());
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    assert!(refused.contains(&old.port.to_string()) && refused.contains("primary"), "{refused}");
    sleep(Duration::from_secs(1)).await;
    // Lines about this server only: other tests of the process log, too.
    let lines = log.text();
    let server = format!("127.0.0.1:{}", old.port);
    let lines: Vec<_> = lines.lines().filter(|line| line.contains(&server)).collect();
    let count = |words: &str| lines.iter().filter(|line| line.contains(words)).count();
    assert_eq!(count("refuses writes"), 1, "{lines:#?}");
    assert!(count("queue maintenance failed") <= 1 && count("lease renewal failed") <= 1, "{lines:#?}");

    // A primary again, without its former data.
    let _: String = old.command("REPLICAOF NO ONE").await;
    let until = Instant::now() + LONG;
    let after = loop {
        match queue.submit(job(3, 0)).await {
            Ok(handle) => break handle,
            Err(error) => assert!(Instant::now() < until, "{}", with_causes(&error)),
        }
    };
    let kept = queue.complete(taken.id, taken.token, done(8)).await.is_ok();
    assert_eq!(outcome_of(before).await.is_ok(), kept);
    let again = lease(&queue, TTL).await;
    assert_eq!(again.job.pool.0, 3);
    queue.complete(again.id, again.token, done(9)).await.unwrap();
    assert_eq!(outcome_of(after).await.unwrap().block.0, 9);
    old.kill();
}

/// The blocking connection fails where plain commands do not.
#[tokio::test]
async fn missing_blmove_is_reported() {
    let server = Server::with_arguments(&["--rename-command", "BLMOVE", ""]);
    let queue = RedisQueue::start(quick(&server)).unwrap();
    let error = with_causes(&queue.lease(TTL).await.unwrap_err());
    assert!(error.contains("6.2") && error.contains(&server.port.to_string()), "{error}");
    assert!(queue.stats().await.is_ok());
    let ready = with_causes(&queue.ready().await.unwrap_err());
    assert!(ready.contains("6.2") && ready.contains(&server.port.to_string()), "{ready}");
}

#[tokio::test]
async fn password_errors_name_the_server_and_omit_the_password() {
    let server = Server::with_arguments(&["--requirepass", "swordfish"]);
    for (url, remedy) in
        [(server.url(), "requires a password"), (server.url().replace("//", "//:crayfish@"), "password")]
    {
        let queue = RedisQueue::start(quick(&server).with_url(url)).unwrap();
        let error = with_causes(&queue.stats().await.unwrap_err());
        assert!(error.contains(remedy) && error.contains(&server.port.to_string()), "{error}");
        assert!(!error.contains("fish"), "{error}");
    }
}

/// A host name that resolves to one server and then to another; open connections stay where they were made.
struct Name {
    port: u16,
    target: Arc<AtomicU16>,
    _task: JoinSet<()>,
}

impl Name {
    async fn of(server: &Server) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let target = Arc::new(AtomicU16::new(server.port));
        let (to, mut task) = (target.clone(), JoinSet::new());
        task.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((mut near, _)) = listener.accept().await {
                let to = to.load(Ordering::SeqCst);
                connections.spawn(async move {
                    if let Ok(mut far) = TcpStream::connect(("127.0.0.1", to)).await {
                        let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                    }
                });
            }
        });
        Self { port, target, _task: task }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn failover_behind_a_host_name_reaches_the_new_server() {
    let (old, new) = (Server::start(), Server::start());
    let name = Name::of(&old).await;
    let config = quick(&old).with_url(format!("redis://127.0.0.1:{}", name.port));
    let queue = RedisQueue::start(config).unwrap();
    let accounts = queue.accounts();
    let account = AccountId([7; 32]);
    // Use every open connection once.
    let handle = queue.submit(job(1, 0)).await.unwrap();
    let taken = lease(&queue, TTL).await;
    queue.complete(taken.id, taken.token, done(1)).await.unwrap();
    assert!(outcome_of(handle).await.is_ok());
    assert!(accounts.acquire(account, TTL).await.unwrap().is_some());
    let waiting = tokio::spawn({
        let queue = queue.clone();
        async move { lease(&queue, TTL).await }
    });

    let _: String = old.command(&format!("REPLICAOF 127.0.0.1 {}", new.port)).await;
    name.target.store(new.port, Ordering::SeqCst);
    let handle = queue.submit(job(2, 0)).await.unwrap();
    let taken = timeout(LONG, waiting).await.unwrap().unwrap();
    assert_eq!(taken.job.pool.0, 2);
    queue.complete(taken.id, taken.token, done(2)).await.unwrap();
    assert_eq!(outcome_of(handle).await.unwrap().block.0, 2);
    assert!(accounts.acquire(account, TTL).await.is_ok());
}
