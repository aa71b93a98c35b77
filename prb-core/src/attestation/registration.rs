//! [`registration`]: validates a worker's registration data and turns it into a call.

use std::fmt;

use codec::{DecodeAll, Encode};

use super::CollateralSource;
use crate::{
    chain::Call,
    primitives::{AccountId, Hash, WorkerKey},
    prpc::{self, GetRuntimeInfoRequest, InitRuntimeResponse},
    pruntime::{self, PRuntime},
    wire::{self, AttestationReport, WorkerRegistrationInfo, WorkerRegistrationInfoV2},
};

/// The expected registration data of a worker. The chain refuses anything else, or registers the worker for
/// another party, and charges the fee in both cases.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Expected {
    /// The worker's public key, as reported by `GetInfo`.
    pub worker: WorkerKey,
    /// The account that may add it to a pool.
    pub operator: AccountId,
    /// Hash of the relay block that workers of this chain are initialised with.
    pub relay_genesis: Hash,
    /// The parachain's id.
    pub para_id: u32,
    /// The worker's key for encrypted messages, if `GetInfo` reports one.
    pub ecdh_key: Option<[u8; 32]>,
}

impl Expected {
    /// Creates expectations that accept any key for encrypted messages; see [`Expected::with_info`].
    pub const fn new(worker: WorkerKey, operator: AccountId, relay_genesis: Hash, para_id: u32) -> Self {
        Self { worker, operator, relay_genesis, para_id, ecdh_key: None }
    }

    /// Adds the key for encrypted messages that the worker reports.
    #[must_use]
    pub fn with_info(mut self, info: &prpc::PhactoryInfo) -> Self {
        self.ecdh_key = info.ecdh_public_key.as_deref().and_then(|key| key.parse().ok().map(|Hash(key)| key));
        self
    }
}

/// A difference between the registration data and the expectation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Difference {
    /// The public key differs.
    Key {
        /// The key that was expected.
        expected: WorkerKey,
        /// The key in the answer.
        found: WorkerKey,
    },
    /// The operator differs.
    Operator {
        /// The expected account.
        expected: AccountId,
        /// The account in the answer.
        found: Option<AccountId>,
    },
    /// The relay chain block of the initialisation differs.
    RelayGenesis {
        /// The expected hash.
        expected: Hash,
        /// The hash in the answer.
        found: Hash,
    },
    /// The parachain differs.
    ParaId {
        /// The expected id.
        expected: u32,
        /// The id in the answer.
        found: u32,
    },
    /// The key for encrypted messages differs.
    EcdhKey {
        /// The expected key.
        expected: Hash,
        /// The key in the answer.
        found: Hash,
    },
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Key { expected, found } => write!(
                f,
                "it would register the key {found}, not its own {expected}: check that its endpoint leads to one \
                 worker only"
            ),
            Self::Operator { expected, found } => {
                match found {
                    Some(found) => write!(f, "it would register for the operator {found}, not {expected}")?,
                    None => write!(f, "it would register without an operator, not for {expected}")?,
                }
                f.write_str(": check the pool's operator and who else manages this worker")
            }
            Self::RelayGenesis { expected, found } => write!(
                f,
                "it was initialised at the relay block {found}, and this chain's workers start at {expected}: \
                 delete its data and start it again"
            ),
            Self::ParaId { expected, found } => write!(
                f,
                "it was initialised for parachain {found}, not {expected}: delete its data and start it again"
            ),
            Self::EcdhKey { expected, found } => write!(
                f,
                "it would register the key {found} for encrypted messages, and shows {expected}: restart pRuntime"
            ),
        }
    }
}

/// The remedy of [`RegistrationError::NoCollateralSource`] if the program has passed no source at all.
const NO_SOURCE_REMEDY: &str = "configure a source of collateral";

