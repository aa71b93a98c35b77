//! [`MemoryQueue`]: a job queue within one process.
//!
//! Jobs and outcomes are lost with the process; submitters then read from the chain what is still needed.
//!
//! It needs no background task: a caller of [`JobQueue::lease`] also waits for the next job that becomes due
//! or whose lease expires.

use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tokio::{
    sync::{Notify, oneshot},
    time::{Instant, sleep_until},
};

use super::{
    Error, Job, JobFailure, JobHandle, JobId, JobOutcome, JobQueue, JobState, Lease, Progress, Stats,
    Withdrawal,
    admin::{Step, now_ms, push_step},
};

mod admin;
mod obsolete;

/// The shortest lease.
const MIN_TTL: Duration = Duration::from_millis(1);

/// Limits of a [`MemoryQueue`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, derive_setters::Setters)]
#[setters(prefix = "with_")]
#[non_exhaustive]
pub struct Config {
    /// Maximum number of open jobs, in any state. Default: 10,000.
    pub max_jobs: usize,
    /// Maximum bytes of open jobs, by [`Job::size_bytes`]. Default: 256 MiB.
    pub max_bytes: usize,
    /// Time after its submission from which a job fails instead of being leased, zero for no limit: what was wanted
    /// then may not be wanted now. A job that an operator retries has no limit. Default: 30 minutes.
    pub max_age: Duration,
}

impl Config {
    /// Default of [`Config::max_jobs`]: one for each worker of a large fleet.
    pub const MAX_JOBS: usize = 10_000;
    /// Default of [`Config::max_bytes`].
    pub const MAX_BYTES: usize = 256 * 1024 * 1024;
    /// Default of [`Config::max_age`].
    pub const MAX_AGE: Duration = Duration::from_secs(30 * 60);
    /// Maximum number of ended jobs kept for [`QueueAdmin`](super::admin::QueueAdmin).
    pub const KEEP_JOBS: usize = 1_000;
    /// Maximum bytes of ended jobs, by [`Job::size_bytes`].
    pub const KEEP_BYTES: usize = 16 * 1024 * 1024;
}

impl Default for Config {
    fn default() -> Self {
        Self { max_jobs: Self::MAX_JOBS, max_bytes: Self::MAX_BYTES, max_age: Self::MAX_AGE }
    }
}

/// A bounded job queue in memory. Clones share it.
///
/// The oldest job that is due is leased first; a job that is leased again keeps its position.
#[derive(Clone, Debug, Default)]
pub struct MemoryQueue(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    config: Config,
    state: Mutex<State>,
    changed: Notify,
}

type JobResult = Result<JobOutcome, JobFailure>;

#[derive(Debug)]
struct Entry {
    job: Job,
    /// `None` if an operator retried the job: its submitter has already received the failure.
    submitter: Option<oneshot::Sender<JobResult>>,
    size_bytes: usize,
    /// When it was submitted; `None` if an operator retried it, so that it is wanted now.
    submitted: Option<Instant>,
    /// The current lease's token; 0 if there is none.
    token: u64,
    attempts: u32,
    retries_left: u32,
    phase: Phase,
    log: JobLog,
}

/// Data of a job that only operators need.
#[derive(Clone, Debug, Default)]
struct JobLog {
    created_ms: u64,
    error: Option<String>,
    progress: Option<Progress>,
    history: Vec<Step>,
}

impl JobLog {
    fn step(&mut self, state: JobState, note: Option<String>) {
        push_step(&mut self.history, Step { state, at_ms: now_ms(), note });
    }
}

/// A job that has ended, kept for operators to inspect and to retry.
#[derive(Clone, Debug)]
struct Ended {
    id: JobId,
    job: Job,
    size_bytes: usize,
    attempts: u32,
    outcome: Option<JobOutcome>,
    log: JobLog,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Waiting,
    Delayed { due: Instant },
    Active { until: Instant },
}

