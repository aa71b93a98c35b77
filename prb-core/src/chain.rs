//! The seams to the parachain: [`ChainReader`] for what it says of workers, [`ChainSubmitter`] for what the
//! pools' operators send.
//!
//! Not for: block data on its way to workers (see [`crate::blob`]).

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use codec::{Decode, Encode};
use secrecy::SecretString;
use serde::Serialize;
use tokio::sync::watch;

use crate::{
    primitives::{AccountId, Balance, Hash, ParaNumber, PoolId, WorkerKey},
    wire::{
        AttestationProvider, MessageOrigin, SignedMessage, WorkerEndpointPayload, WorkerRegistrationInfo,
    },
};

pub mod memory;

/// State of a worker's computing session (`PhalaComputation::Sessions`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Encode, Decode, Serialize)]
pub enum SessionState {
    /// Bound to a pool, not started.
    #[codec(index = 0)]
    Ready,
    /// Computing.
    #[codec(index = 1)]
    WorkerIdle,
    /// Computing, but its heartbeats stopped.
    #[codec(index = 3)]
    WorkerUnresponsive,
    /// Stopped; its stake is locked until the cool-down is over.
    #[codec(index = 4)]
    WorkerCoolingDown,
}

impl SessionState {
    /// Whether the session counts as computing.
    pub const fn is_computing(self) -> bool {
        matches!(self, Self::WorkerIdle | Self::WorkerUnresponsive)
    }
}

/// A worker's entry in the registry (`PhalaRegistry::Workers`).
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Registration {
    /// The worker.
    pub pubkey: WorkerKey,
    /// Its key for encrypted messages.
    pub ecdh_pubkey: [u8; 32],
    /// pRuntime's version, packed.
    pub runtime_version: u32,
    /// Last registration, seconds since the Unix epoch.
    pub last_updated: u64,
    /// Who may add it to a pool.
    pub operator: Option<AccountId>,
    /// Who vouched for it.
    pub attestation_provider: Option<AttestationProvider>,
    /// How far it is trusted, 1 best.
    pub confidence_level: u8,
    /// Benchmark score, once there is one.
    pub initial_score: Option<u32>,
    /// Feature numbers.
    pub features: Vec<u32>,
}

/// A worker's session and stake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// The session's account.
    pub account: AccountId,
    /// Its state.
    pub state: SessionState,
    /// Initial value, U64F64 bits.
    pub ve: u128,
    /// Value, U64F64 bits.
    pub v: u128,
    /// When V was last updated, seconds since the Unix epoch.
    pub v_updated_at: u64,
    /// Initial performance.
    pub p_init: u32,
    /// Performance now.
    pub p_instant: u32,
    /// Iterations reported.
    pub iterations: u64,
    /// Start of computing, seconds since the Unix epoch.
    pub working_start_time: u64,
    /// Time of the last answered challenge, seconds since the Unix epoch.
    pub challenge_time_last: u64,
    /// Start of the cool-down, seconds since the Unix epoch.
    pub cool_down_start: u64,
    /// Rewards so far.
    pub total_reward: Balance,
    /// Locked stake.
    pub stake: Option<Balance>,
}

/// What the chain says of one worker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WorkerOnChain {
    /// Its registration.
    pub registration: Option<Registration>,
    /// The pool it was added to.
    pub pool: Option<PoolId>,
    /// Its session.
    pub session: Option<Session>,
    /// Next message sequence that the chain takes from it.
    pub ingress_sequence: u64,
}

/// The tracked workers at one finalised parachain block.
#[derive(Clone, Debug, Default)]
pub struct ChainView {
    /// The block.
    pub block: ParaNumber,
    /// Its hash.
    pub hash: Hash,
    /// Seconds that a stopped worker's stake stays locked.
    pub cool_down_period_secs: u64,
    /// Blocks that a benchmark takes.
    pub benchmark_blocks: u32,
    /// State by worker; a tracked worker that the chain does not know has an empty entry.
    pub workers: HashMap<WorkerKey, Arc<WorkerOnChain>>,
}

/// Why the chain cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ReadError {
    /// No node answers; retried inside.
    #[error("no chain node is reachable")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// More workers than the reader was made for.
    #[error("the reader tracks at most {limit} workers")]
    TooManyWorkers {
        /// The bound.
        limit: usize,
    },
    /// The reader has stopped.
    #[error("the chain reader has stopped")]
    Stopped,
}

