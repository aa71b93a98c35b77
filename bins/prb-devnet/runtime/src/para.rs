//! The parachain's runtime, in two versions.

/// The parachain's genesis configuration.
#[derive(Debug, Clone)]
pub struct Genesis {
    /// The parachain's id.
    pub para_id: u32,
    /// Balances.
    pub balances: Vec<(crate::types::AccountId, crate::Balance)>,
    /// The stake pools: number, owner, free stake.
    pub pools: Vec<(u64, crate::types::AccountId, crate::Balance)>,
    /// The vaults: number, owner.
    pub vaults: Vec<(u64, crate::types::AccountId)>,
    /// Maximum number of workers in a pool.
    pub max_pool_workers: u32,
    /// Seconds after which a queued withdrawal lets anybody stop its pool's workers.
    pub grace_period: u64,
    /// Whether calls declare realistic weights; the real ones declare none.
    pub weigh_calls: bool,
    /// Proxied accounts, each with its proxy.
    pub proxies: Vec<(crate::types::AccountId, crate::types::AccountId)>,
    /// Duration of a benchmark, in blocks.
    pub benchmark_duration: u32,
    /// Whether workers without an attestation may register.
    pub none_attestation_enabled: bool,
    /// Whether reports of the retired attestation service are accepted.
    pub ias_attestation_enabled: bool,
    /// Workers of an older version exit.
    pub minimum_pruntime_version: (u32, u32, u32),
    /// Heartbeat and stake parameters.
    pub computation: crate::pallets::computation::Parameters,
    /// Seconds between a session's end and the return of its stake.
    pub cool_down_period: u64,
    /// The values written in every block.
    pub load: crate::pallets::load::Amount,
}

/// An operation on a worker, according to a block's events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// A message was accepted in its sender's sequence.
    Delivered {
        /// The sender.
        sender: crate::types::MessageOrigin,
        /// The message's sequence number.
        sequence: u64,
    },
    /// A worker was registered, for the first time or again.
    Registered(crate::types::WorkerPublicKey),
    /// A worker was added to a pool.
    Added(crate::types::WorkerPublicKey),
    /// Its session was started.
    Started(crate::types::WorkerPublicKey),
    /// Its session was restarted with more stake.
    Restarted(crate::types::WorkerPublicKey),
    /// Its session was stopped.
    Stopped(crate::types::WorkerPublicKey),
}

/// The first version.
// The macros generate items that cannot be documented here.
#[allow(missing_docs)]
pub mod v1 {
    /// The version's number.
    pub const SPEC_VERSION: u32 = 1000;

    frame_support::construct_runtime!(
        pub enum Runtime {
            System: frame_system = 0,
            Timestamp: pallet_timestamp = 1,
            Utility: pallet_utility = 3,
            Proxy: pallet_proxy = 6,
            ParachainSystem: pallet_parachain_system = 20,
            ParachainInfo: pallet_parachain_info = 21,
            Balances: pallet_balances = 40,
            TransactionPayment: pallet_transaction_payment = 41,
            PhalaMq: pallet_mq = 85,
            PhalaRegistry: pallet_registry = 86,
            PhalaComputation: pallet_computation = 87,
            Assets: pallet_assets = 89,
            PhalaStakePoolv2: pallet_stake_pool = 93,
            PhalaWrappedBalances: pallet_wrapped_balances = 95,
            PhalaBasePool: pallet_base_pool = 96,
            Load: pallet_load = 120,
        }
    );

    include!("para/body.rs");
}

/// The version after an upgrade: other pallet indexes, the same storage.
// The macros generate items that cannot be documented here.
#[allow(missing_docs)]
pub mod v2 {
    /// The version's number.
    pub const SPEC_VERSION: u32 = 1001;

    frame_support::construct_runtime!(
        pub enum Runtime {
            System: frame_system = 0,
            Timestamp: pallet_timestamp = 1,
            // Clients that hard-code indexes instead of reading the metadata again fail here, or call another
            // pallet.
            Utility: pallet_utility = 4,
            Proxy: pallet_proxy = 7,
            ParachainSystem: pallet_parachain_system = 20,
            ParachainInfo: pallet_parachain_info = 21,
            Balances: pallet_balances = 42,
            TransactionPayment: pallet_transaction_payment = 43,
            PhalaMq: pallet_mq = 105,
            PhalaRegistry: pallet_registry = 106,
            PhalaComputation: pallet_computation = 107,
            Assets: pallet_assets = 109,
            PhalaStakePoolv2: pallet_stake_pool = 113,
            PhalaWrappedBalances: pallet_wrapped_balances = 115,
            PhalaBasePool: pallet_base_pool = 116,
            Load: pallet_load = 121,
        }
    );

    include!("para/body.rs");
}
