//! [`RemoteBlobSource`]: chain data from whichever data providers there are.
//!
//! Candidates come and go through a watch, each with its [`Provenance`]: who is admitted is decided before. Here is the
//! table of those that are followed: where each was heard of, what it said, what it has served and how often that was
//! refused. It has a bound, and shares for the lower provenances; one that is in use never makes room for another.
//!
//! Each provider has a [`client`] and a task that follows its heights. A request goes to the best of those that claim
//! to have the answer, providers of the configuration and of the key before others; where that one fails or is slow,
//! to the next, until one has answered or none is left.
//!
//! What a provider gives is checked: the checksum, that it is a batch, that it is the one that was asked for. A
//! provider that fails the check, that claims heights and has no blocks, or that is of another chain, is *put aside*:
//! not asked until a time is over that doubles with each repetition, and its heights do not count. So is one whose
//! bytes a worker refused, where another provider's differ, or where it alone claims to have what was refused.
//!
//! Where there is an [`OwnChain`], it is the measure: of the chain, of the genesis, and of how high heights can be.
//!
//! The heights are those of the best provider that is usable now. They may **fall**, unlike other sources': when
//! the best provider is lost or put aside, what it had is not to be had, and a worker that was told so would
//! wait for it in vain. The targets, which say how far behind everybody is, are those of the same providers, and at
//! least the own node's.
//!
//! Providers of the original bridge do not know our keys: they are asked with theirs, and their requests turned
//! into ours (see `remote/original.rs`). Their heights are what they say over `GetDataProviderInfo`.
//!
//! Not for: keeping anything. Put a [`CachedSource`](prb_core::blob::cache::CachedSource) before it, so that
//! equal cursors share one fetch.

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
mod own;
mod pool;
mod provider;
mod status;

use ask::{Blocks, Headers};
pub use own::{Finalized, GenesisCheck, GenesisError, OwnChain};
use pool::Pool;
pub use status::{ProviderState, ProviderStatus};

/// A data provider that may be used: of our chain and namespace, as far as it has said so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its peer id, in base58.
    pub id: String,
    /// Its blob server.
    pub address: SocketAddr,
    /// The chain that it said it is of.
    pub chain_identity: Option<Hash>,
    /// What it says over `GetDataProviderInfo`; needed of the original's providers only.
    pub announced: Option<Announced>,
    /// Where it was heard of, or what it has proved.
    pub provenance: Provenance,
}

/// What a provider says about itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Announced {
    /// The parachain's id.
    pub para_id: u32,
    /// What it can give, and where its node is.
    pub heights: Heights,
}

/// Limits of a [`RemoteBlobSource`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, derive_setters::Setters)]
#[setters(prefix = "with_")]
#[non_exhaustive]
pub struct Config {
    /// Each provider's connection.
    pub client: client::Config,
    /// How long a provider may be silent while something is asked of it.
    pub request_timeout: Duration,
    /// How long the best provider has for an answer before the next is asked too.
    pub hedge_after: Duration,
    /// How long a provider holds back its heights while they do not grow.
    pub heights_wait: Duration,
    /// The largest genesis, in bytes.
    pub max_genesis_bytes: usize,
    /// For how long a provider is put aside the first time.
    pub first_aside: Duration,
    /// For how long at most.
    pub max_aside: Duration,
    /// The chain that providers must be of, where it is known beforehand: the hash of parachain block 1.
    pub chain_identity: Option<Hash>,
    /// Candidates that are followed; more are left out. Those that anybody can be have a quarter of the places, with
    /// those of trusted networks half, with those of this machine three quarters.
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
            first_aside: Duration::from_secs(5),
            max_aside: Duration::from_secs(600),
            chain_identity: None,
            max_providers: 64,
        }
    }
}

/// A [`BlobSource`] over the data providers that there are, from none on.
///
/// Its tasks end when it is dropped.
#[derive(Debug)]
pub struct RemoteBlobSource {
    pool: Arc<Pool>,
    refusals: mpsc::Sender<RefusedData>,
    _tasks: [AbortOnDropHandle<()>; 3],
}

impl RemoteBlobSource {
    /// Follows the candidates, now and as they change.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub fn start(candidates: watch::Receiver<Vec<Candidate>>, config: Config) -> Self {
        Self::on_chain(candidates, None, config)
    }

    /// The same, held to what the own node says of the chain.
    ///
    /// # Panics
    /// Outside of a Tokio runtime.
    pub fn start_on(candidates: watch::Receiver<Vec<Candidate>>, own: OwnChain, config: Config) -> Self {
        Self::on_chain(candidates, Some(own), config)
    }

    fn on_chain(candidates: watch::Receiver<Vec<Candidate>>, own: Option<OwnChain>, config: Config) -> Self {
        /// Refusals that wait to be looked into; one that finds no place is told again when a worker meets it.
        const REFUSALS: usize = 64;
        metrics::describe_remote();
        let own_heads = own.as_ref().map(|own| own.finalized.clone());
        let pool = Arc::new(Pool::new(own, config));
        let (refusals, refused) = mpsc::channel(REFUSALS);
        let follow = tokio::spawn(follow::candidates(pool.clone(), candidates));
        let examine = tokio::spawn(examine::run(pool.clone(), refused));
        let own = tokio::spawn(follow::own_chain(pool.clone(), own_heads));
        Self { pool, refusals, _tasks: [follow, examine, own].map(AbortOnDropHandle::new) }
    }

    /// The providers, for people: provenance, state, reason, heights, speed.
    pub fn providers(&self) -> Vec<ProviderStatus> {
        self.pool.status()
    }

    /// A view of the providers that does not keep this source alive.
    pub fn watcher(&self) -> Providers {
        Providers(Arc::downgrade(&self.pool))
    }
}

/// The providers of a [`RemoteBlobSource`].
#[derive(Clone, Debug)]
pub struct Providers(Weak<Pool>);

impl Providers {
    /// As [`RemoteBlobSource::providers`]; none where that has gone.
    pub fn all(&self) -> Vec<ProviderStatus> {
        self.0.upgrade().map(|pool| pool.status()).unwrap_or_default()
    }

    /// Whether a provider is followed, answers and is not put aside.
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
        self.pool.suspect(refusal);
        // See above: what finds no place is told again.
        let _ = self.refusals.try_send(refusal.clone());
    }
}
