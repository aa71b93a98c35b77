//! [`Operation`], [`Action`] and [`Decision`]: the output of [`decide`](super::decide).

use std::sync::Arc;

use super::{Reason, State};
use crate::{inventory::PendingOperationKind, primitives::Balance, sync::Step};

/// An on-chain operation that advances a worker towards its goal.
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
    /// Every [`name`](Self::name).
    pub const NAMES: [&str; 8] =
        ["register", "add", "start", "restart", "stop", "reclaim", "remove", "announce"];

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

    /// The operation as a gerund phrase, for messages.
    pub const fn description(self) -> &'static str {
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

    /// The record to persist until the operation's effect is observed, for operations whose late effect could
    /// be mistaken for an external one.
    pub(super) const fn recorded_as(self) -> Option<PendingOperationKind> {
        match self {
            Self::Start(_) => Some(PendingOperationKind::Start),
            Self::Stop => Some(PendingOperationKind::Stop),
            _ => None,
        }
    }

    /// Whether the chain refused it with `error` for want of free stake in the pool.
    pub(super) fn is_short_of_stake(self, error: &str) -> bool {
        matches!(self, Self::Start(_) | Self::RaiseStake(_)) && error.ends_with("InsufficientFreeStake")
    }

    /// Whether both are the same kind of operation, regardless of stake.
    pub fn is_like(self, other: Self) -> bool {
        std::mem::discriminant(&self) == std::mem::discriminant(&other)
    }
}

/// The next step besides syncing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Action {
    /// Do nothing until something changes.
    Wait,
    /// Do nothing for a while, then call `GetInfo`: no notification arrives when this situation changes.
    Recheck,
    /// `GetInfo`.
    Observe,
    /// `InitRuntime`.
    Init,
    /// Fetch the worker's messages and submit those that are not in flight.
    Relay,
    /// Submit an operation on chain.
    Operate(Operation),
}

/// The result of [`decide`](super::decide).
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Decision {
    /// The state label.
    pub state: State,
    /// Why the worker is in that state.
    pub reason: Reason,
    /// The reason in words, for operators.
    pub message: Arc<str>,
    /// What to do.
    pub action: Action,
    /// The headers or blocks to send, concurrently with the action; [`Step::Wait`] if there are none or the
    /// worker must not be synced now.
    pub sync: Step,
    /// The operation that would advance the worker, even if it cannot be submitted now.
    pub wanted: Option<Operation>,
    /// Whether nothing but time and the pool's stake keeps the worker from computing with its full stake. A failure that
    /// has not lasted yet does not count: it would cost the worker its turn among those that wait for stake.
    pub on_the_way: bool,
}

#[cfg(test)]
mod tests {
    use super::Operation;

    #[test]
    fn every_name_is_listed_once() {
        let all = [
            Operation::Register,
            Operation::AddToPool,
            Operation::Start(0),
            Operation::RaiseStake(0),
            Operation::Stop,
            Operation::Reclaim,
            Operation::LeavePool,
            Operation::AnnounceEndpoints,
        ];
        assert_eq!(all.map(Operation::name), Operation::NAMES);
    }
}
