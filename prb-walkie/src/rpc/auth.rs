//! Access control of management methods: the policy and the proof of the pre-shared key.
//!
//! # The key
//! The pre-shared key is stretched once when a node starts: Argon2id over its UTF-8, salt `prb-walkie-key-1`,
//! 64 MiB, 3 passes, one lane, 32 bytes. Everything below uses the [result](Key). A guessable key is refused
//! ([`weakness`]).
//!
//! # The proof
//! `Auth` with type `AT_PSK` carries as its `auth_string` a time and a code over it and both peer ids:
//!
//! ```text
//! auth_string = T ":" hex(HMAC-SHA256(key, "prb-walkie-auth-2" || len(A) || A || len(B) || B || t))
//!
//! T    the time in ms since the Unix epoch, decimal        A    the caller's peer id, a multihash
//! t    the same time, 8 bytes big-endian                   B    the called peer's
//! key  the stretched pre-shared key, 32 bytes              len  1 byte
//! hex  64 lower-case digits
//! ```
//! Noise has proved both peer ids, so the string is worthless to anybody but this caller, and at any other
//! called peer. Its time must be within [`WINDOW`] of the called peer's clock, and it is accepted only once,
//! on whatever connection. Codes are compared in constant time.
//!
//! A dishonest called peer could test guesses of the key against the string offline. So the string is only
//! sent after a management call was refused without it, and only to a peer that has proved that it knows the
//! key (the exchange within `Hello`) or that the configuration names.
//!
//! # Policy
//!
//! | policy | management methods are open to |
//! |---|---|
//! | [`open`](Policy::open) | everybody |
//! | a whitelist | those peers, at once |
//! | a key | those that have proved that they know it, for [`GRANT_LIFETIME`] |
//! | [networks](Policy::networks) | additionally, peers whose connection comes from one of them |
//! | neither key nor whitelist | additionally, peers on the same machine: both ends of the connection that they made have the same address, which is not link-local |
//!
//! Programs on the machine that forward connections (a proxy, a container engine's port forwarding) make
//! strangers appear local, or in that program's network: use a key in that case.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fmt,
    net::IpAddr,
    time::{Duration, Instant},
};

use argon2::{Algorithm, Argon2, Params, Version};
use hmac::{Hmac, KeyInit, Mac};
use ipnet::IpNet;
use libp2p::PeerId;
use md5::Md5;
use secrecy::{ExposeSecret, SecretString};
use sha2::{Digest, Sha256};

use zeroize::Zeroizing;

use crate::{
    node::is_in,
    proto::{AuthRequest, AuthResponse, AuthStatus, AuthType},
};

/// How far an auth string's time may deviate from the checking peer's clock.
pub const WINDOW: Duration = Duration::from_secs(30);
/// How long a peer is authorised after its proof.
pub const GRANT_LIFETIME: Duration = Duration::from_secs(12 * 60 * 60);
/// Shortest pre-shared key, in bytes.
pub const MIN_KEY_BYTES: usize = 16;
/// Most remembered auth strings, and most authorised peers.
const MAX_REMEMBERED: usize = 4096;
/// Least time between two warnings about refusals.
const WARN_PAUSE: Duration = Duration::from_secs(10);
/// Domain separation of the code.
const DOMAIN: &[u8] = b"prb-walkie-auth-2";
/// The salt of the stretching: constant, because both sides must get the same result.
const SALT: &[u8] = b"prb-walkie-key-1";
// Argon2id with the memory and the passes that RFC 9106 recommends where memory is scarce, in one lane.
const STRETCH_KIB: u32 = 64 * 1024;
const STRETCH_PASSES: u32 = 3;
/// Keys that take fewer guesses, as a power of ten, are refused: about 50 bits.
const MIN_GUESSES_LOG10: f64 = 15.0;

/// The passwords whose digests are refused as keys.
const COMMON_PASSWORDS: [&str; 36] = [
    "",
    "password",
    "Password",
    "password1",
    "password123",
    "passw0rd",
    "123456",
    "1234567",
    "12345678",
    "123456789",
    "1234567890",
    "12345",
    "1234",
    "123123",
    "111111",
    "000000",
    "qwerty",
    "qwerty123",
    "abc123",
    "admin",
    "root",
    "test",
    "secret",
    "letmein",
    "welcome",
    "iloveyou",
    "monkey",
    "dragon",
    "changeme",
    "default",
    "guest",
    "user",
    "hello",
    "phala",
    "prb",
    "key",
];

