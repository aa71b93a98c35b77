//! The trade engine: jobs to lanes, lanes to batches, batches to outcomes.
