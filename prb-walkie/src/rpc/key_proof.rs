//! The proof of the pre-shared key within `Hello`, which reveals nothing about the key.
//!
//! If a caller has a key, its `Hello` carries the first message of SPAKE2 (over Ed25519), with both peer ids
//! and the stretched key as the password. A called peer with a key answers with its own message and a code:
//!
//! ```text
//! key_exchange = SPAKE2's message                                  tag 15 of WalkieSystemInfo, both ways
//! key_proof    = HMAC-SHA256(K, "prb-walkie-key-1" || A || B)      tag 16, in the answer
//!
//! K    the secret that both sides of SPAKE2 derive                 A, B   peer ids of the caller and the called peer
//! ```
//! A peer without the key learns nothing that it could test guesses against offline: each exchange tests one
//! guess, and a peer answers only a few of them a second. Originals skip the fields.

use std::{
    collections::HashMap,
    fmt,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use hmac::{Hmac, KeyInit, Mac};
use libp2p::PeerId;
use sha2::Sha256;
use spake2::{Ed25519Group, Identity, Password, Spake2};

use super::auth::Key;
use crate::provenance::share_of;

/// How long an address that has had an answer is not new.
const RECENT: Duration = Duration::from_secs(60);
/// Domain separation of the code.
const DOMAIN: &[u8] = b"prb-walkie-key-1";
/// Exchanges answered a second, and the burst. Each tests one guess, so that finding the weakest accepted key (10^15
/// guesses) takes more than a million years.
const PER_SECOND: f64 = 20.0;
const AT_ONCE: f64 = 64.0;
/// The part of these that is there for new addresses in addition: one in four.
const MORE_FOR_NEW: f64 = 4.0;

/// A caller's half of an exchange.
pub(crate) struct Offer {
    half: Spake2<Ed25519Group>,
    me: PeerId,
    called: PeerId,
}

impl fmt::Debug for Offer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Offer").field("called", &self.called).finish_non_exhaustive()
    }
}

/// What a called peer has proved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KeyCheck {
    /// It knows the key.
    Matches,
    /// It has another key.
    Differs,
    /// It has no key, or is busy.
    NoProof,
}

impl Offer {
    /// Begins an exchange; also returns the message for the called peer.
    pub(crate) fn new(key: &Key, me: PeerId, called: PeerId) -> (Self, Bytes) {
        let (half, message) = Spake2::<Ed25519Group>::start_a(
            &Password::new(key.as_bytes()),
            &Identity::new(&me.to_bytes()),
            &Identity::new(&called.to_bytes()),
        );
        (Self { half, me, called }, message.into())
    }

    /// Checks the answer.
    pub(crate) fn check(self, message: &[u8], proof: &[u8]) -> KeyCheck {
        if message.is_empty() {
            return KeyCheck::NoProof;
        }
        let secret = self.half.finish(message);
        let right =
            secret.is_ok_and(|secret| code(&secret, &self.me, &self.called).verify_slice(proof).is_ok());
        if right { KeyCheck::Matches } else { KeyCheck::Differs }
    }
}

/// Computes the called peer's half: its message and its proof. `None` if the caller's message is invalid.
pub(crate) fn answer(key: &Key, me: &PeerId, caller: &PeerId, message: &[u8]) -> Option<(Bytes, Bytes)> {
    let (half, own) = Spake2::<Ed25519Group>::start_b(
        &Password::new(key.as_bytes()),
        &Identity::new(&caller.to_bytes()),
        &Identity::new(&me.to_bytes()),
    );
    let secret = half.finish(message).ok()?;
    let proof = code(&secret, caller, me).finalize().into_bytes();
    Some((own.into(), Bytes::copy_from_slice(&proof)))
}

fn code(secret: &[u8], caller: &PeerId, called: &PeerId) -> Hmac<Sha256> {
    #[allow(clippy::expect_used, reason = "HMAC takes keys of any length")]
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("any length is a key");
    mac.update(DOMAIN);
    mac.update(&caller.to_bytes());
    mac.update(&called.to_bytes());
    mac
}

