//! Tests with a store of the previous layout, from a devnet's history of 39 relay blocks and 19 parachain
//! blocks.
#![allow(clippy::unwrap_used)]

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use tempfile::TempDir;

use super::*;

mod damage;
mod migration;
mod upkeep;

const RELAY: u32 = 39;
const PARA: u32 = 19;

/// The store in layout 1, as written by the previous version.
fn layout_1() -> TempDir {
    let dir = TempDir::new().unwrap();
    let packed = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/layout-1.mdb.zst")).unwrap();
    fs::write(dir.path().join("data.mdb"), zstd::decode_all(&packed[..]).unwrap()).unwrap();
    dir
}

fn open(dir: &TempDir) -> Store {
    try_open(dir).unwrap()
}

fn try_open(dir: &TempDir) -> Result<Store, Error> {
    let start = Instant::now();
    loop {
        match Store::open(dir.path(), Config { map_bytes: 1 << 26, ..Config::default() }) {
            // A child process started by another test holds this one's locks between fork and exec, so retry.
            Err(Error::InUse { .. }) if start.elapsed() < Duration::from_secs(5) => {
                std::thread::sleep(Duration::from_millis(10));
            }
            opened => return opened,
        }
    }
}

fn heights(store: &Store) -> (Option<u32>, Option<u32>) {
    let heights = *store.heights().borrow();
    (heights.relay.map(|n| n.0), heights.para.map(|n| n.0))
}

/// Changes the database directly.
fn tamper(store: &Store, change: impl FnOnce(&mut memory_map::WriteTxn<'_>)) {
    let guard = store.lock_shared().unwrap();
    let mut txn = store.write(&guard).unwrap();
    change(&mut txn);
    txn.commit().unwrap();
}

fn verify(store: &Store) -> Report {
    store.verify(&mut |_| true).unwrap()
}
