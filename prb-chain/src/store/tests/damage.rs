//! Tests that every kind of damage is found and reported.

use prb_core::blob::HeaderCursor;

use super::*;

/// Returns what the check finds after a change.
fn faults_after(change: impl FnOnce(&mut memory_map::WriteTxn<'_>)) -> Vec<(Part, u32)> {
    let dir = layout_1();
    let store = open(&dir);
    tamper(&store, change);
    let report = verify(&store);
    assert_eq!(report.faulty, report.faults.len());
    report.faults.iter().map(|fault| (fault.part, fault.number)).collect()
}

fn flip(txn: &mut memory_map::WriteTxn<'_>, table: Numbered, key: u32, byte: usize) {
    let mut value = table.get(txn, &key).unwrap().unwrap().to_vec();
    let at = byte.min(value.len() - 1);
    value[at] ^= 0x10;
    table.put(txn, &key, &value).unwrap();
}

/// A justified block, and one that is not.
fn blocks(store: &Store) -> (u32, u32) {
    let txn = store.read().unwrap();
    let justified: Vec<u32> =
        txn.tables.alignments.iter(&txn).unwrap().map(|row| row.map(|(n, _)| n).unwrap()).collect();
    let plain = (2..RELAY).find(|n| !justified.contains(n) && !justified.contains(&(n + 1))).unwrap();
    (justified[1], plain)
}

fn some_blocks() -> (u32, u32) {
    blocks(&open(&layout_1()))
}

#[test]
fn changed_relay_header_is_reported() {
    let (justified, plain) = some_blocks();
    // A changed state root: its hash differs from the next header's parent hash.
    let found = faults_after(|txn| flip(txn, txn.tables.relay_headers, plain, 40));
    assert_eq!(found, [(Part::Relay, plain)]);
    let found = faults_after(|txn| flip(txn, txn.tables.relay_headers, justified, 40));
    assert!(found.iter().all(|fault| *fault == (Part::Relay, justified)) && !found.is_empty(), "{found:?}");
}

#[test]
fn missing_relay_header_is_reported() {
    let (_, plain) = some_blocks();
    let found = faults_after(|txn| {
        let table = txn.tables.relay_headers;
        table.delete(txn, &plain).unwrap();
    });
    assert_eq!(found, [(Part::Relay, plain)]);
}

#[test]
fn changed_justification_is_reported() {
    let (justified, _) = some_blocks();
    let found = faults_after(|txn| flip(txn, txn.tables.justifications, justified, 60));
    assert_eq!(found, [(Part::Relay, justified)]);
    let found = faults_after(|txn| {
        let table = txn.tables.justifications;
        table.delete(txn, &justified).unwrap();
    });
    assert_eq!(found, [(Part::Relay, justified)]);
}

#[test]
fn changed_proof_is_reported() {
    let (justified, _) = some_blocks();
    let found = faults_after(|txn| flip(txn, txn.tables.alignments, justified, usize::MAX));
    assert_eq!(found, [(Part::Relay, justified)]);
}

#[test]
fn changed_parachain_header_is_reported() {
    let found = faults_after(|txn| flip(txn, txn.tables.para_headers, 7, 40));
    assert!(found.contains(&(Part::ParaHeaders, 7)), "{found:?}");
    assert!(found.iter().all(|(part, number)| (*part, *number) == (Part::ParaHeaders, 7)), "{found:?}");
}

#[test]
fn changed_storage_changes_are_reported() {
    let dir = layout_1();
    let store = open(&dir);
    tamper(&store, |txn| flip(txn, txn.tables.changes, 1, usize::MAX));
    let report = verify(&store);
    assert_eq!(report.first_of(Part::Changes), Some(1));
    assert!(
        report.faults[0].to_string().contains("differs from its digest (blocks 1 to 19)"),
        "{}",
        report.faults[0]
    );
    assert!(store.verify_segment(ParaNumber(3)).unwrap().is_some());
}

#[test]
fn changed_start_is_reported() {
    let found = faults_after(|txn| {
        let meta = txn.tables.meta;
        let mut state = meta.get(txn, "genesis_state").unwrap().unwrap().to_vec();
        *state.last_mut().unwrap() ^= 1;
        meta.put(txn, "genesis_state", &state).unwrap();
    });
    // The genesis in memory was read when the store was opened.
    assert_eq!(found, []);
    let dir = layout_1();
    let store = open(&dir);
    tamper(&store, |txn| {
        let meta = txn.tables.meta;
        let mut state = meta.get(txn, "genesis_state").unwrap().unwrap().to_vec();
        *state.last_mut().unwrap() ^= 1;
        meta.put(txn, "genesis_state", &state).unwrap();
    });
    drop(store);
    assert_eq!(verify(&open(&dir)).first_of(Part::Genesis), Some(0));
}

#[test]
fn check_can_be_stopped() {
    let dir = layout_1();
    let report = open(&dir).verify(&mut |_| false).unwrap();
    assert_eq!(report.para_headers, 0);
}

#[test]
fn headers_are_checked_from_a_cursor_on() {
    let (_, plain) = some_blocks();
    let dir = layout_1();
    let store = open(&dir);
    let cursor = |relay, para| HeaderCursor { relay: RelayNumber(relay), para: ParaNumber(para) };
    for (relay, para) in [(2, 0), (plain, 3), (RELAY, PARA)] {
        let report = store.verify_headers(cursor(relay, para)).unwrap();
        assert_eq!((report.faulty, report.relay_headers > 0), (0, true), "{relay}");
    }
    tamper(&store, |txn| flip(txn, txn.tables.relay_headers, plain, 40));
    let report = store.verify_headers(cursor(plain, 3)).unwrap();
    assert_eq!(report.first_of(Part::Relay), Some(plain));
    tamper(&store, |txn| flip(txn, txn.tables.para_headers, 7, 40));
    assert_eq!(store.verify_headers(cursor(RELAY, 5)).unwrap().first_of(Part::ParaHeaders), Some(7));
    assert_eq!(store.verify_headers(cursor(RELAY, 12)).unwrap().first_of(Part::ParaHeaders), None);
}

#[test]
fn damaged_segment_is_replaced() {
    let dir = layout_1();
    let store = open(&dir);
    let (span, digest) = store.segment_of(ParaNumber(4)).unwrap();
    let items: Vec<_> = (span.first.0..=span.last.0).map(|n| store.changes(ParaNumber(n)).unwrap()).collect();
    // As a disk might leave it: not a segment at all.
    tamper(&store, |txn| {
        let table = txn.tables.changes;
        table.put(txn, &span.first.0, &[0xff; 100]).unwrap();
    });
    assert!(store.verify_segment(ParaNumber(4)).unwrap().is_some());
    assert_eq!(store.segment_of(ParaNumber(4)).unwrap(), (span, digest));
    store.put_segment(span.first, &items).unwrap();
    assert_eq!(verify(&store).faults, []);
}

/// What the check finds is never exported: of each value in the store, two bytes are changed in turn.
#[test]
fn damage_is_not_exported() {
    let dir = layout_1();
    let store = open(&dir);
    let values: Vec<(Numbered, u32)> = {
        let txn = store.read().unwrap();
        let tables = txn.tables;
        let all = [
            tables.relay_headers,
            tables.justifications,
            tables.alignments,
            tables.para_headers,
            tables.changes,
            tables.digests,
        ];
        let keys =
            |table: Numbered| -> Vec<u32> { table.iter(&txn).unwrap().map(|row| row.unwrap().0).collect() };
        all.iter().flat_map(|table| keys(*table).into_iter().map(|key| (*table, key))).collect()
    };
    assert!(values.len() > 60, "{}", values.len());
    let mut found = 0;
    for (table, key) in values {
        for byte in [40, usize::MAX] {
            tamper(&store, |txn| flip(txn, table, key, byte));
            found += usize::from(is_found_by_export(&store));
            tamper(&store, |txn| flip(txn, table, key, byte));
        }
    }
    assert!(found > 100, "{found}");
    assert!(!is_found_by_export(&store));
}

/// Asserts that an export names what the check names, and leaves complete files only.
fn is_found_by_export(store: &Store) -> bool {
    use crate::history::archive::{Config, Error, export};
    let (folder, report) = (TempDir::new().unwrap(), verify(store));
    let exported = export(store, folder.path(), Config::default(), &mut |_| true);
    for file in fs::read_dir(folder.path()).unwrap() {
        let path = file.unwrap().path();
        assert!(path.extension().is_some_and(|extension| extension == "prb"), "{}", path.display());
    }
    match exported {
        Ok(_) => assert_eq!(report.faults, []),
        Err(Error::Damaged(found)) => {
            assert!(found.faults.iter().all(|fault| report.faults.contains(fault)), "{found:?} {report:?}");
        }
        Err(e) => panic!("{e:?} {report:?}"),
    }
    report.faulty > 0
}
