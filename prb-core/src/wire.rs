//! SCALE layouts used by pRuntime and the Phala pallets.
//!
//! The order of fields defines the format: it is fixed by pRuntime 2.x and by the parachain's runtime.
//! Batches are assembled from already encoded items, because a SCALE `Vec` is a compact length followed by
//! its items: see [`encode_vec_from_parts`].

use std::{collections::BTreeMap, fmt};

use codec::{Compact, Decode, Encode};

use crate::primitives::{AccountId, Hash, WorkerKey};

/// Consensus engine id of GRANDPA in digests and justifications.
pub const GRANDPA_ENGINE_ID: [u8; 4] = *b"FRNK";

/// Substrate's sr25519 signing context.
pub(crate) const SIGNING_CONTEXT: &[u8] = b"substrate";

/// A block header of either chain (Substrate's generic header with 32-bit numbers and blake2-256).
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Header {
    /// Hash of the parent's header.
    pub parent_hash: Hash,
    /// Block number.
    #[codec(compact)]
    pub number: u32,
    /// Root of the state trie after this block.
    pub state_root: Hash,
    /// Root of the extrinsics' trie.
    pub extrinsics_root: Hash,
    /// Digest items of the consensus engines and the runtime.
    pub digest: Vec<DigestItem>,
}

impl Header {
    /// The block's hash: blake2-256 of the encoded header.
    pub fn hash(&self) -> Hash {
        Hash::of(&self.encode())
    }

    /// The authority set change that this relay block schedules, with its delay in blocks.
    pub fn scheduled_change(&self) -> Option<ScheduledChange> {
        self.digest.iter().find_map(|item| match item {
            DigestItem::Consensus(GRANDPA_ENGINE_ID, data) => match data.split_first() {
                // `ConsensusLog::ScheduledChange` is variant 1.
                Some((1, rest)) => ScheduledChange::decode(&mut &*rest).ok(),
                _ => None,
            },
            _ => None,
        })
    }
}

/// An item of a header's digest.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum DigestItem {
    /// Any other item.
    #[codec(index = 0)]
    Other(Vec<u8>),
    /// From the runtime to a consensus engine.
    #[codec(index = 4)]
    Consensus([u8; 4], Vec<u8>),
    /// The author's seal.
    #[codec(index = 5)]
    Seal([u8; 4], Vec<u8>),
    /// From a consensus engine to the runtime.
    #[codec(index = 6)]
    PreRuntime([u8; 4], Vec<u8>),
    /// The runtime's code or heap pages changed.
    #[codec(index = 8)]
    RuntimeEnvironmentUpdated,
}

/// A GRANDPA authority list: ed25519 public keys and their weights.
pub type AuthorityList = Vec<([u8; 32], u64)>;

/// GRANDPA's scheduled change of authorities.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct ScheduledChange {
    /// The next set.
    pub next_authorities: AuthorityList,
    /// Blocks until it takes effect; pRuntime accepts 0 only.
    pub delay: u32,
}

/// A GRANDPA authority set.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct AuthoritySet {
    /// Its members.
    pub list: AuthorityList,
    /// Its number, counted from genesis.
    pub id: u64,
}

/// The next authority set with a storage proof of it. Needed by old versions of pRuntime; current ones still
/// decode it, but ignore it.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct AuthoritySetChange {
    /// The set in force after the batch's last header.
    pub authority_set: AuthoritySet,
    /// Trie nodes that prove it under that header's state root.
    pub authority_proof: Vec<Vec<u8>>,
}

/// The starting point of `InitRuntime`: the relay block before the relay parent of parachain block 1.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct GenesisBlockInfo {
    /// The relay block's header.
    pub block_header: Header,
    /// The authorities in its state.
    pub authority_set: AuthoritySet,
    /// Trie nodes that prove them, and `Grandpa::CurrentSetId`.
    pub proof: Vec<Vec<u8>>,
}

/// A relay header as sent to a worker.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct HeaderToSync {
    /// The header.
    pub header: Header,
    /// Its GRANDPA justification; required on the last header of a batch.
    pub justification: Option<Vec<u8>>,
}

/// Keys and values of one trie; `None` if the key was removed.
pub type KeyChanges = Vec<(Vec<u8>, Option<Vec<u8>>)>;

