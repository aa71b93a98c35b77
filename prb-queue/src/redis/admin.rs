//! Implements [`QueueAdmin`]: the operator's view of the queue.

use async_trait::async_trait;
use prb_core::{
    primitives::PoolId,
    queue::{
        Error, JobId, JobState,
        admin::{Filter, JobDetail, JobRecord, Page, QueueAdmin, Step, describe, push_step, workers},
    },
};
use redis::RedisResult;
use serde_json::Value;

use super::{RedisQueue, job_encoding, leasing::number, progress_code, record::Record};

/// Maximum number of index entries in one request.
const MAX_CHUNK: usize = 1000;
/// Maximum number of jobs on a page.
const MAX_PAGE: usize = 1000;

/// Every list that a job may be in.
const STATES: [JobState; 5] =
    [JobState::Waiting, JobState::Delayed, JobState::Active, JobState::Succeeded, JobState::Failed];

const fn list_of(state: JobState) -> &'static str {
    match state {
        JobState::Delayed => "delayed",
        JobState::Active => "active",
        JobState::Succeeded => "succeeded",
        JobState::Failed => "failed",
        _ => "waiting",
    }
}

fn state_named(name: &str) -> Option<JobState> {
    STATES.into_iter().find(|state| list_of(*state) == name)
}

/// Returns the pool and the action of a job's index entry.
fn parse_index_entry(index_entry: Option<&str>) -> (Option<PoolId>, &str) {
    let mut parts = index_entry.unwrap_or_default().split('|').skip(1);
    let pool = parts.next().and_then(|pid| pid.parse().ok()).map(PoolId);
    (pool, parts.next().unwrap_or_default())
}

impl RedisQueue {
    /// Returns the ids in a state, newest first, and their total count.
    async fn ids(
        &self,
        state: Option<JobState>,
        offset: usize,
        limit: usize,
    ) -> RedisResult<(usize, Vec<(JobId, JobState)>)> {
        let mut script = self.0.shared.link.scripts.list.call();
        script.arg(state.map_or("", list_of)).arg(offset).arg(limit);
        let (total, jobs): (usize, Vec<(String, String)>) = self.0.shared.link.run(&script).await?;
        let known = |(id, state): (String, String)| Some((number(&id)?, state_named(&state)?));
        Ok((total, jobs.into_iter().filter_map(known).collect()))
    }

    /// Keeps only the jobs of one pool. A job that another program has just added has no index entry yet.
    async fn of_pool(
        &self,
        ids: Vec<(JobId, JobState)>,
        pool: PoolId,
    ) -> RedisResult<Vec<(JobId, JobState)>> {
        let shared = &self.0.shared;
        let mut kept = Vec::new();
        for ids in ids.chunks(MAX_CHUNK) {
            let mut pipe = redis::pipe();
            for (id, _) in ids {
                pipe.hget(shared.link.key("prb:books"), id.0);
            }
            let index_entries: Vec<Option<String>> = shared.link.query(&pipe).await?;
            let of_pool = ids.iter().zip(index_entries);
            kept.extend(
                of_pool
                    .filter(|(_, index_entry)| parse_index_entry(index_entry.as_deref()).0 == Some(pool))
                    .map(|(job, _)| *job),
            );
        }
        Ok(kept)
    }

    async fn records(&self, ids: &[(JobId, JobState)]) -> RedisResult<Vec<(JobRecord, Record)>> {
        let shared = &self.0.shared;
        let mut pipe = redis::pipe();
        for (id, _) in ids {
            pipe.hget(shared.link.key("jobs"), id.0)
                .hget(shared.link.key("prb:books"), id.0)
                .hget(shared.link.key("prb:tries"), id.0)
                .zscore(shared.link.key("prb:ended"), id.0);
        }
        type Answer = (Option<Vec<u8>>, Option<String>, Option<u32>, Option<f64>);
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let flat: Vec<redis::Value> = shared.link.query(&pipe).await?;
        let mut records = Vec::new();
        for ((id, state), answer) in ids.iter().zip(flat.chunks_exact(4)) {
            let answer: Answer = redis::from_redis_value(redis::Value::Array(answer.to_vec()))?;
            let (Some(json), index_entry, tries, ended) = answer else { continue };
            // Another program may have stored anything under the id: one such job must not hide the others.
            let Ok(record) = Record::read(&json) else { continue };
            let ended_ms = ended.map(|ms| ms as u64);
            let (pool, action) = parse_index_entry(index_entry.as_deref());
            let mut shown = self.shown(*id, *state, &record);
            (shown.pool, shown.ended_ms) = (pool.or(shown.pool), ended_ms);
            shown.attempts += tries.unwrap_or_default();
            if shown.action.is_empty() {
                shown.action = action.to_owned();
            }
            records.push((shown, record));
        }
        Ok(records)
    }

