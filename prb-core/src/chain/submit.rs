//! [`ChainSubmitter`]: submits batches of calls and watches each until its outcome is known.

use std::{cmp::Ordering, collections::HashMap, fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::Call;
use crate::{
    encoding::decimal_option,
    primitives::{AccountId, Balance, Hash, ParaNumber},
    signer::{self, Signer},
    text::duration,
    wire::{MessageOrigin, SignedMessage},
};

/// Calls for one transaction, sent as `Utility::force_batch` (even a single call), inside `Proxy::proxy` if
/// [`CallBatch::proxied`] is set.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CallBatch {
    /// Signs for the operator's account, which pays the fees.
    pub signer: Arc<dyn Signer>,
    /// The account that the operator acts for, if the pool is proxied.
    pub proxied: Option<AccountId>,
    /// The calls, in order; at least one.
    pub calls: Vec<Call>,
}

impl CallBatch {
    /// Creates a batch for pools that the signer's account owns.
    pub const fn new(signer: Arc<dyn Signer>, calls: Vec<Call>) -> Self {
        Self { signer, proxied: None, calls }
    }

    /// Sets the account that the signer's account acts for as a proxy.
    #[must_use]
    pub fn with_proxied(self, proxied: Option<AccountId>) -> Self {
        Self { proxied, ..self }
    }

    /// The account that signs and pays the fees.
    pub fn operator(&self) -> AccountId {
        self.signer.account()
    }
}

/// An error of the chain, by name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
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

/// The outcome of a batch that is included in a finalised block.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BatchOutcome {
    /// The transaction's hash.
    pub extrinsic: Hash,
    /// Hash of the block that includes it.
    pub block: Hash,
    /// Number of that block.
    pub number: ParaNumber,
    /// One result per call, in order.
    pub calls: Vec<Result<(), DispatchError>>,
    /// What the operator paid for the transaction, if the chain reports it.
    #[serde(default, with = "decimal_option", skip_serializing_if = "Option::is_none")]
    pub fee: Option<Balance>,
}

/// The progress of a transaction, for observers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum SubmitProgress {
    /// Signed, sent, and accepted by the node's transaction pool.
    Submitted {
        /// The transaction's hash.
        extrinsic: Hash,
    },
    /// Included in a block that is not finalised yet.
    InBlock {
        /// The block's hash.
        block: Hash,
    },
}

/// Why a batch had no effect, or why its outcome is unknown.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SubmitError {
    /// The signature is not valid for the named account; nothing was sent.
    #[error("the operator key of {account} is not usable: {reason}")]
    BadKey {
        /// The account that should have signed.
        account: String,
        /// The problem, without the key.
        reason: String,
    },
    /// The signer did not provide a signature; nothing was sent.
    #[error("the transaction was not signed")]
    NotSigned(#[source] signer::Error),
    /// The operator cannot pay the fees.
    #[error("account {account} cannot pay: {available} units free, {needed} needed")]
    InsufficientFees {
        /// The operator's address.
        account: String,
        /// Its free balance, in 10^-12 PHA.
        available: Balance,
        /// The balance that the transaction requires, in 10^-12 PHA.
        needed: Balance,
    },
    /// The whole transaction failed: the batch was not executed (for example: not a proxy, or a bad origin).
    #[error("the transaction failed: {0}")]
    Dispatch(DispatchError),
    /// The node's transaction pool or the runtime refused it; it is not on chain.
    #[error("the transaction was refused: {reason}")]
    Refused {
        /// The node's error text.
        reason: String,
        /// Whether another attempt with a fresh nonce can succeed.
        retryable: bool,
    },
    /// It does not fit in a block; nothing was sent.
    #[error("{calls} calls in one transaction do not fit in a block, about {fits} do: {reason}")]
    TooLarge {
        /// Number of calls in the batch.
        calls: usize,
        /// How many of them, from the first on, are likely to fit; 0 if not even one does.
        fits: usize,
        /// The limit that is exceeded.
        reason: String,
    },
    /// It expired, was usurped or dropped, and no block of its lifetime includes it: it has no effect.
    #[error("the transaction was not included in a block: {reason}")]
    Lost {
        /// How it was lost.
        reason: String,
    },
    /// The chain's metadata has no such call, or different arguments.
    #[error("the chain does not support {call}: {reason}")]
    Unsupported {
        /// `Pallet::call`.
        call: &'static str,
        /// The mismatch.
        reason: String,
    },
    /// Sent, but the outcome could not be determined: read [`ChainSubmitter::effects`] before sending again.
    #[error("the transaction's outcome is not known after {}: {reason}", duration(*waited))]
    Unknown {
        /// How long it was watched.
        waited: Duration,
        /// The last status seen.
        reason: String,
    },
    /// No node answers; nothing was sent.
    #[error("no chain node is reachable")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl SubmitError {
    /// Whether the same calls may be sent again (after reading their effects).
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Refused { retryable, .. } => *retryable,
            Self::NotSigned(e) => e.is_retryable(),
            // All of these may have been sent: the caller reads the effects first.
            Self::Lost { .. } | Self::Unknown { .. } | Self::Unavailable(_) => true,
            _ => false,
        }
    }
}

