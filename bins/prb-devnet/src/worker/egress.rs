//! A worker's egress queue.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use codec::Encode;
use prb_core::wire::{Message, MessageOrigin, SignedMessage};
use sp_core::{Pair, sr25519};

/// Maximum number of queued messages of one sender; beyond that no new ones are made.
const MAX_PENDING: usize = 16_384;
/// Maximum number of senders of a worker.
const MAX_SENDERS: usize = 64;

/// Signed messages that the chain has not accepted yet, as far as the worker has seen, by sender.
///
/// The worker's own sequence numbers follow from the dispatched blocks only: after a loss of state it
/// computes the same ones again. Those of other senders continue from the chain's counter.
#[derive(Clone, Debug)]
pub(crate) struct Egress {
    own: MessageOrigin,
    queues: BTreeMap<MessageOrigin, Queue>,
}

#[derive(Clone, Debug, Default)]
struct Queue {
    next_sequence: u64,
    pending: VecDeque<Arc<SignedMessage>>,
}

impl Egress {
    /// Creates a queue of the worker's own messages.
    pub(crate) fn new(own: MessageOrigin) -> Self {
        Self { queues: BTreeMap::from([(own.clone(), Queue::default())]), own }
    }

    pub(crate) fn senders(&self) -> Vec<MessageOrigin> {
        self.queues.iter().filter(|(_, queue)| !queue.pending.is_empty()).map(|(s, _)| s.clone()).collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.queues.values().map(|queue| queue.pending.len()).sum()
    }

    /// Queues a message of the worker itself.
    pub(crate) fn push(&mut self, pair: &sr25519::Pair, destination: &[u8], payload: &impl Encode) {
        self.push_as(&self.own.clone(), 0, pair, destination, payload.encode());
    }

    /// Queues a message of any sender, at `first` or after its earlier ones.
    pub(crate) fn push_as(
        &mut self,
        sender: &MessageOrigin,
        first: u64,
        pair: &sr25519::Pair,
        destination: &[u8],
        payload: Vec<u8>,
    ) {
        if !self.queues.contains_key(sender) && self.queues.len() >= MAX_SENDERS {
            tracing::warn!(senders = MAX_SENDERS, "too many senders, message dropped");
            return;
        }
        let queue = self.queues.entry(sender.clone()).or_default();
        if queue.pending.len() >= MAX_PENDING {
            tracing::warn!(pending = MAX_PENDING, "egress queue is full, message dropped");
            return;
        }
        let message = Message { sender: sender.clone(), destination: destination.to_vec(), payload };
        // The chain's counter may be ahead after a restart without state, and behind while messages wait.
        let sequence = queue.next_sequence.max(first);
        let signature = pair.sign(&(&message, sequence).encode()).0.to_vec();
        queue.next_sequence = sequence + 1;
        queue.pending.push_back(Arc::new(SignedMessage { message, sequence, signature }));
    }

    /// Drops a sender's messages that the chain has accepted: those below its next sequence.
    pub(crate) fn purge(&mut self, sender: &MessageOrigin, next_wanted: u64) {
        // The queue stays even if it becomes empty: its next sequence must not be computed again.
        let Some(queue) = self.queues.get_mut(sender) else { return };
        while queue.pending.front().is_some_and(|message| message.sequence < next_wanted) {
            queue.pending.pop_front();
        }
    }

    /// Takes over `other`'s messages of senders besides the worker.
    pub(crate) fn adopt_others(&mut self, other: Self) {
        self.queues.extend(other.queues.into_iter().filter(|(sender, _)| *sender != other.own));
    }

    /// Encodes the messages by sender, for `GetEgressMessages`.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let waiting = self.queues.iter().filter(|(_, queue)| !queue.pending.is_empty());
        let messages: Vec<(&MessageOrigin, Vec<&SignedMessage>)> =
            waiting.map(|(sender, queue)| (sender, queue.pending.iter().map(|m| &**m).collect())).collect();
        messages.encode()
    }
}
