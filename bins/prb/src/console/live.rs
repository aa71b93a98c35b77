//! Parts of a page that change while somebody looks, and the stream of their changes.
//!
//! A browser that asks for `text/event-stream` gets an event a second at most, with those parts, or only those
//! rows of a table, whose content is another than before; others get all parts at once.

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

use crate::listen::Place;

/// Streams at once from this machine, with shares for others; more ask again and again instead.
pub const MAX_STREAMS: usize = 32;
/// Time between two looks.
const EVERY: Duration = Duration::from_secs(1);
/// How long a stream lasts: less than a connection is kept. The browser opens the next one by itself.
const LASTS: Duration = Duration::from_secs(50);
/// How soon.
const OPEN_AGAIN: Duration = Duration::from_millis(500);

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
    /// A part that changes as a whole.
    pub(super) fn new(id: &'static str, content: Markup) -> Self {
        Self { id, before: content, ..Self::default() }
    }

    /// The same, with a table whose rows change one by one; each row is an element of its id.
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

    /// The same, with more below the table.
    #[must_use]
    pub(super) fn with_after(mut self, after: Markup) -> Self {
        self.after = after;
        self
    }

    pub(super) fn markup(&self) -> Markup {
        html! {
            section id=(self.id) data-part {
                (self.before)
                @if let Some(Table { class, head, rows }) = &self.table {
                    table class=(class) { (head) tbody { @for (_, row) in rows { (row) } } }
                }
                (self.after)
            }
        }
    }

    /// What is in it besides the content of its rows.
    fn outline(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        (&self.before.0, &self.after.0).hash(&mut hasher);
        if let Some(table) = &self.table {
            table.head.0.hash(&mut hasher);
            table.rows.iter().for_each(|(id, _)| id.hash(&mut hasher));
        }
        hasher.finish()
    }
}

/// Elements to be replaced: id and content.
#[derive(Debug, Default, Serialize)]
struct Patch {
    parts: Vec<(&'static str, String)>,
    rows: Vec<(String, String)>,
}

/// What a browser has been sent.
#[derive(Debug, Default)]
struct Sent {
    outlines: HashMap<&'static str, u64>,
    rows: HashMap<String, u64>,
}

impl Sent {
    /// What has changed since the last time.
    fn patch(&mut self, parts: &[Part]) -> Patch {
        let mut patch = Patch::default();
        let before = std::mem::take(&mut self.rows);
        for part in parts {
            let outline = part.outline();
            let whole = self.outlines.insert(part.id, outline) != Some(outline);
            if whole {
                patch.parts.push((part.id, part.markup().into_string()));
            }
            for (id, row) in part.table.iter().flat_map(|table| &table.rows) {
                let hash = hash(&row.0);
                if !whole && before.get(id) != Some(&hash) {
                    patch.rows.push((id.clone(), row.0.clone()));
                }
                self.rows.insert(id.clone(), hash);
            }
        }
        patch
    }
}

fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

/// Streams what changes; `look` gives the parts as they are now.
pub(super) fn stream<F, Fut>(place: Place, look: F) -> Response
where
    F: Fn() -> Fut + Send + Sync + 'static,
    Fut: Future<Output = Vec<Part>> + Send,
{
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let start = (place, ticks, Sent::default(), look);
    let end = Instant::now() + LASTS;
    let events = futures::stream::unfold(start, move |(place, mut ticks, mut sent, look)| async move {
        let event = timeout_at(end, next(&mut ticks, &mut sent, &look)).await.ok()?;
        Some((Ok::<_, Infallible>(event), (place, ticks, sent, look)))
    });
    Sse::new(events).keep_alive(KeepAlive::new().interval(Duration::from_secs(15))).into_response()
}

/// Waits for something to change.
async fn next<F, Fut>(ticks: &mut Interval, sent: &mut Sent, look: &F) -> Event
where
    F: Fn() -> Fut + Sync,
    Fut: Future<Output = Vec<Part>>,
{
    loop {
        ticks.tick().await;
        let patch = sent.patch(&look().await);
        if !patch.parts.is_empty() || !patch.rows.is_empty() {
            // Texts only: nothing that JSON cannot say.
            return Event::default().retry(OPEN_AGAIN).json_data(&patch).unwrap_or_default();
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
    fn only_what_changes_is_sent() {
        let mut sent = Sent::default();
        let first = sent.patch(&[part(&[("a", "1"), ("b", "1")], "x")]);
        assert_eq!((first.parts.len(), first.rows.len()), (1, 0));
        let none = sent.patch(&[part(&[("a", "1"), ("b", "1")], "x")]);
        assert_eq!((none.parts.len(), none.rows.len()), (0, 0));
        let row = sent.patch(&[part(&[("a", "1"), ("b", "2")], "x")]);
        assert_eq!(row.rows, [("b".to_owned(), r#"<tr id="b"><td>2</td></tr>"#.to_owned())]);
        assert!(row.parts.is_empty());
        // Another order, or another text around: the whole part.
        for changed in [part(&[("b", "2"), ("a", "1")], "x"), part(&[("b", "2"), ("a", "1")], "y")] {
            let patch = sent.patch(&[changed]);
            assert_eq!((patch.parts.len(), patch.rows.len()), (1, 0));
        }
    }
}
