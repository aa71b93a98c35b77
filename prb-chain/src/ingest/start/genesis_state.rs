//! The parachain's whole genesis state, by the method that a node supports.

use prb_core::primitives::Hash;

use crate::{
    ingest::{Error, wrong},
    rpc::{Node, json},
    verify,
};

/// Largest state that is accepted, in bytes.
const MAX_BYTES: usize = 256 * 1024 * 1024;
/// Keys in one page, if the whole state is not available in one answer.
const PAGE: u32 = 1000;

pub(super) type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// Fetches the complete genesis state by the method that the node supports.
pub(super) async fn fetch(node: &Node, hash: Hash) -> Result<Pairs, Error> {
    match node.request_bulk::<Vec<json::StorageChanges>>("pha_getStorageChanges", (hash, hash)).await {
        Ok(changes) => {
            let main = changes.into_iter().flat_map(json::StorageChanges::into_main);
            let pairs: Pairs = main.filter_map(|(key, value)| Some((key, value?))).collect();
            // Not every node has the genesis as changes of block 0.
            if !pairs.is_empty() {
                return Ok(pairs);
            }
        }
        Err(e) if e.is_retryable() => return Err(e.into()),
        Err(_) => {}
    }
    match node.request_bulk::<Vec<(json::HexBytes, json::HexBytes)>>("state_getPairs", ("0x", hash)).await {
        Ok(pairs) => Ok(pairs.into_iter().map(|(key, value)| (key.0, value.0)).collect()),
        Err(e) if e.is_retryable() => Err(e.into()),
        // `state_getPairs` is an unsafe method, which public nodes refuse.
        Err(_) => paged_state(node, hash).await,
    }
}

fn bad(node: &Node, reason: &str) -> Error {
    wrong(node)(verify::Error::Proof { what: "the genesis state", reason: reason.into() })
}

async fn paged_state(node: &Node, hash: Hash) -> Result<Pairs, Error> {
    #[derive(serde::Deserialize)]
    struct ChangeSet {
        changes: Vec<(json::HexBytes, Option<json::HexBytes>)>,
    }
    let mut pairs = Pairs::new();
    let mut after: Option<json::HexBytes> = None;
    let mut bytes = 0;
    loop {
        let keys: Vec<json::HexBytes> =
            node.request("state_getKeysPaged", ("0x", PAGE, after.as_ref(), hash)).await?;
        // Up to an empty page: a short one need not be the last.
        let Some(last) = keys.last() else { return Ok(pairs) };
        // Otherwise a node that repeats a page would be asked forever.
        if after.as_ref().is_some_and(|after| last.0 <= after.0) {
            return Err(bad(node, "its keys are not in order"));
        }
        after = Some(last.clone());
        let sets: Vec<ChangeSet> = node.request_bulk("state_queryStorageAt", (&keys, hash)).await?;
        let changes = sets.into_iter().flat_map(|set| set.changes);
        let page = changes.filter_map(|(key, value)| Some((key.0, value?.0)));
        let before = pairs.len();
        pairs.extend(page);
        bytes += pairs[before..].iter().map(|(key, value)| key.len() + value.len()).sum::<usize>();
        if bytes > MAX_BYTES {
            return Err(bad(node, "it is too large"));
        }
    }
}
