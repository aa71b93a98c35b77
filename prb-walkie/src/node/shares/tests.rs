#![allow(clippy::unwrap_used)]
use super::*;
use crate::{identity::Identity, node::Limits, proto::Role};

fn at(host: u8) -> Multiaddr {
    format!("/ip4/192.0.2.{host}/tcp/1").parse().unwrap()
}

fn shares(limits: Limits, edit: impl FnOnce(&mut Config)) -> Shares {
    let identity = Identity::from_bytes(include_bytes!("../../../tests/data/js-peer-id.bin")).unwrap();
    let mut config = Config { limits, ..Config::new(identity, Role::Client) };
    edit(&mut config);
    Shares::new(&config, Handshakes::default())
}

/// Closes what was displaced, as the swarm does in the end.
fn close_displaced(shares: &mut Shares) {
    while let Some((_, id)) = shares.displaced.pop_front() {
        shares.left(id);
    }
}

/// The swarm has ended the handshakes that were displaced.
fn ended(shares: &mut Shares) -> &mut Shares {
    shares.ending.clear();
    shares
}

/// A network of a site of IPv6.
fn of_site(site: u16, subnet: u16) -> Multiaddr {
    format!("/ip6/2001:db8:{site:x}:{subnet:x}::1/tcp/1").parse().unwrap()
}

#[test]
fn silent_handshakes_of_many_addresses_leave_one_to_others() {
    let mut shares = shares(Limits { handshakes: 128, ..Limits::default() }, |_| ());
    let mut next = 0..;
    let mut begin = |shares: &mut Shares, host: u8| {
        let id = ConnectionId::new_unchecked(next.next().unwrap());
        ended(shares).begin_handshake(id, &at(host)).map(|()| id)
    };
    let alone = (0..128).filter(|_| begin(&mut shares, 0).is_ok()).count();
    assert_eq!(alone, 32, "a quarter of all");
    for _ in 0..128 {
        (0..64).for_each(|host| drop(begin(&mut shares, host)));
    }
    assert!(matches!(begin(&mut shares, 1), Err(Denied::Handshakes(..))));
    assert!(shares.handshakes.by_connection.len() < 128);
    // From here on, each of them has one more than those that come, or as many.
    let first = shares.pending.first_key_value().map(|(id, _)| *id).unwrap();
    let last = (64..=255).map(|host| begin(&mut shares, host).unwrap()).last().unwrap();
    assert_eq!((shares.handshakes.by_connection.len(), shares.pending.len()), (128, 128));
    assert!(!shares.pending.contains_key(&first) && shares.pending.contains_key(&last));
    assert!(shares.handshakes.by_address.values().all(|count| *count == 1), "those with most went first");
}

#[test]
fn handshakes_of_known_addresses_make_room_only_for_each_other() {
    let limits = Limits { handshakes: 4, ..Limits::default() };
    let mut shares = shares(limits, |config| {
        config.boot_nodes = vec![at(1)];
        config.trust.networks = vec!["192.0.2.2/31".parse().unwrap()];
    });
    let friend = PeerId::random();
    shares.trust(friend, true);
    shares.admit(ConnectionId::new_unchecked(99), &friend, &at(4)).unwrap();
    let mut begin = |host: u8| {
        ended(&mut shares).begin_handshake(ConnectionId::new_unchecked(host.into()), &at(host))?;
        Ok::<_, Denied>(shares.pending.keys().map(ToString::to_string).collect::<Vec<_>>())
    };
    begin(1).unwrap();
    (11..=13).for_each(|host| drop(begin(host).unwrap()));
    assert_eq!(begin(14).unwrap(), ["1", "12", "13", "14"], "the oldest of those that are unknown");
    (2..=4).for_each(|host| drop(begin(host).unwrap()));
    assert!(matches!(begin(15), Err(Denied::AllHandshakes(4))));
}

