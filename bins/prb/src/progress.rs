//! Progress display of a daemon: bars on a terminal, log events otherwise.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    io::{IsTerminal, Write as _},
    sync::Arc,
    time::{Duration, Instant},
};

use indicatif::MultiProgress;
use prb_core::{
    blob::Heights,
    chain::ChainView,
    fleet::FleetStatus,
    queue::Stats,
    worker::{State, WorkerStatus},
};

/// Most workers with problems that are listed on the terminal.
const NAMED_WORKERS: usize = 6;
/// Interval between two log events.
const LOG_EVERY: Duration = Duration::from_secs(30);
/// Weight of the newest rate in the displayed one.
const SMOOTHING: f64 = 0.3;

mod bars;

use bars::Screen;

/// The kind of progress display.
#[derive(Clone, Debug)]
pub enum Display {
    /// Self-updating bars on standard error.
    Live(MultiProgress),
    /// Periodic log events with the target `prb::progress`.
    Plain,
}

impl Display {
    /// Selects bars if standard error is a terminal, otherwise log events.
    pub fn detect() -> Self {
        if std::io::stderr().is_terminal() { Self::Live(MultiProgress::new()) } else { Self::Plain }
    }

    /// Whether bars are displayed.
    pub const fn is_live(&self) -> bool {
        matches!(self, Self::Live(_))
    }

    /// Runs a function that uses the terminal while the bars are hidden.
    pub fn suspended<R>(&self, what: impl FnOnce() -> R) -> R {
        match self {
            Self::Live(multi) => multi.suspend(what),
            Self::Plain => what(),
        }
    }

    /// Prints a line to standard output, ignoring a closed pipe.
    pub fn print(&self, line: &str) {
        let _ = self.suspended(|| writeln!(std::io::stdout(), "{line}"));
    }
}

/// A snapshot of everything that is displayed.
#[derive(Debug, Default)]
pub struct View {
    /// The heights of the block store.
    pub heights: Heights,
    /// The workers.
    pub fleet: FleetStatus,
    /// The queue.
    pub jobs: Stats,
    /// The on-chain state, if it is read.
    pub chain: Option<Arc<ChainView>>,
    /// What this daemon displays.
    pub shown: Shown,
}

/// The kind of a daemon's display.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Shown {
    /// Both chains, workers and jobs.
    #[default]
    Everything,
    /// Both chains, and the number of peers.
    Provider {
        /// Number of peers.
        peers: usize,
    },
    /// Heights of the data providers, workers, jobs, and the number of data providers.
    Manager {
        /// Number of data providers.
        providers: usize,
    },
    /// Jobs.
    Trader,
    /// The number of peers.
    Monitor {
        /// Number of connected peers.
        peers: usize,
    },
}

/// A chain's height and rate.
#[derive(Debug, Default)]
struct Meter {
    last: Option<(Instant, u32)>,
    rate: f64,
}

impl Meter {
    fn update(&mut self, now: Instant, height: Option<u32>) -> f64 {
        if let Some(height) = height {
            if let Some((at, old)) = self.last {
                let seconds = now.duration_since(at).as_secs_f64();
                if seconds > 0.0 {
                    let rate = f64::from(height.saturating_sub(old)) / seconds;
                    // Smoothed: blocks come in batches, so the rate between two updates says little.
                    self.rate += SMOOTHING * (rate - self.rate);
                }
            }
            self.last = Some((now, height));
        }
        self.rate
    }
}

/// Displays successive [`View`]s.
#[derive(Debug)]
pub struct Progress {
    screen: Option<Screen>,
    relay: Meter,
    para: Meter,
    logged: Option<(Instant, String)>,
}

impl Progress {
    /// Starts the display.
    pub fn new(display: &Display) -> Self {
        let screen = match display {
            Display::Live(multi) => Screen::start(multi.clone()),
            Display::Plain => None,
        };
        Self { screen, relay: Meter::default(), para: Meter::default(), logged: None }
    }

