//! [`Operation`], [`Action`] and [`Decision`]: what is to be done about a worker.

use std::sync::Arc;

use super::{Reason, State};
use crate::{inventory::SentOperation, primitives::Balance, sync::Step};

/// An operation on chain that moves a worker on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Operation {
    /// Register, or register again with the configured operator or a fresh attestation.
    Register,
    /// Add to the pool.
    AddToPool,
    /// Start computing with this stake.
    Start(Balance),
    /// Restart computing with this, higher stake.
    RaiseStake(Balance),
    /// Stop computing.
    Stop,
    /// Free the stake after the cool-down.
    Reclaim,
    /// Take out of the pool.
    LeavePool,
    /// Announce the configured endpoints.
    AnnounceEndpoints,
}

impl Operation {
    /// A short name for logs and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Register => "register",
            Self::AddToPool => "add",
            Self::Start(_) => "start",
            Self::RaiseStake(_) => "restart",
            Self::Stop => "stop",
            Self::Reclaim => "reclaim",
            Self::LeavePool => "remove",
            Self::AnnounceEndpoints => "announce",
        }
    }

    /// What it does, as messages say it.
    pub const fn in_words(self) -> &'static str {
        match self {
            Self::Register => "Registering worker",
            Self::AddToPool => "Adding worker to its pool",
            Self::Start(_) => "Starting computing",
            Self::RaiseStake(_) => "Raising its stake",
            Self::Stop => "Stopping computing",
            Self::Reclaim => "Reclaiming its stake",
            Self::LeavePool => "Taking worker out of its pool",
            Self::AnnounceEndpoints => "Announcing its endpoints",
        }
    }

    /// What is remembered of it beyond a restart, until its effect is seen.
    pub(super) const fn remembered(self) -> Option<SentOperation> {
        match self {
            Self::Start(_) => Some(SentOperation::Start),
            Self::Stop => Some(SentOperation::Stop),
            _ => None,
        }
    }

    /// Whether both are the same operation, whatever their stakes.
    pub fn is_like(self, other: Self) -> bool {
        std::mem::discriminant(&self) == std::mem::discriminant(&other)
    }
}

/// What to do next besides syncing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// Nothing, until something changes.
    Wait,
    /// Nothing for a while, then look at the worker again: nobody tells when this changes.
    Recheck,
    /// `GetInfo`.
    Observe,
    /// `InitRuntime`.
    Init,
    /// Ask for messages and send those that are not under way.
    Relay,
    /// Send an operation on chain.
    Operate(Operation),
}

/// What [`decide`](super::decide) says.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Decision {
    /// The label.
    pub state: State,
    /// Why it stands there.
    pub reason: Reason,
    /// What people are told: the reason in words.
    pub message: Arc<str>,
    /// What to do.
    pub action: Action,
    /// The headers or blocks to send it, beside the action; [`Step::Wait`] where there are none, or where it
    /// is not to be synced now.
    pub sync: Step,
    /// The operation that would move the worker on, also where it cannot be sent now.
    pub wanted: Option<Operation>,
}
