//! Calls between peers: methods, handlers, and a typed client.
//!
//! # On the wire
//! Each call is a stream of its own, with protocol `/pb`. The caller writes one
//! [`Request`](crate::proto::Request) without a length prefix and closes its half; the other side answers
//! with one [`Response`](crate::proto::Response) and closes. A message ends where the half closes; its
//! fragmentation has no meaning. Its `data` is the method's own message, `method` the method's bare name.
//!
//! Calls that cannot be carried out get an error, as in the original:
//!
//! | request | error |
//! |---|---|
//! | a method of the service without a handler here | `NOT_FOUND`, `Handler not implemented.` |
//! | an unknown method, or an empty request | `SERVER` |
//! | invalid protobuf | `SERVER`, without a request nonce |
//! | a management method, from a peer that is not authorised | `UNAUTHORIZED` |
//!
//! # Overview
//!
//! [`calls`] has a type for each method, [`Handlers`] are a node's methods, and [`Client`] calls those of a
//! peer; [`auth`] controls access to the management methods.
//!
//! Not for: sockets and streams (see [`crate::node`]).

use std::net::IpAddr;

use libp2p::PeerId;

pub mod auth;
mod bounded;
pub mod calls;
mod client;
pub(crate) mod envelope;
mod error;
pub(crate) mod fields;
pub(crate) mod handlers;
pub(crate) mod key_proof;

pub use calls::{Call, Method};
pub use client::Client;
pub use error::{Error, ErrorKind, ResponseError};
pub use handlers::Handlers;

use crate::proto::AuthStatus;

/// Longest text of a request that an error answer quotes, in bytes.
pub(crate) const MAX_QUOTED_BYTES: usize = 64;

/// The caller of a method; noise has proved its peer id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Caller {
    /// Its peer id.
    pub peer: PeerId,
    /// The IP that its connection comes from.
    pub ip: Option<IpAddr>,
    /// Whether it may call management methods.
    pub granted: bool,
    /// Its authorisation, as it is told.
    pub(crate) auth_status: AuthStatus,
    /// It would be granted on the same machine.
    pub(crate) is_granted_here: bool,
}

impl Caller {
    /// Creates a caller, for calling handlers without a node, as in tests.
    pub const fn new(peer: PeerId, ip: Option<IpAddr>, granted: bool) -> Self {
        let auth_status = if granted { AuthStatus::Granted } else { AuthStatus::NeedAuth };
        Self { peer, ip, granted, auth_status, is_granted_here: granted }
    }

    pub(crate) const fn with_status(
        peer: PeerId,
        ip: Option<IpAddr>,
        auth_status: AuthStatus,
        is_granted_here: bool,
    ) -> Self {
        let granted = matches!(auth_status, AuthStatus::Granted | AuthStatus::None);
        Self { peer, ip, granted, auth_status, is_granted_here }
    }
}
