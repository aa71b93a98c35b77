//! Counts how often this trader has left a job to others because it cannot open its key.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use crate::queue::JobId;

/// How often a job is left to others before it fails: often enough that another trader gets it first.
const MAX_LEFT: u32 = 10;
/// Most jobs that are counted.
const MAX_JOBS: usize = 10_000;

#[derive(Debug, Default)]
pub(super) struct LeftJobs(Mutex<HashMap<JobId, u32>>);

impl LeftJobs {
    /// Counts one more time; returns false, and forgets the job, if it was left often enough.
    pub(super) fn leave(&self, id: JobId) -> bool {
        let mut jobs = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Counted again from the beginning: the others are left a few times more.
        if jobs.len() >= MAX_JOBS && !jobs.contains_key(&id) {
            jobs.clear();
        }
        let times = jobs.entry(id).or_default();
        *times += 1;
        let may_be_left = *times <= MAX_LEFT;
        if !may_be_left {
            jobs.remove(&id);
        }
        may_be_left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_job_is_left_a_bounded_number_of_times() {
        let left = LeftJobs::default();
        for id in [JobId(1), JobId(2)] {
            let times = (0..=MAX_LEFT).filter(|_| left.leave(id)).count();
            assert_eq!(times, MAX_LEFT as usize);
        }
        (0..3 * MAX_JOBS as u64).for_each(|id| assert!(left.leave(JobId(id))));
        assert!(left.0.lock().is_ok_and(|jobs| jobs.len() <= MAX_JOBS));
    }
}
