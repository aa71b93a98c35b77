//! Walkie's messages: protobuf (proto3, package `prb`) with the original's field numbers.
//!
//! Our encoder omits zeros, JavaScript's writes every field that was set; decoders accept both. Package and
//! message names are not on the wire, so the names here are shorter than the original's, which the
//! documentation gives.
//!
//! Messages that may carry an operator's secret, or wrap other messages, show no content in `Debug`.
//!
//! Not for: the meaning of calls (see [`crate::rpc`] and [`crate::manage`]).

use std::fmt;

use bytes::Bytes;
use prost::{Enumeration, Message, Oneof};
use zeroize::{Zeroize, Zeroizing};

pub mod data_provider;
pub mod db;
pub mod detail;
pub mod lifecycle;
pub mod provider_detail;

/// The envelope of a request: `WalkieRpcRequestWrapper`.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub struct Request {
    /// When it was created, in ms since the Unix epoch.
    #[prost(uint64, tag = "1")]
    pub created_at: u64,
    /// Chosen by the caller, usually a UUID; the answer repeats it.
    #[prost(string, tag = "2")]
    pub nonce: String,
    /// The encoded request message of the method.
    #[prost(bytes = "bytes", tag = "3")]
    pub data: Bytes,
    /// The method's name without package and service.
    #[prost(string, tag = "4")]
    pub method: String,
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("created_at", &self.created_at)
            .field("nonce", &self.nonce)
            .field("data_bytes", &self.data.len())
            .field("method", &self.method)
            .finish()
    }
}

/// The envelope of an answer: `WalkieRpcResponseWrapper`.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub struct Response {
    /// When it was created, in ms since the Unix epoch.
    #[prost(uint64, tag = "1")]
    pub created_at: u64,
    /// The request's nonce; empty if the request could not be decoded.
    #[prost(string, tag = "2")]
    pub request_nonce: String,
    /// Chosen by the answering peer.
    #[prost(string, tag = "3")]
    pub nonce: String,
    /// The encoded response message of the method.
    #[prost(bytes = "bytes", tag = "4")]
    pub data: Bytes,
    /// Whether there is an [`error`](Self::error) instead of data.
    #[prost(bool, tag = "5")]
    pub has_error: bool,
    /// The error.
    #[prost(message, optional, tag = "6")]
    pub error: Option<ResponseError>,
}

impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Response")
            .field("created_at", &self.created_at)
            .field("request_nonce", &self.request_nonce)
            .field("nonce", &self.nonce)
            .field("data_bytes", &self.data.len())
            .field("has_error", &self.has_error)
            .field("error", &self.error)
            .finish()
    }
}

/// An error answer: `prb.error.ResponseError`.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct ResponseError {
    /// Its kind.
    #[prost(enumeration = "ErrorType", tag = "1")]
    pub r#type: i32,
    /// A message for display.
    #[prost(string, tag = "2")]
    pub message: String,
    /// Of an `UNAUTHORIZED`: whether the same call is let in over a connection that the caller makes on this machine.
    /// Originals and earlier versions do not say.
    #[prost(bool, optional, tag = "16")]
    pub is_let_in_from_same_machine: Option<bool>,
}

/// Kinds of [`ResponseError`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum ErrorType {
    /// Unspecified.
    Unknown = 0,
    /// The handler failed, or the request cannot be decoded.
    Server = 1,
    /// The method has no handler here, or the entry does not exist.
    NotFound = 2,
    /// The entry exists already.
    Duplicated = 3,
    /// The caller is not authorised.
    Unauthorized = 4,
}

/// A peer's introduction: `WalkieSystemInfo`, in both directions of `Hello`.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct SystemInfo {
    /// The name of its machine.
    #[prost(string, tag = "1")]
    pub hostname: String,
    /// Its peer id in base58.
    #[prost(string, tag = "2")]
    pub peer_id: String,
    /// Its role.
    #[prost(enumeration = "Role", tag = "3")]
    pub role: i32,
    /// Hash of parachain block 1, `0x…`; empty while it is unknown.
    #[prost(string, tag = "4")]
    pub chain_identity: String,
    /// The operator's namespace (`PHALA_BRIDGE_IDENTITY`).
    #[prost(string, tag = "5")]
    pub bridge_identity: String,
    /// The receiver's authorisation at the sender.
    #[prost(enumeration = "AuthStatus", tag = "6")]
    pub auth: i32,
    /// Extension: a half of the exchange by which the called peer proves that it knows the pre-shared key.
    #[prost(bytes = "bytes", tag = "15")]
    pub key_exchange: Bytes,
    /// Extension: the called peer's proof, in its answer.
    #[prost(bytes = "bytes", tag = "16")]
    pub key_proof: Bytes,
}

/// A peer's role: `WalkieRoles`, here without its `WR_`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum Role {
    /// A client only: a monitor or a tool.
    Client = 0,
    /// A data provider.
    DataProviderInt = 1,
    /// A data provider for others' lifecycle managers.
    DataProviderExt = 2,
    /// A lifecycle manager.
    LifecycleManager = 3,
    /// A trader.
    Trader = 4,
}

impl Role {
    /// The role's name, for logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::DataProviderInt => "data provider",
            Self::DataProviderExt => "data provider for others",
            Self::LifecycleManager => "lifecycle manager",
            Self::Trader => "trader",
        }
    }
}

