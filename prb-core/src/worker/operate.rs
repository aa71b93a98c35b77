//! Operations on chain: from what is wanted to a job for the trader.

use codec::Encode;

use super::{Desired, Operation};
use crate::{
    chain::{Call, WorkerOnChain},
    primitives::{AccountId, WorkerKey},
    prpc::{self, GetRuntimeInfoRequest, InitRuntimeRequest, InitRuntimeResponse, PhactoryInfo},
    queue::{Job, JobSigner},
    wire::{AttestationProvider, SignedMessage},
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
    Some(Call::RegisterWorker {
        worker,
        runtime_info: answer.encoded_runtime_info,
        attestation: report(answer.attestation?),
        replaces: on_chain.registration.as_ref().map(|r| r.last_updated),
    })
}

/// SCALE `Option<AttestationReport>`. Workers of the retired IAS give their report unencoded.
fn report(attestation: prpc::Attestation) -> Vec<u8> {
    const SOME: u8 = 1;
    const SGX_IAS: u8 = 0;
    match attestation.payload {
        Some(ias) if attestation.encoded_report.is_empty() => {
            let mut report = vec![SOME, SGX_IAS];
            (ias.report.into_bytes(), ias.signature, ias.signing_cert).encode_to(&mut report);
            report
        }
        None if attestation.encoded_report.is_empty() => None::<()>.encode(),
        _ => attestation.encoded_report,
    }
}

/// The call for every other operation.
pub(super) fn call(operation: Operation, desired: &Desired, worker: WorkerKey) -> Option<Call> {
    let pool = desired.worker.pid;
    Some(match operation {
        Operation::Register => return None,
        Operation::AddToPool => Call::AddWorker { pool, worker },
        Operation::Start(stake) => Call::StartComputing { pool, worker, stake },
        Operation::RaiseStake(stake) => Call::RestartComputing { pool, worker, stake },
        Operation::Reclaim => Call::ReclaimWorker { pool, worker },
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
