//! The block store with the ingest that fills it.

use std::{path::Path, sync::Arc};

use anyhow::Context;
use prb_chain::{
    history::{self as sources, Replay},
    ingest::{self, Ingest},
    rpc::NodePool,
    source::StoreSource,
    store::{self, Store},
};
use tokio::sync::watch;

use crate::{
    chain_data::ChainData,
    config::HistoryLocation,
    daemon::{Background, Failure, ended, stop},
    disk_watch, history,
    nodes::NodeWatch,
    ops::Reason,
    readiness::{self, Growth},
};

/// The nodes of both chains.
#[derive(Debug)]
pub(crate) struct Chains {
    pub(crate) relay: NodePool,
    pub(crate) para: NodePool,
}

/// Where a store is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Location<'a> {
    /// Its folder.
    pub(crate) path: &'a Path,
    /// The setting that the folder follows from.
    pub(crate) setting: &'static str,
}

/// Tells whether an operator must act before the store can be opened, or the next start may succeed: another process
/// may still have it open, or the disk is full.
pub(crate) fn unusable(location: Location<'_>, error: store::Error) -> Failure {
    use std::io::ErrorKind::*;
    let lasts = match &error {
        store::Error::Io { source, .. } => matches!(
            source.kind(),
            AlreadyExists | IsADirectory | NotADirectory | NotFound | PermissionDenied
        ),
        error => error.is_fatal() || matches!(error, store::Error::Lock { .. }),
    };
    let failure = if lasts { Failure::Configuration } else { Failure::Run };
    let Location { path, setting } = location;
    failure(
        anyhow::Error::new(error)
            .context(format!("cannot open the block store {} ({setting})", path.display())),
    )
}

/// A store that is being filled, and its readers.
#[derive(Debug)]
pub(crate) struct Blocks {
    pub(crate) store: Arc<Store>,
    pub(crate) source: Arc<StoreSource>,
    pools: Vec<NodePool>,
    nodes: Vec<NodeWatch>,
    growth: [Arc<Growth>; 2],
    /// Why the nodes have not given the start of the chain; without nodes, nobody sends it.
    start_error: watch::Receiver<Option<Arc<str>>>,
    ingest: Background,
}

impl Blocks {
    /// Opens the store and starts to fill it, from the history sources and from the nodes, if there are any.
    ///
    /// # Errors
    /// The store or a history source cannot be opened; see [`unusable`].
    pub(crate) async fn start(
        location: Location<'_>,
        chains: Option<Chains>,
        history: &[HistoryLocation],
    ) -> Result<Self, Failure> {
        // First: a source that cannot be used must not leave a new store behind.
        let mut background = Background::default();
        let history = history::open(history, Some(&mut background)).await;
        let history = history.context("PRB_HISTORY").map_err(Failure::Configuration)?;
        let opening = location.path.to_owned();
        // May migrate an older layout, which takes long for a large store.
        let open = move || Store::open(&opening, store::Config::default());
        let what = format!("the block store {}", location.path.display());
        let opened = disk_watch::open(what, open).await.map_err(Failure::Run)?;
        // Shared with readers, so it closes with the last of them.
        let store = Arc::new(opened.map_err(|error| unusable(location, error))?);
        let mut source = StoreSource::new(Arc::clone(&store));
        let (mut pools, mut nodes, mut start_error) = (Vec::new(), Vec::new(), watch::channel(None).1);
        if let Some(Chains { relay, para }) = chains {
            pools.extend([relay.clone(), para.clone()]);
            nodes.push(NodeWatch::relay(relay.clone(), &mut background));
            nodes.push(NodeWatch::para(para.clone(), &mut background));
            let mut ingest = Ingest::new(relay, para, Arc::clone(&store), ingest::Config::default());
            if !history.is_empty() {
                ingest = ingest.with_history(history, sources::Config::default());
            }
            // A block that a worker cannot apply is fetched again by the ingest; without nodes there is
            // nothing to fetch it from.
            source = source.with_suspects(ingest.suspects());
            start_error = ingest.start_error();
            background.spawn(|stop| async move { ended("the ingest", ingest.run(stop).await) });
        } else {
            let replay = Replay::new(Arc::clone(&store), history, sources::Config::default());
            background.spawn(|stop| async move { ended("the history sources", replay.run(stop).await) });
        }
        Ok(Self {
            store,
            source: Arc::new(source),
            pools,
            nodes,
            growth: Default::default(),
            start_error,
            ingest: background,
        })
    }

    /// The state of the nodes, and of the disk with `folder`.
    pub(crate) fn chain_data(&self, folder: &Path) -> ChainData {
        ChainData::new(self.pools.clone(), folder.to_owned(), Some(Arc::clone(&self.store)))
    }

    /// Returns a probe of the reasons why the store is not being filled, or is behind, except for its disk.
    pub(crate) fn probe(&self) -> impl Fn() -> Vec<Reason> + Send + Sync + 'static {
        let (nodes, growth, heights) = (self.nodes.clone(), self.growth.clone(), self.store.heights());
        let (store, start_error) = (Arc::clone(&self.store), self.start_error.clone());
        move || {
            let now = *heights.borrow();
            let [relay, para] = &growth;
            let stalled = [
                relay.check("relay", now.relay_target.map(|n| n.0)),
                para.check("para", now.para_target.map(|n| n.0)),
            ];
            // Before the start is known, none are requested, and the nodes may be of another chain.
            let needs_storage_changes = store.genesis().is_some();
            let nodes = nodes.iter().flat_map(|nodes| nodes.reasons_if(needs_storage_changes));
            let start_error = start_error.borrow().clone();
            let store = readiness::provider(&now, start_error.as_deref());
            nodes.chain(stalled.into_iter().flatten()).chain(store).collect()
        }
    }

    /// Waits for the ingest to end unexpectedly. Cancel safe.
    pub(crate) async fn ended(&mut self) -> anyhow::Error {
        self.ingest.ended().await
    }

    /// Stops fetching. Verified blocks are stored; the store closes with its last user.
    pub(crate) async fn stop(self) {
        self.ingest.stop(stop::INGEST).await;
    }
}
