//! Messages of pRuntime's API (`PhactoryAPI`), as protobuf with the field numbers of pRuntime 2.x.

use prost::Message;

macro_rules! methods {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// A method of `PhactoryAPI`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Method { $($(#[$doc])* $name),* }

        impl Method {
            /// Every method.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The method's name on the wire.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name)),* }
            }

            /// Returns the method with that name.
            pub fn from_name(name: &str) -> Option<Self> {
                match name { $(stringify!($name) => Some(Self::$name),)* _ => None }
            }
        }
    };
}

methods!(
    /// The worker's state: [`PhactoryInfo`].
    GetInfo,
    /// First start: [`InitRuntimeRequest`] to [`InitRuntimeResponse`].
    InitRuntime,
    /// Registration info and attestation: [`GetRuntimeInfoRequest`] to [`InitRuntimeResponse`].
    GetRuntimeInfo,
    /// Relay headers: [`HeadersToSync`] to [`SyncedTo`].
    SyncHeader,
    /// Parachain headers: [`ParaHeadersToSync`] to [`SyncedTo`].
    SyncParaHeader,
    /// Both: [`CombinedHeadersToSync`] to [`HeadersSyncedTo`].
    SyncCombinedHeaders,
    /// Parachain blocks: [`Blocks`] to [`SyncedTo`].
    DispatchBlocks,
    /// Messages for the chain: returns [`EgressMessages`].
    GetEgressMessages,
    /// [`AddEndpointRequest`] to [`GetEndpointResponse`].
    AddEndpoint,
    /// [`SignEndpointsRequest`] to [`GetEndpointResponse`].
    SignEndpointInfo,
    /// Returns [`GetEndpointResponse`].
    GetEndpointInfo,
    /// Returns [`GetEndpointResponse`].
    RefreshEndpointSigningTime,
    /// Fast sync: [`ChainState`], empty answer.
    LoadChainState,
    /// Returns [`SyncedTo`].
    TakeCheckpoint,
    /// [`StopOptions`], empty answer.
    Stop,
    /// [`EchoMessage`] in both directions.
    Echo,
);

impl Method {
    /// pRuntime's maximum size of the request body, in bytes.
    // A larger body is refused with status 413 by the HTTP server, before pRuntime sees it.
    pub const fn body_limit_bytes(self) -> usize {
        const KIB: usize = 1024;
        const MIB: usize = 1024 * KIB;
        match self {
            Self::InitRuntime => 10 * MIB,
            Self::SyncHeader | Self::SyncParaHeader | Self::SyncCombinedHeaders | Self::DispatchBlocks => {
                100 * MIB
            }
            Self::LoadChainState => 500 * MIB,
            Self::SignEndpointInfo => 32 * KIB,
            // Requests without chain data have empty or tiny bodies.
            _ => KIB,
        }
    }
}

/// The body of an error answer.
#[derive(Clone, PartialEq, Message)]
pub struct ServerError {
    /// The error text.
    #[prost(string, tag = "1")]
    pub message: String,
}

