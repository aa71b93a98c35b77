//! [`RemoteBlobSource`]: chain data from the available data providers.
//!
//! Candidates arrive through a watch channel, each with its [`Provenance`]; whether they are admitted at all
//! is decided before. This module keeps the table of providers that are followed, with each one's provenance,
//! heights, served answers and refusals. The table is bounded, with quotas for lower provenances; a provider
//! in use is never evicted.
//!
//! Each provider has a [`client`] and a task that follows its heights. A request goes to the best provider
//! that claims to have the answer, configured ones and those that know the shared key first; if it fails or
//! is slow, to the next, until one has answered or none is left.
//!
//! Answers are verified: their checksum, their encoding, and that they answer the request. A provider that
//! fails the check, claims heights without having the blocks, or is of another chain is *suspended*: it is
//! not asked for a time that doubles with each repetition, and its heights do not count. The same happens to
//! a provider whose bytes a worker refused, if another provider's bytes differ or if no other claims to have
//! those blocks.
//!
//! If there is an [`OwnChain`], it decides which chain and genesis are right, and bounds the heights.
//!
//! The heights are those of the best usable provider. Unlike other sources', they may **decrease**: when the
//! best provider is lost or suspended, its data is not available, and a worker that was promised it would
//! wait in vain. The targets, from which everybody's lag is computed, are those of the same providers, and at
//! least the own node's.
//!
//! Providers of the original bridge do not know our keys. They are asked with theirs, and the answers are
//! converted. Their heights come from `GetDataProviderInfo`.
//!
//! Not for: caching. Wrap it in a [`CachedSource`](prb_core::blob::cache::CachedSource), so that equal
//! cursors share one fetch.

use std::{
    net::SocketAddr,
    sync::{Arc, Weak},
    time::Duration,
};

use async_trait::async_trait;
use prb_core::{
    blob::{
        BlobSource, BlockBatch, BlockCursor, Error, Genesis, HeaderBatch, HeaderCursor, Heights, RefusedData,
    },
    primitives::Hash,
};
use tokio::sync::{mpsc, watch};
use tokio_util::task::AbortOnDropHandle;

use super::{client, metrics};
pub use crate::provenance::Provenance;

mod ask;
mod choose;
mod examine;
mod follow;
mod original;
mod own_chain;
mod pool;
mod provider;
mod status;

use ask::{Blocks, Headers};
pub use own_chain::{Finalized, GenesisCheck, GenesisError, OwnChain};
use pool::Pool;
pub use status::{ProviderState, ProviderStatus};

/// A data provider that may be used: of our chain and namespace, as far as it says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its peer id, in base58.
    pub id: String,
    /// The address of its blob server.
    pub address: SocketAddr,
    /// The chain identity that it claims.
    pub chain_identity: Option<Hash>,
    /// What it announces over `GetDataProviderInfo`; needed for the original's providers only.
    pub announced: Option<Announced>,
    /// How it was found, or what it has proved.
    pub provenance: Provenance,
}

/// What a provider announces about itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Announced {
    /// The parachain's id.
    pub para_id: u32,
    /// The heights it serves, and those of its node.
    pub heights: Heights,
}

/// Limits of a [`RemoteBlobSource`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, derive_setters::Setters)]
#[setters(prefix = "with_")]
#[non_exhaustive]
pub struct Config {
    /// Settings of each provider's connection. Default: that of [`client::Config`].
    pub client: client::Config,
    /// How long a provider may be silent while a request is in flight. Default: 30 s.
    pub request_timeout: Duration,
    /// How long the best provider may take before the next is asked, too. Default: 3 s.
    pub hedge_after: Duration,
    /// How long a provider may delay its heights while they do not grow. Default: 25 s.
    pub heights_wait: Duration,
    /// The largest genesis, in bytes. Default: 101 MiB.
    pub max_genesis_bytes: usize,
    /// Duration of the first suspension. Default: 5 s.
    pub first_suspension: Duration,
    /// The longest suspension. Default: 10 minutes.
    pub max_suspension: Duration,
    /// The identity of the chain (the hash of parachain block 1), if it is known beforehand. Default: none.
    pub chain_identity: Option<Hash>,
    /// Most candidates that are followed. Discovered ones share a quarter of the slots, together with those of
    /// trusted networks a half, together with those of this machine three quarters. Default: 64.
    pub max_providers: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            client: client::Config::default(),
            request_timeout: Duration::from_secs(30),
            hedge_after: Duration::from_secs(3),
            heights_wait: Duration::from_secs(25),
            max_genesis_bytes: 101 << 20,
            first_suspension: Duration::from_secs(5),
            max_suspension: Duration::from_secs(600),
            chain_identity: None,
            max_providers: 64,
        }
    }
}

