//! JSON schemas of Walkie's messages: fields, numbers, types.
//!
//! Source: the original's `.proto` files and protobuf.js's output. Fields marked [`always`](Field::always)
//! are set by the original in every message, even if their value is zero, which encoders omit.

use prb_walkie::rpc::Method;

/// The type of a field.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Bool,
    Int32,
    Uint32,
    Uint64,
    Text,
    Bytes,
    /// Names by number, from 0.
    Enum(&'static [&'static str]),
    Message(&'static Message),
}

/// A field of a message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Field {
    pub(super) number: u32,
    pub(super) name: &'static str,
    pub(super) kind: Kind,
    /// Whether it is repeated.
    pub(super) repeated: bool,
    /// Whether it is shown if the message lacks it.
    pub(super) always: bool,
}

/// A message: its fields, ordered by number.
#[derive(Debug)]
pub(super) struct Message(pub(super) &'static [Field]);

const fn f(number: u32, name: &'static str, kind: Kind) -> Field {
    Field { number, name, kind, repeated: false, always: false }
}

const fn set(number: u32, name: &'static str, kind: Kind) -> Field {
    Field { number, name, kind, repeated: false, always: true }
}

const fn many(number: u32, name: &'static str, kind: Kind) -> Field {
    Field { number, name, kind, repeated: true, always: false }
}

use Kind::{Bool, Bytes, Enum, Int32, Message as M, Text, Uint32, Uint64};

const ROLES: Kind =
    Enum(&["WR_CLIENT", "WR_DATA_PROVIDER_INT", "WR_DATA_PROVIDER_EXT", "WR_LIFECYCLE_MANAGER", "WR_TRADER"]);
const AUTH_STATUS: Kind = Enum(&["AS_NONE", "AS_NEED_AUTH", "AS_GRANTED", "AS_REJECTED", "AS_BLOCKED"]);
const AUTH_TYPE: Kind = Enum(&["AT_NONE", "AT_PSK", "AT_WHITE_LIST"]);
const BLOB_TYPE: Kind = Enum(&["BT_UNKNOWN", "BT_PARENT_BLOCK", "BT_PARA_BLOCK"]);
/// Kinds of errors, by number.
pub(super) const ERROR_TYPES: [&str; 5] = ["UNKNOWN", "SERVER", "NOT_FOUND", "DUPLICATED", "UNAUTHORIZED"];
const WORKER_STATUS: Kind = Enum(&[
    "S_IDLE",
    "S_STARTING",
    "S_SYNCHING",
    "S_SYNCHED",
    "S_PRE_ACTIVE",
    "S_ACTIVE",
    "S_KICKED",
    "S_ERROR",
]);
/// The original's spelling.
const PROVIDER_STATUS: Kind = Enum(&["S_UNKNOWN", "S_SYHCHING", "S_IDLE"]);

static EMPTY: Message = Message(&[]);
static SYSTEM_INFO: Message = Message(&[
    f(1, "hostname", Text),
    f(2, "peerId", Text),
    set(3, "role", ROLES),
    f(4, "chainIdentity", Text),
    f(5, "bridgeIdentity", Text),
    f(6, "auth", AUTH_STATUS),
]);
static AUTH_REQUEST: Message = Message(&[f(1, "type", AUTH_TYPE), f(2, "authString", Text)]);
static AUTH_RESPONSE: Message =
    Message(&[set(1, "status", AUTH_STATUS), set(2, "type", AUTH_TYPE), f(3, "peerId", Text)]);

static INFO: Message = Message(&[
    set(1, "status", PROVIDER_STATUS),
    set(2, "paraId", Int32),
    set(3, "parentStartHeader", Int32),
    set(4, "parentTarget", Int32),
    set(5, "parentFetchedHeight", Int32),
    set(6, "parentProcessedHeight", Int32),
    set(7, "parentCommittedHeight", Int32),
    set(8, "paraTarget", Int32),
    set(9, "paraFetchedHeight", Int32),
    set(10, "paraProcessedHeight", Int32),
    set(11, "paraCommittedHeight", Int32),
    set(12, "blobServerPort", Uint32),
]);
static GET_BLOB_BY_KEY: Message = Message(&[f(1, "key", Text)]);
static RAW_BLOB: Message = Message(&[f(1, "key", Text), set(2, "empty", Bool), f(3, "data", Bytes)]);
static WANT_BLOB: Message = Message(&[f(1, "number", Uint32), f(2, "type", BLOB_TYPE)]);
static BLOB_META: Message = Message(&[
    set(1, "number", Uint32),
    f(2, "hash", Bytes),
    f(3, "originPeer", Text),
    set(4, "type", BLOB_TYPE),
    f(5, "getToken", Text),
    set(6, "tokenExpiresAt", Uint64),
]);
static GET_BLOB: Message = Message(&[f(1, "token", Text)]);
static BLOB: Message = Message(&[set(1, "type", BLOB_TYPE), set(2, "number", Uint32), f(3, "data", Bytes)]);

static ACCOUNT: Message = Message(&[
    f(1, "mnemonic", Text),
    f(2, "polkadotJson", Text),
    f(3, "ss58Phala", Text),
    f(4, "ss58Polkadot", Text),
]);
static POOL: Message = Message(&[
    f(1, "uuid", Text),
    f(2, "owner", M(&ACCOUNT)),
    set(3, "pid", Uint64),
    f(4, "name", Text),
    set(5, "enabled", Bool),
    set(6, "deleted", Bool),
    f(7, "realPhalaSs58", Text),
    set(8, "syncOnly", Bool),
]);
static WORKER: Message = Message(&[
    f(1, "uuid", Text),
    set(2, "pid", Uint64),
    f(3, "name", Text),
    f(4, "endpoint", Text),
    set(5, "enabled", Bool),
    set(6, "deleted", Bool),
    f(7, "stake", Text),
    set(8, "syncOnly", Bool),
]);
static IDENTITY: Message = Message(&[f(1, "uuid", Text), f(2, "name", Text), f(3, "pid", Uint64)]);
static POOLS: Message = Message(&[many(1, "pools", M(&POOL))]);
static WORKERS: Message = Message(&[many(1, "workers", M(&WORKER))]);
static POOL_CHANGE: Message = Message(&[f(1, "id", M(&IDENTITY)), f(2, "pool", M(&POOL))]);
static POOL_CHANGES: Message = Message(&[many(1, "items", M(&POOL_CHANGE))]);
static WORKER_CHANGE: Message = Message(&[f(1, "id", M(&IDENTITY)), f(2, "worker", M(&WORKER))]);
static WORKER_CHANGES: Message = Message(&[many(1, "items", M(&WORKER_CHANGE))]);
static IDS: Message = Message(&[many(1, "ids", Text)]);
static STATE: Message = Message(&[
    set(1, "status", WORKER_STATUS),
    set(2, "parentHeaderSynchedTo", Int32),
    set(3, "paraHeaderSynchedTo", Int32),
    set(4, "paraBlockDispatchedTo", Int32),
    set(5, "initialized", Bool),
    f(6, "worker", M(&WORKER)),
    f(8, "publicKey", Text),
    f(9, "lastMessage", Text),
    f(10, "sessionInfoJson", Text),
    f(11, "workerAccountId", Text),
]);
/// Not in the original.
static COMMAND: Message = Message(&[many(1, "ids", Text), f(2, "command", Text), f(3, "dryRun", Bool)]);
static COMMAND_ANSWER: Message = Message(&[f(1, "uuid", Text), f(2, "text", Text), set(3, "refused", Bool)]);
static COMMANDED: Message = Message(&[many(1, "answers", M(&COMMAND_ANSWER))]);
static STATES: Message = Message(&[many(1, "workerStates", M(&STATE))]);

static ERROR: Message = Message(&[set(1, "type", Enum(&ERROR_TYPES)), f(2, "message", Text)]);
/// The envelope of an answer, without its data.
pub(super) static META: Message = Message(&[
    set(1, "createdAt", Uint64),
    f(2, "requestNonce", Text),
    f(3, "nonce", Text),
    set(5, "hasError", Bool),
    f(6, "error", M(&ERROR)),
]);

/// A method's request and answer; `None` for methods whose messages are unknown to this program.
pub(super) const fn messages(method: Method) -> Option<(&'static Message, &'static Message)> {
    Some(match method {
        Method::Hello => (&SYSTEM_INFO, &SYSTEM_INFO),
        Method::Auth => (&AUTH_REQUEST, &AUTH_RESPONSE),
        Method::GetDataProviderInfo => (&EMPTY, &INFO),
        Method::GetBlobByKey => (&GET_BLOB_BY_KEY, &RAW_BLOB),
        Method::WantBlob => (&WANT_BLOB, &BLOB_META),
        Method::GetBlobWithToken => (&GET_BLOB, &BLOB),
        Method::ListPool => (&EMPTY, &POOLS),
        Method::CreatePool => (&POOLS, &POOLS),
        Method::UpdatePool => (&POOL_CHANGES, &POOLS),
        Method::ListWorker => (&EMPTY, &WORKERS),
        Method::CreateWorker => (&WORKERS, &WORKERS),
        Method::UpdateWorker => (&WORKER_CHANGES, &WORKERS),
        Method::RestartWorker
        | Method::RefreshRaAndRestartWorker
        | Method::KickWorker
        | Method::GetWorkerStatus => (&IDS, &STATES),
        Method::CommandWorker => (&COMMAND, &COMMANDED),
        _ => return None,
    })
}
