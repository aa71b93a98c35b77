//! [`Condition`]: what must still be so when an edit is applied.

use std::{fmt, sync::Arc};

use crate::inventory::Snapshot;

type Test = dyn Fn(&Snapshot) -> bool + Send + Sync;

/// A test of the inventory, made under the lock that edits hold: no other edit comes between it and the edit.
#[derive(Clone, Default)]
pub(super) struct Condition(Option<Arc<Test>>);

impl Condition {
    pub(super) fn new(test: impl Fn(&Snapshot) -> bool + Send + Sync + 'static) -> Self {
        Self(Some(Arc::new(test)))
    }

    /// Whether an edit may be applied to the snapshot.
    pub(super) fn holds(&self, snapshot: &Snapshot) -> bool {
        self.0.as_ref().is_none_or(|test| test(snapshot))
    }
}

impl fmt::Debug for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Condition(given)" } else { "Condition(none)" })
    }
}
