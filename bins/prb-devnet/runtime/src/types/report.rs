//! The devnet's own attestation reports: in Intel's format, signed by a root of trust whose key is public.
//!
//! Nobody on a devnet has an enclave, so its registry cannot check reports against Intel's keys. It accepts
//! reports of the real layout that the devnet's attestation key has signed; a real chain refuses them, and
//! the devnet refuses real ones.
//!
//! # DCAP quote (`AttestationReport::SgxDcap`)
//!
//! | offset | bytes | |
//! |---|---|---|
//! | 0 | 28 | header of an SGX ECDSA quote of version 3: version, key type 2, TEE type 0, SVNs, Intel's vendor id |
//! | 28 | 20 | the header's user data: [`QUOTE_MARKER`] |
//! | 48 | 384 | the enclave's report: `cpu_svn` (byte 0: the confidence level), measurements, report data |
//! | 432 | 4 | length of what follows, little endian |
//! | 436 | 64 | ed25519 signature of the first 432 bytes, in place of the ECDSA signature |
//! | 500 | | attestation key, QE report, certification data: as in real quotes, not read by the chain |
//!
//! The first 32 bytes of the report data (offset 368) are the blake2-256 of the SCALE of the registration
//! info. Collateral must be present and well-formed: PEM chains, hex CRLs, JSON objects, signatures of 64
//! bytes.
//!
//! # IAS report (`AttestationReport::SgxIas`, `Attestation::SgxIas`)
//!
//! `ra_report` is Intel's JSON (`timestamp`, `isvEnclaveQuoteStatus`, `advisoryIDs`, `isvEnclaveQuoteBody`: base64
//! of the first 432 bytes of a quote), `signature` the ed25519 signature of that text, `raw_signing_cert` the 32
//! bytes of the devnet's attestation key in place of a certificate.

use base64::{Engine, prelude::BASE64_STANDARD};
use sp_core::{Pair, ed25519};

use super::{AttestationReport, Collateral, SgxV30QuoteCollateral};

/// User data of a quote's header that marks the devnet's quotes.
pub const QUOTE_MARKER: [u8; 20] = *b"prb-devnet-quote-v01";
/// `MRENCLAVE` of the devnet's worker.
pub const MR_ENCLAVE: [u8; 32] = *b"prb-devnet-pruntime-enclave-0001";
/// `MRSIGNER` of the devnet's worker.
pub const MR_SIGNER: [u8; 32] = *b"prb-devnet-pruntime-signer-00001";
/// Bytes of a quote that are signed: header and report.
pub const SIGNED_BYTES: usize = 432;

/// Vendor id of Intel's quoting enclave.
const INTEL: [u8; 16] =
    [0x93, 0x9a, 0x72, 0x33, 0xf7, 0x9c, 0x4c, 0xa9, 0x94, 0x0a, 0x0d, 0xb3, 0x95, 0x7f, 0x06, 0x07];
const USER_DATA: usize = 28;
const CPU_SVN: usize = 48;
const MR_ENCLAVE_AT: usize = 48 + 64;
const MR_SIGNER_AT: usize = 48 + 128;
const REPORT_DATA: usize = 48 + 320;
const SIGNATURE_AT: usize = SIGNED_BYTES + 4;
const SIGNATURE_BYTES: usize = 64;

/// The devnet's root of trust; not a secret.
fn attestation_key() -> ed25519::Pair {
    ed25519::Pair::from_seed(b"prb-devnet root of trust, public")
}

/// Returns the public key of the devnet's reports.
#[must_use]
pub fn attestation_public_key() -> ed25519::Public {
    attestation_key().public()
}

/// Returns the hash by which a chain allows the devnet's worker: measurement, product, version, signer.
#[must_use]
pub fn pruntime_hash() -> Vec<u8> {
    extended_measurement(&signed_part(&[0; 32], 1))
}

fn extended_measurement(quote: &[u8]) -> Vec<u8> {
    let part = |at: usize, len: usize| quote.get(at..at + len).unwrap_or_default();
    // ISV product id and SVN, 2 bytes each, at offset 256 of the report.
    [part(MR_ENCLAVE_AT, 32), part(48 + 256, 4), part(MR_SIGNER_AT, 32)].concat()
}

