//! Tests of access control for management methods.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "node_rig/rig.rs"]
#[allow(dead_code, unreachable_pub, reason = "each test program uses a part of the rig")]
mod rig;

use std::{
    collections::HashMap,
    sync::{
        Arc, LazyLock, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use if_addrs::get_if_addrs;
use prb_walkie::{
    node::{Config, ConfigError, Node},
    proto::{AuthRequest, AuthResponse, AuthStatus, AuthType, Request, Response, Role, lifecycle as lm},
    rpc::{Error, ErrorKind, Handlers, auth, calls},
};
use prost::Message;
use rig::{RawPeer, address, config, start, start_knowing, until_friends, until_peer};
use secrecy::SecretString;

const KEY: &str = "7d1f0c92b6e84a35917fd3402ce8ab16";

fn key(text: &str) -> SecretString {
    text.into()
}

/// Cached, because stretching takes a while.
fn stretched(text: &str) -> auth::Key {
    static DONE: LazyLock<Mutex<HashMap<String, auth::Key>>> = LazyLock::new(Mutex::default);
    let mut done = DONE.lock().unwrap();
    done.entry(text.to_owned()).or_insert_with(|| auth::Key::stretch(&key(text))).clone()
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

fn with_management(n: usize) -> Config {
    let mut config = config(n, Role::LifecycleManager);
    config.handlers = Handlers::new()
        .on(calls::ListPool, |_, _| async { Ok(lm::PoolList::default()) })
        .on(calls::GetDataProviderInfo, |_, _| async {
            Ok(prb_walkie::proto::data_provider::Info::default())
        });
    config
}

fn keyed(n: usize, key_text: &str) -> Config {
    let mut config = with_management(n);
    config.auth.psk = Some(key(key_text));
    config
}

async fn may_manage(caller: &Node, called: &Node) -> bool {
    // Methods open to everybody are always answered.
    caller.client(called.peer_id()).data_provider_info().await.unwrap();
    match caller.client(called.peer_id()).list_pools().await {
        Ok(_) => true,
        Err(e) => {
            assert_eq!(e.kind(), Some(ErrorKind::Unauthorized), "{e}");
            assert!(!e.is_retryable());
            false
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn key_authorises_peers_that_know_it() {
    let guarded = start(keyed(0, KEY)).await;
    let stranger = start_knowing(config(1, Role::Trader), &guarded).await;
    let friend = start_knowing(keyed(2, KEY), &guarded).await;
    let wrong = start_knowing(keyed(3, "7d1f0c92b6e84a35917fd3402ce8aB16"), &guarded).await;
    for node in [&stranger, &friend, &wrong] {
        until_friends(&guarded, node).await;
    }
    // The stranger is on the same machine, but a key is configured.
    assert!(!may_manage(&stranger, &guarded).await);
    assert!(!may_manage(&wrong, &guarded).await);
    assert!(may_manage(&friend, &guarded).await);
    let auth_is = |status| move |p: &prb_walkie::node::Peer| p.auth == status;
    until_peer(&friend, guarded.peer_id(), "authorised", auth_is(AuthStatus::Granted)).await;
    until_peer(&wrong, guarded.peer_id(), "rejected", auth_is(AuthStatus::Rejected)).await;
    until_peer(&stranger, guarded.peer_id(), "needs authorisation", auth_is(AuthStatus::NeedAuth)).await;
    // In the other direction: the guarded peer needs nothing but the key.
    assert!(may_manage(&guarded, &friend).await);

    // A peer that connects after a restart of the guarded one proves the key by itself.
    let (at, id) = (guarded.listen_addresses(), guarded.peer_id());
    guarded.stop(rig::LONG).await;
    until_peer(&friend, id, "gone", |p| !p.connected).await;
    let mut again = keyed(0, KEY);
    again.listen = at;
    let again = start(again).await;
    until_friends(&friend, &again).await;
    assert!(may_manage(&friend, &again).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn management_call_proves_the_key_on_demand() {
    // Without a Hello before the call: the peer is only known by its address.
    let guarded = start(keyed(0, KEY)).await;
    let friend = start_knowing(keyed(1, KEY), &guarded).await;
    friend.client(guarded.peer_id()).list_pools().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whitelist_authorises_its_peers() {
    let friend_id = rig::identity(1);
    let mut guarded = with_management(0);
    guarded.auth.whitelist.insert(friend_id.peer_id().to_string().parse().unwrap());
    let guarded = start(guarded).await;
    let friend = start_knowing(config(1, Role::Trader), &guarded).await;
    let stranger = start_knowing(keyed(2, KEY), &guarded).await;
    for node in [&stranger, &friend] {
        until_friends(&guarded, node).await;
    }
    assert!(may_manage(&friend, &guarded).await);
    assert!(!may_manage(&stranger, &guarded).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_key_and_whitelist_same_machine_is_authorised() {
    let local = start(with_management(0)).await;
    let caller = start_knowing(config(1, Role::Trader), &local).await;
    until_friends(&local, &caller).await;
    assert!(may_manage(&caller, &local).await);

    // Also over one of the machine's own addresses, if it has one besides loopback.
    let own = get_if_addrs().unwrap().into_iter().find(|i| !i.is_loopback() && i.ip().is_ipv4());
    if let Some(own) = own {
        let (mut wide, mut caller) = (with_management(2), config(3, Role::Trader));
        // Both, because either may connect to the other.
        for config in [&mut wide, &mut caller] {
            config.listen = vec![format!("/ip4/{}/tcp/0", own.ip()).parse().unwrap()];
        }
        let wide = start(wide).await;
        let caller = start_knowing(caller, &wide).await;
        until_friends(&wide, &caller).await;
        let seen = wide.peers().borrow().get(&caller.peer_id()).unwrap().ip;
        assert_eq!(seen, Some(own.ip()));
        assert!(may_manage(&caller, &wide).await);
    }
}

/// It does not matter which of two peers on a machine has discovered the other first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn same_machine_is_authorised_whoever_made_the_connection() {
    let caller = start(config(1, Role::Trader)).await;
    let local = start_knowing(with_management(0), &caller).await;
    // Checked at once: later the caller may have connected of its own accord.
    until_peer(&caller, local.peer_id(), "found", |peer| peer.is_usable()).await;
    assert!(may_manage(&caller, &local).await);
}

/// A peer of this machine that refuses for want of a key is asked once. One that would let in callers of this machine
/// is asked again until the connection shows that the caller is one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_for_want_of_a_key_is_final() {
    for (let_in_from_same_machine, repeats) in [(Some(false), 1..=1), (None, 2..=2), (Some(true), 5..=100)] {
        let calls = Arc::new(AtomicU32::new(0));
        let counted = Arc::clone(&calls);
        let raw = RawPeer::start(
            0,
            None,
            Box::new(move |bytes| {
                let request = Request::decode(bytes.as_slice()).unwrap();
                counted.fetch_add(u32::from(request.method == "ListPool"), Ordering::SeqCst);
                let error = prb_walkie::proto::ResponseError {
                    r#type: 4,
                    message: "no".into(),
                    is_let_in_from_same_machine: let_in_from_same_machine,
                };
                let response = Response {
                    request_nonce: request.nonce,
                    has_error: true,
                    error: Some(error),
                    ..Response::default()
                };
                Some(response.encode_to_vec())
            }),
        )
        .await;
        let mut config = with_management(1);
        config.boot_nodes = vec![raw.address.clone()];
        let caller = start(config).await;
        let refused = caller.client(raw.peer_id).list_pools().await.unwrap_err();
        assert_eq!(refused.kind(), Some(ErrorKind::Unauthorized));
        let calls = calls.load(Ordering::SeqCst);
        assert!(repeats.contains(&calls), "{let_in_from_same_machine:?}: {calls}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn open_policy_authorises_everybody() {
    let mut open = keyed(0, KEY);
    open.auth.open = true;
    let open = start(open).await;
    let stranger = start_knowing(config(1, Role::Trader), &open).await;
    until_friends(&open, &stranger).await;
    assert!(may_manage(&stranger, &open).await);
}

#[tokio::test]
async fn guessable_key_is_refused_at_start() {
    let error = Node::start(keyed(0, "short")).await.unwrap_err();
    assert!(matches!(error, ConfigError::Auth { .. }) && error.to_string().contains("16"), "{error}");
    assert!(!error.to_string().contains("short"), "{error}");
    let error = Node::start(keyed(0, "passwordpasswordpassword")).await.unwrap_err().to_string();
    assert!(error.contains("guesses") && error.contains("openssl rand -hex 32"), "{error}");
    assert!(!format!("{:?}", keyed(0, KEY)).contains(KEY));
}

/// A peer without a key that sends given auth strings.
struct Attacker(RawPeer);

impl Attacker {
    async fn start(n: usize, node: &Node) -> Self {
        Self(RawPeer::start(n, Some(address(node)), Box::new(|_| None)).await)
    }

    async fn call(&self, node: &Node, method: &str, data: Vec<u8>) -> Response {
        let request = Request { method: method.into(), data: data.into(), ..Request::default() };
        let answer = self.0.ask(node.peer_id(), request.encode_to_vec()).await.unwrap();
        Response::decode(answer.as_slice()).unwrap()
    }

    async fn auth(&self, node: &Node, r#type: AuthType, auth_string: &str) -> AuthStatus {
        let request = AuthRequest { r#type: r#type.into(), auth_string: auth_string.into() };
        let response = self.call(node, "Auth", request.encode_to_vec()).await;
        assert!(!response.has_error, "{response:?}");
        let answer = AuthResponse::decode(response.data).unwrap();
        assert_eq!(answer.peer_id, node.peer_id().to_base58());
        answer.status()
    }

    async fn may_manage(&self, node: &Node) -> bool {
        let response = self.call(node, "ListPool", Vec::new()).await;
        if response.has_error {
            assert_eq!(response.error.unwrap().r#type(), prb_walkie::proto::ErrorType::Unauthorized);
        }
        !response.has_error
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn proof_is_valid_for_one_pair_once_within_the_window() {
    let guarded = start(keyed(0, KEY)).await;
    let caller = Attacker::start(1, &guarded).await;
    let attacker = Attacker::start(2, &guarded).await;
    let (called, me) = (guarded.peer_id(), caller.0.peer_id);
    let proof = |key_text: &str, at| auth::auth_string(&stretched(key_text), &me, &called, at);
    let (psk, now) = (AuthType::Psk, now_ms());
    let window = auth::WINDOW.as_millis() as u64;

    for (what, bad) in [
        ("nothing", String::new()),
        ("the bare key", KEY.to_owned()),
        ("a wrong key", proof("another key of good length", now)),
        ("an old one", proof(KEY, now - window - 5_000)),
        ("one of the future", proof(KEY, now + window + 60_000)),
        ("another caller's", auth::auth_string(&stretched(KEY), &attacker.0.peer_id, &called, now)),
        ("one for another peer", auth::auth_string(&stretched(KEY), &me, &attacker.0.peer_id, now)),
        ("the other way round", auth::auth_string(&stretched(KEY), &called, &me, now)),
        ("another time than its code's", proof(KEY, now).replace(&now.to_string(), &(now + 1).to_string())),
        ("a cut one", proof(KEY, now)[..40].to_owned()),
        ("a very long one", "1".repeat(100_000)),
    ] {
        assert_eq!(caller.auth(&guarded, psk, &bad).await, AuthStatus::Rejected, "{what}");
    }
    let good = proof(KEY, now);
    assert_eq!(caller.auth(&guarded, AuthType::WhiteList, &good).await, AuthStatus::Rejected);
    assert_eq!(caller.auth(&guarded, AuthType::None, &good).await, AuthStatus::Rejected);
    assert!(!caller.may_manage(&guarded).await);

    // An attacker cannot use the string, nor use it up.
    assert_eq!(attacker.auth(&guarded, psk, &good).await, AuthStatus::Rejected);
    assert_eq!(caller.auth(&guarded, psk, &good).await, AuthStatus::Granted);
    assert!(caller.may_manage(&guarded).await);
    assert!(!attacker.may_manage(&guarded).await);
    // It is accepted once: not again on this connection, for an attacker, or on a new connection of the same peer.
    assert_eq!(caller.auth(&guarded, psk, &good).await, AuthStatus::Rejected);
    assert_eq!(attacker.auth(&guarded, psk, &good).await, AuthStatus::Rejected);
    let again = Attacker::start(1, &guarded).await;
    assert_eq!(again.auth(&guarded, psk, &good).await, AuthStatus::Rejected);
    assert_eq!(again.auth(&guarded, psk, &proof(KEY, now_ms() + 1)).await, AuthStatus::Granted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bare_key_is_accepted_only_if_configured() {
    let mut lenient = keyed(0, KEY);
    lenient.auth.allow_bare_key = true;
    let lenient = start(lenient).await;
    let caller = Attacker::start(1, &lenient).await;
    for bad in ["", &KEY[..31], "7d1f0c92b6e84a35917fd3402ce8aB16"] {
        assert_eq!(caller.auth(&lenient, AuthType::Psk, bad).await, AuthStatus::Rejected);
    }
    assert!(!caller.may_manage(&lenient).await);
    assert_eq!(caller.auth(&lenient, AuthType::Psk, KEY).await, AuthStatus::Granted);
    assert!(caller.may_manage(&lenient).await);
    // The proof is still accepted.
    let other = Attacker::start(2, &lenient).await;
    let proof = auth::auth_string(&stretched(KEY), &other.0.peer_id, &lenient.peer_id(), now_ms());
    assert_eq!(other.auth(&lenient, AuthType::Psk, &proof).await, AuthStatus::Granted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusal_of_an_original_without_auth_is_reported() {
    // It answers UNAUTHORIZED to everything but has no Auth method, so the caller gets the refusal.
    let raw = RawPeer::start(
        0,
        None,
        Box::new(|bytes| {
            let request = Request::decode(bytes.as_slice()).unwrap();
            let unauthorized = request.method == "ListPool";
            let error = prb_walkie::proto::ResponseError {
                r#type: if unauthorized { 4 } else { 2 },
                message: "Handler not implemented.".into(),
                is_let_in_from_same_machine: None,
            };
            let response = Response {
                request_nonce: request.nonce,
                has_error: true,
                error: Some(error),
                ..Response::default()
            };
            Some(response.encode_to_vec())
        }),
    )
    .await;
    let mut config = keyed(1, KEY);
    config.boot_nodes = vec![raw.address.clone()];
    let node = start(config).await;
    let error = node.client(raw.peer_id).list_pools().await.unwrap_err();
    assert!(
        matches!(&error, Error::Refused { .. }) && error.kind() == Some(ErrorKind::Unauthorized),
        "{error}"
    );
}

#[test]
fn auth_string_has_the_documented_format() {
    use hmac::{Hmac, KeyInit, Mac};
    let (a, b) =
        ("QmSoLer265NRgSp2LA3dPaeykiS1J6DifTC88f5uVQKNAd", "QmSoLMeWqB7YGVLJN3pNLQpmmEk35v6wYtsMGLzSr5QBU3");
    let (a, b) = (a.parse().unwrap(), b.parse::<prb_walkie::node::PeerId>().unwrap());
    let mut message = b"prb-walkie-auth-2".to_vec();
    for peer in [a, b] {
        message.push(34);
        message.extend(peer.to_bytes());
    }
    message.extend(1_700_000_000_123_u64.to_be_bytes());
    let mut stretched_here = [0; 32];
    let params = argon2::Params::new(64 * 1024, 3, 1, Some(32)).unwrap();
    argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params)
        .hash_password_into(KEY.as_bytes(), b"prb-walkie-key-1", &mut stretched_here)
        .unwrap();
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(&stretched_here).unwrap();
    mac.update(&message);
    let expected = format!("1700000000123:{}", hex::encode(mac.finalize().into_bytes()));
    assert_eq!(auth::auth_string(&stretched(KEY), &a, &b, 1_700_000_000_123), expected);
}

/// As the original's monitor on another machine: no key, and another peer id at each start.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn configured_network_authorises_its_peers() {
    let with = |n: usize, networks: &[&str]| {
        let mut config = keyed(n, KEY);
        config.auth.networks = networks.iter().map(|network| network.parse().unwrap()).collect();
        config
    };
    let inside = start(with(0, &["10.9.0.0/16", "127.0.0.0/8"])).await;
    let outside = start(with(1, &["10.9.0.0/16"])).await;
    let mut caller = config(2, Role::Client);
    caller.boot_nodes = vec![address(&inside), address(&outside)];
    let caller = start(caller).await;
    for node in [&inside, &outside] {
        until_peer(&caller, node.peer_id(), "connected", |peer| peer.connected).await;
    }
    assert!(may_manage(&caller, &inside).await);
    assert!(!may_manage(&caller, &outside).await);
    let error = match caller.client(outside.peer_id()).list_pools().await.unwrap_err() {
        Error::Refused { source, .. } => source.message,
        other => panic!("{other:?}"),
    };
    let names = ["PRB_WALKIE_MANAGEMENT_NETWORKS", "127.0.0.1", &caller.peer_id().to_string()];
    assert!(names.iter().all(|name| error.contains(name)), "{error}");
}
