//! [`Egress`]: selects which of a sender's messages to submit, so that the chain receives each sequence once
//! and in order.

use std::collections::VecDeque;

use crate::{
    primitives::ParaNumber,
    queue::{JobFailure, JobOutcome, MAX_CALLS_PER_JOB, MAX_JOB_BYTES},
    wire::SignedMessage,
};

/// Maximum jobs in flight per worker: a heartbeat need not wait for the one before it.
const MAX_JOBS: usize = 4;
/// Maximum bytes of messages in one job; leaves room for the signer.
const MAX_BYTES: usize = MAX_JOB_BYTES / 2;
/// Encoding overhead of a call beyond its message, in bytes.
const CALL_BYTES: usize = 128;

struct InFlight {
    ticket: u64,
    /// The sequence number after its last message.
    next: u64,
}

/// The sequences in flight. They are discarded on failure: the chain's counter then shows where to resume.
#[derive(Default)]
pub(super) struct Egress {
    in_flight: VecDeque<InFlight>,
    /// A job is being submitted; the next one waits, because jobs must enter the queue in sequence order.
    submitting: bool,
    /// A job failed: those behind it will fail too (`BadSequence`), so nothing is submitted until all have
    /// ended.
    draining: bool,
    /// The sequence that the chain expects next, in views from that block on.
    included: Option<(u64, ParaNumber)>,
    /// After a failure: only a view from this block on shows where to resume.
    resume_from: Option<ParaNumber>,
    /// The worker's messages were fetched, and none is left to submit.
    exhausted: bool,
}

impl Egress {
    /// Whether fetching messages from the worker can lead to a job.
    pub(super) fn wants_messages(&self, view: ParaNumber) -> bool {
        !self.exhausted && self.can_submit(view)
    }

    /// Whether another job may be submitted.
    pub(super) fn can_submit(&self, view: ParaNumber) -> bool {
        !self.submitting
            && !self.draining
            && self.in_flight.len() < MAX_JOBS
            && self.resume_from.is_none_or(|block| view >= block)
    }

    /// Notes that none of the worker's messages can be submitted until they are fetched again.
    pub(super) const fn set_exhausted(&mut self) {
        self.exhausted = true;
    }

    /// Notes that there may be new messages.
    pub(super) fn request_fetch(&mut self) {
        self.exhausted = false;
    }

    /// Whether nothing is in flight, and the chain's counter at block `view` contains what was.
    pub(super) fn is_settled(&self, view: ParaNumber) -> bool {
        self.in_flight.is_empty()
            && self.resume_from.is_none_or(|block| view >= block)
            && self.included.is_none_or(|(_, block)| view >= block)
    }

    /// Selects the messages for one job: strictly in sequence, starting where the chain or the last job in
    /// flight ends. `ingress` is the chain's counter in the view at block `view`.
    pub(super) fn select(
        &mut self,
        ingress: u64,
        view: ParaNumber,
        mut messages: Vec<SignedMessage>,
    ) -> Vec<SignedMessage> {
        let next = self.next(ingress, view);
        messages.retain(|m| m.sequence >= next);
        messages.sort_unstable_by_key(|m| m.sequence);
        messages.dedup_by_key(|m| m.sequence);
        let mut bytes = 0;
        let run = messages
            .iter()
            .enumerate()
            .take(MAX_CALLS_PER_JOB)
            .take_while(|(i, m)| {
                bytes += CALL_BYTES + m.message.payload.len() + m.message.destination.len();
                // The first message is sent whatever its size, or a large one would block its sender forever.
                m.sequence == next + *i as u64 && (*i == 0 || bytes <= MAX_BYTES)
            })
            .count();
        // All are selected, or the worker does not have the next one: fetching them again now would yield
        // nothing.
        if run == messages.len() || run == 0 {
            self.exhausted = true;
        }
        messages.truncate(run);
        messages
    }

    fn next(&self, ingress: u64, view: ParaNumber) -> u64 {
        if let Some(last) = self.in_flight.back() {
            return last.next;
        }
        match self.included {
            // The view is older than the block that includes the last job, and so is its counter.
            Some((next, block)) if view < block => next.max(ingress),
            _ => ingress,
        }
    }

    /// Notes that a job with the messages before `next` is being submitted, identified by `ticket`.
    pub(super) fn submitting(&mut self, ticket: u64, next: u64) {
        self.submitting = true;
        self.in_flight.push_back(InFlight { ticket, next });
    }

    /// Notes that the job being submitted is in the queue.
    pub(super) const fn submitted(&mut self) {
        self.submitting = false;
    }

    /// Notes that the job could not be submitted.
    pub(super) fn not_submitted(&mut self, ticket: u64) {
        if self.forget(ticket).is_some() {
            self.submitting = false;
            self.drain();
        }
    }

    /// Notes that a job ended; returns the error, if any. `view` is the newest view's block.
    pub(super) fn ended(
        &mut self,
        ticket: u64,
        result: &Result<JobOutcome, JobFailure>,
        view: ParaNumber,
    ) -> Option<String> {
        let flight = self.forget(ticket)?;
        let error = match result {
            Ok(outcome) => match outcome.calls.iter().find_map(|c| c.error()) {
                Some(name) => {
                    // Those before the failed one were accepted: the counter at that block shows how many.
                    self.resume_from = self.resume_from.max(Some(outcome.block));
                    Some(name.to_owned())
                }
                None => {
                    self.included = self.included.max(Some((flight.next, outcome.block)));
                    None
                }
            },
            Err(failure) => {
                // Its outcome is unknown: only a newer view shows whether it took effect.
                self.resume_from = self.resume_from.max(Some(view.next()));
                Some(failure.message.clone())
            }
        };
        // Jobs behind a failed one fail as well; the sequence resumes from the chain's counter once all have ended.
        self.draining |= error.is_some();
        self.drain();
        error
    }

