//! Sends a lane's batch: reads effects, submits, and applies the verdict.

use std::{sync::Arc, time::Duration};

use tokio::{sync::mpsc, time::timeout};

use super::{
    super::{
        Phase,
        account_lease_manager::AccountLease,
        batch::{Included, PendingBatch},
        verdict::{self, Ending, Next, Sent, Verdict},
    },
    Lane, Queued,
};
use crate::{
    chain::{BatchOutcome, Call, CallBatch, Effect, SubmitError, SubmitProgress},
    queue::{CallOutcome, Progress},
    signer::Signer,
    text::describe,
};

/// Capacity of the channel for a transaction's progress reports.
const PROGRESS_SLOTS: usize = 4;
/// The chain's error for a message that does not follow the last one of its sender.
const BAD_SEQUENCE: &str = "PhalaMq::BadSequence";

impl Lane {
    /// Omits calls that have taken effect already, and messages that the chain would refuse because an earlier
    /// one is missing. Reads effects if something may have been sent before, or if it is not known that the
    /// messages follow on those that the chain has. `None` if the batch does not continue.
    pub(super) async fn omit_futile_calls(&mut self, mut work: PendingBatch) -> Option<PendingBatch> {
        let shared = self.shared.clone();
        let may_be_done =
            |job: &Queued| job.check_effects || self.recently_sent.has_any(&job.lease.job.calls);
        let follow_on = self.sequences.follow_on(work.calls());
        if !self.unresolved && follow_on && !work.jobs.iter().any(may_be_done) {
            return Some(work);
        }
        let checked = tokio::select! {
            biased;
            () = shared.stopping.cancelled() => None,
            result = self.read_open_effects(&mut work) => Some(result),
        };
        match checked {
            Some(Ok(())) => {
                self.unresolved = false;
                Some(work)
            }
            Some(Err(error)) => {
                self.end_failed(work, &error, error.is_retryable()).await;
                None
            }
            None => {
                self.put_back(work.jobs);
                None
            }
        }
    }

    /// Reads the effects of the calls without an outcome.
    async fn read_open_effects(&mut self, work: &mut PendingBatch) -> Result<(), SubmitError> {
        let open = work.select(|outcome| outcome.is_none());
        self.read_effects(work, open).await
    }

    /// Reads the effects of these calls. Records those that are present, and messages that cannot be accepted yet:
    /// their submitter reads the chain's sequence and resumes from there.
    async fn read_effects(
        &mut self,
        work: &mut PendingBatch,
        (indices, calls): (Vec<usize>, Vec<Call>),
    ) -> Result<(), SubmitError> {
        if calls.is_empty() {
            return Ok(());
        }
        self.shared.publisher.phase(self.operator, Phase::Checking);
        let reading = self.shared.submitter.effects(self.operator, &calls);
        let found = self.within_limit(reading).await?;
        let of = |wanted| {
            let found = indices.iter().zip(&found.calls);
            found.filter_map(|(index, effect)| (*effect == wanted).then_some(*index)).collect::<Vec<_>>()
        };
        let present = of(Effect::Present);
        present.iter().for_each(|index| self.sequences.accepted(&work.calls()[*index]));
        let out_of_order = of(Effect::OutOfOrder);
        work.already_done(present, found.block);
        work.not_sent(out_of_order, BAD_SEQUENCE, found.block);
        Ok(())
    }

    /// Applies the timeout: a submitter that hangs is abandoned, and the outcome is unknown.
    async fn within_limit<T>(
        &self,
        call: impl Future<Output = Result<T, SubmitError>>,
    ) -> Result<T, SubmitError> {
        let waited = self.shared.config.submit_timeout;
        timeout(waited, call).await.unwrap_or_else(|_| {
            Err(SubmitError::Unknown { waited, reason: "the submitter did not answer".into() })
        })
    }

    /// Submits the calls without an outcome: in one transaction, or several for a large job.
    pub(super) async fn submit(&mut self, mut work: PendingBatch, signer: &Arc<dyn Signer>) {
        loop {
            let (mut indices, mut calls) = work.select(|outcome| outcome.is_none());
            if calls.is_empty() {
                return self.end(work).await;
            }
            if self.shared.stopping.is_cancelled() {
                return self.put_back(work.jobs);
            }
            // An attempt that did not fit in a block has lowered the limit: the rest follows in further
            // transactions.
            indices.truncate(self.limits.max_calls());
            calls.truncate(self.limits.max_calls());
            let batch = work.transaction(signer.clone(), calls);
            let sent = Sent { calls: batch.calls.len(), jobs: work.jobs.len() };
            let result = self.submit_batch(&batch, &work).await;
            let ending = match &result {
                None => Ending::AccountLost,
                Some(Ok(_)) => Ending::Included,
                Some(Err(error)) => Ending::Failed(error),
            };
            let verdict = verdict::decide(self.limits, self.shared.config.max_calls, sent, ending);
            self.apply_limits(&batch, verdict);
            match result {
                Some(Ok(outcome)) => self.record(&mut work, outcome, indices),
                Some(Err(error)) => match verdict.next {
                    Next::SendInParts => {}
                    next => return self.after_failure(work, sent, next, &error).await,
                },
                None => {
                    self.shared.publisher.phase(self.operator, Phase::HeldByOther);
                    return self.yield_jobs(work.jobs).await;
                }
            }
        }
    }

