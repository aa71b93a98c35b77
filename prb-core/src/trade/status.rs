//! The status and metrics of a trader.

use std::{collections::BTreeMap, sync::Arc};

use serde::Serialize;
use tokio::sync::watch;

use crate::{
    primitives::{AccountId, Hash},
    queue::CallOutcome,
};

const CALLS: &str = "prb_trade_calls_total";
const BATCHES: &str = "prb_trade_batches_total";
const BATCH_CALLS: &str = "prb_trade_batch_calls";

pub(super) fn describe_metrics() {
    metrics::describe_counter!(CALLS, "Calls decided, by result: done, already_done, failed");
    metrics::describe_counter!(BATCHES, "Batches sent, by result: included, refused, unresolved");
    metrics::describe_histogram!(BATCH_CALLS, "Calls of a batch that was sent");
    // From the start: `increase` does not see a series that begins with its first event.
    for result in ["done", "already_done", "failed"] {
        metrics::counter!(CALLS, "result" => result).increment(0);
    }
    for result in ["included", "refused", "unresolved"] {
        metrics::counter!(BATCHES, "result" => result).increment(0);
    }
}

/// The current work and the totals of a trader since its start.
///
/// Published after the work that it shows: when a job's [`outcome`](crate::queue::JobHandle::outcome) arrives, its
/// lane may still show it. Wait for the status with [`wait_for`](tokio::sync::watch::Receiver::wait_for).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Status {
    /// The lanes that are running, by operator.
    pub lanes: BTreeMap<AccountId, LaneStatus>,
    /// Batches included in a finalised block.
    pub batches: u64,
    /// Batches that were refused, or whose outcome is unknown.
    pub failed_batches: u64,
    /// Calls that took effect.
    pub calls_done: u64,
    /// Calls whose effect was already on chain.
    pub calls_already_done: u64,
    /// Calls that failed on chain.
    pub calls_failed: u64,
    /// Jobs that were executed.
    pub jobs_completed: u64,
    /// Attempts of jobs that failed: retried later if they have retries left.
    pub jobs_failed: u64,
    /// Whether it is stopping and leases no more jobs.
    pub stopping: bool,
}

/// The status of one lane.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct LaneStatus {
    /// Jobs that it holds, including those in flight.
    pub jobs: usize,
    /// The phase of its batch.
    pub phase: Phase,
    /// The last error, until a batch is included.
    pub last_error: Option<String>,
}

/// The phase of a lane's batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub enum Phase {
    /// Collecting jobs.
    #[default]
    Collecting,
    /// Another trader holds the account: its jobs are released.
    HeldByOther,
    /// Reading from the chain which calls have taken effect already.
    Checking,
    /// Handing its batch to the submitter.
    Sending,
    /// The node has accepted its transaction.
    Sent {
        /// The transaction's hash.
        extrinsic: Hash,
    },
    /// Its transaction is in a block that is not finalised yet.
    InBlock {
        /// The block's hash.
        block: Hash,
    },
}

/// Publishes the status; shared by the lanes.
#[derive(Clone, Debug)]
pub(super) struct StatusPublisher(Arc<watch::Sender<Status>>);

impl StatusPublisher {
    pub(super) fn new() -> (Self, watch::Receiver<Status>) {
        let (sender, receiver) = watch::channel(Status::default());
        (Self(Arc::new(sender)), receiver)
    }

    pub(super) fn edit(&self, edit: impl FnOnce(&mut Status)) {
        self.0.send_modify(edit);
    }

    pub(super) fn lane(&self, operator: AccountId, edit: impl FnOnce(&mut LaneStatus)) {
        self.edit(|status| edit(status.lanes.entry(operator).or_default()));
    }

    pub(super) fn phase(&self, operator: AccountId, phase: Phase) {
        self.lane(operator, |lane| lane.phase = phase);
    }

    /// Counts a batch that was sent.
    pub(super) fn batch(&self, calls: usize, result: &'static str) {
        metrics::counter!(BATCHES, "result" => result).increment(1);
        metrics::histogram!(BATCH_CALLS).record(calls as f64);
        // The status counts refused and unresolved batches together; the metric separates them.
        self.edit(|status| match result {
            "included" => status.batches += 1,
            _ => status.failed_batches += 1,
        });
    }

    /// Counts a job that was executed.
    pub(super) fn completed(&self, calls: &[CallOutcome]) {
        let of = |is: fn(&CallOutcome) -> bool| calls.iter().filter(|c| is(c)).count() as u64;
        let done = of(|c| matches!(c, CallOutcome::Done));
        let already = of(|c| matches!(c, CallOutcome::AlreadyDone));
        let failed = of(|c| matches!(c, CallOutcome::Failed(_)));
        for (result, n) in [("done", done), ("already_done", already), ("failed", failed)] {
            metrics::counter!(CALLS, "result" => result).increment(n);
        }
        self.edit(|status| {
            status.calls_done += done;
            status.calls_already_done += already;
            status.calls_failed += failed;
            status.jobs_completed += 1;
        });
    }
}
