//! The `Hello` call, in both directions.

use std::{
    sync::{Arc, PoisonError},
    time::Instant,
};

use bytes::Bytes;
use libp2p::PeerId;
use prost::Message;
use tokio::sync::mpsc;
use tracing::{debug, info};

use super::{Driver, GREET_AGAIN, Own, Pending};
use crate::{
    blob::{Lookup, keys},
    node::{
        Config,
        behaviour::Protocol,
        codec::{Frame, Memory},
        peers::Link,
    },
    proto::{AuthStatus, SystemInfo, data_provider::RawBlob},
    rpc::{
        Caller, Error, Handlers, Method, ResponseError, calls,
        envelope::{self, now_ms},
        key_proof::{self, KeyCheck, Offer},
    },
};

/// Introductions waiting for the driver; further ones are dropped, and repeated by the peer.
const INTRODUCTIONS: usize = 256;
/// The largest answer to `Hello`, in bytes.
const ANSWER_BYTES: usize = 64 * 1024;

pub(super) fn own_info(config: &Config, me: PeerId) -> SystemInfo {
    SystemInfo {
        hostname: config.hostname.clone(),
        peer_id: me.to_base58(),
        role: config.role.into(),
        chain_identity: config.chain_identity.map(|hash| hash.to_string()).unwrap_or_default(),
        bridge_identity: config.bridge_identity.clone(),
        auth: AuthStatus::None.into(),
        key_exchange: Bytes::new(),
        key_proof: Bytes::new(),
    }
}

impl Own {
    /// Builds a `Hello`, with its half of the key exchange if there is a key.
    pub(in crate::node) fn hello(
        &self,
        me: PeerId,
        peer: PeerId,
        auth: AuthStatus,
    ) -> (SystemInfo, Option<Offer>) {
        let offer = self.key.as_ref().map(|key| Offer::new(key, me, peer));
        let (offer, key_exchange) = offer.map_or((None, Bytes::new()), |(offer, bytes)| (Some(offer), bytes));
        (SystemInfo { auth: auth.into(), key_exchange, ..self.info() }, offer)
    }

    /// Builds the answer to a `Hello`.
    fn answer(&self, me: &PeerId, caller: Caller, said: &SystemInfo) -> SystemInfo {
        let may = self.key.is_some() && !said.key_exchange.is_empty() && self.exchange_limit.ready(caller.ip);
        let key = self.key.as_ref().filter(|_| may);
        let shown = key.and_then(|key| key_proof::answer(key, me, &caller.peer, &said.key_exchange));
        let (key_exchange, key_proof) = shown.unwrap_or_default();
        SystemInfo { auth: caller.auth_status.into(), key_exchange, key_proof, ..self.info() }
    }
}

/// Combines the configured handlers with the node's own.
pub(super) fn handlers(
    config: &Config,
    me: PeerId,
    own: &Arc<Own>,
    memory: &Memory,
) -> (Handlers, mpsc::Receiver<(PeerId, SystemInfo)>) {
    let (sender, introductions) = mpsc::channel(INTRODUCTIONS);
    let hello = Arc::clone(own);
    let auth = Arc::clone(own);
    let mut handlers = config.handlers.clone();
    if let Some(blobs) = config.blobs.clone()
        && !handlers.has(calls::GetBlobByKey)
    {
        handlers = with_blobs(handlers, blobs, memory.clone(), config.limits.answer_bytes);
    }
    let handlers = handlers
        .on(calls::Hello, move |caller, info| {
            let answer = hello.answer(&me, caller, &info);
            // A request may have many MiB, and its memory is free for others from here on.
            if info.encoded_len() <= ANSWER_BYTES {
                // If the channel is full, the introduction is lost: the peer repeats it.
                let _ = sender.try_send((caller.peer, info));
            }
            async move { Ok(answer) }
        })
        .on(calls::Auth, move |caller, request| {
            let mut access = auth.access.lock().unwrap_or_else(PoisonError::into_inner);
            let answer = access.admit(caller.peer, &request, now_ms());
            async move { Ok(answer) }
        });
    (handlers, introductions)
}

fn with_blobs(handlers: Handlers, blobs: Arc<dyn Lookup>, memory: Memory, limit: usize) -> Handlers {
    handlers.on(calls::GetBlobByKey, move |_, request| {
        let (blobs, memory) = (Arc::clone(&blobs), memory.clone());
        async move {
            let key = keys::without_wait(request.key.trim());
            let key = key.as_ref();
            // This reservation covers assembling the blob; the encoded answer reserves its own.
            let _reserve = memory.reserve(blobs.reserve_bytes(key).min(limit)).await;
            let found = blobs.get(key).await;
            let found = found.map_err(|e| ResponseError::server(e.to_string()))?;
            let data = found.unwrap_or_default();
            Ok(RawBlob { key: request.key, empty: data.is_empty(), data })
        }
    })
}

