//! Verifies nodes' answers, without I/O or a clock.
//!
//! Everything in the store has passed these checks: headers have the requested hash and chain to their
//! parents, justifications are signed by the tracked authority set, and values in the state have a proof
//! under a header's state root.

use codec::{Decode, Encode};
use prb_core::{
    blob::Genesis,
    primitives::{Hash, RelayNumber},
    wire::{AuthoritySet, DigestItem, GRANDPA_ENGINE_ID, GenesisBlockInfo, Header, ScheduledChange},
};

pub mod grandpa;
pub mod scale;
pub mod state;

/// Why an answer is wrong.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[non_exhaustive]
pub enum Error {
    /// The bytes are not a header.
    #[error("header {number} cannot be decoded")]
    HeaderEncoding {
        /// The requested block.
        number: u32,
    },
    /// A header of another number.
    #[error("asked for header {expected}, got {actual}")]
    HeaderNumber {
        /// The requested block.
        expected: u32,
        /// The received number.
        actual: u32,
    },
    /// A header's hash differs from the requested one.
    #[error("header {number} hashes to {actual}, not to {expected}")]
    HeaderHash {
        /// The block.
        number: u32,
        /// The requested hash.
        expected: Hash,
        /// The received header's hash.
        actual: Hash,
    },
    /// A header's parent is not the header before it.
    #[error("header {number} does not follow the header before it")]
    Parent {
        /// The block.
        number: u32,
    },
    /// A justification that does not prove its block.
    #[error("bad justification of relay block {number}: {reason}")]
    Justification {
        /// The block that it should prove.
        number: u32,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Bytes of a finality proof or justification that cannot be decoded.
    #[error("{what} cannot be decoded")]
    Encoding {
        /// The expected kind.
        what: &'static str,
    },
    /// A delayed change of authorities, which pRuntime does not support.
    #[error("relay block {number} delays its change of authorities by {delay} blocks")]
    DelayedChange {
        /// The block.
        number: u32,
        /// The delay.
        delay: u32,
    },
    /// A forced change of authorities, which pRuntime does not support.
    #[error("relay block {number} forces a change of authorities, which workers do not support")]
    ForcedChange {
        /// The block.
        number: u32,
    },
    /// A batch of headers goes past a change of authorities.
    #[error("relay block {number} changes the authorities, and headers after it are in the same batch")]
    Crossed {
        /// The block.
        number: u32,
    },
    /// A proof does not belong to the state root, or leaves out what was asked for.
    #[error("the read proof of {what} does not hold: {reason}")]
    Proof {
        /// The value to prove.
        what: &'static str,
        /// What is wrong with it.
        reason: String,
    },
}

impl Error {
    /// Whether the chain itself is unsupported, rather than one node's answer wrong.
    pub const fn is_of_chain(&self) -> bool {
        matches!(self, Self::DelayedChange { .. } | Self::ForcedChange { .. })
    }
}

/// A header with its hash and decoded fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checked {
    /// Its number.
    pub number: u32,
    /// Its hash.
    pub hash: Hash,
    /// Its SCALE encoding.
    pub encoded: Vec<u8>,
    /// Root of the state after it.
    pub state_root: Hash,
    /// The authorities that take over after it, if it schedules a change.
    pub change: Option<ScheduledChange>,
    /// Whether it forces a change of authorities, overriding its set.
    pub forces_change: bool,
}

impl Checked {
    /// Decodes a header and checks its number.
    ///
    /// # Errors
    /// [`Error::HeaderEncoding`], [`Error::HeaderNumber`].
    pub fn new(expected: u32, encoded: Vec<u8>) -> Result<Self, Error> {
        let header = decode_header(expected, &encoded)?;
        let change = header.scheduled_change();
        let forces_change = forces_change(&header);
        // Of the received bytes, not of a new encoding: workers get these bytes.
        let hash = Hash::of(&encoded);
        let state_root = header.state_root;
        Ok(Self { number: expected, hash, encoded, state_root, change, forces_change })
    }

    /// Returns the parent's hash, which an encoded header starts with.
    pub fn parent(&self) -> Hash {
        self.encoded.get(..32).and_then(|bytes| bytes.try_into().ok()).map(Hash).unwrap_or_default()
    }

    /// Returns the authority set that justifies the blocks after this one, given that `set` justifies this one.
    ///
    /// # Errors
    /// [`Error::DelayedChange`]: pRuntime supports only immediate changes.
    pub fn next_set(&self, set: &AuthoritySet) -> Result<Option<AuthoritySet>, Error> {
        match &self.change {
            None => Ok(None),
            Some(ScheduledChange { delay, .. }) if *delay != 0 => {
                Err(Error::DelayedChange { number: self.number, delay: *delay })
            }
            // GRANDPA numbers sets without gaps, and signatures cover the number.
            Some(change) => Ok(Some(AuthoritySet { list: change.next_authorities.clone(), id: set.id + 1 })),
        }
    }
}

