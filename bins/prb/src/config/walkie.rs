//! Peer-to-peer settings: key, addresses, discovery, access control.

use std::{net::IpAddr, path::PathBuf};

use anyhow::{Context, bail};
use clap::{ArgAction, Args};
use ipnet::IpNet;
use multiaddr::{Multiaddr, Protocol};
use prb_walkie::rpc::auth;
use secrecy::SecretString;

use crate::redact;

use super::{
    secret::{ReadOnce, first_line},
    values::yes_no,
};

/// The variable that holds the pre-shared key. It is never a flag, because every user can read arguments.
pub const PSK_VARIABLE: &str = "PRB_WALKIE_PSK";
/// The largest file of a pre-shared key, in bytes.
const MAX_PSK_FILE_BYTES: u64 = 4096;
/// The placeholder in the original's guides for 'no boot node'.
const NO_BOOT_NODES: [&str; 2] = ["/ip4/0.0.0.0/tcp/18888", "/ip6/::/tcp/28889"];
/// The placeholder in the original's guides for a peer id, at the end of a boot node's address.
const NO_PEER_ID: &str = "/peer_id_of_data_provider";

/// Peer-to-peer settings.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Peers")]
pub struct WalkieArgs {
    /// Folder of the identity keys.
    #[arg(long, env = "PHALA_PEER_ID_PREFIX", default_value = "/var/data/keys/id", value_name = "DIR")]
    pub peer_id_prefix: PathBuf,
    /// Addresses to listen on for peers, separated by commas.
    #[arg(
        long,
        env = "PHALA_WALKIE_LISTEN_ADDRESSES",
        value_delimiter = ',',
        default_value = "/ip4/0.0.0.0/tcp/0,/ip6/::/tcp/0",
        value_name = "MULTIADDR",
        value_parser = listen_address
    )]
    pub walkie_listen_addresses: Vec<Multiaddr>,
    /// Addresses of boot nodes, separated by commas, with or without /p2p/ID. The placeholder in the original's
    /// guides, /ip4/0.0.0.0/tcp/18888,/ip6/::/tcp/28889, counts as none.
    #[arg(
        long,
        env = "PHALA_WALKIE_BOOT_NODES",
        value_delimiter = ',',
        value_name = "MULTIADDR",
        value_parser = boot_address
    )]
    pub walkie_boot_nodes: Vec<BootNode>,
    /// Disable discovery by mDNS.
    #[arg(long, env = "PHALA_WALKIE_DISABLE_MDNS_DISCOVERY", default_value = "false", default_missing_value = "true", num_args = 0..=1, action = ArgAction::Set, value_parser = yes_no)]
    pub walkie_disable_mdns_discovery: bool,
    /// Name of the group of daemons that belong together: lifecycle managers ignore data providers with another name.
    /// A monitor shows all.
    #[arg(long, env = "PHALA_BRIDGE_IDENTITY", default_value = "default", value_name = "NAME")]
    pub bridge_identity: String,
    /// File whose first line is the key shared by the daemons that may manage this one and whose data is used: at
    /// least 16 bytes that cannot be guessed, such as the output of `openssl rand -hex 32`. The variable
    /// PRB_WALKIE_PSK may hold the key itself.
    #[arg(long, env = "PRB_WALKIE_PSK_FILE", value_name = "FILE")]
    pub walkie_psk_file: Option<PathBuf>,
    /// Also accept the bare pre-shared key as a proof. A peer that receives it can use it elsewhere.
    #[arg(long, env = "PRB_WALKIE_PSK_BARE", default_value = "false", default_missing_value = "true", num_args = 0..=1, action = ArgAction::Set, value_parser = yes_no)]
    pub walkie_psk_bare: bool,
    /// Peer ids that may manage this daemon, separated by commas.
    #[arg(long, env = "PRB_WALKIE_WHITELIST", value_delimiter = ',', value_name = "PEER_ID", value_parser = peer_id)]
    pub walkie_whitelist: Vec<PeerName>,
    /// Networks in which every peer may manage this daemon, separated by commas, such as 10.1.0.0/16 or
    /// 192.0.2.7: for callers that have neither a key nor a permanent peer id, such as the original's monitor.
    #[arg(long, env = "PRB_WALKIE_MANAGEMENT_NETWORKS", value_delimiter = ',', value_name = "NETWORK", value_parser = network)]
    pub walkie_management_networks: Vec<IpNet>,
    /// Let every peer manage this daemon. By default, with neither key nor whitelist, only peers on this machine
    /// may.
    #[arg(long, env = "PRB_WALKIE_OPEN_MANAGEMENT", default_value = "false", default_missing_value = "true", num_args = 0..=1, action = ArgAction::Set, value_parser = yes_no)]
    pub walkie_open_management: bool,
    /// The pre-shared key once it was read: the file may be a pipe, which can be read once.
    #[arg(skip)]
    pub psk: ReadOnce,
}

