//! Takes jobs from the queue, gives each to its operator's lane, and keeps the lanes.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::{
    sync::{mpsc, oneshot},
    task::{Id, JoinError, JoinSet},
    time::{Instant, sleep_until, timeout_at},
};
use tokio_util::sync::CancellationToken;

use super::{
    Config, Error, Parts, StopReport, Trader,
    account_keeper::AccountKeeper,
    call_limits::Caps,
    inbox::{Inbox, Refusal},
    job_leases::{JobLeases, Return},
    lane::{Context, Lane},
    order::{BEHIND_OLDER, Order},
    reports::Reports,
    status::Board,
};
use crate::{primitives::AccountId, queue::Lease};

/// When a job comes again that its lane had no room for.
const NO_ROOM_FOR: Duration = Duration::from_secs(5);
/// Jobs that may wait to be given back; above it nothing is leased.
const MAX_RETURNS: usize = 1_024;
/// Pause where too many jobs were given back.
const FULL_PAUSE: Duration = Duration::from_secs(1);
/// How long lanes may go on when the queue was closed: there is nobody left to tell.
const CLOSED_GRACE: Duration = Duration::from_secs(1);

struct Dispatcher {
    shared: Arc<Context>,
    inboxes: HashMap<AccountId, (Id, Arc<Inbox>)>,
    lanes: JoinSet<()>,
}

/// Runs until `stop` names a deadline, or the queue is closed.
pub(super) async fn run(
    config: Config,
    parts: Parts,
    board: Board,
    mut stop: oneshot::Receiver<Instant>,
) -> Result<StopReport, Error> {
    let Parts { queue, submitter, signers, accounts } = parts;
    let reports = Arc::new(Reports::new(queue.clone()));
    let leases = Arc::new(JobLeases::new(queue, &config));
    let accounts = Arc::new(AccountKeeper::new(accounts, config.account_ttl));
    let (returns, to_return) = mpsc::channel(MAX_RETURNS);
    let mut keepers = keepers(&leases, &accounts, &reports, to_return);
    let shared = Arc::new(Context {
        config,
        submitter,
        signers,
        leases: leases.clone(),
        accounts: accounts.clone(),
        order: Order::default(),
        caps: Caps::default(),
        reports,
        board,
        stopping: CancellationToken::new(),
    });
    let mut dispatcher = Dispatcher { shared, inboxes: HashMap::new(), lanes: JoinSet::new() };
    let mut spare = accounts.spare();
    let (deadline, result) = loop {
        let pause = dispatcher.pause_until();
        // Nothing that this awaits may hang: `stop` must be heard.
        tokio::select! {
            // An error means that the trader was dropped, and this task with it.
            at = &mut stop => break (at.unwrap_or_else(|_| Instant::now()), Ok(())),
            () = sleep_until(pause.unwrap_or_else(Instant::now)), if pause.is_some() => {}
            _ = spare.changed() => {}
            next = next(&leases, &returns), if pause.is_none() => match next {
                Some((lease, place)) => dispatcher.route(lease, place),
                None => break (Instant::now() + CLOSED_GRACE, Ok(())),
            },
            Some(ended) = dispatcher.lanes.join_next_with_id() => dispatcher.reap(ended),
            Some(ended) = keepers.join_next() => {
                let message = ended.err().map_or_else(|| "a task ended early".into(), panic_text);
                tracing::error!(message, "the trade engine's heartbeats ended");
                break (Instant::now(), Err(Error::Panicked { message }));
            }
        }
    };
    dispatcher.drain(deadline).await;
    let report = give_all_back(&leases, &accounts, deadline).await;
    result.map(|()| report)
}

/// The tasks that run beside the lanes: heartbeats, renewals, jobs given back, progress.
fn keepers(
    leases: &Arc<JobLeases>,
    accounts: &Arc<AccountKeeper>,
    reports: &Arc<Reports>,
    to_return: mpsc::Receiver<Return>,
) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    tasks.spawn({
        let leases = leases.clone();
        async move { leases.keep().await }
    });
    tasks.spawn({
        let leases = leases.clone();
        async move { leases.keep_giving_back(to_return).await }
    });
    tasks.spawn({
        let accounts = accounts.clone();
        async move { accounts.keep().await }
    });
    tasks.spawn({
        let reports = reports.clone();
        async move { reports.keep().await }
    });
    tasks
}

/// The next job, and a place among those that are given back, so that routing it never waits.
///
/// # Cancel safety
/// Safe: a cancelled call leases nothing.
async fn next(
    leases: &JobLeases,
    returns: &mpsc::Sender<Return>,
) -> Option<(Lease, mpsc::OwnedPermit<Return>)> {
    match returns.clone().reserve_owned().await {
        Ok(place) => Some((leases.next().await?, place)),
        // Its keeper has ended, and that ends the dispatcher.
        Err(_) => std::future::pending().await,
    }
}

