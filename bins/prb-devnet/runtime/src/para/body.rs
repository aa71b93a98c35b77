// The body of both versions of the parachain's runtime; `include!`d by `para.rs`, because FRAME's
// attribute macros do not work inside `macro_rules!`.

use std::borrow::Cow;

use codec::{Decode, Encode};
use frame_support::{
    derive_impl, parameter_types,
    traits::{ConstU8, ConstU16, ConstU32, ConstU64, InstanceFilter},
    weights::IdentityFee,
};
use sp_api::impl_runtime_apis;
use sp_core::{H256, OpaqueMetadata};
use sp_runtime::{
    ApplyExtrinsicResult, BoundedVec, BuildStorage, ExtrinsicInclusionMode, MultiAddress,
    MultiSignature, Storage, generic,
    traits::{BlakeTwo256, Block as BlockT},
    transaction_validity::{TransactionSource, TransactionValidity},
};
use sp_version::RuntimeVersion;

use crate::{
    Balance, Header, PHA, SS58_PREFIX,
    pallets::{
        actions, assets as pallet_assets, base_pool as pallet_base_pool,
        computation as pallet_computation, load as pallet_load, mq as pallet_mq,
        parachain_info as pallet_parachain_info, parachain_system as pallet_parachain_system,
        registry as pallet_registry, stake_pool as pallet_stake_pool, weight,
        wrapped_balances as pallet_wrapped_balances,
    },
    types::{AccountId, Message, MessageOrigin, WorkerPublicKey},
};

pub type TxExtension = (
    frame_system::CheckNonZeroSender<Runtime>,
    frame_system::CheckSpecVersion<Runtime>,
    frame_system::CheckTxVersion<Runtime>,
    frame_system::CheckGenesis<Runtime>,
    frame_system::CheckEra<Runtime>,
    frame_system::CheckNonce<Runtime>,
    frame_system::CheckWeight<Runtime>,
    pallet_mq::CheckMqSequence<Runtime>,
    pallet_transaction_payment::ChargeTransactionPayment<Runtime>,
);
pub type UncheckedExtrinsic = generic::UncheckedExtrinsic<
    MultiAddress<AccountId, ()>,
    RuntimeCall,
    MultiSignature,
    TxExtension,
>;
pub type Block = generic::Block<Header, UncheckedExtrinsic>;
pub type Executive = frame_executive::Executive<
    Runtime,
    Block,
    frame_system::ChainContext<Runtime>,
    Runtime,
    AllPalletsWithSystem,
>;

/// The runtime's version. State version 0, the only one that workers support.
pub const VERSION: RuntimeVersion = RuntimeVersion {
    spec_name: Cow::Borrowed("prb-devnet-para"),
    impl_name: Cow::Borrowed("prb-devnet-para"),
    authoring_version: 1,
    spec_version: SPEC_VERSION,
    impl_version: 0,
    apis: RUNTIME_API_VERSIONS,
    transaction_version: 1,
    system_version: 0,
};

parameter_types! {
    pub const Version: RuntimeVersion = VERSION;
    pub const ExistentialDeposit: Balance = PHA / 100;
    pub const ProxyDeposit: Balance = PHA / 10;
    pub const MinContribution: Balance = PHA / 100;
    pub const WPhaAssetId: u32 = 10_000;
    // In storage, so that a devnet can be configured; metadata shows the state's value.
    pub storage GracePeriod: u64 = 7 * 24 * 3600;
    pub storage MaxPoolWorkers: u32 = 200;
    pub storage WeighCalls: bool = true;
}

#[derive_impl(frame_system::config_preludes::ParaChainDefaultConfig)]
impl frame_system::Config for Runtime {
    type Block = Block;
    type Version = Version;
    type SS58Prefix = ConstU16<SS58_PREFIX>;
    type AccountData = pallet_balances::AccountData<Balance>;
}

impl pallet_timestamp::Config for Runtime {
    type Moment = u64;
    type OnTimestampSet = ();
    // Blocks of one relay parent, and those of a fork, are one millisecond apart.
    type MinimumPeriod = ConstU64<1>;
    type WeightInfo = ();
}

#[derive_impl(pallet_balances::config_preludes::TestDefaultConfig)]
impl pallet_balances::Config for Runtime {
    type Balance = Balance;
    type ExistentialDeposit = ExistentialDeposit;
    type AccountStore = System;
}

impl pallet_transaction_payment::Config for Runtime {
    type RuntimeEvent = RuntimeEvent;
    type OnChargeTransaction = pallet_transaction_payment::FungibleAdapter<Balances, ()>;
    type WeightToFee = IdentityFee<Balance>;
    type LengthToFee = IdentityFee<Balance>;
    type FeeMultiplierUpdate = ();
    type OperationalFeeMultiplier = ConstU8<5>;
    type WeightInfo = ();
}

impl pallet_utility::Config for Runtime {
    type RuntimeEvent = RuntimeEvent;
    type RuntimeCall = RuntimeCall;
    type PalletsOrigin = OriginCaller;
    type WeightInfo = ();
}

