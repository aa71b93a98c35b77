//! Selects which of a lane's jobs are sent together, and when: pure functions.

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    sync::Arc,
};

use tokio::time::Instant;

use super::{
    Config,
    recently_sent::{sender, subject},
};
use crate::{
    chain::{Call, CallBatch},
    primitives::{Balance, Hash, ParaNumber},
    queue::{CallOutcome, JobId, JobOutcome, Lease},
    signer::Signer,
};

/// A job in a lane. All jobs of a lane are signed for one account.
#[derive(Clone, Debug)]
pub(super) struct Queued {
    pub(super) lease: Lease,
    pub(super) at: Instant,
    /// Bytes of its calls.
    pub(super) bytes: usize,
    /// Maximum jobs in a batch with this one; halved each time that such a batch is refused.
    pub(super) max_batch_jobs: usize,
    /// Some of its calls may have taken effect already: their effects are read first.
    pub(super) check_effects: bool,
}

impl Queued {
    pub(super) fn new(lease: Lease, at: Instant) -> Self {
        let bytes = lease.job.calls.iter().map(Call::size_bytes).sum();
        let check_effects = lease.attempt > 0;
        Self { lease, at, bytes, max_batch_jobs: usize::MAX, check_effects }
    }

    pub(super) const fn id(&self) -> JobId {
        self.lease.id
    }

    /// Whether both can be in one transaction: they act for the same proxied account.
    fn has_same_origin(&self, other: &Self) -> bool {
        self.lease.job.signer.proxied == other.lease.job.signer.proxied
    }

    fn senders(&self) -> impl Iterator<Item = u64> {
        self.calls().iter().map(sender)
    }

    fn calls(&self) -> &[Call] {
        &self.lease.job.calls
    }
}

/// Inserts a job into the lane, which is sorted by job id, that is, by order of submission. Returns the
/// replaced lease of the same job, if there was one.
pub(super) fn insert(pending: &mut VecDeque<Queued>, job: Queued) -> Option<Queued> {
    match pending.binary_search_by_key(&job.id(), Queued::id) {
        Ok(index) => pending.get_mut(index).map(|old| std::mem::replace(old, job)),
        Err(index) => {
            pending.insert(index, job);
            None
        }
    }
}

/// Selects the positions of the jobs of the next batch, and returns whether nothing more fits. Jobs younger
/// than `before` wait.
fn select_jobs(pending: &VecDeque<Queued>, config: &Config, before: Option<JobId>) -> (Vec<usize>, bool) {
    let may_go = |job: &Queued| before.is_none_or(|before| job.id() < before);
    let Some(first) = pending.front().filter(|job| may_go(job)) else { return (Vec::new(), false) };
    let (mut calls, mut bytes, mut max_batch_jobs) = (first.calls().len(), first.bytes, first.max_batch_jobs);
    let mut selected = vec![0];
    // Senders of jobs that are skipped because they act for another account: their later jobs must wait too.
    let mut skipped_senders = HashSet::new();
    for (index, job) in pending.iter().enumerate().skip(1).take_while(|(_, job)| may_go(job)) {
        if !job.has_same_origin(first)
            || (!skipped_senders.is_empty() && job.senders().any(|one| skipped_senders.contains(&one)))
        {
            skipped_senders.extend(job.senders());
            continue;
        }
        let (more_calls, more_bytes) = (calls + job.calls().len(), bytes + job.bytes);
        let max_jobs = max_batch_jobs.min(job.max_batch_jobs);
        // No job overtakes another one: the first that does not fit closes the batch.
        if selected.len() >= max_jobs || more_calls > config.max_calls || more_bytes > config.max_bytes {
            return (selected, true);
        }
        (calls, bytes, max_batch_jobs) = (more_calls, more_bytes, max_jobs);
        selected.push(index);
    }
    let full = calls >= config.max_calls || bytes >= config.max_bytes || selected.len() >= max_batch_jobs;
    (selected, full)
}

/// When the next batch is due; `None` if no job may be sent.
pub(super) fn due(pending: &VecDeque<Queued>, config: &Config, before: Option<JobId>) -> Option<Instant> {
    let (selected, full) = select_jobs(pending, config, before);
    let times = || selected.iter().map(|&index| pending[index].at);
    let (first, newest) = (times().min()?, times().max()?);
    if full {
        return Some(first);
    }
    Some((newest + config.linger).min(first + config.max_wait))
}

/// The number of selected jobs, from the first on, without a call that has the same subject as an earlier
/// job's but differs from it, such as a registration with a newer report: that one must wait until its effects
/// can be read.
fn without_variants(pending: &VecDeque<Queued>, selected: &[usize]) -> usize {
    let mut seen = HashMap::new();
    for (count, &index) in selected.iter().enumerate() {
        let calls = pending[index].calls();
        if calls.iter().any(|call| seen.get(&subject(call)).is_some_and(|other| *other != call)) {
            return count;
        }
        seen.extend(calls.iter().map(|call| (subject(call), call)));
    }
    selected.len()
}

/// Removes the next batch from the lane.
pub(super) fn take(pending: &mut VecDeque<Queued>, config: &Config, before: Option<JobId>) -> Vec<Queued> {
    let (mut selected, _) = select_jobs(pending, config, before);
    selected.truncate(without_variants(pending, &selected));
    // From the back, so that earlier positions stay valid.
    let mut jobs: Vec<_> = selected.into_iter().rev().filter_map(|index| pending.remove(index)).collect();
    jobs.reverse();
    jobs
}

