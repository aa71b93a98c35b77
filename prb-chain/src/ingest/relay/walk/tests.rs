#![allow(clippy::unwrap_used)]

use codec::Encode;
use finality_grandpa::Commit;
use prb_core::wire::{DigestItem, GRANDPA_ENGINE_ID, Header, ScheduledChange};
use sp_consensus_grandpa::GrandpaJustification;
use sp_core::H256;
use sp_runtime::{generic, traits::BlakeTwo256};

use super::*;

/// The tip, after which proofs are requested.
const TIP: u32 = 100;

fn tip() -> RelayNumber {
    RelayNumber(TIP)
}

fn justification(number: u32) -> Vec<u8> {
    type Block = generic::Header<u32, BlakeTwo256>;
    let commit = Commit { target_hash: H256::zero(), target_number: number, precommits: vec![] };
    GrandpaJustification::<Block> { round: 1, commit, votes_ancestries: vec![] }.encode()
}

/// Headers of a span, the last of which may end its set.
fn headers(first: u32, last: u32, ends_set: bool) -> Vec<Vec<u8>> {
    let mut parent_hash = Hash([1; 32]);
    let header = |number| {
        let mut log = vec![1];
        ScheduledChange { next_authorities: vec![([1; 32], 1)], delay: 0 }.encode_to(&mut log);
        let digest = match number == last && ends_set {
            true => vec![DigestItem::Consensus(GRANDPA_ENGINE_ID, log)],
            false => vec![],
        };
        let header = Header {
            parent_hash,
            number,
            state_root: Hash::default(),
            extrinsics_root: Hash::default(),
            digest,
        };
        parent_hash = header.hash();
        header.encode()
    };
    (first..=last).map(header).collect()
}

fn proof(justified: u32, headers: Vec<Vec<u8>>) -> FinalityProof {
    FinalityProof { block: Hash([9; 32]), justification: justification(justified), headers }
}

fn evaluated(tip_ends_set: bool, proof: &FinalityProof) -> Evaluated {
    evaluate(tip(), tip_ends_set, Some(proof)).unwrap()
}

#[test]
fn question_names_a_block_of_the_wanted_set() {
    assert_eq!(requested_block(TIP, false), TIP);
    assert_eq!(requested_block(TIP, true), TIP + 1);
}

#[test]
fn proofs_beyond_the_tip_are_accepted() {
    let cases = [
        // tip ends its set, first header, justified block, it ends its set, header that the proof omits
        (false, TIP + 1, TIP + 10, true, None),
        (false, TIP + 1, TIP + 1, false, None),
        (true, TIP + 2, TIP + 10, true, Some(Hash([1; 32]))),
        (true, TIP + 2, TIP + 1, false, Some(Hash([9; 32]))),
    ];
    for (tip_ends_set, first, last, ends_set, missing) in cases {
        let proof = proof(last, headers(first, last, ends_set));
        assert_eq!(
            evaluated(tip_ends_set, &proof),
            Evaluated::Reaches { last, missing, ends_set },
            "{first} to {last}"
        );
    }
}

#[test]
fn useless_proofs_are_distinguished_from_wrong_ones() {
    let old = proof(TIP - 50, vec![]);
    let tip_itself = proof(TIP, vec![]);
    let cut = proof(TIP + 500, headers(TIP + 1, TIP + 100, false));
    let tip_only = proof(TIP + 500, vec![]);
    for (tip_ends_set, proof) in [
        (false, &old),
        (true, &old),
        (false, &tip_itself),
        (true, &tip_itself),
        (false, &cut),
        (true, &tip_only),
    ] {
        let worth = evaluated(tip_ends_set, proof);
        assert!(matches!(worth, Evaluated::Nothing(_)), "{worth:?}");
    }
    assert!(matches!(evaluate(tip(), false, None), Ok(Evaluated::Nothing(_))));
    // An honest node never returns an undecodable justification.
    let garbled = FinalityProof { justification: vec![1, 2, 3], ..old };
    evaluate(tip(), false, Some(&garbled)).unwrap_err();
}
