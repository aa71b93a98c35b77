//! Decides which of a lane's jobs go together, and when: pure functions.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
};

use tokio::time::Instant;

use super::{
    Config,
    recently_sent::{sender, subject},
};
use crate::{
    chain::{Call, CallBatch},
    primitives::{Hash, ParaNumber},
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
    /// Most jobs of a batch with it: fewer each time that one was refused.
    pub(super) most: usize,
    /// Some of its calls may be done.
    pub(super) ask: bool,
}

impl Queued {
    pub(super) fn new(lease: Lease, at: Instant) -> Self {
        let bytes = lease.job.calls.iter().map(Call::size_bytes).sum();
        let ask = lease.attempt > 0;
        Self { lease, at, bytes, most: usize::MAX, ask }
    }

    pub(super) const fn id(&self) -> JobId {
        self.lease.id
    }

    /// Whether both can be in one transaction.
    fn acts_like(&self, other: &Self) -> bool {
        self.lease.job.signer.proxied == other.lease.job.signer.proxied
    }

    fn senders(&self) -> impl Iterator<Item = u64> {
        self.calls().iter().map(sender)
    }

    fn calls(&self) -> &[Call] {
        &self.lease.job.calls
    }
}

/// Puts a job in its place in the lane, which is in the order of the jobs' ids: that of their submission. A
/// lease of the same job is replaced, and given.
pub(super) fn insert(pending: &mut VecDeque<Queued>, job: Queued) -> Option<Queued> {
    match pending.binary_search_by_key(&job.id(), Queued::id) {
        Ok(place) => pending.get_mut(place).map(|old| std::mem::replace(old, job)),
        Err(place) => {
            pending.insert(place, job);
            None
        }
    }
}

/// The places of the jobs that go together next, and whether nothing more fits. Jobs that are not older than
/// `before` wait.
fn pick(pending: &VecDeque<Queued>, config: &Config, before: Option<JobId>) -> (Vec<usize>, bool) {
    let may_go = |job: &Queued| before.is_none_or(|before| job.id() < before);
    let Some(first) = pending.front().filter(|job| may_go(job)) else { return (Vec::new(), false) };
    let (mut calls, mut bytes, mut most) = (first.calls().len(), first.bytes, first.most);
    let mut picked = vec![0];
    // Those whose jobs are passed over, because they act for another account.
    let mut passed = HashSet::new();
    for (place, job) in pending.iter().enumerate().skip(1).take_while(|(_, job)| may_go(job)) {
        if !job.acts_like(first) || (!passed.is_empty() && job.senders().any(|one| passed.contains(&one))) {
            passed.extend(job.senders());
            continue;
        }
        let (more_calls, more_bytes) = (calls + job.calls().len(), bytes + job.bytes);
        let fewest = most.min(job.most);
        // No job overtakes another one: the first that does not fit ends the batch.
        if picked.len() >= fewest || more_calls > config.max_calls || more_bytes > config.max_bytes {
            return (picked, true);
        }
        (calls, bytes, most) = (more_calls, more_bytes, fewest);
        picked.push(place);
    }
    let full = calls >= config.max_calls || bytes >= config.max_bytes || picked.len() >= most;
    (picked, full)
}

/// When the next batch is to go; `None` where no job may.
pub(super) fn due(pending: &VecDeque<Queued>, config: &Config, before: Option<JobId>) -> Option<Instant> {
    let (picked, full) = pick(pending, config, before);
    let times = || picked.iter().map(|&place| pending[place].at);
    let (first, newest) = (times().min()?, times().max()?);
    if full {
        return Some(first);
    }
    Some((newest + config.linger).min(first + config.max_wait))
}

/// How many of the picked jobs, from the first on, have no call that is for the same as an earlier job's and yet
/// another one, such as a registration with a newer report: that one waits until the chain can be asked.
fn without_variants(pending: &VecDeque<Queued>, picked: &[usize]) -> usize {
    let mut seen = HashMap::new();
    for (count, &place) in picked.iter().enumerate() {
        let calls = pending[place].calls();
        if calls.iter().any(|call| seen.get(&subject(call)).is_some_and(|other| *other != call)) {
            return count;
        }
        seen.extend(calls.iter().map(|call| (subject(call), call)));
    }
    picked.len()
}

/// Takes the next batch out of the lane.
pub(super) fn take(pending: &mut VecDeque<Queued>, config: &Config, before: Option<JobId>) -> Vec<Queued> {
    let (mut picked, _) = pick(pending, config, before);
    picked.truncate(without_variants(pending, &picked));
    // From behind, so that places before stay what they are.
    let mut jobs: Vec<_> = picked.into_iter().rev().filter_map(|place| pending.remove(place)).collect();
    jobs.reverse();
    jobs
}

