//! The chain as seen by this machine's own node, which providers' claims are checked against.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use prb_core::{
    blob::{Genesis, Heights},
    primitives::{Hash, ParaNumber, RelayNumber},
};
use tokio::{sync::watch, time::Instant};

/// Parachain blocks by which a provider may be ahead of the own node.
const PARA_SLACK: u32 = 32;
/// Relay blocks by which a provider may be ahead of the relay parent of the own node's finalised block.
const RELAY_SLACK: u32 = 128;
/// A stalled own node must not hold up workers: providers may be one more block ahead for each such interval.
/// Real block times are longer.
const BLOCK_TIME: Duration = Duration::from_secs(3);

/// The own node's finalised head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finalized {
    /// The parachain block.
    pub para: ParaNumber,
    /// Its relay parent, if it can be read.
    pub relay: Option<RelayNumber>,
    /// When the node reported it.
    pub at: Instant,
}

/// Checks a provider's genesis. `NodePool::check_genesis` of prb-chain does it over a node.
///
/// ```
/// use async_trait::async_trait;
/// use prb_core::{blob::Genesis, primitives::Hash};
/// use prb_walkie::blob::remote::{GenesisCheck, GenesisError};
///
/// /// Accepts the chain with this hash of block 1.
/// #[derive(Debug)]
/// struct Pinned(Hash);
///
/// #[async_trait]
/// impl GenesisCheck for Pinned {
///     async fn check(&self, genesis: &Genesis) -> Result<(), GenesisError> {
///         if genesis.chain_identity == self.0 {
///             return Ok(());
///         }
///         Err(GenesisError::Wrong(format!("its genesis is of the chain {}", genesis.chain_identity)))
///     }
/// }
/// ```
///
/// # Cancel safety
/// The future of [`check`](Self::check) is dropped with the call that needs it, for example `BlobSource::genesis`. The
/// next call checks again, so a check must not leave anything half done.
#[async_trait]
pub trait GenesisCheck: Send + Sync + fmt::Debug {
    /// Checks that it belongs to the own chain.
    ///
    /// # Errors
    /// See [`GenesisError`].
    async fn check(&self, genesis: &Genesis) -> Result<(), GenesisError>;
}

/// Why a genesis is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GenesisError {
    /// It is not the own chain's: its provider is suspended.
    #[error("{0}")]
    Wrong(String),
    /// The own node does not answer; the check is repeated later.
    #[error("the genesis cannot be checked against the own node: {0}")]
    Unchecked(String),
}

/// The own node's view of the chain.
#[derive(Clone, Debug)]
pub struct OwnChain {
    /// Its finalised head; `None` until one is known. Until then no heights are reported.
    pub finalized: watch::Receiver<Option<Finalized>>,
    /// Checks the genesis that workers are initialised with.
    pub genesis: Arc<dyn GenesisCheck>,
    /// The hash of parachain block 1, once it is known.
    pub identity: watch::Receiver<Option<Hash>>,
}

impl Finalized {
    /// Limits heights to what can exist by now.
    pub(super) fn clamp(&self, heights: Heights) -> Heights {
        let further = u32::try_from(self.at.elapsed().as_secs() / BLOCK_TIME.as_secs()).unwrap_or(u32::MAX);
        let para = self.para.0.saturating_add(PARA_SLACK).saturating_add(further);
        let relay = self.relay.map(|n| n.0.saturating_add(RELAY_SLACK).saturating_add(further));
        let para_of = |n: Option<ParaNumber>| n.map(|n| ParaNumber(n.0.min(para)));
        let relay_of = |n: Option<RelayNumber>| n.map(|n| RelayNumber(n.0.min(relay.unwrap_or(u32::MAX))));
        Heights {
            relay: relay_of(heights.relay),
            para: para_of(heights.para),
            relay_target: relay_of(heights.relay_target),
            // At least the own node's: otherwise nobody would seem to lag while all providers do.
            para_target: para_of(heights.para_target).max(Some(self.para)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heights(relay: u32, para: u32) -> Heights {
        Heights {
            relay: Some(RelayNumber(relay)),
            para: Some(ParaNumber(para)),
            relay_target: Some(RelayNumber(relay)),
            para_target: Some(ParaNumber(para)),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn heights_are_clamped_slightly_beyond_the_own_node() {
        let own = Finalized { para: ParaNumber(100), relay: Some(RelayNumber(200)), at: Instant::now() };
        assert_eq!(own.clamp(heights(210, 101)), heights(210, 101));
        assert_eq!(own.clamp(heights(1_000_000, 1_000_000)), heights(328, 132));
        let behind = own.clamp(heights(150, 80));
        assert_eq!((behind.para, behind.para_target), (Some(ParaNumber(80)), Some(ParaNumber(100))));
        // A dead own node does not hold up workers for long.
        tokio::time::advance(Duration::from_secs(3000)).await;
        assert_eq!(own.clamp(heights(1_000_000, 1_000_000)), heights(1328, 1132));
        let no_relay = Finalized { relay: None, ..own };
        assert_eq!(no_relay.clamp(heights(1_000_000, 5)).relay, Some(RelayNumber(1_000_000)));
    }
}
