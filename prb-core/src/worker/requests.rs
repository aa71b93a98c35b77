//! Requests and jobs for a worker: `InitRuntime`, calls on chain, and jobs for the trader.

use codec::Encode;

use super::{Desired, Operation};
use crate::{
    chain::Call,
    primitives::{AccountId, PoolId, WorkerKey},
    prpc::{InitRuntimeRequest, PhactoryInfo},
    queue::{Job, JobSigner},
    wire::{AttestationProvider, SignedMessage},
};

/// Retries by the trader before an operation's job fails, as in the original.
const OPERATION_RETRIES: u32 = 3;

/// The fixed identity of development workers: 1 as a big-endian number.
const DEBUG_KEY: [u8; 32] = {
    let mut key = [0; 32];
    key[31] = 1;
    key
};

/// Builds the `InitRuntime` request; the chain data is shared, not copied.
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
        // The bare enum, absent for none: pRuntime reads the first byte of an encoded `Option` as a provider.
        attestation_provider: provider(info).filter(|_| !skip_ra).map(|provider| provider.encode()),
    }
}

fn provider(info: &PhactoryInfo) -> Option<AttestationProvider> {
    let supports = |name: &str| info.supported_attestation_methods.iter().any(|m| m == name);
    match () {
        // First, because IAS (EPID) is retired.
        () if supports("dcap") => Some(AttestationProvider::Dcap),
        () if supports("epid") => Some(AttestationProvider::Ias),
        () => None,
    }
}

/// Returns the call of an operation; `None` for those that need data from the worker.
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

/// The part of the configuration that an operation's job contains: after an edit of it, the operation is prepared again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Basis {
    pool: PoolId,
    /// Signs, and becomes the operator of a worker that is registered.
    signer: JobSigner,
    /// Where the worker is asked for data, if the operation needs any.
    asked: Option<String>,
    /// What it announces.
    endpoints: Option<Vec<String>>,
}

/// Returns what the job of an operation is made from; `None` if the pool has no operator. A stake is part of the operation.
pub(super) fn basis(operation: Operation, desired: &Desired) -> Option<Basis> {
    let (pool, signer) = signer(desired)?;
    let worker = &desired.worker;
    let asks = matches!(operation, Operation::Register | Operation::AnnounceEndpoints);
    let asked = asks.then(|| worker.endpoint.clone());
    let endpoints = (operation == Operation::AnnounceEndpoints).then(|| worker.endpoints.clone());
    Some(Basis { pool, signer, asked, endpoints })
}

/// Returns the worker's pool and the signer of its jobs; `None` if the pool has no operator.
fn signer(desired: &Desired) -> Option<(PoolId, JobSigner)> {
    let pool = desired.pool.as_ref()?;
    let operator = pool.operator.as_ref()?;
    let signer = JobSigner { operator: operator.account, key: operator.key.clone(), proxied: pool.proxied };
    Some((pool.pid, signer))
}

/// Builds a job of the worker's pool; `None` if the pool has no operator.
fn job(desired: &Desired, calls: Vec<Call>, retries: u32) -> Option<Job> {
    // Read when the job is built: an operator that was replaced in the meantime must not sign.
    let (pool, signer) = signer(desired)?;
    Some(Job { pool, signer, calls, retries })
}

pub(super) fn operation_job(desired: &Desired, call: Call) -> Option<Job> {
    job(desired, vec![call], OPERATION_RETRIES)
}

/// Messages have no retries in the trader: the chain's sequence must be read again before each attempt.
pub(super) fn message_job(desired: &Desired, messages: Vec<SignedMessage>) -> Option<Job> {
    job(desired, messages.into_iter().map(Call::SyncOffchainMessage).collect(), 0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use prost::Message;

    use super::*;
    use crate::{
        blob::Genesis,
        primitives::{Hash, RelayNumber},
    };

    /// The request's bytes in hexadecimal, for a genesis of one byte each and a worker of these methods.
    fn init_bytes(methods: &[&str], operator: Option<AccountId>, skip_ra: bool) -> String {
        let genesis = Genesis {
            para_id: 2004,
            relay_number: RelayNumber(1),
            relay_hash: Hash::default(),
            chain_identity: Hash::default(),
            info: vec![0xaa].into(),
            state: vec![0xbb].into(),
        };
        let methods = methods.iter().map(|&m| m.to_owned()).collect();
        let info = PhactoryInfo { supported_attestation_methods: methods, ..Default::default() };
        hex::encode(init_request(&info, &genesis, operator, skip_ra).encode_to_vec())
    }

    // Written down from protobuf's and SCALE's rules: a key is field << 3 | type, bytes have their length before
    // them, and `AttestationProvider` is one byte: Root 0, Ias 1, Dcap 2.
    #[test]
    fn init_runtime_names_the_bare_provider_or_none() {
        let chain_data = "1201aa2201bb";
        assert_eq!(init_bytes(&["epid", "dcap"], None, false), format!("{chain_data}30013a0102"));
        assert_eq!(init_bytes(&["none", "epid"], None, false), format!("{chain_data}30013a0101"));
        for none in [&["none"][..], &[]] {
            assert_eq!(init_bytes(none, None, false), format!("{chain_data}3001"));
        }
        let operator = "2a200707070707070707070707070707070707070707070707070707070707070707";
        assert_eq!(
            init_bytes(&["dcap"], Some(AccountId([7; 32])), false),
            format!("{chain_data}{operator}30013a0102")
        );
        // Without attestation, with the development key 1.
        let debug_key = "1a200000000000000000000000000000000000000000000000000000000000000001";
        assert_eq!(init_bytes(&["dcap"], None, true), format!("08011201aa{debug_key}2201bb3001"));
    }
}
