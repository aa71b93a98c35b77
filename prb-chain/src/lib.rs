//! Verified ingest, block store, on-chain reads and transaction submission of Phala Runtime Bridge.
//!
//! What a fleet of TEE workers needs of the relay chain and the parachain, over ordinary nodes' JSON-RPC:
//! blocks that are checked before they are stored and stored once, batches that workers take as they are,
//! the workers' state on chain at a constant number of calls a block, and transactions that are followed to their end.
//! It implements the seams of [`prb_core`] and knows neither peers nor queues.
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
//! - [`rpc`]: a pool of nodes for each chain. A node that fails is left for another one, a node that answered
//!   wrongly is named and put aside for a while, a node of another chain is refused; what a node lacks is known
//!   with a reason.
//! - [`verify`]: headers, GRANDPA justifications, read proofs; pure functions.
//! - [`ingest`]: both chains into the store, by finality proof, or by the blocks' justifications where nodes
//!   refuse proofs.
//! - [`history`]: past blocks from elsewhere than nodes (an archive, a headers cache, another data provider),
//!   put through the same checks.
//! - [`store`]: every block once, in LMDB; a killed process leaves whole batches.
//! - [`source`]: the store as a [`BlobSource`](prb_core::blob::BlobSource): batches are concatenations of
//!   stored slices, assembled when asked for.
//! - [`verified`]: a decorator over any `BlobSource`: header batches are verified once, before workers get them.
//! - [`reader`]: a [`ChainReader`](prb_core::chain::ChainReader): one snapshot, then one question a block.
//! - [`submit`]: a [`ChainSubmitter`](prb_core::chain::ChainSubmitter): signs, sends, watches, and asks the
//!   chain where the watch is lost.
//! - [`metadata`]: calls, events, errors and storage by name, so that runtime upgrades are survived.
//! - [`keys`]: operators' sr25519 keys.
//! - [`signer`]: [`Signers`](prb_core::signer::Signers) over a vault.
//! - [`inventory`]: an [`Inventory`](prb_core::inventory::Inventory) on disk: a lifecycle manager's pools and
//!   workers.
//!
//! # What is trusted
//!
//! The relay block that workers start after is the one whose child's state parachain block 1 was built on: a relay
//! node of another chain is refused. Beyond that it is the nodes' word (as for pRuntime's own operator tools);
//! everything above it is proven by the authorities in its state. Storage changes of the parachain
//! are taken from the node: checking them takes the whole state. A worker notices a wrong one at once, and
//! [`ingest::recheck`] then asks all nodes.
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
pub mod verified;
pub mod verify;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
