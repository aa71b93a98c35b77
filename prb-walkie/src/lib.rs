//! Peers of Phala Runtime Bridge: identity keys, who is there, calls, and blobs.
//!
//! A fleet is run by several daemons: data providers that have the chains' data, lifecycle managers that feed
//! workers with it, traders, monitors. They find one another, tell whether they belong together, and call one
//! another: the original bridge's protocol, *Walkie*, byte for byte, so that originals and ours work together.
//!
//! ```text
//!   identity ──▶ node ──────────── libp2p: TCP, noise, mplex or yamux ──────────▶ other peers
//!   RSA key,     │  │  boot nodes, mDNS (both forms), kad                          (ours, originals)
//!   peer id      │  └▶ peers(): role, chain, namespace, address, round trip
//!     │          ▼
//!     │         rpc: Handlers ◀── /pb, one call a stream ──▶ Client
//!     │          │    Auth: pre-shared key, whitelist, same machine
//!     │          ├─▶ manage: pools and workers, over prb_core::manage::Manager
//!     │          └─▶ blob::Lookup ◀── GetBlobByKey, /blob
//!     ▼                   ▲
//!   vault: operators'     └────── blob: TCP frames ◀──▶ RemoteBlobSource: prb_core::blob::BlobSource
//!   keys, sealed
//! ```
//!
//! | module | what it has | wire format |
//! |---|---|---|
//! | [`identity`] | a daemon's key, its file, its peer id | the identity file |
//! | [`vault`] | operators' keys sealed under the identity | the sealed secret |
//! | [`proto`] | all messages | protobuf |
//! | [`rpc`] | methods, handlers, a typed client, [who is let in](rpc::auth) | `/pb`, the auth string |
//! | [`node`] | connections, discovery, the table of peers | which protocols are spoken |
//! | [`manage`] | handlers of the management methods, and [what is told beyond the original's](manage::detail) | |
//! | [`blob`] | blobs by key: server, client, and a source for workers' data | frames over TCP, keys |
//!
//! Of prb-core's traits, [`vault::RsaVault`] is a [`Vault`](prb_core::vault::Vault), and
//! [`blob::remote::RemoteBlobSource`] a [`BlobSource`](prb_core::blob::BlobSource); a
//! [`RangeSource`](prb_core::blob::range::RangeSource) is what [`blob::keyspace::KeySpace`] serves.
//!
//! # What it is not
//!
//! - It knows no chain: which data there is comes from a [`blob::Lookup`], what a chain's identity is from who
//!   starts the node.
//! - It manages nothing: [`manage`] is a skin over the core's `Manager`.
//! - It keeps no operator's key: [`RsaVault`](vault::RsaVault) turns secrets into bytes and back, and the
//!   inventory and the jobs carry those bytes. Whoever is to open a sealed secret (a trader beside a lifecycle
//!   manager) needs a copy of the identity file that sealed it.
//!
//! # Trust
//!
//! Noise proves every peer's id. Beyond that a peer is a stranger: it may ask who is there and for blobs, but
//! management methods answer it only once it is let in, by a pre-shared key, by a whitelist, by its network, or, with
//! neither key nor whitelist, because it is on the same machine: see [`rpc::auth`]. Requests, answers, connections,
//! calls and the table of peers are bounded ([`node::Limits`]), and the sizes of messages while they are read.
//!
//! Identity files are not encrypted: 0600 in a folder of 0700, never written again once they are there. Secrets
//! are wiped from memory when they are dropped, as far as that is in reach (not in the buffers of the transport),
//! and no error, log line or `Debug` shows them. The RSA implementation is not free of timing differences;
//! docs/adr/0001-rsa-identity.md says why that is acceptable for what is done with it here.
//!
//! # Example
//!
//! A data provider, and a client that asks it how far it is:
//!
//! ```
//! use prb_walkie::{
//!     identity::Identity,
//!     node::{Config, Node},
//!     proto::{Role, data_provider::Info},
//!     rpc::{Handlers, calls},
//! };
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let handlers = Handlers::new()
//!     .on(calls::GetDataProviderInfo, |_caller, _empty| async { Ok(Info { para_id: 2035, ..Info::default() }) });
//! let config = Config::new(Identity::generate()?, Role::DataProviderInt)
//!     .with_listen(vec!["/ip4/127.0.0.1/tcp/0".parse()?])
//!     .with_mdns(false)
//!     .with_handlers(handlers);
//! let provider = Node::start(config).await?;
//!
//! let address = format!("{}/p2p/{}", provider.listen_addresses()[0], provider.peer_id());
//! let config = Config::new(Identity::generate()?, Role::Client)
//!     .with_boot_nodes(vec![address.parse()?])
//!     .with_mdns(false);
//! let client = Node::start(config).await?;
//! let info = client.client(provider.peer_id()).data_provider_info().await?;
//! assert_eq!(info.para_id, 2035);
//! # Ok(())
//! # }
//! ```
//!
//! # Metrics
//!
//! `prb_walkie_calls_total`, `prb_walkie_call_seconds`, `prb_walkie_refused_total`, `prb_walkie_peers`,
//! `prb_walkie_connections`, `prb_walkie_dials_total`; they describe themselves when a node starts.
//!
//! # Features
//!
//! - `node` (default): the libp2p node, its calls and their management handlers ([`node`], [`rpc`], [`manage`]);
//!   includes `blob`.
//! - `blob`: blobs by key over TCP ([`blob`]), without libp2p.
//!
//! With neither, the crate is [`identity`], [`vault`] and [`proto`].

// docs.rs shows which feature an item needs.
#![cfg_attr(docsrs, feature(doc_cfg))]

#[cfg(feature = "blob")]
pub mod blob;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
pub mod identity;
#[cfg(feature = "node")]
pub mod manage;
#[cfg(feature = "node")]
pub mod node;
pub mod proto;
#[cfg(feature = "blob")]
mod provenance;
#[cfg(feature = "node")]
pub mod rpc;
pub mod vault;

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
