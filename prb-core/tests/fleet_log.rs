//! What a fleet writes to the log while many workers change at once. On parts in memory, in virtual time.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    fmt,
    sync::{Arc, Mutex},
    time::Duration,
};

use prb_core::worker::{Event, EventKind, Settings, State};
use tracing::{
    Event as Written, Level, Metadata, Subscriber,
    field::{Field, Visit},
    span,
};

#[path = "fleet_rig/rig.rs"]
mod rig;
use rig::Rig;

/// The lines from `INFO` on.
#[derive(Clone, Debug, Default)]
struct Lines(Arc<Mutex<Vec<String>>>);

impl Lines {
    fn written(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

impl Subscriber for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.is_event() && *metadata.level() <= Level::INFO
    }

    fn event(&self, event: &Written<'_>) {
        let mut line = Line(event.metadata().level().to_string());
        event.record(&mut line);
        self.0.lock().unwrap().push(line.0);
    }

    fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
        span::Id::from_u64(1)
    }

    fn record(&self, _: &span::Id, _: &span::Record<'_>) {}
    fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}
    fn enter(&self, _: &span::Id) {}
    fn exit(&self, _: &span::Id) {}
}

struct Line(String);

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.0 += &format!(" {field}={value:?}");
    }
}

/// The lines of an outage of so many workers.
async fn lines_of_outage(workers: usize) -> Vec<String> {
    let mut rig = Rig::new(workers, 5).await;
    rig.start_with(Rig::config().with_settings(Settings::default().with_sync_only(true)));
    rig.until_all(State::Synched).await;
    // The period in which they have started is over.
    tokio::time::sleep(Duration::from_secs(30)).await;
    let lines = Lines::default();
    let _guard = tracing::subscriber::set_default(lines.clone());
    rig.workers.iter().for_each(|worker| worker.set_down(true));
    rig.blocks(1);
    rig.until_all(State::Error).await;
    for index in 0..workers {
        assert_eq!(rig.status(index).reason.code(), "unreachable");
        let events = rig.fleet().events(rig.ids[index]).unwrap();
        let is_error = |event: &Event| matches!(event.kind, EventKind::State { after: State::Error, .. });
        assert!(events.iter().any(is_error), "each worker has its event");
    }
    tokio::time::sleep(Duration::from_secs(30)).await;
    lines.written()
}

#[tokio::test(start_paused = true)]
async fn outage_of_a_large_fleet_does_not_fill_the_log() {
    let lines = lines_of_outage(300).await;
    assert!(lines.len() < 150, "{} lines", lines.len());
    for text in ["more workers do not answer", "more workers have changed their state"] {
        let summary = lines.iter().find(|line| line.contains(text)).expect(text);
        assert!(summary.contains("count=") && summary.contains("first="), "{summary}");
    }
}

#[tokio::test(start_paused = true)]
async fn outage_of_a_few_workers_names_each() {
    let lines = lines_of_outage(3).await;
    let count = |text: &str| lines.iter().filter(|line| line.contains(text)).count();
    assert_eq!((count("worker does not answer"), count("more workers")), (3, 0), "{lines:?}");
}
