//! The console: pages for operators over one fleet, or over those of all peers.
//!
//! ```text
//!  browser ──► pages::Site (name, token, bounds) ──► router ──► Context ──► page ──► parts
//!     ▲                                                            │                   │
//!     └── /live/…: parts again, or a stream of what changes ◄──────┼───────────────────┘
//!                                                                  ▼
//!                               Backend: Local (this process's Manager) or Peer (a manager over Walkie)
//! ```
//!
//! - One set of pages over one trait with two backends: [`Local`] in `prb all` and `prb lifecycle`, and a
//!   peer's for each lifecycle manager in `prb monitor`, below `/managers/{peer}`.
//! - Every page is complete without JavaScript. The script updates it, and sends changes with the operator's
//!   token: [`crate::pages`] has the rules.
//! - Commands are previewed: a page names each worker and what will happen to it.
//!
//! Not for: programs (see the management API; `prb monitor` also answers the original's JSON calls).

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::SystemTime,
};

use async_trait::async_trait;
use axum::{
    Router,
    routing::{get, post},
};
use prb_walkie::node::Node;
use tokio::time::{MissedTickBehavior, timeout};

use crate::{
    chain_data::ChainData,
    config::{MONITOR_PORT, PageArgs},
    daemon::{Background, Failure, stop},
    listen::{Limits, Port, Shares},
    pages::{
        self, Rules, Site,
        queue::{Directory, PageHost, Recent, Workers},
    },
    token::Access,
};

pub mod backend;
mod chain_data;
mod charts;
mod columns;
mod confirm;
mod context;
mod fields;
mod format;
mod forms;
mod history;
mod list;
mod live;
mod local;
mod overview;
mod peer;
mod peers;
mod pools;
mod providers;
mod session;
mod target;
pub mod view;
mod worker;
mod workers;

pub use live::MAX_STREAMS;
pub use local::Local;
pub use peer::Peer;

use backend::Backend;
use history::History;

/// Maximum size of a request body: a command for as many workers as an inventory can have.
/// Ten thousand ids of 36 characters, with separators of three in a form, take 390,000 bytes.
const MAX_BODY_BYTES: usize = 512 * 1024;

/// Path and title of the page of transactions.
pub(crate) const TRANSACTIONS_PATH: &str = "/transactions";
const TRANSACTIONS: &str = "Transactions";

/// Looks up the workers of a fleet for the page of transactions.
struct OfFleet(Arc<dyn Backend>);

#[async_trait]
impl Workers for OfFleet {
    async fn by_key(&self) -> Directory {
        // Without an answer, workers are shown by their keys.
        let Ok(fleet) = self.0.fleet().await else { return Directory::new() };
        fleet.workers.iter().filter_map(|worker| Some((worker.key?, Arc::clone(&worker.entry)))).collect()
    }
}

/// The data sources of the console's pages.
#[derive(Clone)]
pub struct Console(Arc<Inner>);

struct Inner {
    /// The fleet of this process.
    fleet: Option<Arc<dyn Backend>>,
    /// Recent measurements of the fleet.
    history: Arc<History>,
    /// The chain nodes and the disk of this process.
    chain_data: Option<ChainData>,
    /// The Walkie node, if this process has one.
    node: Option<Node>,
    /// The fleets of peers, if they are shown.
    managers: Option<peer::Peers>,
    /// The trade queue, where this process has one.
    queue: Option<pages::queue::Source>,
    /// Its newest jobs, for the pages of workers.
    recent: Option<Recent>,
    streams: Shares,
}

impl Default for Inner {
    fn default() -> Self {
        let streams = Shares::new(Limits::of(live::MAX_STREAMS));
        Self {
            fleet: None,
            history: Arc::default(),
            chain_data: None,
            node: None,
            managers: None,
            queue: None,
            recent: None,
            streams,
        }
    }
}

impl fmt::Debug for Console {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Console").field("fleet", &self.0.fleet).finish_non_exhaustive()
    }
}

