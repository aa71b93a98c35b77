//! `PhalaRegistry`: the workers and their benchmark scores.

mod trust;

pub use pallet::*;

/// Benchmark scores are capped here, as on the real chain's order of magnitude.
pub const MAX_SCORE: u32 = 6000;

/// Scores a benchmark: iterations per 6 s of chain time, at most [`MAX_SCORE`].
#[must_use]
pub fn score(iterations: u64, elapsed_ms: u64) -> u32 {
    let per_6s = u128::from(iterations) * 6000 / u128::from(elapsed_ms.max(1));
    u32::try_from(per_6s).unwrap_or(MAX_SCORE).min(MAX_SCORE)
}

/// The pallet.
#[frame_support::pallet]
pub mod pallet {
    use codec::{Decode, Encode};
    use frame_support::pallet_prelude::*;
    use frame_system::pallet_prelude::*;
    use sp_core::{H256, sr25519};

    use crate::{
        pallets::{mq, parachain_info, weight},
        types::{
            AccountId, Attestation, AttestationProvider, AttestationReport, Message, MessageOrigin,
            REGISTRY_EVENT_TOPIC, RegistryEvent, SystemEvent, VersionedWorkerEndpoints,
            WorkerEndpointPayload, WorkerEvent, WorkerEventWithKey, WorkerInfo, WorkerInfoV2,
            WorkerPublicKey, WorkerRegistrationInfo, WorkerRegistrationInfoV2,
        },
    };

    /// How old an endpoint announcement may be, milliseconds.
    const ENDPOINT_VALIDITY_MS: u64 = 4 * 3600 * 1000;
    /// Prefix of signed endpoint announcements.
    const ENDPOINT_CONTENT_TYPE: [u8; 2] = [0xff, 0x02];

    /// Configuration.
    #[pallet::config]
    pub trait Config:
        frame_system::Config<AccountId = AccountId, RuntimeEvent: From<Event<Self>>>
        + pallet_timestamp::Config<Moment = u64>
        + mq::Config
        + parachain_info::Config
    {
    }

    /// The pallet's type.
    #[pallet::pallet]
    #[pallet::without_storage_info]
    pub struct Pallet<T>(_);

    /// The registered workers.
    #[pallet::storage]
    pub type Workers<T> = StorageMap<_, Twox64Concat, WorkerPublicKey, WorkerInfoV2>;

    /// The block of each worker's first registration.
    #[pallet::storage]
    pub type WorkerAddedAt<T: Config> = StorageMap<_, Twox64Concat, WorkerPublicKey, BlockNumberFor<T>>;

    /// A benchmark's length in blocks.
    #[pallet::storage]
    pub type BenchmarkDuration<T> = StorageValue<_, u32>;

    /// The workers' announced endpoints.
    #[pallet::storage]
    pub type Endpoints<T> = StorageMap<_, Twox64Concat, WorkerPublicKey, VersionedWorkerEndpoints>;

    /// Relay blocks that workers may start from.
    #[pallet::storage]
    pub type RelaychainGenesisBlockHashAllowList<T> = StorageValue<_, Vec<H256>, ValueQuery>;

    /// The gatekeepers.
    #[pallet::storage]
    pub type Gatekeeper<T> = StorageValue<_, Vec<WorkerPublicKey>, ValueQuery>;

    /// The key that the gatekeepers sign with.
    #[pallet::storage]
    pub type GatekeeperMasterPubkey<T> = StorageValue<_, sr25519::Public>;

    /// The contracts' keys.
    #[pallet::storage]
    pub type ContractKeys<T> = StorageMap<_, Twox64Concat, H256, sr25519::Public>;

    /// The clusters' keys.
    #[pallet::storage]
    pub type ClusterKeys<T> = StorageMap<_, Twox64Concat, H256, sr25519::Public>;

    /// The programs that may run in workers.
    #[pallet::storage]
    pub type PRuntimeAllowList<T> = StorageValue<_, Vec<Vec<u8>>, ValueQuery>;

    /// Workers of an older version exit.
    #[pallet::storage]
    pub type MinimumPRuntimeVersion<T> = StorageValue<_, (u32, u32, u32), ValueQuery>;

    /// The consensus version that workers follow.
    #[pallet::storage]
    pub type PRuntimeConsensusVersion<T> = StorageValue<_, u32, ValueQuery>;

