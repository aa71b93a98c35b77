//! The check of one header batch, by the rules of pRuntime: pure functions.

use std::{
    collections::{HashSet, VecDeque},
    sync::{Mutex, PoisonError},
};

use codec::{Compact, Decode};
use prb_core::{
    blob::HeaderBatch,
    primitives::Hash,
    prpc::CombinedHeadersToSync,
    wire::{AuthoritySet, AuthoritySetChange, Header},
};
use prost::Message;

use crate::verify::{self, Checked, Error, grandpa, state};

/// What a valid batch shows about the chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Finding {
    /// Its first relay block.
    pub(super) first: u32,
    /// Its last relay block, which is finalised.
    pub(super) last: u32,
    /// The set in force after it, if it changes the set.
    pub(super) next: Option<AuthoritySet>,
}

/// A bounded set of hashes, of which the oldest are evicted.
#[derive(Debug)]
pub(super) struct RecentHashes {
    hashes: HashSet<Hash>,
    order: VecDeque<Hash>,
    capacity: usize,
}

impl RecentHashes {
    pub(super) fn new(capacity: usize) -> Self {
        Self { hashes: HashSet::new(), order: VecDeque::new(), capacity }
    }

    pub(super) fn contains(&self, hash: &Hash) -> bool {
        self.hashes.contains(hash)
    }

    pub(super) fn insert(&mut self, hash: Hash) {
        if !self.hashes.insert(hash) {
            return;
        }
        self.order.push_back(hash);
        if self.order.len() > self.capacity
            && let Some(oldest) = self.order.pop_front()
        {
            self.hashes.remove(&oldest);
        }
    }

    pub(super) fn clear(&mut self) {
        self.hashes.clear();
        self.order.clear();
    }
}

/// Checks a justification of a header.
pub(super) type SignatureCheck<'a> = dyn FnMut(&[u8], &Checked) -> Result<(), Error> + 'a;

/// The last relay header of a batch with its justification.
struct End {
    header: Checked,
    justification: Vec<u8>,
    /// A change in an earlier header that workers cannot follow.
    obstacle: Option<Error>,
}

/// Checks a batch against the authority set in force at its first block.
///
/// `is_signed` checks a justification: the signatures are most of the work, so its results are cached by the caller.
///
/// # Errors
/// The fault of the batch.
pub(super) fn check(
    batch: &HeaderBatch,
    para_id: u32,
    set: &AuthoritySet,
    is_signed: &mut SignatureCheck<'_>,
) -> Result<Finding, Error> {
    let body = CombinedHeadersToSync::decode(batch.body.clone())
        .map_err(|_| Error::Encoding { what: "the header batch" })?;
    let first = batch.relay.first.0;
    let End { header: last, justification, obstacle } = relay(&body.encoded_relaychain_headers, first)?;
    if last.number != batch.relay.last.0 {
        return Err(Error::HeaderNumber { expected: batch.relay.last.0, actual: last.number });
    }
    // First: without a valid signature, a change that workers cannot follow is not the chain's but an invention.
    is_signed(&justification, &last)?;
    let forced = last.forces_change.then_some(Error::ForcedChange { number: last.number });
    if let Some(obstacle) = obstacle.or(forced) {
        return Err(obstacle);
    }
    let next = last.next_set(set)?;
    set_change(body.authority_set_change.as_deref(), next.as_ref(), last.state_root)?;
    para(&body.encoded_parachain_headers, &body.proof, batch, para_id, last.state_root)?;
    Ok(Finding { first, last: last.number, next })
}

