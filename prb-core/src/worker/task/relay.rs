//! [`Relay`]: the messages that a worker holds for the chain, each sender's in order and apart from others'.

use std::{collections::BTreeMap, sync::Arc};

use tokio::time::Instant;
use tracing::{debug, warn};

use super::failures::FailureTracker;
use crate::{
    chain::{ChainView, WorkerOnChain},
    inventory,
    primitives::{ParaNumber, WorkerKey},
    queue::{JobFailure, JobOutcome},
    sync::BackoffConfig,
    wire::{EgressMessages, MessageOrigin, SignedMessage},
    worker::{Failure, Keys, Reason, egress::Egress, keys::Claim},
};

/// Most senders whose messages one worker brings; more are left out.
const MAX_SENDERS: usize = 64;

/// Messages under way, by sender.
pub(super) struct Relay {
    backoff: BackoffConfig,
    senders: BTreeMap<MessageOrigin, Sender>,
    /// Asking the worker for its messages.
    asking: FailureTracker,
    tickets: u64,
}

struct Sender {
    egress: Egress,
    failures: FailureTracker,
    /// For senders that several workers speak for, such as gatekeepers: the right to bring their messages.
    claim: Option<Claim<MessageOrigin>>,
}

impl Relay {
    pub(super) fn new(backoff: BackoffConfig) -> Self {
        Self { backoff, senders: BTreeMap::new(), asking: FailureTracker::new(backoff), tickets: 0 }
    }

    /// Another worker's messages from now on: what is under way is not waited for.
    pub(super) fn reset(&mut self) {
        *self = Self { tickets: self.tickets, ..Self::new(self.backoff) };
    }

    /// Lets other workers bring the messages of senders that are not this worker alone.
    pub(super) fn lose_sight(&mut self) {
        for sender in self.senders.values_mut() {
            sender.claim = None;
        }
    }

    /// There may be new messages.
    pub(super) fn look_again(&mut self) {
        self.senders.values_mut().for_each(|sender| sender.egress.look_again());
    }

    pub(super) fn forget_failures(&mut self) {
        self.asking.reset();
        self.senders.values_mut().for_each(|sender| sender.failures.reset());
    }

    /// Whether asking the worker for messages can lead to a job.
    pub(super) fn is_open(&self, now: Instant, view: ParaNumber) -> bool {
        let due = |tracker: &FailureTracker| tracker.failure(now).is_none_or(|failure| failure.due);
        let open = |sender: &Sender| sender.egress.is_open(view) && due(&sender.failures);
        due(&self.asking) && (self.senders.is_empty() || self.senders.values().any(open))
    }

    /// What fails, the worker's own messages first. Each sender waits for itself: see [`Self::is_open`].
    pub(super) fn failure(&self, now: Instant) -> Option<Failure> {
        let senders = || self.senders.iter();
        let own = senders().filter(|(origin, _)| matches!(origin, MessageOrigin::Worker(_)));
        let others = senders().filter(|(origin, _)| !matches!(origin, MessageOrigin::Worker(_)));
        let mut failing = own.chain(others).filter_map(|(_, sender)| sender.failures.failure(now));
        let failure = self.asking.failure(now).or_else(|| failing.next())?;
        Some(Failure { due: true, ..failure })
    }

    pub(super) fn wakes_at(&self, now: Instant) -> Option<Instant> {
        let senders = self.senders.values().filter_map(|sender| sender.failures.wakes_at(now));
        senders.chain(self.asking.wakes_at(now)).min()
    }

    pub(super) fn asking_failed(&mut self, error: Arc<str>, worker: &str) {
        self.asking.fail(Reason::RelayFailing { error: Arc::clone(&error) });
        if self.asking.is_worth_a_warning() {
            warn!(%worker, %error, "a worker's messages cannot be read");
        }
    }

