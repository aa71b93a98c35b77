//! Maps the inventory's errors to the entry of the call that is at fault.

use std::collections::HashSet;

use uuid::Uuid;

use super::{Error, edit::RequestedEdit, values::Entry};
use crate::inventory::{self, Edit, Pool, Snapshot, Worker, clean_name, normal_endpoint};

/// Maps the inventory's error to the given entry.
pub(super) fn map_error(entry: &Entry, error: inventory::Error) -> Error {
    let entry = entry.to_string();
    match error {
        inventory::Error::Duplicate { what: field, value, holder } => {
            Error::Duplicate { entry, field, value, holder }
        }
        inventory::Error::Invalid { what, reason } => Error::Invalid { entry, field: what, reason },
        inventory::Error::PutTwice { .. } => {
            Error::Invalid { entry, field: "id".to_owned(), reason: error.to_string() }
        }
        inventory::Error::Unknown { what, id } => Error::NotFound { entry, what, id: id.to_string() },
        inventory::Error::Full { what, limit } => Error::Full { what, limit },
        inventory::Error::Storage(source) => Error::Storage(source),
    }
}

/// Maps the inventory's error to the entry at fault, which it looks up.
pub(super) fn locate(before: &Snapshot, requested: &[RequestedEdit], error: inventory::Error) -> Error {
    let (at_fault, error) = match error {
        inventory::Error::Duplicate { what, value, holder } => {
            // The inventory compares the values after all edits, so it cannot tell which of two is at fault:
            // the later one in the call is named.
            let at_fault =
                requested.iter().rposition(|(_, edit)| value_of(edit, what).as_ref() == Some(&value));
            let holder = other_holder(before, requested, at_fault, what, &value).unwrap_or(holder);
            (at_fault, inventory::Error::Duplicate { what, value, holder })
        }
        inventory::Error::Unknown { what, id } => {
            let removes = |edit: &Edit| matches!(edit, Edit::RemovePool(gone) | Edit::RemoveWorker(gone) if *gone == id);
            (requested.iter().position(|(_, edit)| removes(edit)), inventory::Error::Unknown { what, id })
        }
        error => (None, error),
    };
    let entry = at_fault.map_or_else(|| Entry::new("call", 0, ""), |at| requested[at].0.clone());
    map_error(&entry, error)
}

/// Returns the name of another entry with that value: one of the call's, else one that the call does not
/// touch.
fn other_holder(
    before: &Snapshot,
    requested: &[RequestedEdit],
    at_fault: Option<usize>,
    what: &str,
    value: &str,
) -> Option<String> {
    let in_call =
        requested.iter().enumerate().filter(|(at, _)| Some(*at) != at_fault).map(|(_, (_, edit))| edit);
    // Entries of the call replace those of the snapshot, whose values no longer count.
    let touched: HashSet<Uuid> = requested.iter().map(|(_, edit)| id_of(edit)).collect();
    let pools = before.pools.iter().map(|pool| Edit::PutPool(Pool::clone(pool)));
    let workers = before.workers.iter().map(|worker| Edit::PutWorker(Worker::clone(worker)));
    let kept = pools.chain(workers).filter(|edit| !touched.contains(&id_of(edit)));
    let holder = in_call.cloned().chain(kept).find(|edit| value_of(edit, what).as_deref() == Some(value))?;
    match holder {
        Edit::PutPool(pool) => Some(pool.name),
        Edit::PutWorker(worker) => Some(worker.name),
        _ => None,
    }
}

/// Returns the value that the inventory compares under that field name.
fn value_of(edit: &Edit, what: &str) -> Option<String> {
    match (edit, what) {
        (Edit::PutPool(pool), "pid") => Some(pool.pid.to_string()),
        (Edit::PutPool(pool), "pool name") => Some(clean_name(&pool.name)),
        (Edit::PutWorker(worker), "worker name") => Some(clean_name(&worker.name)),
        (Edit::PutWorker(worker), "worker endpoint") => Some(normal_endpoint(&worker.endpoint)),
        _ => None,
    }
}

const fn id_of(edit: &Edit) -> Uuid {
    match edit {
        Edit::PutPool(pool) => pool.id,
        Edit::PutWorker(worker) => worker.id,
        Edit::RemovePool(id) | Edit::RemoveWorker(id) | Edit::PutFleetRecord(id, _) => *id,
    }
}
