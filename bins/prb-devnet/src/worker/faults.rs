//! What tests break, and what they count.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use parking_lot::Mutex;
use prb_core::prpc::Method;

/// Faults of one worker; they last over restarts.
#[derive(Debug, Default)]
pub struct Faults {
    plan: Mutex<Plan>,
}

#[derive(Debug, Default)]
struct Plan {
    delay: Duration,
    failing: HashMap<Method, (u32, String)>,
}

impl Faults {
    /// Delays every answer.
    pub fn slow(&self, delay: Duration) {
        self.plan.lock().delay = delay;
    }

    /// Answers the next `times` calls of `method` with status 500 and `text`, without carrying them out.
    pub fn fail_next(&self, method: Method, times: u32, text: impl Into<String>) {
        self.plan.lock().failing.insert(method, (times, text.into()));
    }

    /// Ends all faults.
    pub fn clear(&self) {
        *self.plan.lock() = Plan::default();
    }

    pub(crate) fn delay(&self) -> Duration {
        self.plan.lock().delay
    }

    pub(crate) fn take_failure(&self, method: Method) -> Option<String> {
        let mut plan = self.plan.lock();
        let (times, text) = plan.failing.get_mut(&method).filter(|(times, _)| *times > 0)?;
        *times -= 1;
        Some(text.clone())
    }
}

/// Calls counted over all lives of a worker.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    counts: Mutex<HashMap<Method, u64>>,
    overlapping: AtomicU64,
}

/// Sync and dispatch calls that run in one life of a worker.
#[derive(Debug, Default)]
pub(crate) struct InFlight(Arc<AtomicU64>);

/// Marks a sync or dispatch call as running until dropped.
#[derive(Debug)]
pub(crate) struct Running(Arc<AtomicU64>);

impl Calls {
    pub(crate) fn count(&self, method: Method) {
        *self.counts.lock().entry(method).or_default() += 1;
    }

    pub(crate) fn of(&self, method: Method) -> u64 {
        self.counts.lock().get(&method).copied().unwrap_or_default()
    }

    pub(crate) fn overlapping(&self) -> u64 {
        self.overlapping.load(Ordering::Relaxed)
    }

    /// Notes the start of a call; two sync or dispatch calls at once are a caller's fault and counted.
    pub(crate) fn start(&self, in_flight: &InFlight, method: Method) -> Option<Running> {
        let exclusive = matches!(
            method,
            Method::SyncHeader
                | Method::SyncParaHeader
                | Method::SyncCombinedHeaders
                | Method::DispatchBlocks
        );
        exclusive.then(|| {
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
