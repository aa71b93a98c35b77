//! [`SeenKeys`]: the keys that answered last at a worker's endpoint, and when they changed.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::primitives::{Hash, ParaNumber, WorkerKey};

/// The keys that answered last at a worker's endpoint, whether or not an operator has confirmed them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct SeenKeys {
    /// The worker's public key.
    pub key: WorkerKey,
    /// Its ECDH key, which is registered with it, if pRuntime reports one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ecdh: Option<Hash>,
    /// The last change of either key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changed: Option<KeyChange>,
}

/// A change of a worker's keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyChange {
    /// When it was seen, in ms since the Unix epoch.
    pub at_ms: u64,
    /// The newest parachain block known at that time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block: Option<ParaNumber>,
}

impl KeyChange {
    /// When it was seen.
    pub fn at(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH
            .checked_add(Duration::from_millis(self.at_ms))
            .unwrap_or(SystemTime::UNIX_EPOCH)
    }
}

impl SeenKeys {
    /// The record after these keys answered. `before` is the record so far, `known` the key that the worker was
    /// known by before there was a record, and `change` is recorded if a key differs.
    pub(crate) fn after(
        before: Option<Self>,
        known: Option<WorkerKey>,
        (key, ecdh): (WorkerKey, Option<Hash>),
        change: KeyChange,
    ) -> Self {
        let Some(before) = before else {
            let changed = known.filter(|known| *known != key).map(|_| change);
            return Self { key, ecdh, changed };
        };
        if before.key != key {
            return Self { key, ecdh, changed: Some(change) };
        }
        // A pRuntime that reports no ECDH key has not changed it.
        let differs = before.ecdh.zip(ecdh).is_some_and(|(before, now)| before != now);
        let changed = if differs { Some(change) } else { before.changed };
        Self { key, ecdh: ecdh.or(before.ecdh), changed }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: WorkerKey = WorkerKey([1; 32]);
    const B: WorkerKey = WorkerKey([2; 32]);
    const X: Hash = Hash([3; 32]);
    const Y: Hash = Hash([4; 32]);

    fn at(at_ms: u64) -> KeyChange {
        KeyChange { at_ms, block: Some(ParaNumber(7)) }
    }

    fn seen(key: WorkerKey, ecdh: Option<Hash>, changed: Option<u64>) -> SeenKeys {
        SeenKeys { key, ecdh, changed: changed.map(at) }
    }

    #[test]
    fn a_change_is_recorded_when_a_known_key_differs() {
        // The record before, the known key, what answers, the record after.
        let table = [
            (None, None, (A, None), seen(A, None, None)),
            (None, Some(A), (A, Some(X)), seen(A, Some(X), None)),
            (None, Some(A), (B, None), seen(B, None, Some(9))),
            (Some(seen(A, None, Some(5))), None, (A, Some(X)), seen(A, Some(X), Some(5))),
            (Some(seen(A, Some(X), Some(5))), None, (A, None), seen(A, Some(X), Some(5))),
            (Some(seen(A, Some(X), None)), None, (A, Some(Y)), seen(A, Some(Y), Some(9))),
            (Some(seen(A, Some(X), Some(5))), Some(A), (B, Some(X)), seen(B, Some(X), Some(9))),
            // Back to the key that is known: another change.
            (Some(seen(B, None, Some(5))), Some(A), (A, None), seen(A, None, Some(9))),
            // Another key answers, and is not confirmed: one change, not one a call.
            (Some(seen(B, None, Some(5))), Some(A), (B, None), seen(B, None, Some(5))),
        ];
        for (before, known, now, expected) in table {
            assert_eq!(SeenKeys::after(before, known, now, at(9)), expected, "{before:?} {now:?}");
        }
    }
}
