//! A relay chain and a parachain in one process, for demonstrations and tests.
//!
//! The interfaces that a bridge uses are real: FRAME runtimes executed natively, tries and state roots,
//! GRANDPA justifications and set changes, `Paras::Heads` with proofs, transactions by tags, and the JSON-RPC
//! of real clients, over WebSocket and HTTP on one port. Everything runs on 127.0.0.1 and in memory: all
//! states are kept until the process ends.
//!
//! ```text
//!          tick n                         tick n+1
//! relay    block n ──► n-1 final          block n+1 (includes the head) ──► n final
//!             │ relay parent                 ▲
//! para        └──► block n/2 (n even) ───────┘        final with the relay block that has it
//! ```
//!
//! - [`Devnet`] builds and drives the two chains. Blocks follow at the block time ([`Devnet::spawn_ticker`]), or one by
//!   one when a test wants them ([`Devnet::tick`]).
//! - [`Devnet::spawn_workers`] starts verifying pRuntimes and returns a [`WorkerHandle`](worker::WorkerHandle) for
//!   each. They do not end with the devnet: shut them down as well.
//! - [`Node`] reads a chain without RPC, stops and starts its RPC, and counts calls.
//! - [`Devnet::act`] carries out external actions in the next parachain block: those of other accounts,
//!   gatekeepers, governance or a migration (see [`Action`]).
//! - [`Faults`] makes a node's RPC lie, refuse, hang or forget.
//! - [`Devnet::lag_finality`], [`Devnet::offboard_para`], [`Devnet::burst`], [`Devnet::reorganise_para`] and
//!   [`Config`] make the chains themselves misbehave.
//! - [`Fault`] parses faults of both kinds from text, for flags and for the `devnet_inject` call of a running node;
//!   `devnet_heal` ends them.
//!
//! The same [`Config`] yields the same chain, byte for byte, until a transaction is submitted.
//!
//! # Dependencies
//!
//! This crate is not on crates.io. Take `prb-core` and the other crates from the same repository, or their types differ
//! from those of this crate:
//!
//! ```toml
//! [dev-dependencies]
//! prb-core = { git = "https://github.com/Phala-Network/runtime-bridge" }
//! prb-devnet = { git = "https://github.com/Phala-Network/runtime-bridge" }
//! tokio = { version = "1", features = ["macros", "rt-multi-thread"] }
//! ```
//!
//! # Examples
//!
//! Start both chains and a worker, and put a pool and the worker into a fleet's inventory. Types of [`runtime`] and
//! [`sp_core`] are not those of `prb-core`: accounts are converted by their bytes.
//!
//! ```
//! use prb_core::{
//!     inventory::{Edit, Inventory, Operator, Pool, Worker, memory::MemoryInventory},
//!     primitives::{AccountId, PoolId},
//!     reexports::uuid::Uuid,
//!     vault::{Vault, memory::MemoryVault},
//! };
//! use prb_devnet::{Config, Devnet, runtime::PHA};
//!
//! # #[tokio::main]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let devnet = Devnet::start(Config { block_ms: 1_000, ..Config::default() }).await?;
//! let workers = devnet.spawn_workers(1, 0, None).await?;
//! devnet.spawn_ticker().await;
//! println!("nodes: {} and {}", devnet.relay().url(), devnet.para().url());
//!
//! let (vault, inventory) = (MemoryVault::new(), MemoryInventory::default());
//! let chain = &devnet.pools()[0];
//! let account = AccountId(chain.operator.clone().into());
//! let key = vault.seal(&chain.mnemonic.clone().into()).await?;
//! let pool = Pool::new(Uuid::from_u128(1), PoolId(chain.pid), "pool").with_operator(Operator { account, key });
//! let worker = Worker::new(Uuid::from_u128(2), pool.pid, "worker", workers[0].endpoint(), 100 * PHA);
//! inventory.apply(vec![Edit::PutPool(pool), Edit::PutWorker(worker)]).await?;
//! // Start a fleet and a trader with the inventory, the vault and the nodes: see `examples/real_nodes.rs`.
//!
//! for worker in workers {
//!     worker.shutdown().await;
//! }
//! // Ends the ticker and the nodes.
//! devnet.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! A chain with a history, without servers:
//!
//! ```
//! # fn main() -> Result<(), prb_devnet::Error> {
//! use prb_devnet::{Config, Devnet};
//!
//! let devnet = Devnet::build(Config { history: 5, ..Config::default() })?;
//! assert_eq!(devnet.relay().best_number(), 5);
//! assert_eq!(devnet.relay().finalized_number(), 4);
//! assert_eq!(devnet.para().best_number(), 2);
//! # Ok(())
//! # }
//! ```

mod accounts;
mod config;
mod devnet;
mod error;
pub mod node;
mod port;
mod rpc;
pub mod truth;
pub mod worker;

pub use self::{
    accounts::Pool,
    config::{Config, DEFAULT_EPOCH_MS, Epoch, JustificationOddities},
    devnet::{Devnet, TickReport},
    error::Error,
    node::{Fault, Faults, Node, PoolError, ProofFault, ProofLimit, Retracted, TransactionFault},
    rpc::RpcLimits,
};
pub use prb_devnet_runtime as runtime;
pub use runtime::pallets::actions::{Action, PoolCall, Sender};
/// The version of `sp-core` in this API: `H256` of blocks, `sr25519::Pair` of keys.
pub use sp_core;
pub use sp_runtime::transaction_validity::{InvalidTransaction, UnknownTransaction};