#[test]
fn known_addresses_have_some_handshakes_each_while_strangers_take_all() {
    let mut shares = shares(Limits { handshakes: 16, ..Limits::default() }, |config| {
        config.trust.networks = vec!["192.0.2.0/29".parse().unwrap()];
    });
    let mut next = 0..;
    let mut taken = |host, tries: usize| {
        let ids = (0..tries).map(|_| ConnectionId::new_unchecked(next.next().unwrap()));
        ids.filter(|id| ended(&mut shares).begin_handshake(*id, &at(host)).is_ok()).count()
    };
    (10..100).for_each(|host| assert!(taken(host, 1) == 1));
    assert_eq!((taken(0, 10), taken(1, 10), taken(2, 10)), (4, 4, 4));
    assert_eq!(taken(100, 10), 1, "of those that strangers have");
    assert_eq!((taken(3, 10), taken(101, 10)), (4, 0), "all are of known addresses");
    // One more takes from those that have more.
    assert_eq!(taken(4, 10), 4);
    let mut held: Vec<_> = shares.handshakes.by_address.values().copied().collect();
    held.sort_unstable();
    assert_eq!(held, [3, 3, 3, 3, 4]);
}

/// Strangers come faster than their handshakes end.
#[test]
fn handshakes_that_have_not_ended_leave_room_for_known_addresses() {
    let mut shares = shares(Limits { handshakes: 16, ..Limits::default() }, |config| {
        config.trust.networks = vec!["192.0.2.0/29".parse().unwrap()];
    });
    let mut next = 0..;
    let mut begin = |shares: &mut Shares, host: u8| {
        let id = ConnectionId::new_unchecked(next.next().unwrap());
        shares.begin_handshake(id, &at(host)).map(|()| id)
    };
    let strangers = (10..100).filter(|host| begin(&mut shares, *host).is_ok()).count();
    assert_eq!((strangers, shares.pending.len(), shares.ending.len()), (32, 16, 16));
    assert!(matches!(begin(&mut shares, 100), Err(Denied::Ending(16))));
    assert!((0..4).all(|host| begin(&mut shares, host).is_ok()));
    assert!(matches!(begin(&mut shares, 100), Err(Denied::Ending(20))));
    (0..100).for_each(|n| drop(begin(&mut shares, n % 8)));
    assert!(shares.ending.len() <= 32, "{}", shares.ending.len());
    assert!(shares.pending.values().all(|remote| shares.known.has(remote)));
}

#[test]
fn trusted_peers_and_their_addresses_are_bounded() {
    let mut shares = shares(Limits::default(), |_| ());
    for number in 0..MAX_TRUSTED + 10 {
        let peer = PeerId::random();
        shares.trust(peer, true);
        let [.., a, b] = number.to_be_bytes();
        let remote: Multiaddr = format!("/ip4/198.18.{a}.{b}/tcp/1").parse().unwrap();
        shares.known.learn(&remote);
    }
    assert_eq!((shares.trusted.len(), shares.known.addresses.len()), (MAX_TRUSTED, MAX_TRUSTED));
}

#[test]
fn a_connection_is_no_handshake_any_more() {
    let mut shares = shares(Limits { handshakes: 3, ..Limits::default() }, |_| ());
    for number in 0..10 {
        let id = ConnectionId::new_unchecked(number);
        ended(&mut shares).begin_handshake(id, &at(1)).unwrap();
        shares.admit(id, &PeerId::random(), &at(1)).unwrap();
    }
    assert!(shares.pending.is_empty() && shares.handshakes.by_address.is_empty());
    assert_eq!(shares.connections.by_connection.len(), 10);
}

