//! Errors of calls.

use std::time::Duration;

use libp2p::PeerId;
use prb_core::text::duration;

use super::Method;
use crate::proto;

/// Kinds of [`ResponseError`].
pub use crate::proto::ErrorType as ErrorKind;

/// An error answer: returned by a handler, and passed to its caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message} ({})", name(*kind))]
pub struct ResponseError {
    /// Its kind.
    pub kind: ErrorKind,
    /// A message for the caller.
    pub message: String,
    /// Whether the same call is let in over a connection that the caller makes on this machine.
    pub(crate) is_let_in_from_same_machine: Option<bool>,
}

/// The kind as messages have it.
const fn name(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::Unknown => "unknown error",
        ErrorKind::Server => "server error",
        ErrorKind::NotFound => "not found",
        ErrorKind::Duplicated => "duplicate",
        ErrorKind::Unauthorized => "unauthorized",
    }
}

impl ResponseError {
    /// Creates an error of a kind.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), is_let_in_from_same_machine: None }
    }

    /// A failure of the handler, or an invalid request.
    pub fn server(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Server, message)
    }

    /// Something does not exist.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotFound, message)
    }

    /// Something exists already.
    pub fn duplicated(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Duplicated, message)
    }

    /// The caller is not authorised.
    pub fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Unauthorized, message)
    }
}

impl From<proto::ResponseError> for ResponseError {
    fn from(error: proto::ResponseError) -> Self {
        let is_let_in_from_same_machine = error.is_let_in_from_same_machine;
        Self { kind: error.r#type(), message: error.message, is_let_in_from_same_machine }
    }
}

impl From<ResponseError> for proto::ResponseError {
    fn from(error: ResponseError) -> Self {
        let is_let_in_from_same_machine = error.is_let_in_from_same_machine;
        Self { r#type: error.kind.into(), message: error.message, is_let_in_from_same_machine }
    }
}

/// Why a call failed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The peer answered with an error.
    #[error("{peer} refused {}", method.name())]
    Refused {
        /// The called peer.
        peer: PeerId,
        /// The method.
        method: Method,
        /// The peer's error.
        #[source]
        source: ResponseError,
    },
    /// No address of the peer is known, and it is not connected.
    #[error("{peer} cannot be reached: it is not connected and has no known address")]
    UnknownPeer {
        /// The called peer.
        peer: PeerId,
    },
    /// No connection could be made, or it broke before the answer arrived. The call may have been carried out.
    #[error("{peer} cannot be reached: {reason}")]
    Unreachable {
        /// The called peer.
        peer: PeerId,
        /// The reason.
        reason: String,
    },
    /// No answer in time. The call may have been carried out.
    #[error("{peer} has not answered within {}", duration(*waited))]
    TimedOut {
        /// The called peer.
        peer: PeerId,
        /// How long the call waited.
        waited: Duration,
    },
    /// The peer does not support the protocol.
    #[error("{peer} does not support the protocol {protocol}")]
    Unsupported {
        /// The called peer.
        peer: PeerId,
        /// `/pb` or `/blob`.
        protocol: &'static str,
    },
    /// The request or the answer exceeds its limit.
    #[error("the {what} has more than {limit_bytes} bytes")]
    TooLarge {
        /// `request` or `answer`.
        what: &'static str,
        /// The limit, in bytes.
        limit_bytes: usize,
    },
    /// The answer is malformed.
    #[error("{peer} sent a malformed answer: {reason}")]
    Malformed {
        /// The called peer.
        peer: PeerId,
        /// What is wrong with it.
        reason: String,
    },
    /// The node has stopped.
    #[error("the node has stopped")]
    Stopped,
}

impl Error {
    /// The outcome label for metrics.
    pub(crate) const fn outcome(&self) -> &'static str {
        match self {
            Self::Refused { .. } => "refused",
            Self::TimedOut { .. } => "timed_out",
            Self::UnknownPeer { .. } | Self::Unreachable { .. } | Self::Unsupported { .. } => "unreachable",
            Self::TooLarge { .. } => "too_large",
            Self::Malformed { .. } => "malformed",
            Self::Stopped => "stopped",
        }
    }

    /// Whether the same call may succeed later, or with another peer.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::TimedOut { .. } | Self::UnknownPeer { .. } => true,
            Self::Refused { source, .. } => matches!(source.kind, ErrorKind::Server | ErrorKind::Unknown),
            _ => false,
        }
    }

    /// The kind of the peer's error, if it answered with one.
    pub const fn kind(&self) -> Option<ErrorKind> {
        match self {
            Self::Refused { source, .. } => Some(source.kind),
            _ => None,
        }
    }
}
