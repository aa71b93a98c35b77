//! The page with a queue in a real Redis, and during its outage.

use std::{
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use prb_core::queue::JobQueue;
use prb_queue::redis::{Config, RedisQueue};
use tempfile::TempDir;

use crate::{ports::free_port, rig::*};

/// A redis-server on its own port; killed when dropped.
pub struct Server {
    child: Child,
    dir: TempDir,
    port: u16,
}

impl Server {
    pub fn start() -> Self {
        let dir = TempDir::new().unwrap();
        let port = free_port();
        Self { child: spawn(&dir, port), dir, port }
    }

    pub fn queue(&self) -> RedisQueue {
        let mut config = Config::new(format!("redis://127.0.0.1:{}", self.port));
        (config.max_jobs, config.call_timeout) = (20_000, Duration::from_secs(2));
        RedisQueue::start(config).unwrap()
    }

    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    pub fn restart(&mut self) {
        self.child = spawn(&self.dir, self.port);
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Every write is on disk before it is answered.
fn spawn(dir: &TempDir, port: u16) -> Child {
    Command::new("redis-server")
        .args([
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "yes",
            "--appendfsync",
            "always",
            "--port",
            &port.to_string(),
            "--dir",
        ])
        .arg(dir.path())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()
        .unwrap_or_else(|e| {
            panic!("redis-server is missing ({e}); install it: apt-get install -y redis-server")
        })
}

async fn until_ready(queue: &RedisQueue) {
    let start = Instant::now();
    while queue.ready().await.is_err() {
        assert!(start.elapsed() < LONG, "redis-server does not answer");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_jobs_in_redis() {
    let server = Server::start();
    let queue = server.queue();
    until_ready(&queue).await;
    submit(&queue, 10_000).await;
    for _ in 0..20 {
        carry_out(&queue, "PhalaStakePool::WorkerInUse").await;
    }
    give_up(&queue, "no & <never>").await;
    let page = Page::of(&queue).await;
    for (path, total) in [
        ("/", "10,000"),
        ("/?page=200", "10,000"),
        ("/live?size=200", "10,000"),
        ("/live?pool=7", "500"),
        ("/live?text=workerinuse&state=succeeded", "20"),
        (&format!("/live?text={}&pool=7", worker(7)), "1"),
        (&format!("/live?text={}&state=succeeded", worker(3)), "1"),
    ] {
        let start = Instant::now();
        let answer = page.get(path).await;
        println!("{path} of 10,000 jobs in Redis: {:?}, {} bytes", start.elapsed(), answer.body.len());
        assert_eq!(answer.has(&[&format!("of <b>{total}</b>")]).status, 200, "{path}");
    }
    let start = Instant::now();
    let searched = page.get("/live?text=workerinuse").await;
    println!("a text in all of 10,000 jobs in Redis: {:?}", start.elapsed());
    let cut = searched.body.contains("Searched: the newest ");
    assert!(cut || searched.body.contains("of <b>20</b>"), "{}", searched.body);
    let done = page.get("/jobs/1").await;
    done.has(&[
        "state succeeded",
        "1,234,567",
        "failed: PhalaStakePool::WorkerInUse",
        "(sealed)",
        "ADD_WORKER",
    ]);
    let key: String = SEALED.iter().map(|byte| format!("{byte:02x}")).collect();
    done.lacks(&[&key]);
    page.get("/jobs/21").await.has(&["no &amp; &lt;never&gt;"]).lacks(&["<never>"]);
    assert_eq!(page.post("/jobs/21/retry", None).await.status, 401);
    assert_eq!(page.post("/jobs/21/retry", Some(TOKEN)).await.status, 200);
    page.get("/jobs/21").await.has(&["state waiting"]);
    assert_eq!(page.post("/jobs/21/remove", Some(TOKEN)).await.status, 200);
    assert_eq!(page.get("/jobs/21").await.status, 404);
    queue.close();
}

#[tokio::test(flavor = "multi_thread")]
async fn last_counts_stay_while_redis_is_down() {
    let mut server = Server::start();
    let queue = server.queue();
    until_ready(&queue).await;
    submit(&queue, 7).await;
    let page = Page::of(&queue).await;
    page.get("/").await.has(&["<b>7</b>", "href=\"/jobs/7\""]).lacks(&["does not answer"]);
    server.kill();
    let away = page.get("/").await;
    assert_eq!(away.status, 503);
    away.has(&["The queue does not answer", "<b>7</b>", "Counted at", "class=\"counts stale\""]);
    let parts = page.get("/live").await;
    assert_eq!(parts.status, 200);
    parts.has(&["does not answer", "<b>7</b>"]).lacks(&["id=\"jobs\""]);
    page.get("/live/jobs/3").await.has(&["does not answer"]).lacks(&["id=\"job\""]);
    assert_eq!(page.post("/jobs/3/remove", Some(TOKEN)).await.has(&["refuses"]).status, 503);
    server.restart();
    let start = Instant::now();
    while queue.stats().await.is_err() {
        assert!(start.elapsed() < LONG, "the queue did not come back");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let back = page.get("/").await;
    assert_eq!(back.has(&["href=\"/jobs/7\""]).lacks(&["does not answer"]).status, 200);
    queue.close();
}