/// With 65,536 networks of /64, one owner would otherwise have the fewest connections at each of them.
#[test]
fn a_site_of_ipv6_displaces_nobody() {
    let limits = Limits { connections: 64, connections_per_ip: 16, ..Limits::default() };
    let mut shares = shares(limits, |_| ());
    let mut next = 0..;
    let mut admit = |shares: &mut Shares, remote: Multiaddr| {
        let id = ConnectionId::new_unchecked(next.next().unwrap());
        shares.admit(id, &PeerId::random(), &remote).map(|()| id)
    };
    let first: Vec<_> = (0..4).map(|host| admit(&mut shares, at(host)).unwrap()).collect();
    (0..1000).for_each(|subnet| drop(admit(&mut shares, of_site(1, subnet))));
    // Newcomers displace it.
    let mut come = |host| {
        close_displaced(&mut shares);
        admit(&mut shares, at(host)).unwrap()
    };
    let later: Vec<_> = (4..12).map(&mut come).collect();
    (1000..2000).for_each(|subnet| drop(admit(&mut shares, of_site(1, subnet))));
    let held = &shares.connections.by_connection;
    assert!(held.len() == shares.strangers && first.iter().chain(&later).all(|id| held.contains_key(id)));
}

#[test]
fn an_address_with_fewer_connections_takes_the_place_of_one_with_more() {
    let limits = Limits { connections: 16, connections_per_ip: 4, ..Limits::default() };
    let (friend, mut next) = (PeerId::random(), 0..);
    let mut shares = shares(limits, |config| config.trust.peers = [friend].into());
    let mut admit = |shares: &mut Shares, peer, host| {
        let id = ConnectionId::new_unchecked(next.next().unwrap());
        shares.admit(id, &peer, &at(host)).map(|()| id)
    };
    // Fourteen may come in, and strangers have three quarters of these.
    let peers = [PeerId::random(), PeerId::random(), PeerId::random()];
    let first = admit(&mut shares, peers[0], 0).unwrap();
    for host in [0, 0, 0, 1, 1, 1, 1, 2, 2, 2] {
        admit(&mut shares, peers[usize::from(host)], host).unwrap();
    }
    assert!(matches!(admit(&mut shares, peers[0], 0), Err(Denied::Address(..))));
    assert!(shares.displaced.is_empty());
    admit(&mut shares, PeerId::random(), 3).unwrap();
    assert_eq!(shares.displaced, [(peers[0], first)], "the oldest of those with the most");
    let denied = admit(&mut shares, PeerId::random(), 3);
    assert!(matches!(denied, Err(Denied::Strangers(_))), "it is still being closed");
    for _ in 0..2 {
        close_displaced(&mut shares);
        admit(&mut shares, PeerId::random(), 3).unwrap();
    }
    close_displaced(&mut shares);
    assert_eq!(shares.connections.by_connection.len(), shares.strangers);
    // All have three or two by now.
    assert!(matches!(admit(&mut shares, PeerId::random(), 3), Err(Denied::Strangers(_))));
    assert!(admit(&mut shares, friend, 3).is_ok(), "the reserve");
}

/// However many addresses somebody has: those of boot nodes, of trusted networks and of trusted peers have their
/// handshakes.
#[test]
fn known_addresses_keep_their_handshakes_beside_a_thousand_sites() {
    let mut shares = shares(Limits::default(), |config| {
        config.boot_nodes = vec![at(1)];
        config.trust.networks = vec!["192.0.2.2/32".parse().unwrap()];
    });
    let (friend, mut next) = (PeerId::random(), 0..);
    shares.trust(friend, true);
    let mut begin = |shares: &mut Shares, remote: &Multiaddr| {
        let id = ConnectionId::new_unchecked(next.next().unwrap());
        ended(shares).begin_handshake(id, remote).map(|()| id)
    };
    shares.admit(ConnectionId::new_unchecked(usize::MAX), &friend, &at(3)).unwrap();
    let mut known = Vec::new();
    for _ in 0..2 {
        for subnet in 0..4 {
            (0..1000).for_each(|site| drop(begin(&mut shares, &of_site(site, subnet))));
        }
        assert_eq!(shares.pending.len(), 128);
        assert!(known.iter().all(|id| shares.pending.contains_key(id)));
        known.into_iter().for_each(|id| drop(shares.end_handshake(id)));
        known = [1, 2, 3].map(|host| begin(&mut shares, &at(host)).unwrap()).into();
    }
}
