//! The chain according to the manager's own nodes: data providers are checked against it, and its identity is
//! announced to peers.

use std::time::{Duration, Instant};

use async_trait::async_trait;
use prb_chain::{
    identity,
    rpc::{FinalizedHead, NodePool},
};
use prb_core::{
    blob::Genesis,
    primitives::{Hash, ParaNumber},
    text::describe,
};
use prb_walkie::{
    blob::remote::{Finalized, GenesisCheck, GenesisError, OwnChain},
    node::Node,
};
use tokio::sync::watch;

use crate::daemon::Background;

/// Pause before the chain's identity is requested again.
const RETRY_PAUSE: Duration = Duration::from_secs(2);
/// Interval between two log lines about that.
const LOG_INTERVAL: Duration = Duration::from_secs(60);

/// The own chain's identity, for the peer-to-peer node.
pub(super) struct Identity(watch::Receiver<Option<Hash>>);

/// Follows the own chain in the background.
pub(super) fn follow(para: &NodePool, background: &mut Background) -> (OwnChain, Identity) {
    let (identity, known) = watch::channel(None);
    let (head, finalized) = watch::channel(None);
    let asked = para.clone();
    background.spawn(|stop| async move {
        stop.run_until_cancelled(fetch_identity(&asked, &identity)).await;
        // A background task that ends counts as a failure, so this one waits for the shutdown after its work.
        stop.cancelled().await;
        anyhow::anyhow!("stopped")
    });
    let heads = para.clone();
    background.spawn(|stop| async move {
        stop.run_until_cancelled(follow_heads(heads, head)).await;
        anyhow::anyhow!("following the parachain's finalised blocks has ended")
    });
    let genesis = std::sync::Arc::new(OwnGenesis { para: para.clone() });
    (OwnChain { finalized, genesis, identity: known.clone() }, Identity(known))
}

impl Identity {
    /// Publishes the chain's identity to peers as soon as it is known.
    pub(super) async fn publish_to(mut self, node: Node) {
        let known = self.0.wait_for(Option::is_some).await.ok().and_then(|known| *known);
        if let Some(identity) = known {
            node.set_chain_identity(identity).await;
        }
    }
}

/// Retries until a node returns the chain's identity, the hash of block 1.
async fn fetch_identity(para: &NodePool, sender: &watch::Sender<Option<Hash>>) {
    let mut logged_at = None::<Instant>;
    loop {
        let error = match para.chain_identity().await {
            Ok(known) => {
                tracing::info!(chain_identity = %known, "chain identity known");
                sender.send_replace(Some(known));
                return;
            }
            Err(error) => error,
        };
        if logged_at.is_none_or(|at| at.elapsed() >= LOG_INTERVAL) {
            logged_at = Some(Instant::now());
            tracing::warn!(error = %describe(&error), "not connecting to peers yet: the parachain's node does not report which chain it serves");
        }
        tokio::time::sleep(RETRY_PAUSE).await;
    }
}

async fn follow_heads(para: NodePool, sender: watch::Sender<Option<Finalized>>) {
    let mut heads = para.finalized_heads();
    loop {
        let FinalizedHead { number, hash, .. } = heads.next().await;
        let relay = match para.relay_parent(hash).await {
            Ok(relay) => relay,
            Err(error) => {
                tracing::debug!(%error, block = number, "cannot read the relay parent");
                None
            }
        };
        sender.send_modify(|finalized| {
            let before = finalized.and_then(|finalized| finalized.relay);
            let at = tokio::time::Instant::now();
            // If the relay parent could not be read, the previous one is kept: relay blocks up to it are final
            // in any case.
            *finalized = Some(Finalized { para: ParaNumber(number), relay: relay.or(before), at });
        });
    }
}

/// Compares a provider's genesis with the own node's chain.
#[derive(Debug)]
struct OwnGenesis {
    para: NodePool,
}

#[async_trait]
impl GenesisCheck for OwnGenesis {
    async fn check(&self, genesis: &Genesis) -> Result<(), GenesisError> {
        self.para.check_genesis(genesis).await.map_err(|error| match error {
            identity::Error::Wrong(reason) => GenesisError::Wrong(reason),
            error => GenesisError::Unchecked(describe(&error)),
        })
    }
}
