//! All workers: runners, shared limits, status.
