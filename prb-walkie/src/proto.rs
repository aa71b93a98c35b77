//! Walkie's messages.
