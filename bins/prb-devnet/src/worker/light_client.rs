//! The relay chain's light client: tracks headers that the authority set has finalised.

use std::sync::Arc;

use codec::{Compact, Encode};
use prb_core::wire::{AuthoritySet, GenesisBlockInfo, Header, HeaderToSync};
use sp_core::H256;

use super::{Refusal, justification::Verdicts, keys, proof::Proof};

/// The last finalised header, and the set that finalises the next ones.
#[derive(Clone, Debug)]
pub(crate) struct LightClient {
    last: H256,
    set: Arc<AuthoritySet>,
}

impl LightClient {
    /// Starts from a header and its proven authorities. The set's id is trusted, as in pRuntime.
    ///
    /// # Errors
    /// A text for the log if the proof does not contain these authorities.
    pub(crate) fn new(genesis: GenesisBlockInfo) -> Result<Self, String> {
        let proof = Proof::new(H256(genesis.block_header.state_root.0), &genesis.proof);
        let list = genesis.authority_set.list.encode();
        let proven = match proof.read(&keys::grandpa_authorities()) {
            Ok(Some(proven)) => proven == list,
            _ => {
                // Older relay chains have the list under a well-known key, after a version byte.
                let old = proof.read(keys::OLD_GRANDPA_AUTHORITIES)?;
                old.ok_or("storage value unavailable")?.split_first().is_some_and(|(_, l)| l == list)
            }
        };
        if !proven {
            return Err("validator set mismatch".into());
        }
        let last = hash(&genesis.block_header);
        Ok(Self { last, set: Arc::new(genesis.authority_set) })
    }

    /// Accepts a batch of chained headers, the last one justified.
    ///
    /// # Errors
    /// pRuntime's reason, inside `HeaderValidateFailed(…)`.
    pub(crate) fn advance(
        &mut self,
        headers: &[HeaderToSync],
        justification: &[u8],
        verdicts: &Verdicts,
    ) -> Result<(), Refusal> {
        let failed = |reason: &str| Refusal::HeaderValidateFailed(reason.into());
        let (Some(first), Some(last)) = (headers.first(), headers.last()) else { return Ok(()) };
        // The batch's number fits, but it may be of another branch.
        if first.header.parent_hash.0 != self.last.0 {
            return Err(failed("invalid ancestry proof"));
        }
        let last = &last.header;
        let last_hash = hash(last);
        verdicts.verify(justification, (last_hash, last.number), &self.set).map_err(failed)?;
        let change = last.scheduled_change();
        // With a delay, the block where the set changes would have no digest of its own. Relay chains announce
        // changes without one.
        if change.as_ref().is_some_and(|change| change.delay != 0) {
            return Err(failed("unsupported authority set change delay"));
        }
        // Nothing is stored before all checks have passed: a refused batch leaves the client as it was.
        self.last = last_hash;
        if let Some(change) = change {
            // Only the last header's change counts: one inside the batch would need another set's signatures,
            // so a batch crosses at most one set change, at its end.
            let id = self.set.id.wrapping_add(1);
            self.set = Arc::new(AuthoritySet { list: change.next_authorities, id });
        }
        Ok(())
    }
}

pub(crate) fn hash(header: &Header) -> H256 {
    H256(header.hash().0)
}

/// Whether each header's parent is the one before it.
pub(crate) fn chained<'a>(headers: impl IntoIterator<Item = &'a Header>) -> bool {
    let mut parent = None;
    headers.into_iter().all(|header| {
        let follows = parent.is_none_or(|parent: H256| parent.0 == header.parent_hash.0);
        parent = Some(hash(header));
        follows
    })
}

/// Encodes a header as the value of `Paras::Heads`: a SCALE byte vector of the encoded header.
pub(crate) fn as_para_head(header: &Header) -> Vec<u8> {
    let header = header.encode();
    let mut head = Compact(u32::try_from(header.len()).unwrap_or(u32::MAX)).encode();
    head.extend(header);
    head
}