/// Who may call management methods.
#[derive(Clone, Debug, Default, derive_setters::Setters)]
#[setters(prefix = "with_")]
#[non_exhaustive]
pub struct Policy {
    /// The pre-shared key: callers that know it are authorised, and this node proves it to others.
    pub psk: Option<SecretString>,
    /// Peers that are authorised.
    pub whitelist: HashSet<PeerId>,
    /// Networks in which every peer is authorised without a proof: for callers that cannot give one, as the
    /// original's monitor, which has no `Auth` and another peer id at each start.
    pub networks: Vec<IpNet>,
    /// Also accepts the bare key as an auth string. Whoever can read one such call at either end learns the key.
    pub allow_bare_key: bool,
    /// Authorises everybody.
    pub open: bool,
}

impl Policy {
    /// What is wrong with the policy, for display.
    pub(crate) fn problem(&self) -> Option<String> {
        weakness(self.psk.as_ref()?).map(|problem| format!("the pre-shared key {problem}"))
    }
}

/// Why a pre-shared key is guessable, as the end of a sentence; `None` if it is not.
pub fn weakness(key: &SecretString) -> Option<String> {
    const REMEDY: &str = "take one from a random generator, such as the output of: openssl rand -hex 32";
    let text = key.expose_secret();
    if text.len() < MIN_KEY_BYTES {
        return Some(format!("has {} bytes and must have at least {MIN_KEY_BYTES}: {REMEDY}", text.len()));
    }
    guessable(text, MIN_GUESSES_LOG10).map(|problem| format!("{problem}: {REMEDY}"))
}

/// Why a secret can be found within 10^`min_log10` guesses, as the end of a sentence; `None` if it cannot.
pub fn guessable(secret: &str, min_log10: f64) -> Option<String> {
    if is_digest_of_common_password(secret) {
        return Some("is the digest of a common password, which attackers try first".into());
    }
    let guesses = zxcvbn::zxcvbn(secret, &[]).guesses_log10();
    (guesses < min_log10)
        .then(|| format!("can be found within about 10^{guesses:.0} guesses because it follows a pattern"))
}

/// The estimator takes digests for random digits.
fn is_digest_of_common_password(text: &str) -> bool {
    let digits = text.trim().to_ascii_lowercase();
    COMMON_PASSWORDS.iter().any(|password| {
        // As written by `echo`, too.
        [(*password).to_owned(), format!("{password}\n")].iter().any(|password| match digits.len() {
            32 => hex::encode(Md5::digest(password)) == digits,
            64 => hex::encode(Sha256::digest(password)) == digits,
            _ => false,
        })
    })
}

/// A stretched pre-shared key.
#[derive(Clone)]
pub struct Key(Zeroizing<[u8; 32]>);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

impl Key {
    /// Stretches a key. Takes about 100 ms and 64 MiB, on purpose.
    ///
    /// # Panics
    /// Never: the parameters are constants that Argon2 accepts.
    pub fn stretch(key: &SecretString) -> Self {
        let mut out = Zeroizing::new([0; 32]);
        #[allow(clippy::expect_used, reason = "constants within Argon2's bounds")]
        let params = Params::new(STRETCH_KIB, STRETCH_PASSES, 1, Some(32)).expect("constants within bounds");
        #[allow(clippy::expect_used, reason = "passwords of up to 4 GiB are taken")]
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(key.expose_secret().as_bytes(), SALT, &mut out[..])
            .expect("passwords of up to 4 GiB are taken");
        Self(out)
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.0[..]
    }

    #[cfg(test)]
    pub(crate) fn for_tests(n: u8) -> Self {
        Self(Zeroizing::new([n; 32]))
    }
}

/// Returns the proof for `called` that `caller` knows the key, at a time in ms since the Unix epoch.
pub fn auth_string(key: &Key, caller: &PeerId, called: &PeerId, at_ms: u64) -> String {
    let code = mac(key, caller, called, at_ms).finalize().into_bytes();
    format!("{at_ms}:{}", hex::encode(code))
}

