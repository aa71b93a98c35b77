//! How far jobs are, told to the queue for those who watch. Nothing waits for it, and nothing depends on it.

use std::{
    mem,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{sleep, timeout},
};

use crate::queue::{JobId, JobQueue, Lease, Progress};

/// How long reports are collected before they are told together.
const COLLECT_FOR: Duration = Duration::from_millis(100);
/// Most reports of a kind that wait; more are lost.
const MAX_WAITING: usize = 16_384;
/// Jobs of one call.
const MAX_TOLD: usize = 1_024;
/// How long the queue may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// In the order of a job's life.
const KINDS: [Progress; 3] = [Progress::Taken, Progress::Prepared, Progress::Sent];

#[derive(Debug)]
pub(super) struct Reports {
    queue: Arc<dyn JobQueue>,
    /// By kind.
    waiting: Mutex<[Vec<(JobId, u64)>; KINDS.len()]>,
    more: Notify,
}

impl Reports {
    pub(super) fn new(queue: Arc<dyn JobQueue>) -> Self {
        Self { queue, waiting: Mutex::default(), more: Notify::new() }
    }

    /// Notes how far jobs are.
    pub(super) fn tell<'a>(&self, progress: Progress, leases: impl Iterator<Item = &'a Lease>) {
        let Some(kind) = KINDS.iter().position(|kind| *kind == progress) else { return };
        let mut all = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = &mut all[kind];
        let (before, room) = (waiting.len(), MAX_WAITING.saturating_sub(waiting.len()));
        waiting.extend(leases.take(room).map(|lease| (lease.id, lease.token)));
        if waiting.len() > before {
            self.more.notify_one();
        }
    }

    /// Tells the queue, for ever.
    pub(super) async fn keep(&self) {
        loop {
            self.more.notified().await;
            sleep(COLLECT_FOR).await;
            let waiting = mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
            for (progress, leases) in KINDS.into_iter().zip(waiting) {
                for leases in leases.chunks(MAX_TOLD) {
                    match timeout(PATIENCE, self.queue.progress(leases, progress)).await {
                        Ok(Ok(())) => {}
                        Ok(Err(e)) => {
                            tracing::debug!(error = %e, progress = progress.as_str(), "progress was not told")
                        }
                        Err(_) => tracing::debug!(
                            progress = progress.as_str(),
                            "the queue takes too long to be told progress"
                        ),
                    }
                }
            }
        }
    }
}
