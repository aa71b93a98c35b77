//! Takes jobs from the queue, gives each to its operator's lane, and keeps the lanes.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::{
    sync::oneshot,
    task::{Id, JoinError, JoinSet},
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    Config, Error, Parts, StopReport,
    accounts::AccountLeases,
    holds::Holds,
    inbox::{Inbox, Refusal},
    lane::{Context, Lane},
    leases::Leases,
    reports::Reports,
    status::Board,
};
use crate::{primitives::AccountId, queue::Lease};

/// When a job comes again that its lane had no room for.
const HAND_BACK_FOR: Duration = Duration::from_secs(5);
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
    accounts: Arc<dyn AccountLeases>,
    board: Board,
    mut stop: oneshot::Receiver<Instant>,
) -> Result<StopReport, Error> {
    let Parts { queue, submitter, vault } = parts;
    let reports = Arc::new(Reports::new(queue.clone()));
    let leases = Arc::new(Leases::new(queue, &config));
    let holds = Arc::new(Holds::new(accounts, config.account_ttl));
    let stopping = CancellationToken::new();
    let mut keeper = JoinSet::new();
    keeper.spawn({
        let leases = leases.clone();
        async move { leases.keep().await }
    });
    keeper.spawn({
        let holds = holds.clone();
        async move { holds.keep().await }
    });
    keeper.spawn({
        let reports = reports.clone();
        async move { reports.keep().await }
    });
    let mut spare = holds.spare();
    let shared = Arc::new(Context {
        config,
        submitter,
        vault,
        leases: leases.clone(),
        holds: holds.clone(),
        reports,
        board,
        stopping,
    });
    let mut dispatcher = Dispatcher { shared, inboxes: HashMap::new(), lanes: JoinSet::new() };
    let (deadline, result) = loop {
        let pause = holds.spare_until();
        tokio::select! {
            // An error means that the trader was dropped, and this task with it.
            at = &mut stop => break (at.unwrap_or_else(|_| Instant::now()), Ok(())),
            () = sleep_until(pause.unwrap_or_else(Instant::now)), if pause.is_some() => {}
            _ = spare.changed() => {}
            lease = leases.next(), if pause.is_none() => match lease {
                Some(lease) => dispatcher.route(lease).await,
                None => break (Instant::now() + CLOSED_GRACE, Ok(())),
            },
            Some(ended) = dispatcher.lanes.join_next_with_id() => dispatcher.reap(ended),
            _ = keeper.join_next() => {
                tracing::error!("the trade engine's heartbeats ended");
                break (Instant::now(), Err(Error::Panicked));
            }
        }
    };
    dispatcher.drain(deadline).await;
    holds.release_all().await;
    let handed_back = leases.hand_back_all().await;
    result.map(|()| StopReport { handed_back })
}

impl Dispatcher {
    async fn route(&mut self, lease: Lease) {
        let operator = lease.job.signer.operator;
        let config = &self.shared.config;
        let lease = match self.inboxes.get(&operator) {
            Some((_, inbox)) => match inbox.push(lease, config).map_err(|refusal| *refusal) {
                Ok(()) => return,
                Err(Refusal::Full(lease)) => return self.put_off(&lease).await,
                Err(Refusal::Closed(lease)) => lease,
            },
            None => lease,
        };
        // A lane that has ended but was not reaped is replaced and takes no more room.
        if !self.inboxes.contains_key(&operator) && self.inboxes.len() >= config.max_lanes {
            return self.put_off(&lease).await;
        }
        let inbox = Arc::new(Inbox::default());
        // An empty lane takes any job.
        let _ = inbox.push(lease, config);
        let lane = Lane::new(self.shared.clone(), operator, inbox.clone());
        let task = self.lanes.spawn(lane.run()).id();
        self.inboxes.insert(operator, (task, inbox));
    }

    async fn put_off(&self, lease: &Lease) {
        tracing::debug!(job = %lease.id, "no room in the lane, handed back for a while");
        self.shared.leases.hand_back(&[(lease.id, lease.token)], HAND_BACK_FOR).await;
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
        if ended.is_err_and(|e| e.is_panic()) {
            tracing::error!(%operator, "a lane panicked; its jobs come again when their leases run out");
            self.shared.leases.abandon(operator);
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
                    self.lanes.shutdown().await;
                    self.shared.board.edit(|status| status.lanes.clear());
                }
            }
        }
    }
}
