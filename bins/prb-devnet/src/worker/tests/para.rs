//! Tests of `SyncParaHeader`, `SyncCombinedHeaders`, `DispatchBlocks`, `LoadChainState`.

use prb_core::primitives::Hash;

use super::{
    chain::{PARA_ID, relay_trie},
    *,
};
use crate::worker::keys;

fn chain() -> MiniChain {
    MiniChain::new(12, 4, &[5], 12)
}

fn hex_root(chain: &MiniChain, relay: u32) -> String {
    chain.relay[&relay].header.state_root.to_string()
}

#[test]
fn para_headers_are_limited_by_the_relay_blocks_head() {
    let chain = chain();
    let mut worker = started(&chain);
    worker.sync_relay(chain.relay_headers(2..=4)).unwrap();
    let (short, long) = (chain.para_headers(0..=1), chain.para_headers(0..=3));
    let mismatch = "StorageProofFailed(storage value mismatch)";
    assert_eq!(refused(worker.sync_para(short, &chain.proof(4))), mismatch);
    assert_eq!(refused(worker.sync_para(long, &chain.proof(4))), mismatch);
    assert!(worker.info().waiting_for_paraheaders);
    assert_eq!(worker.sync_para(chain.para_headers(0..=2), &chain.proof(4)).unwrap(), 2);
    assert!(!worker.info().waiting_for_paraheaders);
    assert_eq!(cursors(&worker), (5, 3, 1));
}

#[test]
fn para_headers_need_a_new_relay_header() {
    let chain = chain();
    let mut worker = started(&chain);
    let headers = || chain.para_headers(0..=0);
    assert_eq!(refused(worker.sync_para(headers(), &chain.proof(2))), "RelaychainHeaderNotSynced");
    worker.sync_relay(chain.relay_headers(2..=2)).unwrap();
    worker.sync_para(headers(), &chain.proof(2)).unwrap();
    // Again: dropped before any check.
    assert_eq!(worker.sync_para(headers(), &[]).unwrap(), 0);
    let more = chain.para_headers(1..=1);
    assert_eq!(refused(worker.sync_para(more, &chain.proof(3))), "RelaychainHeaderNotSynced");
    // The number is checked first.
    let gap = chain.para_headers(2..=2);
    assert_eq!(refused(worker.sync_para(gap, &chain.proof(3))), "BlockNumberMismatch");
}

#[test]
fn proof_must_match_the_last_relay_header() {
    let chain = chain();
    let mut worker = started(&chain);
    worker.sync_relay(chain.relay_headers(2..=3)).unwrap();
    worker.sync_relay(chain.relay_headers(4..=4)).unwrap();
    let unreadable = format!(
        "StorageProofFailed(Failed to read value from trie: InvalidStateRoot({}))",
        hex_root(&chain, 4)
    );
    let older = chain.para_headers(0..=1);
    assert_eq!(refused(worker.sync_para(older, &chain.proof(3))), unreadable);
    let headers = || chain.para_headers(0..=2);
    assert_eq!(refused(worker.sync_para(headers(), &[])), unreadable);
    let mut altered = chain.proof(4);
    for node in &mut altered {
        *node.last_mut().unwrap() ^= 1;
    }
    assert_eq!(refused(worker.sync_para(headers(), &altered)), unreadable);
    assert_eq!(worker.sync_para(headers(), &chain.proof(4)).unwrap(), 2);
}

#[test]
fn proof_of_another_parachain_is_refused() {
    let mut chain = chain();
    let head = chain.para[2].header.encode().encode();
    let (root, nodes) = relay_trie(&[(keys::para_head(PARA_ID + 1), head)]);
    let block = chain.relay.get_mut(&4).unwrap();
    block.header.state_root = Hash(root.0);
    block.nodes = nodes;
    let mut worker = started(&chain);
    let mut headers = chain.relay_headers(2..=4);
    // Its child refers to the original header, so leave out the vote for the child.
    headers[2].justification = Some(chain.signed(4, 0, 0, &[4; 4]).encode());
    worker.sync_relay(headers).unwrap();
    assert_eq!(
        refused(worker.sync_para(chain.para_headers(0..=2), &chain.proof(4))),
        "StorageProofFailed(storage value unavailable)"
    );
}

#[test]
fn para_headers_must_be_chained() {
    let chain = chain();
    let mut worker = started(&chain);
    worker.sync_relay(chain.relay_headers(2..=4)).unwrap();
    let mut headers = chain.para_headers(0..=2);
    headers[1].state_root = Hash([1; 32]);
    assert_eq!(refused(worker.sync_para(headers.clone(), &chain.proof(4))), "HeaderHashMismatch");
    // The proof is checked before the chain.
    headers[2].state_root = Hash([1; 32]);
    let mismatch = "StorageProofFailed(storage value mismatch)";
    assert_eq!(refused(worker.sync_para(headers, &chain.proof(4))), mismatch);
}

