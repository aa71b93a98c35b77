//! The blocks that a node must have to be of a pool's chain.
//!
//! Known blocks (of the configuration or the store) decide alone. As long as there are none, each node's genesis
//! hash is one claim, and the claims of all nodes decide together, whatever their order. See [`decide`].

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
    /// The nodes that agree on it.
    Nodes(Vec<Arc<str>>),
}

impl fmt::Display for Witness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Known => f.write_str("in this store or configuration"),
            Self::Nodes(nodes) => write!(f, "at {}", nodes.join(", ")),
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

/// What the nodes' claims about the genesis block amount to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Verdict {
    /// Not all nodes have been waited for.
    #[default]
    Open,
    /// This is the genesis. `firm` if no further claim can change it.
    Agreed { hash: Hash, firm: bool },
    /// Nodes differ, and no genesis has a majority.
    Disputed,
}

/// Decides by the claims of all configured nodes; `waited` if the missing ones had time to answer.
///
/// More than half of all nodes decide at once. Otherwise those that answered decide if they agree; a single node
/// that claims another genesis then makes it a dispute, whether it answers first or last. So one node alone can
/// neither choose the chain nor, beside two others, block it.
fn decide(claims: &[Option<Hash>], waited: bool) -> Verdict {
    let made = || claims.iter().flatten();
    let Some(first) = made().next() else { return Verdict::Open };
    let count = |hash: &Hash| made().filter(|other| *other == hash).count();
    // Of all configured nodes: of those that answer first, one liar could be the majority.
    if let Some(hash) = made().find(|hash| count(hash) * 2 > claims.len()) {
        return Verdict::Agreed { hash: *hash, firm: true };
    }
    let is_complete = waited || made().count() == claims.len();
    match made().all(|hash| hash == first) {
        _ if !is_complete => Verdict::Open,
        true => Verdict::Agreed { hash: *first, firm: false },
        false => Verdict::Disputed,
    }
}

/// The blocks that identify a pool's chain.
#[derive(Debug)]
pub(super) struct Pins {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    known: BTreeMap<u32, Hash>,
    /// By the nodes' order in the configuration.
    claims: Vec<Option<(Arc<str>, Hash)>>,
    waited: bool,
    verdict: Verdict,
    /// Incremented whenever connections must be checked again.
    version: u64,
}

impl Inner {
    fn update(&mut self) {
        let claims: Vec<_> = self.claims.iter().map(|claim| claim.as_ref().map(|(_, hash)| *hash)).collect();
        let verdict = decide(&claims, self.waited);
        if verdict == self.verdict {
            return;
        }
        let chosen = |verdict| match verdict {
            Verdict::Agreed { hash, .. } => Some(hash),
            Verdict::Open | Verdict::Disputed => None,
        };
        // Connections that were made before may be to nodes that are now refused.
        let is_other = chosen(verdict) != chosen(self.verdict);
        let is_disputed = claims.iter().flatten().any(|hash| Some(*hash) != chosen(verdict));
        // Checking all connections again costs a request for each, so only if a node may now be refused.
        self.version += u64::from(is_other && is_disputed);
        self.verdict = verdict;
    }

    fn agreed(&self) -> Option<Pin> {
        let Verdict::Agreed { hash, .. } = self.verdict else { return None };
        let agreeing = self.claims.iter().flatten().filter(|(_, claimed)| *claimed == hash);
        let witness = Witness::Nodes(agreeing.map(|(node, _)| Arc::clone(node)).collect());
        Some(Pin { number: 0, hash, witness })
    }
}