/// Gives back what the trader still has, until a little after the deadline.
async fn give_all_back(leases: &JobLeases, accounts: &AccountKeeper, deadline: Instant) -> StopReport {
    let (jobs, held_accounts) = (leases.count(), accounts.count());
    let end = deadline.max(Instant::now()) + Trader::STOP_GRACE;
    // Side by side: neither waits for a backend that does not answer the other.
    let (jobs_back, accounts_back) =
        tokio::join!(timeout_at(end, leases.give_back_all()), timeout_at(end, accounts.release_all()),);
    let count = |all: usize, back: bool| if back { (all, 0) } else { (0, all) };
    let (handed_back, jobs_left) = count(jobs, jobs_back.unwrap_or(false));
    let (_, accounts_left) = count(held_accounts, accounts_back.unwrap_or(false));
    if jobs_left + accounts_left > 0 {
        tracing::warn!(
            jobs = jobs_left,
            accounts = accounts_left,
            "the trader stopped without giving back its leases: they run out"
        );
    }
    StopReport { handed_back, jobs_left, accounts_left }
}

impl Dispatcher {
    /// Until when nothing is leased.
    fn pause_until(&self) -> Option<Instant> {
        let full = self.shared.order.is_full().then(|| Instant::now() + FULL_PAUSE);
        full.max(self.shared.accounts.spare_until())
    }

    fn route(&mut self, lease: Lease, place: mpsc::OwnedPermit<Return>) {
        let (operator, shared) = (lease.job.signer.operator, self.shared.clone());
        shared.order.come_back(operator, lease.id);
        if let Some(older) = shared.order.oldest(operator).filter(|older| older.id < lease.id) {
            let wait = older.due.saturating_duration_since(Instant::now()) + BEHIND_OLDER;
            return self.put_off(&lease, wait, place);
        }
        let config = &shared.config;
        let lease = match self.inboxes.get(&operator) {
            Some((_, inbox)) => match inbox.push(lease, config).map_err(|refusal| *refusal) {
                Ok(()) => return,
                Err(Refusal::Full(lease)) => return self.put_off(&lease, NO_ROOM_FOR, place),
                Err(Refusal::Closed(lease)) => lease,
            },
            None => lease,
        };
        // A lane that has ended but was not reaped is replaced and takes no more room.
        if !self.inboxes.contains_key(&operator) && self.inboxes.len() >= config.max_lanes {
            return self.put_off(&lease, NO_ROOM_FOR, place);
        }
        let inbox = Arc::new(Inbox::default());
        // An empty lane takes any job.
        let _ = inbox.push(lease, config);
        let lane = Lane::new(shared, operator, inbox.clone());
        let task = self.lanes.spawn(lane.run()).id();
        self.inboxes.insert(operator, (task, inbox));
    }

    /// Gives a job back for a while. Until it is back, no younger one of its operator is taken.
    fn put_off(&self, lease: &Lease, after: Duration, place: mpsc::OwnedPermit<Return>) {
        tracing::debug!(job = %lease.id, seconds = after.as_secs_f64(), "the lane does not take the job now, given back for a while");
        let due = Instant::now() + after;
        let until = due + self.shared.config.lease_ttl;
        self.shared.order.leave(lease.job.signer.operator, [lease.id], due, until);
        place.send(Return { id: lease.id, token: lease.token, after });
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
        self.shared.board.edit(|status| drop(status.lanes.remove(&operator)));
        if let Err(e) = ended
            && e.is_panic()
        {
            let message = panic_text(e);
            tracing::error!(
                %operator, message, "a lane panicked; its jobs come again when their leases run out"
            );
            let due = Instant::now() + self.shared.config.lease_ttl;
            let jobs = self.shared.leases.abandon(operator);
            self.shared.order.leave(operator, jobs, due, due + self.shared.config.lease_ttl);
        }
    }

    /// Lets the lanes end what they have sent, until the deadline.
    async fn drain(&mut self, deadline: Instant) {
        self.shared.board.edit(|status| status.stopping = true);
        self.shared.stopping.cancel();
        while !self.lanes.is_empty() {
            tokio::select! {
                Some(ended) = self.lanes.join_next_with_id() => self.reap(ended),
                () = sleep_until(deadline) => {
                    // Aborted tasks end at their next await.
                    self.lanes.shutdown().await;
                    self.shared.board.edit(|status| status.lanes.clear());
                }
            }
        }
    }
}

/// What a task said when it panicked.
pub(super) fn panic_text(error: JoinError) -> String {
    match error.try_into_panic() {
        Ok(panic) => match panic.downcast::<String>() {
            Ok(text) => *text,
            Err(other) => other.downcast::<&str>().map_or_else(|_| "no message".into(), |t| (*t).into()),
        },
        Err(cancelled) => cancelled.to_string(),
    }
}
