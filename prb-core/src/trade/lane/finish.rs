//! Ends a lane's jobs.

use std::time::Duration;

use futures::{StreamExt, stream};
use tokio::time::Instant;

use super::{
    super::{Config, batch::PendingBatch},
    Lane, Queued,
};
use crate::{
    chain::SubmitError,
    primitives::PHALA_SS58_PREFIX,
    queue::{JobFailure, JobOutcome},
    sync::jittered,
    text::describe,
};

/// Maximum jobs of a batch that are ended concurrently.
const ENDS_AT_ONCE: usize = 64;

impl Lane {
    /// Ends the jobs of a batch that failed, or schedules their retry.
    pub(super) async fn end_failed(&self, work: PendingBatch, error: &SubmitError, retry: bool) {
        let message = self.note_failure(&work, error);
        let attempt = work.jobs.iter().map(|job| job.lease.attempt).max().unwrap_or_default();
        // One delay for all, which keeps their order.
        let retry_after = retry.then(|| retry_delay(attempt, &self.shared.config));
        self.report_outcomes(work, &message, retry_after).await;
    }

    /// Returns the jobs to the lane, to be sent in halves until the one that causes the failure is isolated.
    pub(super) fn requeue_in_halves(&mut self, work: PendingBatch, error: &SubmitError) {
        self.note_failure(&work, error);
        // Bisection: the limit stays with these jobs until they are sent, while other jobs form batches of any size.
        let max_batch_jobs = work.jobs.len().div_ceil(2);
        let jobs = work.unsent().into_iter().map(|job| Queued { max_batch_jobs, ..job }).collect();
        self.put_back(jobs);
    }

    fn note_failure(&self, work: &PendingBatch, error: &SubmitError) -> String {
        let message = describe(error);
        tracing::warn!(
            operator = %self.operator.to_ss58(PHALA_SS58_PREFIX), jobs = work.jobs.len(), error = message,
            "a batch failed"
        );
        self.shared.publisher.lane(self.operator, |lane| lane.last_error = Some(message.clone()));
        message
    }

    pub(super) async fn finish(&self, work: PendingBatch) {
        self.report_outcomes(work, "the submitter returned no result for a call", None).await;
    }

    /// Reports the outcomes; a job without one has failed.
    async fn report_outcomes(&self, work: PendingBatch, message: &str, retry_after: Option<Duration>) {
        let finished = work.finish();
        if let Some(retry_after) = retry_after {
            let retried = |(job, outcome): &(Queued, Option<JobOutcome>)| {
                (outcome.is_none() && job.lease.retries_left > 0).then_some(job.id())
            };
            let due = Instant::now() + retry_after;
            let ids = finished.iter().filter_map(retried);
            // Before the queue takes them back: no younger job may be sent while they wait there.
            self.shared.released.track(self.operator, ids, due, due + self.shared.config.lease_ttl);
        }
        let ends = finished.into_iter().map(|(job, outcome)| async move {
            match outcome {
                Some(outcome) => self.complete(&job, outcome).await,
                None => self.fail(&job, message, retry_after).await,
            }
        });
        stream::iter(ends).buffer_unordered(ENDS_AT_ONCE).collect::<()>().await;
    }

    async fn complete(&self, job: &Queued, outcome: JobOutcome) {
        self.shared.publisher.completed(&outcome.calls);
        self.shared.leases.complete(&job.lease, outcome).await;
        self.inbox.release(job.lease.job.size_bytes());
    }

    pub(super) async fn fail(&self, job: &Queued, message: &str, retry_after: Option<Duration>) {
        let account = self.operator.to_ss58(PHALA_SS58_PREFIX);
        // A queue's failures are text: the operator is named once, so that its owner finds the account.
        let message = if message.contains(&account) {
            message.to_owned()
        } else {
            format!("operator {account}: {message}")
        };
        self.shared.publisher.edit(|status| status.jobs_failed += 1);
        self.shared.leases.fail(&job.lease, JobFailure { message }, retry_after).await;
        self.inbox.release(job.lease.job.size_bytes());
    }
}

/// Exponential, with jitter over its upper half.
pub(super) fn retry_delay(attempt: u32, config: &Config) -> Duration {
    let delay = config.retry_min.saturating_mul(1 << attempt.min(16)).min(config.retry_max);
    jittered(delay)
}
