//! Details that lifecycle managers of this implementation exchange beyond the original's messages.
//!
//! The original's messages are unchanged. A call that wants details sets a request field numbered from 1000
//! on, and the answer has them in a field numbered from 1000 on: the original's own numbers end at 12, and
//! its decoder skips unknown fields. So an original answers as before, a calling original gets its own fields,
//! and older and newer versions of this implementation understand what both know.
//!
//! | call | request | answer |
//! |---|---|---|
//! | `GetWorkerStatus` | [`StatusQuery`]: `UuidQueryRequest` and `detail` (1000), `events` (1001) | [`StatusUpdate`]: `WorkerStateUpdate` and `detail` (1000) |
//! | `CreateWorker`, `UpdateWorker` | in each [`db::Worker`](super::db::Worker) `settings` (1000): [`WorkerSettings`] | the original's |
//! | `CreatePool`, `UpdatePool` | in each [`db::Pool`](super::db::Pool) `settings` (1000): [`PoolSettings`] | the original's |
//! | `CommandWorker` | [`CommandRequest`] | [`CommandUpdate`]; originals do not know the method |
//!
//! Within the messages of this module numbers count from 1 and follow the same rule: new ones are added, none
//! is reused. Amounts are decimal texts, times are ms since the Unix epoch, keys and accounts their 32 bytes.
//!
//! Not for: converting the messages (see [`crate::manage::detail`]).

use bytes::Bytes;
use prb_core::prpc::PhactoryInfo;
use prost::{Enumeration, Message};

use super::{
    WorkerState,
    provider_detail::{Detail as ChainNodes, Provider},
};

/// Asks for workers' states: `UuidQueryRequest`, and which details are wanted.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct StatusQuery {
    /// The workers' UUIDs; empty for all.
    #[prost(string, repeated, tag = "1")]
    pub ids: Vec<String>,
    /// Requests [`StatusUpdate::detail`]; `sessionInfoJson` is omitted then, because the detail contains it.
    #[prost(bool, tag = "1000")]
    pub detail: bool,
    /// Additionally requests the events of the named workers, of at most
    /// [`MAX_WITH_EVENTS`](crate::manage::detail::MAX_WITH_EVENTS).
    #[prost(bool, tag = "1001")]
    pub events: bool,
}

/// Workers' states: `WorkerStateUpdate`, and details on request.
#[derive(Clone, PartialEq, Message)]
pub struct StatusUpdate {
    /// The workers.
    #[prost(message, repeated, tag = "1")]
    pub worker_states: Vec<WorkerState>,
    /// Details of the workers and of the fleet. Absent if not requested, or if the peer does not know them.
    #[prost(message, optional, tag = "1000")]
    pub detail: Option<Fleet>,
}

/// A fleet.
#[derive(Clone, PartialEq, Message)]
pub struct Fleet {
    /// Newest relay block of the chain data.
    #[prost(uint32, optional, tag = "1")]
    pub relay: Option<u32>,
    /// Newest relay block of the nodes.
    #[prost(uint32, optional, tag = "2")]
    pub relay_target: Option<u32>,
    /// Newest parachain block of the chain data.
    #[prost(uint32, optional, tag = "3")]
    pub para: Option<u32>,
    /// Newest parachain block of the nodes.
    #[prost(uint32, optional, tag = "4")]
    pub para_target: Option<u32>,
    /// The block at which the on-chain state was read.
    #[prost(uint32, optional, tag = "5")]
    pub chain_block: Option<u32>,
    /// Why some of it is not reliable, as sentences.
    #[prost(string, repeated, tag = "6")]
    pub notes: Vec<String>,
    /// The workers of [`StatusUpdate::worker_states`], in the same order.
    #[prost(message, repeated, tag = "7")]
    pub workers: Vec<Worker>,
    /// Every pool.
    #[prost(message, repeated, tag = "8")]
    pub pools: Vec<Pool>,
    /// The jobs of the trade queue, if there is one that answers.
    #[prost(message, optional, tag = "9")]
    pub jobs: Option<Jobs>,
    /// Names of the commands that `CommandWorker` accepts; empty if no worker runs.
    #[prost(string, repeated, tag = "10")]
    pub commands: Vec<String>,
    /// Whether edits may carry [`WorkerSettings`] and [`PoolSettings`]; a manager without this field ignores them.
    #[prost(bool, tag = "11")]
    pub takes_settings: bool,
    /// The data providers that it has met.
    #[prost(message, repeated, tag = "12")]
    pub providers: Vec<Provider>,
    /// Its own chain nodes and disk.
    #[prost(message, optional, tag = "13")]
    pub chain_nodes: Option<ChainNodes>,
}

