//! Announcing the endpoints that a worker is reached at: signed by the worker, kept by the chain.
//!
//! Not for: the endpoint that this program reaches the worker at (see [`Connect`](super::Connect)).

use codec::DecodeAll;

use super::PRuntime;
use crate::{
    chain::{Call, WorkerOnChain},
    primitives::WorkerKey,
    wire::{VersionedWorkerEndpoints, WorkerEndpointPayload},
};

/// The chain takes an announcement for that long after, or before, the worker signed it, in ms.
pub const MAX_SIGNATURE_AGE_MS: u64 = 4 * 60 * 60 * 1000;
/// What sr25519 signatures are made for in Substrate.
const SIGNING_CONTEXT: &[u8] = b"substrate";

/// Why endpoints are not announced. Nothing was sent on chain.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The worker did not answer, or refused.
    #[error(transparent)]
    Worker(#[from] super::Error),
    /// The worker's answer is not what it should be.
    #[error("endpoints not announced: {reason}")]
    Answer {
        /// What is wrong with it, and what to do.
        reason: String,
    },
    /// The worker's clock, which is the time of its last block, is too far from the chain's.
    #[error(
        "endpoints not announced: the worker signed at {signed_ms} ms, and the chain's time is {chain_ms} ms; it \
         is tried again once the worker has caught up"
    )]
    Behind {
        /// When the worker signed, ms since the Unix epoch.
        signed_ms: u64,
        /// The chain's time, ms since the Unix epoch.
        chain_ms: u64,
    },
}

impl Error {
    /// Whether the same attempt may succeed later without anybody doing anything.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Worker(error) => error.is_retryable(),
            Self::Behind { .. } => true,
            Self::Answer { .. } => false,
        }
    }

    /// Whether the worker's process may have restarted, so that it must be observed again.
    pub const fn is_connection(&self) -> bool {
        matches!(self, Self::Worker(error) if error.is_connection())
    }
}

/// Whether the chain has other endpoints of a worker than it should announce. An empty list announces nothing,
/// and takes back nothing: the chain keeps what it has.
pub fn differ(wanted: &[String], on_chain: &WorkerOnChain) -> bool {
    !wanted.is_empty() && wanted != on_chain.endpoints
}

/// The call that announces `endpoints` of `worker`, as the worker behind `client` signed them.
///
/// `chain_time_ms` is the chain's time at its newest finalised block.
///
/// # Errors
/// See [`Error`].
pub async fn announcement(
    client: &PRuntime,
    worker: WorkerKey,
    endpoints: &[String],
    chain_time_ms: u64,
) -> Result<Call, Error> {
    let answer = client.sign_endpoints(endpoints).await?;
    let (Some(encoded), Some(signature)) = (answer.encoded_endpoint_payload, answer.signature) else {
        return Err(wrong("the worker signed nothing; check that its version knows endpoints"));
    };
    let payload = WorkerEndpointPayload::decode_all(&mut &*encoded)
        .map_err(|error| wrong(&format!("the worker's answer cannot be read ({error})")))?;
    if payload.pubkey != worker {
        return Err(wrong(&format!(
            "the worker signed as {}, not as {worker}; check that its endpoint leads to one worker only",
            payload.pubkey
        )));
    }
    let VersionedWorkerEndpoints::V1(signed) = &payload.versioned_endpoints;
    if signed != endpoints {
        return Err(wrong(&format!("the worker signed other endpoints: {signed:?}, not {endpoints:?}")));
    }
    if !is_signed(&payload, &signature) {
        return Err(wrong("the worker's signature is not valid; restart it"));
    }
    let signed_ms = payload.signing_time;
    if signed_ms.abs_diff(chain_time_ms) >= MAX_SIGNATURE_AGE_MS {
        return Err(Error::Behind { signed_ms, chain_ms: chain_time_ms });
    }
    Ok(Call::UpdateWorkerEndpoint { payload, signature })
}

fn is_signed(payload: &WorkerEndpointPayload, signature: &[u8]) -> bool {
    let Ok(key) = schnorrkel::PublicKey::from_bytes(&payload.pubkey.0) else { return false };
    let Ok(signature) = schnorrkel::Signature::from_bytes(signature) else { return false };
    key.verify_simple(SIGNING_CONTEXT, &payload.signed_bytes(), &signature).is_ok()
}

fn wrong(reason: &str) -> Error {
    Error::Answer { reason: reason.to_owned() }
}
