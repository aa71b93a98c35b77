//! Who may call management methods, and the proof that opens them.
//!
//! # The key
//!
//! The pre-shared key is stretched once, when a node starts: Argon2id over its UTF-8, salt `prb-walkie-key-1`, 64 MiB,
//! 3 passes, one lane, 32 bytes. Everything below uses the [result](Key). A key that can be guessed is refused
//! ([`weakness`]).
//!
//! # The proof
//!
//! `Auth` with type `AT_PSK` carries, as its `auth_string`, a time and a code over it and both peers:
//!
//! ```text
//! auth_string = T ":" hex(HMAC-SHA256(key, "prb-walkie-auth-2" || len(A) || A || len(B) || B || t))
//!
//! T    the time in ms since the Unix epoch, decimal        A    the caller's peer id, a multihash
//! t    the same time, 8 bytes big-endian                   B    the called peer's
//! key  the stretched pre-shared key, 32 bytes              len  1 byte
//! hex  64 lower-case digits
//! ```
//!
//! Noise has proved both peer ids, so the string is worthless to anybody but the caller, and towards anybody
//! but the called. Its time must be within [`WINDOW`] of the called peer's clock, and it is taken once, on
//! whatever connection it comes again. Codes are compared in constant time.
//!
//! A called peer that is dishonest could try keys against the string at leisure. So it is sent only where a
//! management method that is being called was refused without it, and only to a peer that has shown that it knows
//! the key itself (the exchange that goes with `Hello`, `rpc/exchange.rs`), or that the configuration names.
//!
//! # Who is let in
//!
//! | policy | management methods answer |
//! |---|---|
//! | [`open`](Policy::open) | everybody |
//! | a whitelist | those peers, at once |
//! | a key | those who have proved that they know it, for [`GRANT_LIFETIME`] |
//! | [networks](Policy::networks) | besides, peers whose connection comes from one of them |
//! | neither key nor whitelist | besides, peers of the same machine: both ends of the connection that they made have one address, not a link-local one |
//!
//! Whatever runs on the machine and forwards connections (a proxy, a container engine's port forwarding) makes
//! strangers look local, and those of its network: use a key there.

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
use secrecy::{ExposeSecret, SecretString};
use sha2::Sha256;

use zeroize::Zeroizing;

use crate::{
    node::is_in,
    proto::{AuthRequest, AuthResponse, AuthStatus, AuthType},
};

/// How far the time of an auth string may be from the clock of the one who checks it.
pub const WINDOW: Duration = Duration::from_secs(30);
/// How long a peer is let in after its proof.
pub const GRANT_LIFETIME: Duration = Duration::from_secs(12 * 60 * 60);
/// Shortest pre-shared key.
pub const MIN_KEY_BYTES: usize = 16;
/// Auth strings remembered, and peers let in, at most.
const MAX_REMEMBERED: usize = 4096;
/// Refusals are told of at most so often.
const WARN_PAUSE: Duration = Duration::from_secs(10);
/// What the code is for.
const DOMAIN: &[u8] = b"prb-walkie-auth-2";
/// What the key is stretched with: the same everywhere, as both sides must come to the same.
const SALT: &[u8] = b"prb-walkie-key-1";
const STRETCH_KIB: u32 = 64 * 1024;
const STRETCH_PASSES: u32 = 3;
/// A key that takes fewer guesses, as a power of ten, is refused: some 50 bits.
const MIN_GUESSES_LOG10: f64 = 15.0;

/// Who may call management methods.
#[derive(Clone, Debug, Default, derive_setters::Setters)]
#[setters(prefix = "with_")]
#[non_exhaustive]
pub struct Policy {
    /// The pre-shared key: callers that know it are let in, and this node shows others that it knows it.
    pub psk: Option<SecretString>,
    /// Peers that are let in.
    pub whitelist: HashSet<PeerId>,
    /// Networks whose every peer is let in without a proof: for callers that have none to give, as the original's
    /// monitor, which has no `Auth` and another peer id at each start.
    pub networks: Vec<IpNet>,
    /// Takes the bare key as an auth string too. Who listens to one such call at the caller's or the called
    /// peer's end knows the key.
    pub allow_bare_key: bool,
    /// Lets everybody in.
    pub open: bool,
}

impl Policy {
    /// What is wrong with it, for people.
    pub(crate) fn problem(&self) -> Option<String> {
        weakness(self.psk.as_ref()?).map(|problem| format!("the pre-shared key {problem}"))
    }
}

/// What makes a pre-shared key one that can be guessed, as the end of a sentence; `None` where nothing does.
pub fn weakness(key: &SecretString) -> Option<String> {
    const CURE: &str = "take one from a random generator, such as the output of: openssl rand -hex 32";
    let text = key.expose_secret();
    if text.len() < MIN_KEY_BYTES {
        return Some(format!("has {} bytes and must have at least {MIN_KEY_BYTES}: {CURE}", text.len()));
    }
    let guesses = zxcvbn::zxcvbn(text, &[]).guesses_log10();
    (guesses < MIN_GUESSES_LOG10)
        .then(|| format!("is found within some 10^{guesses:.0} guesses, as it follows a pattern: {CURE}"))
}

