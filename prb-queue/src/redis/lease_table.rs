//! Registry of the leases that this process has handed out, with what is needed to end them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use prb_core::queue::{JobId, Progress};

use super::record::Record;

#[derive(Default)]
pub(super) struct LeaseTable(Mutex<HashMap<JobId, Arc<LeasedJob>>>);

pub(super) struct LeasedJob {
    pub(super) token: u64,
    pub(super) record: Record,
    /// Length of the job's JSON, if it is certain to be counted.
    pub(super) bytes: Option<usize>,
    /// The submitter's own id for the job.
    pub(super) mark: Option<String>,
    /// When it was handed out, in ms since the Unix epoch.
    pub(super) since_ms: u64,
    pub(super) progress: Mutex<Option<Progress>>,
}

impl LeaseTable {
    fn jobs(&self) -> MutexGuard<'_, HashMap<JobId, Arc<LeasedJob>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn add(&self, id: JobId, job: LeasedJob) {
        self.jobs().insert(id, Arc::new(job));
    }

    pub(super) fn get(&self, id: JobId, token: u64) -> Option<Arc<LeasedJob>> {
        self.jobs().get(&id).filter(|job| job.token == token).cloned()
    }

    /// Returns the lease of a job, whatever its token.
    pub(super) fn of(&self, id: JobId) -> Option<Arc<LeasedJob>> {
        self.jobs().get(&id).cloned()
    }

    /// Removes a lease; a newer lease of the same job stays. Returns whether it was there.
    pub(super) fn remove(&self, id: JobId, token: u64) -> bool {
        let mut jobs = self.jobs();
        let there = jobs.get(&id).is_some_and(|job| job.token == token);
        if there {
            jobs.remove(&id);
        }
        there
    }

    pub(super) fn all(&self) -> Vec<(JobId, u64)> {
        self.jobs().iter().map(|(id, job)| (*id, job.token)).collect()
    }
}
