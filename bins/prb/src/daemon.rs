//! What every daemon does the same: ops port, signals, display, and an end in order.

use std::{io::Write, time::Duration};

use anyhow::Context;
use prb_chain::rpc::{self, NodePool};
use tokio::{sync::mpsc, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    config::{BAD_CONFIGURATION, NodeUrl, OpsArgs},
    ops::{Ops, Probe},
    progress::{Display, Progress, View},
    signals,
};

mod gauges;

use gauges::Gauges;

/// Time between two looks at the state for the display.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long the background tasks may take to end.
const TASKS_STOP: Duration = Duration::from_millis(1000);
/// How long a daemon may take to end in order.
const STOP_WITHIN: Duration = Duration::from_millis(4500);

/// Why a daemon did not run.
#[derive(Debug)]
pub enum Failure {
    /// The operator has to change something.
    Configuration(anyhow::Error),
    /// Something broke.
    Run(anyhow::Error),
}

/// How long the last words on standard error may take: whoever reads them may stand still.
const LAST_WORDS: Duration = Duration::from_millis(300);

impl Failure {
    /// Says why on standard error, where a shell and an operator look, and in the log; gives the exit code.
    pub fn report(self) -> u8 {
        let (error, code) = match self {
            Self::Configuration(error) => (error, BAD_CONFIGURATION),
            Self::Run(error) => (error, 1),
        };
        let text = format!("{error:#}");
        tracing::error!(exit_code = code, error = text, "the program ends");
        let (done, said) = std::sync::mpsc::sync_channel(1);
        let say = move || {
            let _ = writeln!(std::io::stderr(), "prb: {text}");
            let _ = done.send(());
        };
        if std::thread::Builder::new().spawn(say).is_ok() {
            let _ = said.recv_timeout(LAST_WORDS);
        }
        code
    }
}

/// A running daemon, as [`run`] sees it.
pub(crate) trait Daemon {
    /// Default port of the ops port.
    const OPS_PORT: u16;

    /// What says whether it does its work.
    fn probe(&self) -> Probe;

    /// What there is to see now.
    fn view(&self) -> impl Future<Output = View>;

    /// Waits for a part to end that should not. Cancel safe.
    fn ended(&mut self) -> impl Future<Output = anyhow::Error>;

    /// Reads its files again, at SIGHUP.
    fn reload(&self) -> impl Future<Output = ()> {
        async { tracing::info!("SIGHUP: there is no file to read again") }
    }

    /// Ends in order, within five seconds.
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
    let (reload, mut reloads) = mpsc::channel(1);
    let mut signals = JoinSet::new();
    signals.spawn(signals::listen(stop.clone(), Some(reload)));
    // The recorder of metrics must be there before anything counts.
    let mut ops = Ops::open(ops, D::OPS_PORT).await.map_err(Failure::Configuration)?;
    // Before anything counts: a scraper learns what each metric means with its first value.
    let mut gauges = Gauges::describe();
    let mut daemon = tokio::select! {
        daemon = start => daemon?,
        () = stop.cancelled() => return Ok(()),
    };
    let probe = daemon.probe();
    if let Some(ops) = &ops {
        ops.watch(probe.clone());
    }
    let mut progress = Progress::new(display);
    let mut look = tokio::time::interval(LOOK_EVERY);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let result = loop {
        tokio::select! {
            () = stop.cancelled() => break Ok(()),
            error = daemon.ended() => break Err(Failure::Run(error)),
            error = ops_ended(&mut ops) => break Err(Failure::Run(error)),
            Some(ended) = signals.join_next() => break Err(Failure::Run(signals_ended(ended))),
            Some(()) = reloads.recv() => daemon.reload().await,
            _ = look.tick() => {
                let view = daemon.view().await;
                gauges.set(&view);
                gauges.ready(&probe());
                progress.show(view);
            }
        }
    };
    progress.finish();
    if tokio::time::timeout(STOP_WITHIN, daemon.stop()).await.is_err() {
        tracing::warn!("the end took too long and is cut short; what is stored is whole");
    }
    if let Some(ops) = ops {
        ops.stop().await;
    }
    result
}

/// Waits for the ops port to end, which it should not. Cancel safe; waits for ever where there is none.
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
        Ok(Err(error)) => anyhow::Error::new(error).context("signals cannot be heard"),
        Err(error) => anyhow::Error::new(error).context("the listener for signals broke"),
    }
}

/// The nodes of a chain.
pub(crate) fn pool(chain: &'static str, endpoints: &[NodeUrl]) -> anyhow::Result<NodePool> {
    NodePool::new(chain, rpc::Config::new(endpoints.iter().cloned()))
        .with_context(|| format!("the {chain} chain's endpoints"))
}

/// Why a task that should go on for ever ended.
pub(crate) fn ended<E: Into<anyhow::Error>>(what: &'static str, result: Result<(), E>) -> anyhow::Error {
    match result {
        Ok(()) => anyhow::anyhow!("{what} has ended"),
        Err(error) => error.into().context(format!("{what} broke")),
    }
}

/// Background tasks that end only with the daemon; each gives why it ended.
#[derive(Debug, Default)]
pub(crate) struct Background {
    cancel: CancellationToken,
    tasks: JoinSet<anyhow::Error>,
}

impl Background {
    /// Starts a task; it is to end when its token is cancelled.
    pub(crate) fn spawn<F>(&mut self, task: impl FnOnce(CancellationToken) -> F)
    where
        F: Future<Output = anyhow::Error> + Send + 'static,
    {
        self.tasks.spawn(task(self.cancel.clone()));
    }

    /// Waits for a task to end. Cancel safe; waits for ever where there is none.
    pub(crate) async fn ended(&mut self) -> anyhow::Error {
        match self.tasks.join_next().await {
            Some(Ok(error)) => error,
            Some(Err(error)) => anyhow::Error::new(error).context("a background task broke"),
            None => std::future::pending().await,
        }
    }

    /// Ends the tasks, and aborts those that take too long.
    pub(crate) async fn stop(mut self) {
        self.cancel.cancel();
        let drain = async { while self.tasks.join_next().await.is_some() {} };
        if tokio::time::timeout(TASKS_STOP, drain).await.is_err() {
            tracing::warn!("background tasks did not end in time and are aborted; the store stays whole");
        }
    }
}
