//! Appends verified blocks.

use codec::Encode;
use heed::PutFlags;
use prb_core::{
    blob::Span,
    primitives::{Hash, ParaNumber, RelayNumber},
    wire::AuthoritySet,
};

use crate::disk::DiskProblem;

use super::{Alignment, Error, State, Store, Tips, memory_map::WriteTxn, segment, split_alignment};

/// A parachain header named in a relay block's state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParaHead {
    /// Its number.
    pub number: ParaNumber,
    /// Its hash.
    pub hash: Hash,
}

/// A justified relay block.
#[derive(Clone, Debug)]
pub struct NewJustifiedBlock {
    /// Its number.
    pub number: RelayNumber,
    /// Its justification.
    pub justification: Vec<u8>,
    /// The authority set that signed it.
    pub set_id: u64,
    /// The authority set that takes over after it, if the block changes it.
    pub next_set: Option<AuthoritySet>,
    /// The parachain's head in its state.
    pub para_head: Option<ParaHead>,
    /// Trie nodes that prove the head and, if the set changes, the authorities.
    pub proof: Vec<Vec<u8>>,
}

/// Consecutive relay headers, the last of them justified.
#[derive(Clone, Debug)]
pub struct RelayBatch {
    /// Number of the first header.
    pub first: RelayNumber,
    /// Encoded headers.
    pub headers: Vec<Vec<u8>>,
    /// The justified ones among them, in order.
    pub justified: Vec<NewJustifiedBlock>,
}

/// What is appended, as kinds of [`Store::writes`].
const RELAY: usize = 0;
const HEADERS: usize = 1;
const CHANGES: usize = 2;
/// Their number.
pub(super) const KINDS: usize = 3;

impl Store {
    /// Returns why blocks cannot be stored at the moment. Does not block.
    pub fn disk_problem(&self) -> Option<DiskProblem> {
        self.writes.problem(&format_args!("the block store {}", self.path.display()))
    }

    /// Checks whether the files are still where they were opened. Blocks on the disk.
    pub fn check_files(&self) {
        self.writes.set_moved(self.files.are_moved(&self.path).then(|| {
            format!(
                "the files of the block store {} were moved or deleted while it is open: move them back; if they are \
                 lost, restart, and all blocks are fetched again",
                self.path.display()
            )
        }));
    }

    fn tracked<T>(&self, kind: usize, write: impl FnMut() -> Result<T, Error>) -> Result<T, Error> {
        self.writes.track(kind, || self.with_recovery(write), Error::disk_problem)
    }

    /// Appends relay blocks.
    ///
    /// Blocks on the disk.
    ///
    /// # Errors
    /// [`Error::OutOfSequence`] if they do not follow the stored ones, or do not end at a justified one.
    #[doc(hidden)]
    pub fn append_relay(&self, batch: &RelayBatch) -> Result<(), Error> {
        self.tracked(RELAY, || self.try_append_relay(batch))
    }

    fn try_append_relay(&self, batch: &RelayBatch) -> Result<(), Error> {
        let guard = self.lock_shared()?;
        let mut txn = self.write(&guard)?;
        let mut state = *self.state();
        let sequence = || Error::OutOfSequence { what: "relay header", number: batch.first.0 };
        let (next, parent) = match (state.tips.relay, self.genesis()) {
            (Some((tip, hash)), _) => (tip.next(), hash),
            (None, Some((start, _))) => (start.first(), start.hash),
            (None, None) => return Err(Error::Missing { what: "genesis" }),
        };
        let follows = batch.headers.first().is_some_and(|header| header.get(..32) == Some(&parent.0[..]));
        if batch.first != next || !follows {
            return Err(sequence());
        }
        let last = RelayNumber(batch.first.0 + (batch.headers.len() - 1) as u32);
        if batch.justified.last().is_none_or(|block| block.number != last) {
            return Err(sequence());
        }
        // The last block need not name a head: the parachain may be offboarded by then.
        let proven = batch.justified.iter().rev().find_map(|block| block.para_head);

        self.put_relay(&mut txn, batch).map_err(|e| self.error(e))?;
        let hash = batch.headers.last().map(|header| Hash::of(header)).unwrap_or_default();
        state.tips.relay = Some((last, hash));
        state.tips.proven = proven.map(|head| (head.number, head.hash)).or(state.tips.proven);
        self.finish(txn, state)
    }

