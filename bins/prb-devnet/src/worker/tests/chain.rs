//! A handmade relay chain and parachain, small enough to tamper with.

use std::{collections::BTreeMap, ops::RangeInclusive};

use codec::Encode;
use finality_grandpa::{Message, Precommit, SignedPrecommit};
use prb_core::{
    primitives::Hash,
    wire::{
        AuthorityList, AuthoritySet, BlockHeaderWithChanges, DigestItem, GRANDPA_ENGINE_ID, GenesisBlockInfo,
        Header, HeaderToSync, KeyChanges, ScheduledChange, StorageChanges,
    },
};
use sp_consensus_grandpa::{Commit, GrandpaJustification, localized_payload};
use sp_core::{Blake2Hasher, H256, Pair, ed25519};
use sp_runtime::{generic, traits::BlakeTwo256};
use sp_trie::{EMPTY_PREFIX, LayoutV0, LayoutV1, MemoryDB, TrieConfiguration, TrieDBMutBuilder, TrieMut};

use crate::worker::keys;

pub(crate) type RelayHeader = generic::Header<u32, BlakeTwo256>;
pub(crate) const PARA_ID: u32 = 2004;
/// The relay block that workers start from.
pub(crate) const START: u32 = 1;

/// Relay block n (from [`START`] + 1 on) names parachain block n − 2.
pub(crate) struct MiniChain {
    pub(crate) relay: BTreeMap<u32, RelayBlock>,
    pub(crate) para: Vec<ParaBlock>,
    set_size: u8,
}

pub(crate) struct RelayBlock {
    pub(crate) header: Header,
    pub(crate) nodes: Vec<Vec<u8>>,
    /// The set that finalises it.
    pub(crate) set_id: u64,
}

pub(crate) struct ParaBlock {
    pub(crate) header: Header,
    pub(crate) changes: StorageChanges,
    pub(crate) state: BTreeMap<Vec<u8>, Vec<u8>>,
}

pub(crate) fn authority(number: u8) -> ed25519::Pair {
    ed25519::Pair::from_seed(&[number; 32])
}

/// Set `id`: a window over the authorities that moves by one.
pub(crate) fn set(id: u64, size: u8) -> AuthorityList {
    (0..size).map(|n| (authority(n + id as u8).public().0, 1)).collect()
}

impl MiniChain {
    /// A chain whose relay blocks `changes_at` schedule the next set, with `changes` changes in every parachain
    /// block.
    pub(crate) fn new(blocks: u32, set_size: u8, changes_at: &[u32], changes: u32) -> Self {
        let mut genesis = BTreeMap::from([(keys::para_id(), PARA_ID.encode())]);
        genesis.extend((0..50u32).map(|n| (n.to_le_bytes().repeat(9), vec![n as u8; 40])));
        let mut chain = Self { relay: BTreeMap::new(), para: Vec::new(), set_size };
        let pairs = genesis.into_iter().map(|(key, value)| (key, Some(value))).collect();
        chain.add_para(pairs);
        chain.add_relay(START, 0, false);
        let mut set_id = 0;
        for number in START + 1..=blocks {
            let changing = changes_at.contains(&number);
            chain.add_relay(number, set_id, changing);
            set_id += u64::from(changing);
            chain.add_para(arbitrary_changes(number, changes));
        }
        chain
    }

    pub(crate) fn add_para(&mut self, main: KeyChanges) {
        let parent = self.para.last();
        let mut state = parent.map(|block| block.state.clone()).unwrap_or_default();
        for (key, value) in &main {
            match value {
                Some(value) => state.insert(key.clone(), value.clone()),
                None => state.remove(key),
            };
        }
        // Recomputed from all pairs, independently of a worker's method.
        let root = LayoutV0::<Blake2Hasher>::trie_root(&state);
        let parent_hash = parent.map(|block| block.header.hash()).unwrap_or_default();
        let header = header(parent_hash, self.para.len() as u32, root, Vec::new());
        self.para.push(ParaBlock { header, changes: StorageChanges { main, child: Vec::new() }, state });
    }

    pub(crate) fn add_relay(&mut self, number: u32, set_id: u64, changing: bool) {
        let next_id = set_id + u64::from(changing);
        let mut pairs = vec![
            (keys::grandpa_authorities(), set(next_id, self.set_size).encode()),
            (b"filling".repeat(9), vec![number as u8; 200]),
        ];
        if number > START {
            let head = self.para.last().unwrap().header.encode().encode();
            pairs.push((keys::para_head(PARA_ID), head));
        }
        let (root, nodes) = relay_trie(&pairs);
        let mut digest = vec![DigestItem::PreRuntime(*b"BABE", vec![number as u8; 8])];
        if changing {
            let change = ScheduledChange { next_authorities: set(next_id, self.set_size), delay: 0 };
            digest.push(DigestItem::Consensus(GRANDPA_ENGINE_ID, [vec![1], change.encode()].concat()));
        }
        let parent_hash = match number.checked_sub(1).and_then(|number| self.relay.get(&number)) {
            Some(parent) => parent.header.hash(),
            None => Hash([7; 32]),
        };
        let header = header(parent_hash, number, root, digest);
        self.relay.insert(number, RelayBlock { header, nodes, set_id });
    }

