//! inventory in memory.
