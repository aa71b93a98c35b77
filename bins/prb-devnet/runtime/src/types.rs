//! SCALE types of the Phala pallets, with the layouts that workers and bridges decode.
//!
//! Field order and enum indexes are those of the Phala parachain; see the pallets for who writes
//! what.

use codec::{Decode, DecodeWithMemTracking, Encode};
use scale_info::TypeInfo;
use sp_core::{H256, U256, crypto::AccountId32, sr25519};

/// A worker's sr25519 identity key.
pub type WorkerPublicKey = sr25519::Public;
/// A worker's ECDH key, an sr25519 point.
pub type EcdhPublicKey = sr25519::Public;
/// An account of either chain.
pub type AccountId = AccountId32;

/// Topic of [`SystemEvent`]s, chain to workers.
pub const SYSTEM_EVENT_TOPIC: &[u8] = b"phala/system/event";
/// Topic of [`RegistryEvent`]s, workers to chain. The caret marks a topic that is not forwarded.
pub const REGISTRY_EVENT_TOPIC: &[u8] = b"^phala/registry/event";
/// Topic of [`WorkingReportEvent`]s, workers to chain and gatekeepers.
pub const WORKING_REPORT_TOPIC: &[u8] = b"phala/mining/report";

/// Who sent a message.
#[derive(Encode, Decode, DecodeWithMemTracking, TypeInfo, Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum MessageOrigin {
    /// A pallet, by name.
    #[codec(index = 0)]
    Pallet(Vec<u8>),
    /// A confidential contract.
    #[codec(index = 1)]
    Contract(H256),
    /// A worker, by its public key.
    #[codec(index = 2)]
    Worker(sr25519::Public),
    /// An account.
    #[codec(index = 3)]
    AccountId(H256),
    /// A remote location.
    #[codec(index = 4)]
    MultiLocation(Vec<u8>),
    /// The gatekeepers as one.
    #[codec(index = 5)]
    Gatekeeper,
    /// A cluster of contracts.
    #[codec(index = 6)]
    Cluster(H256),
    /// Not in use.
    #[codec(index = 255)]
    Reserved,
}

impl MessageOrigin {
    /// Tells whether messages of this origin come from off the chain, signed.
    #[must_use]
    pub fn is_offchain(&self) -> bool {
        matches!(self, Self::Contract(_) | Self::Worker(_) | Self::Gatekeeper | Self::Cluster(_))
    }
}

/// A message on the queue.
#[derive(Encode, Decode, DecodeWithMemTracking, TypeInfo, Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// Who sent it.
    pub sender: MessageOrigin,
    /// The topic it goes to.
    pub destination: Vec<u8>,
    /// SCALE of the topic's event type.
    pub payload: Vec<u8>,
}

/// A message from off the chain with its place in the sender's sequence.
#[derive(Encode, Decode, DecodeWithMemTracking, TypeInfo, Clone, PartialEq, Eq, Debug)]
pub struct SignedMessage {
    /// The message.
    pub message: Message,
    /// Its place in the sender's sequence, from 0.
    pub sequence: u64,
    /// sr25519 over [`SignedMessage::signed_bytes`], 64 bytes.
    pub signature: Vec<u8>,
}

impl SignedMessage {
    /// Returns what the sender signs: SCALE of (message, sequence).
    #[must_use]
    pub fn signed_bytes(message: &Message, sequence: u64) -> Vec<u8> {
        (message, sequence).encode()
    }
}

/// What the chain tells one worker, or all of them.
#[derive(Encode, Decode, DecodeWithMemTracking, TypeInfo, Clone, PartialEq, Eq, Debug)]
pub enum SystemEvent {
    /// Concerns one worker.
    #[codec(index = 0)]
    WorkerEvent(WorkerEventWithKey),
    /// Asks every worker whose hashed id XOR `seed` is at most `online_target` for a heartbeat.
    #[codec(index = 1)]
    HeartbeatChallenge(HeartbeatChallenge),
}

/// An event and the worker that it concerns.
#[derive(Encode, Decode, DecodeWithMemTracking, TypeInfo, Clone, PartialEq, Eq, Debug)]
pub struct WorkerEventWithKey {
    /// The worker.
    pub pubkey: WorkerPublicKey,
    /// What happened.
    pub event: WorkerEvent,
}

