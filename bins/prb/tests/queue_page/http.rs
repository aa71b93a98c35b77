//! The queue page over HTTP, with a queue in memory.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use async_trait::async_trait;
use prb::{
    config::{OpsListen, PageArgs},
    pages::{
        MAX_REQUESTS,
        queue::{self, MAX_SEARCHED, Source},
    },
    token::Access,
};
use prb_core::queue::{
    Error, JobId, JobQueue,
    admin::{Filter, JobDetail, Page as JobPage, QueueAdmin},
    memory::{Config, MemoryQueue},
};
use tokio::{net::TcpListener, sync::Semaphore, task::JoinSet};

use crate::rig::*;

#[tokio::test]
async fn ten_thousand_jobs_are_counted_filtered_and_paged() {
    let queue = memory();
    submit(&queue, 10_000).await;
    let page = Page::of(&queue).await;
    let start = Instant::now();
    let first = page.get("/").await;
    println!("first page of 10,000 jobs in memory: {:?}, {} bytes", start.elapsed(), first.body.len());
    assert_eq!(first.status, 200);
    first.has(&[
        "<b>1–50</b>",
        "<b>10,000</b>",
        "href=\"/jobs/10000\"",
        "Page 1 of 200",
        "data-live=\"/live\"",
    ]);
    assert_eq!(first.count("<tr>"), 51, "a head and fifty jobs");
    first.lacks(&["href=\"/jobs/9950\""]);

    page.get("/?page=200").await.has(&["<b>9,951–10,000</b>", "href=\"/jobs/1\"", "href=\"/jobs/50\""]);
    page.get("/?page=99999&size=100").await.has(&["<b>9,901–10,000</b>", "Page 100 of 100"]);
    let pool = page.get("/?pool=7&size=25").await;
    pool.has(&["<b>500</b>", "/?pool=7&amp;page=2&amp;size=25", "data-live=\"/live?pool=7&amp;size=25\""]);
    assert_eq!(pool.count("data-label=\"Pool\">7<"), 25);
    page.get("/?text=%2342").await.has(&["<b>1–1</b>", "href=\"/jobs/42\""]);
    page.get("/?text=42&pool=3").await.has(&["No job matches the filter."]);
    page.get("/?state=failed").await.has(&["No job matches the filter."]);
    page.get("/?state=lost").await.has(&["There is no such state."]);
    page.get("/?pool=all").await.has(&["The number of a pool must be a whole number."]);

    let start = Instant::now();
    let none = page.get("/live?text=nowhere").await;
    println!("a text that none of 10,000 jobs has, in memory: {:?}", start.elapsed());
    none.has(&["No job matches the filter."]).lacks(&["<form class=\"filter\"", "Searched"]);
}

/// A text is searched for in a bounded number of jobs, and has a bounded length; a job's data is shown up to a limit.
#[tokio::test]
async fn searches_and_shown_data_are_bounded() {
    let queue = MemoryQueue::new(Config::default().with_max_jobs(2 * MAX_SEARCHED));
    submit(&queue, MAX_SEARCHED as u64 + 1500).await;
    let page = Page::of(&queue).await;
    page.get("/?text=nowhere").await.has(&[" Searched: the newest ", " of 21,500 jobs."]);
    page.get(&format!("/?text={}", "x".repeat(200))).await.has(&[" Searched: the newest "]);
    page.get(&format!("/?text={}", "x".repeat(201))).await.has(&["The text has more than 200 bytes."]);
    let mut large = job(1);
    large.calls = vec![large.calls[1].clone(); 100];
    let queue = memory();
    queue.submit(large).await.unwrap();
    let shown = Page::of(&queue).await.get("/jobs/1").await;
    shown.has(&["The first 20,000 of "]);
    let data = shown.body.split("<pre>").nth(1).unwrap().split("</pre>").next().unwrap();
    assert_eq!(data.replace("&quot;", "\"").chars().count(), 20_000);
}

