//! Tests of discovery by multicast in the originals' format.
//!
//! Other programs on this machine use the same group, so only packets about a test's peers are considered.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "node_rig/rig.rs"]
#[allow(dead_code, unreachable_pub, reason = "each test program uses a part of the rig")]
mod rig;

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use prb_walkie::{
    node::{Config, Node},
    proto::Role,
};
use rig::{LONG, RawPeer, config, start, until_friends};
use simple_dns::{
    CLASS, Name, Packet, PacketFlag, QCLASS, QTYPE, Question, ResourceRecord, TYPE,
    rdata::{A, PTR, RData, SRV, TXT},
};
use socket2::{Domain, Socket, Type};
use tokio::net::UdpSocket;

const GROUP: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 251);
const SERVICE: &str = "ipfs.local";

fn with_mdns(n: usize, role: Role) -> Config {
    let mut config = config(n, role);
    config.mdns = true;
    config
}

/// A member of the group on the loopback interface, with a socket like an original's.
struct Member(UdpSocket);

impl Member {
    fn join() -> Self {
        let socket = Socket::new(Domain::IPV4, Type::DGRAM, None).unwrap();
        socket.set_reuse_address(true).unwrap();
        socket.set_reuse_port(true).unwrap();
        socket.set_nonblocking(true).unwrap();
        socket.bind(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, 5353)).into()).unwrap();
        socket.join_multicast_v4(&GROUP, &Ipv4Addr::LOCALHOST).unwrap();
        socket.set_multicast_if_v4(&Ipv4Addr::LOCALHOST).unwrap();
        Self(UdpSocket::from_std(socket.into()).unwrap())
    }

    async fn send(&self, packet: &Packet<'_>) {
        self.0.send_to(&packet.build_bytes_vec().unwrap(), (GROUP, 5353)).await.unwrap();
    }

    /// Sends a packet repeatedly until a wanted one arrives.
    async fn until<T>(
        &self,
        ask: Option<&Packet<'_>>,
        mut wanted: impl FnMut(&Packet<'_>) -> Option<T>,
    ) -> T {
        let mut buffer = vec![0; 9000];
        let work = async {
            let mut again = tokio::time::interval(Duration::from_secs(1));
            loop {
                tokio::select! {
                    _ = again.tick() => if let Some(packet) = ask { self.send(packet).await },
                    received = self.0.recv_from(&mut buffer) => {
                        let packet = Packet::parse(&buffer[..received.unwrap().0]);
                        if let Some(found) = packet.ok().as_ref().and_then(&mut wanted) {
                            break found;
                        }
                    }
                }
            }
        };
        tokio::time::timeout(LONG, work).await.expect("no such packet in time")
    }
}

