//! [`Call::samples`].

use codec::Encode;

use super::Call;
use crate::{
    primitives::{AccountId, Hash, PoolId, WorkerKey},
    wire::{
        Attestation, Message, MessageOrigin, SignedMessage, VersionedWorkerEndpoints, WorkerEndpointPayload,
        WorkerRegistrationInfo, WorkerRegistrationInfoV2,
    },
};

impl Call {
    /// Returns a call of each kind, all of one worker and one pool, with arguments that a runtime can decode; signatures
    /// and attestations are not valid. For tests that must cover every kind, because `Call` is `#[non_exhaustive]`.
    pub fn samples() -> Vec<Self> {
        let (worker, pool, stake) = (WorkerKey([7; 32]), PoolId(7), 1_000);
        let info = WorkerRegistrationInfoV2 {
            version: 1,
            machine_id: vec![7; 16],
            pubkey: worker,
            ecdh_pubkey: [9; 32],
            genesis_block_hash: Hash([3; 32]),
            features: vec![4, 1],
            operator: Some(AccountId([5; 32])),
            para_id: 2004,
            max_consensus_version: 0,
        };
        let attestation =
            Attestation::SgxIas { ra_report: vec![1], signature: vec![2], raw_signing_cert: vec![3] };
        let message =
            Message { sender: MessageOrigin::Worker(worker), destination: vec![1], payload: vec![2] };
        let payload = WorkerEndpointPayload {
            pubkey: worker,
            versioned_endpoints: VersionedWorkerEndpoints::V1(vec!["http://one".into()]),
            signing_time: 42,
        };
        let mut samples =
            vec![Self::SyncOffchainMessage(SignedMessage { message, sequence: 3, signature: vec![8; 64] })];
        // Each kind leads to the next one, so that the compiler asks for that of a new variant.
        loop {
            let next = match &samples[samples.len() - 1] {
                Self::SyncOffchainMessage(_) => Self::RegisterWorker {
                    worker,
                    runtime_info: info.encode(),
                    attestation: None::<()>.encode(),
                    replaces: None,
                },
                Self::RegisterWorker { .. } => Self::RegisterWorkerV1 {
                    worker,
                    runtime_info: WorkerRegistrationInfo::from(info.clone()).encode(),
                    attestation: attestation.encode(),
                    replaces: Some(u64::MAX),
                },
                Self::RegisterWorkerV1 { .. } => {
                    Self::UpdateWorkerEndpoint { payload: payload.clone(), signature: vec![8; 64] }
                }
                Self::UpdateWorkerEndpoint { .. } => Self::AddWorker { pool, worker },
                Self::AddWorker { .. } => Self::RemoveWorker { pool, worker },
                Self::RemoveWorker { .. } => Self::StartComputing { pool, worker, stake },
                Self::StartComputing { .. } => Self::RestartComputing { pool, worker, stake },
                Self::RestartComputing { .. } => Self::StopComputing { pool, worker },
                Self::StopComputing { .. } => Self::ReclaimWorker { pool, worker },
                Self::ReclaimWorker { .. } => return samples,
            };
            samples.push(next);
        }
    }
}