/// The calls that a proxy may make.
#[derive(
    Encode,
    Decode,
    codec::DecodeWithMemTracking,
    codec::MaxEncodedLen,
    scale_info::TypeInfo,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Debug,
    Default,
)]
pub enum ProxyType {
    /// Anything.
    #[default]
    Any,
    /// Anything but moving balances.
    NonTransfer,
    /// What a pool's operator does.
    StakePoolManager,
}

impl InstanceFilter<RuntimeCall> for ProxyType {
    fn filter(&self, call: &RuntimeCall) -> bool {
        match self {
            Self::Any => true,
            // As on the real chain, a batch passes here and each of its calls is filtered on its own.
            Self::NonTransfer => !matches!(call, RuntimeCall::Balances(_)),
            Self::StakePoolManager => matches!(
                call,
                RuntimeCall::Utility(_)
                    | RuntimeCall::PhalaStakePoolv2(_)
                    | RuntimeCall::PhalaRegistry(_)
                    | RuntimeCall::PhalaMq(_)
            ),
        }
    }

    fn is_superset(&self, other: &Self) -> bool {
        self == &Self::Any || self == other
    }
}

impl pallet_proxy::Config for Runtime {
    type RuntimeEvent = RuntimeEvent;
    type RuntimeCall = RuntimeCall;
    type Currency = Balances;
    type ProxyType = ProxyType;
    type ProxyDepositBase = ProxyDeposit;
    type ProxyDepositFactor = ProxyDeposit;
    type MaxProxies = ConstU32<32>;
    type WeightInfo = ();
    type MaxPending = ConstU32<32>;
    type CallHasher = BlakeTwo256;
    type AnnouncementDepositBase = ProxyDeposit;
    type AnnouncementDepositFactor = ProxyDeposit;
    type BlockNumberProvider = System;
}

/// Routes messages and the workers' genesis block to their pallets.
pub struct Route;

impl pallet_mq::OnMessage for Route {
    fn on_message(message: &Message) {
        PhalaRegistry::on_message(message);
        PhalaComputation::on_message(message);
    }
}

impl pallet_parachain_system::OnWorkerGenesis for Route {
    fn on_worker_genesis(hash: H256) {
        PhalaRegistry::allow_genesis_block(hash);
    }
}

impl pallet_parachain_system::Act for Route {
    fn act(action: actions::Action) -> sp_runtime::DispatchResult {
        actions::apply::<Runtime>(action)
    }
}

impl pallet_computation::OnUnbound for Route {
    fn on_unbound(worker: &WorkerPublicKey) {
        PhalaStakePoolv2::forget(worker);
    }
}

impl weight::Config for Runtime {
    type WeighCalls = WeighCalls;
}
impl pallet_parachain_info::Config for Runtime {}
impl pallet_parachain_system::Config for Runtime {
    type OnWorkerGenesis = Route;
    type Act = Route;
}
impl pallet_mq::Config for Runtime {
    type Handler = Route;
    type Signatures = PhalaRegistry;
}
impl pallet_registry::Config for Runtime {}
impl pallet_computation::Config for Runtime {
    type OnUnbound = Route;
}
impl pallet_assets::Config for Runtime {}
impl pallet_wrapped_balances::Config for Runtime {
    type WPhaAssetId = WPhaAssetId;
}
impl pallet_base_pool::Config for Runtime {}
impl pallet_stake_pool::Config for Runtime {
    type MinContribution = MinContribution;
    type GracePeriod = GracePeriod;
    type MaxPoolWorkers = MaxPoolWorkers;
}
impl pallet_load::Config for Runtime {}

/// Builds the genesis state.
///
/// # Errors
/// Those of the pallets.
pub fn genesis(genesis: super::Genesis) -> Result<Storage, String> {
    let config = RuntimeGenesisConfig {
        parachain_info: pallet_parachain_info::GenesisConfig {
            parachain_id: genesis.para_id,
            ..Default::default()
        },
        balances: pallet_balances::GenesisConfig {
            balances: genesis.balances,
            ..Default::default()
        },
        phala_registry: pallet_registry::GenesisConfig {
            benchmark_duration: genesis.benchmark_duration,
            none_attestation_enabled: genesis.none_attestation_enabled,
            ias_attestation_enabled: genesis.ias_attestation_enabled,
            minimum_pruntime_version: genesis.minimum_pruntime_version,
            pruntimes: vec![crate::types::report::pruntime_hash()],
            ..Default::default()
        },
        phala_computation: pallet_computation::GenesisConfig {
            parameters: genesis.computation,
            cool_down_period: genesis.cool_down_period,
            ..Default::default()
        },
        phala_base_pool: pallet_base_pool::GenesisConfig {
            pools: genesis.pools,
            vaults: genesis.vaults,
            ..Default::default()
        },
        load: pallet_load::GenesisConfig { amount: genesis.load, ..Default::default() },
        ..Default::default()
    };
    let mut storage = config.build_storage()?;
    let proxies = genesis.proxies;
    let (grace_period, max_pool_workers) = (genesis.grace_period, genesis.max_pool_workers);
    let weigh_calls = genesis.weigh_calls;
    sp_state_machine::BasicExternalities::execute_with_storage(&mut storage, || {
        GracePeriod::set(&grace_period);
        MaxPoolWorkers::set(&max_pool_workers);
        WeighCalls::set(&weigh_calls);
        // pallet-proxy has no genesis configuration.
        for (real, delegate) in proxies {
            let proxy =
                pallet_proxy::ProxyDefinition { delegate, proxy_type: ProxyType::Any, delay: 0 };
            let list = BoundedVec::truncate_from(vec![proxy]);
            // No deposit: nothing is reserved of a balance at genesis.
            pallet_proxy::Proxies::<Runtime>::insert(real, (list, 0));
        }
    });
    Ok(storage)
}

