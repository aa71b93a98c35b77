//! Outbound calls: the steps before the driver sends them and after it has the answer.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use prb_core::sync::RateLimit;
use prost::Message;
use tokio::{
    sync::{OwnedSemaphorePermit, oneshot},
    time::sleep,
};

use super::{
    Command, Limits, PeerId, Shared, behaviour::Protocol, codec::Frame, metrics, outbound_limits::PeerLimits,
};
use crate::{
    proto::{self, AuthResponse, AuthStatus, Response, SystemInfo},
    rpc::{
        Error, ErrorKind, Method,
        auth::{AccessControl, Key, WINDOW},
        envelope::{self, now_ms},
        key_proof::KeyCheck,
    },
};

/// Attempts, and the pause between them, until a peer on the same machine has noticed that this node is
/// local, too.
const NOTICE_ATTEMPTS: u32 = 10;
const NOTICE_INTERVAL: Duration = Duration::from_millis(100);

/// How often a peer's refusals of a proof are logged, and of how many peers: anybody can be a peer with many names.
const REFUSALS_LOGGED: (Duration, usize) = (Duration::from_secs(600), 64);

/// A slot among the concurrent calls to one peer; held until the driver is done with the call.
pub(super) type Permit = OwnedSemaphorePermit;

/// State of outbound calls.
#[derive(Debug)]
pub(super) struct Outbound {
    limits: Limits,
    peer_limits: PeerLimits,
    last_proof_ms: Mutex<u64>,
    refusals_logged: Mutex<RateLimit<(PeerId, &'static str)>>,
}

impl Outbound {
    pub(super) fn new(limits: Limits) -> Self {
        let peer_limits = PeerLimits::new(limits.calls_to_peer, limits.peers);
        let (period, peers) = REFUSALS_LOGGED;
        let refusals_logged = Mutex::new(RateLimit::new(period, peers));
        Self { limits, peer_limits, last_proof_ms: Mutex::default(), refusals_logged }
    }

    /// Warns of a peer that this node cannot prove its key to, once in a while.
    fn warn_of(&self, peer: PeerId, what: &'static str) {
        if self.refusals_logged.lock().unwrap_or_else(PoisonError::into_inner).admit((peer, what)) {
            tracing::warn!(%peer, "{what}");
        }
    }

