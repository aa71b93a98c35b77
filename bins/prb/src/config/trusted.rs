//! Trusted data providers (`PRB_DATA_PROVIDERS`).

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use prb_walkie::node::Trust;

/// Peers trusted with chain data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Trusted {
    /// One peer.
    Peer(multiaddr::PeerId),
    /// Every peer in a network.
    Network(IpNet),
    /// Every peer.
    Any,
}

impl Trusted {
    pub(super) fn all(list: &[Self]) -> Trust {
        let mut trust = Trust::default();
        for trusted in list {
            match trusted {
                Self::Peer(peer) => drop(trust.peers.insert(*peer)),
                Self::Network(network) => trust.networks.push(*network),
                Self::Any => {
                    // 0.0.0.0/0 and ::/0.
                    let all: [IpNet; 2] = [Ipv4Net::default().into(), Ipv6Net::default().into()];
                    trust.networks.extend(all);
                }
            }
        }
        trust
    }
}

pub(super) fn trusted(text: &str) -> Result<Trusted, String> {
    let text = text.trim();
    if text.eq_ignore_ascii_case("any") {
        return Ok(Trusted::Any);
    }
    let network = text.parse::<IpNet>().or_else(|_| text.parse().map(|ip: std::net::IpAddr| ip.into()));
    match (network, text.parse()) {
        (Ok(network), _) if network.prefix_len() == 0 => {
            Err("includes everybody: if that is intended, set it to any".into())
        }
        (Ok(network), _) => Ok(Trusted::Network(network)),
        (_, Ok(peer)) => Ok(Trusted::Peer(peer)),
        _ => Err("must be a peer id such as Qm…, a network such as 10.0.0.0/8, or any".into()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn peers_networks_and_everybody() {
        let id = "QmYyQSo1c1Ym7orWxLYvCrM2EmxFTANf8wXmmE7DWjhx5N";
        let list: Vec<_> =
            [id, "10.0.0.0/8", "192.0.2.7"].iter().map(|text| trusted(text).unwrap()).collect();
        let trust = Trusted::all(&list);
        assert_eq!(trust.peers.len(), 1);
        assert_eq!(trust.networks, ["10.0.0.0/8".parse().unwrap(), "192.0.2.7/32".parse().unwrap()]);
        assert_eq!(Trusted::all(&[trusted(" Any").unwrap()]).networks.len(), 2);
        for bad in ["", "everybody", "0.0.0.0/0", "::/0", "10.0.0.0/33", "host.example.org"] {
            assert!(trusted(bad).is_err(), "{bad}");
        }
    }
}
