//! Settings of the ops port.

use clap::Args;

use super::values::{OpsListen, ops_listen};

/// The ops port.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Ops port")]
pub struct OpsArgs {
    /// Address of the ops port (/metrics, /livez, /readyz), or none. By default on 127.0.0.1 at 18012 for a data
    /// provider, 18013 for a lifecycle manager, 18014 for a trader, 18015 for all in one, 18016 for a monitor; if
    /// that is in use, the daemon runs without it.
    #[arg(long, env = "PRB_OPS_LISTEN", value_name = "ADDRESS", value_parser = ops_listen)]
    pub ops_listen: Option<OpsListen>,
}

/// `prb healthcheck`.
#[derive(Clone, Debug, Default, Args)]
pub struct HealthArgs {
    /// The ops port.
    #[command(flatten)]
    pub ops: OpsArgs,
}
