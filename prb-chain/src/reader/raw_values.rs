//! The reader's raw storage values, and the subjects that need them.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    sync::Arc,
};

use prb_core::{
    primitives::{AccountId, PoolId, WorkerKey},
    wire::MessageOrigin,
};

use super::storage::Values;

/// A subject, which a view shows as a unit.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) enum Subject {
    /// The chain's own values: its clock and parameters.
    Chain,
    Worker(WorkerKey),
    Pool(PoolId),
    Account(AccountId),
    Sender(MessageOrigin),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Chain => f.write_str("the chain's own values"),
            Self::Worker(key) => write!(f, "worker {key}"),
            Self::Pool(pid) => write!(f, "pool {pid}"),
            Self::Account(account) => write!(f, "account {account}"),
            Self::Sender(origin) => write!(f, "messages of {origin}"),
        }
    }
}

/// Values by storage key.
#[derive(Debug, Default)]
pub(super) struct Cells {
    cells: HashMap<Arc<[u8]>, Cell>,
    keys: HashMap<Subject, Vec<Arc<[u8]>>>,
    /// Keys whose values are not known yet.
    unread: HashSet<Arc<[u8]>>,
}

#[derive(Debug, Default)]
struct Cell {
    value: Option<Vec<u8>>,
    /// A value may have several users: a pool and a worker share the stake of a worker in cool-down.
    users: Vec<Subject>,
}

impl Cells {
    /// Whether the subject has keys here.
    pub(super) fn contains(&self, subject: &Subject) -> bool {
        self.keys.contains_key(subject)
    }

    /// Subjects that have keys here.
    pub(super) fn subjects(&self) -> impl Iterator<Item = &Subject> {
        self.keys.keys()
    }

    /// The value of a key; `None` also if it is unknown.
    pub(super) fn value(&self, key: &[u8]) -> Option<&[u8]> {
        self.cells.get(key)?.value.as_deref()
    }

    /// Replaces the keys that a subject needs.
    pub(super) fn want(&mut self, subject: &Subject, keys: Vec<Vec<u8>>) {
        let old = self.keys.get(subject);
        if old.is_some_and(|old| old.iter().map(|key| &**key).eq(keys.iter().map(Vec::as_slice))) {
            return;
        }
        // New keys are claimed before old ones are released, so that kept values are not read again.
        let keys: Vec<Arc<[u8]>> = keys.into_iter().map(|key| self.claim(subject, key)).collect();
        if let Some(old) = self.keys.insert(subject.clone(), keys.clone()) {
            let kept: HashSet<_> = keys.into_iter().collect();
            old.iter().filter(|key| !kept.contains(*key)).for_each(|key| self.release(subject, key));
        }
    }

    /// Removes a subject and the values that only it needs.
    pub(super) fn forget(&mut self, subject: &Subject) {
        for key in self.keys.remove(subject).unwrap_or_default() {
            self.release(subject, &key);
        }
    }

    /// Keys to read next, in a stable order.
    pub(super) fn unread(&self) -> Vec<Vec<u8>> {
        let mut keys: Vec<_> = self.unread.iter().map(|key| key.to_vec()).collect();
        keys.sort_unstable();
        keys
    }

    /// Whether all values of a subject are known.
    pub(super) fn is_complete(&self, subject: &Subject) -> bool {
        self.unread.is_empty()
            || self.keys.get(subject).is_some_and(|keys| keys.iter().all(|key| !self.unread.contains(key)))
    }

    /// Stores values that were read; returns the affected subjects.
    pub(super) fn fill(&mut self, values: &Values) -> HashSet<Subject> {
        let mut about = HashSet::new();
        for (key, value) in values {
            about.extend(self.set(key, value.as_deref()).iter().cloned());
        }
        about
    }

    /// Stores a value; returns the subjects that use it, if any.
    pub(super) fn set(&mut self, key: &[u8], value: Option<&[u8]>) -> &[Subject] {
        let Some(cell) = self.cells.get_mut(key) else { return &[] };
        self.unread.remove(key);
        cell.value = value.map(<[u8]>::to_vec);
        &cell.users
    }

    fn claim(&mut self, subject: &Subject, key: Vec<u8>) -> Arc<[u8]> {
        if let Some((key, _)) = self.cells.get_key_value(key.as_slice()) {
            let key = Arc::clone(key);
            if let Some(cell) = self.cells.get_mut(&key)
                && !cell.users.contains(subject)
            {
                cell.users.push(subject.clone());
            }
            return key;
        }
        let key: Arc<[u8]> = key.into();
        self.unread.insert(Arc::clone(&key));
        self.cells.insert(Arc::clone(&key), Cell { value: None, users: vec![subject.clone()] });
        key
    }

    fn release(&mut self, subject: &Subject, key: &Arc<[u8]>) {
        let Some(cell) = self.cells.get_mut(key) else { return };
        cell.users.retain(|user| user != subject);
        if cell.users.is_empty() {
            self.cells.remove(key);
            self.unread.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: Subject = Subject::Pool(PoolId(1));
    const TWO: Subject = Subject::Pool(PoolId(2));

    fn keys(names: &[&str]) -> Vec<Vec<u8>> {
        names.iter().map(|name| name.as_bytes().to_vec()).collect()
    }

    #[test]
    fn shared_value_stays_while_a_subject_needs_it() {
        let mut cells = Cells::default();
        cells.want(&ONE, keys(&["a", "shared"]));
        cells.want(&TWO, keys(&["b", "shared"]));
        assert_eq!(cells.unread(), keys(&["a", "b", "shared"]));
        assert_eq!(cells.set(b"shared", Some(b"x")), [ONE, TWO]);
        assert!(cells.set(b"nobody's", Some(b"x")).is_empty());
        assert!(!cells.is_complete(&ONE));
        cells.forget(&ONE);
        assert_eq!((cells.unread(), cells.value(b"shared")), (keys(&["b"]), Some(&b"x"[..])));
        // Another key instead of `b`; the kept value is not read again.
        cells.want(&TWO, keys(&["c", "shared"]));
        assert_eq!((cells.unread(), cells.value(b"shared")), (keys(&["c"]), Some(&b"x"[..])));
        cells.set(b"c", None);
        assert!(cells.is_complete(&TWO));
        cells.forget(&TWO);
        assert!(cells.cells.is_empty() && cells.keys.is_empty() && cells.unread.is_empty());
    }
}
