//! Tests with the Arena dashboard: what it shows of our jobs, and what its buttons do to our queue.
#![allow(clippy::unwrap_used)]

mod support;

use std::time::Duration;

use prb_core::{
    conformance::queue::job,
    queue::{JobFailure, JobHandle, JobId, JobQueue, JobState, Lease, Progress, Stats, admin::QueueAdmin},
};
use prb_queue::redis::{Config, RedisQueue};
use serde_json::{Value, json};
use support::{LONG, Node, Server, done, fresh_name, lease, outcome_of};
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

    /// Returns status and body. HTTP/1.0, so that the body is not chunked.
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

    /// Returns a page of the queue with its HTML entities decoded.
    async fn page(&self, path: &str) -> String {
        let (status, page) = self.http("GET", &format!("/{}{path}", self.queue), &Value::Null).await;
        assert_eq!(status, 200, "{path}: {page}");
        page.replace("&quot;", "\"").replace("&#x27;", "'").replace("&amp;", "&")
    }

    async fn json(&self, path: &str) -> Value {
        serde_json::from_str(&self.page(path).await).unwrap()
    }

    /// Sends a button's request and asserts success.
    async fn press(&self, method: &str, path: &str, body: Value) {
        let (status, answer) = self.http(method, &format!("/api/queue/{}{path}", self.queue), &body).await;
        assert_eq!(status, 200, "{method} {path}: {answer}");
    }

    /// Returns the number beside each state on the queue's page.
    async fn counts(&self) -> [u64; 5] {
        let page = self.page("").await;
        ["waiting", "active", "succeeded", "failed", "delayed"].map(|state| {
            let link = page.find(&format!("/{state}\">")).unwrap_or_else(|| panic!("no {state}: {page}"));
            let (_, badge) = page[..link].rsplit_once("badge\">").unwrap();
            badge.split('<').next().unwrap().parse().unwrap()
        })
    }

    /// Returns the ids in a state, from the list that the dashboard exports.
    async fn ids(&self, state: &str) -> Vec<String> {
        let jobs = self.json(&format!("/{state}.json")).await;
        let mut ids: Vec<_> =
            jobs.as_array().unwrap().iter().map(|job| job["id"].as_str().unwrap().to_owned()).collect();
        ids.sort();
        ids
    }
}

/// A queue with jobs in every state.
struct TestQueue {
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

impl TestQueue {
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

    /// Asserts the counts of our queue and of Arena.
    async fn assert_counts(&self, expected: [u64; 5]) {
        let Stats { waiting, active, succeeded, failed, delayed, .. } = self.queue.stats().await.unwrap();
        assert_eq!([waiting as u64, active as u64, succeeded, failed, delayed as u64], expected);
        assert_eq!(self.arena.counts().await, expected);
    }

    /// Waits until the job index and its sums match the jobs.
    async fn until_counters_are_consistent(&self) {
        self.until_counters_are_consistent_within(0).await;
    }