impl Pins {
    /// For a pool of that many nodes.
    pub(super) fn new(nodes: usize) -> Self {
        let claims = vec![None; nodes];
        let (known, waited, verdict) = Default::default();
        Self { inner: Mutex::new(Inner { known, claims, waited, verdict, version: 0 }) }
    }

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
        let known = inner.known.iter().map(|(number, hash)| Pin {
            number: *number,
            hash: *hash,
            witness: Witness::Known,
        });
        let mut pins: Vec<_> = known.collect();
        if pins.is_empty() {
            pins.extend(inner.agreed());
        }
        (inner.version, pins)
    }

    /// Pins a block with certainty. It outweighs all claims, and connections are checked again.
    pub(super) fn pin(&self, number: u32, hash: Hash) {
        let mut inner = self.inner();
        if inner.known.insert(number, hash) != Some(hash) {
            inner.version += 1;
        }
    }

    /// Whether the nodes' genesis blocks are needed to identify the chain.
    pub(super) fn wants_claims(&self) -> bool {
        self.inner().known.is_empty()
    }

    /// Records which genesis the node at this place in the configuration has. The first claim of a node that was
    /// part of an agreement stays; in a dispute a node may correct itself. Returns whether this begins a dispute.
    pub(super) fn claim(&self, place: usize, node: &Arc<str>, hash: Hash) -> bool {
        let mut inner = self.inner();
        let before = inner.verdict;
        let Some(claim) = inner.claims.get_mut(place) else { return false };
        // Otherwise a node could change sides whenever that turns the vote.
        let is_bound = match before {
            Verdict::Agreed { firm, .. } => firm || claim.is_some(),
            Verdict::Open | Verdict::Disputed => false,
        };
        if is_bound || !inner.known.is_empty() {
            return false;
        }
        inner.claims[place] = Some((Arc::clone(node), hash));
        inner.update();
        before != Verdict::Disputed && inner.verdict == Verdict::Disputed
    }

    /// Decides without the nodes that have not answered. Returns whether this begins a dispute.
    pub(super) fn end_wait(&self) -> bool {
        let mut inner = self.inner();
        let before = inner.verdict;
        // If no node has answered yet, the time starts again with the first answer.
        inner.waited |= inner.claims.iter().any(Option::is_some);
        inner.update();
        before != Verdict::Disputed && inner.verdict == Verdict::Disputed
    }

    /// Whether the chain is known, or nodes agree on it.
    pub(super) fn is_decided(&self) -> bool {
        let inner = self.inner();
        !inner.known.is_empty() || matches!(inner.verdict, Verdict::Agreed { .. })
    }

    /// What the nodes claim, if they differ and nothing is known.
    pub(super) fn dispute(&self) -> Option<String> {
        let inner = self.inner();
        if !inner.known.is_empty() || inner.verdict != Verdict::Disputed {
            return None;
        }
        let claims = inner.claims.iter().flatten().map(|(node, hash)| format!("{node} has genesis {hash}"));
        Some(claims.collect::<Vec<_>>().join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Hash = Hash([1; 32]);
    const B: Hash = Hash([2; 32]);

    fn agreed(hash: Hash, firm: bool) -> Verdict {
        Verdict::Agreed { hash, firm }
    }

    #[test]
    fn claims_decide_in_any_order() {
        let table: &[(&[Option<Hash>], bool, Verdict)] = &[
            (&[None], true, Verdict::Open),
            (&[Some(A)], false, agreed(A, true)),
            (&[Some(A), None], false, Verdict::Open),
            (&[Some(A), None], true, agreed(A, false)),
            (&[Some(A), Some(A)], false, agreed(A, true)),
            (&[Some(A), Some(B)], false, Verdict::Disputed),
            (&[Some(A), Some(B), None], false, Verdict::Open),
            (&[Some(A), Some(B), None], true, Verdict::Disputed),
            (&[Some(A), Some(B), Some(A)], false, agreed(A, true)),
            (&[Some(A), Some(A), None], false, agreed(A, true)),
            (&[Some(A), Some(B), Some(A), Some(B)], true, Verdict::Disputed),
        ];
        for (claims, waited, verdict) in table {
            assert_eq!(decide(claims, *waited), *verdict, "{claims:?} {waited}");
            let reversed: Vec<_> = claims.iter().rev().copied().collect();
            assert_eq!(decide(&reversed, *waited), *verdict, "{reversed:?} {waited}");
        }
    }

    fn claim(pins: &Pins, place: usize, hash: Hash) -> bool {
        pins.claim(place, &format!("n{place}:1").into(), hash)
    }

    #[test]
    fn late_node_disputes_what_one_node_alone_has_said() {
        let pins = Pins::new(2);
        assert!(!claim(&pins, 0, A) && !pins.is_decided());
        assert!(!pins.end_wait() && pins.is_decided() && pins.dispute().is_none());
        assert!(!claim(&pins, 0, B) && pins.is_decided(), "it contradicts itself");
        assert!(claim(&pins, 1, B) && !pins.is_decided());
        let dispute = pins.dispute().unwrap_or_default();
        assert!(dispute.contains(&format!("n0:1 has genesis {A}, n1:1 has genesis {B}")), "{dispute}");
        assert!(!claim(&pins, 1, A) && pins.is_decided(), "it was corrected");
        assert!(!claim(&pins, 1, B) && pins.is_decided(), "and stays so");
    }

    #[test]
    fn known_block_outweighs_claims() {
        let pins = Pins::new(2);
        claim(&pins, 0, A);
        assert!(claim(&pins, 1, B) && pins.all().1.is_empty(), "no node is refused before it is decided");
        let version = pins.version();
        pins.pin(1, Hash([3; 32]));
        assert!(pins.version() > version && pins.is_decided() && pins.dispute().is_none());
        assert_eq!(pins.all().1.iter().map(|pin| pin.number).collect::<Vec<_>>(), [1]);
        let version = pins.version();
        pins.pin(1, Hash([3; 32]));
        assert_eq!(pins.version(), version, "nothing new, nothing to check again");
        assert!(!pins.wants_claims() && !claim(&pins, 0, A));
    }

    #[test]
    fn minority_is_checked_again_once_the_others_agree() {
        let pins = Pins::new(3);
        claim(&pins, 0, B);
        claim(&pins, 1, A);
        let version = pins.version();
        claim(&pins, 2, A);
        assert!(pins.version() > version);
        let (_, all) = pins.all();
        assert_eq!((all.len(), all[0].hash), (1, A));
        assert_eq!(all[0].witness.to_string(), "at n1:1, n2:1");
    }
}
