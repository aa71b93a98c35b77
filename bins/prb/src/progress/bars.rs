//! Self-updating bars, drawn on a separate thread: a paused terminal (Ctrl-S) blocks nothing.

use std::{
    sync::mpsc::{self, Receiver, SyncSender},
    time::Duration,
};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use prb_core::worker::State;

use super::{NAMED_WORKERS, Shown, View, jobs, states, worker_line};

/// How long the last redraw may take.
const FINISH_WITHIN: Duration = Duration::from_millis(300);

#[derive(Debug)]
enum Draw {
    View(Box<View>, f64, f64),
    Finish(SyncSender<()>),
}

/// Handle to the drawing thread.
#[derive(Debug)]
pub(super) struct Screen(SyncSender<Draw>);

impl Screen {
    /// Starts the thread; `None` if that fails.
    pub(super) fn start(multi: MultiProgress) -> Option<Self> {
        // Small: while the thread is busy, `show` drops views, because an old one is not worth drawing.
        let (draw, drawn) = mpsc::sync_channel(2);
        let thread = std::thread::Builder::new().name("bars".into());
        thread.spawn(move || run(&Bars::new(&multi), &drawn)).ok().map(|_| Self(draw))
    }

    /// Draws a view, or drops it if the thread is still busy.
    pub(super) fn show(&self, view: View, relay_rate: f64, para_rate: f64) {
        let _ = self.0.try_send(Draw::View(Box::new(view), relay_rate, para_rate));
    }

    pub(super) fn finish(&self) {
        let (done, finished) = mpsc::sync_channel(1);
        // A full queue means that the terminal is paused: there is nothing to wait for.
        if self.0.try_send(Draw::Finish(done)).is_ok() {
            let _ = finished.recv_timeout(FINISH_WITHIN);
        }
    }
}

fn run(bars: &Bars, drawn: &Receiver<Draw>) {
    while let Ok(draw) = drawn.recv() {
        match draw {
            Draw::View(view, relay, para) => bars.show(&view, relay, para),
            Draw::Finish(done) => {
                bars.finish();
                let _ = done.try_send(());
                return;
            }
        }
    }
}

#[derive(Debug)]
pub(super) struct Bars {
    relay: ProgressBar,
    para: ProgressBar,
    workers: ProgressBar,
    jobs: ProgressBar,
    named: Vec<ProgressBar>,
}

impl Bars {
    fn new(multi: &MultiProgress) -> Self {
        let chain = |name: &'static str| {
            let style = ProgressStyle::with_template("{prefix:8} [{bar:32}] {pos}/{len} {msg}")
                .unwrap_or_else(|_| ProgressStyle::default_bar())
                .progress_chars("=> ");
            multi.add(ProgressBar::new(0)).with_style(style).with_prefix(name)
        };
        let line = || {
            let style = ProgressStyle::with_template("{prefix:8} {msg}")
                .unwrap_or_else(|_| ProgressStyle::default_spinner());
            multi.add(ProgressBar::new_spinner()).with_style(style)
        };
        let (relay, para) = (chain("relay"), chain("para"));
        Self {
            relay,
            para,
            workers: line().with_prefix("workers"),
            jobs: line().with_prefix("jobs"),
            named: (0..NAMED_WORKERS).map(|_| line()).collect(),
        }
    }

    fn show(&self, view: &View, relay_rate: f64, para_rate: f64) {
        let heights = &view.heights;
        for (bar, have, target, rate) in [
            (&self.relay, heights.relay.map(|n| n.0), heights.relay_target.map(|n| n.0), relay_rate),
            (&self.para, heights.para.map(|n| n.0), heights.para_target.map(|n| n.0), para_rate),
        ] {
            let have = have.unwrap_or(0);
            bar.set_length(target.unwrap_or(0).max(have).into());
            bar.set_position(have.into());
            bar.set_message(format!("{rate:.1} blocks/s"));
        }
        match view.shown {
            Shown::Everything => {}
            Shown::Provider { peers } => {
                self.workers.set_prefix("peers");
                self.workers.set_message(peers.to_string());
                return;
            }
            Shown::Trader => return self.jobs.set_message(jobs(&view.jobs)),
            Shown::Monitor { peers } => {
                self.workers.set_prefix("peers");
                return self.workers.set_message(peers.to_string());
            }
            Shown::Manager { providers } => {
                self.named[0].set_prefix("data");
                self.named[0].set_message(format!("{providers} data providers"));
            }
        }
        self.workers.set_message(states(&view.fleet));
        self.jobs.set_message(jobs(&view.jobs));
        let mut named = view.fleet.workers.iter().filter(|w| w.state != State::Active);
        let skip = usize::from(matches!(view.shown, Shown::Manager { .. }));
        for bar in &self.named[skip..] {
            bar.set_message(named.next().map(|w| worker_line(w)).unwrap_or_default());
        }
    }

    fn finish(&self) {
        for bar in [&self.relay, &self.para, &self.workers, &self.jobs] {
            bar.abandon();
        }
        self.named.iter().for_each(ProgressBar::finish_and_clear);
    }
}
