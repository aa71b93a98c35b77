//! Tests of `InitRuntime` and `SyncHeader`.

use prb_core::{
    primitives::Hash,
    wire::{DigestItem, GRANDPA_ENGINE_ID, HeaderToSync, ScheduledChange},
};

use super::{
    chain::{relay_trie, set, substrate},
    *,
};
use crate::worker::keys;

const COMMIT: &str =
    "HeaderValidateFailed(bad justification for header: invalid commit in grandpa justification)";
const SIGNATURE: &str = "HeaderValidateFailed(bad justification for header: invalid signature for \
                         precommit in grandpa justification)";
const TARGET: &str =
    "HeaderValidateFailed(bad justification for header: invalid commit target in grandpa justification)";
const ANCESTRY: &str = "HeaderValidateFailed(invalid ancestry proof)";

fn chain() -> MiniChain {
    MiniChain::new(12, 4, &[5, 9], 3)
}

fn justified_by(chain: &MiniChain, justification: Vec<u8>) -> Vec<HeaderToSync> {
    let mut headers = chain.relay_headers(2..=4);
    headers.last_mut().unwrap().justification = Some(justification);
    headers
}

#[test]
fn batches_may_end_at_any_block_up_to_the_set_change() {
    let chain = chain();
    let mut worker = started(&chain);
    for range in [2..=3, 4..=5, 6..=9, 10..=10, 11..=12] {
        let end = *range.end();
        assert_eq!(worker.sync_relay(chain.relay_headers(range)).unwrap(), end);
        assert_eq!(cursors(&worker), (end + 1, 0, 1));
        assert!(worker.info().waiting_for_paraheaders);
    }
}

#[test]
fn known_headers_are_skipped() {
    let chain = chain();
    let mut worker = started(&chain);
    worker.sync_relay(chain.relay_headers(2..=3)).unwrap();
    assert_eq!(worker.sync_relay(chain.relay_headers(2..=3)).unwrap(), 3);
    assert_eq!(worker.sync_relay(chain.relay_headers(2..=5)).unwrap(), 5);
    assert_eq!(worker.sync_relay(Vec::new()).unwrap(), 5);
}

#[test]
fn first_header_must_be_the_expected_one() {
    let chain = chain();
    let mut worker = started(&chain);
    assert_eq!(refused(worker.sync_relay(chain.relay_headers(3..=4))), "BlockNumberMismatch");
    assert_eq!(cursors(&worker).0, 2);
}

#[test]
fn tampered_header_is_refused() {
    let chain = chain();
    let mut worker = started(&chain);
    let tampered = |at: usize| {
        let mut headers = chain.relay_headers(2..=4);
        headers[at].header.extrinsics_root = Hash([1; 32]);
        headers
    };
    assert_eq!(refused(worker.sync_relay(tampered(0))), "HeaderHashMismatch");
    assert_eq!(refused(worker.sync_relay(tampered(1))), "HeaderHashMismatch");
    assert_eq!(refused(worker.sync_relay(tampered(2))), TARGET);
    let mut fork = chain.relay_headers(2..=2);
    fork[0].header.parent_hash = Hash([1; 32]);
    assert_eq!(refused(worker.sync_relay(fork)), ANCESTRY);
    assert_eq!(worker.sync_relay(chain.relay_headers(2..=4)).unwrap(), 4);
}

#[test]
fn last_header_must_be_justified() {
    let chain = chain();
    let mut worker = started(&chain);
    let mut headers = chain.relay_headers(2..=4);
    headers[1].justification = headers[2].justification.take();
    assert_eq!(refused(worker.sync_relay(headers)), "MissingJustification");
}

#[test]
fn justification_must_decode_and_name_the_last_header() {
    let chain = chain();
    let mut worker = started(&chain);
    let garbage = justified_by(&chain, vec![1, 2, 3]);
    assert_eq!(
        refused(worker.sync_relay(garbage)),
        "HeaderValidateFailed(error decoding justification for header)"
    );
    let other_block = justified_by(&chain, chain.justification(3).encode());
    assert_eq!(refused(worker.sync_relay(other_block)), TARGET);
}

