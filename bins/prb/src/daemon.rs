//! The common parts of all daemons: ops port, signals, display, and an ordered shutdown.

use std::{
    io::{self, Write},
    time::Duration,
};

use anyhow::Context;
use prb_chain::rpc::{self, NodePool};
use prb_core::{
    primitives::Hash,
    text::{describe, io_remedy, is_passing},
};
use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    config::{BAD_CONFIGURATION, NodeUrl, OpsArgs},
    memory_limit,
    ops::{Ops, Probe},
    progress::{Display, Progress, View},
    signals,
};

mod metrics;
pub(crate) mod stop;
#[cfg(test)]
mod tests;

use metrics::Gauges;

/// Interval at which the display and the gauges are updated.
const DISPLAY_INTERVAL: Duration = Duration::from_millis(500);

/// Why a daemon ended.
#[derive(Debug)]
pub enum Failure {
    /// The configuration is invalid.
    Configuration(anyhow::Error),
    /// Another failure.
    Run(anyhow::Error),
}

/// Timeout of the last message on standard error, whose reader may be blocked.
const STDERR_TIMEOUT: Duration = Duration::from_millis(300);

impl Failure {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Configuration(error) if !is_transient(error) => BAD_CONFIGURATION,
            Self::Configuration(_) | Self::Run(_) => 1,
        }
    }

    fn text(&self) -> String {
        let (Self::Configuration(error) | Self::Run(error)) = self;
        explained(error)
    }

    /// Reports the failure in a daemon's log. Not for commands, whose log is on the stream of [`Failure::report`].
    #[must_use]
    pub fn logged(self) -> Self {
        tracing::error!(exit_code = self.exit_code(), error = self.text(), "the program ends");
        self
    }

    /// Reports the failure on standard error, for the shell and the operator; returns the exit code.
    pub fn report(self) -> u8 {
        let (text, code) = (self.text(), self.exit_code());
        // On a thread of its own: a pipe that nobody reads must not keep the process from ending.
        let (done, written) = std::sync::mpsc::sync_channel(1);
        let write = move || {
            let _ = writeln!(std::io::stderr(), "prb: {text}");
            let _ = done.send(());
        };
        if std::thread::Builder::new().spawn(write).is_ok() {
            let _ = written.recv_timeout(STDERR_TIMEOUT);
        }
        code
    }
}

/// Formats an error and its causes, with the remedy if the system is the cause.
fn explained(error: &anyhow::Error) -> String {
    // Unlike `{:#}`, it does not repeat a cause that an error's own text ends with.
    let mut text = describe(&**error);
    for cause in error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>()) {
        let remedy = io_remedy(cause);
        if !text.contains(remedy) {
            text += remedy;
        }
    }
    text
}

/// Whether an error at the start may be gone at the next one: a port that the predecessor has not closed yet, an
/// address that the network does not have yet at boot, a disk that is full or fails. A supervisor that does not restart after
/// [`BAD_CONFIGURATION`] would leave the fleet without its daemon.
fn is_transient(error: &anyhow::Error) -> bool {
    error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>()).any(is_passing)
}

/// A running daemon, as used by [`run`].
pub(crate) trait Daemon {
    /// Default port of the ops port.
    const OPS_PORT: u16;
    /// Memory that it may need, in MiB, without the blob cache.
    const MEMORY_MIB: u64;

    /// Returns the probe of its readiness.
    fn probe(&self) -> Probe;

    /// Returns the current view.
    fn view(&self) -> impl Future<Output = View>;

    /// Waits for an essential part to end. Cancel safe.
    fn ended(&mut self) -> impl Future<Output = anyhow::Error>;

    /// Reads its files again, at SIGHUP. Cancel safe.
    fn reload(&self) -> impl Future<Output = ()> {
        async { tracing::info!("SIGHUP received: there is no file to reload") }
    }

    /// Shuts down in order, within five seconds.
    fn stop(self) -> impl Future<Output = ()>;
}

