//! Registration infos and the attestation reports that vouch for them.

use codec::{Decode, DecodeWithMemTracking, Encode};
use scale_info::TypeInfo;
use sp_core::H256;

use super::{AccountId, EcdhPublicKey, WorkerPublicKey};

/// Who vouches for a worker.
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

/// An attestation report, as [`WorkerRegistrationInfoV2`] comes with it.
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
        /// What it is verified with.
        collateral: Option<Collateral>,
    },
}

/// What a DCAP quote is verified with.
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

/// What a worker says of itself, first version.
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
    /// Whom the worker serves.
    pub operator: Option<AccountId>,
}

/// What a worker says of itself.
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
    /// Whom the worker serves.
    pub operator: Option<AccountId>,
    /// The parachain.
    pub para_id: u32,
    /// Newest consensus version that the worker knows.
    pub max_consensus_version: u32,
}

impl WorkerRegistrationInfo {
    /// The same in the second version.
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
