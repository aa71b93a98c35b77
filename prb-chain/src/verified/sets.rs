//! The known authority sets with the blocks that they are in force at, taken from verified batches; bounded in bytes.

use std::{collections::BTreeMap, sync::Arc};

use codec::{Decode, Encode};
use prb_core::wire::AuthoritySet;

use super::batch::Finding;
use crate::verify::Start;

/// An authority set, in force from its key in the map on.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
struct Entry {
    set: Arc<AuthoritySet>,
    /// The newest block that it is known to have finalised.
    to: u32,
    /// Whether it ended there.
    ended: bool,
    #[codec(skip)]
    used: u64,
}

/// The set in force at a block, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum InForce {
    /// It is this one.
    Known(Arc<AuthoritySet>),
    /// It is this one, unless a block in between that was not verified yet changes the set.
    Perhaps(Arc<AuthoritySet>),
    /// It is not known.
    Unknown,
}

/// Authority sets by the first block that each is in force at. The first one is always kept; of the others, the least
/// recently used ones are evicted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct AuthoritySets {
    start: Start,
    entries: BTreeMap<u32, Entry>,
    bytes: usize,
    max_bytes: usize,
    clock: u64,
}

/// Estimated size of an entry without its authorities: keys, pointers, counters.
const OVERHEAD_BYTES: usize = 128;

fn size(set: &AuthoritySet) -> usize {
    set.list.len() * size_of::<([u8; 32], u64)>() + OVERHEAD_BYTES
}

impl AuthoritySets {
    pub(super) fn new(start: Start, max_bytes: usize) -> Self {
        let set = Arc::new(start.set.clone());
        let first = Entry { set, to: start.number, ended: false, used: 0 };
        let bytes = size(&start.set);
        let entries = BTreeMap::from([(start.number.saturating_add(1), first)]);
        Self { start, entries, bytes, max_bytes, clock: 0 }
    }

    pub(super) const fn start(&self) -> &Start {
        &self.start
    }

    /// Returns the set in force at a block.
    pub(super) fn at(&mut self, block: u32) -> InForce {
        self.clock += 1;
        let Some((_, entry)) = self.entries.range_mut(..=block).next_back() else { return InForce::Unknown };
        entry.used = self.clock;
        let set = Arc::clone(&entry.set);
        let next = u64::from(entry.to) + 1;
        match (u64::from(block) <= next, entry.ended) {
            (true, false) => InForce::Known(set),
            (true, true) if u64::from(block) < next => InForce::Known(set),
            (false, false) => InForce::Perhaps(set),
            (_, true) => InForce::Unknown,
        }
    }

    /// Returns the first block after those verified with the set that may be in force at a block.
    pub(super) fn frontier_below(&self, block: u32) -> Option<u32> {
        let (_, entry) = self.entries.range(..=block).next_back()?;
        (!entry.ended).then_some(entry.to.saturating_add(1)).filter(|next| *next < block)
    }

    /// Records what a batch shows, which must be verified with the set in force at its first block. Returns whether it
    /// contains a new change of the set.
    pub(super) fn learn(&mut self, finding: &Finding) -> bool {
        let Some((_, entry)) = self.entries.range_mut(..=finding.first).next_back() else { return false };
        // Another batch may have shown the set's end meanwhile.
        if !entry.ended {
            entry.to = entry.to.max(finding.last);
            entry.ended = finding.next.is_some();
        }
        let (Some(next), Some(first)) = (&finding.next, finding.last.checked_add(1)) else { return false };
        if self.entries.contains_key(&first) {
            return false;
        }
        self.clock += 1;
        self.bytes += size(next);
        let set = Arc::new(next.clone());
        self.entries.insert(first, Entry { set, to: finding.last, ended: false, used: self.clock });
        self.evict(first);
        true
    }

    fn evict(&mut self, newest: u32) {
        while self.bytes > self.max_bytes {
            let start = self.start.number.saturating_add(1);
            // The start can only come from the genesis again, and the newest is what the next batch needs.
            let spare = self.entries.iter().filter(|(first, _)| **first != start && **first != newest);
            let Some((first, _)) = spare.min_by_key(|(_, entry)| entry.used) else { return };
            let first = *first;
            if let Some(gone) = self.entries.remove(&first) {
                self.bytes -= size(&gone.set);
            }
        }
    }

