//! A worker's keys.

use codec::Encode;
use prb_core::primitives::WorkerKey;
use sp_core::{Pair, sr25519};
use sp_io::hashing::blake2_256;

/// The worker's sealed keys: the same for the same seed and index, after any loss of state.
#[derive(Clone)]
pub(crate) struct Identity {
    pub(crate) pair: sr25519::Pair,
    pub(crate) ecdh: [u8; 32],
}

impl Identity {
    pub(crate) fn derive(seed: &[u8], index: u32) -> Self {
        Self::from_seed(blake2_256(&("prb-devnet/worker", seed, index).encode()))
    }

    pub(crate) fn from_seed(seed: [u8; 32]) -> Self {
        let ecdh = sr25519::Pair::from_seed(&blake2_256(&("prb-devnet/ecdh", seed).encode()));
        Self { pair: sr25519::Pair::from_seed(&seed), ecdh: ecdh.public().0 }
    }

    pub(crate) fn public(&self) -> WorkerKey {
        WorkerKey(self.pair.public().0)
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Identity").field(&self.public()).finish()
    }
}