/// On-chain state of a set of workers, followed block by block.
///
/// Costs a constant number of node calls per block, however many workers are tracked.
#[async_trait]
pub trait ChainReader: Send + Sync + fmt::Debug {
    /// The view at the newest finalised block, now and whenever a block is finalised. `None` until the first.
    fn views(&self) -> watch::Receiver<Option<Arc<ChainView>>>;

    /// Adds workers to those followed and returns once a view holds them all. Known ones are no error.
    ///
    /// # Errors
    /// See [`ReadError`].
    ///
    /// # Cancel safety
    /// A cancelled call may leave the workers tracked.
    async fn track(&self, workers: &[WorkerKey]) -> Result<(), ReadError>;

    /// Forgets workers; unknown ones are no error.
    fn untrack(&self, workers: &[WorkerKey]);
}

/// A call that a pool's operator sends.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Call {
    /// `PhalaMq::sync_offchain_message`.
    SyncOffchainMessage(SignedMessage),
    /// `PhalaRegistry::register_worker_v2`, its arguments as pRuntime encoded them.
    RegisterWorker {
        /// The worker.
        worker: WorkerKey,
        /// SCALE [`WorkerRegistrationInfoV2`](crate::wire::WorkerRegistrationInfoV2).
        runtime_info: Vec<u8>,
        /// SCALE `Option<AttestationReport>`.
        attestation: Vec<u8>,
        /// `last_updated` of the registration that this one replaces, `None` where there was none. Makes
        /// the call idempotent: another value on chain means that a registration has happened since.
        replaces: Option<u64>,
    },
    /// `PhalaRegistry::register_worker`, the first version, for workers of the retired IAS.
    RegisterWorkerV1 {
        /// The worker.
        worker: WorkerKey,
        /// SCALE [`WorkerRegistrationInfo`].
        runtime_info: Vec<u8>,
        /// SCALE [`Attestation`](crate::wire::Attestation).
        attestation: Vec<u8>,
        /// As in [`Call::RegisterWorker`], but `None` also stands for a submitter that did not say: the call
        /// has had its effect where the registration on chain is what it would make.
        replaces: Option<u64>,
    },
    /// `PhalaRegistry::update_worker_endpoint`.
    UpdateWorkerEndpoint {
        /// What the worker signed.
        payload: WorkerEndpointPayload,
        /// Its signature.
        signature: Vec<u8>,
    },
    /// `PhalaStakePoolv2::add_worker`.
    AddWorker {
        /// The pool.
        pool: PoolId,
        /// The worker.
        worker: WorkerKey,
    },
    /// `PhalaStakePoolv2::remove_worker`.
    RemoveWorker {
        /// The pool.
        pool: PoolId,
        /// The worker.
        worker: WorkerKey,
    },
    /// `PhalaStakePoolv2::start_computing`.
    StartComputing {
        /// The pool.
        pool: PoolId,
        /// The worker.
        worker: WorkerKey,
        /// Its stake.
        stake: Balance,
    },
    /// `PhalaStakePoolv2::restart_computing`: raises the stake of a computing worker.
    RestartComputing {
        /// The pool.
        pool: PoolId,
        /// The worker.
        worker: WorkerKey,
        /// Its new stake.
        stake: Balance,
    },
    /// `PhalaStakePoolv2::stop_computing`.
    StopComputing {
        /// The pool.
        pool: PoolId,
        /// The worker.
        worker: WorkerKey,
    },
    /// `PhalaStakePoolv2::reclaim_pool_worker`: frees the stake after the cool-down.
    ReclaimWorker {
        /// The pool.
        pool: PoolId,
        /// The worker.
        worker: WorkerKey,
    },
}

impl Registration {
    /// Whether [`Call::RegisterWorkerV1`] has had its effect.
    pub fn is_of_v1(&self, runtime_info: &[u8], replaces: Option<u64>) -> bool {
        if replaces.is_some() {
            return replaces != Some(self.last_updated);
        }
        let Ok(info) = WorkerRegistrationInfo::decode(&mut &*runtime_info) else { return false };
        self.ecdh_pubkey == info.ecdh_pubkey
            && self.runtime_version == info.version
            && self.operator == info.operator
            && self.features == info.features
            && self.attestation_provider == Some(AttestationProvider::Ias)
    }
}

