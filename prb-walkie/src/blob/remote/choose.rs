//! Who is asked, and what all have together: pure functions of what is known.

use std::time::Duration;

use prb_core::blob::Heights;

/// A provider as the choice sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Choice<P> {
    /// The provider.
    pub(super) provider: P,
    /// A worker has refused what it gave for this cursor.
    pub(super) suspected: bool,
    /// It knows the original's keys alone.
    pub(super) original: bool,
    /// How long it is expected to take.
    pub(super) wait: Duration,
}

/// Orders providers, the first to be asked first.
pub(super) fn rank<P>(mut choices: Vec<Choice<P>>) -> Vec<P> {
    choices.sort_by_key(|choice| (choice.suspected, choice.original, choice.wait));
    choices.into_iter().map(|choice| choice.provider).collect()
}

/// What is to be had from providers that are usable, after heights that were told before.
///
/// Targets stay where they were, unless `distrust`: then one of them was a lie, and nobody knows which.
pub(super) fn merge(usable: impl IntoIterator<Item = Heights>, before: Heights, distrust: bool) -> Heights {
    let mut all: Option<Heights> = None;
    for heights in usable {
        let so_far = all.get_or_insert_default();
        so_far.relay = so_far.relay.max(heights.relay);
        so_far.para = so_far.para.max(heights.para);
        so_far.relay_target = so_far.relay_target.max(heights.relay_target);
        so_far.para_target = so_far.para_target.max(heights.para_target);
    }
    // Without anybody, nothing new is known.
    let Some(mut all) = all else { return before };
    if !distrust {
        all.relay_target = all.relay_target.max(before.relay_target);
        all.para_target = all.para_target.max(before.para_target);
    }
    all
}

#[cfg(test)]
mod tests {
    use prb_core::primitives::{ParaNumber, RelayNumber};

    use super::*;

    fn heights(relay: u32, para: u32, target: u32) -> Heights {
        Heights {
            relay: Some(RelayNumber(relay)),
            para: Some(ParaNumber(para)),
            relay_target: Some(RelayNumber(target)),
            para_target: Some(ParaNumber(target)),
        }
    }

    #[test]
    fn the_fast_are_asked_first_and_the_suspected_last() {
        let ms = Duration::from_millis;
        let choice = |provider, suspected, original, wait| Choice { provider, suspected, original, wait };
        let ranked = rank(vec![
            choice("suspected", true, false, ms(0)),
            choice("original", false, true, ms(1)),
            choice("slow", false, false, ms(50)),
            choice("fast", false, false, ms(5)),
        ]);
        assert_eq!(ranked, ["fast", "slow", "original", "suspected"]);
    }

    #[test]
    fn heights_are_those_of_the_best_that_is_there() {
        let none = Heights::default();
        let (low, high) = (heights(10, 5, 12), heights(20, 9, 22));
        assert_eq!(merge([low, high], none, false), high);
        let lost = merge([low], high, false);
        assert_eq!((lost.relay, lost.para), (low.relay, low.para), "what nobody has is not to be had");
        assert_eq!(lost.para_target, high.para_target, "but it is there");
        assert_eq!(merge([], high, false), high);
        assert_eq!(merge([low], high, true), low, "after a lie");
    }
}
