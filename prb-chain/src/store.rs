//! The block store: every verified block once, in LMDB.
//!
//! | table | key | value |
//! |---|---|---|
//! | `meta` | name | schema version, start, genesis info and state |
//! | `relay_headers` | number | SCALE header |
//! | `justifications` | number | GRANDPA justification, at justified blocks |
//! | `alignments` | number | `Alignment` and the read proof, at justified blocks |
//! | `sets` | set id | SCALE authority set |
//! | `para_headers` | number | SCALE header |
//! | `changes` | first number | a segment of several blocks' storage changes |
//! | `digests` | first number | CRC-32C of that segment, little-endian |
//!
//! Keys are big-endian, so that LMDB's order is the chain's. Each append is one transaction: after a crash it is either
//! complete or absent. A store belongs to one process at a time, and always to the same pair of chains.
//!
//! Justified blocks within an authority set are thinned out once the set's last block can be served to
//! workers: only one in [`Config::keep_justified_every`] stays, because a batch can extend to the set's end.
//!
//! A store with an older layout is migrated in place when it is opened. Stored data can
//! be checked ([`Store::verify`]), dropped from a block on ([`Store::drop_relay_from`],
//! [`Store::drop_para_from`]) and compacted ([`Store::compact`]).
//!
//! Not for: verifying appended data, which is the caller's task ([`ingest`](crate::ingest)).

use std::{
    fmt,
    fs::{DirBuilder, File, OpenOptions, TryLockError},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{Mutex, MutexGuard, OnceLock, PoisonError, RwLock, atomic::AtomicUsize},
};

use bytes::Bytes;
use codec::{Decode, Encode};
use heed::{
    Database, RwTxn,
    byteorder::BigEndian,
    types::{Bytes as RawBytes, Str, U32, U64},
};
use prb_core::{
    blob::{Genesis, Heights},
    primitives::{Hash, ParaNumber, RelayNumber},
    wire::AuthoritySet,
};
use tokio::sync::watch;

pub(crate) mod append;
mod compact;
mod error;
mod memory_map;
mod migrate;
mod open;
#[doc(hidden)]
pub mod segment;
mod truncate;
mod verify;
pub(crate) mod view;

pub(crate) use append::ParaHead;
pub(crate) use append::{NewJustifiedBlock, RelayBatch};
pub use error::Error;
pub(crate) use verify::check_start;
pub use verify::{Fault, Part, Progress, Report};
pub(crate) use view::StoreView;

use crate::{
    disk::{Files, Writes},
    lmdb, metric_help,
    verify::Start,
};

type Numbered = Database<'static, U32<BigEndian>, RawBytes>;

/// Limits of a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, derive_setters::Setters)]
#[setters(prefix = "with_")]
#[non_exhaustive]
pub struct Config {
    /// Initial size of the memory map, in bytes: address space, not memory or disk. It doubles whenever it is
    /// full. Default: 64 GiB.
    pub map_bytes: usize,
    /// Most concurrent readers. Default: 1,024.
    pub max_readers: u32,
    /// Distance in relay blocks between the justified blocks that are kept within a finished authority set.
    /// Default: 256.
    pub keep_justified_every: u32,
}

impl Default for Config {
    fn default() -> Self {
        Self { map_bytes: 1 << 36, max_readers: 1024, keep_justified_every: 256 }
    }
}

/// The newest stored blocks of each part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Tips {
    /// Newest relay block; the last one is always justified.
    pub relay: Option<(RelayNumber, Hash)>,
    /// Newest parachain header named in a justified relay block's state: the target of the headers.
    pub proven: Option<(ParaNumber, Hash)>,
    /// Newest stored parachain header.
    pub para_header: Option<(ParaNumber, Hash)>,
    /// Newest block whose storage changes are stored; 0 if there is none.
    pub changes: ParaNumber,
}

/// What is known at a justified relay block.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub(crate) struct Alignment {
    /// The parachain's head in its state: number and hash.
    pub para_head: Option<(u32, Hash)>,
    /// The authority set that signed its justification.
    pub set_id: u64,
    /// Whether the next set takes over after it.
    pub ends_set: bool,
}

#[derive(Clone, Copy)]
struct Tables {
    meta: Database<'static, Str, RawBytes>,
    relay_headers: Numbered,
    justifications: Numbered,
    alignments: Numbered,
    sets: Database<'static, U64<BigEndian>, RawBytes>,
    para_headers: Numbered,
    changes: Numbered,
    digests: Numbered,
}

