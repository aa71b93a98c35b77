//! Prepares a lane for sending: acquires its account, its jobs' leases and its signer.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, timeout};

use super::{
    super::{Phase, account_lease_manager::Acquired, batch, inbox::Arrival, released_jobs::BEHIND_OLDER},
    Lane, Queued, finish, ids,
};
use crate::{
    primitives::PHALA_SS58_PREFIX,
    queue::{JobId, JobSigner, Progress},
    signer::{self, Signer},
    sync::jittered,
    text::{describe, seconds},
    vault,
};

/// Maximum signers that a lane caches: pools of one operator may each have sealed its key.
const MAX_SIGNERS: usize = 16;
/// Timeout for getting a signer, after which it counts as unavailable.
const SIGNER_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest delay of jobs that are left to the trader that holds the account.
const YIELD_DELAY: Duration = Duration::from_millis(330);
/// How much longer younger jobs wait for one that was left to another trader, which may well have ended it.
const YIELD_GRACE: Duration = Duration::from_secs(5);

/// Follows the error of a job whose key no trader of the queue has opened.
const NOBODY_OPENS: &str = "; nor has another trader of this queue opened it: start one with a copy of the identity that \
                            has sealed it, the lifecycle manager's";

/// Whether another trader may be able to open the key.
const fn is_foreign(error: &signer::Error) -> bool {
    matches!(error, signer::Error::Vault { source: vault::Error::WrongKey, .. })
}

impl Lane {
    /// Moves jobs from the inbox to the lane.
    pub(super) fn receive_jobs(&mut self) {
        let arrivals = self.inbox.take();
        if arrivals.is_empty() {
            return;
        }
        self.shared.progress.report(Progress::Taken, arrivals.iter().map(|Arrival { lease, .. }| lease));
        for Arrival { lease, at } in arrivals {
            // The previous lease expired, or the queue lost its data and reuses ids.
            if let Some(stale) = batch::insert(&mut self.pending, Queued::new(lease, at)) {
                self.inbox.release(stale.lease.job.size_bytes());
            }
        }
        let jobs = self.inbox.held_jobs();
        self.shared.publisher.lane(self.operator, |lane| lane.jobs = jobs);
    }

    /// Acquires the account's lease, or releases the lane's jobs if another trader holds it.
    pub(super) async fn acquire_account(&mut self) -> bool {
        let shared = self.shared.clone();
        match shared.accounts.acquire(self.operator).await {
            Ok(Acquired::Ours { lease, new }) => {
                if new {
                    self.unresolved = true;
                    // Another trader may have used the account: its cached nonce may be outdated.
                    shared.submitter.forget(self.operator);
                }
                self.account = Some(lease);
                true
            }
            Ok(Acquired::HeldByOther) => {
                shared.publisher.phase(self.operator, Phase::HeldByOther);
                let jobs = self.pending.drain(..).collect();
                self.yield_jobs(jobs).await;
                false
            }
            Err(e) => {
                let error = describe(&e);
                tracing::warn!(operator = %self.operator.address(), error, "the account's lease cannot be acquired; its batch waits");
                self.pause(shared.config.retry_min).await;
                false
            }
        }
    }

    /// Leaves jobs to the trader that holds the account.
    pub(super) async fn yield_jobs(&mut self, jobs: Vec<Queued>) {
        self.account = None;
        // Random: traders that yield to each other would otherwise lease each other's jobs again at the same moment.
        let delay = jittered(YIELD_DELAY);
        let due = Instant::now() + delay;
        self.shared.released.track(self.operator, jobs.iter().map(Queued::id), due, due + YIELD_GRACE);
        self.shared.leases.release(&ids(&jobs), delay).await;
        jobs.iter().for_each(|job| self.inbox.release(job.lease.job.size_bytes()));
    }

    /// Releases all jobs if they wait for an older one for which the full lane had no capacity: it must come
    /// first, and they return behind it.
    pub(super) async fn release_for_older(&mut self) {
        if !self.inbox.take_refused() {
            return;
        }
        let (Some(first), Some(released)) =
            (self.pending.front(), self.shared.released.oldest(self.operator))
        else {
            return;
        };
        if first.id() < released.id {
            return;
        }
        // The older job must be leased first.
        let after = released.due.saturating_duration_since(Instant::now()) + BEHIND_OLDER;
        let due = Instant::now() + after;
        let jobs: Vec<_> = self.pending.drain(..).collect();
        let until = due + self.shared.config.lease_ttl;
        self.shared.released.track(self.operator, jobs.iter().map(Queued::id), due, until);
        self.shared.leases.release(&ids(&jobs), after).await;
        jobs.iter().for_each(|job| self.inbox.release(job.lease.job.size_bytes()));
    }

