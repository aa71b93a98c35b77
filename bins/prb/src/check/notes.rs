//! Prints on standard error what a daemon would log as a warning at its start.

use std::fmt::{self, Write as _};

use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    Layer,
    layer::{Context, SubscriberExt},
    registry,
    util::SubscriberInitExt,
};

use crate::output;

/// Prints warnings from now on, for the rest of the process.
pub(super) fn start() {
    // Fails if there is a log already, which has them then.
    let _ = registry().with(Warnings).try_init();
}

struct Warnings;

impl<S: Subscriber> Layer<S> for Warnings {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        // Errors end the check, which reports them.
        if *event.metadata().level() == Level::WARN && event.metadata().target().starts_with("prb") {
            let mut line = Line::default();
            event.record(&mut line);
            let fields = if line.fields.is_empty() { String::new() } else { format!(" ({})", line.fields) };
            output::error_line(&format!("prb: warning: {}{fields}", line.message));
        }
    }
}

#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.record_debug(field, &format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
        } else {
            let comma = if self.fields.is_empty() { "" } else { ", " };
            let _ = write!(self.fields, "{comma}{}: {value:?}", field.name());
        }
    }
}
