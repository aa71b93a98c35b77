//! Converts storage changes from JSON to SCALE in one pass, without keeping the millions of keys and values
//! individually.

use std::fmt;

use codec::{Compact, Encode};
use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeSeed, IgnoredAny, MapAccess, SeqAccess},
};

/// One block's changes as returned by `pha_getStorageChanges`, in the SCALE encoding that workers accept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ScaleChanges(pub Vec<u8>);

/// SCALE of a list's items, without its length.
#[derive(Default)]
struct Items {
    count: usize,
    bytes: Vec<u8>,
}

impl Items {
    fn append_to(&self, out: &mut Vec<u8>) {
        length(self.count).encode_to(out);
        out.extend_from_slice(&self.bytes);
    }
}

// Cannot truncate: answers are limited to far less than `u32::MAX` bytes.
fn length(len: usize) -> Compact<u32> {
    Compact(u32::try_from(len).unwrap_or(u32::MAX))
}

/// Appends hexadecimal bytes with their length.
struct Bytes<'a>(&'a mut Vec<u8>);

impl<'de> DeserializeSeed<'de> for Bytes<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<(), D::Error> {
        d.deserialize_str(self)
    }
}

impl<'de> de::Visitor<'de> for Bytes<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("hexadecimal bytes")
    }

    fn visit_str<E: de::Error>(self, s: &str) -> Result<(), E> {
        let digits = s.strip_prefix("0x").unwrap_or(s);
        length(digits.len() / 2).encode_to(self.0);
        let start = self.0.len();
        self.0.resize(start + digits.len() / 2, 0);
        const_hex::decode_to_slice(digits, &mut self.0[start..]).map_err(E::custom)
    }
}

/// Appends optional hexadecimal bytes.
struct Value<'a>(&'a mut Vec<u8>);

impl<'de> DeserializeSeed<'de> for Value<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<(), D::Error> {
        d.deserialize_option(self)
    }
}

impl<'de> de::Visitor<'de> for Value<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("hexadecimal bytes or null")
    }

    fn visit_none<E>(self) -> Result<(), E> {
        self.0.push(0);
        Ok(())
    }

    fn visit_some<D: Deserializer<'de>>(self, d: D) -> Result<(), D::Error> {
        self.0.push(1);
        Bytes(self.0).deserialize(d)
    }
}

/// Appends the items of a list, each a pair of a key and what follows it.
struct List<'a, F>(&'a mut Items, F);

/// Appends one pair.
struct Pair<'a, F>(&'a mut Vec<u8>, &'a F);

/// How the part after a key is decoded.
trait Follows {
    fn read<'de, A: SeqAccess<'de>>(&self, seq: &mut A, out: &mut Vec<u8>) -> Result<Option<()>, A::Error>;
}

/// Values of a trie.
struct Values;

impl Follows for Values {
    fn read<'de, A: SeqAccess<'de>>(&self, seq: &mut A, out: &mut Vec<u8>) -> Result<Option<()>, A::Error> {
        seq.next_element_seed(Value(out))
    }
}

/// Values of child tries.
struct Tries;

impl Follows for Tries {
    fn read<'de, A: SeqAccess<'de>>(&self, seq: &mut A, out: &mut Vec<u8>) -> Result<Option<()>, A::Error> {
        let mut items = Items::default();
        let read = seq.next_element_seed(List(&mut items, Values))?;
        items.append_to(out);
        Ok(read)
    }
}

impl<'de, F: Follows> DeserializeSeed<'de> for List<'_, F> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<(), D::Error> {
        d.deserialize_seq(self)
    }
}

impl<'de, F: Follows> de::Visitor<'de> for List<'_, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of changes")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        while seq.next_element_seed(Pair(&mut self.0.bytes, &self.1))?.is_some() {
            self.0.count += 1;
        }
        Ok(())
    }
}

impl<'de, F: Follows> DeserializeSeed<'de> for Pair<'_, F> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<(), D::Error> {
        d.deserialize_tuple(2, self)
    }
}

impl<'de, F: Follows> de::Visitor<'de> for Pair<'_, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key and what it has")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let key = seq.next_element_seed(Bytes(self.0))?;
        let value = self.1.read(&mut seq, self.0)?;
        key.and(value).ok_or_else(|| de::Error::invalid_length(1, &"a pair"))
    }
}

impl<'de> Deserialize<'de> for ScaleChanges {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = ScaleChanges;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a block's storage changes")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<ScaleChanges, A::Error> {
                let (mut main, mut child) = (None, None);
                while let Some(key) = map.next_key::<String>()? {
                    let mut items = Items::default();
                    match key.as_str() {
                        "mainStorageChanges" => {
                            map.next_value_seed(List(&mut items, Values))?;
                            main = Some(items);
                        }
                        "childStorageChanges" => {
                            map.next_value_seed(List(&mut items, Tries))?;
                            child = Some(items);
                        }
                        _ => drop(map.next_value::<IgnoredAny>()?),
                    }
                }
                // Both are collected first: SCALE wants the main trie before the child tries, and JSON objects
                // have no order.
                let main = main.ok_or_else(|| de::Error::missing_field("mainStorageChanges"))?;
                let child = child.ok_or_else(|| de::Error::missing_field("childStorageChanges"))?;
                let mut out = Vec::with_capacity(main.bytes.len() + child.bytes.len() + 10);
                main.append_to(&mut out);
                child.append_to(&mut out);
                Ok(ScaleChanges(out))
            }
        }
        d.deserialize_map(Visitor)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use codec::Decode;
    use prb_core::wire;

    use super::*;

    #[test]
    fn json_changes_convert_to_scale() {
        let long = format!("0x{}", "ab".repeat(70));
        let json = format!(
            r#"{{"childStorageChanges":[["0x06",[["0x07",null],["0x08","{long}"]]],["0x",[]]],"more":[1],
                "mainStorageChanges":[["0x01","0x0203"],["04",null],["0x05","0x"]]}}"#
        );
        let read: ScaleChanges = serde_json::from_str(&json).unwrap();
        let expected = wire::StorageChanges {
            main: vec![(vec![1], Some(vec![2, 3])), (vec![4], None), (vec![5], Some(vec![]))],
            child: vec![(vec![6], vec![(vec![7], None), (vec![8], Some(vec![0xab; 70]))]), (vec![], vec![])],
        };
        assert_eq!(wire::StorageChanges::decode(&mut &*read.0).unwrap(), expected);
        assert_eq!(read.0, expected.encode());
    }

    #[test]
    fn other_structures_are_refused() {
        let of = |main: &str| format!(r#"{{"mainStorageChanges":{main},"childStorageChanges":[]}}"#);
        assert!(serde_json::from_str::<ScaleChanges>(&of("[]")).is_ok());
        for main in [
            r#"[["0x01"]]"#,
            r#"[["0x0","0x"]]"#,
            r#"[["0xzz",null]]"#,
            r#"[["0x01","0x",1]]"#,
            "[[]]",
            "null",
        ] {
            assert!(serde_json::from_str::<ScaleChanges>(&of(main)).is_err(), "{main}");
        }
        assert!(serde_json::from_str::<ScaleChanges>(r#"{"mainStorageChanges":[]}"#).is_err());
        assert!(serde_json::from_str::<ScaleChanges>("{}").is_err());
    }
}