/// The worker's state.
#[derive(Clone, PartialEq, Message, serde::Serialize)]
pub struct PhactoryInfo {
    /// Whether `InitRuntime` has been called.
    #[prost(bool, tag = "1")]
    pub initialized: bool,
    /// Whether the worker has seen its registration in a dispatched block.
    #[prost(bool, tag = "2")]
    pub registered: bool,
    /// Hash of the relay block that it was initialised with.
    #[prost(string, optional, tag = "4")]
    pub genesis_block_hash: Option<String>,
    /// Public key, hexadecimal without `0x`.
    #[prost(string, optional, tag = "5")]
    pub public_key: Option<String>,
    /// Key for encrypted messages, hexadecimal.
    #[prost(string, optional, tag = "6")]
    pub ecdh_public_key: Option<String>,
    /// Next relay header needed.
    #[prost(uint32, tag = "7")]
    pub headernum: u32,
    /// Next parachain header needed.
    #[prost(uint32, tag = "8")]
    pub para_headernum: u32,
    /// Next parachain block needed.
    #[prost(uint32, tag = "9")]
    pub blocknum: u32,
    /// Root of the worker's copy of the parachain's state.
    #[prost(string, tag = "10")]
    pub state_root: String,
    /// Whether it runs without an enclave.
    #[prost(bool, tag = "11")]
    pub dev_mode: bool,
    /// Messages in the egress queue.
    #[prost(uint64, tag = "12")]
    pub pending_messages: u64,
    /// Benchmark score.
    #[prost(uint64, tag = "13")]
    pub score: u64,
    /// Gatekeeper state.
    #[prost(message, optional, tag = "14")]
    pub gatekeeper: Option<GatekeeperStatus>,
    /// pRuntime's version.
    #[prost(string, tag = "15")]
    pub version: String,
    /// Its git revision.
    #[prost(string, tag = "16")]
    pub git_revision: String,
    /// Memory usage of the enclave.
    #[prost(message, optional, tag = "18")]
    pub memory_usage: Option<MemoryUsage>,
    /// Whether relay headers were synced that parachain headers have not followed yet.
    #[prost(bool, tag = "21")]
    pub waiting_for_paraheaders: bool,
    /// State of the system component.
    #[prost(message, optional, tag = "23")]
    pub system: Option<SystemInfo>,
    /// Whether nothing has been synced yet, so that `LoadChainState` is possible.
    #[prost(bool, tag = "24")]
    pub can_load_chain_state: bool,
    /// Safe mode level.
    #[prost(uint32, tag = "25")]
    pub safe_mode_level: u32,
    /// Time of the last dispatched block, in milliseconds since the Unix epoch.
    #[prost(uint64, tag = "26")]
    pub current_block_time: u64,
    /// Newest supported version of the contract runtime.
    #[prost(string, tag = "27")]
    pub max_supported_pink_runtime_version: String,
    /// Supported attestation methods: `epid`, `dcap`, `none`…
    #[prost(string, repeated, tag = "28")]
    pub supported_attestation_methods: Vec<String>,
    /// Number of running SideVM instances.
    #[prost(uint32, tag = "29")]
    pub live_sidevm_instances: u32,
    /// Timeout of contract queries, in seconds.
    #[prost(uint32, tag = "30")]
    pub query_timeout: u32,
}

/// Gatekeeper state of a worker.
#[derive(Clone, PartialEq, Message, serde::Serialize)]
pub struct GatekeeperStatus {
    /// 0 for none, 1 for dummy, 2 for active.
    #[prost(int32, tag = "1")]
    pub role: i32,
    /// The gatekeepers' public key.
    #[prost(string, tag = "2")]
    pub master_public_key: String,
}

/// Memory usage of the enclave, in bytes.
#[derive(Clone, PartialEq, Message, serde::Serialize)]
pub struct MemoryUsage {
    /// Used by Rust code.
    #[prost(uint64, tag = "1")]
    pub rust_used: u64,
    /// Peak of `rust_used`.
    #[prost(uint64, tag = "2")]
    pub rust_peak_used: u64,
    /// Peak of the total.
    #[prost(uint64, tag = "3")]
    pub total_peak_used: u64,
    /// Free.
    #[prost(uint64, tag = "4")]
    pub free: u64,
    /// Peak of `rust_used` within the last interval.
    #[prost(uint64, tag = "5")]
    pub rust_spike: u64,
}

/// State of the system component.
#[derive(Clone, PartialEq, Message, serde::Serialize)]
pub struct SystemInfo {
    /// Whether the worker has seen its registration.
    #[prost(bool, tag = "1")]
    pub registered: bool,
    /// Public key, hexadecimal.
    #[prost(string, tag = "2")]
    pub public_key: String,
    /// Key for encrypted messages, hexadecimal.
    #[prost(string, tag = "3")]
    pub ecdh_public_key: String,
    /// Gatekeeper state.
    #[prost(message, optional, tag = "4")]
    pub gatekeeper: Option<GatekeeperStatus>,
    /// Number of clusters.
    #[prost(uint64, tag = "5")]
    pub number_of_clusters: u64,
    /// Number of contracts.
    #[prost(uint64, tag = "6")]
    pub number_of_contracts: u64,
    /// Newest supported consensus version.
    #[prost(uint32, tag = "7")]
    pub max_supported_consensus_version: u32,
    /// Number of the relay block that it was initialised with.
    #[prost(uint32, tag = "8")]
    pub genesis_block: u32,
}

