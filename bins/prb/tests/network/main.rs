//! Daemons on failing and malicious networks: interfaces that are unplugged, and tampering proxies.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../support/mod.rs"]
mod support;

mod forward;
mod liars;
mod middle;
mod namespaces;
mod outage;

use std::time::Duration;

/// Time limit that is long enough on a loaded machine.
const LIMIT: Duration = Duration::from_secs(120);

/// Waits for a condition; panics with further details on timeout.
async fn until(what: &str, mut is: impl FnMut() -> bool, otherwise: impl Fn() -> String) {
    let start = tokio::time::Instant::now();
    while !is() {
        assert!(start.elapsed() < LIMIT, "not within {LIMIT:?}: {what}\n{}", otherwise());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
