//! The transaction pool, ordered by the tags of `ValidTransaction`.

use std::collections::{BTreeMap, HashMap, HashSet};

use prb_devnet_runtime::types::MessageOrigin;
use sp_core::H256;
use sp_runtime::transaction_validity::{
    InvalidTransaction, TransactionTag, TransactionValidityError, UnknownTransaction, ValidTransaction,
};
use tokio::sync::mpsc;

use super::fork::Retracted;

/// Maximum bytes of all transactions.
const MAX_BYTES: usize = 20 * 1024 * 1024;
/// Blocks for which a used or refused transaction is banned.
// Real pools ban for 30 minutes.
const BAN_BLOCKS: u32 = 32;
/// Maximum number of banned transactions remembered.
const MAX_BANNED: usize = 16 * 1024;
/// Statuses by which a watcher may lag.
const WATCH_CAPACITY: usize = 16;

/// Why a transaction was refused; the texts and codes are those of real nodes.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// It is invalid.
    #[error("Invalid Transaction")]
    Invalid(InvalidTransaction),
    /// Its validity is unknown.
    #[error("Unknown Transaction Validity")]
    Unknown(UnknownTransaction),
    /// It was used or refused recently.
    #[error("Transaction is temporarily banned")]
    Banned,
    /// It is in the pool already.
    #[error("Transaction Already Imported")]
    AlreadyImported(H256),
    /// It would replace a transaction of at least its priority.
    #[error("Priority is too low: ({old} vs {new})")]
    TooLowPriority {
        /// The pooled transaction's priority.
        old: u64,
        /// This transaction's priority.
        new: u64,
    },
    /// The pool is full.
    #[error("Immediately Dropped")]
    Full,
    /// The runtime failed.
    #[error("{0}")]
    Runtime(String),
}

impl From<TransactionValidityError> for Error {
    fn from(error: TransactionValidityError) -> Self {
        match error {
            TransactionValidityError::Invalid(error) => Self::Invalid(error),
            TransactionValidityError::Unknown(error) => Self::Unknown(error),
        }
    }
}

/// A transaction's status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// It waits for another transaction.
    Future,
    /// It may be included.
    Ready,
    /// It was sent to peers.
    Broadcast,
    /// It is in a block.
    InBlock(H256),
    /// The block that had it was retracted.
    Retracted(H256),
    /// The block that has it was not final in time.
    FinalityTimeout(H256),
    /// It is in a final block.
    Finalized(H256),
    /// Another transaction replaced it.
    Usurped(H256),
    /// The pool dropped it.
    Dropped,
    /// It became invalid.
    Invalid,
}

/// A candidate for a block.
#[derive(Debug)]
pub(crate) struct Candidate {
    pub(crate) hash: H256,
    pub(crate) bytes: Vec<u8>,
}

#[derive(Debug)]
struct Entry {
    bytes: Vec<u8>,
    valid: ValidTransaction,
    messages: Vec<(MessageOrigin, u64)>,
    /// Its position in the order of arrival.
    order: u64,
    ready: bool,
    watchers: Vec<mpsc::Sender<Status>>,
}

impl Entry {
    fn notify(&self, status: &Status) {
        for watcher in &self.watchers {
            // A watcher that does not read loses statuses; the pool is not affected.
            let _ = watcher.try_send(status.clone());
        }
    }
}

#[derive(Debug)]
struct Included {
    block: u32,
    block_hash: H256,
    hash: H256,
    entry: Entry,
}

/// The pool.
#[derive(Debug)]
pub(crate) struct Pool {
    entries: HashMap<H256, Entry>,
    providers: HashMap<TransactionTag, H256>,
    included: Vec<Included>,
    banned: BTreeMap<H256, u32>,
    bytes: usize,
    count: u64,
    capacity: usize,
}

impl Pool {
    pub(crate) fn new(capacity: usize) -> Self {
        Self {
            entries: HashMap::new(),
            providers: HashMap::new(),
            included: Vec::new(),
            banned: BTreeMap::new(),
            bytes: 0,
            count: 0,
            capacity,
        }
    }

    /// Refuses transactions that need no validation.
    pub(crate) fn check(&self, hash: H256, best: u32) -> Result<(), Error> {
        if self.entries.contains_key(&hash) {
            return Err(Error::AlreadyImported(hash));
        }
        match self.banned.get(&hash) {
            Some(until) if *until > best => Err(Error::Banned),
            _ => Ok(()),
        }
    }

