//! [`ChainSubmitter`]: sends batches of calls and watches each to its end.

use std::{cmp::Ordering, collections::HashMap, fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use serde::Serialize;

use super::Call;
use crate::{
    primitives::{AccountId, Balance, Hash, ParaNumber},
    signer::{self, Signer},
    wire::{MessageOrigin, SignedMessage},
};

/// Calls that go in one transaction, as `Utility::force_batch` (a lone call too), inside `Proxy::proxy`
/// where [`CallBatch::proxied`] is set.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CallBatch {
    /// Signs for the operator's account, which pays the fees.
    pub signer: Arc<dyn Signer>,
    /// The account that the operator acts for, where the pool is proxied.
    pub proxied: Option<AccountId>,
    /// The calls, in order; at least one.
    pub calls: Vec<Call>,
}

impl CallBatch {
    /// Calls of pools that the signer's account owns itself.
    pub const fn new(signer: Arc<dyn Signer>, calls: Vec<Call>) -> Self {
        Self { signer, proxied: None, calls }
    }

    /// The same calls for pools of `proxied`, which the signer's account acts for.
    #[must_use]
    pub fn with_proxied(self, proxied: Option<AccountId>) -> Self {
        Self { proxied, ..self }
    }

    /// The account that signs and pays the fees.
    pub fn operator(&self) -> AccountId {
        self.signer.account()
    }
}

/// A chain error by name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
pub struct DispatchError {
    /// `Pallet::Error`, such as `PhalaMq::BadSequence`, or the runtime's name for errors of no pallet
    /// (`BadOrigin`, `Token::FundsUnavailable`).
    pub name: String,
}

impl fmt::Display for DispatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}

/// A batch that is in a finalised block.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchOutcome {
    /// The transaction.
    pub extrinsic: Hash,
    /// Hash of the block that holds it.
    pub block: Hash,
    /// Number of that block.
    pub number: ParaNumber,
    /// One result a call, in order.
    pub calls: Vec<Result<(), DispatchError>>,
}

/// A transaction's way, for those who watch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum SubmitProgress {
    /// Signed, sent, taken into the node's pool.
    Submitted {
        /// The transaction.
        extrinsic: Hash,
    },
    /// In a block, not final.
    InBlock {
        /// The block.
        block: Hash,
    },
}

/// Why a batch had no effect, or why its fate is not known.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// The signature is not that of the account named; nothing was sent.
    #[error("the operator key of {account} is not usable: {reason}")]
    BadKey {
        /// The account that was to sign.
        account: String,
        /// What is wrong, without the key.
        reason: String,
    },
    /// The signer gave no signature; nothing was sent.
    #[error("the transaction was not signed")]
    NotSigned(#[source] signer::Error),
    /// The operator cannot pay.
    #[error("account {account} cannot pay: {available} units free, {needed} needed")]
    InsufficientFees {
        /// The operator's address.
        account: String,
        /// What it has.
        available: Balance,
        /// What the transaction needs.
        needed: Balance,
    },
    /// The whole transaction failed: the batch did not run (a proxy that is not one, a bad origin).
    #[error("the transaction failed: {0}")]
    Dispatch(DispatchError),
    /// The node's pool or the runtime refused it; it is not on chain.
    #[error("the transaction was refused: {reason}")]
    Refused {
        /// The node's words.
        reason: String,
        /// Whether another attempt with a fresh nonce can succeed.
        retryable: bool,
    },
    /// It does not fit in a block; nothing was sent.
    #[error("{calls} calls in one transaction are too much for a block, about {fits} fit: {reason}")]
    TooLarge {
        /// Calls of the batch.
        calls: usize,
        /// How many of them, from the first on, are likely to fit; 0 where not even one does.
        fits: usize,
        /// What limits them.
        reason: String,
    },
    /// It expired, was usurped or dropped, and is in no block of its lifetime: it has no effect.
    #[error("the transaction did not make it into a block: {reason}")]
    Lost {
        /// How it was lost.
        reason: String,
    },
    /// The chain's metadata has no such call, or other arguments.
    #[error("the chain does not take {call}: {reason}")]
    Unsupported {
        /// `Pallet::call`.
        call: &'static str,
        /// What does not fit.
        reason: String,
    },
    /// Sent, but its fate could not be learned: ask [`ChainSubmitter::effects`] before sending again.
    #[error("the transaction's fate is not known after {waited:?}: {reason}")]
    Unknown {
        /// How long it was watched.
        waited: Duration,
        /// What was seen last.
        reason: String,
    },
    /// No node answers; nothing was sent.
    #[error("no chain node is reachable")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl SubmitError {
    /// Whether the same calls may be sent again (after asking for their effects).
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Refused { retryable, .. } => *retryable,
            Self::NotSigned(e) => e.is_retryable(),
            Self::Lost { .. } | Self::Unknown { .. } | Self::Unavailable(_) => true,
            _ => false,
        }
    }
}