    /// Displays a view: at once on a terminal; in the log if it has changed and the last event is old enough.
    pub fn show(&mut self, view: View) {
        let now = Instant::now();
        let relay = self.relay.update(now, view.heights.relay.map(|n| n.0));
        let para = self.para.update(now, view.heights.para.map(|n| n.0));
        if let Some(screen) = &self.screen {
            screen.show(view, relay, para);
            return;
        }
        if self.logged.as_ref().is_some_and(|(at, _)| now.duration_since(*at) < LOG_EVERY) {
            return;
        }
        let line = plain_line(&view, relay, para);
        // An idle daemon does not repeat itself.
        if self.logged.as_ref().is_none_or(|(_, last)| *last != line) {
            tracing::info!(target: "prb::progress", "{line}");
        }
        self.logged = Some((now, line));
    }

    /// Releases the terminal.
    pub fn finish(&self) {
        if let Some(screen) = &self.screen {
            screen.finish();
        }
    }
}

fn plain_line(view: &View, relay_rate: f64, para_rate: f64) -> String {
    if view.shown == Shown::Trader {
        return format!("jobs: {}", jobs(&view.jobs));
    }
    if let Shown::Monitor { peers } = view.shown {
        return format!("peers: {peers}");
    }
    let heights = &view.heights;
    let number = |n: Option<u32>| n.map_or_else(|| "-".to_owned(), |n| n.to_string());
    let mut line = format!(
        "relay {}/{} ({relay_rate:.1}/s)  para {}/{} ({para_rate:.1}/s)",
        number(heights.relay.map(|n| n.0)),
        number(heights.relay_target.map(|n| n.0)),
        number(heights.para.map(|n| n.0)),
        number(heights.para_target.map(|n| n.0)),
    );
    // Writing to a String cannot fail.
    let _ = match view.shown {
        Shown::Everything | Shown::Trader | Shown::Monitor { .. } => Ok(()),
        Shown::Provider { peers } => write!(line, "  peers: {peers}"),
        Shown::Manager { providers } => write!(line, "  data providers: {providers}"),
    };
    if !matches!(view.shown, Shown::Provider { .. }) {
        let _ = write!(line, "  workers: {}  jobs: {}", states(&view.fleet), jobs(&view.jobs));
    }
    let stalled = view.fleet.workers.iter().filter(|w| w.stalled);
    for worker in stalled.take(NAMED_WORKERS) {
        let _ = write!(line, "  stalled: {}", worker_line(worker));
    }
    line
}

/// Formats the number of workers by state, such as `3 S_ACTIVE, 1 S_SYNCHING`.
pub fn states(fleet: &FleetStatus) -> String {
    let mut counts = BTreeMap::<u8, (State, usize)>::new();
    for worker in &fleet.workers {
        counts.entry(worker.state.number()).or_insert((worker.state, 0)).1 += 1;
    }
    if counts.is_empty() {
        return "none".into();
    }
    // Those with errors first: their state has the highest number.
    let parts: Vec<_> = counts.values().rev().map(|(state, n)| format!("{n} {}", state.as_str())).collect();
    parts.join(", ")
}

fn jobs(stats: &Stats) -> String {
    let Stats { waiting, delayed, active, succeeded, failed } = stats;
    format!("{waiting} waiting, {delayed} delayed, {active} active, {succeeded} done, {failed} failed")
}

/// Formats one worker as a line: name, state, next block, message.
pub fn worker_line(worker: &WorkerStatus) -> String {
    let block = worker.position.map_or_else(|| "-".into(), |p| p.block.to_string());
    format!("{} {} block {block}: {}", worker.worker.name, worker.state.as_str(), worker.message)
}

/// Formats a table of all workers, for the end of an unsuccessful run.
pub fn table(fleet: &FleetStatus) -> String {
    let mut out = format!(
        "{:<24} {:<12} {:>10} {:>10} {:>10}  message\n",
        "worker", "state", "relay", "header", "block"
    );
    for worker in &fleet.workers {
        let next = |f: fn(&prb_core::sync::Position) -> u32| {
            worker.position.as_ref().map_or_else(|| "-".to_owned(), |p| f(p).to_string())
        };
        let _ = writeln!(
            out,
            "{:<24} {:<12} {:>10} {:>10} {:>10}  {}",
            worker.worker.name,
            worker.state.as_str(),
            next(|p| p.relay_header.0),
            next(|p| p.para_header.0),
            next(|p| p.block.0),
            worker.message,
        );
    }
    out
}
