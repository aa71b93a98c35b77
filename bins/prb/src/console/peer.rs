//! [`Peer`]: the fleet of a lifecycle manager among the peers, over its Walkie calls.
//!
//! A manager of this implementation reports everything that is shown of a local one
//! (`prb_walkie::proto::detail`). An original's calls lack reasons, goals, confidence levels and the pools'
//! on-chain state, which are unknown then; its lags are relative to the newest block of the data providers of
//! the same chain.

use std::{
    collections::HashMap,
    sync::{
        Arc, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use axum::http::StatusCode;
use prb_core::{
    inventory::Limits,
    text::duration,
    worker::{Command, Event},
};
use prb_walkie::{
    manage::detail::WorkerDetail,
    node::{Node, PeerId},
    proto::{self, ErrorType, Identity, QueryIdentity, Role, db, detail as wire, lifecycle as lm},
    rpc,
};
use tokio::{sync::Mutex, time::timeout_at};
use uuid::Uuid;

mod detail;
mod values;
mod views;

use values::{pool_value, worker_value};
use views::Views;

use super::{
    backend::{Backend, CommandResult, Edit, Error, Preview},
    format,
    history::{self, History},
    view::{FleetView, Tip},
};
use crate::pages::time_left;

/// Most managers whose recent measurements are kept; beyond, those of the one that was viewed least recently are dropped.
const MAX_VIEWED: usize = 256;
/// Most data providers that are asked for the tip of an original's chain, and how long they may take: some may never
/// answer.
const TIP_PROVIDERS: usize = 32;
const TIP_TIMEOUT: Duration = Duration::from_secs(2);
/// Most workers and pools of a manager that are shown: four times the limits of ours.
const MAX_WORKERS: usize = 4 * Limits::WORKERS;
const MAX_POOLS: usize = 4 * Limits::POOLS;
/// The commands that the original's Walkie calls have.
const COMMANDS: [Command; 3] = [Command::Restart, Command::RegisterAgain, Command::Kick];

/// A fleet among the peers.
#[derive(Debug)]
pub struct Peer {
    node: Node,
    peer: PeerId,
    /// Locked during a request to the peer, so that concurrent viewers share one request.
    asking: Mutex<()>,
    views: Arc<Views>,
    /// The number of changes made here. A view requested before a change may not include it.
    changes: std::sync::Mutex<u64>,
    history: Arc<History>,
    /// Whether the peer supports all commands and their preview.
    takes_all: AtomicBool,
}

/// The fleets of peers that have been viewed.
#[derive(Debug, Default)]
pub(super) struct Peers {
    /// With the time of their last request.
    viewed: std::sync::Mutex<HashMap<PeerId, (Instant, Arc<Peer>)>>,
    views: Arc<Views>,
}

impl Peers {
    /// Returns the fleet of a known lifecycle manager, and its recent measurements.
    pub(super) fn get(&self, node: &Node, name: &str) -> Option<(Arc<dyn Backend>, Arc<History>)> {
        let peer: PeerId = name.parse().ok()?;
        let table = Arc::clone(&node.peers().borrow());
        table.get(&peer).filter(|peer| peer.role == Role::LifecycleManager)?;
        let mut viewed = self.viewed.lock().unwrap_or_else(PoisonError::into_inner);
        // Drops fleets of peers that the node no longer knows.
        viewed.retain(|peer, _| table.get(peer).is_some());
        // Nobody looks at an old view any more.
        self.views.drop_old();
        let made = || {
            let (views, takes_all) = (Arc::clone(&self.views), AtomicBool::default());
            let (asking, changes, history) = (Mutex::default(), std::sync::Mutex::default(), Arc::default());
            Arc::new(Peer { node: node.clone(), peer, asking, views, changes, history, takes_all })
        };
        let (at, found) = viewed.entry(peer).or_insert_with(|| (Instant::now(), made()));
        *at = Instant::now();
        let (backend, history) = (Arc::clone(found), Arc::clone(&found.history));
        if viewed.len() > MAX_VIEWED
            && let Some(oldest) = viewed.iter().min_by_key(|(_, (at, _))| *at).map(|(peer, _)| *peer)
        {
            viewed.remove(&oldest);
        }
        Some((backend, history))
    }
}

impl Peer {
    async fn view(&self) -> Result<FleetView, Error> {
        let client = self.node.client(self.peer);
        let query = wire::StatusQuery { detail: true, ..wire::StatusQuery::default() };
        let (update, pools) =
            tokio::join!(with_timeout(client.worker_detail(query)), with_timeout(client.list_pools()));
        let (update, pools) = (update?, pools?.pools);
        check_size(update.worker_states.len(), MAX_WORKERS, "workers")?;
        check_size(pools.len(), MAX_POOLS, "pools")?;
        let tip = match &update.detail {
            Some(fleet) => Tip::of(&fleet.heights()),
            None => self.tip().await,
        };
        // A view takes some kilobytes per worker, too much to build on an executor's thread.
        let view = tokio::task::spawn_blocking(move || detail::fleet_view(update, &pools, tip));
        let view = view.await.map_err(|error| {
            Error::new(StatusCode::INTERNAL_SERVER_ERROR, format!("the workers cannot be read: {error}"))
        })?;
        // Relaxed, because no other data depends on it. It is false until the first view, which limits the
        // commands to those of every manager.
        self.takes_all.store(view.takes_all, Relaxed);
        Ok(view.fleet)
    }

    /// Returns the heights of the best data provider of the manager's chain, of those that answer soon.
    async fn tip(&self) -> Tip {
        let table = self.node.peers().borrow().clone();
        let chain = table.get(&self.peer).map(|peer| peer.chain_identity.clone()).unwrap_or_default();
        let mut providers: Vec<_> = table
            .iter()
            .filter(|peer| {
                peer.role == Role::DataProviderInt && peer.connected && peer.chain_identity == chain
            })
            .map(|peer| (peer.round_trip.unwrap_or(Duration::MAX), peer.peer_id))
            .collect();
        providers.sort_unstable();
        let limit = time_left().min(TIP_TIMEOUT);
        let query = providers.into_iter().take(TIP_PROVIDERS).map(|(_, peer)| {
            let client = self.node.client(peer);
            async move { tokio::time::timeout(limit, client.data_provider_info()).await.ok()?.ok() }
        });
        let infos: Vec<_> = futures::future::join_all(query).await.into_iter().flatten().collect();
        let newest = |field: fn(&proto::data_provider::Info) -> i32| {
            infos.iter().filter_map(|info| u32::try_from(field(info)).ok()).max()
        };
        Tip {
            relay: newest(|info| info.parent_committed_height),
            relay_target: newest(|info| info.parent_target),
            para: newest(|info| info.para_committed_height),
            para_target: newest(|info| info.para_target),
        }
    }

    /// Sends a command or its preview to a manager of this implementation.
    async fn send_command(
        &self,
        ids: &[Uuid],
        command: Command,
        dry_run: bool,
    ) -> Result<(Vec<Preview>, Option<String>), Error> {
        let ids = ids.iter().map(Uuid::to_string).collect();
        let request = wire::CommandRequest { ids, command: command.to_string(), dry_run };
        let client = self.node.client(self.peer);
        let call = client.command_workers(request);
        let response = if dry_run { with_timeout(call).await? } else { change(call).await? };
        let answer = |answer: wire::CommandAnswer| {
            let id = answer.uuid.parse().ok()?;
            Some((id, if answer.refused { Err(answer.text) } else { Ok(answer.text) }))
        };
        let not_stored = Some(response.not_stored).filter(|reason| !reason.is_empty());
        Ok((response.answers.into_iter().filter_map(answer).collect(), not_stored))
    }

    fn changes(&self) -> std::sync::MutexGuard<'_, u64> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the next viewer request a new view. Does not block.
    fn forget(&self) {
        let mut changes = self.changes();
        *changes += 1;
        self.views.forget(self.peer);
    }

    /// Returns the last view, or a new one if it is too old, within a limit.
    async fn shared_view(&self, limit: Duration) -> Result<Arc<FleetView>, Error> {
        let end = tokio::time::Instant::now() + limit;
        // Taken before the cache is read: who waited for it finds what the other request got.
        let _asking = match (self.asking.try_lock(), self.views.failure(self.peer)) {
            (Ok(asking), _) => asking,
            // Another request waits for a peer that has failed: it must not hold up every page.
            (Err(_), Some(error)) => return Err(error),
            (Err(_), None) => timeout_at(end, self.asking.lock()).await.map_err(|_| timed_out(limit))?,
        };
        if let Some(answer) = self.views.get(self.peer) {
            return answer;
        }
        let before = *self.changes();
        let answer = timeout_at(end, self.view()).await.unwrap_or_else(|_| Err(timed_out(limit)));
        let answer = answer.map(Arc::new);
        let now = history::now();
        if let Ok(view) = &answer
            && self.history.is_due(now)
        {
            self.history.record(now, view, view.jobs.as_ref());
        }
        let changes = self.changes();
        // A change was made during the request: the view may be from before it and is not shared.
        if *changes == before {
            self.views.put(self.peer, answer.clone());
        }
        answer
    }

    /// Checks that an entry has not changed since it was read. Walkie's calls carry no version, so another edit
    /// between this check and the edit is not detected.
    async fn unchanged(&self, edit: &Edit, version: &str) -> Result<(), Error> {
        match edit {
            Edit::PutPool(None, _) | Edit::PutWorker(None, _) => return Ok(()),
            Edit::PutPool(Some(id), _) | Edit::RemovePool(id) => {
                // The version covers fields that only the detail has.
                let fleet = self.view().await?;
                let pool = fleet.pools.iter().find(|pool| pool.id == *id);
                let pool = pool.ok_or_else(|| Error::not_found("the manager has no such pool"))?;
                if pool.version != version {
                    return Err(Error::changed());
                }
                // Its workers name it by its number.
                if !matches!(edit, Edit::PutPool(_, value) if value.pid.0 == pool.pid) {
                    let of_pool =
                        fleet.workers.iter().filter(|worker| worker.entry.pid.0 == pool.pid).count();
                    return if of_pool == 0 { Ok(()) } else { Err(Error::in_use(of_pool)) };
                }
            }
            Edit::PutWorker(Some(id), _) | Edit::RemoveWorker(id) => {
                // The original's calls lack fields of the entry, so the view is compared.
                let ids = vec![id.to_string()];
                let query = wire::StatusQuery { ids, detail: true, ..wire::StatusQuery::default() };
                let update = with_timeout(self.node.client(self.peer).worker_detail(query)).await?;
                let read = detail::fleet_view(update, &[], Tip::default());
                let worker = read.fleet.worker(*id);
                let worker = worker.ok_or_else(|| Error::not_found("the manager has no such worker"))?;
                if worker.version() != version {
                    return Err(Error::changed());
                }
            }
        }
        Ok(())
    }
}

#[async_trait]
impl Backend for Peer {
    async fn fleet(&self) -> Result<Arc<FleetView>, Error> {
        self.shared_view(time_left()).await
    }

    async fn events(&self, id: Uuid) -> Result<Option<Vec<Event>>, Error> {
        let query = wire::StatusQuery { ids: vec![id.to_string()], detail: true, events: true };
        let update = with_timeout(self.node.client(self.peer).worker_detail(query)).await?;
        let worker = update.detail.and_then(|fleet| fleet.workers.into_iter().next());
        Ok(worker.map(|worker| WorkerDetail::from(worker).events))
    }

    fn commands(&self) -> &'static [Command] {
        if self.takes_all.load(Relaxed) { &Command::ALL } else { &COMMANDS }
    }

    async fn preview(&self, ids: &[Uuid], command: Command) -> Result<Vec<Preview>, Error> {
        if self.takes_all.load(Relaxed) {
            return Ok(self.send_command(ids, command, true).await?.0);
        }
        let fleet = self.fleet().await?;
        let preview = |id: &Uuid| {
            let answer = match fleet.worker(*id) {
                None => Err("the manager does not know it any more".to_owned()),
                Some(worker) if !worker.entry.enabled => Err("it is disabled".to_owned()),
                Some(_) => Ok(effect(command).to_owned()),
            };
            (*id, answer)
        };
        Ok(ids.iter().map(preview).collect())
    }

    async fn command(&self, ids: &[Uuid], command: Command) -> Result<CommandResult, Error> {
        if self.takes_all.load(Relaxed) {
            let (answers, not_stored) = self.send_command(ids, command, false).await?;
            self.forget();
            let refused: Vec<_> = answers.iter().filter_map(|(_, answer)| answer.clone().err()).collect();
            return Ok(CommandResult { taken: answers.len() - refused.len(), refused, not_stored });
        }
        let client = self.node.client(self.peer);
        let request = lm::UuidQueryRequest { ids: ids.iter().map(Uuid::to_string).collect() };
        let done = match command {
            Command::Restart => change(client.restart_workers(request)).await?,
            Command::RegisterAgain => change(client.refresh_ra_and_restart_workers(request)).await?,
            Command::Kick => change(client.kick_workers(request)).await?,
            other => return Err(Error::conflict(format!("no call of Walkie has the command {other}"))),
        };
        self.forget();
        Ok(CommandResult { taken: done.worker_states.len(), ..CommandResult::default() })
    }

    fn read_only(&self) -> Option<&str> {
        None
    }

    async fn edit(&self, edit: Edit, version: &str) -> Result<(), Error> {
        self.unchanged(&edit, version).await?;
        let client = self.node.client(self.peer);
        let id = |id: Uuid| Some(QueryIdentity { identity: Some(Identity::Uuid(id.to_string())) });
        match edit {
            Edit::PutPool(None, value) => {
                change(client.create_pools(lm::CreatePool { pools: vec![pool_value(&value)] }))
                    .await
                    .map(drop)
            }
            Edit::PutPool(Some(of), value) => {
                let items = vec![lm::UpdatePoolItem { id: id(of), pool: Some(pool_value(&value)) }];
                change(client.update_pools(lm::UpdatePool { items })).await.map(drop)
            }
            Edit::RemovePool(of) => {
                // The original has no call to remove an entry, but a flag in its update.
                let pool = Some(db::Pool { deleted: true, ..db::Pool::default() });
                let items = vec![lm::UpdatePoolItem { id: id(of), pool }];
                change(client.update_pools(lm::UpdatePool { items })).await.map(drop)
            }
            Edit::PutWorker(None, value) => {
                let workers = vec![worker_value(&value)];
                change(client.create_workers(lm::CreateWorker { workers })).await.map(drop)
            }
            Edit::PutWorker(Some(of), value) => {
                let items = vec![lm::UpdateWorkerItem { id: id(of), worker: Some(worker_value(&value)) }];
                change(client.update_workers(lm::UpdateWorker { items })).await.map(drop)
            }
            Edit::RemoveWorker(of) => {
                let worker = Some(db::Worker { deleted: true, ..db::Worker::default() });
                let items = vec![lm::UpdateWorkerItem { id: id(of), worker }];
                change(client.update_workers(lm::UpdateWorker { items })).await.map(drop)
            }
        }?;
        self.forget();
        Ok(())
    }
}

const fn effect(command: Command) -> &'static str {
    match command {
        Command::Restart => "clears recorded failures and observes the worker again",
        Command::RegisterAgain => "registers again with a fresh attestation",
        _ => "pRuntime exits; its supervisor starts it again",
    }
}

