//! Queries of the finalised chain, with fail-over from node to node.

use std::{sync::Arc, time::Duration};

use codec::Decode;
use futures::{StreamExt, stream::FuturesUnordered};
use prb_core::{
    primitives::{Balance, Hash},
    wire::Header,
};
use scale_decode::DecodeAsType;
use scale_value::Value;
use serde::Deserialize;

use crate::{
    metadata::{self, Balances, FetchError, OutcomeError, Runtime},
    rpc::{
        self, HeadFloor, NO_PARAMS, Node, NodePool,
        json::{self, HexBytes},
    },
};

/// How long a node may take to return its finalised head once another has.
const HEAD_TIMEOUT: Duration = Duration::from_secs(1);

/// Why a node did not answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error(transparent)]
    Rpc(#[from] rpc::Error),
    #[error(transparent)]
    Metadata(#[from] metadata::Error),
    #[error(transparent)]
    Outcome(#[from] OutcomeError),
    #[error("{node} answered wrongly: {reason}")]
    Wrong { node: Arc<str>, reason: String },
}

impl From<FetchError> for Error {
    fn from(e: FetchError) -> Self {
        match e {
            FetchError::Rpc(e) => Self::Rpc(e),
            FetchError::Metadata(e) => Self::Metadata(e),
        }
    }
}

impl Error {
    pub(super) fn wrong(node: &Node, reason: impl Into<String>) -> Self {
        Self::Wrong { node: Arc::clone(node.name()), reason: reason.into() }
    }
}

/// Asks each node in turn until one answers.
pub(super) async fn any<T, F, Fut>(pool: &NodePool, mut ask: F) -> Result<T, Error>
where
    F: FnMut(Arc<Node>) -> Fut,
    Fut: Future<Output = Result<T, Error>>,
{
    pool.wait_for_chain().await?;
    let mut last = None;
    // One after the other: asking all at once would multiply the load, and the first one usually answers.
    for node in pool.trusted() {
        match ask(Arc::clone(&node)).await {
            Ok(answer) => return Ok(answer),
            Err(e) => {
                tracing::debug!(node = %node.name(), error = %e, "node did not answer");
                last = Some(e);
            }
        }
    }
    Err(last.unwrap_or_else(|| no_node(pool)))
}

/// Returns the nodes that answer with their finalised heads, those furthest ahead first, otherwise in the
/// pool's order. A node that lags or hangs does not delay the others.
pub(super) async fn heads(pool: &NodePool) -> Result<Vec<(Arc<Node>, Head)>, Error> {
    pool.wait_for_chain().await?;
    let mut asked: FuturesUnordered<_> = pool
        .trusted()
        .into_iter()
        .enumerate()
        .map(|(place, node)| async move {
            let head = finalised_head(&node).await;
            (place, node, head)
        })
        .collect();
    let (mut answered, mut last) = (Vec::new(), None);
    loop {
        // The first answer is waited for without a limit: each request has its own time-out.
        let next = if answered.is_empty() {
            asked.next().await
        } else {
            tokio::time::timeout(HEAD_TIMEOUT, asked.next()).await.ok().flatten()
        };
        match next {
            Some((place, node, Ok(head))) => answered.push((place, node, head)),
            Some((_, node, Err(e))) => {
                tracing::debug!(node = %node.name(), error = %e, "node did not return its head");
                last = Some(e);
            }
            None => break,
        }
    }
    answered.sort_by_key(|(place, _, head)| (std::cmp::Reverse(head.header.number), *place));
    if answered.is_empty() {
        return Err(last.unwrap_or_else(|| no_node(pool)));
    }
    Ok(answered.into_iter().map(|(_, node, head)| (node, head)).collect())
}

/// Queries the newest finalised state, at the node furthest ahead, or at others equally far if it does not
/// answer. An answer never comes from a state older than one already seen, whose number is kept in `floor`.
pub(super) async fn newest<T, F, Fut>(pool: &NodePool, floor: &HeadFloor, mut ask: F) -> Result<T, Error>
where
    F: FnMut(Arc<Node>, Head) -> Fut,
    Fut: Future<Output = Result<T, Error>>,
{
    let mut last = None;
    for (node, head) in heads(pool).await? {
        let number = head.header.number;
        // An older state may lack our own transaction, and its calls would be sent again.
        if let Some(least) = floor.above(pool, number) {
            let reason = format!("its newest final block is {number}, but {least} was already final");
            last.get_or_insert(Error::wrong(&node, reason));
            continue;
        }
        match ask(Arc::clone(&node), head).await {
            Ok(answer) => {
                floor.raise(Some(&node), number);
                return Ok(answer);
            }
            Err(e) => {
                tracing::debug!(node = %node.name(), error = %e, "node did not answer");
                last = Some(e);
            }
        }
    }
    Err(last.unwrap_or_else(|| no_node(pool)))
}

fn no_node(pool: &NodePool) -> Error {
    rpc::Error::NoTrustedNode { chain: pool.chain() }.into()
}

/// A finalised head and its header.
#[derive(Clone, Debug)]
pub(super) struct Head {
    pub(super) hash: Hash,
    pub(super) header: Header,
}

/// A block's header and transactions.
#[derive(Clone, Debug)]
pub(super) struct Block {
    pub(super) hash: Hash,
    pub(super) header: Header,
    pub(super) extrinsics: Vec<Vec<u8>>,
}

#[derive(Deserialize)]
struct SignedBlock {
    block: BlockJson,
}

#[derive(Deserialize)]
struct BlockJson {
    header: json::Header,
    extrinsics: Vec<HexBytes>,
}

pub(super) async fn finalised_head(node: &Node) -> Result<Head, Error> {
    let hash: Hash = node.request("chain_getFinalizedHead", NO_PARAMS).await?;
    let header: json::Header = node.request("chain_getHeader", [hash]).await?;
    Ok(Head { hash, header: checked(node, hash, &header)? })
}

/// Returns the newest block's number, final or not.
pub(super) async fn best_number(node: &Node) -> Result<u32, Error> {
    let header: json::Header = node.request("chain_getHeader", NO_PARAMS).await?;
    Ok(header.number())
}

/// Fetches the blocks with these hashes.
pub(super) async fn blocks(node: &Node, hashes: &[Hash]) -> Result<Vec<Block>, Error> {
    let calls: Vec<_> = hashes.iter().map(|hash| [hash]).collect();
    let answers: Vec<Option<SignedBlock>> = node.request_many("chain_getBlock", &calls).await?;
    let mut blocks = Vec::with_capacity(hashes.len());
    for (answer, &hash) in answers.into_iter().zip(hashes) {
        let Some(SignedBlock { block }) = answer else {
            return Err(Error::wrong(node, format!("it does not have block {hash}")));
        };
        let header = checked(node, hash, &block.header)?;
        let extrinsics = block.extrinsics.into_iter().map(|bytes| bytes.0).collect();
        blocks.push(Block { hash, header, extrinsics });
    }
    Ok(blocks)
}

/// Fetches the canonical blocks of these numbers.
pub(super) async fn blocks_by_number(
    node: &Node,
    numbers: impl IntoIterator<Item = u32>,
) -> Result<Vec<Block>, Error> {
    let calls: Vec<_> = numbers.into_iter().map(|n| [n]).collect();
    // Two rounds: nodes return blocks by hash only.
    let hashes: Vec<Option<Hash>> = node.request_many("chain_getBlockHash", &calls).await?;
    let hashes: Option<Vec<Hash>> = hashes.into_iter().collect();
    let hashes = hashes.ok_or_else(|| Error::wrong(node, "it does not have a finalised block"))?;
    blocks(node, &hashes).await
}

fn checked(node: &Node, hash: Hash, header: &json::Header) -> Result<Header, Error> {
    let bytes = header.encode();
    // The hash is the only thing that ties this header to the head that the node announced.
    if Hash::of(&bytes) != hash {
        return Err(Error::wrong(node, format!("the header of {hash} has a different hash")));
    }
    Header::decode(&mut &*bytes)
        .map_err(|_| Error::wrong(node, format!("the header of {hash} cannot be decoded")))
}

/// An account's nonce and balances.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Funds {
    pub(super) nonce: u64,
    pub(super) free: Balance,
    /// The part of the free balance that fees cannot be taken from.
    pub(super) untouchable: Balance,
}

#[derive(DecodeAsType)]
struct AccountInfo {
    nonce: u64,
    data: Value<()>,
}

/// Returns an account's nonce and balances in the state of `block`, by default the best one.
pub(super) async fn funds(
    node: &Node,
    runtime: &Runtime,
    account: prb_core::primitives::AccountId,
    block: Option<Hash>,
) -> Result<Funds, Error> {
    let item = runtime.item("System", "Account")?;
    let key = HexBytes(item.key(&account.0));
    let value: Option<HexBytes> = match block {
        Some(hash) => node.request("state_getStorage", (key, hash)).await?,
        None => node.request("state_getStorage", [key]).await?,
    };
    // An account that never received anything does not exist, and has nonce 0.
    let Some(value) = value else { return Ok(Funds::default()) };
    let Some(info) = item.read::<AccountInfo>(Some(&value.0))? else { return Ok(Funds::default()) };
    let Some(Balances { free, frozen }) = Balances::read(&info.data) else {
        return Err(
            metadata::Error::Layout { name: item.name().into(), reason: "it has no `free`".into() }.into()
        );
    };
    // Fees may not take the account below the existential deposit.
    let deposit: Balance = runtime.constant("Balances", "ExistentialDeposit").unwrap_or(0);
    Ok(Funds { nonce: info.nonce, free, untouchable: frozen.max(deposit) })
}
