//! How a trader sends transactions.

use std::time::Duration;

use clap::{ArgAction, Args};
use prb_chain::submit;
use prb_queue::memory;

use super::values::{millis_or_zero, yes_no};

/// How a trader sends transactions.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Transactions")]
pub struct SendingArgs {
    /// Fill nonces that are missing before an operator's transaction at once, with empty batches that cost fees.
    /// Otherwise that happens after four final blocks, in which another program may send them.
    #[arg(long, env = "PRB_FILL_NONCE_GAPS", default_value = "false", default_missing_value = "true", num_args = 0..=1, action = ArgAction::Set, value_parser = yes_no)]
    pub fill_nonce_gaps: bool,
    /// Age in ms at which a job that still waits fails; 0 for no limit. It may no longer be wanted; lifecycle managers
    /// resubmit what is.
    #[arg(long, env = "PRB_JOB_MAX_AGE", value_name = "MS", default_value = "1800000", value_parser = millis_or_zero)]
    pub job_max_age: Duration,
}

impl SendingArgs {
    /// How transactions are sent.
    pub fn submit_config(&self) -> submit::Config {
        submit::Config::default().with_fill_nonce_gaps(self.fill_nonce_gaps)
    }

    /// The configuration of a queue in memory.
    pub fn memory_config(&self) -> memory::Config {
        memory::Config::default().with_max_age(self.job_max_age)
    }
}
