//! Checks segments of storage changes.

use super::{Check, Part, Progress};
use crate::{
    store::{Error, segment},
    verify::scale,
};

impl Check<'_, '_> {
    /// Checks the segments with the blocks from `from` to `last`; returns false if the check was stopped.
    pub(super) fn changes(&mut self, from: u32, last: u32) -> Result<bool, Error> {
        let (table, total) = (self.txn.tables.changes, self.store.state().tips.changes.0);
        let before = table.get_lower_than_or_equal_to(&self.txn, &from).map_err(|e| self.error(e))?;
        let mut expected = before.map_or(1, |(first, _)| first);
        let mut row = expected;
        loop {
            let found = table.get_greater_than_or_equal_to(&self.txn, &row).map_err(|e| self.error(e))?;
            let Some((first, encoded)) = found.filter(|(first, _)| *first <= last) else { break };
            let encoded = encoded.to_vec();
            if first != expected {
                self.report.fault(Part::Changes, expected, "they and those after them are missing");
            }
            row = first + 1;
            expected = first + self.segment(first, &encoded)?;
            self.report.changes = expected - 1;
            if !(self.tell)(Progress { part: Part::Changes, done: expected - 1, total }) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Checks a segment; returns its number of blocks.
    pub(super) fn segment(&mut self, first: u32, encoded: &[u8]) -> Result<u32, Error> {
        let digest = self.txn.tables.digests.get(&self.txn, &first).map_err(|e| self.error(e))?;
        let is_whole = digest == Some(&segment::digest(encoded)[..]);
        let items = segment::Segment::read(encoded);
        // An unreadable segment counts as one block, so that the next row is found.
        let count = items.map_or(1, |items| items.count());
        if !is_whole {
            let what = match digest {
                Some(_) => "their segment differs from its digest",
                None => "the digest of their segment is missing",
            };
            self.report.fault(
                Part::Changes,
                first,
                format!("{what} (blocks {first} to {})", first + count - 1),
            );
        }
        let Some(items) = items else {
            self.report.fault(Part::Changes, first, "their segment cannot be read");
            return Ok(count);
        };
        for index in 0..count {
            if !items.get(index).is_some_and(scale::is_storage_changes) {
                self.report.fault(Part::Changes, first + index, "they cannot be read");
            }
        }
        Ok(count)
    }
}
