//! The record of an entry that gets a key: with the goal of the key's previous entry, if the inventory has one.
//!
//! The inventory recognises a worker that is added again by its name or endpoint. One that was renamed and has another
//! address, or whose entry has exchanged addresses with another one, is recognised here, by its key: otherwise a worker
//! that was stopped on purpose would be staked for again.

use tracing::warn;

use super::Task;
use crate::{
    inventory::{FleetRecord, Goal, SeenKeys},
    primitives::{PoolId, WorkerKey},
    worker::{Command, command, record},
};

impl Task {
    /// Returns the record of this entry with `key`, which answers here and becomes the entry's. `assigned` is the key's
    /// pool on chain.
    ///
    /// A stop counts for the entry and for the key: unless the entry has another goal than to compute, such as that of a
    /// command given here, it goes on with the goal that the key had at another entry. The record of another pool counts
    /// while the key is assigned to that pool. Once the key has left it, adding the worker to this pool is a decision of
    /// its own.
    pub(super) fn resumed(&self, key: WorkerKey, assigned: Option<PoolId>) -> FleetRecord {
        let worker = &self.desired.worker;
        let saved = record::with_key(self.saved, key);
        let of_pool = |pool| pool == worker.pid || assigned == Some(pool);
        let Some((pool, before)) = self.ctx.saver.record_of_key(key, worker.id, of_pool) else {
            return saved;
        };
        let goal = if saved.goal == Goal::Compute { before.goal } else { saved.goal };
        if goal != saved.goal {
            warn!(
                worker = worker.name,
                %goal,
                %key,
                "a worker that was removed, renamed or moved is back and keeps its goal: start it if it should compute"
            );
        }
        FleetRecord {
            goal,
            // As after an edit of the pool: the session in another pool says nothing about this one.
            was_computing: before.was_computing && pool == worker.pid,
            sent: before.sent,
            seen_keys: saved.seen_keys.map(|seen| with_change(seen, before.seen_keys)).or(before.seen_keys),
            as_of: saved.as_of.max(before.as_of),
            ..saved
        }
    }

    /// Returns the record after a command.
    pub(super) fn saved_after(&self, given: Command) -> FleetRecord {
        let status = self.slot.status();
        match status.public_key {
            // Not if it is the worker's key already: what is in flight for it would no longer be recognised.
            Some(key) if given == Command::ConfirmKey && self.saved.key != Some(key) => {
                let chain = self.on_chain.worker.as_ref().and_then(|chain| chain.as_ref().ok());
                self.resumed(key, chain.and_then(|chain| chain.pool))
            }
            _ => command::with_goal(given, self.saved, &status),
        }
    }
}

/// The keys that answer here, with the last change at the previous entry if there was none here.
fn with_change(seen: SeenKeys, before: Option<SeenKeys>) -> SeenKeys {
    let changed = before.filter(|before| before.key == seen.key).and_then(|before| before.changed);
    SeenKeys { changed: seen.changed.or(changed), ..seen }
}
