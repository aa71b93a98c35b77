//! Shared parts of the tests: ready daemons, and JavaScript peers.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{
    js::Peer,
    support::{Net, daemons::Daemon},
};

/// Time limit that is long enough on a loaded machine.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);

/// Returns the chain identity of a net: the hash of parachain block 1.
pub(crate) fn chain_identity(net: &Net) -> String {
    format!("{:?}", net.devnet.para().block_hash(1).unwrap())
}

/// Returns a daemon's address with its peer id, which the original needs.
pub(crate) async fn address(daemon: &Daemon) -> String {
    format!("{}/p2p/{}", daemon.address(), daemon.peer_id(LIMIT).await)
}

/// Returns the arguments of a JavaScript peer of a role, on a net's chain and in a group.
pub(crate) fn member(net: &Net, role: &str, group: &str) -> Vec<String> {
    let words = ["--role", role, "--chain-identity", &chain_identity(net), "--bridge-identity", group];
    words.map(str::to_owned).to_vec()
}

/// Starts such a peer, with further arguments.
pub(crate) async fn peer(member: &[String], further: &[&str]) -> Peer {
    let args: Vec<_> = member.iter().map(String::as_str).chain(further.iter().copied()).collect();
    Peer::start(&args).await
}

/// Makes a call that must succeed; returns the answer, `{}` if it is empty.
pub(crate) async fn call(peer: &mut Peer, address: &str, method: &str, request: Value) -> Value {
    let mut answer = peer.call(address, method, request).await;
    assert_eq!(answer["error"], Value::Null, "{method}");
    assert_eq!(answer["hasError"], false, "{method}");
    for nonce in ["nonce", "requestNonce"] {
        assert_eq!(answer["meta"][nonce].as_str().unwrap().len(), 36, "{method}: {}", answer["meta"]);
    }
    let created: i64 = answer["meta"]["createdAt"].as_str().unwrap().parse().unwrap();
    let age = now_ms() - created;
    assert!((-1_000..90_000).contains(&age), "{method}: created {age} ms ago");
    answer["data"].take()
}

/// Makes a call that must be refused; returns the error's type and message.
pub(crate) async fn refused(
    peer: &mut Peer,
    address: &str,
    method: &str,
    request: Value,
) -> (String, String) {
    let answer = peer.call(address, method, request).await;
    assert_eq!((&answer["hasError"], &answer["meta"]["hasError"]), (&json!(true), &json!(true)), "{method}");
    let text = |name: &str| answer["error"][name].as_str().unwrap().to_owned();
    (text("type"), text("message"))
}

pub(crate) fn now_ms() -> i64 {
    i64::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_millis()).unwrap()
}

/// Waits for a condition.
pub(crate) async fn until(what: &str, mut is: impl FnMut() -> bool) {
    let start = tokio::time::Instant::now();
    while !is() {
        assert!(start.elapsed() < LIMIT, "not within {LIMIT:?}: {what}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// Decodes the bytes in the JSON of protobuf.js.
pub(crate) fn base64(text: &Value) -> Vec<u8> {
    const DIGITS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut bytes = Vec::new();
    let (mut held, mut bits) = (0u32, 0);
    for digit in text.as_str().unwrap().bytes().take_while(|byte| *byte != b'=') {
        let value = DIGITS.iter().position(|known| *known == digit).unwrap();
        (held, bits) = (held << 6 | u32::try_from(value).unwrap(), bits + 6);
        if bits >= 8 {
            bits -= 8;
            bytes.push((held >> bits) as u8);
            held &= (1 << bits) - 1;
        }
    }
    bytes
}