    fn drain(&mut self) {
        if self.in_flight.is_empty() {
            self.draining = false;
        }
        self.exhausted = false;
    }

    fn forget(&mut self, ticket: u64) -> Option<InFlight> {
        let at = self.in_flight.iter().position(|f| f.ticket == ticket)?;
        self.in_flight.remove(at)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{
        primitives::WorkerKey,
        queue::CallOutcome,
        wire::{Message, MessageOrigin},
    };

    const VIEW: ParaNumber = ParaNumber(10);

    fn message(sequence: u64) -> SignedMessage {
        let sender = MessageOrigin::Worker(WorkerKey([1; 32]));
        let message = Message { sender, destination: vec![], payload: vec![] };
        SignedMessage { message, sequence, signature: vec![0; 64] }
    }

    fn sequences(messages: &[SignedMessage]) -> Vec<u64> {
        messages.iter().map(|m| m.sequence).collect()
    }

    fn waiting(range: std::ops::Range<u64>) -> Vec<SignedMessage> {
        range.map(message).collect()
    }

    fn done(calls: usize, block: u32) -> Result<JobOutcome, JobFailure> {
        Ok(JobOutcome {
            calls: vec![CallOutcome::Done; calls],
            block: ParaNumber(block),
            extrinsic: None,
            fee: None,
        })
    }

    #[test]
    fn sequences_go_out_once_and_in_order() {
        let mut egress = Egress::default();
        let first = egress.select(3, VIEW, waiting(0..5));
        assert_eq!(sequences(&first), [3, 4], "the chain has those below 3");
        egress.submitting(1, 5);
        assert!(!egress.wants_messages(VIEW), "one job is added at a time");
        egress.submitted();
        assert!(egress.select(3, VIEW, waiting(0..5)).is_empty(), "they are in flight");
        assert!(!egress.wants_messages(VIEW), "nothing more to ask for");
        egress.request_fetch();
        assert_eq!(sequences(&egress.select(3, VIEW, waiting(0..7))), [5, 6]);
        egress.submitting(2, 7);
        egress.submitted();
        assert_eq!(egress.ended(1, &done(2, 12), VIEW), None);
        assert!(!egress.is_settled(ParaNumber(13)), "one is in flight");
        assert_eq!(egress.ended(2, &done(2, 13), VIEW), None);
        assert!(egress.is_settled(ParaNumber(13)) && !egress.is_settled(ParaNumber(12)));
        assert!(egress.select(3, VIEW, waiting(0..7)).is_empty(), "the old view does not know of them yet");
        assert_eq!(sequences(&egress.select(7, ParaNumber(13), waiting(5..8))), [7]);
    }

    #[test]
    fn a_failure_waits_for_those_behind_it_and_for_the_chain() {
        let mut egress = Egress::default();
        egress.select(0, VIEW, waiting(0..2));
        egress.submitting(1, 2);
        egress.submitted();
        egress.request_fetch();
        egress.select(0, VIEW, waiting(0..4));
        egress.submitting(2, 4);
        egress.submitted();
        let failed = Ok(JobOutcome {
            calls: vec![CallOutcome::Done, CallOutcome::Failed("PhalaMq::BadSequence".into())],
            block: ParaNumber(12),
            extrinsic: None,
            fee: None,
        });
        assert_eq!(egress.ended(1, &failed, VIEW).unwrap(), "PhalaMq::BadSequence");
        assert!(!egress.wants_messages(ParaNumber(12)), "the second job is still in flight");
        assert!(egress.ended(2, &Err(JobFailure { message: "lost".into() }), VIEW).is_some());
        assert!(!egress.wants_messages(VIEW), "the view is older than the failure");
        assert!(egress.wants_messages(ParaNumber(12)));
        assert!(egress.is_settled(ParaNumber(12)) && !egress.is_settled(VIEW));
        // The first message was included, as the chain shows.
        assert_eq!(sequences(&egress.select(1, ParaNumber(12), waiting(0..4))), [1, 2, 3]);
    }

    #[test]
    fn a_gap_ends_a_job_and_jobs_are_bounded() {
        let mut egress = Egress::default();
        let mut messages = waiting(0..3);
        messages.remove(1);
        assert_eq!(sequences(&egress.select(0, VIEW, messages)), [0]);
        assert!(egress.select(9, VIEW, waiting(10..12)).is_empty(), "the one in turn is missing");
        egress.request_fetch();
        let many = egress.select(0, VIEW, waiting(0..250));
        assert_eq!(many.len(), MAX_CALLS_PER_JOB);
        assert!(egress.wants_messages(VIEW), "more are waiting");
        let mut large = waiting(0..3);
        for m in &mut large {
            m.message.payload = vec![0; MAX_BYTES / 2];
        }
        assert_eq!(egress.select(0, VIEW, large).len(), 1);
        for next in 0..MAX_JOBS as u64 {
            egress.submitting(next, next);
            egress.submitted();
        }
        egress.request_fetch();
        assert!(!egress.wants_messages(VIEW));
    }

    #[test]
    fn a_job_that_was_not_added_is_forgotten() {
        let mut egress = Egress::default();
        egress.select(0, VIEW, waiting(0..2));
        egress.submitting(1, 2);
        egress.not_submitted(1);
        assert!(egress.wants_messages(VIEW));
        assert_eq!(sequences(&egress.select(0, VIEW, waiting(0..2))), [0, 1]);
    }
}
