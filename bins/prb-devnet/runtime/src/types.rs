//! SCALE types of the Phala pallets, with the layouts that workers and bridges decode.
//!
//! Field order and enum indexes are those of the Phala parachain.

pub mod attestation;
pub mod pools;
pub mod report;
pub mod sessions;
pub mod tokenomics;

pub use attestation::*;
pub use pools::*;
pub use sessions::*;
pub use tokenomics::*;

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
/// Topic of [`RegistryEvent`]s, workers to chain. The caret marks a topic that stays on
/// chain: its messages are not for workers.
pub const REGISTRY_EVENT_TOPIC: &[u8] = b"^phala/registry/event";
/// Topic of [`WorkingReportEvent`]s, workers to chain and gatekeepers.
pub const WORKING_REPORT_TOPIC: &[u8] = b"phala/mining/report";

/// The sender of a message.
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
    /// Whether messages of this origin come from off the chain, signed.
    #[must_use]
    pub fn is_offchain(&self) -> bool {
        matches!(self, Self::Contract(_) | Self::Worker(_) | Self::Gatekeeper | Self::Cluster(_))
    }
}

/// A message on the queue.
#[derive(Encode, Decode, DecodeWithMemTracking, TypeInfo, Clone, PartialEq, Eq, Debug)]
pub struct Message {
    /// Its sender.
    pub sender: MessageOrigin,
    /// The topic it goes to.
    pub destination: Vec<u8>,
    /// SCALE of the topic's event type.
    pub payload: Vec<u8>,
}

/// An off-chain message with its sequence number.
#[derive(Encode, Decode, DecodeWithMemTracking, TypeInfo, Clone, PartialEq, Eq, Debug)]
pub struct SignedMessage {
    /// The message.
    pub message: Message,
    /// Its sequence number at the sender, from 0.
    pub sequence: u64,
    /// sr25519 over [`SignedMessage::signed_bytes`], 64 bytes.
    pub signature: Vec<u8>,
}

impl SignedMessage {
    /// Returns the bytes that the sender signs: SCALE of (message, sequence).
    #[must_use]
    pub fn signed_bytes(message: &Message, sequence: u64) -> Vec<u8> {
        (message, sequence).encode()
    }
}

/// An event for one worker, or for all workers.
#[derive(Encode, Decode, DecodeWithMemTracking, TypeInfo, Clone, PartialEq, Eq, Debug)]
pub enum SystemEvent {
    /// An event of one worker.
    #[codec(index = 0)]
    WorkerEvent(WorkerEventWithKey),
    /// Asks for a heartbeat from every worker whose hashed id XOR `seed` is at most `online_target`.
    #[codec(index = 1)]
    HeartbeatChallenge(HeartbeatChallenge),
}

/// An event and its worker.
#[derive(Encode, Decode, DecodeWithMemTracking, TypeInfo, Clone, PartialEq, Eq, Debug)]
pub struct WorkerEventWithKey {
    /// The worker.
    pub pubkey: WorkerPublicKey,
    /// The event.
    pub event: WorkerEvent,
}

/// A heartbeat challenge.
#[derive(Encode, Decode, DecodeWithMemTracking, TypeInfo, Clone, PartialEq, Eq, Debug, Default)]
pub struct HeartbeatChallenge {
    /// Random per block.
    pub seed: U256,
    /// The share of workers that are asked, as a fraction of 2^256.
    pub online_target: U256,
}

impl HeartbeatChallenge {
    /// Whether a worker must answer: (blake2-256(pubkey) as big-endian XOR seed) is at most the target.
    #[must_use]
    pub fn concerns(&self, worker: &WorkerPublicKey) -> bool {
        let id = U256::from_big_endian(&sp_io::hashing::blake2_256(worker.as_ref()));
        (id ^ self.seed) <= self.online_target
    }
}

/// An event of a worker.
#[derive(Encode, Decode, DecodeWithMemTracking, TypeInfo, Clone, PartialEq, Eq, Debug)]
pub enum WorkerEvent {
    /// It is in the registry.
    #[codec(index = 0)]
    Registered(WorkerInfo),
    /// It must run a benchmark of this many blocks.
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
        /// Initial V (the session's value in Phala's tokenomics), as the bits of a U64F64.
        init_v: u128,
        /// Initial performance.
        init_p: u32,
    },
    /// Its session stopped.
    #[codec(index = 4)]
    Stopped,
    /// Its session missed heartbeats.
    #[codec(index = 5)]
    EnterUnresponsive,
    /// Its session answers again.
    #[codec(index = 6)]
    ExitUnresponsive,
}

/// The registration event's data about the worker.
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
    /// The worker's operator.
    pub operator: Option<AccountId>,
    /// Its attestation provider.
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
    /// When it was signed, in ms since the Unix epoch.
    pub signing_time: u64,
}

/// A parachain block's data about its relay parent.
#[derive(Encode, Decode, DecodeWithMemTracking, TypeInfo, Clone, PartialEq, Eq, Debug, Default)]
pub struct PersistedValidationData {
    /// SCALE of the parent header.
    pub parent_head: Vec<u8>,
    /// The relay parent's number.
    pub relay_parent_number: u32,
    /// The relay parent's state root.
    pub relay_parent_storage_root: H256,
    /// Largest proof of validity, in bytes.
    pub max_pov_size: u32,
}