    fn apply_limits(&mut self, batch: &CallBatch, verdict: Verdict) {
        if verdict.maybe_sent {
            self.recently_sent.add(&batch.calls);
            batch.calls.iter().for_each(|call| self.sequences.forget(call));
        }
        self.unresolved |= verdict.unresolved;
        if verdict.next != Next::Pause {
            self.sign_failures = 0;
        }
        if self.limits != verdict.limits {
            self.limits = verdict.limits;
            self.shared.caps.remember(self.operator, self.limits);
        }
    }

    /// Applies the verdict on a failed transaction to its jobs.
    async fn after_failure(&mut self, mut work: PendingBatch, sent: Sent, next: Next, error: &SubmitError) {
        match next {
            Next::SendFewer => {
                tracing::info!(operator = %self.operator.address(), calls = sent.calls, error = %describe(error), "a batch is reduced and sent in parts");
                self.put_back(work.unsent());
            }
            Next::Pause => self.pause_for_signer(work.unsent(), &describe(error)),
            // The batch was reduced to this one call, which the account cannot pay either. All jobs of the
            // next whole batch end with it: each would fail the same way.
            Next::EndUnpayable => {
                self.put_back(work.unsent());
                let jobs = self.take_batch();
                let calls = jobs.iter().map(|job| job.lease.job.calls.len()).sum();
                self.shared.publisher.batch(calls, "refused");
                self.end_failed(PendingBatch::new(jobs), error, false).await;
            }
            Next::Halve => {
                self.shared.publisher.batch(sent.calls, "refused");
                self.requeue_in_halves(work, error);
            }
            Next::End { retry } => {
                self.shared
                    .publisher
                    .batch(sent.calls, if self.unresolved { "unresolved" } else { "refused" });
                // Calls that took effect nevertheless end as done, not as failed.
                if self.unresolved {
                    self.unresolved = self.read_open_effects(&mut work).await.is_err();
                }
                self.end_failed(work, error, retry).await;
            }
            // Handled in `submit`.
            Next::Record | Next::SendInParts | Next::YieldAccount => self.put_back(work.unsent()),
        }
    }

    fn record(&mut self, work: &mut PendingBatch, outcome: BatchOutcome, indices: Vec<usize>) {
        self.shared.publisher.batch(indices.len(), "included");
        self.shared.publisher.lane(self.operator, |lane| lane.last_error = None);
        // A refused message leaves the chain's sequence where it was.
        for (index, result) in indices.iter().zip(&outcome.calls) {
            if result.is_ok() {
                self.sequences.accepted(&work.calls()[*index]);
            }
        }
        let results = outcome.calls.into_iter().map(|result| match result {
            Ok(()) => CallOutcome::Done,
            Err(e) => CallOutcome::Failed(e.name),
        });
        let sent = Included { extrinsic: outcome.extrinsic, block: outcome.number, fee: outcome.fee };
        work.sent(sent, indices.into_iter().zip(results));
    }

    async fn end(&mut self, mut work: PendingBatch) {
        // A call also fails if another party has achieved its effect in the meantime. The effects of those that
        // were not sent have been read before.
        let failed = work.failed();
        if let Err(e) = self.read_effects(&mut work, failed).await {
            tracing::warn!(operator = %self.operator.address(), error = %describe(&e), "the effects of failed calls could not be read");
        }
        self.finish(work).await;
    }

    /// Submits a batch; `None` if the account's lease was lost.
    async fn submit_batch(
        &self,
        batch: &CallBatch,
        work: &PendingBatch,
    ) -> Option<Result<BatchOutcome, SubmitError>> {
        self.shared.publisher.phase(self.operator, Phase::Sending);
        let account = self.account.clone()?;
        let result = self.submit_and_watch(batch, work, account).await?;
        Some(result.and_then(|outcome| matching(outcome, batch.calls.len())))
    }

    /// Submits a batch and publishes the transaction's progress. `None` if the account's lease was lost:
    /// nothing is sent after that.
    async fn submit_and_watch(
        &self,
        batch: &CallBatch,
        work: &PendingBatch,
        mut account: AccountLease,
    ) -> Option<Result<BatchOutcome, SubmitError>> {
        let (sender, mut updates) = mpsc::channel(PROGRESS_SLOTS);
        let submitted = self.within_limit(self.shared.submitter.submit(batch, sender));
        tokio::pin!(submitted);
        loop {
            tokio::select! {
                biased;
                // First, so that a process that was suspended for a while sends nothing more.
                () = account.lost() => return None,
                result = &mut submitted => return Some(result),
                Some(update) = updates.recv() => {
                    let phase = match update {
                        SubmitProgress::Submitted { extrinsic } => {
                            let leases = work.jobs.iter().map(|job| &job.lease);
                            self.shared.progress.report(Progress::Sent, leases);
                            Phase::Sent { extrinsic }
                        }
                        SubmitProgress::InBlock { block } => Phase::InBlock { block },
                    };
                    self.shared.publisher.phase(self.operator, phase);
                }
            }
        }
    }
}

/// Checks that there is one result per call; otherwise results cannot be attributed to calls.
fn matching(outcome: BatchOutcome, sent: usize) -> Result<BatchOutcome, SubmitError> {
    let got = outcome.calls.len();
    if got == sent {
        return Ok(outcome);
    }
    let reason = format!("{got} results for {sent} calls in block {}", outcome.number);
    Err(SubmitError::Unknown { waited: Duration::ZERO, reason })
}
