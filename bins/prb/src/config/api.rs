//! Settings of the management API's port.

use clap::Args;

use super::values::{OpsListen, listen_at};

/// The management API's port.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Management API")]
pub struct ApiArgs {
    /// Address of the management API (HTTP, JSON), or none. By default 127.0.0.1:3001; if that is in use, the
    /// daemon runs without the API. On other addresses than loopback every request needs the token.
    #[arg(long, env = "PRB_API_LISTEN", value_name = "ADDRESS", value_parser = api_listen)]
    pub api_listen: Option<OpsListen>,
}

fn api_listen(text: &str) -> Result<OpsListen, String> {
    listen_at(text, 3001)
}