/// `ConsensusLog::ForcedChange` is variant 2.
fn forces_change(header: &Header) -> bool {
    header.digest.iter().any(
        |item| matches!(item, DigestItem::Consensus(GRANDPA_ENGINE_ID, data) if data.first() == Some(&2)),
    )
}

/// The change of authorities in a header that workers cannot follow.
pub(crate) fn unsupported_change(header: &Header) -> Option<Error> {
    let number = header.number;
    match header.scheduled_change() {
        Some(ScheduledChange { delay, .. }) if delay != 0 => Some(Error::DelayedChange { number, delay }),
        _ => forces_change(header).then_some(Error::ForcedChange { number }),
    }
}

fn decode_header(expected: u32, mut encoded: &[u8]) -> Result<Header, Error> {
    let header = Header::decode(&mut encoded)
        .ok()
        .filter(|_| encoded.is_empty())
        .ok_or(Error::HeaderEncoding { number: expected })?;
    if header.number != expected {
        return Err(Error::HeaderNumber { expected, actual: header.number });
    }
    Ok(header)
}

/// Checks that a header has this hash and number.
///
/// # Errors
/// [`Error::HeaderEncoding`], [`Error::HeaderNumber`], [`Error::HeaderHash`].
pub fn header(expected: Hash, number: u32, encoded: Vec<u8>) -> Result<Checked, Error> {
    let checked = Checked::new(number, encoded)?;
    if checked.hash != expected {
        return Err(Error::HeaderHash { number, expected, actual: checked.hash });
    }
    Ok(checked)
}

/// Checks that the headers are consecutive from `first` on, the first one following `parent`.
///
/// # Errors
/// [`Error::HeaderEncoding`], [`Error::HeaderNumber`], [`Error::Parent`].
pub fn chain(
    parent: Hash,
    first: u32,
    headers: impl IntoIterator<Item = Vec<u8>>,
) -> Result<Vec<Checked>, Error> {
    let mut parent = parent;
    let mut checked = Vec::new();
    for (number, encoded) in (first..).zip(headers) {
        // An encoded header starts with its parent's hash.
        if encoded.get(..32) != Some(&parent.0[..]) {
            return Err(Error::Parent { number });
        }
        let header = Checked::new(number, encoded)?;
        parent = header.hash;
        checked.push(header);
    }
    Ok(checked)
}

/// The answer of `grandpa_proveFinality`, with its headers still encoded.
#[derive(Clone, Debug)]
pub struct FinalityProof {
    /// Hash of the justified block.
    pub block: Hash,
    /// Its justification.
    pub justification: Vec<u8>,
    /// Encoded headers after the requested block, up to the justified one.
    pub headers: Vec<Vec<u8>>,
}

impl FinalityProof {
    /// Most headers that nodes include in a proof.
    const MAX_HEADERS: usize = 100_000;

    /// Decodes a proof.
    ///
    /// # Errors
    /// [`Error::Encoding`].
    pub fn decode(mut encoded: &[u8]) -> Result<Self, Error> {
        const BAD: Error = Error::Encoding { what: "the finality proof" };
        let input = &mut encoded;
        let block = Hash::decode(input).map_err(|_| BAD)?;
        let justification = Vec::<u8>::decode(input).map_err(|_| BAD)?;
        let count = codec::Compact::<u32>::decode(input).map_err(|_| BAD)?.0 as usize;
        if count > Self::MAX_HEADERS {
            return Err(BAD);
        }
        // Three hashes and the number take at least 97 bytes, so a false count reserves no more than the answer
        // has.
        let mut headers = Vec::with_capacity(count.min(input.len() / 97));
        for _ in 0..count {
            let start = *input;
            Header::decode(input).map_err(|_| BAD)?;
            headers.push(start[..start.len() - input.len()].to_vec());
        }
        Ok(Self { block, justification, headers })
    }
}

/// The relay block that workers start after, with its authorities.
#[derive(Clone, Debug, PartialEq, Eq, Encode, Decode)]
pub struct Start {
    /// Its number.
    pub number: u32,
    /// Its hash.
    pub hash: Hash,
    /// The authority set that justifies the blocks after it.
    pub set: AuthoritySet,
}