impl Call {
    /// `Pallet::call`, as the chain's metadata names it.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::SyncOffchainMessage(_) => "PhalaMq::sync_offchain_message",
            Self::RegisterWorker { .. } => "PhalaRegistry::register_worker_v2",
            Self::RegisterWorkerV1 { .. } => "PhalaRegistry::register_worker",
            Self::UpdateWorkerEndpoint { .. } => "PhalaRegistry::update_worker_endpoint",
            Self::AddWorker { .. } => "PhalaStakePoolv2::add_worker",
            Self::RemoveWorker { .. } => "PhalaStakePoolv2::remove_worker",
            Self::StartComputing { .. } => "PhalaStakePoolv2::start_computing",
            Self::RestartComputing { .. } => "PhalaStakePoolv2::restart_computing",
            Self::StopComputing { .. } => "PhalaStakePoolv2::stop_computing",
            Self::ReclaimWorker { .. } => "PhalaStakePoolv2::reclaim_pool_worker",
        }
    }

    /// The worker that it is about; of a message, the worker that sent it. `None` where another than a worker
    /// sent it.
    pub const fn worker(&self) -> Option<WorkerKey> {
        match self {
            Self::SyncOffchainMessage(message) => match message.message.sender {
                MessageOrigin::Worker(worker) => Some(worker),
                _ => None,
            },
            Self::UpdateWorkerEndpoint { payload, .. } => Some(payload.pubkey),
            Self::RegisterWorker { worker, .. }
            | Self::RegisterWorkerV1 { worker, .. }
            | Self::AddWorker { worker, .. }
            | Self::RemoveWorker { worker, .. }
            | Self::StartComputing { worker, .. }
            | Self::RestartComputing { worker, .. }
            | Self::StopComputing { worker, .. }
            | Self::ReclaimWorker { worker, .. } => Some(*worker),
        }
    }

    /// An upper bound of its encoded size, in bytes.
    pub fn size_bytes(&self) -> usize {
        /// Indexes, keys, numbers and length prefixes of any call.
        const FIXED: usize = 128;
        FIXED
            + match self {
                Self::SyncOffchainMessage(message) => message.encoded_size(),
                Self::RegisterWorker { runtime_info, attestation, .. }
                | Self::RegisterWorkerV1 { runtime_info, attestation, .. } => {
                    runtime_info.len() + attestation.len()
                }
                Self::UpdateWorkerEndpoint { payload, signature } => payload.encoded_size() + signature.len(),
                _ => 0,
            }
    }
}

/// Who signs a batch.
#[derive(Clone, Debug)]
pub struct Signer {
    /// The operator's account; pays the fees.
    pub operator: AccountId,
    /// The operator's key: a mnemonic or secret URI. Redacted in `Debug`, wiped when dropped.
    pub secret: Arc<SecretString>,
    /// The account that the operator acts for, where the pool is proxied.
    pub proxied: Option<AccountId>,
}

/// Calls that go in one transaction, as `Utility::force_batch` (a lone call too), inside `Proxy::proxy`
/// where [`Signer::proxied`] is set.
#[derive(Clone, Debug)]
pub struct CallBatch {
    /// Who signs.
    pub signer: Signer,
    /// The calls, in order; at least one.
    pub calls: Vec<Call>,
}

/// A chain error by name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct DispatchError {
    /// `Pallet::Error`, such as `PhalaMq::BadSequence`, or the runtime's name for errors of no pallet
    /// (`BadOrigin`, `Token::FundsUnavailable`).
    pub name: String,
}

impl fmt::Display for DispatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// A batch that is in a finalised block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchOutcome {
    /// The transaction.
    pub extrinsic: Hash,
    /// Hash of the block that holds it.
    pub block: Hash,
    /// Number of that block.
    pub number: ParaNumber,
    /// One result a call, in order.
    pub calls: Vec<Result<(), DispatchError>>,
}

/// A transaction's way, for those who watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SubmitProgress {
    /// Signed, sent, taken into the node's pool.
    Submitted {
        /// The transaction.
        extrinsic: Hash,
    },
    /// In a block, not final.
    InBlock {
        /// The block.
        block: Hash,
    },
}