#[test]
fn justification_of_another_set_is_refused() {
    let chain = chain();
    let mut worker = started(&chain);
    // The same authorities with another set id.
    let other_id = justified_by(&chain, chain.signed(4, 0, 1, &[4; 4]).encode());
    assert_eq!(refused(worker.sync_relay(other_id)), SIGNATURE);
    // No authority of the current set.
    let strangers = justified_by(&chain, chain.signed(4, 9, 0, &[4; 4]).encode());
    assert_eq!(refused(worker.sync_relay(strangers)), COMMIT);
    // Half of the current set.
    let half = justified_by(&chain, chain.signed(4, 2, 0, &[4; 4]).encode());
    assert_eq!(refused(worker.sync_relay(half)), COMMIT);
}

#[test]
fn forged_signature_is_refused() {
    let chain = chain();
    let mut worker = started(&chain);
    let mut forged = chain.signed(4, 0, 0, &[4; 4]);
    forged.commit.precommits[2].signature = forged.commit.precommits[1].signature.clone();
    assert_eq!(refused(worker.sync_relay(justified_by(&chain, forged.encode()))), SIGNATURE);
}

#[test]
fn more_than_two_thirds_must_sign() {
    let of_four = chain();
    let mut worker = started(&of_four);
    let two = justified_by(&of_four, of_four.signed(4, 0, 0, &[4; 2]).encode());
    assert_eq!(refused(worker.sync_relay(two)), COMMIT);
    let three = justified_by(&of_four, of_four.signed(4, 0, 0, &[4; 3]).encode());
    assert_eq!(worker.sync_relay(three).unwrap(), 4);

    let of_three = MiniChain::new(6, 3, &[], 1);
    let mut worker = started(&of_three);
    let two = justified_by(&of_three, of_three.signed(4, 0, 0, &[4; 2]).encode());
    assert_eq!(refused(worker.sync_relay(two)), COMMIT);
    let three = justified_by(&of_three, of_three.signed(4, 0, 0, &[4; 3]).encode());
    assert_eq!(worker.sync_relay(three).unwrap(), 4);
}

#[test]
fn votes_for_descendants_need_their_headers_and_no_others() {
    let chain = MiniChain::new(8, 4, &[], 1);
    let mut worker = started(&chain);
    let mut missing = chain.signed(4, 0, 0, &[4, 4, 5, 6]);
    missing.votes_ancestries.remove(0);
    assert_eq!(refused(worker.sync_relay(justified_by(&chain, missing.encode()))), COMMIT);
    let mut unused = chain.signed(4, 0, 0, &[4, 4, 4, 4]);
    unused.votes_ancestries.push(substrate(&chain.relay[&7].header));
    let reason = refused(worker.sync_relay(justified_by(&chain, unused.encode())));
    assert!(reason.ends_with("with unused headers)"), "{reason}");
    let whole = chain.signed(4, 0, 0, &[4, 4, 5, 6]);
    assert_eq!(worker.sync_relay(justified_by(&chain, whole.encode())).unwrap(), 4);
}

#[test]
fn batch_cannot_cross_a_set_change() {
    // Sets of four overlap by three: the next set's votes count, but its signatures are not valid.
    let overlapping = chain();
    let mut worker = started(&overlapping);
    assert_eq!(refused(worker.sync_relay(overlapping.relay_headers(2..=7))), SIGNATURE);
    assert_eq!(refused(worker.sync_relay(overlapping.relay_headers(2..=10))), COMMIT);
    assert_eq!(cursors(&worker).0, 2);
    // Of three, all must sign.
    let strict = MiniChain::new(12, 3, &[5, 9], 1);
    let mut worker = started(&strict);
    assert_eq!(refused(worker.sync_relay(strict.relay_headers(2..=7))), COMMIT);
    assert_eq!(refused(worker.sync_relay(strict.relay_headers(2..=10))), COMMIT);
    assert_eq!(worker.sync_relay(strict.relay_headers(2..=5)).unwrap(), 5);
    assert_eq!(worker.sync_relay(strict.relay_headers(6..=9)).unwrap(), 9);
}

