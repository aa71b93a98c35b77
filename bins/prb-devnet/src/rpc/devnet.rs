//! `devnet_*`: injects and heals faults of a running node. Not affected by faults.

use super::{Module, Registered, error};
use crate::node::Fault;

/// Prefix of their names.
pub(super) const PREFIX: &str = "devnet_";

pub(super) fn register(module: &mut Module) -> Registered {
    module.register_method("devnet_inject", |params, node, _| {
        let texts: Vec<String> = params.parse()?;
        let faults: Result<Vec<Fault>, _> = texts.iter().map(|text| text.parse()).collect();
        let faults = faults.map_err(|reason| error(-32602, reason))?;
        let limit = texts.iter().zip(&faults).find(|(_, fault)| fault.is_of_server());
        if let Some((text, _)) = limit {
            return Err(error(
                -32602,
                format!("{text} takes effect at the server's start: set it with a flag"),
            ));
        }
        faults.iter().for_each(|fault| node.inject(fault));
        Ok(())
    })?;
    module.register_method("devnet_heal", |_, node, _| {
        node.faults().heal();
    })?;
    Ok(())
}
