//! An independent verifier: it knows the chains by RPC alone and checks them with public crates.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::{BTreeMap, HashSet};

use codec::Decode;
use finality_grandpa::{Message, voter_set::VoterSet};
use prb_devnet::{Config, Devnet, node::FinalityProof};
use prb_devnet_runtime::Header;
use sp_consensus_grandpa::{
    AuthorityId, AuthorityList, ConsensusLog, GRANDPA_ENGINE_ID, GrandpaJustification, SignatureResult,
    check_message_signature,
};
use sp_core::{Bytes, H256};
use sp_runtime::traits::BlakeTwo256;
use sp_state_machine::read_proof_check;
use sp_trie::{LayoutV0, StorageProof, TrieConfiguration};
use subxt_rpcs::{RpcClient, rpc_params};

type Changes = Vec<(Bytes, Option<Bytes>)>;

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct StorageChanges {
    main_storage_changes: Changes,
    child_storage_changes: Vec<(Bytes, Changes)>,
}

#[derive(serde::Deserialize)]
#[serde(rename_all = "camelCase")]
struct ChangesWithRoot {
    changes: StorageChanges,
    state_root: Vec<u8>,
}

#[derive(serde::Deserialize)]
struct ReadProof {
    at: H256,
    proof: Vec<Bytes>,
}

#[derive(serde::Deserialize)]
struct SignedBlock {
    block: Block,
    justifications: Option<Vec<([u8; 4], Vec<u8>)>>,
}

#[derive(serde::Deserialize)]
struct Block {
    header: Header,
    extrinsics: Vec<Bytes>,
}

/// Headers that a justification brings along, as the ancestry of its votes.
struct Ancestry(BTreeMap<H256, Header>);

impl finality_grandpa::Chain<H256, u32> for Ancestry {
    fn ancestry(&self, base: H256, block: H256) -> Result<Vec<H256>, finality_grandpa::Error> {
        let mut route = Vec::new();
        let mut current = block;
        while current != base {
            let header = self.0.get(&current).ok_or(finality_grandpa::Error::NotDescendent)?;
            current = header.parent_hash;
            route.push(current);
        }
        route.pop();
        Ok(route)
    }
}

/// What the verifier tracks.
struct Verifier {
    rpc: RpcClient,
    set_id: u64,
    authorities: AuthorityList,
    last: Header,
    ancestries: usize,
}

fn storage_key(pallet: &str, item: &str) -> Vec<u8> {
    let hash = |name: &str| sp_io::hashing::twox_128(name.as_bytes());
    [hash(pallet), hash(item)].concat()
}

fn heads_key(para_id: u32) -> Vec<u8> {
    let id = para_id.to_le_bytes();
    [storage_key("Paras", "Heads"), sp_io::hashing::twox_64(&id).to_vec(), id.to_vec()].concat()
}

/// Reads a value by its proof.
async fn proven(rpc: &RpcClient, key: Vec<u8>, header: &Header) -> Option<Vec<u8>> {
    let keys = vec![Bytes(key.clone())];
    let proof: ReadProof = rpc.request("state_getReadProof", rpc_params![keys, header.hash()]).await.unwrap();
    assert_eq!(proof.at, header.hash());
    let nodes = StorageProof::new(proof.proof.into_iter().map(|node| node.0));
    let mut values = read_proof_check::<BlakeTwo256, _>(header.state_root, nodes, [key.clone()]).unwrap();
    values.remove(&key).unwrap()
}

async fn header_at(rpc: &RpcClient, number: u32) -> Header {
    let hash: H256 = rpc.request("chain_getBlockHash", rpc_params![number]).await.unwrap();
    let header: Header = rpc.request("chain_getHeader", rpc_params![hash]).await.unwrap();
    assert_eq!(header.hash(), hash);
    header
}

async fn finalized(rpc: &RpcClient) -> Header {
    let hash: H256 = rpc.request("chain_getFinalizedHead", rpc_params![]).await.unwrap();
    rpc.request("chain_getHeader", rpc_params![hash]).await.unwrap()
}