/// Request of the first start of a worker.
#[derive(Clone, PartialEq, Message)]
pub struct InitRuntimeRequest {
    /// Skip remote attestation.
    #[prost(bool, tag = "1")]
    pub skip_ra: bool,
    /// SCALE [`GenesisBlockInfo`](crate::wire::GenesisBlockInfo).
    #[prost(bytes = "bytes", tag = "2")]
    pub encoded_genesis_info: bytes::Bytes,
    /// A fixed identity key, for development.
    #[prost(bytes = "vec", optional, tag = "3")]
    pub debug_set_key: Option<Vec<u8>>,
    /// SCALE `Vec<(key, value)>`: the parachain's genesis state.
    #[prost(bytes = "bytes", tag = "4")]
    pub encoded_genesis_state: bytes::Bytes,
    /// SCALE account of the operator.
    #[prost(bytes = "vec", optional, tag = "5")]
    pub encoded_operator: Option<Vec<u8>>,
    /// Always true here.
    #[prost(bool, tag = "6")]
    pub is_parachain: bool,
    /// SCALE of the bare [`AttestationProvider`](crate::wire::AttestationProvider); absent for none. pRuntime
    /// would read an encoded `Option` as a different provider.
    #[prost(bytes = "vec", optional, tag = "7")]
    pub attestation_provider: Option<Vec<u8>>,
}

/// Request of registration info.
#[derive(Clone, PartialEq, Message)]
pub struct GetRuntimeInfoRequest {
    /// Force a new attestation.
    #[prost(bool, tag = "1")]
    pub force_refresh_ra: bool,
    /// SCALE account of the operator, if it must change.
    #[prost(bytes = "vec", optional, tag = "2")]
    pub encoded_operator: Option<Vec<u8>>,
}

/// Registration info and, once the state is validated, the attestation.
#[derive(Clone, PartialEq, Message)]
pub struct InitRuntimeResponse {
    /// SCALE [`WorkerRegistrationInfoV2`](crate::wire::WorkerRegistrationInfoV2).
    #[prost(bytes = "vec", tag = "1")]
    pub encoded_runtime_info: Vec<u8>,
    /// Hash of the relay block that it was initialised with.
    #[prost(bytes = "vec", tag = "2")]
    pub encoded_genesis_block_hash: Vec<u8>,
    /// The worker's public key.
    #[prost(bytes = "vec", tag = "3")]
    pub encoded_public_key: Vec<u8>,
    /// Its key for encrypted messages.
    #[prost(bytes = "vec", tag = "4")]
    pub encoded_ecdh_public_key: Vec<u8>,
    /// Absent before the state is validated.
    #[prost(message, optional, tag = "5")]
    pub attestation: Option<Attestation>,
}

/// An attestation of the enclave.
#[derive(Clone, PartialEq, Message)]
pub struct Attestation {
    /// Format version.
    #[prost(int32, tag = "1")]
    pub version: i32,
    /// The attestation provider.
    #[prost(string, tag = "2")]
    pub provider: String,
    /// IAS report; if present, the chain's v1 call applies.
    #[prost(message, optional, tag = "3")]
    pub payload: Option<AttestationPayload>,
    /// Time of the attestation, in seconds since the Unix epoch. The worker returns the same attestation for
    /// an hour.
    #[prost(uint64, tag = "4")]
    pub timestamp: u64,
    /// SCALE `Option<AttestationReport>`, for the v2 call.
    #[prost(bytes = "vec", tag = "5")]
    pub encoded_report: Vec<u8>,
}

/// An IAS report (retired).
#[derive(Clone, PartialEq, Message)]
pub struct AttestationPayload {
    /// The report, in JSON.
    #[prost(string, tag = "1")]
    pub report: String,
    /// Its signature.
    #[prost(bytes = "vec", tag = "2")]
    pub signature: Vec<u8>,
    /// The signer's certificate.
    #[prost(bytes = "vec", tag = "3")]
    pub signing_cert: Vec<u8>,
}

/// Relay headers.
#[derive(Clone, PartialEq, Message)]
pub struct HeadersToSync {
    /// SCALE `Vec<HeaderToSync>`.
    #[prost(bytes = "bytes", tag = "1")]
    pub encoded_headers: bytes::Bytes,
    /// SCALE [`AuthoritySetChange`](crate::wire::AuthoritySetChange).
    #[prost(bytes = "vec", optional, tag = "2")]
    pub encoded_authority_set_change: Option<Vec<u8>>,
}

