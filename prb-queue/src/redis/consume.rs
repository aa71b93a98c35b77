//! The consumer's side: turns a job taken from Redis into a lease, and ends leases.

use std::time::Duration;

use prb_core::{
    primitives::PoolId,
    queue::{
        Error, Job, JobFailure, JobId, JobOutcome, JobSigner, JobState, Lease,
        admin::{Step, now_ms},
        expires, too_old, unsignable_delay,
    },
};
use serde::Serialize;
use serde_json::Value;
use tokio::{sync::oneshot, time::timeout};

use super::{
    RedisQueue,
    finish::{EndRequest, Kind},
    job_encoding,
    lease_table::LeasedJob,
    leasing::{Grant, Taken, millis, number},
    record::{Event, Record},
};

/// A decoded job with its lease.
pub(super) struct Opened {
    pub(super) lease: Lease,
    pub(super) leased: LeasedJob,
}

impl RedisQueue {
    /// Decodes a job that was taken from Redis, or returns why it cannot be carried out.
    pub(super) async fn open(&self, taken: &Taken) -> Result<Opened, Refusal> {
        let record = Record::read(&taken.json).map_err(|e| Refusal::Unreadable(e.to_string()))?;
        if record.tail.is_done() {
            return Err(Refusal::Done(record));
        }
        let Some(id) = number(&taken.id) else {
            return Err(Refusal::Bad(record, "the job's id is not a number".into()));
        };
        let decoded = match job_encoding::decode(&record.data) {
            Ok(decoded) => decoded,
            Err(e) => return Err(Refusal::Bad(record, e.to_string())),
        };
        let (pool, mark) = (decoded.pool, decoded.mark);
        let signer = match decoded.signer {
            Some(signer) => signer,
            None => match self.signer(pool).await {
                Ok(signer) => signer,
                Err(message) => {
                    // Another trader may know the operator.
                    let delay = unsignable_delay(taken.tries, self.0.shared.config.unsignable_limit);
                    return Err(delay.map_or(Refusal::Bad(record, message), Refusal::Unsigned));
                }
            },
        };
        let before = mark.as_deref().and_then(|mark| self.0.shared.ended_jobs.end_of(mark, &record.tail));
        if let Some(end) = before {
            return Err(Refusal::Ended(record, end));
        }
        let job = Job { pool, signer, calls: decoded.calls, retries: record.tail.retries() };
        if let Some(failure) = self.too_old(taken, &record).filter(|_| expires(&job)) {
            return Err(Refusal::TooOld(record, failure));
        }
        if let Err(e) = job.check() {
            return Err(Refusal::Bad(record, e.to_string()));
        }
        // Retries by another program are not counted in `prb:tries`. Any use so far counts as an attempt, so that
        // the trader checks for effects of earlier ones.
        let attempt = taken.tries.max(record.tail.is_used().into());
        let retries_left = record.tail.retries();
        let lease = Lease { id, token: taken.token, attempt, retries_left, job };
        let progress = std::sync::Mutex::new(None);
        // Only jobs with a mark were submitted by this crate, so only their size is certain to be counted.
        let bytes = mark.is_some().then_some(taken.json.len());
        let leased = LeasedJob { token: taken.token, record, bytes, mark, since_ms: now_ms(), progress };
        Ok(Opened { lease, leased })
    }

    /// The failure of a job that has waited for too long. None for what an operator has put back, which is wanted now, and
    /// for jobs of other programs: their submission is known by their own clocks alone, and they may not submit again.
    fn too_old(&self, taken: &Taken, record: &Record) -> Option<JobFailure> {
        let (limit, tail) = (self.0.shared.config.max_age, &record.tail);
        let age = Duration::from_millis(taken.age_ms?);
        let is_old = !limit.is_zero() && age > limit && !tail.is_failed();
        is_old.then(|| too_old(age, limit, taken.tries > 0 || tail.is_used()))
    }

    async fn signer(&self, pool: PoolId) -> Result<JobSigner, String> {
        let config = &self.0.shared.config;
        let found = match &config.signers {
            Some(signers) => timeout(config.call_timeout, signers.signer(pool)).await.ok().flatten(),
            None => None,
        };
        found.ok_or_else(|| {
            format!(
                "the job names no signer, and this trader knows no operator of pool {pool}: add the \
                 pool with its operator here, or submit with a lifecycle manager that sends the signer along"
            )
        })
    }

    /// Ends a job that cannot be carried out, or leaves it to others. If this is cancelled, dropping the grant hands the
    /// job back.
    pub(super) async fn refuse(&self, grant: Grant, refusal: Refusal) {
        let Some(Taken { id, token, .. }) = grant.taken() else { return };
        let failed = |message| End::Failed { message, retry_after: None };
        let (record, end) = match refusal {
            Refusal::Unsigned(delay) => return self.leave_to_others(grant, delay).await,
            Refusal::Done(record) => (record, End::Done),
            Refusal::Ended(record, end) => {
                self.0.shared.ended_jobs.warn(id);
                (record, end)
            }
            Refusal::TooOld(record, failure) => {
                // A trader that was away finds thousands of them.
                let mut log =
                    self.0.shared.too_old_log.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                if log.admit(()) {
                    tracing::warn!(
                        job = id,
                        reason = failure.message,
                        "jobs that are too old are ended as failed; their submitters submit again what they still want"
                    );
                }
                drop(log);
                tracing::debug!(
                    job = id,
                    reason = failure.message,
                    "a job is too old and is ended as failed"
                );
                (record, failed(failure.message))
            }
            Refusal::Bad(record, message) => {
                warn_refused(id, &message);
                (record, failed(message))
            }
            Refusal::Unreadable(why) => {
                let data = serde_json::value::to_raw_value(&Value::Null);
                let Ok(record) = data.and_then(|data| Record::new(data, 0, now_ms())) else { return };
                let message = format!("the job cannot be read: {why}");
                warn_refused(id, &message);
                (record, failed(message))
            }
        };
        let mark = job_encoding::decode(&record.data).ok().and_then(|decoded| decoded.mark);
        let progress = std::sync::Mutex::new(None);
        let leased = LeasedJob { token: *token, record, bytes: None, mark, since_ms: now_ms(), progress };
        match self.finish(id.clone(), &leased, end).await {
            Ok(_) => drop(grant.accept()),
            Err(e) => {
                tracing::warn!(job = id, error = %prb_core::text::describe(&e), "the job's failure could not be recorded")
            }
        }
    }