/// A pre-shared key, stretched.
#[derive(Clone)]
pub struct Key(Zeroizing<[u8; 32]>);

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

impl Key {
    /// Stretches a key. Takes some 100 ms and 64 MiB, on purpose.
    ///
    /// # Panics
    /// Never: the parameters are constants that Argon2 takes.
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

/// The proof that `caller` knows the key, for `called` at a time in ms since the Unix epoch.
pub fn auth_string(key: &Key, caller: &PeerId, called: &PeerId, at_ms: u64) -> String {
    let code = mac(key, caller, called, at_ms).finalize().into_bytes();
    format!("{at_ms}:{}", hex::encode(code))
}

fn mac(key: &Key, caller: &PeerId, called: &PeerId, at_ms: u64) -> Hmac<Sha256> {
    let mut mac = keyed(key.as_bytes());
    mac.update(DOMAIN);
    for peer in [caller, called] {
        let bytes = peer.to_bytes();
        // A multihash of a peer id has at most 44 bytes.
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

/// Checks proofs and remembers who has given one.
#[derive(Debug)]
pub(crate) struct Gate {
    policy: Policy,
    key: Option<Key>,
    me: PeerId,
    granted: HashMap<PeerId, Instant>,
    used: BTreeSet<(u64, PeerId)>,
    /// Refusals since the last that was told of.
    refused: u64,
    warned: Option<Instant>,
}

impl Gate {
    /// The gate of a policy, with its key stretched.
    pub(crate) fn new(policy: Policy, key: Option<Key>, me: PeerId) -> Self {
        Self { policy, key, me, granted: HashMap::new(), used: BTreeSet::new(), refused: 0, warned: None }
    }

    /// How a caller stands whose connection comes from `ip`, and from this machine or not.
    pub(crate) fn standing(&self, peer: &PeerId, ip: Option<IpAddr>, comes_from_here: bool) -> AuthStatus {
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
        if policy.psk.is_none() && policy.whitelist.is_empty() && comes_from_here {
            return AuthStatus::None;
        }
        AuthStatus::NeedAuth
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

    /// Tells of a refusal; of those that follow soon only how many there were.
    fn warn(&mut self, peer: &PeerId, reason: &'static str) {
        self.refused += 1;
        if self.warned.is_none_or(|at| at.elapsed() >= WARN_PAUSE) {
            tracing::warn!(%peer, reason, refusals = self.refused, "refused to let a peer in");
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
        let (at, code) = auth_string.split_once(':').ok_or("its auth string has another form")?;
        let at_ms: u64 = at.parse().map_err(|_| "its auth string has no time")?;
        let mut bytes = [0; 32];
        hex::decode_to_slice(code, &mut bytes).map_err(|_| "its auth string has no code")?;
        mac(key, &peer, &self.me, at_ms).verify_slice(&bytes).map_err(|_| "its code is wrong")?;
        let window = WINDOW.as_millis() as u64;
        if now_ms.abs_diff(at_ms) > window {
            return Err("its auth string is too old, or the clocks differ");
        }
        // Those before the window are refused by their time.
        self.used.retain(|(at, _)| *at >= now_ms.saturating_sub(window));
        if self.used.contains(&(at_ms, peer)) {
            return Err("its auth string was used before");
        }
        if self.used.len() >= MAX_REMEMBERED {
            return Err("too many auth strings were used just now");
        }
        self.grant(peer)?;
        self.used.insert((at_ms, peer));
        Ok(())
    }

    fn grant(&mut self, peer: PeerId) -> Result<(), &'static str> {
        if self.granted.len() >= MAX_REMEMBERED {
            self.granted.retain(|_, since| since.elapsed() < GRANT_LIFETIME);
        }
        if self.granted.len() >= MAX_REMEMBERED && !self.granted.contains_key(&peer) {
            return Err("too many peers are let in");
        }
        self.granted.insert(peer, Instant::now());
        Ok(())
    }

    /// The proof for another peer, where there is a key.
    pub(crate) fn proof_for(key: &Key, me: &PeerId, called: &PeerId, at_ms: u64) -> AuthRequest {
        AuthRequest { r#type: AuthType::Psk.into(), auth_string: auth_string(key, me, called, at_ms) }
    }
}

/// Whether a text is the key, in a time that does not tell how much of it is.
fn same_text(key: &SecretString, text: &str) -> bool {
    let code_of = |text: &str| keyed(key.expose_secret().as_bytes()).chain_update(text.as_bytes());
    let code = code_of(key.expose_secret()).finalize().into_bytes();
    code_of(text).verify_slice(&code).is_ok()
}
