//! Verifies GRANDPA justifications against one authority set, once for all workers of a process.

use std::collections::{HashMap, HashSet, VecDeque};

use codec::{Decode, Encode};
use finality_grandpa::{Chain, Error as GrandpaError, Message, validate_commit, voter_set::VoterSet};
use parking_lot::Mutex;
use prb_core::wire::AuthoritySet;
use sp_consensus_grandpa::{AuthorityList, GrandpaJustification, SetId, check_message_signature_with_buffer};
use sp_core::H256;
use sp_runtime::{generic, traits::BlakeTwo256};

type RelayHeader = generic::Header<u32, BlakeTwo256>;

/// Cached verdicts; a worker that lags further behind verifies again.
const VERDICTS: usize = 8192;

const UNDECODABLE: &str = "error decoding justification for header";
const WRONG_TARGET: &str = "bad justification for header: invalid commit target in grandpa justification";
const WRONG_COMMIT: &str = "bad justification for header: invalid commit in grandpa justification";
const WRONG_SIGNATURE: &str =
    "bad justification for header: invalid signature for precommit in grandpa justification";
const WRONG_ANCESTRY: &str =
    "bad justification for header: invalid precommit ancestry proof in grandpa justification";
const UNUSED_HEADERS: &str = "bad justification for header: invalid precommit ancestries in grandpa \
                              justification with unused headers";

/// pRuntime's reason, inside `HeaderValidateFailed(…)`.
type Reason = &'static str;
type Verdict = Result<(), Reason>;

/// Cache of verdicts on justifications, by the hash of all their inputs.
#[derive(Debug, Default)]
pub(crate) struct Verdicts {
    inner: Mutex<(HashMap<H256, Verdict>, VecDeque<H256>)>,
}

impl Verdicts {
    /// Whether `justification` finalises the target under the set.
    pub(crate) fn verify(&self, justification: &[u8], target: (H256, u32), set: &AuthoritySet) -> Verdict {
        let key = H256(sp_io::hashing::blake2_256(&(justification, target, set).encode()));
        if let Some(verdict) = self.inner.lock().0.get(&key) {
            return *verdict;
        }
        // Without the lock: a signature check for each authority takes long. Two workers may both verify the
        // same one.
        let verdict = verify(justification, target, set);
        let (verdicts, order) = &mut *self.inner.lock();
        // Two workers may have computed the same verdict: it has one place in the order of eviction.
        if verdicts.insert(key, verdict).is_none() {
            order.push_back(key);
        }
        if order.len() > VERDICTS
            && let Some(oldest) = order.pop_front()
        {
            verdicts.remove(&oldest);
        }
        verdict
    }
}

/// The order of the checks is pRuntime's, which determines the reason if several fail.
fn verify(encoded: &[u8], target: (H256, u32), set: &AuthoritySet) -> Verdict {
    let justification =
        GrandpaJustification::<RelayHeader>::decode(&mut &*encoded).map_err(|_| UNDECODABLE)?;
    let commit = &justification.commit;
    if (commit.target_hash, commit.target_number) != target {
        return Err(WRONG_TARGET);
    }
    // The same SCALE layout on both sides.
    let authorities = AuthorityList::decode(&mut &*set.list.encode()).map_err(|_| WRONG_COMMIT)?;
    // The voter set has GRANDPA's threshold: n - floor((n - 1) / 3) of the weight.
    let voters = VoterSet::new(authorities).ok_or(WRONG_COMMIT)?;
    let ancestry = Ancestry::new(&justification.votes_ancestries);
    match validate_commit(commit, &voters, &ancestry) {
        Ok(result) if result.is_valid() => {}
        _ => return Err(WRONG_COMMIT),
    }
    check_votes(&justification, set.id, &ancestry)
}

fn check_votes(
    justification: &GrandpaJustification<RelayHeader>,
    set_id: SetId,
    ancestry: &Ancestry,
) -> Verdict {
    let votes = &justification.commit.precommits;
    // As in substrate: the ancestry must lead from every vote to the lowest one and hold nothing else, or a
    // justification could be padded with headers.
    let lowest = votes.iter().map(|vote| &vote.precommit).min_by_key(|vote| vote.target_number);
    let base = lowest.ok_or(WRONG_COMMIT)?.target_hash;
    let mut used = HashSet::new();
    let mut buffer = Vec::new();
    for vote in votes {
        let message = Message::Precommit(vote.precommit.clone());
        let (id, signature) = (&vote.id, &vote.signature);
        let round = justification.round;
        if !check_message_signature_with_buffer(&message, id, signature, round, set_id, &mut buffer)
            .is_valid()
        {
            return Err(WRONG_SIGNATURE);
        }
        let head = vote.precommit.target_hash;
        if head != base {
            let route = ancestry.ancestry(base, head).map_err(|_| WRONG_ANCESTRY)?;
            used.insert(head);
            used.extend(route);
        }
    }
    if used.len() == ancestry.parents.len() && used.iter().all(|h| ancestry.parents.contains_key(h)) {
        Ok(())
    } else {
        Err(UNUSED_HEADERS)
    }
}

/// The headers that lead from the votes' targets down to their base: parents by hash.
struct Ancestry {
    parents: HashMap<H256, H256>,
}

impl Ancestry {
    fn new(headers: &[RelayHeader]) -> Self {
        Self { parents: headers.iter().map(|header| (header.hash(), header.parent_hash)).collect() }
    }
}

impl Chain<H256, u32> for Ancestry {
    fn ancestry(&self, base: H256, block: H256) -> Result<Vec<H256>, GrandpaError> {
        let mut route = Vec::new();
        let mut current = block;
        while current != base {
            current = *self.parents.get(&current).ok_or(GrandpaError::NotDescendent)?;
            route.push(current);
        }
        // finality-grandpa wants the blocks between the two, without the base itself.
        route.pop();
        Ok(route)
    }
}
