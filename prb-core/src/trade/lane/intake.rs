//! What a lane makes sure of before it sends: its jobs' leases, its account, and its signer.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, timeout};

use super::{
    super::{Phase, account_keeper::Acquired, batch, inbox::Arrival, order::BEHIND_OLDER},
    Lane, Queued, end, ids,
};
use crate::{
    primitives::PHALA_SS58_PREFIX,
    queue::{JobId, JobSigner, Progress},
    signer::{self, Signer},
    text::describe,
};

/// Signers that a lane keeps: pools of one operator may have sealed the key each for itself.
const MAX_SIGNERS: usize = 16;
/// How long a signer may take to be had, before it counts as unavailable.
const SIGNER_TIMEOUT: Duration = Duration::from_secs(30);
/// When jobs come again that are left to the trader that has the account.
const GIVE_WAY_FOR: Duration = Duration::from_millis(250);
/// How much longer younger jobs wait for one that was left to another trader, which may well have ended it.
const GIVE_WAY_GRACE: Duration = Duration::from_secs(5);

impl Lane {
    /// Moves jobs from the inbox into the lane.
    pub(super) fn take_in(&mut self) {
        let arrivals = self.inbox.take();
        if arrivals.is_empty() {
            return;
        }
        self.shared.reports.tell(Progress::Taken, arrivals.iter().map(|Arrival { lease, .. }| lease));
        for Arrival { lease, at } in arrivals {
            // The lease of the one before ran out, or the queue lost its data and gives its ids again.
            if let Some(stale) = batch::insert(&mut self.pending, Queued::new(lease, at)) {
                self.inbox.release(stale.lease.job.size_bytes());
            }
        }
        let jobs = self.inbox.held_jobs();
        self.shared.board.lane(self.operator, |lane| lane.jobs = jobs);
    }

    /// Makes sure that the account is this trader's.
    pub(super) async fn acquire_account(&mut self) -> bool {
        let shared = self.shared.clone();
        match shared.accounts.acquire(self.operator).await {
            Ok(Acquired::Ours { lease, new }) => {
                if new {
                    self.unresolved = true;
                    shared.submitter.forget(self.operator);
                }
                self.account = Some(lease);
                true
            }
            Ok(Acquired::Elsewhere) => {
                shared.board.phase(self.operator, Phase::Elsewhere);
                let jobs = self.pending.drain(..).collect();
                self.give_way(jobs).await;
                false
            }
            Err(e) => {
                let error = describe(&e);
                tracing::warn!(operator = %self.operator, error, "a batch waits for its account");
                self.pause(shared.config.retry_min).await;
                false
            }
        }
    }

    /// Leaves jobs to the trader that has the account.
    pub(super) async fn give_way(&mut self, jobs: Vec<Queued>) {
        self.account = None;
        let due = Instant::now() + GIVE_WAY_FOR;
        self.shared.order.leave(self.operator, jobs.iter().map(Queued::id), due, due + GIVE_WAY_GRACE);
        self.shared.leases.give_back(&ids(&jobs), GIVE_WAY_FOR).await;
        jobs.iter().for_each(|job| self.inbox.release(job.lease.job.size_bytes()));
    }

    /// Gives all jobs back where they wait for an older one that the full lane has no room for: it comes first,
    /// and they come again behind it.
    pub(super) async fn make_room(&mut self) {
        if !self.inbox.take_refused() {
            return;
        }
        let (Some(first), Some(away)) = (self.pending.front(), self.shared.order.oldest(self.operator))
        else {
            return;
        };
        if first.id() < away.id {
            return;
        }
        let after = away.due.saturating_duration_since(Instant::now()) + BEHIND_OLDER;
        let due = Instant::now() + after;
        let jobs: Vec<_> = self.pending.drain(..).collect();
        let until = due + self.shared.config.lease_ttl;
        self.shared.order.leave(self.operator, jobs.iter().map(Queued::id), due, until);
        self.shared.leases.give_back(&ids(&jobs), after).await;
        jobs.iter().for_each(|job| self.inbox.release(job.lease.job.size_bytes()));
    }

