//! [`Peer`]: the fleet of a lifecycle manager among the peers, over its Walkie calls.
//!
//! A manager of this implementation tells all that is shown of a local one (`prb_walkie::proto::detail`). Of an
//! original, what its calls do not carry (reasons, goals, confidence levels, the pools' state on chain) is unknown;
//! its lags are against the newest block of the data providers of the same chain.

use std::{
    collections::HashMap,
    sync::{
        Arc, PoisonError,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime},
};

use async_trait::async_trait;
use axum::http::StatusCode;
use prb_core::{
    manage::{PoolValue, WorkerValue},
    primitives::{AccountId, WorkerKey},
    worker::{Command, Event, State},
};
use prb_walkie::{
    manage::detail::ToldWorker,
    node::{Node, PeerId},
    proto::{
        self, ErrorType, FullAccount, Identity, QueryIdentity, Role, db, detail as wire, lifecycle as lm,
    },
    rpc,
};
use secrecy::ExposeSecret;
use tokio::sync::Mutex;
use uuid::Uuid;

mod detail;

use super::{
    backend::{Backend, Commanded, Edit, Error, Preview},
    session,
    view::{FleetView, PoolView, Tip, WorkerView},
    words,
};

/// How long a view is shared by those who look.
const MAX_AGE: Duration = Duration::from_millis(1900);
/// How long a peer may take: less than the port gives a request.
const PATIENCE: Duration = Duration::from_secs(10);
/// What a peer takes over Walkie.
const COMMANDS: [Command; 3] = [Command::Restart, Command::RegisterAgain, Command::Kick];

/// A fleet among the peers.
#[derive(Debug)]
pub struct Peer {
    node: Node,
    peer: PeerId,
    /// Held while the peer is asked, so that those who look at once ask once.
    last: Mutex<Option<(Instant, Arc<FleetView>)>>,
    /// Whether it takes every command, and previews them.
    takes_all: AtomicBool,
}

/// The peers' fleets that somebody has looked at.
#[derive(Debug, Default)]
pub(super) struct Peers(std::sync::Mutex<HashMap<PeerId, Arc<Peer>>>);

impl Peers {
    /// The fleet of a lifecycle manager that is known.
    pub(super) fn get(&self, node: &Node, name: &str) -> Option<Arc<dyn Backend>> {
        let peer: PeerId = name.parse().ok()?;
        let table = node.peers();
        let table = table.borrow();
        table.get(&peer).filter(|peer| peer.role == Role::LifecycleManager)?;
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // No more than the node remembers.
        all.retain(|peer, _| table.get(peer).is_some());
        let made = || {
            let (last, takes_all) = (Mutex::default(), AtomicBool::default());
            Arc::new(Peer { node: node.clone(), peer, last, takes_all })
        };
        let backend: Arc<dyn Backend> = Arc::<Peer>::clone(all.entry(peer).or_insert_with(made));
        Some(backend)
    }
}

impl Peer {
    async fn view(&self) -> Result<FleetView, Error> {
        let client = self.node.client(self.peer);
        let query = wire::StatusQuery { detail: true, ..wire::StatusQuery::default() };
        let (update, pools) =
            tokio::join!(patient(client.worker_detail(query)), patient(client.list_pools()));
        let (update, pools) = (update?, pools?.pools);
        let tip = match &update.detail {
            Some(fleet) => Tip::of(&fleet.heights()),
            None => self.tip().await,
        };
        // Some kilobytes a worker.
        let view = tokio::task::spawn_blocking(move || detail::fleet_view(update, &pools, tip));
        let view = view.await.map_err(|error| {
            Error::new(StatusCode::INTERNAL_SERVER_ERROR, format!("the workers cannot be read: {error}"))
        })?;
        self.takes_all.store(view.takes_all, Relaxed);
        Ok(view.fleet)
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
            async move { tokio::time::timeout(PATIENCE, client.data_provider_info()).await.ok()?.ok() }
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

    /// What a manager of this implementation says to a command, given or only tried.
    async fn told(&self, ids: &[Uuid], command: Command, dry_run: bool) -> Result<Vec<Preview>, Error> {
        let ids = ids.iter().map(Uuid::to_string).collect();
        let request = wire::CommandRequest { ids, command: command.to_string(), dry_run };
        let told = patient(self.node.client(self.peer).command_workers(request)).await?;
        let answer = |answer: wire::CommandAnswer| {
            let id = answer.uuid.parse().ok()?;
            Some((id, if answer.refused { Err(answer.text) } else { Ok(answer.text) }))
        };
        Ok(told.answers.into_iter().filter_map(answer).collect())
    }

    async fn forget(&self) {
        *self.last.lock().await = None;
    }
}

#[async_trait]
impl Backend for Peer {
    async fn fleet(&self) -> Result<Arc<FleetView>, Error> {
        let mut last = self.last.lock().await;
        if let Some((at, view)) = &*last
            && at.elapsed() < MAX_AGE
        {
            return Ok(Arc::clone(view));
        }
        let view = Arc::new(self.view().await?);
        *last = Some((Instant::now(), Arc::clone(&view)));
        Ok(view)
    }

