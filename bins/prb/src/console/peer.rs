//! [`Peer`]: the fleet of a lifecycle manager among the peers, over its Walkie calls.
//!
//! What the calls do not carry (reasons, goals, confidence levels, the pools' state on chain) is unknown here;
//! lags are against the newest block of the data providers of the same chain.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use async_trait::async_trait;
use axum::http::StatusCode;
use prb_core::{
    inventory::Worker,
    manage::{PoolValue, WorkerValue},
    primitives::{AccountId, PoolId, WorkerKey},
    worker::{Command, Event, State},
};
use prb_walkie::{
    node::{Node, PeerId},
    proto::{self, ErrorType, FullAccount, Identity, QueryIdentity, Role, db, lifecycle as lm},
    rpc,
};
use secrecy::ExposeSecret;
use tokio::sync::Mutex;
use uuid::Uuid;

use super::{
    backend::{Backend, Commanded, Edit, Error, Preview},
    history::{self, History},
    session,
    view::{FleetView, PoolView, Tip, WorkerView},
    words,
};
use crate::{pages::time_left, version};

/// How long a view is shared by those who look.
const MAX_AGE: Duration = Duration::from_millis(1900);
/// What a peer takes over Walkie.
const COMMANDS: [Command; 3] = [Command::Restart, Command::RegisterAgain, Command::Kick];

/// A fleet among the peers.
#[derive(Debug)]
pub struct Peer {
    node: Node,
    peer: PeerId,
    /// Held while the peer is asked, so that those who look at once ask once.
    asking: Mutex<()>,
    last: std::sync::Mutex<Last>,
    history: Arc<History>,
}

/// The last view of a peer's fleet.
#[derive(Debug, Default)]
struct Last {
    view: Option<(Instant, Arc<FleetView>)>,
    /// How many changes were made here: a view that was asked for before one does not show it.
    changes: u64,
}

/// The peers' fleets that somebody has looked at.
#[derive(Debug, Default)]
pub(super) struct Peers(std::sync::Mutex<HashMap<PeerId, Arc<Peer>>>);

impl Peers {
    /// The fleet of a lifecycle manager that is known, and what it was like lately.
    pub(super) fn get(&self, node: &Node, name: &str) -> Option<(Arc<dyn Backend>, Arc<History>)> {
        let peer: PeerId = name.parse().ok()?;
        let table = node.peers();
        let table = table.borrow();
        table.get(&peer).filter(|peer| peer.role == Role::LifecycleManager)?;
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // No more than the node remembers.
        all.retain(|peer, _| table.get(peer).is_some());
        let made = || {
            let (asking, last, history) = (Mutex::default(), std::sync::Mutex::default(), Arc::default());
            Arc::new(Peer { node: node.clone(), peer, asking, last, history })
        };
        let found = Arc::clone(all.entry(peer).or_insert_with(made));
        let history = Arc::clone(&found.history);
        Some((found, history))
    }
}

impl Peer {
    async fn view(&self) -> Result<FleetView, Error> {
        let client = self.node.client(self.peer);
        let everybody = lm::UuidQueryRequest::default();
        let (states, pools, tip) =
            tokio::join!(patient(client.worker_status(everybody)), patient(client.list_pools()), self.tip());
        let states = states?.worker_states;
        // Some kilobytes of JSON a worker.
        let workers = tokio::task::spawn_blocking(move || {
            let mut workers: Vec<_> =
                states.into_iter().filter_map(|state| worker_view(state, tip.para_target)).collect();
            workers.sort_by(|a: &WorkerView, b| a.entry.name.cmp(&b.entry.name));
            workers
        });
        let workers = workers.await.map_err(|error| {
            Error::new(StatusCode::INTERNAL_SERVER_ERROR, format!("the workers cannot be read: {error}"))
        })?;
        let mut pools: Vec<_> = pools?.pools.into_iter().filter_map(|pool| pool_view(&pool)).collect();
        pools.sort_by_key(|pool| pool.pid);
        Ok(FleetView { workers, pools, tip, chain_block: None, notes: Vec::new() })
    }

