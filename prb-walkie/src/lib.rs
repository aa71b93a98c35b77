//! Identity keys of Phala Runtime Bridge, and what they protect.
//!
//! Every daemon has an identity: an RSA-2048 key in a file of its own, made at the first start. Its hash is
//! the daemon's peer id, by which other daemons know it, and it wraps the keys under which the operators'
//! secrets are sealed. Who loses the file loses both.
//!
//! ```text
//!   {prefix}/LIFECYCLE ──▶ Identity ──▶ PeerId         who we are        (base58, in the log)
//!                             │
//!                             └──────▶ RsaVault        operators' keys   (sealed in files, stores, queues)
//!                                         │ implements
//!                                         ▼
//!                                prb_core::vault::Vault
//! ```
//!
//! # What it is not
//!
//! - It opens no connection: the peers' protocol is not part of this crate yet.
//! - It keeps no operator's key: [`RsaVault`](vault::RsaVault) turns secrets into bytes and back, and the
//!   inventory and the jobs carry those bytes.
//! - It is no key store for several machines: whoever is to open a sealed secret (a trader beside a
//!   lifecycle manager) needs a copy of the identity file that sealed it.
//!
//! # Identity files
//!
//! The files are those of the original bridge, byte for byte, under the same names in the same folder
//! (`PHALA_PEER_ID_PREFIX`), so that a daemon keeps its peer id when it changes sides: see [`identity`] for
//! the layout. They are not encrypted. A new file has mode 0600 in a folder of 0700; one that the original
//! left open to others is narrowed when it is read, with a warning. A file that is there is never written
//! again.
//!
//! # Sealed secrets
//!
//! A secret is encrypted with AES-256-GCM under a key of its own, and that key with RSA-OAEP-SHA256 under
//! the identity: see [`vault`] for the layout. The first byte is a version, so that the format can change.
//! Opened secrets and data keys are wiped from memory when they are dropped, and no error, log line or
//! `Debug` shows them.
//!
//! The RSA implementation is not free of timing differences; docs/adr/0001-rsa-identity.md says why that is
//! acceptable for what is done with it here.
//!
//! # Example
//!
//! ```
//! use prb_core::vault::Vault;
//! use prb_walkie::{
//!     identity::{Identity, Role},
//!     vault::RsaVault,
//! };
//! use secrecy::ExposeSecret;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let folder = tempfile::tempdir()?;
//! let identity = Identity::load_or_generate(folder.path(), Role::Lifecycle).await?;
//! println!("Got my peer id {}", identity.peer_id());
//!
//! let vault = RsaVault::new(&identity);
//! let sealed = vault.seal(&"//Alice".into()).await?;
//!
//! // At the next start, the same file opens what was sealed.
//! let again = Identity::load_or_generate(folder.path(), Role::Lifecycle).await?;
//! assert_eq!(again.peer_id(), identity.peer_id());
//! assert_eq!(RsaVault::new(&again).open(&sealed).await?.expose_secret(), "//Alice");
//! # Ok(())
//! # }
//! ```
//!
//! # Features
//!
//! None.

pub mod blob;
pub mod identity;
pub mod manage;
pub mod node;
pub mod proto;
pub mod rpc;
pub mod vault;
