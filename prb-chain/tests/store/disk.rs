//! Test of the store's size on the disk.

use super::*;

/// 2,000 relay blocks, 1,000 parachain blocks with 100 changes of 100 bytes: history in batches of 100
/// blocks, and the tip block by block.
#[test]
fn disk_overhead_is_small() {
    let dir = TempDir::new().unwrap();
    let store = Store::open(dir.path(), Config::default()).unwrap();
    let total = append_headers(&store) + append_changes(&store);
    let disk = store.disk_bytes().unwrap();
    let ratio = disk as f64 / total as f64;
    println!("{total} bytes of blocks, {disk} on disk: {ratio:.3}");
    assert!(ratio <= 1.25, "{disk} bytes on disk for {total} bytes of blocks: {ratio:.3}");
}

/// Returns the number of bytes.
fn append_headers(store: &Store) -> usize {
    let mut total = 0;
    let header = |number: u32, parent_hash: Hash, log: usize| Header {
        parent_hash,
        number,
        state_root: Hash([7; 32]),
        extrinsics_root: Hash([8; 32]),
        digest: vec![prb_core::wire::DigestItem::Seal(*b"BABE", vec![9; log])],
    };
    let set = prb_core::wire::AuthoritySet { list: vec![([1; 32], 1); 4], id: 0 };
    store
        .set_genesis(
            &Start { number: 0, hash: Hash::default(), set: set.clone() },
            &empty_genesis(RelayNumber(0)),
        )
        .unwrap();
    let (mut relay_parent, mut para_parent, mut next_para) = (Hash::default(), Hash::default(), 0u32);
    for i in 0..40u64 {
        let first = i as u32 * 50 + 1;
        let mut headers = Vec::new();
        for n in first..first + 50 {
            let encoded = header(n, relay_parent, 250).encode();
            relay_parent = Hash::of(&encoded);
            headers.push(encoded);
        }
        let mut para = Vec::new();
        for n in next_para..(i as u32 + 1) * 25 + 1 {
            let encoded = header(n, para_parent, 120).encode();
            para_parent = Hash::of(&encoded);
            para.push(encoded);
        }
        let head = ParaNumber((i as u32 + 1) * 25);
        let next_set = prb_core::wire::AuthoritySet { id: i + 1, ..set.clone() };
        let block = NewJustifiedBlock {
            number: RelayNumber(first + 49),
            justification: vec![3; 900],
            set_id: i,
            next_set: Some(next_set),
            para_head: Some(ParaHead { number: head, hash: para_parent }),
            proof: vec![vec![4; 400]; 5],
        };
        total += headers.iter().chain(&para).map(Vec::len).sum::<usize>() + 900 + 2000;
        store
            .append_relay(&RelayBatch { first: RelayNumber(first), headers, justified: vec![block] })
            .unwrap();
        store.append_para_headers(ParaNumber(next_para), &para).unwrap();
        next_para = head.0 + 1;
    }
    total
}

/// Returns the number of bytes.
fn append_changes(store: &Store) -> usize {
    let mut total = 0;
    let changes = |n: u32| {
        let main = (0..100u32)
            .map(|i| {
                (
                    Hash::of(&(i, 1).encode()).0.to_vec(),
                    Some(Hash::of(&(i, n).encode()).0.repeat(4)[..100].to_vec()),
                )
            })
            .collect();
        StorageChanges { main, child: vec![] }.encode()
    };
    for first in (1..=800u32).step_by(100) {
        let blocks: Vec<_> = (first..first + 100).map(changes).collect();
        total += blocks.iter().map(Vec::len).sum::<usize>();
        store.append_changes(ParaNumber(first), &blocks).unwrap();
    }
    for n in 801..=1000 {
        let block = changes(n);
        total += block.len();
        store.append_changes(ParaNumber(n), &[block]).unwrap();
    }
    total
}
