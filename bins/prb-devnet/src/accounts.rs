//! Keys and accounts, all derived from the seed.

use codec::Encode;
use prb_devnet_runtime::{Balance, types::AccountId};
use sp_consensus_grandpa::AuthorityId;
use sp_core::{Pair as _, ed25519, sr25519};

use crate::{Config, Error};

/// Candidates per seat of an authority set.
// Spare candidates let each set differ from the one before, so a verifier that keeps the old set fails.
const CANDIDATES_PER_SEAT: u32 = 2;
/// BIP39 entropy of 12 words.
const ENTROPY_BYTES: usize = 16;

/// A pool with its operator.
#[derive(Debug, Clone)]
pub struct Pool {
    /// The pool's number.
    pub pid: u64,
    /// The operator's BIP39 mnemonic (sr25519, no password).
    pub mnemonic: String,
    /// The operator's account, which signs. In prb-core it is
    /// [`AccountId`](prb_core::primitives::AccountId)`(operator.into())`.
    pub operator: AccountId,
    /// The pool's owner on chain: the operator, or the account whose proxy the operator is.
    pub owner: AccountId,
    /// Whether the owner is a proxied account.
    pub proxied: bool,
    /// Free stake at genesis, in 10^-12 PHA.
    pub free_stake: Balance,
}

fn derive(seed: u64, purpose: &str, index: u64) -> [u8; 32] {
    sp_io::hashing::blake2_256(&("prb-devnet", seed, purpose, index).encode())
}

/// Returns the GRANDPA keys of all candidates.
pub(crate) fn authorities(config: &Config) -> Vec<(AuthorityId, ed25519::Pair)> {
    (0..config.set_size.saturating_mul(CANDIDATES_PER_SEAT))
        .map(|index| {
            let seed = derive(config.seed, "authority", index.into());
            let pair = ed25519::Pair::from_seed(&seed);
            (AuthorityId::from(pair.public()), pair)
        })
        .collect()
}

/// Returns the pools.
pub(crate) fn pools(config: &Config) -> Result<Vec<Pool>, Error> {
    (1..=config.pools).map(|pid| pool(config, pid)).collect()
}

fn pool(config: &Config, pid: u64) -> Result<Pool, Error> {
    // In turn: neighbouring pools have different operators.
    let operator = if config.operators == 0 { pid } else { (pid - 1) % config.operators + 1 };
    let entropy = derive(config.seed, "operator", operator);
    let mnemonic = bip39::Mnemonic::from_entropy(&entropy[..ENTROPY_BYTES])
        .map_err(|error| Error::Genesis(error.to_string()))?
        .to_string();
    let (pair, _) =
        sr25519::Pair::from_phrase(&mnemonic, None).map_err(|error| Error::Genesis(format!("{error:?}")))?;
    let operator = AccountId::from(pair.public());
    // The last ones, so that pool 1 of a small devnet is a plain one.
    let proxied = pid > config.pools.saturating_sub(config.proxied_pools);
    let owner = if proxied { AccountId::new(derive(config.seed, "proxied", pid)) } else { operator.clone() };
    Ok(Pool { pid, mnemonic, operator, owner, proxied, free_stake: config.free_stake })
}