    /// Renews the jobs' leases before anything is sent for them, and drops those that are lost. `None` where no
    /// job may be sent now.
    pub(super) async fn still_ours(&mut self, mut jobs: Vec<Queued>) -> Option<Vec<Queued>> {
        let shared = self.shared.clone();
        let leases = ids(&jobs);
        match shared.leases.renew(&leases).await {
            Ok(lost) => {
                let Some(oldest_lost) = lost.iter().min().copied() else { return Some(jobs) };
                for job in jobs.extract_if(.., |job| lost.contains(&job.id())) {
                    self.inbox.release(job.lease.job.size_bytes());
                }
                self.wait_for(&lost);
                // No younger job goes before those that are handed out again.
                self.put_back(jobs.extract_if(.., |job| job.id() > oldest_lost).collect());
                (!jobs.is_empty()).then_some(jobs)
            }
            Err(e) => {
                tracing::warn!(operator = %self.operator, error = %describe(&e), "a batch waits for the queue");
                self.put_back(jobs);
                self.pause(shared.config.retry_min).await;
                None
            }
        }
    }

    /// Lets younger jobs wait for those whose leases were lost, unless they are here again already.
    fn wait_for(&self, lost: &[JobId]) {
        let (order, now) = (&self.shared.order, Instant::now());
        let until = now + self.shared.config.lease_ttl;
        order.leave(self.operator, lost.iter().copied(), now, until);
        // The dispatcher may have leased one between: it is here, and not to be waited for.
        for &id in lost.iter().filter(|id| self.shared.leases.has(**id)) {
            order.come_back(self.operator, id);
        }
    }

    /// Gets the signer of each job, and gives the first one's. A job whose key is no good fails alone; where a
    /// signer is away for now, all jobs wait in the lane.
    pub(super) async fn with_signer(&mut self, jobs: Vec<Queued>) -> Option<(Vec<Queued>, Arc<dyn Signer>)> {
        let (mut good, mut first) = (Vec::with_capacity(jobs.len()), None);
        let mut jobs = jobs.into_iter();
        while let Some(job) = jobs.next() {
            match self.signer(&job.lease.job.signer).await {
                Ok(signer) => {
                    first.get_or_insert(signer);
                    good.push(job);
                }
                Err(e) if e.is_retryable() => {
                    good.push(job);
                    good.extend(jobs);
                    self.pause_for_signer(good, &describe(&e));
                    return None;
                }
                Err(e) => self.fail(&job, &describe(&e), None).await,
            }
        }
        first.map(|signer| (good, signer))
    }

    async fn signer(&mut self, of: &JobSigner) -> Result<Arc<dyn Signer>, signer::Error> {
        if let Some(signer) = self.signers.get(&of.key.0) {
            return Ok(signer.clone());
        }
        let asked = timeout(SIGNER_TIMEOUT, self.shared.signers.signer(of)).await;
        let signer = asked.unwrap_or_else(|elapsed| {
            Err(signer::Error::Unavailable { account: of.operator, source: Box::new(elapsed) })
        })?;
        if signer.account() != of.operator {
            let reason = "the signer is another account's".into();
            return Err(signer::Error::BadKey { account: of.operator, reason });
        }
        if self.signers.len() >= MAX_SIGNERS {
            self.signers.clear();
        }
        self.signers.insert(of.key.0.clone(), signer.clone());
        Ok(signer)
    }

    /// Keeps the jobs in the lane and sends nothing for a while. None of their retries is used up.
    pub(super) fn pause_for_signer(&mut self, jobs: Vec<Queued>, message: &str) {
        let pause = end::retry_delay(self.sign_failures, &self.shared.config);
        self.sign_failures = self.sign_failures.saturating_add(1);
        let operator = self.operator.to_ss58(PHALA_SS58_PREFIX);
        tracing::warn!(
            operator,
            retry_in_seconds = pause.as_secs_f64(),
            error = message,
            "jobs wait for their signer"
        );
        self.shared.board.lane(self.operator, |lane| lane.last_error = Some(message.to_owned()));
        self.paused_until = Some(Instant::now() + pause);
        self.put_back(jobs);
    }
}