#[derive(Debug, Default)]
struct State {
    jobs: HashMap<JobId, Entry>,
    waiting: BTreeSet<JobId>,
    /// When delayed jobs become due and leases expire: one entry per job that is not waiting.
    timers: BTreeSet<(Instant, JobId)>,
    bytes: usize,
    /// Oldest first.
    ended: VecDeque<Ended>,
    ended_bytes: usize,
    last_id: u64,
    last_token: u64,
    succeeded: u64,
    failed: u64,
    closed: bool,
}

impl MemoryQueue {
    /// Creates an empty queue.
    pub fn new(config: Config) -> Self {
        Self(Arc::new(Shared { config, ..Shared::default() }))
    }

    /// Closes the queue: jobs are neither accepted nor leased any more. Open jobs fail, including leased
    /// ones: stop their consumers first.
    pub fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        let open: Vec<_> = state.jobs.keys().copied().collect();
        for id in open {
            // Submitters must learn that no outcome will come: they would wait forever.
            state.end(id, Err(JobFailure { message: "the queue was closed before the job ended".into() }));
        }
        drop(state);
        self.0.changed.notify_waiters();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Ignoring poison is safe: no code path panics while it holds the lock with an inconsistent state.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes waiting consumers if a timer is now earlier than the one that they have armed, or if a job is
    /// waiting.
    fn wake(&self, earliest_before: Option<Instant>, state: MutexGuard<'_, State>) {
        let sooner = match (state.next_timer(), earliest_before) {
            (Some(now), Some(before)) => now < before,
            (now, None) => now.is_some(),
            (None, _) => false,
        };
        // One notification suffices: a consumer that leases a job calls this again and so wakes the next one.
        let waiting = !state.waiting.is_empty();
        drop(state);
        if sooner {
            self.0.changed.notify_waiters();
        } else if waiting {
            self.0.changed.notify_one();
        }
    }
}

impl State {
    fn next_timer(&self) -> Option<Instant> {
        self.timers.first().map(|(at, _)| *at)
    }

    /// Makes jobs available whose delay is over or whose lease has expired.
    fn promote(&mut self, now: Instant) {
        // `set_phase` removes the timer, so that the loop ends.
        while let Some(&(at, id)) = self.timers.first()
            && at <= now
        {
            self.set_phase(id, Phase::Waiting);
            self.note(id, JobState::Waiting, None);
        }
    }

    fn set_phase(&mut self, id: JobId, phase: Phase) {
        let Some(entry) = self.jobs.get_mut(&id) else { return };
        match std::mem::replace(&mut entry.phase, phase) {
            Phase::Waiting => self.waiting.remove(&id),
            Phase::Delayed { due: at } | Phase::Active { until: at } => self.timers.remove(&(at, id)),
        };
        match phase {
            Phase::Waiting => self.waiting.insert(id),
            Phase::Delayed { due: at } | Phase::Active { until: at } => self.timers.insert((at, id)),
        };
    }

    fn note(&mut self, id: JobId, state: JobState, note: Option<String>) {
        if let Some(entry) = self.jobs.get_mut(&id) {
            entry.log.step(state, note);
        }
    }

    fn take(&mut self, until: Instant) -> Option<Lease> {
        let id = *self.waiting.first()?;
        self.set_phase(id, Phase::Active { until });
        let entry = self.jobs.get_mut(&id)?;
        self.last_token += 1;
        entry.token = self.last_token;
        let attempt = entry.attempts;
        entry.attempts = attempt.saturating_add(1);
        let retries_left = entry.retries_left;
        entry.log.progress = None;
        entry.log.step(JobState::Active, None);
        Some(Lease { id, token: entry.token, attempt, retries_left, job: entry.job.clone() })
    }

    /// The job of a lease that no other consumer has acquired since. A lease that expired but was not granted
    /// again still counts: its consumer's result is valid.
    fn leased(&mut self, id: JobId, token: u64) -> Result<&mut Entry, Error> {
        self.jobs
            .get_mut(&id)
            // 0 marks an entry without a lease and must not match a caller's 0.
            .filter(|entry| token != 0 && entry.token == token)
            .ok_or(Error::LeaseLost { id })
    }

