//! Peer-to-peer part of Phala Runtime Bridge: identity keys, discovery, calls, and blobs.
//!
//! A fleet is run by several daemons: data providers that hold the chains' data, lifecycle managers that feed
//! it to workers, traders, and monitors. They discover each other, check that they belong together, and call
//! each other with *Walkie*, the original bridge's protocol. It is compatible on the wire, so that daemons
//! of the original and of this implementation work together (extensions use field numbers from 1000 on, and 15 and
//! 16 of `Hello` and of errors).
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
//! | module | provides | wire format |
//! |---|---|---|
//! | [`identity`] | a daemon's key, its file, its peer id | the identity file |
//! | [`vault`] | sealing of operators' keys under the identity | the sealed secret |
//! | [`proto`] | all messages | protobuf |
//! | [`rpc`] | methods, handlers, a typed client, [access control](rpc::auth) | `/pb`, the auth string |
//! | [`node`] | connections, discovery, the table of peers | the libp2p protocols |
//! | [`manage`] | handlers of the management methods, and [details beyond the original's](manage::detail) | |
//! | [`blob`] | blobs by key: server, client, and a source for workers' data | frames over TCP, keys |
//!
//! Implementations of prb-core's traits: [`vault::RsaVault`] is a [`Vault`](prb_core::vault::Vault), and
//! [`blob::remote::RemoteBlobSource`] a [`BlobSource`](prb_core::blob::BlobSource).
//! [`blob::keyspace::KeySpace`] serves a [`RangeSource`](prb_core::blob::range::RangeSource).
//!
//! # What it is not
//!
//! - It knows no chain: the data comes from a [`blob::Lookup`], and the chain's identity from the caller that
//!   starts the node.
//! - It has no management logic: [`manage`] adapts the core's `Manager` to the wire.
//! - It stores no operator's key: [`RsaVault`](vault::RsaVault) turns secrets into bytes and back, and the
//!   inventory and the jobs carry those bytes. Whoever opens a sealed secret (a trader beside a lifecycle
//!   manager) needs a copy of the identity file that sealed it.
//!
//! # Trust
//! Noise authenticates every peer's id. Beyond its id a peer is not trusted: it may list peers and request blobs,
//! but management methods answer it only if it is authorised by a pre-shared key, a whitelist or its network,
//! or, if neither key nor whitelist is configured, because it is on the same machine: see [`rpc::auth`].
//! Requests, answers, connections, calls and the table of peers are bounded ([`node::Limits`]); message sizes
//! are enforced while reading.
//!
//! Identity files are not encrypted: mode 0600 in a folder of 0700, and never rewritten once they exist.
//! Secrets are wiped from memory on drop as far as possible (not in the transport's buffers), and no error,
//! log line or `Debug` output contains them. The RSA implementation is not constant-time
//! (RUSTSEC-2023-0071). It unwraps only what the operator's own daemons have sealed, with blinding, and no method of
//! a protocol takes a sealed secret from a peer.
//!
//! # Example
//! A data provider, and a client that asks for its heights:
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
//! `prb_walkie_calls_total`, `prb_walkie_call_seconds`, `prb_walkie_refused_total`, `prb_walkie_peers`,
//! `prb_walkie_connections`, `prb_walkie_dials_total`; a starting node registers their descriptions. The
//! blob client and server record `prb_blob_…` (docs/metrics.md).
//!
//! # Features
//!
//! - `node` (default): the libp2p node, its calls and their management handlers ([`node`], [`rpc`], [`manage`]);
//!   includes `blob`.
//! - `blob`: blobs by key over TCP ([`blob`]), without libp2p.
//!
//! With neither, the crate has [`identity`], [`vault`] and [`proto`].
//!
//! # Dependencies
//!
//! The minimum Rust version is 1.89. The example needs:
//!
//! ```toml
//! [dependencies]
//! prb-walkie = "0.1"
//! tokio = { version = "1", features = ["macros", "rt"] }
//! ```
//!
//! # Foreign crates in this API
//!
//! | crate | for |
//! |---|---|
//! | `async-trait` 0.1 | implementing [`blob::Lookup`] and [`blob::remote::GenesisCheck`] |
//! | `bytes` 1 | blobs, and byte fields of messages |
//! | `ipnet` 2 | networks in [`rpc::auth::Policy`] and [`node::Trust`]; [`node::IpNet`] is re-exported |
//! | `libp2p` 0.57 | [`node::Multiaddr`] and [`node::PeerId`], which are re-exported |
//! | `prost` 0.14 | encoding and decoding messages of [`proto`] |
//! | `secrecy` 0.10 | the pre-shared key in [`rpc::auth::Policy`], secrets of [`vault`] |
//! | `tokio` 1 | `sync::watch`, `time::Instant` |
//! | `tokio-util` 0.7 | the `CancellationToken` of [`blob::server::Server::run`] |
//! | `zeroize` 1 | `Zeroizing` bytes of [`identity::Identity`] |
//!
//! # Development builds
//!
//! Cryptography without optimisation is at least ten times slower, and Cargo ignores the profiles of dependencies.
//! Add this to the `Cargo.toml` of your workspace (without `argon2` if you do not use the feature `node`):
//!
//! ```toml
//! [profile.dev.package.argon2]
//! opt-level = 3
//! [profile.dev.package.curve25519-dalek]
//! opt-level = 3
//! [profile.dev.package.num-bigint-dig]
//! opt-level = 3
//! [profile.dev.package.rsa]
//! opt-level = 3
//! [profile.dev.package.schnorrkel]
//! opt-level = 3
//! ```

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
