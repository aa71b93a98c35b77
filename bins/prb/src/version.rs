//! Versions of pools and workers, by which an edit that is based on an older one is refused.

use prb_core::{
    inventory::{Pool, Snapshot, Worker},
    primitives::Hash,
};

/// A text that differs for entries that differ in any field: `Debug` names them all.
pub(crate) fn of_worker(worker: &Worker) -> String {
    of_bytes(format!("{worker:?}").as_bytes())
}

/// The same of a pool. The sealed key counts too, which `Debug` does not show.
pub(crate) fn of_pool(pool: &Pool) -> String {
    let mut bytes = format!("{pool:?}").into_bytes();
    if let Some(operator) = &pool.operator {
        bytes.extend(&operator.key.0);
    }
    of_bytes(&bytes)
}

/// The same of all pools and workers. Not the inventory's revision: that counts what the fleet saves as well, and
/// an editor would be refused because a worker's goal has changed.
pub(crate) fn of_all(snapshot: &Snapshot) -> String {
    let pools = snapshot.pools.iter().map(|pool| of_pool(pool));
    let workers = snapshot.workers.iter().map(|worker| of_worker(worker));
    of_bytes(pools.chain(workers).collect::<String>().as_bytes())
}

/// The same of anything that has a text.
pub(crate) fn of_bytes(bytes: &[u8]) -> String {
    Hash::of(bytes).to_string().chars().skip(2).take(20).collect()
}
