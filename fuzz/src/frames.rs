//! Decodes frames of the blob protocol as server and client do.

use prb_walkie::blob::frame::{self, Decoded};

const LIMIT: usize = 64 * 1024;

/// Runs the target; panics on a violation.
pub fn run(bytes: &[u8]) {
    let mut rest = bytes;
    while let Ok(Decoded::Frame { body }) = frame::decode(rest, LIMIT) {
        assert!(body.start > 0 && body.len() <= LIMIT);
        let Some(frame) = rest.get(body.clone()) else { break };
        // A key of spaces, or one that is not UTF-8, decodes as the empty key, which is never requested.
        if let Some((id, key)) = frame::request(frame).filter(|(_, key)| !key.is_empty()) {
            let mut again = Vec::new();
            frame::put_request(id, key, &mut again);
            let Ok(Decoded::Frame { body }) = frame::decode(&again, LIMIT) else { panic!("{again:?}") };
            assert_eq!(frame::request(&again[body]), Some((id, key)));
        }
        if let Some((_id, rest)) = frame.split_first_chunk::<8>() {
            let _ = frame::answer_crc(rest, frame.len());
        }
        rest = &rest[body.end..];
    }
}
