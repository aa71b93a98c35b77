//! `state_*`: storage, proofs and runtime calls.

use std::collections::BTreeMap;

use codec::Decode;
use jsonrpsee::types::Params;
use serde_json::{Value, json};
use sp_core::{Bytes, H256};
use sp_version::RuntimeVersion;

use super::{
    Answer, Module, Registered, aliases, chain, error, method,
    view::{View, client, unknown},
};
use crate::node::state;

/// Maximum number of keys on a page, as in real nodes.
const MAX_PAGE: u32 = 1000;
/// Maximum number of keys in one request.
const MAX_KEYS: usize = 100_000;
/// Maximum number of blocks covered by `state_queryStorage`.
const MAX_QUERY_BLOCKS: u32 = 100_000;

pub(super) fn register(module: &mut Module) -> Registered {
    method(module, "state_getStorage", |params, view| Ok(value(&params, view)?.map(Bytes)))?;
    method(module, "state_getStorageHash", |params, view| {
        Ok(value(&params, view)?.map(|value| H256(sp_io::hashing::blake2_256(&value))))
    })?;
    method(module, "state_getStorageSize", |params, view| {
        Ok(value(&params, view)?.map(|value| value.len() as u64))
    })?;
    method(module, "state_getReadProof", read_proof)?;
    method(module, "state_getKeys", |params, view| {
        let mut params = params.sequence();
        let (prefix, at): (Bytes, Option<H256>) = (params.next()?, params.optional_next()?);
        let keys = state::keys(&view.state(at)?, &prefix, None, usize::MAX).map_err(client)?;
        Ok(keys.into_iter().map(Bytes).collect::<Vec<_>>())
    })?;
    method(module, "state_getKeysPaged", keys_paged)?;
    method(module, "state_getPairs", |params, view| {
        let mut params = params.sequence();
        let (prefix, at): (Bytes, Option<H256>) = (params.next()?, params.optional_next()?);
        let pairs = state::pairs(&view.state(at)?, &prefix, None, usize::MAX).map_err(client)?;
        Ok(pairs.into_iter().map(|(key, value)| (Bytes(key), Bytes(value))).collect::<Vec<_>>())
    })?;
    method(module, "state_queryStorageAt", |params, view| {
        let mut params = params.sequence();
        let (keys, at): (Vec<Bytes>, Option<H256>) = (params.next()?, params.optional_next()?);
        Ok(vec![change_set(view, &keys, at)?])
    })?;
    method(module, "state_queryStorage", query_storage)?;
    method(module, "state_call", |params, view| {
        let mut params = params.sequence();
        let (name, data): (String, Bytes) = (params.next()?, params.next()?);
        view.call(&name, &data, params.optional_next()?).map(Bytes)
    })?;
    method(module, "state_getMetadata", |params, view| {
        let opaque = view.call("Metadata_metadata", &[], params.sequence().optional_next()?)?;
        let metadata = Vec::<u8>::decode(&mut &opaque[..]);
        metadata.map(Bytes).map_err(|cause| error(4001, cause.to_string()))
    })?;
    method(module, "state_getRuntimeVersion", |params, view| {
        version(view, params.sequence().optional_next()?)
    })?;
    aliases(
        module,
        &[
            ("state_getStorageAt", "state_getStorage"),
            ("state_getStorageHashAt", "state_getStorageHash"),
            ("state_getStorageSizeAt", "state_getStorageSize"),
            ("state_getKeysPagedAt", "state_getKeysPaged"),
            ("state_callAt", "state_call"),
            ("chain_getRuntimeVersion", "state_getRuntimeVersion"),
        ],
    )?;
    subscriptions(module)
}

fn value(params: &Params<'_>, view: &View<'_>) -> Answer<Option<Vec<u8>>> {
    let mut params = params.sequence();
    let (key, at): (Bytes, Option<H256>) = (params.next()?, params.optional_next()?);
    state::read(&view.state(at)?, &key).map_err(client)
}

fn version(view: &View<'_>, at: Option<H256>) -> Answer<RuntimeVersion> {
    let version = view.call("Core_version", &[], at)?;
    RuntimeVersion::decode(&mut &version[..]).map_err(|cause| error(4001, cause.to_string()))
}

fn read_proof(params: Params<'_>, view: &View<'_>) -> Answer<Value> {
    let mut params = params.sequence();
    let (keys, at): (Vec<Bytes>, Option<H256>) = (params.next()?, params.optional_next()?);
    let block = view.block_or_best(at)?;
    let keys: Vec<Vec<u8>> = keys.into_iter().map(|key| key.0).collect();
    let proof = state::prove(&view.state(Some(block.hash))?, &keys).map_err(client)?;
    let proof: Vec<Bytes> = proof.into_iter().map(Bytes).collect();
    Ok(json!({ "at": block.hash, "proof": proof }))
}

