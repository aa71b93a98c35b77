//! Checks finality proofs, justifications and storage proofs.

use codec::{Decode, Encode};
use prb_chain::internals::verify::{FinalityProof, grandpa, header, scale, state};
use prb_core::{primitives::Hash, wire::AuthoritySet};

/// What a node's proofs are checked against.
#[derive(Clone, Debug, Encode, Decode)]
pub struct Input {
    /// The state root, unless the first trie node is the root.
    pub state_root: Option<Hash>,
    /// Trie nodes.
    pub nodes: Vec<Vec<u8>>,
    /// The parachain.
    pub para_id: u32,
    /// A justification.
    pub justification: Vec<u8>,
    /// The block that it has to prove.
    pub number: u32,
    /// Its hash.
    pub hash: Hash,
    /// The set that has to have signed.
    pub set: AuthoritySet,
}

/// Runs the target; panics on a violation.
pub fn run(bytes: &[u8]) {
    if let Ok(proof) = FinalityProof::decode(bytes) {
        let len: usize = proof.headers.iter().map(Vec::len).sum();
        assert!(len + proof.justification.len() < bytes.len());
        for encoded in proof.headers {
            let number = header_number(&encoded);
            let checked = header(Hash::of(&encoded), number, encoded);
            assert!(checked.is_ok(), "a header that was decoded: {checked:?}");
        }
    }
    let _ = grandpa::target(bytes);
    let _ = scale::list(bytes);
    let _ = scale::is_storage_changes(bytes);
    if let Some(mut pairs) = scale::pairs(bytes) {
        // As a state that was written down has them.
        pairs.sort_unstable();
        pairs.dedup_by(|a, b| a.0 == b.0);
        let _ = state::whole_state(Hash::default(), &pairs);
    }
    if let Ok(input) = Input::decode(&mut &*bytes) {
        check(input);
    }
}

fn header_number(encoded: &[u8]) -> u32 {
    codec::Compact::<u32>::decode(&mut &encoded[32..]).unwrap().0
}

fn check(input: Input) {
    // Nodes are found by their hashes: a changed one is only read as the root.
    let root =
        input.state_root.or_else(|| input.nodes.first().map(|node| Hash::of(node))).unwrap_or_default();
    let keys = state::authority_keys();
    let set = state::authority_set(root, input.nodes.clone());
    if let Ok(minimal) = state::minimal("the authorities", root, input.nodes.clone(), &keys) {
        assert!(minimal.len() <= input.nodes.len());
        let again = state::authority_set(root, minimal);
        assert_eq!(again.ok(), set.ok(), "the minimal proof proves the same");
    }
    let _ = state::authorities(root, &input.nodes);
    let _ = state::para_head(root, input.nodes, input.para_id);
    if grandpa::check(&input.justification, &input.set, input.number, input.hash).is_ok() {
        assert_eq!(grandpa::target(&input.justification).ok(), Some((input.number, input.hash)));
    }
}
