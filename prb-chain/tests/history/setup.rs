//! A store with a devnet's history of 39 relay blocks and 19 parachain blocks.

use std::{fs, path::Path, sync::Arc};

use codec::Decode;
use prb_chain::{
    history::{Config, HistorySource, Piece, Replay, ReplayOutcome},
    internals::history::Blocks,
    store::{self, Store},
};
use prb_core::{
    blob::{Span, assemble::ChainPieces},
    primitives::{ParaNumber, RelayNumber},
};
use tempfile::TempDir;

pub(crate) const RELAY: u32 = 39;
pub(crate) const PARA: u32 = 19;

/// A store and its folder.
pub(crate) struct StoreDir {
    pub(crate) store: Arc<Store>,
    _dir: TempDir,
}

pub(crate) fn config() -> store::Config {
    store::Config::default().with_map_bytes(1 << 26)
}

/// A store with the history.
pub(crate) fn filled() -> StoreDir {
    let dir = TempDir::new().unwrap();
    let packed = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/layout-1.mdb.zst")).unwrap();
    fs::write(dir.path().join("data.mdb"), zstd::decode_all(&packed[..]).unwrap()).unwrap();
    StoreDir { store: Arc::new(Store::open(dir.path(), config()).unwrap()), _dir: dir }
}

pub(crate) fn empty() -> StoreDir {
    let dir = TempDir::new().unwrap();
    StoreDir { store: Arc::new(Store::open(dir.path(), config()).unwrap()), _dir: dir }
}

pub(crate) fn heights(store: &Store) -> (u32, u32) {
    let heights = *store.heights().borrow();
    (heights.relay.map_or(0, |n| n.0), heights.para.map_or(0, |n| n.0))
}

/// All blocks of a store.
pub(crate) fn blocks_of(store: &Store) -> Blocks {
    let view = store.view().unwrap();
    let (start, genesis) = store.genesis().unwrap().clone();
    let mut blocks = Blocks { genesis: Some(genesis), first_relay: start.first(), ..Blocks::default() };
    let mut next = start.first();
    view.batch_ends(next, &mut |stop| {
        let mut headers = Vec::new();
        view.relay_headers(Span { first: next, last: stop.number }, &mut |header| {
            headers.push(header.to_vec());
            true
        })
        .unwrap();
        next = stop.number.next();
        let proof = Vec::decode(&mut &*stop.proof).unwrap();
        blocks.relay.push(Piece { headers, justification: stop.justification.to_vec(), proof });
        true
    })
    .unwrap();
    let tips = *store.tips().borrow();
    view.para_headers(Span { first: ParaNumber(0), last: ParaNumber(u32::MAX) }, &mut |header| {
        blocks.para_headers.push(header.to_vec());
        true
    })
    .unwrap();
    view.changes_of(Span { first: ParaNumber(1), last: tips.changes }, &mut |changes| {
        blocks.changes.push(changes.to_vec());
        true
    })
    .unwrap();
    blocks
}

/// Asserts that one store is sound and has a prefix of another's blocks.
pub(crate) fn is_part_of(some: &Store, whole: &Store) {
    let report = some.verify(&mut |_| true).unwrap();
    assert_eq!(report.faults, []);
    if some.genesis().is_none() {
        return;
    }
    assert_eq!(some.genesis(), whole.genesis());
    let (some, whole) = (blocks_of(some), blocks_of(whole));
    let headers = |blocks: &Blocks| -> Vec<Vec<u8>> {
        blocks.relay.iter().flat_map(|piece| piece.headers.clone()).collect()
    };
    assert!(headers(&whole).starts_with(&headers(&some)));
    assert!(whole.para_headers.starts_with(&some.para_headers));
    assert!(whole.changes.starts_with(&some.changes));
}

/// Replays everything from the sources.
pub(crate) async fn replay(into: &StoreDir, sources: Vec<Arc<dyn HistorySource>>) -> ReplayOutcome {
    let mut replay = Replay::new(Arc::clone(&into.store), sources, Config::default());
    if into.store.genesis().is_none() {
        let Some((genesis, _)) = replay.start().await else { return ReplayOutcome::default() };
        replay.store_start(genesis).await.unwrap();
    }
    replay.drain().await.unwrap()
}

pub(crate) fn relay(number: u32) -> RelayNumber {
    RelayNumber(number)
}
