//! Periodic tasks of a devnet.

use std::time::Duration;

use super::Devnet;
use crate::{Error, node::Retracted};

/// How long a restarted node is down.
const DOWNTIME: Duration = Duration::from_secs(1);

impl Devnet {
    /// Starts a timer that ticks at the block time ([`Config::block_ms`](crate::Config::block_ms)) until
    /// [`shutdown`](Self::shutdown) is called. It holds a clone of the devnet.
    pub async fn spawn_ticker(&self) {
        let devnet = self.clone();
        let period = Duration::from_millis(self.0.config.block_ms.max(1));
        self.0.tasks.lock().await.spawn(async move {
            let mut timer = tokio::time::interval(period);
            // A slow block must not be followed by a burst of blocks that catch up: real chains do not do that.
            timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            // The first tick of an interval completes at once.
            timer.tick().await;
            loop {
                tokio::select! {
                    () = devnet.0.stop.cancelled() => return,
                    _ = timer.tick() => {}
                }
                let ticking = devnet.clone();
                // Executing the runtimes blocks for milliseconds, and the RPC server shares the async threads.
                match tokio::task::spawn_blocking(move || ticking.tick_and_fork()).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => tracing::error!(%error, "tick failed"),
                    Err(error) => tracing::error!(%error, "tick failed"),
                }
            }
        });
    }

    fn tick_and_fork(&self) -> Result<(), Error> {
        let relay = self.tick()?.relay;
        if self.0.faults.is_fork_due(relay) {
            let blocks = self.reorganise_para(Retracted::Pooled)?;
            tracing::info!(relay, blocks, "parachain blocks were retracted");
        }
        Ok(())
    }

    /// Starts a timer that stops both nodes' servers for a second at this interval, until
    /// [`shutdown`](Self::shutdown) is called. It holds a clone of the devnet.
    pub async fn spawn_restarts(&self, period: Duration) {
        let devnet = self.clone();
        self.0.tasks.lock().await.spawn(async move {
            let stop = devnet.0.stop.clone();
            while stop.run_until_cancelled(tokio::time::sleep(period)).await.is_some() {
                for node in [devnet.relay(), devnet.para()] {
                    node.stop_rpc().await;
                }
                if stop.run_until_cancelled(tokio::time::sleep(DOWNTIME)).await.is_none() {
                    return;
                }
                for node in [devnet.relay(), devnet.para()] {
                    if let Err(error) = node.start_rpc().await {
                        tracing::error!(%error, "cannot restart a node's server");
                    }
                }
            }
        });
    }
}
