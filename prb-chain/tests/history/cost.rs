//! Tests of what a history costs from nodes and from an archive: the figures of docs/data-provider.md.

use std::{sync::Arc, time::Instant};

use codec::Encode;
use prb_chain::history::archive;
use prb_devnet::{Config, Devnet};
use tempfile::TempDir;

use super::{
    ingest::fetch,
    setup::{empty, is_part_of, replay},
};

/// Most round trips for each relay block, with sets as long as Kusama's.
const ROUND_TRIPS: f64 = 0.1;
/// Most archive bytes for each byte of headers, justifications, proofs and changes; the changes here are
/// random values under recurring keys.
const ARCHIVE_BYTES: f64 = 0.9;
/// Largest ratio of an import's duration to that of ingesting from a node in the same process.
const IMPORT_TIME: f64 = 0.8;

#[tokio::test(flavor = "multi_thread")]
async fn archive_is_small_and_imports_fast() {
    const BLOCKS: u32 = 1300;
    let config = Config {
        history: BLOCKS,
        set_length: 600,
        set_size: 100,
        changes_per_block: 100,
        change_bytes: 100,
        ..Config::default()
    };
    let devnet = Devnet::start(config).await.unwrap();
    let start = Instant::now();
    let (fetched, calls) = fetch(&devnet, vec![]).await;
    let by_nodes = start.elapsed();
    println!("ingest: {by_nodes:?}, calls {calls:?}");
    let round_trips: u64 = calls.iter().map(|snapshot| snapshot.round_trips).sum();
    let per_block = round_trips as f64 / f64::from(BLOCKS);

    let (relay, para) = (devnet.relay().finalized_number(), devnet.para().finalized_number());
    let relay_headers: usize = (2..=relay).map(|n| devnet.relay().header(n).unwrap().encode().len()).sum();
    let para_headers: usize = (0..=para).map(|n| devnet.para().header(n).unwrap().encode().len()).sum();
    let changes: usize = (1..=para).map(|n| devnet.para().storage_changes(n).unwrap().encode().len()).sum();
    let folder = TempDir::new().unwrap();
    let exported =
        archive::export(&fetched.store, folder.path(), archive::Config::default(), &mut |_| true).unwrap();
    let ratio = exported.bytes as f64 / exported.content_bytes as f64;
    let justified = fetched.store.verify(&mut |_| true).unwrap().justified;
    println!(
        "{relay} relay blocks, {para} parachain blocks; relay headers {relay_headers} B, parachain headers \
         {para_headers} B, changes {changes} B, {justified} justified; disk {} B; archive {} of {} B",
        fetched.store.disk_bytes().unwrap(),
        exported.bytes,
        exported.content_bytes
    );

    let into = empty();
    let start = Instant::now();
    let source = archive::ArchiveHistory::open(folder.path()).unwrap();
    assert_eq!(replay(&into, vec![Arc::new(source)]).await.faults, []);
    let by_archive = start.elapsed();
    let time = by_archive.as_secs_f64() / by_nodes.as_secs_f64();
    println!(
        "{per_block:.3} round trips a relay block; archive {ratio:.3}; import {by_archive:?}, {time:.2} of the ingest"
    );
    is_part_of(&fetched.store, &into.store);
    assert!(per_block <= ROUND_TRIPS, "{per_block} round trips a relay block");
    assert!(ratio <= ARCHIVE_BYTES, "{ratio} bytes of archive for a byte");
    assert!(time <= IMPORT_TIME, "{time} of the ingest's time");
}
