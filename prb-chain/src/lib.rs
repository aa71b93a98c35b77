//! Verified ingest, block store, on-chain reads and transaction submission of Phala Runtime Bridge.
//! Everything that a fleet of TEE workers needs from the relay chain and the parachain, over ordinary nodes'
//! JSON-RPC: blocks that are verified before they are stored, and stored once; batches in the workers' own
//! format; the workers' on-chain state at a constant number of calls for each block; and transactions that
//! are tracked until their outcome is final. It implements the seams of [`prb_core`] and knows neither peers
//! nor queues.
//!
//! ```text
//!                        rpc: NodePool (fail-over, demotion, limits)
//!            ┌────────────────┬──────────────────┬──────────────────┐
//!            ▼                ▼                  ▼                  ▼
//!         ingest ── verify   reader             submit ── metadata, keys
//!            │ one transaction a batch
//!            ▼
//!          store (LMDB) ──► source
//!                           │ BlobSource    ChainReader     ChainSubmitter
//!                           ▼
//!                        prb_core's engines
//! ```
//!
//! - [`rpc`]: a pool of nodes for each chain. Calls fail over to other nodes; a node that answered wrongly is
//!   reported and demoted for a while, a node of another chain is refused; missing capabilities of nodes are
//!   recorded with their reason.
//! - [`verify`]: checks of headers, GRANDPA justifications and read proofs, as pure functions.
//! - [`ingest`]: fetches both chains into the store, by finality proof, or by the blocks' justifications if
//!   nodes refuse proofs.
//! - [`history`]: past blocks from other sources than nodes (an archive, a headers cache, another data
//!   provider), with the same checks.
//! - [`store`]: every block once, in LMDB; batches are atomic, also when the process is killed.
//! - [`source`]: the store as a [`BlobSource`](prb_core::blob::BlobSource): batches are concatenations of
//!   stored slices, assembled on request.
//! - [`reader`]: a [`ChainReader`](prb_core::chain::ChainReader): one snapshot, then one call for each block.
//! - [`submit`]: a [`ChainSubmitter`](prb_core::chain::ChainSubmitter): signs, submits and tracks
//!   transactions, and queries the chain if the subscription is lost.
//! - [`metadata`]: looks up calls, events, errors and storage by name, so that runtime upgrades need no new
//!   version.
//! - [`keys`]: operators' sr25519 keys.
//! - [`signer`]: [`Signers`](prb_core::signer::Signers) over a vault.
//! - [`inventory`]: an [`Inventory`](prb_core::inventory::Inventory) on disk: a lifecycle manager's pools and
//!   workers.
//!
//! # Trust
//! The relay block that workers start after is the one whose child's state parachain block 1 was built on, so
//! a relay node of another chain is refused. Otherwise its choice is trusted (as in pRuntime's own operator
//! tools); everything after it is proven by the authorities in its state. Storage changes of the parachain
//! are trusted, because checking them requires the whole state. A worker detects a wrong one at once, and
//! [`ingest::recheck`] then compares all nodes.
//!
//! # Seams
//!
//! | trait of prb-core | implemented by |
//! |---|---|
//! | [`BlobSource`](prb_core::blob::BlobSource), [`RangeSource`](prb_core::blob::range::RangeSource) | [`source::StoreSource`] |
//! | [`ChainReader`](prb_core::chain::ChainReader) | [`reader::Reader`] |
//! | [`ChainSubmitter`](prb_core::chain::ChainSubmitter) | [`submit::Submitter`] |
//! | [`Signers`](prb_core::signer::Signers) | [`signer::VaultSigners`] |
//! | [`OperatorKeys`](prb_core::manage::OperatorKeys) | [`keys::Sr25519Keys`] |
//! | [`Inventory`](prb_core::inventory::Inventory) | [`inventory::HeedInventory`] |
//!
//! # Features
//!
//! None.
//!
//! # Example
//!
//! Follow both chains into a store and serve workers from it:
//!
//! ```no_run
//! use std::{path::Path, sync::Arc};
//! use prb_chain::{ingest::{self, Ingest}, rpc::{self, NodePool}, source::StoreSource, store::{self, Store}};
//! use prb_core::blob::BlobSource;
//! use tokio_util::sync::CancellationToken;
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let relay = NodePool::new("relay", rpc::Config::new(["ws://127.0.0.1:9945"]))?;
//! let para = NodePool::new("para", rpc::Config::new(["ws://127.0.0.1:9944"]))?;
//! let store = Arc::new(Store::open(Path::new("/var/lib/prb/blocks"), store::Config::default())?);
//! let source = StoreSource::new(Arc::clone(&store));
//! let cancel = CancellationToken::new();
//! let ingest = Ingest::new(relay, para, store, ingest::Config::default());
//! let task = tokio::spawn(ingest.run(cancel.clone()));
//! let mut heights = source.heights();
//! heights.changed().await?;
//! println!("{:?}", *heights.borrow());
//! cancel.cancel();
//! task.await??;
//! # Ok(())
//! # }
//! ```

// docs.rs shows which feature an item needs.
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod history;
pub mod ingest;
pub mod inventory;
pub mod keys;
pub mod metadata;
pub mod reader;
pub mod rpc;
pub mod signer;
pub mod source;
pub mod store;
pub mod submit;
pub mod verify;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