/// Why a worker cannot be registered now. Nothing was sent on chain.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RegistrationError {
    /// The worker did not answer, or refused.
    #[error(transparent)]
    Worker(#[from] pruntime::Error),
    /// The worker has not validated its state yet, which it does before it attests.
    #[error("the worker does not attest before it has dispatched its first block")]
    NotYet,
    /// The worker's answer cannot be decoded.
    #[error("the worker's {what} cannot be decoded ({reason}): check that its version fits this chain")]
    Unreadable {
        /// The part of the answer.
        what: &'static str,
        /// The problem.
        reason: String,
    },
    /// The registration data does not match the expectation.
    #[error("the registration differs from the expected one: {}", List(.0))]
    Differs(Vec<Difference>),
    /// The worker attests by DCAP, but no source of collateral is configured.
    #[error("the worker attests by DCAP, and the chain accepts its quote only with collateral; {remedy}")]
    NoCollateralSource {
        /// How to configure a source.
        remedy: String,
    },
    /// The quote's collateral is not available.
    #[error("the worker's quote has no collateral")]
    Collateral(#[source] super::Error),
}

impl From<super::Error> for RegistrationError {
    fn from(error: super::Error) -> Self {
        match error {
            super::Error::NotConfigured { remedy } => Self::NoCollateralSource { remedy },
            error => Self::Collateral(error),
        }
    }
}

impl RegistrationError {
    /// Whether the same attempt may succeed later without intervention.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Worker(error) => error.is_retryable(),
            Self::Collateral(error) => error.is_retryable(),
            Self::NotYet => true,
            Self::Unreadable { .. } | Self::Differs(_) | Self::NoCollateralSource { .. } => false,
        }
    }

    /// Whether the worker's process may have restarted, so that it must be observed again.
    pub const fn is_connection(&self) -> bool {
        matches!(self, Self::Worker(error) if error.is_connection())
    }
}

struct List<'a>(&'a [Difference]);

impl fmt::Display for List<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, difference) in self.0.iter().enumerate() {
            let separator = if n == 0 { "" } else { "; " };
            write!(f, "{separator}{difference}")?;
        }
        Ok(())
    }
}

/// A request to register, kept across all attempts that it takes.
///
/// An attestation may take longer than the call's timeout. The worker finishes it anyway and caches it for an
/// hour, but discards it when a refresh is forced or an operator is passed again. So both are sent only once;
/// after a call that timed out, the next attempt only requests the cached result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RegistrationRequest {
    force: bool,
    in_flight: bool,
}

impl RegistrationRequest {
    /// Creates a request; with `refresh_ra` the worker attests again even if its attestation is recent.
    pub const fn new(refresh_ra: bool) -> Self {
        Self { force: refresh_ra, in_flight: false }
    }

    async fn send(
        &mut self,
        client: &PRuntime,
        operator: AccountId,
    ) -> Result<InitRuntimeResponse, pruntime::Error> {
        let request = GetRuntimeInfoRequest {
            force_refresh_ra: self.force && !self.in_flight,
            encoded_operator: (!self.in_flight).then(|| operator.encode()),
        };
        // Set before the call: the worker attests even if this future is dropped.
        self.in_flight = true;
        let answer = client.runtime_info(&request).await;
        // After a timeout the worker is still attesting. Any other error ends the attempt, so that the next one
        // passes the operator again.
        self.in_flight = matches!(answer, Err(pruntime::Error::TimedOut { .. }));
        // A refresh is forced until one has succeeded.
        self.force &= answer.is_err();
        answer
    }

    /// Queries the worker; repeats the query with the operator if the worker does not know it.
    async fn answer(
        &mut self,
        client: &PRuntime,
        expected: &Expected,
    ) -> Result<(InitRuntimeResponse, Info), RegistrationError> {
        let was_in_flight = self.in_flight;
        let answer = self.send(client, expected.operator).await?;
        let info = Info::decode(&answer.encoded_runtime_info)?;
        if !was_in_flight || info.older().operator == Some(expected.operator) {
            return Ok((answer, info));
        }
        // The call that timed out never reached the worker.
        let answer = self.send(client, expected.operator).await?;
        let info = Info::decode(&answer.encoded_runtime_info)?;
        Ok((answer, info))
    }
}

/// Registration info, in the version that the worker returned.
enum Info {
    V2(WorkerRegistrationInfoV2),
    V1(WorkerRegistrationInfo),
}

impl Info {
    fn decode(encoded: &[u8]) -> Result<Self, RegistrationError> {
        // Version 2 appends fields to version 1, and `decode_all` refuses remaining bytes: neither decodes as
        // the other.
        match WorkerRegistrationInfoV2::decode_all(&mut &*encoded) {
            Ok(info) => Ok(Self::V2(info)),
            Err(error) => WorkerRegistrationInfo::decode_all(&mut &*encoded)
                .map(Self::V1)
                .map_err(|_| unreadable("registration info", error)),
        }
    }

