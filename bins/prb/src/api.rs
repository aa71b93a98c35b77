//! The management API: JSON over HTTP under `/api/v1`, for the command line and for programs.
//!
//! ```text
//!  prb worker …, curl ──► gate: bounds, host, origin, token ──► handlers ──► Manager, job queue, peers
//! ```
//!
//! - Reads are free on loopback. Changes need the token as a bearer token; on other addresses every request
//!   does. The token is generated at the first start and stored in the data folder, readable by its owner
//!   only, unless the operator provides one.
//! - An edit of several entries is applied whole or not at all, and its refusal names every entry at fault.
//! - Every entry has a version, its entity tag: with `If-Match`, an edit of an entry that has changed since
//!   it was read is rejected.
//! - Secrets go in and never come out.
//!
//! `/api/v1/openapi.json` describes it; docs/api.md explains it.
//!
//! Not for: pages (see [`crate::pages`]), or peers (Walkie's management calls, over the same manager).

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use axum::{Json, Router, extract::DefaultBodyLimit, middleware, routing::get};
use prb_chain::keys::Sr25519Keys;
use prb_core::{
    blob::Heights,
    chain::ChainView,
    inventory::Snapshot,
    manage::{Manager, OperatorKeys},
};
use prb_walkie::{node::PeerTable, proto::provider_detail::Provider};
use tokio::sync::watch;
use utoipa::{
    OpenApi,
    openapi::{
        InfoBuilder, OpenApiBuilder,
        security::{HttpAuthScheme, HttpBuilder, SecurityScheme},
    },
};
use utoipa_axum::router::OpenApiRouter;
use uuid::Uuid;

use self::{guard::Gate, problem::Problem};
use crate::{
    config::{ApiArgs, PageArgs},
    daemon::{Background, stop},
    entry_version,
    listen::{self, Limits, Port, Shares},
    ops::{Probe, Reason},
    pages,
    providers::ProviderTable,
    token::Access,
};

mod commands;
mod edits;
mod fields;
pub(crate) mod guard;
mod jobs;
mod pools;
mod problem;
mod query;
mod request;
mod status;
mod stream;
mod unique_fields;
mod view;
mod workers;

pub(crate) use query::fits;

/// The default port.
pub const PORT: u16 = 3001;
/// The largest body, in bytes. Ten thousand workers take about three million.
const MAX_BODY_BYTES: usize = 8 * 1024 * 1024;

/// What the API exposes.
#[derive(Debug)]
pub(crate) struct Source {
    /// The daemon's name.
    pub(crate) daemon: &'static str,
    pub(crate) manager: Manager,
    /// The file that defines pools and workers, if they are not edited here.
    pub(crate) fleet_file: Option<PathBuf>,
    /// The trade queue, if there is one.
    pub(crate) queue: Option<pages::queue::Source>,
    pub(crate) chain: Option<watch::Receiver<Option<Arc<ChainView>>>>,
    pub(crate) heights: Option<watch::Receiver<Heights>>,
    /// The peers, if chain data comes from peers.
    pub(crate) peers: Option<watch::Receiver<Arc<PeerTable>>>,
    /// What is known of the data providers among them.
    pub(crate) providers: Option<ProviderTable>,
    /// Determines whether the daemon is ready, if there is a daemon.
    pub(crate) probe: Option<Probe>,
}

/// The open port of the management API.
#[derive(Debug)]
pub(crate) struct Server {
    address: SocketAddr,
    background: Background,
}

impl Server {
    /// Opens the port and serves it, or returns `None` if it is off or its default port is in use.
    ///
    /// # Errors
    ///
    /// If a configured address cannot be bound.
    pub(crate) async fn open(
        args: &ApiArgs,
        pages: &PageArgs,
        access: &Access,
        source: Source,
    ) -> anyhow::Result<Option<Self>> {
        let port = Port {
            name: "management API",
            variable: "PRB_API_LISTEN",
            default: (Ipv4Addr::LOCALHOST, PORT).into(),
        };
        let Some(listener) = port.open(args.api_listen).await? else { return Ok(None) };
        let address = listener.local_addr()?;
        let location = access.location().map(ToString::to_string).unwrap_or_default();
        // The API limits its bodies and checks its tokens itself.
        let rules = pages::guard::Rules { max_body_bytes: usize::MAX, checked_below: None };
        let guard = pages::guard::Guard::new(pages.page_hosts.clone(), access.clone(), rules);
        let on_loopback = address.ip().is_loopback();
        if on_loopback {
            tracing::info!(%address, token = %location, "management API open");
        } else {
            tracing::warn!(%address, token = %location, "management API open in plain HTTP: put a TLS proxy in front of it");
        }
        let router = router(Api::new(source), Gate::new(guard, on_loopback, location));
        let mut background = Background::default();
        // Ends only if it is stopped; the error is for an end without a stop.
        background.spawn(|stop| async move {
            stop.run_until_cancelled(listen::serve(listener, router, port.name)).await;
            anyhow::anyhow!("the management API has ended")
        });
        Ok(Some(Self { address, background }))
    }

    pub(crate) const fn address(&self) -> SocketAddr {
        self.address
    }
}

/// Closes an open port. Requests in progress get no answer; their edits are applied completely or not at all.
pub(crate) async fn stop(server: Option<Server>) {
    if let Some(server) = server {
        server.background.stop(stop::HELPERS).await;
    }
}