/// The verified blocks of a relay chain and its parachain.
pub struct Store {
    path: PathBuf,
    config: Config,
    /// The database. Locked for reading by each transaction, and for writing while the map is resized or the
    /// database is reopened.
    database: RwLock<memory_map::Database>,
    /// Number of threads that wait for exclusive access to the database.
    exclusive_waiters: AtomicUsize,
    /// Whether appending works.
    writes: Writes<{ append::KINDS }>,
    files: Files,
    genesis: OnceLock<(Start, Genesis)>,
    state: Mutex<State>,
    heights: watch::Sender<Heights>,
    tips: watch::Sender<Tips>,
    /// File lock, held while the store is open.
    _lock: File,
}

/// State that would take a scan to recompute.
#[derive(Clone, Copy, Debug, Default)]
struct State {
    /// Newest justified relay block whose parachain headers are all stored, and its parachain head.
    covered: Option<(RelayNumber, Option<ParaNumber>)>,
    tips: Tips,
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("path", &self.path)
            .field("state", &*self.state())
            .finish_non_exhaustive()
    }
}

impl Store {
    /// Opens the store in a directory, or creates one (directory 0700, files 0600).
    ///
    /// Blocks on the disk.
    ///
    /// # Errors
    /// [`Error::InUse`], [`Error::Schema`] for a newer layout, [`Error::Truncated`], [`Error::Damaged`], or an I/O error.
    pub fn open(path: &Path, config: Config) -> Result<Self, Error> {
        metric_help::describe();
        let io = |source| Error::from_io(path, source);
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io)?;
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .open(path.join("in-use"))
            .map_err(io)?;
        lmdb::try_lock(&lock).map_err(|e| match e {
            TryLockError::WouldBlock => Error::InUse { path: path.to_owned() },
            TryLockError::Error(source) => Error::Lock { path: path.to_owned(), source },
        })?;
        // Opened after the lock file is locked: LMDB's own lock does not keep two processes from writing in turn, and
        // the state kept in memory would be wrong.
        let database = RwLock::new(memory_map::Database::open(path, config)?);
        let store = Self {
            path: path.to_owned(),
            config,
            database,
            exclusive_waiters: AtomicUsize::new(0),
            writes: Writes::default(),
            files: Files::of(path, &lock).map_err(io)?,
            genesis: OnceLock::new(),
            state: Mutex::default(),
            heights: watch::Sender::default(),
            tips: watch::Sender::default(),
            _lock: lock,
        };
        store.migrate()?;
        store.load()?;
        Ok(store)
    }

    /// The store's path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Size of the store on disk, in bytes.
    ///
    /// # Errors
    /// The file cannot be examined.
    pub fn disk_bytes(&self) -> Result<u64, Error> {
        self.lock_shared()?.env().real_disk_size().map_err(|e| self.error(e))
    }

    /// Watches the heights that can be served to workers.
    pub fn heights(&self) -> watch::Receiver<Heights> {
        self.heights.subscribe()
    }

    /// Watches the newest stored blocks of each part.
    pub fn tips(&self) -> watch::Receiver<Tips> {
        self.tips.subscribe()
    }

    /// The identity of the parachain (the hash of its block 1) whose blocks are stored, once it is known.
    ///
    /// Its genesis is that of [`StoreSource`](crate::source::StoreSource).
    pub fn chain_identity(&self) -> Option<Hash> {
        self.genesis().map(|(_, genesis)| genesis.chain_identity)
    }

    /// The start of the chains, once [`Store::set_genesis`] has stored it.
    #[doc(hidden)]
    pub fn genesis(&self) -> Option<&(Start, Genesis)> {
        self.genesis.get()
    }

    /// Sets the newest finalised blocks that nodes know; `None` leaves a number unchanged. A number may decrease,
    /// if a node's false head was detected, but never below the stored blocks.
    pub fn set_targets(&self, relay: Option<RelayNumber>, para: Option<ParaNumber>) {
        self.heights.send_if_modified(|heights| {
            let before = *heights;
            heights.relay_target = relay.or(heights.relay_target).max(heights.relay);
            heights.para_target = para.or(heights.para_target).max(heights.para);
            *heights != before
        });
    }

    /// Stores the start of the chains, or checks that the store is of these chains.
    ///
    /// Blocks on the disk.
    ///
    /// # Errors
    /// [`Error::OtherChain`].
    #[doc(hidden)]
    pub fn set_genesis(&self, start: &Start, genesis: &Genesis) -> Result<(), Error> {
        self.with_recovery(|| self.try_set_genesis(start, genesis))
    }

    fn try_set_genesis(&self, start: &Start, genesis: &Genesis) -> Result<(), Error> {
        if let Some((known_start, known)) = self.genesis.get() {
            let same = known.chain_identity == genesis.chain_identity
                && known.para_id == genesis.para_id
                && known_start.hash == start.hash;
            let other = || Error::OtherChain {
                path: self.path.clone(),
                stored: known.chain_identity,
                asked: genesis.chain_identity,
            };
            return if same { Ok(()) } else { Err(other()) };
        }
        let guard = self.lock_shared()?;
        let mut txn = self.write(&guard)?;
        let tables = txn.tables;
        let stored = StoredGenesis {
            start: start.clone(),
            para_id: genesis.para_id,
            chain_identity: genesis.chain_identity,
            info: genesis.info.to_vec(),
        };
        let put = |txn: &mut RwTxn<'_>| {
            tables.meta.put(txn, "genesis", &stored.encode())?;
            tables.meta.put(txn, "genesis_state", &genesis.state)?;
            tables.sets.put(txn, &start.set.id, &start.set.encode())
        };
        put(&mut txn).map_err(|e| self.error(e))?;
        txn.commit().map_err(|e| self.error(e))?;
        // Fails only if it is set already: the write transaction ensures that the first writer's genesis is the
        // stored one.
        let _ = self.genesis.set((start.clone(), genesis.clone()));
        Ok(())
    }

    /// Returns the authority set that justifies the relay block after the stored ones.
    ///
    /// # Errors
    /// [`Error::Missing`] before the genesis is known.
    #[doc(hidden)]
    pub fn current_set(&self) -> Result<AuthoritySet, Error> {
        let txn = self.read()?;
        let last = txn.tables.sets.last(&txn).map_err(|e| self.error(e))?;
        let (_, encoded) = last.ok_or(Error::Missing { what: "authority set" })?;
        decode(encoded, "authority set")
    }

    /// Returns the newest parachain head, named by a stored relay block, within `limit` blocks after the stored
    /// headers; if there is none, the next one beyond.
    ///
    /// # Errors
    /// The store cannot be read.
    #[doc(hidden)]
    pub fn next_head(&self, limit: u32) -> Result<Option<ParaHead>, Error> {
        let tip = self.state().tips.para_header.map(|(tip, _)| tip);
        self.next_head_after(tip, limit)
    }

    /// As [`Store::next_head`], after headers of which the last ones may not be stored yet.
    pub(crate) fn next_head_after(
        &self,
        tip: Option<ParaNumber>,
        limit: u32,
    ) -> Result<Option<ParaHead>, Error> {
        let from = self.state().covered.map_or(0, |(relay, _)| relay.0);
        let reach = tip.map_or(limit, |tip| tip.0.saturating_add(limit));
        let txn = self.read()?;
        let mut found = None;
        for entry in txn.tables.alignments.range(&txn, &(from..)).map_err(|e| self.error(e))? {
            let (_, encoded) = entry.map_err(|e| self.error(e))?;
            let (alignment, _) = split_alignment(encoded)?;
            let head = alignment.para_head.map(|(n, hash)| ParaHead { number: ParaNumber(n), hash });
            let Some(head) = head.filter(|head| Some(head.number) > tip) else { continue };
            if found.is_some() && head.number.0 > reach {
                break;
            }
            found = Some(head);
        }
        Ok(found)
    }

    /// Whether the newest stored relay block is the last one of its authority set.
    ///
    /// # Errors
    /// The store cannot be read.
    pub(crate) fn tip_ends_set(&self) -> Result<bool, Error> {
        let txn = self.read()?;
        let last = txn.tables.alignments.last(&txn).map_err(|e| self.error(e))?;
        last.map_or(Ok(false), |(_, encoded)| Ok(split_alignment(encoded)?.0.ends_set))
    }

    /// Whether the newest stored relay block's state names a head of the parachain.
    ///
    /// # Errors
    /// The store cannot be read.
    pub(crate) fn tip_names_head(&self) -> Result<bool, Error> {
        let txn = self.read()?;
        let last = txn.tables.alignments.last(&txn).map_err(|e| self.error(e))?;
        last.map_or(Ok(false), |(_, encoded)| Ok(split_alignment(encoded)?.0.para_head.is_some()))
    }

    /// Returns the hash of a stored parachain block.
    ///
    /// # Errors
    /// [`Error::Missing`] if its header is not stored.
    pub(crate) fn para_hash(&self, number: ParaNumber) -> Result<Hash, Error> {
        let txn = self.read()?;
        let header = txn.tables.para_headers.get(&txn, &number.0).map_err(|e| self.error(e))?;
        header.map(Hash::of).ok_or(Error::Missing { what: "parachain header" })
    }

    /// Returns the stored changes of a parachain block.
    ///
    /// # Errors
    /// [`Error::Missing`] if they are not stored.
    pub fn changes(&self, number: ParaNumber) -> Result<Vec<u8>, Error> {
        let view = self.view()?;
        view.changes(number)?.map(<[u8]>::to_vec).ok_or(Error::Missing { what: "storage changes" })
    }

    /// Returns a snapshot of the store. Keep it only briefly: pages that it sees cannot be reused meanwhile.
    ///
    /// # Errors
    /// The store cannot be read.
    #[doc(hidden)]
    pub fn view(&self) -> Result<StoreView<'_>, Error> {
        Ok(StoreView::new(self, self.read()?))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn error(&self, e: heed::Error) -> Error {
        Error::from_heed(&self.path, e)
    }

    /// Loads the state from the stored rows.
    fn load(&self) -> Result<(), Error> {
        // Before the snapshot: a commit in between would be published first, and then be forgotten.
        let mut known = self.state();
        let txn = self.try_read()?;
        let error = |e| self.error(e);
        if let Some(stored) = txn.tables.meta.get(&txn, "genesis").map_err(error)? {
            let stored: StoredGenesis = decode(stored, "genesis")?;
            let state = txn.tables.meta.get(&txn, "genesis_state").map_err(error)?.unwrap_or_default();
            let genesis = Genesis {
                para_id: stored.para_id,
                relay_number: RelayNumber(stored.start.number),
                relay_hash: stored.start.hash,
                chain_identity: stored.chain_identity,
                info: Bytes::from(stored.info),
                state: Bytes::copy_from_slice(state),
            };
            let _ = self.genesis.set((stored.start, genesis));
        }
        let last = |table: Numbered| table.last(&txn).map_err(error);
        let mut state = State::default();
        state.tips.relay = last(txn.tables.relay_headers)?.map(|(n, h)| (RelayNumber(n), Hash::of(h)));
        state.tips.para_header = last(txn.tables.para_headers)?.map(|(n, h)| (ParaNumber(n), Hash::of(h)));
        if let Some((first, encoded)) = last(txn.tables.changes)? {
            let count = segment::Segment::read(encoded).ok_or(Error::Corrupt { what: "segment" })?.count();
            state.tips.changes = ParaNumber(first + count - 1);
        }
        // Backwards, because the newest rows decide.
        for entry in txn.tables.alignments.rev_iter(&txn).map_err(error)? {
            let (number, encoded) = entry.map_err(error)?;
            let (alignment, _) = split_alignment(encoded)?;
            let head = alignment.para_head.map(|(n, hash)| ParaHead { number: ParaNumber(n), hash });
            state.tips.proven = state.tips.proven.or(head.map(|head| (head.number, head.hash)));
            // Blocks after a head that is not covered are not covered either, even if they name none.
            if !state.tips.covers(head) {
                state.covered = None;
                continue;
            }
            let covered = state.covered.map_or(RelayNumber(number), |(newest, _)| newest);
            state.covered = Some((covered, head.map(|head| head.number)));
            // If the relay chain names no head any more, the last named one stays.
            if head.is_some() {
                break;
            }
        }
        drop(txn);
        *known = state;
        self.publish(state);
        Ok(())
    }

    fn publish(&self, state: State) {
        self.tips.send_replace(state.tips);
        let relay = state.covered.map(|(relay, _)| relay);
        let para = state.covered.and_then(|(_, head)| head).map(|head| head.min(state.tips.changes));
        self.heights.send_if_modified(|heights| {
            let before = *heights;
            heights.relay = relay;
            heights.para = para;
            // Targets are at least the stored blocks; those say nothing about what else exists.
            heights.relay_target = heights.relay_target.max(relay);
            heights.para_target = heights.para_target.max(para);
            *heights != before
        });
    }
}

impl Tips {
    fn covers(&self, head: Option<ParaHead>) -> bool {
        head.is_none_or(|head| self.para_header.is_some_and(|(tip, _)| head.number <= tip))
    }
}

#[derive(Encode, Decode)]
struct StoredGenesis {
    start: Start,
    para_id: u32,
    chain_identity: Hash,
    info: Vec<u8>,
}

fn decode<T: Decode>(mut encoded: &[u8], what: &'static str) -> Result<T, Error> {
    T::decode(&mut encoded).map_err(|_| Error::Corrupt { what })
}

/// Splits an alignment row into the alignment and its proof, a SCALE `Vec<Vec<u8>>`.
fn split_alignment(mut encoded: &[u8]) -> Result<(Alignment, &[u8]), Error> {
    let alignment = Alignment::decode(&mut encoded).map_err(|_| Error::Corrupt { what: "alignment" })?;
    Ok((alignment, encoded))
}

#[cfg(test)]
mod tests;
