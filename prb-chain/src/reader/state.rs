//! The followed state at one block: filled by a snapshot and updated by storage changes, without I/O.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use prb_core::{
    chain::{AccountOnChain, ChainView, Followed, PoolOnChain, Reading, Unreadable, WorkerOnChain},
    primitives::{AccountId, Hash, ParaNumber, PoolId, WorkerKey},
    wire::MessageOrigin,
};

use super::{
    layout::{ChainValues, Layout},
    raw_values::{Cells, Subject},
    storage::Values,
};

/// Most subjects of each kind.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) workers: usize,
    pub(super) pools: usize,
    pub(super) accounts: usize,
    pub(super) senders: usize,
}

/// Everything known at one block.
#[derive(Debug)]
pub(super) struct State {
    pub(super) block: u32,
    pub(super) hash: Hash,
    layout: Layout,
    bounds: Bounds,
    followed: Arc<Followed>,
    cells: Cells,
    /// Subjects that must be decoded again.
    dirty: HashSet<Subject>,
    shown: Shown,
    /// Unreadable subjects that were logged, with the reason.
    reported: HashMap<Subject, Arc<str>>,
}

/// Decoded readings by subject.
#[derive(Debug, Default)]
struct Shown {
    chain: ChainValues,
    workers: HashMap<WorkerKey, Reading<WorkerOnChain>>,
    pools: HashMap<PoolId, Reading<Option<PoolOnChain>>>,
    accounts: HashMap<AccountId, Reading<AccountOnChain>>,
    senders: HashMap<MessageOrigin, Reading<u64>>,
}

impl State {
    /// Creates a state at a block in which nothing is followed or known yet.
    pub(super) fn new(block: u32, hash: Hash, layout: Layout, bounds: Bounds) -> Self {
        let mut state = Self {
            block,
            hash,
            layout,
            bounds,
            followed: Arc::default(),
            cells: Cells::default(),
            dirty: HashSet::new(),
            shown: Shown::default(),
            reported: HashMap::new(),
        };
        state.join(Subject::Chain);
        state
    }

    /// Takes over which failures an earlier state has logged, so that they are not logged again.
    pub(super) fn succeed(&mut self, earlier: Option<Self>) {
        if let Some(earlier) = earlier {
            self.reported = earlier.reported;
        }
    }

    /// Follows exactly this set, within the bounds.
    pub(super) fn follow(&mut self, followed: &Arc<Followed>) {
        if Arc::ptr_eq(&self.followed, followed) {
            return;
        }
        self.followed = Arc::clone(followed);
        let wanted: HashSet<Subject> = subjects(followed, &self.bounds).collect();
        let gone: Vec<Subject> =
            self.cells.subjects().filter(|subject| !wanted.contains(subject)).cloned().collect();
        gone.iter().for_each(|subject| self.leave(subject));
        for subject in wanted {
            if !self.cells.contains(&subject) {
                self.join(subject);
            }
        }
    }

    fn join(&mut self, subject: Subject) {
        self.cells.want(&subject, self.layout.keys(&subject, &self.cells));
        self.dirty.insert(subject);
    }

    fn leave(&mut self, subject: &Subject) {
        self.cells.forget(subject);
        self.dirty.remove(subject);
        self.reported.remove(subject);
        match subject {
            Subject::Chain => {}
            Subject::Worker(worker) => drop(self.shown.workers.remove(worker)),
            Subject::Pool(pool) => drop(self.shown.pools.remove(pool)),
            Subject::Account(account) => drop(self.shown.accounts.remove(account)),
            Subject::Sender(sender) => drop(self.shown.senders.remove(sender)),
        }
    }

    /// Keys whose values must be read at [`Self::hash`].
    pub(super) fn unread(&self) -> Vec<Vec<u8>> {
        self.cells.unread()
    }

    /// Stores the values of [`State::unread`]; they may require further ones.
    pub(super) fn fill(&mut self, values: &Values) {
        let about = self.cells.fill(values);
        self.relink(about);
    }

    /// Applies the changes of consecutive blocks, the last of which is `block`. Returns whether the runtime
    /// changed, in which case everything must be read again.
    #[must_use]
    pub(super) fn apply(&mut self, block: u32, hash: Hash, changes: &[(Vec<u8>, Option<Vec<u8>>)]) -> bool {
        let mut about = HashSet::new();
        let mut runtime_changed = false;
        for (key, value) in changes {
            runtime_changed |= self.layout.is_of_runtime(key);
            about.extend(self.cells.set(key, value.as_deref()).iter().cloned());
        }
        (self.block, self.hash) = (block, hash);
        self.relink(about);
        runtime_changed
    }

    /// Handles changed values: other keys may be needed (a new session's), and readings are outdated.
    fn relink(&mut self, about: HashSet<Subject>) {
        for subject in about {
            self.cells.want(&subject, self.layout.keys(&subject, &self.cells));
            self.dirty.insert(subject);
        }
    }

