//! Calls between peers: the methods, who answers them, and a typed client.
//!
//! # On the wire
//!
//! A call is a stream of its own, protocol `/pb`. The caller writes one [`Request`](crate::proto::Request)
//! without a length before it and closes its half; the other side answers one
//! [`Response`](crate::proto::Response) and closes. A message ends where the half closes; how it is cut on the
//! way means nothing. `data` within is the method's own message, `method` its bare name.
//!
//! What cannot be answered is answered with an error, as the original does:
//!
//! | request | error |
//! |---|---|
//! | a method of the service that has no handler here | `NOT_FOUND`, `Handler not implemented.` |
//! | another method, or an empty request | `SERVER` |
//! | no protobuf at all | `SERVER`, without a request nonce |
//! | a management method, from a peer that has not shown that it may | `UNAUTHORIZED` |
//!
//! # Here
//!
//! [`calls`] has a type for each method, [`Handlers`] is what a node answers with, and [`Client`] what it asks
//! with; [`auth`] is the proof that opens the management methods.
//!
//! Not for: sockets and streams (see [`crate::node`]).

use std::net::IpAddr;

use libp2p::PeerId;

pub mod auth;
pub mod calls;
mod client;
pub(crate) mod envelope;
mod error;
pub(crate) mod exchange;
pub(crate) mod handlers;

pub use calls::{Call, Method};
pub use client::Client;
pub use error::{Error, ErrorKind, ResponseError};
pub use handlers::Handlers;

use crate::proto::AuthStatus;

/// Who calls: noise has proved its peer id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Caller {
    /// Its peer id.
    pub peer: PeerId,
    /// Where its connection comes from.
    pub ip: Option<IpAddr>,
    /// It may call management methods.
    pub granted: bool,
    /// The same as it is told.
    pub(crate) standing: AuthStatus,
    /// It would be granted on the same machine.
    pub(crate) is_granted_here: bool,
}

impl Caller {
    /// A caller, for handlers that are called without a node, as in tests.
    pub const fn new(peer: PeerId, ip: Option<IpAddr>, granted: bool) -> Self {
        let standing = if granted { AuthStatus::Granted } else { AuthStatus::NeedAuth };
        Self { peer, ip, granted, standing, is_granted_here: granted }
    }

    pub(crate) const fn standing(
        peer: PeerId,
        ip: Option<IpAddr>,
        standing: AuthStatus,
        is_granted_here: bool,
    ) -> Self {
        let granted = matches!(standing, AuthStatus::Granted | AuthStatus::None);
        Self { peer, ip, granted, standing, is_granted_here }
    }
}
