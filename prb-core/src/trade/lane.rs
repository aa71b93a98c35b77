//! One operator's lane: collects jobs, sends one batch at a time, and ends its jobs.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

use super::{
    Config, Phase,
    account_keeper::{AccountKeeper, AccountLease},
    batch::{self, Queued, Work},
    call_limits::{CallLimits, Caps},
    inbox::Inbox,
    job_leases::JobLeases,
    order::Order,
    recently_sent::RecentlySent,
    reports::Reports,
    sequences::Sequences,
    status::Board,
};
use crate::{
    chain::ChainSubmitter,
    primitives::AccountId,
    queue::{JobId, Progress},
    signer::{Signer, Signers},
};

mod end;
mod intake;
mod transact;

/// What all lanes share.
#[derive(Debug)]
pub(super) struct Context {
    pub(super) config: Config,
    pub(super) submitter: Arc<dyn ChainSubmitter>,
    pub(super) signers: Arc<dyn Signers>,
    pub(super) leases: Arc<JobLeases>,
    pub(super) accounts: Arc<AccountKeeper>,
    pub(super) order: Order,
    pub(super) caps: Caps,
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
    /// In the order of their ids.
    pending: VecDeque<Queued>,
    /// By sealed key.
    signers: HashMap<Vec<u8>, Arc<dyn Signer>>,
    /// The lane's right to send for the account.
    account: Option<AccountLease>,
    limits: CallLimits,
    /// Something may have been sent whose outcome this lane does not know: its predecessor's at the start.
    unresolved: bool,
    recently_sent: RecentlySent,
    sequences: Sequences,
    /// Nothing is sent before.
    paused_until: Option<Instant>,
    /// Failures to get a signature, in a row.
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

    /// Works until it has been idle for long enough, or is told to stop: then the jobs that it has not sent
    /// stay leased, for the dispatcher to give back.
    pub(super) async fn run(mut self) {
        let shared = self.shared.clone();
        let Context { config, stopping, .. } = &*shared;
        while !stopping.is_cancelled() {
            self.take_in();
            // Before jobs wait for company: another trader may be waiting for them.
            let has_account = self.account.as_ref().is_some_and(AccountLease::is_held);
            if !has_account && !self.pending.is_empty() && !self.acquire_account().await {
                continue;
            }
            self.make_room().await;
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
                () = self.inbox.changed() => {}
                () = sleep_until(wake) => {
                    if self.pending.is_empty() && self.inbox.close_if_empty() {
                        return;
                    }
                }
            }
        }
    }

    /// What goes in a batch.
    fn batch_limits(&self) -> Config {
        let config = &self.shared.config;
        Config { max_calls: config.max_calls.min(self.limits.most()), ..config.clone() }
    }

    /// When there is something to do; `None` where there are no jobs.
    fn due(&self) -> Option<Instant> {
        self.pending.front()?;
        let away = self.shared.order.oldest(self.operator);
        let due = batch::due(&self.pending, &self.batch_limits(), away.map(|away| away.id));
        // Where all wait for a job that is away: it comes through the inbox, or not at all.
        let due = due.or(away.map(|away| away.until))?;
        Some(self.paused_until.map_or(due, |until| until.max(due)))
    }

    /// Takes the next batch out of the lane.
    fn take_batch(&mut self) -> Vec<Queued> {
        let away = self.shared.order.oldest(self.operator).map(|away| away.id);
        let limits = self.batch_limits();
        batch::take(&mut self.pending, &limits, away)
    }

    /// Puts jobs back in the lane.
    fn put_back(&mut self, jobs: Vec<Queued>) {
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
        let jobs = self.take_batch();
        let Some((jobs, signer)) = self.with_signer(jobs).await else { return };
        let Some(jobs) = self.still_ours(jobs).await else { return };
        if let Some(work) = self.leave_out_what_is_futile(Work::new(jobs)).await {
            self.shared.reports.tell(Progress::Prepared, work.jobs.iter().map(|job| &job.lease));
            self.submit(work, &signer).await;
        }
        if self.account.is_some() {
            self.shared.board.phase(self.operator, Phase::Gathering);
        }
    }

    /// Waits, unless the trader stops meanwhile.
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
