//! Verifies attestation reports and message signatures.

use frame_support::{
    ensure,
    pallet_prelude::{DispatchError, DispatchResult},
};
use sp_core::sr25519;

use super::pallet::{
    ClusterKeys, Config, ContractKeys, Error, GatekeeperMasterPubkey, IasAttestationEnabled,
    NoneAttestationEnabled, PRuntimeAllowList, Pallet,
};
use crate::{
    pallets::mq,
    types::{
        AttestationProvider, AttestationReport, MessageOrigin, SignedMessage,
        report::{Attested, Refused, read_ias_report, read_quote},
    },
};

/// Tier of workers without an attestation.
const UNATTESTED_CONFIDENCE: u8 = 128;
/// Age at which an IAS report is too old, seconds.
const IAS_REPORT_VALIDITY_SECS: u64 = 7_200;
/// Bytes of a signature.
const SIGNATURE_BYTES: usize = 64;

impl<T: Config> From<Refused> for Error<T> {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::SigningCert => Self::InvalidIASSigningCert,
            Refused::Report => Self::InvalidReport,
            Refused::BadReport => Self::BadIASReport,
            Refused::QuoteStatus => Self::InvalidQuoteStatus,
            Refused::QuoteBody => Self::UnknownQuoteBodyFormat,
            Refused::Quote => Self::InvalidDCAPQuote,
        }
    }
}

impl<T: Config> Pallet<T> {
    /// Returns the attestation provider and tier for the registration info with that hash.
    pub(super) fn attest(
        info_hash: &[u8; 32],
        report: Option<&AttestationReport>,
    ) -> Result<(Option<AttestationProvider>, u8), DispatchError> {
        let (provider, attested) = match report {
            None => {
                ensure!(NoneAttestationEnabled::<T>::get(), Error::<T>::NoneAttestationDisabled);
                return Ok((None, UNATTESTED_CONFIDENCE));
            }
            Some(AttestationReport::SgxIas { ra_report, signature, raw_signing_cert }) => {
                ensure!(IasAttestationEnabled::<T>::get(), Error::<T>::IASAttestationDisabled);
                let attested = read_ias_report(ra_report, signature, raw_signing_cert);
                (AttestationProvider::Ias, attested.map_err(Error::<T>::from)?)
            }
            // As on the real chain: the collateral must be fetched before the registration.
            Some(AttestationReport::SgxDcap { collateral: None, .. }) => {
                return Err(Error::<T>::UnsupportedAttestationType.into());
            }
            Some(AttestationReport::SgxDcap { quote, collateral: Some(collateral) }) => {
                let attested = read_quote(quote, collateral).map_err(Error::<T>::from)?;
                (AttestationProvider::Dcap, attested)
            }
        };
        Self::check_attested(&attested, info_hash)?;
        Ok((Some(provider), attested.confidence_level))
    }

    fn check_attested(attested: &Attested, info_hash: &[u8; 32]) -> DispatchResult {
        let allowed = PRuntimeAllowList::<T>::get().contains(&attested.pruntime_hash);
        ensure!(allowed, Error::<T>::PRuntimeRejected);
        // Quotes carry no time.
        if let Some(time) = attested.time {
            let now = pallet_timestamp::Now::<T>::get() / 1000;
            ensure!(now.saturating_sub(time) < IAS_REPORT_VALIDITY_SECS, Error::<T>::OutdatedIASReport);
        }
        ensure!(&attested.info_hash == info_hash, Error::<T>::InvalidRuntimeInfoHash);
        Ok(())
    }
}

impl<T: Config> mq::CheckSignature for Pallet<T> {
    fn check_signature(message: &SignedMessage) -> DispatchResult {
        let key = match &message.message.sender {
            MessageOrigin::Worker(key) => *key,
            MessageOrigin::Cluster(id) => ClusterKeys::<T>::get(id).ok_or(Error::<T>::UnknownCluster)?,
            MessageOrigin::Contract(id) => ContractKeys::<T>::get(id).ok_or(Error::<T>::UnknownContract)?,
            MessageOrigin::Gatekeeper => {
                GatekeeperMasterPubkey::<T>::get().ok_or(Error::<T>::MasterKeyUninitialized)?
            }
            // Others have no key: their messages come from the chain itself.
            _ => return Err(Error::<T>::CannotHandleUnknownMessage.into()),
        };
        ensure!(message.signature.len() == SIGNATURE_BYTES, Error::<T>::InvalidSignatureLength);
        let signature = sr25519::Signature::try_from(message.signature.as_slice())
            .map_err(|()| Error::<T>::MalformedSignature)?;
        let bytes = SignedMessage::signed_bytes(&message.message, message.sequence);
        let valid = sp_io::crypto::sr25519_verify(&signature, &bytes, &key);
        ensure!(valid, Error::<T>::InvalidSignature);
        Ok(())
    }
}
