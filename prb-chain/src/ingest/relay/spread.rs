//! Distributes the blocks up to a distant target over all fit nodes: each gets a span of blocks, as large as it answers
//! in reasonable time. The answers are checked and stored in order.
//!
//! A finality proof reaches the end of an authority set, whichever of the set's blocks is requested. So one node gets
//! the sets from the tip up to the set of some block, and another one the sets after it. Only that set's proof is
//! requested twice.

use prb_core::text::describe;
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use futures::{StreamExt, stream::FuturesUnordered};
use prb_core::{primitives::RelayNumber, wire::AuthoritySet};

use super::{
    Tip,
    segment::{self, Answer, Outcome, Segment, Span, Starts},
};
use crate::{
    ingest::{Chains, Error, pace::Pace, relay, write, wrong},
    rpc::{self, Capability, Node},
    store::{self, RelayBatch, Store},
    verify,
};

/// Blocks in the first span of a node.
pub(super) const FIRST: u32 = 64;
/// Most blocks in one span.
pub(super) const MOST: u32 = 32_768;
/// Fewest and most sets in a span, if there are several nodes.
// Between two spans one set is requested twice, so spans are not too short.
const SETS: [u32; 2] = [4, 14];
/// Most spans in flight at one node.
const IN_FLIGHT: usize = 2;
/// Most bytes that wait for earlier blocks.
const BUFFERED_BYTES: usize = 64 * 1024 * 1024;
/// Bytes after which no further blocks are checked and stored together.
const STORED_AT_ONCE: usize = 16 * 1024 * 1024;
/// Capabilities that a node needs.
pub(super) const NEEDED: [Capability; 2] = [Capability::States, Capability::FinalityProofs];

/// A node, and the number of its spans in flight.
struct NodeLoad {
    node: Arc<Node>,
    in_flight: usize,
    /// Whether an old state was requested of it.
    is_probed: bool,
}

/// The last checked block.
#[derive(Clone)]
struct End {
    tip: Tip,
    ends_set: bool,
    /// The set that justifies the blocks after it.
    set: AuthoritySet,
}

/// The result of checking and storing segments.
struct Stored {
    end: End,
    bytes: usize,
    /// The first new block whose state no longer names a head of the parachain.
    headless_from: Option<RelayNumber>,
    /// The node, last block and fault of the segment that did not pass.
    refused: Option<(Arc<Node>, u32, verify::Error)>,
}

/// The work up to a target.
pub(super) struct Round<'a> {
    chains: &'a Chains,
    pace: &'a mut Pace,
    para_id: u32,
    nodes: Vec<NodeLoad>,
    end: End,
    /// Where the next span starts that was not requested yet.
    cursor: (u32, Starts),
    until: u32,
    /// Approximate number of blocks in a set; 0 if not known yet.
    set_blocks: u32,
    /// Spans that a node failed to return.
    retries: VecDeque<Span>,
    /// Spans that a node has no proof of, with its reason.
    denials: Vec<(Span, Arc<Node>, String)>,
    /// Answers that are not checked yet, by their first block.
    ready: BTreeMap<u32, (Arc<Node>, Segment)>,
    held_bytes: usize,
    has_stored: bool,
    failure: Option<Error>,
}

impl<'a> Round<'a> {
    /// Returns `None` if no node is fit.
    pub(super) fn new(
        chains: &'a Chains,
        pace: &'a mut Pace,
        para_id: u32,
        (tip, ends_set, set): (Tip, bool, AuthoritySet),
        until: u32,
    ) -> Option<Self> {
        let fit = chains.relay.candidates().into_iter().filter(|node| node.is_fit_for(&NEEDED));
        let mut nodes: Vec<Arc<Node>> = fit.collect();
        if nodes.is_empty() {
            let best = chains.relay.pick_for(&NEEDED);
            nodes.extend(best.offers(Capability::FinalityProofs).then_some(best));
        }
        let nodes: Vec<_> =
            nodes.into_iter().map(|node| NodeLoad { node, in_flight: 0, is_probed: false }).collect();
        let cursor = (tip.number.0, Starts::After { ends_set });
        (!nodes.is_empty()).then(|| Self {
            chains,
            pace,
            para_id,
            nodes,
            end: End { tip, ends_set, set },
            cursor,
            until,
            set_blocks: 0,
            retries: VecDeque::new(),
            denials: Vec::new(),
            ready: BTreeMap::new(),
            held_bytes: 0,
            has_stored: false,
            failure: None,
        })
    }

