//! On-chain results of the storm: free stake of pools, and the outcome of each call that fees were paid for.

use std::collections::BTreeMap;

use codec::{Decode, Encode};
use frame_system::{EventRecord, Phase};
use prb_devnet::{
    Node,
    runtime::{
        pallets::{mq, registry, stake_pool},
        para::v1::{RuntimeCall, RuntimeError, RuntimeEvent, UncheckedExtrinsic, WPhaAssetId},
        types::{AssetAccount, MessageOrigin, PoolProxy},
    },
};
use sp_core::H256;
use sp_crypto_hashing::{blake2_128, twox_64, twox_128};
use sp_runtime::DispatchError;

/// Returns a pool's stake for new sessions, at the newest final block.
pub(crate) fn free_stake(para: &Node, pid: u64) -> u128 {
    let at = para.block_hash(para.finalized_number()).unwrap();
    let pid = pid.encode();
    let key = [&twox_128(b"PhalaBasePool")[..], &twox_128(b"Pools"), &twox_64(&pid), &pid].concat();
    let pool = para.storage(&key, at).unwrap().unwrap();
    let account = PoolProxy::decode(&mut &pool[..]).unwrap().base().pool_account_id.encode();
    let asset = WPhaAssetId::get().encode();
    let key = [
        &twox_128(b"Assets")[..],
        &twox_128(b"Account"),
        &blake2_128(&asset),
        &asset,
        &blake2_128(&account),
        &account,
    ]
    .concat();
    let value = para.storage(&key, at).unwrap();
    value.map_or(0, |value| AssetAccount::decode(&mut &value[..]).unwrap().balance)
}

/// A call for a worker: its name and the worker's key.
type Paid = (&'static str, [u8; 32]);

/// Counts the failed calls in all final blocks by call, worker and error.
pub(crate) fn refusals(para: &Node) -> BTreeMap<(&'static str, [u8; 32], String), u32> {
    let mut counts = BTreeMap::new();
    for number in 1..=para.finalized_number() {
        let events = events(para, number);
        for (index, bytes) in para.extrinsics(number).unwrap().iter().enumerate() {
            let extrinsic = UncheckedExtrinsic::decode(&mut &bytes[..]).unwrap();
            let mut paid = Vec::new();
            collect(&extrinsic.function, &mut paid);
            for ((name, worker), error) in failed(&paid, &events, index as u32) {
                *counts.entry((name, worker, error)).or_default() += 1;
            }
        }
    }
    counts
}

fn events(para: &Node, number: u32) -> Vec<EventRecord<RuntimeEvent, H256>> {
    let key = [twox_128(b"System"), twox_128(b"Events")].concat();
    let value = para.storage(&key, para.block_hash(number).unwrap()).unwrap();
    value.map(|value| Decode::decode(&mut &value[..]).unwrap()).unwrap_or_default()
}

/// Collects an extrinsic's calls about workers, in the order of execution.
fn collect(call: &RuntimeCall, found: &mut Vec<Paid>) {
    use stake_pool::Call;
    let paid = match call {
        RuntimeCall::Utility(
            pallet_utility::Call::force_batch { calls } | pallet_utility::Call::batch { calls },
        ) => return calls.iter().for_each(|call| collect(call, found)),
        RuntimeCall::Proxy(pallet_proxy::Call::proxy { call, .. }) => return collect(call, found),
        RuntimeCall::PhalaRegistry(call) => match call {
            registry::Call::register_worker { pruntime_info, .. } => ("register", pruntime_info.pubkey.0),
            registry::Call::register_worker_v2 { pruntime_info, .. } => ("register", pruntime_info.pubkey.0),
            registry::Call::update_worker_endpoint { endpoint_payload, .. } => {
                ("endpoints", endpoint_payload.pubkey.0)
            }
            _ => return,
        },
        RuntimeCall::PhalaMq(mq::Call::sync_offchain_message { signed_message }) => {
            let MessageOrigin::Worker(worker) = &signed_message.message.sender else { return };
            ("message", worker.0)
        }
        RuntimeCall::PhalaStakePoolv2(call) => match call {
            Call::add_worker { pubkey, .. } => ("add", pubkey.0),
            Call::remove_worker { worker, .. } => ("remove", worker.0),
            Call::start_computing { worker, .. } => ("start", worker.0),
            Call::stop_computing { worker, .. } => ("stop", worker.0),
            Call::restart_computing { worker, .. } => ("restart", worker.0),
            Call::reclaim_pool_worker { worker, .. } => ("reclaim", worker.0),
            _ => return,
        },
        _ => return,
    };
    found.push(paid);
}

/// Returns an extrinsic's failed calls, from its events.
fn failed(paid: &[Paid], events: &[EventRecord<RuntimeEvent, H256>], index: u32) -> Vec<(Paid, String)> {
    let mut items = Vec::new();
    let mut whole = None;
    for record in events.iter().filter(|record| record.phase == Phase::ApplyExtrinsic(index)) {
        match &record.event {
            RuntimeEvent::Utility(pallet_utility::Event::ItemCompleted) => items.push(None),
            RuntimeEvent::Utility(pallet_utility::Event::ItemFailed { error }) => items.push(Some(*error)),
            RuntimeEvent::Proxy(pallet_proxy::Event::ProxyExecuted { result: Err(error) })
            | RuntimeEvent::System(frame_system::Event::ExtrinsicFailed { dispatch_error: error, .. }) => {
                whole = Some(*error);
            }
            _ => {}
        }
    }
    if whole.is_none() && !items.is_empty() {
        assert_eq!(items.len(), paid.len(), "the batch has calls that are of no worker: {paid:?}");
    }
    let outcome = |at: usize| whole.or_else(|| items.get(at).copied().flatten());
    let failed = |(at, paid): (usize, &Paid)| outcome(at).map(|error| (*paid, name(error)));
    paid.iter().enumerate().filter_map(failed).collect()
}

fn name(error: DispatchError) -> String {
    match RuntimeError::from_dispatch_error(error) {
        Some(error) => format!("{error:?}"),
        None => format!("{error:?}"),
    }
}
