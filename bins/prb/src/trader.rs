//! `prb trader`: sends what lifecycle managers want on chain, from the queue in Redis.
//!
//! Composition only.

use std::sync::Arc;

use prb_core::vault::Vault;
use prb_walkie::{identity::Role, vault::RsaVault};

use crate::{
    config::TraderArgs,
    daemon::{self, Daemon, Failure, pool},
    desk::{self, Desk},
    ops::Probe,
    peers,
    progress::{Display, Shown, View},
};

/// A running trader.
#[derive(Debug)]
pub struct TraderDaemon {
    desk: Desk,
}

impl TraderDaemon {
    /// Reads the identity and starts to take jobs. Redis need not be there yet.
    ///
    /// # Errors
    /// See [`Failure`].
    pub async fn start(args: &TraderArgs) -> Result<Self, Failure> {
        let para = pool("para", &args.chain_endpoint).map_err(Failure::Configuration)?;
        // The lifecycle manager's, as in the original: what that has sealed is to be opened.
        let identity = peers::identity(&args.peer_id_prefix, Role::Lifecycle).await;
        let vault: Arc<dyn Vault> = Arc::new(RsaVault::new(&identity.map_err(Failure::Configuration)?));
        let desk = Desk::trading(&args.q_redis_endpoint, para, vault).map_err(Failure::Configuration)?;
        Ok(Self { desk: desk.with_page(&args.pages).await? })
    }
}

impl Daemon for TraderDaemon {
    const OPS_PORT: u16 = 18014;

    fn probe(&self) -> Probe {
        let queue = self.desk.watch();
        Arc::new(move || desk::readiness(&queue).into_iter().collect())
    }

    async fn view(&self) -> View {
        View { jobs: self.desk.stats(), shown: Shown::Trader, ..View::default() }
    }

    fn ended(&mut self) -> impl Future<Output = anyhow::Error> {
        self.desk.ended()
    }

    fn stop(self) -> impl Future<Output = ()> {
        self.desk.stop()
    }
}

/// Runs until a signal.
///
/// # Errors
/// See [`Failure`].
pub async fn run(args: TraderArgs, display: Display) -> Result<(), Failure> {
    daemon::run(&args.ops, TraderDaemon::start(&args), &display).await
}
