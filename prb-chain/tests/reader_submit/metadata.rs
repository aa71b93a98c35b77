//! Tests of looking up the runtime's parts by name, and of mismatches.

use codec::{Compact, Decode, Encode};
use prb_chain::internals::metadata::{Error, ExtrinsicOutcome, OutcomeError, Runtime};
use prb_core::primitives::Hash;
use prb_devnet::{Config, Devnet};

fn metadata() -> (Hash, Vec<u8>) {
    let devnet = Devnet::build(Config::default()).unwrap();
    let para = devnet.para();
    let genesis = para.block_hash(0).unwrap();
    let metadata = para.call("Metadata_metadata_at_version", &15_u32.encode(), genesis).unwrap();
    let metadata = Option::<Vec<u8>>::decode(&mut metadata.as_slice()).unwrap().unwrap();
    (Hash(genesis.0), metadata)
}

fn runtime() -> Runtime {
    let (genesis, metadata) = metadata();
    Runtime::new(genesis, 1000, 1, &metadata).unwrap()
}

/// Encodes an event of the transaction at `index` for `System::Events`.
fn event(metadata: &subxt::Metadata, index: u32, pallet: &str, name: &str, fields: Vec<u8>) -> Vec<u8> {
    let pallet = metadata.pallet_by_name(pallet).unwrap();
    let variant = pallet.event_variants().unwrap().iter().find(|variant| variant.name == name).unwrap();
    // `Phase::ApplyExtrinsic`, the event, and no topics.
    [vec![0], index.encode(), vec![pallet.event_index(), variant.index], fields, vec![0]].concat()
}

#[test]
fn failed_proxied_batch_reports_its_inner_error() {
    let (_, bytes) = metadata();
    let metadata = subxt::Metadata::decode_from(&bytes).unwrap();
    let runtime = runtime();
    let pools = metadata.pallet_by_name("PhalaStakePoolv2").unwrap();
    let error = |name: &str| pools.error_variants().unwrap().iter().find(|e| e.name == name).unwrap().index;
    // `DispatchError::Module`, the pallet's index, and the error's four bytes.
    let module = |name| vec![3, pools.error_index(), error(name), 0, 0, 0];
    let proxied = |inner: Vec<u8>| event(&metadata, 2, "Proxy", "ProxyExecuted", [vec![1], inner].concat());
    let outcome = |events: &[Vec<u8>]| {
        let all = [Compact(events.len() as u32).encode(), events.concat()].concat();
        runtime.batch_outcome(all, 2, 1)
    };
    let failed = |name: &str| {
        let name = name.to_owned();
        Ok(ExtrinsicOutcome::Failed(prb_core::chain::DispatchError { name }))
    };
    let named = proxied(module("UnauthorizedPoolOwner"));
    assert_eq!(outcome(std::slice::from_ref(&named)), failed("PhalaStakePoolv2::UnauthorizedPoolOwner"));
    // `BadOrigin`, and `Token(FundsUnavailable)`.
    assert_eq!(outcome(&[proxied(vec![2])]), failed("BadOrigin"));
    assert_eq!(outcome(&[proxied(vec![7, 0])]), failed("Token::FundsUnavailable"));
    // Events of other transactions are ignored.
    let other = event(&metadata, 1, "Utility", "ItemCompleted", vec![]);
    assert_eq!(outcome(&[other.clone(), named]), failed("PhalaStakePoolv2::UnauthorizedPoolOwner"));
    assert_eq!(outcome(&[other]), Err(OutcomeError::Count { found: 0, expected: 1 }));
}

#[test]
fn mismatched_values_are_errors() {
    let pools = runtime().item("PhalaStakePoolv2", "WorkerAssignments").unwrap();
    assert_eq!(pools.read::<u64>(Some(&7_u64.encode())), Ok(Some(7)));
    assert_eq!(pools.read::<u64>(None), Ok(None));
    // Too short, too long, and a type that the runtime does not have there.
    for wrong in [&[1; 7][..], &[1; 9]] {
        assert!(matches!(pools.read::<u64>(Some(wrong)), Err(Error::Layout { .. })), "{wrong:?}");
        assert!(matches!(pools.read_static::<u64>(Some(wrong)), Err(Error::Layout { .. })), "{wrong:?}");
    }
    assert!(matches!(pools.read::<String>(Some(&[1; 8])), Err(Error::Layout { .. })));
    assert!(matches!(pools.read_static::<u32>(Some(&[1; 8])), Err(Error::Layout { .. })));
}

#[test]
fn map_keys_are_extracted_from_storage_keys() {
    let runtime = runtime();
    let (workers, endpoints) = (
        runtime.item("PhalaRegistry", "Workers").unwrap(),
        runtime.item("PhalaRegistry", "Endpoints").unwrap(),
    );
    let key = workers.key(&[5; 32]);
    assert_eq!(workers.map_key(&key), Some(&[5; 32][..]));
    assert_eq!(endpoints.map_key(&key), None);
    assert_eq!(workers.map_key(&key[..35]), None);
}

#[test]
fn missing_parts_are_reported() {
    let runtime = runtime();
    for (pallet, item) in [("PhalaRegistry", "Nothing"), ("Nothing", "Workers")] {
        let name = format!("{pallet}::{item}");
        assert_eq!(runtime.item(pallet, item).unwrap_err(), Error::Missing { name });
    }
    let garbled = Runtime::new(Hash([0; 32]), 1, 1, b"no metadata");
    assert!(matches!(garbled, Err(Error::Unreadable { .. })));
}
