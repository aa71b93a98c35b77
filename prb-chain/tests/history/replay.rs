//! Tests that forged data of a source is not stored: the source is named, and the next one is asked.

use std::sync::Arc;

use codec::Encode;
use prb_chain::{
    history::HistorySource,
    internals::history::{Blocks, MemoryHistory},
    store::Part,
};
use prb_core::primitives::Hash;

use super::setup::{PARA, RELAY, blocks_of, empty, filled, heights, is_part_of, replay};

/// Asserts that a source with changed blocks is detected.
async fn found_out(part: Part, text: &str, change: impl FnOnce(&mut Blocks)) {
    let whole = filled();
    let honest = blocks_of(&whole.store);
    let mut changed = honest.clone();
    change(&mut changed);
    let liar: Arc<dyn HistorySource> = Arc::new(MemoryHistory::new("liar", changed, 5));

    // On its own: its correct blocks are stored, and nothing else.
    let into = empty();
    let drained = replay(&into, vec![Arc::clone(&liar)]).await;
    if part != Part::Genesis {
        assert!(
            drained.faults.iter().any(|fault| fault.source == "liar" && fault.part == part),
            "{drained:?}"
        );
        assert!(drained.faults.iter().any(|fault| fault.what.contains(text)), "{text}: {drained:?}");
    }
    assert!(heights(&into.store) < (RELAY, PARA));
    is_part_of(&into.store, &whole.store);

    // With another source beside it.
    let into = empty();
    let other: Arc<dyn HistorySource> = Arc::new(MemoryHistory::new("other", honest, 5));
    replay(&into, vec![liar, other]).await;
    assert_eq!(heights(&into.store), (RELAY, PARA), "{text}");
    is_part_of(&into.store, &whole.store);
}

#[tokio::test]
async fn changed_relay_header_is_detected() {
    found_out(Part::Relay, "does not follow", |blocks| blocks.relay[2].headers[1][40] ^= 1).await;
}

#[tokio::test]
async fn omitted_relay_header_is_detected() {
    found_out(Part::Relay, "header", |blocks| drop(blocks.relay[2].headers.remove(0))).await;
}

#[tokio::test]
async fn changed_justified_header_is_detected() {
    found_out(Part::Relay, "bad justification", |blocks| {
        blocks.relay.last_mut().unwrap().headers.last_mut().unwrap()[40] ^= 1;
    })
    .await;
}

#[tokio::test]
async fn justification_of_another_block_is_detected() {
    found_out(Part::Relay, "bad justification", |blocks| {
        blocks.relay[2].justification = blocks.relay[1].justification.clone();
    })
    .await;
}

#[tokio::test]
async fn malformed_justification_is_detected() {
    found_out(Part::Relay, "the justification cannot be decoded", |blocks| {
        blocks.relay[0].justification.clear();
    })
    .await;
}

#[tokio::test]
async fn proof_of_another_block_is_detected() {
    found_out(Part::Relay, "read proof", |blocks| blocks.relay[2].proof = blocks.relay[1].proof.clone())
        .await;
    found_out(Part::Relay, "read proof", |blocks| blocks.relay[2].proof.clear()).await;
}

#[tokio::test]
async fn changed_parachain_header_is_detected() {
    found_out(Part::ParaHeaders, "header", |blocks| blocks.para_headers[4][40] ^= 1).await;
    let text = "cannot be decoded";
    found_out(Part::ParaHeaders, text, |blocks| blocks.para_headers[4].push(0)).await;
}

#[tokio::test]
async fn malformed_storage_changes_are_detected() {
    let text = "storage changes of block 5 cannot be read";
    found_out(Part::Changes, text, |blocks| blocks.changes[4].push(0)).await;
}

#[tokio::test]
async fn first_blocks_changes_are_checked_against_its_state_root() {
    let nothing = prb_core::wire::StorageChanges::default().encode();
    found_out(Part::Changes, "a different root", |blocks| blocks.changes[0] = nothing).await;
}

#[tokio::test]
async fn forged_start_is_detected() {
    found_out(Part::Genesis, "", |blocks| {
        let genesis = blocks.genesis.as_mut().unwrap();
        let mut info = genesis.info.to_vec();
        *info.last_mut().unwrap() ^= 1;
        genesis.info = info.into();
    })
    .await;
    found_out(Part::Genesis, "", |blocks| blocks.genesis.as_mut().unwrap().para_id += 1).await;
    found_out(Part::Genesis, "", |blocks| blocks.genesis.as_mut().unwrap().relay_hash = Hash([7; 32])).await;
}

#[tokio::test]
async fn forged_genesis_state_is_detected() {
    let whole = filled();
    let mut blocks = blocks_of(&whole.store);
    let genesis = blocks.genesis.as_mut().unwrap();
    let mut state = genesis.state.to_vec();
    *state.last_mut().unwrap() ^= 1;
    genesis.state = state.into();
    let into = empty();
    let drained = replay(&into, vec![Arc::new(MemoryHistory::new("liar", blocks, 5))]).await;
    let fault = drained.faults.iter().find(|fault| fault.part == Part::ParaHeaders).unwrap();
    assert!(fault.what.contains("genesis state"), "{fault:?}");
    assert_eq!(into.store.tips().borrow().para_header, None);
}

#[tokio::test]
async fn source_of_another_chain_is_reported() {
    let whole = filled();
    let mut blocks = blocks_of(&whole.store);
    blocks.genesis.as_mut().unwrap().chain_identity = Hash([9; 32]);
    let into = empty();
    let (start, genesis) = whole.store.genesis().unwrap().clone();
    into.store.set_genesis(&start, &genesis).unwrap();
    let drained = replay(&into, vec![Arc::new(MemoryHistory::new("stranger", blocks, 5))]).await;
    assert!(!drained.stored);
    assert!(drained.faults[0].what.contains("use a separate store for each"), "{drained:?}");
}

#[tokio::test]
async fn parts_come_from_any_source_that_has_them() {
    let whole = filled();
    let all = blocks_of(&whole.store);
    let headers = Blocks { changes: vec![], ..all.clone() };
    let mut changes = Blocks { relay: vec![], para_headers: vec![], genesis: None, ..all };
    changes.first_relay = prb_core::primitives::RelayNumber(0);
    let into = empty();
    let sources: Vec<Arc<dyn HistorySource>> = vec![
        Arc::new(MemoryHistory::new("headers", headers, 3)),
        Arc::new(MemoryHistory::new("changes", changes, 3)),
    ];
    let drained = replay(&into, sources).await;
    assert_eq!(drained.faults, []);
    assert_eq!(heights(&into.store), (RELAY, PARA));
    is_part_of(&into.store, &whole.store);
}
