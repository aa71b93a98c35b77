//! Settings of `prb monitor`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use clap::Args;
use multiaddr::Multiaddr;

use super::{
    BootNode, OpsArgs, OpsListen, PageArgs, WalkieArgs,
    values::whole,
    walkie::{boot_address, listen_address},
};

/// The port of the original's monitor.
pub const MONITOR_PORT: u16 = 3000;

/// `prb monitor`.
#[derive(Clone, Debug, Args)]
#[command(
    next_help_heading = "Console",
    mut_arg("queue_page_listen", |arg| arg.hide(true))
)]
pub struct MonitorArgs {
    /// Port of the console and of the JSON proxy.
    #[arg(long, env = "PORT", default_value_t = MONITOR_PORT, value_parser = whole(0u16..=u16::MAX))]
    pub port: u16,
    /// IP address to listen on. Everybody who can reach it can read the console. Changes need the token; programs on
    /// this machine need it for the JSON proxy only if PRB_API_TOKEN or PRB_API_TOKEN_FILE is set.
    #[arg(long, env = "HOST", default_value = "127.0.0.1", value_name = "IP", value_parser = ip)]
    pub host: IpAddr,
    /// Addresses of boot nodes, separated by commas, under the original's name; takes precedence over
    /// PHALA_WALKIE_BOOT_NODES.
    #[arg(long, env = "PTP_BOOT_NODES", value_delimiter = ',', value_name = "MULTIADDR", value_parser = boot_address)]
    pub ptp_boot_nodes: Option<Vec<BootNode>>,
    /// Addresses to listen on for peers, separated by commas, under the original's name; takes precedence over
    /// PHALA_WALKIE_LISTEN_ADDRESSES.
    #[arg(
        long,
        env = "PTP_LISTEN_ADDRESSES",
        value_delimiter = ',',
        value_name = "MULTIADDR",
        value_parser = listen_address
    )]
    pub ptp_listen_addresses: Option<Vec<Multiaddr>>,
    /// Peer-to-peer settings.
    #[command(flatten)]
    pub walkie: WalkieArgs,
    /// The ops port.
    #[command(flatten)]
    pub ops: OpsArgs,
    /// The web pages.
    #[command(flatten)]
    pub pages: PageArgs,
}

impl MonitorArgs {
    /// The peer-to-peer settings, merged with the original's.
    pub fn walkie(&self) -> WalkieArgs {
        let mut walkie = self.walkie.clone();
        // `Option`, so that a variable of the original that is not set differs from one that is set to the
        // placeholder.
        if let Some(nodes) = &self.ptp_boot_nodes {
            walkie.walkie_boot_nodes.clone_from(nodes);
        }
        if let Some(addresses) = &self.ptp_listen_addresses {
            walkie.walkie_listen_addresses.clone_from(addresses);
        }
        walkie
    }

    /// Logs settings that have no effect.
    pub(crate) fn warn_of_no_effect(&self) {
        if let Some(OpsListen::At(address)) = self.pages.queue_page_listen {
            tracing::warn!(
                variable = "PRB_QUEUE_PAGE_LISTEN",
                value = %address,
                "this setting has no effect: a monitor has no queue page; remove it"
            );
        }
    }

    /// The address of the console. `none` counts as not set, because a monitor needs it.
    pub fn listen(&self) -> SocketAddr {
        match self.pages.console_listen {
            Some(OpsListen::At(address)) => address,
            _ => (self.host, self.port).into(),
        }
    }
}

fn ip(text: &str) -> Result<IpAddr, String> {
    match text.trim() {
        "localhost" => Ok(Ipv4Addr::LOCALHOST.into()),
        text => text.parse().map_err(|_| "must be an IP address such as 127.0.0.1 or 0.0.0.0".into()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use crate::config::{Cli, Command};

    use super::*;

    fn args(args: &[&str]) -> Result<MonitorArgs, clap::Error> {
        Cli::read(["prb", "monitor"].iter().chain(args)).map(|cli| match cli.command {
            Command::Monitor(args) => *args,
            other => panic!("{other:?}"),
        })
    }

    #[test]
    fn settings_of_the_original_are_read() {
        let plain = args(&[]).unwrap();
        assert_eq!(plain.listen(), "127.0.0.1:3000".parse().unwrap());
        assert_eq!(plain.walkie().boot_nodes(), []);
        let set = args(&[
            "--host",
            "0.0.0.0",
            "--port",
            "80",
            "--ptp-boot-nodes",
            "/ip4/10.0.0.2/tcp/28888,/ip4/0.0.0.0/tcp/18888",
            "--ptp-listen-addresses",
            "/ip4/0.0.0.0/tcp/18889",
        ])
        .unwrap();
        assert_eq!(set.listen(), "0.0.0.0:80".parse().unwrap());
        assert_eq!(set.walkie().boot_nodes(), ["/ip4/10.0.0.2/tcp/28888".parse().unwrap()]);
        assert_eq!(set.walkie().walkie_listen_addresses, ["/ip4/0.0.0.0/tcp/18889".parse().unwrap()]);
        assert!(args(&["--host", "monitor.example.org"]).is_err() && args(&["--port", "70000"]).is_err());
    }
}
