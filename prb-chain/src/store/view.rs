//! Snapshots of the store.

use heed::RoRange;
use prb_core::{
    blob::{
        Span,
        assemble::{BatchEnd, ChainPieces},
    },
    primitives::{ParaNumber, RelayNumber},
};

use super::{Error, Numbered, Store, memory_map::Txn, segment::Segment, split_alignment};

/// A snapshot of the store: slices of its pages, without copies.
pub struct StoreView<'s> {
    store: &'s Store,
    txn: Txn<'s>,
}

impl std::fmt::Debug for StoreView<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("StoreView").field("store", &self.store).finish_non_exhaustive()
    }
}

impl<'s> StoreView<'s> {
    pub(super) const fn new(store: &'s Store, txn: Txn<'s>) -> Self {
        Self { store, txn }
    }

    /// Returns the changes of a block, if they are stored.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn changes(&self, number: ParaNumber) -> Result<Option<&[u8]>, Error> {
        let table = self.txn.tables.changes;
        let found =
            table.get_lower_than_or_equal_to(&self.txn, &number.0).map_err(|e| self.store.error(e))?;
        let Some((first, encoded)) = found else { return Ok(None) };
        let segment = Segment::read(encoded).ok_or(Error::Corrupt { what: "segment" })?;
        Ok(segment.get(number.0 - first))
    }

    /// Returns a parachain header, if it is stored.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn para_header(&self, number: ParaNumber) -> Result<Option<&[u8]>, Error> {
        self.txn.tables.para_headers.get(&self.txn, &number.0).map_err(|e| self.store.error(e))
    }

    /// Returns a relay header, if it is stored.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn relay_header(&self, number: RelayNumber) -> Result<Option<&[u8]>, Error> {
        self.txn.tables.relay_headers.get(&self.txn, &number.0).map_err(|e| self.store.error(e))
    }

    /// Calls `take` with the storage changes of each block of the span until it returns false.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn changes_of<'a>(
        &'a self,
        span: Span<ParaNumber>,
        take: &mut dyn FnMut(&'a [u8]) -> bool,
    ) -> Result<(), Error> {
        self.sequence_of_changes(span, take)
    }

    /// Consecutive values of a table; stops at the first gap.
    fn sequence<'a>(
        &'a self,
        table: Numbered,
        first: u32,
        last: u32,
        take: &mut dyn FnMut(&'a [u8]) -> bool,
    ) -> Result<(), Error> {
        if last < first {
            return Ok(());
        }
        let range: RoRange<'a, _, _> =
            table.range(&self.txn, &(first..=last)).map_err(|e| self.store.error(e))?;
        for (expected, entry) in (first..).zip(range) {
            let (number, value) = entry.map_err(|e| self.store.error(e))?;
            if number != expected || !take(value) {
                break;
            }
        }
        Ok(())
    }

    /// Changes of a span; stops where the stored ones end.
    fn sequence_of_changes<'a>(
        &'a self,
        span: Span<ParaNumber>,
        take: &mut dyn FnMut(&'a [u8]) -> bool,
    ) -> Result<(), Error> {
        let table = self.txn.tables.changes;
        let error = |e| self.store.error(e);
        // A segment's key is its first block, so the one that holds the block starts at or before it.
        let found = table.get_lower_than_or_equal_to(&self.txn, &span.first.0).map_err(error)?;
        let Some((start, _)) = found else { return Ok(()) };
        let mut expected = start;
        for entry in table.range(&self.txn, &(start..=span.last.0)).map_err(error)? {
            let (first, encoded) = entry.map_err(error)?;
            let segment = Segment::read(encoded).filter(|_| first == expected);
            let segment = segment.ok_or(Error::Corrupt { what: "segment" })?;
            expected = first + segment.count();
            for index in span.first.0.saturating_sub(first)..segment.count() {
                if first + index > span.last.0 {
                    return Ok(());
                }
                let item = segment.get(index).ok_or(Error::Corrupt { what: "segment" })?;
                if !take(item) {
                    return Ok(());
                }
            }
        }
        Ok(())
    }
}