    fn put_relay(&self, txn: &mut WriteTxn<'_>, batch: &RelayBatch) -> heed::Result<()> {
        // Appending in order makes LMDB fill its pages completely.
        let (append, tables) = (PutFlags::APPEND, txn.tables);
        for (number, header) in (batch.first.0..).zip(&batch.headers) {
            tables.relay_headers.put_with_flags(txn, append, &number, header)?;
        }
        for block in &batch.justified {
            let alignment = Alignment {
                para_head: block.para_head.map(|head| (head.number.0, head.hash)),
                set_id: block.set_id,
                ends_set: block.next_set.is_some(),
            };
            let mut encoded = alignment.encode();
            block.proof.encode_to(&mut encoded);
            tables.alignments.put_with_flags(txn, append, &block.number.0, &encoded)?;
            tables.justifications.put_with_flags(txn, append, &block.number.0, &block.justification)?;
            if let Some(set) = &block.next_set {
                tables.sets.put(txn, &set.id, &set.encode())?;
            }
        }
        Ok(())
    }

    /// Appends parachain headers.
    ///
    /// Blocks on the disk.
    ///
    /// # Errors
    /// [`Error::OutOfSequence`] if they do not follow the stored ones, or extend beyond what a relay block has proven.
    #[doc(hidden)]
    pub fn append_para_headers(&self, first: ParaNumber, headers: &[Vec<u8>]) -> Result<(), Error> {
        self.tracked(HEADERS, || self.try_append_para_headers(first, headers))
    }

    fn try_append_para_headers(&self, first: ParaNumber, headers: &[Vec<u8>]) -> Result<(), Error> {
        let Some(last_header) = headers.last() else { return Ok(()) };
        let guard = self.lock_shared()?;
        let mut txn = self.write(&guard)?;
        let mut state = *self.state();
        let (next, parent) = match state.tips.para_header {
            Some((tip, hash)) => (tip.next(), Some(hash)),
            None => (ParaNumber(0), None),
        };
        let follows = parent.is_none_or(|parent| headers[0].get(..32) == Some(&parent.0[..]));
        let last = ParaNumber(first.0 + (headers.len() - 1) as u32);
        // Headers beyond could be of a fork: the relay chain has not named them.
        let proven = state.tips.proven.is_some_and(|(number, _)| last <= number);
        if first != next || !follows || !proven {
            return Err(Error::OutOfSequence { what: "parachain header", number: first.0 });
        }
        let table = txn.tables.para_headers;
        for (number, header) in (first.0..).zip(headers) {
            table.put_with_flags(&mut txn, PutFlags::APPEND, &number, header).map_err(|e| self.error(e))?;
        }
        state.tips.para_header = Some((last, Hash::of(last_header)));
        self.finish(txn, state)
    }

    /// Appends SCALE storage changes of parachain blocks.
    ///
    /// Blocks on the disk.
    ///
    /// # Errors
    /// [`Error::OutOfSequence`] if they do not follow the stored ones.
    #[doc(hidden)]
    pub fn append_changes(&self, first: ParaNumber, changes: &[Vec<u8>]) -> Result<(), Error> {
        self.tracked(CHANGES, || self.try_append_changes(first, changes))
    }

    fn try_append_changes(&self, first: ParaNumber, changes: &[Vec<u8>]) -> Result<(), Error> {
        if changes.is_empty() {
            return Ok(());
        }
        let guard = self.lock_shared()?;
        let mut txn = self.write(&guard)?;
        let mut state = *self.state();
        if first != state.tips.changes.next() {
            return Err(Error::OutOfSequence { what: "storage changes of block", number: first.0 });
        }
        self.put_changes(&mut txn, first.0, changes)?;
        state.tips.changes = ParaNumber(first.0 + (changes.len() - 1) as u32);
        self.finish(txn, state)
    }

