#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::{
    primitives::{AccountId, PoolId, WorkerKey},
    queue::{Job, JobSigner},
    vault::Sealed,
};

fn queued(id: u64, calls: usize, proxied: Option<u8>, at: Instant) -> Queued {
    of_workers(id, (0..calls).map(|n| [id as u8, n as u8]), proxied, at)
}

fn of_workers(
    id: u64,
    workers: impl IntoIterator<Item = [u8; 2]>,
    proxied: Option<u8>,
    at: Instant,
) -> Queued {
    let key = |[a, b]: [u8; 2]| {
        let mut key = [0; 32];
        key[..2].copy_from_slice(&[a, b]);
        WorkerKey(key)
    };
    let call = |worker| Call::AddWorker { pool: PoolId(id), worker: key(worker) };
    let signer = JobSigner {
        operator: AccountId([1; 32]),
        key: Sealed(vec![]),
        proxied: proxied.map(|b| AccountId([b; 32])),
    };
    let job = Job { pool: PoolId(id), signer, calls: workers.into_iter().map(call).collect(), retries: 0 };
    let lease = Lease { id: JobId(id), token: 1, attempt: 0, retries_left: 0, job };
    Queued::new(lease, at)
}

fn of_100() -> Config {
    Config { max_calls: 100, ..Config::default() }
}

fn line(jobs: &[(usize, Option<u8>)]) -> VecDeque<Queued> {
    let at = Instant::now();
    jobs.iter().enumerate().map(|(id, (calls, proxied))| queued(id as u64, *calls, *proxied, at)).collect()
}

fn numbers(jobs: &[Queued]) -> Vec<u64> {
    jobs.iter().map(|job| job.lease.id.0).collect()
}

#[test]
fn jobs_are_not_split_and_do_not_overtake() {
    let mut pending = line(&[(60, None), (30, None), (30, None), (10, None)]);
    let config = of_100();
    assert_eq!(numbers(&take(&mut pending, &config, None)), [0, 1]);
    assert_eq!(numbers(&take(&mut pending, &config, None)), [2, 3]);
    assert!(take(&mut pending, &config, None).is_empty());
}

#[test]
fn a_batch_acts_for_one_account() {
    let mut pending = line(&[(1, None), (1, Some(2)), (1, None), (1, Some(3)), (1, Some(2))]);
    let config = Config::default();
    assert_eq!(numbers(&take(&mut pending, &config, None)), [0, 2]);
    assert_eq!(numbers(&take(&mut pending, &config, None)), [1, 4]);
    assert_eq!(numbers(&take(&mut pending, &config, None)), [3]);
}

/// The pool's proxy was changed in between.
#[test]
fn job_does_not_overtake_its_workers_job_for_another_account() {
    let at = Instant::now();
    let (a, b) = ([1, 1], [2, 2]);
    let mut pending: VecDeque<_> = [
        of_workers(0, [a], None, at),
        of_workers(1, [a, b], Some(2), at),
        of_workers(2, [b], None, at),
        of_workers(3, [[3, 3]], None, at),
        of_workers(4, [[4, 4], b], None, at),
        of_workers(5, [[4, 4]], None, at),
    ]
    .into();
    let config = Config::default();
    let batches: [&[u64]; 3] = [&[0, 3], &[1], &[2, 4, 5]];
    for expected in batches {
        assert_eq!(numbers(&take(&mut pending, &config, None)), expected);
    }
}

#[test]
fn jobs_stand_in_the_order_of_their_ids_and_wait_for_older_ones_that_are_away() {
    let at = Instant::now();
    let mut pending = VecDeque::new();
    for id in [5, 2, 9, 7] {
        assert!(insert(&mut pending, queued(id, 1, None, at)).is_none());
    }
    let newer = Queued { lease: Lease { token: 2, ..pending[1].lease.clone() }, ..pending[1].clone() };
    assert_eq!(insert(&mut pending, newer).unwrap().lease.token, 1, "a lease of the same job is replaced");
    let config = Config::default();
    assert_eq!(due(&pending, &config, Some(JobId(2))), None);
    assert!(take(&mut pending, &config, Some(JobId(1))).is_empty());
    assert_eq!(numbers(&take(&mut pending, &config, Some(JobId(6)))), [2, 5]);
    assert_eq!(numbers(&take(&mut pending, &config, None)), [7, 9]);
}

#[test]
fn bytes_bound_a_batch_but_not_a_job() {
    let mut pending = line(&[(10, None), (1, None), (1, None)]);
    let one = pending[1].bytes;
    let config = Config { max_bytes: 2 * one, ..Config::default() };
    assert_eq!(numbers(&take(&mut pending, &config, None)), [0]);
    assert_eq!(numbers(&take(&mut pending, &config, None)), [1, 2]);
}

#[test]
fn suspected_job_is_batched_with_a_limited_number_of_others() {
    let mut pending = line(&[(1, None); 7]);
    pending[1].max_batch_jobs = 1;
    pending.range_mut(3..5).for_each(|job| job.max_batch_jobs = 2);
    let config = Config::default();
    let batches: [&[u64]; 4] = [&[0], &[1], &[2, 3], &[4, 5]];
    for expected in batches {
        assert!(select_jobs(&pending, &config, None).1, "nothing more fits");
        assert_eq!(numbers(&take(&mut pending, &config, None)), expected);
    }
    assert!(!select_jobs(&pending, &config, None).1);
}

