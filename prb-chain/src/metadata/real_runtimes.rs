//! Tests that runtimes of real chains have the parts that this crate uses, with the expected layouts.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use codec::{Compact, Decode, Encode};
use prb_core::{
    chain::{Call, CallBatch, DispatchError},
    primitives::{AccountId, Hash},
};

use super::*;
use crate::{keys::OperatorKey, verify::state};

/// Loads a real chain's runtime from beside the checkout, if it is there.
pub(crate) fn runtime(file: &str) -> Option<Runtime> {
    let shared = ["../../shared/data", "../../../shared/data"];
    let paths = shared.map(|dir| format!("{}/{dir}/{file}", env!("CARGO_MANIFEST_DIR")));
    let Some(metadata) = paths.iter().find_map(|path| std::fs::read(path).ok()) else {
        eprintln!("skipped: {file} is not at {paths:?}");
        return None;
    };
    Some(Runtime::new(Hash([0; 32]), 1, 1, &metadata).unwrap())
}

fn khala() -> Option<Runtime> {
    runtime("khala-metadata-v14.scale")
}

#[test]
fn khala_accepts_every_call_single_batched_and_proxied() {
    let Some(runtime) = khala() else { return };
    let encoded: Vec<_> = Call::samples().iter().map(|call| runtime.call(call).unwrap()).collect();
    runtime.batch(&encoded, None).unwrap();
    runtime.batch(&encoded, Some(AccountId([5; 32]))).unwrap();
    // Invalid arguments are detected.
    let Call::RegisterWorker { worker, runtime_info, .. } = Call::samples().remove(1) else { unreachable!() };
    let short = Call::RegisterWorker { worker, runtime_info, attestation: vec![], replaces: None };
    assert!(matches!(runtime.call(&short), Err(Error::Layout { .. })));
}

#[tokio::test]
async fn khala_transaction_is_signed_with_its_extensions() {
    let Some(runtime) = khala().map(Arc::new) else { return };
    let secret = "bottom drive obey lake curtain smoke basket hold race lonely fit walk".to_owned().into();
    let signer = Arc::new(OperatorKey::from_secret(&secret).unwrap());
    let batch = CallBatch::new(signer, Call::samples());
    let prepared = crate::submit::sign_for_test(&runtime, &batch).await.unwrap();
    // Length, version, `MultiAddress::Id`, signature, era of two bytes, nonce and tip of one byte each:
    // extensions without data, such as `CheckMqSequence`, add nothing.
    let mut rest = &*prepared;
    let length = Compact::<u32>::decode(&mut rest).unwrap();
    assert_eq!((length.0 as usize, &rest[..2]), (rest.len(), &[0x84, 0][..]));
    let call = 2 + 32 + 1 + 64 + 4;
    assert_eq!(&rest[call - 2..call], [5 << 2, 0], "nonce and tip");
    let metadata = runtime.metadata();
    assert_eq!(rest[call], metadata.pallet_by_name("Utility").unwrap().call_index());
}

#[test]
fn khala_has_every_item_and_constant() {
    let Some(runtime) = khala() else { return };
    for (pallet, item) in [
        ("PhalaMq", "OffchainIngress"),
        ("PhalaRegistry", "Workers"),
        ("PhalaRegistry", "Endpoints"),
        ("PhalaRegistry", "BenchmarkDuration"),
        ("PhalaComputation", "WorkerBindings"),
        ("PhalaComputation", "Sessions"),
        ("PhalaComputation", "Stakes"),
        ("PhalaComputation", "CoolDownPeriod"),
        ("PhalaComputation", "TokenomicParameters"),
        ("PhalaStakePoolv2", "WorkerAssignments"),
        ("PhalaBasePool", "Pools"),
        ("System", "Account"),
        ("System", "Events"),
        ("System", "LastRuntimeUpgrade"),
        ("Timestamp", "Now"),
    ] {
        runtime.item(pallet, item).unwrap();
    }
    runtime.double_map("Assets", "Account").unwrap();
    assert_eq!(runtime.constant::<u128>("Balances", "ExistentialDeposit"), Ok(10_000_000_000));
    assert!(runtime.constant::<u32>("Utility", "batched_calls_limit").unwrap() > 1_000);
    assert!(runtime.constant::<u32>("PhalaStakePoolv2", "MaxPoolWorkers").is_ok());
    assert!(runtime.constant::<u64>("PhalaStakePoolv2", "GracePeriod").is_ok());
    assert!(runtime.constant::<u32>("PhalaWrappedBalances", "WPhaAssetId").is_ok());
    let limits = runtime.block_limits();
    assert!(limits.bytes.is_some() && limits.block[0].is_some() && limits.base[0].is_some());
    // Keys that are used before any runtime is known.
    for (pallet, item, value) in [
        ("ParachainInfo", "ParachainId", 2004_u32.encode()),
        ("ParachainSystem", "ValidationData", (vec![1_u8], 7_u32, [3_u8; 32], 5_u32).encode()),
    ] {
        let found = runtime.item(pallet, item).unwrap();
        assert_eq!(found.key(&[]), state::value_key(pallet, item));
        found.read::<scale_value::Value<()>>(Some(&value)).unwrap().unwrap();
    }
}

