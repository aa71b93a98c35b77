//! One operator's lane: collects jobs, sends one batch at a time, and ends its jobs.

use std::{
    collections::{HashMap, VecDeque},
    fmt::Write,
    ops::ControlFlow,
    sync::Arc,
    time::Duration,
};

use rand::Rng;
use secrecy::SecretString;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    Config, Phase,
    batch::{self, Queued, Work},
    inbox::{Arrival, Inbox},
    leases::Leases,
    status::Board,
};
use crate::{
    chain::{BatchOutcome, CallBatch, ChainSubmitter, Effect, SubmitError, SubmitProgress},
    primitives::{AccountId, PHALA_SS58_PREFIX},
    queue::{CallOutcome, JobFailure, JobId},
    vault::{self, Vault},
};

/// Opened keys that a lane keeps: pools of one operator may have sealed it each for itself.
const MAX_OPEN_KEYS: usize = 16;
/// Reports of a transaction's way that may wait to be shown.
const PROGRESS_SLOTS: usize = 4;

/// What all lanes share.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) config: Config,
    pub(super) submitter: Arc<dyn ChainSubmitter>,
    pub(super) vault: Arc<dyn Vault>,
    pub(super) leases: Arc<Leases>,
    pub(super) board: Board,
    /// No batch is started after it.
    pub(super) stopping: CancellationToken,
}

#[derive(Debug)]
pub(super) struct Lane {
    shared: Arc<Context>,
    operator: AccountId,
    inbox: Arc<Inbox>,
    pending: VecDeque<Queued>,
    keys: HashMap<Vec<u8>, Arc<SecretString>>,
    /// Something may have been sent whose fate this lane does not know: its predecessor's at the start.
    doubt: bool,
}

impl Lane {
    pub(super) fn new(shared: Arc<Context>, operator: AccountId, inbox: Arc<Inbox>) -> Self {
        Self { shared, operator, inbox, pending: VecDeque::new(), keys: HashMap::new(), doubt: true }
    }

    /// Works until it has been idle for long enough, or is told to stop: then the jobs that it has not sent
    /// stay leased, for the dispatcher to hand back.
    pub(super) async fn run(mut self) {
        let shared = self.shared.clone();
        let Context { config, stopping, .. } = &*shared;
        while !stopping.is_cancelled() {
            self.take_in().await;
            let idle = match batch::due(&self.pending, config) {
                Some(at) if at <= Instant::now() => {
                    self.send().await;
                    continue;
                }
                Some(at) => at,
                None => Instant::now() + config.lane_idle,
            };
            tokio::select! {
                () = stopping.cancelled() => {}
                () = self.inbox.changed() => {}
                () = sleep_until(idle) => {
                    if self.pending.is_empty() && self.inbox.close_if_empty() {
                        return;
                    }
                }
            }
        }
    }

    /// Moves jobs from the inbox into the line and opens their keys.
    async fn take_in(&mut self) {
        for Arrival { lease, at } in self.inbox.take() {
            // Its lease ran out here, and it was handed out again, to this trader.
            if let Some(place) = self.pending.iter().position(|job| job.lease.id == lease.id) {
                let stale = self.pending.remove(place);
                stale.iter().for_each(|job| self.inbox.release(job.lease.job.size_bytes()));
            }
            match self.open(&lease.job.signer.key).await {
                Ok(secret) => self.pending.push_back(Queued { lease, secret, at, alone: false }),
                Err(e) => {
                    let message = format!("the operator key cannot be opened: {e}");
                    let secret = Arc::new(SecretString::from(""));
                    self.fail(&Queued { lease, secret, at, alone: false }, &message, None).await;
                }
            }
        }
        let jobs = self.inbox.held_jobs();
        self.shared.board.lane(self.operator, |lane| lane.jobs = jobs);
    }

    async fn open(&mut self, sealed: &vault::Sealed) -> Result<Arc<SecretString>, vault::Error> {
        if let Some(secret) = self.keys.get(&sealed.0) {
            return Ok(secret.clone());
        }
        let secret = Arc::new(self.shared.vault.open(sealed).await?);
        if self.keys.len() >= MAX_OPEN_KEYS {
            self.keys.clear();
        }
        self.keys.insert(sealed.0.clone(), secret.clone());
        Ok(secret)
    }