    /// Fetches and stores the blocks; returns whether anything was stored.
    pub(super) async fn run(mut self) -> Result<bool, Error> {
        let (mut requests, mut storing) = (FuturesUnordered::new(), FuturesUnordered::new());
        loop {
            self.fill_gap(requests.is_empty() && storing.is_empty());
            while let Some((node, probe, span)) = self.assign(requests.is_empty() && storing.is_empty()) {
                let state_of = probe.then_some(self.end.tip.hash);
                requests.push(segment::answer(node, self.para_id, state_of, span));
            }
            if storing.is_empty() {
                let segments = self.next_segments();
                if !segments.is_empty() {
                    storing.push(store_segments(
                        &self.chains.store,
                        self.para_id,
                        self.end.clone(),
                        segments,
                    ));
                }
            }
            tokio::select! {
                Some(stored) = storing.next() => self.on_stored(stored?),
                Some(answer) = requests.next() => self.on_answer(answer),
                else => break,
            }
        }
        match self.failure.take() {
            Some(failure) if self.has_stored => {
                self.record_failure(&failure);
                Ok(true)
            }
            Some(failure) => Err(failure),
            None => Ok(self.has_stored),
        }
    }

    /// Returns the next request: for the node with the fewest in flight, whether to request an old state first, and
    /// the span.
    fn assign(&mut self, is_idle: bool) -> Option<(Arc<Node>, bool, Span)> {
        self.retries.retain(|span| span.from < self.until);
        // One after the other: only the end of one span tells where the next one starts.
        let is_in_line = self.nodes.len() == 1 || self.set_blocks == 0;
        let most = if is_in_line { 1 } else { IN_FLIGHT };
        let mut free: Vec<usize> =
            (0..self.nodes.len()).filter(|at| self.nodes[*at].in_flight < most).collect();
        free.sort_by_key(|at| self.nodes[*at].in_flight);
        let again = free.iter().find_map(|at| Some((*at, self.retry_for(&self.nodes[*at].node)?)));
        let (at, span) = match again {
            Some((at, place)) => (at, self.retries.remove(place)?),
            None => {
                let at = *free.first()?;
                (at, self.next_span(at, is_in_line, is_idle)?)
            }
        };
        let load = &mut self.nodes[at];
        load.in_flight += 1;
        let probe = !std::mem::replace(&mut load.is_probed, true);
        Some((Arc::clone(&load.node), probe, span))
    }

    /// Returns the index of the first span to retry that this node has not denied.
    fn retry_for(&self, node: &Arc<Node>) -> Option<usize> {
        self.retries.iter().position(|span| !self.denials_of(*span).any(|by| Arc::ptr_eq(by, node)))
    }

    fn denials_of(&self, span: Span) -> impl Iterator<Item = &Arc<Node>> {
        self.denials.iter().filter(move |(of, ..)| *of == span).map(|(_, by, _)| by)
    }

