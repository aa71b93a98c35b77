//! [`State`]: a worker's label as the original names it.

use std::fmt;

use serde::Serialize;

/// A worker's state as operators of the original know it: a label derived from what is observed, never a
/// memory. [`Reason`](super::Reason) says more.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
pub enum State {
    /// Does not run.
    #[default]
    #[serde(rename = "S_IDLE")]
    Idle,
    /// Being found, or initialised.
    #[serde(rename = "S_STARTING")]
    Starting,
    /// Behind the chain.
    #[serde(rename = "S_SYNCHING")]
    Synching,
    /// At the tip, and to stay there without computing.
    #[serde(rename = "S_SYNCHED")]
    Synched,
    /// At the tip, on its way to computing.
    #[serde(rename = "S_PRE_ACTIVE")]
    PreActive,
    /// Computing.
    #[serde(rename = "S_ACTIVE")]
    Active,
    /// Told to exit, not back yet.
    #[serde(rename = "S_KICKED")]
    Kicked,
    /// Something is wrong; it is tried again.
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