#[test]
fn a_batch_is_due_after_lingering_or_at_the_latest() {
    let start = Instant::now();
    let after = |ms: u64| start + Duration::from_millis(ms);
    let config = of_100();
    let mut pending = VecDeque::new();
    assert_eq!(due(&pending, &config, None), None);
    pending.push_back(queued(0, 1, None, start));
    assert_eq!(due(&pending, &config, None), Some(after(1_000)));
    pending.push_back(queued(1, 1, None, after(900)));
    assert_eq!(due(&pending, &config, None), Some(after(1_900)));
    pending.push_back(queued(2, 1, None, after(5_500)));
    assert_eq!(due(&pending, &config, None), Some(after(6_000)));
    // One that acts for another account does not put it off.
    pending.pop_back();
    pending.push_back(queued(2, 1, Some(9), after(1_500)));
    assert_eq!(due(&pending, &config, None), Some(after(1_900)));
    pending.push_back(queued(3, 98, None, after(1_600)));
    assert_eq!(due(&pending, &config, None), Some(start), "a full batch waits for nothing");
}

#[test]
fn equal_calls_are_sent_once_and_outcomes_are_returned_by_job() {
    let at = Instant::now();
    // Jobs 0 and 1 of pool 5 ask for the same.
    let mut jobs = vec![queued(5, 2, None, at), queued(5, 1, None, at), queued(6, 1, None, at)];
    jobs.push(queued(7, 1, None, at));
    let mut work = PendingBatch::new(jobs);
    let (indices, calls) = work.select(|outcome| outcome.is_none());
    assert_eq!((indices, calls.len()), (vec![0, 1, 2, 3], 4));
    work.already_done([2], ParaNumber(9));
    let (indices, _) = work.select(|outcome| outcome.is_none());
    assert_eq!(indices, [0, 1, 3]);
    let results = [CallOutcome::Done, CallOutcome::Failed("A::B".into())];
    let sent = Included { extrinsic: Hash([4; 32]), block: ParaNumber(10), fee: Some(7) };
    work.sent(sent, indices.into_iter().zip(results));
    let finished: Vec<_> = work.finish().into_iter().map(|(_, outcome)| outcome).collect();
    let sent = |calls| {
        let extrinsic = Some(Hash([4; 32]));
        Some(JobOutcome { calls, block: ParaNumber(10), extrinsic, fee: Some(7) })
    };
    assert_eq!(finished[0], sent(vec![CallOutcome::Done, CallOutcome::Failed("A::B".into())]));
    assert_eq!(finished[1], sent(vec![CallOutcome::Done]));
    let already = JobOutcome {
        calls: vec![CallOutcome::AlreadyDone],
        block: ParaNumber(9),
        extrinsic: None,
        fee: None,
    };
    assert_eq!(finished[2], Some(already));
    assert_eq!(finished[3], None, "a call without result leaves its job without outcome");
}

#[test]
fn a_job_sent_in_parts_has_cost_what_all_of_them_did() {
    let at = Instant::now();
    let parts = |second| {
        let mut work = PendingBatch::new(vec![queued(5, 3, None, at), queued(6, 1, None, at)]);
        for (indices, fee, block) in [(vec![0, 1], Some(7), 10), (vec![2, 3], second, 11)] {
            let sent = Included { extrinsic: Hash([block; 32]), block: ParaNumber(block.into()), fee };
            work.sent(sent, indices.into_iter().map(|index| (index, CallOutcome::Done)));
        }
        let outcomes = work.finish().into_iter().map(|(_, outcome)| outcome.unwrap());
        outcomes.map(|outcome| (outcome.fee, outcome.extrinsic)).collect::<Vec<_>>()
    };
    let last = Some(Hash([11; 32]));
    assert_eq!(parts(Some(5)), [(Some(12), last), (Some(5), last)]);
    assert_eq!(parts(None), [(None, last), (None, last)], "a part's fee is not known");
}

#[test]
fn only_calls_that_failed_in_a_transaction_are_looked_up_again() {
    let at = Instant::now();
    let mut work = PendingBatch::new(vec![queued(5, 4, None, at)]);
    work.not_sent([1], "PhalaMq::BadSequence", ParaNumber(9));
    let results = [CallOutcome::Done, CallOutcome::Failed("A::B".into())];
    let sent = Included { extrinsic: Hash([4; 32]), block: ParaNumber(10), fee: None };
    work.sent(sent, [0, 2].into_iter().zip(results));
    assert_eq!(work.failed().0, [2]);
}

proptest! {
    #[test]
    fn taking_keeps_every_job_and_the_order_of_each_account(
        jobs in proptest::collection::vec((1usize..=100, proptest::option::of(0u8..3), 1usize..9), 0..40),
        max_calls in 1usize..120,
    ) {
        let mut pending = line(&jobs.iter().map(|(c, p, _)| (*c, *p)).collect::<Vec<_>>());
        for (job, (_, _, max_batch_jobs)) in pending.iter_mut().zip(&jobs) {
            job.max_batch_jobs = *max_batch_jobs;
        }
        let config = Config { max_calls, ..Config::default() };
        let mut taken: Vec<Queued> = Vec::new();
        while !pending.is_empty() {
            let batch = take(&mut pending, &config, None);
            let calls: usize = batch.iter().map(|job| job.calls().len()).sum();
            prop_assert!(!batch.is_empty());
            prop_assert!(batch.len() == 1 || calls <= max_calls);
            prop_assert!(batch.iter().all(|job| job.has_same_origin(&batch[0])));
            prop_assert!(batch.iter().all(|job| batch.len() <= job.max_batch_jobs));
            taken.extend(batch);
        }
        prop_assert_eq!(taken.len(), jobs.len());
        for signer in [None, Some(0), Some(1), Some(2)] {
            let of = |job: &&Queued| job.lease.job.signer.proxied == signer.map(|b| AccountId([b; 32]));
            let ids: Vec<_> = taken.iter().filter(of).map(|job| job.lease.id).collect();
            prop_assert!(ids.is_sorted());
        }
    }
}
