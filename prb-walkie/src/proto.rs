//! Walkie's messages: protobuf (proto3, package `prb`) with the original's field numbers.
//!
//! Encoders leave zeros out, JavaScript ones write what was set, also zeros: decoders take both. Package and
//! message names are not on the wire, so the names here are shorter than the original's, which the
//! documentation gives.
//!
//! Messages that may carry an operator's secret, or carry other messages, show no content in `Debug`.
//!
//! Not for: what a call means (see [`crate::rpc`] and [`crate::manage`]).

use std::fmt;

use bytes::Bytes;
use prost::{Enumeration, Message, Oneof};
use zeroize::{Zeroize, Zeroizing};

pub mod data_provider;
pub mod db;
pub mod detail;
pub mod lifecycle;
pub mod provider_detail;

/// A call on its way: `WalkieRpcRequestWrapper`.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub struct Request {
    /// When it was made, in ms since the Unix epoch.
    #[prost(uint64, tag = "1")]
    pub created_at: u64,
    /// Chosen by the caller, a UUID by habit; the answer repeats it.
    #[prost(string, tag = "2")]
    pub nonce: String,
    /// The method's request message.
    #[prost(bytes = "bytes", tag = "3")]
    pub data: Bytes,
    /// The method's bare name.
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

/// An answer on its way: `WalkieRpcResponseWrapper`.
#[derive(Clone, PartialEq, Message)]
#[prost(skip_debug)]
pub struct Response {
    /// When it was made, in ms since the Unix epoch.
    #[prost(uint64, tag = "1")]
    pub created_at: u64,
    /// The request's nonce; empty where the request could not be read.
    #[prost(string, tag = "2")]
    pub request_nonce: String,
    /// Chosen by the one who answers.
    #[prost(string, tag = "3")]
    pub nonce: String,
    /// The method's response message.
    #[prost(bytes = "bytes", tag = "4")]
    pub data: Bytes,
    /// There is an [`error`](Self::error), and no data.
    #[prost(bool, tag = "5")]
    pub has_error: bool,
    /// What went wrong.
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

/// An answer that is an error: `prb.error.ResponseError`.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct ResponseError {
    /// Its kind.
    #[prost(enumeration = "ErrorType", tag = "1")]
    pub r#type: i32,
    /// For people.
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
    /// Not said.
    Unknown = 0,
    /// The handler failed, or the request cannot be read.
    Server = 1,
    /// No such method here, or no such thing.
    NotFound = 2,
    /// It is there already.
    Duplicated = 3,
    /// The caller has not shown that it may.
    Unauthorized = 4,
}

/// Who a peer is: `WalkieSystemInfo`, both ways of `Hello`.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct SystemInfo {
    /// Its machine's name.
    #[prost(string, tag = "1")]
    pub hostname: String,
    /// Its peer id in base58.
    #[prost(string, tag = "2")]
    pub peer_id: String,
    /// What it does.
    #[prost(enumeration = "Role", tag = "3")]
    pub role: i32,
    /// Hash of parachain block 1, `0x…`; empty where it is not known yet.
    #[prost(string, tag = "4")]
    pub chain_identity: String,
    /// The operator's namespace (`PHALA_BRIDGE_IDENTITY`).
    #[prost(string, tag = "5")]
    pub bridge_identity: String,
    /// How the receiver stands with the sender.
    #[prost(enumeration = "AuthStatus", tag = "6")]
    pub auth: i32,
    /// Not the original's: a half of the exchange by which the called peer shows that it knows the pre-shared key.
    #[prost(bytes = "bytes", tag = "15")]
    pub key_exchange: Bytes,
    /// Not the original's: the called peer's proof, in its answer.
    #[prost(bytes = "bytes", tag = "16")]
    pub key_proof: Bytes,
}

/// What a peer does: `WalkieRoles`, here without its `WR_`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum Role {
    /// It only calls: a monitor, a tool.
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
    /// Its name, for logs.
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

/// How a caller stands with the called, here without its `AS_`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum AuthStatus {
    /// Nothing is asked for.
    None = 0,
    /// Management methods want an `Auth` call first.
    NeedAuth = 1,
    /// It may call everything.
    Granted = 2,
    /// Its last `Auth` call was refused.
    Rejected = 3,
    /// It is not heard any more.
    Blocked = 4,
}

/// How a caller wants to be let in, here without its `AT_`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
pub enum AuthType {
    /// Not at all.
    None = 0,
    /// It knows the pre-shared key.
    Psk = 1,
    /// Its peer id is on a list.
    WhiteList = 2,
}

/// Request of `Auth`.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
#[prost(skip_debug)]
pub struct AuthRequest {
    /// How.
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

/// Answer of `Auth`.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct AuthResponse {
    /// How the caller stands now.
    #[prost(enumeration = "AuthStatus", tag = "1")]
    pub status: i32,
    /// What let it in.
    #[prost(enumeration = "AuthType", tag = "2")]
    pub r#type: i32,
    /// The peer id of the one who answers.
    #[prost(string, tag = "3")]
    pub peer_id: String,
}

/// Nothing.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct Empty {}

/// An account: `FullAccount`.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
#[prost(skip_debug)]
pub struct FullAccount {
    /// Its secret, in requests only. Wiped when dropped.
    #[prost(string, tag = "1")]
    pub mnemonic: String,
    /// The original answers ciphertext here.
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

/// How a worker is.
#[derive(Clone, PartialEq, Message)]
pub struct WorkerState {
    /// Its state's label.
    #[prost(enumeration = "WorkerStatus", tag = "1")]
    pub status: i32,
    /// Newest relay header that it has; -1: not known.
    #[prost(int32, tag = "2")]
    pub parent_header_synched_to: i32,
    /// Newest parachain header that it has.
    #[prost(int32, tag = "3")]
    pub para_header_synched_to: i32,
    /// Newest parachain block that it has applied.
    #[prost(int32, tag = "4")]
    pub para_block_dispatched_to: i32,
    /// pRuntime is initialised.
    #[prost(bool, tag = "5")]
    pub initialized: bool,
    /// What is wanted of it.
    #[prost(message, optional, tag = "6")]
    pub worker: Option<db::Worker>,
    /// Its public key, hexadecimal.
    #[prost(string, tag = "8")]
    pub public_key: String,
    /// `[time] text`.
    #[prost(string, tag = "9")]
    pub last_message: String,
    /// Its session on chain, as JSON indented by 2.
    #[prost(string, tag = "10")]
    pub session_info_json: String,
    /// Its session's account.
    #[prost(string, tag = "11")]
    pub worker_account_id: String,
}

/// A worker's state on the wire, here without its `S_`.
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

/// Names a pool or a worker: `PoolOrWorkerQueryIdentity`.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct QueryIdentity {
    /// By what.
    #[prost(oneof = "Identity", tags = "1, 2, 3")]
    pub identity: Option<Identity>,
}

/// What a pool or a worker is named by.
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