/// Returns the operations on workers in an encoded `System::Events`; empty if it cannot be decoded.
#[must_use]
pub fn operations(events: &[u8]) -> Vec<super::Operation> {
    use super::Operation as Op;
    let records = Vec::<frame_system::EventRecord<RuntimeEvent, sp_core::H256>>::decode(&mut &events[..]);
    let operation = |record: frame_system::EventRecord<RuntimeEvent, sp_core::H256>| match record.event {
        RuntimeEvent::PhalaMq(pallet_mq::Event::MessageDelivered { sender, sequence }) => {
            Some(Op::Delivered { sender, sequence })
        }
        RuntimeEvent::PhalaRegistry(
            pallet_registry::Event::WorkerAdded { pubkey, .. }
            | pallet_registry::Event::WorkerUpdated { pubkey, .. },
        ) => Some(Op::Registered(pubkey)),
        RuntimeEvent::PhalaStakePoolv2(event) => match event {
            pallet_stake_pool::Event::PoolWorkerAdded { worker, .. } => Some(Op::Added(worker)),
            pallet_stake_pool::Event::WorkingStarted { worker, .. } => Some(Op::Started(worker)),
            pallet_stake_pool::Event::WorkingRestarted { worker, .. } => Some(Op::Restarted(worker)),
            pallet_stake_pool::Event::WorkingStopped { worker, .. } => Some(Op::Stopped(worker)),
            _ => None,
        },
        _ => None,
    };
    let mut found = Vec::new();
    for operation in records.unwrap_or_default().into_iter().filter_map(operation) {
        // A restart starts the session, too.
        if let Op::Restarted(worker) = operation
            && found.last() == Some(&Op::Started(worker))
        {
            found.pop();
        }
        found.push(operation);
    }
    found
}

/// Returns the off-chain messages in an extrinsic, including those in batches and proxy calls.
#[must_use]
pub fn offchain_messages(extrinsic: &[u8]) -> Vec<(MessageOrigin, u64)> {
    let mut found = Vec::new();
    each_call(extrinsic, &mut |call| {
        if let RuntimeCall::PhalaMq(pallet_mq::Call::sync_offchain_message { signed_message }) = call {
            found.push((signed_message.message.sender.clone(), signed_message.sequence));
        }
    });
    found
}

/// Counts the calls of an extrinsic, including each call in batches and proxy calls.
#[must_use]
pub fn calls(extrinsic: &[u8]) -> u32 {
    let mut count = 0;
    each_call(extrinsic, &mut |_| count += 1);
    count
}

fn each_call(extrinsic: &[u8], visit: &mut impl FnMut(&RuntimeCall)) {
    if let Ok(extrinsic) = UncheckedExtrinsic::decode(&mut &extrinsic[..]) {
        visit_call(&extrinsic.function, visit);
    }
}

fn visit_call(call: &RuntimeCall, visit: &mut impl FnMut(&RuntimeCall)) {
    match call {
        RuntimeCall::Utility(
            pallet_utility::Call::batch { calls }
            | pallet_utility::Call::batch_all { calls }
            | pallet_utility::Call::force_batch { calls },
        ) => calls.iter().for_each(|call| visit_call(call, visit)),
        RuntimeCall::Proxy(pallet_proxy::Call::proxy { call, .. }) => visit_call(call, visit),
        call => visit(call),
    }
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

    impl pallet_transaction_payment_rpc_runtime_api::TransactionPaymentApi<Block, Balance>
        for Runtime
    {
        fn query_info(
            uxt: <Block as BlockT>::Extrinsic,
            len: u32,
        ) -> pallet_transaction_payment_rpc_runtime_api::RuntimeDispatchInfo<Balance> {
            TransactionPayment::query_info(uxt, len)
        }

        fn query_fee_details(
            uxt: <Block as BlockT>::Extrinsic,
            len: u32,
        ) -> pallet_transaction_payment::FeeDetails<Balance> {
            TransactionPayment::query_fee_details(uxt, len)
        }

        fn query_weight_to_fee(weight: frame_support::weights::Weight) -> Balance {
            TransactionPayment::weight_to_fee(weight)
        }

        fn query_length_to_fee(length: u32) -> Balance {
            TransactionPayment::length_to_fee(length)
        }
    }
}
