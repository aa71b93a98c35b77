//! [`QueueAdmin`] for [`MemoryQueue`].

use async_trait::async_trait;
use tokio::time::Instant;

use super::{Ended, Entry, MemoryQueue, Phase, State};
use crate::{
    chain::Call,
    queue::{
        Error, Job, JobFailure, JobId, JobState,
        admin::{Filter, JobDetail, JobRecord, Page, QueueAdmin, describe, job_data, kinds, workers},
    },
};

/// A job's action: the kinds of its calls.
fn action(job: &Job) -> String {
    kinds(job.calls.iter().map(Call::name))
}

impl Entry {
    const fn state(&self) -> JobState {
        match self.phase {
            Phase::Waiting => JobState::Waiting,
            Phase::Delayed { .. } => JobState::Delayed,
            Phase::Active { .. } => JobState::Active,
        }
    }

    fn record(&self, id: JobId) -> JobRecord {
        JobRecord {
            id,
            state: self.state(),
            pool: Some(self.job.pool),
            action: action(&self.job),
            workers: workers(&self.job.calls),
            created_ms: self.log.created_ms,
            ended_ms: None,
            attempts: self.attempts,
            retries_left: self.retries_left,
            progress: self.log.progress.map(|progress| progress.as_str().to_owned()),
            error: self.log.error.clone(),
            outcome: None,
            history: self.log.history.clone(),
        }
    }
}

impl Ended {
    const fn state(&self) -> JobState {
        if self.outcome.is_some() { JobState::Succeeded } else { JobState::Failed }
    }

    fn record(&self) -> JobRecord {
        JobRecord {
            id: self.id,
            state: self.state(),
            pool: Some(self.job.pool),
            action: action(&self.job),
            workers: workers(&self.job.calls),
            created_ms: self.log.created_ms,
            ended_ms: self.log.history.last().map(|step| step.at_ms),
            attempts: self.attempts,
            retries_left: 0,
            progress: self.log.progress.map(|progress| progress.as_str().to_owned()),
            error: self.log.error.clone(),
            outcome: self.outcome.clone(),
            history: self.log.history.clone(),
        }
    }
}

/// An open or ended job.
#[derive(Clone, Copy)]
enum JobRef<'a> {
    Open(&'a Entry),
    Ended(&'a Ended),
}

impl JobRef<'_> {
    fn record(self, id: JobId) -> JobRecord {
        match self {
            Self::Open(entry) => entry.record(id),
            Self::Ended(ended) => ended.record(),
        }
    }
}

impl State {
    fn find(&self, id: JobId) -> Option<(JobRecord, &Job)> {
        let open = self.jobs.get(&id).map(|entry| (entry.record(id), &entry.job));
        open.or_else(|| self.ended.iter().find(|e| e.id == id).map(|ended| (ended.record(), &ended.job)))
    }
}

#[async_trait]
impl QueueAdmin for MemoryQueue {
    async fn list(&self, filter: Filter, offset: usize, limit: usize) -> Result<Page, Error> {
        let mut state = self.state();
        let earliest = state.next_timer();
        state.promote(Instant::now());
        let open =
            state.jobs.iter().map(|(id, entry)| (*id, entry.state(), entry.job.pool, JobRef::Open(entry)));
        let ended = state.ended.iter().map(|e| (e.id, e.state(), e.job.pool, JobRef::Ended(e)));
        let mut jobs: Vec<_> = open
            .chain(ended)
            .filter(|(_, state, pool, _)| {
                filter.state.is_none_or(|wanted| wanted == *state)
                    && filter.pool.is_none_or(|wanted| wanted == *pool)
            })
            .map(|(id, .., job_ref)| (id, job_ref))
            .collect();
        jobs.sort_unstable_by_key(|(id, _)| std::cmp::Reverse(*id));
        // Records are built for the page alone: a queue may have ten thousand jobs.
        let total = jobs.len();
        let jobs =
            jobs.into_iter().skip(offset).take(limit).map(|(id, job_ref)| job_ref.record(id)).collect();
        self.wake(earliest, state);
        Ok(Page { total, jobs })
    }

    async fn job(&self, id: JobId) -> Result<Option<JobDetail>, Error> {
        let state = self.state();
        Ok(state.find(id).map(|(record, job)| {
            let calls = job.calls.iter().map(describe).collect();
            JobDetail { record, calls, data: job_data(job) }
        }))
    }

    async fn retry(&self, id: JobId) -> Result<bool, Error> {
        let mut state = self.state();
        let failed = |ended: &Ended| ended.id == id && ended.state() == JobState::Failed;
        let Some(index) = state.ended.iter().position(failed) else { return Ok(false) };
        let size_bytes = state.ended.get(index).map(|ended| ended.size_bytes).unwrap_or_default();
        // Before it leaves the list of ended jobs: a full queue must not lose it.
        state.admit(self.0.config, size_bytes)?;
        let Some(Ended { job, attempts, mut log, .. }) = state.ended.remove(index) else {
            return Ok(false);
        };
        state.ended_bytes -= size_bytes;
        log.step(JobState::Waiting, None);
        // The submitter has received the failure already.
        let (submitter, retries_left, phase, submitted) = (None, 0, Phase::Waiting, None);
        let entry =
            Entry { job, submitter, size_bytes, submitted, token: 0, attempts, retries_left, phase, log };
        state.add(id, entry);
        drop(state);
        self.0.changed.notify_one();
        Ok(true)
    }

    async fn remove(&self, id: JobId) -> Result<bool, Error> {
        let mut state = self.state();
        if state.discard(id, JobFailure { message: "the job was removed by an operator".into() }) {
            return Ok(true);
        }
        let Some(index) = state.ended.iter().position(|ended| ended.id == id) else { return Ok(false) };
        if let Some(ended) = state.ended.remove(index) {
            state.ended_bytes -= ended.size_bytes;
        }
        Ok(true)
    }
}
