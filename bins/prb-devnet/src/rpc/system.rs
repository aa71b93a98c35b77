//! `system_*`: the node's description.

use jsonrpsee::types::Params;
use prb_devnet_runtime::{SS58_PREFIX, types::AccountId};
use serde_json::json;
use sp_core::crypto::Ss58Codec;

use super::{
    Answer, Module, Registered, aliases, error, method,
    view::{View, client},
};
use crate::node::ChainKind;

const PEER_ID: &str = "12D3KooWEyoppNCUx8Yx66oV9fJnriXwCcXwDDUA2kj6vnc6iDEp";

pub(super) fn register(module: &mut Module) -> Registered {
    method(module, "system_name", |_, _| Ok("prb-devnet"))?;
    method(module, "system_version", |_, _| Ok(env!("CARGO_PKG_VERSION")))?;
    method(module, "system_chain", |_, view| {
        Ok(match view.node.kind() {
            ChainKind::Relay => "Devnet Relay",
            ChainKind::Para => "Devnet Para",
        })
    })?;
    method(module, "system_chainType", |_, _| Ok("Development"))?;
    method(module, "system_properties", |_, _| {
        Ok(json!({ "ss58Format": SS58_PREFIX, "tokenDecimals": 12, "tokenSymbol": "PHA" }))
    })?;
    method(module, "system_health", |_, _| {
        // Clients take a node without peers for unready only if it should have some.
        Ok(json!({ "peers": 0, "isSyncing": false, "shouldHavePeers": false }))
    })?;
    method(module, "system_syncState", |_, view| {
        let best = view.best();
        // Original bridges wait until `highestBlock` is present and within 8 of the current block.
        Ok(json!({ "startingBlock": 0, "currentBlock": best, "highestBlock": best }))
    })?;
    method(module, "system_peers", |_, _| Ok(json!([])))?;
    method(module, "system_nodeRoles", |_, _| Ok(json!(["Full"])))?;
    method(module, "system_localPeerId", |_, _| Ok(PEER_ID))?;
    method(module, "system_localListenAddresses", |_, _| Ok(json!([])))?;
    method(module, "system_accountNextIndex", next_index)?;
    aliases(module, &[("account_nextIndex", "system_accountNextIndex")])
}

fn next_index(params: Params<'_>, view: &View<'_>) -> Answer<u32> {
    let address: String = params.sequence().next()?;
    let account = AccountId::from_string(&address)
        .map_err(|cause| error(-32602, format!("invalid account: {cause:?}")))?;
    view.node.next_nonce(account.as_ref()).map_err(client)
}
