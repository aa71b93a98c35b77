//! Parts of a page that update themselves, and the stream of their changes.
//!
//! A browser that requests `text/event-stream` gets at most one event per second, with the parts that
//! changed, or only the changed rows of a table. Other requests get all parts.

use std::{
    collections::HashMap,
    convert::Infallible,
    hash::{DefaultHasher, Hash, Hasher},
    time::Duration,
};

use axum::response::{
    IntoResponse, Response, Sse,
    sse::{Event, KeepAlive},
};
use maud::{Markup, html};
use serde::Serialize;
use tokio::time::{Instant, Interval, MissedTickBehavior, timeout_at};

use crate::listen::Slot;

/// Streams at once from this machine, with shares for others; browsers without a stream poll.
pub const MAX_STREAMS: usize = 32;
/// Interval between two checks for changes.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// Duration of a stream; shorter than the maximum duration of a connection. The browser opens the next one.
const STREAM_DURATION: Duration = Duration::from_secs(50);
/// How soon the browser does so.
const RECONNECT_DELAY: Duration = Duration::from_millis(500);

/// A part of a page.
#[derive(Debug, Default)]
pub(super) struct Part {
    id: &'static str,
    before: Markup,
    table: Option<Table>,
    after: Markup,
}

#[derive(Debug)]
struct Table {
    class: &'static str,
    head: Markup,
    /// Rows by the ids of their elements.
    rows: Vec<(String, Markup)>,
}

impl Part {
    /// Creates a part that is replaced as a whole.
    pub(super) fn new(id: &'static str, content: Markup) -> Self {
        Self { id, before: content, ..Self::default() }
    }

    /// Adds a table whose rows are replaced one by one; each row is an element with its id.
    #[must_use]
    pub(super) fn with_table(
        mut self,
        class: &'static str,
        head: Markup,
        rows: Vec<(String, Markup)>,
    ) -> Self {
        self.table = Some(Table { class, head, rows });
        self
    }

    /// Adds content below the table.
    #[must_use]
    pub(super) fn with_after(mut self, after: Markup) -> Self {
        self.after = after;
        self
    }

    pub(super) fn markup(&self) -> Markup {
        html! {
            // The script finds what to replace by its id, and keeps checked boxes and the focus by theirs:
            // ids must be stable and unique on the page.
            section id=(self.id) data-part {
                (self.before)
                @if let Some(Table { class, head, rows }) = &self.table {
                    table class=(class) { (head) tbody { @for (_, row) in rows { (row) } } }
                }
                (self.after)
            }
        }
    }

    /// Hashes the part's content without its rows.
    fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (&self.before.0, &self.after.0).hash(&mut hasher);
        if let Some(table) = &self.table {
            table.head.0.hash(&mut hasher);
            // Of the rows only the ids, in order: a row that appears, disappears or moves sends the whole
            // part, one that changes sends itself.
            table.rows.iter().for_each(|(id, _)| id.hash(&mut hasher));
        }
        hasher.finish()
    }
}

/// Elements to replace: id and content.
#[derive(Debug, Default, Serialize)]
struct Patch {
    parts: Vec<(&'static str, String)>,
    rows: Vec<(String, String)>,
}

/// The state last sent to a browser.
#[derive(Debug, Default)]
struct Sent {
    fingerprints: HashMap<&'static str, u64>,
    rows: HashMap<String, u64>,
}

impl Sent {
    /// Returns the changes since the last call.
    fn patch(&mut self, parts: &[Part]) -> Patch {
        let mut patch = Patch::default();
        let before = std::mem::take(&mut self.rows);
        for part in parts {
            let fingerprint = part.fingerprint();
            let is_changed = self.fingerprints.insert(part.id, fingerprint) != Some(fingerprint);
            if is_changed {
                patch.parts.push((part.id, part.markup().into_string()));
            }
            for (id, row) in part.table.iter().flat_map(|table| &table.rows) {
                let hash = hash(&row.0);
                if !is_changed && before.get(id) != Some(&hash) {
                    patch.rows.push((id.clone(), row.0.clone()));
                }
                self.rows.insert(id.clone(), hash);
            }
        }
        patch
    }
}

// Only hashes are remembered of what was sent, not the text of up to 500 rows for every viewer.
fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

/// Streams what changes; `render` returns the current parts.
pub(super) fn stream<F, Fut>(slot: Slot, render: F) -> Response
where
    F: Fn() -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Vec<Part>> + Send,
{
    let mut ticks = tokio::time::interval(CHECK_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The slot moves with the stream, and is released when it ends or the browser disconnects.
    let start = (slot, ticks, Sent::default(), render);
    let end = Instant::now() + STREAM_DURATION;
    let events = futures::stream::unfold(start, move |(slot, mut ticks, mut sent, render)| async move {
        let event = timeout_at(end, next(&mut ticks, &mut sent, &render)).await.ok()?;
        Some((Ok::<_, Infallible>(event), (slot, ticks, sent, render)))
    });
    Sse::new(events).keep_alive(KeepAlive::new().interval(Duration::from_secs(15))).into_response()
}

/// Waits for a change.
async fn next<F, Fut>(ticks: &mut Interval, sent: &mut Sent, render: &F) -> Event
where
    F: Fn() -> Fut + Sync,
    Fut: Future<Output = Vec<Part>>,
{
    loop {
        ticks.tick().await;
        let patch = sent.patch(&render().await);
        if !patch.parts.is_empty() || !patch.rows.is_empty() {
            // A patch has only strings, which JSON can always represent.
            return Event::default().retry(RECONNECT_DELAY).json_data(&patch).unwrap_or_default();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn part(rows: &[(&str, &str)], note: &str) -> Part {
        let rows = rows.iter().map(|(id, text)| ((*id).to_owned(), html! { tr id=(id) { td { (text) } } }));
        Part::new("list", html! { p { (note) } }).with_table("t", html! {}, rows.collect())
    }

    #[test]
    fn only_changes_are_sent() {
        let mut sent = Sent::default();
        let first = sent.patch(&[part(&[("a", "1"), ("b", "1")], "x")]);
        assert_eq!((first.parts.len(), first.rows.len()), (1, 0));
        let none = sent.patch(&[part(&[("a", "1"), ("b", "1")], "x")]);
        assert_eq!((none.parts.len(), none.rows.len()), (0, 0));
        let row = sent.patch(&[part(&[("a", "1"), ("b", "2")], "x")]);
        assert_eq!(row.rows, [("b".to_owned(), r#"<tr id="b"><td>2</td></tr>"#.to_owned())]);
        assert!(row.parts.is_empty());
        // Another order, or another fingerprint: the whole part is sent.
        for changed in [part(&[("b", "2"), ("a", "1")], "x"), part(&[("b", "2"), ("a", "1")], "y")] {
            let patch = sent.patch(&[changed]);
            assert_eq!((patch.parts.len(), patch.rows.len()), (1, 0));
        }
    }
}
