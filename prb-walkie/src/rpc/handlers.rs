//! [`Handlers`]: the methods that a node answers.

use std::{collections::HashMap, fmt, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use prb_core::text::{duration, shorten};
use prost::Message;

use super::{Call, Caller, MAX_QUOTED_BYTES, Method, ResponseError, auth, envelope};
use crate::proto::Request;

/// Longest nonce that is repeated, in bytes.
const MAX_NONCE_BYTES: usize = 256;
/// Upper bound of what the envelope adds to an answer: two nonces of up to a few hundred bytes, a time, tags
/// and lengths.
const WRAPPING_BYTES: usize = 1024;

type Handler = Arc<dyn Fn(Caller, Bytes) -> BoxFuture<'static, Result<Bytes, ResponseError>> + Send + Sync>;

/// Handlers by method. Clones share them.
///
/// ```
/// use prb_walkie::{
///     proto::data_provider::Info,
///     rpc::{Handlers, calls},
/// };
///
/// let handlers = Handlers::new()
///     .on(calls::GetDataProviderInfo, |_caller, _empty| async { Ok(Info { para_id: 2035, ..Info::default() }) });
/// assert!(handlers.has(calls::GetDataProviderInfo));
/// ```
#[derive(Clone, Default)]
pub struct Handlers {
    by_method: HashMap<Method, Handler>,
}

impl fmt::Debug for Handlers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.by_method.keys()).finish()
    }
}

/// An answer, with its label for logs and metrics.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) bytes: Bytes,
    pub(crate) method: Option<Method>,
    pub(crate) outcome: &'static str,
}

/// Limits of an answer.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    pub(crate) timeout: Duration,
    pub(crate) answer_bytes: usize,
}

impl Bounds {
    fn check(self, data: Bytes) -> Result<Bytes, ResponseError> {
        if data.len().saturating_add(WRAPPING_BYTES) <= self.answer_bytes {
            return Ok(data);
        }
        let (size, limit) = (data.len(), self.answer_bytes);
        Err(ResponseError::server(format!("the answer has {size} bytes, too many for the limit of {limit}")))
    }
}

impl Handlers {
    /// Creates an empty set: every method is answered with `NOT_FOUND`.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a handler, replacing an earlier one. It may be cancelled at any await point: when a call's time is
    /// over, or the node stops.
    #[must_use]
    pub fn on<C, F, Fut>(mut self, _call: C, handler: F) -> Self
    where
        C: Call,
        F: Fn(Caller, C::Request) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<C::Response, ResponseError>> + Send + 'static,
    {
        let handler = Arc::new(handler);
        let erased: Handler = Arc::new(move |caller, data: Bytes| {
            let handler = Arc::clone(&handler);
            async move {
                let request = C::Request::decode(data)
                    .map_err(|e| ResponseError::server(format!("the request cannot be decoded: {e}")))?;
                Ok(handler(caller, request).await?.encode_to_vec().into())
            }
            .boxed()
        });
        self.by_method.insert(C::METHOD, erased);
        self
    }

    /// Adds all handlers of `other`, replacing earlier ones.
    #[must_use]
    pub fn and(mut self, other: Self) -> Self {
        self.by_method.extend(other.by_method);
        self
    }

    /// Whether a method has a handler.
    pub fn has<C: Call>(&self, _call: C) -> bool {
        self.by_method.contains_key(&C::METHOD)
    }

    /// Answers an arbitrary request.
    pub(crate) async fn answer(&self, caller: Caller, raw: Bytes, bounds: Bounds) -> Answer {
        let request = match Request::decode(raw.clone()) {
            Ok(request) => request,
            Err(e) => {
                let error = ResponseError::server(format!("the request cannot be decoded: {e}"));
                let bytes = envelope::response(String::new(), Err(error));
                return Answer { bytes, method: None, outcome: "malformed" };
            }
        };
        let Request { nonce, data, method: name, .. } = request;
        // A nonce is repeated verbatim, unless it is too long to be one.
        let nonce = if nonce.len() <= MAX_NONCE_BYTES { nonce } else { String::new() };
        let method = Method::from_name(&name);
        let result = match method {
            Some(method) => self.call(caller, method, data, bounds.timeout).await,
            None if name.is_empty() => Err(ResponseError::server("the request names no method")),
            None => {
                Err(ResponseError::server(format!("unknown method {:?}", shorten(&name, MAX_QUOTED_BYTES))))
            }
        };
        // Only now: while the handler ran, it shared the buffer, which could not be overwritten.
        if method.is_some_and(Method::is_secret) {
            wipe(raw);
        }
        // A caller that is told that the answer is too large can act on it; one that gets a broken stream
        // cannot.
        let result = result.and_then(|data| bounds.check(data));
        let outcome = match &result {
            Ok(_) => "ok",
            Err(e) => outcome_of(e),
        };
        Answer { bytes: envelope::response(nonce, result), method, outcome }
    }

    async fn call(
        &self,
        caller: Caller,
        method: Method,
        data: Bytes,
        timeout: Duration,
    ) -> Result<Bytes, ResponseError> {
        let Some(handler) = self.by_method.get(&method) else {
            // The original's answer, word for word.
            return Err(ResponseError::not_found("Handler not implemented."));
        };
        if method.is_management() && !caller.granted {
            let mut refused = ResponseError::unauthorized(unauthorized_text(method, &caller));
            refused.is_let_in_from_same_machine = Some(caller.is_granted_here);
            return Err(refused);
        }
        // A handler may also panic before it returns its future.
        let work = AssertUnwindSafe(async { handler(caller, data).await }).catch_unwind();
        match tokio::time::timeout(timeout, work).await {
            Ok(Ok(result)) => result,
            Ok(Err(_panic)) => {
                tracing::error!(method = method.name(), peer = %caller.peer, "a handler panicked");
                Err(ResponseError::server("the handler failed"))
            }
            Err(_) => Err(ResponseError::server(format!("no answer within {}", duration(timeout)))),
        }
    }
}

/// Explains a refusal to the caller, with what its operator can do.
fn unauthorized_text(method: Method, caller: &Caller) -> String {
    let from = caller.ip.map(|ip| format!(" from {}", ip.to_canonical())).unwrap_or_default();
    format!(
        "{} is for authorised peers only, and {}{from} is not one of them. To authorise it, set on this side: \
         PRB_WALKIE_PSK, the same key as on the other (with clocks that differ by less than {} s); \
         PRB_WALKIE_WHITELIST, its peer id; or, for a caller with neither a key nor a permanent id, such as the \
         original's monitor, PRB_WALKIE_MANAGEMENT_NETWORKS, its network",
        method.name(),
        caller.peer,
        auth::WINDOW.as_secs()
    )
}

/// The outcome label of an error.
fn outcome_of(error: &ResponseError) -> &'static str {
    use super::ErrorKind as Kind;
    match error.kind {
        Kind::Unknown => "unknown",
        Kind::Server => "server",
        Kind::NotFound => "not_found",
        Kind::Duplicated => "duplicated",
        Kind::Unauthorized => "unauthorized",
    }
}

/// Overwrites a request that may have contained a secret, if its buffer has no other reference.
fn wipe(raw: Bytes) {
    if let Ok(mut raw) = raw.try_into_mut() {
        zeroize::Zeroize::zeroize(&mut raw[..]);
    }
}
