//! Reports jobs' progress to the queue, for observers. Best effort: nothing waits for it or depends on it.

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

/// How long reports are batched.
const BATCH_WINDOW: Duration = Duration::from_millis(100);
/// Maximum waiting reports of a kind; further ones are dropped.
const MAX_WAITING: usize = 16_384;
/// Maximum jobs per call.
const MAX_JOBS_PER_CALL: usize = 1_024;
/// Timeout of a call to the queue.
const REPORT_TIMEOUT: Duration = Duration::from_secs(5);
/// In the order of a job's life cycle.
const KINDS: [Progress; 3] = [Progress::Taken, Progress::Prepared, Progress::Sent];

#[derive(Debug)]
pub(super) struct ProgressReporter {
    queue: Arc<dyn JobQueue>,
    /// By kind.
    waiting: Mutex<[Vec<(JobId, u64)>; KINDS.len()]>,
    more: Notify,
}

impl ProgressReporter {
    pub(super) fn new(queue: Arc<dyn JobQueue>) -> Self {
        Self { queue, waiting: Mutex::default(), more: Notify::new() }
    }

    /// Queues a progress report of jobs.
    pub(super) fn report<'a>(&self, progress: Progress, leases: impl Iterator<Item = &'a Lease>) {
        let Some(kind) = KINDS.iter().position(|kind| *kind == progress) else { return };
        let mut all = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = &mut all[kind];
        // Bounded although nobody waits: a queue that hangs must not make the reports pile up.
        let (before, room) = (waiting.len(), MAX_WAITING.saturating_sub(waiting.len()));
        waiting.extend(leases.take(room).map(|lease| (lease.id, lease.token)));
        if waiting.len() > before {
            self.more.notify_one();
        }
    }

    /// Sends the reports to the queue. Never returns.
    pub(super) async fn run(&self) {
        loop {
            self.more.notified().await;
            sleep(BATCH_WINDOW).await;
            let waiting = mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
            for (progress, leases) in KINDS.into_iter().zip(waiting) {
                for leases in leases.chunks(MAX_JOBS_PER_CALL) {
                    match timeout(REPORT_TIMEOUT, self.queue.progress(leases, progress)).await {
                        Ok(Ok(())) => {}
                        // Not repeated: progress is only displayed.
                        Ok(Err(e)) => {
                            tracing::debug!(error = %e, progress = progress.as_str(), "progress was not reported")
                        }
                        Err(_) => tracing::debug!(
                            progress = progress.as_str(),
                            "reporting progress to the queue timed out"
                        ),
                    }
                }
            }
        }
    }
}
