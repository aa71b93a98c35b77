//! Pages for people: server-rendered, with a small script that keeps them fresh.
//!
//! ```text
//!  browser ──► site: bounds, name, headers, token ──► router of a page ──► layout: shell and parts
//!      │                                                                       ▲
//!      └─── every 2 s, while somebody looks: /live… ──► the parts that change ─┘
//! ```
//!
//! - [`site`](Site) is the port. What holds for every page stands there: at most [`MAX_REQUESTS`] requests at once,
//!   none with a body to speak of, each within [`REQUEST_TIMEOUT`]; only for names that this machine is known by
//!   (a page of somebody else's that has its own name point here is refused); and whatever is not `GET` or `HEAD`
//!   needs the operator's token as a bearer. Browsers do not send that by themselves, so no other page can act in
//!   somebody's name.
//! - Everything that a page needs comes from the binary; its policy for content lets nothing else in, no inline
//!   script or style either.
//! - Pages without the script are whole, but stand still and change nothing.
//!
//! Not for: programs (see the ops port for metrics).

pub(crate) mod assets;
pub(crate) mod guard;
pub(crate) mod layout;
pub mod queue;
mod site;

pub(crate) use guard::{Guard, Rules, TokenPlace, time_left};
pub use guard::{MAX_REQUESTS, REQUEST_TIMEOUT};
pub use site::Site;