/// Why a batch had no effect, or why its fate is not known.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// The secret is no key, or not that of the account named.
    #[error("the operator key of {account} is not usable: {reason}")]
    BadKey {
        /// The account that was to sign.
        account: String,
        /// What is wrong, without the key.
        reason: String,
    },
    /// The operator cannot pay.
    #[error("account {account} cannot pay: {available} units free, {needed} needed")]
    InsufficientFees {
        /// The operator's address.
        account: String,
        /// What it has.
        available: Balance,
        /// What the transaction needs.
        needed: Balance,
    },
    /// The whole transaction failed: the batch did not run (a proxy that is not one, a bad origin).
    #[error("the transaction failed: {0}")]
    Dispatch(DispatchError),
    /// The node's pool or the runtime refused it; it is not on chain.
    #[error("the transaction was refused: {reason}")]
    Refused {
        /// The node's words.
        reason: String,
        /// Whether another attempt with a fresh nonce can succeed.
        retryable: bool,
    },
    /// It does not fit in a block; nothing was sent.
    #[error("{calls} calls in one transaction are too much for a block, about {fits} fit: {reason}")]
    TooLarge {
        /// Calls of the batch.
        calls: usize,
        /// How many of them, from the first on, are likely to fit; 0 where not even one does.
        fits: usize,
        /// What limits them.
        reason: String,
    },
    /// It expired, was usurped or dropped, and is in no block of its lifetime: it has no effect.
    #[error("the transaction did not make it into a block: {reason}")]
    Lost {
        /// How it was lost.
        reason: String,
    },
    /// The chain's metadata has no such call, or other arguments.
    #[error("the chain does not take {call}: {reason}")]
    Unsupported {
        /// `Pallet::call`.
        call: &'static str,
        /// What does not fit.
        reason: String,
    },
    /// Sent, but its fate could not be learned: ask [`ChainSubmitter::effects`] before sending again.
    #[error("the transaction's fate is not known after {waited:?}: {reason}")]
    Unknown {
        /// How long it was watched.
        waited: Duration,
        /// What was seen last.
        reason: String,
    },
    /// No node answers; nothing was sent.
    #[error("no chain node is reachable")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl SubmitError {
    /// Whether the same calls may be sent again (after asking for their effects).
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Refused { retryable, .. } => *retryable,
            Self::Lost { .. } | Self::Unknown { .. } | Self::Unavailable(_) => true,
            _ => false,
        }
    }
}

/// Whether a call's effect is on chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Effect {
    /// Not there: sending the call makes sense.
    Missing,
    /// There already: sending it again would fail or do it twice.
    Present,
}

/// What [`ChainSubmitter::effects`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effects {
    /// The finalised parachain block whose state was asked.
    pub block: ParaNumber,
    /// One answer a call, in the calls' order.
    pub calls: Vec<Effect>,
}

/// Sends batches and decides their fate.
#[async_trait]
pub trait ChainSubmitter: Send + Sync + fmt::Debug {
    /// Signs, sends and watches one batch until it is final.
    ///
    /// Before the first batch of an account the submitter waits until no earlier transaction of it is
    /// pending, so that a restarted program does not do twice what its predecessor sent.
    ///
    /// Calls for one operator must not overlap: the caller keeps one batch in flight an account.
    /// `progress` is told of the way; a full channel loses progress, never the outcome.
    ///
    /// # Errors
    /// See [`SubmitError`].
    ///
    /// # Cancel safety
    /// A cancelled call may have been sent: ask [`effects`](Self::effects) before sending again.
    async fn submit(
        &self,
        batch: &CallBatch,
        progress: tokio::sync::mpsc::Sender<SubmitProgress>,
    ) -> Result<BatchOutcome, SubmitError>;

    /// Asks the chain's newest finalised state which calls have had their effect, in the calls' order.
    /// Waits first, as [`submit`](Self::submit) does, until nothing sent earlier for `account` is pending.
    ///
    /// # Errors
    /// [`SubmitError::Unavailable`].
    async fn effects(&self, account: AccountId, calls: &[Call]) -> Result<Effects, SubmitError>;

    /// Says that others may have sent for `account`: the next call for it waits again until nothing of it
    /// is pending, whatever was known before. Must not be called while a call for the account is on its way.
    fn forget(&self, account: AccountId) {
        let _ = account;
    }
}