    /// Sends one batch and ends its jobs.
    async fn send(&mut self) {
        let jobs = batch::take(&mut self.pending, &self.shared.config);
        let Some(jobs) = self.still_ours(jobs).await else { return };
        let work = Work::new(jobs);
        if let ControlFlow::Continue(work) = self.leave_out_what_is_done(work).await {
            self.submit(work).await;
        }
        self.shared.board.phase(self.operator, Phase::Gathering);
    }

    /// Renews the jobs' leases before anything is sent for them, and drops those that others have.
    async fn still_ours(&mut self, mut jobs: Vec<Queued>) -> Option<Vec<Queued>> {
        let shared = self.shared.clone();
        let leases = ids(&jobs);
        match shared.leases.renew(&leases).await {
            Ok(lost) => {
                for job in jobs.extract_if(.., |job| lost.contains(&job.lease.id)) {
                    self.inbox.release(job.lease.job.size_bytes());
                }
                (!jobs.is_empty()).then_some(jobs)
            }
            Err(e) => {
                tracing::warn!(operator = %self.operator, error = %e, "a batch waits for the queue");
                jobs.into_iter().rev().for_each(|job| self.pending.push_front(job));
                tokio::select! {
                    () = shared.stopping.cancelled() => {}
                    () = sleep(shared.config.retry_min) => {}
                }
                None
            }
        }
    }

    /// Asks the chain which calls are done already, where something may have been sent before. Breaks
    /// where the batch does not go on.
    async fn leave_out_what_is_done(&mut self, mut work: Work) -> ControlFlow<(), Work> {
        let shared = self.shared.clone();
        if !self.doubt && work.jobs.iter().all(|job| job.lease.attempt == 0) {
            return ControlFlow::Continue(work);
        }
        let asked = tokio::select! {
            biased;
            () = shared.stopping.cancelled() => None,
            result = self.ask(&mut work, |outcome| outcome.is_none()) => Some(result),
        };
        match asked {
            Some(Ok(())) => {
                self.doubt = false;
                ControlFlow::Continue(work)
            }
            Some(Err(error)) => {
                self.refused(work, &error).await;
                ControlFlow::Break(())
            }
            None => {
                work.jobs.into_iter().rev().for_each(|job| self.pending.push_front(job));
                ControlFlow::Break(())
            }
        }
    }

    /// Asks for the effects of the calls whose outcome `is` so, and notes those that are there.
    async fn ask(
        &self,
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
        let present = places.into_iter().zip(found.calls).filter(|(_, e)| *e == Effect::Present);
        work.already_done(present.map(|(place, _)| place), found.block);
        Ok(())
    }

    /// A submitter that hangs is given up after a while; what it did is in doubt.
    async fn within_limit<T>(
        &self,
        call: impl Future<Output = Result<T, SubmitError>>,
    ) -> Result<T, SubmitError> {
        let waited = self.shared.config.submit_timeout;
        timeout(waited, call).await.unwrap_or_else(|_| {
            Err(SubmitError::Unknown { waited, reason: "the submitter did not answer".into() })
        })
    }

    async fn submit(&mut self, mut work: Work) {
        let (places, calls) = work.select(|outcome| outcome.is_none());
        let count = calls.len();
        if count == 0 {
            return self.finish(work).await;
        }
        if self.shared.stopping.is_cancelled() {
            work.jobs.into_iter().rev().for_each(|job| self.pending.push_front(job));
            return;
        }
        let Some(batch) = work.transaction(calls) else { return };
        self.shared.board.phase(self.operator, Phase::Sending);
        match self.watched(&batch).await.and_then(|outcome| matching(outcome, count)) {
            Ok(outcome) => {
                self.shared.board.batch(count, "included");
                self.shared.board.lane(self.operator, |lane| lane.last_error = None);
                let results = outcome.calls.into_iter().map(|result| match result {
                    Ok(()) => CallOutcome::Done,
                    Err(e) => CallOutcome::Failed(e.name),
                });
                work.sent(outcome.extrinsic, outcome.number, places.into_iter().zip(results));
                // A call also fails because somebody else has done it in the meantime.
                if let Err(e) = self.ask(&mut work, |o| matches!(o, Some(CallOutcome::Failed(_)))).await {
                    tracing::warn!(operator = %self.operator, error = %e, "failed calls were not looked up");
                }
                self.finish(work).await;
            }
            Err(error) => {
                let doubtful = matches!(error, SubmitError::Lost { .. } | SubmitError::Unknown { .. });
                self.shared.board.batch(count, if doubtful { "doubtful" } else { "refused" });
                if doubtful {
                    self.doubt = true;
                    self.doubt = self.ask(&mut work, |outcome| outcome.is_none()).await.is_err();
                }
                self.refused(work, &error).await;
            }
        }
    }

