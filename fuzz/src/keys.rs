//! Parses keys of blobs and looks them up in a source of a few blocks.

use std::{cell::OnceCell, sync::Arc};

use prb_core::blob::memory::MemorySource;
use prb_walkie::blob::{Lookup, keys::Key, keyspace::KeySpace};

thread_local! {
    static RIG: OnceCell<(tokio::runtime::Runtime, KeySpace)> = const { OnceCell::new() };
}

/// Runs the target; panics on a violation.
pub fn run(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Some(key) = Key::parse(text) else { return };
    let written = key.to_string();
    assert_eq!(Key::parse(&written), Some(key), "{text:?} is written as {written:?}");
    // A long poll is only parsed, not looked up.
    if matches!(key, Key::Heights { .. }) {
        return;
    }
    RIG.with(|rig| {
        let (runtime, space) = rig.get_or_init(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            (runtime, KeySpace::new(Arc::new(MemorySource::of_empty_blocks(20)), Default::default()))
        });
        let bound = space.reserve_bytes(text);
        if let Ok(Some(blob)) = runtime.block_on(space.get(text)) {
            assert!(blob.len() <= bound, "{} bytes, {bound} were reserved", blob.len());
        }
    });
}