#[test]
fn combined_headers_are_not_atomic() {
    let chain = chain();
    let mut worker = started(&chain);
    let none = worker.sync_combined(chain.relay_headers(2..=3), Vec::new(), &[]).unwrap();
    assert_eq!((none.relaychain_synced_to, none.parachain_synced_to), (3, u32::MAX));
    let headers = chain.para_headers(0..=2);
    let no_proof = worker.sync_combined(chain.relay_headers(4..=4), headers.clone(), &[]);
    assert!(refused(no_proof).starts_with("StorageProofFailed("));
    assert_eq!(cursors(&worker), (5, 0, 1));
    let both = worker.sync_combined(chain.relay_headers(4..=4), headers, &chain.proof(4)).unwrap();
    assert_eq!((both.relaychain_synced_to, both.parachain_synced_to), (4, 2));
}

#[test]
fn block_needs_its_header() {
    let chain = chain();
    let mut worker = started(&chain);
    assert_eq!(refused(worker.dispatch(chain.blocks(1..=1))), "NoStateRoot");
    let mut worker = with_headers(&chain, 4);
    assert_eq!(refused(worker.dispatch(chain.blocks(1..=3))), "NoStateRoot");
    // The blocks before it stay applied.
    assert_eq!(cursors(&worker), (5, 3, 3));
    assert_eq!(worker.info().state_root, hex::encode(chain.para[2].header.state_root));
}

#[test]
fn blocks_must_be_in_order() {
    let chain = chain();
    let mut worker = with_headers(&chain, 8);
    assert_eq!(refused(worker.dispatch(chain.blocks(2..=3))), "BlockNumberMismatch");
    assert_eq!(worker.dispatch(Vec::new()).unwrap(), 0);
    assert_eq!(worker.dispatch(chain.blocks(1..=2)).unwrap(), 2);
    assert_eq!(worker.dispatch(chain.blocks(1..=2)).unwrap(), 2);
    let mut gap = chain.blocks(3..=5);
    gap.remove(1);
    assert_eq!(refused(worker.dispatch(gap)), "BlockNumberMismatch");
    assert_eq!(worker.dispatch(chain.blocks(1..=6)).unwrap(), 6);
    assert_eq!(worker.info().state_root, hex::encode(chain.para[6].header.state_root));
}

#[test]
fn flipped_bit_changes_the_state_root() {
    let chain = chain();
    let mut worker = with_headers(&chain, 8);
    worker.dispatch(chain.blocks(1..=2)).unwrap();
    let mut flipped = 0;
    for place in 0..chain.para[3].changes.main.len() {
        let mut blocks = chain.blocks(3..=4);
        let (key, value) = &mut blocks[0].storage_changes.main[place];
        if value.is_none() && !chain.para[2].state.contains_key(key) {
            // Removing a key that did not exist changes nothing, whichever key it is.
            continue;
        }
        flipped += 1;
        match value {
            Some(value) => value[0] ^= 0x10,
            None => key[0] ^= 0x10,
        }
        let reason = refused(worker.dispatch(blocks));
        let expected = chain.para[3].header.state_root;
        assert!(
            reason.starts_with(&format!("StateRootMismatch block=3 expected={expected} actual=0x")),
            "{place}: {reason}"
        );
        assert_eq!(cursors(&worker).2, 3);
    }
    assert!(flipped > 8);
    assert_eq!(worker.dispatch(chain.blocks(3..=4)).unwrap(), 4);
}

#[test]
fn genesis_state_is_checked_at_the_first_block() {
    let chain = chain();
    let mut worker = verifier(&Shared::default());
    let mut start = init(&chain);
    start.state[3].1[0] ^= 1;
    worker.init(start).unwrap();
    worker.sync_relay(chain.relay_headers(2..=4)).unwrap();
    worker.sync_para(chain.para_headers(0..=2), &chain.proof(4)).unwrap();
    let expected = chain.para[0].header.state_root;
    let reason = refused(worker.dispatch(chain.blocks(1..=1)));
    assert!(reason.starts_with(&format!("StateRootMismatch block=0 expected={expected} ")), "{reason}");
    assert!(worker.runtime_info(true, None).unwrap().attestation.is_none());
}

