//! [`Local`]: the fleet of this process, over its [`Manager`].

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use async_trait::async_trait;
use axum::http::StatusCode;
use prb_core::{
    blob::Heights,
    chain::ChainView,
    inventory::{Pool, Snapshot},
    manage::{self, Change, Manager, Selector},
    primitives::PoolId,
    worker::{Command, Event},
};
use tokio::sync::watch;
use uuid::Uuid;

use super::{
    backend::{Backend, CommandResult, Edit, Error, Preview},
    format,
    view::{FleetView, PoolView, Tip, WorkerView},
};
use crate::{entry_version, ops::Probe, providers::ProviderTable, trade_queue::QueueState};

/// How long a view is shared between requests.
const MAX_AGE: Duration = Duration::from_millis(900);

/// The fleet of this process.
#[derive(Debug)]
pub struct Local {
    manager: Manager,
    heights: Option<watch::Receiver<Heights>>,
    chain: Option<watch::Receiver<Option<Arc<ChainView>>>>,
    jobs: Option<watch::Receiver<QueueState>>,
    read_only: Option<String>,
    probe: Option<Probe>,
    providers: Option<ProviderTable>,
    last: Mutex<Option<(Instant, Arc<FleetView>)>>,
}

impl Local {
    /// Creates it over a manager.
    pub fn new(manager: Manager) -> Self {
        Self {
            manager,
            heights: None,
            chain: None,
            jobs: None,
            read_only: None,
            probe: None,
            providers: None,
            last: Mutex::default(),
        }
    }

    /// Adds the heights of the chain data and the on-chain state.
    #[must_use]
    pub fn with_chain(
        mut self,
        heights: watch::Receiver<Heights>,
        chain: watch::Receiver<Option<Arc<ChainView>>>,
    ) -> Self {
        (self.heights, self.chain) = (Some(heights), Some(chain));
        self
    }

    /// Adds the jobs of a trade queue.
    #[must_use]
    pub(crate) fn with_jobs(mut self, jobs: watch::Receiver<QueueState>) -> Self {
        self.jobs = Some(jobs);
        self
    }

    /// Adds the table of data providers.
    #[must_use]
    pub(crate) fn with_providers(mut self, providers: ProviderTable) -> Self {
        self.providers = Some(providers);
        self
    }

    /// Adds the probe of this process's readiness.
    #[must_use]
    pub fn with_probe(mut self, probe: Probe) -> Self {
        self.probe = Some(probe);
        self
    }

    /// Makes entries read-only, for the given reason.
    #[must_use]
    pub fn with_read_only(mut self, reason: impl Into<String>) -> Self {
        self.read_only = Some(reason.into());
        self
    }

    fn view(&self) -> Result<FleetView, Error> {
        let workers = self.manager.status(&[]).map_err(refused)?;
        let chain = self.chain.as_ref().and_then(|chain| chain.borrow().clone());
        let heights = self.heights.as_ref().map(|heights| *heights.borrow()).unwrap_or_default();
        let unreadable = chain.iter().flat_map(|chain| &chain.unreadable);
        Ok(FleetView {
            workers: workers.iter().map(|status| WorkerView::of(status)).collect(),
            pools: self.manager.pools().iter().map(|pool| pool_view(pool, chain.as_deref())).collect(),
            tip: Tip::of(&heights),
            chain_block: chain.as_ref().map(|chain| chain.block.0),
            notes: unreadable.map(ToString::to_string).collect(),
            not_ready: self.probe.as_ref().map(Probe::reasons).unwrap_or_default(),
            jobs: self.jobs.as_ref().and_then(|jobs| jobs.borrow().stats()),
            takes_settings: true,
            providers: self.providers.as_ref().map(ProviderTable::rows),
            chain_nodes: None,
        })
    }

    fn cache(&self) -> std::sync::MutexGuard<'_, Option<(Instant, Arc<FleetView>)>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn pool_view(pool: &Pool, chain: Option<&ChainView>) -> PoolView {
    let operator = pool.operator.as_ref().map(|operator| operator.account);
    PoolView {
        id: pool.id,
        version: entry_version::of_pool(pool),
        pid: pool.pid.0,
        name: pool.name.clone(),
        enabled: pool.enabled,
        sync_only: pool.sync_only,
        after_stop: Some(pool.after_stop),
        operator,
        proxied: pool.proxied,
        chain: chain.and_then(|chain| chain.pools.get(&pool.pid).cloned()),
        account: operator.and_then(|account| chain?.accounts.get(&account).cloned()),
    }
}

#[async_trait]
impl Backend for Local {
    async fn fleet(&self) -> Result<Arc<FleetView>, Error> {
        // Locked while the view is built, so that concurrent requests build one view.
        let mut last = self.cache();
        if let Some((at, view)) = &*last
            && at.elapsed() < MAX_AGE
        {
            return Ok(Arc::clone(view));
        }
        let view = Arc::new(self.view()?);
        *last = Some((Instant::now(), Arc::clone(&view)));
        Ok(view)
    }

    async fn events(&self, id: Uuid) -> Result<Option<Vec<Event>>, Error> {
        match self.manager.events(id) {
            Ok(events) => Ok(Some(events)),
            Err(manage::Error::NoFleet { .. }) => Ok(None),
            Err(error) => Err(refused(error)),
        }
    }

