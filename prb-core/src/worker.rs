//! One worker: observe, decide, act.
