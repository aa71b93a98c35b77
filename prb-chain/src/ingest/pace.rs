//! Adapts the size of requests to each node's speed.

use std::{collections::HashMap, sync::Arc, time::Duration};

use crate::rpc::Node;

/// Sizes by node.
#[derive(Debug)]
pub(super) struct Pace {
    first: u32,
    most: u32,
    answer_time: Duration,
    sizes: HashMap<Arc<str>, u32>,
}

impl Pace {
    /// Creates sizes from `first` up to `most` blocks, adapted so that an answer takes about `answer_time`.
    pub(super) fn new(first: u32, most: u32, answer_time: Duration) -> Self {
        Self { first, most: most.max(1), answer_time, sizes: HashMap::new() }
    }

    /// Blocks to ask the node for.
    pub(super) fn of(&self, node: &Node) -> u32 {
        self.sizes.get(node.name()).copied().unwrap_or(self.first).min(self.most)
    }

    /// Records the time that an answer with this many blocks took.
    pub(super) fn answered(&mut self, node: &Node, blocks: u32, took: Duration) {
        let size = self.of(node);
        self.sizes
            .insert(Arc::clone(node.name()), after_answer(size, blocks, took, self.answer_time, self.most));
    }

    /// Records that this many blocks were too much for the node.
    pub(super) fn was_too_much(&mut self, node: &Node, blocks: u32) {
        self.sizes.insert(Arc::clone(node.name()), (blocks / 2).max(1));
    }
}

/// More after a quick answer, up to eight times as many, and half as many after a slow one. An answer for fewer than
/// were asked for at most says nothing of larger ones.
fn after_answer(size: u32, blocks: u32, took: Duration, aim: Duration, most: u32) -> u32 {
    if took > aim * 2 {
        (blocks / 2).max(1)
    } else if took < aim / 2 && blocks >= size {
        // Answers that take twice the time or more are still within the aim.
        let times = if took < aim / 16 { 8 } else { 2 };
        size.saturating_mul(times).min(most)
    } else {
        size
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_adapt_to_answer_times() {
        let (aim, most) = (Duration::from_secs(2), 100);
        let cases = [
            // size, blocks, ms, next
            (4, 4, 10, 32),
            (4, 4, 150, 8),
            (64, 64, 10, 100),
            (100, 100, 10, 100),
            (8, 8, 2_000, 8),
            (8, 8, 4_001, 4),
            (1, 1, 60_000, 1),
            (8, 1, 10, 8),
            (8, 3, 5_000, 1),
        ];
        for (size, blocks, ms, next) in cases {
            let got = after_answer(size, blocks, Duration::from_millis(ms), aim, most);
            assert_eq!(got, next, "{size} {blocks} {ms}");
        }
    }
}
