//! The ops port of a daemon: `/metrics` for Prometheus, `/livez`, `/readyz`.
//!
//! `/livez` answers 200 while the process is responsive. `/readyz` answers 200 if the daemon is ready,
//! otherwise 503 with the reasons, each with a stable code and a message:
//!
//! ```json
//! {"ready":false,"reasons":[{"code":"no_data_provider","message":"no data provider has been found yet"}]}
//! ```
//! `docs/readiness.md` lists the codes ([`Code`]) with their remedies.
//!
//! The port is read-only, so it needs no authentication; it is on loopback unless configured otherwise. There it refuses
//! requests for names of other machines: a web page could let its own name resolve to loopback, and read the answers.

use std::{
    fmt,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex, OnceLock, PoisonError, RwLock},
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    body::Bytes,
    extract::{Request, State},
    http::{Extensions, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use serde::Serialize;
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    config::OpsArgs,
    listen::{self, Port},
    pages::guard,
    readiness::Code,
};

/// Interval at which the recorder aggregates the samples of histograms. `install_recorder` starts no task for it, and
/// without one the samples pile up in a daemon that nobody scrapes.
const UPKEEP: Duration = Duration::from_secs(5);

/// For how long the metrics that another machine has asked for are given to others again.
const RENDER_PAUSE: Duration = Duration::from_millis(100);

/// Upper bounds of histograms of seconds.
const SECONDS: [f64; 12] = [0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 15.0, 60.0, 150.0];
/// Upper bounds of histograms of bytes.
const BYTES: [f64; 7] = [256.0, 1024.0, 16_384.0, 65_536.0, 1_048_576.0, 4_194_304.0, 33_554_432.0];
/// Upper bounds of histograms that count things.
const COUNTS: [f64; 8] = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 1000.0];

/// Why a daemon is not ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Reason {
    /// A stable code for programs.
    pub code: &'static str,
    /// A message for display.
    pub message: String,
}

impl Reason {
    /// Creates a reason.
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self { code: code.as_str(), message: message.into() }
    }
}

/// Determines whether a daemon is ready: for `/readyz`, the management API and the console.
#[derive(Clone)]
pub struct Probe(Arc<dyn Fn() -> Vec<Reason> + Send + Sync>);

impl fmt::Debug for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Probe").finish_non_exhaustive()
    }
}

impl Probe {
    /// Creates a probe. `reasons` must not block.
    pub fn new(reasons: impl Fn() -> Vec<Reason> + Send + Sync + 'static) -> Self {
        Self(Arc::new(reasons))
    }

    /// Returns the reasons why the daemon is not ready; empty if it is.
    pub fn reasons(&self) -> Vec<Reason> {
        (self.0)()
    }
}

/// A daemon's ops port, open from before the daemon starts until it has ended.
pub struct Ops {
    address: SocketAddr,
    probe: Arc<RwLock<Option<Probe>>>,
    cancel: CancellationToken,
    tasks: JoinSet<()>,
}

impl fmt::Debug for Ops {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ops").field("address", &self.address).finish_non_exhaustive()
    }
}

impl Ops {
    /// Opens the port; `None` if it is disabled, or its default address is in use.
    ///
    /// # Errors
    /// A configured address is not available.
    pub async fn open(args: &OpsArgs, default_port: u16) -> anyhow::Result<Option<Self>> {
        let port = Port {
            name: "ops port",
            variable: "PRB_OPS_LISTEN",
            default: (Ipv4Addr::LOCALHOST, default_port).into(),
        };
        match port.open(args.ops_listen).await? {
            Some(listener) => Self::serve(listener).map(Some),
            None => Ok(None),
        }
    }

    fn serve(listener: TcpListener) -> anyhow::Result<Self> {
        let address = listener.local_addr()?;
        let metrics = recorder();
        let probe = Arc::new(RwLock::new(None));
        let shared = Shared::new(Arc::clone(&probe), metrics);
        let cancel = CancellationToken::new();
        let mut tasks = JoinSet::new();
        if let Some(metrics) = metrics {
            let stop = cancel.clone();
            tasks.spawn(async move {
                stop.run_until_cancelled(run_metrics_upkeep(metrics)).await;
            });
        }
        let stop = cancel.clone();
        let reserve = livez().with_state(shared.clone());
        let mut router = router(shared);
        if address.ip().is_loopback() {
            let own_name: Arc<[String]> = [guard::own_name()].into();
            router = router.layer(middleware::from_fn_with_state(own_name, refuse_foreign_names));
        }
        tasks.spawn(async move {
            let serving = listen::serve_with(listener, router, "ops port", reserve);
            stop.run_until_cancelled(serving).await;
        });
        tracing::info!(%address, "ops port open");
        Ok(Self { address, probe, cancel, tasks })
    }

