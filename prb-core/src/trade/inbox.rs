//! The inbox of a lane: jobs from the dispatcher, and the lane's fill level.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::{sync::Notify, time::Instant};

use super::Config;
use crate::queue::Lease;

/// Jobs handed to a lane, and how full the lane is.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    state: Mutex<State>,
    notify: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Not taken by the lane yet.
    jobs: VecDeque<Arrival>,
    /// Those in `jobs` and those that the lane has taken and not [released](Inbox::release).
    held_jobs: usize,
    held_bytes: usize,
    /// A job was refused because the lane is full.
    refused: bool,
    closed: bool,
}

/// A job with its time of arrival.
#[derive(Debug)]
pub(super) struct Arrival {
    pub(super) lease: Lease,
    pub(super) at: Instant,
}

/// Why a lane does not accept a job now.
#[derive(Debug)]
pub(super) enum Refusal {
    /// It holds its maximum.
    Full(Lease),
    /// The lane has ended; a new one must be started.
    Closed(Lease),
}

impl Inbox {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Hands a job to the lane. An empty lane accepts any, so that a large one cannot get stuck.
    pub(super) fn push(&self, lease: Lease, config: &Config) -> Result<(), Box<Refusal>> {
        let bytes = lease.job.size_bytes();
        let mut state = self.state();
        if state.closed {
            return Err(Box::new(Refusal::Closed(lease)));
        }
        let full = state.held_jobs >= config.max_lane_jobs
            || state.held_bytes.saturating_add(bytes) > config.max_lane_bytes;
        if full && state.held_jobs > 0 {
            // Makes the lane release jobs that would overtake the refused one (`Lane::release_for_older`).
            state.refused = true;
            drop(state);
            self.notify.notify_one();
            return Err(Box::new(Refusal::Full(lease)));
        }
        // Counted here, not when the lane takes them: jobs in the inbox occupy memory as well.
        state.held_jobs += 1;
        state.held_bytes += bytes;
        state.jobs.push_back(Arrival { lease, at: Instant::now() });
        drop(state);
        self.notify.notify_one();
        Ok(())
    }

    /// Takes the jobs that arrived since the last call, oldest first. They count as held until
    /// [`release`](Self::release).
    pub(super) fn take(&self) -> VecDeque<Arrival> {
        std::mem::take(&mut self.state().jobs)
    }

    /// Waits for a job or the closing. May wake up spuriously.
    pub(super) async fn wait_for_job(&self) {
        self.notify.notified().await;
    }

    /// Notes that the lane is done with a job.
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

    /// Closes the inbox if the lane holds nothing: no job is accepted afterwards, and the lane ends. Returns whether this
    /// call has closed it.
    pub(super) fn close_if_empty(&self) -> bool {
        let mut state = self.state();
        // Under the lock that `push` takes: no job arrives between the check and the closing.
        let closes = !state.closed && state.held_jobs == 0;
        state.closed |= closes;
        drop(state);
        if closes {
            self.notify.notify_one();
        }
        closes
    }

    pub(super) fn is_closed(&self) -> bool {
        self.state().closed
    }
}
