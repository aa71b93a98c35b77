//! The Arena dashboard on our jobs: what it shows of them, and what its buttons do to a queue of ours.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use prb_core::{
    conformance::queue::job,
    queue::{JobFailure, JobHandle, JobId, JobQueue, JobState, Lease, Progress, Stats, admin::QueueAdmin},
};
use prb_queue::redis::{Config, RedisQueue};
use serde_json::{Value, json};
use support::{LONG, Node, Server, done, fate, fresh_name, lease};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// A dashboard of one queue.
struct Arena {
    port: u16,
    queue: String,
    _process: Node,
}

impl Arena {
    async fn start(server: &Server, config: &Config) -> Self {
        let mut process = Node::run("arena.js", &[&server.port.to_string(), &config.name]);
        let port = process.line().await["listening"].as_u64().unwrap().try_into().unwrap();
        Self { port, queue: format!("prb/{}", config.name), _process: process }
    }

    /// Status and body. In HTTP/1.0, so that it comes in one piece.
    async fn http(&self, method: &str, path: &str, body: &Value) -> (u16, String) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let request = format!(
            "{method} {path} HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        let read = tokio::time::timeout(LONG, stream.read_to_string(&mut answer)).await;
        read.unwrap_or_else(|_| panic!("{method} {path} is not answered within {LONG:?}")).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    /// A page of the queue, whose entities are read.
    async fn page(&self, path: &str) -> String {
        let (status, page) = self.http("GET", &format!("/{}{path}", self.queue), &Value::Null).await;
        assert_eq!(status, 200, "{path}: {page}");
        page.replace("&quot;", "\"").replace("&#x27;", "'").replace("&amp;", "&")
    }

    async fn json(&self, path: &str) -> Value {
        serde_json::from_str(&self.page(path).await).unwrap()
    }

    /// What a button sends; it must work.
    async fn press(&self, method: &str, path: &str, body: Value) {
        let (status, answer) = self.http(method, &format!("/api/queue/{}{path}", self.queue), &body).await;
        assert_eq!(status, 200, "{method} {path}: {answer}");
    }

    /// The number beside each state on the queue's page.
    async fn counts(&self) -> [u64; 5] {
        let page = self.page("").await;
        ["waiting", "active", "succeeded", "failed", "delayed"].map(|state| {
            let link = page.find(&format!("/{state}\">")).unwrap_or_else(|| panic!("no {state}: {page}"));
            let (_, badge) = page[..link].rsplit_once("badge\">").unwrap();
            badge.split('<').next().unwrap().parse().unwrap()
        })
    }

    /// The ids in a state, by the list that it offers as a file.
    async fn ids(&self, state: &str) -> Vec<String> {
        let jobs = self.json(&format!("/{state}.json")).await;
        let mut ids: Vec<_> =
            jobs.as_array().unwrap().iter().map(|job| job["id"].as_str().unwrap().to_owned()).collect();
        ids.sort();
        ids
    }
}

/// A queue with jobs in every state.
struct Ground {
    server: Server,
    config: Config,
    queue: RedisQueue,
    arena: Arena,
    /// Waiting, waiting, active, succeeded, failed, delayed; the first is the newest.
    handles: Vec<Option<JobHandle>>,
    active: Lease,
}

const WAITING: usize = 0;
const ALSO_WAITING: usize = 1;
const ACTIVE: usize = 2;
const SUCCEEDED: usize = 3;
const FAILED: usize = 4;
const DELAYED: usize = 5;

impl Ground {
    async fn start() -> Self {
        let server = Server::start();
        let config = server
            .config()
            .with_name(fresh_name())
            .with_stall_interval(Duration::from_millis(200))
            .with_poll_interval(Duration::from_millis(50));
        let queue = RedisQueue::start(config.clone()).unwrap();
        let mut handles = Vec::new();
        for n in 0..6u8 {
            handles.insert(0, Some(queue.submit(job(10 + n, 2)).await.unwrap()));
        }
        let later = lease(&queue, LONG).await;
        let failure = |text: &str| JobFailure { message: text.into() };
        queue.fail(later.id, later.token, failure("later"), Some(LONG * 60)).await.unwrap();
        let failed = lease(&queue, LONG).await;
        let message = failure("PhalaStakePoolv2.WorkerExists: <it> \"is\" there");
        queue.fail(failed.id, failed.token, message, None).await.unwrap();
        let succeeded = lease(&queue, LONG).await;
        queue.complete(succeeded.id, succeeded.token, done(7)).await.unwrap();
        let active = lease(&queue, LONG).await;
        queue.progress(&[(active.id, active.token)], Progress::Sent).await.unwrap();
        let arena = Arena::start(&server, &config).await;
        Self { server, config, queue, arena, handles, active }
    }