/// A heartbeat challenge.
#[derive(Encode, Decode, DecodeWithMemTracking, TypeInfo, Clone, PartialEq, Eq, Debug, Default)]
pub struct HeartbeatChallenge {
    /// Random per block.
    pub seed: U256,
    /// The share of workers asked, as a part of 2^256.
    pub online_target: U256,
}

impl HeartbeatChallenge {
    /// Tells whether a worker has to answer: (blake2-256(pubkey) as big-endian XOR seed) at most
    /// the target.
    #[must_use]
    pub fn concerns(&self, worker: &WorkerPublicKey) -> bool {
        let id = U256::from_big_endian(&sp_io::hashing::blake2_256(worker.as_ref()));
        (id ^ self.seed) <= self.online_target
    }
}

/// What happened to a worker.
#[derive(Encode, Decode, DecodeWithMemTracking, TypeInfo, Clone, PartialEq, Eq, Debug)]
pub enum WorkerEvent {
    /// It is in the registry.
    #[codec(index = 0)]
    Registered(WorkerInfo),
    /// It has to run a benchmark of so many blocks.
    #[codec(index = 1)]
    BenchStart {
        /// Parachain blocks.
        duration: u32,
    },
    /// Its benchmark was scored.
    #[codec(index = 2)]
    BenchScore(u32),
    /// Its session computes.
    #[codec(index = 3)]
    Started {
        /// The session's number.
        session_id: u32,
        /// Initial V, U64F64 bits.
        init_v: u128,
        /// Initial performance.
        init_p: u32,
    },
    /// Its session stopped.
    #[codec(index = 4)]
    Stopped,
    /// Its session went without heartbeats.
    #[codec(index = 5)]
    EnterUnresponsive,
    /// Its session answers again.
    #[codec(index = 6)]
    ExitUnresponsive,
}

/// What a registration event says of the worker.
#[derive(Encode, Decode, DecodeWithMemTracking, TypeInfo, Clone, PartialEq, Eq, Debug)]
pub struct WorkerInfo {
    /// Attestation tier.
    pub confidence_level: u8,
}

/// A worker's message to the registry.
#[derive(Encode, Decode, DecodeWithMemTracking, TypeInfo, Clone, PartialEq, Eq, Debug)]
pub enum RegistryEvent {
    /// The benchmark's result.
    #[codec(index = 0)]
    BenchReport {
        /// Block time at the benchmark's start, milliseconds.
        start_time: u64,
        /// Iterations since then.
        iterations: u64,
    },
    /// A gatekeeper's master key. The devnet ignores it.
    #[codec(index = 1)]
    MasterPubkey {
        /// The key.
        master_pubkey: sr25519::Public,
    },
}

/// A worker's message about its session.
#[derive(Encode, Decode, DecodeWithMemTracking, TypeInfo, Clone, PartialEq, Eq, Debug)]
pub enum WorkingReportEvent {
    /// The answer to a challenge, older form.
    #[codec(index = 0)]
    Heartbeat {
        /// The session's number.
        session_id: u32,
        /// Block of the challenge.
        challenge_block: u32,
        /// Time of that block, milliseconds.
        challenge_time: u64,
        /// Iterations since the session's start.
        iterations: u64,
    },
    /// The answer to a challenge.
    #[codec(index = 1)]
    HeartbeatV2 {
        /// The session's number.
        session_id: u32,
        /// Block of the challenge.
        challenge_block: u32,
        /// Time of that block, milliseconds.
        challenge_time: u64,
        /// Iterations since the session's start.
        iterations: u64,
        /// Clusters on the worker.
        n_clusters: u32,
        /// Contracts on the worker.
        n_contracts: u32,
    },
}

/// Who vouches for a worker.
#[derive(Encode, Decode, DecodeWithMemTracking, TypeInfo, Clone, Copy, PartialEq, Eq, Debug)]
pub enum AttestationProvider {
    /// The chain's root account.
    #[codec(index = 0)]
    Root,
    /// Intel's retired service.
    #[codec(index = 1)]
    Ias,
    /// Intel DCAP.
    #[codec(index = 2)]
    Dcap,
}

/// An attestation report, as [`WorkerRegistrationInfoV2`] comes with it.
#[derive(Encode, Decode, DecodeWithMemTracking, TypeInfo, Clone, PartialEq, Eq, Debug)]
pub enum AttestationReport {
    /// Intel's retired service.
    #[codec(index = 0)]
    SgxIas {
        /// The report, JSON.
        ra_report: Vec<u8>,
        /// Its signature.
        signature: Vec<u8>,
        /// The signing certificate.
        raw_signing_cert: Vec<u8>,
    },
    /// Intel DCAP.
    #[codec(index = 1)]
    SgxDcap {
        /// The quote.
        quote: Vec<u8>,
        /// What it is verified with.
        collateral: Option<Collateral>,
    },
}

