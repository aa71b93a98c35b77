//! How a trader sends transactions.

use clap::{ArgAction, Args};
use prb_chain::submit;

use super::values::yes_no;

/// How a trader sends transactions.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Transactions")]
pub struct SendingArgs {
    /// Fill nonces that are missing before an operator's transaction at once, with empty batches that cost fees.
    /// Otherwise that happens after four final blocks, in which another program may send them.
    #[arg(long, env = "PRB_FILL_NONCE_GAPS", default_value = "false", default_missing_value = "true", num_args = 0..=1, action = ArgAction::Set, value_parser = yes_no)]
    pub fill_nonce_gaps: bool,
}

impl SendingArgs {
    /// How transactions are sent.
    pub fn submit_config(&self) -> submit::Config {
        submit::Config::default().with_fill_nonce_gaps(self.fill_nonce_gaps)
    }
}
