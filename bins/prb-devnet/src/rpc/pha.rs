//! `pha_*` and `grandpa_*`: a bridge's calls beyond plain substrate.

use codec::{Decode, Encode};
use jsonrpsee::types::{ErrorObjectOwned, Params};
use prb_devnet_runtime::types::MessageOrigin;
use serde::Serialize;
use sp_core::{Bytes, H256};

use super::{Answer, Module, Registered, error, method, view::View};
use crate::node::{ChainKind, StorageChanges, StorageCollection};

/// Code of all `pha_*` errors.
const PHA_ERROR: i32 = 10_000;
/// Code of an unavailable finality proof.
const PROVE_FINALITY_ERROR: i32 = 4;
/// Maximum number of blocks of one call.
const MAX_BLOCKS: u32 = 10_000;

/// Changed keys with their new values.
type Collection = Vec<(Bytes, Option<Bytes>)>;

/// Storage changes in JSON.
#[derive(Serialize, Clone)]
#[serde(rename_all = "camelCase")]
struct Changes {
    main_storage_changes: Collection,
    child_storage_changes: Vec<(Bytes, Collection)>,
}

/// Storage changes with the state root after them.
#[derive(Serialize, Clone)]
#[serde(rename_all = "camelCase")]
struct ChangesWithRoot {
    changes: Changes,
    state_root: Vec<u8>,
}

impl From<StorageChanges> for Changes {
    fn from(changes: StorageChanges) -> Self {
        let collection = |list: StorageCollection| {
            list.into_iter().map(|(key, value)| (Bytes(key), value.map(Bytes))).collect()
        };
        Self {
            main_storage_changes: collection(changes.main),
            child_storage_changes: changes
                .child
                .into_iter()
                .map(|(key, list)| (Bytes(key), collection(list)))
                .collect(),
        }
    }
}

pub(super) fn register(module: &mut Module, kind: ChainKind) -> Registered {
    if kind == ChainKind::Relay {
        return method(module, "grandpa_proveFinality", prove_finality);
    }
    method(module, "pha_getStorageChanges", |params, view| {
        range(&params, view, |view, number| Some(Changes::from(view.storage_changes(&*view.block(number)?))))
    })?;
    method(module, "pha_getStorageChangesWithRoot", |params, view| {
        range(&params, view, |view, number| {
            let block = view.block(number)?;
            let changes = view.storage_changes(&block).into();
            Some(ChangesWithRoot { changes, state_root: block.header.state_root.0.to_vec() })
        })
    })?;
    method(module, "pha_getStorageChangesAt", |params, view| {
        let hash: H256 = params.sequence().next()?;
        let block = view.block_by_hash(hash).ok_or_else(|| no_block(hash))?;
        view.check_pruned(&block)?;
        Ok(Bytes(view.storage_changes(&block).encode()))
    })?;
    method(module, "pha_getMqNextSequence", next_sequence)
}

fn prove_finality(params: Params<'_>, view: &View<'_>) -> Answer<Option<Bytes>> {
    let number: u32 = params.sequence().next()?;
    let proof = view.prove_finality(number).map_err(|cause| {
        error(PROVE_FINALITY_ERROR, format!("GRANDPA prove finality rpc failed: {cause}"))
    })?;
    Ok(proof.map(Bytes))
}

fn range<T>(
    params: &Params<'_>,
    view: &View<'_>,
    item: impl Fn(&View<'_>, u32) -> Option<T>,
) -> Answer<Vec<T>> {
    let mut params = params.sequence();
    let (from, to): (H256, H256) = (params.next()?, params.next()?);
    let first = view.block_by_hash(from).ok_or_else(|| no_block(from))?.header.number;
    let last = view.block_by_hash(to).ok_or_else(|| no_block(to))?.header.number;
    if last < first {
        return Err(error(PHA_ERROR, "InvalidBlockRange: from is after to"));
    }
    // Nodes execute the blocks again, on the state before the first one.
    if view.node.faults().has_pruned(first.saturating_sub(1), view.best()) {
        return Err(error(PHA_ERROR, format!("UnknownBlock: State already discarded for {from:?}")));
    }
    if last - first > MAX_BLOCKS {
        return Err(error(PHA_ERROR, "ResourceLimited: too many blocks"));
    }
    (first..=last).map(|number| item(view, number).ok_or_else(|| no_block(to))).collect()
}

fn no_block(hash: H256) -> ErrorObjectOwned {
    error(PHA_ERROR, format!("HeaderNotFound: {hash:?}"))
}

fn next_sequence(params: Params<'_>, view: &View<'_>) -> Answer<u64> {
    let text: String = params.sequence().next()?;
    // Without 0x, which real nodes do not accept.
    let bytes = hex::decode(text).map_err(|cause| error(PHA_ERROR, format!("InvalidSender: {cause}")))?;
    let origin = MessageOrigin::decode(&mut &bytes[..])
        .map_err(|cause| error(PHA_ERROR, format!("InvalidSender: {cause}")))?;
    view.node.next_sequence(&origin).map_err(|cause| error(PHA_ERROR, cause.to_string()))
}
