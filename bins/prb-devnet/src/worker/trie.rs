//! The parachain's state in workers: state version 0 tries over one shared store of nodes.
//!
//! Hundreds of workers in one process follow the same chain. Nodes are content-addressed and
//! reference-counted, so that equal states share them, and a transition (parent root, changes) computed by
//! one worker is found by the next. A transition's key is a hash of every byte of the changes: a flipped bit
//! makes another transition, which is computed again.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    fmt,
    sync::{Arc, OnceLock, Weak},
};

use codec::{Decode, Encode};
use hash_db::{AsHashDB, EMPTY_PREFIX, HashDB, HashDBRef, Hasher, Prefix};
use parking_lot::Mutex;
use prb_core::wire::{Message, StorageChanges};
use sp_core::{Blake2Hasher, H256};
use sp_trie::{DBValue, LayoutV0, NodeCodec, Trie, TrieDBBuilder, delta_trie_root, empty_trie_root};
use trie_db::{
    NodeCodec as _,
    node::{Node, NodeHandle},
};

use super::keys;

// pRuntime computes the parachain's roots with state version 0, whatever the runtime declares.
type Layout = LayoutV0<Blake2Hasher>;

/// Maximum bytes of nodes in states that no worker uses any more.
const RECENT_BYTES: usize = 256 << 20;
/// Maximum number of states kept for workers that lag behind the first one.
const RECENT_STATES: usize = 4096;
const CHILD_PREFIX: &[u8] = b":child_storage:default:";
const NULL_NODE: &[u8] = &[0];

/// The store of trie nodes that workers of one process share.
#[derive(Default)]
pub(crate) struct Tries {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    nodes: HashMap<H256, Counted>,
    bytes: usize,
    transitions: HashMap<Transition, Weak<State>>,
    recent: VecDeque<Arc<State>>,
}

struct Counted {
    refs: u32,
    data: DBValue,
}

/// A parent's state root and the hash of the changes made to it.
type Transition = (H256, H256);

/// The data that a worker reads from every block's state.
#[derive(Debug)]
pub(crate) struct BlockFacts {
    /// Messages of the block to the workers.
    pub(crate) messages: Vec<Message>,
    /// The block's time, ms since the Unix epoch.
    pub(crate) now_ms: u64,
}

/// One state of the parachain.
pub(crate) struct State {
    tries: Arc<Tries>,
    root: H256,
    children: BTreeMap<Vec<u8>, H256>,
    origin: Option<Transition>,
    facts: OnceLock<Arc<BlockFacts>>,
}

impl fmt::Debug for Tries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = self.inner.lock();
        f.debug_struct("Tries").field("nodes", &inner.nodes.len()).field("bytes", &inner.bytes).finish()
    }
}

impl fmt::Debug for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("State").field("root", &self.root).finish_non_exhaustive()
    }
}

impl Tries {
    /// Size of all stored nodes, in bytes.
    pub(crate) fn size_bytes(&self) -> usize {
        self.inner.lock().bytes
    }

    /// Builds the state with these pairs.
    pub(crate) fn load(self: &Arc<Self>, pairs: Vec<(Vec<u8>, Vec<u8>)>) -> Arc<State> {
        let empty = Arc::new(State::new(self, empty_root(), BTreeMap::new(), None));
        let main = pairs.into_iter().map(|(key, value)| (key, Some(value))).collect();
        empty.compute(&StorageChanges { main, child: Vec::new() }, None).unwrap_or(empty)
    }

    /// Releases all states kept for lagging workers.
    pub(crate) fn forget_all(&self) {
        let recent = std::mem::take(&mut self.inner.lock().recent);
        drop(recent);
    }

    /// Releases the oldest states kept for lagging workers, while there are too many.
    fn forget_old(&self) {
        let mut dropped = Vec::new();
        let mut inner = self.inner.lock();
        while inner.recent.len() > RECENT_STATES || (inner.bytes > RECENT_BYTES && !inner.recent.is_empty()) {
            dropped.extend(inner.recent.pop_front());
            // Nodes are freed by the drop below, outside of the lock: do it in batches rather than for each excess
            // state.
            if dropped.len() >= 16 {
                break;
            }
        }
        drop(inner);
        drop(dropped);
    }
}

impl State {
    fn new(
        tries: &Arc<Tries>,
        root: H256,
        children: BTreeMap<Vec<u8>, H256>,
        origin: Option<Transition>,
    ) -> Self {
        Self { tries: tries.clone(), root, children, origin, facts: OnceLock::new() }
    }