fn signed_part(info_hash: &[u8; 32], confidence_level: u8) -> Vec<u8> {
    let mut quote = vec![0; SIGNED_BYTES];
    quote[0] = 3;
    quote[2] = 2;
    quote[12..USER_DATA].copy_from_slice(&INTEL);
    quote[USER_DATA..CPU_SVN].copy_from_slice(&QUOTE_MARKER);
    quote[CPU_SVN] = confidence_level;
    quote[MR_ENCLAVE_AT..MR_ENCLAVE_AT + 32].copy_from_slice(&MR_ENCLAVE);
    quote[MR_SIGNER_AT..MR_SIGNER_AT + 32].copy_from_slice(&MR_SIGNER);
    quote[REPORT_DATA..REPORT_DATA + 32].copy_from_slice(info_hash);
    quote
}

/// Builds a DCAP quote. `tail` follows the signature: attestation key, QE report and certification data, for
/// programs that read them; it may be empty.
#[must_use]
pub fn dcap_quote(info_hash: &[u8; 32], confidence_level: u8, tail: &[u8]) -> Vec<u8> {
    let mut quote = signed_part(info_hash, confidence_level);
    let signature = attestation_key().sign(&quote);
    let length = u32::try_from(SIGNATURE_BYTES + tail.len()).unwrap_or(u32::MAX);
    quote.extend_from_slice(&length.to_le_bytes());
    quote.extend_from_slice(&signature.0);
    quote.extend_from_slice(tail);
    quote
}

/// Builds collateral that the devnet's registry accepts.
#[must_use]
pub fn collateral() -> Collateral {
    let pem = || "-----BEGIN CERTIFICATE-----\ncHJiLWRldm5ldA==\n-----END CERTIFICATE-----\n".to_owned();
    Collateral::SgxV30(SgxV30QuoteCollateral {
        pck_crl_issuer_chain: pem(),
        root_ca_crl: "30820100".into(),
        pck_crl: "30820100".into(),
        tcb_info_issuer_chain: pem(),
        tcb_info: r#"{"id":"SGX","version":3,"fmspc":"000000000000","tcbLevels":[]}"#.into(),
        tcb_info_signature: vec![0; SIGNATURE_BYTES],
        qe_identity_issuer_chain: pem(),
        qe_identity: r#"{"id":"QE","version":2,"tcbLevels":[]}"#.into(),
        qe_identity_signature: vec![0; SIGNATURE_BYTES],
    })
}

/// Builds an IAS report of a time in seconds since 1970, as `(ra_report, signature, raw_signing_cert)`.
#[must_use]
pub fn ias_report(info_hash: &[u8; 32], confidence_level: u8, time: u64) -> (Vec<u8>, Vec<u8>, Vec<u8>) {
    let (status, advisories) = match confidence_level {
        0 | 1 => ("OK", "[]"),
        2 => ("SW_HARDENING_NEEDED", "[]"),
        3 => ("CONFIGURATION_AND_SW_HARDENING_NEEDED", "[]"),
        4 => ("CONFIGURATION_AND_SW_HARDENING_NEEDED", r#"["INTEL-SA-DEVNET"]"#),
        _ => ("GROUP_OUT_OF_DATE", "[]"),
    };
    let body = BASE64_STANDARD.encode(signed_part(info_hash, confidence_level));
    let second = i64::try_from(time).ok().and_then(|time| jiff::Timestamp::from_second(time).ok());
    let timestamp = second.unwrap_or_default().strftime("%Y-%m-%dT%H:%M:%S%.6f").to_string();
    let report = format!(
        r#"{{"id":"0","timestamp":"{timestamp}","version":4,"advisoryIDs":{advisories},"isvEnclaveQuoteStatus":"{status}","isvEnclaveQuoteBody":"{body}"}}"#
    );
    let signature = attestation_key().sign(report.as_bytes()).0.to_vec();
    (report.into_bytes(), signature, attestation_public_key().0.to_vec())
}

/// Builds an IAS report for `register_worker_v2`.
#[must_use]
pub fn sgx_ias(info_hash: &[u8; 32], confidence_level: u8, time: u64) -> AttestationReport {
    let (ra_report, signature, raw_signing_cert) = ias_report(info_hash, confidence_level, time);
    AttestationReport::SgxIas { ra_report, signature, raw_signing_cert }
}

/// The content of a report.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attested {
    /// Attestation tier.
    pub confidence_level: u8,
    /// The program: see [`pruntime_hash`].
    pub pruntime_hash: Vec<u8>,
    /// The hash of the attested registration info.
    pub info_hash: [u8; 32],
    /// When it was made, in seconds since 1970; `None` for quotes.
    pub time: Option<u64>,
}