    /// Renews the jobs' leases before anything is sent for them, and drops jobs whose leases are lost. `None`
    /// if no job may be sent now.
    pub(super) async fn renew_leases(&mut self, mut jobs: Vec<Queued>) -> Option<Vec<Queued>> {
        let shared = self.shared.clone();
        let leases = ids(&jobs);
        match shared.leases.renew(&leases).await {
            Ok(lost) => {
                let Some(oldest_lost) = lost.iter().min().copied() else { return Some(jobs) };
                for job in jobs.extract_if(.., |job| lost.contains(&job.id())) {
                    self.inbox.release(job.lease.job.size_bytes());
                }
                self.track_lost(&lost);
                // No younger job is sent before those that are leased again.
                self.put_back(jobs.extract_if(.., |job| job.id() > oldest_lost).collect());
                (!jobs.is_empty()).then_some(jobs)
            }
            Err(e) => {
                tracing::warn!(operator = %self.operator.address(), error = %describe(&e), "job leases cannot be renewed; the batch waits");
                self.put_back(jobs);
                self.pause(shared.config.retry_min).await;
                None
            }
        }
    }

    /// Makes younger jobs wait for those whose leases were lost, unless they are leased again already.
    fn track_lost(&self, lost: &[JobId]) {
        let (released, now) = (&self.shared.released, Instant::now());
        let until = now + self.shared.config.lease_ttl;
        released.track(self.operator, lost.iter().copied(), now, until);
        // The dispatcher may have leased one in the meantime: it is here, so nothing must wait for it.
        for &id in lost.iter().filter(|id| self.shared.leases.is_held(**id)) {
            released.returned(self.operator, id);
        }
    }

    /// Gets the signer of each job, and returns the first job's. A job with an invalid key fails alone, and one with a
    /// key that this trader cannot open is left to others for a while. If a signer is temporarily unavailable, all jobs
    /// wait in the lane.
    pub(super) async fn with_signer(&mut self, jobs: Vec<Queued>) -> Option<(Vec<Queued>, Arc<dyn Signer>)> {
        let (mut good, mut first, mut foreign) = (Vec::with_capacity(jobs.len()), None, Vec::new());
        let mut jobs = jobs.into_iter();
        while let Some(job) = jobs.next() {
            match self.signer(&job.lease.job.signer).await {
                Ok(signer) => {
                    first.get_or_insert(signer);
                    good.push(job);
                }
                Err(e) if e.is_retryable() => {
                    good.push(job);
                    // All of them wait, so that none overtakes the job whose signer is unavailable.
                    good.extend(jobs);
                    self.pause_for_signer(good, &describe(&e));
                    return None;
                }
                Err(e) if is_foreign(&e) => match self.shared.unsignable.leave(job.id()) {
                    Some(delay) => foreign.push((job, delay)),
                    None => self.fail(&job, &format!("{}{NOBODY_OPENS}", describe(&e)), None).await,
                },
                Err(e) => self.fail(&job, &describe(&e), None).await,
            }
        }
        self.leave_to_others(foreign, good.is_empty()).await;
        first.map(|signer| (good, signer))
    }

    /// Releases jobs whose key another trader may open and, if nothing else is to be sent, the account that it needs.
    async fn leave_to_others(&mut self, jobs: Vec<(Queued, Duration)>, gives_up_account: bool) {
        let Some(delay) = jobs.iter().map(|(_, delay)| *delay).max() else { return };
        let jobs: Vec<_> = jobs.into_iter().map(|(job, _)| job).collect();
        if gives_up_account {
            self.account = None;
            self.shared.accounts.give_up(self.operator).await;
        }
        self.shared.leases.release(&ids(&jobs), delay).await;
        jobs.iter().for_each(|job| self.inbox.release(job.lease.job.size_bytes()));
    }

    async fn signer(&mut self, of: &JobSigner) -> Result<Arc<dyn Signer>, signer::Error> {
        if let Some(signer) = self.signers.get(&of.key.0) {
            return Ok(signer.clone());
        }
        let result = timeout(SIGNER_TIMEOUT, self.shared.signers.signer(of)).await;
        let signer = result.unwrap_or_else(|elapsed| {
            Err(signer::Error::Unavailable { account: of.operator, source: Box::new(elapsed) })
        })?;
        if signer.account() != of.operator {
            let reason = "the signer is for another account".into();
            return Err(signer::Error::BadKey { account: of.operator, reason });
        }
        if self.signers.len() >= MAX_SIGNERS {
            // All at once, without tracking their use: signers are opened again on demand.
            self.signers.clear();
        }
        self.signers.insert(of.key.0.clone(), signer.clone());
        Ok(signer)
    }

    /// Keeps the jobs in the lane and sends nothing for a while. Uses up none of their retries.
    pub(super) fn pause_for_signer(&mut self, jobs: Vec<Queued>, message: &str) {
        let pause = finish::retry_delay(self.sign_failures, &self.shared.config);
        self.sign_failures = self.sign_failures.saturating_add(1);
        let operator = self.operator.to_ss58(PHALA_SS58_PREFIX);
        tracing::warn!(
            operator,
            retry_in_seconds = seconds(pause),
            error = message,
            "no signature is available; jobs wait"
        );
        self.shared.publisher.lane(self.operator, |lane| lane.last_error = Some(message.to_owned()));
        self.paused_until = Some(Instant::now() + pause);
        self.put_back(jobs);
    }
}
