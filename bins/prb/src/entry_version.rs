//! Versions of pools and workers, for refusing edits that are based on an outdated one.

use prb_core::{
    inventory::{Pool, Snapshot, Worker},
    primitives::Hash,
};

/// A text that changes with any field of the entry: `Debug` contains them all.
pub(crate) fn of_worker(worker: &Worker) -> String {
    of_bytes(format!("{worker:?}").as_bytes())
}

/// The same for a pool, including the sealed key, which `Debug` does not show.
pub(crate) fn of_pool(pool: &Pool) -> String {
    let mut bytes = format!("{pool:?}").into_bytes();
    if let Some(operator) = &pool.operator {
        bytes.extend(&operator.key.0);
    }
    of_bytes(&bytes)
}

/// The same for all pools and workers. This is not the inventory's revision, which also counts the fleet's
/// saved state: an editor would be refused because a worker's goal has changed.
pub(crate) fn of_all(snapshot: &Snapshot) -> String {
    let pools = snapshot.pools.iter().map(|pool| of_pool(pool));
    let workers = snapshot.workers.iter().map(|worker| of_worker(worker));
    of_bytes(pools.chain(workers).collect::<String>().as_bytes())
}

/// The same for bytes.
pub(crate) fn of_bytes(bytes: &[u8]) -> String {
    // Without 0x; 80 bits suffice to tell versions apart. A release may change it, because no version is
    // stored.
    Hash::of(bytes).to_string().chars().skip(2).take(20).collect()
}