/// A batch in flight: its jobs, their calls without duplicates, and the outcome of each.
#[derive(Debug)]
pub(super) struct PendingBatch {
    pub(super) jobs: Vec<Queued>,
    calls: Vec<Call>,
    outcomes: Vec<Option<CallOutcome>>,
    /// By job, the indices of its calls in `calls`.
    indices: Vec<Vec<usize>>,
    /// The newest block at which effects were read.
    seen: ParaNumber,
    /// The transactions that were included.
    sent: Vec<Included>,
    /// By call, the index of the last transaction that contained it.
    included_in: Vec<Option<usize>>,
}

/// A transaction that was included.
#[derive(Clone, Copy, Debug)]
pub(super) struct Included {
    pub(super) extrinsic: Hash,
    pub(super) block: ParaNumber,
    pub(super) fee: Option<Balance>,
}

impl PendingBatch {
    pub(super) fn new(jobs: Vec<Queued>) -> Self {
        let mut calls: Vec<Call> = Vec::new();
        let mut known: HashMap<&Call, usize> = HashMap::new();
        let mut index_of = |call| {
            *known.entry(call).or_insert_with(|| {
                calls.push(Call::clone(call));
                calls.len() - 1
            })
        };
        let indices = jobs.iter().map(|job| job.calls().iter().map(&mut index_of).collect()).collect();
        let (outcomes, included_in) = (vec![None; calls.len()], vec![None; calls.len()]);
        Self { jobs, calls, outcomes, indices, seen: ParaNumber(0), sent: Vec::new(), included_in }
    }

    /// Returns its jobs for another attempt. If some calls have outcomes, the chain's effects are
    /// read again.
    pub(super) fn unsent(self) -> Vec<Queued> {
        let known = self.outcomes.iter().any(Option::is_some);
        self.jobs.into_iter().map(|job| Queued { check_effects: job.check_effects || known, ..job }).collect()
    }

    /// All calls, without duplicates.
    pub(super) fn calls(&self) -> &[Call] {
        &self.calls
    }

    /// The calls without an outcome, or whose outcome matches `is`, with their indices.
    pub(super) fn select(&self, is: impl Fn(Option<&CallOutcome>) -> bool) -> (Vec<usize>, Vec<Call>) {
        self.calls
            .iter()
            .enumerate()
            .filter(|(index, _)| is(self.outcomes[*index].as_ref()))
            .map(|(index, call)| (index, call.clone()))
            .unzip()
    }

    /// The calls that failed in a transaction, with their indices.
    pub(super) fn failed(&self) -> (Vec<usize>, Vec<Call>) {
        let is_failed = |index: &usize| matches!(self.outcomes[*index], Some(CallOutcome::Failed(_)));
        let indices = (0..self.calls.len()).filter(|index| self.included_in[*index].is_some());
        indices.filter(is_failed).map(|index| (index, self.calls[index].clone())).unzip()
    }

    /// Records calls whose effect is on chain at `block`.
    pub(super) fn already_done(&mut self, indices: impl IntoIterator<Item = usize>, block: ParaNumber) {
        self.seen = self.seen.max(block);
        for index in indices {
            self.outcomes[index] = Some(CallOutcome::AlreadyDone);
        }
    }

    /// Records calls that are not sent because the chain would refuse them with `error` in the state of `block`.
    pub(super) fn not_sent(
        &mut self,
        indices: impl IntoIterator<Item = usize>,
        error: &str,
        block: ParaNumber,
    ) {
        self.seen = self.seen.max(block);
        for index in indices {
            self.outcomes[index] = Some(CallOutcome::Failed(error.to_owned()));
        }
    }

    /// Records the results of the calls in a transaction.
    pub(super) fn sent(&mut self, sent: Included, results: impl IntoIterator<Item = (usize, CallOutcome)>) {
        for (index, outcome) in results {
            self.outcomes[index] = Some(outcome);
            self.included_in[index] = Some(self.sent.len());
        }
        self.sent.push(sent);
    }

    /// Builds the transaction of these calls.
    pub(super) fn transaction(&self, signer: Arc<dyn Signer>, calls: Vec<Call>) -> CallBatch {
        // The same for all jobs of a batch: see `has_same_origin`.
        let proxied = self.jobs.first().and_then(|job| job.lease.job.signer.proxied);
        CallBatch::new(signer, calls).with_proxied(proxied)
    }

    /// Returns the jobs with their outcomes; `None` for a job with calls that have none.
    pub(super) fn finish(self) -> Vec<(Queued, Option<JobOutcome>)> {
        let Self { jobs, outcomes, indices, seen, sent, included_in, .. } = self;
        let outcome = |indices: &[usize]| {
            let calls: Vec<_> =
                indices.iter().map(|&index| outcomes[index].clone()).collect::<Option<_>>()?;
            // Blocks are in order: the state of the last one includes the effects of all before it.
            let parts: BTreeSet<usize> = indices.iter().filter_map(|&index| included_in[index]).collect();
            // A fee that is not known makes the sum unknown.
            let fee = parts.iter().map(|&part| sent[part].fee).sum::<Option<Balance>>();
            let sent = parts.last().map(|&last| sent[last]);
            // Effects that were there before were seen at `seen`, which may be newer than the transaction's block.
            let already = calls.contains(&CallOutcome::AlreadyDone);
            let block = sent.map_or(seen, |sent| if already { seen.max(sent.block) } else { sent.block });
            let fee = fee.filter(|_| sent.is_some());
            Some(JobOutcome { calls, block, extrinsic: sent.map(|sent| sent.extrinsic), fee })
        };
        let outcomes: Vec<_> = indices.iter().map(|indices| outcome(indices)).collect();
        jobs.into_iter().zip(outcomes).collect()
    }
}

#[cfg(test)]
mod tests;
