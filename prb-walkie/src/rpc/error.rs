//! Why a call has no answer.

use std::time::Duration;

use libp2p::PeerId;

use super::Method;
use crate::proto;

/// Kinds of [`ResponseError`].
pub use crate::proto::ErrorType as ErrorKind;

/// An answer that is an error: what a handler fails with, and what its caller gets.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message} ({kind:?})")]
pub struct ResponseError {
    /// Its kind.
    pub kind: ErrorKind,
    /// For people; it goes to the caller.
    pub message: String,
    /// Whether the same call is let in over a connection that the caller makes on this machine.
    pub(crate) is_let_in_from_same_machine: Option<bool>,
}

impl ResponseError {
    /// An error of a kind.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), is_let_in_from_same_machine: None }
    }

    /// It failed here, or the request makes no sense.
    pub fn server(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Server, message)
    }

    /// There is no such thing.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::NotFound, message)
    }

    /// It is there already.
    pub fn duplicated(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Duplicated, message)
    }

    /// The caller may not.
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
        /// Who.
        peer: PeerId,
        /// What was asked.
        method: Method,
        /// What it said.
        #[source]
        source: ResponseError,
    },
    /// No address of the peer is known, and it is not connected.
    #[error("there is no way to {peer}: it is not connected and has no known address")]
    UnknownPeer {
        /// Who.
        peer: PeerId,
    },
    /// No connection could be made, or it broke before the answer was there. The call may have been carried
    /// out.
    #[error("{peer} cannot be reached: {reason}")]
    Unreachable {
        /// Who.
        peer: PeerId,
        /// Why.
        reason: String,
    },
    /// No answer in time. The call may have been carried out.
    #[error("{peer} has not answered within {waited:?}")]
    TimedOut {
        /// Who.
        peer: PeerId,
        /// How long was waited.
        waited: Duration,
    },
    /// The peer does not speak the protocol.
    #[error("{peer} does not speak {protocol}")]
    Unsupported {
        /// Who.
        peer: PeerId,
        /// `/pb` or `/blob`.
        protocol: &'static str,
    },
    /// The request is larger than what may be sent, or the answer than what is taken.
    #[error("the {what} has more than {limit_bytes} bytes")]
    TooLarge {
        /// `request` or `answer`.
        what: &'static str,
        /// The limit.
        limit_bytes: usize,
    },
    /// The answer is none.
    #[error("the answer of {peer} makes no sense: {reason}")]
    Malformed {
        /// Who.
        peer: PeerId,
        /// What is wrong with it.
        reason: String,
    },
    /// The node has stopped.
    #[error("the node has stopped")]
    Stopped,
}

impl Error {
    /// The outcome as metrics name it.
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

    /// The kind of error that the peer answered, where it answered one.
    pub const fn kind(&self) -> Option<ErrorKind> {
        match self {
            Self::Refused { source, .. } => Some(source.kind),
            _ => None,
        }
    }
}