/// Refuses what no manager has, before the memory for its view is used.
fn check_size(count: usize, most: usize, what: &str) -> Result<(), Error> {
    if count <= most {
        return Ok(());
    }
    let text = format!("the manager names {count} {what}; more than {most} are not shown");
    Err(Error::new(StatusCode::BAD_GATEWAY, text))
}

/// Limits a call to the rest of the request's time, so that the page is still answered in time.
pub(super) async fn with_timeout<T>(call: impl Future<Output = Result<T, rpc::Error>>) -> Result<T, Error> {
    let limit = time_left();
    match tokio::time::timeout(limit, call).await {
        Ok(answer) => answer.map_err(refused),
        Err(_) => Err(timed_out(limit)),
    }
}

/// The same for a call that makes a change: without an answer, the change may have been made.
async fn change<T>(call: impl Future<Output = Result<T, rpc::Error>>) -> Result<T, Error> {
    with_timeout(call).await.map_err(|error| match error.status {
        StatusCode::GATEWAY_TIMEOUT | StatusCode::BAD_GATEWAY => {
            let text = "the change may have been made nevertheless: check before you repeat it";
            Error::new(error.status, format!("{}; {text}", error.message))
        }
        _ => error,
    })
}

fn timed_out(limit: Duration) -> Error {
    let text = format!("the peer has not answered within {}", duration(limit));
    Error::new(StatusCode::GATEWAY_TIMEOUT, text)
}

fn refused(error: rpc::Error) -> Error {
    let status = match (&error, error.kind()) {
        (rpc::Error::UnknownPeer { .. }, _) | (_, Some(ErrorType::NotFound)) => StatusCode::NOT_FOUND,
        (_, Some(ErrorType::Duplicated)) => StatusCode::CONFLICT,
        (_, Some(ErrorType::Unauthorized)) => {
            let text = "the manager does not let this monitor manage it: give both the same PRB_WALKIE_PSK, or put \
                        the monitor's peer id on the manager's PRB_WALKIE_WHITELIST or its network on the \
                        manager's PRB_WALKIE_MANAGEMENT_NETWORKS";
            return Error::new(StatusCode::FORBIDDEN, text);
        }
        (rpc::Error::Refused { .. }, _) => StatusCode::BAD_REQUEST,
        (rpc::Error::TimedOut { .. }, _) => StatusCode::GATEWAY_TIMEOUT,
        _ => StatusCode::BAD_GATEWAY,
    };
    let message = match &error {
        rpc::Error::Refused { source, .. } => source.message.clone(),
        error => format::chain(error),
    };
    Error::new(status, message)
}