/// A worker.
#[derive(Clone, PartialEq, Message)]
pub struct Worker {
    /// Its UUID.
    #[prost(string, tag = "1")]
    pub uuid: String,
    /// The code of the reason for its state.
    #[prost(string, tag = "2")]
    pub reason: String,
    /// Since when its message has been this one.
    #[prost(uint64, tag = "3")]
    pub since_ms: u64,
    /// Finalised parachain blocks that it has not dispatched.
    #[prost(uint32, optional, tag = "4")]
    pub lag: Option<u32>,
    /// Whether it has not progressed for long although there is more to sync.
    #[prost(bool, tag = "5")]
    pub stalled: bool,
    /// Consecutive failures to reach or sync it.
    #[prost(uint32, tag = "6")]
    pub failures: u32,
    /// The worker's goal: `compute`, `stay-stopped`…
    #[prost(string, tag = "7")]
    pub goal: String,
    /// The last checkpoint that was requested.
    #[prost(message, optional, tag = "8")]
    pub checkpoint: Option<Checkpoint>,
    /// The worker on chain.
    #[prost(message, optional, tag = "9")]
    pub chain: Option<WorkerOnChain>,
    /// What pRuntime reports about itself.
    #[prost(message, optional, tag = "10")]
    pub info: Option<PhactoryInfo>,
    /// Whether it is a gatekeeper.
    #[prost(bool, tag = "11")]
    pub gatekeeper: bool,
    /// The URLs that its entry has it announce.
    #[prost(string, repeated, tag = "12")]
    pub endpoints: Vec<String>,
    /// Its entry's behaviour after an external stop; empty if not set.
    #[prost(string, tag = "13")]
    pub after_stop: String,
    /// Its events, oldest first, on request.
    #[prost(message, repeated, tag = "14")]
    pub events: Vec<Event>,
    /// The last change of its keys that was seen.
    #[prost(message, optional, tag = "15")]
    pub key_change: Option<KeyChange>,
    /// The operation on its way to the chain.
    #[prost(message, optional, tag = "16")]
    pub in_flight: Option<InFlight>,
}

/// A change of a worker's keys.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct KeyChange {
    /// When it was seen.
    #[prost(uint64, tag = "1")]
    pub at_ms: u64,
    /// The newest parachain block known at that time.
    #[prost(uint32, optional, tag = "2")]
    pub block: Option<u32>,
}

/// An operation on its way to the chain.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct InFlight {
    /// Its name; `messages` for messages of the worker.
    #[prost(string, tag = "1")]
    pub operation: String,
    /// How far it is: `preparing`, `submitting` or `queued`.
    #[prost(string, tag = "2")]
    pub stage: String,
    /// Since when it is at that stage.
    #[prost(uint64, tag = "3")]
    pub since_ms: u64,
    /// The number of its job in the trade queue.
    #[prost(uint64, optional, tag = "4")]
    pub job: Option<u64>,
}

/// What an edit says of a worker beyond the original's fields. Replaces all of them.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct WorkerSettings {
    /// It is a gatekeeper.
    #[prost(bool, tag = "1")]
    pub gatekeeper: bool,
    /// The URLs that it announces on chain.
    #[prost(string, repeated, tag = "2")]
    pub endpoints: Vec<String>,
    /// What happens after a stop from elsewhere: `stay-stopped`, `reclaim` or `start-again`; empty for the pool's
    /// setting.
    #[prost(string, tag = "3")]
    pub after_stop: String,
}

/// What an edit says of a pool beyond the original's fields. Replaces all of them.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct PoolSettings {
    /// What happens to its workers after a stop from elsewhere; empty for the fleet's setting.
    #[prost(string, tag = "1")]
    pub after_stop: String,
}