    /// Returns the next span that was not requested yet.
    fn next_span(&mut self, at: usize, is_in_line: bool, is_idle: bool) -> Option<Span> {
        let (from, starts) = self.cursor;
        let is_full = self.held_bytes >= BUFFERED_BYTES;
        let waits = match starts {
            Starts::After { .. } => self.nodes.iter().any(|load| load.in_flight > 0),
            Starts::AfterItsSet => !is_idle,
        };
        if from >= self.until || is_full || is_in_line && waits {
            return None;
        }
        let size = match (self.pace.of(&self.nodes[at].node), self.nodes.len()) {
            (size, 1) => size,
            // A single set first, which shows how long sets are.
            _ if is_in_line => 1,
            (size, _) => {
                let [least, most] = SETS.map(|sets| sets.saturating_mul(self.set_blocks));
                size.clamp(least, most)
            }
        };
        let to = from.saturating_add(size);
        // A short rest is not worth a span of its own.
        let to = if to.saturating_add(self.set_blocks) >= self.until { self.until } else { to };
        self.cursor = (to, Starts::AfterItsSet);
        Some(Span { from, starts, to })
    }

    /// Requests the blocks between two answers: nodes may disagree on where a set ends.
    fn fill_gap(&mut self, is_idle: bool) {
        let tip = self.end.tip.number.0;
        while let Some(entry) = self.ready.first_entry().filter(|entry| *entry.key() <= tip) {
            self.held_bytes -= entry.remove().1.bytes();
        }
        let Some(first) = self.ready.keys().next().copied() else { return };
        if is_idle && self.retries.is_empty() && first > tip + 1 {
            let starts = Starts::After { ends_set: self.end.ends_set };
            self.retries.push_back(Span { from: tip, starts, to: first - 1 });
        }
    }

    fn next_segments(&mut self) -> Vec<(Arc<Node>, Segment)> {
        let (mut segments, mut bytes) = (Vec::new(), 0);
        let mut next = self.end.tip.number.0 + 1;
        while bytes < STORED_AT_ONCE
            && let Some((node, segment)) = self.ready.remove(&next)
        {
            next = segment.last.number.0 + 1;
            bytes += segment.bytes();
            segments.push((node, segment));
        }
        segments
    }

    fn on_answer(&mut self, answer: Answer) {
        let Answer { node, span, took, result } = answer;
        if let Some(load) = self.nodes.iter_mut().find(|load| Arc::ptr_eq(&load.node, &node)) {
            load.in_flight -= 1;
        }
        match result {
            Ok(Outcome::Blocks(segment)) => {
                NEEDED.into_iter().for_each(|capability| node.has_offered(capability));
                let blocks = segment.last.number.0 + 1 - segment.first;
                self.pace.answered(&node, blocks, took);
                self.resolve_denials(span);
                self.advance_cursor(span, &segment);
                self.held_bytes += segment.bytes();
                self.ready.insert(segment.first, (node, segment));
            }
            Ok(Outcome::Covered) => {}
            Ok(Outcome::Nothing(reason)) => self.on_nothing(node, span, reason),
            Err(e) => {
                if let Error::Rpc(rpc::Error::Timeout { .. }) = &e {
                    node.lacks(Capability::FinalityProofs, &describe(&e));
                }
                self.retries.push_front(span);
                self.drop_node(&node, e);
            }
        }
    }

    /// Determines where the next span starts, and requests what is missing of this one.
    fn advance_cursor(&mut self, span: Span, segment: &Segment) {
        let (reached, starts) = (segment.last.number.0, Starts::After { ends_set: segment.ends_set });
        self.set_blocks = self.set_blocks.max(segment.longest() as u32);
        if !segment.ends_set {
            // The newest justified block.
            self.until = self.until.min(reached);
            return;
        }
        // What follows this span was not requested yet, and it is known now where that starts.
        if self.cursor == (span.to, Starts::AfterItsSet) && reached <= self.until {
            self.cursor = (reached, starts);
        } else if reached < span.to {
            self.retries.push_front(Span { from: reached, starts, to: span.to });
        }
    }

    /// Handles the answer that there is no proof of a span. It may be true of blocks beyond the tip, if the target is
    /// false.
    fn on_nothing(&mut self, node: Arc<Node>, span: Span, reason: String) {
        if span.starts != Starts::AfterItsSet {
            self.retries.push_front(span);
            node.lacks(Capability::FinalityProofs, &reason);
            self.nodes.retain(|load| !Arc::ptr_eq(&load.node, &node));
            return;
        }
        self.denials.push((span, node, reason));
        let is_denied = |load: &NodeLoad| self.denials_of(span).any(|by| Arc::ptr_eq(by, &load.node));
        if self.nodes.iter().all(is_denied) {
            self.until = self.until.min(span.from);
        } else {
            self.retries.push_front(span);
        }
    }

