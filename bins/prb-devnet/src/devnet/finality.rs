//! What makes relay blocks final, and how far behind the newest.

use std::sync::atomic::Ordering;

use super::{Devnet, Moving};
use crate::{Error, node::finality};

impl Devnet {
    /// Lets finality stay so many relay blocks behind its usual place from the next block on. With fewer than
    /// before, one round makes all blocks in between final at once: those that end a set have justifications,
    /// others have none.
    pub fn lag_finality(&self, blocks: u32) {
        self.0.finality_lag.store(blocks, Ordering::Relaxed);
    }

    /// Takes the parachain off the relay chain: the next relay block names no head of it, and no parachain block
    /// comes any more.
    pub fn offboard_para(&self) {
        self.0.offboarded.store(true, Ordering::Relaxed);
    }

    /// Makes relay blocks final up to a number. Each authority set's last block is justified by that set.
    pub(super) fn finalize_up_to(&self, moving: &mut Moving, last: u32) -> Result<(), Error> {
        let relay = &self.0.relay;
        for number in relay.finalized_number() + 1..=last {
            let is_last_of_set = relay.header(number).is_some_and(|header| finality::ends_set(&header));
            let next_is_forced = relay.header(number + 1).is_some_and(|next| finality::forces_change(&next));
            if number == last || is_last_of_set || next_is_forced {
                self.finalize(moving, number)?;
            }
        }
        Ok(())
    }

    fn finalize(&self, moving: &mut Moving, number: u32) -> Result<(), Error> {
        let relay = &self.0.relay;
        let unknown = || Error::UnknownBlock(number.to_string());
        let target = relay.header(number).ok_or_else(unknown)?;
        let child = relay.header(number + 1);
        // A forced change holds for its own block; no header that the old set signs announces it.
        let is_forced = finality::forces_change(&target);
        if is_forced {
            relay.end_set();
        }
        let signers = if is_forced { target.hash() } else { target.parent_hash };
        let set = finality::authority_set(&relay.state_at(signers)?)?;
        let oddities = self.0.config.justifications;
        let justification = finality::justify(&self.0.authorities, &set, &target, child.as_ref(), oddities);
        let period = self.0.config.justification_period;
        let keep = period != 0 && number.is_multiple_of(period);
        relay.justify(number, justification, keep, finality::ends_set(&target));
        let done = moving.included.iter().take_while(|(included, _)| *included <= number).count();
        if let Some((_, head)) = moving.included.drain(..done).next_back() {
            self.0.para.finalize(head);
        }
        Ok(())
    }
}
