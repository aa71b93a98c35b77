//! JSON formats of Substrate's RPC.

use std::{fmt, io};

use codec::{Compact, Encode};
use prb_core::primitives::Hash;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

mod changes;

pub use changes::ScaleChanges;

/// Bytes as `0x` and hexadecimal digits; a missing `0x` is accepted.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct HexBytes(pub Vec<u8>);

impl fmt::Debug for HexBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HexBytes({} bytes)", self.0.len())
    }
}

impl<'de> Deserialize<'de> for HexBytes {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = HexBytes;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("hexadecimal bytes")
            }

            fn visit_str<E: de::Error>(self, s: &str) -> Result<HexBytes, E> {
                const_hex::decode(s).map(HexBytes).map_err(E::custom)
            }
        }
        d.deserialize_str(Visitor)
    }
}

impl Serialize for HexBytes {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&format!("0x{}", hex::encode(&self.0)))
    }
}

/// A header as returned by `chain_getHeader`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Header {
    parent_hash: Hash,
    number: HexNumber,
    state_root: Hash,
    extrinsics_root: Hash,
    digest: Digest,
}

#[derive(Clone, Debug, Deserialize)]
struct Digest {
    logs: Vec<HexBytes>,
}

impl Header {
    /// The block's number.
    pub fn number(&self) -> u32 {
        self.number.0
    }

    /// Returns the SCALE encoding, of which the block's hash is computed.
    pub fn encode(&self) -> Vec<u8> {
        let logs = &self.digest.logs;
        let mut out = Vec::with_capacity(112 + logs.iter().map(|log| log.0.len()).sum::<usize>());
        out.extend(self.parent_hash.0);
        Compact(self.number.0).encode_to(&mut out);
        out.extend(self.state_root.0);
        out.extend(self.extrinsics_root.0);
        // Each log is already the SCALE encoding of its digest item. A header has only a handful.
        Compact(u32::try_from(logs.len()).unwrap_or(u32::MAX)).encode_to(&mut out);
        logs.iter().for_each(|log| out.extend(&log.0));
        out
    }
}

/// A block number as a hexadecimal string (or a plain number, which some nodes return).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HexNumber(pub u32);

impl<'de> Deserialize<'de> for HexNumber {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = HexNumber;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a block number")
            }

            fn visit_u64<E: de::Error>(self, n: u64) -> Result<HexNumber, E> {
                u32::try_from(n).map(HexNumber).map_err(E::custom)
            }

            fn visit_str<E: de::Error>(self, s: &str) -> Result<HexNumber, E> {
                let digits = s.strip_prefix("0x").ok_or_else(|| E::custom("no 0x before a number"))?;
                u32::from_str_radix(digits, 16).map(HexNumber).map_err(E::custom)
            }
        }
        d.deserialize_any(Visitor)
    }
}

/// A block as returned by `chain_getBlock`, without its extrinsics.
#[derive(Clone, Debug, Deserialize)]
pub struct SignedBlock {
    /// The block.
    pub block: Block,
    /// Justifications by engine.
    pub justifications: Option<Vec<(EngineId, Justification)>>,
}

/// The fields of a block that are used.
#[derive(Clone, Debug, Deserialize)]
pub struct Block {
    /// Its header.
    pub header: Header,
}

/// The four bytes of a consensus engine's id, as numbers in JSON.
pub type EngineId = [u8; 4];

/// A justification's bytes: an array of numbers, or hexadecimal.
#[derive(Clone, Debug)]
pub struct Justification(pub Vec<u8>);

impl<'de> Deserialize<'de> for Justification {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> de::Visitor<'de> for Visitor {
            type Value = Justification;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes, as numbers or hexadecimal")
            }

            fn visit_str<E: de::Error>(self, s: &str) -> Result<Justification, E> {
                const_hex::decode(s).map(Justification).map_err(E::custom)
            }

            fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Justification, A::Error> {
                // The hint is the node's claim.
                let mut bytes = Vec::with_capacity(seq.size_hint().unwrap_or(0).min(1 << 16));
                while let Some(byte) = seq.next_element()? {
                    bytes.push(byte);
                }
                Ok(Justification(bytes))
            }
        }
        d.deserialize_any(Visitor)
    }
}

/// The answer of `state_getReadProof`.
#[derive(Clone, Debug, Deserialize)]
pub struct ReadProof {
    /// Trie nodes.
    pub proof: Vec<HexBytes>,
}

impl ReadProof {
    /// Returns the trie nodes.
    pub fn into_nodes(self) -> Vec<Vec<u8>> {
        self.proof.into_iter().map(|node| node.0).collect()
    }
}

type Changes = Vec<(HexBytes, Option<HexBytes>)>;

/// One block's changes of the main trie, as returned by `pha_getStorageChanges`.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StorageChanges {
    main_storage_changes: Changes,
}

impl StorageChanges {
    /// Key and value of each main trie change, in the node's order.
    pub fn into_main(self) -> impl Iterator<Item = (Vec<u8>, Option<Vec<u8>>)> {
        self.main_storage_changes.into_iter().map(|(key, value)| (key.0, value.map(|v| v.0)))
    }
}

/// Decodes an answer.
///
/// # Errors
/// The JSON has another structure.
pub fn parse<T: de::DeserializeOwned>(json: &str) -> Result<T, io::Error> {
    serde_json::from_str(json).map_err(io::Error::from)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use prb_core::wire;

    use super::*;

    #[test]
    fn json_header_encodes_to_the_scale_header() {
        let header = wire::Header {
            parent_hash: Hash([1; 32]),
            number: 70_000,
            state_root: Hash([2; 32]),
            extrinsics_root: Hash([3; 32]),
            digest: vec![
                wire::DigestItem::PreRuntime(*b"BABE", vec![1, 2]),
                wire::DigestItem::Seal(*b"BABE", vec![9; 64]),
            ],
        };
        let logs: Vec<_> = header.digest.iter().map(|d| format!("0x{}", hex::encode(d.encode()))).collect();
        let json = serde_json::json!({
            "parentHash": header.parent_hash, "number": "0x11170", "stateRoot": header.state_root,
            "extrinsicsRoot": header.extrinsics_root, "digest": {"logs": logs},
        });
        let read: Header = parse(&json.to_string()).unwrap();
        assert_eq!(read.number(), 70_000);
        assert_eq!(Hash::of(&read.encode()), header.hash());
    }

    #[test]
    fn justifications_are_decoded_from_numbers_and_hex() {
        for bytes in ["[1,2,255]", r#""0x0102ff""#] {
            assert_eq!(parse::<Justification>(bytes).unwrap().0, [1, 2, 255]);
        }
        assert!(parse::<Justification>("[256]").is_err());
    }
}
