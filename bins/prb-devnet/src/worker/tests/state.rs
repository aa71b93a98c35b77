//! Tests of the shared trie store.

use prb_core::wire::StorageChanges;
use sp_core::{Blake2Hasher, H256};
use sp_trie::{LayoutV0, TrieConfiguration};

use super::*;

#[test]
fn every_state_has_the_root_of_its_pairs() {
    let chain = MiniChain::new(80, 1, &[], 60);
    let mut worker = with_headers(&chain, 80);
    for number in 1..=78 {
        worker.dispatch(chain.blocks(number..=number)).unwrap();
        assert_eq!(worker.info().state_root, hex::encode(chain.para[number as usize].header.state_root));
    }
}

#[test]
fn states_are_shared_and_freed() {
    let chain = MiniChain::new(40, 1, &[], 30);
    let sync = |shared: &Shared| {
        let mut worker = verifier(shared);
        worker.init(init(&chain)).unwrap();
        worker.sync_relay(chain.relay_headers(2..=40)).unwrap();
        worker.sync_para(chain.para_headers(0..=38), &chain.proof(40)).unwrap();
        worker.dispatch(chain.blocks(1..=38)).unwrap();
        worker
    };
    let shared = Shared::default();
    let first = sync(&shared);
    let bytes_of_one = shared.trie_bytes();
    let others: Vec<_> = (0..5).map(|_| sync(&shared)).collect();
    assert_eq!(shared.trie_bytes(), bytes_of_one);
    shared.tries().forget_all();
    // One state is left: roughly the size of its pairs.
    let pairs: usize = chain.state(38).iter().map(|(key, value)| key.len() + value.len()).sum();
    assert!(shared.trie_bytes() < 2 * pairs, "{} bytes for {pairs}", shared.trie_bytes());
    drop(others);
    assert!(shared.trie_bytes() > 0);
    drop(first);
    assert_eq!(shared.trie_bytes(), 0);
}

#[test]
fn cached_transition_is_still_checked() {
    let chain = MiniChain::new(8, 1, &[], 10);
    let shared = Shared::default();
    let state = shared.tries().load(chain.state(0));
    let changes = &chain.para[1].changes;
    let root = H256(chain.para[1].header.state_root.0);
    assert_eq!(state.apply(changes, root).unwrap().root(), root);
    assert_eq!(state.apply(changes, H256::zero()).unwrap_err(), root);
}

#[test]
fn child_tries_change_with_the_main_trie() {
    let shared = Shared::default();
    let start = shared.tries().load(vec![(b"a".to_vec(), b"1".to_vec())]);
    let child: Vec<_> = (0..20u8).map(|n| (vec![n; 5], Some(vec![n; 50]))).collect();
    // The main root with a child trie of these pairs, recomputed.
    let with_child = |pairs: &[(Vec<u8>, Option<Vec<u8>>)]| {
        let pairs = pairs.iter().filter_map(|(key, value)| Some((key.clone(), value.clone()?)));
        let child = LayoutV0::<Blake2Hasher>::trie_root(pairs);
        let main = [(b":child_storage:default:c".to_vec(), child.0.to_vec()), (b"a".to_vec(), b"1".to_vec())];
        LayoutV0::<Blake2Hasher>::trie_root(main)
    };
    let changed = |child| StorageChanges { main: Vec::new(), child: vec![(b"c".to_vec(), child)] };
    let full = start.apply(&changed(child.clone()), with_child(&child)).unwrap();
    let mut fewer = child.clone();
    fewer[3].1 = None;
    let one_less = full.apply(&changed(vec![fewer[3].clone()]), with_child(&fewer)).unwrap();
    let removals = child.into_iter().map(|(key, _)| (key, None)).collect();
    assert_eq!(one_less.apply(&changed(removals), start.root()).unwrap().root(), start.root());
}

#[test]
fn empty_state_is_valid() {
    let shared = Shared::default();
    let state = shared.tries().load(Vec::new());
    assert_eq!(state.root(), LayoutV0::<Blake2Hasher>::trie_root::<_, Vec<u8>, Vec<u8>>([]));
    assert_eq!(state.get(b"a"), None);
}