/// The result of a checkpoint.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct Checkpoint {
    /// When the result was known.
    #[prost(uint64, tag = "1")]
    pub at_ms: u64,
    /// The last block in the checkpoint.
    #[prost(uint32, optional, tag = "2")]
    pub block: Option<u32>,
    /// Why there is no checkpoint.
    #[prost(string, tag = "3")]
    pub error: String,
}

/// A worker's on-chain state.
#[derive(Clone, PartialEq, Message)]
pub struct WorkerOnChain {
    /// Its entry of `PhalaRegistry::Workers`, as SCALE; empty if there is none.
    #[prost(bytes = "bytes", tag = "1")]
    pub registration: Bytes,
    /// The pool it belongs to.
    #[prost(uint64, optional, tag = "2")]
    pub pool: Option<u64>,
    /// Its session.
    #[prost(message, optional, tag = "3")]
    pub session: Option<Session>,
    /// The next message sequence that the chain accepts from it.
    #[prost(uint64, tag = "4")]
    pub ingress_sequence: u64,
    /// The URLs that it has announced on chain.
    #[prost(string, repeated, tag = "5")]
    pub endpoints: Vec<String>,
    /// Why those cannot be decoded.
    #[prost(string, optional, tag = "6")]
    pub endpoints_unreadable: Option<String>,
}

/// A computing session.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct Session {
    /// Its account.
    #[prost(bytes = "bytes", tag = "1")]
    pub account: Bytes,
    /// Its state, as the chain's SCALE index.
    #[prost(uint32, tag = "2")]
    pub state: u32,
    /// Initial value, U64F64 bits.
    #[prost(string, tag = "3")]
    pub ve: String,
    /// Value, U64F64 bits.
    #[prost(string, tag = "4")]
    pub v: String,
    /// When V was last updated, in seconds since the Unix epoch, as all times of the chain.
    #[prost(uint64, tag = "5")]
    pub v_updated_at: u64,
    /// Initial performance.
    #[prost(uint32, tag = "6")]
    pub p_init: u32,
    /// Performance now.
    #[prost(uint32, tag = "7")]
    pub p_instant: u32,
    /// Iterations reported.
    #[prost(uint64, tag = "8")]
    pub iterations: u64,
    /// Start of computing.
    #[prost(uint64, tag = "9")]
    pub working_start_time: u64,
    /// The last answered challenge.
    #[prost(uint64, tag = "10")]
    pub challenge_time_last: u64,
    /// Start of the cool-down.
    #[prost(uint64, tag = "11")]
    pub cool_down_start: u64,
    /// Rewards so far.
    #[prost(string, tag = "12")]
    pub total_reward: String,
    /// Locked stake, if known.
    #[prost(string, optional, tag = "13")]
    pub stake: Option<String>,
}

/// A pool.
#[derive(Clone, PartialEq, Message)]
pub struct Pool {
    /// Its number on chain.
    #[prost(uint64, tag = "1")]
    pub pid: u64,
    /// Its entry's behaviour after an external stop; empty if not set.
    #[prost(string, tag = "2")]
    pub after_stop: String,
    /// The pool on chain.
    #[prost(message, optional, tag = "3")]
    pub chain: Option<PoolOnChain>,
    /// The operator's account.
    #[prost(message, optional, tag = "4")]
    pub account: Option<Account>,
}

/// A pool's on-chain state, or why it cannot be read.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct PoolOnChain {
    /// Why it cannot be read; empty if it can.
    #[prost(string, tag = "1")]
    pub unreadable: String,
    /// Whether the chain has such a pool.
    #[prost(bool, tag = "2")]
    pub exists: bool,
    /// The account that owns it.
    #[prost(bytes = "bytes", tag = "3")]
    pub owner: Bytes,
    /// Whether it is a vault.
    #[prost(bool, tag = "4")]
    pub is_vault: bool,
    /// Stake that is available for new sessions.
    #[prost(string, tag = "5")]
    pub free_stake: String,
    /// Stake of workers in cool-down.
    #[prost(string, tag = "6")]
    pub releasing_stake: String,
    /// Its total value.
    #[prost(string, tag = "7")]
    pub total_value: String,
    /// The largest total value that it accepts.
    #[prost(string, optional, tag = "8")]
    pub cap: Option<String>,
    /// The owner's commission, in millionths.
    #[prost(uint32, optional, tag = "9")]
    pub commission_millionths: Option<u32>,
    /// Its workers' keys, concatenated.
    #[prost(bytes = "bytes", tag = "10")]
    pub workers: Bytes,
    /// The keys of workers in cool-down, concatenated.
    #[prost(bytes = "bytes", tag = "11")]
    pub cooling_down: Bytes,
    /// When each queued withdrawal was requested, in seconds since the Unix epoch.
    #[prost(uint64, repeated, tag = "12")]
    pub withdrawals: Vec<u64>,
}