    fn end(&mut self, id: JobId, result: JobResult) {
        let Some(mut entry) = self.drop_entry(id) else { return };
        let outcome = match &result {
            Ok(outcome) => {
                self.succeeded += 1;
                entry.log.step(JobState::Succeeded, None);
                Some(outcome.clone())
            }
            Err(failure) => {
                self.failed += 1;
                entry.log.step(JobState::Failed, None);
                entry.log.error = Some(failure.message.clone());
                None
            }
        };
        let Entry { job, submitter, size_bytes, attempts, log, .. } = entry;
        self.keep(Ended { id, job, size_bytes, attempts, outcome, log });
        if let Some(submitter) = submitter {
            // The submitter may have stopped listening; the statistics include the job nevertheless.
            let _ = submitter.send(result);
        }
    }

    fn drop_entry(&mut self, id: JobId) -> Option<Entry> {
        let entry = self.jobs.remove(&id)?;
        match entry.phase {
            Phase::Waiting => self.waiting.remove(&id),
            Phase::Delayed { due: at } | Phase::Active { until: at } => self.timers.remove(&(at, id)),
        };
        self.bytes -= entry.size_bytes;
        Some(entry)
    }

    fn keep(&mut self, ended: Ended) {
        self.ended_bytes += ended.size_bytes;
        self.ended.push_back(ended);
        // By bytes as well, because one job can carry megabytes of messages.
        while self.ended.len() > Config::KEEP_JOBS || self.ended_bytes > Config::KEEP_BYTES {
            let Some(oldest) = self.ended.pop_front() else { break };
            self.ended_bytes -= oldest.size_bytes;
        }
    }

    fn admit(&self, config: Config, size_bytes: usize) -> Result<(), Error> {
        let Config { max_jobs, max_bytes, .. } = config;
        if self.closed {
            return Err(Error::Closed);
        }
        if self.jobs.len() >= max_jobs {
            return Err(Error::Full { limit: max_jobs });
        }
        if self.bytes + size_bytes > max_bytes {
            return Err(Error::FullBytes { limit_bytes: max_bytes });
        }
        Ok(())
    }

    /// Adds a job that was admitted.
    fn add(&mut self, id: JobId, entry: Entry) {
        self.bytes += entry.size_bytes;
        self.jobs.insert(id, entry);
        self.waiting.insert(id);
    }
}

#[async_trait]
impl JobQueue for MemoryQueue {
    async fn submit(&self, job: Job) -> Result<JobHandle, Error> {
        job.check()?;
        let size_bytes = job.size_bytes();
        let (submitter, outcome) = oneshot::channel();
        let mut state = self.state();
        state.admit(self.0.config, size_bytes)?;
        state.last_id += 1;
        let id = JobId(state.last_id);
        let retries_left = job.retries;
        let mut log = JobLog { created_ms: now_ms(), ..JobLog::default() };
        log.step(JobState::Waiting, None);
        let submitter = Some(submitter);
        let (phase, submitted) = (Phase::Waiting, Some(Instant::now()));
        let entry =
            Entry { job, submitter, size_bytes, submitted, token: 0, attempts: 0, retries_left, phase, log };
        state.add(id, entry);
        drop(state);
        self.0.changed.notify_one();
        Ok(JobHandle::new(id, outcome))
    }

    async fn withdraw(&self, id: JobId) -> Result<Withdrawal, Error> {
        let mut state = self.state();
        // The job of a lease that has expired waits again.
        let earliest = state.next_timer();
        state.promote(Instant::now());
        let withdrawal = state.withdraw(id);
        self.wake(earliest, state);
        Ok(withdrawal)
    }

