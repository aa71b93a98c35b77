//! The relay chain's runtime.

// The macros below generate items that cannot be documented here.
#![allow(missing_docs)]

use frame_support::{
    construct_runtime, derive_impl,
    traits::{ConstU16, ConstU64},
};
use sp_api::impl_runtime_apis;
use sp_consensus_grandpa::AuthorityId;
use sp_core::OpaqueMetadata;
use sp_runtime::{
    ApplyExtrinsicResult, BuildStorage, ExtrinsicInclusionMode, MultiAddress, MultiSignature, Storage,
    generic,
    traits::Block as BlockT,
    transaction_validity::{TransactionSource, TransactionValidity},
};
use sp_version::RuntimeVersion;

use crate::{
    Header, SS58_PREFIX,
    pallets::{grandpa as pallet_grandpa, paras as pallet_paras},
    types::AccountId,
};

pub type TxExtension = (
    frame_system::CheckNonZeroSender<Runtime>,
    frame_system::CheckSpecVersion<Runtime>,
    frame_system::CheckTxVersion<Runtime>,
    frame_system::CheckGenesis<Runtime>,
    frame_system::CheckEra<Runtime>,
    frame_system::CheckNonce<Runtime>,
    frame_system::CheckWeight<Runtime>,
);
pub type UncheckedExtrinsic =
    generic::UncheckedExtrinsic<MultiAddress<AccountId, ()>, RuntimeCall, MultiSignature, TxExtension>;
pub type Block = generic::Block<Header, UncheckedExtrinsic>;
pub type Executive = frame_executive::Executive<
    Runtime,
    Block,
    frame_system::ChainContext<Runtime>,
    Runtime,
    AllPalletsWithSystem,
>;

/// The runtime's version. State version 1, as on the real relay chains.
pub const VERSION: RuntimeVersion = RuntimeVersion {
    spec_name: std::borrow::Cow::Borrowed("prb-devnet-relay"),
    impl_name: std::borrow::Cow::Borrowed("prb-devnet-relay"),
    authoring_version: 1,
    spec_version: 1000,
    impl_version: 0,
    apis: RUNTIME_API_VERSIONS,
    transaction_version: 1,
    system_version: 1,
};

construct_runtime!(
    pub enum Runtime {
        System: frame_system = 0,
        Timestamp: pallet_timestamp = 1,
        Grandpa: pallet_grandpa = 2,
        Paras: pallet_paras = 3,
    }
);

frame_support::parameter_types! {
    pub const Version: RuntimeVersion = VERSION;
}

#[derive_impl(frame_system::config_preludes::RelayChainDefaultConfig)]
impl frame_system::Config for Runtime {
    type Block = Block;
    type Version = Version;
    type SS58Prefix = ConstU16<SS58_PREFIX>;
}

impl pallet_timestamp::Config for Runtime {
    type Moment = u64;
    type OnTimestampSet = ();
    type MinimumPeriod = ConstU64<1>;
    type WeightInfo = ();
}

impl pallet_grandpa::Config for Runtime {}
impl pallet_paras::Config for Runtime {}

/// The relay chain's genesis configuration.
#[derive(Debug, Clone)]
pub struct Genesis {
    /// The candidates for all authority sets.
    pub candidates: Vec<AuthorityId>,
    /// Authorities in a set.
    pub set_size: u32,
    /// Length of a set in blocks; 0 keeps the first set forever.
    pub set_length: u32,
    /// The block that forces a change of authorities; 0 forces none.
    pub forced_change_at: u32,
    /// The parachains' genesis headers, SCALE.
    pub heads: Vec<(u32, Vec<u8>)>,
}

/// Builds the genesis state.
///
/// # Errors
/// Those of the pallets.
pub fn genesis(genesis: Genesis) -> Result<Storage, String> {
    let config = RuntimeGenesisConfig {
        grandpa: pallet_grandpa::GenesisConfig {
            candidates: genesis.candidates,
            set_size: genesis.set_size,
            set_length: genesis.set_length,
            forced_at: genesis.forced_change_at,
            ..Default::default()
        },
        paras: pallet_paras::GenesisConfig { heads: genesis.heads, ..Default::default() },
        ..Default::default()
    };
    config.build_storage()
}

impl_runtime_apis! {
    impl sp_api::Core<Block> for Runtime {
        fn version() -> RuntimeVersion {
            VERSION
        }

        fn execute_block(block: <Block as BlockT>::LazyBlock) {
            Executive::execute_block(block);
        }

        fn initialize_block(header: &<Block as BlockT>::Header) -> ExtrinsicInclusionMode {
            Executive::initialize_block(header)
        }
    }

    impl sp_api::Metadata<Block> for Runtime {
        fn metadata() -> OpaqueMetadata {
            OpaqueMetadata::new(Runtime::metadata().into())
        }

        fn metadata_at_version(version: u32) -> Option<OpaqueMetadata> {
            Runtime::metadata_at_version(version)
        }

        fn metadata_versions() -> Vec<u32> {
            Runtime::metadata_versions()
        }
    }

    impl sp_block_builder::BlockBuilder<Block> for Runtime {
        fn apply_extrinsic(extrinsic: <Block as BlockT>::Extrinsic) -> ApplyExtrinsicResult {
            Executive::apply_extrinsic(extrinsic)
        }

        fn finalize_block() -> <Block as BlockT>::Header {
            Executive::finalize_block()
        }

        fn inherent_extrinsics(
            data: sp_inherents::InherentData,
        ) -> Vec<<Block as BlockT>::Extrinsic> {
            data.create_extrinsics()
        }

        fn check_inherents(
            block: <Block as BlockT>::LazyBlock,
            data: sp_inherents::InherentData,
        ) -> sp_inherents::CheckInherentsResult {
            data.check_extrinsics(&block)
        }
    }

    impl sp_transaction_pool::runtime_api::TaggedTransactionQueue<Block> for Runtime {
        fn validate_transaction(
            source: TransactionSource,
            tx: <Block as BlockT>::Extrinsic,
            block_hash: <Block as BlockT>::Hash,
        ) -> TransactionValidity {
            Executive::validate_transaction(source, tx, block_hash)
        }
    }

    impl frame_system_rpc_runtime_api::AccountNonceApi<Block, AccountId, u32> for Runtime {
        fn account_nonce(account: AccountId) -> u32 {
            System::account_nonce(account)
        }
    }
}