/// An account, or why it cannot be read.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct Account {
    /// Why it cannot be read; empty if it can.
    #[prost(string, tag = "1")]
    pub unreadable: String,
    /// The balance from which fees can be paid.
    #[prost(string, tag = "2")]
    pub free: String,
}

/// The jobs of a trade queue.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Message)]
pub struct Jobs {
    /// Waiting.
    #[prost(uint64, tag = "1")]
    pub waiting: u64,
    /// Delayed.
    #[prost(uint64, tag = "2")]
    pub delayed: u64,
    /// Leased.
    #[prost(uint64, tag = "3")]
    pub active: u64,
    /// Succeeded since the start.
    #[prost(uint64, tag = "4")]
    pub succeeded: u64,
    /// Failed since the start.
    #[prost(uint64, tag = "5")]
    pub failed: u64,
}

/// An event of a worker.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct Event {
    /// Sequence number of the worker's events since the manager started.
    #[prost(uint64, tag = "1")]
    pub number: u64,
    /// When it happened, in ms since the Unix epoch.
    #[prost(uint64, tag = "2")]
    pub at_ms: u64,
    /// The kind of event.
    #[prost(enumeration = "EventKind", tag = "3")]
    pub kind: i32,
    /// The previous label, goal or key (hexadecimal).
    #[prost(string, tag = "4")]
    pub before: String,
    /// The new label, goal or key.
    #[prost(string, tag = "5")]
    pub after: String,
    /// The code of a reason, or the name of a command or an operation.
    #[prost(string, tag = "6")]
    pub subject: String,
    /// A message or an error.
    #[prost(string, tag = "7")]
    pub text: String,
    /// The block of an operation or a checkpoint.
    #[prost(uint32, optional, tag = "8")]
    pub block: Option<u32>,
    /// The transaction of an operation.
    #[prost(bytes = "bytes", tag = "9")]
    pub extrinsic: Bytes,
}

/// Kinds of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Enumeration)]
#[repr(i32)]
#[allow(missing_docs, reason = "the kinds are explained at prb_core::worker::EventKind")]
pub enum EventKind {
    Unknown = 0,
    State = 1,
    Commanded = 2,
    Edited = 3,
    Initialised = 4,
    LostState = 5,
    KeyChanged = 6,
    Goal = 7,
    OperationSent = 8,
    OperationDone = 9,
    OperationFailed = 10,
    Checkpoint = 11,
    Stalled = 12,
    Panicked = 13,
    OperationWithdrawn = 14,
}

/// Gives workers a command, or previews its effect.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct CommandRequest {
    /// The workers' UUIDs.
    #[prost(string, repeated, tag = "1")]
    pub ids: Vec<String>,
    /// The name of a [`Command`](prb_core::worker::Command), such as `stop`: its `Display`.
    #[prost(string, tag = "2")]
    pub command: String,
    /// Whether to preview only.
    #[prost(bool, tag = "3")]
    pub dry_run: bool,
}

/// The effect, or the previewed effect, of a command.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct CommandUpdate {
    /// An answer for each named worker.
    #[prost(message, repeated, tag = "1")]
    pub answers: Vec<CommandAnswer>,
    /// Why the new goals of some workers are not stored yet; their answers say so, too. Empty if all are.
    #[prost(string, tag = "2")]
    pub not_stored: String,
}

/// The effect of a command on one worker.
#[derive(Clone, PartialEq, Eq, Hash, Message)]
pub struct CommandAnswer {
    /// Its UUID.
    #[prost(string, tag = "1")]
    pub uuid: String,
    /// What happens, or why nothing happens.
    #[prost(string, tag = "2")]
    pub text: String,
    /// Whether the worker refuses the command.
    #[prost(bool, tag = "3")]
    pub refused: bool,
}
