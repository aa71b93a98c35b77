//! Strangers on the network: mDNS of nobody, slow readers of blobs, connections without end.

use std::{
    collections::VecDeque,
    net::{Ipv4Addr, UdpSocket},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    task::JoinSet,
    time::sleep,
};

use crate::Targets;

const GROUP: (Ipv4Addr, u16) = (Ipv4Addr::new(224, 0, 0, 251), 5353);
/// Connections of each attacker that takes all it gets.
const CONNECTIONS: usize = 600;

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

/// The answer of an original that is not there, with the longest time to live and further addresses.
fn answer(id: &str, port: u16, further: u16) -> Vec<u8> {
    let mut packet = vec![0, 0, 0x84, 0, 0, 0];
    packet.extend((4 + further).to_be_bytes());
    packet.extend([0; 4]);
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
    for number in 0..further {
        let [high, low] = number.to_be_bytes();
        record(&mut packet, "host.local", 1, &[198, 19, high, low]);
    }
    packet
}

/// Tells of a thousand peers a second that do not exist, at ports of this machine.
pub(crate) fn false_mdns(targets: &Targets) -> JoinSet<()> {
    let mut liars = JoinSet::new();
    let ports = [8012, 9, 22];
    let from = targets.sources.v4(0);
    liars.spawn(async move {
        let socket = UdpSocket::bind((from, 0)).unwrap();
        let mut sent = 0_usize;
        loop {
            // Some are as large as a packet may be.
            let further = if sent % 10 == 9 { 300 } else { 0 };
            let id = prb_walkie::node::PeerId::random().to_base58();
            if socket.send_to(&answer(&id, ports[sent % 3], further), GROUP).is_err() {
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
pub(crate) fn request(id: u64, key: &str) -> Vec<u8> {
    let mut frame = vec![u8::try_from(8 + key.len()).unwrap()];
    frame.extend(id.to_be_bytes());
    frame.extend(key.as_bytes());
    frame
}

/// Ask for the largest blobs and take a byte now and then; half of them take none.
pub(crate) fn slow_readers(targets: &Targets) -> JoinSet<()> {
    let mut readers = JoinSet::new();
    for number in 0..128 {
        let Targets { sources, blobs, tip, .. } = targets.clone();
        readers.spawn(async move {
            loop {
                let Some(mut stream) = sources.connect(number, blobs).await else {
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

/// Connections that say nothing, to every port, from all addresses, more than there are descriptors.
pub(crate) fn connections_without_end(targets: &Targets) -> JoinSet<()> {
    let mut attackers = JoinSet::new();
    let ports = [targets.blobs, targets.provider, targets.manager];
    for to in ports.into_iter().chain(targets.http.iter().copied()) {
        let sources = targets.sources.clone();
        attackers.spawn(async move {
            let mut held = VecDeque::new();
            for number in 0.. {
                match sources.connect(number, to).await {
                    Some(stream) => held.push_back(stream),
                    None => sleep(Duration::from_millis(50)).await,
                }
                if held.len() > CONNECTIONS {
                    held.pop_front();
                }
            }
        });
    }
    attackers
}

/// Blob connections that end at once, with nothing, a frame that is too long, or an answer nobody waits for; and some
/// that stay, with one small request each.
pub(crate) fn churn(targets: &Targets) -> JoinSet<()> {
    let mut attackers = JoinSet::new();
    for first in 0..16 {
        let Targets { sources, blobs, tip, .. } = targets.clone();
        attackers.spawn(async move {
            let mut held = VecDeque::new();
            for number in (first..).step_by(16) {
                let Some(mut stream) = sources.connect(number, blobs).await else {
                    sleep(Duration::from_millis(50)).await;
                    continue;
                };
                let (head, blocks) =
                    (vec![0xff, 0xff, 0xff, 0xff, 0x0f], format!("blocks:1:{tip}:100000000"));
                let bytes = [Vec::new(), head, request(1, &blocks), request(1, "heights:-1:-1:0")];
                let _ = stream.write_all(&bytes[(number / 16) % 4]).await;
                if (number / 16) % 4 == 3 {
                    held.push_back(stream);
                }
                if held.len() > CONNECTIONS / 4 {
                    held.pop_front();
                }
            }
        });
    }
    attackers
}
