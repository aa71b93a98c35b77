//! [`Egress`]: which of a sender's messages to send, so that the chain sees each sequence once and in order.

use std::collections::VecDeque;

use crate::{
    primitives::ParaNumber,
    queue::{JobFailure, JobOutcome, MAX_CALLS_PER_JOB, MAX_JOB_BYTES},
    wire::SignedMessage,
};

/// How many jobs of one worker may be under way: a heartbeat need not wait for the one before it.
const MAX_JOBS: usize = 4;
/// Bytes of messages in one job; leaves room for the signer.
const MAX_BYTES: usize = MAX_JOB_BYTES / 2;
/// What a call adds to its message.
const CALL_BYTES: usize = 128;

struct Flight {
    ticket: u64,
    /// The sequence after its last.
    next: u64,
}

/// The sequences under way. They are forgotten on failure: the chain then says where to go on.
#[derive(Default)]
pub(super) struct Egress {
    flights: VecDeque<Flight>,
    /// A job is being added; the next one waits, so that they stand in line in order.
    submitting: bool,
    /// A job failed: those behind it fail too, so nothing is sent until all have ended.
    draining: bool,
    /// The chain takes this sequence next, in views from that block on.
    landed: Option<(u64, ParaNumber)>,
    /// After a failure: only a view from this block on says where to go on.
    hold: Option<ParaNumber>,
    /// The worker was asked, and had nothing more.
    asked: bool,
}

impl Egress {
    /// Whether asking the worker for messages can lead to a job.
    pub(super) fn is_open(&self, view: ParaNumber) -> bool {
        !self.asked && self.can_take(view)
    }

    /// Whether another job may be added.
    pub(super) fn can_take(&self, view: ParaNumber) -> bool {
        !self.submitting
            && !self.draining
            && self.flights.len() < MAX_JOBS
            && self.hold.is_none_or(|block| view >= block)
    }

    /// Nothing can be sent of what the worker holds, until it is asked again.
    pub(super) const fn nothing_now(&mut self) {
        self.asked = true;
    }

    /// There may be new messages.
    pub(super) fn look_again(&mut self) {
        self.asked = false;
    }

    /// Whether anything is under way.
    #[cfg(test)]
    pub(super) fn is_idle(&self) -> bool {
        self.flights.is_empty()
    }

