//! Blocks of a [`MemoryChain`](super::MemoryChain) that are not final yet.

use std::collections::VecDeque;

use tokio::sync::oneshot;

use super::{Fate, Model};
use crate::primitives::AccountId;

/// Outcomes and who is to learn them.
type Outcomes = Vec<(oneshot::Sender<Fate>, Fate)>;

#[derive(Debug, Default)]
pub(super) struct Finality {
    /// Oldest first.
    blocks: VecDeque<Unfinalised>,
    /// The state at the newest final block, where that is not the newest block.
    newest: Option<Model>,
}

#[derive(Debug)]
struct Unfinalised {
    model: Model,
    /// Whose transactions it holds.
    operators: Vec<AccountId>,
    outcomes: Outcomes,
}

impl Finality {
    /// Must be called before each block is made: what is there before the first one is final.
    pub(super) fn begin(&mut self, model: &Model, depth: u32) {
        if depth > 0 && self.newest.is_none() {
            self.newest = Some(model.clone());
        }
    }

    /// Adds a block, and finalises those that have `depth` blocks above them; gives their outcomes.
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
        let mut told = Outcomes::new();
        while self.blocks.len() > depth as usize
            && let Some(block) = self.blocks.pop_front()
        {
            self.newest = Some(block.model);
            told.extend(block.outcomes);
        }
        told
    }

    pub(super) const fn newest(&self) -> Option<&Model> {
        self.newest.as_ref()
    }

    /// Whether a block that is not final holds a transaction of the account.
    pub(super) fn concerns(&self, account: AccountId) -> bool {
        self.blocks.iter().any(|block| block.operators.contains(&account))
    }
}
