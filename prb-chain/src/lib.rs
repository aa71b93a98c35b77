//! Verified ingest, block store, on-chain reads and transaction submission of Phala Runtime Bridge.
//!
//! Provides what a fleet of TEE workers needs of the relay chain and the parachain, over the JSON-RPC of ordinary
//! nodes: blocks that are verified before they are stored and stored once, batches that workers accept unchanged,
//! the workers' on-chain state at a constant number of calls per block, and transactions that are watched until they
//! are finalised. It implements the seams of [`prb_core`] and knows neither peers nor queues.
//!
//! ```text
//!                        rpc: NodePool (fail-over, demotion, limits)
//!            ┌────────────────┬──────────────────┬──────────────────┐
//!            ▼                ▼                  ▼                  ▼
//!         ingest            reader             submit ── keys
//!            │ one transaction a batch
//!            ▼
//!          store (LMDB) ──► source
//!                           │ BlobSource    ChainReader     ChainSubmitter
//!                           ▼
//!                        prb_core's engines
//! ```
//!
//! - [`rpc`]: a pool of nodes per chain. Requests fail over to another node; a node that answered wrongly is logged
//!   and demoted for a while, a node of another chain is refused, and missing capabilities are recorded with a reason.
//! - [`ingest`]: fetches both chains into the store, by finality proof, or by the blocks' justifications where nodes
//!   refuse proofs. Headers, GRANDPA justifications and read proofs are verified first.
//! - [`history`]: past blocks from sources other than nodes (an archive, a headers cache, another data provider),
//!   verified in the same way.
//! - [`identity`]: the parachain's identity, and whether a genesis belongs to it.
//! - [`store`]: every block once, in LMDB. A process that is killed leaves complete batches only.
//! - [`source`]: the store as a [`BlobSource`](prb_core::blob::BlobSource): batches are concatenations of
//!   stored slices, assembled when asked for.
//! - [`verified`]: a decorator over a `BlobSource`: header batches are verified once, before workers get them.
//! - [`reader`]: a [`ChainReader`](prb_core::chain::ChainReader): one snapshot, then one request per block.
//! - [`submit`]: a [`ChainSubmitter`](prb_core::chain::ChainSubmitter): signs, sends and watches; it asks the chain
//!   when the watch is lost. Calls, events and errors are looked up in the metadata by name, so that runtime
//!   upgrades need no new release.
//! - [`keys`]: operators' sr25519 keys.
//! - [`signer`]: [`Signers`](prb_core::signer::Signers) over a vault.
//! - [`inventory`]: an [`Inventory`](prb_core::inventory::Inventory) on disk: a lifecycle manager's pools and
//!   workers.
//!
//! # What is trusted
//!
//! Workers start from one relay block: the parent of the relay block that parachain block 1 was built on. A
//! relay node whose chain does not have this block is refused. The block's state is taken from the nodes (as
//! pRuntime's own operator tools do); everything after it is proven by the authorities in that state. Storage
//! changes of the parachain are taken from the node too, because verifying them takes the whole state. A worker
//! that receives wrong ones refuses them, and [`ingest`] then compares the answers of all nodes and replaces
//! what was wrong.
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
pub mod identity;
pub mod ingest;
pub mod inventory;
pub mod keys;
mod metadata;
mod metric_help;
pub mod reader;
pub mod rpc;
pub mod signer;
pub mod source;
pub mod store;
pub mod submit;
pub mod verified;
mod verify;

/// For the tests and benchmarks of this crate only: no part of the public interface.
#[doc(hidden)]
pub mod internals {
    pub mod history {
        pub use crate::history::memory::*;
    }
    pub mod ingest {
        pub use crate::ingest::recheck::*;
    }
    pub mod metadata {
        pub use crate::metadata::*;
    }
    pub mod rpc {
        pub use crate::rpc::{counters::*, heads::HeadFloor, json};
    }
    pub mod store {
        pub use crate::store::{append::*, segment, view::*};
    }
    pub mod verify {
        pub use crate::verify::*;
    }
}

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