    /// Whether workers without an attestation are accepted. A constant of the real runtime.
    #[pallet::storage]
    pub type NoneAttestationEnabled<T> = StorageValue<_, bool, ValueQuery>;

    /// Whether reports of the retired attestation service are accepted.
    #[pallet::storage]
    pub type IasAttestationEnabled<T> = StorageValue<_, bool, ValueQuery>;

    /// Genesis.
    #[pallet::genesis_config]
    #[derive(frame_support::DefaultNoBound)]
    pub struct GenesisConfig<T: Config> {
        /// A benchmark's length in blocks.
        pub benchmark_duration: u32,
        /// Whether workers without an attestation are accepted.
        pub none_attestation_enabled: bool,
        /// Whether reports of the retired attestation service are accepted.
        pub ias_attestation_enabled: bool,
        /// Workers of an older version exit.
        pub minimum_pruntime_version: (u32, u32, u32),
        /// The programs that may run in workers.
        pub pruntimes: Vec<Vec<u8>>,
        #[doc(hidden)]
        #[serde(skip)]
        pub _marker: PhantomData<T>,
    }

    #[pallet::genesis_build]
    impl<T: Config> BuildGenesisConfig for GenesisConfig<T> {
        fn build(&self) {
            BenchmarkDuration::<T>::put(self.benchmark_duration);
            NoneAttestationEnabled::<T>::put(self.none_attestation_enabled);
            // Absent by default: the state is then that of a chain without the setting.
            if self.ias_attestation_enabled {
                IasAttestationEnabled::<T>::put(true);
            }
            MinimumPRuntimeVersion::<T>::put(self.minimum_pruntime_version);
            PRuntimeAllowList::<T>::put(&self.pruntimes);
        }
    }

    /// Events.
    #[pallet::event]
    #[pallet::generate_deposit(pub(super) fn deposit_event)]
    pub enum Event<T: Config> {
        /// A worker was registered.
        #[codec(index = 2)]
        WorkerAdded {
            /// The worker.
            pubkey: WorkerPublicKey,
            /// Its attestation provider.
            attestation_provider: Option<AttestationProvider>,
            /// Attestation tier.
            confidence_level: u8,
        },
        /// A worker was registered again.
        #[codec(index = 3)]
        WorkerUpdated {
            /// The worker.
            pubkey: WorkerPublicKey,
            /// Its attestation provider.
            attestation_provider: Option<AttestationProvider>,
            /// Attestation tier.
            confidence_level: u8,
        },
        /// A benchmark was scored.
        #[codec(index = 6)]
        InitialScoreSet {
            /// The worker.
            pubkey: WorkerPublicKey,
            /// Its score.
            init_score: u32,
        },
    }

    /// Errors, with the indexes of the real pallet.
    #[pallet::error]
    pub enum Error<T> {
        /// The sender has no key on this chain.
        CannotHandleUnknownMessage,
        /// The sender may not send this.
        InvalidSender,
        /// Not in use.
        InvalidPubKey,
        /// The signature is malformed.
        MalformedSignature,
        /// The signature has a wrong length.
        InvalidSignatureLength,
        /// The signature is not the sender's.
        InvalidSignature,
        /// The contract has no key.
        UnknownContract,
        /// The report's certificate or signature is not the attestation service's.
        InvalidIASSigningCert,
        /// The report is malformed.
        InvalidReport,
        /// The report's status is not accepted.
        InvalidQuoteStatus,
        /// The report has no time.
        BadIASReport,
        /// The report is too old.
        OutdatedIASReport,
        /// The report's quote is malformed.
        UnknownQuoteBodyFormat,
        /// The report attests another registration info.
        InvalidRuntimeInfoHash,
        /// Not in use.
        InvalidRuntimeInfo,
        /// The worker is not registered.
        InvalidInput,
        /// Not in use: such a report is ignored.
        InvalidBenchReport,
        /// Not in use.
        WorkerNotFound,
        /// An attestation is needed.
        NoneAttestationDisabled,
        /// Not in use.
        InvalidGatekeeper,
        /// Not in use.
        InvalidMasterPubkey,
        /// Not in use.
        MasterKeyMismatch,
        /// The gatekeepers have no key.
        MasterKeyUninitialized,
        /// The worker started from a relay block that is not allowed.
        GenesisBlockHashRejected,
        /// Not in use.
        GenesisBlockHashAlreadyExists,
        /// Not in use.
        GenesisBlockHashNotFound,
        /// The worker's program is not allowed.
        PRuntimeRejected,
        /// Not in use.
        PRuntimeAlreadyExists,
        /// Not in use.
        PRuntimeNotFound,
        /// The cluster has no key.
        UnknownCluster,
        /// Not in use.
        NotImplemented,
        /// Not in use.
        CannotRemoveLastGatekeeper,
        /// Not in use.
        MasterKeyInRotation,
        /// Not in use.
        InvalidRotatedMasterPubkey,
        /// The announcement is from the future or too old.
        InvalidEndpointSigningTime,
        /// Not in use.
        NotMigrationRoot,
        /// The worker follows another parachain.
        ParachainIdMismatch,
        /// The worker does not know the current consensus version.
        InvalidConsensusVersion,
        /// A DCAP quote without collateral. Newer than the runtime that the indexes are from, as are those below.
        UnsupportedAttestationType,
        /// A quote or its collateral is not valid.
        InvalidDCAPQuote,
        /// The attestation service is retired. Only on the devnet.
        IASAttestationDisabled,
    }

