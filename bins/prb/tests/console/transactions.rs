//! The page of transactions in the console.

use axum::http::StatusCode;
use prb_core::{
    chain::Call,
    primitives::{AccountId, Hash, ParaNumber, PoolId},
    queue::{CallOutcome, Job, JobFailure, JobOutcome, JobQueue, JobSigner, memory::MemoryQueue},
    vault::Sealed,
};
use serde_json::json;

use crate::{driver::Browser, rig::*};

/// Submits a job about worker `n` of the simulated fleet.
async fn submit(queue: &MemoryQueue, n: u64) {
    let worker = worker(n).key.unwrap();
    let pool = PoolId(n % 20 + 1);
    let signer = JobSigner { operator: AccountId([2; 32]), key: Sealed(vec![1]), proxied: None };
    let calls = vec![Call::AddWorker { pool, worker }];
    queue.submit(Job { pool, signer, calls, retries: 0 }).await.unwrap();
}

async fn end(queue: &MemoryQueue, outcome: Result<u128, &str>) {
    let lease = tokio::time::timeout(LONG, queue.lease(LONG)).await.unwrap().unwrap();
    match outcome {
        Ok(fee) => {
            let outcome = JobOutcome {
                calls: vec![CallOutcome::Done],
                block: ParaNumber(1_000_001),
                extrinsic: Some(Hash([0xab; 32])),
                fee: Some(fee),
            };
            queue.complete(lease.id, lease.token, outcome).await.unwrap();
        }
        Err(message) => {
            let failure = JobFailure { message: message.to_owned() };
            queue.fail(lease.id, lease.token, failure, None).await.unwrap();
        }
    }
}

#[tokio::test]
async fn transactions_are_shown_by_worker_with_block_and_fee() {
    let made = Made::new(fleet(30, 100));
    let queue = MemoryQueue::default();
    // The last one is not of the fleet.
    for n in [3, 4, 3, 5, 77] {
        submit(&queue, n).await;
    }
    end(&queue, Ok(12_500_000_000)).await;
    end(&queue, Err("<script>alert(1)</script>")).await;
    let page = Page::with_queue(&made, &queue).await;
    let (three, id) = (worker(3).entry.name.clone(), worker(3).entry.id);
    let all = page.get("/transactions").await;
    all.has(&[
        "<title>Transactions",
        "aria-current=\"page\">Transactions",
        "of <b>5</b>",
        // A worker without a name is shown by the start of its key, with the whole key as its title.
        &format!("title=\"{}\"", worker(77).key.unwrap()),
        &format!("href=\"/workers/{id}\">{three}</a>"),
        "block 1,000,001",
        "0.0125",
        "/transactions/confirm?do=retry&amp;id=2",
        "/pools",
    ]);
    all.lacks(&["<script>alert"]);
    for (query, count) in [
        (format!("worker={three}"), 2),
        (format!("worker={id}"), 2),
        (format!("worker={}", worker(3).key.unwrap()), 2),
        (format!("worker={three}&state=succeeded"), 1),
        (format!("worker={three}&text=nothing+such"), 0),
        ("worker=rack-&pool=5".to_owned(), 1),
        ("state=failed".to_owned(), 1),
    ] {
        let answer = page.get(&format!("/transactions?{query}")).await;
        assert_eq!(answer.count("id=\"job-"), count, "{query}");
    }
    page.get("/transactions?worker=nobody").await.has(&["No worker with that name"]);
    let confirm = page.get("/transactions/confirm?do=retry&id=2").await;
    confirm.has(&["retry: 1 job", &worker(4).entry.name, "action=\"/transactions/act\""]);
    assert_eq!(page.post("/transactions/act", None, "do=retry&id=2").await.status, 401);
    page.post("/transactions/act", Some(TOKEN), "do=retry&id=2").await.has(&["Job 2 is queued again."]);
    // The worker's page has its own.
    let own = page.get(&format!("/workers/{id}")).await;
    own.has(&["<h2>Transactions</h2>", "id=\"job-1\"", "id=\"job-3\"", "All its jobs"]);
    own.lacks(&["id=\"job-2\"", "choose-1"]);
    page.get(&format!("/workers/{}", worker(9).entry.id)).await.has(&["None among the newest jobs"]);
    assert_eq!(page.get("/transactions/jobs/77").await.status, StatusCode::NOT_FOUND);
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_chosen_and_retried_with_the_token() {
    let made = Made::new(fleet(30, 100));
    let queue = MemoryQueue::default();
    for n in 1..=60 {
        submit(&queue, n % 30 + 1).await;
    }
    for n in 0..40u64 {
        let outcome = if n % 3 == 0 {
            Err("the transaction was not included within 120 s; the account's nonce is asked for again")
        } else {
            Ok(12_500_000_000 + u128::from(n))
        };
        end(&queue, outcome).await;
    }
    let page = Page::with_queue(&made, &queue).await;
    let mut browser = Browser::start().await;
    browser.open(&page.url("/transactions")).await;
    browser.until_shows("#jobs .extent", "1–50 of 60").await;
    crate::browser::look(&mut browser, "transactions").await;
    browser.call("selectOption", json!(["[name=state]", "failed"])).await;
    browser.until_shows("#jobs .extent", "1–14 of 14").await;
    browser.call("check", json!(["#choose-all"])).await;
    // The selection is kept while the list updates.
    submit(&queue, 1).await;
    browser.until_shows("#count-waiting b", "21").await;
    browser.click("#bulk-chosen").await;
    browser.until_shows("h1", "retry: 14 jobs").await;
    crate::browser::look(&mut browser, "transactions-confirm").await;
    browser.click("#give").await;
    browser.until_shows("#token-why", "token that is in the file").await;
    browser.picture("console-token").await;
    browser.call("fill", json!(["#token-value", TOKEN])).await;
    browser.call("press", json!(["#token-value", "Enter"])).await;
    // The page goes back to the list.
    browser.until("location.pathname === '/transactions'").await;
    browser.until_shows("#said", "14 jobs: queued again.").await;
    browser.open(&page.url(&format!("/workers/{}", worker(3).entry.id))).await;
    browser.until_shows("#jobs", "All its jobs").await;
    crate::browser::look(&mut browser, "worker-jobs").await;
    let complaints = browser.complaints().await;
    assert!(complaints.iter().all(|text| text.contains("401")), "{complaints:?}");
}