impl Start {
    /// The first block that a worker needs.
    pub const fn first(&self) -> RelayNumber {
        RelayNumber(self.number + 1)
    }
}

/// The relay block that workers are initialised with, once its hash and its authorities' proof hold.
///
/// # Errors
/// What is wrong with the genesis.
pub fn genesis(genesis: &Genesis) -> Result<Start, Error> {
    let what = "the genesis' authorities";
    let info = GenesisBlockInfo::decode(&mut &*genesis.info)
        .map_err(|_| Error::Encoding { what: "the genesis info" })?;
    let number = genesis.relay_number.0;
    let header = header(genesis.relay_hash, number, info.block_header.encode())?;
    // With the set's id: workers do not check it, and under a wrong one no later header is signed.
    if state::authority_set(header.state_root, info.proof)? != info.authority_set {
        return Err(Error::Proof { what, reason: "the state does not have them".into() });
    }
    Ok(Start { number, hash: header.hash, set: info.authority_set })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn header(number: u32, parent_hash: Hash) -> Header {
        Header {
            parent_hash,
            number,
            state_root: Hash([number as u8; 32]),
            extrinsics_root: Hash::default(),
            digest: vec![DigestItem::Seal(*b"BABE", vec![0; 64])],
        }
    }

    fn headers(first: u32, count: u32) -> Vec<Header> {
        let mut parent = Hash([9; 32]);
        (first..first + count)
            .map(|n| {
                let header = header(n, parent);
                parent = header.hash();
                header
            })
            .collect()
    }

    #[test]
    fn consecutive_headers_pass_and_a_gap_fails() {
        let good: Vec<_> = headers(5, 4).iter().map(Encode::encode).collect();
        let checked = chain(Hash([9; 32]), 5, good.clone()).unwrap();
        assert_eq!(checked.last().unwrap().number, 8);
        assert_eq!(checked[1].hash, Hash::of(&good[1]));

        assert_eq!(chain(Hash([8; 32]), 5, good.clone()), Err(Error::Parent { number: 5 }));
        let gap = [&good[..1], &good[2..]].concat();
        assert_eq!(chain(Hash([9; 32]), 5, gap), Err(Error::Parent { number: 6 }));
        assert_eq!(
            chain(Hash([9; 32]), 4, good.clone()),
            Err(Error::HeaderNumber { expected: 4, actual: 5 })
        );
        let mut tampered = good;
        tampered[1][40] ^= 1;
        assert!(chain(Hash([9; 32]), 5, tampered).is_err());
    }

    #[test]
    fn trailing_bytes_are_refused() {
        let mut encoded = header(3, Hash::default()).encode();
        assert!(Checked::new(3, encoded.clone()).is_ok());
        encoded.push(0);
        assert_eq!(Checked::new(3, encoded), Err(Error::HeaderEncoding { number: 3 }));
    }

    #[test]
    fn delayed_change_is_refused() {
        let mut log = vec![1];
        ScheduledChange { next_authorities: vec![([1; 32], 1)], delay: 2 }.encode_to(&mut log);
        let mut delayed = header(3, Hash::default());
        delayed.digest.push(DigestItem::Consensus(GRANDPA_ENGINE_ID, log));
        let set = AuthoritySet { list: vec![], id: 0 };
        let checked = Checked::new(3, delayed.encode()).unwrap();
        assert_eq!(checked.next_set(&set), Err(Error::DelayedChange { number: 3, delay: 2 }));
    }

    #[test]
    fn forced_change_is_detected() {
        let mut forced = header(3, Hash::default());
        assert!(!Checked::new(3, forced.encode()).unwrap().forces_change);
        forced.digest.push(DigestItem::Consensus(GRANDPA_ENGINE_ID, vec![2, 0, 0, 0, 0]));
        assert!(Checked::new(3, forced.encode()).unwrap().forces_change);
        assert!(Error::ForcedChange { number: 3 }.is_of_chain());
    }

    #[test]
    fn finality_proof_is_split_into_headers() {
        let list = headers(7, 3);
        let encoded = (Hash([1; 32]), vec![5u8; 10], list.clone()).encode();
        let proof = FinalityProof::decode(&encoded).unwrap();
        assert_eq!(proof.headers, list.iter().map(Encode::encode).collect::<Vec<_>>());
        assert_eq!((proof.block, proof.justification), (Hash([1; 32]), vec![5; 10]));
        assert!(FinalityProof::decode(&encoded[..encoded.len() - 1]).is_err());
        assert!(
            FinalityProof::decode(&(Hash::default(), vec![0u8; 0], codec::Compact(u32::MAX)).encode())
                .is_err()
        );
    }
}
