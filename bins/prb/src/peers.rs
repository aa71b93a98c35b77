//! Starts a daemon's peer-to-peer node from its settings.

use anyhow::Context;
use prb_walkie::{
    identity::{self, Identity},
    node::{self, ConfigError},
    proto::Role,
    rpc::auth::Policy,
};

use crate::{
    config::WalkieArgs,
    daemon::{Failure, stop},
    descriptors, disk_watch,
};

/// Reads the daemon's identity, or generates it at the first start.
pub(crate) async fn identity(folder: &std::path::Path, role: identity::Role) -> anyhow::Result<Identity> {
    let opening = Identity::load_or_generate(folder, role);
    let identity = disk_watch::explain(format!("the identity in {}", folder.display()), opening).await?;
    tracing::info!(peer_id = %identity.peer_id(), "Got my peer id");
    Ok(identity)
}

/// Builds a node's configuration, without its handlers.
pub(crate) fn config(args: &WalkieArgs, identity: Identity, role: Role) -> anyhow::Result<node::Config> {
    let auth = Policy::default()
        .with_psk(args.psk()?)
        .with_whitelist(args.walkie_whitelist.iter().map(|peer| peer.0).collect())
        .with_networks(args.walkie_management_networks.clone())
        .with_allow_bare_key(args.walkie_psk_bare)
        .with_open(args.walkie_open_management);
    let default = node::Limits::default();
    let connections = descriptors::shares_of_node(default.connections);
    Ok(node::Config::new(identity, role)
        .with_limits(default.with_connections(connections))
        .with_listen(args.walkie_listen_addresses.clone())
        .with_boot_nodes(args.boot_nodes())
        .with_mdns(!args.walkie_disable_mdns_discovery)
        .with_hostname(gethostname::gethostname().to_string_lossy().into_owned())
        .with_bridge_identity(args.bridge_identity.clone())
        .with_auth(auth))
}

/// Stops the node: calls in flight are answered, new ones refused.
pub(crate) async fn stop(node: &node::Node) {
    let stopped = tokio::time::timeout(stop::CALLS + stop::CONNECTIONS, node.stop(stop::CALLS)).await;
    if stopped != Ok(true) {
        tracing::warn!("some calls of peers were not answered in time");
    }
}

/// Starts the node. Its errors, mostly about addresses, are configuration errors.
pub(crate) async fn start(config: node::Config) -> Result<node::Node, Failure> {
    let started = node::Node::start(config).await;
    started
        .map_err(|error: ConfigError| anyhow::Error::new(error))
        .context("the node cannot start (PHALA_WALKIE_LISTEN_ADDRESSES, PHALA_WALKIE_BOOT_NODES)")
        .map_err(Failure::Configuration)
}