/// Reads SCALE `Vec<HeaderToSync>`: consecutive headers, each the parent of the next, of which the last one is
/// justified and only the last one may change the authorities.
fn relay(mut encoded: &[u8], first: u32) -> Result<End, Error> {
    const BAD: Error = Error::Encoding { what: "the relay headers" };
    let input = &mut encoded;
    let count = Compact::<u32>::decode(input).map_err(|_| BAD)?.0;
    let (mut parent, mut number, mut obstacle) = (None, first, None);
    for left in (0..count).rev() {
        let (header, encoded) = take_header(input, number, &mut parent)?;
        let justification = Option::<Vec<u8>>::decode(input).map_err(|_| BAD)?;
        match (left, justification) {
            (0, Some(justification)) => {
                return Ok(End { header: Checked::new(number, encoded.to_vec())?, justification, obstacle });
            }
            (0, None) => return Err(Error::Justification { number, reason: "it has none" }),
            _ => obstacle = obstacle.or_else(|| verify::unsupported_change(&header)),
        }
        if header.scheduled_change().is_some_and(|change| change.delay == 0) {
            return Err(Error::Crossed { number });
        }
        number = number.checked_add(1).ok_or(BAD)?;
    }
    Err(BAD)
}

/// Takes a header from the input and checks its number and its parent.
fn take_header<'a>(
    input: &mut &'a [u8],
    number: u32,
    parent: &mut Option<Hash>,
) -> Result<(Header, &'a [u8]), Error> {
    let start = *input;
    let header = Header::decode(input).map_err(|_| Error::HeaderEncoding { number })?;
    if header.number != number {
        return Err(Error::HeaderNumber { expected: number, actual: header.number });
    }
    if parent.is_some_and(|parent| parent != header.parent_hash) {
        return Err(Error::Parent { number });
    }
    let encoded = &start[..start.len() - input.len()];
    *parent = Some(Hash::of(encoded));
    Ok((header, encoded))
}

/// Checks that the change of authorities, which old workers read, is the one that the last header schedules.
fn set_change(encoded: Option<&[u8]>, next: Option<&AuthoritySet>, state_root: Hash) -> Result<(), Error> {
    let what = "the change of authorities";
    let bad = |reason: &str| Error::Proof { what, reason: reason.into() };
    let Some(mut encoded) = encoded.filter(|encoded| !encoded.is_empty()) else { return Ok(()) };
    let change = AuthoritySetChange::decode(&mut encoded).map_err(|_| Error::Encoding { what })?;
    if next != Some(&change.authority_set) {
        return Err(bad("it is not what the last header schedules"));
    }
    let proven = state::authorities(state_root, &change.authority_proof);
    if proven.ok_or_else(|| bad("its proof does not hold"))? != change.authority_set.list {
        return Err(bad("the state has other authorities"));
    }
    Ok(())
}

/// Checks that the parachain headers end with the head in the last relay block's state.
fn para(
    mut encoded: &[u8],
    proof: &[Vec<u8>],
    batch: &HeaderBatch,
    para_id: u32,
    state_root: Hash,
) -> Result<(), Error> {
    const BAD: Error = Error::Encoding { what: "the parachain headers" };
    let what = "the parachain's head";
    let input = &mut encoded;
    // Batches without parachain headers leave the field empty, which is not a SCALE list.
    let count = if input.is_empty() { 0 } else { Compact::<u32>::decode(input).map_err(|_| BAD)?.0 };
    let (mut parent, mut last) = (None, None);
    let Some(span) = batch.para else {
        return if count == 0 { Ok(()) } else { Err(BAD) };
    };
    for number in (span.first.0..).take(count as usize) {
        take_header(input, number, &mut parent)?;
        last = Some(number);
    }
    if last != Some(span.last.0) {
        return Err(BAD);
    }
    let head = state::para_head(state_root, proof.to_vec(), para_id)?;
    if head.is_none_or(|head| Some(head.hash) != parent) {
        return Err(Error::Proof { what, reason: "the last header is not the head".into() });
    }
    Ok(())
}

/// Checks a justification, unless it is known to be valid.
pub(super) fn signed(
    seen: &Mutex<RecentHashes>,
    set: &AuthoritySet,
    justification: &[u8],
    header: &Checked,
) -> Result<(), Error> {
    let of = Hash::of(justification);
    let key = Hash::of(&[&of.0[..], &header.hash.0, &set.id.to_le_bytes()].concat());
    let known = || seen.lock().unwrap_or_else(PoisonError::into_inner);
    if known().contains(&key) {
        return Ok(());
    }
    grandpa::check(justification, set, header.number, header.hash)?;
    known().insert(key);
    Ok(())
}