/// Why a report is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// The certificate or the signature of an IAS report is not the devnet's.
    SigningCert,
    /// An IAS report is not Intel's JSON.
    Report,
    /// An IAS report has no time.
    BadReport,
    /// An IAS report has a status without a tier.
    QuoteStatus,
    /// The quote body of an IAS report is too short or invalid base64.
    QuoteBody,
    /// A DCAP quote is not the devnet's, or its collateral is malformed.
    Quote,
}

/// Verifies a DCAP quote with its collateral.
///
/// # Errors
/// [`Refused::Quote`], [`Refused::QuoteStatus`].
pub fn read_quote(quote: &[u8], collateral: &Collateral) -> Result<Attested, Refused> {
    let signed = quote.get(..SIGNED_BYTES).ok_or(Refused::Quote)?;
    let marked = signed[USER_DATA..CPU_SVN] == QUOTE_MARKER;
    let length = quote.get(SIGNED_BYTES..SIGNATURE_AT).and_then(|bytes| bytes.try_into().ok());
    let rest = quote.len().saturating_sub(SIGNATURE_AT);
    let fits = length.map(u32::from_le_bytes).is_some_and(|length| length as usize == rest);
    let signature = quote.get(SIGNATURE_AT..SIGNATURE_AT + SIGNATURE_BYTES).unwrap_or_default();
    if !marked || !fits || !is_signed(signed, signature) || !is_well_formed(collateral) {
        return Err(Refused::Quote);
    }
    attested(signed, signed[CPU_SVN], None)
}

fn attested(signed: &[u8], confidence_level: u8, time: Option<u64>) -> Result<Attested, Refused> {
    if !(1..=5).contains(&confidence_level) {
        return Err(Refused::QuoteStatus);
    }
    let mut info_hash = [0; 32];
    info_hash.copy_from_slice(&signed[REPORT_DATA..REPORT_DATA + 32]);
    Ok(Attested { confidence_level, pruntime_hash: extended_measurement(signed), info_hash, time })
}

fn is_signed(bytes: &[u8], signature: &[u8]) -> bool {
    ed25519::Signature::try_from(signature)
        .is_ok_and(|signature| ed25519::Pair::verify(&signature, bytes, &attestation_public_key()))
}

fn is_well_formed(Collateral::SgxV30(collateral): &Collateral) -> bool {
    let chains = [
        &collateral.pck_crl_issuer_chain,
        &collateral.tcb_info_issuer_chain,
        &collateral.qe_identity_issuer_chain,
    ];
    let is_chain = |text: &&String| text.contains("-----BEGIN CERTIFICATE-----");
    let is_hex = |text: &&String| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let is_object =
        |text: &&String| serde_json::from_str::<serde_json::Value>(text).is_ok_and(|value| value.is_object());
    chains.iter().all(is_chain)
        && [&collateral.root_ca_crl, &collateral.pck_crl].iter().all(is_hex)
        && [&collateral.tcb_info, &collateral.qe_identity].iter().all(is_object)
        && collateral.tcb_info_signature.len() == SIGNATURE_BYTES
        && collateral.qe_identity_signature.len() == SIGNATURE_BYTES
}