impl Console {
    /// Creates the console of this process's fleet.
    pub fn of_fleet(fleet: Arc<dyn Backend>) -> Self {
        Self::new(Inner { fleet: Some(fleet), ..Inner::default() })
    }

    /// Creates the console of all lifecycle managers and data providers that a node finds.
    pub fn of_peers(node: Node) -> Self {
        let managers = Some(peer::Peers::default());
        Self::new(Inner { node: Some(node), managers, ..Inner::default() })
    }

    fn new(inner: Inner) -> Self {
        Self(Arc::new(inner))
    }

    /// Adds the peers of this process.
    #[must_use]
    pub fn with_node(self, node: Node) -> Self {
        self.changed(|inner| inner.node = Some(node))
    }

    /// Adds the chain nodes and the disk of this process.
    #[must_use]
    pub(crate) fn with_chain_data(self, chain_data: ChainData) -> Self {
        self.changed(|inner| inner.chain_data = Some(chain_data))
    }

    /// Adds the trade queue of this process.
    #[must_use]
    pub fn with_queue(self, queue: pages::queue::Source) -> Self {
        self.changed(|inner| {
            inner.recent = Some(Recent::new(Arc::clone(&queue.admin)));
            inner.queue = Some(queue);
        })
    }

    /// Takes a measurement of this process's fleet for the charts; `at` is the current time.
    pub async fn take_sample(&self, at: SystemTime) {
        let Some(fleet) = &self.0.fleet else { return };
        // A failed measurement leaves a gap.
        let Ok(fleet) = fleet.fleet().await else { return };
        let jobs = match &self.0.queue {
            Some(source) => {
                timeout(pages::queue::TIMEOUT, source.queue.stats()).await.ok().and_then(Result::ok)
            }
            None => None,
        };
        self.0.history.record(history::seconds(at), &fleet, jobs.as_ref());
    }

    async fn take_samples(self) {
        let mut ticks = tokio::time::interval(history::STEP);
        // A burst of samples after a pause would be of one moment.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.take_sample(SystemTime::now()).await;
        }
    }

    /// Returns the navigation entries of a fleet's pages: path and name. `base` precedes their paths.
    fn entries(&self, base: &str) -> Vec<(String, &'static str)> {
        let inner = &self.0;
        let mut entries = Vec::new();
        if !base.is_empty() || inner.fleet.is_some() {
            entries.push((if base.is_empty() { "/".to_owned() } else { base.to_owned() }, "Overview"));
            entries.push((format!("{base}/workers"), "Workers"));
            entries.push((format!("{base}/pools"), "Pools"));
        }
        if inner.queue.is_some() {
            entries.push((TRANSACTIONS_PATH.to_owned(), TRANSACTIONS));
        }
        if inner.chain_data.is_some() || !base.is_empty() {
            entries.push((format!("{base}/chain-data"), "Chain data"));
        }
        if inner.managers.is_some() {
            entries.push(("/".to_owned(), "Peers"));
        } else if inner.node.is_some() {
            entries.push(("/peers".to_owned(), "Peers"));
        }
        entries
    }

    /// Returns the page of transactions, if this process has a queue.
    fn transactions(&self) -> Option<(PageHost, pages::queue::Source)> {
        let source = self.0.queue.clone()?;
        let workers = self.0.fleet.clone().map(|fleet| -> Arc<dyn Workers> { Arc::new(OfFleet(fleet)) });
        let entries = self.entries("");
        Some((PageHost { base: TRANSACTIONS_PATH, title: TRANSACTIONS, entries, workers }, source))
    }

    /// Must be called before the console is shared.
    fn changed(mut self, change: impl FnOnce(&mut Inner)) -> Self {
        // Always succeeds before the console is cloned.
        if let Some(inner) = Arc::get_mut(&mut self.0) {
            change(inner);
        }
        self
    }
}