    /// Returns a time for a proof that is later than that of all earlier proofs, because each is accepted only
    /// once.
    fn proof_time(&self) -> u64 {
        let mut last = self.last_proof_ms.lock().unwrap_or_else(PoisonError::into_inner);
        *last = proof_time_after(*last, now_ms());
        *last
    }
}

fn proof_time_after(last_ms: u64, now_ms: u64) -> u64 {
    let next = last_ms + 1;
    // The clock was set back: a time that far in the future would be refused until it has come.
    if next.saturating_sub(now_ms) > WINDOW.as_millis() as u64 { now_ms } else { now_ms.max(next) }
}

pub(super) async fn call(shared: &Shared, peer: PeerId, method: Method, data: Bytes) -> Result<Bytes, Error> {
    let answer = exchange(shared, peer, method, data).await?;
    answer.into_result().map_err(|source| Error::Refused { peer, method, source })
}

/// Makes a call and returns the whole response, even if it is an error.
pub(super) async fn exchange(
    shared: &Shared,
    peer: PeerId,
    method: Method,
    data: Bytes,
) -> Result<Response, Error> {
    let started = Instant::now();
    let mut result = once_more(shared, peer, method, data.clone()).await;
    // A proof is sent only on demand: most calls need none, and a proof is valid once.
    if unauthorized(&result).is_some() && method.is_management() {
        if authenticate(shared, peer).await? {
            result = once_more(shared, peer, method, data).await;
        } else {
            result = from_here(shared, peer, method, data, result).await;
        }
    }
    metrics::call("out", Some(method), outcome(&result), started.elapsed());
    result
}

/// The refusal of a caller that may not call this.
fn unauthorized(result: &Result<Response, Error>) -> Option<&proto::ResponseError> {
    let error = result.as_ref().ok()?.error.as_ref()?;
    (error.r#type() == ErrorKind::Unauthorized).then_some(error)
}

/// Repeats a refused call over a connection that this node makes to a peer on its machine, if such a connection would
/// have been enough. The peer's addresses may not be known yet, and it learns of the connection a moment after this
/// node. A peer that requires a key or a configured id has refused for good.
async fn from_here(
    shared: &Shared,
    peer: PeerId,
    method: Method,
    data: Bytes,
    mut result: Result<Response, Error>,
) -> Result<Response, Error> {
    for _ in 0..NOTICE_ATTEMPTS {
        let Some(refused) = unauthorized(&result) else { break };
        // Originals and earlier versions do not say what would be enough: they are asked once more.
        let is_last = match refused.is_let_in_from_same_machine {
            Some(false) => break,
            said => said.is_none(),
        };
        let Some(is_connected) = connect_from_here(shared, peer).await else { break };
        if is_connected {
            result = once_more(shared, peer, method, data.clone()).await;
            if is_last {
                break;
            }
        }
        if unauthorized(&result).is_some() {
            sleep(NOTICE_INTERVAL).await;
        }
    }
    result
}

/// Makes a call and repeats it once if the connection broke and the method is repeatable: a peer that closes
/// connections after each call, as originals do, may do so at the moment when its connection is chosen.
async fn once_more(shared: &Shared, peer: PeerId, method: Method, data: Bytes) -> Result<Response, Error> {
    match attempt(shared, peer, method, data.clone()).await {
        Err(Error::Unreachable { .. }) if method.is_repeatable() => attempt(shared, peer, method, data).await,
        result => result,
    }
}

async fn attempt(shared: &Shared, peer: PeerId, method: Method, data: Bytes) -> Result<Response, Error> {
    let limits = &shared.outbound.limits;
    let (bytes, nonce) = envelope::request(method, data);
    let frame = Frame::new(bytes, method.answer_limit_bytes(limits.answer_bytes));
    let answer = send(shared, peer, Protocol::Pb, frame).await?;
    if answer.len() == 0 {
        // The peer gave up on the call, or dropped the stream.
        return Err(Error::Unreachable { peer, reason: "it closed the stream without an answer".to_owned() });
    }
    envelope::read(answer.into_bytes(), &nonce).map_err(|reason| Error::Malformed { peer, reason })
}

/// Ensures that this node has made a connection to a peer on this machine, which shows the peer that this
/// node is local. Returns whether there is one now; `None` if the peer is on another machine or unreachable.
async fn connect_from_here(shared: &Shared, peer: PeerId) -> Option<bool> {
    let (done, made) = oneshot::channel();
    shared.commands.send(Command::ConnectFromHere { peer, done }).await.ok()?;
    let made = tokio::time::timeout(shared.outbound.limits.call_timeout, made);
    shared.cancel.run_until_cancelled(made).await?.ok()?.ok()
}

/// Proves to a peer that this node knows the shared key, if the peer may receive a proof. Returns whether the
/// peer accepted it.
async fn authenticate(shared: &Shared, peer: PeerId) -> Result<bool, Error> {
    let Some(key) = &shared.own.key else { return Ok(false) };
    match ask_for_key(shared, peer).await {
        KeyCheck::Matches => {}
        KeyCheck::NoProof if shared.own.named.contains(&peer) => {}
        KeyCheck::NoProof => {
            shared.outbound.warn_of(
                peer,
                "a peer asks for a proof of the pre-shared key without proving that it knows it: none is sent. If it \
                 is ours, give its /p2p/ID in a boot node's address",
            );
            return Ok(false);
        }
        KeyCheck::Differs => {
            shared.outbound.warn_of(peer, "a peer's pre-shared key differs from this node's");
            let _ = shared.commands.send(Command::Auth { peer, status: AuthStatus::Rejected }).await;
            return Ok(false);
        }
    }
    prove(shared, key, peer).await
}

/// Asks a peer to prove that it knows the shared key, without giving it anything that it could test guesses
/// against.
async fn ask_for_key(shared: &Shared, peer: PeerId) -> KeyCheck {
    let (hello, Some(offer)) = shared.own.hello(shared.peer_id, peer, AuthStatus::NeedAuth) else {
        return KeyCheck::NoProof;
    };
    let answer = attempt(shared, peer, Method::Hello, hello.encode_to_vec().into()).await;
    let data = answer.ok().and_then(|answer| answer.into_result().ok());
    let Some(said) = data.and_then(|data| SystemInfo::decode(data).ok()) else { return KeyCheck::NoProof };
    let check = offer.check(&said.key_exchange, &said.key_proof);
    if check != KeyCheck::NoProof {
        let knows = check == KeyCheck::Matches;
        let _ = shared.commands.send(Command::KnowsKey { peer, knows }).await;
    }
    check
}

async fn prove(shared: &Shared, key: &Key, peer: PeerId) -> Result<bool, Error> {
    let request = AccessControl::proof_for(key, &shared.peer_id, &peer, shared.outbound.proof_time());
    let answer = attempt(shared, peer, Method::Auth, request.encode_to_vec().into()).await?;
    let status = match answer.into_result() {
        Ok(data) => match AuthResponse::decode(data) {
            Ok(response) => response.status(),
            Err(e) => return Err(Error::Malformed { peer, reason: e.to_string() }),
        },
        // An original has no handler for this method.
        Err(_) => AuthStatus::Rejected,
    };
    let _ = shared.commands.send(Command::Auth { peer, status }).await;
    if status == AuthStatus::Rejected {
        shared.outbound.warn_of(peer, "a peer rejected our pre-shared key");
    }
    Ok(matches!(status, AuthStatus::Granted | AuthStatus::None))
}

pub(super) async fn blob(shared: &Shared, peer: PeerId, key: &str) -> Result<Option<Bytes>, Error> {
    let frame = Frame::new(Bytes::copy_from_slice(key.as_bytes()), shared.outbound.limits.answer_bytes);
    let answer = send(shared, peer, Protocol::Blob, frame).await?.into_bytes();
    Ok((!answer.is_empty()).then_some(answer))
}

async fn send(shared: &Shared, peer: PeerId, protocol: Protocol, frame: Frame) -> Result<Frame, Error> {
    let limits = &shared.outbound.limits;
    if frame.len() > limits.request_bytes {
        return Err(Error::TooLarge { what: "request", limit_bytes: limits.request_bytes });
    }
    let waited = limits.call_timeout;
    let work = async {
        // The permit comes first: a call that waits for a slow peer must not take a place in the driver's
        // queue.
        let permit =
            shared.outbound.peer_limits.of(peer).acquire_owned().await.map_err(|_| Error::Stopped)?;
        let (reply, answer) = oneshot::channel();
        let command = Command::Send { peer, protocol, frame, reply, permit };
        shared.commands.send(command).await.map_err(|_| Error::Stopped)?;
        answer.await.map_err(|_| Error::Stopped)?
    };
    tokio::select! {
        result = tokio::time::timeout(waited, work) => result.unwrap_or(Err(Error::TimedOut { peer, waited })),
        () = shared.cancel.cancelled() => Err(Error::Stopped),
    }
}

fn outcome(result: &Result<Response, Error>) -> &'static str {
    match result {
        Ok(answer) if answer.has_error => "refused",
        Ok(_) => "ok",
        Err(error) => error.outcome(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proofs_of_a_clock_that_was_set_back_are_not_of_the_future() {
        assert_eq!(proof_time_after(0, 1000), 1000);
        assert_eq!(proof_time_after(1000, 1000), 1001, "each is accepted only once");
        assert_eq!(proof_time_after(1005, 1000), 1006, "several within one millisecond");
        let day = 24 * 3600 * 1000;
        assert_eq!(proof_time_after(day + 1000, 1000), 1000);
    }

    #[test]
    fn refusals_of_proofs_are_logged_now_and_then() {
        let outbound = Outbound::new(Limits::default());
        let logs = |peer, what| outbound.refusals_logged.lock().is_ok_and(|mut log| log.admit((peer, what)));
        let peer = PeerId::random();
        outbound.warn_of(peer, "differs");
        assert!(!logs(peer, "differs") && logs(peer, "rejected"));
        let strangers = (0..1000).filter(|_| logs(PeerId::random(), "differs")).count();
        assert_eq!(strangers, REFUSALS_LOGGED.1 - 2);
    }
}