    /// Handles a span that one node has and others denied.
    fn resolve_denials(&mut self, given: Span) {
        let (resolved, rest): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.denials).into_iter().partition(|(span, ..)| *span == given);
        self.denials = rest;
        for (_, node, reason) in resolved {
            node.lacks(Capability::FinalityProofs, &reason);
            self.nodes.retain(|load| !Arc::ptr_eq(&load.node, &node));
        }
    }

    /// Removes a node from this round, and keeps the reason.
    fn drop_node(&mut self, node: &Arc<Node>, error: Error) {
        tracing::debug!(node = %node.name(), %error, "node returned no relay blocks");
        self.nodes.retain(|load| !Arc::ptr_eq(&load.node, node));
        if matches!(error, Error::Wrong { .. }) {
            // At once: other parts must not believe it until the round ends.
            self.chains.record_failure(relay::PART, &error);
        }
        if let Some(earlier) = self.failure.replace(error) {
            self.record_failure(&earlier);
        }
    }

    fn record_failure(&self, failure: &Error) {
        if !matches!(failure, Error::Wrong { .. }) {
            self.chains.record_failure(relay::PART, failure);
        }
    }

    fn on_stored(&mut self, stored: Stored) {
        let Stored { end, bytes, headless_from, refused } = stored;
        self.has_stored |= end.tip.number > self.end.tip.number;
        self.held_bytes = self.held_bytes.saturating_sub(bytes);
        self.end = end;
        relay::notice_missing_head(&self.chains.store, self.para_id, headless_from);
        let Some((node, last, error)) = refused else { return };
        let starts = Starts::After { ends_set: self.end.ends_set };
        self.retries.push_front(Span { from: self.end.tip.number.0, starts, to: last });
        let error = wrong(&node)(error);
        if matches!(error, Error::Wrong { .. }) {
            // If no other node is left, its blocks' justifications may be valid.
            let reason = format!("a finality proof was wrong: {}", describe(&error));
            node.lacks(Capability::FinalityProofs, &reason);
        }
        self.drop_node(&node, error);
    }
}

/// Checks segments in sequence and stores those that pass, up to the first that does not.
async fn store_segments(
    store: &Arc<Store>,
    para_id: u32,
    end: End,
    segments: Vec<(Arc<Node>, Segment)>,
) -> Result<Stored, Error> {
    write(store, move |store| check_and_store(store, para_id, end, segments)).await
}

fn check_and_store(
    store: &Store,
    para_id: u32,
    mut end: End,
    segments: Vec<(Arc<Node>, Segment)>,
) -> Result<Stored, store::Error> {
    let first = end.tip.number.next();
    let (mut headers, mut justified, mut refused) = (Vec::new(), Vec::new(), None);
    let bytes = segments.iter().map(|(_, segment)| segment.bytes()).sum();
    for (node, segment) in segments {
        let last = segment.last;
        let checked = match segment.parent == end.tip.hash {
            true => relay::check(para_id, end.set.clone(), segment.pieces),
            false => Err(verify::Error::Parent { number: segment.first }),
        };
        match checked {
            Ok((checked, set)) => {
                end = End { tip: last, ends_set: segment.ends_set, set };
                headers.extend(checked.headers);
                justified.extend(checked.justified);
            }
            Err(e) => {
                refused = Some((node, last.number.0, e));
                break;
            }
        }
    }
    let mut headless_from = None;
    if !headers.is_empty() {
        headless_from = relay::append(store, &RelayBatch { first, headers, justified })?;
    }
    Ok(Stored { end, bytes, headless_from, refused })
}
