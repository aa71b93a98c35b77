//! Tracks the next message sequence that the chain accepts from each sender, based on the lane's transactions.

use std::collections::HashMap;

use super::recently_sent::sender;
use crate::{chain::Call, wire::SignedMessage};

/// Maximum number of senders tracked. Beyond it all are dropped, and read from the chain again.
const MAX_SENDERS: usize = 32_768;

/// By sender, the next sequence that the chain accepts.
#[derive(Debug, Default)]
pub(super) struct Sequences(HashMap<u64, u64>);

impl Sequences {
    /// Whether each message among `calls` is the next one that the chain accepts, or follows one of these. If
    /// not, or if that is unknown, the calls' effects must be read before they are sent.
    pub(super) fn follow_on<'a>(&self, calls: impl IntoIterator<Item = &'a Call>) -> bool {
        let mut after_batch = HashMap::new();
        calls.into_iter().filter_map(message).all(|(call, signed)| {
            let sender = sender(call);
            let Some(next) = after_batch.get(&sender).or_else(|| self.0.get(&sender)) else { return false };
            let follows = signed.sequence == *next;
            // The batch itself advances the sequence: its later messages follow its earlier ones.
            after_batch.insert(sender, signed.sequence.saturating_add(1));
            follows
        })
    }

    /// Records a call that is on chain.
    pub(super) fn accepted(&mut self, call: &Call) {
        let Some((call, signed)) = message(call) else { return };
        let sender = sender(call);
        if self.0.len() >= MAX_SENDERS && !self.0.contains_key(&sender) {
            self.0.clear();
        }
        let next = self.0.entry(sender).or_default();
        // Results may be recorded in any order within a batch: the counter never goes back.
        *next = signed.sequence.saturating_add(1).max(*next);
    }

    /// Discards what is known of the sender of a call whose outcome is unknown.
    pub(super) fn forget(&mut self, call: &Call) {
        self.0.remove(&sender(call));
    }
}

fn message(call: &Call) -> Option<(&Call, &SignedMessage)> {
    match call {
        Call::SyncOffchainMessage(signed) => Some((call, signed)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        primitives::{PoolId, WorkerKey},
        wire::{Message, MessageOrigin},
    };

    fn message(worker: u32, sequence: u64) -> Call {
        let mut key = [0; 32];
        key[..4].copy_from_slice(&worker.to_le_bytes());
        let sender = MessageOrigin::Worker(WorkerKey(key));
        let message = Message { sender, destination: vec![], payload: vec![] };
        Call::SyncOffchainMessage(SignedMessage { message, sequence, signature: vec![0; 64] })
    }

    #[test]
    fn only_an_unbroken_sequence_follows_on() {
        let mut known = Sequences::default();
        assert!(!known.follow_on(&[message(1, 0)]), "nothing is known of the sender");
        known.accepted(&message(1, 4));
        known.accepted(&message(1, 3));
        let table: [(&[u64], bool); 6] = [
            (&[5], true),
            (&[5, 6, 7], true),
            (&[6], false),
            (&[4], false),
            (&[5, 7], false),
            (&[5, 5], false),
        ];
        for (sequences, follows) in table {
            let calls: Vec<_> = sequences.iter().map(|n| message(1, *n)).collect();
            assert_eq!(known.follow_on(&calls), follows, "{sequences:?}");
        }
        let other = Call::AddWorker { pool: PoolId(1), worker: WorkerKey([1; 32]) };
        assert!(known.follow_on(&[other, message(1, 5)]), "other calls have no sequence");
        known.forget(&message(1, 5));
        assert!(!known.follow_on(&[message(1, 5)]));
    }

    #[test]
    fn the_number_of_senders_is_bounded() {
        let mut known = Sequences::default();
        let most = u32::try_from(MAX_SENDERS).unwrap_or_default();
        for worker in 0..=most {
            known.accepted(&message(worker, 0));
            assert!(known.0.len() <= MAX_SENDERS && known.follow_on(&[message(worker, 1)]));
        }
        assert!(!known.follow_on(&[message(0, 1)]));
    }
}
