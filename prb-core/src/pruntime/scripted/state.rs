//! The state of a scripted worker.

use tokio::time::Instant;

use crate::{
    primitives::{AccountId, WorkerKey},
    prpc,
    wire::{self, AttestationProvider, EgressMessages, MessageOrigin, SignedMessage},
};

/// The state of a worker.
#[derive(Clone, Debug)]
pub struct WorkerState {
    /// The answer of `GetInfo`.
    pub info: prpc::PhactoryInfo,
    /// Its operator, as set by `InitRuntime` or `GetRuntimeInfo`.
    pub operator: Option<AccountId>,
    /// Messages for the chain, of every sender that the worker sends for.
    pub egress: Vec<SignedMessage>,
    /// The parachain's id.
    pub para_id: u32,
    /// Whether a relay header was accepted that no parachain header has followed yet.
    pub(super) relay_synced: bool,
    /// The block after the one whose state the worker started from: it attests once it has dispatched that
    /// block.
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

    /// The state of the same machine and program with an empty disk.
    pub(super) fn wiped(&self) -> Self {
        let mut empty = Self::new();
        empty.info.version.clone_from(&self.info.version);
        empty.info.supported_attestation_methods.clone_from(&self.info.supported_attestation_methods);
        empty
    }

    /// Adds a message of the worker itself to the egress queue; it is signed when it is fetched.
    pub fn push_message(&mut self, key: WorkerKey, sequence: u64, payload: &[u8]) {
        self.push_message_of(MessageOrigin::Worker(key), sequence, payload);
    }

    /// Adds a message of any sender to the egress queue: a worker may send for gatekeepers, a cluster or a
    /// contract.
    pub fn push_message_of(&mut self, sender: MessageOrigin, sequence: u64, payload: &[u8]) {
        let destination = b"phala/mining/report".to_vec();
        let message = wire::Message { sender, destination, payload: payload.to_vec() };
        self.egress.push(SignedMessage { message, sequence, signature: vec![0; 64] });
        self.info.pending_messages = self.egress.len() as u64;
    }

    /// Drops messages of workers below `sequence`, like a worker that sees the chain's ingress counter.
    pub fn drop_messages_below(&mut self, sequence: u64) {
        self.drop_messages(|sender| matches!(sender, MessageOrigin::Worker(_)), sequence);
    }

    /// Drops messages of `sender` below `sequence`.
    pub fn drop_messages_of(&mut self, sender: &MessageOrigin, sequence: u64) {
        self.drop_messages(|other| other == sender, sequence);
    }

    fn drop_messages(&mut self, matches: impl Fn(&MessageOrigin) -> bool, sequence: u64) {
        self.egress.retain(|m| m.sequence >= sequence || !matches(&m.message.sender));
        self.info.pending_messages = self.egress.len() as u64;
    }

    /// The messages by sender, in the order of the senders' first messages.
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
