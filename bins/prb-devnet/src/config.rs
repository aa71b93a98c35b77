//! The configuration of a devnet.

use prb_devnet_runtime::{Balance, PHA, pallets::computation};

use crate::ProofLimit;

/// 2024-01-01T00:00:00Z, the default time of relay block 0.
pub const DEFAULT_EPOCH_MS: u64 = 1_704_067_200_000;

/// The time of relay block 0. Block `n` always has the timestamp `epoch + n * block_ms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Epoch {
    /// A fixed time, in milliseconds since 1970: the same configuration yields the same chain.
    Fixed(u64),
    /// Such that the pre-authored history ends now: every start yields another chain.
    HistoryEndsNow,
}

/// The configuration of a devnet. The same configuration (with [`Epoch::Fixed`]) yields the same chain, byte
/// for byte, until a transaction is submitted.
#[derive(Debug, Clone)]
pub struct Config {
    /// Port of the relay chain's RPC on 127.0.0.1; 0 = any. Default: 0.
    pub relay_port: u16,
    /// Port of the parachain's RPC on 127.0.0.1; 0 = any. Default: 0.
    pub para_port: u16,
    /// Seed of all keys and of the load. Default: 0.
    pub seed: u64,
    /// The parachain's id. Default: 2004.
    pub para_id: u32,
    /// Relay blocks authored at the start. Default: 0.
    pub history: u32,
    /// Relay block time, milliseconds; every second relay block has a parachain block. Default: 6,000.
    pub block_ms: u64,
    /// The time of relay block 0. Default: `Fixed(1704067200000)`.
    pub epoch: Epoch,
    /// Length of an authority set in relay blocks; 0 keeps the first set forever. Default: 50.
    pub set_length: u32,
    /// Authorities in a set. Default: 4.
    pub set_size: u32,
    /// Interval at which finalised relay blocks keep their justification, besides set changes; 1 = all, 0 = set
    /// changes only. Default: 1.
    pub justification_period: u32,
    /// Load: values written in every parachain block. Default: 10.
    pub changes_per_block: u32,
    /// Load: length of each value, in bytes. Default: 100.
    pub change_bytes: u32,
    /// Pools, numbered from 1. Default: 1.
    pub pools: u64,
    /// Operators that share the pools in turn; 0 for one operator per pool. Default: 0.
    pub operators: u64,
    /// Number of pools, counted from the last, that are owned by a proxied account. Default: 0.
    pub proxied_pools: u64,
    /// Vaults, numbered after the pools and owned by the first pool's owner. Default: 0.
    pub vaults: u64,
    /// Free stake of each pool, in 10^-12 PHA. Default: 1,000,000 PHA.
    pub free_stake: Balance,
    /// Balance of each operator, and of each account that has one as its proxy, for paying fees, in 10^-12 PHA.
    /// Default: 1,000,000 PHA.
    pub operator_balance: Balance,
    /// Maximum number of workers in a pool. Default: 200.
    pub max_pool_workers: u32,
    /// Seconds of chain time after which a queued withdrawal lets anybody stop its pool's workers.
    /// Default: 604,800.
    pub grace_secs: u64,
    /// Whether workers without an attestation may register. Default: true.
    pub none_attestation: bool,
    /// Whether workers may register by the retired attestation service (with the first version's call).
    /// Default: false.
    pub ias_attestation: bool,
    /// Workers of an older version exit. Default: 0.0.0.
    pub minimum_pruntime_version: (u32, u32, u32),
    /// Duration of a benchmark, in parachain blocks. Default: 8.
    pub benchmark_duration: u32,
    /// Heartbeats and stake limits. Default: that of [`Parameters`](computation::Parameters).
    pub computation: computation::Parameters,
    /// Seconds of chain time between a session's end and the return of its stake. Default: 600.
    pub cool_down_secs: u64,
    /// Whether calls declare realistic weights. The real pallets declare none for a bridge's calls except
    /// restarts and messages. Default: true.
    pub weigh_calls: bool,
    /// The maximum proof of a parachain block that is backed; `None` for no limit. Default: none.
    pub proof_limit: Option<ProofLimit>,
    /// Maximum number of transactions in a pool. Default: 8,192.
    pub max_pool_transactions: usize,
    /// The relay block that forces a change of authorities; 0 for none. Default: 0.
    pub forced_change_at: u32,
    /// Number of relay blocks by which finality lags further than usual, which is one block behind the newest.
    /// Default: 0.
    pub finality_lag: u32,
    /// Unusual but valid features of justifications. Default: that of [`JustificationOddities`].
    pub justifications: JustificationOddities,
    /// Parachain blocks for each relay parent; the relay chain includes them with one head. Default: 1.
    pub heads_per_relay_block: u32,
    /// Interval at which a parachain block changes many values; 0 for never. Default: 0.
    pub burst_every: u32,
    /// Bytes of values changed by such a block. Default: 20,000,000.
    pub burst_bytes: u32,
    /// Bytes of each of these values. Default: 100,000.
    pub burst_value_bytes: u32,
    /// Interval in ticks of the timer at which parachain blocks that no relay block includes yet are retracted; 0 for
    /// never. Default: 0.
    pub fork_every: u32,
}

/// Unnecessary content of justifications.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct JustificationOddities {
    /// An authority votes twice, for the block and for its child.
    pub equivocation: bool,
    /// A header of the votes' ancestry is repeated.
    pub repeated_header: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            relay_port: 0,
            para_port: 0,
            seed: 0,
            para_id: 2004,
            history: 0,
            block_ms: 6000,
            epoch: Epoch::Fixed(DEFAULT_EPOCH_MS),
            set_length: 50,
            set_size: 4,
            justification_period: 1,
            changes_per_block: 10,
            change_bytes: 100,
            pools: 1,
            operators: 0,
            proxied_pools: 0,
            vaults: 0,
            free_stake: 1_000_000 * PHA,
            operator_balance: 1_000_000 * PHA,
            max_pool_workers: 200,
            grace_secs: 7 * 24 * 3600,
            none_attestation: true,
            ias_attestation: false,
            minimum_pruntime_version: (0, 0, 0),
            benchmark_duration: 8,
            computation: computation::Parameters::default(),
            cool_down_secs: 600,
            weigh_calls: true,
            proof_limit: None,
            max_pool_transactions: 8192,
            forced_change_at: 0,
            finality_lag: 0,
            justifications: JustificationOddities::default(),
            heads_per_relay_block: 1,
            burst_every: 0,
            burst_bytes: 20_000_000,
            burst_value_bytes: 100_000,
            fork_every: 0,
        }
    }
}
