//! [`KeyQuota`]: how many keys of one worker are registered within a time.

use std::time::Duration;

use tokio::time::Instant;

use super::on_chain::RETRY_REFUSED_AFTER;
use crate::primitives::WorkerKey;

/// Most keys that are registered within [`RETRY_REFUSED_AFTER`]. Each costs a fee, and a machine that somebody else runs
/// can have a new one as often as it likes.
const MAX_KEYS: usize = 4;

/// The keys that were registered of late.
#[derive(Debug, Default)]
pub(super) struct KeyQuota(Vec<(WorkerKey, Instant)>);

impl KeyQuota {
    /// Records that a key is registered. Returns how long it has to wait if there were too many others.
    pub(super) fn take(&mut self, key: WorkerKey, now: Instant) -> Option<Duration> {
        self.0.retain(|(_, at)| now.duration_since(*at) < RETRY_REFUSED_AFTER);
        if self.0.iter().any(|(known, _)| *known == key) {
            return None;
        }
        if self.0.len() >= MAX_KEYS {
            return self.0.first().map(|(_, at)| (*at + RETRY_REFUSED_AFTER).duration_since(now));
        }
        self.0.push((key, now));
        None
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}
