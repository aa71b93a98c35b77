//! [`RegistrationQuota`]: how often one worker is registered within a time.

use std::time::Duration;

use tokio::time::Instant;

use super::on_chain::RETRY_REFUSED_AFTER;
use crate::primitives::WorkerKey;

/// Most keys that are registered within [`RETRY_REFUSED_AFTER`]. Each costs a fee, and a machine that somebody else runs
/// can have a new one as often as it likes.
const MAX_KEYS: usize = 4;
/// Most registrations within [`RETRY_REFUSED_AFTER`] that replace another operator's. One is a move of the worker; if
/// the other account registers it again each time, another manager wants it as well, and both pay without end.
const MAX_TAKEOVERS: usize = 2;

/// Recent registrations.
#[derive(Debug, Default)]
pub(super) struct RegistrationQuota {
    keys: Vec<(WorkerKey, Instant)>,
    takeovers: Vec<Instant>,
}

/// Why a registration has to wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exceeded {
    Keys,
    Takeovers,
}

impl RegistrationQuota {
    /// Records that a key is to be registered. Returns how long it has to wait if there were too many others, or if
    /// it would replace another operator's registration once too often.
    pub(super) fn take(
        &mut self,
        key: WorkerKey,
        takes_over: bool,
        now: Instant,
    ) -> Result<(), (Exceeded, Duration)> {
        let recent = |at: &Instant| now.duration_since(*at) < RETRY_REFUSED_AFTER;
        self.keys.retain(|(_, at)| recent(at));
        self.takeovers.retain(recent);
        let wait = |first: Instant| (first + RETRY_REFUSED_AFTER).duration_since(now);
        if takes_over && self.takeovers.len() >= MAX_TAKEOVERS {
            return Err((Exceeded::Takeovers, wait(self.takeovers[0])));
        }
        if self.keys.iter().any(|(known, _)| *known == key) {
            return Ok(());
        }
        if self.keys.len() >= MAX_KEYS {
            return Err((Exceeded::Keys, wait(self.keys[0].1)));
        }
        self.keys.push((key, now));
        Ok(())
    }

    /// Records that a registration has replaced another operator's.
    pub(super) fn took_over(&mut self, now: Instant) {
        self.takeovers.push(now);
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}
