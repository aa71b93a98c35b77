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
//! - [`Devnet`] builds and drives the two chains; [`Devnet::tick`] makes tests deterministic.
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
pub use sp_runtime::transaction_validity::{InvalidTransaction, UnknownTransaction};
