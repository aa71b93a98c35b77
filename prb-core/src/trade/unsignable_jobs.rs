//! Remembers for how long this trader has left a job to others because it cannot open its key.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::queue::{JobId, UNSIGNABLE_LIMIT, unsignable_delay};

/// Most jobs that are remembered.
const MAX_JOBS: usize = 10_000;

#[derive(Debug, Default)]
pub(super) struct UnsignableJobs(Mutex<HashMap<JobId, Left>>);

#[derive(Debug)]
struct Left {
    since: Instant,
    times: u32,
}

impl UnsignableJobs {
    /// Returns for how long the job is left this time; returns `None`, and forgets the job, if others have had enough
    /// time.
    pub(super) fn leave(&self, id: JobId) -> Option<Duration> {
        let mut jobs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // From the beginning again: the others are left for longer.
        if jobs.len() >= MAX_JOBS && !jobs.contains_key(&id) {
            jobs.clear();
        }
        let left = jobs.entry(id).or_insert_with(|| Left { since: Instant::now(), times: 0 });
        // It takes longer than the delays until this trader is asked again.
        let delay = unsignable_delay(left.times, UNSIGNABLE_LIMIT)
            .filter(|_| left.since.elapsed() < UNSIGNABLE_LIMIT);
        left.times += 1;
        if delay.is_none() {
            jobs.remove(&id);
        }
        delay
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_job_is_left_for_a_bounded_time() {
        let left = UnsignableJobs::default();
        for id in [JobId(1), JobId(2)] {
            let delays: Vec<_> = std::iter::from_fn(|| left.leave(id)).collect();
            let slack = UNSIGNABLE_LIMIT / 4;
            let waited: Duration = delays.iter().sum();
            assert!(waited.abs_diff(UNSIGNABLE_LIMIT) <= slack, "{delays:?}");
            // One of five traders that are equally quick has it by then, but for one job in a million.
            assert!(0.8_f64.powf(delays.len() as f64) < 1e-6, "left {} times", delays.len());
        }
        (0..3 * MAX_JOBS as u64).for_each(|id| assert!(left.leave(JobId(id)).is_some()));
        assert!(left.0.lock().is_ok_and(|jobs| jobs.len() <= MAX_JOBS));
    }
}
