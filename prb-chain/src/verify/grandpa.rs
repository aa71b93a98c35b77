//! Verifies GRANDPA justifications.

use std::collections::{BTreeMap, BTreeSet};

use codec::Decode;
use finality_grandpa::{Chain, Error as GrandpaError, voter_set::VoterSet};
use prb_core::{primitives::Hash, wire::AuthoritySet};
use sp_consensus_grandpa::{
    AuthorityId, AuthoritySignature, GrandpaJustification, check_message_signature_with_buffer,
};
use sp_core::{H256, crypto::UncheckedFrom};
use sp_runtime::{
    generic,
    traits::{BlakeTwo256, Header as _},
};

use super::Error;

type Header = generic::Header<u32, BlakeTwo256>;
type Justification = GrandpaJustification<Header>;

/// Most votes of one authority in a justification.
const MAX_VOTES: usize = 2;
/// Most copies of the headers in a justification, on average: workers accept repeated ones.
const MAX_COPIES: usize = 2;

/// Returns the block that a justification claims to prove, without any check.
///
/// # Errors
/// [`Error::Encoding`].
pub fn target(justification: &[u8]) -> Result<(u32, Hash), Error> {
    let decoded = decode(justification)?;
    Ok((decoded.commit.target_number, Hash(decoded.commit.target_hash.0)))
}

/// Checks that the set has finalised the block: signed precommits of more than two thirds of the weight, for
/// the block or its descendants.
///
/// # Errors
/// [`Error::Encoding`], [`Error::Justification`].
pub fn check(justification: &[u8], set: &AuthoritySet, number: u32, hash: Hash) -> Result<(), Error> {
    let bad = |reason| Error::Justification { number, reason };
    let Justification { round, commit, votes_ancestries } = decode(justification)?;
    if commit.target_number != number || commit.target_hash.0 != hash.0 {
        return Err(bad("it is of another block"));
    }
    // Two votes of one authority are kept as evidence of an equivocation; more prove nothing. Unlimited ones would
    // make a block that no worker accepts, because of its size.
    if commit.precommits.len() > MAX_VOTES * set.list.len() {
        return Err(bad("it repeats votes"));
    }
    let voters = set.list.iter().map(|(key, weight)| (AuthorityId::unchecked_from(*key), *weight));
    let voters = VoterSet::new(voters).ok_or_else(|| bad("the authority set is empty"))?;

    let carried = votes_ancestries.len();
    let chain = Ancestry::new(votes_ancestries);
    if carried > MAX_COPIES * chain.headers.len() {
        return Err(bad("it repeats headers"));
    }
    match finality_grandpa::validate_commit(&commit, &voters, &chain) {
        Ok(result) if result.is_valid() => {}
        _ => return Err(bad("it has too few votes of the authority set")),
    }
    // Votes are routed to the lowest vote, not to the target, as in substrate and pRuntime: their results must
    // be the same for every justification.
    let base = commit
        .precommits
        .iter()
        .map(|signed| &signed.precommit)
        .min_by_key(|precommit| precommit.target_number)
        .map(|precommit| precommit.target_hash)
        .ok_or_else(|| bad("it has no votes"))?;

    let visited = check_votes(&commit.precommits, (round, set.id), base, &chain).map_err(bad)?;
    // pRuntime refuses headers that no vote needs.
    if visited.len() != chain.headers.len() || !visited.iter().all(|hash| chain.headers.contains_key(hash)) {
        return Err(bad("it carries headers that no vote needs"));
    }
    Ok(())
}

type Votes = [finality_grandpa::SignedPrecommit<H256, u32, AuthoritySignature, AuthorityId>];

/// Checks the votes' signatures, and that each is for `base` or a descendant. Returns the blocks between.
fn check_votes(
    votes: &Votes,
    (round, set_id): (u64, u64),
    base: H256,
    chain: &Ancestry,
) -> Result<BTreeSet<H256>, &'static str> {
    let (mut buffer, mut visited) = (Vec::new(), BTreeSet::new());
    for signed in votes {
        let message = finality_grandpa::Message::Precommit(signed.precommit.clone());
        let signature = check_message_signature_with_buffer(
            &message,
            &signed.id,
            &signed.signature,
            round,
            set_id,
            &mut buffer,
        );
        if !signature.is_valid() {
            return Err("a vote's signature is wrong");
        }
        if signed.precommit.target_hash != base {
            let route = chain
                .ancestry(base, signed.precommit.target_hash)
                .map_err(|_| "a vote is for no descendant of the block")?;
            // The route does not include its target.
            visited.insert(signed.precommit.target_hash);
            visited.extend(route);
        }
    }
    Ok(visited)
}

fn decode(mut justification: &[u8]) -> Result<Justification, Error> {
    let bad = || Error::Encoding { what: "the justification" };
    let decoded = Justification::decode(&mut justification).map_err(|_| bad())?;
    // Bytes after its end would be stored and sent to workers.
    if justification.is_empty() { Ok(decoded) } else { Err(bad()) }
}

/// The headers that a justification carries for votes on descendants of its block.
struct Ancestry {
    headers: BTreeMap<H256, Header>,
}

impl Ancestry {
    fn new(headers: Vec<Header>) -> Self {
        Self { headers: headers.into_iter().map(|header| (header.hash(), header)).collect() }
    }
}

impl Chain<H256, u32> for Ancestry {
    fn ancestry(&self, base: H256, block: H256) -> Result<Vec<H256>, GrandpaError> {
        let mut route = Vec::new();
        let mut current = block;
        while current != base {
            let header = self.headers.get(&current).ok_or(GrandpaError::NotDescendent)?;
            current = *header.parent_hash();
            route.push(current);
        }
        // The base itself is not part of the route.
        route.pop();
        Ok(route)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use codec::Encode;
    use prb_devnet::{Config, Devnet};

    use super::*;
    use crate::verify::state;

    #[tokio::test]
    async fn justification_with_more_than_proves_anything_is_refused() {
        let devnet = Devnet::start(Config { history: 12, set_length: 0, ..Config::default() }).await.unwrap();
        let relay = devnet.relay();
        let is_justified = |number: &u32| relay.justification(*number).is_some();
        let number = (1..=relay.finalized_number()).rev().find(is_justified).unwrap();
        let (block, root) = (relay.block_hash(number).unwrap(), relay.header(number).unwrap().state_root);
        let proof = relay.read_proof(&state::authority_keys(), block).unwrap();
        let set = state::authority_set(Hash(root.0), proof).unwrap();
        let check = |justification: &[u8]| check(justification, &set, number, Hash(block.0));
        let justification = relay.justification(number).unwrap();
        check(&justification).unwrap();

        let more = [&justification[..], &[0]].concat();
        assert_eq!(check(&more), Err(Error::Encoding { what: "the justification" }));
        let repeated = |times: usize| {
            let mut decoded = decode(&justification).unwrap();
            let votes = std::mem::take(&mut decoded.commit.precommits);
            decoded.commit.precommits = std::iter::repeat_n(votes, times).flatten().collect();
            check(&decoded.encode())
        };
        assert_eq!(repeated(2), Ok(()), "as many as equivocations may add");
        assert_eq!(repeated(3), Err(Error::Justification { number, reason: "it repeats votes" }));
    }
}
