//! Doors for the fuzz targets (`prb-walkie/fuzz`): built with the feature `fuzzing` only, which is theirs alone.

use bytes::Bytes;

use crate::rpc::{Caller, Handlers, envelope, handlers::Bounds};

/// The answer to a request, whatever it is.
pub async fn answer(handlers: &Handlers, raw: Bytes, granted: bool) -> Bytes {
    let bounds = Bounds { timeout: std::time::Duration::from_secs(5), answer_bytes: 1 << 20 };
    handlers.answer(Caller::new(libp2p::PeerId::random(), None, granted), raw, bounds).await.bytes
}

/// An answer, as a caller reads it.
pub fn read_answer(raw: Bytes) {
    let _ = envelope::open(raw, "nonce");
}

/// A packet of the older mDNS.
pub fn read_mdns(bytes: &[u8]) {
    crate::node::read_mdns(bytes);
}