/// A [`BlobSource`] over the available data providers, of which there may be none at first. Its tasks end on
/// drop.
#[derive(Debug)]
pub struct RemoteBlobSource {
    pool: Arc<Pool>,
    refusals: mpsc::Sender<RefusedData>,
    _tasks: [AbortOnDropHandle<()>; 3],
}

impl RemoteBlobSource {
    /// Starts to follow the candidates, now and as they change.
    ///
    /// # Panics
    /// When called outside of a Tokio runtime.
    pub fn start(candidates: watch::Receiver<Vec<Candidate>>, config: Config) -> Self {
        Self::on_chain(candidates, None, config)
    }

    /// Like [`start`](Self::start), but verifies claims against the own node.
    ///
    /// # Panics
    /// When called outside of a Tokio runtime.
    pub fn start_on(candidates: watch::Receiver<Vec<Candidate>>, own: OwnChain, config: Config) -> Self {
        Self::on_chain(candidates, Some(own), config)
    }

    fn on_chain(candidates: watch::Receiver<Vec<Candidate>>, own: Option<OwnChain>, config: Config) -> Self {
        /// Most refusals waiting for examination; a dropped one is reported again when a worker next meets it.
        const REFUSALS: usize = 64;
        metrics::describe_remote();
        // Taken before the pool owns it: its task watches the heads.
        let own_heads = own.as_ref().map(|own| own.finalized.clone());
        let pool = Arc::new(Pool::new(own, config));
        let (refusals, refused) = mpsc::channel(REFUSALS);
        let follow = tokio::spawn(follow::candidates(pool.clone(), candidates));
        let examine = tokio::spawn(examine::run(pool.clone(), refused));
        let own = tokio::spawn(follow::own_chain(pool.clone(), own_heads));
        Self { pool, refusals, _tasks: [follow, examine, own].map(AbortOnDropHandle::new) }
    }

    /// Returns the providers for display: provenance, state, reason, heights, latency.
    pub fn providers(&self) -> Vec<ProviderStatus> {
        self.pool.status()
    }

    /// Returns a weak handle to the providers, which does not keep this source alive.
    pub fn watcher(&self) -> Providers {
        Providers(Arc::downgrade(&self.pool))
    }
}

/// Handle to the providers of a [`RemoteBlobSource`].
#[derive(Clone, Debug)]
pub struct Providers(Weak<Pool>);

impl Providers {
    /// As [`RemoteBlobSource::providers`]; empty if the source is gone.
    pub fn all(&self) -> Vec<ProviderStatus> {
        self.0.upgrade().map(|pool| pool.status()).unwrap_or_default()
    }

    /// Whether a provider is followed, answers and is not suspended.
    pub fn is_in_use(&self, id: &str) -> bool {
        self.0
            .upgrade()
            .and_then(|pool| pool.provider(id))
            .is_some_and(|provider| provider.usable().is_some())
    }
}

#[async_trait]
impl BlobSource for RemoteBlobSource {
    fn heights(&self) -> watch::Receiver<Heights> {
        self.pool.heights()
    }

    async fn genesis(&self) -> Result<Genesis, Error> {
        self.pool.read_genesis().await
    }

    async fn headers(&self, cursor: HeaderCursor, max_bytes: usize) -> Result<Option<HeaderBatch>, Error> {
        self.pool.ask(Headers { cursor, max_bytes }).await
    }

    async fn blocks(&self, cursor: BlockCursor, max_bytes: usize) -> Result<Option<BlockBatch>, Error> {
        let from_genesis = || Error::BadCursor {
            cursor: "block 0".into(),
            reason: "block 0 is in the genesis state".into(),
        };
        match cursor {
            BlockCursor { from, .. } if from.0 == 0 => Err(from_genesis()),
            BlockCursor { from, to } if to < from => Ok(None),
            _ => self.pool.ask(Blocks { cursor, max_bytes }).await,
        }
    }

    fn refused(&self, refusal: &RefusedData) {
        if let RefusedData::FalseHeaders(given) = refusal {
            return self.pool.suspend_provider_of(given);
        }
        self.pool.suspect(refusal);
        // The channel may be full; see [`REFUSALS`].
        let _ = self.refusals.try_send(refusal.clone());
    }
}

#[cfg(test)]
mod tests {
    use prb_core::primitives::{ParaNumber, RelayNumber};

    use super::*;

    /// Workers that refuse everything, faster than it can be examined.
    #[tokio::test]
    async fn refusals_that_wait_are_bounded() {
        let (_candidates, none) = watch::channel(Vec::new());
        let source = RemoteBlobSource::start(none, Config::default());
        for n in 0..1000 {
            let cursor = HeaderCursor { relay: RelayNumber(n), para: ParaNumber(0) };
            source.refused(&RefusedData::Headers { cursor, message: "no".into() });
        }
        let waiting = source.refusals.max_capacity() - source.refusals.capacity();
        assert_eq!(waiting, 64);
    }
}
