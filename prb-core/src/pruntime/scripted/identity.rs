//! The identity of a scripted worker: its key, registration info and signatures.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use codec::Encode;
use schnorrkel::{ExpansionMode, Keypair, MiniSecretKey};
use tokio::time::Instant;

use super::{
    WorkerState,
    rules::{self, Refusal, refusal},
};
use crate::{
    primitives::{Hash, WorkerKey},
    prpc,
    wire::{
        AttestationProvider, AttestationReport, EgressMessages, MessageOrigin, SIGNING_CONTEXT,
        SignedMessage, VersionedWorkerEndpoints, WorkerEndpointPayload, WorkerRegistrationInfoV2,
    },
};

/// How long a worker returns the same attestation.
const ATTESTATION_AGE: Duration = Duration::from_secs(3600);

/// A worker's sr25519 key, which survives every loss of state.
#[derive(Clone)]
pub(super) struct Identity(Keypair);

impl Identity {
    #[allow(clippy::expect_used)]
    pub(super) fn new(seed: u32) -> Self {
        let secret = MiniSecretKey::from_bytes(&Hash::of(&seed.to_le_bytes()).0);
        // Cannot fail: any 32 bytes are a mini secret key.
        Self(secret.expect("32 bytes are a mini secret key").expand_to_keypair(ExpansionMode::Ed25519))
    }

    pub(super) fn key(&self) -> WorkerKey {
        WorkerKey(self.0.public.to_bytes())
    }

    /// `InitRuntime`.
    pub(super) fn init(&self, state: &mut WorkerState, body: Bytes) -> Result<(), Refusal> {
        let request: prpc::InitRuntimeRequest = rules::decode(body)?;
        if state.info.initialized {
            return Err(refusal(500, "Runtime already initialized"));
        }
        let (number, hash) = rules::genesis_block(&request.encoded_genesis_info)?;
        let operator = rules::operator(request.encoded_operator)?;
        let provider = request.attestation_provider.as_deref().map(rules::scale).transpose()?;
        if !provider.is_none_or(|provider| supports(state, provider)) {
            return Err(refusal(500, "Unsupported attestation provider"));
        }
        state.operator = operator;
        state.provider = provider;
        let info = &mut state.info;
        info.initialized = true;
        info.genesis_block_hash = Some(hex::encode(hash.0));
        info.public_key = Some(hex::encode(self.key().0));
        info.headernum = number + 1;
        info.para_headernum = 0;
        // Block 0 is in the genesis state.
        info.blocknum = 1;
        Ok(())
    }

    /// `GetRuntimeInfo`: sets the operator and starts an attestation if one is due; returns when it is
    /// finished.
    pub(super) fn attest(
        state: &mut WorkerState,
        body: Bytes,
        duration: Duration,
    ) -> Result<Option<Instant>, Refusal> {
        let request: prpc::GetRuntimeInfoRequest = rules::decode(body)?;
        if !state.info.initialized {
            return Err(refusal(500, "Uninitiated runtime info"));
        }
        let operator = rules::operator(request.encoded_operator)?;
        let has_operator = operator.is_some();
        state.operator = operator.or(state.operator);
        let now = Instant::now();
        let is_old = state.attested_at.is_some_and(|at| now.saturating_duration_since(at) > ATTESTATION_AGE);
        // pRuntime discards its attestation for any operator that is passed, even the same one.
        if request.force_refresh_ra || has_operator || is_old {
            state.attested_at = None;
        }
        // pRuntime validates its state by dispatching a block, and does not attest before.
        if state.info.blocknum > state.first_block {
            // An attestation in progress continues; a finished one is returned at once.
            state.attested_at.get_or_insert(now + duration);
        }
        Ok(state.attested_at)
    }

    pub(super) fn registration(&self, state: &WorkerState) -> WorkerRegistrationInfoV2 {
        let genesis = state.info.genesis_block_hash.as_deref().and_then(|h| h.parse().ok());
        WorkerRegistrationInfoV2 {
            version: 0x0200_0000,
            machine_id: Vec::new(),
            pubkey: self.key(),
            ecdh_pubkey: [0; 32],
            genesis_block_hash: genesis.unwrap_or_default(),
            features: vec![4, 1],
            operator: state.operator,
            para_id: state.para_id,
            max_consensus_version: 1,
        }
    }

    /// `SignEndpointInfo`.
    pub(super) fn sign_endpoints(
        &self,
        state: &WorkerState,
        body: Bytes,
    ) -> Result<prpc::GetEndpointResponse, Refusal> {
        let request: prpc::SignEndpointsRequest = rules::decode(body)?;
        let endpoints: Vec<String> = rules::scale(&request.encoded_endpoints)?;
        if !state.info.initialized {
            return Err(rules::uninitialized());
        }
        let payload = WorkerEndpointPayload {
            pubkey: self.key(),
            versioned_endpoints: VersionedWorkerEndpoints::V1(endpoints),
            signing_time: state.info.current_block_time,
        };
        let signature = self.0.sign_simple(SIGNING_CONTEXT, &payload.signed_bytes());
        Ok(prpc::GetEndpointResponse {
            encoded_endpoint_payload: Some(payload.encode()),
            signature: Some(signature.to_bytes().to_vec()),
        })
    }
}

impl Identity {
    /// The messages by sender; the worker signs its own.
    pub(super) fn egress(&self, state: &WorkerState) -> EgressMessages {
        let mut groups = state.egress();
        let own = MessageOrigin::Worker(self.key());
        let unsigned =
            |message: &&mut SignedMessage| message.message.sender == own && message.signature == [0; 64];
        for message in groups.iter_mut().flat_map(|(_, group)| group).filter(unsigned) {
            let bytes = (&message.message, message.sequence).encode();
            message.signature = self.0.sign_simple(SIGNING_CONTEXT, &bytes).to_bytes().to_vec();
        }
        groups
    }
}

/// Builds the answer to `InitRuntime` and `GetRuntimeInfo` from this registration info.
pub(super) fn response(state: &WorkerState, info: &WorkerRegistrationInfoV2) -> prpc::InitRuntimeResponse {
    prpc::InitRuntimeResponse {
        encoded_runtime_info: info.encode(),
        encoded_genesis_block_hash: info.genesis_block_hash.encode(),
        encoded_public_key: info.pubkey.encode(),
        encoded_ecdh_public_key: info.ecdh_pubkey.encode(),
        attestation: state.attested_at.map(|_| attestation(state.provider, info)),
    }
}

fn supports(state: &WorkerState, provider: AttestationProvider) -> bool {
    let name = match provider {
        AttestationProvider::Root => "root",
        AttestationProvider::Ias => "epid",
        AttestationProvider::Dcap => "dcap",
    };
    state.info.supported_attestation_methods.iter().any(|method| method == name)
}

/// Builds an attestation with the layout of a real one; it proves nothing.
fn attestation(provider: Option<AttestationProvider>, info: &WorkerRegistrationInfoV2) -> prpc::Attestation {
    let content = Hash::of(&info.encode()).0.to_vec();
    let report = match provider {
        Some(AttestationProvider::Dcap) => {
            Some(AttestationReport::SgxDcap { quote: content, collateral: None })
        }
        Some(AttestationProvider::Ias) => Some(AttestationReport::SgxIas {
            ra_report: content,
            signature: vec![1],
            raw_signing_cert: vec![2],
        }),
        Some(AttestationProvider::Root) | None => None,
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    prpc::Attestation {
        version: 1,
        timestamp: now.as_secs(),
        encoded_report: report.encode(),
        ..Default::default()
    }
}