    fn commands(&self) -> &'static [Command] {
        if self.manager.fleet().is_some() { &Command::ALL } else { &[] }
    }

    async fn preview(&self, ids: &[Uuid], command: Command) -> Result<Vec<Preview>, Error> {
        let previews = self.manager.preview(ids, command).map_err(refused)?;
        Ok(previews.into_iter().map(|(id, answer)| (id, answer.map_err(|error| error.to_string()))).collect())
    }

    async fn command(&self, ids: &[Uuid], command: Command) -> Result<CommandResult, Error> {
        let done = self.manager.command_stored(ids, command).await.map_err(refused)?;
        // The page that follows must show the effect, even if the cached view is recent.
        *self.cache() = None;
        let refused = done.refused.iter().map(|(_, error)| error.to_string()).collect();
        let not_stored = done.not_stored.map(|reason| reason.to_string());
        Ok(CommandResult { taken: done.answers.len(), refused, not_stored })
    }

    fn read_only(&self) -> Option<&str> {
        self.read_only.as_deref()
    }

    async fn edit(&self, edit: Edit, version: &str) -> Result<(), Error> {
        if let Some(reason) = &self.read_only {
            return Err(Error::conflict(reason.clone()));
        }
        let manager = match &edit {
            Edit::PutPool(None, _) | Edit::PutWorker(None, _) => self.manager.clone(),
            // Other edits wait while the condition is tested, so no worker can be added to the pool before it
            // is removed or has another number.
            Edit::PutPool(Some(id), value) => self.if_pool(*id, version, Some(value.pid)),
            Edit::RemovePool(id) => self.if_pool(*id, version, None),
            Edit::PutWorker(Some(id), _) | Edit::RemoveWorker(id) => self.if_worker(*id, version),
        };
        let pool = match &edit {
            Edit::PutPool(Some(id), value) => Some((*id, Some(value.pid))),
            Edit::RemovePool(id) => Some((*id, None)),
            _ => None,
        };
        let done = match edit {
            Edit::PutPool(None, value) => manager.create_pools(vec![value]).await.map(drop),
            Edit::PutPool(Some(id), value) => {
                manager.update_pools(vec![(Selector::Id(id), Change::Put(value))]).await.map(drop)
            }
            Edit::RemovePool(id) => {
                manager.update_pools(vec![(Selector::Id(id), Change::Delete)]).await.map(drop)
            }
            Edit::PutWorker(None, value) => manager.create_workers(vec![value]).await.map(drop),
            Edit::PutWorker(Some(id), value) => {
                manager.update_workers(vec![(Selector::Id(id), Change::Put(value))]).await.map(drop)
            }
            Edit::RemoveWorker(id) => {
                manager.update_workers(vec![(Selector::Id(id), Change::Delete)]).await.map(drop)
            }
        };
        *self.cache() = None;
        done.map_err(|error| match error {
            manage::Error::Changed => self.changed(pool),
            error => refused(error),
        })
    }
}

impl Local {
    /// Returns the manager for an edit on the condition that a pool is unchanged, and that no worker belongs to it if
    /// its number changes to another one or, with `None`, it is removed.
    fn if_pool(&self, id: Uuid, version: &str, pid: Option<PoolId>) -> Manager {
        let version = version.to_owned();
        self.manager.with_condition(move |now| {
            let pool = now.pools.iter().find(|pool| pool.id == id);
            pool.is_some_and(|pool| {
                entry_version::of_pool(pool) == version && without_pool(now, pool, pid) == 0
            })
        })
    }

    /// Returns the manager for an edit on the condition that a worker is unchanged.
    fn if_worker(&self, id: Uuid, version: &str) -> Manager {
        let version = version.to_owned();
        self.manager.with_condition(move |now| {
            let worker = now.workers.iter().find(|worker| worker.id == id);
            worker.is_some_and(|worker| entry_version::of_worker(worker) == version)
        })
    }

    /// Returns why an edit was rejected as out of date. `edited` is the pool that it would change, and the new number.
    fn changed(&self, edited: Option<(Uuid, Option<PoolId>)>) -> Error {
        let snapshots = self.manager.snapshots();
        let now = snapshots.borrow();
        let workers = edited.and_then(|(id, pid)| {
            let pool = now.pools.iter().find(|pool| pool.id == id)?;
            Some(without_pool(&now, pool, pid))
        });
        match workers.unwrap_or_default() {
            0 => Error::changed(),
            workers => Error::in_use(workers),
        }
    }
}

/// Counts the workers that lose their pool if it gets the number, or is removed.
fn without_pool(now: &Snapshot, pool: &Pool, pid: Option<PoolId>) -> usize {
    if pid == Some(pool.pid) {
        return 0;
    }
    now.workers.iter().filter(|worker| worker.pid == pool.pid).count()
}

fn refused(error: manage::Error) -> Error {
    let status = match &error {
        manage::Error::NotFound { .. } => StatusCode::NOT_FOUND,
        manage::Error::Duplicate { .. } | manage::Error::NotCommanded(_) | manage::Error::NoFleet { .. } => {
            StatusCode::CONFLICT
        }
        error if error.is_caller_fault() => StatusCode::BAD_REQUEST,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let message = format::chain(&error);
    if status.is_server_error() {
        tracing::error!(error = message, "an edit of the console failed");
    }
    Error::new(status, message)
}
