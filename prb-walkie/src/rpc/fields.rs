//! Reads single fields of messages that have few, and refuses those that have many: decoding the millions that fit into a
//! message's size limit takes a core for a second.

use bytes::Bytes;
use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

/// Most fields. Envelopes have six, and messages that strangers may send have eight.
pub(crate) const MAX_FIELDS: usize = 64;

/// Calls `found` with the tag and content of each field, as far as the message can be decoded; `None` if it has too many.
pub(super) fn each(mut bytes: Bytes, mut found: impl FnMut(u32, Bytes)) -> Option<()> {
    for _ in 0..MAX_FIELDS {
        match next(&mut bytes) {
            Some((WireType::StartGroup, ..)) => return None,
            Some((_, tag, value)) => found(tag, value),
            None => return Some(()),
        }
    }
    bytes.is_empty().then_some(())
}

/// Returns the last contents of fields, empty for those that are missing; `None` if the message has too many fields.
pub(crate) fn last<const N: usize>(bytes: Bytes, tags: [u32; N]) -> Option<[Bytes; N]> {
    let mut all = [const { Bytes::new() }; N];
    each(bytes, |tag, value| {
        if let Some(at) = tags.iter().position(|wanted| *wanted == tag) {
            all[at] = value;
        }
    })?;
    Some(all)
}

/// Reads a field, which may be the start of a group; `None` at the end, or if it cannot be decoded.
fn next(bytes: &mut Bytes) -> Option<(WireType, u32, Bytes)> {
    let (tag, wire_type) = decode_key(bytes).ok()?;
    let value = match wire_type {
        // Its fields would be read at once, however many they are.
        WireType::StartGroup => Bytes::new(),
        WireType::LengthDelimited => {
            let length = usize::try_from(decode_varint(bytes).ok()?).ok()?;
            (length <= bytes.len()).then(|| bytes.split_to(length))?
        }
        _ => skip_field(wire_type, tag, bytes, DecodeContext::default()).map(|()| Bytes::new()).ok()?,
    };
    Some((wire_type, tag, value))
}
