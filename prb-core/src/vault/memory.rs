//! vault in memory.