fn keys_paged(params: Params<'_>, view: &View<'_>) -> Answer<Vec<Bytes>> {
    let mut params = params.sequence();
    let (prefix, count): (Option<Bytes>, u32) = (params.optional_next()?, params.next()?);
    let (start, at): (Option<Bytes>, Option<H256>) = (params.optional_next()?, params.optional_next()?);
    if count > MAX_PAGE {
        let text = format!("count exceeds maximum value. value: {count}, max: {MAX_PAGE}");
        return Err(error(4002, text));
    }
    let prefix = prefix.map(|prefix| prefix.0).unwrap_or_default();
    // A start before the prefix means the prefix's first key.
    let start = start.map(|start| start.0).filter(|start| *start >= prefix);
    let state = view.state(at)?;
    let keys = state::keys(&state, &prefix, start.as_deref(), count as usize).map_err(client)?;
    Ok(keys.into_iter().map(Bytes).collect())
}

fn change_set(view: &View<'_>, keys: &[Bytes], at: Option<H256>) -> Answer<Value> {
    if keys.len() > MAX_KEYS {
        return Err(error(4002, format!("more than {MAX_KEYS} keys")));
    }
    let block = view.block_or_best(at)?;
    let state = view.state(Some(block.hash))?;
    let read = |key: &Bytes| -> Answer<(Bytes, Option<Bytes>)> {
        Ok((key.clone(), state::read(&state, key).map_err(client)?.map(Bytes)))
    };
    let changes: Answer<Vec<_>> = keys.iter().map(read).collect();
    Ok(json!({ "block": block.hash, "changes": changes? }))
}

fn query_storage(params: Params<'_>, view: &View<'_>) -> Answer<Vec<Value>> {
    let mut params = params.sequence();
    let (keys, from, to): (Vec<Bytes>, H256, Option<H256>) =
        (params.next()?, params.next()?, params.optional_next()?);
    let first = view.block_by_hash(from).ok_or_else(|| unknown(from))?.header.number;
    let last = view.block_or_best(to)?.header.number;
    // A reversed range, or one that is too long to answer.
    if last < first || last - first > MAX_QUERY_BLOCKS {
        return Err(error(4001, "Cannot resolve a block range"));
    }
    // The first block lists all keys, later ones those whose values differ.
    let mut seen: BTreeMap<&Bytes, Option<Vec<u8>>> = BTreeMap::new();
    let mut sets = Vec::new();
    for number in first..=last {
        let Some(block) = view.block(number) else { break };
        let state = view.state(Some(block.hash))?;
        let mut changes = Vec::new();
        for key in &keys {
            let now = state::read(&state, key).map_err(client)?;
            if seen.get(key) != Some(&now) {
                changes.push((key.clone(), now.clone().map(Bytes)));
                seen.insert(key, now);
            }
        }
        if !changes.is_empty() {
            sets.push(json!({ "block": block.hash, "changes": changes }));
        }
    }
    Ok(sets)
}

fn subscriptions(module: &mut Module) -> Registered {
    module.register_subscription(
        "state_subscribeRuntimeVersion",
        "state_runtimeVersion",
        "state_unsubscribeRuntimeVersion",
        |_, pending, node, _| async move {
            let mut last = None;
            chain::follow(pending, &node, node.subscribe_best(), |view, number| {
                let version = version(view, Some(view.block(number)?.hash)).ok()?;
                if last.as_ref() == Some(&version) {
                    return None;
                }
                let message = serde_json::value::to_raw_value(&version).ok();
                last = Some(version);
                message
            })
            .await;
        },
    )?;
    module.register_subscription(
        "state_subscribeStorage",
        "state_storage",
        "state_unsubscribeStorage",
        |params, pending, node, _| async move {
            let keys: Vec<Bytes> = match params.sequence().optional_next() {
                Ok(keys) => keys.unwrap_or_default(),
                Err(cause) => return pending.reject(cause).await,
            };
            let mut seen: BTreeMap<Bytes, Option<Vec<u8>>> = BTreeMap::new();
            chain::follow(pending, &node, node.subscribe_best(), |view, number| {
                changes_of(view, &keys, &mut seen, number)
            })
            .await;
        },
    )?;
    aliases(
        module,
        &[
            ("chain_subscribeRuntimeVersion", "state_subscribeRuntimeVersion"),
            ("chain_unsubscribeRuntimeVersion", "state_unsubscribeRuntimeVersion"),
        ],
    )
}

fn changes_of(
    view: &View<'_>,
    keys: &[Bytes],
    seen: &mut BTreeMap<Bytes, Option<Vec<u8>>>,
    number: u32,
) -> Option<Box<serde_json::value::RawValue>> {
    let block = view.block(number)?;
    let state = view.state(Some(block.hash)).ok()?;
    let mut changes = Vec::new();
    for key in keys {
        let now = state::read(&state, key).ok()?;
        if seen.get(key) != Some(&now) {
            changes.push((key.clone(), now.clone().map(Bytes)));
            seen.insert(key.clone(), now);
        }
    }
    if changes.is_empty() {
        return None;
    }
    serde_json::value::to_raw_value(&json!({ "block": block.hash, "changes": changes })).ok()
}
