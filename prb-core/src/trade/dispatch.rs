//! The dispatcher: leases jobs from the queue, routes each to its operator's lane, and supervises the lanes.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot},
    task::{Id, JoinError, JoinSet},
    time::{Instant, sleep_until, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{
    Config, Error, Parts, StopReport, Trader,
    account_lease_manager::AccountLeaseManager,
    call_limits::CallCaps,
    inbox::{Inbox, Refusal},
    job_leases::{JobLeases, Release},
    lane::{Context, Lane},
    progress::ProgressReporter,
    released_jobs::{BEHIND_OLDER, ReleasedJobs},
    status::StatusPublisher,
    unsignable_jobs::UnsignableJobs,
};
use crate::{primitives::AccountId, queue::Lease, text::seconds};

/// Delay of a job for which its lane had no capacity.
const FULL_LANE_DELAY: Duration = Duration::from_secs(5);
/// Maximum jobs waiting to be released; beyond it nothing is leased.
const MAX_PENDING_RELEASES: usize = 1_024;
/// Pause after too many jobs were released.
const FULL_PAUSE: Duration = Duration::from_secs(1);
/// How long lanes may continue after the queue was closed: their outcomes cannot be reported any more.
const CLOSED_GRACE: Duration = Duration::from_secs(1);

struct Dispatcher {
    shared: Arc<Context>,
    inboxes: HashMap<AccountId, (Id, Arc<Inbox>)>,
    lanes: JoinSet<()>,
}

/// Runs until `stop` provides a deadline, or the queue is closed.
pub(super) async fn run(
    config: Config,
    parts: Parts,
    publisher: StatusPublisher,
    mut stop: oneshot::Receiver<Instant>,
) -> Result<StopReport, Error> {
    let Parts { queue, submitter, signers, accounts } = parts;
    let progress = Arc::new(ProgressReporter::new(queue.clone()));
    let leases = Arc::new(JobLeases::new(queue, &config));
    let accounts = Arc::new(AccountLeaseManager::new(accounts, config.account_ttl));
    let (releases, to_release) = mpsc::channel(MAX_PENDING_RELEASES);
    let mut background_tasks = background_tasks(&leases, &accounts, &progress, to_release);
    let shared = Arc::new(Context {
        config,
        submitter,
        signers,
        leases: leases.clone(),
        accounts: accounts.clone(),
        released: ReleasedJobs::default(),
        unsignable: UnsignableJobs::default(),
        caps: CallCaps::default(),
        progress,
        publisher,
        stopping: CancellationToken::new(),
    });
    let mut dispatcher = Dispatcher { shared, inboxes: HashMap::new(), lanes: JoinSet::new() };
    let mut standby = accounts.standby_changes();
    let (deadline, result) = loop {
        let pause = dispatcher.pause_until();
        // No branch may block: `stop` must be noticed at any time.
        tokio::select! {
            // An error means that the trader was dropped, and this task with it.
            at = &mut stop => break (at.unwrap_or_else(|_| Instant::now()), Ok(())),
            () = sleep_until(pause.unwrap_or_else(Instant::now)), if pause.is_some() => {}
            _ = standby.changed() => {}
            next = next(&leases, &releases), if pause.is_none() => match next {
                Some((lease, permit)) => dispatcher.route(lease, permit),
                None => break (Instant::now() + CLOSED_GRACE, Ok(())),
            },
            // Does not end the dispatcher even after a panic: the other operators' lanes continue.
            Some(ended) = dispatcher.lanes.join_next_with_id() => dispatcher.reap(ended),
            Some(ended) = background_tasks.join_next() => {
                let message = ended.err().map_or_else(|| "a task ended unexpectedly".into(), panic_text);
                tracing::error!(error = message, "a background task of the trade engine ended: leases expire");
                break (Instant::now(), Err(Error::Panicked { message }));
            }
        }
    };
    // Lanes first: what they hold until then cannot be released without racing their batches.
    dispatcher.drain(deadline).await;
    let report = release_everything(&leases, &accounts, deadline).await;
    result.map(|()| report)
}

/// Spawns the background tasks: heartbeats, account renewals, releases of jobs, progress reports.
fn background_tasks(
    leases: &Arc<JobLeases>,
    accounts: &Arc<AccountLeaseManager>,
    progress: &Arc<ProgressReporter>,
    to_release: mpsc::Receiver<Release>,
) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    tasks.spawn({
        let leases = leases.clone();
        async move { leases.run_heartbeats().await }
    });
    tasks.spawn({
        let leases = leases.clone();
        async move { leases.run_releases(to_release).await }
    });
    tasks.spawn({
        let accounts = accounts.clone();
        async move { accounts.run().await }
    });
    tasks.spawn({
        let progress = progress.clone();
        async move { progress.run().await }
    });
    tasks
}

/// The next job, with a reserved slot in the release channel, so that routing it never waits.
///
/// # Cancel safety
/// Safe: a cancelled call leases nothing.
async fn next(
    leases: &JobLeases,
    releases: &mpsc::Sender<Release>,
) -> Option<(Lease, mpsc::OwnedPermit<Release>)> {
    match releases.clone().reserve_owned().await {
        Ok(permit) => Some((leases.next().await?, permit)),
        // The channel's receiver has ended, which ends the dispatcher as well.
        Err(_) => std::future::pending().await,
    }
}

