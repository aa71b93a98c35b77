#![allow(clippy::unwrap_used)]

use prb_core::sync::BackoffConfig;

use super::*;

fn peers(edit: impl FnOnce(&mut Limits)) -> Peers {
    let mut limits = Limits::default();
    edit(&mut limits);
    let rules = MembershipRules {
        chain_identity: None,
        bridge_identity: "default".into(),
        ignore_bridge_identity: false,
    };
    Peers::new(PeerId::random(), limits, rules, Trust::default())
}

fn address_of(port: u16) -> Multiaddr {
    format!("/ip4/127.0.0.1/tcp/{port}").parse().unwrap()
}

fn info(role: Role) -> SystemInfo {
    SystemInfo { role: role.into(), ..SystemInfo::default() }
}

fn link(n: usize, outbound: bool) -> (ConnectionId, Link) {
    (ConnectionId::new_unchecked(n), Link::new(address_of(1), outbound, false))
}

/// Adds a peer that has introduced itself and is away.
fn met(peers: &mut Peers, role: Role) -> PeerId {
    let peer = PeerId::random();
    peers.found(peer, address_of(1), false);
    assert!(peers.introduced(peer, &info(role)));
    peer
}

#[test]
fn flood_of_announcements_evicts_no_known_peer() {
    let mut peers = peers(|limits| limits.peers = 10);
    let friends: Vec<_> = (0..5).map(|_| met(&mut peers, Role::DataProviderInt)).collect();
    let (boot, connected) = (PeerId::random(), PeerId::random());
    peers.found(boot, address_of(2), true);
    let (id, connection) = link(1, false);
    peers.connected(connected, id, connection);
    for _ in 0..1000 {
        peers.found(PeerId::random(), address_of(3), false);
    }
    assert_eq!(peers.known.len(), 10);
    assert!(friends.iter().chain([&boot, &connected]).all(|peer| peers.get(peer).is_some()));
    // Peers that are away are evicted for those that introduce themselves, the longest away first.
    for _ in 0..4 {
        met(&mut peers, Role::LifecycleManager);
    }
    assert_eq!(peers.known.len(), 10);
    assert!(peers.get(&friends[0]).is_none() && peers.get(&friends[4]).is_some());
    assert!(peers.get(&boot).is_some() && peers.get(&connected).is_some());
}

#[test]
fn discovered_peers_share_few_dials_and_boot_nodes_are_always_dialled() {
    let mut peers = peers(|limits| limits.handshakes = 16);
    for _ in 0..100 {
        peers.found(PeerId::random(), address_of(3), false);
    }
    let friend = met(&mut peers, Role::DataProviderInt);
    let client = met(&mut peers, Role::Client);
    let due = peers.due_dials(Instant::now());
    assert_eq!(
        (due.len(), due[0]),
        (4, friend),
        "who has said Hello comes first, and has no more than the share"
    );
    assert!(!due.contains(&client));
    for peer in &due {
        peers.get_mut(peer).unwrap().dialling = true;
    }
    assert_eq!(peers.due_dials(Instant::now()), []);
    let boot = PeerId::random();
    peers.found(boot, address_of(9), true);
    assert_eq!(peers.due_dials(Instant::now()), [boot]);
    peers.get_mut(&boot).unwrap().dialling = true;
    // An unreachable peer makes way for the next one, and waits.
    peers.dial_failed(&due[1], "refused".into());
    let next = peers.due_dials(Instant::now());
    assert!(next.len() == 1 && next[0] != due[1]);
}

#[test]
fn peer_that_closes_each_time_is_redialled_with_backoff() {
    let redial = BackoffConfig { first: Duration::from_millis(100), max: Duration::from_secs(60) };
    let mut peers = peers(|limits| limits.redial = redial);
    let peer = met(&mut peers, Role::DataProviderInt);
    for n in 0..10 {
        let (id, connection) = link(n, true);
        peers.connected(peer, id, connection);
        peers.disconnected(&peer, id);
    }
    let wait = peers.get(&peer).unwrap().dial_at - Instant::now();
    assert!(wait > Duration::from_secs(20), "{wait:?}");
    // A peer that stayed for long is redialled at once.
    let (id, mut connection) = link(99, true);
    connection.since -= redial.max;
    peers.connected(peer, id, connection);
    peers.disconnected(&peer, id);
    let wait = peers.get(&peer).unwrap().dial_at.saturating_duration_since(Instant::now());
    assert!(wait <= redial.first, "{wait:?}");
}