    #[pallet::call]
    impl<T: Config> Pallet<T> {
        /// Registers a worker by the retired attestation service, if its reports are still accepted.
        #[pallet::call_index(6)]
        #[pallet::weight(weight::declared::<T>(100_000_000))]
        pub fn register_worker(
            origin: OriginFor<T>,
            pruntime_info: WorkerRegistrationInfo,
            attestation: Attestation,
        ) -> DispatchResult {
            ensure_signed(origin)?;
            // Of the first version's encoding: its worker attested that, not the info that is stored.
            let hash = sp_io::hashing::blake2_256(&pruntime_info.encode());
            let Attestation::SgxIas { ra_report, signature, raw_signing_cert } = attestation;
            let report = AttestationReport::SgxIas { ra_report, signature, raw_signing_cert };
            let (provider, confidence_level) = Self::attest(&hash, Some(&report))?;
            Self::check_genesis_block(pruntime_info.genesis_block_hash)?;
            let para_id = parachain_info::ParachainId::<T>::get().0;
            // The first version's info names neither the parachain nor a consensus version.
            Self::register(pruntime_info.with(para_id, 0), provider, confidence_level);
            Ok(())
        }

        /// Registers a worker, or registers it again, and starts its benchmark.
        #[pallet::call_index(7)]
        #[pallet::weight(weight::declared::<T>(200_000_000))]
        pub fn register_worker_v2(
            origin: OriginFor<T>,
            pruntime_info: WorkerRegistrationInfoV2,
            attestation: Box<Option<AttestationReport>>,
        ) -> DispatchResult {
            ensure_signed(origin)?;
            let hash = sp_io::hashing::blake2_256(&pruntime_info.encode());
            let (provider, confidence_level) = Self::attest(&hash, attestation.as_ref().as_ref())?;
            let para_id = parachain_info::ParachainId::<T>::get().0;
            ensure!(pruntime_info.para_id == para_id, Error::<T>::ParachainIdMismatch);
            Self::check_genesis_block(pruntime_info.genesis_block_hash)?;
            // A worker of an older version would read some events differently.
            let version = PRuntimeConsensusVersion::<T>::get();
            let known = pruntime_info.max_consensus_version >= version;
            ensure!(known, Error::<T>::InvalidConsensusVersion);
            Self::register(pruntime_info, provider, confidence_level);
            Ok(())
        }

        /// Announces a worker's endpoints.
        #[pallet::call_index(8)]
        #[pallet::weight(weight::declared::<T>(100_000_000))]
        pub fn update_worker_endpoint(
            origin: OriginFor<T>,
            endpoint_payload: WorkerEndpointPayload,
            signature: Vec<u8>,
        ) -> DispatchResult {
            ensure_signed(origin)?;
            let pubkey = endpoint_payload.pubkey;
            ensure!(Workers::<T>::contains_key(pubkey), Error::<T>::InvalidInput);
            let signature = sr25519::Signature::try_from(signature.as_slice())
                .map_err(|()| Error::<T>::MalformedSignature)?;
            // The prefix keeps the signature from being valid for any other content.
            let mut content = ENDPOINT_CONTENT_TYPE.to_vec();
            endpoint_payload.encode_to(&mut content);
            ensure!(
                sp_io::crypto::sr25519_verify(&signature, &content, &pubkey),
                Error::<T>::InvalidSignature
            );
            let now = pallet_timestamp::Now::<T>::get();
            let signed = endpoint_payload.signing_time;
            // An announcement cannot be replayed long after it was made.
            ensure!(
                signed < now && now - signed <= ENDPOINT_VALIDITY_MS,
                Error::<T>::InvalidEndpointSigningTime
            );
            Endpoints::<T>::insert(pubkey, endpoint_payload.versioned_endpoints);
            Ok(())
        }
    }

