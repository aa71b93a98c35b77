//! Runtime metadata: resolves names to indexes, types and keys for one version of the chain's runtime.
//!
//! A runtime upgrade changes indexes and may change layouts, but keeps names. So nothing is compiled in:
//! calls, events, errors and storage values are looked up by name and decoded field by field, and a mismatch
//! is an [`Error`], never a wrong value.
//!
//! The code in a block's *state* executes its children: the events of block N belong to the runtime in the
//! state of N's parent.

use std::{ops::RangeInclusive, sync::Arc};

use codec::DecodeAll;
use prb_core::{chain::Call, primitives::Hash};
use scale_decode::{DecodeAsType, visitor::IgnoreVisitor};
use scale_value::{At, Value};
use sp_crypto_hashing::{blake2_128, twox_64, twox_128};
use subxt::{
    SubstrateConfig,
    client::{OfflineClient, OfflineClientAtBlock},
    config::substrate::SpecVersionForRange,
    ext::frame_decode::storage::StorageHasher,
    metadata::{ArcMetadata, Metadata},
};

mod balances;
mod cache;
mod call;
mod limits;
mod outcome;
#[cfg(test)]
pub(crate) mod real_runtimes;

pub(crate) use balances::Balances;
pub(crate) use cache::FetchError;
pub use cache::Runtimes;
pub(crate) use limits::BlockLimits;
pub use outcome::{ExtrinsicOutcome, OutcomeError};

/// Largest metadata that is accepted, in bytes; a parachain's has about one million.
pub const MAX_METADATA_BYTES: usize = 32 * 1024 * 1024;

/// Why the chain's metadata cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// It cannot be decoded.
    #[error("the chain's metadata is not readable: {reason}")]
    Unreadable {
        /// The reason.
        reason: String,
    },
    /// It lacks a required part.
    #[error("the chain's runtime has no {name}")]
    Missing {
        /// `Pallet::Item` or `Pallet::call`.
        name: String,
    },
    /// A part has an unexpected layout.
    #[error("{name} of the chain's runtime has an unknown layout: {reason}")]
    Layout {
        /// `Pallet::Item` or `Pallet::call`.
        name: String,
        /// The mismatch.
        reason: String,
    },
    /// This version of the crate does not know the call.
    #[error("this version cannot send {name}, or tell whether it has taken effect: update it with prb-core")]
    UnknownCall {
        /// `Pallet::call`.
        name: &'static str,
    },
}

impl Error {
    pub(crate) const fn unknown_call(call: &Call) -> Self {
        Self::UnknownCall { name: call.name() }
    }

    fn layout(name: impl Into<String>, reason: impl ToString) -> Self {
        Self::Layout { name: name.into(), reason: reason.to_string() }
    }
}

/// One version of the chain's runtime.
#[derive(Clone, Debug)]
pub struct Runtime {
    client: OfflineClientAtBlock<SubstrateConfig>,
}

impl Runtime {
    /// Parses a node's `metadata`, in any of the encodings that nodes return.
    ///
    /// # Errors
    /// [`Error::Unreadable`].
    pub fn new(
        genesis: Hash,
        spec_version: u32,
        transaction_version: u32,
        metadata: &[u8],
    ) -> Result<Self, Error> {
        let unreadable = |reason: String| Error::Unreadable { reason };
        // Before decoding, which needs several times as much memory.
        if metadata.len() > MAX_METADATA_BYTES {
            return Err(unreadable(format!("it has {} bytes", metadata.len())));
        }
        let metadata = Metadata::decode_from(metadata).map_err(|e| unreadable(e.to_string()))?;
        // subxt selects a version by block range. Each `Runtime` is one version, so its range is everything.
        let config = SubstrateConfig::builder()
            .set_genesis_hash(genesis.0.into())
            .set_metadata_for_spec_versions([(spec_version, Arc::new(metadata))])
            .set_spec_version_for_block_ranges([SpecVersionForRange {
                block_range: 0..u64::MAX,
                spec_version,
                transaction_version,
            }])
            .build();
        let client =
            OfflineClient::new_with_config(config).at_block(0_u64).map_err(|e| unreadable(e.to_string()))?;
        Ok(Self { client })
    }