    /// Takes in what the worker holds; gives the messages to send, a run for each sender, with its ticket.
    pub(super) fn take_in(
        &mut self,
        messages: EgressMessages,
        key: WorkerKey,
        on_chain: &WorkerOnChain,
        view: &ChainView,
        (keys, worker): (&Arc<Keys>, &inventory::Worker),
    ) -> Vec<(MessageOrigin, u64, Vec<SignedMessage>)> {
        self.asking.reset();
        let own = MessageOrigin::Worker(key);
        let mut by_sender: BTreeMap<MessageOrigin, Vec<SignedMessage>> = BTreeMap::new();
        for (sender, messages) in messages {
            by_sender.entry(sender).or_default().extend(messages);
        }
        by_sender.entry(own.clone()).or_default();
        for sender in self.senders.keys() {
            by_sender.entry(sender.clone()).or_default();
        }
        let now = Instant::now();
        let mut runs = Vec::new();
        for (origin, messages) in by_sender {
            if !self.senders.contains_key(&origin) && self.senders.len() >= MAX_SENDERS {
                warn!(worker = %worker.name, %origin, limit = MAX_SENDERS, "too many senders: left out");
                continue;
            }
            let backoff = self.backoff;
            let sender = self.senders.entry(origin.clone()).or_insert_with(|| Sender::new(backoff));
            let next = if origin == own {
                Some(on_chain.ingress_sequence)
            } else {
                sender.claim(&origin, keys, worker);
                sender.claim.as_ref().and_then(|_| Some(**view.senders.get(&origin)?.as_ref().ok()?))
            };
            let due = sender.failures.failure(now).is_none_or(|failure| failure.due);
            let (Some(next), true) = (next, due && sender.egress.can_take(view.block)) else {
                sender.egress.nothing_now();
                continue;
            };
            let run = sender.egress.pick(next, view.block, messages);
            if let Some(last) = run.last() {
                self.tickets += 1;
                sender.egress.submitting(self.tickets, last.sequence + 1);
                runs.push((origin, self.tickets, run));
            }
        }
        runs
    }

    /// A job is in line.
    pub(super) fn submitted(&mut self, origin: &MessageOrigin) {
        if let Some(sender) = self.senders.get_mut(origin) {
            sender.egress.submitted();
        }
    }

    /// A job could not be added.
    pub(super) fn not_submitted(&mut self, origin: &MessageOrigin, ticket: u64, error: &str, worker: &str) {
        if let Some(sender) = self.senders.get_mut(origin) {
            sender.egress.not_submitted(ticket);
            sender.failed(origin, error, worker);
        }
    }

    /// A job has ended.
    pub(super) fn ended(
        &mut self,
        origin: &MessageOrigin,
        ticket: u64,
        result: &Result<JobOutcome, JobFailure>,
        (view, worker): (ParaNumber, &str),
    ) {
        let Some(sender) = self.senders.get_mut(origin) else { return };
        match sender.egress.ended(ticket, result, view) {
            None => sender.failures.reset(),
            Some(error) => sender.failed(origin, &error, worker),
        }
    }
}

impl Sender {
    fn new(backoff: BackoffConfig) -> Self {
        Self { egress: Egress::default(), failures: FailureTracker::new(backoff), claim: None }
    }

    fn claim(&mut self, origin: &MessageOrigin, keys: &Arc<Keys>, worker: &inventory::Worker) {
        if self.claim.is_none() {
            match keys.claim_sender(origin.clone(), worker.id, &worker.name) {
                Ok(claim) => self.claim = Some(claim),
                Err(holder) => {
                    debug!(worker = %worker.name, %origin, %holder, "another worker brings these messages");
                }
            }
        }
    }

    fn failed(&mut self, origin: &MessageOrigin, error: &str, worker: &str) {
        self.failures.fail(Reason::RelayFailing { error: error.into() });
        if self.failures.is_worth_a_warning() {
            warn!(%worker, %origin, %error, "messages were not sent");
        }
    }
}