    pub(crate) fn root(&self) -> H256 {
        self.root
    }

    pub(crate) fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        let inner = self.tries.inner.lock();
        TrieDBBuilder::<Layout>::new(&*inner, &self.root).build().get(key).ok().flatten()
    }

    pub(crate) fn decoded<T: Decode>(&self, key: &[u8]) -> Option<T> {
        T::decode(&mut &*self.get(key)?).ok()
    }

    /// Returns the block's messages and time, decoded once for all workers that share the state.
    pub(crate) fn facts(&self) -> Arc<BlockFacts> {
        let read = || {
            Arc::new(BlockFacts {
                messages: self.decoded(&keys::outbound_messages()).unwrap_or_default(),
                now_ms: self.decoded(&keys::now()).unwrap_or_default(),
            })
        };
        self.facts.get_or_init(read).clone()
    }

    /// Returns the state after `changes` if its root is `expected`, otherwise the root that they yield.
    pub(crate) fn apply(
        self: &Arc<Self>,
        changes: &StorageChanges,
        expected: H256,
    ) -> Result<Arc<Self>, H256> {
        self.compute(changes, Some(expected))
    }

    fn compute(
        self: &Arc<Self>,
        changes: &StorageChanges,
        expected: Option<H256>,
    ) -> Result<Arc<Self>, H256> {
        // Transitions are keyed by the main root. That does not tell which child tries a state holds: one that
        // was loaded has none.
        let has_no_children = self.children.is_empty() && changes.child.is_empty();
        let origin =
            has_no_children.then(|| (self.root, H256(sp_io::hashing::blake2_256(&changes.encode()))));
        // Held during the computation: fifty workers at the same block would otherwise all compute it.
        let mut guard = self.tries.inner.lock();
        let inner = &mut *guard;
        let known = origin.and_then(|origin| inner.transitions.get(&origin)).and_then(Weak::upgrade);
        let state = match known {
            Some(state) => state,
            None => {
                let (root, children, new) = self.delta(inner, changes);
                if expected.is_some_and(|expected| expected != root) {
                    return Err(root);
                }
                let state = Arc::new(Self::new(&self.tries, root, children, origin));
                // Only after the root was found right, so that refused changes leave no nodes.
                inner.adopt(&state, new);
                state
            }
        };
        drop(guard);
        self.tries.forget_old();
        match expected {
            Some(expected) if expected != state.root => Err(state.root),
            _ => Ok(state),
        }
    }

    fn delta(
        &self,
        inner: &Inner,
        changes: &StorageChanges,
    ) -> (H256, BTreeMap<Vec<u8>, H256>, HashMap<H256, DBValue>) {
        let mut db = Overlay { base: inner, new: HashMap::new() };
        let mut children = self.children.clone();
        let mut child_roots = Vec::new();
        for (key, changes) in &changes.child {
            let old = children.get(key).copied().unwrap_or_else(empty_root);
            let root = advance(&mut db, old, changes.iter().map(|(k, v)| (k.as_slice(), v.as_ref())));
            let value = (root != empty_root()).then(|| root.as_bytes().to_vec());
            if value.is_some() {
                children.insert(key.clone(), root);
            } else {
                children.remove(key);
            }
            child_roots.push(([CHILD_PREFIX, key].concat(), value));
        }
        let main = changes.main.iter().chain(&child_roots);
        let root = advance(&mut db, self.root, main.map(|(k, v)| (k.as_slice(), v.as_ref())));
        (root, children, db.new)
    }
}

impl Drop for State {
    fn drop(&mut self) {
        let mut inner = self.tries.inner.lock();
        if let Some(origin) = self.origin {
            // The same transition may have been computed again since the last reference was dropped.
            if inner.transitions.get(&origin).is_some_and(|state| state.strong_count() == 0) {
                inner.transitions.remove(&origin);
            }
        }
        inner.release(self.root);
        for root in self.children.values() {
            inner.release(*root);
        }
    }
}

fn empty_root() -> H256 {
    static ROOT: OnceLock<H256> = OnceLock::new();
    *ROOT.get_or_init(empty_trie_root::<Layout>)
}