/// A peer id in base58.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerName(pub multiaddr::PeerId);

/// A boot node, or the guides' placeholder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BootNode {
    /// The address.
    At(Multiaddr),
    /// The placeholder.
    None,
}

impl WalkieArgs {
    /// The boot nodes, without the placeholder.
    pub fn boot_nodes(&self) -> Vec<Multiaddr> {
        let address = |node: &BootNode| match node {
            BootNode::At(address) => Some(address.clone()),
            BootNode::None => None,
        };
        self.walkie_boot_nodes.iter().filter_map(address).collect()
    }

    /// Returns the pre-shared key, if one is set.
    ///
    /// # Errors
    /// It is set twice, cannot be read, or is too weak.
    pub fn psk(&self) -> anyhow::Result<Option<SecretString>> {
        self.psk.get_or_read(|| self.read_psk())
    }

    fn read_psk(&self) -> anyhow::Result<Option<SecretString>> {
        let variable = std::env::var_os(PSK_VARIABLE).filter(|value| !value.is_empty());
        let (key, place) = match (variable, &self.walkie_psk_file) {
            (None, None) => return Ok(None),
            (Some(_), Some(_)) => bail!("both {PSK_VARIABLE} and PRB_WALKIE_PSK_FILE are set; set one"),
            (Some(value), None) => {
                let text = value.into_string().map_err(|_| anyhow::anyhow!("{PSK_VARIABLE} is not UTF-8"))?;
                (SecretString::from(text), PSK_VARIABLE.to_owned())
            }
            (None, Some(file)) => {
                let key = first_line(file, MAX_PSK_FILE_BYTES).context("PRB_WALKIE_PSK_FILE")?;
                (key, format!("{} (PRB_WALKIE_PSK_FILE)", redact::shown_path(file)))
            }
        };
        check_psk(&key).with_context(|| format!("the pre-shared key in {place}"))?;
        Ok(Some(key))
    }
}

fn check_psk(key: &SecretString) -> anyhow::Result<()> {
    match auth::weakness(key) {
        Some(problem) => bail!("{problem}"),
        None => Ok(()),
    }
}

/// Whether an address is a host and a TCP port, optionally with a peer id.
fn is_tcp(address: &Multiaddr) -> bool {
    let mut parts = address.iter();
    let host = matches!(
        parts.next(),
        Some(Protocol::Ip4(_) | Protocol::Ip6(_) | Protocol::Dns(_) | Protocol::Dns4(_) | Protocol::Dns6(_))
    );
    host && matches!(parts.next(), Some(Protocol::Tcp(_)))
        && matches!(parts.next(), None | Some(Protocol::P2p(_)))
        && parts.next().is_none()
}

/// Whether a peer can be dialled there: the port is not 0, and a name has no spaces.
fn is_reachable(address: &Multiaddr) -> bool {
    address.iter().all(|part| match part {
        Protocol::Tcp(port) => port != 0,
        Protocol::Dns(name) | Protocol::Dns4(name) | Protocol::Dns6(name) => {
            !name.is_empty() && !name.contains(|c: char| c.is_whitespace() || c.is_control())
        }
        _ => true,
    })
}

pub(super) fn listen_address(text: &str) -> Result<Multiaddr, String> {
    let wrong = || "must be an IP address and a TCP port such as /ip4/0.0.0.0/tcp/28888".to_owned();
    let address: Multiaddr = text.trim().parse().map_err(|_| wrong())?;
    let ip = matches!(address.iter().next(), Some(Protocol::Ip4(_) | Protocol::Ip6(_)));
    if ip && is_tcp(&address) && address.iter().count() == 2 { Ok(address) } else { Err(wrong()) }
}

