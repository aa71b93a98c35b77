//! queue in memory.