/// What a DCAP quote is verified with.
#[derive(Encode, Decode, DecodeWithMemTracking, TypeInfo, Clone, PartialEq, Eq, Debug)]
pub enum Collateral {
    /// Version 3.
    #[codec(index = 0)]
    SgxV30(SgxV30QuoteCollateral),
}

/// DCAP collateral, version 3.
#[derive(Encode, Decode, DecodeWithMemTracking, TypeInfo, Clone, PartialEq, Eq, Debug)]
pub struct SgxV30QuoteCollateral {
    /// PEM chain.
    pub pck_crl_issuer_chain: String,
    /// Hex.
    pub root_ca_crl: String,
    /// Hex.
    pub pck_crl: String,
    /// PEM chain.
    pub tcb_info_issuer_chain: String,
    /// JSON.
    pub tcb_info: String,
    /// ECDSA signature.
    pub tcb_info_signature: Vec<u8>,
    /// PEM chain.
    pub qe_identity_issuer_chain: String,
    /// JSON.
    pub qe_identity: String,
    /// ECDSA signature.
    pub qe_identity_signature: Vec<u8>,
}

/// The first version's attestation.
#[derive(Encode, Decode, DecodeWithMemTracking, TypeInfo, Clone, PartialEq, Eq, Debug)]
pub enum Attestation {
    /// Intel's retired service.
    #[codec(index = 0)]
    SgxIas {
        /// The report, JSON.
        ra_report: Vec<u8>,
        /// Its signature.
        signature: Vec<u8>,
        /// The signing certificate.
        raw_signing_cert: Vec<u8>,
    },
}

/// What a worker says of itself, first version.
#[derive(Encode, Decode, DecodeWithMemTracking, TypeInfo, Clone, PartialEq, Eq, Debug)]
pub struct WorkerRegistrationInfo {
    /// Runtime version.
    pub version: u32,
    /// Machine.
    pub machine_id: Vec<u8>,
    /// Identity key.
    pub pubkey: WorkerPublicKey,
    /// ECDH key.
    pub ecdh_pubkey: EcdhPublicKey,
    /// Hash of the relay block that the worker started from.
    pub genesis_block_hash: H256,
    /// Cores and feature level.
    pub features: Vec<u32>,
    /// Whom the worker serves.
    pub operator: Option<AccountId>,
}

/// What a worker says of itself.
#[derive(Encode, Decode, DecodeWithMemTracking, TypeInfo, Clone, PartialEq, Eq, Debug)]
pub struct WorkerRegistrationInfoV2 {
    /// Runtime version.
    pub version: u32,
    /// Machine.
    pub machine_id: Vec<u8>,
    /// Identity key.
    pub pubkey: WorkerPublicKey,
    /// ECDH key.
    pub ecdh_pubkey: EcdhPublicKey,
    /// Hash of the relay block that the worker started from.
    pub genesis_block_hash: H256,
    /// Cores and feature level.
    pub features: Vec<u32>,
    /// Whom the worker serves.
    pub operator: Option<AccountId>,
    /// The parachain.
    pub para_id: u32,
    /// Newest consensus version that the worker knows.
    pub max_consensus_version: u32,
}

impl WorkerRegistrationInfo {
    /// The same in the second version.
    #[must_use]
    pub fn with(self, para_id: u32, max_consensus_version: u32) -> WorkerRegistrationInfoV2 {
        let Self { version, machine_id, pubkey, ecdh_pubkey, genesis_block_hash, features, operator } = self;
        WorkerRegistrationInfoV2 {
            version,
            machine_id,
            pubkey,
            ecdh_pubkey,
            genesis_block_hash,
            features,
            operator,
            para_id,
            max_consensus_version,
        }
    }
}

/// A registered worker.
#[derive(Encode, Decode, DecodeWithMemTracking, TypeInfo, Clone, PartialEq, Eq, Debug)]
pub struct WorkerInfoV2 {
    /// Identity key.
    pub pubkey: WorkerPublicKey,
    /// ECDH key.
    pub ecdh_pubkey: EcdhPublicKey,
    /// Runtime version.
    pub runtime_version: u32,
    /// Chain time of the last change, seconds.
    pub last_updated: u64,
    /// Whom the worker serves.
    pub operator: Option<AccountId>,
    /// Who vouches for it.
    pub attestation_provider: Option<AttestationProvider>,
    /// Attestation tier.
    pub confidence_level: u8,
    /// Benchmark score; none before the first.
    pub initial_score: Option<u32>,
    /// Cores and feature level.
    pub features: Vec<u32>,
}