    /// Hands a job back for `delay`, which counts as a hand-out.
    async fn leave_to_others(&self, grant: Grant, delay: Duration) {
        let Some(Taken { id, token, .. }) = grant.taken() else { return };
        let link = &self.0.shared.link;
        let mut script = link.scripts.hand_back.call();
        script.arg(millis(delay)).arg("").arg(id).arg(token);
        match link.run::<u64>(&script).await {
            Ok(_) => drop(grant.accept()),
            Err(error) => {
                tracing::warn!(job = id, error = %link.endpoint_error(error), "a job of another trader was not returned to the queue");
            }
        }
    }

    /// Ends a lease; returns whether it was still held.
    async fn finish(&self, id: String, leased: &LeasedJob, end: End) -> Result<bool, Error> {
        let (done, answer) = oneshot::channel();
        let end_request = end_request(id, leased, end, done).map_err(|e| Error::Unavailable(Box::new(e)))?;
        self.unless_closed(async {
            self.0.end_requests.send(end_request).await.map_err(|_| Error::Closed)?;
            answer.await.map_err(|_| Error::Closed)?
        })
        .await
    }

    pub(super) async fn end(&self, id: JobId, token: u64, end: End) -> Result<(), Error> {
        let leased = self.0.shared.leases.get(id, token).ok_or(Error::LeaseLost { id })?;
        let remember = |end| {
            if let Some(mark) = &leased.mark {
                self.0.shared.ended_jobs.add(mark, end);
            }
        };
        // Before Redis has it: it took place even if Redis returns without knowing the lease.
        if let End::Succeeded(_) = &end {
            remember(end.clone());
        }
        // Kept in the table until the answer: a cancelled call can be repeated.
        let was_leased = self.finish(id.to_string(), &leased, end.clone()).await?;
        self.0.shared.leases.remove(id, token);
        // Another consumer carries it out if the lease was lost.
        if was_leased && end.is_failure(leased.record.tail.retries()) {
            remember(end);
        }
        if was_leased { Ok(()) } else { Err(Error::LeaseLost { id }) }
    }
}

fn warn_refused(job: &str, reason: &str) {
    tracing::warn!(job, reason, "a job cannot be carried out and is ended as failed");
}

/// Why a job taken from Redis is not handed out.
pub(super) enum Refusal {
    /// This trader cannot sign it; another one may within this time.
    Unsigned(Duration),
    /// It has succeeded before.
    Done(Record),
    /// This process has ended it before, which Redis does not know.
    Ended(Record, End),
    /// It has waited for too long.
    TooOld(Record, JobFailure),
    /// It cannot be carried out.
    Bad(Record, String),
    /// It is not a job.
    Unreadable(String),
}

/// How a consumer ends a lease.
#[derive(Clone, Debug)]
pub(super) enum End {
    Done,
    Succeeded(JobOutcome),
    Failed { message: String, retry_after: Option<Duration> },
}

impl End {
    /// Whether a job with this many retries left has failed for good.
    const fn is_failure(&self, retries: u32) -> bool {
        match self {
            Self::Failed { retry_after, .. } => retry_after.is_none() || retries == 0,
            _ => false,
        }
    }
}

fn end_request(
    id: String,
    leased: &LeasedJob,
    end: End,
    done: oneshot::Sender<Result<bool, Error>>,
) -> Result<EndRequest, serde_json::Error> {
    let mut tail = leased.record.tail.clone();
    tail.step(Step { state: JobState::Active, at_ms: leased.since_ms, note: None });
    let at_ms = now_ms();
    let (kind, json, event) = match end {
        End::Done => (Kind::Done, leased.record.write(&tail)?, String::new()),
        End::Succeeded(outcome) => {
            tail.succeed(outcome);
            tail.step(Step { state: JobState::Succeeded, at_ms, note: None });
            let event = event(&id, "succeeded", tail.outcome.as_ref(), leased)?;
            (Kind::Succeeded, leased.record.write(&tail)?, event)
        }
        End::Failed { message, retry_after } => {
            // Checked here as well as in the script, because the JSON and the event name the new state.
            let retry_after = retry_after.filter(|_| tail.retries() > 0);
            tail.fail(&message, retry_after.is_some())?;
            let (state, kind, name) = match retry_after {
                Some(delay) => (JobState::Delayed, Kind::Retried { delay_ms: millis(delay) }, "retrying"),
                None => (JobState::Failed, Kind::Failed, "failed"),
            };
            let event = event(&id, name, Some(&message), leased)?;
            tail.step(Step { state, at_ms, note: retry_after.map(|_| message) });
            (kind, leased.record.write(&tail)?, event)
        }
    };
    Ok(EndRequest { id, token: leased.token, kind, bytes: leased.bytes, json, event, done })
}

fn event(
    id: &str,
    name: &str,
    data: Option<&impl Serialize>,
    leased: &LeasedJob,
) -> Result<String, serde_json::Error> {
    let mark = leased.mark.as_deref().map(Into::into);
    serde_json::to_string(&Event { id: id.into(), event: name.into(), data, mark })
}
