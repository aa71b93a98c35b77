//! What a scripted worker knows, and what it loses.

use tokio::time::Instant;

use crate::{
    primitives::{AccountId, WorkerKey},
    prpc,
    wire::{self, AttestationProvider, EgressMessages, MessageOrigin, SignedMessage},
};

/// What a worker knows.
#[derive(Clone, Debug)]
pub struct WorkerState {
    /// What `GetInfo` answers.
    pub info: prpc::PhactoryInfo,
    /// Its operator, as `InitRuntime` or `GetRuntimeInfo` set it.
    pub operator: Option<AccountId>,
    /// Messages waiting for the chain, of every sender that the worker speaks as.
    pub egress: Vec<SignedMessage>,
    /// The parachain's id.
    pub para_id: u32,
    /// A relay header that no parachain header has followed yet.
    pub(super) relay_synced: bool,
    /// The block after the one whose state the worker started from: it attests once it has dispatched it.
    pub(super) first_block: u32,
    pub(super) provider: Option<AttestationProvider>,
    /// When the attestation is, or was, finished.
    pub(super) attested_at: Option<Instant>,
}

impl WorkerState {
    pub(super) fn new() -> Self {
        let info = prpc::PhactoryInfo {
            version: "2.0.0".into(),
            dev_mode: true,
            can_load_chain_state: true,
            ..Default::default()
        };
        Self {
            info,
            operator: None,
            egress: Vec::new(),
            para_id: 2004,
            relay_synced: false,
            first_block: 1,
            provider: None,
            attested_at: None,
        }
    }

    /// The same machine and program with an empty disk.
    pub(super) fn emptied(&self) -> Self {
        let mut empty = Self::new();
        empty.info.version.clone_from(&self.info.version);
        empty.info.supported_attestation_methods.clone_from(&self.info.supported_attestation_methods);
        empty
    }

    /// Puts a message of the worker itself in the egress queue.
    pub fn push_message(&mut self, key: WorkerKey, sequence: u64, payload: &[u8]) {
        self.push_message_of(MessageOrigin::Worker(key), sequence, payload);
    }

    /// Puts a message of any sender in the egress queue: a worker may speak as gatekeeper, cluster or contract.
    pub fn push_message_of(&mut self, sender: MessageOrigin, sequence: u64, payload: &[u8]) {
        let destination = b"phala/mining/report".to_vec();
        let message = wire::Message { sender, destination, payload: payload.to_vec() };
        self.egress.push(SignedMessage { message, sequence, signature: vec![0; 64] });
        self.info.pending_messages = self.egress.len() as u64;
    }

    /// Forgets messages of workers below `sequence`, as a worker does when it sees the chain's ingress counter.
    pub fn drop_messages_below(&mut self, sequence: u64) {
        self.drop_messages(|sender| matches!(sender, MessageOrigin::Worker(_)), sequence);
    }

    /// Forgets messages of `sender` below `sequence`.
    pub fn drop_messages_of(&mut self, sender: &MessageOrigin, sequence: u64) {
        self.drop_messages(|other| other == sender, sequence);
    }

    fn drop_messages(&mut self, concerned: impl Fn(&MessageOrigin) -> bool, sequence: u64) {
        self.egress.retain(|m| m.sequence >= sequence || !concerned(&m.message.sender));
        self.info.pending_messages = self.egress.len() as u64;
    }

    /// The messages by sender, in the order in which the senders first spoke.
    pub(super) fn egress(&self) -> EgressMessages {
        let mut groups = EgressMessages::new();
        for message in &self.egress {
            match groups.iter_mut().find(|(sender, _)| *sender == message.message.sender) {
                Some((_, group)) => group.push(message.clone()),
                None => groups.push((message.message.sender.clone(), vec![message.clone()])),
            }
        }
        groups
    }
}
