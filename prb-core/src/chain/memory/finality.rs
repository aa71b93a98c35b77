//! Tracks the blocks of a [`MemoryChain`](super::MemoryChain) that are not final yet.

use std::collections::VecDeque;

use tokio::sync::oneshot;

use super::{Model, SubmitResult};
use crate::primitives::AccountId;

/// Outcomes, with the submitters to notify.
type Outcomes = Vec<(oneshot::Sender<SubmitResult>, SubmitResult)>;

#[derive(Debug, Default)]
pub(super) struct Finality {
    /// Oldest first.
    blocks: VecDeque<Unfinalised>,
    /// The state at the newest final block, if that is not the newest block.
    newest: Option<Model>,
}

#[derive(Debug)]
struct Unfinalised {
    model: Model,
    /// The operators whose transactions it includes.
    operators: Vec<AccountId>,
    outcomes: Outcomes,
}

impl Finality {
    /// Must be called before each block is produced: the state before the first block is final.
    pub(super) fn begin(&mut self, model: &Model, depth: u32) {
        // A copy of the whole state: made only if blocks are not final at once.
        if depth > 0 && self.newest.is_none() {
            self.newest = Some(model.clone());
        }
    }

    /// Adds a block, and finalises those with `depth` blocks above them; returns their outcomes.
    pub(super) fn advance(
        &mut self,
        model: &Model,
        depth: u32,
        operators: Vec<AccountId>,
        outcomes: Outcomes,
    ) -> Outcomes {
        if depth == 0 {
            return outcomes;
        }
        self.blocks.push_back(Unfinalised { model: model.clone(), operators, outcomes });
        let mut finalised = Outcomes::new();
        while self.blocks.len() > depth as usize
            && let Some(block) = self.blocks.pop_front()
        {
            self.newest = Some(block.model);
            finalised.extend(block.outcomes);
        }
        finalised
    }

    pub(super) const fn newest(&self) -> Option<&Model> {
        self.newest.as_ref()
    }

    /// Whether a block that is not final includes a transaction of the account.
    pub(super) fn includes(&self, account: AccountId) -> bool {
        self.blocks.iter().any(|block| block.operators.contains(&account))
    }
}
