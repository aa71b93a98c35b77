//! `chain_*`: blocks and headers.

use std::sync::Arc;

use jsonrpsee::{PendingSubscriptionSink, SubscriptionSink, types::Params};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sp_core::H256;
use tokio::sync::watch;

use super::{Answer, Module, Registered, aliases, error, method, view::View};
use crate::node::Node;

/// Maximum number of block hashes in one answer.
const MAX_HASHES: usize = 100_000;

/// A block number as clients send it.
#[derive(Deserialize, Clone)]
#[serde(untagged)]
enum BlockNumber {
    Number(u32),
    Text(String),
}

/// One block number or several.
#[derive(Deserialize, Clone)]
#[serde(untagged)]
enum ListOrNumber {
    Number(BlockNumber),
    List(Vec<BlockNumber>),
}

impl BlockNumber {
    fn number(&self) -> Answer<u32> {
        let parsed = match self {
            Self::Number(number) => Some(*number),
            Self::Text(text) => text
                .strip_prefix("0x")
                .map_or_else(|| text.parse().ok(), |digits| u32::from_str_radix(digits, 16).ok()),
        };
        parsed.ok_or_else(|| error(-32602, "invalid block number"))
    }
}

pub(super) fn register(module: &mut Module) -> Registered {
    method(module, "chain_getBlockHash", block_hash)?;
    method(module, "chain_getHeader", header)?;
    method(module, "chain_getBlock", block)?;
    method(module, "chain_getFinalizedHead", |_, view| {
        let head = view.false_head().map(|header| header.hash());
        Ok(head.or_else(|| view.block(view.finalized()).map(|block| block.hash)))
    })?;
    aliases(
        module,
        &[("chain_getHead", "chain_getBlockHash"), ("chain_getFinalisedHead", "chain_getFinalizedHead")],
    )?;
    subscriptions(module)
}

fn block_hash(params: Params<'_>, view: &View<'_>) -> Answer<Value> {
    let hash_of = |number: &BlockNumber| -> Answer<Option<H256>> {
        let number = number.number()?;
        let forked = view.forked().filter(|header| header.number == number).map(|header| header.hash());
        Ok(forked.or_else(|| view.block(number).map(|block| block.hash)))
    };
    match params.sequence().optional_next::<ListOrNumber>()? {
        None => Ok(json!(view.block(view.best()).map(|block| block.hash))),
        Some(ListOrNumber::Number(number)) => Ok(json!(hash_of(&number)?)),
        Some(ListOrNumber::List(numbers)) => {
            let hashes: Answer<Vec<_>> = numbers.iter().take(MAX_HASHES).map(hash_of).collect();
            Ok(json!(hashes?))
        }
    }
}

fn header(params: Params<'_>, view: &View<'_>) -> Answer<Value> {
    let hash: Option<H256> = params.sequence().optional_next()?;
    let false_headers = [view.false_head(), view.forked()];
    if let Some(header) = false_headers.into_iter().flatten().find(|header| Some(header.hash()) == hash) {
        return Ok(json!(header));
    }
    let block = match hash {
        Some(hash) => view.block_by_hash(hash),
        None => view.block(view.best()),
    };
    Ok(json!(block.map(|block| view.header(&block))))
}

/// A signed block, in the JSON format of substrate's RPC.
#[derive(Serialize, Clone)]
struct SignedBlock {
    block: Body,
    justifications: Option<Vec<([u8; 4], Vec<u8>)>>,
}

#[derive(Serialize, Clone)]
struct Body {
    header: prb_devnet_runtime::Header,
    extrinsics: Vec<sp_core::Bytes>,
}

fn block(params: Params<'_>, view: &View<'_>) -> Answer<Option<SignedBlock>> {
    let hash: Option<H256> = params.sequence().optional_next()?;
    let block = match hash {
        Some(hash) => view.block_by_hash(hash),
        None => view.block(view.best()),
    };
    Ok(block.map(|block| SignedBlock {
        justifications: view.justifications(&block),
        block: Body {
            header: view.header(&block),
            extrinsics: block.body.iter().cloned().map(sp_core::Bytes).collect(),
        },
    }))
}

fn subscriptions(module: &mut Module) -> Registered {
    module.register_subscription(
        "chain_subscribeNewHeads",
        "chain_newHead",
        "chain_unsubscribeNewHeads",
        |_, pending, node, _| heads(pending, node, Heads::Best),
    )?;
    module.register_subscription(
        "chain_subscribeAllHeads",
        "chain_allHead",
        "chain_unsubscribeAllHeads",
        |_, pending, node, _| heads(pending, node, Heads::Best),
    )?;
    module.register_subscription(
        "chain_subscribeFinalizedHeads",
        "chain_finalizedHead",
        "chain_unsubscribeFinalizedHeads",
        |_, pending, node, _| heads(pending, node, Heads::Finalized),
    )?;
    aliases(
        module,
        &[
            ("chain_subscribeNewHead", "chain_subscribeNewHeads"),
            ("subscribe_newHead", "chain_subscribeNewHeads"),
            ("chain_unsubscribeNewHead", "chain_unsubscribeNewHeads"),
            ("unsubscribe_newHead", "chain_unsubscribeNewHeads"),
            ("chain_subscribeFinalisedHeads", "chain_subscribeFinalizedHeads"),
            ("chain_unsubscribeFinalisedHeads", "chain_unsubscribeFinalizedHeads"),
        ],
    )
}

#[derive(Clone, Copy)]
enum Heads {
    Best,
    Finalized,
}

async fn heads(pending: PendingSubscriptionSink, node: Arc<Node>, which: Heads) {
    let numbers = match which {
        Heads::Best => node.subscribe_best(),
        Heads::Finalized => node.subscribe_finalized(),
    };
    follow(pending, &node, numbers, |view, number| {
        let block = view.block(number)?;
        serde_json::value::to_raw_value(&view.header(&block)).ok()
    })
    .await;
}

/// Sends a subscriber a value for every new block, from the current one on.
pub(super) async fn follow(
    pending: PendingSubscriptionSink,
    node: &Arc<Node>,
    mut numbers: watch::Receiver<u32>,
    mut message: impl FnMut(&View<'_>, u32) -> Option<Box<serde_json::value::RawValue>>,
) {
    let Ok(sink) = pending.accept().await else { return };
    let mut next = None;
    loop {
        node.faults().until_answering().await;
        let view = View::new(node);
        // A node with a frozen view announces no newer block.
        let newest = (*numbers.borrow_and_update()).min(view.best());
        // The watch keeps the newest number only, so blocks between two wake-ups are made up for here.
        for number in next.unwrap_or(newest)..=newest {
            // A block may have been retracted in the meantime, or its message be the same as the last one.
            let Some(message) = message(&View::new(node), number) else { continue };
            if sink.send(message).await.is_err() {
                return;
            }
        }
        next = Some(next.unwrap_or(0).max(newest.saturating_add(1)));
        if !wait(&sink, &mut numbers).await {
            return;
        }
    }
}

async fn wait(sink: &SubscriptionSink, numbers: &mut watch::Receiver<u32>) -> bool {
    tokio::select! {
        () = sink.closed() => false,
        changed = numbers.changed() => changed.is_ok(),
    }
}
