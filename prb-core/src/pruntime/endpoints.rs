//! Announcement of the endpoints at which a worker can be reached: signed by the worker, stored on chain.
//!
//! Not for: the endpoint at which this program reaches the worker (see [`Connect`](super::Connect)).

use codec::DecodeAll;

use super::PRuntime;
use crate::{
    chain::{Call, WorkerOnChain},
    primitives::WorkerKey,
    wire::{SIGNING_CONTEXT, VersionedWorkerEndpoints, WorkerEndpointPayload},
};

/// Maximum difference between the time of the signature and the chain's time, in milliseconds, that the chain
/// accepts.
pub const MAX_SIGNATURE_AGE_MS: u64 = 4 * 60 * 60 * 1000;

/// Why endpoints cannot be announced. Nothing was sent on chain.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The worker did not answer, or refused.
    #[error(transparent)]
    Worker(#[from] super::Error),
    /// The worker's answer is invalid.
    #[error("endpoints not announced: {reason}")]
    Answer {
        /// The problem, and what to do.
        reason: String,
    },
    /// The worker's clock, which is the time of its last block, differs too much from the chain's.
    #[error(
        "endpoints not announced: the worker signed at {signed_ms} ms, but the chain's time is {chain_ms} ms; retried \
         once the worker has caught up"
    )]
    Behind {
        /// When the worker signed, in milliseconds since the Unix epoch.
        signed_ms: u64,
        /// The chain's time, in milliseconds since the Unix epoch.
        chain_ms: u64,
    },
}

impl Error {
    /// Whether the same attempt may succeed later without intervention.
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

/// Whether a worker's announced endpoints on chain differ from the configured ones. An empty list announces
/// nothing and revokes nothing: the chain keeps the existing ones.
pub fn differ(wanted: &[String], on_chain: &WorkerOnChain) -> bool {
    !wanted.is_empty() && wanted != on_chain.endpoints
}

/// Returns the call that announces `endpoints` of `worker`, signed by the worker behind `client`.
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
        return Err(wrong("the worker signed nothing; check that its version supports endpoints"));
    };
    let payload = WorkerEndpointPayload::decode_all(&mut &*encoded)
        .map_err(|error| wrong(&format!("the worker's answer cannot be decoded ({error})")))?;
    if payload.pubkey != worker {
        return Err(wrong(&format!(
            "the worker signed as {}, not as {worker}; check that its endpoint leads to one worker only",
            payload.pubkey
        )));
    }
    let VersionedWorkerEndpoints::V1(signed) = &payload.versioned_endpoints;
    // The chain would store what was signed; it would differ from the configuration and be announced again
    // and again.
    if signed != endpoints {
        return Err(wrong(&format!("the worker signed other endpoints: {signed:?}, not {endpoints:?}")));
    }
    if !is_signed(&payload, &signature) {
        return Err(wrong("the worker's signature is not valid; restart pRuntime"));
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