fn mac(key: &Key, caller: &PeerId, called: &PeerId, at_ms: u64) -> Hmac<Sha256> {
    let mut mac = keyed(key.as_bytes());
    mac.update(DOMAIN);
    for peer in [caller, called] {
        let bytes = peer.to_bytes();
        // Cannot truncate: a peer id's multihash has at most 44 bytes.
        mac.update(&[bytes.len() as u8]);
        mac.update(&bytes);
    }
    mac.update(&at_ms.to_be_bytes());
    mac
}

fn keyed(key: &[u8]) -> Hmac<Sha256> {
    #[allow(clippy::expect_used, reason = "HMAC takes keys of any length")]
    Hmac::new_from_slice(key).expect("any length is a key")
}

/// Checks proofs and keeps the authorised peers.
#[derive(Debug)]
pub(crate) struct AccessControl {
    policy: Policy,
    key: Option<Key>,
    me: PeerId,
    granted: HashMap<PeerId, Instant>,
    used: BTreeSet<(u64, PeerId)>,
    /// Refusals since the last warning.
    refused: u64,
    warned: Option<Instant>,
}

impl AccessControl {
    /// Creates the access control of a policy, with its stretched key.
    pub(crate) fn new(policy: Policy, key: Option<Key>, me: PeerId) -> Self {
        Self { policy, key, me, granted: HashMap::new(), used: BTreeSet::new(), refused: 0, warned: None }
    }

    /// Returns a caller's authorisation, by the IP of its connection and whether that comes from this machine.
    pub(crate) fn auth_status(&self, peer: &PeerId, ip: Option<IpAddr>, comes_from_here: bool) -> AuthStatus {
        let policy = &self.policy;
        if policy.open {
            return AuthStatus::None;
        }
        if policy.whitelist.contains(peer) {
            return AuthStatus::Granted;
        }
        if policy.psk.is_some()
            && self.granted.get(peer).is_some_and(|since| since.elapsed() < GRANT_LIFETIME)
        {
            return AuthStatus::Granted;
        }
        if ip.is_some_and(|ip| is_in(&policy.networks, ip)) {
            return AuthStatus::None;
        }
        if comes_from_here && self.grants_same_machine() {
            return AuthStatus::None;
        }
        AuthStatus::NeedAuth
    }

    /// Whether callers need nothing but to be on this machine.
    pub(crate) fn grants_same_machine(&self) -> bool {
        self.policy.psk.is_none() && self.policy.whitelist.is_empty()
    }

    /// Judges a proof.
    pub(crate) fn admit(&mut self, peer: PeerId, request: &AuthRequest, now_ms: u64) -> AuthResponse {
        let by = if self.policy.whitelist.contains(&peer) {
            Ok(AuthType::WhiteList)
        } else if request.r#type() == AuthType::Psk {
            self.check(peer, &request.auth_string, now_ms).map(|()| AuthType::Psk)
        } else {
            Err("it is not on the whitelist")
        };
        let (status, r#type) = match by {
            Ok(by) => (AuthStatus::Granted, by),
            Err(reason) => {
                self.warn(&peer, reason);
                (AuthStatus::Rejected, request.r#type())
            }
        };
        AuthResponse { status: status.into(), r#type: r#type.into(), peer_id: self.me.to_base58() }
    }

    /// Logs a refusal; repeated ones are rate-limited and counted.
    fn warn(&mut self, peer: &PeerId, reason: &'static str) {
        self.refused += 1;
        if self.warned.is_none_or(|at| at.elapsed() >= WARN_PAUSE) {
            tracing::warn!(%peer, reason, refusals = self.refused, "refused to authorise a peer");
            (self.warned, self.refused) = (Some(Instant::now()), 0);
        }
    }

    fn check(&mut self, peer: PeerId, auth_string: &str, now_ms: u64) -> Result<(), &'static str> {
        let (Some(text), Some(key)) = (&self.policy.psk, &self.key) else {
            return Err("there is no pre-shared key here");
        };
        if self.policy.allow_bare_key && same_text(text, auth_string) {
            return self.grant(peer);
        }
        let (at, code) = auth_string.split_once(':').ok_or("its auth string has an unknown format")?;
        let at_ms: u64 = at.parse().map_err(|_| "its auth string has no time")?;
        let mut bytes = [0; 32];
        hex::decode_to_slice(code, &mut bytes).map_err(|_| "its auth string has no code")?;
        mac(key, &peer, &self.me, at_ms).verify_slice(&bytes).map_err(|_| "its code is wrong")?;
        let window = WINDOW.as_millis() as u64;
        if now_ms.abs_diff(at_ms) > window {
            return Err("its auth string is too old, or the clocks differ");
        }
        // Strings outside of the window are refused by their time, so they need not be remembered: those from before it,
        // and those from before the clock was set back. One of the latter is accepted once more when its time comes,
        // which gives nobody anything: only the same caller can send it (noise proves its peer id), it is only good for
        // the key that it was made with, and a caller with that key can make one for any time.
        self.used.retain(|(at, _)| now_ms.abs_diff(*at) <= window);
        if self.used.contains(&(at_ms, peer)) {
            return Err("its auth string was used before");
        }
        if self.used.len() >= MAX_REMEMBERED {
            return Err("too many auth strings were used just now");
        }
        self.grant(peer)?;
        // Only now: a proof that was valid but could not be granted may be sent again.
        self.used.insert((at_ms, peer));
        Ok(())
    }

