//! [`Call`]: the calls that a pool's operator sends.

use codec::Encode;

use crate::{
    primitives::{Balance, PoolId, WorkerKey},
    wire::{MessageOrigin, SignedMessage, WorkerEndpointPayload},
};

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
        /// `last_updated` of the registration that this one replaces; `None` if there was none. Makes the
        /// call idempotent: another value on chain means that a registration has happened since.
        replaces: Option<u64>,
    },
    /// `PhalaRegistry::register_worker`, the first version, for workers of the retired IAS.
    RegisterWorkerV1 {
        /// The worker.
        worker: WorkerKey,
        /// SCALE [`WorkerRegistrationInfo`](crate::wire::WorkerRegistrationInfo).
        runtime_info: Vec<u8>,
        /// SCALE [`Attestation`](crate::wire::Attestation).
        attestation: Vec<u8>,
        /// As in [`Call::RegisterWorker`], but `None` also means that the submitter did not specify it: then
        /// the call has taken effect if the registration on chain equals the one that it would make.
        replaces: Option<u64>,
    },
    /// `PhalaRegistry::update_worker_endpoint`.
    UpdateWorkerEndpoint {
        /// The payload that the worker signed.
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

impl Call {
    /// `Pallet::call`, as named in the chain's metadata.
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

    /// The worker that the call concerns; for a message, the worker that sent it. `None` if the sender of the
    /// message is not a worker.
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

    /// An upper bound of the encoded size, in bytes.
    pub fn size_bytes(&self) -> usize {
        /// Indices, keys, numbers and length prefixes of any call.
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
