//! Strangers on the network: mDNS of nobody, slow readers of blobs, connections without end.

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    task::JoinSet,
    time::{sleep, timeout},
};

use crate::Targets;

const GROUP: (Ipv4Addr, u16) = (Ipv4Addr::new(224, 0, 0, 251), 5353);
/// Connections of each attacker that takes all it gets.
const CONNECTIONS: usize = 400;

/// Connects from 127.0.0.x; `None` where there is no socket left, or the other end takes none.
pub(crate) async fn connect(from: u8, to: SocketAddr) -> Option<TcpStream> {
    let socket = TcpSocket::new_v4().ok()?;
    socket.bind(SocketAddr::from(([127, 0, 0, from], 0))).ok()?;
    timeout(Duration::from_secs(2), socket.connect(to)).await.ok()?.ok()
}

fn name(packet: &mut Vec<u8>, name: &str) {
    for label in name.split('.') {
        packet.push(u8::try_from(label.len()).unwrap());
        packet.extend(label.as_bytes());
    }
    packet.push(0);
}

fn record(packet: &mut Vec<u8>, owner: &str, kind: u16, data: &[u8]) {
    name(packet, owner);
    packet.extend(kind.to_be_bytes());
    packet.extend([0, 1, 0xff, 0xff, 0xff, 0xff]);
    packet.extend(u16::try_from(data.len()).unwrap().to_be_bytes());
    packet.extend(data);
}

/// The answer of an original that is not there, with the longest time to live.
fn answer(id: &str, port: u16) -> Vec<u8> {
    let mut packet = vec![0, 0, 0x84, 0, 0, 0, 0, 4, 0, 0, 0, 0];
    let full = format!("{id}.ipfs.local");
    let mut target = Vec::new();
    name(&mut target, &full);
    record(&mut packet, "ipfs.local", 12, &target);
    let mut service = vec![0, 10, 0, 1];
    service.extend(port.to_be_bytes());
    name(&mut service, "host.local");
    record(&mut packet, &full, 33, &service);
    let text = [&[u8::try_from(id.len()).unwrap()], id.as_bytes()].concat();
    record(&mut packet, &full, 16, &text);
    record(&mut packet, "host.local", 1, &[127, 0, 0, 1]);
    packet
}

/// Tells of a thousand peers a second that do not exist, at ports of this machine.
pub(crate) fn false_mdns(targets: &Targets) -> JoinSet<()> {
    let mut liars = JoinSet::new();
    let ports = [targets.blobs.port(), 9, 22];
    liars.spawn(async move {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut sent = 0_usize;
        loop {
            let id = prb_walkie::node::PeerId::random().to_base58();
            if socket.send_to(&answer(&id, ports[sent % 3]), GROUP).is_err() {
                // A system without multicast on loopback: nobody can be told anything.
                return;
            }
            sent += 1;
            if sent.is_multiple_of(10) {
                sleep(Duration::from_millis(10)).await;
            }
        }
    });
    liars
}

/// A request of the blob wire.
fn request(id: u64, key: &str) -> Vec<u8> {
    let mut frame = vec![u8::try_from(8 + key.len()).unwrap()];
    frame.extend(id.to_be_bytes());
    frame.extend(key.as_bytes());
    frame
}

/// Ask for the largest blobs and take a byte now and then; half of them take none.
pub(crate) fn slow_readers(targets: &Targets) -> JoinSet<()> {
    let mut readers = JoinSet::new();
    let (to, tip) = (targets.blobs, targets.tip);
    for number in 0..64_u8 {
        readers.spawn(async move {
            loop {
                let Some(mut stream) = connect(2 + number % 16, to).await else {
                    sleep(Duration::from_millis(200)).await;
                    continue;
                };
                for id in 0..8 {
                    let key = format!("blocks:1:{tip}:100000000");
                    if stream.write_all(&request(id, &key)).await.is_err() {
                        break;
                    }
                }
                let mut byte = [0; 1];
                while number % 2 == 0 && stream.read(&mut byte).await.is_ok_and(|read| read > 0) {
                    sleep(Duration::from_millis(500)).await;
                }
                // Until it is hung up on.
                while stream.write_all(&[0]).await.is_ok() {
                    sleep(Duration::from_millis(500)).await;
                }
            }
        });
    }
    readers
}

fn port_of(address: &prb_walkie::node::Multiaddr) -> SocketAddr {
    let port = address.to_string().rsplit('/').next().unwrap().parse().unwrap();
    SocketAddr::from(([127, 0, 0, 1], port))
}

/// Connections that say nothing, to every port, from many addresses, more than there are descriptors.
pub(crate) fn connections_without_end(targets: &Targets) -> JoinSet<()> {
    let mut attackers = JoinSet::new();
    let ports = [targets.blobs, port_of(&targets.provider), port_of(&targets.manager)];
    for (place, to) in ports.into_iter().chain(targets.http.iter().copied()).enumerate() {
        attackers.spawn(async move {
            let mut held = Vec::new();
            loop {
                let from = 20 + u8::try_from(held.len() % 40).unwrap() + u8::try_from(place).unwrap();
                match connect(from, to).await {
                    Some(stream) if held.len() < CONNECTIONS => held.push(stream),
                    Some(stream) => {
                        held.remove(0);
                        held.push(stream);
                    }
                    None => sleep(Duration::from_millis(50)).await,
                }
            }
        });
    }
    attackers
}