    /// Like [`Self::until_counters_are_consistent`], with a tolerance of some bytes for the sums.
    async fn until_counters_are_consistent_within(&self, slack: i64) {
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
async fn dashboard_shows_our_jobs() {
    let queue_under_test = TestQueue::start().await;
    let arena = &queue_under_test.arena;
    let (status, overview) = arena.http("GET", "/", &Value::Null).await;
    assert!(status == 200 && overview.contains(&queue_under_test.config.name), "{overview}");
    queue_under_test.assert_counts([2, 1, 1, 1, 1]).await;
    let states = [
        ("waiting", vec![WAITING, ALSO_WAITING]),
        ("active", vec![ACTIVE]),
        ("succeeded", vec![SUCCEEDED]),
        ("failed", vec![FAILED]),
        ("delayed", vec![DELAYED]),
    ];
    for (state, jobs) in states {
        let mut expected: Vec<_> = jobs.iter().map(|which| queue_under_test.id(*which).to_string()).collect();
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

    // A failed job, with its reason and a retry button.
    let page = arena.page(&format!("/{}", queue_under_test.id(FAILED))).await;
    assert!(page.contains("PhalaStakePoolv2.WorkerExists: &lt;it&gt; \"is\" there"), "{page}");
    assert!(page.contains("js-retry-job") && page.contains("js-remove-job"), "{page}");
    let details = arena.json(&format!("/{}?json=true", queue_under_test.id(FAILED))).await;
    assert_eq!((&details["status"], &details["progress"]), (&json!("failed"), &json!("RP_FAILED")));
    let trace = &details["options"]["stacktraces"][0];
    assert_eq!(trace, "PhalaStakePoolv2.WorkerExists: <it> \"is\" there");
    assert_eq!(details["data"]["payload"]["pid"], "11");
    assert!(details["options"]["timestamp"].as_u64() > Some(1_600_000_000_000));
    // The other states.
    let of = async |which| arena.json(&format!("/{}?json=true", queue_under_test.id(which))).await;
    assert_eq!(of(SUCCEEDED).await["progress"], "RP_FINISHED");
    // bee-queue publishes progress and does not store it.
    assert_eq!(of(ACTIVE).await["progress"], 0);
    let delayed = of(DELAYED).await;
    assert_eq!(
        (&delayed["options"]["stacktraces"][0], &delayed["options"]["retries"]),
        (&json!("later"), &json!(1))
    );
    let page = arena.page(&format!("/{}", queue_under_test.id(ACTIVE))).await;
    assert!(page.contains("js-remove-job") && !page.contains("js-retry-job"), "{page}");
    // Viewing changes nothing.
    queue_under_test.assert_counts([2, 1, 1, 1, 1]).await;
    assert_eq!(
        outcome_of(queue_under_test.handles.into_iter().nth(SUCCEEDED).unwrap().unwrap()).await,
        Ok(done(7))
    );
}

#[tokio::test]
async fn job_retried_in_dashboard_is_leased_again() {
    let mut queue_under_test = TestQueue::start().await;
    let failed = queue_under_test.handles[FAILED].take().unwrap();
    let id = failed.id;
    outcome_of(failed).await.unwrap_err();
    queue_under_test.arena.press("PATCH", &format!("/job/{id}"), Value::Null).await;
    queue_under_test.assert_counts([3, 1, 1, 0, 1]).await;
    queue_under_test.until_counters_are_consistent().await;

    // First the two jobs that were waiting before it, then the retried one, with its history and a used attempt.
    for which in [ALSO_WAITING, WAITING] {
        let leased = lease(&queue_under_test.queue, LONG).await;
        assert_eq!(leased.id, queue_under_test.id(which));
        queue_under_test.queue.complete(leased.id, leased.token, done(8)).await.unwrap();
    }
    let leased = lease(&queue_under_test.queue, LONG).await;
    assert_eq!(leased.id, id);
    assert!(leased.attempt > 0, "a job that has failed looks new");
    queue_under_test.queue.complete(id, leased.token, done(9)).await.unwrap();
    queue_under_test.assert_counts([0, 1, 4, 0, 1]).await;
    assert_eq!(queue_under_test.arena.json(&format!("/{id}?json=true")).await["status"], "succeeded");
    let shown = queue_under_test.queue.job(id).await.unwrap().unwrap();
    assert_eq!(shown.record.state, JobState::Succeeded);
    queue_under_test.until_counters_are_consistent().await;

    // A bulk retry.
    let handle = queue_under_test.queue.submit(job(20, 0)).await.unwrap();
    let leased = lease(&queue_under_test.queue, LONG).await;
    let failure = JobFailure { message: "again".into() };
    queue_under_test.queue.fail(leased.id, leased.token, failure, None).await.unwrap();
    let all = json!({ "jobs": [handle.id.to_string()], "queueState": "failed" });
    queue_under_test.arena.press("PATCH", "/job/bulk", all).await;
    let leased = lease(&queue_under_test.queue, LONG).await;
    assert_eq!(leased.id, handle.id);
    queue_under_test.queue.complete(leased.id, leased.token, done(10)).await.unwrap();
    queue_under_test.until_counters_are_consistent().await;
}

#[tokio::test]
async fn job_removed_in_dashboard_is_gone() {
    let mut queue_under_test = TestQueue::start().await;
    // In every state, also while leased.
    for (which, left) in [
        (WAITING, [1, 1, 1, 1, 1]),
        (DELAYED, [1, 1, 1, 1, 0]),
        (FAILED, [1, 1, 1, 0, 0]),
        (SUCCEEDED, [1, 1, 0, 0, 0]),
        (ACTIVE, [1, 0, 0, 0, 0]),
    ] {
        queue_under_test
            .arena
            .press("DELETE", &format!("/job/{}", queue_under_test.id(which)), Value::Null)
            .await;
        // Trimmed and removed jobs stay in our counts of ended ones; Arena counts what exists.
        assert_eq!(queue_under_test.arena.counts().await, left);
        assert_eq!(queue_under_test.state(which).await, None, "{which}");
    }
    let late = queue_under_test
        .queue
        .complete(queue_under_test.active.id, queue_under_test.active.token, done(1))
        .await;
    assert!(late.is_err(), "a job that is gone was completed: {late:?}");
    // Submitters are told.
    for which in [WAITING, DELAYED, ACTIVE] {
        let gone = outcome_of(queue_under_test.handles[which].take().unwrap()).await.unwrap_err();
        assert!(gone.message.contains("gone from the queue"), "{gone:?}");
    }
    // The queue continues to work.
    let leased = lease(&queue_under_test.queue, LONG).await;
    assert_eq!(leased.id, queue_under_test.id(ALSO_WAITING));
    queue_under_test.queue.complete(leased.id, leased.token, done(2)).await.unwrap();
    assert_eq!(outcome_of(queue_under_test.handles[ALSO_WAITING].take().unwrap()).await, Ok(done(2)));
    // The size of removed jobs at their end is unknown, so the sums are off by their growth since submission.
    queue_under_test.until_counters_are_consistent_within(600).await;
}

/// A job that another program puts on the waiting list again is not trimmed as an ended job, even if the
/// counts of ended jobs still agree.
#[tokio::test]
async fn externally_retried_job_is_not_trimmed() {
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
    // At the same moment a dashboard retries one job and a worker of the original fails the other.
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
