//! [`Relay`]: relays the messages that a worker holds for the chain, each sender's in order and
//! independently.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::time::Instant;
use tracing::{debug, warn};

use super::{failures::FailureTracker, on_chain::RETRY_REFUSED_AFTER};
use crate::{
    chain::{ChainView, ErrorClass, WorkerOnChain, known_error},
    inventory,
    primitives::{ParaNumber, WorkerKey},
    queue::{JobFailure, JobOutcome},
    sync::BackoffConfig,
    wire::{EgressMessages, MessageOrigin, SignedMessage, messages_by_sender},
    worker::{Failure, Keys, Reason, egress::Egress, key_registry::Claim},
};

/// Maximum number of senders per worker; messages of further ones are not relayed.
const MAX_SENDERS: usize = 64;
/// Consecutive refusals after which a worker's messages of other senders, such as gatekeepers, are no longer relayed
/// for [`RETRY_REFUSED_AFTER`]. Only the chain can check their signatures, for a fee.
const REFUSALS: u32 = 3;
/// How long a worker keeps its claim on the messages of such a sender while it gets none of them to the chain. In the
/// meantime no other worker relays them.
const CLAIM_IDLE: Duration = Duration::from_secs(120);
/// How long a worker leaves them to others if its last claim was of no use: the message in turn is not among those that it
/// holds, or its jobs fail.
const CLAIM_PAUSE: Duration = Duration::from_secs(600);

/// Messages in flight, by sender.
pub(super) struct Relay {
    backoff: BackoffConfig,
    senders: BTreeMap<MessageOrigin, Sender>,
    /// Failures to fetch the worker's messages.
    fetching: FailureTracker,
    tickets: u64,
}

struct Sender {
    egress: Egress,
    failures: FailureTracker,
    /// For senders that several workers relay for, such as gatekeepers: the exclusive right to relay their
    /// messages.
    claim: Option<SenderClaim>,
    /// Until when this worker's messages of such a sender are not relayed: the chain has refused them, or its last claim
    /// was of no use.
    paused_until: Option<Instant>,
}

struct SenderClaim {
    _claim: Claim<MessageOrigin>,
    /// The block of the view when it was made: an older view may not contain what the holder before has relayed.
    made_at: ParaNumber,
    /// When it was made, waited for the chain's counter, or got messages to the chain.
    used_at: Instant,
    /// Whether its last job got messages to the chain.
    useful: bool,
}

impl Relay {
    pub(super) fn new(backoff: BackoffConfig) -> Self {
        Self { backoff, senders: BTreeMap::new(), fetching: FailureTracker::new(backoff), tickets: 0 }
    }

    /// Discards all state: the messages are another worker's from now on. Jobs in flight are not awaited.
    pub(super) fn reset(&mut self) {
        // Tickets are not reused: a job of the former worker that still ends must not match a later run.
        *self = Self { tickets: self.tickets, ..Self::new(self.backoff) };
    }

    /// Releases the claims on shared senders, so that other workers can relay for them.
    pub(super) fn release_claims(&mut self) {
        for sender in self.senders.values_mut() {
            sender.claim = None;
        }
    }

    /// Releases the claims that are of no use, once the chain's counter at block `view` contains what was relayed by them.
    pub(super) fn release_unused_claims(&mut self, now: Instant, view: ParaNumber) {
        for sender in self.senders.values_mut().filter(|sender| sender.egress.is_settled(view)) {
            sender.release_unused_claim(now);
        }
    }

    /// Notes that there may be new messages.
    pub(super) fn request_fetch(&mut self) {
        self.senders.values_mut().for_each(|sender| sender.egress.request_fetch());
    }

    /// Forgets failures: the worker has no messages left, so whatever failed has reached the chain, or an operator wants
    /// another try.
    pub(super) fn forget_failures(&mut self) {
        self.fetching.reset();
        self.senders.values_mut().for_each(|sender| sender.failures.reset());
    }

    /// Whether fetching messages from the worker can lead to a job.
    pub(super) fn wants_messages(&self, now: Instant, view: ParaNumber) -> bool {
        let due = |tracker: &FailureTracker| tracker.failure(now).is_none_or(|failure| failure.due);
        let open = |sender: &Sender| sender.egress.wants_messages(view) && due(&sender.failures);
        due(&self.fetching) && (self.senders.is_empty() || self.senders.values().any(open))
    }