    fn grant(&mut self, peer: PeerId) -> Result<(), &'static str> {
        if self.granted.len() >= MAX_REMEMBERED {
            self.granted.retain(|_, since| since.elapsed() < GRANT_LIFETIME);
        }
        if self.granted.len() >= MAX_REMEMBERED && !self.granted.contains_key(&peer) {
            return Err("too many peers are authorised");
        }
        self.granted.insert(peer, Instant::now());
        Ok(())
    }

    /// Returns the proof for another peer.
    pub(crate) fn proof_for(key: &Key, me: &PeerId, called: &PeerId, at_ms: u64) -> AuthRequest {
        AuthRequest { r#type: AuthType::Psk.into(), auth_string: auth_string(key, me, called, at_ms) }
    }
}

/// Compares a text with the key in constant time.
fn same_text(key: &SecretString, text: &str) -> bool {
    // MACs are compared instead of the texts, so the time does not depend on how much of them agrees.
    let code_of = |text: &str| keyed(key.expose_secret().as_bytes()).chain_update(text.as_bytes());
    let code = code_of(key.expose_secret()).finalize().into_bytes();
    code_of(text).verify_slice(&code).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clock_that_was_set_back_leaves_space_for_new_proofs() {
        let (key, me, peer) = (Key::for_tests(1), PeerId::random(), PeerId::random());
        let policy = Policy::default().with_psk(Some("0123456789abcdef".into()));
        let mut access = AccessControl::new(policy, Some(key.clone()), me);
        let mut status = |at_ms| {
            let proof = AccessControl::proof_for(&key, &peer, &me, at_ms);
            access.admit(peer, &proof, at_ms).status()
        };
        let tomorrow = 24 * 3600 * 1000;
        for at_ms in tomorrow..tomorrow + MAX_REMEMBERED as u64 {
            assert_eq!(status(at_ms), AuthStatus::Granted);
        }
        assert_eq!(status(tomorrow + 10_000), AuthStatus::Rejected, "no space");
        assert_eq!(status(1000), AuthStatus::Granted);
        assert_eq!(status(1000), AuthStatus::Rejected, "used before");
    }

    /// Whoever knows the key can have any number of names.
    #[test]
    fn authorised_peers_are_bounded() {
        let (key, me) = (Key::for_tests(1), PeerId::random());
        let policy = Policy::default().with_psk(Some("0123456789abcdef".into()));
        let mut access = AccessControl::new(policy, Some(key.clone()), me);
        let mut at_ms = 0;
        let mut status = |peer| {
            // So that no proofs are remembered.
            at_ms += 2 * WINDOW.as_millis() as u64;
            let proof = AccessControl::proof_for(&key, &peer, &me, at_ms);
            access.admit(peer, &proof, at_ms).status()
        };
        let first = PeerId::random();
        assert_eq!(status(first), AuthStatus::Granted);
        let granted = (0..5000).filter(|_| status(PeerId::random()) == AuthStatus::Granted).count();
        assert_eq!(granted, 4095);
        assert_eq!(status(first), AuthStatus::Granted, "again");
    }
}