#[tokio::test]
async fn text_search_covers_errors_and_results() {
    let queue = memory();
    submit(&queue, 60).await;
    for _ in 0..30 {
        carry_out(&queue, "PhalaStakePool::WorkerInUse").await;
    }
    give_up(&queue, "the account has too little").await;
    let page = Page::of(&queue).await;
    let found = page.get("/?text=workerinuse&size=25").await;
    found.has(&[
        "<b>1–25</b> of <b>30</b>",
        "1 of 2 calls failed: PhalaStakePool::WorkerInUse",
        "block 1,234,567",
    ]);
    page.get("/?text=workerinuse&size=25&page=2").await.has(&["<b>26–30</b> of <b>30</b>"]);
    page.get("/?text=workerinuse&size=25&page=3").await.has(&["<b>26–30</b> of <b>30</b>", "Page 2 of 2"]);
    page.get("/?text=TOO+LITTLE").await.has(&["<b>1–1</b> of <b>1</b>", "href=\"/jobs/31\""]);
    page.get("/?text=0xabab&state=succeeded").await.has(&["of <b>30</b>"]);
}

#[tokio::test]
async fn jobs_are_found_by_their_worker() {
    let queue = memory();
    submit(&queue, 300).await;
    let again = queue.submit(job(42)).await.unwrap();
    carry_out(&queue, "PhalaStakePool::WorkerInUse").await;
    let page = Page::of(&queue).await;
    let key = worker(42).to_string();
    let digits = key.trim_start_matches("0x");
    // As in a log, without its prefix, in capitals, and its beginning.
    for text in [&key, digits, &digits.to_uppercase(), &key[..20]] {
        let found = page.get(&format!("/?text={text}")).await;
        found.has(&["<b>1–2</b> of <b>2</b>", "href=\"/jobs/42\"", &format!("href=\"/jobs/{}\"", again.id)]);
    }
    page.get(&format!("/?text={key}&pool=3")).await.has(&["No job matches the filter."]);
    // Ended jobs too.
    let ended = page.get(&format!("/?text={}&state=succeeded", worker(1))).await;
    ended.has(&["<b>1–1</b> of <b>1</b>", "href=\"/jobs/1\""]);
    // Every key has these digits; such a short text may be a word.
    page.get("/?text=fefefe").await.has(&["of <b>301</b>"]);
    page.get("/?text=fefe").await.has(&["No job matches the filter."]);
}

#[tokio::test]
async fn job_is_shown_completely_without_its_key() {
    let queue = memory();
    submit(&queue, 3).await;
    let page = Page::of(&queue).await;
    page.get("/jobs/1").await.has(&["Nothing yet.", "start_computing: pool 1", "stake 12345"]);
    // The kinds of its calls, and its data.
    page.get("/").await.has(&["add_worker, PhalaStakePoolv2::<wbr>start_computing"]);
    page.get("/jobs/1").await.has(&["<details>", "&quot;stake&quot;: &quot;12345&quot;", "(sealed)"]);
    let id = carry_out(&queue, "PhalaComputation::WorkerNotBound").await;
    let answer = page.get(&format!("/jobs/{id}")).await;
    assert_eq!(answer.status, 200);
    answer.has(&[
        "<h1>Job 1 <span class=\"state succeeded\">succeeded</span></h1>",
        "1,234,567",
        &format!("<code>0x{}</code>", "ab".repeat(32)),
        "failed: PhalaComputation::WorkerNotBound",
        "<li>done</li>",
        "state waiting",
        "state active",
        "/confirm?do=remove&amp;id=1",
    ]);
    answer.has(&["0.0125\u{a0}PHA"]).lacks(&["do=retry", &key_in_hex(), "a sealed key"]);
    let failed = give_up(&queue, "no nonce").await;
    page.get(&format!("/jobs/{failed}")).await.has(&["It failed: no nonce", "/confirm?do=retry&amp;id=2"]);
    let parts = page.get("/live/jobs/2").await;
    parts.has(&["no nonce", "data-part"]).lacks(&["<html", "stake 12345"]);
    assert_eq!(page.get("/jobs/77").await.status, 404);
    assert_eq!(page.get("/jobs/x").await.status, 404);
    assert_eq!(page.get("/nothing").await.status, 404);
}

