//! Reads values of a chain's state from read proofs.

use codec::{Decode, Encode};
use prb_core::{
    primitives::{Hash, ParaNumber},
    wire::{AuthorityList, AuthoritySet},
};
use sp_core::H256;
use sp_crypto_hashing::{twox_64, twox_128};
use sp_runtime::traits::BlakeTwo256;
use sp_state_machine::{create_proof_check_backend, prove_read_on_trie_backend, read_proof_check};
use sp_trie::{LayoutV0, LayoutV1, StorageProof, TrieConfiguration};

use super::{Checked, Error};

/// Key under which old relay chains store their authorities, prefixed by a version byte.
pub const OLD_AUTHORITIES_KEY: &[u8] = b":grandpa_authorities";

/// Builds the key of a plain storage value.
pub fn value_key(pallet: &str, item: &str) -> Vec<u8> {
    [twox_128(pallet.as_bytes()), twox_128(item.as_bytes())].concat()
}

/// Builds the key of the parachain's `Paras::Heads` entry.
pub fn para_head_key(para_id: u32) -> Vec<u8> {
    let id = para_id.encode();
    [value_key("Paras", "Heads"), twox_64(&id).to_vec(), id].concat()
}

/// The keys that prove the authorities: the list, its key on old chains, and the set id.
pub fn authority_keys() -> [Vec<u8>; 3] {
    [value_key("Grandpa", "Authorities"), OLD_AUTHORITIES_KEY.to_vec(), value_key("Grandpa", "CurrentSetId")]
}

/// Reads values from their proof. Absent values are proven to be absent.
///
/// # Errors
/// [`Error::Proof`] if the proof is of another state, or does not cover a key.
pub fn read(
    what: &'static str,
    state_root: Hash,
    proof: Vec<Vec<u8>>,
    keys: &[Vec<u8>],
) -> Result<Vec<Option<Vec<u8>>>, Error> {
    let proof = StorageProof::new(proof);
    let mut values = read_proof_check::<BlakeTwo256, _>(H256(state_root.0), proof, keys)
        .map_err(|e| Error::Proof { what, reason: e.to_string() })?;
    Ok(keys.iter().map(|key| values.remove(key).flatten()).collect())
}

/// Reduces a proof to the nodes that prove the keys, in the order that nodes return them.
///
/// A proof is valid with any number of further nodes. They are not kept: workers limit the size of a batch, and
/// stored blocks are never fetched again.
///
/// # Errors
/// [`Error::Proof`] if the proof is of another state, or does not cover a key.
pub fn minimal(
    what: &'static str,
    state_root: Hash,
    proof: Vec<Vec<u8>>,
    keys: &[Vec<u8>],
) -> Result<Vec<Vec<u8>>, Error> {
    let failed = |e: Box<dyn sp_state_machine::Error>| Error::Proof { what, reason: e.to_string() };
    let proof = StorageProof::new(proof);
    let state = create_proof_check_backend::<BlakeTwo256>(H256(state_root.0), proof).map_err(failed)?;
    let minimal = prove_read_on_trie_backend(&state, keys).map_err(failed)?;
    Ok(minimal.into_iter_nodes().collect())
}

/// Reads the newest parachain header from a relay block's state.
///
/// # Errors
/// [`Error::Proof`], [`Error::HeaderEncoding`].
pub fn para_head(state_root: Hash, proof: Vec<Vec<u8>>, para_id: u32) -> Result<Option<Checked>, Error> {
    let what = "the parachain's head";
    // `None` is proven as well: an offboarded parachain has no head.
    let values = read(what, state_root, proof, &[para_head_key(para_id)])?;
    let Some(value) = values.into_iter().next().flatten() else { return Ok(None) };
    let bad = || Error::Proof { what, reason: "the value is no header".into() };
    let encoded = Vec::<u8>::decode(&mut &*value).map_err(|_| bad())?;
    // The number follows the parent's hash.
    let after_parent = encoded.get(32..).ok_or_else(bad)?;
    let number = codec::Compact::<u32>::decode(&mut &*after_parent).map_err(|_| bad())?.0;
    Checked::new(ParaNumber(number).0, encoded).map(Some)
}

/// Reads the authority set from a relay block's state.
///
/// # Errors
/// [`Error::Proof`].
pub fn authority_set(state_root: Hash, proof: Vec<Vec<u8>>) -> Result<AuthoritySet, Error> {
    let what = "the authorities";
    let bad = |reason: &str| Error::Proof { what, reason: reason.into() };
    let mut values = read(what, state_root, proof, &authority_keys())?;
    let (id, old, new) = (values.pop().flatten(), values.pop().flatten(), values.pop().flatten());
    let id = id.ok_or_else(|| bad("no set id"))?;
    let list = match (new, old) {
        (Some(list), _) => list,
        // Without the version byte.
        (None, Some(versioned)) => versioned.get(1..).unwrap_or_default().to_vec(),
        (None, None) => return Err(bad("no authorities")),
    };
    Ok(AuthoritySet {
        list: AuthorityList::decode(&mut &*list).map_err(|_| bad("the value is no authority list"))?,
        id: u64::decode(&mut &*id).map_err(|_| bad("the value is no set id"))?,
    })
}

/// The authorities that the relay block's state holds, as far as the proof reaches: old chains keep them elsewhere,
/// and a proof need not say which set it is.
pub fn authorities(state_root: Hash, proof: &[Vec<u8>]) -> Option<AuthorityList> {
    let [new, old, _] = authority_keys();
    let listed = |key: Vec<u8>, version_bytes: usize| {
        let values = read("the authorities", state_root, proof.to_vec(), &[key]).ok()?;
        let value = values.into_iter().next().flatten()?;
        AuthorityList::decode(&mut value.get(version_bytes..)?).ok()
    };
    listed(new, 0).or_else(|| listed(old, 1))
}

/// Whether the pairs are the whole state under the root; workers keep state version 0.
///
/// # Errors
/// [`Error::Proof`] if they are not, or only in state version 1, which workers do not support.
pub fn whole_state<B: AsRef<[u8]> + Ord>(state_root: Hash, pairs: &[(B, B)]) -> Result<(), Error> {
    let what = "the genesis state";
    let items = || pairs.iter().map(|(key, value)| (key, value));
    if LayoutV0::<BlakeTwo256>::trie_root(items()).0 == state_root.0 {
        return Ok(());
    }
    let reason = if LayoutV1::<BlakeTwo256>::trie_root(items()).0 == state_root.0 {
        "the parachain uses state version 1, which workers do not support"
    } else {
        "the pairs have a different root"
    };
    Err(Error::Proof { what, reason: reason.into() })
}
