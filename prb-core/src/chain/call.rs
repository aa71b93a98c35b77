//! [`Call`]: the calls that a pool's operator sends.

use codec::Encode;
use serde::{Deserialize, Serialize};

use crate::{
    encoding::{decimal, scale_hex},
    primitives::{Balance, PoolId, WorkerKey},
    wire::{MessageOrigin, SignedMessage, WorkerEndpointPayload},
};

#[cfg(feature = "testing")]
mod samples;

/// A call that a pool's operator sends.
///
/// # Stored calls
///
/// The serde representation is stable, for queues that outlive the process: variants and fields keep their
/// names, new fields have a default, and every later version reads a stored call. An unknown variant or field is
/// an error, so that a call stored by a newer version is never executed in part. Bytes are hexadecimal, amounts
/// are decimal strings, and payloads signed by a worker are hexadecimal SCALE, whose layout pRuntime fixes.
///
/// ```
/// use prb_core::{chain::Call, primitives::{PoolId, WorkerKey}};
///
/// let call = Call::StartComputing { pool: PoolId(12), worker: WorkerKey([7; 32]), stake: 30_000_000 };
/// let json = serde_json::to_string(&call)?;
/// assert!(json.starts_with(r#"{"start_computing":{"pool":12,"worker":"0x0707"#));
/// assert_eq!(serde_json::from_str::<Call>(&json)?, call);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
#[non_exhaustive]
pub enum Call {
    /// `PhalaMq::sync_offchain_message`.
    SyncOffchainMessage(#[serde(with = "scale_hex")] SignedMessage),
    /// `PhalaRegistry::register_worker_v2`, its arguments as pRuntime encoded them.
    RegisterWorker {
        /// The worker.
        worker: WorkerKey,
        /// SCALE [`WorkerRegistrationInfoV2`](crate::wire::WorkerRegistrationInfoV2).
        #[serde(with = "hex::serde")]
        runtime_info: Vec<u8>,
        /// SCALE `Option<AttestationReport>`.
        #[serde(with = "hex::serde")]
        attestation: Vec<u8>,
        /// `last_updated` of the registration that this one replaces; `None` if there was none. Makes the
        /// call idempotent: another value on chain means that a registration has happened since.
        #[serde(default)]
        replaces: Option<u64>,
    },
    /// `PhalaRegistry::register_worker`, the first version, for workers of the retired IAS.
    RegisterWorkerV1 {
        /// The worker.
        worker: WorkerKey,
        /// SCALE [`WorkerRegistrationInfo`](crate::wire::WorkerRegistrationInfo).
        #[serde(with = "hex::serde")]
        runtime_info: Vec<u8>,
        /// SCALE [`Attestation`](crate::wire::Attestation).
        #[serde(with = "hex::serde")]
        attestation: Vec<u8>,
        /// As in [`Call::RegisterWorker`], but `None` also means that the submitter did not specify it: then
        /// the call has taken effect if the registration on chain equals the one that it would make.
        #[serde(default)]
        replaces: Option<u64>,
    },
    /// `PhalaRegistry::update_worker_endpoint`.
    UpdateWorkerEndpoint {
        /// The payload that the worker signed.
        #[serde(with = "scale_hex")]
        payload: WorkerEndpointPayload,
        /// Its signature.
        #[serde(with = "hex::serde")]
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
        #[serde(with = "decimal")]
        stake: Balance,
    },
    /// `PhalaStakePoolv2::restart_computing`: raises the stake of a computing worker.
    RestartComputing {
        /// The pool.
        pool: PoolId,
        /// The worker.
        worker: WorkerKey,
        /// Its new stake.
        #[serde(with = "decimal")]
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
        // Pallet and call index, pool, worker, stake, and at most four length prefixes: below 80 bytes.
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
