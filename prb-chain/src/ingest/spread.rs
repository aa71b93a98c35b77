//! Fetches headers of a span from all fit nodes at once, each as many as it answers in reasonable time.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use futures::{StreamExt, stream::FuturesUnordered};
use tokio::time::Instant;

use super::{Chains, Error, pace::Pace, relay::window};
use crate::rpc::{Node, NodePool};

/// Nodes without recorded failures, or else the first of the others.
pub(super) fn fit(pool: &NodePool) -> Vec<Arc<Node>> {
    let mut nodes = pool.candidates();
    let fit = nodes.iter().filter(|node| node.is_fit_for(&[])).count();
    nodes.truncate(fit.max(1));
    nodes
}

/// Takes the next span of at most `size` blocks: of those in `open`, or else from `next` on.
fn next_span(open: &mut Vec<(u32, u32)>, next: &mut u32, last: u32, size: u32) -> (u32, u32) {
    match open.pop() {
        Some((from, to)) if to - from >= size => {
            open.push((from + size, to));
            (from, from + size - 1)
        }
        Some(span) => span,
        None => {
            let from = *next;
            *next = last.min(from.saturating_add(size - 1)) + 1;
            (from, *next - 1)
        }
    }
}

/// Fetches encoded headers of the parachain's blocks from `first` to `last` from some nodes. They may be of several
/// branches, because nodes are asked by number. Headers that one node lacks are fetched from another, and failures are
/// recorded.
pub(super) async fn para_headers(
    chains: &Chains,
    nodes: &[Arc<Node>],
    pace: &mut Pace,
    (first, last): (u32, u32),
    part: &'static str,
) -> Result<Vec<Vec<u8>>, Error> {
    // Twice each: while a node returns headers, the hashes of the next ones are requested.
    let mut idle: VecDeque<Arc<Node>> = nodes.iter().chain(nodes).cloned().collect();
    let (mut open, mut next) = (Vec::<(u32, u32)>::new(), first);
    let mut got = BTreeMap::<u32, Vec<Vec<u8>>>::new();
    let mut failure: Option<Error> = None;
    let mut asked = FuturesUnordered::new();
    loop {
        while (!open.is_empty() || next <= last)
            && let Some(node) = idle.pop_front()
        {
            let size = pace.of(&node);
            let (from, to) = next_span(&mut open, &mut next, last, size);
            asked.push(async move {
                let start = Instant::now();
                let headers = window(&node, from, to).await;
                (node, from, to, start.elapsed(), headers)
            });
        }
        let Some((node, from, to, took, headers)) = asked.next().await else { break };
        match headers {
            Ok(headers) => {
                pace.answered(&node, to - from + 1, took);
                got.insert(from, headers);
                idle.push_back(node);
            }
            // The node does not return to `idle`: another one gets its span.
            Err(error) => {
                open.push((from, to));
                if let Some(earlier) = failure.replace(error) {
                    chains.record_failure(part, &earlier);
                }
            }
        }
    }
    let count: usize = got.values().map(Vec::len).sum();
    match failure {
        Some(failure) if count < (last - first + 1) as usize => return Err(failure),
        Some(failure) => chains.record_failure(part, &failure),
        None => {}
    }
    Ok(got.into_values().flatten().collect())
}
