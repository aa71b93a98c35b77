//! The seam [`PRuntimeClient`]: one worker's API as bytes, and the typed [`PRuntime`] on top of it.
//!
//! A worker accepts one sync or dispatch call at a time: callers must not send two concurrently (pRuntime
//! 2.x).
//!
//! Not for: deciding what to call (see [`crate::worker`]).

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use codec::{DecodeAll, Encode};
use prost::Message;

use crate::{
    prpc::{self, Method},
    text::{duration, shorten},
    wire,
};

pub mod endpoints;
#[cfg(feature = "http")]
pub mod http;
#[cfg(feature = "testing")]
pub mod scripted;

/// Why a call to a worker failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Nothing answers at the endpoint, or the connection broke.
    #[error("worker unreachable at {endpoint}")]
    Unreachable {
        /// The worker's endpoint.
        endpoint: String,
        /// Whether there was a connection, so that the worker may have received the call.
        connected: bool,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The call timed out.
    #[error("{method} took longer than {}", duration(*limit))]
    TimedOut {
        /// The method called.
        method: &'static str,
        /// The time allowed.
        limit: Duration,
    },
    /// pRuntime answered with an error; `message` is its text, truncated if necessary.
    #[error("{method} was refused ({status}): {message}")]
    Refused {
        /// The method called.
        method: &'static str,
        /// HTTP status: 400 undecodable request, 404 unknown method, 413 too large, 500 application error.
        status: u16,
        /// pRuntime's error text.
        message: String,
    },
    /// The answer does not match the method.
    #[error("{method} returned an invalid answer: {reason}")]
    BadAnswer {
        /// The method called.
        method: &'static str,
        /// The problem.
        reason: String,
    },
    /// The request exceeds pRuntime's limit; it was not sent.
    #[error("{method} accepts at most {limit_bytes} bytes, not {size_bytes}")]
    TooLarge {
        /// The method called.
        method: &'static str,
        /// Size of the request.
        size_bytes: usize,
        /// pRuntime's limit.
        limit_bytes: usize,
    },
}

impl Error {
    /// pRuntime's error text, if it answered with one.
    pub fn refusal(&self) -> Option<&str> {
        match self {
            Self::Refused { message, .. } => Some(message),
            _ => None,
        }
    }

    /// Whether the worker is only busy with another call, and the call should be retried soon.
    pub fn is_busy(&self) -> bool {
        // pRuntime's text for sync calls that arrive while it processes another one.
        self.refusal().is_some_and(|m| m.starts_with("RCU in progress"))
    }

    /// Whether the same call may succeed later although nothing else changes.
    pub fn is_retryable(&self) -> bool {
        self.is_busy() || matches!(self, Self::Unreachable { .. } | Self::TimedOut { .. })
    }

    /// Whether the process may have lost its state or restarted, so that it must be observed again.
    pub const fn is_connection(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::TimedOut { .. })
    }
}

/// One worker's API, as bytes.
///
/// # Cancel safety
/// A dropped call may or may not have reached the worker, which may still be executing it: observe it.
///
/// ```
/// use std::time::Duration;
/// use async_trait::async_trait;
/// use bytes::Bytes;
/// use prb_core::{prpc::Method, pruntime::{Error, PRuntimeClient}};
///
/// /// Delays each call to another client.
/// #[derive(Debug)]
/// struct Paced<C>(C, Duration);
///
/// #[async_trait]
/// impl<C: PRuntimeClient> PRuntimeClient for Paced<C> {
///     async fn call(&self, method: Method, body: Bytes) -> Result<Bytes, Error> {
///         tokio::time::sleep(self.1).await;
///         self.0.call(method, body).await
///     }
///
///     async fn kick(&self) -> Result<(), Error> {
///         self.0.kick().await
///     }
/// }
/// ```
#[async_trait]
pub trait PRuntimeClient: Send + Sync + fmt::Debug {
    /// Calls `method` with the protobuf `body` and returns the protobuf answer.
    ///
    /// # Errors
    /// See [`Error`].
    async fn call(&self, method: Method, body: Bytes) -> Result<Bytes, Error>;

    /// Makes the process exit; its supervisor starts it again.
    ///
    /// # Errors
    /// [`Error::Unreachable`] if no connection can be made, [`Error::Refused`] if something other than a
    /// worker answers, [`Error::TimedOut`] if it neither answers nor exits. A connection that breaks after
    /// the request was sent counts as success.
    async fn kick(&self) -> Result<(), Error>;
}

/// Why no client can be created for an endpoint.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The text is not a valid endpoint: it must be corrected.
    #[error("worker endpoint {endpoint:?} cannot be used: {reason}")]
    Endpoint {
        /// The text, without a password.
        endpoint: String,
        /// The problem, and what to write instead.
        reason: String,
    },
    /// The endpoint is valid, but the client cannot be created.
    #[error("no client for the worker at {endpoint}")]
    Client {
        /// The worker's endpoint.
        endpoint: String,
        /// The cause.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl ConnectError {
    /// Creates the error for an invalid endpoint.
    pub fn endpoint(endpoint: &str, reason: impl Into<String>) -> Self {
        Self::Endpoint { endpoint: shorten(endpoint, 256), reason: reason.into() }
    }

    /// Whether the same endpoint may work later.
    pub const fn is_retryable(&self) -> bool {
        matches!(self, Self::Client { .. })
    }
}

