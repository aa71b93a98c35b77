//! [`PageHost`]: the surroundings of the queue's pages: a port of their own, or the console.

use std::{collections::HashMap, fmt, sync::Arc};

use async_trait::async_trait;
use maud::{Markup, html};
use prb_core::{inventory::Worker, primitives::WorkerKey};

use super::super::{TokenLocation, layout::Shell};

/// Looks up the workers of jobs.
#[async_trait]
pub(crate) trait Workers: Send + Sync {
    /// Returns the fleet's workers by their keys, as far as these are known.
    async fn by_key(&self) -> Directory;
}

/// Workers by their keys.
pub(crate) type Directory = HashMap<WorkerKey, Arc<Worker>>;

/// The surroundings of the pages.
#[derive(Clone)]
pub(crate) struct PageHost {
    /// Prefix of their paths; empty on a port of their own.
    pub(crate) base: &'static str,
    /// Their title.
    pub(crate) title: &'static str,
    /// The navigation entries: path and name.
    pub(crate) entries: Vec<(String, &'static str)>,
    /// Looks up workers, if the fleet is known.
    pub(crate) workers: Option<Arc<dyn Workers>>,
}

impl fmt::Debug for PageHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PageHost").field("base", &self.base).finish_non_exhaustive()
    }
}

impl PageHost {
    /// Creates the host for a port of their own.
    pub(super) fn standalone() -> Self {
        let title = "Trade queue";
        Self { base: "", title, entries: vec![("/".to_owned(), title)], workers: None }
    }

    /// Returns the path of the list.
    pub(super) fn home(&self) -> &'static str {
        if self.base.is_empty() { "/" } else { self.base }
    }

    /// Renders a page with this content.
    pub(super) fn page(
        &self,
        token: &TokenLocation,
        title: &str,
        live: Option<&str>,
        content: &Markup,
    ) -> Markup {
        let entries: Vec<_> = self.entries.iter().map(|(path, name)| (path.as_str(), *name)).collect();
        let here = self.home();
        Shell { title, entries: &entries, here, live, is_stream: false, token: Some(token) }.wrap(content)
    }

    /// Returns the workers by their keys; empty if they are not known.
    pub(super) async fn directory(&self) -> Directory {
        match &self.workers {
            Some(workers) => workers.by_key().await,
            None => Directory::new(),
        }
    }
}

/// Shows a job's first workers, by name if known, otherwise by the start of their key.
pub(super) fn workers(keys: &[WorkerKey], known: &Directory) -> Markup {
    const SHOWN: usize = 2;
    html! {
        @for (at, key) in keys.iter().take(SHOWN).enumerate() {
            @if at > 0 { ", " }
            @match known.get(key) {
                Some(worker) => { a href={ "/workers/" (worker.id) } { (worker.name) } }
                None => { code title=(key) { (key.to_string().chars().take(10).collect::<String>()) "…" } }
            }
        }
        @if keys.len() > SHOWN { " and " (keys.len() - SHOWN) " more" }
        @if keys.is_empty() { "–" }
    }
}
