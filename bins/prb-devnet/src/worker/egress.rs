//! A worker's messages on their way to the chain.

use std::{collections::VecDeque, sync::Arc};

use codec::Encode;
use prb_core::wire::{Message, MessageOrigin, SignedMessage};
use sp_core::{Pair, sr25519};

/// Messages that may wait. A worker whose messages nobody carries for so long makes no new ones.
const MAX_PENDING: usize = 16_384;

/// Signed messages that the chain has not taken yet, as far as the worker has seen.
///
/// Sequence numbers follow from the dispatched blocks alone: a worker that lost its state comes to the same
/// ones again.
#[derive(Clone, Debug)]
pub(crate) struct Egress {
    sender: MessageOrigin,
    next_sequence: u64,
    pending: VecDeque<Arc<SignedMessage>>,
}

impl Egress {
    pub(crate) fn new(sender: MessageOrigin) -> Self {
        Self { sender, next_sequence: 0, pending: VecDeque::new() }
    }

    pub(crate) fn sender(&self) -> &MessageOrigin {
        &self.sender
    }

    pub(crate) fn len(&self) -> usize {
        self.pending.len()
    }

    pub(crate) fn push(&mut self, pair: &sr25519::Pair, destination: &[u8], payload: &impl Encode) {
        if self.pending.len() >= MAX_PENDING {
            tracing::warn!(pending = MAX_PENDING, "egress queue is full, message not made");
            return;
        }
        let (destination, payload) = (destination.to_vec(), payload.encode());
        let message = Message { sender: self.sender.clone(), destination, payload };
        let sequence = self.next_sequence;
        let signature = pair.sign(&(&message, sequence).encode()).0.to_vec();
        self.next_sequence += 1;
        self.pending.push_back(Arc::new(SignedMessage { message, sequence, signature }));
    }

    /// Drops what the chain has taken: everything below its next sequence.
    pub(crate) fn purge(&mut self, next_wanted: u64) {
        while self.pending.front().is_some_and(|message| message.sequence < next_wanted) {
            self.pending.pop_front();
        }
    }

    /// SCALE of the messages by sender, as `GetEgressMessages` answers.
    pub(crate) fn encode(&self) -> Vec<u8> {
        if self.pending.is_empty() {
            return Vec::<(MessageOrigin, Vec<SignedMessage>)>::new().encode();
        }
        let messages: Vec<&SignedMessage> = self.pending.iter().map(|message| &**message).collect();
        vec![(&self.sender, messages)].encode()
    }
}
