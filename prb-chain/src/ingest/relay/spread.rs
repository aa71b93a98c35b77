//! The way to a far target, spread over all fit nodes: each is asked for a span of blocks, as large as it answers in
//! reasonable time; what comes is checked and stored in order.
//!
//! A finality proof reaches the end of an authority set, wherever in the set it is asked for. So one node is asked for
//! the sets from the tip on, up to the set of some block, and another for the sets after that block's. The two
//! overlap in nothing but that set's proof.

use prb_core::text::describe;
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use futures::{StreamExt, stream::FuturesUnordered};
use prb_core::{primitives::RelayNumber, wire::AuthoritySet};

use super::{
    Tip,
    segment::{self, Answer, Given, Segment, Span, Starts},
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
/// Sets in a span, at least and at most, where several nodes share the way: a set is asked for twice between two spans.
const SETS: [u32; 2] = [4, 14];
/// Spans that one node may have unanswered.
const IN_FLIGHT: usize = 2;
/// Bytes that may wait for blocks before them.
const BUFFERED_BYTES: usize = 64 * 1024 * 1024;
/// Bytes after which no further blocks are checked and stored together.
const STORED_AT_ONCE: usize = 16 * 1024 * 1024;
/// What a node must offer.
pub(super) const NEEDED: [Capability; 2] = [Capability::States, Capability::FinalityProofs];

/// A node at work, and how many spans it has unanswered.
struct Busy {
    node: Arc<Node>,
    asked: usize,
    /// Whether it was asked for an old state.
    is_probed: bool,
}

/// Where the checked blocks end.
#[derive(Clone)]
struct End {
    tip: Tip,
    ends_set: bool,
    /// The set that justifies the blocks after it.
    set: AuthoritySet,
}

/// What checking and storing came to.
struct Stored {
    end: End,
    bytes: usize,
    gone: Option<RelayNumber>,
    /// The segment that did not pass, whose blocks are wanted again.
    refused: Option<(Arc<Node>, u32, verify::Error)>,
}

/// The way to a target.
pub(super) struct Round<'a> {
    chains: &'a Chains,
    pace: &'a mut Pace,
    para_id: u32,
    nodes: Vec<Busy>,
    end: End,
    /// Where the next span starts that nobody was asked for.
    cursor: (u32, Starts),
    until: u32,
    /// Blocks of a set, about; 0 as long as that is not known.
    set_blocks: u32,
    /// Spans that a node failed to give.
    again: VecDeque<Span>,
    /// Spans of which a node said that there is nothing.
    doubts: Vec<(Span, Arc<Node>, String)>,
    /// What came and is not checked, by its first block.
    ready: BTreeMap<u32, (Arc<Node>, Segment)>,
    held_bytes: usize,
    has_stored: bool,
    failure: Option<Error>,
}

