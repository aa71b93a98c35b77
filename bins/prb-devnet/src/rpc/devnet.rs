//! `devnet_*`: injects faults into a running node or both chains, and ends them. Served regardless of faults. Faults of
//! the server restart it once the call is answered.

use std::time::Duration;

use jsonrpsee::types::ErrorObjectOwned;

use super::{Module, Registered, error};
use crate::node::Fault;

/// Prefix of their names.
pub(super) const PREFIX: &str = "devnet_";

pub(super) fn register(module: &mut Module) -> Registered {
    module.register_async_method("devnet_inject", |params, node, _| async move {
        let texts: Vec<String> = params.parse()?;
        let faults: Result<Vec<Fault>, _> = texts.iter().map(|text| text.parse()).collect();
        let faults = faults.map_err(|reason| error(-32602, reason))?;
        faults.iter().for_each(|fault| node.inject(fault));
        if faults.iter().any(Fault::is_server_fault) {
            let downtime = faults.iter().map(Fault::downtime).max().unwrap_or(Duration::ZERO);
            node.restart_rpc(downtime);
        }
        Ok::<_, ErrorObjectOwned>(())
    })?;
    module.register_method("devnet_heal", |_, node, _| {
        node.heal();
    })?;
    Ok(())
}