/// All state changes of one parachain block.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct StorageChanges {
    /// Changes of the main trie.
    pub main: KeyChanges,
    /// Changes of child tries, by their unprefixed keys.
    pub child: Vec<(Vec<u8>, KeyChanges)>,
}

/// A parachain block as sent to a worker. `DispatchBlocks` only reads the header's number.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct BlockHeaderWithChanges {
    /// The header.
    pub block_header: Header,
    /// The state changes of the block.
    pub storage_changes: StorageChanges,
}

/// The sender of a message in the message queue.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub enum MessageOrigin {
    /// A pallet, by name.
    #[codec(index = 0)]
    Pallet(Vec<u8>),
    /// A contract.
    #[codec(index = 1)]
    Contract(Hash),
    /// A worker.
    #[codec(index = 2)]
    Worker(WorkerKey),
    /// A user's account.
    #[codec(index = 3)]
    AccountId(Hash),
    /// A location of another chain.
    #[codec(index = 4)]
    MultiLocation(Vec<u8>),
    /// The gatekeepers, as one sender.
    #[codec(index = 5)]
    Gatekeeper,
    /// A cluster of contracts.
    #[codec(index = 6)]
    Cluster(Hash),
    /// Never used by a sender.
    #[codec(index = 255)]
    Reserved,
}

impl fmt::Display for MessageOrigin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pallet(name) => write!(f, "pallet {}", String::from_utf8_lossy(name)),
            Self::Contract(id) => write!(f, "contract {id}"),
            Self::Worker(key) => write!(f, "worker {key}"),
            Self::AccountId(id) => write!(f, "account {id}"),
            Self::MultiLocation(location) => write!(f, "location 0x{}", hex::encode(location)),
            Self::Gatekeeper => f.write_str("the gatekeepers"),
            Self::Cluster(id) => write!(f, "cluster {id}"),
            Self::Reserved => f.write_str("a reserved sender"),
        }
    }
}

/// A message between chain and workers.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Message {
    /// The sender.
    pub sender: MessageOrigin,
    /// Its topic.
    pub destination: Vec<u8>,
    /// The content; its layout depends on the topic.
    pub payload: Vec<u8>,
}

/// A worker's message, signed so that untrusted parties can relay it.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct SignedMessage {
    /// The message.
    pub message: Message,
    /// Its position in the sender's sequence; the chain accepts messages strictly in order.
    pub sequence: u64,
    /// 64 bytes of sr25519 over the encoded message and sequence.
    pub signature: Vec<u8>,
}

impl SignedMessage {
    /// Whether its sender has signed it; `None` if only the chain knows the sender's key.
    ///
    /// A message with a wrong signature costs a fee and has no effect.
    pub fn is_signed(&self) -> Option<bool> {
        let MessageOrigin::Worker(key) = &self.message.sender else { return None };
        let signed = || {
            let key = schnorrkel::PublicKey::from_bytes(&key.0).ok()?;
            let signature = schnorrkel::Signature::from_bytes(&self.signature).ok()?;
            let bytes = (&self.message, self.sequence).encode();
            key.verify_simple(SIGNING_CONTEXT, &bytes, &signature).ok()
        };
        Some(signed().is_some())
    }
}

/// The answer of `GetEgressMessages`: messages for the chain, by sender.
pub type EgressMessages = Vec<(MessageOrigin, Vec<SignedMessage>)>;

/// Groups messages by the sender that signed them, each sender's in sequence order and without duplicates.
///
/// A worker sends as itself and possibly as the gatekeepers, a cluster or a contract. The chain counts each
/// sender's messages separately. The sender inside of a message decides, not the group that it was returned
/// in: the chain verifies signature and sequence of the former.
pub fn messages_by_sender(messages: EgressMessages) -> BTreeMap<MessageOrigin, Vec<SignedMessage>> {
    let mut by_sender = BTreeMap::<_, Vec<_>>::new();
    for message in messages.into_iter().flat_map(|(_, messages)| messages) {
        by_sender.entry(message.message.sender.clone()).or_default().push(message);
    }
    for run in by_sender.values_mut() {
        run.sort_by_key(|message| message.sequence);
        // A worker that answers with a message twice must not make two jobs of it.
        run.dedup_by_key(|message| message.sequence);
    }
    by_sender
}

