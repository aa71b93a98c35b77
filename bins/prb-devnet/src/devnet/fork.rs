//! Forks: parachain blocks that are retracted before they are final.

use std::sync::atomic::Ordering;

use super::Devnet;
use crate::{Error, node::Retracted};

impl Devnet {
    /// Stops or resumes including new parachain blocks in relay blocks, so that none becomes final.
    pub fn hold_para(&self, held: bool) {
        self.0.para_held.store(held, Ordering::Relaxed);
    }

    /// Replaces the parachain blocks that no relay block includes yet by others of the same number and relay
    /// parent, with another time and without transactions, and returns their number. From a parachain node this
    /// looks like a relay chain that picks another fork.
    ///
    /// Watchers of the blocks' transactions are notified of the retraction; `outcome` decides what happens to the
    /// transactions then.
    ///
    /// # Errors
    /// [`Error::Runtime`], [`Error::State`].
    pub fn reorganise_para(&self, outcome: Retracted) -> Result<u32, Error> {
        let mut tick_state = self.0.tick_state.lock();
        let para = self.para();
        para.retract(tick_state.para_included, outcome);
        let mut replaced = 0;
        for slot in &mut tick_state.para_parents {
            // Toggled, so that a second fork replaces the replacement, too: the same inherents would give the
            // same block.
            slot.delay = 1 - slot.delay;
            // Without transactions: those of the retracted block are in the pool again, or lost, as `outcome` says.
            let inherents = self.para_inherents(*slot)?;
            para.author_empty(inherents)?;
            replaced += 1;
        }
        Ok(replaced)
    }
}