    /// Adds a valid transaction and returns its future statuses.
    pub(crate) fn insert(
        &mut self,
        hash: H256,
        bytes: Vec<u8>,
        valid: ValidTransaction,
        messages: Vec<(MessageOrigin, u64)>,
    ) -> Result<mpsc::Receiver<Status>, Error> {
        // Transactions that provide the same tag: the same nonce of an account, or the same message.
        let rivals = self.rivals(&valid);
        for rival in &rivals {
            let old = self.entries.get(rival).map_or(0, |entry| entry.valid.priority);
            // Substrate replaces only for a strictly higher priority.
            if old >= valid.priority {
                return Err(Error::TooLowPriority { old, new: valid.priority });
            }
        }
        let full = self.entries.len() >= self.capacity || self.bytes + bytes.len() > MAX_BYTES;
        // A replacement takes the place of what it removes.
        if full && rivals.is_empty() {
            return Err(Error::Full);
        }
        for rival in rivals {
            self.remove(&rival, &Status::Usurped(hash));
        }
        for tag in &valid.provides {
            self.providers.insert(tag.clone(), hash);
        }
        let (sender, receiver) = mpsc::channel(WATCH_CAPACITY);
        self.bytes += bytes.len();
        self.count += 1;
        let watchers = vec![sender];
        let entry = Entry { bytes, valid, messages, order: self.count, ready: false, watchers };
        self.entries.insert(hash, entry);
        self.promote();
        if let Some(entry) = self.entries.get(&hash).filter(|entry| !entry.ready) {
            entry.notify(&Status::Future);
        }
        Ok(receiver)
    }

    fn rivals(&self, valid: &ValidTransaction) -> HashSet<H256> {
        valid.provides.iter().filter_map(|tag| self.providers.get(tag)).copied().collect()
    }

    fn remove(&mut self, hash: &H256, status: &Status) -> Option<Entry> {
        let entry = self.entries.remove(hash)?;
        self.bytes -= entry.bytes.len();
        for tag in &entry.valid.provides {
            // The tag may already belong to the transaction that replaced this one.
            if self.providers.get(tag) == Some(hash) {
                self.providers.remove(tag);
            }
        }
        entry.notify(status);
        Some(entry)
    }

    fn is_satisfied(&self, entry: &Entry) -> bool {
        entry.valid.requires.iter().all(|tag| {
            let provider = self.providers.get(tag).and_then(|hash| self.entries.get(hash));
            provider.is_some_and(|provider| provider.ready)
        })
    }

    /// Marks transactions that have become ready, and notifies their watchers.
    fn promote(&mut self) {
        loop {
            let ready: Vec<H256> = self
                .entries
                .iter()
                .filter(|(_, entry)| !entry.ready && self.is_satisfied(entry))
                .map(|(hash, _)| *hash)
                .collect();
            if ready.is_empty() {
                return;
            }
            for hash in ready {
                if let Some(entry) = self.entries.get_mut(&hash) {
                    entry.ready = true;
                    entry.notify(&Status::Ready);
                    entry.notify(&Status::Broadcast);
                }
            }
        }
    }

    /// Returns the ready transactions in the order to try them: after those they require, otherwise by priority
    /// and age.
    pub(crate) fn candidates(&self) -> Vec<Candidate> {
        let mut waiting: Vec<(&H256, &Entry)> =
            self.entries.iter().filter(|(_, entry)| entry.ready).collect();
        waiting.sort_by_key(|(_, entry)| (std::cmp::Reverse(entry.valid.priority), entry.order));
        let mut provided: HashSet<&TransactionTag> = HashSet::new();
        let mut ordered = Vec::with_capacity(waiting.len());
        while !waiting.is_empty() {
            let before = ordered.len();
            waiting.retain(|(hash, entry)| {
                let satisfied = entry.valid.requires.iter().all(|tag| provided.contains(tag));
                if satisfied {
                    provided.extend(&entry.valid.provides);
                    ordered.push(Candidate { hash: **hash, bytes: entry.bytes.clone() });
                }
                !satisfied
            });
            // The rest requires what no ready transaction provides.
            if ordered.len() == before {
                break;
            }
        }
        ordered
    }

    /// Returns all transactions, for revalidation.
    pub(crate) fn pending(&self) -> Vec<Candidate> {
        let mut all: Vec<(&H256, &Entry)> = self.entries.iter().collect();
        all.sort_by_key(|(_, entry)| entry.order);
        all.into_iter().map(|(hash, entry)| Candidate { hash: *hash, bytes: entry.bytes.clone() }).collect()
    }

    /// Applies the results of revalidation on a new block.
    pub(crate) fn revalidated(&mut self, results: Vec<(H256, Result<ValidTransaction, Error>)>, best: u32) {
        let ready = self.entries.iter().filter(|(_, entry)| entry.ready);
        let were_ready: Vec<H256> = ready.map(|(hash, _)| *hash).collect();
        for (hash, result) in results {
            match result {
                Ok(valid) => {
                    if let Some(entry) = self.entries.get_mut(&hash) {
                        entry.ready = false;
                        entry.valid = valid;
                    }
                }
                Err(_) => self.refuse(hash, best),
            }
        }
        // Requirements may have changed with the block: readiness is computed from nothing.
        self.promote_silently(&were_ready);
    }

