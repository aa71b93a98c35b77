//! One provider: its connection and its record.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use prb_core::{blob::Heights, primitives::Hash};
use tokio::time::Instant;
use tracing::{info, warn};

use super::{Announced, Candidate, Config, choose::SlotState};
use crate::{
    blob::{
        client::{self, Bounds, Client, Link},
        metrics,
    },
    provenance::Provenance,
};

/// A provider that was not suspended for this long gets the shortest suspension again.
const FORGIVEN_AFTER: Duration = Duration::from_secs(30 * 60);
/// Half-life of the latency of batches.
const LATENCY_HALVES: Duration = Duration::from_secs(60);

/// Which keys a provider knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Ours and the original's.
    Cursors,
    /// The original's only.
    Original,
}

/// A data provider.
#[derive(Debug)]
pub(super) struct Provider {
    pub(super) id: Arc<str>,
    pub(super) candidate: Mutex<Candidate>,
    pub(super) client: Client,
    in_flight: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct State {
    /// Known once it has answered over this connection.
    pub(super) kind: Option<Kind>,
    pub(super) heights: Heights,
    pub(super) identity: Option<Hash>,
    /// Of all answers but long polls, for display.
    latency: Option<Duration>,
    /// Of batches, with the time of the last measurement.
    batch_latency: Option<(Duration, Instant)>,
    /// When it last gave a batch that a worker needs.
    gave_batch: Option<Instant>,
    pub(super) record: Record,
}

/// A provider's record, which is remembered even if it loses its slot.
#[derive(Clone, Debug, Default)]
pub(super) struct Record {
    pub(super) suspension: Option<Suspension>,
    pub(super) served: u64,
    pub(super) failed: u64,
    /// Answers that a worker has refused.
    pub(super) refused: u64,
    strikes: u32,
    last_strike: Option<Instant>,
}

impl Record {
    pub(super) fn is_suspended(&self) -> bool {
        self.suspension.as_ref().is_some_and(|suspension| suspension.until > Instant::now())
    }

