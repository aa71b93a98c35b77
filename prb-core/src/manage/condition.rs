//! [`Condition`]: a precondition of an edit, for optimistic concurrency.

use std::{fmt, sync::Arc};

use crate::inventory::Snapshot;

type Test = dyn Fn(&Snapshot) -> bool + Send + Sync;

/// A test of the inventory, evaluated under the edit lock: no other edit comes between it and the edit.
#[derive(Clone, Default)]
pub(super) struct Condition(Option<Arc<Test>>);

impl Condition {
    pub(super) fn new(test: impl Fn(&Snapshot) -> bool + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(test)))
    }

    /// Whether an edit may be applied to the snapshot.
    pub(super) fn is_met(&self, snapshot: &Snapshot) -> bool {
        self.0.as_ref().is_none_or(|test| test(snapshot))
    }
}

impl fmt::Debug for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Condition(given)" } else { "Condition(none)" })
    }
}
