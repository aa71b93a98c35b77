//! Verified ingest, block store, on-chain reads and transaction submission of Phala Runtime Bridge.
//!
//! Provides what a fleet of TEE workers needs of the relay chain and the parachain, over the JSON-RPC of ordinary
//! nodes: blocks that are verified before they are stored and stored once, batches that workers accept unchanged,
//! the workers' on-chain state at one call per block, and transactions that are watched until they
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
//! - [`reader`]: a [`ChainReader`](prb_core::chain::ChainReader): snapshots, and one request per block
//!   between them.
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
//! # Dependencies
//!
//! The minimum Rust version is 1.89, and LMDB needs a C compiler. The examples need:
//!
//! ```toml
//! [dependencies]
//! prb-chain = "0.1"
//! prb-core = "0.1"
//! tokio = { version = "1", features = ["macros", "rt-multi-thread"] }
//! tokio-util = "0.7"
//! ```
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
//!
//! # A whole bridge
//!
//! Ingest, reader, trader and fleet in one process. `with_suspects` makes the ingest fetch blocks again that a worker
//! cannot apply; the cache lets all workers at one cursor share a batch. The vault is of `prb-walkie` or your own, and
//! the inventory names pools and workers, with operators' keys that this vault has sealed.
//!
//! ```no_run
//! use std::{path::Path, sync::Arc, time::Duration};
//! use prb_chain::{ingest, reader, rpc, signer::VaultSigners, source::StoreSource, store, submit};
//! use prb_core::{
//!     blob::cache::{self, CachedSource},
//!     fleet::{self, Fleet},
//!     inventory::memory::MemoryInventory,
//!     pruntime::http::{HttpConfig, HttpConnect},
//!     queue::memory::MemoryQueue,
//!     trade::{self, Trader, accounts::MemoryAccounts},
//!     vault::Vault,
//! };
//! use tokio_util::sync::CancellationToken;
//!
//! async fn bridge(
//!     data: &Path,
//!     vault: Arc<dyn Vault>,
//!     inventory: Arc<MemoryInventory>,
//!     stop: CancellationToken,
//! ) -> Result<(), Box<dyn std::error::Error>> {
//!     let relay = rpc::NodePool::new("relay", rpc::Config::new(["ws://127.0.0.1:9945"]))?;
//!     let para = rpc::NodePool::new("para", rpc::Config::new(["ws://127.0.0.1:9944"]))?;
//!     let store = Arc::new(store::Store::open(&data.join("blocks"), store::Config::default())?);
//!     let ingest = ingest::Ingest::new(relay, para.clone(), Arc::clone(&store), ingest::Config::default());
//!     let source = Arc::new(StoreSource::new(store).with_suspects(ingest.suspects()));
//!     let source = Arc::new(CachedSource::new(source, cache::Config::default()));
//!     let (reader, reading) = reader::Reader::new(para.clone(), reader::Config::default());
//!     // The tasks have a token of their own, because they end last.
//!     let chains = CancellationToken::new();
//!     let ingesting = tokio::spawn(ingest.run(chains.clone()));
//!     let reading = tokio::spawn(reading.run(chains.clone()));
//!
//!     let queue = Arc::new(MemoryQueue::default());
//!     let submitter = Arc::new(submit::Submitter::new(para, submit::Config::default())?);
//!     let signers = Arc::new(VaultSigners::new(vault));
//!     let accounts = Arc::new(MemoryAccounts::default());
//!     let parts = trade::Parts { queue: queue.clone(), submitter, signers, accounts };
//!     let trader = Trader::start(trade::Config::default(), parts)?;
//!     let connect = Arc::new(HttpConnect::new(HttpConfig::default())?);
//!     let parts = fleet::Parts::new(inventory, source, Arc::new(reader), queue, connect);
//!     let fleet = Fleet::start(parts, fleet::Config::default());
//!
//!     stop.cancelled().await;
//!     // In this order: no new jobs, then batches in flight, then the chains.
//!     fleet.stop().await;
//!     trader.stop(Duration::from_secs(2)).await?;
//!     chains.cancel();
//!     reading.await?;
//!     ingesting.await??;
//!     Ok(())
//! }
//! ```
//!
//! # Foreign crates in this API
//!
//! | crate | for |
//! |---|---|
//! | `async-trait` 0.1 | implementing [`history::HistorySource`] |
//! | `heed` 0.23 | LMDB's errors in [`store::Error`] and [`inventory::Error`] |
//! | `secrecy` 0.10 | the secret of [`keys::OperatorKey::from_secret`] |
//! | `serde` 1, `serde_json` 1 | parameters and answers of [`rpc::NodePool`], `RawValue` |
//! | `subxt-rpcs` 0.51 | [`rpc::NodePool::rpc_client`] |
//! | `tokio` 1 | `sync::watch` |
//! | `tokio-util` 0.7 | the `CancellationToken` that stops a task |
//!
//! # Development builds
//!
//! Cryptography, tries and codecs without optimisation are at least ten times slower, and Cargo ignores the profiles of
//! dependencies. Add this to the `Cargo.toml` of your workspace:
//!
//! ```toml
//! [profile.dev.package.blake2]
//! opt-level = 3
//! [profile.dev.package.blake2b_simd]
//! opt-level = 3
//! [profile.dev.package.curve25519-dalek]
//! opt-level = 3
//! [profile.dev.package.ed25519-zebra]
//! opt-level = 3
//! [profile.dev.package.finality-grandpa]
//! opt-level = 3
//! [profile.dev.package.hash-db]
//! opt-level = 3
//! [profile.dev.package.memory-db]
//! opt-level = 3
//! [profile.dev.package.parity-scale-codec]
//! opt-level = 3
//! [profile.dev.package.schnorrkel]
//! opt-level = 3
//! [profile.dev.package.sp-trie]
//! opt-level = 3
//! [profile.dev.package.trie-db]
//! opt-level = 3
//! [profile.dev.package.twox-hash]
//! opt-level = 3
//! ```

// docs.rs shows which feature an item needs.
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod disk;
pub mod history;
pub mod identity;
pub mod ingest;
pub mod inventory;
pub mod keys;
mod lmdb;
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
        pub use crate::history::{archive::read_archive, memory::*};
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
