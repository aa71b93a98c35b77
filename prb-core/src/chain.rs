//! The seams to the parachain: [`ChainReader`] for what it says of workers, pools and accounts,
//! [`ChainSubmitter`] for what the pools' operators send.
//!
//! Not for: block data on its way to workers (see [`crate::blob`]).

use std::{collections::BTreeSet, fmt, sync::Arc};

use tokio::sync::watch;

use crate::{
    primitives::{AccountId, PoolId, WorkerKey},
    wire::MessageOrigin,
};

mod call;
pub mod memory;
mod refusal;
mod stake;
mod submit;
mod view;

pub use call::Call;
pub use refusal::{KnownRefusal, REFUSALS, RefusalClass, refusal};
pub use stake::StakeRules;
pub use submit::{
    BatchOutcome, CallBatch, ChainSubmitter, DispatchError, Effect, Effects, MessageEffects, SubmitError,
    SubmitProgress,
};
pub use view::{
    AccountOnChain, ChainView, PoolOnChain, Reading, Registration, Session, SessionState, Unreadable,
    Withdrawal, WorkerOnChain, session_account,
};

/// What a [`ChainReader`] is to read at each block.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
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
/// Declarative: the caller states the whole set that it wants read, at any time, and never waits for it. A
/// view shows what it could read of the set; a subject is missing from a view until the first one that was
/// read after it joined the set, and shows as [`Unreadable`] where its value could not be read or where the
/// reader's bound was reached. One subject never holds up another.
///
/// An implementation makes a constant number of node calls per block, however large the set.
///
/// ```
/// use std::sync::Arc;
/// use prb_core::chain::{ChainReader, ChainView, Followed};
/// use tokio::sync::watch;
///
/// /// Shows whatever somebody else puts into the channel.
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
    /// The view at the newest finalised block, now and whenever a block is finalised. `None` until the first;
    /// the channel closes when the reader has stopped.
    fn views(&self) -> watch::Receiver<Option<Arc<ChainView>>>;

    /// Replaces the set of what is followed. Returns at once and never blocks. What left the set is gone from
    /// the next view; what joined it appears as soon as it is read.
    fn follow(&self, followed: Followed);
}