impl StoreView<'_> {
    /// Decodes the justified block at a number from its alignment row.
    fn batch_end<'a>(&'a self, number: u32, encoded: &'a [u8]) -> Result<BatchEnd<'a>, Error> {
        let tables = &self.txn.tables;
        let error = |e| self.store.error(e);
        let missing = |what| Error::Missing { what };
        let (alignment, proof) = split_alignment(encoded)?;
        let justification = tables.justifications.get(&self.txn, &number).map_err(error)?;
        let next_set = match alignment.ends_set {
            false => None,
            true => {
                let set = tables.sets.get(&self.txn, &(alignment.set_id + 1)).map_err(error)?;
                Some(set.ok_or_else(|| missing("authority set"))?)
            }
        };
        Ok(BatchEnd {
            number: RelayNumber(number),
            justification: justification.ok_or_else(|| missing("justification"))?,
            set_id: alignment.set_id,
            para_head: alignment.para_head.map(|(number, _)| ParaNumber(number)),
            proof,
            next_set,
        })
    }
}

impl ChainPieces for StoreView<'_> {
    type Error = Error;

    fn first_relay(&self) -> RelayNumber {
        self.store.genesis().map_or(RelayNumber(0), |(start, _)| start.first())
    }

    fn batch_ends<'a>(
        &'a self,
        from: RelayNumber,
        take: &mut dyn FnMut(BatchEnd<'a>) -> bool,
    ) -> Result<(), Self::Error> {
        let tables = &self.txn.tables;
        let error = |e| self.store.error(e);
        for entry in tables.alignments.range(&self.txn, &(from.0..)).map_err(error)? {
            let (number, encoded) = entry.map_err(error)?;
            let end = self.batch_end(number, encoded)?;
            if !take(end) {
                break;
            }
        }
        Ok(())
    }

    fn batch_end_before<'a>(&'a self, number: RelayNumber) -> Result<Option<BatchEnd<'a>>, Self::Error> {
        let found = self.txn.tables.alignments.get_lower_than(&self.txn, &number.0);
        let found = found.map_err(|e| self.store.error(e))?;
        found.map(|(number, encoded)| self.batch_end(number, encoded)).transpose()
    }

    fn relay_headers<'a>(
        &'a self,
        span: Span<RelayNumber>,
        take: &mut dyn FnMut(&'a [u8]) -> bool,
    ) -> Result<(), Self::Error> {
        self.sequence(self.txn.tables.relay_headers, span.first.0, span.last.0, take)
    }

    fn para_headers<'a>(
        &'a self,
        span: Span<ParaNumber>,
        take: &mut dyn FnMut(&'a [u8]) -> bool,
    ) -> Result<(), Self::Error> {
        self.sequence(self.txn.tables.para_headers, span.first.0, span.last.0, take)
    }

    fn para_blocks<'a>(
        &'a self,
        span: Span<ParaNumber>,
        take: &mut dyn FnMut(&'a [u8], &'a [u8]) -> bool,
    ) -> Result<(), Self::Error> {
        let headers = self
            .txn
            .tables
            .para_headers
            .range(&self.txn, &(span.first.0..=span.last.0))
            .map_err(|e| self.store.error(e))?;
        // Two cursors side by side: nothing is collected in memory.
        let (mut headers, mut expected, mut failure) = (headers, span.first.0, None);
        self.sequence_of_changes(span, &mut |changes| match headers.next() {
            Some(Ok((number, header))) if number == expected => {
                expected += 1;
                take(header, changes)
            }
            Some(Err(e)) => {
                failure = Some(self.store.error(e));
                false
            }
            _ => false,
        })?;
        failure.map_or(Ok(()), Err)
    }
}