/// Creates clients for endpoints; called by the fleet once per worker.
///
/// ```
/// use std::{collections::HashMap, sync::Arc};
/// use prb_core::pruntime::{Connect, ConnectError, PRuntimeClient};
///
/// /// Looks up clients by name, for workers behind a custom transport.
/// #[derive(Debug)]
/// struct Known(HashMap<String, Arc<dyn PRuntimeClient>>);
///
/// impl Connect for Known {
///     fn connect(&self, endpoint: &str) -> Result<Arc<dyn PRuntimeClient>, ConnectError> {
///         let unknown = || ConnectError::Endpoint { endpoint: endpoint.into(), reason: "no such worker".into() };
///         self.0.get(endpoint).cloned().ok_or_else(unknown)
///     }
/// }
/// ```
pub trait Connect: Send + Sync + fmt::Debug {
    /// Creates a client for the worker at `endpoint`. Opens no connection yet.
    ///
    /// # Errors
    /// See [`ConnectError`].
    fn connect(&self, endpoint: &str) -> Result<Arc<dyn PRuntimeClient>, ConnectError>;
}

/// Typed calls over a [`PRuntimeClient`].
#[derive(Clone, Debug)]
pub struct PRuntime(Arc<dyn PRuntimeClient>);

impl PRuntime {
    /// Wraps a client.
    pub fn new(client: Arc<dyn PRuntimeClient>) -> Self {
        Self(client)
    }

    async fn typed<A: Message + Default>(&self, method: Method, request: Bytes) -> Result<A, Error> {
        let answer = self.0.call(method, request).await?;
        A::decode(answer).map_err(|e| Error::BadAnswer { method: method.name(), reason: e.to_string() })
    }

    /// `GetInfo`.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn info(&self) -> Result<prpc::PhactoryInfo, Error> {
        self.typed(Method::GetInfo, Bytes::new()).await
    }

    /// `InitRuntime`.
    ///
    /// # Errors
    /// See [`Error`]; `Runtime already initialized` if it was called before.
    pub async fn init(&self, request: &prpc::InitRuntimeRequest) -> Result<prpc::InitRuntimeResponse, Error> {
        self.typed(Method::InitRuntime, request.encode_to_vec().into()).await
    }

    /// `GetRuntimeInfo`: registration info, and an attestation once the state is validated.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn runtime_info(
        &self,
        request: &prpc::GetRuntimeInfoRequest,
    ) -> Result<prpc::InitRuntimeResponse, Error> {
        self.typed(Method::GetRuntimeInfo, request.encode_to_vec().into()).await
    }

    /// `SyncCombinedHeaders` with an encoded body ([`HeaderBatch::body`](crate::blob::HeaderBatch)).
    ///
    /// # Errors
    /// See [`Error`]. Not atomic: relay headers may be accepted although parachain headers are refused.
    pub async fn sync_headers(&self, body: Bytes) -> Result<prpc::HeadersSyncedTo, Error> {
        self.typed(Method::SyncCombinedHeaders, body).await
    }

    /// `DispatchBlocks` with an encoded body ([`BlockBatch::body`](crate::blob::BlockBatch)).
    ///
    /// # Errors
    /// See [`Error`]. Not atomic: blocks before a refused one stay dispatched.
    pub async fn dispatch_blocks(&self, body: Bytes) -> Result<prpc::SyncedTo, Error> {
        self.typed(Method::DispatchBlocks, body).await
    }

    /// `GetEgressMessages`, decoded.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn egress_messages(&self) -> Result<wire::EgressMessages, Error> {
        let method = Method::GetEgressMessages;
        let answer: prpc::EgressMessages = self.typed(method, Bytes::new()).await?;
        // Decoded to the end: remaining bytes mean another version of the layout.
        wire::EgressMessages::decode_all(&mut answer.encoded_messages.as_slice())
            .map_err(|e| Error::BadAnswer { method: method.name(), reason: e.to_string() })
    }

    /// `SignEndpointInfo`: makes the worker sign the endpoints that it announces. Fields are `None` if it
    /// signed nothing.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn sign_endpoints(&self, endpoints: &[String]) -> Result<prpc::GetEndpointResponse, Error> {
        let request = prpc::SignEndpointsRequest { encoded_endpoints: endpoints.encode() };
        self.typed(Method::SignEndpointInfo, request.encode_to_vec().into()).await
    }

    /// `LoadChainState`: starts from the parachain's state at a block, before anything was synced.
    ///
    /// # Errors
    /// See [`Error`]; refused if the worker has synced before or is registered in that state.
    pub async fn load_chain_state(&self, request: &prpc::ChainState) -> Result<(), Error> {
        self.typed(Method::LoadChainState, request.encode_to_vec().into()).await
    }

    /// `TakeCheckpoint`: writes the state to the worker's disk, so that a restart resumes from it.
    ///
    /// # Errors
    /// See [`Error`].
    pub async fn take_checkpoint(&self) -> Result<prpc::SyncedTo, Error> {
        self.typed(Method::TakeCheckpoint, Bytes::new()).await
    }

    /// Makes the process exit.
    ///
    /// # Errors
    /// See [`PRuntimeClient::kick`].
    pub async fn kick(&self) -> Result<(), Error> {
        self.0.kick().await
    }
}