    /// Converts to the older version, whose fields are the first ones of the newer.
    fn older(&self) -> WorkerRegistrationInfo {
        match self {
            Self::V2(info) => info.clone().into(),
            Self::V1(info) => info.clone(),
        }
    }

    fn para_id(&self) -> Option<u32> {
        match self {
            Self::V2(info) => Some(info.para_id),
            Self::V1(_) => None,
        }
    }

    fn differences(&self, expected: &Expected) -> Vec<Difference> {
        let info = self.older();
        let key = (info.pubkey != expected.worker)
            .then_some(Difference::Key { expected: expected.worker, found: info.pubkey });
        let operator = (info.operator != Some(expected.operator))
            .then_some(Difference::Operator { expected: expected.operator, found: info.operator });
        let relay_genesis =
            (info.genesis_block_hash != expected.relay_genesis).then_some(Difference::RelayGenesis {
                expected: expected.relay_genesis,
                found: info.genesis_block_hash,
            });
        let para_id = self.para_id().filter(|found| *found != expected.para_id);
        let para_id = para_id.map(|found| Difference::ParaId { expected: expected.para_id, found });
        let ecdh_key = expected
            .ecdh_key
            .filter(|key| *key != info.ecdh_pubkey)
            .map(|key| Difference::EcdhKey { expected: Hash(key), found: Hash(info.ecdh_pubkey) });
        [key, operator, relay_genesis, para_id, ecdh_key].into_iter().flatten().collect()
    }
}

fn unreadable(what: &'static str, reason: impl fmt::Display) -> RegistrationError {
    RegistrationError::Unreadable { what, reason: reason.to_string() }
}

/// Returns the call that registers the worker behind `client`, after validating the data against `expected`.
///
/// `replaces` is `last_updated` of the existing registration on chain; `None` if there is none. `request` is
/// kept across all attempts of one registration.
///
/// # Errors
/// See [`RegistrationError`]; nothing was sent on chain in that case.
///
/// # Cancel safety
/// The worker may have attested; the next attempt with the same `request` uses that attestation.
pub async fn registration(
    client: &PRuntime,
    expected: &Expected,
    request: &mut RegistrationRequest,
    replaces: Option<u64>,
    collateral: Option<&dyn CollateralSource>,
) -> Result<Call, RegistrationError> {
    let (answer, info) = request.answer(client, expected).await?;
    // Compared first: a worker set up for another chain or operator is reported as such even before it attests.
    let differences = info.differences(expected);
    if !differences.is_empty() {
        return Err(RegistrationError::Differs(differences));
    }
    let attestation = answer.attestation.ok_or(RegistrationError::NotYet)?;
    let worker = expected.worker;
    if let Some(ias) = attestation.payload.filter(|_| attestation.encoded_report.is_empty()) {
        // Workers that attest by the retired IAS return their report unencoded; the chain accepts it in the
        // v1 call.
        let attestation = wire::Attestation::SgxIas {
            ra_report: ias.report.into_bytes(),
            signature: ias.signature,
            raw_signing_cert: ias.signing_cert,
        };
        let (runtime_info, attestation) = (info.older().encode(), attestation.encode());
        return Ok(Call::RegisterWorkerV1 { worker, runtime_info, attestation, replaces });
    }
    let attestation = report(&attestation.encoded_report, collateral).await?.encode();
    Ok(Call::RegisterWorker { worker, runtime_info: answer.encoded_runtime_info, attestation, replaces })
}

/// Decodes the report and adds the collateral to a DCAP quote, as the chain requires.
async fn report(
    encoded: &[u8],
    collateral: Option<&dyn CollateralSource>,
) -> Result<Option<AttestationReport>, RegistrationError> {
    // A worker outside of an enclave returns no report; the chain decides whether it accepts that.
    if encoded.is_empty() {
        return Ok(None);
    }
    let report = Option::<AttestationReport>::decode_all(&mut &*encoded)
        .map_err(|error| unreadable("attestation report", error))?;
    let Some(AttestationReport::SgxDcap { quote, collateral: None }) = report else { return Ok(report) };
    let source = collateral
        .ok_or_else(|| RegistrationError::NoCollateralSource { remedy: NO_SOURCE_REMEDY.into() })?;
    let collateral = Some(source.collateral(&quote).await?);
    Ok(Some(AttestationReport::SgxDcap { quote, collateral }))
}