/// Opens the console's port, or returns `None` if it is off or its default port is in use.
///
/// # Errors
///
/// If a configured address cannot be bound.
pub async fn open(args: &PageArgs, access: &Access, console: Console) -> anyhow::Result<Option<Site>> {
    let default = SocketAddr::from((Ipv4Addr::LOCALHOST, MONITOR_PORT));
    let port = Port { name: "console", variable: "PRB_CONSOLE_LISTEN", default };
    let rules = Rules { max_body_bytes: MAX_BODY_BYTES, checked_below: None };
    match port.open(args.console_listen).await? {
        Some(listener) => Site::new(port, listener, args, access, rules, router(console)).map(Some),
        None => Ok(None),
    }
}

/// The console's port of a daemon, which runs without it if the default port is in use.
#[derive(Debug)]
pub(crate) struct Open {
    address: Option<SocketAddr>,
    serving: Background,
}

impl Open {
    /// Opens the port and serves it.
    ///
    /// # Errors
    ///
    /// Those of [`open`]: the operator has to change the configuration.
    pub(crate) async fn start(args: &PageArgs, access: &Access, console: Console) -> Result<Self, Failure> {
        let mut serving = Background::default();
        // Measurements are for the charts only: without the page, none are taken.
        let sampled = console.clone();
        let site = open(args, access, console).await.map_err(Failure::Configuration)?;
        let address = site.as_ref().map(Site::address);
        if let Some(site) = site {
            serving.spawn(|stop| async move {
                stop.run_until_cancelled(site.serve()).await;
                anyhow::anyhow!("the console ended unexpectedly")
            });
            serving.spawn(|stop| async move {
                stop.run_until_cancelled(sampled.take_samples()).await;
                anyhow::anyhow!("the console's measurements ended unexpectedly")
            });
        }
        Ok(Self { address, serving })
    }

    /// Returns its address, if it is open.
    pub(crate) const fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Waits for it to end, which is a failure. Cancel safe.
    pub(crate) async fn ended(&mut self) -> anyhow::Error {
        self.serving.ended().await
    }

    /// Stops serving.
    pub(crate) async fn stop(self) {
        self.serving.stop(stop::HELPERS).await;
    }
}

/// Returns the routes of all pages.
pub(crate) fn router(console: Console) -> Router {
    let transactions = console.transactions();
    let mut router = Router::new().route("/", get(target::page)).route("/live/", get(target::live));
    if console.0.node.is_some() {
        router = router.route("/peers", get(target::page)).route("/providers/{peer}", get(target::page));
    }
    if console.0.chain_data.is_some() {
        router = router.route("/chain-data", get(target::page));
    }
    router = router.route("/live/{*path}", get(target::live));
    if console.0.managers.is_some() {
        router = router.nest(
            "/managers/{manager}",
            fleet_pages()
                .route("/", get(target::page))
                .route("/chain-data", get(target::page))
                .route("/live/{*path}", get(target::live))
                .route("/live/", get(target::live)),
        );
    } else {
        router = router.merge(fleet_pages());
    }
    // The parts of a fleet's first page are at `/live/`, which a wildcard does not match.
    let router = router.with_state(console);
    match transactions {
        Some((setting, source)) => router.nest(TRANSACTIONS_PATH, pages::queue::router(setting, source)),
        None => router,
    }
}

fn fleet_pages() -> Router<Console> {
    Router::new()
        .route("/workers", get(target::page))
        .route("/workers/confirm", get(confirm::page))
        .route("/workers/command", post(confirm::command))
        .route("/workers/new", get(forms::worker_page))
        .route("/workers/save", post(forms::save_worker))
        .route("/workers/remove", post(forms::remove_worker))
        .route("/workers/{id}", get(target::page))
        .route("/workers/{id}/edit", get(forms::worker_page))
        .route("/pools", get(target::page))
        .route("/pools/new", get(forms::pool_page))
        .route("/pools/save", post(forms::save_pool))
        .route("/pools/remove", post(forms::remove_pool))
        .route("/pools/{id}/edit", get(forms::pool_page))
}
