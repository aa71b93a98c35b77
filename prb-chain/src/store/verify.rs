//! Checks everything that is stored, to detect damage by disks, memory or other programs.
//!
//! Headers must hash and chain from the start to the newest, justifications must be signed by the sets that the
//! headers announce, read proofs must be valid and name the stored parachain headers, and segments of storage
//! changes must match their digests. (Whether the changes are correct can only be found out with the
//! whole state, which workers have.)

use std::fmt;

use codec::Decode;
use prb_core::{blob::Genesis, primitives::Hash, wire::AuthoritySet};

use super::{Alignment, Error, Store, decode, memory_map::Txn, split_alignment};
use crate::verify::{self, Checked, Start, scale, state};

mod changes;
mod part;
mod rules;

use rules::check_justified;
pub(crate) use rules::check_start;

/// Most faults that are listed; further ones are only counted.
const MAX_LISTED: usize = 1000;
/// Blocks between two progress reports.
const PROGRESS_INTERVAL: u32 = 256;

/// A part of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// The start of the chains.
    Genesis,
    /// Relay headers, justifications, read proofs.
    Relay,
    /// Parachain headers.
    ParaHeaders,
    /// Storage changes.
    Changes,
}

impl Part {
    /// Its name in logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Genesis => "genesis",
            Self::Relay => "relay",
            Self::ParaHeaders => "para_headers",
            Self::Changes => "changes",
        }
    }
}

impl fmt::Display for Part {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Genesis => "genesis",
            Self::Relay => "relay block",
            Self::ParaHeaders => "parachain header",
            Self::Changes => "storage changes of block",
        })
    }
}

/// A fault in the stored data.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Fault {
    /// The part.
    pub part: Part,
    /// The block; for storage changes that cannot be attributed to a block, the first one of the segment.
    pub number: u32,
    /// What is wrong.
    pub what: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.part {
            Part::Genesis => write!(f, "{}: {}", self.part, self.what),
            part => write!(f, "{part} {}: {}", self.number, self.what),
        }
    }
}

/// The progress of a check or an export.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// The part in progress.
    pub part: Part,
    /// Blocks done so far; of an export, including those of earlier ones.
    pub done: u32,
    /// Blocks of the part.
    pub total: u32,
}

/// The result of a check.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Report {
    /// Number of relay headers.
    pub relay_headers: u32,
    /// Number of justified relay blocks.
    pub justified: u32,
    /// Number of parachain headers.
    pub para_headers: u32,
    /// Number of blocks with storage changes.
    pub changes: u32,
    /// The faults, in the order of the parts; at most a thousand.
    pub faults: Vec<Fault>,
    /// The number of faults.
    pub faulty: usize,
}

impl Report {
    /// The first block of a part with a fault.
    pub fn first_of(&self, part: Part) -> Option<u32> {
        self.faults.iter().filter(|fault| fault.part == part).map(|fault| fault.number).min()
    }

    fn fault(&mut self, part: Part, number: u32, what: impl ToString) {
        self.faulty += 1;
        if self.faults.len() < MAX_LISTED {
            self.faults.push(Fault { part, number, what: what.to_string() });
        }
    }
}

impl Store {
    /// Checks everything that is stored.
    ///
    /// Blocks on the disk and, for the signatures, on the CPU. `tell` is called with the progress and stops the
    /// check by returning false.
    ///
    /// # Errors
    /// The store cannot be read at all. Faults in readable data are in the report.
    pub fn verify(&self, tell: &mut dyn FnMut(Progress) -> bool) -> Result<Report, Error> {
        let mut check = Check { store: self, txn: self.read()?, report: Report::default(), tell };
        if let Some((start, genesis)) = self.genesis() {
            check.genesis(start, genesis);
            // Each check needs what the one before has shown, so the first that is stopped ends all.
            let _ = check.relay(From::start(start), u32::MAX, genesis.para_id)?
                && check.is_justified_at_end()?
                && check.para_headers(0, u32::MAX, genesis)?
                && check.changes(1, u32::MAX)?;
        }
        Ok(check.report)
    }
}

struct Check<'s, 't> {
    store: &'s Store,
    txn: Txn<'s>,
    report: Report,
    tell: &'t mut dyn FnMut(Progress) -> bool,
}

/// The start of a check of relay headers: after a known header, signed by a known set.
struct From {
    parent: Hash,
    first: u32,
    set: AuthoritySet,
}

impl From {
    fn start(start: &Start) -> Self {
        Self { parent: start.hash, first: start.first().0, set: start.set.clone() }
    }
}

/// A justified block according to its rows.
struct Justified {
    number: u32,
    alignment: Alignment,
    proof: Vec<Vec<u8>>,
}