/// Verifies an IAS report.
///
/// # Errors
/// All kinds except [`Refused::Quote`], in the order in which they are listed.
pub fn read_ias_report(report: &[u8], signature: &[u8], signing_cert: &[u8]) -> Result<Attested, Refused> {
    if signing_cert != attestation_public_key().0 || !is_signed(report, signature) {
        return Err(Refused::SigningCert);
    }
    let report: serde_json::Value = serde_json::from_slice(report).map_err(|_| Refused::Report)?;
    let text = |field: &str| report.get(field).and_then(|value| value.as_str()).ok_or(Refused::Report);
    let (timestamp, status) = (text("timestamp")?, text("isvEnclaveQuoteStatus")?);
    let body = text("isvEnclaveQuoteBody")?;
    // Intel's times have no zone; they are UTC.
    let time = format!("{timestamp}Z").parse::<jiff::Timestamp>().map_err(|_| Refused::BadReport)?;
    let advisories = report.get("advisoryIDs").and_then(|value| value.as_array()).map_or(0, Vec::len);
    let confidence_level = match status {
        "OK" => 1,
        "SW_HARDENING_NEEDED" => 2,
        "CONFIGURATION_NEEDED" | "CONFIGURATION_AND_SW_HARDENING_NEEDED" if advisories == 0 => 3,
        "CONFIGURATION_NEEDED" | "CONFIGURATION_AND_SW_HARDENING_NEEDED" => 4,
        "GROUP_OUT_OF_DATE" => 5,
        _ => return Err(Refused::QuoteStatus),
    };
    let signed = BASE64_STANDARD.decode(body).map_err(|_| Refused::QuoteBody)?;
    if signed.len() < SIGNED_BYTES {
        return Err(Refused::QuoteBody);
    }
    attested(&signed, confidence_level, u64::try_from(time.as_second()).ok())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    const INFO: [u8; 32] = [7; 32];

    #[test]
    fn only_an_unchanged_quote_is_accepted() {
        for tail in [&b""[..], &[9; 600]] {
            let quote = dcap_quote(&INFO, 4, tail);
            let attested = read_quote(&quote, &collateral()).unwrap();
            assert_eq!((attested.confidence_level, attested.info_hash), (4, INFO));
            assert_eq!(attested.pruntime_hash, pruntime_hash());
            for at in [USER_DATA, CPU_SVN, REPORT_DATA, SIGNED_BYTES, SIGNATURE_AT] {
                let mut altered = quote.clone();
                altered[at] ^= 1;
                assert_eq!(read_quote(&altered, &collateral()), Err(Refused::Quote), "byte {at}");
            }
            assert_eq!(read_quote(&quote[..quote.len() - 1], &collateral()), Err(Refused::Quote));
        }
        let untrusted = dcap_quote(&INFO, 6, &[]);
        assert_eq!(read_quote(&untrusted, &collateral()), Err(Refused::QuoteStatus));
    }

    #[test]
    fn malformed_collateral_is_refused() {
        let quote = dcap_quote(&INFO, 1, &[]);
        let Collateral::SgxV30(whole) = collateral();
        let without = |strip: fn(&mut SgxV30QuoteCollateral)| {
            let mut part = whole.clone();
            strip(&mut part);
            read_quote(&quote, &Collateral::SgxV30(part))
        };
        let strips: [fn(&mut SgxV30QuoteCollateral); 5] = [
            |it| it.pck_crl_issuer_chain.clear(),
            |it| it.pck_crl = "no hex".into(),
            |it| it.tcb_info = "[]".into(),
            |it| it.qe_identity = "{".into(),
            |it| it.qe_identity_signature.clear(),
        ];
        for strip in strips {
            assert_eq!(without(strip), Err(Refused::Quote));
        }
        assert!(without(|_| ()).is_ok());
    }

    #[test]
    fn ias_reports_contain_tier_and_time() {
        for level in 1..=5 {
            let (report, signature, cert) = ias_report(&INFO, level, 1_704_067_261);
            let attested = read_ias_report(&report, &signature, &cert).unwrap();
            assert_eq!((attested.confidence_level, attested.time), (level, Some(1_704_067_261)));
            assert_eq!((attested.info_hash, attested.pruntime_hash), (INFO, pruntime_hash()));
            assert_eq!(read_ias_report(&report, &signature, &[0; 32]), Err(Refused::SigningCert));
            let forged = read_ias_report(&[&report[..], b" "].concat(), &signature, &cert);
            assert_eq!(forged, Err(Refused::SigningCert));
        }
    }
}
