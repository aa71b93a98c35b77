//! chain in memory.
