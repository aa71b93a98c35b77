//! [`PageHost`]: what the queue's pages stand in: a port of their own, or the console.

use std::{collections::HashMap, fmt, sync::Arc};

use async_trait::async_trait;
use maud::{Markup, html};
use prb_core::{inventory::Worker, primitives::WorkerKey};

use super::super::{TokenPlace, layout::Shell};

/// The workers that jobs may be about.
#[async_trait]
pub(crate) trait Workers: Send + Sync {
    /// The workers of the fleet by their keys, as far as these are known.
    async fn by_key(&self) -> Directory;
}

/// Workers by their keys.
pub(crate) type Directory = HashMap<WorkerKey, Arc<Worker>>;

/// Where the pages stand.
#[derive(Clone)]
pub(crate) struct PageHost {
    /// What stands before their paths; empty on a port of their own.
    pub(crate) base: &'static str,
    /// What they are called.
    pub(crate) title: &'static str,
    /// The entries of the head: path and name.
    pub(crate) entries: Vec<(String, &'static str)>,
    /// Who the workers are, where that is known.
    pub(crate) workers: Option<Arc<dyn Workers>>,
}

impl fmt::Debug for PageHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PageHost").field("base", &self.base).finish_non_exhaustive()
    }
}

impl PageHost {
    /// A port of their own.
    pub(super) fn alone() -> Self {
        let title = "Trade queue";
        Self { base: "", title, entries: vec![("/".to_owned(), title)], workers: None }
    }

    /// The path of the list.
    pub(super) fn home(&self) -> &'static str {
        if self.base.is_empty() { "/" } else { self.base }
    }

    /// A page with this content.
    pub(super) fn page(
        &self,
        place: &TokenPlace,
        title: &str,
        live: Option<&str>,
        content: &Markup,
    ) -> Markup {
        let entries: Vec<_> = self.entries.iter().map(|(path, name)| (path.as_str(), *name)).collect();
        let here = self.home();
        Shell { title, entries: &entries, here, live, is_stream: false, token: Some(place) }.around(content)
    }

    /// The workers by their keys; nobody where they are not known.
    pub(super) async fn directory(&self) -> Directory {
        match &self.workers {
            Some(workers) => workers.by_key().await,
            None => Directory::new(),
        }
    }
}

/// A job's workers: the first ones by name where they are known, else by the start of their key.
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