fn question(service: &str) -> Packet<'_> {
    let mut packet = Packet::new_query(0);
    let name = Name::new(service).unwrap();
    packet.questions.push(Question::new(name, QTYPE::TYPE(TYPE::PTR), QCLASS::CLASS(CLASS::IN), false));
    packet
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_on_loopback_discover_each_other() {
    let one = start(with_mdns(0, Role::DataProviderInt)).await;
    let other = start(with_mdns(1, Role::LifecycleManager)).await;
    until_friends(&one, &other).await;
    // The second node starts when nobody is querying any more.
    let late = start(with_mdns(2, Role::LifecycleManager)).await;
    until_friends(&one, &late).await;
    until_friends(&other, &late).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn node_without_mdns_is_not_discovered() {
    let member = Member::join();
    let hidden = start(config(3, Role::DataProviderInt)).await;
    let seen = start(with_mdns(4, Role::DataProviderInt)).await;
    let query = question(SERVICE);
    let mut answers = Vec::new();
    let seen_id = seen.peer_id().to_base58();
    // After several answers of the visible node, none of the hidden one has arrived.
    member
        .until(Some(&query), |packet| {
            let id = id_of(packet)?;
            answers.push(id);
            (answers.iter().filter(|id| **id == seen_id).count() >= 3).then_some(())
        })
        .await;
    assert!(!answers.contains(&hidden.peer_id().to_base58()));
}

fn id_of(packet: &Packet<'_>) -> Option<String> {
    packet.answers.iter().find_map(|record| match &record.rdata {
        RData::TXT(txt) => Some(String::from_utf8(txt.iter_raw().next()?.0.to_vec()).unwrap()),
        _ => None,
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn query_is_answered_like_an_original() {
    let member = Member::join();
    let node = start(with_mdns(5, Role::DataProviderInt)).await;
    let id = node.peer_id().to_base58();
    let port: u16 = node.listen_addresses()[0].to_string().rsplit('/').next().unwrap().parse().unwrap();
    let full = format!("{id}.{SERVICE}");
    let query = question(SERVICE);
    member
        .until(Some(&query), |packet| {
            if id_of(packet)? != id {
                return None;
            }
            assert!(packet.has_flags(PacketFlag::RESPONSE));
            assert!(packet.additional_records.is_empty() && packet.questions.is_empty());
            let kinds: Vec<_> = packet
                .answers
                .iter()
                .map(|record| {
                    assert_eq!(record.ttl, 120);
                    let name = record.name.to_string();
                    match &record.rdata {
                        RData::PTR(ptr) => format!("PTR {name} {}", ptr.0),
                        RData::SRV(srv) => {
                            format!("SRV {name} {} {} {} {}", srv.priority, srv.weight, srv.port, srv.target)
                        }
                        RData::TXT(_) => format!("TXT {name}"),
                        RData::A(a) => format!("A {name} {}", Ipv4Addr::from(a.address)),
                        other => panic!("{other:?}"),
                    }
                })
                .collect();
            let expected = [
                format!("PTR {SERVICE} {full}"),
                format!("SRV {full} 10 1 {port} host-5"),
                format!("TXT {full}"),
                "A host-5 127.0.0.1".to_owned(),
            ];
            assert_eq!(kinds, expected);
            Some(())
        })
        .await;
}

/// An original peer's answer.
fn answer(id: &str, port: u16) -> Packet<'static> {
    let name = |name: &str| Name::new(name).unwrap().into_owned();
    let full = format!("{id}.{SERVICE}");
    let mut packet = Packet::new_reply(0);
    let srv = SRV { priority: 10, weight: 1, port, target: name("original") };
    let txt = TXT::new().with_string(id).unwrap().into_owned();
    for (of, data) in [
        (SERVICE, RData::PTR(PTR(name(&full)))),
        (&full, RData::SRV(srv)),
        (&full, RData::TXT(txt)),
        // Nobody listens at the second address; dialling it fails.
        ("original", RData::A(A { address: Ipv4Addr::LOCALHOST.into() })),
        ("original", RData::A(A { address: Ipv4Addr::new(127, 0, 0, 99).into() })),
    ] {
        packet.answers.push(ResourceRecord::new(name(of), CLASS::IN, 120, data));
    }
    packet
}

async fn until_query(member: &Member) {
    member
        .until(None, |packet| {
            let asks = packet.questions.iter().any(|q| q.qname.to_string() == SERVICE);
            (asks && !packet.has_flags(PacketFlag::RESPONSE)).then_some(())
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answering_original_is_dialled() {
    let member = Member::join();
    let (hello, mut heard) = tokio::sync::mpsc::unbounded_channel();
    let original = RawPeer::start(
        6,
        None,
        Box::new(move |bytes| {
            hello.send(bytes).unwrap();
            None
        }),
    )
    .await;
    let _node: Node = start(with_mdns(7, Role::LifecycleManager)).await;
    until_query(&member).await;
    let port = original.address.to_string().split('/').nth(4).unwrap().parse().unwrap();
    let packet = answer(&original.peer_id.to_base58(), port);
    // Damaged packets and those of other services are ignored.
    member.send(&Packet::new_reply(0)).await;
    member.0.send_to(&packet.build_bytes_vec().unwrap()[..60], (GROUP, 5353)).await.unwrap();
    member.0.send_to(&[0xff; 300], (GROUP, 5353)).await.unwrap();
    // Answer every query, as an original does: the first may be another node's.
    let answers = async {
        loop {
            member.send(&packet).await;
            until_query(&member).await;
        }
    };
    let request = tokio::select! {
        request = tokio::time::timeout(LONG, heard.recv()) => request.unwrap().unwrap(),
        () = answers => unreachable!(),
    };
    let request = <prb_walkie::proto::Request as prost::Message>::decode(request.as_slice()).unwrap();
    assert_eq!(request.method, "Hello");
}
