//! The queue page in Chromium.

use prb_core::queue::JobQueue;
use serde_json::{Value, json};

use crate::{driver::Browser, rig::*};

const LOOKS: &str = "performance.getEntriesByType('resource').filter((e) => e.name.includes('/live')).length";

/// Returns how many times the page requested its parts.
async fn count_looks(browser: &mut Browser) -> u64 {
    browser.evaluate(LOOKS).await.as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_and_jobs_update_automatically() {
    let queue = memory();
    submit(&queue, 3).await;
    let page = Page::of(&queue).await;
    let mut browser = Browser::start().await;
    browser.open(&page.url("/")).await;
    browser.until_shows("#count-waiting b", "3").await;
    queue.submit(job(4)).await.unwrap();
    browser.until_shows("#count-waiting b", "4").await;
    browser.until("!!document.querySelector('#job-4')").await;
    give_up(&queue, "too late").await;
    browser.until_shows("#count-failed b", "1").await;
    browser.until_shows("#jobs .result .bad", "too late").await;

    // A hidden page requests nothing; when visible again, it continues.
    let hide = "Object.defineProperty(document, 'hidden', { value: HIDDEN, configurable: true }); \
                document.dispatchEvent(new Event('visibilitychange'))";
    browser.evaluate(&hide.replace("HIDDEN", "true")).await;
    let looks = count_looks(&mut browser).await;
    browser.evaluate("new Promise((done) => setTimeout(done, 5000))").await;
    assert_eq!(count_looks(&mut browser).await, looks);
    queue.submit(job(5)).await.unwrap();
    browser.evaluate(&hide.replace("HIDDEN", "false")).await;
    browser.until("!!document.querySelector('#job-5')").await;
    assert_eq!(browser.complaints().await, Vec::<String>::new());

    // The server ends: the page shows it, and keeps its content.
    drop(page);
    browser.until_shows("#offline:not([hidden])", "No answer since").await;
    browser.until_shows("#count-waiting b", "4").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_jobs_are_filtered_and_paged() {
    let queue = memory();
    submit(&queue, 10_000).await;
    for n in 0..6 {
        carry_out(&queue, ["PhalaStakePool::WorkerInUse", "PhalaComputation::WorkerNotBound"][n % 2]).await;
        give_up(
            &queue,
            "the transaction was not included within 120 s; the account's nonce is asked for again",
        )
        .await;
    }
    take(&queue).await;
    let page = Page::of(&queue).await;
    let mut browser = Browser::start().await;
    browser.open(&page.url("/")).await;
    list_is_paged(&mut browser).await;
    list_is_filtered_while_typing(&mut browser).await;
    nothing_is_requested_while_typing(&mut browser).await;
    list_and_job_fit_a_narrow_screen(&mut browser).await;
    browser.open(&page.url("/jobs/1")).await;
    browser.picture("job").await;
    opened_data_stays_open_during_updates(&mut browser).await;
    assert_eq!(browser.complaints().await, Vec::<String>::new());
}

async fn list_is_paged(browser: &mut Browser) {
    browser.until_shows("#jobs .extent", "1–50 of 10,000").await;
    browser.picture("list").await;
    browser.click("#page-last").await;
    browser.until_shows("#jobs .extent", "9,951–10,000 of 10,000").await;
    browser.picture("last").await;
    browser.click("#page-previous").await;
    browser.until_shows("#jobs .pager", "Page 199 of 200").await;
}

/// Without a page load; the first page of the matches.
async fn list_is_filtered_while_typing(browser: &mut Browser) {
    browser.evaluate("window.same = true").await;
    browser.call("fill", json!(["[name=pool]", "7"])).await;
    browser.until_shows("#jobs .extent", "1–50 of 500").await;
    assert_eq!(browser.evaluate("location.search").await, "?pool=7&size=50");
    browser.call("fill", json!(["[name=text]", "#27"])).await;
    browser.until_shows("#jobs .extent", "1–1 of 1").await;
    browser.until("!!document.querySelector('#job-27')").await;
    assert_eq!(browser.evaluate("window.same").await, true);
}

/// While the field has focus, nothing is requested, and the input is kept.
async fn nothing_is_requested_while_typing(browser: &mut Browser) {
    browser.call("focus", json!(["[name=text]"])).await;
    let looks = count_looks(browser).await;
    let typing = "(async () => { const field = document.querySelector('[name=text]'); \
                  for (let n = 0; n < 30; n++) { field.value += 'x'; \
                  field.dispatchEvent(new Event('input', { bubbles: true })); \
                  await new Promise((done) => setTimeout(done, 100)); } return field.value.length })()";
    assert_eq!(browser.evaluate(typing).await, 33);
    assert_eq!(count_looks(browser).await, looks);
    browser.until_shows("#jobs .extent", "No job matches the filter.").await;
}

async fn list_and_job_fit_a_narrow_screen(browser: &mut Browser) {
    browser.call("fill", json!(["[name=text]", ""])).await;
    browser.call("fill", json!(["[name=pool]", ""])).await;
    browser.call("selectOption", json!(["[name=state]", "failed"])).await;
    browser.until_shows("#jobs .extent", "1–6 of 6").await;
    browser.picture("failed").await;
    browser.call("setViewportSize", json!([{ "width": 390, "height": 844 }])).await;
    browser.picture("narrow").await;
    let wide = "document.documentElement.scrollWidth > document.documentElement.clientWidth";
    assert_eq!(browser.evaluate(wide).await, false, "the list is wider than the screen");
    browser.call("emulateMedia", json!([{ "colorScheme": "dark" }])).await;
    browser.picture("narrow-dark").await;
    browser.click("#job-2").await;
    browser.until_shows("#job h1", "Job 2").await;
    assert_eq!(browser.evaluate(wide).await, false, "the job is wider than the screen");
    browser.picture("job-narrow-dark").await;
    browser.call("setViewportSize", json!([{ "width": 1280, "height": 900 }])).await;
    browser.picture("job-dark").await;
    browser.call("emulateMedia", json!([{ "colorScheme": "light" }])).await;
}

async fn opened_data_stays_open_during_updates(browser: &mut Browser) {
    let seen = "document.querySelector('details pre').checkVisibility()";
    assert_eq!(browser.evaluate(seen).await, false);
    browser.click("details summary").await;
    browser.until(seen).await;
    let data = browser.evaluate("document.querySelector('details pre').innerText").await;
    let data: Value = serde_json::from_str(data.as_str().unwrap()).unwrap();
    assert_eq!(data["calls"][1]["call"], "PhalaStakePoolv2::start_computing");
    assert_eq!(data["calls"][1]["arguments"]["worker"], worker(1).to_string());
    assert_eq!(data["signer"]["key"], "(sealed)");
    let looks = count_looks(browser).await;
    browser.until(&format!("{LOOKS} > {looks}")).await;
    assert_eq!(browser.evaluate(seen).await, true);
    browser.picture("job-data").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_and_remove_with_the_token_only() {
    let queue = memory();
    submit(&queue, 2).await;
    give_up(&queue, "first").await;
    give_up(&queue, "second").await;
    let page = Page::of(&queue).await;
    let mut browser = Browser::start().await;
    browser.open(&page.url("/jobs/1")).await;
    browser.click("#retry-1").await;
    browser.until_shows("h1", "retry: 1 job").await;

    // The token dialog is cancelled: nothing changes.
    browser.click("#give").await;
    browser.until("document.querySelector('#token-dialog').open").await;
    browser.picture("token").await;
    browser.call("press", json!(["#token-value", "Escape"])).await;
    browser.until("!document.querySelector('#token-dialog').open").await;
    // A wrong token.
    browser.until_shows("#token-why", "token that is in the file").await;
    browser.click("#give").await;
    browser.call("fill", json!(["#token-value", "not-the-token-of-this-test"])).await;
    browser.click("#token-use").await;
    browser.until_shows("[data-error]", "The token that was sent is wrong").await;
    assert_eq!(queue.stats().await.unwrap().waiting, 0);
    assert_eq!(browser.evaluate("sessionStorage.length").await, 0);
    // The right token, with Enter; kept for this tab.
    browser.click("#give").await;
    browser.call("fill", json!(["#token-value", TOKEN])).await;
    browser.call("press", json!(["#token-value", "Enter"])).await;
    browser.until_shows("#said", "Job 1 is queued again").await;
    browser.until_shows("#job h1", "waiting").await;
    assert_eq!(queue.stats().await.unwrap().waiting, 1);
    assert_eq!(browser.evaluate("document.cookie").await, "");

    browser.open(&page.url("/?state=failed")).await;
    browser.call("check", json!(["#choose-2"])).await;
    browser.click("#bulk-chosen").await;
    browser.until_shows("h1", "retry: 1 job").await;
    browser.picture("confirm").await;
    browser.click("#give").await;
    browser.until_shows("#said", "Job 2 is queued again").await;
    assert_eq!(queue.stats().await.unwrap().waiting, 2);

    browser.open(&page.url("/jobs/2")).await;
    browser.click("#remove-2").await;
    browser.until_shows("h1", "remove: 1 job").await;
    browser.click("#give").await;
    browser.until("location.pathname === '/'").await;
    browser.until_shows("#jobs .extent", "1–1 of 1").await;
    assert_eq!(queue.stats().await.unwrap().waiting, 1);

    // The token is forgotten on request.
    browser.click("#token").await;
    browser.until("sessionStorage.length === 0").await;
    let refusals = browser.complaints().await;
    assert!(refusals.iter().all(|text| text.contains("401")), "{refusals:?}");
}
