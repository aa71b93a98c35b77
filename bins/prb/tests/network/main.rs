//! Daemons on networks that fail and lie: interfaces that go away, and men in the middle.
#![allow(clippy::unwrap_used, missing_docs)]

#[path = "../support/mod.rs"]
mod support;

mod forward;
mod liars;
mod middle;
mod namespaces;
mod outage;

use std::time::Duration;

/// For something to happen on a machine that has much else to do.
const LIMIT: Duration = Duration::from_secs(120);

/// Waits until something is so; says what else there is to say where it does not come.
async fn until(what: &str, mut is: impl FnMut() -> bool, otherwise: impl Fn() -> String) {
    let start = tokio::time::Instant::now();
    while !is() {
        assert!(start.elapsed() < LIMIT, "not within {LIMIT:?}: {what}\n{}", otherwise());
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