    // Watchers are not notified again of transactions that were ready before.
    fn promote_silently(&mut self, hashes: &[H256]) {
        let watchers: Vec<_> = hashes
            .iter()
            .filter_map(|hash| {
                let entry = self.entries.get_mut(hash)?;
                Some((*hash, std::mem::take(&mut entry.watchers)))
            })
            .collect();
        self.promote();
        for (hash, watchers) in watchers {
            if let Some(entry) = self.entries.get_mut(&hash) {
                entry.watchers = watchers;
            }
        }
    }

    /// Removes a transaction that a block refused.
    pub(crate) fn refuse(&mut self, hash: H256, best: u32) {
        if self.remove(&hash, &Status::Invalid).is_some() {
            self.ban(hash, best);
        }
    }

    /// Drops everything, like a pool over its limits.
    pub(crate) fn drop_all(&mut self) {
        let hashes: Vec<H256> = self.entries.keys().copied().collect();
        for hash in hashes {
            self.remove(&hash, &Status::Dropped);
        }
    }

    fn ban(&mut self, hash: H256, best: u32) {
        self.banned.retain(|_, until| *until > best);
        if self.banned.len() < MAX_BANNED {
            self.banned.insert(hash, best.saturating_add(BAN_BLOCKS));
        }
    }

    /// Removes the transactions of a new block from the pool.
    pub(crate) fn included(&mut self, hashes: &[H256], number: u32, block: H256) {
        for hash in hashes {
            let Some(mut entry) = self.remove(hash, &Status::InBlock(block)) else { continue };
            entry.watchers.retain(|watcher| !watcher.is_closed());
            self.included.push(Included { block: number, block_hash: block, hash: *hash, entry });
            // As real pools do, so that an included transaction that comes back late by gossip or from a client
            // is not validated again.
            self.ban(*hash, number);
        }
    }

    /// Notifies the watchers of transactions of the retraction of their block. Returns the watchers that get no
    /// further status.
    pub(crate) fn retracted(&mut self, block: H256, outcome: Retracted) -> Vec<mpsc::Sender<Status>> {
        let (retracted, rest): (Vec<_>, Vec<_>) =
            self.included.drain(..).partition(|included| included.block_hash == block);
        self.included = rest;
        let mut silent = Vec::new();
        for Included { hash, mut entry, .. } in retracted {
            entry.notify(&Status::Retracted(block));
            // Inclusion banned it; without this the pool would refuse the same transaction when it is sent
            // again.
            self.banned.remove(&hash);
            if outcome == Retracted::Lost {
                silent.append(&mut entry.watchers);
                continue;
            }
            for tag in &entry.valid.provides {
                self.providers.insert(tag.clone(), hash);
            }
            self.bytes += entry.bytes.len();
            entry.ready = false;
            self.entries.insert(hash, entry);
        }
        self.promote();
        silent
    }

    /// Stops watching transactions in blocks up to `last` that are not final.
    pub(crate) fn time_out_watchers(&mut self, last: u32) {
        for Included { block_hash, entry, .. } in
            self.included.iter_mut().filter(|included| included.block <= last && last > 0)
        {
            entry.notify(&Status::FinalityTimeout(*block_hash));
            // `finalityTimeout` is a final status: real nodes end the stream.
            entry.watchers.clear();
        }
    }

    /// Notifies watchers of final blocks.
    pub(crate) fn finalized(&mut self, finalized: u32, hash_of: impl Fn(u32) -> Option<H256>) {
        let (done, rest): (Vec<_>, Vec<_>) =
            self.included.drain(..).partition(|included| included.block <= finalized);
        self.included = rest;
        for included in done {
            let Some(hash) = hash_of(included.block) else { continue };
            included.entry.notify(&Status::Finalized(hash));
        }
    }

    /// Whether a ready transaction provides a tag.
    pub(crate) fn provides(&self, tag: &[u8]) -> bool {
        let provider = self.providers.get(tag).and_then(|hash| self.entries.get(hash));
        provider.is_some_and(|entry| entry.ready)
    }

    /// Whether the pool has a message.
    pub(crate) fn carries(&self, origin: &MessageOrigin, sequence: u64) -> bool {
        let is_it = |(sender, number): &(MessageOrigin, u64)| sender == origin && *number == sequence;
        self.entries.values().any(|entry| entry.messages.iter().any(is_it))
    }
}
