//! Pages for operators, rendered on the server, with a small script that updates them.
//!
//! ```text
//!  browser ──► site: bounds, name, headers, token ──► router of a page ──► layout: shell and parts
//!      │                                                                       ▲
//!      └─── every 2 s, while it is visible: /live… ───► the parts that change ─┘
//! ```
//!
//! - [`site`](Site) is the port, with the rules for every page: at most [`MAX_REQUESTS`] concurrent requests,
//!   each with a small body and within [`REQUEST_TIMEOUT`]; only for host names of this machine, so that
//!   another site's page whose name resolves to this address is refused (DNS rebinding); and all methods
//!   other than `GET` and `HEAD` need the operator's token as a bearer token. Browsers do not send it by
//!   themselves, so no other site can act on an operator's behalf.
//! - All resources of a page are embedded in the binary; its content security policy forbids anything else,
//!   including inline scripts and styles.
//! - Without the script, pages are complete but do not update and cannot change anything.
//!
//! Not for: programs (see the management API, and the ops port for metrics).

pub(crate) mod assets;
pub(crate) mod guard;
pub(crate) mod layout;
pub mod queue;
mod site;

pub(crate) use guard::{Guard, Rules, TokenLocation, time_left};
pub use guard::{MAX_REQUESTS, REQUEST_TIMEOUT};
pub use site::Site;
