//! Registration info and its attestation.

use std::time::{SystemTime, UNIX_EPOCH};

use prb_core::{primitives::AccountId, wire::WorkerRegistrationInfo};
use prb_devnet_runtime::types::{AttestationReport, report};

use super::*;

/// Tier of the devnet's workers.
const CONFIDENCE_LEVEL: u8 = 1;
/// Seconds for which an attestation is reused.
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
    if methods.iter().any(|known| known == method) {
        Ok(())
    } else {
        Err(Refusal::App("Unsupported attestation provider".into()))
    }
}

impl Registration {
    /// Makes a new attestation if forced, if an operator is passed, and after an hour; never before the initial
    /// state has been validated. `chain_ms` is the chain's time.
    ///
    /// A worker with the operator fault registers for `wrong` instead.
    pub(super) fn refreshed(
        &mut self,
        force: bool,
        operator: Option<AccountId>,
        wrong: Option<AccountId>,
        chain_ms: Option<u64>,
    ) {
        // The operator is part of the attested registration info.
        // Even if it is the same one, as in pRuntime.
        let reset = operator.is_some();
        if reset {
            self.info.operator = wrong.or(operator);
        }
        let now = now_secs();
        let stale = |old: &prpc::Attestation| now > old.timestamp.saturating_add(MAX_AGE_SECS);
        if force || reset || self.attestation.as_ref().is_some_and(stale) {
            self.attestation = None;
        }
        // No time means that no block was dispatched: pRuntime attests only to a state that it has validated.
        if let Some(chain_ms) = chain_ms
            && self.attestation.is_none()
        {
            self.attestations += 1;
            self.attestation = Some(self.attest(now, chain_ms / 1000));
        }
    }

    /// The registration info in the format of its call.
    fn encoded_info(&self) -> Vec<u8> {
        if self.is_first_version() {
            WorkerRegistrationInfo::from(self.info.clone()).encode()
        } else {
            self.info.encode()
        }
    }

    fn is_first_version(&self) -> bool {
        self.first_version && self.provider == Some(AttestationProvider::Ias)
    }

    /// The chain checks IAS reports against its own clock, which may differ from the machine's.
    fn attest(&self, timestamp: u64, chain_secs: u64) -> prpc::Attestation {
        let hash = blake2_256(&self.encoded_info());
        let (provider, report) = match self.provider {
            None => ("null", None),
            Some(AttestationProvider::Root) => ("\"Root\"", None),
            Some(AttestationProvider::Ias) => {
                ("\"Ias\"", Some(report::sgx_ias(&hash, CONFIDENCE_LEVEL, chain_secs)))
            }
            Some(AttestationProvider::Dcap) => {
                let quote = report::dcap_quote(&hash, CONFIDENCE_LEVEL, &[]);
                ("\"Dcap\"", Some(AttestationReport::SgxDcap { quote, collateral: None }))
            }
        };
        let encoded = prpc::Attestation {
            version: 1,
            provider: provider.into(),
            payload: None,
            timestamp,
            encoded_report: report.encode(),
        };
        match report {
            Some(AttestationReport::SgxIas { ra_report, signature, raw_signing_cert })
                if self.is_first_version() =>
            {
                let payload = prpc::AttestationPayload {
                    report: String::from_utf8_lossy(&ra_report).into_owned(),
                    signature,
                    signing_cert: raw_signing_cert,
                };
                prpc::Attestation { payload: Some(payload), encoded_report: Vec::new(), ..encoded }
            }
            _ => encoded,
        }
    }

    pub(super) fn response(&self) -> prpc::InitRuntimeResponse {
        prpc::InitRuntimeResponse {
            encoded_runtime_info: self.encoded_info(),
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
