//! Pending transactions, and injected faults.

use std::{collections::VecDeque, time::Duration};

use codec::Encode;
use tokio::sync::{mpsc, oneshot};

use super::{Config, Event, Fault, Pending, State, SubmitResult, block_hash, model::Model};
use crate::{
    chain::{BatchOutcome, CallBatch, SubmitError, SubmitProgress},
    primitives::{Balance, Hash, ParaNumber},
};

impl State {
    /// The state at the newest final block.
    pub(super) fn finalised(&self) -> &Model {
        self.finality.newest().unwrap_or(&self.model)
    }

    pub(super) fn include(&mut self, batch: &CallBatch, extrinsic: Hash, max_events: usize) -> SubmitResult {
        let calls = self.model.execute(batch).map_err(SubmitError::Dispatch)?;
        let fee = Some(self.model.fee(batch));
        let block = ParaNumber(self.model.block);
        for (call, result) in batch.calls.iter().cloned().zip(calls.iter().cloned()) {
            if self.events.len() >= max_events {
                self.events.pop_front();
            }
            self.events.push_back(Event { block, operator: batch.operator(), call, result });
        }
        Ok(BatchOutcome { extrinsic, block: block_hash(block.0), number: block, calls, fee })
    }

    /// Accepts a batch into the transaction pool, unless it is invalid or a fault is injected.
    pub(super) fn accept(
        &mut self,
        batch: &CallBatch,
        config: &Config,
        progress: mpsc::Sender<SubmitProgress>,
    ) -> Result<(Hash, oneshot::Receiver<SubmitResult>), SubmitError> {
        let account = batch.operator();
        let unknown = |reason: &str| SubmitError::Unknown { waited: Duration::ZERO, reason: reason.into() };
        let fault = self.faults.get_mut(&account).and_then(VecDeque::pop_front);
        match fault {
            Some(Fault::Unavailable) => {
                return Err(SubmitError::Unavailable("connection refused".into()));
            }
            Some(Fault::Refused { retryable }) => {
                return Err(SubmitError::Refused { reason: "injected refusal".into(), retryable });
            }
            Some(Fault::Lost) => return Err(SubmitError::Lost { reason: "dropped".into() }),
            Some(Fault::UnknownDropped) => return Err(unknown("nothing was seen")),
            Some(Fault::UnknownIncluded) | None => {}
        }
        self.check_fees(batch, config)?;
        if batch.calls.len() > config.max_batch_calls {
            let (calls, fits) = (batch.calls.len(), config.max_batch_calls);
            return Err(SubmitError::TooLarge {
                calls,
                fits,
                reason: "the configured maximum of calls".into(),
            });
        }
        if self.pending.len() >= config.max_pending {
            let reason = "the transaction pool is full".into();
            return Err(SubmitError::Refused { reason, retryable: true });
        }
        self.transactions += 1;
        let extrinsic = Hash::of(&(account, self.transactions).encode());
        let (submitter, result) = oneshot::channel();
        // Here only `UnknownIncluded` is left: the transaction is included, but its submitter gets no result.
        let known = fault.is_none();
        self.pending.push_back(Pending {
            batch: batch.clone(),
            extrinsic,
            submitter: known.then_some(submitter),
            progress,
        });
        if known { Ok((extrinsic, result)) } else { Err(unknown("sent, then the connection was lost")) }
    }

    fn check_fees(&self, batch: &CallBatch, config: &Config) -> Result<(), SubmitError> {
        let account = batch.operator();
        let needed = config.fee * batch.calls.len() as Balance;
        match self.model.funds.get(&account) {
            Some(&available) if available < needed => {
                Err(SubmitError::InsufficientFees { account: account.to_string(), available, needed })
            }
            _ => Ok(()),
        }
    }
}