/// A batch on its way: its jobs, their calls without repetitions, and what became of each.
#[derive(Debug)]
pub(super) struct Work {
    pub(super) jobs: Vec<Queued>,
    calls: Vec<Call>,
    outcomes: Vec<Option<CallOutcome>>,
    /// By job, the places of its calls in `calls`.
    places: Vec<Vec<usize>>,
    /// The newest block that was asked for effects.
    seen: ParaNumber,
    /// The transactions and their blocks.
    sent: Vec<(Hash, ParaNumber)>,
    /// By call, the last transaction that held it.
    held_by: Vec<Option<usize>>,
}

impl Work {
    pub(super) fn new(jobs: Vec<Queued>) -> Self {
        let mut calls: Vec<Call> = Vec::new();
        let mut known: HashMap<&Call, usize> = HashMap::new();
        let mut place = |call| {
            *known.entry(call).or_insert_with(|| {
                calls.push(Call::clone(call));
                calls.len() - 1
            })
        };
        let places = jobs.iter().map(|job| job.calls().iter().map(&mut place).collect()).collect();
        let (outcomes, held_by) = (vec![None; calls.len()], vec![None; calls.len()]);
        Self { jobs, calls, outcomes, places, seen: ParaNumber(0), sent: Vec::new(), held_by }
    }

    /// Its jobs, to be tried again: what is known of their calls is asked for once more.
    pub(super) fn unsent(self) -> Vec<Queued> {
        let known = self.outcomes.iter().any(Option::is_some);
        self.jobs.into_iter().map(|job| Queued { ask: job.ask || known, ..job }).collect()
    }

    /// All calls, without repetitions.
    pub(super) fn calls(&self) -> &[Call] {
        &self.calls
    }

    /// The calls that have no outcome, or whose outcome `is` so, with their places.
    pub(super) fn select(&self, is: impl Fn(Option<&CallOutcome>) -> bool) -> (Vec<usize>, Vec<Call>) {
        self.calls
            .iter()
            .enumerate()
            .filter(|(place, _)| is(self.outcomes[*place].as_ref()))
            .map(|(place, call)| (place, call.clone()))
            .unzip()
    }

    /// Notes calls whose effect is on chain at `block`.
    pub(super) fn already_done(&mut self, places: impl IntoIterator<Item = usize>, block: ParaNumber) {
        self.seen = self.seen.max(block);
        for place in places {
            self.outcomes[place] = Some(CallOutcome::AlreadyDone);
        }
    }

    /// Notes calls that are not sent, as the chain would refuse them with `error` in the state of `block`.
    pub(super) fn not_sent(
        &mut self,
        places: impl IntoIterator<Item = usize>,
        error: &str,
        block: ParaNumber,
    ) {
        self.seen = self.seen.max(block);
        for place in places {
            self.outcomes[place] = Some(CallOutcome::Failed(error.to_owned()));
        }
    }

    /// Notes the results of the calls that `extrinsic` held.
    pub(super) fn sent(
        &mut self,
        extrinsic: Hash,
        block: ParaNumber,
        results: impl IntoIterator<Item = (usize, CallOutcome)>,
    ) {
        for (place, outcome) in results {
            self.outcomes[place] = Some(outcome);
            self.held_by[place] = Some(self.sent.len());
        }
        self.sent.push((extrinsic, block));
    }

    /// The transaction of these calls.
    pub(super) fn transaction(&self, signer: Arc<dyn Signer>, calls: Vec<Call>) -> CallBatch {
        let proxied = self.jobs.first().and_then(|job| job.lease.job.signer.proxied);
        CallBatch::new(signer, calls).with_proxied(proxied)
    }

    /// The jobs with their outcomes, `None` for one that has calls without.
    pub(super) fn finish(self) -> Vec<(Queued, Option<JobOutcome>)> {
        let Self { jobs, outcomes, places, seen, sent, held_by, .. } = self;
        let outcome = |places: &[usize]| {
            let calls: Vec<_> = places.iter().map(|&place| outcomes[place].clone()).collect::<Option<_>>()?;
            // Blocks come in order: the last one shows what those before did.
            let sent = places.iter().filter_map(|&place| held_by[place]).max().map(|last| sent[last]);
            let already = calls.contains(&CallOutcome::AlreadyDone);
            let block = sent.map_or(seen, |(_, block)| if already { seen.max(block) } else { block });
            Some(JobOutcome { calls, block, extrinsic: sent.map(|(extrinsic, _)| extrinsic) })
        };
        let outcomes: Vec<_> = places.iter().map(|places| outcome(places)).collect();
        jobs.into_iter().zip(outcomes).collect()
    }
}

#[cfg(test)]
mod tests;
