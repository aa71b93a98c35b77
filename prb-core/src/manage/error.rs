//! The manager's error type.

use std::fmt;

use super::KeyError;
use crate::{fleet::CommandError, vault};

/// Why a call failed. Nothing was applied, and no worker was commanded.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Another entry, or another item of this call, already has that value.
    #[error("{entry}: {field} {value:?} is taken by {holder:?}")]
    Duplicate {
        /// The entry of the call: `pools[0] "name"`.
        entry: String,
        /// `pid`, `pool name`, `worker name` or `worker endpoint`.
        field: &'static str,
        /// The value.
        value: String,
        /// The name of the entry that has it.
        holder: String,
    },
    /// There is no such pool or worker.
    #[error("{entry}: there is no {what} {id}")]
    NotFound {
        /// The entry of the call: `ids[0]`.
        entry: String,
        /// `pool` or `worker`.
        what: &'static str,
        /// The id, name or number that was looked up.
        id: String,
    },
    /// A value is invalid.
    #[error("{entry}: the {field} is not valid: {reason}")]
    Invalid {
        /// The entry of the call.
        entry: String,
        /// The field.
        field: String,
        /// Why it is invalid, without secrets.
        reason: String,
    },
    /// The call has too many entries.
    #[error("{count} entries in one call are too many: send at most {limit}")]
    TooMany {
        /// The number of entries.
        count: usize,
        /// The maximum.
        limit: usize,
    },
    /// The inventory holds its maximum.
    #[error("the inventory holds its maximum of {limit} {what}s: delete some first")]
    Full {
        /// `pool` or `worker`.
        what: &'static str,
        /// The maximum.
        limit: usize,
    },
    /// The account of a secret could not be derived, for a reason other than the secret itself.
    #[error("{entry}: the operator's account cannot be derived from its secret")]
    Keys {
        /// The entry of the call.
        entry: String,
        /// The cause.
        #[source]
        source: KeyError,
    },
    /// The condition of [`Manager::with_condition`](super::Manager::with_condition) does not hold.
    #[error("pools or workers have changed since they were read: read them again")]
    Changed,
    /// A secret cannot be sealed.
    #[error("{entry}: the operator's secret cannot be sealed")]
    Vault {
        /// The entry of the call.
        entry: String,
        /// The cause.
        #[source]
        source: vault::Error,
    },
    /// The inventory failed.
    #[error("the inventory cannot be stored")]
    Storage(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// There is no fleet to command.
    #[error("no workers run in this process: it only manages the inventory{}", InParentheses(*.setting))]
    NoFleet {
        /// The program's setting that decides this, as set by
        /// [`Manager::with_fleet_setting`](super::Manager::with_fleet_setting).
        setting: Option<&'static str>,
    },
    /// No worker accepted the command.
    #[error("no worker was commanded: {0}")]
    NotCommanded(CommandError),
}

struct InParentheses(Option<&'static str>);

impl fmt::Display for InParentheses {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(text) => write!(f, " ({text})"),
            None => Ok(()),
        }
    }
}

impl Error {
    /// Whether the caller is at fault and can correct the call; otherwise the daemon is at fault.
    pub const fn is_caller_fault(&self) -> bool {
        !matches!(self, Self::Keys { .. } | Self::Vault { .. } | Self::Storage(_))
    }
}
