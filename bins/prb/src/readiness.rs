//! Why a daemon is not ready: what is behind the codes in [`crate::ops`].

use std::sync::Arc;

use prb_core::{blob::Heights, chain::ChainView};
use tokio::sync::watch;

use crate::ops::Reason;

/// Blocks that a store may be behind its nodes: what a batch or two bring.
const AT_TIP: u32 = 20;

/// Whether a store has what its nodes have.
pub(crate) fn provider(heights: &watch::Receiver<Heights>) -> impl Iterator<Item = Reason> {
    let heights = *heights.borrow();
    let reason = match (heights.relay, heights.relay_target, heights.para, heights.para_target) {
        (Some(relay), Some(relay_target), para, para_target) => {
            let para_behind = para_target.map_or(0, |t| t.0).saturating_sub(para.map_or(0, |p| p.0));
            let relay_behind = relay_target.0.saturating_sub(relay.0);
            (relay_behind.max(para_behind) > AT_TIP).then(|| {
                let behind = format!("{relay_behind} relay blocks and {para_behind} parachain blocks behind");
                Reason::new("syncing", behind)
            })
        }
        _ => Some(Reason::new("chain_unknown", "no block has come from the chain nodes yet")),
    };
    reason.into_iter()
}

/// Whether the chain's state has been read.
pub(crate) fn chain_view(views: &watch::Receiver<Option<Arc<ChainView>>>) -> impl Iterator<Item = Reason> {
    let missing = views.borrow().is_none();
    missing.then(|| Reason::new("no_chain_view", "the parachain's state has not been read yet")).into_iter()
}

/// Whether there is somebody to fetch from.
pub(crate) fn data_providers(usable: usize) -> Option<Reason> {
    (usable == 0).then(|| Reason::new("no_data_provider", "no data provider of this chain is connected"))
}

#[cfg(test)]
mod tests {
    use prb_core::primitives::{ParaNumber, RelayNumber};

    use super::*;

    fn codes(relay: Option<u32>, target: u32, para: u32, para_target: u32) -> Vec<&'static str> {
        let (_, heights) = watch::channel(Heights {
            relay: relay.map(RelayNumber),
            para: Some(ParaNumber(para)),
            relay_target: Some(RelayNumber(target)),
            para_target: Some(ParaNumber(para_target)),
        });
        provider(&heights).map(|reason| reason.code).collect()
    }

    #[test]
    fn a_store_is_ready_near_the_tip_of_both_chains() {
        assert_eq!(codes(None, 10, 0, 5), ["chain_unknown"]);
        assert_eq!(codes(Some(10), 100, 50, 50), ["syncing"]);
        assert_eq!(codes(Some(95), 100, 0, 50), ["syncing"]);
        assert!(codes(Some(95), 100, 48, 50).is_empty());
    }
}
