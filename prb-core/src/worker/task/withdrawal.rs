//! Withdraws operations that are not wanted any more.

use tracing::info;

use super::{Operation, Task};
use crate::{
    inventory::FleetRecord,
    queue::Withdrawal,
    worker::{EventKind, job_driver::Event, obsolete::is_obsolete, record, requests},
};

impl Task {
    /// Withdraws the operation in flight if the goal or the configuration no longer asks for it.
    pub(super) fn withdraw_obsolete(&mut self) {
        let Some(operation) = self.operation else { return };
        let obsolete = is_obsolete(operation, &self.desired, &self.ctx.settings, self.saved.goal)
            || self.basis != requests::basis(operation, &self.desired);
        if self.preparing.is_some() {
            if obsolete {
                (self.preparing, self.operation) = (None, None);
                self.not_sent(operation);
            }
            return;
        }
        self.jobs.withdraw_operation(obsolete);
    }

    pub(super) fn operation_withdrawn(&mut self, operation: Operation, withdrawal: Withdrawal) {
        info!(worker = %self.desired.worker.name, operation = operation.name(), "no longer wanted, and withdrawn");
        self.slot.event(EventKind::OperationWithdrawn { operation: operation.name() });
        super::operations::count_operation(operation, "withdrawn");
        match withdrawal {
            Withdrawal::Unsent => self.not_sent(operation),
            // Its effect may be in the next block.
            _ => {
                self.maybe_sent();
                self.on_chain.awaiting_block = Some(self.on_chain.block.next());
            }
        }
    }

    /// Deletes the record of an operation that was not submitted before another key answered.
    pub(super) fn forget_unsent(&mut self) {
        // Also if it was for the key before the one that answered until now.
        let is_submitted =
            (self.operation.is_some() && self.preparing.is_none()) || self.jobs.superseded().is_some();
        if !is_submitted && !self.earlier_sent {
            self.set_saved(FleetRecord { sent: None, ..self.saved });
        }
    }

    /// Renews the record of an operation in flight: the time within which its effect is expected starts when it ends.
    pub(super) fn renew_sent(&mut self) {
        let submitted = self.operation.filter(|_| self.preparing.is_none());
        let in_flight = [submitted, self.jobs.superseded()].into_iter().flatten();
        for recorded in in_flight.filter_map(Operation::recorded_as) {
            self.set_saved(record::renewed(self.saved, recorded, self.on_chain.block));
        }
    }

    /// Applies the outcome of the start of a key that does not answer any more: it says what to expect of the chain.
    pub(super) fn superseded_ended(&mut self, operation: Operation, event: Event) {
        match event {
            Event::Withdrawn(Withdrawal::Unsent) => self.not_sent(operation),
            Event::Ended(Ok(outcome)) => {
                self.on_chain.awaiting_block = Some(outcome.block);
                if outcome.calls.iter().any(|call| call.error().is_some()) {
                    self.set_saved(FleetRecord { sent: None, ..self.saved });
                }
            }
            _ => {
                self.maybe_sent();
                self.on_chain.awaiting_block = Some(self.on_chain.block.next());
            }
        }
    }

    /// Deletes the record of an operation that was not sent: no later effect is ours, unless an earlier attempt may have
    /// been sent.
    fn not_sent(&mut self, operation: Operation) {
        let recorded = self.saved.sent.filter(|sent| Some(sent.operation) == operation.recorded_as());
        if recorded.is_some() && !self.earlier_sent {
            self.set_saved(FleetRecord { sent: None, ..self.saved });
            self.store_saved();
        }
    }

    /// Notes that the recorded operation may have been sent: its effect may come later.
    pub(super) const fn maybe_sent(&mut self) {
        self.earlier_sent = self.saved.sent.is_some();
    }
}
