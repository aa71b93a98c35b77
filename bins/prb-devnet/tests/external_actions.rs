//! Tests of external actions in blocks, proofs that grow too large, and genesis settings.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use codec::{Compact, Decode, Encode};
use prb_devnet::{
    Action, Config, Devnet, PoolCall, ProofLimit,
    runtime::{
        PHA,
        para::v1::SPEC_VERSION,
        types::{PoolProxy, StakePool, WithdrawInfo},
    },
};
use sp_core::{H256, Pair as _, sr25519};
use sp_io::hashing::{blake2_256, twox_64, twox_128};

fn value<T: Decode>(devnet: &Devnet, pallet: &str, item: &str, key: &[u8]) -> Option<T> {
    let key = [&twox_128(pallet.as_bytes())[..], &twox_128(item.as_bytes()), key].concat();
    let para = devnet.para();
    let at = para.block_hash(para.best_number()).unwrap();
    para.storage(&key, at).unwrap().map(|value| T::decode(&mut &value[..]).unwrap())
}

fn pool(devnet: &Devnet, pid: u64) -> StakePool {
    let key = [&twox_64(&pid.encode())[..], &pid.encode()].concat();
    match value(devnet, "PhalaBasePool", "Pools", &key) {
        Some(PoolProxy::StakePool(pool)) => pool,
        other => panic!("{other:?}"),
    }
}

/// Advances to the next parachain block.
fn para_block(devnet: &Devnet) {
    while devnet.tick().unwrap().para.is_none() {}
}

#[test]
fn actions_are_applied_in_the_next_block() {
    let devnet = Devnet::build(Config { pools: 2, vaults: 1, ..Config::default() }).unwrap();
    para_block(&devnet);
    let owner = devnet.pools()[0].owner.clone();
    let shares = 2_000_000 * PHA;
    devnet.act(Action::Contribute { pid: 1, who: owner.clone(), amount: 1_000_000 * PHA });
    devnet.act(Action::Withdraw { pid: 1, who: owner.clone(), shares });
    devnet.act(Action::SetPoolOwner { pid: 2, owner: owner.clone() });
    let before = devnet.para().best_number();
    para_block(&devnet);
    let pool_account = pool(&devnet, 1).basepool.pool_account_id;
    assert_eq!(pool(&devnet, 1).basepool.total_value, 0, "all of it was free, and is paid");
    assert_eq!(pool(&devnet, 2).basepool.owner, owner);
    let asset = (10_000u32, pool_account);
    let hashed = |part: &[u8]| [&sp_io::hashing::blake2_128(part)[..], part].concat();
    let key = [hashed(&asset.0.encode()), hashed(&asset.1.encode())].concat();
    assert_eq!(value::<u128>(&devnet, "Assets", "Account", &key), None);
    // The changes are in the block's storage changes, so that its root is right.
    let changed = devnet.para().storage_changes(before + 1).unwrap();
    let prefix = [twox_128(b"PhalaBasePool"), twox_128(b"Pools")].concat();
    assert_eq!(changed.main.iter().filter(|(key, _)| key.starts_with(&prefix)).count(), 2);
}

#[test]
fn refused_action_is_reported_and_dropped() {
    let devnet = Devnet::build(Config::default()).unwrap();
    let owner = devnet.pools()[0].owner.clone();
    devnet.act(Action::Call { who: owner, pid: 1, call: PoolCall::SetCap(1) });
    devnet.tick().unwrap();
    let refused = devnet.tick().unwrap_err().to_string();
    assert!(refused.contains("SetCap(1)") && refused.contains("InadequateCapacity"), "{refused}");
    assert_eq!(devnet.para().best_number(), 0);
    para_block(&devnet);
    assert_eq!(devnet.para().best_number(), 1);
    assert_eq!(pool(&devnet, 1).cap, None);
}