    /// Fills up the last segment and continues with new ones.
    pub(super) fn put_changes(
        &self,
        txn: &mut WriteTxn<'_>,
        first: u32,
        changes: &[Vec<u8>],
    ) -> Result<(), Error> {
        let (table, digests) = (txn.tables.changes, txn.tables.digests);
        let mut start = first;
        let mut items: Vec<&[u8]> = Vec::with_capacity(changes.len());
        // A last segment below the target is rewritten with the new blocks: at the tip blocks come one by one,
        // and would each take pages of their own.
        let open = match table.last(txn).map_err(|e| self.error(e))? {
            Some((key, encoded)) if encoded.len() < segment::TARGET_BYTES => Some((key, encoded.to_vec())),
            _ => None,
        };
        if let Some((key, encoded)) = &open {
            let open = segment::Segment::read(encoded).ok_or(Error::Corrupt { what: "segment" })?;
            items.extend((0..open.count()).filter_map(|i| open.get(i)));
            start = *key;
        }
        items.extend(changes.iter().map(Vec::as_slice));
        let mut from = 0;
        for to in segment::cut(&items) {
            let encoded = segment::write(&items[from..to]);
            let key = start + from as u32;
            table.put(txn, &key, &encoded).map_err(|e| self.error(e))?;
            digests.put(txn, &key, &segment::digest(&encoded)).map_err(|e| self.error(e))?;
            from = to;
        }
        Ok(())
    }

    /// Replaces the stored changes of blocks that turned out to be wrong.
    ///
    /// Blocks on the disk.
    ///
    /// # Errors
    /// [`Error::Missing`] if a block's changes are not stored.
    #[doc(hidden)]
    pub fn replace_changes(&self, first: ParaNumber, changes: &[Vec<u8>]) -> Result<(), Error> {
        self.with_recovery(|| self.try_replace_changes(first, changes))
    }

    fn try_replace_changes(&self, first: ParaNumber, changes: &[Vec<u8>]) -> Result<(), Error> {
        let guard = self.lock_shared()?;
        let mut txn = self.write(&guard)?;
        let (table, digests) = (txn.tables.changes, txn.tables.digests);
        for (number, new) in (first.0..).zip(changes) {
            let found = table.get_lower_than_or_equal_to(&txn, &number).map_err(|e| self.error(e))?;
            let (key, encoded) = found.ok_or(Error::Missing { what: "storage changes" })?;
            let segment = segment::Segment::read(encoded).ok_or(Error::Corrupt { what: "segment" })?;
            let mut items: Vec<_> = (0..segment.count()).filter_map(|i| segment.get(i)).collect();
            let slot =
                items.get_mut((number - key) as usize).ok_or(Error::Missing { what: "storage changes" })?;
            *slot = new;
            let encoded = segment::write(&items);
            table.put(&mut txn, &key, &encoded).map_err(|e| self.error(e))?;
            digests.put(&mut txn, &key, &segment::digest(&encoded)).map_err(|e| self.error(e))?;
        }
        txn.commit().map_err(|e| self.error(e))
    }

    /// Returns the blocks of the segment that contains a block's storage changes, and the segment's stored
    /// digest. The segment itself need not be readable.
    ///
    /// # Errors
    /// [`Error::Missing`] if they are not stored.
    #[doc(hidden)]
    pub fn segment_of(&self, number: ParaNumber) -> Result<(Span<ParaNumber>, Option<[u8; 4]>), Error> {
        let txn = self.read()?;
        let error = |e| self.error(e);
        let found = txn.tables.changes.get_lower_than_or_equal_to(&txn, &number.0).map_err(error)?;
        let (first, _) = found.ok_or(Error::Missing { what: "storage changes" })?;
        let next = txn.tables.changes.get_greater_than(&txn, &first).map_err(error)?;
        let last = next.map_or(self.state().tips.changes.0, |(next, _)| next - 1);
        let digest = txn.tables.digests.get(&txn, &first).map_err(error)?;
        let span = Span { first: ParaNumber(first), last: ParaNumber(last.max(first)) };
        Ok((span, digest.and_then(|digest| digest.try_into().ok())))
    }