/// Computes the root after the changes; returns the old one if nodes are missing, as pRuntime's storage does.
fn advance<'a>(
    db: &mut Overlay<'_>,
    root: H256,
    changes: impl Iterator<Item = (&'a [u8], Option<&'a Vec<u8>>)>,
) -> H256 {
    let changes = changes.map(|(key, value)| (key, value.map(Vec::as_slice)));
    delta_trie_root::<Layout, _, _, _, _, &[u8]>(db, root, changes, None, None).unwrap_or(root)
}

impl Inner {
    fn adopt(&mut self, state: &Arc<State>, mut new: HashMap<H256, DBValue>) {
        self.retain(state.root, &mut new);
        for root in state.children.values() {
            self.retain(*root, &mut new);
        }
        if let Some(origin) = state.origin {
            self.transitions.insert(origin, Arc::downgrade(state));
            // Keeps the state for workers that are behind: without it, each would compute the transition again.
            self.recent.push_back(state.clone());
        }
    }

    fn retain(&mut self, root: H256, new: &mut HashMap<H256, DBValue>) {
        let mut queue = vec![root];
        while let Some(hash) = queue.pop() {
            // A known node counts its children already; only new ones add to the count.
            if let Some(node) = self.nodes.get_mut(&hash) {
                node.refs += 1;
            } else if let Some(data) = new.remove(&hash) {
                queue.extend(children_of(&data));
                self.bytes += data.len();
                self.nodes.insert(hash, Counted { refs: 1, data });
            }
        }
    }

    fn release(&mut self, root: H256) {
        let mut queue = vec![root];
        while let Some(hash) = queue.pop() {
            let Some(node) = self.nodes.get_mut(&hash) else { continue };
            node.refs -= 1;
            if node.refs == 0
                && let Some(node) = self.nodes.remove(&hash)
            {
                self.bytes -= node.data.len();
                queue.extend(children_of(&node.data));
            }
        }
    }

    fn node(&self, key: &H256) -> Option<DBValue> {
        if *key == empty_root() {
            return Some(NULL_NODE.to_vec());
        }
        self.nodes.get(key).map(|node| node.data.clone())
    }
}

/// Returns the hashes of a node's children. Inline children are shorter than a hash and so have no children
/// themselves.
fn children_of(data: &[u8]) -> Vec<H256> {
    match NodeCodec::<Blake2Hasher>::decode(data) {
        Ok(Node::Branch(children, _) | Node::NibbledBranch(_, children, _)) => children
            .into_iter()
            .flatten()
            .filter_map(|child| match child {
                NodeHandle::Hash(hash) if hash.len() == 32 => Some(H256::from_slice(hash)),
                _ => None,
            })
            .collect(),
        _ => Vec::new(),
    }
}

/// The store plus the nodes that one block adds. Removals are ignored, because nodes are counted by state.
struct Overlay<'a> {
    base: &'a Inner,
    new: HashMap<H256, DBValue>,
}

impl HashDB<Blake2Hasher, DBValue> for Overlay<'_> {
    fn get(&self, key: &H256, _: Prefix<'_>) -> Option<DBValue> {
        self.new.get(key).cloned().or_else(|| self.base.node(key))
    }

    fn contains(&self, key: &H256, prefix: Prefix<'_>) -> bool {
        HashDB::get(self, key, prefix).is_some()
    }

    fn insert(&mut self, _: Prefix<'_>, value: &[u8]) -> H256 {
        let key = Blake2Hasher::hash(value);
        self.emplace(key, EMPTY_PREFIX, value.to_vec());
        key
    }

    fn emplace(&mut self, key: H256, _: Prefix<'_>, value: DBValue) {
        self.new.insert(key, value);
    }

    fn remove(&mut self, _: &H256, _: Prefix<'_>) {}
}

impl AsHashDB<Blake2Hasher, DBValue> for Overlay<'_> {
    fn as_hash_db(&self) -> &dyn HashDB<Blake2Hasher, DBValue> {
        self
    }

    fn as_hash_db_mut<'b>(&'b mut self) -> &'b mut (dyn HashDB<Blake2Hasher, DBValue> + 'b) {
        self
    }
}

impl HashDBRef<Blake2Hasher, DBValue> for Inner {
    fn get(&self, key: &H256, _: Prefix<'_>) -> Option<DBValue> {
        self.node(key)
    }

    fn contains(&self, key: &H256, _: Prefix<'_>) -> bool {
        self.nodes.contains_key(key) || *key == empty_root()
    }
}
