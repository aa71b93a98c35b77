//! Registration info and what vouches for it.

use std::time::{SystemTime, UNIX_EPOCH};

use prb_core::primitives::AccountId;
use prb_devnet_runtime::types::AttestationReport;

use super::*;

/// Seconds that an attestation is handed out again for.
const MAX_AGE_SECS: u64 = 3600;

/// Whether the worker can attest by that provider.
pub(super) fn allowed(
    provider: Option<AttestationProvider>,
    dev_mode: bool,
    methods: &[String],
) -> Result<(), Refusal> {
    let method = match provider {
        None => return Ok(()),
        Some(_) if dev_mode => {
            return Err(Refusal::App("RA is disallowed when debug_set_key is enabled".into()));
        }
        Some(AttestationProvider::Dcap) => "dcap",
        Some(AttestationProvider::Ias) => "epid",
        Some(AttestationProvider::Root) => "root",
    };
    if method == "dcap" && methods.iter().any(|known| known == method) {
        Ok(())
    } else {
        Err(Refusal::App(format!("attestation by {method} is not supported by this worker")))
    }
}

impl Registration {
    /// Attests anew where asked to, where the operator is told, and after an hour; never before the
    /// state that the worker started from has been validated.
    pub(super) fn refreshed(&mut self, force: bool, operator: Option<AccountId>, validated: bool) {
        let reset = operator.is_some();
        if reset {
            self.info.operator = operator;
        }
        let now = now_secs();
        let stale = |old: &prpc::Attestation| now > old.timestamp.saturating_add(MAX_AGE_SECS);
        if force || reset || self.attestation.as_ref().is_some_and(stale) {
            self.attestation = None;
        }
        if validated && self.attestation.is_none() {
            self.attestation = Some(self.attest(now));
        }
    }

    fn attest(&self, timestamp: u64) -> prpc::Attestation {
        // The devnet's registry accepts a quote that holds the hash of the registration info, which a
        // real quote carries as report data.
        let report = self.provider.map(|_| AttestationReport::SgxDcap {
            quote: blake2_256(&self.info.encode()).to_vec(),
            collateral: None,
        });
        let provider = match self.provider {
            Some(AttestationProvider::Root) => "\"Root\"",
            Some(AttestationProvider::Ias) => "\"Ias\"",
            Some(AttestationProvider::Dcap) => "\"Dcap\"",
            None => "null",
        };
        prpc::Attestation {
            version: 1,
            provider: provider.into(),
            payload: None,
            timestamp,
            encoded_report: report.encode(),
        }
    }

    pub(super) fn response(&self) -> prpc::InitRuntimeResponse {
        prpc::InitRuntimeResponse {
            encoded_runtime_info: self.info.encode(),
            encoded_genesis_block_hash: self.info.genesis_block_hash.encode(),
            encoded_public_key: self.info.pubkey.encode(),
            encoded_ecdh_public_key: self.info.ecdh_pubkey.encode(),
            attestation: self.attestation.clone(),
        }
    }
}

fn now_secs() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