impl Driver {
    /// Sends the due `Hello` calls.
    pub(super) fn greet(&mut self, now: Instant) {
        for peer in self.peers.due_greetings(now) {
            let known = self.peers.get(&peer);
            let from_here = known.is_some_and(|known| known.links.values().any(Link::comes_from_here));
            let ip = known.and_then(|known| known.links.values().next()?.ip());
            let auth = self.own.auth_status(&peer, ip, from_here);
            let (hello, offer) = self.own.hello(self.shared.peer_id, peer, auth);
            let (bytes, nonce) = envelope::request(Method::Hello, hello.encode_to_vec().into());
            if let Some(known) = self.peers.get_mut(&peer) {
                known.greeting = true;
                known.greet_at = now + self.limits.hello_interval;
            }
            self.send(
                peer,
                Protocol::Pb,
                Frame::new(bytes, ANSWER_BYTES),
                Pending::Hello { nonce, offer: offer.map(Box::new) },
            );
        }
    }

    pub(super) fn on_hello_answer(
        &mut self,
        peer: PeerId,
        nonce: &str,
        offer: Option<Box<Offer>>,
        result: Result<Frame, Error>,
    ) {
        let Some(known) = self.peers.get_mut(&peer) else { return };
        known.greeting = false;
        let opened = match result {
            Ok(frame) => match envelope::open(frame.into_bytes(), nonce) {
                Ok(Ok(data)) => SystemInfo::decode(data).map_err(|e| e.to_string()),
                Ok(Err(refused)) => Err(refused.to_string()),
                Err(reason) => Err(reason),
            },
            Err(Error::Unsupported { .. }) => {
                // Another libp2p program. It is asked again at the usual interval.
                return debug!(%peer, "a peer does not speak Walkie");
            }
            Err(e) => Err(e.to_string()),
        };
        match opened {
            Ok(info) => {
                self.on_introduced(peer, &info);
                self.peers.auth(&peer, info.auth());
                match offer.map(|offer| offer.check(&info.key_exchange, &info.key_proof)) {
                    Some(KeyCheck::Matches) => self.knows_key(peer, true),
                    Some(KeyCheck::Differs) => self.knows_key(peer, false),
                    Some(KeyCheck::NoProof) | None => {}
                }
            }
            Err(reason) => {
                debug!(%peer, reason, "no answer to Hello");
                known.greet_at = Instant::now() + GREET_AGAIN;
            }
        }
    }

    pub(super) fn on_introduced(&mut self, peer: PeerId, said: &SystemInfo) {
        if self.peers.introduced(peer, said) {
            // Strangers can appear at no cost, so these lines are rate-limited.
            if let Some(skipped) = self.met.take() {
                let membership =
                    self.peers.membership(&peer).map_or("unknown", crate::node::Membership::as_str);
                info!(%peer, role = said.role().as_str(), membership, skipped, "met a peer");
            }
        }
        self.wake = true;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::Duration;

    use super::*;
    use crate::{identity::Identity, node::codec::Memories, proto::Role, rpc::handlers::Bounds};

    /// Sends a `Hello` to the handlers of a node.
    async fn say(handlers: &Handlers, hostname: &str) {
        let said = SystemInfo { hostname: hostname.to_owned(), ..SystemInfo::default() };
        let (bytes, nonce) = envelope::request(Method::Hello, said.encode_to_vec().into());
        let caller = Caller::with_status(PeerId::random(), None, AuthStatus::NeedAuth, false);
        let bounds = Bounds { timeout: Duration::from_secs(60), answer_bytes: 1 << 20 };
        let answer = handlers.answer(caller, bytes, bounds).await;
        let data = envelope::open(answer.bytes, &nonce).unwrap().unwrap();
        SystemInfo::decode(data).unwrap();
    }

    /// All of them are answered, but what is kept until the driver has read it is bounded, in number and size.
    #[tokio::test]
    async fn introductions_that_wait_for_the_driver_are_few_and_small() {
        let identity = Identity::from_bytes(include_bytes!("../../../tests/data/js-peer-id.bin")).unwrap();
        let config = Config::new(identity, Role::DataProviderInt);
        let me = PeerId::random();
        let own = Arc::new(Own::new(&config, me, None));
        let (handlers, mut waiting) = handlers(&config, me, &own, &Memories::new(1 << 20).answers);
        say(&handlers, "one of ours").await;
        say(&handlers, &"x".repeat(70_000)).await;
        say(&handlers, &"x".repeat(60_000)).await;
        let mut kept = || waiting.try_recv().ok().map(|(_, said)| said.hostname.len());
        assert_eq!([kept(), kept(), kept()], [Some(11), Some(60_000), None], "no large one");
        for _ in 0..1000 {
            say(&handlers, "a crowd").await;
        }
        assert_eq!(std::iter::from_fn(kept).count(), 256);
    }
}
