//! Why a call of the manager does nothing.

use super::KeyError;
use crate::{fleet::CommandError, vault};

/// Why a call does nothing. Nothing of it was applied, no worker was commanded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Another entry has that value already, or another one of this call.
    #[error("{entry}: {field} {value:?} is taken by {holder:?}")]
    Duplicate {
        /// The entry of the call: `pools[0] "name"`.
        entry: String,
        /// `pid`, `pool name`, `worker name` or `worker endpoint`.
        field: &'static str,
        /// The value.
        value: String,
        /// The name of the one that has it.
        holder: String,
    },
    /// There is no such thing.
    #[error("{entry}: there is no {what} {id}")]
    NotFound {
        /// The entry of the call: `ids[0]`.
        entry: String,
        /// `pool` or `worker`.
        what: &'static str,
        /// What was looked for.
        id: String,
    },
    /// A value that cannot be.
    #[error("{entry}: the {field} is not valid: {reason}")]
    Invalid {
        /// The entry of the call.
        entry: String,
        /// The field.
        field: String,
        /// Why, without secrets.
        reason: String,
    },
    /// More entries than a call may have.
    #[error("{count} entries in one call are too many: send at most {limit}")]
    TooMany {
        /// How many there are.
        count: usize,
        /// The bound.
        limit: usize,
    },
    /// The inventory's bound is reached.
    #[error("the inventory holds its {limit} {what}s: delete some first")]
    Full {
        /// `pool` or `worker`.
        what: &'static str,
        /// The bound.
        limit: usize,
    },
    /// The account of a secret is not known, and the secret is not to blame.
    #[error("{entry}: the operator's account cannot be read from its secret")]
    Keys {
        /// The entry of the call.
        entry: String,
        /// Why.
        #[source]
        source: KeyError,
    },
    /// The inventory is not as the caller expects it (see [`Manager::only_if`](super::Manager::only_if)).
    #[error("pools or workers have changed since they were read: read them again")]
    Changed,
    /// A secret cannot be sealed.
    #[error("{entry}: the operator's secret cannot be sealed")]
    Vault {
        /// The entry of the call.
        entry: String,
        /// Why.
        #[source]
        source: vault::Error,
    },
    /// The inventory failed.
    #[error("the inventory cannot be stored")]
    Storage(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// There is no fleet to command.
    #[error("no worker runs here, only the inventory is edited (PHALA_LIFECYCLE_CONFIG_MODE)")]
    NoFleet,
    /// None of the workers takes the command.
    #[error("no worker was commanded: {0}")]
    NotCommanded(CommandError),
}

impl Error {
    /// Whether the caller can put it right; else it is the daemon's trouble.
    pub const fn is_callers(&self) -> bool {
        !matches!(self, Self::Keys { .. } | Self::Vault { .. } | Self::Storage(_))
    }
}
