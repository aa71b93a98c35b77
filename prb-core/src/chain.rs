//! The seams to the parachain: [`ChainReader`] reads the state of workers, pools and accounts,
//! [`ChainSubmitter`] submits the calls of the pools' operators.
//!
//! Not for: block data for workers (see [`crate::blob`]).

use std::{collections::BTreeSet, fmt, sync::Arc};

use tokio::sync::watch;

use crate::{
    primitives::{AccountId, PoolId, WorkerKey},
    wire::MessageOrigin,
};

mod call;
mod known_errors;
#[cfg(feature = "testing")]
pub mod memory;
mod stake;
mod submit;
mod view;

pub use call::Call;
pub use known_errors::{ErrorClass, KNOWN_ERRORS, KnownError, known_error};
pub use stake::StakeRules;
pub use submit::{
    BatchOutcome, CallBatch, ChainSubmitter, DispatchError, Effect, Effects, MessageEffects, SubmitError,
    SubmitProgress,
};
pub use view::{
    AccountOnChain, ChainView, PoolOnChain, Reading, Registration, Session, SessionState, Unreadable,
    Withdrawal, WorkerOnChain, session_account,
};

/// The subjects that a [`ChainReader`] reads at each block.
#[derive(Clone, Debug, Default, PartialEq, Eq, derive_setters::Setters)]
#[setters(prefix = "with_")]
#[non_exhaustive]
pub struct Followed {
    /// Workers, by public key.
    pub workers: BTreeSet<WorkerKey>,
    /// Stake pools.
    pub pools: BTreeSet<PoolId>,
    /// Accounts whose balance is read: operators.
    pub accounts: BTreeSet<AccountId>,
    /// Senders other than workers whose next message sequence is read: gatekeepers, clusters, contracts. The
    /// sequence of a followed worker is a part of its [`WorkerOnChain`].
    pub senders: BTreeSet<MessageOrigin>,
}

/// The on-chain state of workers, pools and accounts, followed block by block.
///
/// Declarative: the caller states the whole set to read, at any time, and never waits for it. A
/// view contains what could be read of the set; a subject is missing from a view until the first one that was
/// read after it joined the set, and is [`Unreadable`] if its value could not be read or the
/// reader's limit was reached. One subject never holds up another.
///
/// An implementation makes a constant number of node calls per block, however large the set.
///
/// ```
/// use std::sync::Arc;
/// use prb_core::chain::{ChainReader, ChainView, Followed};
/// use tokio::sync::watch;
///
/// /// Provides the views that another task sends into the channel.
/// #[derive(Debug)]
/// struct Fixed(watch::Sender<Option<Arc<ChainView>>>);
///
/// impl ChainReader for Fixed {
///     fn views(&self) -> watch::Receiver<Option<Arc<ChainView>>> {
///         self.0.subscribe()
///     }
///     fn follow(&self, _followed: Followed) {}
/// }
/// ```
pub trait ChainReader: Send + Sync + fmt::Debug {
    /// The view at the newest finalised block, updated whenever a block is finalised. `None` until the first;
    /// the channel closes when the reader stops.
    fn views(&self) -> watch::Receiver<Option<Arc<ChainView>>>;

    /// Replaces the followed set. Returns at once and never blocks. Subjects that left the set are missing from
    /// the next view; subjects that joined it appear as soon as they are read.
    fn follow(&self, followed: Followed);
}
