//! What the dispatcher and a lane share: jobs on their way in, and how much the lane holds.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::{sync::Notify, time::Instant};

use super::Config;
use crate::queue::Lease;

#[derive(Debug, Default)]
pub(super) struct Inbox {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    jobs: VecDeque<Arrival>,
    held_jobs: usize,
    held_bytes: usize,
    /// A job was refused because the lane is full.
    refused: bool,
    closed: bool,
}

/// A job and when it came.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) lease: Lease,
    pub(super) at: Instant,
}

/// Why a lane takes no job now.
#[derive(Debug)]
pub(super) enum Refusal {
    /// It holds as much as it may.
    Full(Lease),
    /// It has ended, with nothing left.
    Closed(Lease),
}

impl Inbox {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a job to the lane. An empty lane takes any, so that a large one cannot be stuck.
    pub(super) fn push(&self, lease: Lease, config: &Config) -> Result<(), Box<Refusal>> {
        let bytes = lease.job.size_bytes();
        let mut state = self.state();
        if state.closed {
            return Err(Box::new(Refusal::Closed(lease)));
        }
        let full = state.held_jobs >= config.max_lane_jobs
            || state.held_bytes.saturating_add(bytes) > config.max_lane_bytes;
        if full && state.held_jobs > 0 {
            state.refused = true;
            drop(state);
            self.changed.notify_one();
            return Err(Box::new(Refusal::Full(lease)));
        }
        state.held_jobs += 1;
        state.held_bytes += bytes;
        state.jobs.push_back(Arrival { lease, at: Instant::now() });
        drop(state);
        self.changed.notify_one();
        Ok(())
    }

    /// Jobs that came since the last call, oldest first. They count as held until [`release`](Self::release).
    pub(super) fn take(&self) -> VecDeque<Arrival> {
        std::mem::take(&mut self.state().jobs)
    }

    /// Waits for a job. May end without one.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// The lane is through with a job.
    pub(super) fn release(&self, bytes: usize) {
        let mut state = self.state();
        state.held_jobs -= 1;
        state.held_bytes -= bytes;
    }

    /// Whether a job was refused since the last call.
    pub(super) fn take_refused(&self) -> bool {
        std::mem::take(&mut self.state().refused)
    }

    pub(super) fn held_jobs(&self) -> usize {
        self.state().held_jobs
    }

    /// Ends the lane if it holds nothing: no job comes in after that.
    pub(super) fn close_if_empty(&self) -> bool {
        let mut state = self.state();
        state.closed = state.held_jobs == 0;
        state.closed
    }
}
