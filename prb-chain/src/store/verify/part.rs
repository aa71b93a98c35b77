//! Checks parts of a store: those that a worker refused, and those that are exported.

use prb_core::{
    blob::HeaderCursor,
    primitives::{Hash, ParaNumber},
};

use super::{Check, Fault, From, Part, Report};
use crate::{
    store::{Error, Store, split_alignment},
    verify::Start,
};

impl Store {
    /// Checks the headers from a cursor on to the end of the authority set, with their proofs: the data that a
    /// worker gets at that cursor.
    ///
    /// Blocks on the disk.
    ///
    /// # Errors
    /// The store cannot be read at all. Faults in readable data are in the report.
    pub fn verify_headers(&self, cursor: HeaderCursor) -> Result<Report, Error> {
        let mut check =
            Check { store: self, txn: self.read()?, report: Report::default(), tell: &mut |_| true };
        let Some((start, genesis)) = self.genesis() else { return Ok(check.report) };
        let tables = check.txn.tables;
        let from = check.before(cursor.relay.0, start)?;
        let mut last = u32::MAX;
        for entry in tables.alignments.range(&check.txn, &(cursor.relay.0..)).map_err(|e| self.error(e))? {
            let (number, encoded) = entry.map_err(|e| self.error(e))?;
            // A worker never gets a batch beyond the end of a set.
            if split_alignment(encoded).is_ok_and(|(alignment, _)| alignment.ends_set) {
                last = number;
                break;
            }
        }
        check.relay(from, last, genesis.para_id)?;
        let head = self.state().tips.proven.map_or(0, |(number, _)| number.0);
        check.para_headers(cursor.para.0, head, genesis)?;
        Ok(check.report)
    }

    /// Checks the segment that contains a block's storage changes.
    ///
    /// Blocks on the disk.
    ///
    /// # Errors
    /// The store cannot be read at all. A fault in readable data is returned.
    pub fn verify_segment(&self, number: ParaNumber) -> Result<Option<Fault>, Error> {
        let mut check =
            Check { store: self, txn: self.read()?, report: Report::default(), tell: &mut |_| true };
        let table = check.txn.tables.changes;
        let found = table.get_lower_than_or_equal_to(&check.txn, &number.0).map_err(|e| self.error(e))?;
        if let Some((first, encoded)) = found {
            let encoded = encoded.to_vec();
            check.segment(first, &encoded)?;
        }
        Ok(check.report.faults.into_iter().next())
    }

    /// Checks the blocks of a part from `first` to `last`, as [`verify`](Self::verify) does.
    ///
    /// Blocks on the disk and, for the signatures, on the CPU.
    ///
    /// # Errors
    /// The store cannot be read at all. Faults in readable data are in the report.
    pub(crate) fn verify_part(&self, part: Part, first: u32, last: u32) -> Result<Report, Error> {
        let mut check =
            Check { store: self, txn: self.read()?, report: Report::default(), tell: &mut |_| true };
        let Some((start, genesis)) = self.genesis() else { return Ok(check.report) };
        match part {
            Part::Genesis => check.genesis(start, genesis),
            Part::Relay => {
                check.relay(check.before(first, start)?, last, genesis.para_id)?;
                check.is_justified_at_end()?;
            }
            Part::ParaHeaders => drop(check.para_headers(first, last, genesis)?),
            Part::Changes => drop(check.changes(first, last)?),
        }
        Ok(check.report)
    }
}

impl Check<'_, '_> {
    /// Where a check of the relay blocks from a number on starts: after the last justified block before them, if one is
    /// stored.
    fn before(&self, number: u32, start: &Start) -> Result<From, Error> {
        let tables = self.txn.tables;
        let before = tables.alignments.get_lower_than(&self.txn, &number).map_err(|e| self.error(e))?;
        let Some((number, encoded)) = before else { return Ok(From::start(start)) };
        let row = self.justified_row(number, encoded)?;
        let header = tables.relay_headers.get(&self.txn, &number).map_err(|e| self.error(e))?;
        let set = self.stored_set(&row)?.ok_or(Error::Corrupt { what: "authority set" })?;
        let parent = header.map(Hash::of).ok_or(Error::Corrupt { what: "relay header" })?;
        Ok(From { parent, first: number + 1, set })
    }
}