    /// Submits, and shows the transaction's way.
    async fn watched(&self, batch: &CallBatch) -> Result<BatchOutcome, SubmitError> {
        let (progress, mut reports) = mpsc::channel(PROGRESS_SLOTS);
        let submitted = self.within_limit(self.shared.submitter.submit(batch, progress));
        tokio::pin!(submitted);
        loop {
            tokio::select! {
                result = &mut submitted => return result,
                Some(report) = reports.recv() => {
                    let phase = match report {
                        SubmitProgress::Submitted { extrinsic } => Phase::Sent { extrinsic },
                        SubmitProgress::InBlock { block } => Phase::InBlock { block },
                    };
                    self.shared.board.phase(self.operator, phase);
                }
            }
        }
    }

    /// Ends the jobs of a batch that was not carried out, or puts them off.
    async fn refused(&mut self, work: Work, error: &SubmitError) {
        let message = chain_of(error);
        tracing::warn!(
            operator = %self.operator.to_ss58(PHALA_SS58_PREFIX), jobs = work.jobs.len(), error = message,
            "a batch was not carried out"
        );
        self.shared.board.lane(self.operator, |lane| lane.last_error = Some(message.clone()));
        let by_one_job = matches!(error, SubmitError::Refused { .. } | SubmitError::Unsupported { .. });
        if by_one_job && !error.is_retryable() && work.jobs.len() > 1 {
            // One job's call may be to blame: each is tried without the others, and what is known of their
            // calls is asked for again.
            self.doubt = true;
            for job in work.jobs.into_iter().rev() {
                self.pending.push_front(Queued { alone: true, ..job });
            }
            return;
        }
        let attempt = work.jobs.iter().map(|job| job.lease.attempt).max().unwrap_or_default();
        // One delay for all: jobs that were in order stay so.
        let retry_after = error.is_retryable().then(|| retry_delay(attempt, &self.shared.config));
        for (job, outcome) in work.finish() {
            match outcome {
                Some(outcome) => self.complete(&job, outcome).await,
                None => self.fail(&job, &message, retry_after).await,
            }
        }
    }

    async fn finish(&self, work: Work) {
        for (job, outcome) in work.finish() {
            match outcome {
                Some(outcome) => self.complete(&job, outcome).await,
                None => self.fail(&job, "the submitter gave no result for a call", None).await,
            }
        }
    }

    async fn complete(&self, job: &Queued, outcome: crate::queue::JobOutcome) {
        self.shared.board.completed(&outcome.calls);
        self.shared.leases.complete(&job.lease, outcome).await;
        self.inbox.release(job.lease.job.size_bytes());
    }

    async fn fail(&self, job: &Queued, message: &str, retry_after: Option<Duration>) {
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

fn ids(jobs: &[Queued]) -> Vec<(JobId, u64)> {
    jobs.iter().map(|job| (job.lease.id, job.lease.token)).collect()
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

/// Exponential, with jitter over its upper half.
fn retry_delay(attempt: u32, config: &Config) -> Duration {
    let delay = config.retry_min.saturating_mul(1 << attempt.min(16)).min(config.retry_max);
    delay.mul_f64(rand::rng().random_range(0.5..=1.0))
}

/// The error and its causes in one line.
fn chain_of(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(e) = cause {
        // Writing to a string cannot fail.
        let _ = write!(text, ": {e}");
        cause = e.source();
    }
    text
}
