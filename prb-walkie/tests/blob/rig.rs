//! Scriptable providers, and a source over them.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use prb_core::{
    blob::{BlockCursor, Error, HeaderCursor, memory::MemorySource},
    conformance::blob::Sample,
    primitives::ParaNumber,
};
use prb_walkie::{
    blob::{
        Lookup,
        keys::Key,
        keyspace::{self, KeySpace},
        remote::{Candidate, Config, OwnChain, ProviderState, ProviderStatus, RemoteBlobSource},
        server,
    },
    node::Provenance,
};
use tokio::sync::watch;

use crate::lookups::{Running, until};

pub(crate) const LIMIT: usize = 1 << 20;

pub(crate) fn keys_of(source: Arc<MemorySource>) -> Arc<KeySpace> {
    Arc::new(KeySpace::new(source, keyspace::Config::default()))
}

pub(crate) async fn provider(source: Arc<MemorySource>) -> Running {
    Running::start(keys_of(source), server::Config::default()).await
}

pub(crate) fn candidate(id: &str, address: std::net::SocketAddr) -> Candidate {
    Candidate {
        id: id.to_owned(),
        address,
        chain_identity: None,
        announced: None,
        provenance: Provenance::BootNode,
    }
}

/// A configuration with short times.
pub(crate) fn config() -> Config {
    Config::default()
        .with_hedge_after(Duration::from_millis(200))
        .with_first_suspension(Duration::from_millis(300))
}

pub(crate) struct Remote {
    pub(crate) source: Arc<RemoteBlobSource>,
    pub(crate) candidates: watch::Sender<Vec<Candidate>>,
}

impl Remote {
    pub(crate) fn start(candidates: Vec<Candidate>, config: Config) -> Self {
        let candidates = watch::Sender::new(candidates);
        Self { source: Arc::new(RemoteBlobSource::start(candidates.subscribe(), config)), candidates }
    }

    pub(crate) fn start_on(candidates: Vec<Candidate>, own: OwnChain, config: Config) -> Self {
        let candidates = watch::Sender::new(candidates);
        let source = RemoteBlobSource::start_on(candidates.subscribe(), own, config);
        Self { source: Arc::new(source), candidates }
    }

    pub(crate) fn status(&self, id: &str) -> ProviderStatus {
        self.source.providers().into_iter().find(|provider| provider.id == id).unwrap()
    }

    pub(crate) async fn ready(&self, ids: &[&str]) {
        for id in ids {
            until("readiness", || {
                let all = self.source.providers();
                all.iter().any(|p| p.id == *id && p.state == ProviderState::Ready)
            })
            .await;
        }
    }

    /// Waits until the provider is suspended; returns the reason.
    pub(crate) async fn suspended(&self, id: &str) -> String {
        let mut why = String::new();
        until("the suspension", || {
            let all = self.source.providers();
            match all.into_iter().find(|provider| provider.id == id).map(|provider| provider.state) {
                Some(ProviderState::Suspended { reason, .. }) => {
                    why = reason;
                    true
                }
                _ => false,
            }
        })
        .await;
        why
    }
}

pub(crate) fn start_of(sample: &Sample) -> HeaderCursor {
    HeaderCursor { relay: sample.genesis_number.next(), para: ParaNumber(0) }
}

pub(crate) fn blocks(from: u32, to: u32) -> BlockCursor {
    BlockCursor { from: ParaNumber(from), to: ParaNumber(to) }
}

pub(crate) type Twist = dyn Fn(Option<Key>, Bytes) -> Option<Bytes> + Send + Sync;

/// A provider that changes answers, with matching checksums.
pub(crate) struct Twisted {
    pub(crate) keys: Arc<KeySpace>,
    /// Replaces the requested key.
    pub(crate) instead: Box<dyn Fn(&str) -> String + Send + Sync>,
    pub(crate) twist: Box<Twist>,
}

impl std::fmt::Debug for Twisted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Twisted")
    }
}

#[async_trait]
impl Lookup for Twisted {
    async fn get(&self, key: &str) -> Result<Option<Bytes>, Error> {
        let blob = self.keys.get(&(self.instead)(key)).await?;
        Ok(blob.and_then(|blob| (self.twist)(Key::parse(key), blob)))
    }

    fn reserve_bytes(&self, key: &str) -> usize {
        self.keys.reserve_bytes(key)
    }
}

pub(crate) async fn twisted(
    source: Arc<MemorySource>,
    twist: impl Fn(Option<Key>, Bytes) -> Option<Bytes> + Send + Sync + 'static,
) -> Running {
    let lookup = Twisted { keys: keys_of(source), instead: Box::new(str::to_owned), twist: Box::new(twist) };
    Running::start(Arc::new(lookup), server::Config::default()).await
}
