//! Reads values from storage proofs.

use sp_core::{Blake2Hasher, H256};
use sp_trie::{EMPTY_PREFIX, HashDBT, LayoutV1, MemoryDB, Trie, TrieDBBuilder};

/// The trie nodes of a proof and their expected root.
pub(crate) struct Proof {
    nodes: MemoryDB<Blake2Hasher>,
    root: H256,
}

impl Proof {
    pub(crate) fn new(root: H256, nodes: &[Vec<u8>]) -> Self {
        let mut db = MemoryDB::default();
        for node in nodes {
            // Stored under the hash of its content, so an altered node is missing where its parent refers to
            // it.
            db.insert(EMPTY_PREFIX, node);
        }
        Self { nodes: db, root }
    }

    /// Reads the value of `key`; `None` if the proof shows that it is absent.
    ///
    /// # Errors
    /// pRuntime's text if nodes are missing or altered.
    pub(crate) fn read(&self, key: &[u8]) -> Result<Option<Vec<u8>>, String> {
        // The relay chain may use either state version; this layout reads both.
        TrieDBBuilder::<LayoutV1<Blake2Hasher>>::new(&self.nodes, &self.root)
            .build()
            .get(key)
            .map_err(|error| format!("Failed to read value from trie: {error:?}"))
    }
}
