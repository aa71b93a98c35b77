//! [`JobDriver`]: submits the jobs of workers, awaits their outcomes, and withdraws those that are not wanted any more.
//!
//! Each job has a task of its own, which outlives the worker's: a job of a worker that was removed is withdrawn too. When
//! the fleet stops, the tasks end and nothing is withdrawn: jobs survive a restart.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::{Semaphore, mpsc, watch},
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{debug, info, warn};

use crate::{
    queue::{Error, Job, JobFailure, JobHandle, JobId, JobOutcome, JobQueue, Withdrawal},
    sync::{Backoff, BackoffConfig},
    text::{describe, duration},
};

/// Maximum number of jobs that are withdrawn for worker tasks that have ended.
const MAX_ABANDONED: usize = 10_000;
/// Maximum number of withdrawals in progress.
const MAX_WITHDRAWALS: usize = 64;
/// Timeout of one withdrawal.
const WITHDRAWAL_TIMEOUT: Duration = Duration::from_secs(30);
/// Backoff after a withdrawal that failed or was refused: a consumer that has the job may hand it back.
const BACKOFF: BackoffConfig = BackoffConfig { first: Duration::from_secs(4), max: Duration::from_secs(60) };

/// What happened to a job.
#[derive(Debug)]
pub(super) enum Event {
    /// The queue has it.
    Queued(JobId),
    /// It could not be submitted.
    NotSubmitted(Error),
    /// Its outcome is known.
    Ended(Result<JobOutcome, JobFailure>),
    /// It was withdrawn.
    Withdrawn(Withdrawal),
    /// The queue panicked: whether it has the job is not known.
    Lost,
}

/// Drives the jobs of a fleet.
#[derive(Debug)]
pub(crate) struct JobDriver {
    queue: Arc<dyn JobQueue>,
    timeout_after: Duration,
    cancel: CancellationToken,
    tasks: TaskTracker,
    abandoned: Semaphore,
    withdrawals: Semaphore,
}

/// A driven job. Dropping it gives up its outcome, and leaves the job in the queue unless it is unwanted.
#[derive(Debug)]
pub(super) struct DrivenJob(watch::Sender<bool>);

impl DrivenJob {
    /// Sets whether the job is to be withdrawn; without effect once it was.
    pub(super) fn set_unwanted(&self, unwanted: bool) {
        self.0.send_if_modified(|known| std::mem::replace(known, unwanted) != unwanted);
    }
}

/// Reports a job's events to the worker's task, with the job's ticket. At most two per job, so the channel is bounded by
/// the number of jobs.
struct Report<T: Clone> {
    ticket: T,
    to: mpsc::UnboundedSender<(T, Event)>,
    has_ended: bool,
}

impl<T: Clone> Report<T> {
    /// Sends an event; a worker's task that does not wait for it any more does not matter.
    fn send(&mut self, event: Event) {
        self.has_ended |= !matches!(event, Event::Queued(_));
        let _ = self.to.send((self.ticket.clone(), event));
    }
}

impl<T: Clone> Drop for Report<T> {
    fn drop(&mut self) {
        if !self.has_ended {
            self.send(Event::Lost);
        }
    }
}

impl JobDriver {
    pub(crate) fn new(queue: Arc<dyn JobQueue>, timeout_after: Duration, cancel: CancellationToken) -> Self {
        let (abandoned, withdrawals) = (Semaphore::new(MAX_ABANDONED), Semaphore::new(MAX_WITHDRAWALS));
        Self { queue, timeout_after, cancel, tasks: TaskTracker::new(), abandoned, withdrawals }
    }

    /// Waits until the tasks of all jobs have ended, which they do once the fleet is cancelled.
    pub(crate) async fn ended(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Submits a job; its events go to `to`, with `ticket`.
    pub(super) fn submit<T: Clone + Send + 'static>(
        self: &Arc<Self>,
        job: Job,
        ticket: T,
        to: mpsc::UnboundedSender<(T, Event)>,
    ) -> DrivenJob {
        let (sender, unwanted) = watch::channel(false);
        let (driver, report) = (Arc::clone(self), Report { ticket, to, has_ended: false });
        self.tasks.spawn(async move {
            tokio::select! {
                // First: the worker's task ends as well, which must not count as the loss of the wish for its job.
                biased;
                () = driver.cancel.cancelled() => {}
                () = driver.drive(job, report, unwanted) => {}
            }
        });
        DrivenJob(sender)
    }

