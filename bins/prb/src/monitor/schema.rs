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

/// A field that is omitted if it is not set.
const fn optional(number: u32, name: &'static str, kind: Kind) -> Field {
    Field { number, name, kind, repeated: false, always: false }
}

/// A field that is shown even if its value is zero.
const fn always(number: u32, name: &'static str, kind: Kind) -> Field {
    Field { number, name, kind, repeated: false, always: true }
}

/// A list.
const fn repeated(number: u32, name: &'static str, kind: Kind) -> Field {
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
    optional(1, "hostname", Text),
    optional(2, "peerId", Text),
    always(3, "role", ROLES),
    optional(4, "chainIdentity", Text),
    optional(5, "bridgeIdentity", Text),
    optional(6, "auth", AUTH_STATUS),
]);
static AUTH_REQUEST: Message = Message(&[optional(1, "type", AUTH_TYPE), optional(2, "authString", Text)]);
static AUTH_RESPONSE: Message =
    Message(&[always(1, "status", AUTH_STATUS), always(2, "type", AUTH_TYPE), optional(3, "peerId", Text)]);

static INFO: Message = Message(&[
    always(1, "status", PROVIDER_STATUS),
    always(2, "paraId", Int32),
    always(3, "parentStartHeader", Int32),
    always(4, "parentTarget", Int32),
    always(5, "parentFetchedHeight", Int32),
    always(6, "parentProcessedHeight", Int32),
    always(7, "parentCommittedHeight", Int32),
    always(8, "paraTarget", Int32),
    always(9, "paraFetchedHeight", Int32),
    always(10, "paraProcessedHeight", Int32),
    always(11, "paraCommittedHeight", Int32),
    always(12, "blobServerPort", Uint32),
]);
static GET_BLOB_BY_KEY: Message = Message(&[optional(1, "key", Text)]);
static RAW_BLOB: Message =
    Message(&[optional(1, "key", Text), always(2, "empty", Bool), optional(3, "data", Bytes)]);
static WANT_BLOB: Message = Message(&[optional(1, "number", Uint32), optional(2, "type", BLOB_TYPE)]);
static BLOB_META: Message = Message(&[
    always(1, "number", Uint32),
    optional(2, "hash", Bytes),
    optional(3, "originPeer", Text),
    always(4, "type", BLOB_TYPE),
    optional(5, "getToken", Text),
    always(6, "tokenExpiresAt", Uint64),
]);
static GET_BLOB: Message = Message(&[optional(1, "token", Text)]);
static BLOB: Message =
    Message(&[always(1, "type", BLOB_TYPE), always(2, "number", Uint32), optional(3, "data", Bytes)]);

static ACCOUNT: Message = Message(&[
    optional(1, "mnemonic", Text),
    optional(2, "polkadotJson", Text),
    optional(3, "ss58Phala", Text),
    optional(4, "ss58Polkadot", Text),
]);
static POOL: Message = Message(&[
    optional(1, "uuid", Text),
    optional(2, "owner", M(&ACCOUNT)),
    always(3, "pid", Uint64),
    optional(4, "name", Text),
    always(5, "enabled", Bool),
    always(6, "deleted", Bool),
    optional(7, "realPhalaSs58", Text),
    always(8, "syncOnly", Bool),
]);
static WORKER: Message = Message(&[
    optional(1, "uuid", Text),
    always(2, "pid", Uint64),
    optional(3, "name", Text),
    optional(4, "endpoint", Text),
    always(5, "enabled", Bool),
    always(6, "deleted", Bool),
    optional(7, "stake", Text),
    always(8, "syncOnly", Bool),
]);
static IDENTITY: Message =
    Message(&[optional(1, "uuid", Text), optional(2, "name", Text), optional(3, "pid", Uint64)]);
static POOLS: Message = Message(&[repeated(1, "pools", M(&POOL))]);
static WORKERS: Message = Message(&[repeated(1, "workers", M(&WORKER))]);
static POOL_CHANGE: Message = Message(&[optional(1, "id", M(&IDENTITY)), optional(2, "pool", M(&POOL))]);
static POOL_CHANGES: Message = Message(&[repeated(1, "items", M(&POOL_CHANGE))]);
static WORKER_CHANGE: Message =
    Message(&[optional(1, "id", M(&IDENTITY)), optional(2, "worker", M(&WORKER))]);
static WORKER_CHANGES: Message = Message(&[repeated(1, "items", M(&WORKER_CHANGE))]);
static IDS: Message = Message(&[repeated(1, "ids", Text)]);
static STATE: Message = Message(&[
    always(1, "status", WORKER_STATUS),
    always(2, "parentHeaderSynchedTo", Int32),
    always(3, "paraHeaderSynchedTo", Int32),
    always(4, "paraBlockDispatchedTo", Int32),
    always(5, "initialized", Bool),
    optional(6, "worker", M(&WORKER)),
    optional(8, "publicKey", Text),
    optional(9, "lastMessage", Text),
    optional(10, "sessionInfoJson", Text),
    optional(11, "workerAccountId", Text),
]);
/// Not in the original.
static COMMAND: Message =
    Message(&[repeated(1, "ids", Text), optional(2, "command", Text), optional(3, "dryRun", Bool)]);
static COMMAND_ANSWER: Message =
    Message(&[optional(1, "uuid", Text), optional(2, "text", Text), always(3, "refused", Bool)]);
static COMMANDED: Message = Message(&[repeated(1, "answers", M(&COMMAND_ANSWER))]);
static STATES: Message = Message(&[repeated(1, "workerStates", M(&STATE))]);

static ERROR: Message = Message(&[always(1, "type", Enum(&ERROR_TYPES)), optional(2, "message", Text)]);
/// The envelope of an answer, without its data.
pub(super) static META: Message = Message(&[
    always(1, "createdAt", Uint64),
    optional(2, "requestNonce", Text),
    optional(3, "nonce", Text),
    always(5, "hasError", Bool),
    optional(6, "error", M(&ERROR)),
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