    async fn lease(&self, ttl: Duration) -> Result<Lease, Error> {
        loop {
            let changed = self.0.changed.notified();
            tokio::pin!(changed);
            // Registered before the state is read, so that no change between the two is missed.
            changed.as_mut().enable();
            let next = {
                let mut state = self.state();
                if state.closed {
                    return Err(Error::Closed);
                }
                let now = Instant::now();
                let earliest = state.next_timer();
                state.promote(now);
                state.fail_old(now, self.0.config.max_age);
                if let Some(lease) = state.take(now + ttl) {
                    self.wake(earliest, state);
                    return Ok(lease);
                }
                state.next_timer()
            };
            match next {
                Some(at) => {
                    tokio::select! { () = changed => {}, () = sleep_until(at) => {} }
                }
                None => changed.await,
            }
        }
    }

    async fn heartbeat(&self, leases: &[(JobId, u64)], ttl: Duration) -> Result<Vec<JobId>, Error> {
        let mut state = self.state();
        let earliest = state.next_timer();
        // A lease of zero would have expired before its consumer can use it.
        let until = Instant::now() + ttl.max(MIN_TTL);
        let mut lost = Vec::new();
        for &(id, token) in leases {
            match state.leased(id, token) {
                Ok(_) => state.set_phase(id, Phase::Active { until }),
                Err(_) => lost.push(id),
            }
        }
        self.wake(earliest, state);
        Ok(lost)
    }

    async fn release(&self, leases: &[(JobId, u64)], after: Duration) -> Result<(), Error> {
        let mut state = self.state();
        let earliest = state.next_timer();
        let (phase, shown) = match after.is_zero() {
            true => (Phase::Waiting, JobState::Waiting),
            false => (Phase::Delayed { due: Instant::now() + after }, JobState::Delayed),
        };
        for &(id, token) in leases {
            if let Ok(entry) = state.leased(id, token) {
                entry.token = 0;
                state.set_phase(id, phase);
                state.note(id, shown, None);
            }
        }
        self.wake(earliest, state);
        Ok(())
    }

    async fn progress(&self, leases: &[(JobId, u64)], progress: Progress) -> Result<(), Error> {
        let mut state = self.state();
        for &(id, token) in leases {
            if let Ok(entry) = state.leased(id, token) {
                entry.log.progress = Some(progress);
            }
        }
        Ok(())
    }

    async fn complete(&self, id: JobId, token: u64, outcome: JobOutcome) -> Result<(), Error> {
        let mut state = self.state();
        state.leased(id, token)?;
        // No consumer is woken: the end of a job makes no other job available.
        state.end(id, Ok(outcome));
        Ok(())
    }

    async fn fail(
        &self,
        id: JobId,
        token: u64,
        failure: JobFailure,
        retry_after: Option<Duration>,
    ) -> Result<(), Error> {
        let mut state = self.state();
        let earliest = state.next_timer();
        let entry = state.leased(id, token)?;
        match retry_after {
            Some(delay) if entry.retries_left > 0 => {
                entry.retries_left -= 1;
                entry.token = 0;
                entry.log.error = Some(failure.message.clone());
                entry.log.step(JobState::Delayed, Some(failure.message));
                state.set_phase(id, Phase::Delayed { due: Instant::now() + delay });
            }
            _ => state.end(id, Err(failure)),
        }
        self.wake(earliest, state);
        Ok(())
    }

    async fn stats(&self) -> Result<Stats, Error> {
        let mut state = self.state();
        let earliest = state.next_timer();
        state.promote(Instant::now());
        let delayed = state.jobs.values().filter(|e| matches!(e.phase, Phase::Delayed { .. })).count();
        // `timers` has one entry for each job that is delayed or active.
        let stats = Stats {
            waiting: state.waiting.len(),
            delayed,
            active: state.timers.len() - delayed,
            succeeded: state.succeeded,
            failed: state.failed,
        };
        // `promote` may have made jobs available for which a consumer waits.
        self.wake(earliest, state);
        Ok(stats)
    }
}
