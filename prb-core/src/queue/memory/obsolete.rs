//! Jobs that are not wanted any more: withdrawn, removed, or too old.

use std::time::Duration;

use tokio::time::Instant;

use super::{Phase, State};
use crate::queue::{JobFailure, JobId, Withdrawal, expires, too_old, withdrawn};

impl State {
    /// Fails the jobs in front that have waited for too long. Those behind a younger one fail once they are in front.
    pub(super) fn fail_old(&mut self, now: Instant, max_age: Duration) {
        while let Some(&id) = self.waiting.first()
            && let Some(entry) = self.jobs.get(&id)
            && let Some(submitted) = entry.submitted
            && let waited = now.saturating_duration_since(submitted)
            && !max_age.is_zero()
            && waited > max_age
            && expires(&entry.job)
        {
            let failure = too_old(waited, max_age, entry.attempts > 0);
            self.end(id, Err(failure));
        }
    }

    pub(super) fn withdraw(&mut self, id: JobId) -> Withdrawal {
        let withdrawal = match self.jobs.get(&id).map(|entry| (entry.phase, entry.attempts)) {
            None | Some((Phase::Active { .. }, _)) => return Withdrawal::Refused,
            Some((_, 0)) => Withdrawal::Unsent,
            Some(_) => Withdrawal::MaybeSent,
        };
        self.discard(id, withdrawn());
        withdrawal
    }

    /// Removes an open job, which then is in no list; returns whether there was one.
    pub(super) fn discard(&mut self, id: JobId, failure: JobFailure) -> bool {
        let Some(entry) = self.drop_entry(id) else { return false };
        if let Some(submitter) = entry.submitter {
            // The submitter may have stopped listening.
            let _ = submitter.send(Err(failure));
        }
        true
    }
}