/// Releases everything that the trader still holds, until shortly after the deadline.
async fn release_everything(
    leases: &JobLeases,
    accounts: &AccountLeaseManager,
    deadline: Instant,
) -> StopReport {
    let (jobs, held_accounts) = (leases.count(), accounts.count());
    let end = deadline.max(Instant::now()) + Trader::STOP_GRACE;
    // Concurrently: a backend that does not answer must not hold up the other.
    let (jobs_back, accounts_back) =
        tokio::join!(timeout_at(end, leases.release_all()), timeout_at(end, accounts.release_all()),);
    let count = |all: usize, back: bool| if back { (all, 0) } else { (0, all) };
    let (jobs_released, jobs_left) = count(jobs, jobs_back.unwrap_or(false));
    let (_, accounts_left) = count(held_accounts, accounts_back.unwrap_or(false));
    if jobs_left + accounts_left > 0 {
        tracing::warn!(
            jobs = jobs_left,
            accounts = accounts_left,
            "the trader stopped without releasing all of its leases: they expire"
        );
    }
    StopReport { jobs_released, jobs_left, accounts_left }
}

impl Dispatcher {
    /// Until when nothing is leased.
    fn pause_until(&self) -> Option<Instant> {
        let full = self.shared.released.is_full().then(|| Instant::now() + FULL_PAUSE);
        full.max(self.shared.accounts.standby_until())
    }

    fn route(&mut self, lease: Lease, permit: mpsc::OwnedPermit<Release>) {
        let (operator, shared) = (lease.job.signer.operator, self.shared.clone());
        // It is here again: younger jobs need not wait for its return any more.
        shared.released.returned(operator, lease.id);
        if let Some(older) = shared.released.oldest(operator).filter(|older| older.id < lease.id) {
            let wait = older.due.saturating_duration_since(Instant::now()) + BEHIND_OLDER;
            return self.release_later(&lease, wait, permit);
        }
        let config = &shared.config;
        let lease = match self.inboxes.get(&operator) {
            Some((_, inbox)) => match inbox.push(lease, config).map_err(|refusal| *refusal) {
                Ok(()) => return,
                Err(Refusal::Full(lease)) => return self.release_later(&lease, FULL_LANE_DELAY, permit),
                Err(Refusal::Closed(lease)) => lease,
            },
            None => lease,
        };
        if !self.has_capacity() {
            return self.release_later(&lease, FULL_LANE_DELAY, permit);
        }
        let inbox = Arc::new(Inbox::default());
        // An empty lane accepts any job.
        let _ = inbox.push(lease, config);
        let lane = Lane::new(shared, operator, inbox.clone());
        let task = self.lanes.spawn(lane.run()).id();
        self.inboxes.insert(operator, (task, inbox));
    }

    /// Whether one more lane may be started. At the limit, a lane that holds nothing is closed for it: else operators
    /// that always have a job before their lanes are idle for long enough would keep out all others.
    fn has_capacity(&self) -> bool {
        let inboxes = || self.inboxes.values().map(|(_, inbox)| inbox);
        // Closed ones have ended, or do so at once.
        inboxes().filter(|inbox| !inbox.is_closed()).count() < self.shared.config.max_lanes
            || inboxes().any(|inbox| inbox.close_if_empty())
    }

    /// Releases a job for a while. Until it is leased again, no younger one of its operator is accepted.
    fn release_later(&self, lease: &Lease, after: Duration, permit: mpsc::OwnedPermit<Release>) {
        tracing::debug!(job = %lease.id, seconds = seconds(after), "the lane cannot take the job now; it is released for a while");
        let due = Instant::now() + after;
        let until = due + self.shared.config.lease_ttl;
        self.shared.released.track(lease.job.signer.operator, [lease.id], due, until);
        permit.send(Release { id: lease.id, token: lease.token, after });
    }

    fn reap(&mut self, ended: Result<(Id, ()), JoinError>) {
        let task = match &ended {
            Ok((task, ())) => *task,
            Err(e) => e.id(),
        };
        let of = self.inboxes.iter().find(|(_, (id, _))| *id == task).map(|(operator, _)| *operator);
        // A lane that was replaced already has no entry.
        let Some(operator) = of else { return };
        self.inboxes.remove(&operator);
        self.shared.publisher.edit(|status| drop(status.lanes.remove(&operator)));
        if let Err(e) = ended
            && e.is_panic()
        {
            let message = panic_text(e);
            tracing::error!(
                operator = %operator.address(), error = message, "a lane panicked; its jobs are leased again when their leases expire"
            );
            let due = Instant::now() + self.shared.config.lease_ttl;
            let jobs = self.shared.leases.abandon(operator);
            self.shared.released.track(operator, jobs, due, due + self.shared.config.lease_ttl);
        }
    }

    /// Lets the lanes finish what they have sent, until the deadline.
    async fn drain(&mut self, deadline: Instant) {
        self.shared.publisher.edit(|status| status.stopping = true);
        self.shared.stopping.cancel();
        while !self.lanes.is_empty() {
            tokio::select! {
                Some(ended) = self.lanes.join_next_with_id() => self.reap(ended),
                () = sleep_until(deadline) => {
                    // Aborted tasks end at their next await.
                    self.lanes.shutdown().await;
                    self.shared.publisher.edit(|status| status.lanes.clear());
                }
            }
        }
    }
}

/// The message of a task's panic.
pub(super) fn panic_text(error: JoinError) -> String {
    match error.try_into_panic() {
        Ok(panic) => match panic.downcast::<String>() {
            Ok(text) => *text,
            Err(other) => other.downcast::<&str>().map_or_else(|_| "no message".into(), |t| (*t).into()),
        },
        Err(cancelled) => cancelled.to_string(),
    }
}
