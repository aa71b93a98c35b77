//! [`State`]: a worker's state label, with the names of the original Runtime Bridge.

use std::fmt;

use serde::Serialize;

/// A worker's state as operators of the original Runtime Bridge know it: a label derived from the
/// observation, never stored. [`Reason`](super::Reason) has the details.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub enum State {
    /// Does not run.
    #[default]
    #[serde(rename = "S_IDLE")]
    Idle,
    /// Connecting, or being initialised.
    #[serde(rename = "S_STARTING")]
    Starting,
    /// Behind the chain.
    #[serde(rename = "S_SYNCHING")]
    Synching,
    /// At the tip, and not meant to compute.
    #[serde(rename = "S_SYNCHED")]
    Synched,
    /// At the tip, preparing to compute.
    #[serde(rename = "S_PRE_ACTIVE")]
    PreActive,
    /// Computing.
    #[serde(rename = "S_ACTIVE")]
    Active,
    /// Kicked, not back yet.
    #[serde(rename = "S_KICKED")]
    Kicked,
    /// Something fails; it is retried.
    #[serde(rename = "S_ERROR")]
    Error,
}

impl State {
    /// Every state, by number.
    pub const ALL: [Self; 8] = [
        Self::Idle,
        Self::Starting,
        Self::Synching,
        Self::Synched,
        Self::PreActive,
        Self::Active,
        Self::Kicked,
        Self::Error,
    ];

    /// Its name on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Idle => "S_IDLE",
            Self::Starting => "S_STARTING",
            Self::Synching => "S_SYNCHING",
            Self::Synched => "S_SYNCHED",
            Self::PreActive => "S_PRE_ACTIVE",
            Self::Active => "S_ACTIVE",
            Self::Kicked => "S_KICKED",
            Self::Error => "S_ERROR",
        }
    }

    /// Its number on the wire.
    pub const fn number(self) -> u8 {
        self as u8
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
