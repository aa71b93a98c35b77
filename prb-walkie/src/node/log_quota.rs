//! [`LogQuota`]: rate-limits log lines that strangers can cause.

use std::time::Duration;

use tokio::time::Instant;

/// Lines of one kind within [`WINDOW`].
const LINES: u32 = 60;
const WINDOW: Duration = Duration::from_secs(60);

/// A rate limit for one kind of line, with a count of suppressed lines.
#[derive(Debug)]
pub(super) struct LogQuota {
    since: Instant,
    lines: u32,
    skipped: u64,
}

impl LogQuota {
    pub(super) fn new() -> Self {
        Self { since: Instant::now(), lines: 0, skipped: 0 }
    }

    /// Returns whether a line may be logged: `Some` with the number of lines suppressed before it.
    pub(super) fn take(&mut self) -> Option<u64> {
        if self.since.elapsed() >= WINDOW {
            (self.since, self.lines) = (Instant::now(), 0);
        }
        if self.lines >= LINES {
            self.skipped += 1;
            return None;
        }
        self.lines += 1;
        Some(std::mem::take(&mut self.skipped))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn flood_is_limited_and_counted() {
        let mut quota = LogQuota::new();
        let logged = (0..1000).filter(|_| quota.take().is_some()).count();
        assert_eq!(logged, LINES as usize);
        tokio::time::advance(WINDOW).await;
        assert_eq!(quota.take(), Some(1000 - u64::from(LINES)));
        assert_eq!(quota.take(), Some(0));
    }
}