    /// Stores a segment's storage changes again, replacing a segment damaged by the disk.
    ///
    /// Blocks on the disk.
    ///
    /// # Errors
    /// [`Error::Missing`] if no segment starts at `first`.
    pub(crate) fn put_segment(&self, first: ParaNumber, changes: &[Vec<u8>]) -> Result<(), Error> {
        let items: Vec<&[u8]> = changes.iter().map(Vec::as_slice).collect();
        let encoded = segment::write(&items);
        self.with_recovery(|| {
            let guard = self.lock_shared()?;
            let mut txn = self.write(&guard)?;
            let (table, digests) = (txn.tables.changes, txn.tables.digests);
            table
                .get(&txn, &first.0)
                .map_err(|e| self.error(e))?
                .ok_or(Error::Missing { what: "segment" })?;
            table.put(&mut txn, &first.0, &encoded).map_err(|e| self.error(e))?;
            digests.put(&mut txn, &first.0, &segment::digest(&encoded)).map_err(|e| self.error(e))?;
            txn.commit().map_err(|e| self.error(e))
        })
    }

    /// Commits and publishes the new state.
    fn finish(&self, mut txn: WriteTxn<'_>, mut state: State) -> Result<(), Error> {
        self.cover(&mut txn, &mut state)?;
        // The write transaction is open until here, so that states are published in their order.
        let mut known = self.state();
        txn.commit().map_err(|e| self.error(e))?;
        *known = state;
        self.publish(state);
        Ok(())
    }

    /// Advances to the newest justified block whose parachain headers are all stored, thinning out passed sets.
    fn cover(&self, txn: &mut WriteTxn<'_>, state: &mut State) -> Result<(), Error> {
        let from = state.covered.map_or(0, |(number, _)| number.0 + 1);
        // Collected first: deleting needs the transaction that the iteration borrows.
        let mut ended = Vec::new();
        for entry in txn.tables.alignments.range(txn, &(from..)).map_err(|e| self.error(e))? {
            let (number, encoded) = entry.map_err(|e| self.error(e))?;
            let (alignment, _) = split_alignment(encoded)?;
            let head = alignment.para_head.map(|(n, hash)| ParaHead { number: ParaNumber(n), hash });
            if !Tips::covers(&state.tips, head) {
                break;
            }
            let before = state.covered.and_then(|(_, head)| head);
            // If the relay chain names no head any more, the last named one stays.
            state.covered = Some((RelayNumber(number), head.map(|head| head.number).or(before)));
            if alignment.ends_set {
                ended.push(number);
            }
        }
        ended.into_iter().try_for_each(|end| self.thin(txn, end)).map_err(|e| self.error(e))
    }

    /// Drops justified blocks of the set that ended, except for a few in between.
    fn thin(&self, txn: &mut WriteTxn<'_>, end: u32) -> heed::Result<()> {
        let mut drop = Vec::new();
        let mut later = end;
        for entry in txn.tables.alignments.rev_range(txn, &(..end))? {
            let (number, encoded) = entry?;
            if split_alignment(encoded).is_ok_and(|(alignment, _)| alignment.ends_set) {
                break;
            }
            // A batch can go on to the set's end, so those in between only serve batches that a size limit cuts
            // short.
            if later - number < self.config.keep_justified_every {
                drop.push(number);
            } else {
                later = number;
            }
        }
        let tables = txn.tables;
        for number in drop {
            tables.alignments.delete(txn, &number)?;
            tables.justifications.delete(txn, &number)?;
        }
        Ok(())
    }
}
