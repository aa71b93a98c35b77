//! Segments: several blocks' storage changes in one value.
//!
//! LMDB gives each value above about 2 KB its own run of 4 KiB pages: with one value for each block, half a
//! page per block would be wasted. A segment is a count, the end of each item (all 32-bit little-endian), and
//! the items.

/// Size from which a segment takes no more blocks.
pub const TARGET_BYTES: usize = 128 * 1024;

/// An encoded segment.
#[derive(Clone, Copy, Debug)]
pub struct Segment<'a> {
    ends: &'a [u8],
    data: &'a [u8],
}

impl<'a> Segment<'a> {
    /// Decodes a segment; `None` if it is malformed.
    pub fn read(encoded: &'a [u8]) -> Option<Self> {
        let (count, rest) = encoded.split_at_checked(4)?;
        let count = u32::from_le_bytes(count.try_into().ok()?);
        let (ends, data) = rest.split_at_checked(usize::try_from(count).ok()?.checked_mul(4)?)?;
        let segment = Self { ends, data };
        (count > 0 && segment.end(count - 1)? == data.len()).then_some(segment)
    }

    /// Number of items.
    pub const fn count(&self) -> u32 {
        (self.ends.len() / 4) as u32
    }

    /// Returns the item at an index.
    pub fn get(&self, index: u32) -> Option<&'a [u8]> {
        let start = match index.checked_sub(1) {
            None => 0,
            Some(before) => self.end(before)?,
        };
        self.data.get(start..self.end(index)?)
    }

    fn end(&self, index: u32) -> Option<usize> {
        let at = index as usize * 4;
        let bytes = self.ends.get(at..at + 4)?;
        Some(u32::from_le_bytes(bytes.try_into().ok()?) as usize)
    }
}

/// Encodes a segment.
pub fn write(items: &[&[u8]]) -> Vec<u8> {
    let data: usize = items.iter().map(|item| item.len()).sum();
    let mut out = Vec::with_capacity(4 + 4 * items.len() + data);
    // Cannot truncate: items are bounded by RPC answers, far below 4 GiB together.
    out.extend((items.len() as u32).to_le_bytes());
    let mut end = 0u32;
    for item in items {
        end += item.len() as u32;
        out.extend(end.to_le_bytes());
    }
    items.iter().for_each(|item| out.extend_from_slice(item));
    out
}

/// The digest stored beside a segment to detect disk faults: its CRC-32C, little-endian.
pub fn digest(encoded: &[u8]) -> [u8; 4] {
    crc32c::crc32c(encoded).to_le_bytes()
}

/// Splits items into segments of about [`TARGET_BYTES`]: returns the index after the last item of each.
pub fn cut(items: &[&[u8]]) -> Vec<usize> {
    let (mut cuts, mut bytes) = (Vec::new(), 0);
    for (i, item) in items.iter().enumerate() {
        // A block larger than the target gets a segment of its own.
        if bytes > 0 && bytes + item.len() > TARGET_BYTES {
            cuts.push(i);
            bytes = 0;
        }
        bytes += item.len() + 4;
    }
    if !items.is_empty() {
        cuts.push(items.len());
    }
    cuts
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn items_round_trip() {
        let items: [&[u8]; 4] = [b"one", b"", b"three", b"4"];
        let encoded = write(&items);
        let segment = Segment::read(&encoded).unwrap();
        assert_eq!(segment.count(), 4);
        for (i, item) in items.iter().enumerate() {
            assert_eq!(segment.get(i as u32), Some(*item));
        }
        assert_eq!(segment.get(4), None);
    }

    #[test]
    fn damaged_segments_are_refused() {
        let encoded = write(&[b"one", b"two"]);
        assert!(Segment::read(&encoded[..encoded.len() - 1]).is_none());
        assert!(Segment::read(&[]).is_none());
        assert!(Segment::read(&u32::MAX.to_le_bytes()).is_none());
        assert!(Segment::read(&0u32.to_le_bytes()).is_none());
    }

    #[test]
    fn segments_are_split_near_their_target_size() {
        let (small, large) = (vec![0; TARGET_BYTES / 4], vec![0; 3 * TARGET_BYTES]);
        let items: Vec<&[u8]> = vec![&small, &small, &small, &small, &large, &small];
        assert_eq!(cut(&items), [3, 4, 5, 6]);
        assert!(cut(&[]).is_empty());
    }
}
