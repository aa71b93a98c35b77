//! Tests with stores of older and newer layouts.

use super::*;

#[test]
fn store_of_previous_layout_is_migrated_in_place() {
    let dir = layout_1();
    let store = open(&dir);
    assert_eq!(heights(&store), (Some(RELAY), Some(PARA)));
    let report = verify(&store);
    assert_eq!(report.faults, [], "each segment has a digest");
    assert_eq!((report.relay_headers, report.para_headers, report.changes), (RELAY - 1, PARA + 1, PARA));
    drop(store);
    assert_eq!(heights(&open(&dir)), (Some(RELAY), Some(PARA)), "and it is not migrated again");
}

#[test]
fn interrupted_migration_continues() {
    let dir = layout_1();
    let store = open(&dir);
    let digests = |store: &Store| {
        let txn = store.read().unwrap();
        let all = txn.tables.digests.iter(&txn).unwrap();
        all.map(|row| row.map(|(n, digest)| (n, digest.to_vec())).unwrap()).collect::<Vec<_>>()
    };
    let whole = digests(&store);
    // The state after the mark and before the first row.
    tamper(&store, |txn| {
        let tables = txn.tables;
        tables.digests.clear(txn).unwrap();
        tables.meta.put(txn, "migration", &(1u32, 0u32).encode()).unwrap();
    });
    drop(store);
    assert_eq!(digests(&open(&dir)), whole);
}

#[test]
fn store_of_a_newer_layout_is_not_changed() {
    let dir = layout_1();
    let store = open(&dir);
    tamper(&store, |txn| {
        let meta = txn.tables.meta;
        meta.put(txn, "schema", &(super::super::migrate::SCHEMA + 1).encode()).unwrap();
    });
    drop(store);
    let refused = try_open(&dir).unwrap_err();
    assert!(matches!(refused, Error::Schema { found, expected, .. } if found == expected + 1));
    assert!(refused.to_string().contains("run the newer version"), "{refused}");
}