fn key_in_hex() -> String {
    SEALED.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn foreign_texts_are_escaped() {
    let queue = memory();
    submit(&queue, 2).await;
    let evil = "</pre><script>alert(1)</script>\" onload='x";
    give_up(&queue, evil).await;
    carry_out(&queue, evil).await;
    let page = Page::of(&queue).await;
    let query = "%22%3E%3Cscript%3Ealert(2)%3C/script%3E";
    for path in ["/", "/live", "/jobs/1", "/jobs/2", &format!("/?text={query}"), &format!("/?state={query}")]
    {
        let answer = page.get(path).await;
        answer.lacks(&["<script>", "</pre><script", "alert(2)</script>", "\" onload"]);
    }
    page.get("/jobs/1").await.has(&["&lt;/pre&gt;&lt;script&gt;alert(1)&lt;/script&gt;&quot; onload='x"]);
}

#[tokio::test]
async fn changes_need_the_token() {
    let queue = memory();
    submit(&queue, 2).await;
    give_up(&queue, "no").await;
    let page = Page::of(&queue).await;
    for token in [None, Some(""), Some("another-token-of-a-length"), Some("a-token-of-this-tesT")] {
        for path in ["/jobs/1/retry", "/jobs/1/remove", "/anything"] {
            let answer = page.post(path, token).await;
            assert_eq!(answer.status, 401, "{path} {token:?}");
            assert!(answer.head.contains("www-authenticate: bearer"), "{}", answer.head);
            answer.has(&["{\"message\":", "token that is in the file"]).lacks(&[TOKEN]);
        }
    }
    assert_eq!(queue.stats().await.unwrap().waiting, 1, "nothing was changed");
    assert_eq!(page.get("/jobs/1/retry").await.status, 405);

    assert_eq!(page.post("/jobs/1/retry", Some(TOKEN)).await.has(&["queued again"]).status, 200);
    assert_eq!(queue.stats().await.unwrap().waiting, 2);
    let again = page.post("/jobs/1/retry", Some(TOKEN)).await;
    assert_eq!(again.has(&["Job 1 is waiting"]).status, 409);
    assert_eq!(page.post("/jobs/2/remove", Some(TOKEN)).await.status, 200);
    assert_eq!(page.post("/jobs/2/remove", Some(TOKEN)).await.status, 404);
    assert_eq!(queue.stats().await.unwrap().waiting, 1);
}

#[tokio::test]
async fn actions_are_previewed() {
    let queue = memory();
    submit(&queue, 5).await;
    for _ in 0..2 {
        give_up(&queue, "no").await;
    }
    let page = Page::of(&queue).await;
    page.get("/").await.has(&[
        "id=\"choose-1\"",
        "form=\"bulk-form\"",
        "href=\"/confirm?do=retry&amp;id=1\"",
    ]);
    let shown = page.get("/confirm?do=retry&id=1&id=2&id=4&id=99").await;
    assert_eq!(shown.status, 200);
    shown.has(&[
        "retry: 2 jobs",
        "2 jobs of those chosen will be left out",
        "value=\"1,2\"",
        "It is queued again.",
        "Left out: It is waiting: only a failed job can be queued again.",
        "Left out: The queue has no job with that number.",
        "start_computing: pool 1",
    ]);
    page.get("/confirm?do=remove&id=1,3").await.has(&["remove: 2 jobs", "It is removed.", "It is not sent;"]);
    page.get("/confirm?do=retry").await.has(&["No job was chosen."]);
    let many: String = (0..201).map(|n| format!("&id={n}")).collect();
    for query in ["do=burn&id=1", "do=retry&id=x", &format!("do=retry{many}")] {
        assert_eq!(page.get(&format!("/confirm?{query}")).await.status, 400, "{query}");
    }
    assert_eq!(queue.stats().await.unwrap().waiting, 3, "nothing was done so far");
    assert_eq!(page.act(None, "do=retry&id=1,2").await.status, 401);
    assert_eq!(page.act(Some(TOKEN), "do=burn&id=1").await.status, 400);
    assert_eq!(
        page.act(Some(TOKEN), "do=retry&id=1,2,4")
            .await
            .has(&["2 jobs: queued again. 1 job left out"])
            .status,
        200
    );
    assert_eq!(queue.stats().await.unwrap().waiting, 5);
    page.act(Some(TOKEN), "do=remove&id=1,2,3,4").await.has(&["4 jobs: removed."]);
    page.act(Some(TOKEN), "do=remove&id=5").await.has(&["Job 5 is removed."]);
    assert_eq!(queue.stats().await.unwrap().waiting, 0);
}

#[tokio::test]
async fn without_a_token_changes_are_refused_and_the_variable_is_named() {
    let queue = memory();
    submit(&queue, 1).await;
    give_up(&queue, "no").await;
    let source = Source { queue: Arc::new(queue.clone()), admin: Arc::new(queue.clone()) };
    let page = Page::start(source, None).await;
    for token in [None, Some(""), Some(TOKEN)] {
        let answer = page.post("/jobs/1/retry", token).await;
        assert_eq!(answer.has(&["PRB_API_TOKEN", "16 characters"]).status, 403, "{token:?}");
    }
    let host = page.address;
    let form =
        format!("POST /jobs/1/retry HTTP/1.1\r\nHost: {host}\r\nAccept: text/html\r\nContent-Length: 0\r\n");
    let answer = page.send(&form).await;
    assert_eq!(answer.has(&["<html", "PRB_API_TOKEN"]).status, 403);
    assert_eq!(queue.stats().await.unwrap().waiting, 0);
}

#[tokio::test]
async fn unknown_host_names_are_refused() {
    let page = Page::of(&memory()).await;
    for (host, status) in
        [("evil.example", 421), ("localhost.evil.example:4567", 421), ("localhost:4567", 200)]
    {
        let answer = page.send(&format!("GET / HTTP/1.1\r\nHost: {host}\r\nAccept: text/html\r\n")).await;
        assert_eq!(answer.status, status, "{host}");
    }
    let with_token = format!(
        "POST /jobs/1/retry HTTP/1.1\r\nHost: evil.example\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 0\r\n"
    );
    assert_eq!(page.send(&with_token).await.has(&["PRB_PAGE_HOSTS"]).status, 421);
}

#[tokio::test]
async fn pages_have_no_external_or_inline_resources() {
    let queue = memory();
    submit(&queue, 1).await;
    let page = Page::of(&queue).await;
    for path in ["/", "/jobs/1", "/nothing"] {
        let answer = page.get(path).await;
        for header in [
            "content-security-policy: default-src 'none'; script-src 'self'; style-src 'self';",
            "frame-ancestors 'none'",
            "x-content-type-options: nosniff",
            "referrer-policy: no-referrer",
            "cache-control: no-store",
        ] {
            assert!(answer.head.contains(header), "{header} in {}", answer.head);
        }
        answer.lacks(&["style=", "onclick", "://", "<style", "<script>"]);
    }
    let home = page.get("/").await;
    let assets: Vec<_> = home.body.split('"').filter(|text| text.starts_with("/assets/")).collect();
    assert_eq!(assets.len(), 3, "{assets:?}");
    for (path, kind) in assets.into_iter().zip(["image/svg+xml", "text/css", "text/javascript"]) {
        let asset = page.get(path).await;
        assert_eq!(asset.status, 200, "{path}");
        assert!(asset.head.contains(kind) && asset.head.contains("immutable"), "{}", asset.head);
    }
    assert_eq!(page.get("/assets/0/page.rs").await.status, 404);
}

#[tokio::test]
async fn large_requests_are_refused() {
    let page = Page::of(&memory()).await;
    let host = page.address;
    let large = format!(
        "POST /x HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 9000\r\n"
    );
    assert_eq!(page.send(&large).await.status, 413);
    // A head is read in chunks, so only twice the limit is certainly too long.
    let long = format!("GET / HTTP/1.1\r\nHost: {host}\r\nX-Long: {}\r\n", "x".repeat(70_000));
    assert_eq!(page.send(&long).await.status, 431);
}

/// Releases retries on a signal, and never lists jobs.
#[derive(Debug)]
struct Stuck {
    inner: MemoryQueue,
    inside: AtomicUsize,
    go: Semaphore,
}

impl Stuck {
    async fn page(inner: &MemoryQueue) -> (Arc<Self>, Page) {
        let stuck = Self { inner: inner.clone(), inside: AtomicUsize::new(0), go: Semaphore::new(0) };
        let stuck = Arc::new(stuck);
        let source = Source { queue: Arc::new(inner.clone()), admin: Arc::<Self>::clone(&stuck) };
        (stuck, Page::start(source, Some(TOKEN)).await)
    }
}

#[async_trait]
impl QueueAdmin for Stuck {
    async fn list(&self, _: Filter, _: usize, _: usize) -> Result<JobPage, Error> {
        std::future::pending().await
    }

    async fn job(&self, id: JobId) -> Result<Option<JobDetail>, Error> {
        self.inner.job(id).await
    }

    async fn retry(&self, id: JobId) -> Result<bool, Error> {
        self.inside.fetch_add(1, Ordering::SeqCst);
        let _go = self.go.acquire().await;
        self.inner.retry(id).await
    }

    async fn remove(&self, id: JobId) -> Result<bool, Error> {
        self.inner.remove(id).await
    }
}

#[tokio::test]
async fn concurrent_requests_are_limited() {
    let queue = memory();
    submit(&queue, 1).await;
    let (stuck, page) = Stuck::page(&queue).await;
    let page = Arc::new(page);
    let mut asking = JoinSet::new();
    for _ in 0..MAX_REQUESTS {
        let page = Arc::clone(&page);
        asking.spawn(async move { page.post("/jobs/1/retry", Some(TOKEN)).await.status });
    }
    let start = Instant::now();
    while stuck.inside.load(Ordering::SeqCst) < MAX_REQUESTS {
        assert!(start.elapsed() < LONG, "not all requests have come");
        tokio::task::yield_now().await;
    }
    let refused = page.get("/jobs/1").await;
    assert_eq!(refused.status, 503);
    assert!(refused.head.contains("retry-after: 1"), "{}", refused.head);
    stuck.go.add_permits(MAX_REQUESTS);
    while let Some(status) = asking.join_next().await {
        assert_eq!(status.unwrap(), 409, "the job has not failed");
    }
    assert_eq!(page.get("/jobs/1").await.status, 200);
}

#[tokio::test]
async fn hanging_queue_is_reported_and_known_content_is_shown() {
    let queue = memory();
    submit(&queue, 3).await;
    let (_, page) = Stuck::page(&queue).await;
    let answer = page.get("/").await;
    answer.has(&["does not answer", "no answer within 5 s", "<b>3</b>"]);
    assert_eq!(answer.status, 503);
}

#[tokio::test]
async fn used_default_port_is_skipped_and_used_configured_port_is_refused() {
    let queue = memory();
    let source = Source { queue: Arc::new(queue.clone()), admin: Arc::new(queue) };
    // If another process already uses the port, that serves as well.
    let _default = TcpListener::bind(("127.0.0.1", queue::PORT)).await;
    let none = Access::default();
    assert!(queue::open(&PageArgs::default(), &none, source.clone()).await.unwrap().is_none());
    let holder = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = holder.local_addr().unwrap();
    let at = |listen| PageArgs { queue_page_listen: Some(listen), ..PageArgs::default() };
    let refused = queue::open(&at(OpsListen::At(address)), &none, source.clone()).await.unwrap_err();
    let text = format!("{refused:#}");
    assert!(text.contains(&address.to_string()) && text.contains("PRB_QUEUE_PAGE_LISTEN"), "{text}");
    assert!(queue::open(&at(OpsListen::Off), &none, source).await.unwrap().is_none());
}
