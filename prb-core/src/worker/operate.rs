//! Operations on chain: from what is wanted to a job for the trader.

use codec::{DecodeAll, Encode};

use super::{Desired, Operation};
use crate::{
    chain::{Call, WorkerOnChain},
    primitives::{AccountId, WorkerKey},
    prpc::{GetRuntimeInfoRequest, InitRuntimeRequest, InitRuntimeResponse, PhactoryInfo},
    queue::{Job, JobSigner},
    wire::{
        Attestation, AttestationProvider, SignedMessage, WorkerRegistrationInfo, WorkerRegistrationInfoV2,
    },
};

/// How often the trader may try an operation again by itself.
const OPERATION_RETRIES: u32 = 3;

/// The fixed identity of development workers: 1 as a big-endian number.
const DEBUG_KEY: [u8; 32] = {
    let mut key = [0; 32];
    key[31] = 1;
    key
};

/// The request that starts a worker; its chain data goes in by reference.
pub(super) fn init_request(
    info: &PhactoryInfo,
    genesis: &crate::blob::Genesis,
    operator: Option<AccountId>,
    skip_ra: bool,
) -> InitRuntimeRequest {
    InitRuntimeRequest {
        skip_ra,
        encoded_genesis_info: genesis.info.clone(),
        debug_set_key: skip_ra.then(|| DEBUG_KEY.to_vec()),
        encoded_genesis_state: genesis.state.clone(),
        encoded_operator: operator.map(|account| account.encode()),
        is_parachain: true,
        attestation_provider: Some(provider(info).filter(|_| !skip_ra).encode()),
    }
}

fn provider(info: &PhactoryInfo) -> Option<AttestationProvider> {
    let supports = |name: &str| info.supported_attestation_methods.iter().any(|m| m == name);
    match () {
        () if supports("dcap") => Some(AttestationProvider::Dcap),
        () if supports("epid") => Some(AttestationProvider::Ias),
        () => None,
    }
}

pub(super) fn runtime_info_request(operator: AccountId, refresh_ra: bool) -> GetRuntimeInfoRequest {
    GetRuntimeInfoRequest { force_refresh_ra: refresh_ra, encoded_operator: Some(operator.encode()) }
}

/// The call that registers a worker; `None` where it gives no attestation yet.
pub(super) fn register(
    worker: WorkerKey,
    answer: InitRuntimeResponse,
    on_chain: &WorkerOnChain,
) -> Option<Call> {
    let replaces = on_chain.registration.as_ref().map(|r| r.last_updated);
    let (info, attestation) = (answer.encoded_runtime_info, answer.attestation?);
    let report = attestation.encoded_report;
    if let Some(ias) = attestation.payload.filter(|_| report.is_empty()) {
        // Workers of the retired IAS give their report unencoded; the chain takes it with its first call.
        let info = match WorkerRegistrationInfoV2::decode_all(&mut &*info) {
            Ok(newer) => WorkerRegistrationInfo::from(newer).encode(),
            Err(_) => info,
        };
        let attestation = Attestation::SgxIas {
            ra_report: ias.report.into_bytes(),
            signature: ias.signature,
            raw_signing_cert: ias.signing_cert,
        };
        let attestation = attestation.encode();
        return Some(Call::RegisterWorkerV1 { worker, runtime_info: info, attestation, replaces });
    }
    // SCALE `Option<AttestationReport>`.
    let attestation = if report.is_empty() { None::<()>.encode() } else { report };
    Some(Call::RegisterWorker { worker, runtime_info: info, attestation, replaces })
}

/// The call for every other operation.
pub(super) fn call(operation: Operation, desired: &Desired, worker: WorkerKey) -> Option<Call> {
    let pool = desired.worker.pid;
    Some(match operation {
        Operation::Register | Operation::AnnounceEndpoints => return None,
        Operation::AddToPool => Call::AddWorker { pool, worker },
        Operation::Start(stake) => Call::StartComputing { pool, worker, stake },
        Operation::RaiseStake(stake) => Call::RestartComputing { pool, worker, stake },
        Operation::Stop => Call::StopComputing { pool, worker },
        Operation::Reclaim => Call::ReclaimWorker { pool, worker },
        Operation::LeavePool => Call::RemoveWorker { pool, worker },
    })
}

