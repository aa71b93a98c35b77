//! blob in memory.
