//! The daemons of Phala Runtime Bridge as a library, used by the `prb` binary and the demo.
//!
//! - daemons: [`all`], [`data_provider`], [`lifecycle`], [`trader`], [`monitor`]; their common parts: [`daemon`],
//!   [`ops`], [`readiness`], [`telemetry`], [`signals`];
//! - settings: [`config`], [`check`], [`fleet_file`];
//! - for operators: [`api`] (JSON), [`console`] and [`pages`] (HTML), [`cli`] (commands over the API), [`import`];
//! - identities and tokens: [`keys`], [`token`].
#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod all;
pub mod api;
mod blocks;
mod chain_data;
pub mod check;
pub mod cli;
pub mod config;
pub mod console;
pub mod container;
pub mod core_dumps;
pub mod daemon;
pub mod data_provider;
pub mod descriptors;
mod disk_watch;
mod entry_version;
pub mod fleet_file;
mod fleet_runtime;
mod history;
mod identity_check;
pub mod import;
mod input;
mod inventory;
pub mod keys;
mod legacy_files;
pub mod lifecycle;
mod listen;
mod memory_limit;
pub mod monitor;
mod nodes;
pub mod ops;
pub mod output;
pub mod pages;
mod peers;
pub mod progress;
mod providers;
pub mod pruntime_limit;
pub mod readiness;
mod redact;
pub mod signals;
mod signers;
pub mod telemetry;
pub mod token;
mod trade_queue;
pub mod trader;
