//! Storage keys that a worker reads, on both chains.

use codec::Encode;
use prb_core::{primitives::WorkerKey, wire::MessageOrigin};
use sp_io::hashing::{twox_64, twox_128};

fn item(pallet: &str, item: &str) -> Vec<u8> {
    [twox_128(pallet.as_bytes()), twox_128(item.as_bytes())].concat()
}

// Like FRAME's `Twox64Concat`: the hash, followed by the key itself.
fn twox_64_concat(mut prefix: Vec<u8>, key: &impl Encode) -> Vec<u8> {
    let key = key.encode();
    prefix.extend(twox_64(&key));
    prefix.extend(key);
    prefix
}

/// `PhalaMq::OutboundMessages`.
pub(crate) fn outbound_messages() -> Vec<u8> {
    item("PhalaMq", "OutboundMessages")
}

/// `PhalaMq::OffchainIngress` of a sender.
pub(crate) fn offchain_ingress(sender: &MessageOrigin) -> Vec<u8> {
    twox_64_concat(item("PhalaMq", "OffchainIngress"), sender)
}

/// `PhalaRegistry::Workers` of a worker.
pub(crate) fn worker(key: &WorkerKey) -> Vec<u8> {
    twox_64_concat(item("PhalaRegistry", "Workers"), key)
}

/// `PhalaRegistry::MinimumPRuntimeVersion`.
pub(crate) fn minimum_pruntime_version() -> Vec<u8> {
    item("PhalaRegistry", "MinimumPRuntimeVersion")
}

/// `Timestamp::Now`.
pub(crate) fn now() -> Vec<u8> {
    item("Timestamp", "Now")
}

/// `ParachainInfo::ParachainId`.
pub(crate) fn para_id() -> Vec<u8> {
    item("ParachainInfo", "ParachainId")
}

/// The relay chain's `Paras::Heads` of a parachain.
pub(crate) fn para_head(para_id: u32) -> Vec<u8> {
    twox_64_concat(item("Paras", "Heads"), &para_id)
}

/// The relay chain's `Grandpa::Authorities`.
pub(crate) fn grandpa_authorities() -> Vec<u8> {
    item("Grandpa", "Authorities")
}

/// Key under which old relay chains store the authorities, with a version byte in front of the value.
pub(crate) const OLD_GRANDPA_AUTHORITIES: &[u8] = b":grandpa_authorities";
