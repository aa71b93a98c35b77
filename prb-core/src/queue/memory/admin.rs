//! The operator's view of a [`MemoryQueue`].

use async_trait::async_trait;
use tokio::time::Instant;

use super::{Ended, Entry, MemoryQueue, Phase, State};
use crate::queue::{
    Error, Job, JobFailure, JobId, JobState, Progress,
    admin::{Filter, JobDetail, JobRecord, Page, QueueAdmin, describe},
};

/// What a job does: its first call, and how many there are.
fn action(job: &Job) -> String {
    let first = job.calls.first().map(|call| call.name()).unwrap_or_default();
    match job.calls.len() {
        0 | 1 => first.to_owned(),
        more => format!("{first} ×{more}"),
    }
}

const fn word(progress: Progress) -> &'static str {
    match progress {
        Progress::Taken => "taken",
        Progress::Prepared => "prepared",
        Progress::Sent => "sent",
    }
}

impl Entry {
    fn record(&self, id: JobId) -> JobRecord {
        JobRecord {
            id,
            state: match self.phase {
                Phase::Waiting => JobState::Waiting,
                Phase::Delayed { .. } => JobState::Delayed,
                Phase::Active { .. } => JobState::Active,
            },
            pool: Some(self.job.pool),
            action: action(&self.job),
            created_ms: self.story.created_ms,
            ended_ms: None,
            hand_outs: self.hand_outs,
            retries_left: self.retries_left,
            progress: self.story.progress.map(|progress| word(progress).to_owned()),
            error: self.story.error.clone(),
            outcome: None,
            history: self.story.history.clone(),
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
            created_ms: self.story.created_ms,
            ended_ms: self.story.history.last().map(|step| step.at_ms),
            hand_outs: self.hand_outs,
            retries_left: 0,
            progress: self.story.progress.map(|progress| word(progress).to_owned()),
            error: self.story.error.clone(),
            outcome: self.outcome.clone(),
            history: self.story.history.clone(),
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
        let open = state.jobs.iter().map(|(id, entry)| (*id, entry.record(*id)));
        let ended = state.ended.iter().map(|ended| (ended.id, ended.record()));
        let mut jobs: Vec<_> = open
            .chain(ended)
            .filter(|(_, record)| filter.state.is_none_or(|state| state == record.state))
            .filter(|(_, record)| filter.pool.is_none() || filter.pool == record.pool)
            .collect();
        self.wake(earliest, state);
        jobs.sort_unstable_by_key(|(id, _)| std::cmp::Reverse(*id));
        let total = jobs.len();
        let jobs = jobs.into_iter().skip(offset).take(limit).map(|(_, record)| record).collect();
        Ok(Page { total, jobs })
    }

    async fn job(&self, id: JobId) -> Result<Option<JobDetail>, Error> {
        let state = self.state();
        Ok(state.find(id).map(|(record, job)| {
            let calls = job.calls.iter().map(describe).collect();
            JobDetail { record, calls, data: serde_json::Value::Null }
        }))
    }

    async fn retry(&self, id: JobId) -> Result<bool, Error> {
        let mut state = self.state();
        let failed = |ended: &Ended| ended.id == id && ended.state() == JobState::Failed;
        let Some(place) = state.ended.iter().position(failed) else { return Ok(false) };
        let size_bytes = state.ended.get(place).map(|ended| ended.size_bytes).unwrap_or_default();
        state.admit(self.0.config, size_bytes)?;
        let Some(Ended { job, hand_outs, mut story, .. }) = state.ended.remove(place) else {
            return Ok(false);
        };
        state.ended_bytes -= size_bytes;
        story.step(JobState::Waiting, None);
        let (submitter, retries_left, phase) = (None, 0, Phase::Waiting);
        state.add(id, Entry { job, submitter, size_bytes, token: 0, hand_outs, retries_left, phase, story });
        drop(state);
        self.0.changed.notify_one();
        Ok(true)
    }

    async fn remove(&self, id: JobId) -> Result<bool, Error> {
        let mut state = self.state();
        if let Some(entry) = state.drop_entry(id) {
            if let Some(submitter) = entry.submitter {
                let message = "the job is gone: an operator removed it".into();
                // The submitter may have stopped listening.
                let _ = submitter.send(Err(JobFailure { message }));
            }
            return Ok(true);
        }
        let Some(place) = state.ended.iter().position(|ended| ended.id == id) else { return Ok(false) };
        if let Some(ended) = state.ended.remove(place) {
            state.ended_bytes -= ended.size_bytes;
        }
        Ok(true)
    }
}