/// The registration data of a worker.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct WorkerRegistrationInfoV2 {
    /// pRuntime's version, packed.
    pub version: u32,
    /// The machine's id.
    pub machine_id: Vec<u8>,
    /// The worker's public key.
    pub pubkey: WorkerKey,
    /// Its key for encrypted messages.
    pub ecdh_pubkey: [u8; 32],
    /// Hash of the relay block that the worker was initialised with.
    pub genesis_block_hash: Hash,
    /// Feature numbers, such as cores.
    pub features: Vec<u32>,
    /// The account that may add the worker to its pool.
    pub operator: Option<AccountId>,
    /// The parachain's id.
    pub para_id: u32,
    /// The newest consensus version that the worker supports.
    pub max_consensus_version: u32,
}

/// The registration data of a worker that attests by the retired IAS.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct WorkerRegistrationInfo {
    /// pRuntime's version, packed.
    pub version: u32,
    /// The machine's id.
    pub machine_id: Vec<u8>,
    /// The worker's public key.
    pub pubkey: WorkerKey,
    /// Its key for encrypted messages.
    pub ecdh_pubkey: [u8; 32],
    /// Hash of the relay block that the worker was initialised with.
    pub genesis_block_hash: Hash,
    /// Feature numbers, such as cores.
    pub features: Vec<u32>,
    /// The account that may add the worker to its pool.
    pub operator: Option<AccountId>,
}

impl From<WorkerRegistrationInfoV2> for WorkerRegistrationInfo {
    fn from(info: WorkerRegistrationInfoV2) -> Self {
        let WorkerRegistrationInfoV2 {
            version,
            machine_id,
            pubkey,
            ecdh_pubkey,
            genesis_block_hash,
            features,
            operator,
            ..
        } = info;
        Self { version, machine_id, pubkey, ecdh_pubkey, genesis_block_hash, features, operator }
    }
}

/// The attestation of a worker by the retired IAS.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Attestation {
    /// A report of Intel's attestation service.
    #[codec(index = 0)]
    SgxIas {
        /// The report, in JSON.
        ra_report: Vec<u8>,
        /// Its signature.
        signature: Vec<u8>,
        /// The certificate that it is signed with.
        raw_signing_cert: Vec<u8>,
    },
}

/// The provider of an attestation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Encode, Decode)]
pub enum AttestationProvider {
    /// The chain's root key.
    #[codec(index = 0)]
    Root,
    /// Intel's attestation service (retired).
    #[codec(index = 1)]
    Ias,
    /// DCAP quotes.
    #[codec(index = 2)]
    Dcap,
}

/// The attestation of a worker's enclave, as an argument of `register_worker_v2`.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum AttestationReport {
    /// A report of Intel's attestation service (retired).
    #[codec(index = 0)]
    SgxIas {
        /// The report, in JSON.
        ra_report: Vec<u8>,
        /// Its signature.
        signature: Vec<u8>,
        /// The certificate that it is signed with.
        raw_signing_cert: Vec<u8>,
    },
    /// A DCAP quote.
    #[codec(index = 1)]
    SgxDcap {
        /// The quote.
        quote: Vec<u8>,
        /// The collateral of the quote. The chain accepts no quote without it.
        collateral: Option<Collateral>,
    },
}

/// The collateral of a DCAP quote: certificates, revocation lists and Intel's signed statements.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub enum Collateral {
    /// Version 3 of Intel's format.
    #[codec(index = 0)]
    SgxV30(SgxV30QuoteCollateral),
}

/// DCAP collateral, version 3 of Intel's format.
#[derive(Clone, Debug, Default, PartialEq, Eq, Encode, Decode)]
pub struct SgxV30QuoteCollateral {
    /// Issuer chain of `pck_crl`, PEM.
    pub pck_crl_issuer_chain: String,
    /// Revocation list of the root CA, DER in hexadecimal.
    pub root_ca_crl: String,
    /// Revocation list of platform certificates, DER in hexadecimal.
    pub pck_crl: String,
    /// Issuer chain of `tcb_info`, PEM.
    pub tcb_info_issuer_chain: String,
    /// State of the platform's trusted computing base, in JSON.
    pub tcb_info: String,
    /// Its signature.
    pub tcb_info_signature: Vec<u8>,
    /// Issuer chain of `qe_identity`, PEM.
    pub qe_identity_issuer_chain: String,
    /// Identity of the quoting enclave, in JSON.
    pub qe_identity: String,
    /// Its signature.
    pub qe_identity_signature: Vec<u8>,
}

