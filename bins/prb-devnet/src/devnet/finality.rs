//! Finalises relay blocks, with a configurable lag.

use super::{Devnet, TickState};
use crate::{Error, node::finality};

impl Devnet {
    /// Sets the number of relay blocks by which finality lags, from the next block on. When it decreases, one
    /// round finalises all blocks in between: those that end a set have justifications, others have none.
    pub fn lag_finality(&self, blocks: u32) {
        self.0.faults.lag_finality(blocks);
    }

    /// Offboards the parachain: the next relay block names no head of it, and no further parachain blocks are
    /// authored, until [`Devnet::onboard_para`].
    pub fn offboard_para(&self) {
        self.0.faults.offboard(true);
    }

    /// Onboards the parachain again with its newest block as head.
    pub fn onboard_para(&self) {
        self.0.faults.offboard(false);
    }

    /// Finalises relay blocks up to a number. Each authority set's last block is justified by that set.
    pub(super) fn finalize_up_to(&self, tick_state: &mut TickState, last: u32) -> Result<(), Error> {
        let relay = &self.0.relay;
        for number in relay.finalized_number() + 1..=last {
            // The set that signs changes after this block.
            let is_last_of_set = relay.header(number).is_some_and(|header| finality::ends_set(&header));
            // The block before a forced change is the last that the old set can justify.
            let next_is_forced = relay.header(number + 1).is_some_and(|next| finality::forces_change(&next));
            // GRANDPA voters finalise the newest block they can, but never past the end of their own set.
            if number == last || is_last_of_set || next_is_forced {
                self.finalize(tick_state, number)?;
            }
        }
        Ok(())
    }

    fn finalize(&self, tick_state: &mut TickState, number: u32) -> Result<(), Error> {
        let relay = &self.0.relay;
        let unknown = || Error::UnknownBlock(number.to_string());
        let target = relay.header(number).ok_or_else(unknown)?;
        let child = relay.header(number + 1);
        // A forced change takes effect at its own block; no header signed by the old set announces it.
        let is_forced = finality::forces_change(&target);
        if is_forced {
            relay.end_set();
        }
        // pallet-grandpa writes the next set into the state of the block that announces it, so the signing set
        // is the one in the parent's state.
        let signers = if is_forced { target.hash() } else { target.parent_hash };
        let set = finality::authority_set(&relay.state_at(signers)?)?;
        let oddities = self.0.faults.justifications();
        let justification = finality::justify(&self.0.authorities, &set, &target, child.as_ref(), oddities);
        let period = self.0.config.justification_period;
        // Like substrate's justification period: of other blocks only the newest justification is kept.
        let keep = period != 0 && number.is_multiple_of(period);
        relay.justify(number, justification, keep, finality::ends_set(&target));
        // A parachain has no finality of its own: its blocks are final with the relay block that includes their
        // head.
        let done = tick_state.included.iter().take_while(|(included, _)| *included <= number).count();
        if let Some((_, head)) = tick_state.included.drain(..done).next_back() {
            self.0.para.finalize(head);
        }
        Ok(())
    }
}