/// Rate limit of answered exchanges: each costs curve operations, and tests a guess.
///
/// Some more are for addresses that have had none of late, so that a few that ask all the time do not keep the others'
/// peers unproved.
#[derive(Debug)]
pub(crate) struct RateLimit(Mutex<Recent>);

#[derive(Debug)]
struct Recent {
    since: Instant,
    of_all: f64,
    of_new: f64,
    /// When addresses have had an answer; as many as there can be within [`RECENT`].
    answered: HashMap<Option<IpAddr>, Instant>,
}

impl Default for RateLimit {
    fn default() -> Self {
        Self(Mutex::new(Recent {
            since: Instant::now(),
            of_all: AT_ONCE,
            of_new: AT_ONCE / MORE_FOR_NEW,
            answered: HashMap::new(),
        }))
    }
}

impl RateLimit {
    /// Whether an exchange with that address may be answered now.
    pub(crate) fn ready(&self, ip: Option<IpAddr>) -> bool {
        let mut recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        recent.take(ip.map(share_of), Instant::now())
    }
}

impl Recent {
    fn take(&mut self, address: Option<IpAddr>, now: Instant) -> bool {
        let more = now.duration_since(self.since).as_secs_f64() * PER_SECOND;
        for (left, part) in [(&mut self.of_all, 1.0), (&mut self.of_new, MORE_FOR_NEW)] {
            *left = (*left + more / part).min(AT_ONCE / part);
        }
        self.since = now;
        let is_recent = |at: &Instant| now.duration_since(*at) < RECENT;
        let is_new = !self.answered.get(&address).is_some_and(is_recent);
        let left = if is_new && self.of_all < 1.0 { &mut self.of_new } else { &mut self.of_all };
        if *left < 1.0 {
            return false;
        }
        *left -= 1.0;
        self.answered.retain(|_, at| is_recent(at));
        self.answered.insert(address, now);
        true
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_a_peer_with_the_key_can_prove_it() {
        let (a, b, other) = (PeerId::random(), PeerId::random(), PeerId::random());
        let (key, wrong) = (Key::for_tests(1), Key::for_tests(2));
        let run = |theirs: &Key, me: &PeerId, caller: &PeerId| {
            let (offer, message) = Offer::new(&key, a, b);
            let (message, proof) = answer(theirs, me, caller, &message).unwrap();
            offer.check(&message, &proof)
        };
        assert_eq!(run(&key, &b, &a), KeyCheck::Matches);
        assert_eq!(run(&wrong, &b, &a), KeyCheck::Differs);
        assert_eq!(run(&key, &other, &a), KeyCheck::Differs, "relayed by a peer in the middle");
        assert_eq!(run(&key, &b, &other), KeyCheck::Differs);
        // Its own message, reflected.
        let (offer, message) = Offer::new(&key, a, b);
        assert_eq!(offer.check(&message, &[0; 32]), KeyCheck::Differs);
        let (offer, _) = Offer::new(&key, a, b);
        assert_eq!(offer.check(&[], &[]), KeyCheck::NoProof);
        for bad in [&b""[..], &[0; 5], &[0xff; 33]] {
            assert_eq!(answer(&key, &b, &a, bad), None);
        }
    }

    #[test]
    fn exchanges_are_rate_limited_and_more_are_for_new_addresses() {
        let limit = RateLimit::default();
        let mut recent = limit.0.into_inner().unwrap();
        let (began, at) = (recent.since, |host: u8| Some(IpAddr::from([192, 0, 2, host])));
        let mut answered = 0;
        for millis in 0..10_000 {
            let now = began + Duration::from_millis(millis);
            (1..=4).for_each(|host| answered += u32::from(recent.take(at(host), now)));
            if millis % 1000 == 999 {
                assert!(recent.take(at((10 + millis / 1000) as u8), now), "the first of another address");
            }
        }
        assert!((200..300).contains(&answered), "{answered}");
        let now = began + Duration::from_secs(10);
        let at_once = (0..10_000_u32).filter(|n| recent.take(Some(n.to_be_bytes().into()), now)).count();
        assert!(at_once <= 80, "{at_once}");
        assert!(recent.take(at(1), now + RECENT * 2) && recent.answered.len() == 1);
    }
}