    /// The current failure, of the worker's own messages first. Marked as due because each sender has its own
    /// backoff: see [`Self::wants_messages`].
    pub(super) fn failure(&self, now: Instant) -> Option<Failure> {
        let senders = || self.senders.iter();
        let own = senders().filter(|(origin, _)| matches!(origin, MessageOrigin::Worker(_)));
        let others = senders().filter(|(origin, _)| !matches!(origin, MessageOrigin::Worker(_)));
        let mut failing = own.chain(others).filter_map(|(_, sender)| sender.failures.failure(now));
        let failure = self.fetching.failure(now).or_else(|| failing.next())?;
        Some(Failure { due: true, ..failure })
    }

    pub(super) fn wakes_at(&self, now: Instant) -> Option<Instant> {
        let senders = self.senders.values().filter_map(|sender| sender.failures.wakes_at(now));
        senders.chain(self.fetching.wakes_at(now)).min()
    }

    pub(super) fn fetch_failed(&mut self, error: Arc<str>, worker: &str) {
        self.fetching.fail(Reason::RelayFailing { error: Arc::clone(&error) });
        if self.fetching.should_warn() {
            warn!(%worker, error = &*error, "messages of a worker cannot be fetched");
        }
    }

    /// Selects the messages to submit from those that the worker holds: one run per sender, with its ticket.
    pub(super) fn select(
        &mut self,
        messages: EgressMessages,
        key: WorkerKey,
        on_chain: &WorkerOnChain,
        view: &ChainView,
        (keys, worker): (&Arc<Keys>, &inventory::Worker),
    ) -> Vec<(MessageOrigin, u64, Vec<SignedMessage>)> {
        self.fetching.reset();
        let own = MessageOrigin::Worker(key);
        let mut by_sender = messages_by_sender(messages);
        by_sender.entry(own.clone()).or_default();
        self.make_room(&by_sender, view.block);
        // Before all others, so that it always has its place.
        self.senders.entry(own.clone()).or_insert_with(|| Sender::new(self.backoff));
        // Senders without messages are visited too: they become exhausted, so that they are not fetched
        // again and again.
        for sender in self.senders.keys() {
            by_sender.entry(sender.clone()).or_default();
        }
        let mut runs = Vec::new();
        for (origin, messages) in by_sender {
            if !self.senders.contains_key(&origin) && self.senders.len() >= MAX_SENDERS {
                warn!(worker = %worker.name, %origin, limit = MAX_SENDERS, "too many senders: messages are not relayed");
                continue;
            }
            let sender = self.senders.entry(origin.clone()).or_insert_with(|| Sender::new(self.backoff));
            let next = match sender.can_submit(view.block) {
                false => None,
                true if origin == own => Some(on_chain.ingress_sequence),
                true => sender.next_if_claimed(&origin, !messages.is_empty(), view, (keys, worker)),
            };
            let Some(next) = next else {
                sender.egress.set_exhausted();
                continue;
            };
            let mut run = sender.egress.select(next, view.block, messages);
            sender.drop_forged(&origin, &mut run, &worker.name);
            if let Some(last) = run.last() {
                self.tickets += 1;
                sender.egress.submitting(self.tickets, last.sequence + 1);
                runs.push((origin, self.tickets, run));
            }
        }
        runs
    }

    /// Forgets senders without messages as far as new ones need their places.
    fn make_room(&mut self, by_sender: &BTreeMap<MessageOrigin, Vec<SignedMessage>>, view: ParaNumber) {
        let now = Instant::now();
        let new = by_sender.keys().filter(|origin| !self.senders.contains_key(origin)).count();
        let mut excess = (self.senders.len() + new).saturating_sub(MAX_SENDERS);
        self.senders.retain(|origin, sender| {
            let keep = excess == 0 || by_sender.contains_key(origin) || !sender.is_unused(now, view);
            excess -= usize::from(!keep);
            keep
        });
    }

    /// Notes that a job is in the queue.
    pub(super) fn submitted(&mut self, origin: &MessageOrigin) {
        if let Some(sender) = self.senders.get_mut(origin) {
            sender.egress.submitted();
        }
    }

    /// Notes that a job could not be submitted.
    pub(super) fn not_submitted(&mut self, origin: &MessageOrigin, ticket: u64, error: &str, worker: &str) {
        if let Some(sender) = self.senders.get_mut(origin) {
            sender.egress.not_submitted(ticket);
            sender.failed(origin, error, worker);
        }
    }