    /// Builds the view of `followed` in its current state.
    pub(super) fn view(&mut self, followed: &Followed) -> ChainView {
        self.refresh();
        let (shown, bounds) = (&self.shown, &self.bounds);
        let mut view = ChainView::default();
        view.block = ParaNumber(self.block);
        view.hash = self.hash;
        view.time_ms = shown.chain.time_ms;
        view.cool_down_period_secs = shown.chain.cool_down_period_secs;
        view.benchmark_blocks = shown.chain.benchmark_blocks;
        view.max_pool_workers = shown.chain.max_pool_workers;
        view.withdrawal_grace_secs = shown.chain.withdrawal_grace_secs;
        view.stake_rules = shown.chain.stake_rules;
        view.unreadable.clone_from(&shown.chain.unreadable);
        view.workers = bounded(&followed.workers, &shown.workers, bounds.workers, "workers");
        view.pools = bounded(&followed.pools, &shown.pools, bounds.pools, "pools");
        view.accounts = bounded(&followed.accounts, &shown.accounts, bounds.accounts, "accounts");
        view.senders = bounded(&followed.senders, &shown.senders, bounds.senders, "senders of messages");
        view
    }

    fn refresh(&mut self) {
        for subject in std::mem::take(&mut self.dirty) {
            let complete = self.cells.is_complete(&subject);
            let (layout, cells, shown) = (&self.layout, &self.cells, &mut self.shown);
            let failed = match &subject {
                // Values of the previous block are better than defaults.
                Subject::Chain if complete => {
                    shown.chain = layout.chain(cells);
                    shown.chain.unreadable.first().cloned()
                }
                Subject::Chain => None,
                Subject::Worker(key) => {
                    show(&mut shown.workers, key, complete, || layout.worker(*key, cells))
                }
                Subject::Pool(pool) => show(&mut shown.pools, pool, complete, || layout.pool(*pool, cells)),
                Subject::Account(key) => {
                    show(&mut shown.accounts, key, complete, || layout.account(*key, cells))
                }
                Subject::Sender(sender) => {
                    show(&mut shown.senders, sender, complete, || layout.sender(sender, cells))
                }
            };
            if complete {
                self.report(&subject, failed);
            } else {
                self.dirty.insert(subject);
            }
        }
    }

    /// Logs once that a subject cannot be read, until it can be or the reason changes.
    fn report(&mut self, subject: &Subject, failed: Option<Unreadable>) {
        match failed {
            None => drop(self.reported.remove(subject)),
            Some(Unreadable { reason, .. }) => {
                if self.reported.get(subject) != Some(&reason) {
                    tracing::error!(%subject, %reason, "cannot read on-chain state");
                    metrics::counter!("prb_reader_unreadable_values_total").increment(1);
                    self.reported.insert(subject.clone(), reason);
                }
            }
        }
    }
}

/// Updates a subject's reading for views; returns why it cannot be read, if so.
fn show<K: Clone + Eq + std::hash::Hash, T>(
    readings: &mut HashMap<K, Reading<T>>,
    key: &K,
    complete: bool,
    read: impl FnOnce() -> Reading<T>,
) -> Option<Unreadable> {
    let reading = match complete {
        true => read(),
        // It has just been added and appears once it has been read.
        false if !readings.contains_key(key) => return None,
        // The previous reading is of an older block.
        false => Err(Unreadable::new("some of its values are not read yet")),
    };
    let failed = reading.as_ref().err().cloned();
    readings.insert(key.clone(), reading);
    failed
}

/// Readings of the first `limit` subjects; further ones show the limit as the reason.
fn bounded<'f, K: Clone + Eq + std::hash::Hash + 'f, T>(
    followed: impl IntoIterator<Item = &'f K>,
    readings: &HashMap<K, Reading<T>>,
    limit: usize,
    what: &str,
) -> HashMap<K, Reading<T>> {
    let beyond = Unreadable::new(format!("the reader follows at most {limit} {what}"));
    let reading = |(place, key): (usize, &K)| match place < limit {
        true => Some((key.clone(), readings.get(key)?.clone())),
        // Shown as unreadable rather than left out: an absent worker looks like one that was just added.
        false => Some((key.clone(), Err(beyond.clone()))),
    };
    followed.into_iter().enumerate().filter_map(reading).collect()
}

fn subjects<'f>(followed: &'f Followed, bounds: &Bounds) -> impl Iterator<Item = Subject> + 'f {
    let workers = followed.workers.iter().take(bounds.workers).map(|worker| Subject::Worker(*worker));
    let pools = followed.pools.iter().take(bounds.pools).map(|pool| Subject::Pool(*pool));
    let accounts = followed.accounts.iter().take(bounds.accounts).map(|account| Subject::Account(*account));
    let senders = followed.senders.iter().take(bounds.senders).map(|sender| Subject::Sender(sender.clone()));
    std::iter::once(Subject::Chain).chain(workers).chain(pools).chain(accounts).chain(senders)
}

#[cfg(test)]
mod tests;