    async fn drive<T: Clone>(&self, job: Job, mut report: Report<T>, unwanted: watch::Receiver<bool>) {
        let submitted = timeout(self.timeout_after, self.queue.submit(job)).await;
        let submitted = submitted.unwrap_or_else(|_| Err(Error::Unavailable(self.timed_out().into())));
        let handle = match submitted {
            Ok(handle) => handle,
            Err(error) => return report.send(Event::NotSubmitted(error)),
        };
        report.send(Event::Queued(handle.id));
        let id = handle.id;
        // Bounded: a lost outcome would block the worker forever.
        let event = match timeout(self.timeout_after, self.end(handle, &report.to, unwanted)).await {
            Ok(Some(event)) => event,
            // Nobody waits for it.
            Ok(None) => return report.has_ended = true,
            Err(_) => {
                // It would be carried out as well as the one that is submitted in its place.
                let _ = self.withdraw(id).await;
                Event::Ended(Err(JobFailure { message: self.timed_out() }))
            }
        };
        report.send(event);
    }

    fn timed_out(&self) -> String {
        format!("the queue has not answered within {}", duration(self.timeout_after))
    }

    /// Waits for the end of a job, and withdraws it while it is unwanted; `None` if nobody waits for it any more and it
    /// is not to be withdrawn.
    async fn end<T>(
        &self,
        handle: JobHandle,
        to: &mpsc::UnboundedSender<(T, Event)>,
        mut unwanted: watch::Receiver<bool>,
    ) -> Option<Event> {
        let id = handle.id;
        let outcome = handle.outcome();
        tokio::pin!(outcome);
        let mut backoff = Backoff::new(BACKOFF);
        let mut abandoned = None;
        loop {
            if !*unwanted.borrow_and_update() {
                tokio::select! {
                    biased;
                    ended = &mut outcome => return Some(Event::Ended(ended)),
                    changed = unwanted.changed() => match changed {
                        Ok(()) => continue,
                        Err(_) => return None,
                    },
                }
            }
            if to.is_closed() && abandoned.is_none() {
                let Ok(permit) = self.abandoned.try_acquire() else {
                    warn!(job = %id, limit = MAX_ABANDONED, "too many jobs to withdraw: this one stays in the queue");
                    return None;
                };
                abandoned = Some(permit);
            }
            match self.withdraw(id).await {
                Ok(Withdrawal::Refused) => {
                    debug!(job = %id, "a job that is not wanted cannot be withdrawn now")
                }
                Ok(withdrawal) => {
                    info!(job = %id, "a job that is not wanted any more was withdrawn");
                    return Some(Event::Withdrawn(withdrawal));
                }
                Err(error) => debug!(job = %id, error = describe(&error), "a job could not be withdrawn"),
            }
            tokio::select! {
                biased;
                ended = &mut outcome => return Some(Event::Ended(ended)),
                () = sleep(backoff.fail()) => {}
                // It is wanted again.
                () = turned_to(&mut unwanted, false) => backoff.reset(),
            }
        }
    }

    async fn withdraw(&self, id: JobId) -> Result<Withdrawal, Error> {
        // The semaphore is never closed.
        let _permit = self.withdrawals.acquire().await;
        let answer = timeout(WITHDRAWAL_TIMEOUT, self.queue.withdraw(id)).await;
        answer.unwrap_or_else(|_| Err(Error::Unavailable("the queue does not answer".into())))
    }
}

/// Waits until the value is `wanted`; pending forever once the sender is gone with another value.
async fn turned_to(value: &mut watch::Receiver<bool>, wanted: bool) {
    if value.wait_for(|value| *value == wanted).await.is_err() {
        std::future::pending::<()>().await;
    }
}