    async fn events(&self, id: Uuid) -> Result<Option<Vec<Event>>, Error> {
        let query = wire::StatusQuery { ids: vec![id.to_string()], detail: true, events: true };
        let update = patient(self.node.client(self.peer).worker_detail(query)).await?;
        let worker = update.detail.and_then(|fleet| fleet.workers.into_iter().next());
        Ok(worker.map(|worker| ToldWorker::from(worker).events))
    }

    fn commands(&self) -> &'static [Command] {
        if self.takes_all.load(Relaxed) { &Command::ALL } else { &COMMANDS }
    }

    async fn preview(&self, ids: &[Uuid], command: Command) -> Result<Vec<Preview>, Error> {
        if self.takes_all.load(Relaxed) {
            return self.told(ids, command, true).await;
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

    async fn command(&self, ids: &[Uuid], command: Command) -> Result<Commanded, Error> {
        if self.takes_all.load(Relaxed) {
            let answers = self.told(ids, command, false).await?;
            self.forget().await;
            let refused: Vec<_> = answers.iter().filter_map(|(_, answer)| answer.clone().err()).collect();
            return Ok(Commanded { taken: answers.len() - refused.len(), refused });
        }
        let client = self.node.client(self.peer);
        let request = lm::UuidQueryRequest { ids: ids.iter().map(Uuid::to_string).collect() };
        let done = match command {
            Command::Restart => patient(client.restart_workers(request)).await?,
            Command::RegisterAgain => patient(client.refresh_ra_and_restart_workers(request)).await?,
            Command::Kick => patient(client.kick_workers(request)).await?,
            other => return Err(Error::conflict(format!("no call of Walkie has the command {other}"))),
        };
        self.forget().await;
        Ok(Commanded { taken: done.worker_states.len(), refused: Vec::new() })
    }

    fn read_only(&self) -> Option<&str> {
        None
    }

    async fn edit(&self, edit: Edit) -> Result<(), Error> {
        let client = self.node.client(self.peer);
        let id = |id: Uuid| Some(QueryIdentity { identity: Some(Identity::Uuid(id.to_string())) });
        match edit {
            Edit::PutPool(None, value) => {
                patient(client.create_pools(lm::CreatePool { pools: vec![pool_value(&value)] }))
                    .await
                    .map(drop)
            }
            Edit::PutPool(Some(of), value) => {
                let items = vec![lm::UpdatePoolItem { id: id(of), pool: Some(pool_value(&value)) }];
                patient(client.update_pools(lm::UpdatePool { items })).await.map(drop)
            }
            Edit::RemovePool(of) => {
                let pool = Some(db::Pool { deleted: true, ..db::Pool::default() });
                let items = vec![lm::UpdatePoolItem { id: id(of), pool }];
                patient(client.update_pools(lm::UpdatePool { items })).await.map(drop)
            }
            Edit::PutWorker(None, value) => {
                let workers = vec![worker_value(&value)];
                patient(client.create_workers(lm::CreateWorker { workers })).await.map(drop)
            }
            Edit::PutWorker(Some(of), value) => {
                let items = vec![lm::UpdateWorkerItem { id: id(of), worker: Some(worker_value(&value)) }];
                patient(client.update_workers(lm::UpdateWorker { items })).await.map(drop)
            }
            Edit::RemoveWorker(of) => {
                let worker = Some(db::Worker { deleted: true, ..db::Worker::default() });
                let items = vec![lm::UpdateWorkerItem { id: id(of), worker }];
                patient(client.update_workers(lm::UpdateWorker { items })).await.map(drop)
            }
        }?;
        self.forget().await;
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

/// Gives a call up before the page's own time is over.
pub(super) async fn patient<T>(call: impl Future<Output = Result<T, rpc::Error>>) -> Result<T, Error> {
    match tokio::time::timeout(PATIENCE, call).await {
        Ok(answer) => answer.map_err(refused),
        Err(_) => Err(Error::new(
            StatusCode::GATEWAY_TIMEOUT,
            format!("the peer has not answered within {} s", PATIENCE.as_secs()),
        )),
    }
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
        error => words::chain(error),
    };
    Error::new(status, message)
}

fn worker_view(state: proto::WorkerState, tip: Option<u32>) -> Option<WorkerView> {
    let wire = state.worker.as_ref()?;
    let stake = wire.stake.parse().unwrap_or_default();
    let pid = prb_core::primitives::PoolId(wire.pid);
    let id = wire.uuid.parse().ok()?;
    let mut entry = prb_core::inventory::Worker::new(id, pid, &wire.name, &wire.endpoint, stake);
    (entry.enabled, entry.sync_only) = (wire.enabled, wire.sync_only);
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
