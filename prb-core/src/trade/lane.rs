//! One operator's lane: collects jobs, sends one batch at a time, and ends its jobs.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    fmt::Write,
    ops::ControlFlow,
    sync::Arc,
    time::Duration,
};

use secrecy::SecretString;
use tokio::{
    sync::mpsc,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    Config, Phase,
    batch::{self, Queued, Work},
    holds::{Hold, Holds, Taken},
    inbox::{Arrival, Inbox},
    leases::Leases,
    recent::Recent,
    reports::Reports,
    status::Board,
};
use crate::{
    chain::{BatchOutcome, CallBatch, ChainSubmitter, Effect, SubmitError, SubmitProgress},
    primitives::AccountId,
    queue::{CallOutcome, JobId, Progress},
    vault::{self, Vault},
};

mod end;

/// Opened keys that a lane keeps: pools of one operator may have sealed it each for itself.
const MAX_OPEN_KEYS: usize = 16;
/// Reports of a transaction's way that may wait to be shown.
const PROGRESS_SLOTS: usize = 4;
/// When jobs come again that are left to the trader that has the account.
const GIVE_WAY_FOR: Duration = Duration::from_millis(250);

/// What all lanes share.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) config: Config,
    pub(super) submitter: Arc<dyn ChainSubmitter>,
    pub(super) vault: Arc<dyn Vault>,
    pub(super) leases: Arc<Leases>,
    pub(super) holds: Arc<Holds>,
    pub(super) reports: Arc<Reports>,
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
    /// The lane's right to send for the account.
    hold: Option<Hold>,
    /// Most calls of one transaction, as the last ones have shown.
    room: usize,
    /// Most calls of the next transaction, where the account could not pay for more.
    payable: usize,
    /// Something may have been sent whose fate this lane does not know: its predecessor's at the start.
    doubt: bool,
    recent: Recent,
}

impl Lane {
    pub(super) fn new(shared: Arc<Context>, operator: AccountId, inbox: Arc<Inbox>) -> Self {
        let (pending, keys, recent) = Default::default();
        let (room, payable) = (usize::MAX, usize::MAX);
        Self { shared, operator, inbox, pending, keys, hold: None, room, payable, doubt: true, recent }
    }

