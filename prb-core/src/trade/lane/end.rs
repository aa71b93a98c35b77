//! How a lane ends its jobs.

use std::time::Duration;

use futures::{StreamExt, stream};
use rand::Rng;

use super::{Config, Lane, Queued, Work, chain_of};
use crate::{
    chain::SubmitError,
    primitives::PHALA_SS58_PREFIX,
    queue::{JobFailure, JobOutcome},
};

/// Jobs of a batch whose end is told at a time.
const ENDS_AT_ONCE: usize = 64;

impl Lane {
    /// Ends the jobs of a batch that was not carried out, or puts them off.
    pub(super) async fn refused(&mut self, work: Work, error: &SubmitError) {
        let message = chain_of(error);
        tracing::warn!(
            operator = %self.operator.to_ss58(PHALA_SS58_PREFIX), jobs = work.jobs.len(), error = message,
            "a batch was not carried out"
        );
        self.shared.board.lane(self.operator, |lane| lane.last_error = Some(message.clone()));
        let by_one_job = matches!(
            error,
            SubmitError::Refused { .. } | SubmitError::Unsupported { .. } | SubmitError::TooLarge { .. }
        );
        if by_one_job && !error.is_retryable() && work.jobs.len() > 1 {
            // One job's call may be to blame: it is looked for by halves.
            let most = work.jobs.len().div_ceil(2);
            let jobs = work.unsent().into_iter().map(|job| Queued { most, ..job }).collect();
            return self.put_back(jobs);
        }
        let attempt = work.jobs.iter().map(|job| job.lease.attempt).max().unwrap_or_default();
        // One delay for all: jobs that were in order stay so.
        let retry_after = error.is_retryable().then(|| retry_delay(attempt, &self.shared.config));
        self.tell(work, &message, retry_after).await;
    }

    pub(super) async fn finish(&self, work: Work) {
        self.tell(work, "the submitter gave no result for a call", None).await;
    }

    /// Tells the outcomes; a job without one has failed.
    async fn tell(&self, work: Work, message: &str, retry_after: Option<Duration>) {
        let ends = work.finish().into_iter().map(|(job, outcome)| async move {
            match outcome {
                Some(outcome) => self.complete(&job, outcome).await,
                None => self.fail(&job, message, retry_after).await,
            }
        });
        stream::iter(ends).buffer_unordered(ENDS_AT_ONCE).collect::<()>().await;
    }

    async fn complete(&self, job: &Queued, outcome: JobOutcome) {
        self.shared.board.completed(&outcome.calls);
        self.shared.leases.complete(&job.lease, outcome).await;
        self.inbox.release(job.lease.job.size_bytes());
    }

    pub(super) async fn fail(&self, job: &Queued, message: &str, retry_after: Option<Duration>) {
        let account = self.operator.to_ss58(PHALA_SS58_PREFIX);
        let message = if message.contains(&account) {
            message.to_owned()
        } else {
            format!("operator {account}: {message}")
        };
        self.shared.board.edit(|status| status.jobs_failed += 1);
        self.shared.leases.fail(&job.lease, JobFailure { message }, retry_after).await;
        self.inbox.release(job.lease.job.size_bytes());
    }
}

/// Exponential, with jitter over its upper half.
fn retry_delay(attempt: u32, config: &Config) -> Duration {
    let delay = config.retry_min.saturating_mul(1 << attempt.min(16)).min(config.retry_max);
    delay.mul_f64(rand::rng().random_range(0.5..=1.0))
}
