//! Encodes and decodes mDNS packets.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr},
};

use libp2p::{Multiaddr, PeerId, multiaddr::Protocol};
use simple_dns::{
    CLASS, Name, Packet as Dns, PacketFlag, QCLASS, QTYPE, Question, ResourceRecord, TYPE,
    rdata::{A, AAAA, PTR, RData, SRV, TXT},
};
use tracing::debug;

const SERVICE: &str = "ipfs.local";
const TTL_SECONDS: u32 = 120;
/// Most addresses used from one answer.
const MAX_ADDRESSES: usize = 16;

/// A peer named in an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) peer: PeerId,
    pub(crate) addresses: Vec<Multiaddr>,
}

/// A packet of this service.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Packet {
    Query,
    Answer(Found),
}

/// Builds the query for all peers' PTR records.
pub(super) fn query() -> Vec<u8> {
    let mut packet = Dns::new_query(0);
    packet.questions.push(Question::new(
        Name::new_unchecked(SERVICE),
        QTYPE::TYPE(TYPE::PTR),
        QCLASS::CLASS(CLASS::IN),
        false,
    ));
    encode(&packet).unwrap_or_default()
}

/// Builds this node's answers, one for each port that it listens on.
pub(super) fn answers(me: PeerId, hostname: &str, listen: &[Multiaddr]) -> Vec<Vec<u8>> {
    let mut by_port: BTreeMap<u16, Vec<RData<'_>>> = BTreeMap::new();
    for address in listen {
        let mut parts = address.iter();
        let (Some(ip), Some(Protocol::Tcp(port))) = (parts.next(), parts.next()) else { continue };
        let record = match ip {
            Protocol::Ip4(ip) => RData::A(A { address: ip.into() }),
            Protocol::Ip6(ip) => RData::AAAA(AAAA { address: ip.into() }),
            _ => continue,
        };
        by_port.entry(port).or_default().push(record);
    }
    by_port.into_iter().filter_map(|(port, records)| answer(me, hostname, port, records)).collect()
}

fn answer(me: PeerId, hostname: &str, port: u16, records: Vec<RData<'_>>) -> Option<Vec<u8>> {
    let id = me.to_base58();
    let full = format!("{id}.{SERVICE}");
    let host = host_name(hostname);
    let named = |name: &str| Name::new(name).map(Name::into_owned);
    let build = || -> simple_dns::Result<Vec<u8>> {
        let mut packet = Dns::new_reply(0);
        packet.set_flags(PacketFlag::AUTHORITATIVE_ANSWER);
        let mut push = |name: &str, data: RData<'_>| -> simple_dns::Result<()> {
            packet.answers.push(ResourceRecord::new(named(name)?, CLASS::IN, TTL_SECONDS, data.into_owned()));
            Ok(())
        };
        push(SERVICE, RData::PTR(PTR(named(&full)?)))?;
        push(&full, RData::SRV(SRV { priority: 10, weight: 1, port, target: named(&host)? }))?;
        push(&full, RData::TXT(TXT::new().with_string(&id)?))?;
        for record in records {
            push(&host, record)?;
        }
        encode(&packet)
    };
    build().inspect_err(|error| debug!(%error, "cannot make an mDNS answer")).ok()
}

fn encode(packet: &Dns<'_>) -> simple_dns::Result<Vec<u8>> {
    packet.build_bytes_vec()
}

/// Converts a host name to a valid DNS label. It is never resolved; it only ties the records together.
fn host_name(hostname: &str) -> String {
    let clean: String =
        hostname.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(63).collect();
    if clean.is_empty() { "prb".to_owned() } else { clean }
}

/// Decodes a packet; `None` if it is invalid or of another service.
pub(super) fn read(bytes: &[u8]) -> Option<Packet> {
    let packet = Dns::parse(bytes).ok()?;
    if !packet.has_flags(PacketFlag::RESPONSE) {
        return packet.questions.iter().any(|q| is_service(&q.qname)).then_some(Packet::Query);
    }
    let (mut id, mut port, mut ips) = (None, None, Vec::new());
    let mut is_ours = false;
    // Originals send all records as answers; other senders may put those beyond the PTR into the additional
    // section.
    for record in packet.answers.iter().chain(&packet.additional_records) {
        match &record.rdata {
            RData::PTR(_) => is_ours |= is_service(&record.name),
            RData::TXT(txt) => id = id.or_else(|| text_of(txt)),
            RData::SRV(srv) => port = Some(srv.port),
            RData::A(a) => ips.push(Protocol::Ip4(Ipv4Addr::from(a.address))),
            RData::AAAA(aaaa) => ips.push(Protocol::Ip6(Ipv6Addr::from(aaaa.address))),
            _ => {}
        }
    }
    let (peer, port) = (id?.parse().ok()?, port.filter(|port| *port != 0)?);
    ips.truncate(MAX_ADDRESSES);
    let addresses: Vec<_> =
        ips.into_iter().map(|ip| Multiaddr::empty().with(ip).with(Protocol::Tcp(port))).collect();
    (is_ours && !addresses.is_empty()).then_some(Packet::Answer(Found { peer, addresses }))
}

