//! Injected faults and call counters.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use prb_core::{primitives::AccountId, prpc::Method};

/// Faults of one worker, which survive restarts.
#[derive(Debug, Default)]
pub struct Faults {
    answers: Mutex<AnswerFaults>,
    work_faults: Arc<WorkFaults>,
}

/// Faults of what the worker computes, as opposed to its HTTP answers; shared with the verifier.
#[derive(Debug, Default)]
pub(crate) struct WorkFaults(Mutex<WorkFaultState>);

#[derive(Debug, Default)]
struct WorkFaultState {
    operator: Option<AccountId>,
    dispatch_pause: Duration,
}

impl WorkFaults {
    /// The operator that the worker registers for instead of the requested one.
    pub(crate) fn operator(&self) -> Option<AccountId> {
        self.0.lock().operator
    }

    pub(crate) fn dispatch_pause(&self) -> Duration {
        self.0.lock().dispatch_pause
    }
}

#[derive(Debug, Default)]
struct AnswerFaults {
    delay: Duration,
    attestation_delay: Duration,
    failing: HashMap<Method, (u32, String)>,
}

impl Faults {
    /// Delays every answer.
    pub fn slow(&self, delay: Duration) {
        self.answers.lock().delay = delay;
    }

    /// Makes every new attestation take this long. A caller that stops waiting finds it finished later.
    pub fn slow_attestation(&self, duration: Duration) {
        self.answers.lock().attestation_delay = duration;
    }

    /// Makes every dispatch take this long; meanwhile other state-changing calls are refused.
    pub fn slow_dispatch(&self, duration: Duration) {
        self.work_faults.0.lock().dispatch_pause = duration;
    }

    /// Registers for this account from the next attestation on, instead of the requested operator.
    pub fn wrong_operator(&self, operator: Option<AccountId>) {
        self.work_faults.0.lock().operator = operator;
    }

    /// Answers the next `times` calls of `method` with status 500 and `text`, without carrying them out.
    pub fn fail_next(&self, method: Method, times: u32, text: impl Into<String>) {
        self.answers.lock().failing.insert(method, (times, text.into()));
    }

    /// Ends all faults.
    pub fn clear(&self) {
        *self.answers.lock() = AnswerFaults::default();
        *self.work_faults.0.lock() = WorkFaultState::default();
    }

    pub(crate) fn work_faults(&self) -> Arc<WorkFaults> {
        Arc::clone(&self.work_faults)
    }

    pub(crate) fn attestation_delay(&self) -> Duration {
        self.answers.lock().attestation_delay
    }

    pub(crate) fn delay(&self) -> Duration {
        self.answers.lock().delay
    }

    pub(crate) fn take_failure(&self, method: Method) -> Option<String> {
        let mut answers = self.answers.lock();
        let (times, text) = answers.failing.get_mut(&method).filter(|(times, _)| *times > 0)?;
        *times -= 1;
        Some(text.clone())
    }
}

/// Call counters over all restarts of a worker.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    counts: Mutex<HashMap<Method, u64>>,
    overlapping: AtomicU64,
}

/// Sync and dispatch calls in flight.
#[derive(Debug, Default)]
pub(crate) struct InFlight(Arc<AtomicU64>);

/// Marks a sync or dispatch call as in flight until dropped.
#[derive(Debug)]
pub(crate) struct Running(Arc<AtomicU64>);

impl Calls {
    pub(crate) fn count(&self, method: Method) {
        *self.counts.lock().entry(method).or_default() += 1;
    }

    pub(crate) fn count_of(&self, method: Method) -> u64 {
        self.counts.lock().get(&method).copied().unwrap_or_default()
    }

    pub(crate) fn overlapping(&self) -> u64 {
        self.overlapping.load(Ordering::Relaxed)
    }

    /// Records the start of a call; two concurrent sync or dispatch calls are the caller's fault and counted.
    pub(crate) fn start(&self, in_flight: &InFlight, method: Method) -> Option<Running> {
        let exclusive = matches!(
            method,
            Method::SyncHeader
                | Method::SyncParaHeader
                | Method::SyncCombinedHeaders
                | Method::DispatchBlocks
        );
        exclusive.then(|| {
            // pRuntime handles one sync or dispatch at a time, so a bridge that sends two to a worker is at
            // fault even if both succeed.
            if in_flight.0.fetch_add(1, Ordering::SeqCst) > 0 {
                self.overlapping.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(method = method.name(), "two sync or dispatch calls at once");
            }
            Running(in_flight.0.clone())
        })
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}