#[test]
fn withdrawals_are_queued_where_bridges_read_them() {
    let devnet = Devnet::build(Config { free_stake: 10 * PHA, ..Config::default() }).unwrap();
    let owner = devnet.pools()[0].owner.clone();
    // No stake is free, as after starting workers.
    let mut poor = pool(&devnet, 1);
    poor.basepool.pool_account_id = [9; 32].into();
    let pid = 1u64.encode();
    let key = [&twox_128(b"PhalaBasePool")[..], &twox_128(b"Pools"), &twox_64(&pid), &pid].concat();
    let value = Some(PoolProxy::StakePool(poor).encode());
    devnet.act(Action::SetStorage { key, value });
    devnet.act(Action::Withdraw { pid: 1, who: owner.clone(), shares: PHA });
    para_block(&devnet);
    let start_time = devnet.timestamp(devnet.relay().best_number()) / 1000;
    let waiting = WithdrawInfo { user: owner, start_time, nft_id: 0 };
    assert_eq!(pool(&devnet, 1).basepool.withdraw_queue, [waiting]);
}

#[test]
fn configured_constants_are_in_the_metadata() {
    let constant = |config| {
        let devnet = Devnet::build(config).unwrap();
        let genesis = devnet.para().block_hash(0).unwrap();
        let metadata = devnet.para().call("Metadata_metadata", &[], genesis).unwrap();
        let name = b"MaxPoolWorkers";
        let at = metadata.windows(name.len()).position(|window| window == name).unwrap() + name.len();
        // The id of its type, then its value.
        let (_, value) = <(Compact<u32>, Vec<u8>)>::decode(&mut &metadata[at..]).unwrap();
        u32::decode(&mut &value[..]).unwrap()
    };
    assert_eq!(constant(Config::default()), 200);
    assert_eq!(constant(Config { max_pool_workers: 7, ..Config::default() }), 7);
}

#[test]
fn operators_can_share_pools() {
    let devnet = Devnet::build(Config { pools: 5, operators: 2, ..Config::default() }).unwrap();
    let operators: Vec<_> = devnet.pools().iter().map(|pool| pool.operator.clone()).collect();
    assert_eq!(operators[0], operators[2]);
    assert_eq!(operators[1], operators[3]);
    assert_ne!(operators[0], operators[1]);
    let apart = Devnet::build(Config { pools: 2, ..Config::default() }).unwrap();
    assert_eq!(apart.pools()[0].operator, operators[0], "the first pool has the same operator always");
}

/// A batch of remarks by a pool's operator.
fn batch(devnet: &Devnet, pool: usize, nonce: u32, remarks: usize) -> Vec<u8> {
    let (pair, _) = sr25519::Pair::from_phrase(&devnet.pools()[pool].mnemonic, None).unwrap();
    // Utility::force_batch of System::remark with one byte, by the runtime's indexes.
    let call = [&[3, 4], &Compact(remarks as u32).encode()[..], &[0, 0, 4, 1].repeat(remarks)].concat();
    let genesis: H256 = devnet.para().block_hash(0).unwrap();
    let extension = [vec![0], Compact(nonce).encode(), Compact(0u128).encode()].concat();
    let implied = (SPEC_VERSION, 1u32, genesis, genesis).encode();
    let payload = [&call[..], &extension, &implied].concat();
    let payload = if payload.len() > 256 { blake2_256(&payload).to_vec() } else { payload };
    let signature = pair.sign(&payload).0;
    [&[0x84, 0], &pair.public().0[..], &[1], &signature, &extension, &call].concat().encode()
}

#[test]
fn block_over_the_proof_limit_is_not_backed() {
    let limit = ProofLimit { limit_bytes: 1000, call_bytes: 100 };
    let config = Config { pools: 3, proof_limit: Some(limit), ..Config::default() };
    let devnet = Devnet::build(config).unwrap();
    let para = devnet.para();
    let signed = || para.extrinsics(para.best_number()).unwrap().len() - 2;
    // Ten calls fit, eleven do not: nothing is backed until fewer are sent.
    para.submit(batch(&devnet, 0, 0, 11)).unwrap();
    para_block(&devnet);
    assert_eq!((signed(), para.pending_extrinsics().len()), (0, 1));
    para_block(&devnet);
    assert_eq!((signed(), para.pending_extrinsics().len()), (0, 1));
    para.set_proof_limit(Some(ProofLimit { limit_bytes: 1100, ..limit }));
    para.submit(batch(&devnet, 1, 0, 11)).unwrap();
    para_block(&devnet);
    assert_eq!((signed(), para.pending_extrinsics().len()), (1, 1), "the second waits for the next block");
    para_block(&devnet);
    assert_eq!((signed(), para.pending_extrinsics().len()), (1, 0));
}
