//! Forks: parachain blocks that lose their place before they are final.

use std::sync::atomic::Ordering;

use super::Devnet;
use crate::{Error, node::Retracted};

impl Devnet {
    /// Keeps relay blocks from including new parachain blocks, so that none becomes final, or ends that.
    pub fn hold_para(&self, held: bool) {
        self.0.para_held.store(held, Ordering::Relaxed);
    }

    /// Replaces the parachain blocks that no relay block includes yet by others of the same number and
    /// relay parent that hold no transactions, and returns how many. A relay chain that picks another fork
    /// looks the same from a parachain node.
    ///
    /// The blocks' transactions are told that they were retracted; what becomes of them then is `fate`.
    ///
    /// # Errors
    /// [`Error::Runtime`], [`Error::State`].
    pub fn reorganise_para(&self, fate: Retracted) -> Result<u32, Error> {
        let moving = self.0.moving.lock();
        let para = self.para();
        para.retract(moving.para_included, fate);
        let mut replaced = 0;
        for slot in &moving.para_parents {
            let inherents = self.para_inherents(*slot)?;
            para.author_empty(inherents)?;
            replaced += 1;
        }
        Ok(replaced)
    }
}
