//! Lists the peers that can be found, and asks the data providers how far they are.
//!
//! Why: daemons discover and call each other over Walkie, and a script or a custom monitor can join them. A node with
//! the role `Client` serves nothing and needs no trust to see the other peers; calls that change anything need
//! authorisation (`prb_walkie::rpc::auth`).
//!
//! `cargo run --package prb-examples --bin walkie_client [/ip4/10.0.0.1/tcp/28888,…]`
use std::time::Duration;

use prb_walkie::{
    identity::Identity,
    node::{Config, Node, parse_addresses},
    proto::Role,
};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let boot_nodes = parse_addresses(&std::env::args().nth(1).unwrap_or_default())?;
    // A new identity each time is sufficient: no whitelist has to know this client.
    let identity = tokio::task::spawn_blocking(Identity::generate).await??;
    let node = Node::start(Config::new(identity, Role::Client).with_boot_nodes(boot_nodes)).await?;
    println!("{} discovers peers for 5 s", node.peer_id());
    tokio::time::sleep(Duration::from_secs(5)).await;

    // The peers that were found and have proven their identities.
    let table = node.peers().borrow().clone();
    for peer in table.iter() {
        let address = peer.address.as_ref().map(ToString::to_string).unwrap_or_default();
        println!("{:?} {} of {:?} at {address}", peer.role, peer.hostname, peer.bridge_identity);
        if peer.role == Role::DataProviderInt {
            // Over the connection that the node has or makes; the call has a timeout.
            match node.client(peer.peer_id).data_provider_info().await {
                Ok(info) => println!(
                    "  relay chain {} of {}, parachain {} of {}, blobs at port {}",
                    info.parent_processed_height,
                    info.parent_target,
                    info.para_processed_height,
                    info.para_target,
                    info.blob_server_port
                ),
                Err(error) => println!("  {error}"),
            }
        }
    }
    println!("{} peers", table.len());
    node.stop(Duration::from_secs(1)).await;
    Ok(())
}
