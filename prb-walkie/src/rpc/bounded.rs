//! Bounded decoding of answers that contain lists.
//!
//! An empty item of a list has two bytes on the wire, and hundreds in memory: an answer within its size limit could
//! occupy gigabytes. The number of items is bounded here, far beyond what a fleet's answers have.

use bytes::{Buf, Bytes};
use prost::{
    DecodeError, Message,
    encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field},
};

/// Most fields of an answer itself and of the messages in it, together: 5,000 workers with all their details have some
/// 70,000. The largest of them, a worker, has a KiB in memory.
const MAX_ITEMS: usize = 512 * 1024;
/// Most pieces that an answer is read in. Each field has two or three, so those workers have two million.
const MAX_PIECES: usize = 8 * 1024 * 1024;

/// Decodes an answer.
///
/// # Errors
/// Says why it cannot be decoded, or that it has too many items.
pub(super) fn decode<M: Message + Default>(bytes: Bytes) -> Result<M, String> {
    let too_many = || "it has too many items".to_owned();
    let mut items = 0;
    count(bytes.clone(), 1, &mut items).map_err(|e| e.to_string())?;
    if items > MAX_ITEMS {
        return Err(too_many());
    }
    let mut pieces = Pieces { bytes, left: MAX_PIECES };
    let message = M::decode(&mut pieces);
    if pieces.left == 0 {
        return Err(too_many());
    }
    message.map_err(|e| e.to_string())
}

/// Counts fields down to a depth, until there are too many.
fn count(mut bytes: Bytes, depth: usize, items: &mut usize) -> Result<(), DecodeError> {
    while bytes.has_remaining() && *items <= MAX_ITEMS {
        *items += 1;
        let (tag, wire_type) = decode_key(&mut bytes)?;
        if depth > 0 && wire_type == WireType::LengthDelimited {
            let mut field = bytes.clone();
            skip_field(wire_type, tag, &mut bytes, DecodeContext::default())?;
            let len = decode_varint(&mut field)?;
            field.truncate(usize::try_from(len).unwrap_or(usize::MAX));
            // A text may be no message.
            let _ = count(field, depth - 1, items);
        } else {
            skip_field(wire_type, tag, &mut bytes, DecodeContext::default())?;
        }
    }
    Ok(())
}

/// A buffer that ends after a number of pieces.
struct Pieces {
    bytes: Bytes,
    left: usize,
}

impl Buf for Pieces {
    fn remaining(&self) -> usize {
        if self.left == 0 { 0 } else { self.bytes.remaining() }
    }

    fn chunk(&self) -> &[u8] {
        if self.left == 0 { &[] } else { self.bytes.chunk() }
    }

    fn advance(&mut self, count: usize) {
        self.left = self.left.saturating_sub(1);
        self.bytes.advance(count);
    }

    fn copy_to_bytes(&mut self, len: usize) -> Bytes {
        self.left = self.left.saturating_sub(1);
        self.bytes.copy_to_bytes(len)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::proto::detail::{Event, Fleet, StatusUpdate, Worker};

    /// A field with a tag below 16, and its content.
    fn field(tag: u8, content: &[u8]) -> Vec<u8> {
        let mut bytes = vec![tag << 3 | 2];
        prost::encoding::encode_varint(content.len() as u64, &mut bytes);
        [bytes.as_slice(), content].concat()
    }

    fn refusal(bytes: Vec<u8>) -> String {
        decode::<StatusUpdate>(bytes.into()).map(drop).unwrap_err()
    }

    #[test]
    fn lists_of_empty_items_are_refused() {
        let empty = field(1, &[]);
        assert!(decode::<StatusUpdate>(empty.repeat(100_000).into()).is_ok());
        assert!(refusal(empty.repeat(MAX_ITEMS + 1)).contains("too many items"));
        // Workers in the details, of which there may be several.
        let workers = [&[0xc2, 0x3e][..], &field(0, &field(7, &[]).repeat(200_000))[1..]].concat();
        assert_eq!(
            decode::<StatusUpdate>(workers.clone().into()).unwrap().detail.unwrap().workers.len(),
            200_000
        );
        assert!(refusal(workers.repeat(3)).contains("too many items"));
        // Events of a worker, far below.
        let events = field(7, &field(14, &[]).repeat(MAX_PIECES / 2));
        let events = [&[0xc2, 0x3e][..], &field(0, &events)[1..]].concat();
        assert!(refusal(events).contains("too many items"));
        assert!(!refusal(vec![0x0a, 9, 1]).contains("too many items"));
    }

    #[test]
    fn details_of_a_large_fleet_are_accepted() {
        let event = Event { text: "it has moved on".into(), ..Event::default() };
        let worker = Worker { uuid: "a worker's id".into(), events: vec![event; 64], ..Worker::default() };
        let detail = Some(Fleet { workers: vec![worker; 5000], ..Fleet::default() });
        let update = StatusUpdate { worker_states: vec![Default::default(); 5000], detail };
        assert_eq!(decode::<StatusUpdate>(update.encode_to_vec().into()).unwrap(), update);
    }
}