fn is_service(name: &Name<'_>) -> bool {
    name.to_string().eq_ignore_ascii_case(SERVICE)
}

fn text_of(txt: &TXT<'_>) -> Option<String> {
    let (key, _) = txt.iter_raw().next()?;
    String::from_utf8(key.to_vec()).ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    const PEER: &str = "QmSoLer265NRgSp2LA3dPaeykiS1J6DifTC88f5uVQKNAd";

    /// Encodes a DNS name without compression.
    fn name(name: &str) -> Vec<u8> {
        let labels = name.split('.').flat_map(|l| [&[l.len() as u8][..], l.as_bytes()].concat());
        labels.chain([0]).collect()
    }

    /// Encodes a record.
    fn record(of: &str, kind: u16, data: &[u8]) -> Vec<u8> {
        let head = [name(of), kind.to_be_bytes().to_vec(), vec![0, 1, 0, 0, 0, 120]].concat();
        [head, (data.len() as u16).to_be_bytes().to_vec(), data.to_vec()].concat()
    }

    fn original_answer(port: u16) -> Vec<u8> {
        let full = format!("{PEER}.ipfs.local");
        let srv = [&[0, 10, 0, 1][..], &port.to_be_bytes(), &name("host-1")].concat();
        let txt = [&[PEER.len() as u8][..], PEER.as_bytes()].concat();
        [
            // Id 0, authoritative answer, 5 records in the answer section.
            vec![0, 0, 0x84, 0, 0, 0, 0, 5, 0, 0, 0, 0],
            record("ipfs.local", 12, &name(&full)),
            record(&full, 33, &srv),
            record(&full, 16, &txt),
            record("host-1", 1, &[10, 0, 0, 7]),
            record("host-1", 28, &Ipv6Addr::LOCALHOST.octets()),
        ]
        .concat()
    }

    #[test]
    fn query_matches_the_original() {
        let bytes = [&[0; 4][..], &[0, 1, 0, 0, 0, 0, 0, 0], &name("ipfs.local"), &[0, 12, 0, 1]].concat();
        assert_eq!(query(), bytes);
        assert_eq!(read(&bytes), Some(Packet::Query));
    }

    #[test]
    fn answer_matches_the_original() {
        let listen = ["/ip4/10.0.0.7/tcp/28888", "/ip6/::1/tcp/28888"].map(|a| a.parse().unwrap());
        let ours = answers(PEER.parse().unwrap(), "host-1", &listen);
        assert_eq!(ours, [original_answer(28888)]);
        let found = Found { peer: PEER.parse().unwrap(), addresses: listen.to_vec() };
        assert_eq!(read(&ours[0]), Some(Packet::Answer(found)));
    }

    #[test]
    fn each_port_has_an_answer() {
        let listen =
            ["/ip4/127.0.0.1/tcp/1", "/ip6/::1/tcp/2", "/ip4/10.0.0.7/tcp/1"].map(|a| a.parse().unwrap());
        let ours = answers(PEER.parse().unwrap(), "a host", &listen);
        let found: Vec<_> = ours
            .iter()
            .map(|packet| match read(packet) {
                Some(Packet::Answer(found)) => found.addresses,
                other => panic!("{other:?}"),
            })
            .collect();
        assert_eq!(found, [vec![listen[0].clone(), listen[2].clone()], vec![listen[1].clone()]]);
    }

    #[test]
    fn few_addresses_of_an_answer_are_read() {
        let mut bytes = original_answer(7);
        for host in 0..=255 {
            bytes.extend(record("host-1", 1, &[10, 0, 1, host]));
        }
        bytes[6..8].copy_from_slice(&(5_u16 + 256).to_be_bytes());
        match read(&bytes) {
            Some(Packet::Answer(found)) => assert_eq!(found.addresses.len(), 16),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn other_services_are_ignored() {
        let other = |from: &[u8]| {
            let at = from.windows(4).position(|w| w == b"ipfs").unwrap();
            let mut bytes = from.to_vec();
            bytes[at] = b'x';
            bytes
        };
        assert_eq!(read(&other(&query())), None);
        assert_eq!(read(&other(&original_answer(1))), None);
        assert_eq!(read(&original_answer(0)), None);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_do_not_panic(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(&bytes);
        }

        #[test]
        fn damaged_answers_do_not_panic(at in 0..200usize, to in any::<u8>(), cut in 0..250usize) {
            let mut bytes = original_answer(7);
            if let Some(byte) = bytes.get_mut(at) { *byte = to; }
            bytes.truncate(cut);
            let _ = read(&bytes);
        }
    }
}