/// A worker's endpoints.
#[derive(Encode, Decode, DecodeWithMemTracking, TypeInfo, Clone, PartialEq, Eq, Debug)]
pub enum VersionedWorkerEndpoints {
    /// URLs.
    #[codec(index = 0)]
    V1(Vec<String>),
}

/// What a worker signs to announce its endpoints.
#[derive(Encode, Decode, DecodeWithMemTracking, TypeInfo, Clone, PartialEq, Eq, Debug)]
pub struct WorkerEndpointPayload {
    /// The worker.
    pub pubkey: WorkerPublicKey,
    /// Its endpoints.
    pub versioned_endpoints: VersionedWorkerEndpoints,
    /// Milliseconds.
    pub signing_time: u64,
}

/// A session's state.
#[derive(Encode, Decode, DecodeWithMemTracking, TypeInfo, Clone, Copy, PartialEq, Eq, Debug)]
pub enum WorkerState {
    /// Bound, not computing.
    #[codec(index = 0)]
    Ready,
    /// Computing.
    #[codec(index = 1)]
    WorkerIdle,
    /// Not in use.
    #[codec(index = 2)]
    Unused,
    /// Computing, without heartbeats.
    #[codec(index = 3)]
    WorkerUnresponsive,
    /// Stopped; the stake is not yet free.
    #[codec(index = 4)]
    WorkerCoolingDown,
}

impl WorkerState {
    /// Tells whether the session computes.
    #[must_use]
    pub fn is_computing(self) -> bool {
        matches!(self, Self::WorkerIdle | Self::WorkerUnresponsive)
    }
}

/// A session's performance.
#[derive(Encode, Decode, DecodeWithMemTracking, TypeInfo, Clone, PartialEq, Eq, Debug, Default)]
pub struct Benchmark {
    /// At its start.
    pub p_init: u32,
    /// By its last heartbeat.
    pub p_instant: u32,
    /// By its last heartbeat.
    pub iterations: u64,
    /// Chain time of its start, seconds.
    pub working_start_time: u64,
    /// Chain time of the last challenge answered, seconds.
    pub challenge_time_last: u64,
}

/// What a session earned.
#[derive(Encode, Decode, DecodeWithMemTracking, TypeInfo, Clone, PartialEq, Eq, Debug, Default)]
pub struct SessionStats {
    /// In all, with 12 decimals.
    pub total_reward: u128,
}

/// A worker's session.
#[derive(Encode, Decode, DecodeWithMemTracking, TypeInfo, Clone, PartialEq, Eq, Debug)]
pub struct SessionInfo {
    /// Its state.
    pub state: WorkerState,
    /// V at the start, U64F64 bits.
    pub ve: u128,
    /// V, U64F64 bits.
    pub v: u128,
    /// Chain time of V's last update, seconds.
    pub v_updated_at: u64,
    /// Performance.
    pub benchmark: Benchmark,
    /// Chain time when it stopped, seconds.
    pub cool_down_start: u64,
    /// Earnings.
    pub stats: SessionStats,
}

/// What a parachain block knows of its relay parent.
#[derive(Encode, Decode, DecodeWithMemTracking, TypeInfo, Clone, PartialEq, Eq, Debug, Default)]
pub struct PersistedValidationData {
    /// SCALE of the parent header.
    pub parent_head: Vec<u8>,
    /// The relay parent's number.
    pub relay_parent_number: u32,
    /// The relay parent's state root.
    pub relay_parent_storage_root: H256,
    /// Bytes.
    pub max_pov_size: u32,
}

/// Derives a session's account from its pool and worker: the first 32 bytes of
/// `SCALE(("spm/", blake2-256(SCALE((pid, worker)))))`.
#[must_use]
pub fn session_account(pid: u64, worker: &WorkerPublicKey) -> AccountId {
    let hash = sp_io::hashing::blake2_256(&(pid, worker).encode());
    let mut bytes = (*b"spm/", hash).encode();
    bytes.resize(32, 0);
    let mut account = [0u8; 32];
    account.copy_from_slice(&bytes);
    AccountId32::new(account)
}