/// Whether a call's effect is on chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Effect {
    /// Not on chain: the call may be sent.
    Missing,
    /// On chain: sending the call again would fail, or apply it twice.
    Present,
    /// Not on chain, and the chain would refuse it now: an earlier message of its sender is neither on chain nor
    /// among the calls of the request.
    OutOfOrder,
}

/// Determines the effects of messages, which the chain accepts from each sender without a gap: for backends of
/// [`ChainSubmitter::effects`].
#[derive(Debug, Default)]
pub struct MessageEffects {
    /// By sender, the sequence after the messages examined so far.
    next: HashMap<MessageOrigin, u64>,
}

impl MessageEffects {
    /// Returns the effect of the next message of the request. `ingress` is the next sequence that the chain accepts
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
            // A repetition of the message, or another one with its sequence.
            Ordering::Less => Effect::Missing,
        }
    }
}

/// The result of [`ChainSubmitter::effects`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Effects {
    /// The finalised parachain block whose state was read.
    pub block: ParaNumber,
    /// One answer per call, in order.
    pub calls: Vec<Effect>,
}

/// Submits batches and determines their outcomes.
///
/// ```
/// use async_trait::async_trait;
/// use prb_core::{
///     chain::{BatchOutcome, Call, CallBatch, ChainSubmitter, Effects, SubmitError, SubmitProgress},
///     primitives::AccountId,
/// };
/// use tokio::sync::mpsc;
///
/// /// Queries the chain but sends nothing: for a dry run beside another bridge.
/// #[derive(Debug)]
/// struct ReadOnly<S>(S);
///
/// #[async_trait]
/// impl<S: ChainSubmitter> ChainSubmitter for ReadOnly<S> {
///     async fn submit(
///         &self,
///         batch: &CallBatch,
///         _progress: mpsc::Sender<SubmitProgress>,
///     ) -> Result<BatchOutcome, SubmitError> {
///         let reason = format!("{} calls are not sent: this is a dry run", batch.calls.len());
///         Err(SubmitError::Refused { reason, retryable: false })
///     }
///
///     async fn effects(&self, account: AccountId, calls: &[Call]) -> Result<Effects, SubmitError> {
///         self.0.effects(account, calls).await
///     }
///
///     fn forget(&self, account: AccountId) {
///         self.0.forget(account);
///     }
/// }
/// ```
#[async_trait]
pub trait ChainSubmitter: Send + Sync + fmt::Debug {
    /// Signs and submits one batch, and watches it until it is final.
    ///
    /// Before the first batch of an account the submitter waits until no earlier transaction of it can take effect
    /// unnoticed, so that a restarted program does not repeat what its predecessor sent: until none is pending, or, if
    /// other programs send from the account as well, until those that were pending at first are final.
    ///
    /// Calls for one operator must not overlap: the caller keeps one batch in flight per account. Progress is
    /// sent to `progress`; a full channel loses progress, never the outcome.
    ///
    /// # Errors
    /// See [`SubmitError`].
    ///
    /// # Cancel safety
    /// A cancelled call may have sent the transaction: read [`effects`](Self::effects) before sending again.
    async fn submit(
        &self,
        batch: &CallBatch,
        progress: tokio::sync::mpsc::Sender<SubmitProgress>,
    ) -> Result<BatchOutcome, SubmitError>;

    /// Reads from the chain's newest finalised state which calls have taken effect, in the calls' order. Like
    /// [`submit`](Self::submit), waits first for what was sent earlier for `account`.
    ///
    /// # Errors
    /// [`SubmitError::Unavailable`].
    ///
    /// # Cancel safety
    /// Safe: only the answer is lost.
    async fn effects(&self, account: AccountId, calls: &[Call]) -> Result<Effects, SubmitError>;

    /// Discards cached knowledge of `account`, because others may have sent for it: the next call for the
    /// account waits again for its pending transactions. Must not be called while a call for the
    /// account is in flight.
    ///
    /// A no-op for a submitter that caches nothing between calls.
    fn forget(&self, account: AccountId);
}