pub(super) fn boot_address(text: &str) -> Result<BootNode, String> {
    let text = text.trim();
    let text = text.strip_suffix(NO_PEER_ID).unwrap_or(text);
    if text.is_empty() || NO_BOOT_NODES.contains(&text) {
        return Ok(BootNode::None);
    }
    match text.parse::<Multiaddr>() {
        Ok(address) if is_tcp(&address) && is_reachable(&address) => Ok(BootNode::At(address)),
        _ => Err("must be a host and a TCP port such as /ip4/10.0.0.2/tcp/28888 or \
                  /dns4/provider/tcp/28888/p2p/Qm…, or the guides' placeholder for none"
            .into()),
    }
}

/// Parses a network, or an address as a network of its own.
fn network(text: &str) -> Result<IpNet, String> {
    let text = text.trim();
    let network: IpNet = text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).map_err(|_| {
        "must be a network such as 10.1.0.0/16 or fd00::/8, or an IP address such as 192.0.2.7".to_owned()
    })?;
    if network.prefix_len() == 0 {
        return Err("includes everybody: if that is intended, set PRB_WALKIE_OPEN_MANAGEMENT=true".into());
    }
    Ok(network.trunc())
}

fn peer_id(text: &str) -> Result<PeerName, String> {
    text.trim().parse().map(PeerName).map_err(|_| "must be a peer id in base58 such as Qm…".into())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn guide_placeholder_is_not_a_boot_node() {
        for none in ["/ip4/0.0.0.0/tcp/18888", " /ip6/::/tcp/28889", ""] {
            assert_eq!(boot_address(none), Ok(BootNode::None), "{none:?}");
        }
        let id = "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N";
        for node in ["/ip4/10.0.0.2/tcp/28888".to_owned(), format!("/dns4/dp/tcp/1/p2p/{id}")] {
            assert!(matches!(boot_address(&node), Ok(BootNode::At(_))), "{node}");
        }
        let with_placeholder = boot_address("/ip4/127.0.0.1/tcp/28888/peer_id_of_data_provider");
        assert_eq!(with_placeholder, boot_address("/ip4/127.0.0.1/tcp/28888"));
        for bad in ["10.0.0.2:28888", "/ip4/10.0.0.2/udp/1", "/ip4/10.0.0.2", "/ip4/10.0.0.2/tcp/1/ws"] {
            assert!(boot_address(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn listen_addresses_must_be_local() {
        assert!(listen_address("/ip6/::/tcp/0").is_ok());
        for bad in ["/dns4/x/tcp/1", "/ip4/0.0.0.0/tcp/99999", "0.0.0.0:1", "/ip4/0.0.0.0/udp/1"] {
            assert!(listen_address(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn networks_can_be_single_addresses_but_not_everybody() {
        for (text, network) in
            [("10.1.2.3/16", "10.1.0.0/16"), (" 192.0.2.7", "192.0.2.7/32"), ("fd00::1", "fd00::1/128")]
        {
            assert_eq!(super::network(text).map(|network| network.to_string()).as_deref(), Ok(network));
        }
        assert!(super::network("0.0.0.0/0").unwrap_err().contains("PRB_WALKIE_OPEN_MANAGEMENT"));
        for bad in ["", "10.1.2.3/33", "localhost", "::ffff:10.0.0.1/"] {
            assert!(super::network(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn weak_key_is_refused_without_being_shown() {
        let error = check_psk(&"hunter2".into()).unwrap_err().to_string();
        assert!(error.contains("7 bytes") && !error.contains("hunter2"), "{error}");
        for pattern in ["x".repeat(64), "0123456789abcdef".repeat(2), "correcthorsebattery".to_owned()] {
            let error = check_psk(&pattern.clone().into()).unwrap_err().to_string();
            assert!(error.contains("openssl rand -hex 32") && !error.contains(&pattern), "{error}");
        }
        assert!(check_psk(&"b39aa1c7f2ed4f7b8e02d5d1c4a6309f".into()).is_ok());
    }
}