/// A job of the worker's pool; `None` where the pool has no operator.
fn job(desired: &Desired, calls: Vec<Call>, retries: u32) -> Option<Job> {
    let pool = desired.pool.as_ref()?;
    let operator = pool.operator.as_ref()?;
    let signer = JobSigner { operator: operator.account, key: operator.key.clone(), proxied: pool.proxied };
    Some(Job { pool: pool.pid, signer, calls, retries })
}

pub(super) fn operation_job(desired: &Desired, call: Call) -> Option<Job> {
    job(desired, vec![call], OPERATION_RETRIES)
}

/// Messages are not tried again by the trader: the worker's next look at the chain decides.
pub(super) fn message_job(desired: &Desired, messages: Vec<SignedMessage>) -> Option<Job> {
    job(desired, messages.into_iter().map(Call::SyncOffchainMessage).collect(), 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        chain::Registration,
        primitives::Hash,
        prpc::{Attestation as Attested, AttestationPayload},
    };

    const WORKER: WorkerKey = WorkerKey([3; 32]);

    fn info() -> WorkerRegistrationInfoV2 {
        WorkerRegistrationInfoV2 {
            version: 1,
            machine_id: vec![7],
            pubkey: WORKER,
            ecdh_pubkey: [9; 32],
            genesis_block_hash: Hash([1; 32]),
            features: vec![4],
            operator: None,
            para_id: 2004,
            max_consensus_version: 0,
        }
    }

    fn answer(attestation: Attested) -> InitRuntimeResponse {
        let attestation = Some(attestation);
        InitRuntimeResponse { encoded_runtime_info: info().encode(), attestation, ..Default::default() }
    }

    #[test]
    fn each_attestation_goes_with_the_call_that_takes_it() {
        let on_chain = WorkerOnChain::default();
        let report = AttestationPayload { report: "{}".into(), signature: vec![1], signing_cert: vec![2] };
        let ias = Attested { payload: Some(report), ..Default::default() };
        let expected =
            Attestation::SgxIas { ra_report: b"{}".to_vec(), signature: vec![1], raw_signing_cert: vec![2] };
        let first = WorkerRegistrationInfo::from(info()).encode();
        assert_eq!(
            register(WORKER, answer(ias), &on_chain),
            Some(Call::RegisterWorkerV1 {
                worker: WORKER,
                runtime_info: first.clone(),
                attestation: expected.encode(),
                replaces: None,
            })
        );
        for (report, attestation) in [(vec![], vec![0]), (vec![1, 1, 5], vec![1, 1, 5])] {
            let dcap = Attested { encoded_report: report, ..Default::default() };
            assert_eq!(
                register(WORKER, answer(dcap), &on_chain),
                Some(Call::RegisterWorker {
                    worker: WORKER,
                    runtime_info: info().encode(),
                    attestation,
                    replaces: None,
                })
            );
        }
        // What the first call makes of it on chain.
        let registration = Registration {
            pubkey: WORKER,
            ecdh_pubkey: [9; 32],
            runtime_version: 1,
            last_updated: 5,
            operator: None,
            attestation_provider: Some(AttestationProvider::Ias),
            confidence_level: 1,
            initial_score: None,
            features: vec![4],
        };
        assert!(registration.is_of_v1(&first, None) && registration.is_of_v1(&first, Some(4)));
        assert!(!registration.is_of_v1(&first, Some(5)));
        let elsewhere = Registration { operator: Some(AccountId([1; 32])), ..registration };
        assert!(!elsewhere.is_of_v1(&first, None));
    }
}