fn next_authorities(header: &Header) -> Option<AuthorityList> {
    header.digest.logs.iter().filter_map(|log| log.as_consensus()).find_map(|(engine, data)| {
        match (engine, ConsensusLog::<u32>::decode(&mut &data[..])) {
            (GRANDPA_ENGINE_ID, Ok(ConsensusLog::ScheduledChange(change))) => {
                assert_eq!(change.delay, 0);
                Some(change.next_authorities)
            }
            _ => None,
        }
    })
}

/// Checks a justification as substrate's client does, and returns how many headers it brings.
fn check_justification(
    bytes: &[u8],
    target: &Header,
    set_id: u64,
    authorities: &AuthorityList,
) -> Result<usize, String> {
    let justification =
        GrandpaJustification::<Header>::decode(&mut &bytes[..]).map_err(|error| error.to_string())?;
    let commit = &justification.commit;
    if (commit.target_hash, commit.target_number) != (target.hash(), target.number) {
        return Err("another target".into());
    }
    let voters = VoterSet::<AuthorityId>::new(authorities.iter().cloned()).unwrap();
    let headers = justification.votes_ancestries.iter();
    let ancestry = Ancestry(headers.map(|header| (header.hash(), header.clone())).collect());
    let result =
        finality_grandpa::validate_commit(commit, &voters, &ancestry).map_err(|error| error.to_string())?;
    if !result.is_valid() {
        return Err("invalid commit".into());
    }
    let mut visited = HashSet::new();
    for signed in &commit.precommits {
        let message = Message::Precommit(signed.precommit.clone());
        let round = justification.round;
        let checked = check_message_signature(&message, &signed.id, &signed.signature, round, set_id);
        if checked != SignatureResult::Valid {
            return Err("invalid signature".into());
        }
        if signed.precommit.target_hash != commit.target_hash {
            visited.insert(signed.precommit.target_hash);
        }
    }
    let brought: HashSet<H256> = ancestry.0.keys().copied().collect();
    if visited != brought {
        return Err("unused or missing headers".into());
    }
    Ok(brought.len())
}

impl Verifier {
    async fn new(url: &str) -> Self {
        let rpc = RpcClient::from_insecure_url(url).await.unwrap();
        let genesis = header_at(&rpc, 0).await;
        let id = proven(&rpc, storage_key("Grandpa", "CurrentSetId"), &genesis).await.unwrap();
        let list = proven(&rpc, storage_key("Grandpa", "Authorities"), &genesis).await.unwrap();
        Self {
            set_id: u64::decode(&mut &id[..]).unwrap(),
            authorities: AuthorityList::decode(&mut &list[..]).unwrap(),
            last: genesis,
            rpc,
            ancestries: 0,
        }
    }

    async fn proof(&self, number: u32) -> FinalityProof {
        let proof: Bytes = self.rpc.request("grandpa_proveFinality", rpc_params![number]).await.unwrap();
        FinalityProof::decode(&mut &proof[..]).unwrap()
    }

    /// Follows the relay chain to its final head by finality proofs, checking everything.
    async fn follow(&mut self) {
        while self.last.number < finalized(&self.rpc).await.number {
            let proof = self.proof(self.last.number + 1).await;
            let first = header_at(&self.rpc, self.last.number + 1).await;
            let headers = std::iter::once(first).chain(proof.unknown_headers);
            let mut headers: Vec<Header> = headers.collect();
            for (index, header) in headers.iter().enumerate() {
                assert_eq!(header.parent_hash, self.last.hash(), "block {}", header.number);
                let ends = next_authorities(header).is_some();
                assert!(!ends || index == headers.len() - 1, "a set ends within a proof");
                self.last = header.clone();
            }
            let target = headers.pop().unwrap();
            assert_eq!(proof.block, target.hash());
            self.check(&proof.justification, &target).await;
        }
    }

    async fn check(&mut self, justification: &[u8], target: &Header) {
        let set = (self.set_id, &self.authorities);
        let brought = check_justification(justification, target, set.0, set.1).unwrap();
        self.ancestries += brought;
        assert!(check_justification(justification, target, self.set_id + 1, &self.authorities).is_err());
        if let Some(next) = next_authorities(target) {
            self.set_id += 1;
            let read = |item| proven(&self.rpc, storage_key("Grandpa", item), target);
            let id = read("CurrentSetId").await.unwrap();
            let list = read("Authorities").await.unwrap();
            assert_eq!(u64::decode(&mut &id[..]).unwrap(), self.set_id);
            assert_eq!(AuthorityList::decode(&mut &list[..]).unwrap(), next);
            assert_ne!(self.authorities, next, "the set rotates");
            self.authorities = next;
        }
    }
}

