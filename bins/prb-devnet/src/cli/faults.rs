//! Flags for faults of nodes and chains.

use std::time::Duration;

use clap::Args;
use prb_devnet::{Config, Devnet, Fault, JustificationOddities};

/// Faults of the nodes and the chains.
#[derive(Debug, Clone, Args)]
pub(super) struct FaultFlags {
    /// Fault of the relay chain's node, repeatable; `--relay-fault help` lists them
    #[arg(long, value_name = "FAULT")]
    relay_fault: Vec<Fault>,
    /// Fault of the parachain's node, repeatable
    #[arg(long, value_name = "FAULT")]
    para_fault: Vec<Fault>,
    /// Interval in seconds at which both nodes' servers are down for a second; 0 = never
    #[arg(long, default_value_t = 0)]
    restart_every: u64,
    /// Number of authorities in a set
    #[arg(long, default_value_t = 4)]
    set_size: u32,
    /// Number of relay blocks by which finality lags
    #[arg(long, default_value_t = 0)]
    finality_lag: u32,
    /// Relay block that forces a change of authorities, which workers do not support; 0 = none
    #[arg(long, default_value_t = 0)]
    forced_change_at: u32,
    /// Add votes of one authority for two blocks to justifications
    #[arg(long)]
    equivocate: bool,
    /// Repeat a header of the votes' ancestry in justifications
    #[arg(long)]
    repeat_ancestry: bool,
    /// Number of parachain blocks for each relay parent
    #[arg(long, default_value_t = 1)]
    heads_per_relay_block: u32,
    /// Interval in parachain blocks at which a block changes `--burst-bytes`; 0 = never
    #[arg(long, default_value_t = 0)]
    burst_every: u32,
    /// Bytes of values changed by such a block
    #[arg(long, default_value_t = 20_000_000)]
    burst_bytes: u32,
    /// Bytes of each of these values
    #[arg(long, default_value_t = 100_000)]
    burst_value_bytes: u32,
    /// The relay chain names no head of the parachain after the history
    #[arg(long)]
    offboard: bool,
    /// Interval in relay blocks at which parachain blocks that are not final are retracted; 0 = never
    #[arg(long, default_value_t = 0)]
    fork_every: u32,
}

impl FaultFlags {
    /// Returns the configuration with the chains' faults.
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

    /// Injects the nodes' faults.
    pub(super) async fn start(&self, devnet: &Devnet) -> std::io::Result<()> {
        for (node, faults) in [(devnet.relay(), &self.relay_fault), (devnet.para(), &self.para_fault)] {
            faults.iter().for_each(|fault| node.inject(fault));
            if faults.iter().any(Fault::is_server_fault) {
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