    fn id(&self, which: usize) -> JobId {
        self.handles[which].as_ref().unwrap().id
    }

    async fn state(&self, which: usize) -> Option<JobState> {
        self.queue.job(self.id(which)).await.unwrap().map(|job| job.record.state)
    }

    /// Counts as ours has them, and as Arena shows them.
    async fn assert_counts(&self, expected: [u64; 5]) {
        let Stats { waiting, active, succeeded, failed, delayed, .. } = self.queue.stats().await.unwrap();
        assert_eq!([waiting as u64, active as u64, succeeded, failed, delayed as u64], expected);
        assert_eq!(self.arena.counts().await, expected);
    }

    /// Waits until what we keep of jobs is what there is, and so are the sums.
    async fn until_books_are_right(&self) {
        self.until_books_are_right_within(0).await;
    }

    /// The same, where the sums may be off by some bytes.
    async fn until_books_are_right_within(&self, slack: i64) {
        let until = tokio::time::Instant::now() + LONG;
        let key = |name: &str| format!("bq:{}:{name}", self.config.name);
        loop {
            let number = async |command: &str, name: &str| -> u64 {
                self.server.command(&format!("{command} {}", key(name))).await
            };
            let jobs = number("HLEN", "jobs").await;
            let books = number("HLEN", "prb:books").await;
            let ended = number("ZCARD", "prb:ended").await;
            let in_sets = number("SCARD", "succeeded").await + number("SCARD", "failed").await;
            let sizes: Vec<String> = self.server.command(&format!("HVALS {}", key("jobs"))).await;
            let bytes: i64 = sizes.iter().map(|json| i64::try_from(json.len()).unwrap()).sum();
            let sums: (Option<i64>, Option<i64>) =
                self.server.command(&format!("HMGET {} open_bytes ended_bytes", key("prb:meta"))).await;
            let sum = sums.0.unwrap_or_default() + sums.1.unwrap_or_default();
            if jobs == books && ended == in_sets && (sum - bytes).abs() <= slack {
                return;
            }
            assert!(
                tokio::time::Instant::now() < until,
                "{jobs} jobs, {books} books, {ended} ended, {in_sets} in sets, {bytes} bytes, sums {sums:?}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

#[tokio::test]
async fn it_shows_our_jobs() {
    let ground = Ground::start().await;
    let arena = &ground.arena;
    let (status, overview) = arena.http("GET", "/", &Value::Null).await;
    assert!(status == 200 && overview.contains(&ground.config.name), "{overview}");
    ground.assert_counts([2, 1, 1, 1, 1]).await;
    let states = [
        ("waiting", vec![WAITING, ALSO_WAITING]),
        ("active", vec![ACTIVE]),
        ("succeeded", vec![SUCCEEDED]),
        ("failed", vec![FAILED]),
        ("delayed", vec![DELAYED]),
    ];
    for (state, jobs) in states {
        let mut expected: Vec<_> = jobs.iter().map(|which| ground.id(*which).to_string()).collect();
        expected.sort();
        assert_eq!(arena.ids(state).await, expected, "{state}");
        let list = arena.page(&format!("/{state}")).await;
        for id in &expected {
            assert!(list.contains(&format!("data-job-id=\"{id}\"")), "{state}: {list}");
            let page = arena.page(&format!("/{id}")).await;
            let (action, payload) = ("\"action\": \"ADD_WORKER\"", "\"publicKey\": \"0x");
            assert!(page.contains(action) && page.contains(payload), "{page}");
        }
    }

    // One that failed: why, and a button.
    let page = arena.page(&format!("/{}", ground.id(FAILED))).await;
    assert!(page.contains("PhalaStakePoolv2.WorkerExists: &lt;it&gt; \"is\" there"), "{page}");
    assert!(page.contains("js-retry-job") && page.contains("js-remove-job"), "{page}");
    let details = arena.json(&format!("/{}?json=true", ground.id(FAILED))).await;
    assert_eq!((&details["status"], &details["progress"]), (&json!("failed"), &json!("RP_FAILED")));
    let trace = &details["options"]["stacktraces"][0];
    assert_eq!(trace, "PhalaStakePoolv2.WorkerExists: <it> \"is\" there");
    assert_eq!(details["data"]["payload"]["pid"], "11");
    assert!(details["options"]["timestamp"].as_u64() > Some(1_600_000_000_000));
    // The others.
    let of = async |which| arena.json(&format!("/{}?json=true", ground.id(which))).await;
    assert_eq!(of(SUCCEEDED).await["progress"], "RP_FINISHED");
    // Progress is told and not kept, as bee-queue does it.
    assert_eq!(of(ACTIVE).await["progress"], 0);
    let delayed = of(DELAYED).await;
    assert_eq!(
        (&delayed["options"]["stacktraces"][0], &delayed["options"]["retries"]),
        (&json!("later"), &json!(1))
    );
    let page = arena.page(&format!("/{}", ground.id(ACTIVE))).await;
    assert!(page.contains("js-remove-job") && !page.contains("js-retry-job"), "{page}");
    // Looking has changed nothing.
    ground.assert_counts([2, 1, 1, 1, 1]).await;
    assert_eq!(fate(ground.handles.into_iter().nth(SUCCEEDED).unwrap().unwrap()).await, Ok(done(7)));
}

#[tokio::test]
async fn a_job_that_it_retries_is_done_by_ours() {
    let mut ground = Ground::start().await;
    let failed = ground.handles[FAILED].take().unwrap();
    let id = failed.id;
    fate(failed).await.unwrap_err();
    ground.arena.press("PATCH", &format!("/job/{id}"), Value::Null).await;
    ground.assert_counts([3, 1, 1, 0, 1]).await;
    ground.until_books_are_right().await;

    // The two that were in line before it, then itself: with its history, and as one that others had before.
    for which in [ALSO_WAITING, WAITING] {
        let leased = lease(&ground.queue, LONG).await;
        assert_eq!(leased.id, ground.id(which));
        ground.queue.complete(leased.id, leased.token, done(8)).await.unwrap();
    }
    let leased = lease(&ground.queue, LONG).await;
    assert_eq!(leased.id, id);
    assert!(leased.attempt > 0, "a job that has failed looks new");
    ground.queue.complete(id, leased.token, done(9)).await.unwrap();
    ground.assert_counts([0, 1, 4, 0, 1]).await;
    assert_eq!(ground.arena.json(&format!("/{id}?json=true")).await["status"], "succeeded");
    let shown = ground.queue.job(id).await.unwrap().unwrap();
    assert_eq!(shown.record.state, JobState::Succeeded);
    ground.until_books_are_right().await;

    // Several at once, failed again meanwhile.
    let handle = ground.queue.submit(job(20, 0)).await.unwrap();
    let leased = lease(&ground.queue, LONG).await;
    let failure = JobFailure { message: "again".into() };
    ground.queue.fail(leased.id, leased.token, failure, None).await.unwrap();
    let all = json!({ "jobs": [handle.id.to_string()], "queueState": "failed" });
    ground.arena.press("PATCH", "/job/bulk", all).await;
    let leased = lease(&ground.queue, LONG).await;
    assert_eq!(leased.id, handle.id);
    ground.queue.complete(leased.id, leased.token, done(10)).await.unwrap();
    ground.until_books_are_right().await;
}

#[tokio::test]
async fn jobs_that_it_removes_are_gone_for_ours() {
    let mut ground = Ground::start().await;
    // In every state, its consumer's hands included.
    for (which, left) in [
        (WAITING, [1, 1, 1, 1, 1]),
        (DELAYED, [1, 1, 1, 1, 0]),
        (FAILED, [1, 1, 1, 0, 0]),
        (SUCCEEDED, [1, 1, 0, 0, 0]),
        (ACTIVE, [1, 0, 0, 0, 0]),
    ] {
        ground.arena.press("DELETE", &format!("/job/{}", ground.id(which)), Value::Null).await;
        // What was trimmed or removed still counts among those that ended; Arena counts what is there.
        assert_eq!(ground.arena.counts().await, left);
        assert_eq!(ground.state(which).await, None, "{which}");
    }
    let late = ground.queue.complete(ground.active.id, ground.active.token, done(1)).await;
    assert!(late.is_err(), "a job that is gone was completed: {late:?}");
    // Submitters hear of it.
    for which in [WAITING, DELAYED, ACTIVE] {
        let gone = fate(ground.handles[which].take().unwrap()).await.unwrap_err();
        assert!(gone.message.contains("gone from the queue"), "{gone:?}");
    }
    // The queue works on.
    let leased = lease(&ground.queue, LONG).await;
    assert_eq!(leased.id, ground.id(ALSO_WAITING));
    ground.queue.complete(leased.id, leased.token, done(2)).await.unwrap();
    assert_eq!(fate(ground.handles[ALSO_WAITING].take().unwrap()).await, Ok(done(2)));
    // How large the removed ones were at the end is not known, but how large when they came.
    ground.until_books_are_right_within(600).await;
}

/// A job that another program puts in line again is not forgotten with the ended ones, also where the numbers of
/// ended jobs do not show that it is not one any more.
#[tokio::test]
async fn a_retried_job_is_not_forgotten_as_an_ended_one() {
    let server = Server::start();
    let config = server
        .config()
        .with_name(fresh_name())
        .with_stall_interval(Duration::from_millis(200))
        .with_poll_interval(Duration::from_millis(50))
        .with_keep_age(Duration::from_secs(2));
    let queue = RedisQueue::start(config.clone()).unwrap();
    let failing = queue.submit(job(1, 0)).await.unwrap();
    let other = queue.submit(job(2, 0)).await.unwrap();
    let leased = lease(&queue, LONG).await;
    let failure = JobFailure { message: "x".into() };
    queue.fail(leased.id, leased.token, failure, None).await.unwrap();
    // At one moment a dashboard retries the one, and a worker of the original fails the other.
    let key = |name: &str| format!("bq:{}:{name}", config.name);
    let mut both = redis::pipe();
    both.atomic()
        .srem(key("failed"), failing.id.0)
        .lpush(key("waiting"), failing.id.0)
        .lrem(key("waiting"), 0, other.id.0)
        .sadd(key("failed"), other.id.0);
    let () = both.query_async(&mut server.connection().await).await.unwrap();
    let until = tokio::time::Instant::now() + LONG;
    while server.command::<u64>(&format!("ZCARD {}", key("prb:ended"))).await > 0 {
        assert!(tokio::time::Instant::now() < until, "nothing is trimmed");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(lease(&queue, LONG).await.id, failing.id);
}
