//! The runtime's parts by name, and what happens where they do not fit.

use codec::{Decode, Encode};
use prb_chain::metadata::{Error, Runtime};
use prb_core::primitives::Hash;
use prb_devnet::{Config, Devnet};

fn runtime() -> Runtime {
    let devnet = Devnet::build(Config::default()).unwrap();
    let para = devnet.para();
    let genesis = para.block_hash(0).unwrap();
    let metadata = para.call("Metadata_metadata_at_version", &15_u32.encode(), genesis).unwrap();
    let metadata = Option::<Vec<u8>>::decode(&mut metadata.as_slice()).unwrap().unwrap();
    Runtime::new(Hash(genesis.0), 1000, 1, &metadata).unwrap()
}

#[test]
fn values_that_do_not_fit_are_errors() {
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
fn keys_name_what_they_are_of() {
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
fn parts_that_are_missing_are_named() {
    let runtime = runtime();
    for (pallet, item) in [("PhalaRegistry", "Nothing"), ("Nothing", "Workers")] {
        let name = format!("{pallet}::{item}");
        assert_eq!(runtime.item(pallet, item).unwrap_err(), Error::Missing { name });
    }
    let garbled = Runtime::new(Hash([0; 32]), 1, 1, b"no metadata");
    assert!(matches!(garbled, Err(Error::Unreadable { .. })));
}
