//! How a lane sends a batch: asks for effects, submits, and does what the verdict says.

use std::{sync::Arc, time::Duration};

use tokio::{sync::mpsc, time::timeout};

use super::{
    super::{
        Phase,
        account_keeper::AccountLease,
        batch::Work,
        verdict::{self, Ending, Next, Sent, Verdict},
    },
    Lane, Queued,
};
use crate::{
    chain::{BatchOutcome, CallBatch, Effect, SubmitError, SubmitProgress},
    queue::{CallOutcome, Progress},
    signer::Signer,
    text::describe,
};

/// Reports of a transaction's progress that may wait to be shown.
const PROGRESS_SLOTS: usize = 4;
/// What the chain says to a message that does not follow on the last one of its sender.
const BAD_SEQUENCE: &str = "PhalaMq::BadSequence";

impl Lane {
    /// Leaves out calls that are done already, and messages that the chain would refuse because an earlier one is
    /// missing. Asks the chain if something may have been sent before, or if the lane does not know that the
    /// messages follow on what the chain has. `None` if the batch does not go on.
    pub(super) async fn leave_out_what_is_futile(&mut self, mut work: Work) -> Option<Work> {
        let shared = self.shared.clone();
        let may_be_done = |job: &Queued| job.ask || self.recently_sent.has_any(&job.lease.job.calls);
        let follow_on = self.sequences.follow_on(work.calls());
        if !self.unresolved && follow_on && !work.jobs.iter().any(may_be_done) {
            return Some(work);
        }
        let asked = tokio::select! {
            biased;
            () = shared.stopping.cancelled() => None,
            result = self.ask(&mut work, |outcome| outcome.is_none()) => Some(result),
        };
        match asked {
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

    /// Asks for the effects of the calls whose outcome `is` so, and notes those that are there, and
    /// messages that cannot be taken yet: whoever submitted these looks at the chain and starts from there.
    pub(super) async fn ask(
        &mut self,
        work: &mut Work,
        is: impl Fn(Option<&CallOutcome>) -> bool,
    ) -> Result<(), SubmitError> {
        let (places, calls) = work.select(is);
        if calls.is_empty() {
            return Ok(());
        }
        self.shared.board.phase(self.operator, Phase::Checking);
        let asked = self.shared.submitter.effects(self.operator, &calls);
        let found = self.within_limit(asked).await?;
        let of = |wanted| {
            let found = places.iter().zip(&found.calls);
            found.filter_map(|(place, effect)| (*effect == wanted).then_some(*place)).collect::<Vec<_>>()
        };
        let present = of(Effect::Present);
        present.iter().for_each(|place| self.sequences.taken(&work.calls()[*place]));
        let out_of_order = of(Effect::OutOfOrder);
        work.already_done(present, found.block);
        work.not_sent(out_of_order, BAD_SEQUENCE, found.block);
        Ok(())
    }

    /// A submitter that hangs is given up after a while; what it did is not known.
    async fn within_limit<T>(
        &self,
        call: impl Future<Output = Result<T, SubmitError>>,
    ) -> Result<T, SubmitError> {
        let waited = self.shared.config.submit_timeout;
        timeout(waited, call).await.unwrap_or_else(|_| {
            Err(SubmitError::Unknown { waited, reason: "the submitter did not answer".into() })
        })
    }

    /// Sends the calls that have no outcome: in one transaction, or a large job's in as many as it takes.
    pub(super) async fn submit(&mut self, mut work: Work, signer: &Arc<dyn Signer>) {
        loop {
            let (mut places, mut calls) = work.select(|outcome| outcome.is_none());
            if calls.is_empty() {
                return self.end(work).await;
            }
            if self.shared.stopping.is_cancelled() {
                return self.put_back(work.jobs);
            }
            places.truncate(self.limits.most());
            calls.truncate(self.limits.most());
            let batch = work.transaction(signer.clone(), calls);
            let sent = Sent { calls: batch.calls.len(), jobs: work.jobs.len() };
            let result = self.carry_out(&batch, &work).await;
            let ending = match &result {
                None => Ending::AccountLost,
                Some(Ok(_)) => Ending::Included,
                Some(Err(error)) => Ending::Failed(error),
            };
            let verdict = verdict::decide(self.limits, self.shared.config.max_calls, sent, ending);
            self.note(&batch, verdict);
            match result {
                Some(Ok(outcome)) => self.record(&mut work, outcome, places),
                Some(Err(error)) => match verdict.next {
                    Next::SendInParts => {}
                    next => return self.after_failure(work, sent, next, &error).await,
                },
                None => {
                    self.shared.board.phase(self.operator, Phase::Elsewhere);
                    return self.give_way(work.jobs).await;
                }
            }
        }
    }

    fn note(&mut self, batch: &CallBatch, verdict: Verdict) {
        if verdict.maybe_sent {
            self.recently_sent.add(&batch.calls);
            batch.calls.iter().for_each(|call| self.sequences.unknown(call));
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

    /// Does what the verdict on a failed transaction says about its jobs.
    async fn after_failure(&mut self, mut work: Work, sent: Sent, next: Next, error: &SubmitError) {
        match next {
            Next::SendFewer => {
                tracing::info!(operator = %self.operator, calls = sent.calls, %error, "a batch is sent in part");
                self.put_back(work.unsent());
            }
            Next::Pause => self.pause_for_signer(work.unsent(), &describe(error)),
            Next::EndUnpayable => {
                self.put_back(work.unsent());
                let jobs = self.take_batch();
                let calls = jobs.iter().map(|job| job.lease.job.calls.len()).sum();
                self.shared.board.batch(calls, "refused");
                self.end_failed(Work::new(jobs), error, false).await;
            }
            Next::Halve => {
                self.shared.board.batch(sent.calls, "refused");
                self.halve(work, error);
            }
            Next::End { retry } => {
                self.shared.board.batch(sent.calls, if self.unresolved { "unresolved" } else { "refused" });
                if self.unresolved {
                    self.unresolved = self.ask(&mut work, |outcome| outcome.is_none()).await.is_err();
                }
                self.end_failed(work, error, retry).await;
            }
            // These go on in `submit`.
            Next::Record | Next::SendInParts | Next::GiveWay => self.put_back(work.unsent()),
        }
    }

    fn record(&mut self, work: &mut Work, outcome: BatchOutcome, places: Vec<usize>) {
        self.shared.board.batch(places.len(), "included");
        self.shared.board.lane(self.operator, |lane| lane.last_error = None);
        for (place, result) in places.iter().zip(&outcome.calls) {
            if result.is_ok() {
                self.sequences.taken(&work.calls()[*place]);
            }
        }
        let results = outcome.calls.into_iter().map(|result| match result {
            Ok(()) => CallOutcome::Done,
            Err(e) => CallOutcome::Failed(e.name),
        });
        work.sent(outcome.extrinsic, outcome.number, places.into_iter().zip(results));
    }

    async fn end(&mut self, mut work: Work) {
        // A call also fails because somebody else has done it in the meantime.
        if let Err(e) = self.ask(&mut work, |o| matches!(o, Some(CallOutcome::Failed(_)))).await {
            tracing::warn!(operator = %self.operator, error = %e, "failed calls were not looked up");
        }
        self.finish(work).await;
    }

    /// Submits; `None` where the account is lost.
    async fn carry_out(&self, batch: &CallBatch, work: &Work) -> Option<Result<BatchOutcome, SubmitError>> {
        self.shared.board.phase(self.operator, Phase::Sending);
        let account = self.account.clone()?;
        let result = self.watched(batch, work, account).await?;
        Some(result.and_then(|outcome| matching(outcome, batch.calls.len())))
    }

    /// Submits, and shows the transaction's progress. `None` where the account was lost: nothing is sent after
    /// that.
    async fn watched(
        &self,
        batch: &CallBatch,
        work: &Work,
        mut account: AccountLease,
    ) -> Option<Result<BatchOutcome, SubmitError>> {
        let (progress, mut reports) = mpsc::channel(PROGRESS_SLOTS);
        let submitted = self.within_limit(self.shared.submitter.submit(batch, progress));
        tokio::pin!(submitted);
        loop {
            tokio::select! {
                biased;
                // Before anything else, so that a process that was stopped for a while sends nothing more.
                () = account.lost() => return None,
                result = &mut submitted => return Some(result),
                Some(report) = reports.recv() => {
                    let phase = match report {
                        SubmitProgress::Submitted { extrinsic } => {
                            let leases = work.jobs.iter().map(|job| &job.lease);
                            self.shared.reports.tell(Progress::Sent, leases);
                            Phase::Sent { extrinsic }
                        }
                        SubmitProgress::InBlock { block } => Phase::InBlock { block },
                    };
                    self.shared.board.phase(self.operator, phase);
                }
            }
        }
    }
}

/// An outcome with as many results as calls were sent; another one cannot be told apart.
fn matching(outcome: BatchOutcome, sent: usize) -> Result<BatchOutcome, SubmitError> {
    let got = outcome.calls.len();
    if got == sent {
        return Ok(outcome);
    }
    let reason = format!("{got} results for {sent} calls in block {}", outcome.number);
    Err(SubmitError::Unknown { waited: Duration::ZERO, reason })
}
