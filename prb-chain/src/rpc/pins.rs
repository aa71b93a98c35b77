//! Blocks that a node must have to be of a pool's chain.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use prb_core::primitives::Hash;

/// The source of a block's hash.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Witness {
    /// The configuration, or the stored blocks.
    Known,
    /// The node that was connected first.
    First(Arc<str>),
}

impl fmt::Display for Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known => f.write_str("this store or configuration"),
            Self::First(node) => write!(f, "{node}, connected first,"),
        }
    }
}

/// A block by number and hash.
#[derive(Clone, Debug)]
pub(super) struct Pin {
    pub(super) number: u32,
    pub(super) hash: Hash,
    pub(super) witness: Witness,
}

/// The blocks that identify a pool's chain, including block 0 once a node is connected.
#[derive(Debug, Default)]
pub(super) struct Pins {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    blocks: BTreeMap<u32, (Hash, Witness)>,
    /// Incremented whenever there is more to check.
    version: u64,
}

impl Pins {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The version that a connection must have been checked against.
    pub(super) fn version(&self) -> u64 {
        self.inner().version
    }

    /// The blocks to check a connection against, and their version.
    pub(super) fn all(&self) -> (u64, Vec<Pin>) {
        let inner = self.inner();
        let pin = |(number, (hash, witness)): (&u32, &(Hash, Witness))| Pin {
            number: *number,
            hash: *hash,
            witness: witness.clone(),
        };
        (inner.version, inner.blocks.iter().map(pin).collect())
    }

    /// Pins a block with certainty. It replaces what only the first node claimed, and connections are checked
    /// again.
    pub(super) fn know(&self, number: u32, hash: Hash) {
        let mut inner = self.inner();
        if inner.blocks.get(&number) == Some(&(hash, Witness::Known)) {
            return;
        }
        inner.blocks.retain(|_, (_, witness)| *witness == Witness::Known);
        inner.blocks.insert(number, (hash, Witness::Known));
        inner.version += 1;
    }

    /// Pins the genesis block of the first connected node, unless there is one already.
    pub(super) fn first(&self, hash: Hash, node: &Arc<str>) {
        let mut inner = self.inner();
        inner.blocks.entry(0).or_insert_with(|| (hash, Witness::First(Arc::clone(node))));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_block_outweighs_the_first_nodes_claim() {
        let pins = Pins::default();
        pins.first(Hash([1; 32]), &"a:1".into());
        pins.first(Hash([2; 32]), &"b:1".into());
        let (version, all) = pins.all();
        assert_eq!((all.len(), all[0].hash), (1, Hash([1; 32])));
        pins.know(1, Hash([3; 32]));
        assert!(pins.version() > version);
        assert_eq!(pins.all().1.iter().map(|pin| pin.number).collect::<Vec<_>>(), [1]);
        let version = pins.version();
        pins.know(1, Hash([3; 32]));
        assert_eq!(pins.version(), version, "nothing new, nothing to check again");
    }
}