/// Waits for an open port to end, which is a failure; forever if there is none. Cancel safe.
pub(crate) async fn ended(server: &mut Option<Server>) -> anyhow::Error {
    match server {
        Some(server) => server.background.ended().await,
        None => std::future::pending().await,
    }
}

/// State shared by handlers.
#[derive(Clone)]
struct Api(Arc<Inner>);

struct Inner {
    source: Source,
    keys: Arc<dyn OperatorKeys>,
    /// The version of all pools and workers, and the revision of the inventory that it belongs to.
    version: Mutex<Option<(u64, String)>>,
    streams: Shares,
}

impl fmt::Debug for Api {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Api").field(&self.0.source).finish()
    }
}

impl Api {
    fn new(source: Source) -> Self {
        let streams = Shares::new(Limits::of(stream::MAX_STREAMS));
        Self(Arc::new(Inner { source, keys: Arc::new(Sr25519Keys), version: Mutex::default(), streams }))
    }

    fn manager(&self) -> &Manager {
        &self.0.source.manager
    }

    fn daemon(&self) -> &'static str {
        self.0.source.daemon
    }

    fn fleet_file(&self) -> Option<&Path> {
        self.0.source.fleet_file.as_deref()
    }

    fn queue(&self) -> Option<&pages::queue::Source> {
        self.0.source.queue.as_ref()
    }

    fn keys(&self) -> Arc<dyn OperatorKeys> {
        Arc::clone(&self.0.keys)
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.manager().snapshots().borrow())
    }

    fn chain(&self) -> Option<Arc<ChainView>> {
        self.0.source.chain.as_ref()?.borrow().clone()
    }

    /// Returns the reasons why the daemon is not ready.
    fn not_ready(&self) -> Vec<Reason> {
        self.0.source.probe.as_ref().map(Probe::reasons).unwrap_or_default()
    }

    fn heights(&self) -> Option<Heights> {
        Some(*self.0.source.heights.as_ref()?.borrow())
    }

    fn providers(&self) -> Vec<Provider> {
        self.0.source.providers.as_ref().map(ProviderTable::rows).unwrap_or_default()
    }

    fn peers(&self) -> Option<Arc<PeerTable>> {
        Some(Arc::clone(&self.0.source.peers.as_ref()?.borrow()))
    }

    /// Returns the version of all pools and workers; computed once per revision.
    fn inventory_version(&self) -> String {
        let snapshot = self.snapshot();
        // Locked while the version is computed, so that concurrent requests for one revision share the work.
        let mut kept = self.0.version.lock().unwrap_or_else(PoisonError::into_inner);
        match &*kept {
            Some((revision, version)) if *revision == snapshot.revision => version.clone(),
            _ => {
                let version = entry_version::of_all(&snapshot);
                *kept = Some((snapshot.revision, version.clone()));
                version
            }
        }
    }

    /// Finds a worker by its id or name.
    fn worker(&self, named: &str) -> Result<Uuid, Problem> {
        let snapshot = self.snapshot();
        let found = <workers::Workers as edits::EntryKind>::find(&snapshot, named);
        found.map(|worker| worker.id).ok_or_else(|| workers::no_worker(named))
    }

    /// Finds a pool by its id, number or name.
    fn pool(&self, named: &str) -> Result<Uuid, Problem> {
        let snapshot = self.snapshot();
        let found = <pools::Pools as edits::EntryKind>::find(&snapshot, named);
        found.map(|pool| pool.id).ok_or_else(|| pools::no_pool(named))
    }
}

/// The API of a source in this process, for callers in this process: without a port, and without a token.
pub(crate) fn in_process(source: Source) -> Router {
    handlers(Api::new(source))
}

fn router(api: Api, gate: Gate) -> Router {
    handlers(api).layer(middleware::from_fn_with_state(gate, guard::enter))
}

fn handlers(api: Api) -> Router {
    let (router, document) = routes().split_for_parts();
    router
        .route("/api/v1/openapi.json", get(async move || Json(document)))
        .fallback(async || Problem::not_found("there is nothing at this address; see /api/v1/openapi.json"))
        .method_not_allowed_fallback(async || {
            let status = axum::http::StatusCode::METHOD_NOT_ALLOWED;
            Problem::new(status, "method-not-allowed", "this address does not support that method")
        })
        // Replaces axum's default limit of 2 MB, which an import of ten thousand workers exceeds.
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .with_state(api)
}

/// Returns the routes together with their description, so that none is undocumented.
fn routes() -> OpenApiRouter<Api> {
    let all = status::router()
        .merge(pools::router())
        .merge(workers::router())
        .merge(stream::router())
        .merge(commands::router())
        .merge(jobs::router());
    OpenApiRouter::with_openapi(document()).nest("/api/v1", all)
}

fn document() -> utoipa::openapi::OpenApi {
    #[derive(OpenApi)]
    #[openapi(components(schemas(Problem, problem::Fault)))]
    struct Schemas;
    let mut components = Schemas::openapi().components.unwrap_or_default();
    let bearer = HttpBuilder::new().scheme(HttpAuthScheme::Bearer).build();
    components.add_security_scheme("token", SecurityScheme::Http(bearer));
    let info = InfoBuilder::new()
        .title("Phala Runtime Bridge")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some("Manages pools and workers, and shows their state."));
    OpenApiBuilder::new().info(info.build()).components(Some(components)).build()
}