#[test]
fn attestation_requires_the_first_block() {
    let chain = chain();
    let mut worker = with_headers(&chain, 4);
    assert!(worker.runtime_info(true, None).unwrap().attestation.is_none());
    worker.dispatch(chain.blocks(1..=1)).unwrap();
    let response = worker.runtime_info(false, None).unwrap();
    assert_eq!(response.attestation.unwrap().encoded_report, [0]);
    let operator = prb_core::primitives::AccountId([3; 32]);
    let told = worker.runtime_info(false, Some(operator)).unwrap();
    let info: prb_core::wire::WorkerRegistrationInfoV2 =
        codec::Decode::decode(&mut &*told.encoded_runtime_info).unwrap();
    assert_eq!((info.operator, info.para_id), (Some(operator), PARA_ID));
    assert_eq!(info.pubkey.0.to_vec(), told.encoded_public_key);
}

#[test]
fn fast_sync_starts_at_any_block_but_only_first() {
    let chain = chain();
    let mut worker = verifier(&Shared::default());
    assert_eq!(refused(worker.load_chain_state(3, chain.state(3))), "System is uninitialized");
    worker.init(init(&chain)).unwrap();
    assert_eq!(refused(worker.load_chain_state(0, chain.state(0))), "Can not load chain state from block 0");
    let mut foreign = chain.state(3);
    foreign.retain(|(key, _)| *key != keys::para_id());
    foreign.push((keys::para_id(), 7u32.encode()));
    assert_eq!(
        refused(worker.load_chain_state(3, foreign)),
        "Loading different parachain state, loading=7, init=2004"
    );
    let mut registered = chain.state(3);
    let key = Identity::derive(b"test", 0).public();
    registered.push((keys::worker(&key), vec![1]));
    assert!(refused(worker.load_chain_state(3, registered)).contains("already registered"));
    worker.load_chain_state(3, chain.state(3)).unwrap();
    assert_eq!(cursors(&worker), (2, 3, 4));
    assert_eq!(refused(worker.load_chain_state(3, chain.state(3))), "Can not load chain state");
    worker.sync_relay(chain.relay_headers(2..=5)).unwrap();
    worker.sync_relay(chain.relay_headers(6..=9)).unwrap();
    // The header of the loaded block itself is expected next.
    worker.sync_para(chain.para_headers(3..=7), &chain.proof(9)).unwrap();
    assert!(worker.runtime_info(false, None).unwrap().attestation.is_none());
    assert_eq!(worker.dispatch(chain.blocks(4..=7)).unwrap(), 7);
    assert!(worker.runtime_info(false, None).unwrap().attestation.is_some());
}

#[test]
fn wrong_loaded_state_is_detected() {
    let chain = chain();
    let mut worker = started(&chain);
    worker.load_chain_state(3, chain.state(4)).unwrap();
    worker.sync_relay(chain.relay_headers(2..=5)).unwrap();
    worker.sync_relay(chain.relay_headers(6..=9)).unwrap();
    worker.sync_para(chain.para_headers(3..=7), &chain.proof(9)).unwrap();
    let reason = refused(worker.dispatch(chain.blocks(4..=4)));
    assert!(reason.starts_with("StateRootMismatch block=3 "), "{reason}");
}

#[test]
fn relay_header_ends_the_window_for_fast_sync() {
    let chain = chain();
    let mut worker = started(&chain);
    assert!(worker.info().can_load_chain_state);
    assert_eq!(refused(worker.sync_relay(chain.relay_headers(4..=4))), "BlockNumberMismatch");
    assert!(!worker.info().can_load_chain_state);
    assert_eq!(refused(worker.load_chain_state(3, chain.state(3))), "Can not load chain state");
}

#[test]
fn other_changes_are_refused_during_a_dispatch() {
    const BUSY: &str = "RCU in progress, please try the request again later";
    let chain = chain();
    let mut worker = with_headers(&chain, 4);
    let mut running = worker.begin_dispatch().unwrap();
    assert_eq!(refused(worker.sync_relay(Vec::new())), BUSY);
    assert_eq!(refused(worker.sync_para(Vec::new(), &[])), BUSY);
    assert_eq!(refused(worker.sync_combined(Vec::new(), Vec::new(), &[])), BUSY);
    assert_eq!(refused(worker.dispatch(Vec::new())), BUSY);
    running.dispatch(chain.blocks(1..=2)).unwrap();
    // Others see the previous state until the end.
    assert_eq!(cursors(&worker).2, 1);
    worker.end_dispatch(running);
    assert_eq!(cursors(&worker).2, 3);
    assert_eq!(worker.sync_relay(Vec::new()).unwrap(), 4);
}