impl Check<'_, '_> {
    fn error(&self, e: heed::Error) -> Error {
        self.store.error(e)
    }

    fn report_progress(&mut self, part: Part, done: u32, total: u32) -> bool {
        // A report for each of millions of headers would slow the check down.
        !done.is_multiple_of(PROGRESS_INTERVAL) && done != total
            || (self.tell)(Progress { part, done, total })
    }

    fn genesis(&mut self, start: &Start, genesis: &Genesis) {
        if let Err(what) = check_start(start, genesis) {
            self.report.fault(Part::Genesis, start.number, what);
        }
    }

    fn justified_row(&self, number: u32, encoded: &[u8]) -> Result<Justified, Error> {
        let (alignment, proof) = split_alignment(encoded)?;
        let proof = Vec::<Vec<u8>>::decode(&mut &*proof).map_err(|_| Error::Corrupt { what: "proof" })?;
        Ok(Justified { number, alignment, proof })
    }

    /// Checks relay headers up to `last`, with their justified blocks; returns false if the check was stopped.
    fn relay(&mut self, from: From, last: u32, para_id: u32) -> Result<bool, Error> {
        let tables = self.txn.tables;
        let total = tables.relay_headers.len(&self.txn).map_err(|e| self.error(e))? as u32;
        let From { mut parent, first, mut set } = from;
        let (mut row, mut expected) = (first, first);
        let mut next_justified = self.justified_from(first)?;
        while let Some((number, header)) = self.relay_header(row)?.filter(|(number, _)| *number <= last) {
            row = number + 1;
            self.report.relay_headers += 1;
            if number != expected {
                // One fault for the whole gap, not one for each missing header.
                let gap = format!("the headers from {expected} on are missing");
                self.report.fault(Part::Relay, expected, gap);
            } else if header.get(..32) != Some(&parent.0[..]) {
                // Attributed to the parent: its bytes do not have the hash that this header names.
                let what = verify::Error::Parent { number };
                self.report.fault(Part::Relay, number.saturating_sub(1).max(first), what);
            }
            (expected, parent) = (number + 1, Hash::of(&header));
            next_justified = self.skip_missing(next_justified, number)?;
            let row = next_justified.take_if(|row| row.number == number);
            if row.is_some() {
                next_justified = self.justified_from(number + 1)?;
            }
            set = self.relay_block(number, header, row, set, para_id)?;
            if !self.report_progress(Part::Relay, self.report.relay_headers, total) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Reports the justified blocks before `number`, whose headers are missing; returns the next one.
    fn skip_missing(&mut self, mut next: Option<Justified>, number: u32) -> Result<Option<Justified>, Error> {
        while let Some(row) = next.take_if(|row| row.number < number) {
            self.report.fault(Part::Relay, row.number, "a justified block has no header");
            next = self.justified_from(row.number + 1)?;
        }
        Ok(next)
    }

    /// Checks one relay header and, if it is justified, its justification; returns the authority set in force after it.
    fn relay_block(
        &mut self,
        number: u32,
        header: Vec<u8>,
        row: Option<Justified>,
        set: AuthoritySet,
        para_id: u32,
    ) -> Result<AuthoritySet, Error> {
        let header = match Checked::new(number, header) {
            Ok(header) => header,
            Err(e) => {
                self.report.fault(Part::Relay, number, e);
                return Ok(set);
            }
        };
        let Some(row) = row else {
            // The next set is proven by this block's justification only.
            if header.change.is_some() {
                self.report.fault(Part::Relay, number, "it ends its authority set but is not justified");
            }
            return Ok(set);
        };
        self.report.justified += 1;
        match self.justified(&header, &row, &set, para_id)? {
            Ok(next) => Ok(next),
            Err(e) => {
                self.report.fault(Part::Relay, number, e);
                // With the stored set the check continues; otherwise each later block would be reported for one fault.
                Ok(self.stored_set(&row)?.unwrap_or(set))
            }
        }
    }

    fn is_justified_at_end(&mut self) -> Result<bool, Error> {
        let tables = self.txn.tables;
        let header =
            tables.relay_headers.last(&self.txn).map_err(|e| self.error(e))?.map(|(number, _)| number);
        let row = tables.alignments.last(&self.txn).map_err(|e| self.error(e))?.map(|(number, _)| number);
        // A batch ends with a justified block, so headers after the last one have lost it.
        if header != row {
            self.report.fault(Part::Relay, header.unwrap_or_default(), "the newest header is not justified");
        }
        Ok(true)
    }

    fn relay_header(&self, from: u32) -> Result<Option<(u32, Vec<u8>)>, Error> {
        let found = self.txn.tables.relay_headers.get_greater_than_or_equal_to(&self.txn, &from);
        Ok(found.map_err(|e| self.error(e))?.map(|(number, header)| (number, header.to_vec())))
    }

    fn justified_from(&mut self, mut from: u32) -> Result<Option<Justified>, Error> {
        loop {
            let found = self.txn.tables.alignments.get_greater_than_or_equal_to(&self.txn, &from);
            let Some((number, encoded)) = found.map_err(|e| self.error(e))? else { return Ok(None) };
            match self.justified_row(number, encoded) {
                Ok(row) => return Ok(Some(row)),
                Err(e) => {
                    self.report.fault(Part::Relay, number, e);
                    // An undecodable row is reported once, and the check continues after it.
                    from = number + 1;
                }
            }
        }
    }

    /// Checks a justified block; returns the set that signs after it.
    fn justified(
        &self,
        header: &Checked,
        row: &Justified,
        set: &AuthoritySet,
        para_id: u32,
    ) -> Result<Result<AuthoritySet, String>, Error> {
        let justification = self.txn.tables.justifications.get(&self.txn, &row.number);
        let Some(justification) = justification.map_err(|e| self.error(e))? else {
            return Ok(Err("its justification is missing".into()));
        };
        let stored_next = self.stored_set(row)?;
        Ok(check_justified(header, row, set, para_id, justification, stored_next).map_err(|e| e.to_string()))
    }

    fn stored_set(&self, row: &Justified) -> Result<Option<AuthoritySet>, Error> {
        // After the last block of a set, the next one signs.
        let id = row.alignment.set_id + u64::from(row.alignment.ends_set);
        let found = self.txn.tables.sets.get(&self.txn, &id).map_err(|e| self.error(e))?;
        Ok(found.and_then(|encoded| decode(encoded, "authority set").ok()))
    }

    /// Checks parachain headers from `first` to `last`; returns false if the check was stopped.
    fn para_headers(&mut self, first: u32, last: u32, genesis: &Genesis) -> Result<bool, Error> {
        let tables = self.txn.tables;
        let total = tables.para_headers.len(&self.txn).map_err(|e| self.error(e))? as u32;
        let before =
            first.checked_sub(1).map(|before| tables.para_headers.get(&self.txn, &before)).transpose();
        let mut parent = before.map_err(|e| self.error(e))?.flatten().map(Hash::of).unwrap_or_default();
        let mut expected = first;
        let mut named = self.named_from(0)?;
        loop {
            let found = tables.para_headers.get_greater_than_or_equal_to(&self.txn, &expected);
            let found = found.map_err(|e| self.error(e))?.filter(|(number, _)| *number <= last);
            let Some((number, header)) = found else { break };
            let header = header.to_vec();
            self.report.para_headers += 1;
            if number != expected {
                self.report.fault(Part::ParaHeaders, expected, "it and those after it are missing");
            // Block 0 has no parent to compare with.
            } else if number > 0 && header.get(..32) != Some(&parent.0[..]) {
                self.report.fault(Part::ParaHeaders, number - 1, verify::Error::Parent { number });
            }
            (expected, parent) = (number + 1, Hash::of(&header));
            match Checked::new(number, header) {
                Err(e) => self.report.fault(Part::ParaHeaders, number, e),
                Ok(header) if number == 0 => {
                    let pairs = scale::pairs(&genesis.state).unwrap_or_default();
                    if let Err(e) = state::whole_state(header.state_root, &pairs) {
                        self.report.fault(Part::Genesis, 0, e);
                    }
                }
                Ok(header) if number == 1 && header.hash != genesis.chain_identity => {
                    self.report.fault(Part::ParaHeaders, 1, "it is not the chain's block 1");
                }
                Ok(_) => {}
            }
            // Several relay blocks may name the same head, and some heads are named by none.
            while let Some((relay, head, hash)) = named.filter(|(_, head, _)| *head <= number) {
                if head == number && hash != parent {
                    let what = format!("relay block {relay} names another one");
                    self.report.fault(Part::ParaHeaders, number, what);
                }
                named = self.named_from(relay + 1)?;
            }
            if !self.report_progress(Part::ParaHeaders, self.report.para_headers, total) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// The next justified relay block that names a head: its number, the head's number and hash.
    fn named_from(&self, from: u32) -> Result<Option<(u32, u32, Hash)>, Error> {
        for entry in self.txn.tables.alignments.range(&self.txn, &(from..)).map_err(|e| self.error(e))? {
            let (relay, encoded) = entry.map_err(|e| self.error(e))?;
            // Undecodable rows are reported with the relay blocks.
            let Ok((alignment, _)) = split_alignment(encoded) else { continue };
            if let Some((number, hash)) = alignment.para_head {
                return Ok(Some((relay, number, hash)));
            }
        }
        Ok(None)
    }
}
