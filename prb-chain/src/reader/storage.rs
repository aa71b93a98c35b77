//! Reads many storage values of one block in few round trips.

use std::collections::HashMap;

use prb_core::primitives::Hash;
use serde::Deserialize;

use crate::rpc::{self, Node, json::HexBytes};

/// Calls sent together.
const CALLS_PER_BATCH: usize = 20;

/// Values by key; every requested key is present.
pub(crate) type Values = HashMap<Vec<u8>, Option<Vec<u8>>>;

#[derive(Deserialize)]
struct ChangeSet {
    block: Hash,
    changes: Vec<(HexBytes, Option<HexBytes>)>,
}

/// Reads `keys` in the state of block `at`, `keys_per_call` at a time.
pub(crate) async fn query(
    node: &Node,
    keys: Vec<Vec<u8>>,
    at: Hash,
    keys_per_call: usize,
) -> Result<Values, rpc::Error> {
    let wanted = keys.len();
    let keys: Vec<HexBytes> = keys.into_iter().map(HexBytes).collect();
    let calls: Vec<_> = keys.chunks(keys_per_call.max(1)).map(|chunk| (chunk, at)).collect();
    let mut values = Values::with_capacity(wanted);
    for batch in calls.chunks(CALLS_PER_BATCH) {
        let answers: Vec<Vec<ChangeSet>> = node.request_many("state_queryStorageAt", batch).await?;
        for set in answers.into_iter().flatten() {
            if set.block != at {
                return Err(bad_answer(node, format!("values of block {} instead of {at}", set.block)));
            }
            values.extend(set.changes.into_iter().map(|(key, value)| (key.0, value.map(|v| v.0))));
        }
    }
    match keys.iter().find(|key| !values.contains_key(&key.0)) {
        None => Ok(values),
        Some(key) => Err(bad_answer(node, format!("no value for key 0x{}", hex::encode(&key.0)))),
    }
}

fn bad_answer(node: &Node, reason: String) -> rpc::Error {
    rpc::Error::BadAnswer {
        node: node.name().clone(),
        method: "state_queryStorageAt".into(),
        source: reason.into(),
    }
}