#[test]
fn khala_events_yield_batch_outcome() {
    let Some(runtime) = khala() else { return };
    let metadata = runtime.metadata();
    let event = |index: u32, pallet: &str, name: &str, fields: Vec<u8>| {
        let pallet = metadata.pallet_by_name(pallet).unwrap();
        let variant = pallet.event_variants().unwrap().iter().find(|variant| variant.name == name).unwrap();
        [vec![0], index.encode(), vec![pallet.event_index(), variant.index], fields, vec![0]].concat()
    };
    let pools = metadata.pallet_by_name("PhalaStakePoolv2").unwrap();
    let error = &pools.error_variants().unwrap()[0];
    let module = vec![3, pools.error_index(), error.index, 0, 0, 0];
    let done = || event(2, "Utility", "ItemCompleted", vec![]);
    // `DispatchInfo`: weight of two compact numbers, class, whether fees are paid.
    let info = vec![0, 0, 0, 0];
    let ended = || event(2, "System", "ExtrinsicSuccess", info.clone());
    let outcome = |events: &[Vec<u8>], calls| {
        runtime.batch_outcome([Compact(events.len() as u32).encode(), events.concat()].concat(), 2, calls)
    };
    let failed = || Err(DispatchError { name: format!("PhalaStakePoolv2::{}", error.name) });
    let item_failed = event(2, "Utility", "ItemFailed", module.clone());
    let batch = event(2, "Utility", "BatchCompletedWithErrors", vec![]);
    let ran = outcome(&[done(), item_failed, batch, ended()], 2);
    assert!(
        matches!(&ran, Ok(ExtrinsicOutcome::Ran { calls, .. }) if *calls == [Ok(()), failed()]),
        "{ran:?}"
    );
    let proxied = event(2, "Proxy", "ProxyExecuted", [vec![1], module.clone()].concat());
    let refused = outcome(&[proxied, ended()], 1);
    assert_eq!(refused, Ok(ExtrinsicOutcome::Failed(failed().unwrap_err())));
    let whole = event(2, "System", "ExtrinsicFailed", [module, info.clone()].concat());
    assert_eq!(outcome(&[whole], 1), Ok(ExtrinsicOutcome::Failed(failed().unwrap_err())));
}

#[test]
fn relay_chains_store_heads_and_authorities_under_the_expected_keys() {
    for file in ["kusama-v14.scale", "kusama-v15.scale", "polkadot-v14.scale", "polkadot-v15.scale"] {
        let Some(runtime) = runtime(file) else { return };
        let id = 2004_u32;
        let heads = runtime.item("Paras", "Heads").unwrap();
        assert_eq!(heads.key(&id.encode()), state::para_head_key(id), "{file}");
        // A SCALE header, as bytes.
        assert_eq!(
            heads.read_static::<Vec<u8>>(Some(&vec![1_u8, 2].encode())),
            Ok(Some(vec![1, 2])),
            "{file}"
        );
        let [authorities, _, set_id] = state::authority_keys();
        let current = runtime.item("Grandpa", "CurrentSetId").unwrap();
        assert_eq!((current.key(&[]), current.read_static::<u64>(None)), (set_id, Ok(Some(0))), "{file}");
        // Older runtimes store the list under a well-known key outside of any pallet.
        if let Ok(item) = runtime.item("Grandpa", "Authorities") {
            assert_eq!(item.key(&[]), authorities, "{file}");
            let list = vec![([4_u8; 32], 1_u64)];
            assert_eq!(
                item.read_static::<Vec<([u8; 32], u64)>>(Some(&list.encode())),
                Ok(Some(list)),
                "{file}"
            );
        }
        runtime.item("System", "Account").unwrap();
        runtime.item("Timestamp", "Now").unwrap();
    }
}
