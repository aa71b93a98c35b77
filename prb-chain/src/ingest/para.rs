//! Fetches parachain headers up to the head named in the state of a stored relay block.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt, stream::FuturesUnordered};
use prb_core::primitives::{Hash, ParaNumber};
use tokio::time::Instant;

use super::{
    Chains, Config, Error, Pause, absent,
    pace::Pace,
    spread::{fit, para_headers},
    write, wrong,
};
use crate::{
    rpc::{Node, json},
    store::ParaHead,
    verify::{self, Checked},
};

/// This loop's name in logs and metrics.
const PART: &str = "parachain headers";
/// Headers in the first request to a node.
const FIRST: u32 = 64;
/// How long headers are stored while the next ones are fetched, before others have their turn.
const TURN: Duration = Duration::from_secs(2);
/// Most blocks of a branch that a node's best chain does not have.
const MAX_FORK: usize = 256;

/// Follows the parachain's headers.
pub(super) async fn run(chains: &Chains, config: &Config) -> Result<(), Error> {
    let mut pause = Pause::new(config);
    let mut tips = chains.store.tips();
    let mut in_full = true;
    let mut pace = Pace::new(FIRST, config.headers_per_batch, config.answer_time);
    loop {
        tips.mark_unchanged();
        let turn = chains.turn.read().await;
        let advanced = advance(chains, config, &mut pace, &mut pause, in_full).await;
        drop(turn);
        match advanced {
            Ok(Step::Stored) => {
                pause.reset();
                in_full = true;
            }
            // Cannot fail: the store lives as long as this loop, and with it the senders.
            Ok(Step::UpToDate) => {
                pause.reset();
                let _ = tips.changed().await;
            }
            // The target may be false: after this wait, continue with what there is.
            Ok(Step::Few) => {
                pause.reset();
                in_full = tokio::time::timeout(config.batch_wait, tips.changed()).await.is_ok();
            }
            Err(e) => pause.after(chains, PART, e).await?,
        }
    }
}

/// The result of an attempt.
enum Step {
    Stored,
    /// No stored relay block proves further headers.
    UpToDate,
    /// There are a few, and more to come.
    Few,
}

/// The last header that is stored or being stored.
type Tip = Option<(ParaNumber, Hash)>;

/// Stores headers up to heads that relay blocks prove, and fetches the next ones meanwhile. With `in_full`, a few
/// headers wait for more of them.
async fn advance(
    chains: &Chains,
    config: &Config,
    pace: &mut Pace,
    pause: &mut Pause,
    mut in_full: bool,
) -> Result<Step, Error> {
    let start = Instant::now();
    let mut tip = chains.store.tips().borrow().para_header;
    // At most one write.
    let mut storing = FuturesUnordered::new();
    loop {
        let next = next_headers(chains, config, pace, tip, in_full);
        let (next, stored) = futures::join!(next, storing.next());
        if stored.transpose()?.is_some() {
            pause.reset();
        }
        let Headers { first, last, encoded } = match next? {
            Ok(headers) => headers,
            Err(step) => return Ok(step),
        };
        (tip, in_full) = (Some(last), true);
        let stored = write(&chains.store, move |store| store.append_para_headers(first, &encoded));
        if start.elapsed() >= TURN {
            stored.await?;
            return Ok(Step::Stored);
        }
        storing.push(stored);
    }
}

/// Consecutive headers, the last of which a relay block proves.
struct Headers {
    first: ParaNumber,
    last: (ParaNumber, Hash),
    encoded: Vec<Vec<u8>>,
}

/// Fetches the headers after the tip, up to the next head, or returns why there are none.
async fn next_headers(
    chains: &Chains,
    config: &Config,
    pace: &mut Pace,
    tip: Tip,
    in_full: bool,
) -> Result<Result<Headers, Step>, Error> {
    let limit = config.headers_per_batch;
    let head =
        write(&chains.store, move |store| store.next_head_after(tip.map(|(tip, _)| tip), limit)).await?;
    let Some(ParaHead { number, hash }) = head else { return Ok(Err(Step::UpToDate)) };
    let missing = number.0 - tip.map_or(0, |(tip, _)| tip.0);
    if in_full && missing < limit / 2 && !chains.near_target(limit) {
        return Ok(Err(Step::Few));
    }
    let (first, parent) = match tip {
        Some((tip, hash)) => (tip.next().0, hash),
        // The genesis header has no predecessor.
        None => (0, Hash::default()),
    };
    let span = (first, number.0);
    let headers = Arc::new(para_headers(chains, &fit(&chains.para), pace, span, PART).await?);
    let fetched = Arc::clone(&headers);
    let checked =
        tokio::task::spawn_blocking(move || verify::chain(parent, first, fetched.iter().cloned())).await?;
    let checked = match checked {
        Ok(checked) if checked.last().is_some_and(|last| last.hash == hash) => checked,
        // What breaks may be an honest node's answer, and nobody knows whose: one node answers for all of them.
        _ => {
            let node = chains.para.pick();
            let headers = para_headers(chains, std::slice::from_ref(&node), pace, span, PART).await?;
            by_hash(&node, parent, hash, first, headers).await?
        }
    };
    let encoded = checked.into_iter().map(|header| header.encoded).collect();
    Ok(Ok(Headers { first: ParaNumber(first), last: (number, hash), encoded }))
}

/// Returns the headers of the branch that ends with `hash`; some of them may be among `headers`.
///
/// A node's best chain may still be another branch, or may have changed between two requests: queries by
/// number then honestly return headers that the relay chain does not include.
async fn by_hash(
    node: &Node,
    parent: Hash,
    hash: Hash,
    first: u32,
    headers: Vec<Vec<u8>>,
) -> Result<Vec<Checked>, Error> {
    let (mut branch, mut wanted, mut replaced) = (Vec::with_capacity(headers.len()), hash, 0);
    for (number, encoded) in (first..).zip(headers).collect::<Vec<_>>().into_iter().rev() {
        let header = match Hash::of(&encoded) == wanted {
            true => Checked::new(number, encoded).map_err(wrong(node))?,
            false if replaced == MAX_FORK => {
                let actual = Hash::of(&encoded);
                return Err(wrong(node)(verify::Error::HeaderHash { number, expected: wanted, actual }));
            }
            false => {
                replaced += 1;
                let header = node.request_some("chain_getHeader", &[[wanted]]).await?.pop().flatten();
                let header: json::Header =
                    header.ok_or_else(|| absent(node, format!("parachain header {number} ({wanted})")))?;
                verify::header(wanted, number, header.encode()).map_err(wrong(node))?
            }
        };
        wanted = header.parent();
        branch.push(header);
    }
    if wanted != parent {
        return Err(wrong(node)(verify::Error::Parent { number: first }));
    }
    branch.reverse();
    Ok(branch)
}
