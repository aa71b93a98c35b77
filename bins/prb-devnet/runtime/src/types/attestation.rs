//! Registration infos and the reports that attest them.

use codec::{Decode, DecodeWithMemTracking, Encode};
use scale_info::TypeInfo;
use sp_core::H256;

use super::{AccountId, EcdhPublicKey, WorkerPublicKey};

/// A worker's attestation provider.
#[derive(Encode, Decode, DecodeWithMemTracking, TypeInfo, Clone, Copy, PartialEq, Eq, Debug)]
pub enum AttestationProvider {
    /// The chain's root account.
    #[codec(index = 0)]
    Root,
    /// Intel's retired service.
    #[codec(index = 1)]
    Ias,
    /// Intel DCAP.
    #[codec(index = 2)]
    Dcap,
}

/// An attestation report for a [`WorkerRegistrationInfoV2`].
#[derive(Encode, Decode, DecodeWithMemTracking, TypeInfo, Clone, PartialEq, Eq, Debug)]
pub enum AttestationReport {
    /// Intel's retired service.
    #[codec(index = 0)]
    SgxIas {
        /// The report, JSON.
        ra_report: Vec<u8>,
        /// Its signature.
        signature: Vec<u8>,
        /// The signing certificate.
        raw_signing_cert: Vec<u8>,
    },
    /// Intel DCAP.
    #[codec(index = 1)]
    SgxDcap {
        /// The quote.
        quote: Vec<u8>,
        /// Its collateral.
        collateral: Option<Collateral>,
    },
}

/// The collateral of a DCAP quote.
#[derive(Encode, Decode, DecodeWithMemTracking, TypeInfo, Clone, PartialEq, Eq, Debug)]
pub enum Collateral {
    /// Version 3.
    #[codec(index = 0)]
    SgxV30(SgxV30QuoteCollateral),
}

/// DCAP collateral, version 3.
#[derive(Encode, Decode, DecodeWithMemTracking, TypeInfo, Clone, PartialEq, Eq, Debug)]
pub struct SgxV30QuoteCollateral {
    /// PEM chain.
    pub pck_crl_issuer_chain: String,
    /// Hex.
    pub root_ca_crl: String,
    /// Hex.
    pub pck_crl: String,
    /// PEM chain.
    pub tcb_info_issuer_chain: String,
    /// JSON.
    pub tcb_info: String,
    /// ECDSA signature.
    pub tcb_info_signature: Vec<u8>,
    /// PEM chain.
    pub qe_identity_issuer_chain: String,
    /// JSON.
    pub qe_identity: String,
    /// ECDSA signature.
    pub qe_identity_signature: Vec<u8>,
}

/// The first version's attestation.
#[derive(Encode, Decode, DecodeWithMemTracking, TypeInfo, Clone, PartialEq, Eq, Debug)]
pub enum Attestation {
    /// Intel's retired service.
    #[codec(index = 0)]
    SgxIas {
        /// The report, JSON.
        ra_report: Vec<u8>,
        /// Its signature.
        signature: Vec<u8>,
        /// The signing certificate.
        raw_signing_cert: Vec<u8>,
    },
}

/// A worker's registration info, version 1.
#[derive(Encode, Decode, DecodeWithMemTracking, TypeInfo, Clone, PartialEq, Eq, Debug)]
pub struct WorkerRegistrationInfo {
    /// Runtime version.
    pub version: u32,
    /// Machine.
    pub machine_id: Vec<u8>,
    /// Identity key.
    pub pubkey: WorkerPublicKey,
    /// ECDH key.
    pub ecdh_pubkey: EcdhPublicKey,
    /// Hash of the relay block that the worker started from.
    pub genesis_block_hash: H256,
    /// Cores and feature level.
    pub features: Vec<u32>,
    /// The worker's operator.
    pub operator: Option<AccountId>,
}

/// A worker's registration info, version 2.
#[derive(Encode, Decode, DecodeWithMemTracking, TypeInfo, Clone, PartialEq, Eq, Debug)]
pub struct WorkerRegistrationInfoV2 {
    /// Runtime version.
    pub version: u32,
    /// Machine.
    pub machine_id: Vec<u8>,
    /// Identity key.
    pub pubkey: WorkerPublicKey,
    /// ECDH key.
    pub ecdh_pubkey: EcdhPublicKey,
    /// Hash of the relay block that the worker started from.
    pub genesis_block_hash: H256,
    /// Cores and feature level.
    pub features: Vec<u32>,
    /// The worker's operator.
    pub operator: Option<AccountId>,
    /// The parachain.
    pub para_id: u32,
    /// Newest consensus version that the worker knows.
    pub max_consensus_version: u32,
}

impl WorkerRegistrationInfo {
    /// Converts it to version 2.
    #[must_use]
    pub fn with(self, para_id: u32, max_consensus_version: u32) -> WorkerRegistrationInfoV2 {
        let Self { version, machine_id, pubkey, ecdh_pubkey, genesis_block_hash, features, operator } = self;
        WorkerRegistrationInfoV2 {
            version,
            machine_id,
            pubkey,
            ecdh_pubkey,
            genesis_block_hash,
            features,
            operator,
            para_id,
            max_consensus_version,
        }
    }
}
