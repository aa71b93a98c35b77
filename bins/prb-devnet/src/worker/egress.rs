//! A worker's messages on their way to the chain.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use codec::Encode;
use prb_core::wire::{Message, MessageOrigin, SignedMessage};
use sp_core::{Pair, sr25519};

/// Messages of one sender that may wait. A worker whose messages nobody carries for so long makes no new ones.
const MAX_PENDING: usize = 16_384;
/// Senders that a worker may speak as.
const MAX_SENDERS: usize = 64;

/// Signed messages that the chain has not taken yet, as far as the worker has seen, by sender.
///
/// The worker's own sequence numbers follow from the dispatched blocks alone: a worker that lost its state comes
/// to the same ones again. Those of other senders go on from the chain's counter.
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
    /// Speaks as `own`, and as nobody else yet.
    pub(crate) fn new(own: MessageOrigin) -> Self {
        Self { queues: BTreeMap::from([(own.clone(), Queue::default())]), own }
    }

    pub(crate) fn senders(&self) -> Vec<MessageOrigin> {
        self.queues.iter().filter(|(_, queue)| !queue.pending.is_empty()).map(|(s, _)| s.clone()).collect()
    }

    pub(crate) fn len(&self) -> usize {
        self.queues.values().map(|queue| queue.pending.len()).sum()
    }

    /// Puts a message of the worker itself in line.
    pub(crate) fn push(&mut self, pair: &sr25519::Pair, destination: &[u8], payload: &impl Encode) {
        self.push_as(&self.own.clone(), 0, pair, destination, payload.encode());
    }

    /// Puts a message of any sender in line, at `first` or after those of it that were made before.
    pub(crate) fn push_as(
        &mut self,
        sender: &MessageOrigin,
        first: u64,
        pair: &sr25519::Pair,
        destination: &[u8],
        payload: Vec<u8>,
    ) {
        if !self.queues.contains_key(sender) && self.queues.len() >= MAX_SENDERS {
            tracing::warn!(senders = MAX_SENDERS, "too many senders, message not made");
            return;
        }
        let queue = self.queues.entry(sender.clone()).or_default();
        if queue.pending.len() >= MAX_PENDING {
            tracing::warn!(pending = MAX_PENDING, "egress queue is full, message not made");
            return;
        }
        let message = Message { sender: sender.clone(), destination: destination.to_vec(), payload };
        let sequence = queue.next_sequence.max(first);
        let signature = pair.sign(&(&message, sequence).encode()).0.to_vec();
        queue.next_sequence = sequence + 1;
        queue.pending.push_back(Arc::new(SignedMessage { message, sequence, signature }));
    }

    /// Drops what the chain has taken of a sender: everything below its next sequence.
    pub(crate) fn purge(&mut self, sender: &MessageOrigin, next_wanted: u64) {
        let Some(queue) = self.queues.get_mut(sender) else { return };
        while queue.pending.front().is_some_and(|message| message.sequence < next_wanted) {
            queue.pending.pop_front();
        }
    }

    /// Takes over what `other` holds of senders besides the worker.
    pub(crate) fn adopt_others(&mut self, other: Self) {
        self.queues.extend(other.queues.into_iter().filter(|(sender, _)| *sender != other.own));
    }

    /// SCALE of the messages by sender, as `GetEgressMessages` answers.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let waiting = self.queues.iter().filter(|(_, queue)| !queue.pending.is_empty());
        let messages: Vec<(&MessageOrigin, Vec<&SignedMessage>)> =
            waiting.map(|(sender, queue)| (sender, queue.pending.iter().map(|m| &**m).collect())).collect();
        messages.encode()
    }
}