    /// Works until it has been idle for long enough, or is told to stop: then the jobs that it has not sent
    /// stay leased, for the dispatcher to hand back.
    pub(super) async fn run(mut self) {
        let shared = self.shared.clone();
        let Context { config, stopping, .. } = &*shared;
        while !stopping.is_cancelled() {
            self.take_in().await;
            // Before jobs wait for company: another trader may be waiting for them.
            let has_account = self.hold.as_ref().is_some_and(Hold::is_held);
            if !has_account && !self.pending.is_empty() && !self.has_account().await {
                continue;
            }
            let idle = match batch::due(&self.pending, &self.limits()) {
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

    /// What goes in a batch.
    fn limits(&self) -> Config {
        let config = &self.shared.config;
        Config { max_calls: config.max_calls.min(self.most()), ..config.clone() }
    }

    /// Most calls of the next transaction.
    fn most(&self) -> usize {
        self.room.min(self.payable)
    }

    /// Moves jobs from the inbox into the line and opens their keys.
    async fn take_in(&mut self) {
        let arrivals = self.inbox.take();
        self.shared.reports.tell(Progress::Taken, arrivals.iter().map(|Arrival { lease, .. }| lease));
        // Thousands may be in line: looked through once, not for each that comes.
        let mut ids = HashSet::new();
        if !arrivals.is_empty() {
            ids.extend(self.pending.iter().map(|job| job.lease.id));
        }
        for Arrival { lease, at } in arrivals {
            // The lease of the one before ran out, or the queue lost its data and gives its ids again.
            if !ids.insert(lease.id)
                && let Some(place) = self.pending.iter().position(|job| job.lease.id == lease.id)
            {
                let stale = self.pending.remove(place);
                stale.iter().for_each(|job| self.inbox.release(job.lease.job.size_bytes()));
            }
            match self.open(&lease.job.signer.key).await {
                Ok(secret) => self.pending.push_back(Queued::new(lease, secret, at)),
                Err(e) => {
                    let message = format!("the operator key cannot be opened: {e}");
                    let secret = Arc::new(SecretString::from(""));
                    self.fail(&Queued::new(lease, secret, at), &message, None).await;
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

    /// Makes sure that the account is this trader's.
    async fn has_account(&mut self) -> bool {
        let shared = self.shared.clone();
        match shared.holds.take(self.operator).await {
            Ok(Taken::Ours { hold, anew }) => {
                if anew {
                    self.doubt = true;
                    shared.submitter.forget(self.operator);
                }
                self.hold = Some(hold);
                true
            }
            Ok(Taken::Elsewhere) => {
                shared.board.phase(self.operator, Phase::Elsewhere);
                let jobs = self.pending.drain(..).collect();
                self.give_way(jobs).await;
                false
            }
            Err(e) => {
                let error = chain_of(&e);
                tracing::warn!(operator = %self.operator, error, "a batch waits for its account");
                tokio::select! {
                    () = shared.stopping.cancelled() => {}
                    () = sleep(shared.config.retry_min) => {}
                }
                false
            }
        }
    }

    /// Puts jobs before all others.
    fn put_back(&mut self, jobs: Vec<Queued>) {
        jobs.into_iter().rev().for_each(|job| self.pending.push_front(job));
    }

    /// Leaves jobs to the trader that has the account.
    async fn give_way(&mut self, jobs: Vec<Queued>) {
        self.hold = None;
        self.shared.leases.hand_back(&ids(&jobs), GIVE_WAY_FOR).await;
        jobs.iter().for_each(|job| self.inbox.release(job.lease.job.size_bytes()));
    }

    /// Sends one batch and ends its jobs.
    async fn send(&mut self) {
        if !self.has_account().await {
            return;
        }
        let limits = self.limits();
        let jobs = batch::take(&mut self.pending, &limits);
        let Some(jobs) = self.still_ours(jobs).await else { return };
        let work = Work::new(jobs);
        if let ControlFlow::Continue(work) = self.leave_out_what_is_done(work).await {
            self.shared.reports.tell(Progress::Prepared, work.jobs.iter().map(|job| &job.lease));
            self.submit(work).await;
        }
        if self.hold.is_some() {
            self.shared.board.phase(self.operator, Phase::Gathering);
        }
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
                self.put_back(jobs);
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
        let may_be_done = |job: &Queued| job.ask || self.recent.has_any(&job.lease.job.calls);
        if !self.doubt && !work.jobs.iter().any(may_be_done) {
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
                self.put_back(work.jobs);
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

    /// Sends the calls that have no outcome: in one transaction, or a large job's in as many as it takes.
    async fn submit(&mut self, mut work: Work) {
        loop {
            let (mut places, mut calls) = work.select(|outcome| outcome.is_none());
            if calls.is_empty() {
                return self.end(work).await;
            }
            if self.shared.stopping.is_cancelled() {
                self.put_back(work.jobs);
                return;
            }
            places.truncate(self.most());
            calls.truncate(self.most());
            let count = calls.len();
            let Some(batch) = work.transaction(calls) else { return };
            self.shared.board.phase(self.operator, Phase::Sending);
            let result = match self.hold.clone() {
                Some(hold) => self.watched(&batch, &work, hold).await,
                None => None,
            };
            if !matches!(result, Some(Err(SubmitError::TooLarge { .. }))) {
                self.recent.add(&batch.calls);
            }
            let Some(result) = result else {
                // What was sent is for the next trader to find out, or for this one once it has the account.
                self.doubt = true;
                self.shared.board.phase(self.operator, Phase::Elsewhere);
                return self.give_way(work.jobs).await;
            };
            let error = match result.and_then(|outcome| matching(outcome, count)) {
                Ok(outcome) => {
                    self.included(&mut work, outcome, places);
                    continue;
                }
                Err(error) => error,
            };
            match error {
                SubmitError::InsufficientFees { .. } if count == 1 && work.jobs.len() == 1 => {
                    return self.cannot_pay(work, &error).await;
                }
                _ if count == 1 => return self.not_included(work, count, &error).await,
                SubmitError::TooLarge { fits, .. } => self.room = fits.clamp(1, count - 1),
                SubmitError::InsufficientFees { .. } => {
                    tracing::warn!(operator = %self.operator, calls = count, %error, "a batch is sent in part");
                    self.payable = count / 2;
                }
                _ => return self.not_included(work, count, &error).await,
            }
            if work.jobs.len() > 1 {
                // Those that fit go at once, and end before the others.
                return self.put_back(work.unsent());
            }
        }
    }

    fn included(&mut self, work: &mut Work, outcome: BatchOutcome, places: Vec<usize>) {
        self.shared.board.batch(places.len(), "included");
        self.shared.board.lane(self.operator, |lane| lane.last_error = None);
        self.payable = usize::MAX;
        if places.len() >= self.room {
            // Other calls may take less.
            self.room = self.room.saturating_mul(2);
        }
        let results = outcome.calls.into_iter().map(|result| match result {
            Ok(()) => CallOutcome::Done,
            Err(e) => CallOutcome::Failed(e.name),
        });
        work.sent(outcome.extrinsic, outcome.number, places.into_iter().zip(results));
    }

    async fn end(&self, mut work: Work) {
        // A call also fails because somebody else has done it in the meantime.
        if let Err(e) = self.ask(&mut work, |o| matches!(o, Some(CallOutcome::Failed(_)))).await {
            tracing::warn!(operator = %self.operator, error = %e, "failed calls were not looked up");
        }
        self.finish(work).await;
    }

    /// Not even one call can be paid for: so it is with all that would have gone.
    async fn cannot_pay(&mut self, work: Work, error: &SubmitError) {
        self.payable = usize::MAX;
        self.put_back(work.unsent());
        let limits = self.limits();
        let jobs = batch::take(&mut self.pending, &limits);
        let calls = jobs.iter().map(|job| job.lease.job.calls.len()).sum();
        self.not_included(Work::new(jobs), calls, error).await;
    }

    async fn not_included(&mut self, mut work: Work, calls: usize, error: &SubmitError) {
        self.payable = usize::MAX;
        let doubtful = matches!(error, SubmitError::Lost { .. } | SubmitError::Unknown { .. });
        self.shared.board.batch(calls, if doubtful { "doubtful" } else { "refused" });
        if doubtful {
            self.doubt = true;
            self.doubt = self.ask(&mut work, |outcome| outcome.is_none()).await.is_err();
        }
        self.refused(work, error).await;
    }

    /// Submits, and shows the transaction's way. `None` where the account was lost: nothing is sent after
    /// that.
    async fn watched(
        &self,
        batch: &CallBatch,
        work: &Work,
        mut hold: Hold,
    ) -> Option<Result<BatchOutcome, SubmitError>> {
        let (progress, mut reports) = mpsc::channel(PROGRESS_SLOTS);
        let submitted = self.within_limit(self.shared.submitter.submit(batch, progress));
        tokio::pin!(submitted);
        loop {
            tokio::select! {
                biased;
                // Before anything else, so that a process that was stopped for a while sends nothing more.
                () = hold.lost() => return None,
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

/// The error and its causes in one line.
pub(super) fn chain_of(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(e) = cause {
        // Writing to a string cannot fail.
        let _ = write!(text, ": {e}");
        cause = e.source();
    }
    text
}
