//! The lane of one operator: collects jobs, sends one batch at a time, and ends its jobs.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{
    Config, Phase,
    account_lease_manager::{AccountLease, AccountLeaseManager},
    batch::{self, PendingBatch, Queued},
    call_limits::{CallCaps, CallLimits},
    inbox::Inbox,
    job_leases::JobLeases,
    progress::ProgressReporter,
    recently_sent::RecentlySent,
    released_jobs::ReleasedJobs,
    sequences::Sequences,
    status::StatusPublisher,
    unsignable_jobs::UnsignableJobs,
};
use crate::{
    chain::ChainSubmitter,
    primitives::AccountId,
    queue::{JobId, Progress},
    signer::{Signer, Signers},
};

mod finish;
mod intake;
mod transact;

/// Resources that all lanes share.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) config: Config,
    pub(super) submitter: Arc<dyn ChainSubmitter>,
    pub(super) signers: Arc<dyn Signers>,
    pub(super) leases: Arc<JobLeases>,
    pub(super) accounts: Arc<AccountLeaseManager>,
    pub(super) released: ReleasedJobs,
    pub(super) unsignable: UnsignableJobs,
    pub(super) caps: CallCaps,
    pub(super) progress: Arc<ProgressReporter>,
    pub(super) publisher: StatusPublisher,
    /// No batch is started after cancellation.
    pub(super) stopping: CancellationToken,
}

#[derive(Debug)]
pub(super) struct Lane {
    shared: Arc<Context>,
    operator: AccountId,
    inbox: Arc<Inbox>,
    /// Sorted by job id.
    pending: VecDeque<Queued>,
    /// By sealed key.
    signers: HashMap<Vec<u8>, Arc<dyn Signer>>,
    /// The lease on the lane's account.
    account: Option<AccountLease>,
    limits: CallLimits,
    /// Something may have been sent whose outcome this lane does not know; at the start, by its predecessor.
    unresolved: bool,
    recently_sent: RecentlySent,
    sequences: Sequences,
    /// Nothing is sent before.
    paused_until: Option<Instant>,
    /// Consecutive failures to get a signature.
    sign_failures: u32,
}

impl Lane {
    pub(super) fn new(shared: Arc<Context>, operator: AccountId, inbox: Arc<Inbox>) -> Self {
        let (pending, signers, recently_sent, sequences) = Default::default();
        let limits = shared.caps.limits(operator, &shared.config);
        Self {
            shared,
            operator,
            inbox,
            pending,
            signers,
            account: None,
            limits,
            unresolved: true,
            recently_sent,
            sequences,
            paused_until: None,
            sign_failures: 0,
        }
    }

    /// Runs until its inbox is closed, by itself after it has been idle for long enough or by the dispatcher, or it is
    /// stopped: then unsent jobs stay leased, for the dispatcher to release.
    pub(super) async fn run(mut self) {
        let shared = self.shared.clone();
        let Context { config, stopping, .. } = &*shared;
        while !stopping.is_cancelled() && !self.inbox.is_closed() {
            self.receive_jobs();
            // Before jobs wait for further ones: another trader may be waiting for them.
            let has_account = self.account.as_ref().is_some_and(AccountLease::is_held);
            if !has_account && !self.pending.is_empty() && !self.acquire_account().await {
                continue;
            }
            self.release_for_older().await;
            let wake = match self.due() {
                Some(at) if at <= Instant::now() => {
                    self.send().await;
                    continue;
                }
                Some(at) => at,
                None => Instant::now() + config.lane_idle,
            };
            tokio::select! {
                () = stopping.cancelled() => {}
                () = self.inbox.wait_for_job() => {}
                // With jobs pending it stays open: it holds them.
                () = sleep_until(wake) => drop(self.inbox.close_if_empty()),
            }
        }
    }

    /// The limits of a batch.
    fn batch_limits(&self) -> Config {
        let config = &self.shared.config;
        Config { max_calls: config.max_calls.min(self.limits.max_calls()), ..config.clone() }
    }

    /// When the next batch is due; `None` without jobs.
    fn due(&self) -> Option<Instant> {
        self.pending.front()?;
        let released = self.shared.released.oldest(self.operator);
        let due = batch::due(&self.pending, &self.batch_limits(), released.map(|released| released.id));
        // All jobs may wait for one that was released: it comes back through the inbox, or is given up at
        // `until`.
        let due = due.or(released.map(|released| released.until))?;
        Some(self.paused_until.map_or(due, |until| until.max(due)))
    }

    /// Removes the next batch from the lane.
    fn take_batch(&mut self) -> Vec<Queued> {
        let released = self.shared.released.oldest(self.operator).map(|released| released.id);
        let limits = self.batch_limits();
        batch::take(&mut self.pending, &limits, released)
    }

    /// Returns jobs to the lane.
    fn put_back(&mut self, jobs: Vec<Queued>) {
        // Youngest first, so that each goes to the front of the deque.
        for job in jobs.into_iter().rev() {
            if let Some(replaced) = batch::insert(&mut self.pending, job) {
                self.inbox.release(replaced.lease.job.size_bytes());
            }
        }
    }

    /// Sends one batch and ends its jobs.
    async fn send(&mut self) {
        if !self.acquire_account().await {
            return;
        }
        // Only now: without the account, jobs stay in the lane, in order.
        let jobs = self.take_batch();
        // Opening a key may take long, so the leases are renewed after it: they must be current when the batch is sent.
        let Some((jobs, signer)) = self.with_signer(jobs).await else { return };
        let Some(jobs) = self.renew_leases(jobs).await else { return };
        if let Some(work) = self.omit_futile_calls(PendingBatch::new(jobs)).await {
            self.shared.progress.report(Progress::Prepared, work.jobs.iter().map(|job| &job.lease));
            self.submit(work, &signer).await;
        }
        // Without the account, the lane's phase is `HeldByOther` already.
        if self.account.is_some() {
            self.shared.publisher.phase(self.operator, Phase::Collecting);
        }
    }

    /// Sleeps, unless the trader stops meanwhile.
    async fn pause(&self, time: Duration) {
        tokio::select! {
            () = self.shared.stopping.cancelled() => {}
            () = sleep(time) => {}
        }
    }
}

fn ids(jobs: &[Queued]) -> Vec<(JobId, u64)> {
    jobs.iter().map(|job| (job.lease.id, job.lease.token)).collect()
}