/// Parachain headers.
#[derive(Clone, PartialEq, Message)]
pub struct ParaHeadersToSync {
    /// SCALE `Vec<Header>`.
    #[prost(bytes = "bytes", tag = "1")]
    pub encoded_headers: bytes::Bytes,
    /// Trie nodes that prove `Paras::Heads` at the last synced relay header.
    #[prost(bytes = "vec", repeated, tag = "2")]
    pub proof: Vec<Vec<u8>>,
}

/// Relay and parachain headers.
#[derive(Clone, PartialEq, Message)]
pub struct CombinedHeadersToSync {
    /// SCALE `Vec<HeaderToSync>`.
    #[prost(bytes = "bytes", tag = "1")]
    pub encoded_relaychain_headers: bytes::Bytes,
    /// SCALE [`AuthoritySetChange`](crate::wire::AuthoritySetChange).
    #[prost(bytes = "vec", optional, tag = "2")]
    pub authority_set_change: Option<Vec<u8>>,
    /// SCALE `Vec<Header>`.
    #[prost(bytes = "bytes", tag = "3")]
    pub encoded_parachain_headers: bytes::Bytes,
    /// Trie nodes that prove `Paras::Heads` at the last relay header.
    #[prost(bytes = "vec", repeated, tag = "4")]
    pub proof: Vec<Vec<u8>>,
}

/// Parachain blocks.
#[derive(Clone, PartialEq, Message)]
pub struct Blocks {
    /// SCALE `Vec<BlockHeaderWithChanges>`.
    #[prost(bytes = "bytes", tag = "1")]
    pub encoded_blocks: bytes::Bytes,
}

/// The last block accepted.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct SyncedTo {
    /// The block's number.
    #[prost(uint32, tag = "1")]
    pub synced_to: u32,
}

/// The last headers accepted.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct HeadersSyncedTo {
    /// Number of the relay header.
    #[prost(uint32, tag = "1")]
    pub relaychain_synced_to: u32,
    /// Number of the parachain header; 4294967295 before the first one.
    #[prost(uint32, tag = "2")]
    pub parachain_synced_to: u32,
}

/// Messages for the chain.
#[derive(Clone, PartialEq, Message)]
pub struct EgressMessages {
    /// SCALE [`EgressMessages`](crate::wire::EgressMessages).
    #[prost(bytes = "vec", tag = "1")]
    pub encoded_messages: Vec<u8>,
}

/// Adds an endpoint.
#[derive(Clone, PartialEq, Message)]
pub struct AddEndpointRequest {
    /// SCALE-encoded type of the endpoint.
    #[prost(bytes = "vec", tag = "1")]
    pub encoded_endpoint_type: Vec<u8>,
    /// URL.
    #[prost(string, tag = "2")]
    pub endpoint: String,
}

/// Endpoints to sign.
#[derive(Clone, PartialEq, Message)]
pub struct SignEndpointsRequest {
    /// SCALE `Vec<String>`.
    #[prost(bytes = "vec", tag = "1")]
    pub encoded_endpoints: Vec<u8>,
}

/// A signed endpoint.
#[derive(Clone, PartialEq, Message)]
pub struct GetEndpointResponse {
    /// SCALE [`WorkerEndpointPayload`](crate::wire::WorkerEndpointPayload).
    #[prost(bytes = "vec", optional, tag = "1")]
    pub encoded_endpoint_payload: Option<Vec<u8>>,
    /// The sr25519 signature.
    #[prost(bytes = "vec", optional, tag = "2")]
    pub signature: Option<Vec<u8>>,
}

/// A parachain state to start from (fast sync).
#[derive(Clone, PartialEq, Message)]
pub struct ChainState {
    /// The number of its block.
    #[prost(uint32, tag = "1")]
    pub block_number: u32,
    /// SCALE `Vec<(key, value)>`.
    #[prost(bytes = "bytes", tag = "2")]
    pub encoded_state: bytes::Bytes,
}

/// Options of a stop.
#[derive(Clone, Copy, PartialEq, Message)]
pub struct StopOptions {
    /// Whether to delete the checkpoints.
    #[prost(bool, tag = "1")]
    pub remove_checkpoints: bool,
}

/// Arbitrary bytes, returned unchanged.
#[derive(Clone, PartialEq, Message)]
pub struct EchoMessage {
    /// The bytes.
    #[prost(bytes = "bytes", tag = "1")]
    pub echo_msg: bytes::Bytes,
}
