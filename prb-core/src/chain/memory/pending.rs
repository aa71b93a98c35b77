//! Transactions on their way into a block, and what may befall them.

use std::{collections::VecDeque, time::Duration};

use codec::Encode;
use secrecy::ExposeSecret;
use tokio::sync::oneshot;

use super::{Config, Event, Fate, Fault, MemoryChain, Pending, State, block_hash};
use crate::{
    chain::{BatchOutcome, CallBatch, SubmitError},
    primitives::{Balance, Hash, ParaNumber},
};

impl State {
    pub(super) fn include(&mut self, batch: &CallBatch, extrinsic: Hash, max_events: usize) -> Fate {
        let calls = self.model.execute(batch).map_err(SubmitError::Dispatch)?;
        let block = ParaNumber(self.model.block);
        for (call, result) in batch.calls.iter().cloned().zip(calls.iter().cloned()) {
            if self.events.len() >= max_events {
                self.events.pop_front();
            }
            self.events.push_back(Event { block, operator: batch.signer.operator, call, result });
        }
        Ok(BatchOutcome { extrinsic, block: block_hash(block.0), number: block, calls })
    }

    /// Takes a batch into the pool of transactions, unless something is wrong with it or befalls it.
    pub(super) fn accept(
        &mut self,
        batch: &CallBatch,
        config: &Config,
    ) -> Result<(Hash, oneshot::Receiver<Fate>), SubmitError> {
        let account = batch.signer.operator;
        let unknown = |reason: &str| SubmitError::Unknown { waited: Duration::ZERO, reason: reason.into() };
        let fault = self.faults.get_mut(&account).and_then(VecDeque::pop_front);
        match fault {
            Some(Fault::Unavailable) => return Err(SubmitError::Unavailable("the node is away".into())),
            Some(Fault::Refused { retryable }) => {
                return Err(SubmitError::Refused { reason: "refused by request".into(), retryable });
            }
            Some(Fault::Lost) => return Err(SubmitError::Lost { reason: "dropped".into() }),
            Some(Fault::UnknownDropped) => return Err(unknown("nothing was seen")),
            Some(Fault::UnknownIncluded) | None => {}
        }
        self.check_signer(batch, config)?;
        if batch.calls.len() > config.max_batch_calls {
            let (calls, fits) = (batch.calls.len(), config.max_batch_calls);
            return Err(SubmitError::TooLarge { calls, fits, reason: "the chain's settings".into() });
        }
        if self.pending.len() >= config.max_pending {
            let reason = "the pool of transactions is full".into();
            return Err(SubmitError::Refused { reason, retryable: true });
        }
        self.transactions += 1;
        let extrinsic = Hash::of(&(account, self.transactions).encode());
        let (submitter, fate) = oneshot::channel();
        let known = fault.is_none();
        self.pending.push_back(Pending {
            batch: batch.clone(),
            extrinsic,
            submitter: known.then_some(submitter),
        });
        if known { Ok((extrinsic, fate)) } else { Err(unknown("sent, then the node went away")) }
    }

    fn check_signer(&self, batch: &CallBatch, config: &Config) -> Result<(), SubmitError> {
        let account = batch.signer.operator;
        if MemoryChain::account_of(batch.signer.secret.expose_secret()) != account {
            let reason = "it is another account's".into();
            return Err(SubmitError::BadKey { account: account.to_string(), reason });
        }
        let needed = config.fee * batch.calls.len() as Balance;
        match self.model.funds.get(&account) {
            Some(&available) if available < needed => {
                Err(SubmitError::InsufficientFees { account: account.to_string(), available, needed })
            }
            _ => Ok(()),
        }
    }
}