    /// Notes that a job has ended.
    pub(super) fn ended(
        &mut self,
        origin: &MessageOrigin,
        ticket: u64,
        result: &Result<JobOutcome, JobFailure>,
        (view, worker): (ParaNumber, &str),
    ) {
        let Some(sender) = self.senders.get_mut(origin) else { return };
        let now = Instant::now();
        let error = sender.egress.ended(ticket, result, view);
        match &error {
            None => sender.failures.reset(),
            Some(error) => sender.failed(origin, error, worker),
        }
        let fails = sender.failures.attempts() >= REFUSALS;
        let Some(claim) = &mut sender.claim else { return };
        claim.useful = error.is_none();
        if !fails {
            claim.used_at = now;
        }
        let refused = result.is_ok() && error.is_some_and(|e| known_error(&e).class != ErrorClass::Retry);
        if fails && refused {
            // Another worker may hold messages that the chain accepts.
            sender.paused_until = Some(now + RETRY_REFUSED_AFTER);
        }
    }
}

impl Sender {
    fn new(backoff: BackoffConfig) -> Self {
        Self {
            egress: Egress::default(),
            failures: FailureTracker::new(backoff),
            claim: None,
            paused_until: None,
        }
    }

    /// Whether another job may be submitted.
    fn can_submit(&self, view: ParaNumber) -> bool {
        let due = self.failures.failure(Instant::now()).is_none_or(|failure| failure.due);
        due && self.egress.can_submit(view)
    }

    /// Whether there is nothing to remember of it: neither of jobs, nor of what failed.
    fn is_unused(&self, now: Instant, view: ParaNumber) -> bool {
        self.egress.is_settled(view) && self.failures.attempts() == 0 && !self.is_paused(now)
    }

    /// The next sequence that the chain accepts from a shared sender; `None` if it is not known, or this worker must not
    /// submit for the sender now. The counter is only valid while this worker has the claim: otherwise another one
    /// submits.
    fn next_if_claimed(
        &mut self,
        origin: &MessageOrigin,
        has_messages: bool,
        view: &ChainView,
        (keys, worker): (&Arc<Keys>, &inventory::Worker),
    ) -> Option<u64> {
        let now = Instant::now();
        if self.is_paused(now) {
            return None;
        }
        if self.claim.is_none() && has_messages {
            self.claim = claim(origin, keys, worker, view.block);
        }
        let claim = self.claim.as_mut()?;
        let Some(next) = view.senders.get(origin).filter(|_| view.block > claim.made_at) else {
            claim.used_at = now;
            return None;
        };
        Some(**next.as_ref().ok()?)
    }

    fn is_paused(&self, now: Instant) -> bool {
        self.paused_until.is_some_and(|until| now < until)
    }

    fn release_unused_claim(&mut self, now: Instant) {
        let Some(claim) = &self.claim else { return };
        let idle = now.duration_since(claim.used_at) >= CLAIM_IDLE;
        if self.is_paused(now) {
            self.claim = None;
        } else if idle {
            self.paused_until = (!claim.useful).then(|| now + CLAIM_PAUSE);
            self.claim = None;
        }
    }

    /// Drops the messages from the first one on whose signature is not valid: the chain would refuse it for a fee.
    fn drop_forged(&mut self, origin: &MessageOrigin, run: &mut Vec<SignedMessage>, worker: &str) {
        let Some(forged) = run.iter().position(|message| message.is_signed() == Some(false)) else { return };
        let error = format!(
            "the signature of its message {} is not valid: check what answers at the worker's endpoint",
            run[forged].sequence
        );
        self.failed(origin, &error, worker);
        run.truncate(forged);
    }

    fn failed(&mut self, origin: &MessageOrigin, error: &str, worker: &str) {
        self.failures.fail(Reason::RelayFailing { error: error.into() });
        if self.failures.should_warn() {
            warn!(%worker, %origin, error, "messages did not reach the chain");
        }
    }
}

/// Claims a sender's messages for a worker, unless another one has them.
fn claim(
    origin: &MessageOrigin,
    keys: &Arc<Keys>,
    worker: &inventory::Worker,
    made_at: ParaNumber,
) -> Option<SenderClaim> {
    match keys.claim_sender(origin.clone(), worker.id, &worker.name) {
        Ok(claim) => Some(SenderClaim { _claim: claim, made_at, used_at: Instant::now(), useful: false }),
        Err(holder) => {
            debug!(worker = %worker.name, %origin, %holder, "another worker relays these messages");
            None
        }
    }
}
