//! [`Turn`]: which connections of an address write answers now.
//!
//! A link is divided among connections, not among addresses: with a thousand of them, one address would leave others a
//! thousandth of it. So only a few connections of an address write at a time, and take turns.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures::{FutureExt, future::BoxFuture};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::{Duration, Instant, sleep_until},
};

// Measured on a link of 100 Mbit/s (tc in a network namespace): beside 256 connections of one address that read as
// fast as they could, another address got 29 KB/s without turns, which is below the least rate, and 3.5 MB/s with these
// values.
/// Connections of an address that write at a time.
const WRITERS: usize = 8;
/// How long one writes if others of its address wait.
const DURATION: Duration = Duration::from_millis(250);

/// The turns of one address.
#[derive(Debug)]
pub(super) struct Turns {
    writers: Arc<Semaphore>,
    waiting: AtomicUsize,
}

impl Default for Turns {
    fn default() -> Self {
        Self { writers: Arc::new(Semaphore::new(WRITERS)), waiting: AtomicUsize::new(0) }
    }
}

/// One connection's turn.
pub(super) struct Turn {
    all: Arc<Turns>,
    state: State,
}

enum State {
    Idle,
    /// Since when it waits, and its place in the queue.
    Waiting(Instant, BoxFuture<'static, Option<OwnedSemaphorePermit>>),
    /// Until when it writes if others wait.
    Writing(Instant, #[expect(dead_code, reason = "released on drop")] Option<OwnedSemaphorePermit>),
}

impl fmt::Debug for Turn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Turn").field("all", &self.all).finish_non_exhaustive()
    }
}

impl Turn {
    pub(super) const fn new(all: Arc<Turns>) -> Self {
        Self { all, state: State::Idle }
    }

    /// Whether the connection may write now.
    pub(super) const fn is_writing(&self) -> bool {
        matches!(self.state, State::Writing(..))
    }

    /// Waits until the turn is over, or else until it begins; returns how long it had to be waited for.
    ///
    /// # Cancel safety
    /// Cancel safe: the place in the queue is kept.
    pub(super) async fn next(&mut self) -> Duration {
        if let State::Writing(until, _) = self.state {
            sleep_until(until).await;
            return Duration::ZERO;
        }
        if matches!(self.state, State::Idle) {
            self.all.waiting.fetch_add(1, Ordering::Relaxed);
            // The semaphore is fair. It is never closed.
            let place = Arc::clone(&self.all.writers).acquire_owned().map(Result::ok).boxed();
            self.state = State::Waiting(Instant::now(), place);
        }
        let State::Waiting(since, place) = &mut self.state else { return Duration::ZERO };
        let (permit, waited) = (place.await, since.elapsed());
        self.end();
        self.state = State::Writing(Instant::now() + DURATION, permit);
        waited
    }

    /// Ends the turn if it is over and others wait; returns whether it does.
    pub(super) fn yields(&mut self) -> bool {
        let State::Writing(until, _) = &mut self.state else { return false };
        let now = Instant::now();
        if now < *until {
            return false;
        }
        let others_wait = self.all.waiting.load(Ordering::Relaxed) > 0;
        if others_wait {
            self.end();
        } else {
            *until = now + DURATION;
        }
        others_wait
    }

    /// Ends the turn, or the wait for it.
    pub(super) fn end(&mut self) {
        if matches!(std::mem::replace(&mut self.state, State::Idle), State::Waiting(..)) {
            self.all.waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn few_connections_write_at_a_time_and_all_in_turn() {
        let all = Arc::new(Turns::default());
        let mut turns: Vec<_> = (0..4 * WRITERS).map(|_| Turn::new(Arc::clone(&all))).collect();
        let mut written = vec![0; turns.len()];
        for round in 0..8 {
            for turn in &mut turns {
                if !turn.is_writing() {
                    let _ = turn.next().now_or_never();
                }
            }
            let writing = turns.iter().filter(|turn| turn.is_writing()).count();
            assert_eq!(writing, WRITERS, "round {round}");
            turns.iter().zip(&mut written).for_each(|(turn, n)| *n += u32::from(turn.is_writing()));
            assert!(!turns.iter_mut().any(Turn::yields), "not before its time");
            tokio::time::advance(DURATION).await;
            assert_eq!(turns.iter_mut().filter_map(|turn| turn.yields().then_some(())).count(), WRITERS);
        }
        assert!(written.iter().all(|n| *n == 2), "{written:?}");
        // Those that wait no longer leave nothing.
        turns.truncate(WRITERS / 2);
        for turn in &mut turns {
            let turned = tokio::time::timeout(DURATION * 10, turn.next()).await;
            assert!(turned.is_ok(), "its turn does not come");
        }
        tokio::time::advance(DURATION * 2).await;
        assert!(!turns.iter_mut().any(Turn::yields), "nobody else waits");
        drop(turns);
        assert_eq!((all.writers.available_permits(), all.waiting.load(Ordering::Relaxed)), (WRITERS, 0));
    }
}
