//! Ends leases, batching those of many consumers into one script, one script at a time.

use std::sync::Arc;

use prb_core::queue::Error;
use tokio::sync::{mpsc, oneshot};

use super::{Shared, leasing::ahead_of_take};

/// Maximum number of jobs, and roughly of bytes, in one script.
const MAX_BATCH: usize = 128;
const MAX_BATCH_BYTES: usize = 4 * 1024 * 1024;

/// How a lease ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Succeeded,
    Failed,
    Retried {
        delay_ms: u64,
    },
    /// It had succeeded before, and was put back on the waiting list by hand.
    Done,
}

/// A request to end a lease.
pub(super) struct EndRequest {
    pub(super) id: String,
    pub(super) token: u64,
    pub(super) kind: Kind,
    /// Length of the job's previous JSON, if that was counted in `open_bytes`.
    pub(super) bytes: Option<usize>,
    pub(super) json: String,
    pub(super) event: String,
    /// Receives whether the lease was still held.
    pub(super) done: oneshot::Sender<Result<bool, Error>>,
}

/// Runs until the queue is dropped.
pub(super) async fn run(shared: Arc<Shared>, mut end_requests: mpsc::Receiver<EndRequest>) {
    while let Some(first) = end_requests.recv().await {
        let mut bytes = first.json.len();
        let mut batch = vec![first];
        while batch.len() < MAX_BATCH
            && bytes < MAX_BATCH_BYTES
            && let Ok(next) = end_requests.try_recv()
        {
            bytes += next.json.len();
            batch.push(next);
        }
        end(&shared, batch).await;
    }
}

async fn end(shared: &Shared, batch: Vec<EndRequest>) {
    let mut script = shared.link.scripts.finish.call();
    for EndRequest { id, token, kind, bytes, json, event, .. } in &batch {
        let (kind, delay_ms) = match kind {
            Kind::Succeeded => ("s", 0),
            Kind::Failed => ("f", 0),
            Kind::Retried { delay_ms } => ("r", *delay_ms),
            Kind::Done => ("d", 0),
        };
        script.arg(id).arg(token).arg(kind).arg(delay_ms);
        script.arg(bytes.map(|bytes| bytes.to_string()).unwrap_or_default()).arg(json).arg(event);
    }
    let deadline = shared.link.deadline();
    // The script is repeatable: a finished job with the same end is answered as before.
    // Ahead of the next take if possible: see `leasing`.
    let answer: Result<Vec<String>, _> = match ahead_of_take(shared, &script).await {
        Some(words) => Ok(words),
        None => shared.link.run_until(deadline, &script).await,
    };
    let retried = batch.iter().any(|end_request| matches!(end_request.kind, Kind::Retried { .. }));
    match answer {
        Ok(words) => {
            let mut words = words.into_iter();
            for end_request in batch {
                let result = match words.next() {
                    Some(word) => Ok(word == "K"),
                    None => Err(Error::Unavailable("Redis returned too few answers".into())),
                };
                // The consumer may have left; the job has ended regardless.
                let _ = end_request.done.send(result);
            }
        }
        Err(e) => {
            for end_request in batch {
                let _ = end_request.done.send(Err(shared.link.unavailable(e.clone())));
            }
        }
    }
    // The retry's delay may end before the dispatcher's timer.
    if retried {
        shared.timer_moved.notify_one();
    }
}
