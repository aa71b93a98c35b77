//! What the backends of a queue and its consumers share: the failures of jobs that nobody carries out, and how long a job is
//! left to other consumers.

use std::time::Duration;

use super::{Job, JobFailure};
use crate::{chain::Call, sync::jittered, text::duration};

/// The failure of a job that was withdrawn. For backends.
pub fn withdrawn() -> JobFailure {
    JobFailure { message: "the job was withdrawn: its submitter does not want it any more".into() }
}

/// The failure of a job that has waited for longer than a queue's age limit. `leased` is whether a consumer has leased
/// it before. For backends.
pub fn too_old(waited: Duration, limit: Duration, leased: bool) -> JobFailure {
    let end = if leased { "it was not sent again" } else { "it was not sent" };
    let (waited, limit) = (duration(waited), duration(limit));
    JobFailure {
        message: format!("the job has waited for {waited}, longer than the queue's limit of {limit}; {end}"),
    }
}

/// Whether a queue's age limit applies to a job. Messages of workers are wanted as long as the chain does not have them, and
/// are not sent again once it has. For backends.
pub fn expires(job: &Job) -> bool {
    !job.calls.iter().all(|call| matches!(call, Call::SyncOffchainMessage(_)))
}

/// How long a job that a consumer cannot sign is left to the other consumers of its queue by default: long enough for one
/// of them to be started again.
pub const UNSIGNABLE_LIMIT: Duration = Duration::from_secs(60);

/// Returns the delay after which a job that its consumer cannot sign is leased again, or `None` if it has been left to
/// others for `limit` and fails. `times` is how often it has been left before. For backends and consumers.
///
/// Consumers that wait are served in turn, so the delay is random: with equal ones, two jobs of two consumers can be leased
/// by the wrong one each time.
pub fn unsignable_delay(times: u32, limit: Duration) -> Option<Duration> {
    // Short at first, as long as another consumer that is ready gets it soon.
    const QUICK: u32 = 10;
    const QUICK_DELAY: Duration = Duration::from_millis(300);
    const DELAY: Duration = Duration::from_secs(1);
    let waited = QUICK_DELAY * times.min(QUICK) + DELAY.saturating_mul(times.saturating_sub(QUICK));
    let delay = if times < QUICK { QUICK_DELAY } else { DELAY };
    // Of a mean of `delay`.
    (waited < limit).then(|| jittered(delay * 4 / 3))
}