/// A signed endpoint of a worker.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub struct WorkerEndpointPayload {
    /// The worker's public key.
    pub pubkey: WorkerKey,
    /// Its endpoints.
    pub versioned_endpoints: VersionedWorkerEndpoints,
    /// When it was signed, in milliseconds since the Unix epoch.
    pub signing_time: u64,
}

impl WorkerEndpointPayload {
    /// Domain separator: precedes the encoded payload in the signed bytes, so that the signature is valid for
    /// nothing else.
    pub const SIGNED_PREFIX: [u8; 2] = [0xff, 0x02];

    /// The bytes that the worker signs with sr25519.
    pub fn signed_bytes(&self) -> Vec<u8> {
        let mut bytes = Self::SIGNED_PREFIX.to_vec();
        self.encode_to(&mut bytes);
        bytes
    }
}

/// Endpoints, by version of the format.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Encode, Decode)]
pub enum VersionedWorkerEndpoints {
    /// A list of URLs.
    #[codec(index = 0)]
    V1(Vec<String>),
}

/// Encodes a SCALE `Vec` from already encoded items.
pub fn encode_vec_from_parts<'a>(count: u32, parts: impl IntoIterator<Item = &'a [u8]>, into: &mut Vec<u8>) {
    Compact(count).encode_to(into);
    for part in parts {
        into.extend_from_slice(part);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_vec_of_parts_is_the_vec() {
        let items = vec![vec![1u8, 2], vec![], vec![3]];
        let parts: Vec<_> = items.iter().map(Encode::encode).collect();
        let mut out = Vec::new();
        encode_vec_from_parts(3, parts.iter().map(Vec::as_slice), &mut out);
        assert_eq!(out, items.encode());
    }

    #[test]
    fn origins_have_their_indexes() {
        assert_eq!(MessageOrigin::Worker(WorkerKey([7; 32])).encode()[0], 2);
        assert_eq!(MessageOrigin::Gatekeeper.encode(), [5]);
        assert_eq!(MessageOrigin::Reserved.encode(), [255]);
    }

    #[test]
    fn messages_of_every_sender_are_in_order_and_never_mixed() {
        let message = |sender: &MessageOrigin, sequence| SignedMessage {
            message: Message { sender: sender.clone(), destination: vec![], payload: vec![] },
            sequence,
            signature: vec![],
        };
        let (worker, gatekeeper) = (MessageOrigin::Worker(WorkerKey([1; 32])), MessageOrigin::Gatekeeper);
        let cluster = MessageOrigin::Cluster(Hash([2; 32]));
        let egress = vec![
            (gatekeeper.clone(), vec![message(&gatekeeper, 8), message(&gatekeeper, 7)]),
            (worker.clone(), vec![message(&worker, 3), message(&worker, 3)]),
            (cluster.clone(), vec![]),
            // A message in a group that is not its own.
            (worker.clone(), vec![message(&worker, 2), message(&gatekeeper, 9)]),
        ];
        let grouped = messages_by_sender(egress);
        let runs: Vec<_> = grouped
            .iter()
            .map(|(sender, run)| {
                assert!(run.iter().all(|m| m.message.sender == *sender));
                (sender, run.iter().map(|m| m.sequence).collect::<Vec<_>>())
            })
            .collect();
        assert_eq!(runs, [(&worker, vec![2, 3]), (&gatekeeper, vec![7, 8, 9])]);
    }

    #[test]
    fn a_scheduled_change_is_found() {
        let change = ScheduledChange { next_authorities: vec![([9; 32], 1)], delay: 0 };
        let mut log = vec![1];
        change.encode_to(&mut log);
        let header = Header {
            parent_hash: Hash::default(),
            number: 5,
            state_root: Hash::default(),
            extrinsics_root: Hash::default(),
            digest: vec![
                DigestItem::Seal(*b"BABE", vec![0; 64]),
                DigestItem::Consensus(GRANDPA_ENGINE_ID, log),
            ],
        };
        assert_eq!(header.scheduled_change(), Some(change));
        assert_eq!(Header::decode(&mut &*header.encode()).unwrap(), header);
    }
}
