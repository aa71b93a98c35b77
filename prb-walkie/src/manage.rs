//! The management calls of a lifecycle manager.
