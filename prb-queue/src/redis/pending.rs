//! Tracks the jobs that this process submitted and whose outcome is not known yet.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use prb_core::queue::{CallOutcome, JobFailure, JobId, JobOutcome, withdrawn};
use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};

use super::config::BlockHint;

pub(super) type Outcome = Result<JobOutcome, JobFailure>;

/// Maximum number of events that are kept while a submission's answer, which carries the ids, is in flight. The outcomes
/// of further ones are polled.
const MAX_EARLY: usize = 4096;

/// A job that waits for its outcome.
pub(super) struct Waiting {
    /// The submitter's own id for the job.
    pub(super) mark: String,
    pub(super) calls: usize,
    pub(super) submitter: oneshot::Sender<Outcome>,
    pub(super) since: Instant,
    /// Whether its submitter is withdrawing it.
    pub(super) withdrawing: bool,
}

/// The content of an event about a job's end.
#[derive(Debug)]
pub(super) enum End {
    /// A trader of this crate ended it; the event carries the outcome.
    Known { mark: String, outcome: Outcome },
    /// Another program ended it, or the event cannot be decoded: poll Redis.
    Poll,
}

#[derive(Default)]
pub(super) struct Pending {
    state: Mutex<State>,
    /// Notified when outcomes should be polled now.
    pub(super) poll: Notify,
}

#[derive(Default)]
struct State {
    open: HashMap<JobId, Waiting>,
    /// Ends of jobs that may be ours, while a submission is in flight.
    early: Option<HashMap<JobId, End>>,
    poll: Vec<JobId>,
    poll_all: bool,
    closed: Option<String>,
}

impl Pending {
    fn state(&self) -> MutexGuard<'_, State> {
        // No code path panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Marks a submission as in flight: a job's event may arrive before the answer with its id.
    pub(super) fn begin(&self) {
        self.state().early = Some(HashMap::new());
    }

    /// Registers submitted jobs, whose ids are now known.
    pub(super) fn register(&self, jobs: impl IntoIterator<Item = (JobId, Waiting)>) {
        let mut state = self.state();
        let mut early = state.early.take().unwrap_or_default();
        for (id, waiting) in jobs {
            if let Some(message) = &state.closed {
                let _ = waiting.submitter.send(Err(JobFailure { message: message.clone() }));
                continue;
            }
            // An id repeats only after Redis has lost its data; the earlier job is gone then.
            if let Some(before) = state.open.insert(id, waiting) {
                notify(before, Err(job_gone()));
            }
            if let Some(end) = early.remove(&id) {
                self.resolve_or_poll(&mut state, id, end);
            }
        }
    }

    /// Handles an event about a job's end.
    pub(super) fn ended(&self, id: JobId, end: End) {
        let mut state = self.state();
        if state.open.contains_key(&id) {
            self.resolve_or_poll(&mut state, id, end);
        } else if let Some(early) = &mut state.early {
            // Events of other processes' jobs are among them: which are ours is only known with the answer.
            if early.len() < MAX_EARLY {
                early.insert(id, end);
            } else {
                state.poll_all = true;
            }
        }
    }

    /// Resolves a job if the event contains its outcome; otherwise schedules a poll of it.
    fn resolve_or_poll(&self, state: &mut State, id: JobId, end: End) {
        match end {
            End::Known { mark, outcome } if state.open.get(&id).is_some_and(|w| w.mark == mark) => {
                if let Some(waiting) = state.open.remove(&id) {
                    notify(waiting, outcome);
                }
            }
            _ => {
                state.poll.push(id);
                self.poll.notify_one();
            }
        }
    }

    /// Schedules a poll of all outcomes: events may have been missed.
    pub(super) fn poll_all(&self) {
        self.state().poll_all = true;
        self.poll.notify_one();
    }

    /// Returns the jobs to poll now: those scheduled, and those that have waited for `older_than`.
    pub(super) fn to_poll(&self, older_than: Duration) -> Vec<(JobId, String)> {
        let mut state = self.state();
        // Drop jobs whose submitters no longer wait.
        state.open.retain(|_, waiting| !waiting.submitter.is_closed());
        let all = std::mem::take(&mut state.poll_all);
        let named = std::mem::take(&mut state.poll);
        let mut jobs: Vec<_> = state
            .open
            .iter()
            .filter(|(_, waiting)| all || waiting.since.elapsed() >= older_than)
            .map(|(id, waiting)| (*id, waiting.mark.clone()))
            .collect();
        for id in named {
            if let Some(waiting) = state.open.get(&id)
                && !all
                && waiting.since.elapsed() < older_than
            {
                jobs.push((id, waiting.mark.clone()));
            }
        }
        jobs
    }

    /// Handles a polled outcome; `None` if Redis has no results of the job's calls.
    pub(super) fn answered(&self, id: JobId, mark: &str, outcome: Option<Outcome>, hint: Option<&BlockHint>) {
        let mut state = self.state();
        if state.open.get(&id).is_none_or(|waiting| waiting.mark != mark) {
            return;
        }
        let Some(waiting) = state.open.remove(&id) else { return };
        // The hint is an embedder's code: it must not run under the lock.
        drop(state);
        let outcome = outcome.unwrap_or_else(|| {
            let block = hint.map(|hint| hint()).unwrap_or_default();
            Ok(JobOutcome {
                calls: vec![CallOutcome::Done; waiting.calls],
                block,
                extrinsic: None,
                fee: None,
            })
        });
        notify(waiting, outcome);
    }

    /// Whether a submitter in this process awaits the job.
    pub(super) fn awaits(&self, id: JobId, mark: &str) -> bool {
        let state = self.state();
        state.open.get(&id).is_some_and(|waiting| waiting.mark == mark && !waiting.submitter.is_closed())
    }

    /// Notes whether a job is being withdrawn; returns its mark, if this process submitted it.
    pub(super) fn withdrawing(&self, id: JobId, withdrawing: bool) -> Option<String> {
        let mut state = self.state();
        let waiting = state.open.get_mut(&id)?;
        waiting.withdrawing = withdrawing;
        Some(waiting.mark.clone())
    }

    /// Fails a job that is not in Redis any more. Returns whether its submitter did not withdraw it.
    pub(super) fn gone(&self, id: JobId, mark: &str) -> bool {
        let mut state = self.state();
        if state.open.get(&id).is_none_or(|waiting| waiting.mark != mark) {
            return false;
        }
        let Some(waiting) = state.open.remove(&id) else { return false };
        let is_withdrawn = waiting.withdrawing;
        notify(waiting, Err(if is_withdrawn { withdrawn() } else { job_gone() }));
        !is_withdrawn
    }

    /// Fails all outstanding jobs and returns their number.
    pub(super) fn fail_outstanding(&self, message: &str) -> usize {
        let open = std::mem::take(&mut self.state().open);
        let count = open.len();
        open.into_values()
            .for_each(|waiting| notify(waiting, Err(JobFailure { message: message.to_owned() })));
        count
    }

    /// Fails all outstanding jobs, and all that are submitted from now on.
    pub(super) fn close(&self, message: &str) {
        self.state().closed = Some(message.to_owned());
        self.fail_outstanding(message);
    }
}

/// The failure of a job that Redis does not know.
pub(super) fn job_gone() -> JobFailure {
    JobFailure {
        message: "the job is gone from the queue (Redis lost its data, or the job was removed): check \
                  the chain and submit again what is still needed"
            .into(),
    }
}

fn notify(waiting: Waiting, outcome: Outcome) {
    // The submitter may have dropped its handle.
    let _ = waiting.submitter.send(outcome);
}
