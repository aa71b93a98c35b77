//! Ends leases: batches those of many consumers in one script, one script at a time.

use std::sync::Arc;

use prb_core::queue::Error;
use tokio::sync::{mpsc, oneshot};

use super::{Shared, leasing::before_next_take};

/// Maximum number of jobs, and approximate maximum of bytes, in one script.
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
    /// It was executed before, and returned to the queue by hand.
    Done,
}

/// A lease to end.
pub(super) struct Ending {
    pub(super) id: String,
    pub(super) token: u64,
    pub(super) kind: Kind,
    /// Size of its previous JSON, if that is in the accounting.
    pub(super) bytes: Option<usize>,
    pub(super) json: String,
    pub(super) event: String,
    /// Receives whether the lease was held.
    pub(super) done: oneshot::Sender<Result<bool, Error>>,
}

/// Runs until its queue is dropped.
pub(super) async fn run(shared: Arc<Shared>, mut endings: mpsc::Receiver<Ending>) {
    while let Some(first) = endings.recv().await {
        let mut bytes = first.json.len();
        let mut batch = vec![first];
        while batch.len() < MAX_BATCH
            && bytes < MAX_BATCH_BYTES
            && let Ok(next) = endings.try_recv()
        {
            bytes += next.json.len();
            batch.push(next);
        }
        end(&shared, batch).await;
    }
}

async fn end(shared: &Shared, batch: Vec<Ending>) {
    let mut script = shared.connection.scripts.finish.call();
    for Ending { id, token, kind, bytes, json, event, .. } in &batch {
        let (kind, delay_ms) = match kind {
            Kind::Succeeded => ("s", 0),
            Kind::Failed => ("f", 0),
            Kind::Retried { delay_ms } => ("r", *delay_ms),
            Kind::Done => ("d", 0),
        };
        script.arg(id).arg(token).arg(kind).arg(delay_ms);
        script.arg(bytes.map(|bytes| bytes.to_string()).unwrap_or_default()).arg(json).arg(event);
    }
    let deadline = shared.connection.deadline();
    let answer: Result<Vec<String>, _> = match before_next_take(shared, &script).await {
        Some(words) => Ok(words),
        None => shared.connection.run_until(deadline, &script).await,
    };
    let retried = batch.iter().any(|ending| matches!(ending.kind, Kind::Retried { .. }));
    match answer {
        Ok(words) => {
            let mut words = words.into_iter();
            for ending in batch {
                let result = match words.next() {
                    Some(word) => Ok(word == "K"),
                    None => Err(Error::Unavailable("Redis returned too few answers".into())),
                };
                // The consumer may have been cancelled; the job has ended nevertheless.
                let _ = ending.done.send(result);
            }
        }
        Err(e) => {
            for ending in batch {
                let _ = ending.done.send(Err(shared.connection.unavailable(e.clone())));
            }
        }
    }
    if retried {
        shared.sooner.notify_one();
    }
}