/// A caller's authorisation at the called peer, here without its `AS_`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum AuthStatus {
    /// No authorisation is required.
    None = 0,
    /// Management methods require an `Auth` call first.
    NeedAuth = 1,
    /// All methods are allowed.
    Granted = 2,
    /// Its last `Auth` call was refused.
    Rejected = 3,
    /// The caller is blocked.
    Blocked = 4,
}

/// How a caller authenticates, here without its `AT_`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum AuthType {
    /// It does not.
    None = 0,
    /// By the pre-shared key.
    Psk = 1,
    /// By its peer id, which is on a whitelist.
    WhiteList = 2,
}

/// The request of `Auth`.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
#[prost(skip_debug)]
pub struct AuthRequest {
    /// The kind of authentication.
    #[prost(enumeration = "AuthType", tag = "1")]
    pub r#type: i32,
    /// The proof.
    #[prost(string, tag = "2")]
    pub auth_string: String,
}

impl fmt::Debug for AuthRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthRequest").field("type", &self.r#type).finish_non_exhaustive()
    }
}

/// The answer of `Auth`.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct AuthResponse {
    /// The caller's authorisation now.
    #[prost(enumeration = "AuthStatus", tag = "1")]
    pub status: i32,
    /// What authorised it.
    #[prost(enumeration = "AuthType", tag = "2")]
    pub r#type: i32,
    /// The peer id of the answering peer.
    #[prost(string, tag = "3")]
    pub peer_id: String,
}

/// An empty message.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct Empty {}

/// An account: `FullAccount`.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
#[prost(skip_debug)]
pub struct FullAccount {
    /// Its secret, in requests only. Wiped from memory on drop.
    #[prost(string, tag = "1")]
    pub mnemonic: String,
    /// The original returns ciphertext here.
    #[prost(string, tag = "2")]
    pub polkadot_json: String,
    /// Address on Phala.
    #[prost(string, tag = "3")]
    pub ss58_phala: String,
    /// Address on Polkadot.
    #[prost(string, tag = "4")]
    pub ss58_polkadot: String,
}

impl FullAccount {
    /// Takes the secret out.
    pub fn take_mnemonic(&mut self) -> Zeroizing<String> {
        Zeroizing::new(std::mem::take(&mut self.mnemonic))
    }
}

impl fmt::Debug for FullAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FullAccount")
            .field("ss58_phala", &self.ss58_phala)
            .field("ss58_polkadot", &self.ss58_polkadot)
            .finish_non_exhaustive()
    }
}

impl Drop for FullAccount {
    fn drop(&mut self) {
        self.mnemonic.zeroize();
        self.polkadot_json.zeroize();
    }
}

/// A worker's state.
#[derive(Clone, PartialEq, Message)]
pub struct WorkerState {
    /// Its state's label.
    #[prost(enumeration = "WorkerStatus", tag = "1")]
    pub status: i32,
    /// Newest relay header that it has; -1 if unknown.
    #[prost(int32, tag = "2")]
    pub parent_header_synched_to: i32,
    /// Newest parachain header that it has.
    #[prost(int32, tag = "3")]
    pub para_header_synched_to: i32,
    /// Newest parachain block that it has applied.
    #[prost(int32, tag = "4")]
    pub para_block_dispatched_to: i32,
    /// Whether pRuntime is initialised.
    #[prost(bool, tag = "5")]
    pub initialized: bool,
    /// The worker's entry.
    #[prost(message, optional, tag = "6")]
    pub worker: Option<db::Worker>,
    /// Its public key, hexadecimal.
    #[prost(string, tag = "8")]
    pub public_key: String,
    /// Formatted as `[time] text`.
    #[prost(string, tag = "9")]
    pub last_message: String,
    /// Its session on chain, as JSON indented by 2.
    #[prost(string, tag = "10")]
    pub session_info_json: String,
    /// The account of its session.
    #[prost(string, tag = "11")]
    pub worker_account_id: String,
}

/// A worker's state on the wire, here without its `S_`: a [`State`](prb_core::worker::State), which explains each.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
#[allow(missing_docs, reason = "the labels are explained at prb_core::worker::State")]
pub enum WorkerStatus {
    Idle = 0,
    Starting = 1,
    Synching = 2,
    Synched = 3,
    PreActive = 4,
    Active = 5,
    Kicked = 6,
    Error = 7,
}

/// States of workers: `WorkerStateUpdate`.
#[derive(Clone, PartialEq, Message)]
pub struct WorkerStateUpdate {
    /// The workers.
    #[prost(message, repeated, tag = "1")]
    pub worker_states: Vec<WorkerState>,
}

/// Identifies a pool or a worker: `PoolOrWorkerQueryIdentity`.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct QueryIdentity {
    /// The identifier.
    #[prost(oneof = "Identity", tags = "1, 2, 3")]
    pub identity: Option<Identity>,
}

/// An identifier of a pool or a worker.
#[derive(Clone, PartialEq, Eq, Hash, Oneof)]
pub enum Identity {
    /// Its UUID.
    #[prost(string, tag = "1")]
    Uuid(String),
    /// Its name.
    #[prost(string, tag = "2")]
    Name(String),
    /// The pool's number on chain.
    #[prost(uint64, tag = "3")]
    Pid(u64),
}