    /// Of the worker's messages, those for one job: strictly in sequence from where the chain, or the last
    /// job under way, will be. `ingress` is the chain's counter in the view at block `view`.
    pub(super) fn pick(
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
                m.sequence == next + *i as u64 && (*i == 0 || bytes <= MAX_BYTES)
            })
            .count();
        if run == messages.len() || run == 0 {
            self.asked = true;
        }
        messages.truncate(run);
        messages
    }

    fn next(&self, ingress: u64, view: ParaNumber) -> u64 {
        if let Some(last) = self.flights.back() {
            return last.next;
        }
        match self.landed {
            Some((next, block)) if view < block => next.max(ingress),
            _ => ingress,
        }
    }

    /// A job with the messages before `next` is being added, known by `ticket`.
    pub(super) fn submitting(&mut self, ticket: u64, next: u64) {
        self.submitting = true;
        self.flights.push_back(Flight { ticket, next });
    }

    /// The job being added is in line.
    pub(super) const fn submitted(&mut self) {
        self.submitting = false;
    }

    /// The job being added was not.
    pub(super) fn not_submitted(&mut self, ticket: u64) {
        if self.forget(ticket).is_some() {
            self.submitting = false;
            self.drain();
        }
    }

    /// A job ended; gives what went wrong, if something did. `view` is the newest view's block.
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
                    self.hold = self.hold.max(Some(outcome.block));
                    Some(name.to_owned())
                }
                None => {
                    self.landed = self.landed.max(Some((flight.next, outcome.block)));
                    None
                }
            },
            Err(failure) => {
                // Its fate is not known: only a newer view tells.
                self.hold = self.hold.max(Some(view.next()));
                Some(failure.message.clone())
            }
        };
        self.draining |= error.is_some();
        self.drain();
        error
    }

    fn drain(&mut self) {
        if self.flights.is_empty() {
            self.draining = false;
        }
        self.asked = false;
    }

    fn forget(&mut self, ticket: u64) -> Option<Flight> {
        let at = self.flights.iter().position(|f| f.ticket == ticket)?;
        self.flights.remove(at)
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
        let first = egress.pick(3, VIEW, waiting(0..5));
        assert_eq!(sequences(&first), [3, 4], "the chain has those below 3");
        egress.submitting(1, 5);
        assert!(!egress.is_open(VIEW), "one job is added at a time");
        egress.submitted();
        assert!(egress.pick(3, VIEW, waiting(0..5)).is_empty(), "they are under way");
        assert!(!egress.is_open(VIEW), "nothing more to ask for");
        egress.look_again();
        assert_eq!(sequences(&egress.pick(3, VIEW, waiting(0..7))), [5, 6]);
        egress.submitting(2, 7);
        egress.submitted();
        assert_eq!(egress.ended(1, &done(2, 12), VIEW), None);
        assert_eq!(egress.ended(2, &done(2, 13), VIEW), None);
        assert!(egress.pick(3, VIEW, waiting(0..7)).is_empty(), "the old view does not know of them yet");
        assert_eq!(sequences(&egress.pick(7, ParaNumber(13), waiting(5..8))), [7]);
    }

    #[test]
    fn a_failure_waits_for_those_behind_it_and_for_the_chain() {
        let mut egress = Egress::default();
        egress.pick(0, VIEW, waiting(0..2));
        egress.submitting(1, 2);
        egress.submitted();
        egress.look_again();
        egress.pick(0, VIEW, waiting(0..4));
        egress.submitting(2, 4);
        egress.submitted();
        let failed = Ok(JobOutcome {
            calls: vec![CallOutcome::Done, CallOutcome::Failed("PhalaMq::BadSequence".into())],
            block: ParaNumber(12),
            extrinsic: None,
            fee: None,
        });
        assert_eq!(egress.ended(1, &failed, VIEW).unwrap(), "PhalaMq::BadSequence");
        assert!(!egress.is_open(ParaNumber(12)), "the second job is still under way");
        assert!(egress.ended(2, &Err(JobFailure { message: "lost".into() }), VIEW).is_some());
        assert!(!egress.is_open(VIEW), "the view is older than the failure");
        assert!(egress.is_open(ParaNumber(12)));
        assert!(egress.is_idle());
        // The first message landed, the chain says so.
        assert_eq!(sequences(&egress.pick(1, ParaNumber(12), waiting(0..4))), [1, 2, 3]);
    }

    #[test]
    fn a_gap_ends_a_job_and_jobs_are_bounded() {
        let mut egress = Egress::default();
        let mut messages = waiting(0..3);
        messages.remove(1);
        assert_eq!(sequences(&egress.pick(0, VIEW, messages)), [0]);
        assert!(egress.pick(9, VIEW, waiting(10..12)).is_empty(), "the one in turn is missing");
        egress.look_again();
        let many = egress.pick(0, VIEW, waiting(0..250));
        assert_eq!(many.len(), MAX_CALLS_PER_JOB);
        assert!(egress.is_open(VIEW), "more are waiting");
        let mut large = waiting(0..3);
        for m in &mut large {
            m.message.payload = vec![0; MAX_BYTES / 2];
        }
        assert_eq!(egress.pick(0, VIEW, large).len(), 1);
        for next in 0..MAX_JOBS as u64 {
            egress.submitting(next, next);
            egress.submitted();
        }
        egress.look_again();
        assert!(!egress.is_open(VIEW));
    }

    #[test]
    fn a_job_that_was_not_added_is_forgotten() {
        let mut egress = Egress::default();
        egress.pick(0, VIEW, waiting(0..2));
        egress.submitting(1, 2);
        egress.not_submitted(1);
        assert!(egress.is_open(VIEW));
        assert_eq!(sequences(&egress.pick(0, VIEW, waiting(0..2))), [0, 1]);
    }
}