    pub(super) fn encode(&self) -> Vec<u8> {
        let entries: Vec<(u32, Entry)> =
            self.entries.iter().map(|(first, entry)| (*first, entry.clone())).collect();
        (&self.start, entries).encode()
    }

    pub(super) fn decode(mut encoded: &[u8], max_bytes: usize) -> Option<Self> {
        let (start, entries) = <(Start, Vec<(u32, Entry)>)>::decode(&mut encoded).ok()?;
        let entries: BTreeMap<_, _> = entries.into_iter().collect();
        let first = entries.get(&start.number.checked_add(1)?)?;
        if *first.set != start.set || !encoded.is_empty() {
            return None;
        }
        let bytes = entries.values().map(|entry| size(&entry.set)).sum();
        let mut sets = Self { start, entries, bytes, max_bytes, clock: 0 };
        sets.evict(sets.start.number.saturating_add(1));
        Some(sets)
    }

    #[cfg(test)]
    fn len(&self) -> usize {
        self.entries.len()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use prb_core::primitives::Hash;

    use super::*;

    fn set(id: u64) -> AuthoritySet {
        AuthoritySet { list: vec![([id as u8; 32], 1); 4], id }
    }

    fn sets() -> AuthoritySets {
        AuthoritySets::new(Start { number: 9, hash: Hash::default(), set: set(3) }, 1 << 20)
    }

    fn known(id: u64) -> InForce {
        InForce::Known(Arc::new(set(id)))
    }

    fn perhaps(id: u64) -> InForce {
        InForce::Perhaps(Arc::new(set(id)))
    }

    fn shown(first: u32, last: u32, next: Option<u64>) -> Finding {
        Finding { first, last, next: next.map(set) }
    }

    #[test]
    fn a_set_is_known_as_far_as_batches_have_shown_it() {
        let mut sets = sets();
        assert_eq!(sets.at(9), InForce::Unknown, "workers start after that block");
        assert_eq!((sets.at(10), sets.at(11)), (known(3), perhaps(3)));
        assert!(!sets.learn(&shown(10, 14, None)));
        assert_eq!((sets.at(12), sets.at(15), sets.at(16)), (known(3), known(3), perhaps(3)));
        assert_eq!((sets.frontier_below(15), sets.frontier_below(20)), (None, Some(15)));
        assert!(sets.learn(&shown(15, 19, Some(4))));
        assert!(!sets.learn(&shown(10, 19, Some(4))), "it is known already");
        assert_eq!((sets.at(19), sets.at(20), sets.at(21)), (known(3), known(4), perhaps(4)));
        // A set that signs a later block has been in force all the time, because set ids are never reused.
        assert!(!sets.learn(&shown(30, 40, None)));
        assert_eq!((sets.at(25), sets.at(41)), (known(4), known(4)));
    }

    #[test]
    fn sets_of_the_past_make_room_but_not_the_first() {
        let mut sets = sets();
        sets.max_bytes = 4 * size(&set(0));
        for id in 4..100 {
            let first = 10 * (id - 3);
            sets.at(first as u32);
            assert!(sets.learn(&shown(first as u32, first as u32 + 9, Some(id))));
        }
        assert_eq!((sets.len(), sets.bytes), (4, sets.max_bytes));
        assert_eq!((sets.at(10), sets.at(970)), (known(3), known(99)));
        assert_eq!(sets.at(500), InForce::Unknown, "it was evicted");
        // A new worker's batches show them again from the first one on.
        assert!(sets.learn(&shown(10, 19, Some(4))));
        assert_eq!(sets.at(20), known(4));
    }

    #[test]
    fn they_are_read_as_they_were_written() {
        let mut sets = sets();
        sets.learn(&shown(10, 19, Some(4)));
        let encoded = sets.encode();
        let mut again = AuthoritySets::decode(&encoded, 1 << 20).unwrap();
        assert_eq!((again.at(19), again.at(20)), (known(3), known(4)));
        for cut in 0..encoded.len() {
            assert_eq!(AuthoritySets::decode(&encoded[..cut], 1 << 20), None, "{cut}");
        }
    }
}
