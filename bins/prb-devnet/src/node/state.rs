//! An in-memory archive of all states of a chain: nodes are added and never removed.

use std::{collections::HashMap, sync::Arc};

use hash_db::Prefix;
use parking_lot::RwLock;
use sp_core::H256;
use sp_runtime::traits::BlakeTwo256;
use sp_state_machine::{Backend, IterArgs, TrieBackend, TrieBackendBuilder, TrieBackendStorage};
use sp_trie::{DBValue, PrefixedMemoryDB, prefixed_key};

use crate::Error;

/// The trie nodes of all states.
#[derive(Debug, Clone)]
pub(crate) struct StateDb {
    nodes: Arc<RwLock<HashMap<Vec<u8>, DBValue>>>,
}

/// Key-value pairs, ordered by key.
pub type StoragePairs = Vec<(Vec<u8>, Vec<u8>)>;

/// One state.
pub(crate) type State = TrieBackend<StateDb, BlakeTwo256>;

impl StateDb {
    /// Creates an archive with the empty state.
    pub(crate) fn new() -> Self {
        // No transaction ever adds the node of the empty trie.
        let (key, value) = (empty_root(), vec![0u8]);
        let nodes = HashMap::from([(prefixed_key::<BlakeTwo256>(&key, hash_db::EMPTY_PREFIX), value)]);
        Self { nodes: Arc::new(RwLock::new(nodes)) }
    }

    /// Returns the state with a root.
    pub(crate) fn at(&self, root: H256) -> State {
        TrieBackendBuilder::new(self.clone(), root).build()
    }

    /// Adds a block's new nodes.
    pub(crate) fn insert(&self, mut transaction: PrefixedMemoryDB<BlakeTwo256>) {
        let mut nodes = self.nodes.write();
        for (key, (value, references)) in transaction.drain() {
            // Removals have no positive count. They are ignored, because this is an archive.
            if references > 0 {
                nodes.insert(key, value);
            }
        }
    }
}

/// The root of a state without entries.
pub(crate) fn empty_root() -> H256 {
    sp_trie::empty_trie_root::<sp_trie::LayoutV0<BlakeTwo256>>()
}

impl TrieBackendStorage<BlakeTwo256> for StateDb {
    fn get(&self, key: &H256, prefix: Prefix) -> Result<Option<DBValue>, String> {
        Ok(self.nodes.read().get(&prefixed_key::<BlakeTwo256>(key, prefix)).cloned())
    }
}

/// Reads one value.
pub(crate) fn read(state: &State, key: &[u8]) -> Result<Option<Vec<u8>>, Error> {
    state.storage(key).map_err(Error::State)
}

/// Returns the pairs under a prefix, ordered by key, after `start` if given.
pub(crate) fn pairs(
    state: &State,
    prefix: &[u8],
    start: Option<&[u8]>,
    limit: usize,
) -> Result<StoragePairs, Error> {
    let mut args = IterArgs::default();
    args.prefix = Some(prefix);
    args.start_at = start;
    args.start_at_exclusive = start.is_some();
    state.pairs(args).map_err(Error::State)?.take(limit).map(|pair| pair.map_err(Error::State)).collect()
}

/// Returns the keys under a prefix, in order, after `start` if given.
pub(crate) fn keys(
    state: &State,
    prefix: &[u8],
    start: Option<&[u8]>,
    limit: usize,
) -> Result<Vec<Vec<u8>>, Error> {
    let mut args = IterArgs::default();
    args.prefix = Some(prefix);
    args.start_at = start;
    args.start_at_exclusive = start.is_some();
    state.keys(args).map_err(Error::State)?.take(limit).map(|key| key.map_err(Error::State)).collect()
}

/// Proves the presence or absence of keys.
pub(crate) fn prove(state: &State, keys: &[Vec<u8>]) -> Result<Vec<Vec<u8>>, Error> {
    let proof = sp_state_machine::prove_read_on_trie_backend(state, keys)
        .map_err(|error| Error::State(error.to_string()))?;
    Ok(proof.into_iter_nodes().collect())
}
