//! Decodes a provider's answers as a lifecycle manager does: to our keys and to the original's.

use bytes::Bytes;
use prb_core::{
    blob::{HeaderCursor, Span},
    primitives::{ParaNumber, RelayNumber},
};
use prb_walkie::blob::{answer, batch_walk};

/// Runs the target; panics on a violation.
pub fn run(bytes: &[u8]) {
    let all = Bytes::copy_from_slice(bytes);
    if let Ok(Ok(Some(batch))) = answer::read_headers(all.clone()) {
        let _ = batch_walk::check_headers(&batch);
    }
    if let Ok(Ok(Some(batch))) = answer::read_blocks(all.clone()) {
        let _ = batch_walk::check_blocks(&batch);
    }
    let _ = answer::read_heights(all.clone());
    let _ = answer::read_genesis(all.clone());
    let _ = batch_walk::genesis_block(bytes);
    let _ = batch_walk::check_state(bytes);
    let _ = batch_walk::request_of_headers(&all);
    let _ = batch_walk::request_of_blocks(&all);
    let cursor = HeaderCursor { relay: RelayNumber(1), para: ParaNumber(0) };
    if let Ok(Some(batch)) = batch_walk::headers_of_request(bytes, cursor) {
        assert_eq!(batch.relay.first, cursor.relay);
    }
    let within = Span { first: ParaNumber(1), last: ParaNumber(30) };
    if let Ok(Some(batch)) = batch_walk::blocks_of_request(bytes, within) {
        assert!(batch.blocks.first >= within.first && batch.blocks.last <= within.last);
    }
}
