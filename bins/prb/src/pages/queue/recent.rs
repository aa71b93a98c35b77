//! [`Recent`]: caches the newest jobs briefly, for pages that show the jobs of one worker.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use maud::{Markup, html};
use prb_core::{
    primitives::WorkerKey,
    queue::{
        Error,
        admin::{Filter, JobRecord, QueueAdmin},
    },
};
use tokio::sync::Mutex;

use super::{host::Directory, list, with_timeout};

/// Number of jobs that are searched for those of a worker.
pub(crate) const MAX_RECENT: usize = 2000;
/// Maximum number of them that are shown.
const MAX_SHOWN: usize = 10;
/// How long the newest jobs are cached and shared between requests.
const MAX_AGE: Duration = Duration::from_secs(5);

/// The newest jobs of a queue.
pub(crate) struct Recent {
    admin: Arc<dyn QueueAdmin>,
    kept: Mutex<Option<(Instant, Arc<Vec<JobRecord>>)>>,
}

impl fmt::Debug for Recent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recent").finish_non_exhaustive()
    }
}

impl Recent {
    pub(crate) fn new(admin: Arc<dyn QueueAdmin>) -> Self {
        Self { admin, kept: Mutex::default() }
    }

    async fn newest(&self) -> Result<Arc<Vec<JobRecord>>, Error> {
        // Held during the request, so that concurrent pages share one.
        let mut kept = self.kept.lock().await;
        if let Some((at, jobs)) = &*kept
            && at.elapsed() < MAX_AGE
        {
            return Ok(Arc::clone(jobs));
        }
        let jobs = Arc::new(with_timeout(self.admin.list(Filter::default(), 0, MAX_RECENT)).await?.jobs);
        *kept = Some((Instant::now(), Arc::clone(&jobs)));
        Ok(jobs)
    }

    /// Shows the jobs about a worker, newest first, with links below `base`.
    pub(crate) async fn of_worker(&self, base: &str, key: WorkerKey, known: &Directory) -> Markup {
        // The lock is held during the request to the queue; waiting for it and the request share one time limit.
        let jobs = match with_timeout(self.newest()).await {
            Ok(jobs) => jobs,
            Err(error) => {
                return html! { p.bad { (super::format::sentence(&super::format::chain(&error))) } };
            }
        };
        let found: Vec<_> = jobs.iter().filter(|job| job.workers.contains(&key)).collect();
        let shown: Vec<JobRecord> = found.iter().take(MAX_SHOWN).map(|job| JobRecord::clone(job)).collect();
        html! {
            @if shown.is_empty() {
                p.small { "None among the newest jobs of the queue." }
            } @else {
                (list::table(base, &shown, known, false))
            }
            p.small {
                a href={ (base) "?worker=" (key) } { "All its jobs" }
                @if found.len() > shown.len() { " (" (found.len()) " among the newest)" }
            }
        }
    }
}
