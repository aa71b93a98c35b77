//! Which jobs go together, and when: pure functions over a lane's jobs.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use secrecy::{ExposeSecret, SecretString};
use tokio::time::Instant;

use super::{Config, recent::subject};
use crate::{
    chain::{Call, CallBatch, Signer},
    primitives::{Hash, ParaNumber},
    queue::{CallOutcome, JobOutcome, Lease},
};

/// A job in a lane, with its key open.
#[derive(Clone, Debug)]
pub(super) struct Queued {
    pub(super) lease: Lease,
    pub(super) secret: Arc<SecretString>,
    pub(super) at: Instant,
    /// A batch with it was refused: it is tried without others.
    pub(super) alone: bool,
}

impl Queued {
    /// Whether both can be in one transaction.
    fn signs_like(&self, other: &Self) -> bool {
        self.lease.job.signer.proxied == other.lease.job.signer.proxied
            && (Arc::ptr_eq(&self.secret, &other.secret)
                || self.secret.expose_secret() == other.secret.expose_secret())
    }

    fn calls(&self) -> &[Call] {
        &self.lease.job.calls
    }

    fn call_bytes(&self) -> usize {
        self.calls().iter().map(Call::size_bytes).sum()
    }
}

/// The places of the jobs that go together next, and whether nothing more fits.
fn pick(pending: &VecDeque<Queued>, config: &Config) -> (Vec<usize>, bool) {
    let Some(first) = pending.front() else { return (Vec::new(), false) };
    let (mut calls, mut bytes) = (first.calls().len(), first.call_bytes());
    let mut picked = vec![0];
    if first.alone {
        return (picked, true);
    }
    for (place, job) in pending.iter().enumerate().skip(1).filter(|(_, job)| job.signs_like(first)) {
        let (more_calls, more_bytes) = (calls + job.calls().len(), bytes + job.call_bytes());
        // No job overtakes another of its signer: the first that does not fit ends the batch.
        if job.alone || more_calls > config.max_calls || more_bytes > config.max_bytes {
            return (picked, true);
        }
        (calls, bytes) = (more_calls, more_bytes);
        picked.push(place);
    }
    (picked, calls >= config.max_calls || bytes >= config.max_bytes)
}

/// When the next batch is to go; `None` where there are no jobs.
pub(super) fn due(pending: &VecDeque<Queued>, config: &Config) -> Option<Instant> {
    let first = pending.front()?.at;
    let (picked, full) = pick(pending, config);
    if full {
        return Some(first);
    }
    let newest = picked.iter().map(|&place| pending[place].at).max()?;
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
pub(super) fn take(pending: &mut VecDeque<Queued>, config: &Config) -> Vec<Queued> {
    let (mut picked, _) = pick(pending, config);
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
    /// The transactions, their blocks, and the calls that they held.
    sent: Vec<(Hash, ParaNumber, Vec<usize>)>,
}

impl Work {
    pub(super) fn new(jobs: Vec<Queued>) -> Self {
        let mut calls: Vec<Call> = Vec::new();
        let places = jobs
            .iter()
            .map(|job| {
                let place = |call: &Call| {
                    calls.iter().position(|c| c == call).unwrap_or_else(|| {
                        calls.push(call.clone());
                        calls.len() - 1
                    })
                };
                job.calls().iter().map(place).collect()
            })
            .collect();
        let outcomes = vec![None; calls.len()];
        Self { jobs, calls, outcomes, places, seen: ParaNumber(0), sent: Vec::new() }
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

    /// Notes the results of the calls that `extrinsic` held.
    pub(super) fn sent(
        &mut self,
        extrinsic: Hash,
        block: ParaNumber,
        results: impl IntoIterator<Item = (usize, CallOutcome)>,
    ) {
        let mut places = Vec::new();
        for (place, outcome) in results {
            self.outcomes[place] = Some(outcome);
            places.push(place);
        }
        self.sent.push((extrinsic, block, places));
    }

    /// The transaction of these calls.
    pub(super) fn transaction(&self, calls: Vec<Call>) -> Option<CallBatch> {
        let first = self.jobs.first()?;
        let signer = &first.lease.job.signer;
        let signer =
            Signer { operator: signer.operator, secret: first.secret.clone(), proxied: signer.proxied };
        Some(CallBatch { signer, calls })
    }

    /// The jobs with their outcomes, `None` for one that has calls without.
    pub(super) fn finish(self) -> Vec<(Queued, Option<JobOutcome>)> {
        let Self { jobs, outcomes, places, seen, sent, .. } = self;
        let outcome = |places: &[usize]| {
            let calls: Vec<_> = places.iter().map(|&place| outcomes[place].clone()).collect::<Option<_>>()?;
            // Blocks come in order: the last one shows what those before did.
            let sent = sent.iter().rfind(|(_, _, held)| places.iter().any(|p| held.contains(p)));
            let already = calls.contains(&CallOutcome::AlreadyDone);
            let block = sent.map_or(seen, |(_, block, _)| if already { seen.max(*block) } else { *block });
            Some(JobOutcome { calls, block, extrinsic: sent.map(|(extrinsic, ..)| *extrinsic) })
        };
        let outcomes: Vec<_> = places.iter().map(|places| outcome(places)).collect();
        jobs.into_iter().zip(outcomes).collect()
    }
}

#[cfg(test)]
mod tests;