fn ticks(devnet: &Devnet, count: u32) {
    for _ in 0..count {
        devnet.tick().unwrap();
    }
}

fn config() -> Config {
    Config { history: 130, set_length: 20, justification_period: 16, ..Config::default() }
}

#[tokio::test(flavor = "multi_thread")]
async fn finality_proofs_and_set_changes_are_accepted() {
    let devnet = Devnet::start(config()).await.unwrap();
    let mut verifier = Verifier::new(&devnet.relay().url()).await;
    verifier.follow().await;
    assert_eq!((verifier.last.number, verifier.set_id), (129, 6));
    for _ in 0..15 {
        devnet.tick().unwrap();
        verifier.follow().await;
    }
    assert_eq!((verifier.last.number, verifier.set_id), (144, 7));
    assert!(verifier.ancestries > 0, "some justification brings an ancestry");
    devnet.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kept_justifications_are_sparse_and_accepted() {
    let devnet = Devnet::start(config()).await.unwrap();
    let rpc = RpcClient::from_insecure_url(devnet.relay().url()).await.unwrap();
    let mut kept = Vec::new();
    let mut set = (0, None);
    for number in 0..=130u32 {
        let hash: H256 = rpc.request("chain_getBlockHash", rpc_params![number]).await.unwrap();
        let block: SignedBlock = rpc.request("chain_getBlock", rpc_params![hash]).await.unwrap();
        let header = &block.block.header;
        assert_eq!(header.hash(), hash);
        assert_eq!(block.block.extrinsics.is_empty(), number == 0);
        if number == 0 {
            let list = proven(&rpc, storage_key("Grandpa", "Authorities"), header).await.unwrap();
            set.1 = Some(AuthorityList::decode(&mut &list[..]).unwrap());
        }
        if let Some([(engine, justification)]) = block.justifications.as_deref() {
            assert_eq!(engine, &GRANDPA_ENGINE_ID);
            check_justification(justification, header, set.0, set.1.as_ref().unwrap()).unwrap();
            kept.push(number);
        }
        if let Some(next) = next_authorities(header) {
            assert_eq!(kept.last(), Some(&number), "a set's last block keeps its justification");
            set = (set.0 + 1, Some(next));
        }
    }
    assert_eq!(kept, [16, 20, 32, 40, 48, 60, 64, 80, 96, 100, 112, 120, 128]);
    devnet.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn finality_proofs_end_with_the_set_or_at_the_newest_justification() {
    let devnet = Devnet::start(config()).await.unwrap();
    let verifier = Verifier::new(&devnet.relay().url()).await;
    let relay = devnet.relay();
    for (asked, proven) in [(0, 20), (1, 20), (20, 20), (21, 40), (119, 120), (121, 129), (129, 129)] {
        let proof = verifier.proof(asked).await;
        assert_eq!(relay.block_number(proof.block), Some(proven), "asked for {asked}");
        let numbers: Vec<u32> = proof.unknown_headers.iter().map(|header| header.number).collect();
        assert_eq!(numbers, (asked + 1..=proven).collect::<Vec<_>>());
    }
    let refused = verifier.rpc.request::<Option<Bytes>>("grandpa_proveFinality", rpc_params![130]);
    assert!(refused.await.unwrap_err().to_string().contains("only have finalized #129"));
    // A stale node has only the justifications that it kept: older than the block asked for.
    relay.faults().freeze_at(Some(127));
    let proof = verifier.proof(125).await;
    assert_eq!(relay.block_number(proof.block), Some(120));
    assert!(proof.unknown_headers.is_empty());
    devnet.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn relay_blocks_include_parachain_heads() {
    let devnet = Devnet::start(Config { history: 30, ..Config::default() }).await.unwrap();
    devnet.pause_para(true);
    ticks(&devnet, 10);
    devnet.pause_para(false);
    ticks(&devnet, 10);
    let relay = RpcClient::from_insecure_url(devnet.relay().url()).await.unwrap();
    let para = RpcClient::from_insecure_url(devnet.para().url()).await.unwrap();
    let mut heads = Vec::new();
    for number in 0..=finalized(&relay).await.number {
        let header = header_at(&relay, number).await;
        let head = proven(&relay, heads_key(devnet.para_id()), &header).await.unwrap();
        let head = Header::decode(&mut &head_bytes(&head)[..]).unwrap();
        assert_eq!(head.hash(), header_at(&para, head.number).await.hash());
        heads.push(head.number);
    }
    assert_eq!(heads[..6], [0, 0, 0, 1, 1, 2]);
    assert_eq!(heads[31..42], [15; 11], "a paused parachain's head does not advance");
    assert_eq!(heads[43], 16);
    assert_eq!(finalized(&para).await.number, *heads.last().unwrap());
    let first = header_at(&para, 1).await;
    let data = proven(&para, storage_key("ParachainSystem", "ValidationData"), &first).await;
    type ValidationData = prb_devnet_runtime::types::PersistedValidationData;
    let data = ValidationData::decode(&mut &data.unwrap()[..]).unwrap();
    assert_eq!(data.relay_parent_number, 2);
    let relay_parent = header_at(&relay, data.relay_parent_number).await;
    assert_eq!(data.relay_parent_storage_root, relay_parent.state_root);
    devnet.shutdown().await;
}

/// Opens the outer Vec<u8>.
fn head_bytes(value: &[u8]) -> Vec<u8> {
    Vec::<u8>::decode(&mut &value[..]).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn storage_changes_reproduce_every_state_root() {
    let devnet = Devnet::start(Config { history: 120, ..Config::default() }).await.unwrap();
    devnet.upgrade_para_runtime();
    ticks(&devnet, 10);
    let rpc = RpcClient::from_insecure_url(devnet.para().url()).await.unwrap();
    let genesis = header_at(&rpc, 0).await;
    let pairs: Vec<(Bytes, Bytes)> =
        rpc.request("state_getPairs", rpc_params!["0x", genesis.hash()]).await.unwrap();
    let mut state: BTreeMap<Vec<u8>, Vec<u8>> =
        pairs.into_iter().map(|(key, value)| (key.0, value.0)).collect();
    let root = |state: &BTreeMap<_, _>| LayoutV0::<BlakeTwo256>::trie_root(state);
    assert_eq!(root(&state), genesis.state_root);

    let zero: Vec<StorageChanges> =
        rpc.request("pha_getStorageChanges", rpc_params![genesis.hash(), genesis.hash()]).await.unwrap();
    let mut of_genesis = BTreeMap::new();
    apply(&mut of_genesis, &zero[0]);
    assert_eq!(of_genesis, state, "block 0's changes are the whole state");

    let last = header_at(&rpc, 65).await;
    let first = header_at(&rpc, 1).await;
    let changes: Vec<ChangesWithRoot> =
        rpc.request("pha_getStorageChangesWithRoot", rpc_params![first.hash(), last.hash()]).await.unwrap();
    assert_eq!(changes.len(), 65);
    for (number, item) in (1u32..).zip(changes) {
        apply(&mut state, &item.changes);
        let header = header_at(&rpc, number).await;
        assert_eq!(root(&state), header.state_root, "block {number}");
        assert_eq!(item.state_root, header.state_root.as_bytes());
        let at: Bytes = rpc.request("pha_getStorageChangesAt", rpc_params![header.hash()]).await.unwrap();
        let at = prb_devnet::node::StorageChanges::decode(&mut &at[..]).unwrap();
        let main: Changes = at.main.into_iter().map(|(key, value)| (Bytes(key), value.map(Bytes))).collect();
        assert_eq!(main, item.changes.main_storage_changes);
    }
    devnet.shutdown().await;
}

fn apply(state: &mut BTreeMap<Vec<u8>, Vec<u8>>, changes: &StorageChanges) {
    assert!(changes.child_storage_changes.is_empty());
    for (key, value) in &changes.main_storage_changes {
        match value {
            Some(value) => drop(state.insert(key.0.clone(), value.0.clone())),
            None => drop(state.remove(&key.0)),
        }
    }
}