    impl<T: Config> Pallet<T> {
        /// Allows workers to start from a relay block.
        pub fn allow_genesis_block(hash: H256) {
            RelaychainGenesisBlockHashAllowList::<T>::mutate(|list| {
                if !list.contains(&hash) {
                    list.push(hash);
                }
            });
        }

        /// Queues an event for a worker.
        pub fn push_worker_event(pubkey: WorkerPublicKey, event: WorkerEvent) {
            let event = SystemEvent::WorkerEvent(WorkerEventWithKey { pubkey, event });
            mq::Pallet::<T>::push_system_event(b"PhalaRegistry", event);
        }

        fn check_genesis_block(hash: H256) -> DispatchResult {
            let allowed = RelaychainGenesisBlockHashAllowList::<T>::get().contains(&hash);
            ensure!(allowed, Error::<T>::GenesisBlockHashRejected);
            Ok(())
        }

        fn register(
            info: WorkerRegistrationInfoV2,
            attestation_provider: Option<AttestationProvider>,
            confidence_level: u8,
        ) {
            let pubkey = info.pubkey;
            let known = Workers::<T>::get(pubkey);
            let event = if known.is_some() {
                Event::WorkerUpdated { pubkey, attestation_provider, confidence_level }
            } else {
                let number = frame_system::Pallet::<T>::block_number();
                // Once: a worker keeps the block of its first registration.
                WorkerAddedAt::<T>::insert(pubkey, number);
                Event::WorkerAdded { pubkey, attestation_provider, confidence_level }
            };
            let worker = WorkerInfoV2 {
                pubkey,
                ecdh_pubkey: info.ecdh_pubkey,
                runtime_version: info.version,
                last_updated: pallet_timestamp::Now::<T>::get() / 1000,
                operator: info.operator,
                attestation_provider,
                confidence_level,
                // A registered worker keeps its score until the new benchmark is reported, so its pool can go on.
                initial_score: known.and_then(|worker| worker.initial_score),
                features: info.features,
            };
            Workers::<T>::insert(pubkey, worker);
            Self::deposit_event(event);
            let registered = WorkerEvent::Registered(WorkerInfo { confidence_level });
            Self::push_worker_event(pubkey, registered);
            let duration = BenchmarkDuration::<T>::get().unwrap_or_default();
            Self::push_worker_event(pubkey, WorkerEvent::BenchStart { duration });
        }

        /// Handles a message to the registry.
        pub fn on_message(message: &Message) {
            let MessageOrigin::Worker(pubkey) = &message.sender else { return };
            if !mq::is_topic(&message.destination, REGISTRY_EVENT_TOPIC) {
                return;
            }
            // Other messages are accepted and ignored: an error would keep the sender's sequence from advancing.
            let Ok(RegistryEvent::BenchReport { start_time, iterations }) =
                RegistryEvent::decode(&mut &message.payload[..])
            else {
                return;
            };
            Self::on_benchmark(*pubkey, start_time, iterations);
        }

        fn on_benchmark(pubkey: WorkerPublicKey, start_time: u64, iterations: u64) {
            let now = pallet_timestamp::Now::<T>::get();
            // The score divides by the time since the start.
            if start_time >= now {
                return;
            }
            let init_score = super::score(iterations, now - start_time);
            let known = Workers::<T>::mutate(pubkey, |worker| {
                let Some(worker) = worker else { return false };
                worker.initial_score = Some(init_score);
                worker.last_updated = now / 1000;
                true
            });
            if known {
                Self::push_worker_event(pubkey, WorkerEvent::BenchScore(init_score));
                Self::deposit_event(Event::InitialScoreSet { pubkey, init_score });
            }
        }
    }
}
