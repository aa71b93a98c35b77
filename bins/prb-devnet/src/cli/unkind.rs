//! Flags for what real nodes and chains do wrong.

use std::time::Duration;

use clap::Args;
use prb_devnet::{Config, Devnet, Fault, JustificationOddities};

/// What is wrong with the nodes and the chains.
#[derive(Debug, Clone, Args)]
pub(super) struct Unkind {
    /// Fault of the relay chain's node, any number of times; `--relay-fault help` lists them
    #[arg(long, value_name = "FAULT")]
    relay_fault: Vec<Fault>,
    /// Fault of the parachain's node, any number of times
    #[arg(long, value_name = "FAULT")]
    para_fault: Vec<Fault>,
    /// Seconds after which both nodes' servers go away for a second, again and again; 0 = never
    #[arg(long, default_value_t = 0)]
    restart_every: u64,
    /// Authorities in a set
    #[arg(long, default_value_t = 4)]
    set_size: u32,
    /// Relay blocks that finality stays behind
    #[arg(long, default_value_t = 0)]
    finality_lag: u32,
    /// Relay block that forces a change of authorities, which workers do not take; 0 = none
    #[arg(long, default_value_t = 0)]
    forced_change_at: u32,
    /// Justifications hold votes of one authority for two blocks
    #[arg(long)]
    equivocate: bool,
    /// Justifications hold a header of the votes' ancestry twice
    #[arg(long)]
    repeat_ancestry: bool,
    /// Parachain blocks of each relay parent
    #[arg(long, default_value_t = 1)]
    heads_per_relay_block: u32,
    /// Every so many-th parachain block changes `--burst-bytes`; 0 = none
    #[arg(long, default_value_t = 0)]
    burst_every: u32,
    /// Bytes of values that such a block changes
    #[arg(long, default_value_t = 20_000_000)]
    burst_bytes: u32,
    /// Bytes of each of these values
    #[arg(long, default_value_t = 100_000)]
    burst_value_bytes: u32,
    /// The relay chain names no head of the parachain after the history
    #[arg(long)]
    offboard: bool,
    /// At every so many-th relay block, the parachain blocks that are not final lose their place; 0 = never
    #[arg(long, default_value_t = 0)]
    fork_every: u32,
}

impl Unkind {
    /// The configuration with what the chains have wrong.
    pub(super) fn config(&self, config: Config) -> Config {
        Config {
            set_size: self.set_size,
            finality_lag: self.finality_lag,
            forced_change_at: self.forced_change_at,
            justifications: JustificationOddities {
                equivocation: self.equivocate,
                repeated_header: self.repeat_ancestry,
            },
            heads_per_relay_block: self.heads_per_relay_block,
            burst_every: self.burst_every,
            burst_bytes: self.burst_bytes,
            burst_value_bytes: self.burst_value_bytes,
            fork_every: self.fork_every,
            ..config
        }
    }

    /// Gives the nodes their faults.
    pub(super) async fn start(&self, devnet: &Devnet) -> std::io::Result<()> {
        for (node, faults) in [(devnet.relay(), &self.relay_fault), (devnet.para(), &self.para_fault)] {
            faults.iter().for_each(|fault| node.inject(fault));
            if faults.iter().any(Fault::is_of_server) {
                node.stop_rpc().await;
                node.start_rpc().await?;
            }
        }
        if self.offboard {
            devnet.offboard_para();
        }
        if self.restart_every > 0 {
            devnet.spawn_restarts(Duration::from_secs(self.restart_every)).await;
        }
        Ok(())
    }
}
