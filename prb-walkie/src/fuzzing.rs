//! Entry points for the fuzz targets (`fuzz`); built only with the feature `fuzzing`.

use bytes::Bytes;

use crate::rpc::{Caller, Handlers, envelope, handlers::Bounds};

/// Returns the answer to an arbitrary request.
pub async fn answer(handlers: &Handlers, raw: Bytes, granted: bool) -> Bytes {
    let bounds = Bounds { timeout: std::time::Duration::from_secs(5), answer_bytes: 1 << 20 };
    handlers.answer(Caller::new(libp2p::PeerId::random(), None, granted), raw, bounds).await.bytes
}

/// Decodes an answer as a caller does.
pub fn read_answer(raw: Bytes) {
    let _ = envelope::open(raw, "nonce");
}

/// Decodes a packet of the older mDNS.
pub fn read_mdns(bytes: &[u8]) {
    crate::node::read_mdns(bytes);
}
