//! Who this node is, and who others say that they are.

use std::{
    sync::{Arc, PoisonError},
    time::Instant,
};

use libp2p::PeerId;
use prost::Message;
use tokio::sync::mpsc;
use tracing::{debug, info};

use super::{Driver, GREET_AGAIN, Own, Pending};
use crate::{
    blob::Lookup,
    node::{
        Config,
        behaviour::Protocol,
        codec::{Frame, Memory},
        outbound,
    },
    proto::{AuthStatus, SystemInfo, data_provider::RawBlob},
    rpc::{
        Error, Handlers, Method, ResponseError, calls,
        envelope::{self, now_ms},
    },
};

/// Introductions that wait for the driver; those beyond are lost, and come again.
const INTRODUCTIONS: usize = 256;
/// Most bytes of a `Hello`'s answer.
const ANSWER_BYTES: usize = 64 * 1024;

pub(super) fn own_info(config: &Config, me: PeerId) -> SystemInfo {
    SystemInfo {
        hostname: config.hostname.clone(),
        peer_id: me.to_base58(),
        role: config.role.into(),
        chain_identity: config.chain_identity.map(|hash| hash.to_string()).unwrap_or_default(),
        bridge_identity: config.bridge_identity.clone(),
        auth: AuthStatus::None.into(),
    }
}

/// The configured handlers and the node's own.
pub(super) fn handlers(
    config: &Config,
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
            let _ = sender.try_send((caller.peer, info));
            let auth = hello.standing(&caller.peer, caller.ip).into();
            let answer = SystemInfo { auth, ..hello.info() };
            async move { Ok(answer) }
        })
        .on(calls::Auth, move |caller, request| {
            let mut gate = auth.gate.lock().unwrap_or_else(PoisonError::into_inner);
            let answer = gate.admit(caller.peer, &request, now_ms());
            async move { Ok(answer) }
        });
    (handlers, introductions)
}

fn with_blobs(handlers: Handlers, blobs: Arc<dyn Lookup>, memory: Memory, limit: usize) -> Handlers {
    handlers.on(calls::GetBlobByKey, move |_, request| {
        let (blobs, memory) = (Arc::clone(&blobs), memory.clone());
        async move {
            let key = request.key.trim();
            // What the answer takes is set aside again once it is wrapped.
            let _reserve = memory.reserve(blobs.bound_bytes(key).min(limit)).await;
            let found = blobs.get(key).await;
            let found = found.map_err(|e| ResponseError::server(e.to_string()))?;
            let data = found.unwrap_or_default();
            Ok(RawBlob { key: request.key, empty: data.is_empty(), data })
        }
    })
}

impl Driver {
    /// Says `Hello` to whom it is due.
    pub(super) fn greet(&mut self, now: Instant) {
        for peer in self.peers.due_greetings(now) {
            let ip = self.peers.get(&peer).and_then(|known| known.links.values().next()?.ip());
            let auth = self.own.standing(&peer, ip).into();
            let hello = SystemInfo { auth, ..self.own.info() };
            let (bytes, nonce) = envelope::request(Method::Hello, hello.encode_to_vec().into());
            if let Some(known) = self.peers.get_mut(&peer) {
                known.greeting = true;
                known.greet_at = now + self.limits.hello_interval;
            }
            self.send(peer, Protocol::Pb, Frame::new(bytes, ANSWER_BYTES), Pending::Hello { nonce });
        }
    }

    pub(super) fn on_hello_answer(&mut self, peer: PeerId, nonce: &str, result: Result<Frame, Error>) {
        let Some(known) = self.peers.get_mut(&peer) else { return };
        known.greeting = false;
        let opened = match result {
            Ok(frame) => match envelope::open(frame.into_bytes(), nonce) {
                Ok(Ok(data)) => SystemInfo::decode(data).map_err(|e| e.to_string()),
                Ok(Err(refused)) => Err(refused.to_string()),
                Err(reason) => Err(reason),
            },
            Err(Error::Unsupported { .. }) => {
                // Another libp2p program. It is asked again with the others.
                return debug!(%peer, "a peer does not speak Walkie");
            }
            Err(e) => Err(e.to_string()),
        };
        match opened {
            Ok(info) => self.on_introduced_answer(peer, &info),
            Err(reason) => {
                debug!(%peer, reason, "no answer to Hello");
                known.greet_at = Instant::now() + GREET_AGAIN;
            }
        }
    }

    /// A peer has answered who it is, and how this node stands with it.
    fn on_introduced_answer(&mut self, peer: PeerId, info: &SystemInfo) {
        self.on_introduced(peer, info);
        let status = info.auth();
        self.peers.auth(&peer, status);
        let Some(known) = self.peers.get_mut(&peer) else { return };
        let wants_proof = matches!(status, AuthStatus::NeedAuth) && !known.proof_sent;
        if wants_proof && self.shared.outbound.has_key() {
            known.proof_sent = true;
            let shared = Arc::clone(&self.shared);
            self.chores.spawn(async move {
                if let Err(error) = outbound::authenticate(&shared, peer).await {
                    debug!(%peer, %error, "the pre-shared key could not be shown");
                }
            });
        }
    }

    pub(super) fn on_introduced(&mut self, peer: PeerId, said: &SystemInfo) {
        if self.peers.introduced(peer, said) {
            // Strangers cost nothing to make up.
            if let Some(skipped) = self.met.take() {
                let standing = self.peers.standing(&peer).map_or("unknown", crate::node::Standing::as_str);
                info!(%peer, role = said.role().as_str(), standing, skipped, "met a peer");
            }
        }
        self.wake = true;
    }
}