    /// Whether the record is worth remembering.
    pub(super) const fn is_bad(&self) -> bool {
        self.last_strike.is_some()
    }
}

/// Why a provider is suspended, and until when.
#[derive(Clone, Debug)]
pub(super) struct Suspension {
    pub(super) reason: String,
    pub(super) until: Instant,
}

impl Provider {
    /// Creates a provider, with its remembered record.
    pub(super) fn new(candidate: Candidate, remembered: Option<Record>, config: client::Config) -> Self {
        let client = Client::start(candidate.address, &candidate.id, config);
        Self {
            id: candidate.id.as_str().into(),
            candidate: Mutex::new(candidate),
            client,
            in_flight: AtomicUsize::new(0),
            state: Mutex::new(State { record: remembered.unwrap_or_default(), ..State::default() }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn snapshot(&self) -> State {
        self.state().clone()
    }

    pub(super) fn candidate(&self) -> Candidate {
        self.candidate.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn provenance(&self) -> Provenance {
        self.candidate.lock().unwrap_or_else(PoisonError::into_inner).provenance
    }

    pub(super) fn announced(&self) -> Option<Announced> {
        self.candidate().announced
    }

    pub(super) fn link(&self) -> Link {
        self.client.link().borrow().clone()
    }

    /// Records what was learnt over a connection. `None` means that the connection is gone.
    pub(super) fn learn(&self, kind: Option<Kind>, heights: Heights, identity: Option<Hash>) {
        let mut state = self.state();
        state.kind = kind;
        state.heights = heights;
        // A lost connection does not make it a provider of an unknown chain.
        state.identity = identity.or(state.identity);
    }

    /// The kind and heights, if it may be asked now.
    pub(super) fn usable(&self) -> Option<(Kind, Heights)> {
        if self.link() != Link::Up {
            return None;
        }
        let state = self.state();
        let is_suspended = state.record.is_suspended();
        state.kind.filter(|_| !is_suspended).map(|kind| (kind, state.heights))
    }

    /// The state of its slot, for evictions.
    pub(super) fn slot_state(&self) -> SlotState {
        match self.link() {
            _ if self.is_suspended() => SlotState::Useless,
            Link::Down { .. } => SlotState::Useless,
            Link::Up if self.state().kind.is_some() => SlotState::InUse,
            Link::Up | Link::Connecting => SlotState::Assigned,
        }
    }

    /// Records that a worker has refused an answer.
    pub(super) fn was_refused(&self) {
        self.state().record.refused += 1;
    }

    /// Whether it is suspended now.
    pub(super) fn is_suspended(&self) -> bool {
        self.state().record.is_suspended()
    }

    /// Suspends the provider, longer with each consecutive time.
    pub(super) fn suspend(&self, reason: String, config: &Config) {
        let state = &mut self.state().record;
        state.failed += 1;
        let now = Instant::now();
        if state.last_strike.is_none_or(|last| now - last > FORGIVEN_AFTER) {
            state.strikes = 0;
        }
        let wait =
            // Bounded, because a longer shift would overflow.
            config.first_suspension.saturating_mul(1 << state.strikes.min(20)).min(config.max_suspension);
        let again = state.suspension.as_ref().is_some_and(|suspension| suspension.until > now);
        // If several requests fail for one reason, only the first counts.
        if again {
            return;
        }
        state.strikes += 1;
        state.last_strike = Some(now);
        metrics::suspended();
        warn!(provider = %self.id, wait_ms = wait.as_millis() as u64, reason, "a data provider is suspended");
        state.suspension = Some(Suspension { reason, until: now + wait });
    }

    /// Ends a suspension whose time is over; returns whether there was one.
    pub(super) fn end_suspension(&self) -> bool {
        let mut state = self.state();
        let over = state.record.suspension.take_if(|suspension| suspension.until <= Instant::now()).is_some();
        if over {
            info!(provider = %self.id, "data provider suspension ended");
        }
        over
    }

    /// The expected time to answer, from measured batches and those in flight. Small answers do not count: a provider
    /// that is quick with these alone would come first again and again.
    pub(super) fn expected_wait(&self) -> Duration {
        let in_flight = self.in_flight.load(Ordering::Relaxed) as u32;
        let Some((latency, at)) = self.state().batch_latency else { return Duration::ZERO };
        let age = at.elapsed().as_secs_f64() / LATENCY_HALVES.as_secs_f64();
        // Old measurements fade, so that a provider that was slow once is tried again.
        latency.mul_f64(0.5f64.powf(age.min(60.0))).saturating_mul(in_flight + 1)
    }

    /// When it last gave a batch that a worker needs.
    pub(super) fn gave_batch(&self) -> Option<Instant> {
        self.state().gave_batch
    }

    pub(super) fn latency(&self) -> Option<Duration> {
        self.state().latency
    }

    /// Fetches a blob.
    pub(super) async fn get(&self, key: &str, bounds: Bounds) -> Result<Option<Bytes>, client::Error> {
        let start = Instant::now();
        let answer = self.client.get(key, bounds).await;
        let mut state = self.state();
        match &answer {
            Ok(_) => {
                let took = start.elapsed();
                state.latency = Some(state.latency.map_or(took, |before| average(before, took)));
                state.record.served += 1;
            }
            Err(_) => state.record.failed += 1,
        }
        answer
    }

    /// Measures how long a batch takes. The measurement also counts if the caller has left, so that a provider that
    /// hangs is asked last from then on.
    pub(super) fn measure(&self) -> InFlight<'_> {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        InFlight { provider: self, start: Instant::now(), outcome: Outcome::Abandoned }
    }

    fn measured(&self, took: Duration, outcome: Outcome) {
        let mut state = self.state();
        let (before, now) = (state.batch_latency.map_or(took, |(latency, _)| latency), Instant::now());
        match outcome {
            Outcome::Given => {
                // A moving average: one slow answer says little.
                state.batch_latency = Some((average(before, took), now));
                state.gave_batch = Some(now);
            }
            // An abandoned request proves no more than that the answer takes at least this long.
            Outcome::Abandoned if took >= before => state.batch_latency = Some((took, now)),
            Outcome::Abandoned | Outcome::Failed => {}
        }
    }
}

fn average(before: Duration, took: Duration) -> Duration {
    (before * 7 + took) / 8
}

#[derive(Clone, Copy, Debug)]
enum Outcome {
    Given,
    Failed,
    Abandoned,
}

/// A request for a batch in flight.
pub(super) struct InFlight<'p> {
    provider: &'p Provider,
    start: Instant,
    outcome: Outcome,
}

impl InFlight<'_> {
    /// Records whether the provider gave the batch.
    pub(super) fn ended(mut self, given: bool) {
        self.outcome = if given { Outcome::Given } else { Outcome::Failed };
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.provider.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.provider.measured(self.start.elapsed(), self.outcome);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn suspensions_double_up_to_the_longest() {
        let config = Config::default()
            .with_first_suspension(Duration::from_secs(5))
            .with_max_suspension(Duration::from_secs(600));
        let candidate = Candidate {
            id: "A".into(),
            address: ([127, 0, 0, 1], 1).into(),
            chain_identity: None,
            announced: None,
            provenance: Provenance::Discovered,
        };
        let provider = Provider::new(candidate, None, config.client);
        let mut waits = Vec::new();
        for _ in 0..40 {
            provider.suspend("it lies".into(), &config);
            let until = provider.snapshot().record.suspension.map(|suspension| suspension.until);
            let wait = until.map_or(Duration::ZERO, |until| until - Instant::now());
            waits.push(wait.as_secs());
            tokio::time::advance(wait).await;
            assert!(provider.end_suspension());
        }
        assert_eq!(waits[..9], [5, 10, 20, 40, 80, 160, 320, 600, 600]);
        assert_eq!(waits.last(), Some(&600));
    }
}
