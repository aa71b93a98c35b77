//! GRANDPA justifications and finality proofs.

use std::collections::HashMap;

use codec::{Decode, Encode};
use finality_grandpa::{Commit, Message, Precommit, SignedPrecommit};
use prb_devnet_runtime::Header;
use sp_consensus_grandpa::{
    AuthorityId, AuthorityList, AuthoritySignature, ConsensusLog, GRANDPA_ENGINE_ID, GrandpaJustification,
    SetId, localized_payload,
};
use sp_core::{H256, Pair as _, ed25519};

use super::{ledger::Ledger, state};
use crate::{Error, JustificationOddities};

/// Maximum number of headers in a finality proof, as in real nodes.
const MAX_UNKNOWN_HEADERS: usize = 100_000;
/// Every third authority votes for the child of the justified block.
const CHILD_VOTER_STRIDE: usize = 3;

/// A finality proof as returned by `grandpa_proveFinality`.
#[derive(Debug, Clone, Encode, Decode)]
pub struct FinalityProof {
    /// The block justified.
    pub block: H256,
    /// SCALE of its justification.
    pub justification: Vec<u8>,
    /// The headers after the requested one, up to and including the justified one.
    pub unknown_headers: Vec<Header>,
}

/// Builds the key of a `Grandpa` pallet's value.
pub(crate) fn key(item: &str) -> Vec<u8> {
    let mut key = sp_io::hashing::twox_128(b"Grandpa").to_vec();
    key.extend(sp_io::hashing::twox_128(item.as_bytes()));
    key
}

/// Whether a header ends its authority set.
pub(crate) fn ends_set(header: &Header) -> bool {
    header.digest.logs.iter().filter_map(|log| log.as_consensus()).any(|(engine, data)| {
        engine == GRANDPA_ENGINE_ID
            && matches!(ConsensusLog::<u32>::decode(&mut &data[..]), Ok(ConsensusLog::ScheduledChange(_)))
    })
}

/// Whether a header forces a change of authorities.
pub(crate) fn forces_change(header: &Header) -> bool {
    header.digest.logs.iter().filter_map(|log| log.as_consensus()).any(|(engine, data)| {
        engine == GRANDPA_ENGINE_ID
            && matches!(ConsensusLog::<u32>::decode(&mut &data[..]), Ok(ConsensusLog::ForcedChange(..)))
    })
}

/// Reads the authority set in a state.
pub(crate) fn authority_set(state: &state::State) -> Result<(SetId, AuthorityList), Error> {
    let read = |item| state::read(state, &key(item)).map(Option::unwrap_or_default);
    let decode = |error: codec::Error| Error::State(error.to_string());
    let id = SetId::decode(&mut &read("CurrentSetId")?[..]).map_err(decode)?;
    let list = AuthorityList::decode(&mut &read("Authorities")?[..]).map_err(decode)?;
    Ok((id, list))
}

/// Builds a set's justification of `target`. If the set does not end with the block, some vote for its child,
/// so that the justification carries an ancestry.
pub(crate) fn justify(
    keys: &[(AuthorityId, ed25519::Pair)],
    (set_id, list): &(SetId, AuthorityList),
    target: &Header,
    child: Option<&Header>,
    oddities: JustificationOddities,
) -> Vec<u8> {
    let round = u64::from(target.number);
    let pairs: HashMap<_, _> = keys.iter().map(|(id, pair)| (id, pair)).collect();
    let sign = |id: &AuthorityId, voted: &Header| {
        let precommit = Precommit { target_hash: voted.hash(), target_number: voted.number };
        let message = Message::Precommit(precommit.clone());
        // GRANDPA signs SCALE of (message, round, set id), so a justification is bound to its set.
        let signature = pairs.get(id)?.sign(&localized_payload(round, *set_id, &message));
        Some(SignedPrecommit { precommit, signature: AuthoritySignature::from(signature), id: id.clone() })
    };
    // The next set votes on the child of a set's last block, so the current one stops there.
    let voters_child = child.filter(|_| !ends_set(target));
    let mut ancestry = Vec::new();
    let mut precommits = Vec::with_capacity(list.len());
    for (index, (id, _)) in list.iter().enumerate() {
        let votes_child = index % CHILD_VOTER_STRIDE == CHILD_VOTER_STRIDE - 1;
        let voted = voters_child.filter(|_| votes_child);
        ancestry.extend(voted.filter(|_| ancestry.is_empty()).cloned());
        // All authorities vote, although two thirds of the weight would do: a verifier may count on no fewer.
        precommits.extend(sign(id, voted.unwrap_or(target)));
    }
    if oddities.equivocation
        && let (Some((id, _)), Some(child)) = (list.first(), child)
    {
        precommits.extend(sign(id, child));
        // Votes for a descendant need the headers that lead back to the target, or the commit is invalid.
        ancestry.extend(ancestry.is_empty().then(|| child.clone()));
    }
    if oddities.repeated_header {
        ancestry.extend(ancestry.first().cloned());
    }
    let commit = Commit { target_hash: target.hash(), target_number: target.number, precommits };
    GrandpaJustification::<Header> { round, commit, votes_ancestries: ancestry }.encode()
}

/// Proves a block final, as real nodes do: with the justification of its set's last block or, in the current
/// set, with the newest one, which may be older than the block.
pub(crate) fn prove(ledger: &Ledger, number: u32, finalized: u32) -> Result<Option<FinalityProof>, Error> {
    if number > finalized {
        return Err(Error::Finality(format!(
            "Requested finality proof for descendant of #{number} while we only have finalized #{finalized}."
        )));
    }
    // A verifier that knows only this set can check the justification of its last block, but none of a later
    // set.
    let justified = match ledger.set_end(number).filter(|end| *end <= finalized) {
        Some(end) => ledger.justification(end).map(|justification| (end, justification)),
        None => newest(ledger, finalized),
    };
    let Some((justified, justification)) = justified else { return Ok(None) };
    let Some(block) = ledger.block(justified) else { return Ok(None) };
    let unknown_headers = (number.saturating_add(1)..=justified)
        .take(MAX_UNKNOWN_HEADERS)
        .filter_map(|number| ledger.block(number))
        .map(|block| block.header.clone())
        .collect();
    Ok(Some(FinalityProof { block: block.hash, justification, unknown_headers }))
}

/// Returns the oldest stored justification, without headers.
pub(crate) fn oldest(ledger: &Ledger) -> Option<FinalityProof> {
    let (number, justification) =
        (0..=ledger.finalized()).find_map(|number| Some((number, ledger.justification(number)?)))?;
    let block = ledger.block(number)?.hash;
    Some(FinalityProof { block, justification, unknown_headers: Vec::new() })
}

// A node with a frozen view only knows stored justifications.
fn newest(ledger: &Ledger, finalized: u32) -> Option<(u32, Vec<u8>)> {
    let (number, justification) = ledger.best_justification()?;
    if number <= finalized {
        return Some((number, justification));
    }
    (0..=finalized).rev().find_map(|number| Some((number, ledger.justification(number)?)))
}