/// Starts a daemon and runs it until a signal.
///
/// # Errors
/// See [`Failure`].
pub(crate) async fn run<D: Daemon>(
    ops: &OpsArgs,
    start: impl Future<Output = Result<D, Failure>>,
    display: &Display,
) -> Result<(), Failure> {
    let stop = CancellationToken::new();
    // One pending reload is sufficient: it reads the file as it is by then.
    let (reload, mut reloads) = mpsc::channel(1);
    let mut signals = JoinSet::new();
    // Before the start, which may take long: a signal must be able to end it.
    // As a task of its own: a second signal ends the process even if the shutdown hangs.
    signals.spawn(signals::listen(stop.clone(), Some(reload)));
    // The metrics recorder must be installed before anything counts.
    let mut ops = Ops::open(ops, D::OPS_PORT).await.map_err(Failure::Configuration)?;
    // Also before anything counts, so that a scraper gets every description with the first value.
    let mut gauges = Gauges::describe();
    memory_limit::warn_if_too_low(D::MEMORY_MIB);
    let mut daemon = tokio::select! {
        daemon = start => daemon?,
        () = stop.cancelled() => return Ok(()),
    };
    let probe = daemon.probe();
    if let Some(ops) = &ops {
        ops.watch(probe.clone());
    }
    let mut progress = Progress::new(display);
    let mut ticks = tokio::time::interval(DISPLAY_INTERVAL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    // Not biased: with a fixed order, one busy branch could keep the others from being polled.
    let result = loop {
        tokio::select! {
            () = stop.cancelled() => break Ok(()),
            error = daemon.ended() => break Err(Failure::Run(error)),
            error = ops_ended(&mut ops) => break Err(Failure::Run(error)),
            Some(ended) = signals.join_next() => break Err(Failure::Run(signals_ended(ended))),
            // Reading the file may take long, and must not keep the daemon from ending.
            Some(()) = reloads.recv() => {
                stop.run_until_cancelled(daemon.reload()).await;
            }
            _ = ticks.tick() => {
                let view = daemon.view().await;
                gauges.set(&view);
                gauges.ready(&probe.reasons());
                progress.show(view);
            }
        }
    };
    progress.finish();
    if tokio::time::timeout(stop::WHOLE, daemon.stop()).await.is_err() {
        tracing::warn!("the shutdown took too long and is aborted; stored data is complete");
    }
    if let Some(ops) = ops {
        // Last, so that metrics and /livez are served during the shutdown.
        ops.stop().await;
    }
    result
}

/// Waits for the ops port to end unexpectedly. Cancel safe; never completes without an ops port.
async fn ops_ended(ops: &mut Option<Ops>) -> anyhow::Error {
    match ops {
        Some(ops) => ops.ended().await,
        None => std::future::pending().await,
    }
}

fn signals_ended(
    ended: Result<std::io::Result<std::convert::Infallible>, tokio::task::JoinError>,
) -> anyhow::Error {
    match ended {
        Ok(Err(error)) => anyhow::Error::new(error).context("cannot listen for signals"),
        Err(error) => anyhow::Error::new(error).context("the signal listener failed"),
    }
}

/// Creates the node pool of a chain, whose genesis may be known.
pub(crate) fn pool(
    chain: &'static str,
    endpoints: &[NodeUrl],
    genesis: Option<Hash>,
) -> anyhow::Result<NodePool> {
    NodePool::new(chain, rpc::Config::new(endpoints.iter().cloned()).with_genesis(genesis))
        .with_context(|| format!("the {chain} chain's endpoints"))
}

/// Converts the end of an endless task to an error.
pub(crate) fn ended<E: Into<anyhow::Error>>(what: &'static str, result: Result<(), E>) -> anyhow::Error {
    match result {
        Ok(()) => anyhow::anyhow!("{what} has ended"),
        Err(error) => error.into().context(format!("{what} has failed")),
    }
}

/// Background tasks that must not end before the daemon; each returns why it ended.
#[derive(Debug, Default)]
pub(crate) struct Background {
    cancel: CancellationToken,
    tasks: JoinSet<anyhow::Error>,
}

impl Background {
    /// Spawns a task, which must end when its token is cancelled.
    pub(crate) fn spawn<F>(&mut self, task: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = anyhow::Error> + Send + 'static,
    {
        self.tasks.spawn(task(self.cancel.clone()));
    }

    /// Waits for a task to end. Cancel safe; never completes without tasks.
    pub(crate) async fn ended(&mut self) -> anyhow::Error {
        match self.tasks.join_next().await {
            Some(Ok(error)) => error,
            Some(Err(error)) => anyhow::Error::new(error).context("a background task panicked"),
            None => std::future::pending().await,
        }
    }

    /// Cancels the tasks, and aborts those that take too long.
    pub(crate) async fn stop(mut self, within: Duration) {
        self.cancel.cancel();
        let drain = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(within, drain).await.is_err() {
            tracing::warn!("background tasks did not end in time and are aborted; stored data is complete");
        }
    }
}