/// Whether a call's effect is on chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Effect {
    /// Not there: sending the call makes sense.
    Missing,
    /// There already: sending it again would fail or do it twice.
    Present,
    /// Not there, and it would be refused now: an earlier message of its sender is neither on chain nor among the
    /// calls asked about.
    OutOfOrder,
}

/// Tells the effects of messages, whose senders' sequences the chain takes without a gap: for backends of
/// [`ChainSubmitter::effects`].
#[derive(Debug, Default)]
pub struct MessageEffects {
    /// By sender, the sequence that follows on the messages looked at so far.
    next: HashMap<MessageOrigin, u64>,
}

impl MessageEffects {
    /// The effect of the next call that was asked about. `ingress` is the sequence that the chain takes next
    /// from its sender, by `PhalaMq::OffchainIngress`.
    pub fn effect(&mut self, signed: &SignedMessage, ingress: u64) -> Effect {
        let next = self.next.entry(signed.message.sender.clone()).or_insert(ingress);
        match signed.sequence.cmp(next) {
            Ordering::Greater => Effect::OutOfOrder,
            Ordering::Equal => {
                *next += 1;
                Effect::Missing
            }
            Ordering::Less if signed.sequence < ingress => Effect::Present,
            // The same message, or another of its number, once more.
            Ordering::Less => Effect::Missing,
        }
    }
}

/// What [`ChainSubmitter::effects`] found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Effects {
    /// The finalised parachain block whose state was asked.
    pub block: ParaNumber,
    /// One answer a call, in the calls' order.
    pub calls: Vec<Effect>,
}

/// Sends batches and decides their fate.
#[async_trait]
pub trait ChainSubmitter: Send + Sync + fmt::Debug {
    /// Signs, sends and watches one batch until it is final.
    ///
    /// Before the first batch of an account the submitter waits until no earlier transaction of it is
    /// pending, so that a restarted program does not do twice what its predecessor sent.
    ///
    /// Calls for one operator must not overlap: the caller keeps one batch in flight an account.
    /// `progress` is told of the way; a full channel loses progress, never the outcome.
    ///
    /// # Errors
    /// See [`SubmitError`].
    ///
    /// # Cancel safety
    /// A cancelled call may have been sent: ask [`effects`](Self::effects) before sending again.
    async fn submit(
        &self,
        batch: &CallBatch,
        progress: tokio::sync::mpsc::Sender<SubmitProgress>,
    ) -> Result<BatchOutcome, SubmitError>;

    /// Asks the chain's newest finalised state which calls have had their effect, in the calls' order.
    /// Waits first, as [`submit`](Self::submit) does, until nothing sent earlier for `account` is pending.
    ///
    /// # Errors
    /// [`SubmitError::Unavailable`].
    async fn effects(&self, account: AccountId, calls: &[Call]) -> Result<Effects, SubmitError>;

    /// Says that others may have sent for `account`: the next call for it waits again until nothing of it
    /// is pending, whatever was known before. Must not be called while a call for the account is on its way.
    ///
    /// A submitter that remembers nothing of accounts between calls does nothing here.
    fn forget(&self, account: AccountId);
}
