//! Answers inbound calls.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use libp2p::{
    PeerId,
    request_response::{InboundRequestId, ResponseChannel},
    swarm::ConnectionId,
};
use tokio::task::JoinError;
use tracing::{debug, error};

use super::Driver;
use crate::{
    blob::{Lookup, keys},
    node::{
        Provenance,
        behaviour::Protocol,
        call_slots::{CallSlot, Class, Holder},
        codec::{Frame, Memory},
        metrics,
        peers::Link,
    },
    rpc::{Caller, Handlers, ResponseError, envelope, handlers::Bounds},
};

/// An inbound call.
#[derive(Clone, Copy, Debug)]
pub(super) struct Inbound {
    pub(super) protocol: Protocol,
    pub(super) peer: PeerId,
    pub(super) connection_id: ConnectionId,
    pub(super) request_id: InboundRequestId,
}

/// An answered call.
#[derive(Debug)]
pub(super) struct Done {
    call: Inbound,
    channel: ResponseChannel<Frame>,
    answer: Frame,
    /// Its slot among the calls being answered.
    slot: CallSlot,
}

/// The resources for answering a call.
struct CallContext {
    handlers: Arc<Handlers>,
    blobs: Option<Arc<dyn Lookup>>,
    memory: Memory,
    bounds: Bounds,
}

impl Driver {
    pub(super) fn on_request(&mut self, call: Inbound, request: Frame, channel: ResponseChannel<Frame>) {
        if let Some(limit) = request.oversized() {
            return self.refuse(
                call,
                channel,
                "too_large",
                format!("the request has more than {limit} bytes"),
            );
        }
        if self.is_draining() {
            return self.refuse(call, channel, "stopping", "this peer is shutting down");
        }
        let links = self.peers.get(&call.peer).map(|known| &known.links);
        let ip = links.and_then(|links| links.get(&call.connection_id)?.ip());
        // Any connection of the peer may prove this: noise ensures that all of them are the same peer's.
        let from_here = links.is_some_and(|links| links.values().any(Link::comes_from_here));
        let auth_status = self.own.auth_status(&call.peer, ip, from_here);
        let caller = Caller::with_status(call.peer, ip, auth_status, self.own.grants_same_machine());
        let is_stranger = self.peers.provenance(&call.peer) < Provenance::BootNode;
        let Some(class) = Class::of(call.protocol, request.bytes(), caller.granted) else {
            return self.refuse(call, channel, "malformed", "the request has too many fields");
        };
        let Some(slot) = self.call_slots.take(class, Holder { peer: call.peer, ip, is_stranger }) else {
            return self.refuse(call, channel, "busy", "too many calls at once");
        };
        if let Some(known) = self.peers.get_mut(&call.peer) {
            known.note_activity();
        }
        let context = CallContext {
            handlers: Arc::clone(&self.handlers),
            blobs: self.blobs.clone(),
            memory: self.memory.clone(),
            bounds: Bounds { timeout: self.limits.call_timeout, answer_bytes: self.limits.answer_bytes },
        };
        self.work.spawn(async move {
            let answer = context.answer(call, caller, request).await;
            Done { call, channel, answer, slot }
        });
    }

    fn refuse(
        &mut self,
        call: Inbound,
        channel: ResponseChannel<Frame>,
        reason: &'static str,
        message: impl Into<String>,
    ) {
        let message = message.into();
        debug!(peer = %call.peer, reason = message, "refused a call");
        metrics::refused(reason);
        self.respond(call, channel, Frame::new(refusal(call.protocol, message), 0), None);
    }

    pub(super) fn on_done(&mut self, done: Result<Done, JoinError>) {
        match done {
            Ok(Done { call, channel, answer, slot }) => {
                let kept = Some(slot).filter(|slot| slot.class.lasts_until_written());
                self.respond(call, channel, answer, kept);
            }
            Err(e) if e.is_cancelled() => {}
            // Handlers' own panics are caught before.
            Err(e) => error!(error = %prb_core::text::describe(&e), "answering a call failed"),
        }
    }

    fn respond(
        &mut self,
        call: Inbound,
        channel: ResponseChannel<Frame>,
        answer: Frame,
        kept: Option<CallSlot>,
    ) {
        let behaviour = self.swarm.behaviour_mut();
        let calls = match call.protocol {
            Protocol::Pb => &mut behaviour.pb,
            Protocol::Blob => &mut behaviour.blob,
        };
        match calls.send_response(channel, answer) {
            Ok(()) => drop(self.writing.insert((call.protocol, call.request_id), kept)),
            Err(_) => debug!(peer = %call.peer, "the caller left before its answer was ready"),
        }
    }
}

/// The answer to a call that is refused unread; `/blob` cannot carry a message.
fn refusal(protocol: Protocol, message: String) -> Bytes {
    match protocol {
        Protocol::Pb => envelope::response(String::new(), Err(ResponseError::server(message))),
        Protocol::Blob => Bytes::new(),
    }
}

impl CallContext {
    async fn answer(&self, call: Inbound, caller: Caller, request: Frame) -> Frame {
        let started = Instant::now();
        // The request's memory is released once it is answered.
        let (raw, _memory) = request.into_parts();
        match call.protocol {
            Protocol::Pb => {
                let answer = self.handlers.answer(caller, raw, self.bounds).await;
                metrics::call("in", answer.method, answer.outcome, started.elapsed());
                self.memory.frame(answer.bytes).unwrap_or_else(|error| {
                    debug!(peer = %caller.peer, %error, "refused a call");
                    Frame::new(refusal(call.protocol, error.to_string()), 0)
                })
            }
            Protocol::Blob => {
                let (frame, outcome) = self.blob(caller, &raw).await;
                metrics::blob(outcome, started.elapsed());
                frame.unwrap_or_else(|| Frame::new(Bytes::new(), 0))
            }
        }
    }

    /// Returns a blob; an empty answer if there is none, as the original does.
    async fn blob(&self, caller: Caller, raw: &[u8]) -> (Option<Frame>, &'static str) {
        let (Some(blobs), Ok(key)) = (&self.blobs, std::str::from_utf8(raw)) else {
            return (None, "malformed");
        };
        let (key, limit) = (keys::without_wait(key.trim()), self.bounds.answer_bytes);
        let key = key.as_ref();
        let read = async {
            let reserve = self.memory.reserve(blobs.reserve_bytes(key).min(limit)).await;
            (reserve, blobs.get(key).await)
        };
        let read = tokio::time::timeout(self.bounds.timeout, read).await;
        match read.map(|(reserve, found)| found.map(|blob| blob.map(|blob| (reserve, blob)))) {
            Ok(Ok(Some((_, blob)))) if blob.len() > limit => (None, "too_large"),
            Ok(Ok(Some((reserve, blob)))) => (Some(reserve.frame(blob)), "ok"),
            Ok(Ok(None)) => (None, "not_found"),
            Ok(Err(error)) => {
                debug!(peer = %caller.peer, key, %error, "a blob cannot be read");
                (None, "server")
            }
            Err(_) => (None, "timed_out"),
        }
    }
}