    /// The runtime's `spec_version`.
    pub fn spec_version(&self) -> u32 {
        self.client.spec_version()
    }

    /// The `spec_version` in the metadata's `System::Version`, if it has this constant.
    fn declared_version(&self) -> Option<u32> {
        let version: Value<()> = self.constant("System", "Version").ok()?;
        u32::try_from(version.at("spec_version")?.as_u128()?).ok()
    }

    pub(crate) const fn client(&self) -> &OfflineClientAtBlock<SubstrateConfig> {
        &self.client
    }

    fn metadata(&self) -> ArcMetadata {
        self.client.metadata()
    }

    /// Looks up a plain storage item, or a map with one key.
    ///
    /// # Errors
    /// [`Error::Missing`]; [`Error::Layout`] if it has several keys, or hashes that hide them.
    pub fn item(&self, pallet: &str, entry: &str) -> Result<Item, Error> {
        self.item_of(pallet, entry, 0..=1)
    }

    /// Looks up a storage map with two keys.
    ///
    /// # Errors
    /// [`Error::Missing`]; [`Error::Layout`] if it has another number of keys, or hashes that hide them.
    pub fn double_map(&self, pallet: &str, entry: &str) -> Result<Item, Error> {
        self.item_of(pallet, entry, 2..=2)
    }

    fn item_of(&self, pallet: &str, entry: &str, keys: RangeInclusive<usize>) -> Result<Item, Error> {
        let name = || format!("{pallet}::{entry}");
        let metadata = self.metadata();
        let storage = metadata.pallet_by_name(pallet).and_then(|p| p.storage());
        let Some((storage, item)) = storage.and_then(|s| Some((s, s.entry_by_name(entry)?))) else {
            return Err(Error::Missing { name: name() });
        };
        let hashers: Vec<_> = item.keys().map(|key| key.hasher).collect();
        // Also holds for Identity hashers, whose output is just the key.
        if !keys.contains(&hashers.len()) || !hashers.iter().all(StorageHasher::ends_with_key) {
            return Err(Error::layout(name(), format!("its keys are {hashers:?}")));
        }
        // The pallet's part is its storage prefix, which need not be its name.
        let mut prefix = [0; 32];
        prefix[..16].copy_from_slice(&twox_128(storage.prefix().as_bytes()));
        prefix[16..].copy_from_slice(&twox_128(entry.as_bytes()));
        let value = item.value_ty();
        Ok(Item {
            name: name(),
            prefix,
            hashers,
            value,
            default: item.default_value().map(Into::into),
            metadata,
        })
    }

    /// Returns the share of a block that normal transactions may use, as far as the runtime declares it
    /// (`System::BlockLength`, `System::BlockWeights`).
    pub(crate) fn block_limits(&self) -> BlockLimits {
        let number = |value: Option<&Value<()>>| value.and_then(Value::as_u128);
        let length: Option<Value<()>> = self.constant("System", "BlockLength").ok();
        let bytes = number(length.as_ref().and_then(|length| length.at("max")?.at("normal")));
        let weights: Option<Value<()>> = self.constant("System", "BlockWeights").ok();
        let normal = weights.as_ref().and_then(|weights| weights.at("per_class")?.at("normal"));
        // An `Option<Weight>`; `None` has no such part.
        let limit = |name: &str, part: &str| number(normal?.at(name)?.at(0)?.at(part));
        let parts = |name: &str| ["ref_time", "proof_size"].map(|part| limit(name, part));
        let base = ["ref_time", "proof_size"].map(|part| number(normal?.at("base_extrinsic")?.at(part)));
        BlockLimits { bytes, block: parts("max_total"), extrinsic: parts("max_extrinsic"), base }
    }

    /// Decodes a pallet's constant.
    ///
    /// # Errors
    /// [`Error::Missing`], [`Error::Layout`].
    pub fn constant<T: DecodeAsType>(&self, pallet: &str, constant: &str) -> Result<T, Error> {
        let name = format!("{pallet}::{constant}");
        let metadata = self.metadata();
        let found = metadata.pallet_by_name(pallet).and_then(|p| p.constant_by_name(constant));
        let Some(found) = found else { return Err(Error::Missing { name }) };
        decode(&name, found.value(), found.ty(), &metadata)
    }
}