#[test]
fn long_absent_peer_is_removed() {
    let mut peers = peers(|_| {});
    let (friend, client) = (met(&mut peers, Role::DataProviderInt), met(&mut peers, Role::Client));
    let (named, boot) = (PeerId::random(), PeerId::random());
    peers.found(named, address_of(2), false);
    peers.found(boot, address_of(2), true);
    let limits = peers.limits;
    let is_there = |peers: &Peers| [friend, client, named, boot].map(|peer| peers.get(&peer).is_some());
    peers.prune(Instant::now());
    assert_eq!(is_there(&peers), [true; 4]);
    peers.prune(Instant::now() + limits.idle_timeout);
    assert_eq!(is_there(&peers), [true, false, false, true]);
    peers.prune(Instant::now() + limits.forget_after);
    assert_eq!(is_there(&peers), [false, false, false, true]);
}

#[test]
fn working_addresses_come_first_and_are_bounded() {
    let mut peers = peers(|_| {});
    let peer = PeerId::random();
    for port in 1..100 {
        peers.found(peer, address_of(port), false);
    }
    assert_eq!(peers.get(&peer).unwrap().addresses().len(), MAX_ADDRESSES);
    let (id, mut connection) = link(1, true);
    connection.address = address_of(500);
    peers.connected(peer, id, connection);
    let known = peers.get(&peer).unwrap().addresses();
    assert_eq!((known.len(), &known[0]), (MAX_ADDRESSES, &address_of(500)));
    peers.is_not_at(&peer, &address_of(500));
    assert!(!peers.get(&peer).unwrap().addresses().contains(&address_of(500)));
}

#[test]
fn announced_address_that_never_answers_is_not_redialled() {
    let mut peers = peers(|_| {});
    let (stranger, friend) = (PeerId::random(), met(&mut peers, Role::DataProviderInt));
    peers.found(stranger, address_of(22), false);
    peers.dial_failed(&stranger, "refused".into());
    assert_eq!(peers.get(&stranger).unwrap().addresses(), []);
    // A peer that has introduced itself may come back.
    let (id, mut connection) = link(1, true);
    connection.address = address_of(500);
    peers.connected(friend, id, connection);
    peers.disconnected(&friend, id);
    for failed in 1..=MAX_FAILURES {
        peers.dial_failed(&friend, "refused".into());
        let left = if failed < MAX_FAILURES { 2 } else { 1 };
        assert_eq!(peers.get(&friend).unwrap().addresses().len(), left);
    }
    assert_eq!(
        peers.get(&friend).unwrap().addresses(),
        [address_of(500)],
        "its former address is still tried"
    );
}

#[test]
fn cause_of_a_failed_dial_is_shortened() {
    let mut peers = peers(|_| {});
    let peer = met(&mut peers, Role::DataProviderInt);
    peers.dial_failed(&peer, "refused ".repeat(10_000));
    assert!(peers.dial_failure(&peer).unwrap().len() <= 256);
}

#[test]
fn provenance_follows_proof_and_connection() {
    let mut peers = peers(|_| {});
    peers.trust.networks.push("10.0.0.0/8".parse().unwrap());
    let at = |ip: &str, local| {
        let address = format!("/ip4/{ip}/tcp/1").parse().unwrap();
        Link::new(address, false, local)
    };
    let id = |n| ConnectionId::new_unchecked(n);
    let peer = PeerId::random();
    assert_eq!(peers.provenance(&peer), Provenance::Discovered);
    peers.connected(peer, id(1), at("192.0.2.1", false));
    assert_eq!(peers.provenance(&peer), Provenance::Discovered);
    peers.connected(peer, id(2), at("10.1.1.1", false));
    assert_eq!(peers.provenance(&peer), Provenance::TrustedNetwork);
    peers.connected(peer, id(3), at("127.0.0.1", true));
    assert_eq!(peers.provenance(&peer), Provenance::SameMachine);
    for n in [2, 3] {
        peers.disconnected(&peer, id(n));
    }
    assert_eq!(
        peers.provenance(&peer),
        Provenance::Discovered,
        "it only counts while it is connected that way"
    );
    peers.found(peer, address_of(1), true);
    assert_eq!(peers.provenance(&peer), Provenance::BootNode);
    peers.is_no_boot_node(&peer);
    assert_eq!(peers.provenance(&peer), Provenance::Discovered);
    peers.knows_key(&peer, true);
    assert_eq!(peers.provenance(&peer), Provenance::SharedKey);
    peers.knows_key(&peer, false);
    assert_eq!(peers.provenance(&peer), Provenance::Discovered);
}

#[test]
fn introductions_are_shortened_and_have_no_invisible_characters() {
    let mut peers = peers(|_| ());
    let peer = PeerId::random();
    let info = SystemInfo {
        hostname: format!("a\n\u{202e}{}", "b".repeat(10_000)),
        bridge_identity: "\u{1b}x".repeat(1000),
        ..SystemInfo::default()
    };
    peers.introduced(peer, &info);
    let table = peers.table();
    let shown = table.get(&peer).unwrap();
    assert_eq!(shown.hostname.len(), MAX_TEXT_CHARS);
    assert_eq!(shown.bridge_identity, "x".repeat(MAX_TEXT_CHARS));
}
