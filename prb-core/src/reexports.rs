//! Crates whose types and traits appear in this crate's signatures, in the versions that it uses.
//!
//! ```
//! use prb_core::reexports::{bytes::Bytes, secrecy::SecretString};
//!
//! let body = Bytes::from_static(b"request");
//! let secret = SecretString::from("operator");
//! # let _ = (body, secret);
//! ```

pub use async_trait;
pub use bytes;
pub use codec;
pub use prost;
pub use secrecy;
pub use serde_json;
pub use uuid;
