//! Drops stored blocks from a number on, so that they are fetched again.

use prb_core::primitives::{ParaNumber, RelayNumber};

use super::{Error, Store, memory_map::WriteTxn, segment::Segment, split_alignment};

/// Rows deleted in one transaction: LMDB keeps the changed pages of a transaction in memory.
const ROWS: usize = 10_000;

impl Store {
    /// Drops the relay blocks from a number on, down to the previous justified block, because a store ends with
    /// one. Heights decrease. Parachain headers and storage changes stay.
    ///
    /// Blocks on the disk. An interruption leaves a store that ends at a later justified block.
    ///
    /// # Errors
    /// The store cannot be changed.
    pub fn drop_relay_from(&self, number: RelayNumber) -> Result<(), Error> {
        while self.with_recovery(|| self.drop_last_justified(number.0))? {}
        self.load()
    }

    /// Drops the last justified block and the headers after the one before it; returns false if it is before
    /// `number`.
    fn drop_last_justified(&self, number: u32) -> Result<bool, Error> {
        let guard = self.lock_shared()?;
        let mut txn = self.write(&guard)?;
        let tables = txn.tables;
        let error = |e| self.error(e);
        let Some((last, _)) = tables.relay_headers.last(&txn).map_err(error)? else { return Ok(false) };
        if last < number {
            return Ok(false);
        }
        let mut justified = tables.alignments.rev_iter(&txn).map_err(error)?;
        let mut next_justified =
            || justified.next().transpose().map(|block| block.map(|(number, _)| number)).map_err(error);
        let first = match next_justified()? {
            // The one that the header table ends with.
            Some(block) if block >= last => next_justified()?,
            other => other,
        };
        drop(justified);
        let first = first.map_or(0, |block| block + 1);
        // One justified block for each transaction, from the end: an interruption leaves a store that ends with
        // one.
        tables.relay_headers.delete_range(&mut txn, &(first..)).map_err(error)?;
        tables.alignments.delete_range(&mut txn, &(first..)).map_err(error)?;
        tables.justifications.delete_range(&mut txn, &(first..)).map_err(error)?;
        self.drop_sets(&mut txn)?;
        txn.commit().map_err(error)?;
        Ok(true)
    }

    /// Drops the authority sets that begin after the last justified block.
    fn drop_sets(&self, txn: &mut WriteTxn<'_>) -> Result<(), Error> {
        let tables = txn.tables;
        let newest = match tables.alignments.last(txn).map_err(|e| self.error(e))? {
            Some((_, encoded)) => {
                let (alignment, _) = split_alignment(encoded)?;
                alignment.set_id + u64::from(alignment.ends_set)
            }
            None => self.genesis().map_or(0, |(start, _)| start.set.id),
        };
        tables.sets.delete_range(txn, &(newest + 1..)).map_err(|e| self.error(e))?;
        Ok(())
    }

    /// Drops the parachain's storage changes from a number on and, if `headers` is set, its headers, too. Heights
    /// decrease.
    ///
    /// Blocks on the disk. An interruption leaves a store that ends at a later block.
    ///
    /// # Errors
    /// The store cannot be changed.
    pub fn drop_para_from(&self, number: ParaNumber, headers: bool) -> Result<(), Error> {
        while self.with_recovery(|| self.drop_last_changes(number.0))? {}
        while headers && self.with_recovery(|| self.drop_last_headers(number.0))? {}
        self.load()
    }

    /// Drops the last segments, or the last one's blocks from `number` on.
    fn drop_last_changes(&self, number: u32) -> Result<bool, Error> {
        let guard = self.lock_shared()?;
        let mut txn = self.write(&guard)?;
        let tables = txn.tables;
        let error = |e| self.error(e);
        let Some((first, encoded)) = tables.changes.last(&txn).map_err(error)? else { return Ok(false) };
        let items = Segment::read(encoded);
        // A segment that cannot be decoded is dropped as a whole.
        let count = items.map_or(u32::MAX, |items| items.count());
        if first.saturating_add(count - 1) < number {
            return Ok(false);
        }
        let keep: Vec<Vec<u8>> = match items {
            Some(items) if first < number => {
                (0..number - first).filter_map(|i| items.get(i).map(<[u8]>::to_vec)).collect()
            }
            _ => Vec::new(),
        };
        tables.changes.delete(&mut txn, &first).map_err(error)?;
        tables.digests.delete(&mut txn, &first).map_err(error)?;
        if !keep.is_empty() {
            self.put_changes(&mut txn, first, &keep)?;
        }
        txn.commit().map_err(error)?;
        Ok(true)
    }

    fn drop_last_headers(&self, number: u32) -> Result<bool, Error> {
        let guard = self.lock_shared()?;
        let mut txn = self.write(&guard)?;
        let tables = txn.tables;
        let error = |e| self.error(e);
        let Some((last, _)) = tables.para_headers.last(&txn).map_err(error)? else { return Ok(false) };
        if last < number {
            return Ok(false);
        }
        let first = number.max(last.saturating_sub(ROWS as u32));
        tables.para_headers.delete_range(&mut txn, &(first..)).map_err(error)?;
        txn.commit().map_err(error)?;
        Ok(true)
    }
}