    fn shown(&self, id: JobId, state: JobState, record: &Record) -> JobRecord {
        let tail = &record.tail;
        let decoded = job_encoding::decode(&record.data).ok();
        let leased = self.0.shared.leases.of(id);
        let mut history = vec![Step { state: JobState::Waiting, at_ms: tail.created_ms(), note: None }];
        tail.history.iter().cloned().for_each(|step| push_step(&mut history, step));
        if let Some(leased) = &leased {
            push_step(&mut history, Step { state: JobState::Active, at_ms: leased.since_ms, note: None });
        }
        let progress = leased
            .and_then(|leased| *leased.progress.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
            .map(|progress| progress_code(progress).to_owned());
        JobRecord {
            id,
            state,
            pool: decoded.as_ref().map(|decoded| decoded.pool),
            workers: decoded.as_ref().map(|decoded| workers(&decoded.calls)).unwrap_or_default(),
            action: decoded.map(|decoded| decoded.action).unwrap_or_default(),
            created_ms: tail.created_ms(),
            ended_ms: None,
            // `prb:tries` has the earlier hand-outs only: the current or last one is added here.
            attempts: matches!(state, JobState::Active | JobState::Succeeded | JobState::Failed).into(),
            retries_left: tail.retries(),
            progress: progress.or_else(|| tail.progress.as_str().map(str::to_owned)),
            error: tail.error().map(str::to_owned),
            outcome: tail.outcome.clone(),
            history,
        }
    }

    async fn state_of(&self, id: JobId) -> RedisResult<Option<JobState>> {
        let shared = &self.0.shared;
        let key = |state| shared.link.key(list_of(state));
        type Lists = (bool, bool, bool, Option<f64>, Option<usize>, Option<usize>);
        let mut pipe = redis::pipe();
        pipe.hexists(shared.link.key("jobs"), id.0)
            .sismember(key(JobState::Succeeded), id.0)
            .sismember(key(JobState::Failed), id.0)
            .zscore(key(JobState::Delayed), id.0)
            .lpos(key(JobState::Active), id.0, redis::LposOptions::default())
            .lpos(key(JobState::Waiting), id.0, redis::LposOptions::default());
        let (there, succeeded, failed, delayed, active, waiting): Lists = shared.link.query(&pipe).await?;
        let lists = [
            (succeeded, JobState::Succeeded),
            (failed, JobState::Failed),
            (delayed.is_some(), JobState::Delayed),
            (active.is_some(), JobState::Active),
            // A job can also move between two lists while these commands run.
            (waiting.is_some() || there, JobState::Waiting),
        ];
        Ok(lists.into_iter().find(|(here, _)| there && *here).map(|(_, state)| state))
    }
}

/// Removes the sealed key, which no viewer needs.
fn redacted(data: &str) -> Value {
    let mut data: Value = serde_json::from_str(data).unwrap_or_default();
    if let Some(key) = data.pointer_mut("/prb/key") {
        *key = "(sealed)".into();
    }
    data
}

#[async_trait]
impl QueueAdmin for RedisQueue {
    async fn list(&self, filter: Filter, offset: usize, limit: usize) -> Result<Page, Error> {
        // A script blocks the server while it builds the page.
        let limit = limit.min(MAX_PAGE);
        let (total, page) = match filter.pool {
            None => {
                self.ids(filter.state, offset, limit).await.map_err(|e| self.0.shared.link.unavailable(e))?
            }
            // The index has no order by pool, so all ids are read.
            Some(pool) => {
                let (_, all) = self
                    .ids(filter.state, 0, u32::MAX as usize)
                    .await
                    .map_err(|e| self.0.shared.link.unavailable(e))?;
                let ids = self.of_pool(all, pool).await.map_err(|e| self.0.shared.link.unavailable(e))?;
                (ids.len(), ids.into_iter().skip(offset).take(limit).collect())
            }
        };
        let jobs = self.records(&page).await.map_err(|e| self.0.shared.link.unavailable(e))?;
        Ok(Page { total, jobs: jobs.into_iter().map(|(shown, _)| shown).collect() })
    }

    async fn job(&self, id: JobId) -> Result<Option<JobDetail>, Error> {
        let Some(state) = self.state_of(id).await.map_err(|e| self.0.shared.link.unavailable(e))? else {
            return Ok(None);
        };
        let mut found = self.records(&[(id, state)]).await.map_err(|e| self.0.shared.link.unavailable(e))?;
        Ok(found.pop().map(|(record, whole)| {
            let calls = job_encoding::decode(&whole.data).map(|decoded| decoded.calls).unwrap_or_default();
            let calls = calls.iter().map(describe).collect();
            JobDetail { record, calls, data: redacted(whole.data.get()) }
        }))
    }

    async fn retry(&self, id: JobId) -> Result<bool, Error> {
        let config = &self.0.shared.config;
        let mut script = self.0.shared.link.scripts.retry.call();
        script.arg(id.0).arg(config.max_jobs).arg(config.max_bytes);
        let answer: RedisResult<String> = self.0.shared.link.run(&script).await;
        match answer.map_err(|e| self.0.shared.link.unavailable(e))?.as_str() {
            "F" => Err(Error::Full { limit: config.max_jobs }),
            "B" => Err(Error::FullBytes { limit_bytes: config.max_bytes }),
            answer => Ok(answer == "K"),
        }
    }

    async fn remove(&self, id: JobId) -> Result<bool, Error> {
        let mut script = self.0.shared.link.scripts.remove.call();
        script.arg(id.0);
        let there: RedisResult<bool> = self.0.shared.link.run(&script).await;
        // The script publishes no event: bee-queue has none for removals. The poll notifies submitters in
        // this process.
        self.0.shared.pending.poll_all();
        there.map_err(|e| self.0.shared.link.unavailable(e))
    }
}
