//! The core of Phala Runtime Bridge: domain types, seams and engines for fleets of TEE workers.
//!
//! Phala Network's workers run `pRuntime` in an enclave that trusts nobody. It must be fed the relay chain's
//! finalised headers, the parachain's headers and every storage change, all with proofs; its messages must be
//! relayed to the chain; and the pool's operator must register it, add it to a pool and start it computing.
//! This crate does that for a fleet, over traits: it opens no connection to a chain or to peers, and depends
//! on no database and no queue server. `prb-chain`, `prb-queue` and `prb-walkie` implement the traits for
//! real deployments; a program may bring its own.
//!
//! ```text
//!   BlobSource ──► sync ──► PRuntimeClient ◄── worker ◄── Inventory        (fleet: all workers,
//!   verified       plan,    one worker's       observe,   what is           runners, status)
//!   chain data     send     API                decide,    wanted
//!                                              act
//!                                               │  ▲
//!                                          jobs ▼  │ views
//!                               JobQueue ──► trade │ ChainReader
//!                                            lanes,│
//!                                            batches ──► ChainSubmitter        (Signers sign)
//! ```
//!
//! # Seams
//!
//! | trait | provides | here | elsewhere |
//! |---|---|---|---|
//! | [`blob::BlobSource`] | heights, genesis, header and block batches by cursor | decorator [`blob::cache`]; `blob::memory` † | `prb_chain::source`, `prb_walkie::blob::remote` |
//! | [`blob::range::RangeSource`] | the same by range, for peers that request by range | `blob::memory` † | `prb_chain::source` |
//! | [`pruntime::PRuntimeClient`], [`pruntime::Connect`] | one worker's calls; its client by endpoint | `pruntime::http`; `pruntime::scripted` † | |
//! | [`chain::ChainReader`] | the workers' on-chain state, block by block | `chain::memory` † | `prb_chain::reader` |
//! | [`chain::ChainSubmitter`] | sends batches, reports the outcome of each call | `chain::memory` † | `prb_chain::submit` |
//! | [`queue::JobQueue`] | jobs from lifecycle managers to traders | [`queue::memory`] | `prb_queue::redis` |
//! | [`queue::admin::QueueAdmin`] | a queue's jobs, for its operator | [`queue::memory`] | `prb_queue::redis` |
//! | [`inventory::Inventory`] | pools and workers, edited while running | [`inventory::memory`] | `prb_chain::inventory` |
//! | [`attestation::CollateralSource`] | what DCAP quotes are verified with | `attestation::pccs` | |
//! | [`vault::Vault`] | seals and opens operators' keys | [`vault::memory`]; [`vault::DiscardVault`] for dry runs | `prb_walkie::vault` |
//! | [`signer::Signers`] | signs for operators' accounts | `signer::memory` † | `prb_chain::signer` |
//! | [`manage::OperatorKeys`] | the account of an operator's secret | `manage::memory` † | `prb_chain::keys` |
//! | [`trade::accounts::AccountLeases`] | which of several traders uses an account | [`trade::accounts::MemoryAccounts`] | `prb_queue::redis` |
//!
//! † A double for tests, behind the feature `testing`.
//!
//! Every seam is object-safe, has its error type in the same module and shows a minimal implementation in its
//! documentation. [`Arc`](std::sync::Arc)s of implementations implement it as well, so that a decorator can
//! wrap one that the program keeps. Each seam, or its methods, documents what dropping a future leaves behind. Traits
//! with `async fn` use `#[async_trait]`: rustdoc shows the expanded form, the examples what to write. Test suites in
//! `conformance` (feature `conformance`) check that a backend keeps a seam's contract.
//!
//! # Engines
//!
//! - [`sync`]: plans what a worker needs next (pure), and the loop that sends it.
//! - [`worker`]: reconciles one worker. [`worker::decide`] is one pure function over what pRuntime, chain and
//!   inventory report; nothing in it waits or fails.
//! - [`fleet`]: runs all workers of an inventory: runners, status, commands, shutdown.
//! - [`trade`]: jobs to a lane per operator account, lanes to batches, batches to an outcome per call.
//! - [`manage`]: edits and commands of operators: one implementation behind all protocols.
//!
//! State is rebuilt from chain and pRuntime, never trusted from memory after an error. No error is terminal:
//! a failure is shown in the worker's message, and retried with exponential, jittered backoff.
//!
//! # Getting started
//!
//! Needs Rust 1.89 or newer. For the example below:
//!
//! ```toml
//! [dependencies]
//! prb-core = { version = "0.1", features = ["testing"] } # without the feature once real parts are in place
//! tokio = { version = "1", features = ["macros", "rt", "time", "test-util"] } # test-util: for the paused clock
//! uuid = { version = "1", features = ["v4"] }
//!
//! # Unoptimised cryptography is at least ten times slower, and Cargo ignores the profiles of dependencies.
//! [profile.dev.package.blake2b_simd]
//! opt-level = 3
//! [profile.dev.package.curve25519-dalek]
//! opt-level = 3
//! [profile.dev.package.parity-scale-codec]
//! opt-level = 3
//! [profile.dev.package.schnorrkel]
//! opt-level = 3
//! [profile.dev.package.twox-hash]
//! opt-level = 3
//! ```
//!
//! A program with `prb-chain` or `prb-walkie` needs the same for their cryptography, tries and codecs.
//!
//! # Example
//!
//! A worker from registration to computing, on in-memory parts. The clock is paused: waits end as soon as every task
//! waits for a timer of tokio.
//!
//! ```
//! use std::sync::Arc;
//! use prb_core::{
//!     blob::memory::MemorySource,
//!     chain::memory::{Config, MemoryChain},
//!     fleet::{self, Fleet},
//!     inventory::{Edit, Inventory, Operator, Pool, Worker, memory::MemoryInventory},
//!     primitives::PoolId,
//!     pruntime::scripted::{ScriptedConnect, ScriptedWorker},
//!     queue::memory::MemoryQueue,
//!     signer::memory::MemorySigners,
//!     trade::{self, Trader, accounts::MemoryAccounts},
//!     vault::{Vault, memory::MemoryVault},
//!     worker::State,
//! };
//!
//! #[tokio::main(flavor = "current_thread", start_paused = true)]
//! async fn main() -> Result<(), Box<dyn std::error::Error>> {
//!     let chain = Arc::new(MemoryChain::new(Config::default()));
//!     let (queue, vault) = (Arc::new(MemoryQueue::default()), Arc::new(MemoryVault::new()));
//!     let (inventory, connect) = (Arc::new(MemoryInventory::default()), Arc::new(ScriptedConnect::default()));
//!     connect.add("http://worker-1", ScriptedWorker::new(1));
//!
//!     let (id, pid, account) = (uuid::Uuid::new_v4(), PoolId(1), MemoryChain::account_of("operator"));
//!     chain.add_pool(pid, account, 1_000_000_000_000_000);
//!     let operator = Operator { account, key: vault.seal(&"operator".to_owned().into()).await? };
//!     let pool = Pool::new(id, pid, "pool").with_operator(operator);
//!     let worker = Worker::new(id, pid, "worker-1", "http://worker-1", 100_000_000_000_000);
//!     inventory.apply(vec![Edit::PutPool(pool), Edit::PutWorker(worker)]).await?;
//!
//!     let (signers, accounts) = (Arc::new(MemorySigners::new(vault)), Arc::new(MemoryAccounts::default()));
//!     let parts = trade::Parts { queue: queue.clone(), submitter: chain.clone(), signers, accounts };
//!     let trader = Trader::start(trade::Config::default(), parts)?;
//!     let source = Arc::new(MemorySource::of_empty_blocks(3));
//!     let parts = fleet::Parts::new(inventory, source, chain.clone(), queue, connect);
//!     let fleet = Fleet::start(parts, fleet::Config::default());
//!     while fleet.status().count(State::Active) == 0 {
//!         tokio::time::sleep(std::time::Duration::from_secs(6)).await;
//!         chain.produce_block();
//!     }
//!     fleet.stop().await;
//!     trader.stop(std::time::Duration::from_secs(1)).await?;
//!     Ok(())
//! }
//! ```
//!
//! # Features
//!
//! - `http` (default): `pruntime::http`, the workers' API over HTTP.
//! - `pccs`: `attestation::pccs`, collateral of DCAP quotes from PCCSs; includes `http`.
//! - `testing`: doubles of the seams, for tests: `blob::memory`, `chain::memory`, `manage::memory`,
//!   `pruntime::scripted`, `signer::memory`.
//! - `conformance`: the seams' suites, for backends' tests; includes `testing`.
//!
//! Jobs and their outcomes implement serde's traits in every build: persistent queues need them, and the crate
//! depends on serde anyway.
//!
//! # Foreign crates in this API
//!
//! Types and traits of these crates appear in signatures. [`reexports`] has those that a program must use in the same
//! version; a new major version of one of them is a breaking change of this crate.
//!
//! | crate | where |
//! |---|---|
//! | async-trait 0.1 | the seams with `async fn` |
//! | bytes 1 | request bodies: [`blob`], [`pruntime`] |
//! | parity-scale-codec 3 | `Encode` and `Decode` of [`wire`] and [`primitives`] |
//! | prost 0.14 | `Message` of [`prpc`] |
//! | reqwest 0.13, rustls 0.23 | `pruntime::http::BuildError`, `pruntime::http::tls` |
//! | secrecy 0.10 | operators' secrets: [`vault`], [`manage`] |
//! | serde 1, serde_json 1 | [`queue`]; [`queue::admin::JobDetail::data`] |
//! | tokio 1 | `watch`, `mpsc` and `oneshot` channels; all engines run on it |
//! | uuid 1 | ids of pools and workers: [`inventory`], [`fleet`]; its feature `v4` makes random ones |
//!
//! # Metrics
//!
//! The engines record metrics named `prb_…` through the [`metrics`](https://docs.rs/metrics) facade and describe each;
//! install a recorder to export them. docs/metrics.md in the repository lists all of them.

// docs.rs shows which feature an item needs.
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod attestation;
pub mod blob;
pub mod chain;
mod encoding;
pub mod fleet;
pub mod inventory;
pub mod manage;
pub mod primitives;
pub mod prpc;
pub mod pruntime;
pub mod queue;
pub mod reexports;
mod shared;
pub mod signer;
pub mod sync;
pub mod text;
pub mod trade;
pub mod vault;
pub mod wire;
pub mod worker;

#[cfg(feature = "conformance")]
pub mod conformance;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