impl<'a> Round<'a> {
    /// None where no node is fit.
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
        let nodes: Vec<_> = nodes.into_iter().map(|node| Busy { node, asked: 0, is_probed: false }).collect();
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
            again: VecDeque::new(),
            doubts: Vec::new(),
            ready: BTreeMap::new(),
            held_bytes: 0,
            has_stored: false,
            failure: None,
        })
    }

    /// Whether anything was stored.
    pub(super) async fn run(mut self) -> Result<bool, Error> {
        let (mut asked, mut storing) = (FuturesUnordered::new(), FuturesUnordered::new());
        loop {
            self.fill_gap(asked.is_empty() && storing.is_empty());
            while let Some((node, probe, span)) = self.assign(asked.is_empty() && storing.is_empty()) {
                let state_of = probe.then_some(self.end.tip.hash);
                asked.push(segment::answer(node, self.para_id, state_of, span));
            }
            if storing.is_empty() {
                let segments = self.next_segments();
                if !segments.is_empty() {
                    storing.push(keep(&self.chains.store, self.para_id, self.end.clone(), segments));
                }
            }
            tokio::select! {
                Some(stored) = storing.next() => self.stored(stored?),
                Some(answer) = asked.next() => self.take(answer),
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

    /// The next span, for the node with the fewest unanswered ones of those that may have it.
    fn assign(&mut self, is_idle: bool) -> Option<(Arc<Node>, bool, Span)> {
        self.again.retain(|span| span.from < self.until);
        // One span after the other: the next one starts where the one before ends.
        let is_in_line = self.nodes.len() == 1 || self.set_blocks == 0;
        let most = if is_in_line { 1 } else { IN_FLIGHT };
        let mut free: Vec<usize> = (0..self.nodes.len()).filter(|at| self.nodes[*at].asked < most).collect();
        free.sort_by_key(|at| self.nodes[*at].asked);
        let again = free.iter().find_map(|at| Some((*at, self.take_again(&self.nodes[*at].node)?)));
        let (at, span) = match again {
            Some((at, place)) => (at, self.again.remove(place)?),
            None => {
                let at = *free.first()?;
                (at, self.next_span(at, is_in_line, is_idle)?)
            }
        };
        let busy = &mut self.nodes[at];
        busy.asked += 1;
        let probe = !std::mem::replace(&mut busy.is_probed, true);
        Some((Arc::clone(&busy.node), probe, span))
    }

    /// The place of the first span, of those to ask for again, that the node has not said to have nothing of.
    fn take_again(&self, node: &Arc<Node>) -> Option<usize> {
        self.again.iter().position(|span| !self.doubts_of(*span).any(|by| Arc::ptr_eq(by, node)))
    }

    fn doubts_of(&self, span: Span) -> impl Iterator<Item = &Arc<Node>> {
        self.doubts.iter().filter(move |(of, ..)| *of == span).map(|(_, by, _)| by)
    }

    /// The next span that nobody was asked for.
    fn next_span(&mut self, at: usize, is_in_line: bool, is_idle: bool) -> Option<Span> {
        let (from, starts) = self.cursor;
        let is_full = self.held_bytes >= BUFFERED_BYTES;
        let waits = match starts {
            Starts::After { .. } => self.nodes.iter().any(|busy| busy.asked > 0),
            Starts::AfterItsSet => !is_idle,
        };
        if from >= self.until || is_full || is_in_line && waits {
            return None;
        }
        let size = match (self.pace.of(&self.nodes[at].node), self.nodes.len()) {
            (size, 1) => size,
            // One set, to know how long they are.
            _ if is_in_line => 1,
            (size, _) => {
                let [least, most] = SETS.map(|sets| sets.saturating_mul(self.set_blocks));
                size.clamp(least, most)
            }
        };
        let to = from.saturating_add(size);
        // No span for a rest that is not worth it.
        let to = if to.saturating_add(self.set_blocks) >= self.until { self.until } else { to };
        self.cursor = (to, Starts::AfterItsSet);
        Some(Span { from, starts, to })
    }

    /// Where nodes do not agree on where sets end, blocks are missing between what they gave.
    fn fill_gap(&mut self, is_idle: bool) {
        let tip = self.end.tip.number.0;
        while let Some(entry) = self.ready.first_entry().filter(|entry| *entry.key() <= tip) {
            self.held_bytes -= entry.remove().1.bytes();
        }
        let Some(first) = self.ready.keys().next().copied() else { return };
        if is_idle && self.again.is_empty() && first > tip + 1 {
            let starts = Starts::After { ends_set: self.end.ends_set };
            self.again.push_back(Span { from: tip, starts, to: first - 1 });
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

    fn take(&mut self, answer: Answer) {
        let Answer { node, span, took, result } = answer;
        if let Some(busy) = self.nodes.iter_mut().find(|busy| Arc::ptr_eq(&busy.node, &node)) {
            busy.asked -= 1;
        }
        match result {
            Ok(Given::Blocks(segment)) => {
                NEEDED.into_iter().for_each(|capability| node.has_offered(capability));
                let blocks = segment.last.number.0 + 1 - segment.first;
                self.pace.answered(&node, blocks, took);
                self.resolve_doubts(span);
                self.go_on(span, &segment);
                self.held_bytes += segment.bytes();
                self.ready.insert(segment.first, (node, segment));
            }
            Ok(Given::Covered) => {}
            Ok(Given::Nothing(reason)) => self.nothing(node, span, reason),
            Err(e) => {
                if let Error::Rpc(rpc::Error::Timeout { .. }) = &e {
                    node.lacks(Capability::FinalityProofs, &e.to_string());
                }
                self.again.push_front(span);
                self.drop_node(&node, e);
            }
        }
    }

    /// Where the next span starts, and what is missing of this one.
    fn go_on(&mut self, span: Span, segment: &Segment) {
        let (reached, starts) = (segment.last.number.0, Starts::After { ends_set: segment.ends_set });
        self.set_blocks = self.set_blocks.max(segment.longest() as u32);
        if !segment.ends_set {
            // The newest justified block.
            self.until = self.until.min(reached);
            return;
        }
        // Nobody was asked for what follows on this span: it is known now where that starts.
        if self.cursor == (span.to, Starts::AfterItsSet) && reached <= self.until {
            self.cursor = (reached, starts);
        } else if reached < span.to {
            self.again.push_front(Span { from: reached, starts, to: span.to });
        }
    }

    /// A node has no proof for a span. Of blocks in the middle it may be right: the target may be a false one.
    fn nothing(&mut self, node: Arc<Node>, span: Span, reason: String) {
        if span.starts != Starts::AfterItsSet {
            self.again.push_front(span);
            node.lacks(Capability::FinalityProofs, &reason);
            self.nodes.retain(|busy| !Arc::ptr_eq(&busy.node, &node));
            return;
        }
        self.doubts.push((span, node, reason));
        let is_doubted = |busy: &Busy| self.doubts_of(span).any(|by| Arc::ptr_eq(by, &busy.node));
        if self.nodes.iter().all(is_doubted) {
            self.until = self.until.min(span.from);
        } else {
            self.again.push_front(span);
        }
    }

    /// Somebody has what others said there is nothing of.
    fn resolve_doubts(&mut self, given: Span) {
        let (resolved, rest): (Vec<_>, Vec<_>) =
            std::mem::take(&mut self.doubts).into_iter().partition(|(span, ..)| *span == given);
        self.doubts = rest;
        for (_, node, reason) in resolved {
            node.lacks(Capability::FinalityProofs, &reason);
            self.nodes.retain(|busy| !Arc::ptr_eq(&busy.node, &node));
        }
    }

    /// Asks a node for nothing more, and keeps why.
    fn drop_node(&mut self, node: &Arc<Node>, error: Error) {
        tracing::debug!(node = %node.name(), %error, "node gives no relay blocks");
        self.nodes.retain(|busy| !Arc::ptr_eq(&busy.node, node));
        if matches!(error, Error::Wrong { .. }) {
            // Others should not believe it meanwhile.
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

    fn stored(&mut self, stored: Stored) {
        let Stored { end, bytes, gone, refused } = stored;
        self.has_stored |= end.tip.number > self.end.tip.number;
        self.held_bytes = self.held_bytes.saturating_sub(bytes);
        self.end = end;
        relay::notice_missing_head(&self.chains.store, self.para_id, gone);
        let Some((node, last, error)) = refused else { return };
        let starts = Starts::After { ends_set: self.end.ends_set };
        self.again.push_front(Span { from: self.end.tip.number.0, starts, to: last });
        let error = wrong(&node)(error);
        if matches!(error, Error::Wrong { .. }) {
            // Where no other node is left, its blocks' justifications may be right.
            let reason = format!("a finality proof was wrong: {}", describe(&error));
            node.lacks(Capability::FinalityProofs, &reason);
        }
        self.drop_node(&node, error);
    }
}

/// Checks segments in sequence and stores those that pass, up to the first that does not.
async fn keep(
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
    let (mut headers, mut stops, mut refused) = (Vec::new(), Vec::new(), None);
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
                stops.extend(checked.stops);
            }
            Err(e) => {
                refused = Some((node, last.number.0, e));
                break;
            }
        }
    }
    let mut gone = None;
    if !headers.is_empty() {
        gone = relay::append(store, &RelayBatch { first, headers, stops })?;
    }
    Ok(Stored { end, bytes, gone, refused })
}
