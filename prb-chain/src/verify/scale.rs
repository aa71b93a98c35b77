//! Reads SCALE lists in place: untrusted data uses no more memory than its length.

use codec::{Compact, Decode};

/// Least average length of a key and its value, in bytes: a state with shorter ones is invalid.
const MIN_PAIR: usize = 8;

fn length(input: &mut &[u8]) -> Option<usize> {
    let length = Compact::<u32>::decode(input).ok()?.0;
    usize::try_from(length).ok()
}

fn bytes<'a>(input: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = length(input)?;
    let (bytes, rest) = input.split_at_checked(length)?;
    *input = rest;
    Some(bytes)
}

/// Decodes the keys and values of a SCALE `Vec<(Vec<u8>, Vec<u8>)>` without trailing bytes.
pub fn pairs(mut encoded: &[u8]) -> Option<Vec<(&[u8], &[u8])>> {
    let input = &mut encoded;
    let count = length(input)?;
    if count > input.len() / MIN_PAIR {
        return None;
    }
    let mut pairs = Vec::with_capacity(count);
    for _ in 0..count {
        pairs.push((bytes(input)?, bytes(input)?));
    }
    input.is_empty().then_some(pairs)
}

/// Decodes the items of a SCALE `Vec<Vec<u8>>` without trailing bytes.
pub fn list(mut encoded: &[u8]) -> Option<Vec<&[u8]>> {
    let input = &mut encoded;
    let count = length(input)?;
    if count > input.len() {
        return None;
    }
    let items: Option<Vec<_>> = (0..count).map(|_| bytes(input)).collect();
    items.filter(|_| input.is_empty())
}

/// Calls `take` with each key and its new value, `None` if it was removed.
fn key_changes<'a>(input: &mut &'a [u8], take: &mut dyn FnMut(&'a [u8], Option<&'a [u8]>)) -> Option<()> {
    for _ in 0..length(input)? {
        let key = bytes(input)?;
        let (is_set, rest) = input.split_first()?;
        *input = rest;
        match is_set {
            0 => take(key, None),
            1 => take(key, Some(bytes(input)?)),
            _ => return None,
        }
    }
    Some(())
}

/// Consumes SCALE [`StorageChanges`](prb_core::wire::StorageChanges); calls `take` with the changes of the
/// main trie. Returns whether child tries change, too.
pub fn storage_changes<'a>(
    input: &mut &'a [u8],
    take: &mut dyn FnMut(&'a [u8], Option<&'a [u8]>),
) -> Option<(&'a [u8], bool)> {
    let start = *input;
    key_changes(input, take)?;
    let children = length(input)?;
    for _ in 0..children {
        bytes(input)?;
        key_changes(input, &mut |_, _| {})?;
    }
    Some((&start[..start.len() - input.len()], children > 0))
}

/// Whether the bytes are SCALE storage changes without trailing bytes.
pub fn is_storage_changes(mut encoded: &[u8]) -> bool {
    storage_changes(&mut encoded, &mut |_, _| {}).is_some() && encoded.is_empty()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use codec::Encode;
    use prb_core::wire::StorageChanges;

    use super::*;

    #[test]
    fn changes_round_trip() {
        let changes = StorageChanges {
            main: vec![(vec![1; 40], Some(vec![2; 70])), (vec![3], None)],
            child: vec![(vec![4], vec![(vec![5], Some(vec![]))])],
        };
        let encoded = changes.encode();
        assert!(is_storage_changes(&encoded));
        let mut seen = Vec::new();
        let with_rest = [&encoded[..], &[9, 9]].concat();
        let mut input = &with_rest[..];
        let (slice, has_children) = storage_changes(&mut input, &mut |k, v| {
            seen.push((k.to_vec(), v.map(<[u8]>::to_vec)));
        })
        .unwrap();
        assert_eq!((slice, has_children, input), (&encoded[..], true, &[9u8, 9][..]));
        assert_eq!(seen, changes.main);
        for cut in 0..encoded.len() {
            assert!(!is_storage_changes(&encoded[..cut]), "{cut}");
        }
        assert!(!is_storage_changes(&with_rest));
        // A list of four billion items in five bytes.
        assert!(!is_storage_changes(&[0x03, 0xff, 0xff, 0xff, 0xff]));
    }

    #[test]
    fn pairs_round_trip() {
        let state = vec![(vec![1u8; 20], vec![2u8; 30]), (vec![3; 8], vec![])];
        let encoded = state.encode();
        let read = pairs(&encoded).unwrap();
        assert!(read.iter().zip(&state).all(|((k, v), (key, value))| k == key && v == value));
        assert!((0..encoded.len()).all(|cut| pairs(&encoded[..cut]).is_none()));
        assert!(pairs(&vec![(Vec::<u8>::new(), Vec::<u8>::new()); 1000].encode()).is_none());
    }
}