    /// The address it listens on.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sets the probe that determines readiness. Before that, the daemon counts as starting.
    pub fn watch(&self, probe: Probe) {
        *self.probe.write().unwrap_or_else(PoisonError::into_inner) = Some(probe);
    }

    /// Waits for a part of it to end unexpectedly. Cancel safe.
    pub(crate) async fn ended(&mut self) -> anyhow::Error {
        match self.tasks.join_next().await {
            Some(Err(error)) => anyhow::Error::new(error).context("the ops port failed"),
            _ => anyhow::anyhow!("the ops port has ended"),
        }
    }

    /// Closes the port.
    pub async fn stop(mut self) {
        self.cancel.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

/// The process's metrics recorder; `None` if another one is installed.
fn recorder() -> Option<&'static PrometheusHandle> {
    // A process can install one recorder, once: several ports in one process share it.
    static HANDLE: OnceLock<Option<PrometheusHandle>> = OnceLock::new();
    HANDLE
        .get_or_init(|| match install() {
            Ok(handle) => Some(handle),
            Err(error) => {
                tracing::warn!(error = %prb_core::text::describe(&error), "no metrics on the ops port");
                None
            }
        })
        .as_ref()
}

fn install() -> Result<PrometheusHandle, metrics_exporter_prometheus::BuildError> {
    PrometheusBuilder::new()
        .set_buckets(&COUNTS)?
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)?
        .set_buckets_for_metric(Matcher::Suffix("_bytes".into()), &BYTES)?
        .install_recorder()
}

async fn run_metrics_upkeep(metrics: &PrometheusHandle) {
    let mut ticks = tokio::time::interval(UPKEEP);
    loop {
        ticks.tick().await;
        metrics.run_upkeep();
    }
}

#[derive(Clone)]
struct Shared {
    probe: Arc<RwLock<Option<Probe>>>,
    metrics: Option<&'static PrometheusHandle>,
    rendered: Arc<Mutex<Option<(Instant, Bytes)>>>,
}

impl Shared {
    fn new(probe: Arc<RwLock<Option<Probe>>>, metrics: Option<&'static PrometheusHandle>) -> Self {
        Self { probe, metrics, rendered: Arc::default() }
    }
}

#[derive(Serialize)]
struct Readiness {
    ready: bool,
    reasons: Vec<Reason>,
}

fn router(shared: Shared) -> Router {
    Router::new()
        .route("/metrics", get(metrics))
        .merge(livez())
        .route("/readyz", get(readiness))
        .with_state(shared)
}

/// Routes with reserved connections: an orchestrator kills a process that does not answer them.
fn livez() -> Router<Shared> {
    Router::new().route("/livez", get(async || Json(serde_json::json!({ "live": true }))))
}

/// Refuses requests for other hosts than this one. A browser names the host of each request; other programs need not.
async fn refuse_foreign_names(
    State(own_name): State<Arc<[String]>>,
    request: Request,
    next: Next,
) -> Response {
    let is_named = request.headers().contains_key(header::HOST) || request.uri().authority().is_some();
    if is_named && !guard::is_known_host(request.headers(), request.uri(), &own_name) {
        let text = "this port is not known by that name: use its IP address or localhost\n";
        return (StatusCode::MISDIRECTED_REQUEST, text).into_response();
    }
    next.run(request).await
}

async fn metrics(State(shared): State<Shared>, extensions: Extensions) -> impl IntoResponse {
    match shared.metrics {
        Some(metrics) => {
            let is_here = listen::is_this_machine(listen::peer_of(&extensions));
            let text = if is_here { metrics.render().into() } else { rendered(metrics, &shared.rendered) };
            ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
        }
        None => (StatusCode::SERVICE_UNAVAILABLE, "metrics are recorded elsewhere\n").into_response(),
    }
}

/// Renders the metrics for another machine, or returns what was rendered a moment ago: strangers could keep all cores
/// busy with it.
fn rendered(metrics: &PrometheusHandle, last: &Mutex<Option<(Instant, Bytes)>>) -> Bytes {
    // Held while rendering, so that concurrent requests share one.
    let mut last = last.lock().unwrap_or_else(PoisonError::into_inner);
    match &*last {
        Some((at, text)) if at.elapsed() < RENDER_PAUSE => text.clone(),
        _ => last.insert((Instant::now(), metrics.render().into())).1.clone(),
    }
}

async fn readiness(State(shared): State<Shared>) -> (StatusCode, Json<Readiness>) {
    // Cloned, so that the lock is not held while the probe runs.
    let probe = shared.probe.read().unwrap_or_else(PoisonError::into_inner).clone();
    let reasons = match probe {
        Some(probe) => probe.reasons(),
        None => vec![Reason::new(Code::Starting, "the daemon is starting")],
    };
    let ready = reasons.is_empty();
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(Readiness { ready, reasons }))
}

#[cfg(test)]
mod tests;