    pub(crate) fn genesis_info(&self) -> GenesisBlockInfo {
        let start = &self.relay[&START];
        GenesisBlockInfo {
            block_header: start.header.clone(),
            authority_set: AuthoritySet { list: set(0, self.set_size), id: 0 },
            proof: start.nodes.clone(),
        }
    }

    pub(crate) fn state(&self, number: u32) -> Vec<(Vec<u8>, Vec<u8>)> {
        self.para[number as usize].state.clone().into_iter().collect()
    }

    /// Headers, the last one justified.
    pub(crate) fn relay_headers(&self, range: RangeInclusive<u32>) -> Vec<HeaderToSync> {
        let last = *range.end();
        range
            .map(|number| HeaderToSync {
                header: self.relay[&number].header.clone(),
                justification: (number == last).then(|| self.justification(number).encode()),
            })
            .collect()
    }

    pub(crate) fn para_headers(&self, range: RangeInclusive<u32>) -> Vec<Header> {
        range.map(|number| self.para[number as usize].header.clone()).collect()
    }

    pub(crate) fn proof(&self, relay_number: u32) -> Vec<Vec<u8>> {
        self.relay[&relay_number].nodes.clone()
    }

    /// Blocks as bridges send them: of the header only the number matters.
    pub(crate) fn blocks(&self, range: RangeInclusive<u32>) -> Vec<BlockHeaderWithChanges> {
        range
            .map(|number| BlockHeaderWithChanges {
                block_header: header(Hash::default(), number, H256::zero(), Vec::new()),
                storage_changes: self.para[number as usize].changes.clone(),
            })
            .collect()
    }

    /// A justification by the whole set that finalises the block, the last authority voting for its child, if
    /// there is one.
    pub(crate) fn justification(&self, number: u32) -> GrandpaJustification<RelayHeader> {
        let block = &self.relay[&number];
        let mut targets = vec![number; self.set_size.into()];
        let child = self.relay.get(&(number + 1)).filter(|child| child.set_id == block.set_id);
        // A commit's target is the lowest vote's: one authority alone votes for it.
        if child.is_some() && self.set_size > 1 {
            targets[usize::from(self.set_size) - 1] = number + 1;
        }
        self.signed(number, block.set_id, block.set_id, &targets)
    }

    /// A justification by the first authorities of `signers` under `set_id`, each for its target.
    pub(crate) fn signed(
        &self,
        number: u32,
        signers: u64,
        set_id: u64,
        targets: &[u32],
    ) -> GrandpaJustification<RelayHeader> {
        let round = 3;
        let hash = |number: u32| H256(self.relay[&number].header.hash().0);
        let vote = |(index, target): (usize, &u32)| {
            let pair = authority(index as u8 + signers as u8);
            let precommit = Precommit { target_hash: hash(*target), target_number: *target };
            let payload = localized_payload(round, set_id, &Message::Precommit(precommit.clone()));
            SignedPrecommit { precommit, signature: pair.sign(&payload).into(), id: pair.public().into() }
        };
        let precommits = targets.iter().enumerate().map(vote).collect();
        let highest = targets.iter().copied().max().unwrap_or(number);
        let votes_ancestries = (number + 1..=highest).map(|number| substrate(&self.relay[&number].header));
        GrandpaJustification {
            round,
            commit: Commit::<RelayHeader> { target_hash: hash(number), target_number: number, precommits },
            votes_ancestries: votes_ancestries.collect(),
        }
    }
}

pub(crate) fn substrate(header: &Header) -> RelayHeader {
    codec::Decode::decode(&mut &*header.encode()).unwrap()
}

/// Root and all nodes of a trie of the relay chain's newer state version.
pub(crate) fn relay_trie(pairs: &[(Vec<u8>, Vec<u8>)]) -> (H256, Vec<Vec<u8>>) {
    let mut db = MemoryDB::<Blake2Hasher>::default();
    let mut root = H256::zero();
    {
        let mut trie = TrieDBMutBuilder::<LayoutV1<Blake2Hasher>>::new(&mut db, &mut root).build();
        for (key, value) in pairs {
            trie.insert(key, value).unwrap();
        }
    }
    let _ = EMPTY_PREFIX;
    let nodes = db.drain().into_values().filter(|(_, refs)| *refs > 0).map(|(node, _)| node).collect();
    (root, nodes)
}

fn header(parent_hash: Hash, number: u32, root: H256, digest: Vec<DigestItem>) -> Header {
    Header { parent_hash, number, state_root: Hash(root.0), extrinsics_root: Hash::default(), digest }
}

/// New, changed and removed keys, the same for the same block.
fn arbitrary_changes(block: u32, count: u32) -> KeyChanges {
    (0..count)
        .map(|n| {
            let random = sp_io::hashing::blake2_256(&(block, n).encode());
            let key = match n % 3 {
                0 => [b"load".as_slice(), &random[..28]].concat(),
                1 => [b"load".as_slice(), &[random[0] % 16], b"again"].concat(),
                _ => u32::from(random[0] % 50).to_le_bytes().repeat(9),
            };
            let value = (n % 7 != 2).then(|| random.repeat(1 + usize::from(random[1] % 4)));
            (key, value)
        })
        .collect()
}