/// A storage item: builds its keys and decodes its values.
#[derive(Clone, Debug)]
pub struct Item {
    name: String,
    prefix: [u8; 32],
    hashers: Vec<StorageHasher>,
    value: u32,
    default: Option<Vec<u8>>,
    metadata: ArcMetadata,
}

impl Item {
    /// `Pallet::Item`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The common prefix of its keys.
    pub const fn prefix(&self) -> &[u8; 32] {
        &self.prefix
    }

    /// Builds the storage key for an encoded map key (empty for a plain item).
    pub fn key(&self, encoded: &[u8]) -> Vec<u8> {
        let mut key = self.prefix.to_vec();
        match self.hashers.first() {
            Some(hasher) => hash_key(&mut key, *hasher, encoded),
            None => key.extend_from_slice(encoded),
        }
        key
    }

    /// Builds the storage key for both encoded keys of a double map.
    pub fn double_key(&self, first: &[u8], second: &[u8]) -> Vec<u8> {
        let mut key = self.prefix.to_vec();
        for (hasher, encoded) in self.hashers.iter().zip([first, second]) {
            hash_key(&mut key, *hasher, encoded);
        }
        key
    }

    /// Extracts the encoded map key from a storage key of this item; `None` for keys of other items.
    pub fn map_key<'k>(&self, key: &'k [u8]) -> Option<&'k [u8]> {
        let rest = key.strip_prefix(&self.prefix)?;
        rest.get(self.hashers.first()?.len_excluding_key()..)
    }

    /// Decodes a value; `None` is decoded as the item's default, if it has one.
    ///
    /// # Errors
    /// [`Error::Layout`].
    pub fn read<T: DecodeAsType>(&self, value: Option<&[u8]>) -> Result<Option<T>, Error> {
        value
            .or(self.default.as_deref())
            .map(|v| decode(&self.name, v, self.value, &self.metadata))
            .transpose()
    }

    /// Checks that a static type decodes the item's values as the runtime does, then decodes one.
    ///
    /// # Errors
    /// [`Error::Layout`].
    pub fn read_static<T: DecodeAll>(&self, value: Option<&[u8]>) -> Result<Option<T>, Error> {
        let Some(bytes) = value.or(self.default.as_deref()) else { return Ok(None) };
        fits(&self.name, bytes, [self.value], &self.metadata)?;
        T::decode_all(&mut &*bytes).map(Some).map_err(|e| Error::layout(&*self.name, e))
    }
}

fn hash_key(key: &mut Vec<u8>, hasher: StorageHasher, encoded: &[u8]) {
    match hasher {
        StorageHasher::Twox64Concat => key.extend(twox_64(encoded)),
        StorageHasher::Blake2_128Concat => key.extend(blake2_128(encoded)),
        // Identity: the key alone.
        _ => {}
    }
    key.extend_from_slice(encoded);
}

/// Decodes `bytes` as the type `ty`; all of them must be consumed.
fn decode<T: DecodeAsType>(name: &str, bytes: &[u8], ty: u32, metadata: &Metadata) -> Result<T, Error> {
    let input = &mut &*bytes;
    let value = T::decode_as_type(input, ty, metadata.types()).map_err(|e| Error::layout(name, e))?;
    no_rest(name, input)?;
    Ok(value)
}

/// Checks that `bytes` are exactly values of `types`, one after the other.
fn fits(
    name: &str,
    bytes: &[u8],
    types: impl IntoIterator<Item = u32>,
    metadata: &Metadata,
) -> Result<(), Error> {
    let input = &mut &*bytes;
    for ty in types {
        let ignore = IgnoreVisitor::new();
        scale_decode::visitor::decode_with_visitor(input, ty, metadata.types(), ignore)
            .map_err(|e| Error::layout(name, e))?;
    }
    no_rest(name, input)
}

fn no_rest(name: &str, rest: &[u8]) -> Result<(), Error> {
    match rest.len() {
        0 => Ok(()),
        n => Err(Error::layout(name, format!("{n} bytes are left over"))),
    }
}
