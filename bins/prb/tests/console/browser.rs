//! The console in Chromium: each page and action at two widths, light and dark.

use std::time::Instant;

use prb_core::worker::{Command, State};
use serde_json::json;

use crate::{driver::Browser, rig::*};

const WIDE: &str = "document.documentElement.scrollWidth > document.documentElement.clientWidth";

/// Checks a page at both widths, light and dark; nothing may overflow on a phone.
pub async fn look(browser: &mut Browser, name: &str) {
    for (width, height) in [(1400, 900), (390, 844)] {
        browser.call("setViewportSize", json!([{ "width": width, "height": height }])).await;
        for scheme in ["light", "dark"] {
            browser.call("emulateMedia", json!([{ "colorScheme": scheme }])).await;
            browser.picture(&format!("console-{name}-{width}-{scheme}")).await;
        }
        assert_eq!(browser.evaluate(WIDE).await, false, "{name} at {width}");
    }
    browser.call("setViewportSize", json!([{ "width": 1400, "height": 900 }])).await;
    browser.call("emulateMedia", json!([{ "colorScheme": "light" }])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_workers_with_fifty_in_trouble() {
    let made = Made::new(fleet(1000, 20));
    let page = Page::of(&made).await;
    let mut browser = Browser::start().await;
    browser.open(&page.url("/")).await;
    browser.until_shows("#all-trouble", "50 workers").await;
    look(&mut browser, "overview").await;

    // From the overview to the workers with one trouble: the list is usable in under a second.
    let start = Instant::now();
    browser.open(&page.url("/workers")).await;
    browser.until_shows("#list .extent", "1–100 of 1,000").await;
    let took = start.elapsed();
    assert!(took.as_millis() < 1000, "{took:?}");
    look(&mut browser, "workers").await;
    browser.evaluate("window.same = true").await;
    browser.call("fill", json!(["[name=text]", "connection refused"])).await;
    browser.until_shows("#list .extent", "1–10 of 10").await;
    browser.call("check", json!(["[name=attention]"])).await;
    browser.call("fill", json!(["[name=text]", ""])).await;
    browser.until_shows("#list .extent", "1–50 of 50").await;
    assert_eq!(browser.evaluate("window.same").await, true, "without the page being loaded again");
    look(&mut browser, "trouble").await;

    // Live updates of rows: the selection is kept.
    browser.open(&page.url("/workers")).await;
    let id = made.fleet.lock().unwrap().workers[3].entry.id;
    let other = made.fleet.lock().unwrap().workers[5].entry.id;
    browser.call("check", json!([format!("#choose-{id}")])).await;
    made.change(|fleet| {
        (fleet.workers[3].state, fleet.workers[3].message) = (State::Kicked, "Kicked".into());
        fleet.workers[5].message = "Something new".into();
    });
    browser.until_shows(&format!("#w-{id} .c-state"), "S_KICKED").await;
    browser.until_shows(&format!("#w-{other} .c-message"), "Something new").await;
    assert_eq!(browser.evaluate(&format!("document.getElementById('choose-{id}').checked")).await, true);
    assert_eq!(browser.complaints().await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_and_forms_with_the_token_only() {
    let made = Made::new(fleet(40, 8));
    let page = Page::of(&made).await;
    let mut browser = Browser::start().await;
    // The workers that match the filter.
    browser.open(&page.url("/workers?attention=1")).await;
    browser.call("selectOption", json!(["#bulk-command", "restart"])).await;
    browser.click("#bulk-all").await;
    browser.until_shows("h1", "restart: 5 workers").await;
    look(&mut browser, "confirm").await;
    browser.click("#give").await;
    browser.call("fill", json!(["#token-value", "not-the-token-of-this-test"])).await;
    browser.click("#token-use").await;
    browser.until_shows("[data-error]", "The token that was sent is wrong").await;
    assert!(made.commands.lock().unwrap().is_empty());
    browser.click("#give").await;
    browser.call("fill", json!(["#token-value", TOKEN])).await;
    browser.call("press", json!(["#token-value", "Enter"])).await;
    browser.until("location.pathname === '/workers'").await;
    browser.until_shows("#said", "accepted the command restart").await;
    assert_eq!(made.commands.lock().unwrap()[0].1, Command::Restart);

    // One worker.
    let id =
        made.fleet.lock().unwrap().workers.iter().find(|w| w.reason == Some("unreachable")).unwrap().entry.id;
    browser.open(&page.url(&format!("/workers/{id}"))).await;
    browser.until_shows(".why", "What to do").await;
    look(&mut browser, "worker").await;
    browser.click("#do-kick").await;
    browser.until_shows("h1", "kick: 1 worker").await;
    browser.click("#give").await;
    browser.until(&format!("location.pathname === '/workers/{id}'")).await;

    // A pool: a refusal is shown next to the form, and the input is kept.
    browser.open(&page.url("/pools")).await;
    look(&mut browser, "pools").await;
    browser.click("#add-pool").await;
    look(&mut browser, "pool-form").await;
    browser.call("fill", json!(["[name=pid]", "7"])).await;
    browser.call("fill", json!(["[name=name]", "another"])).await;
    browser.click("#save").await;
    browser.until_shows("[data-error]", "taken by").await;
    browser.call("fill", json!(["[name=pid]", "77"])).await;
    browser.click("#save").await;
    browser.until("location.pathname === '/pools'").await;
    browser.until_shows("#said", "Pool another is saved").await;
    assert_eq!(made.edits.lock().unwrap().len(), 1);
    browser.open(&page.url(&format!("/workers/{id}/edit"))).await;
    look(&mut browser, "worker-form").await;
    let refusals = browser.complaints().await;
    assert!(refusals.iter().all(|text| text.contains("401") || text.contains("409")), "{refusals:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn charts_of_an_hour_are_drawn_at_every_width() {
    let made = Made::new(fleet(200, 20));
    let page = Page::of(&made).await;
    let now = std::time::SystemTime::now();
    for n in 0..360u32 {
        made.change(|fleet| {
            for (at, worker) in fleet.workers.iter_mut().enumerate() {
                let at = u32::try_from(at).unwrap();
                worker.lag = Some((n * 7 + at) % (40 + n / 2));
                worker.para_block = Some(900_000 + n * 2 + (n / 60) * at % 7);
                worker.state = if (at + n) % 40 < 3 { State::Synching } else { State::Active };
            }
        });
        // No measurements for ten minutes.
        if !(100..160).contains(&n) {
            page.console.take_sample(now - std::time::Duration::from_secs(3600 - u64::from(n) * 10)).await;
        }
    }
    let mut browser = Browser::start().await;
    browser.open(&page.url("/")).await;
    browser.until("document.querySelectorAll('figure.chart path.line').length >= 5").await;
    // The accessible name of a drawing.
    let named = "[...document.querySelectorAll('.plot svg')].every((svg) => svg.getAttribute('aria-labelledby')\
                 .split(' ').every((id) => document.getElementById(id).textContent.length > 2))";
    assert_eq!(browser.evaluate(named).await, true);
    look(&mut browser, "charts").await;
    browser.call("focus", json!([".spans a:last-child"])).await;
    browser.call("press", json!([".spans a:last-child", "Enter"])).await;
    browser.until("location.search === '?span=day'").await;
    browser.until_shows("#charts", "a day ago").await;
    assert_eq!(browser.complaints().await, Vec::<String>::new());
}