#[test]
fn old_set_cannot_finalise_after_a_change() {
    let chain = chain();
    let mut worker = started(&chain);
    worker.sync_relay(chain.relay_headers(2..=5)).unwrap();
    let mut headers = chain.relay_headers(6..=7);
    headers[1].justification = Some(chain.signed(7, 0, 0, &[7; 4]).encode());
    assert_eq!(refused(worker.sync_relay(headers)), SIGNATURE);
    assert_eq!(worker.sync_relay(chain.relay_headers(6..=7)).unwrap(), 7);
}

#[test]
fn delayed_set_change_is_refused() {
    let mut chain = MiniChain::new(4, 4, &[], 1);
    let change = ScheduledChange { next_authorities: set(1, 4), delay: 2 };
    let log = [vec![1], change.encode()].concat();
    let header = &mut chain.relay.get_mut(&4).unwrap().header;
    header.digest.push(DigestItem::Consensus(GRANDPA_ENGINE_ID, log));
    let mut worker = started(&chain);
    let reason = refused(worker.sync_relay(chain.relay_headers(2..=4)));
    assert!(reason.starts_with("HeaderValidateFailed("), "{reason}");
}

#[test]
fn start_must_prove_its_authorities() {
    let chain = chain();
    let aborted = |init: Init| {
        let mut worker = verifier(&Shared::default());
        let refusal = worker.init(init).unwrap_err();
        assert!(!worker.info().initialized);
        matches!(refusal, Refusal::Abort(_))
    };
    let mut no_proof = init(&chain);
    no_proof.genesis.proof.clear();
    assert!(aborted(no_proof));
    let mut other_list = init(&chain);
    other_list.genesis.authority_set.list = set(1, 4);
    assert!(aborted(other_list));
}

#[test]
fn authorities_of_old_relay_chains_are_found() {
    let chain = chain();
    let list = [vec![1], set(0, 4).encode()].concat();
    let (root, nodes) = relay_trie(&[(keys::OLD_GRANDPA_AUTHORITIES.to_vec(), list)]);
    let mut start = init(&chain);
    start.genesis.block_header.state_root = Hash(root.0);
    start.genesis.proof = nodes;
    verifier(&Shared::default()).init(start).unwrap();
}

#[test]
fn wrong_set_id_fails_at_the_first_headers() {
    let chain = chain();
    let mut worker = verifier(&Shared::default());
    let mut start = init(&chain);
    start.genesis.authority_set.id = 3;
    worker.init(start).unwrap();
    assert_eq!(refused(worker.sync_relay(chain.relay_headers(2..=3))), SIGNATURE);
}

#[test]
fn init_must_be_called_first_and_only_once() {
    let chain = chain();
    let mut worker = verifier(&Shared::default());
    assert!(worker.info().can_load_chain_state);
    assert_eq!(refused(worker.sync_para(Vec::new(), &[])), "Runtime not initialized");
    assert_eq!(refused(worker.dispatch(Vec::new())), "Runtime not initialized");
    assert_eq!(refused(worker.runtime_info(false, None)), "Runtime not initialized");
    let response = worker.init(init(&chain)).unwrap();
    assert_eq!(response.encoded_genesis_block_hash, chain.relay[&START].header.hash().encode());
    assert!(response.attestation.is_none());
    assert_eq!(refused(worker.init(init(&chain))), "Runtime already initialized");
    let info = worker.info();
    assert_eq!(cursors(&worker), (START + 1, 0, 1));
    assert_eq!(info.state_root, hex::encode(chain.para[0].header.state_root));
    assert_eq!(info.genesis_block_hash.unwrap(), hex::encode(chain.relay[&START].header.hash()));
}

#[test]
fn verdicts_are_cached_per_set() {
    let chain = MiniChain::new(6, 4, &[], 1);
    let shared = Shared::default();
    let mut wrong = verifier(&shared);
    let mut start = init(&chain);
    start.genesis.authority_set.id = 1;
    wrong.init(start).unwrap();
    let mut right = verifier(&shared);
    right.init(init(&chain)).unwrap();
    for _ in 0..2 {
        assert_eq!(refused(wrong.sync_relay(chain.relay_headers(2..=4))), SIGNATURE);
    }
    assert_eq!(right.sync_relay(chain.relay_headers(2..=4)).unwrap(), 4);
    assert_eq!(refused(wrong.sync_relay(chain.relay_headers(2..=4))), SIGNATURE);
}