    /// What the best data provider of the manager's chain has.
    async fn tip(&self) -> Tip {
        let table = self.node.peers().borrow().clone();
        let chain = table.get(&self.peer).map(|peer| peer.chain_identity.clone()).unwrap_or_default();
        let providers = table.iter().filter(|peer| {
            peer.role == Role::DataProviderInt && peer.connected && peer.chain_identity == chain
        });
        let asked = providers.map(|peer| {
            let client = self.node.client(peer.peer_id);
            async move { tokio::time::timeout(time_left(), client.data_provider_info()).await.ok()?.ok() }
        });
        let infos: Vec<_> = futures::future::join_all(asked).await.into_iter().flatten().collect();
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

    fn last(&self) -> std::sync::MutexGuard<'_, Last> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the next who looks ask the peer again. Waits for nobody.
    fn forget(&self) {
        let mut last = self.last();
        last.view = None;
        last.changes += 1;
    }

    /// The last view, or a new one where it is too old.
    async fn shared_view(&self) -> Result<Arc<FleetView>, Error> {
        let _asking = self.asking.lock().await;
        let changes = {
            let last = self.last();
            match &last.view {
                Some((at, view)) if at.elapsed() < MAX_AGE => return Ok(Arc::clone(view)),
                _ => last.changes,
            }
        };
        let view = Arc::new(self.view().await?);
        let now = history::now();
        if self.history.is_due(now) {
            self.history.record(now, &view, None);
        }
        let mut last = self.last();
        if last.changes == changes {
            last.view = Some((Instant::now(), Arc::clone(&view)));
        }
        Ok(view)
    }

    /// Sees that an entry is as it was read. Walkie's calls carry no version: another edit can come between this and
    /// the edit, and only there.
    async fn unchanged(&self, edit: &Edit, version: &str) -> Result<(), Error> {
        let client = self.node.client(self.peer);
        match edit {
            Edit::PutPool(None, _) | Edit::PutWorker(None, _) => return Ok(()),
            Edit::PutPool(Some(id), _) | Edit::RemovePool(id) => {
                let pools = patient(client.list_pools()).await?.pools;
                let pool = pools.iter().filter_map(pool_view).find(|pool| pool.id == *id);
                let pool = pool.ok_or_else(|| Error::not_found("the manager has no such pool (any more)"))?;
                if pool.version != version {
                    return Err(Error::changed());
                }
                if matches!(edit, Edit::RemovePool(_)) {
                    let workers = patient(client.list_workers()).await?.workers;
                    let of_pool = workers.iter().filter(|worker| worker.pid == pool.pid).count();
                    return if of_pool == 0 { Ok(()) } else { Err(Error::in_use(of_pool)) };
                }
            }
            Edit::PutWorker(Some(id), _) | Edit::RemoveWorker(id) => {
                let workers = patient(client.list_workers()).await?.workers;
                let worker = workers.iter().find(|worker| worker.uuid.parse() == Ok(*id)).and_then(entry);
                let worker =
                    worker.ok_or_else(|| Error::not_found("the manager has no such worker (any more)"))?;
                if version::of_worker(&worker) != version {
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
        let limit = time_left();
        // Others may have asked before, and get their answer first.
        match tokio::time::timeout(limit, self.shared_view()).await {
            Ok(view) => view,
            Err(_) => Err(late(limit)),
        }
    }

    async fn events(&self, _id: Uuid) -> Result<Option<Vec<Event>>, Error> {
        Ok(None)
    }

    fn commands(&self) -> &'static [Command] {
        &COMMANDS
    }

    async fn preview(&self, ids: &[Uuid], command: Command) -> Result<Vec<Preview>, Error> {
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

    async fn command(&self, ids: &[Uuid], command: Command) -> Result<Commanded, Error> {
        let client = self.node.client(self.peer);
        let request = lm::UuidQueryRequest { ids: ids.iter().map(Uuid::to_string).collect() };
        let done = match command {
            Command::Restart => change(client.restart_workers(request)).await?,
            Command::RegisterAgain => change(client.refresh_ra_and_restart_workers(request)).await?,
            Command::Kick => change(client.kick_workers(request)).await?,
            other => return Err(Error::conflict(format!("no call of Walkie has the command {other}"))),
        };
        self.forget();
        Ok(Commanded { taken: done.worker_states.len(), refused: Vec::new() })
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
        Command::Restart => "forgets what failed and looks at the worker again",
        Command::RegisterAgain => "registers again with a fresh attestation",
        _ => "pRuntime exits; its supervisor starts it again",
    }
}

/// Gives a call up before the request's own time is over.
pub(super) async fn patient<T>(call: impl Future<Output = Result<T, rpc::Error>>) -> Result<T, Error> {
    let limit = time_left();
    match tokio::time::timeout(limit, call).await {
        Ok(answer) => answer.map_err(refused),
        Err(_) => Err(late(limit)),
    }
}

/// The same of a call that changes something: where no answer comes, it may have done so.
async fn change<T>(call: impl Future<Output = Result<T, rpc::Error>>) -> Result<T, Error> {
    patient(call).await.map_err(|error| match error.status {
        StatusCode::GATEWAY_TIMEOUT | StatusCode::BAD_GATEWAY => {
            let text = "the change may have been made all the same: look before you repeat it";
            Error::new(error.status, format!("{}; {text}", error.message))
        }
        _ => error,
    })
}

fn late(limit: Duration) -> Error {
    let text = format!("the peer has not answered within {:.1} s", limit.as_secs_f64());
    Error::new(StatusCode::GATEWAY_TIMEOUT, text)
}

fn refused(error: rpc::Error) -> Error {
    let status = match (&error, error.kind()) {
        (rpc::Error::UnknownPeer { .. }, _) | (_, Some(ErrorType::NotFound)) => StatusCode::NOT_FOUND,
        (_, Some(ErrorType::Duplicated)) => StatusCode::CONFLICT,
        (_, Some(ErrorType::Unauthorized)) => {
            let text = "the manager does not let this monitor manage it: give both the same PRB_WALKIE_PSK, or put \
                        the monitor's peer id on the manager's PRB_WALKIE_WHITELIST";
            return Error::new(StatusCode::FORBIDDEN, text);
        }
        (rpc::Error::Refused { .. }, _) => StatusCode::BAD_REQUEST,
        (rpc::Error::TimedOut { .. }, _) => StatusCode::GATEWAY_TIMEOUT,
        _ => StatusCode::BAD_GATEWAY,
    };
    let message = match &error {
        rpc::Error::Refused { source, .. } => source.message.clone(),
        error => words::chain(error),
    };
    Error::new(status, message)
}

fn worker_view(state: proto::WorkerState, tip: Option<u32>) -> Option<WorkerView> {
    let wire = state.worker.as_ref()?;
    let entry = entry(wire)?;
    let height = |number: i32| u32::try_from(number).ok();
    let para_block = height(state.para_block_dispatched_to);
    let (at, message) = message(&state.last_message);
    let told = session::read(&state.session_info_json, &state.worker_account_id);
    let running = wire.enabled && para_block.is_some();
    Some(WorkerView {
        state: state_of(state.status()),
        reason: None,
        message: message.into(),
        message_at: at,
        relay_header: height(state.parent_header_synched_to),
        para_header: height(state.para_header_synched_to),
        para_block,
        lag: para_block.zip(tip).filter(|_| running).map(|(block, tip)| tip.saturating_sub(block)),
        key: key(&state.public_key),
        info: told.info.map(Arc::new),
        chain: told.chain.map(Arc::new),
        goal: None,
        stalled: None,
        failures: None,
        checkpoint: None,
        entry: Arc::new(entry),
    })
}

/// A worker's entry, as far as the wire has it.
fn entry(wire: &db::Worker) -> Option<Worker> {
    let stake = wire.stake.parse().unwrap_or_default();
    let id = wire.uuid.parse().ok()?;
    let mut entry = Worker::new(id, PoolId(wire.pid), &wire.name, &wire.endpoint, stake);
    (entry.enabled, entry.sync_only) = (wire.enabled, wire.sync_only);
    Some(entry)
}

const fn state_of(status: proto::WorkerStatus) -> State {
    use proto::WorkerStatus as Label;
    match status {
        Label::Idle => State::Idle,
        Label::Starting => State::Starting,
        Label::Synching => State::Synching,
        Label::Synched => State::Synched,
        Label::PreActive => State::PreActive,
        Label::Active => State::Active,
        Label::Kicked => State::Kicked,
        Label::Error => State::Error,
    }
}

fn key(text: &str) -> Option<WorkerKey> {
    text.parse().ok()
}

/// `[2022-05-12T10:00:00+00:00] text`.
fn message(text: &str) -> (Option<SystemTime>, String) {
    let parts = text.strip_prefix('[').and_then(|text| text.split_once("] "));
    match parts.and_then(|(at, rest)| Some((at.parse::<jiff::Timestamp>().ok()?, rest))) {
        Some((at, rest)) => (Some(at.into()), rest.to_owned()),
        None => (None, text.to_owned()),
    }
}

fn pool_view(pool: &db::Pool) -> Option<PoolView> {
    let account = |address: &str| AccountId::from_address(address).ok();
    Some(PoolView {
        id: pool.uuid.parse().ok()?,
        version: pool_version(pool),
        pid: pool.pid,
        name: pool.name.clone(),
        enabled: pool.enabled,
        sync_only: pool.sync_only,
        after_stop: None,
        operator: pool.owner.as_ref().and_then(|owner| account(&owner.ss58_phala)),
        proxied: account(&pool.real_phala_ss58),
        chain: None,
        account: None,
    })
}

/// Of what the wire says of a pool.
fn pool_version(pool: &db::Pool) -> String {
    let operator = pool.owner.as_ref().map(|owner| &owner.ss58_phala);
    let fields = (&pool.name, pool.pid, pool.enabled, pool.sync_only, operator, &pool.real_phala_ss58);
    version::of_bytes(format!("{fields:?}").as_bytes())
}

fn pool_value(value: &PoolValue) -> db::Pool {
    let owner = value.secret.as_ref().map(|secret| {
        let mut owner = FullAccount::default();
        secret.expose_secret().clone_into(&mut owner.mnemonic);
        owner
    });
    db::Pool {
        pid: value.pid.0,
        name: value.name.clone(),
        owner,
        real_phala_ss58: value.proxied.clone(),
        enabled: value.enabled,
        sync_only: value.sync_only,
        ..db::Pool::default()
    }
}

fn worker_value(value: &WorkerValue) -> db::Worker {
    db::Worker {
        pid: value.pid.0,
        name: value.name.clone(),
        endpoint: value.endpoint.clone(),
        stake: value.stake.clone(),
        enabled: value.enabled,
        sync_only: value.sync_only,
        ..db::Worker::default()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_message_is_parted_from_its_time() {
        let (at, text) = message("[2022-05-12T10:00:00+00:00] Synching block data...");
        assert_eq!(at.unwrap().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs(), 1_652_349_600);
        assert_eq!(text, "Synching block data...");
        for odd in ["", "no time", "[yesterday] text", "[2022"] {
            assert_eq!(message(odd), (None, odd.to_owned()));
        }
    }

    #[test]
    fn a_worker_of_the_wire_is_shown_with_its_lag() {
        let worker = db::Worker {
            uuid: Uuid::nil().to_string(),
            pid: 7,
            name: "w".into(),
            enabled: true,
            stake: "12".into(),
            ..db::Worker::default()
        };
        let state = proto::WorkerState {
            status: proto::WorkerStatus::Active.into(),
            para_block_dispatched_to: 90,
            parent_header_synched_to: -1,
            public_key: "ab".repeat(32),
            worker: Some(worker),
            ..proto::WorkerState::default()
        };
        let view = worker_view(state.clone(), Some(100)).unwrap();
        assert_eq!((view.lag, view.relay_header, view.para_block), (Some(10), None, Some(90)));
        assert_eq!(
            (view.state, view.entry.stake, view.key),
            (State::Active, 12, Some(WorkerKey([0xab; 32])))
        );
        assert_eq!(worker_view(state, None).unwrap().lag, None);
        // One without an entry is none.
        assert!(worker_view(proto::WorkerState::default(), None).is_none());
    }
}
