//! Both chains on their way into a block store, and out of it.

use std::{path::Path, sync::Arc};

use anyhow::Context;
use prb_chain::{
    ingest::{self, Ingest},
    rpc::NodePool,
    source::StoreSource,
    store::{self, Store},
};

use crate::daemon::{Background, ended};

/// The nodes of both chains.
#[derive(Debug)]
pub(crate) struct Chains {
    pub(crate) relay: NodePool,
    pub(crate) para: NodePool,
}

/// A store that is being filled, and what is read from it.
#[derive(Debug)]
pub(crate) struct Blocks {
    pub(crate) store: Arc<Store>,
    pub(crate) source: Arc<StoreSource>,
    ingest: Background,
}

impl Blocks {
    /// Opens the store and starts to fill it.
    ///
    /// # Errors
    /// Where the store cannot be opened.
    pub(crate) async fn start(path: &Path, chains: Chains) -> anyhow::Result<Self> {
        let opening = path.to_owned();
        let store = tokio::task::spawn_blocking(move || Store::open(&opening, store::Config::default()))
            .await?
            .with_context(|| format!("cannot open the block store {}", path.display()))?;
        let store = Arc::new(store);
        let Chains { relay, para } = chains;
        let ingest = Ingest::new(relay, para, Arc::clone(&store), ingest::Config::default());
        let source = StoreSource::new(Arc::clone(&store)).with_suspects(ingest.suspects());
        let mut background = Background::default();
        background.spawn(|stop| async move { ended("the ingest", ingest.run(stop).await) });
        Ok(Self { store, source: Arc::new(source), ingest: background })
    }

    /// Waits for the ingest to end, which it should not. Cancel safe.
    pub(crate) async fn ended(&mut self) -> anyhow::Error {
        self.ingest.ended().await
    }

    /// Stops fetching. What is verified is stored; the store closes with its last user.
    pub(crate) async fn stop(self) {
        self.ingest.stop().await;
    }
}
