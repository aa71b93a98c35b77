//! Pure functions that choose which providers are followed and asked, and merge their heights.

use std::{cmp::Reverse, collections::HashMap, net::IpAddr, time::Duration};

use prb_core::blob::Heights;
use tokio::time::Instant;

use super::Candidate;
use crate::provenance::{Provenance, share_of};

/// A provider with the facts the ranking uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Choice<P> {
    /// The provider.
    pub(super) provider: P,
    /// Whether a worker has refused its answer for this cursor.
    pub(super) suspected: bool,
    /// Whether it knows only the original's keys.
    pub(super) original: bool,
    /// How it was found.
    pub(super) provenance: Provenance,
    /// Its expected time to answer.
    pub(super) wait: Duration,
    /// When it last gave a batch; `None` if it never has.
    pub(super) served: Option<Instant>,
}

/// Sorts providers by preference. One that is expected to take at least `slow` comes after those that are
/// faster.
///
/// Providers may come back under new names and never give a batch: at most one of those is asked before the provider
/// that has given the last batch, and none before one that is fast.
pub(super) fn rank<P>(mut choices: Vec<Choice<P>>, slow: Duration) -> Vec<P> {
    // A crowd of fast strangers that serve bad blocks must not come before a configured provider.
    let ours = |choice: &Choice<P>| choice.provenance >= Provenance::BootNode;
    let wait = |choice: &Choice<P>| match choice.served {
        Some(_) => choice.wait,
        None => choice.wait.max(slow / 4),
    };
    // Originals are late because they have batches only from where they have cut their ranges.
    choices.sort_by_key(|choice| {
        (choice.suspected, choice.original, wait(choice) >= slow, !ours(choice), wait(choice))
    });
    let first_is_ours = choices.first().is_some_and(ours);
    let any_gives_cursors = choices.iter().any(|choice| !choice.original && choice.served.is_some());
    let may_move = |choice: &Choice<P>| {
        let is_preferred = !choice.original || !any_gives_cursors;
        is_preferred && !choice.suspected && (ours(choice) || !first_is_ours)
    };
    let last_served = choices.iter().enumerate().filter(|(_, choice)| may_move(choice));
    let last_served = last_served.min_by_key(|(_, choice)| Reverse(choice.served)).map(|(at, _)| at);
    if let Some(at) = last_served.filter(|at| *at > 1 && choices[*at].served.is_some()) {
        choices[1..=at].rotate_right(1);
    }
    choices.into_iter().map(|choice| choice.provider).collect()
}

/// The state of a candidate's slot in the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum SlotState {
    /// It is in use and never evicted.
    InUse,
    /// It has a slot and may become useful.
    Assigned,
    /// It has no slot.
    New,
    /// It is suspended or cannot be reached.
    Useless,
}

/// Chooses who gets the `max` slots: those in use, then by provenance within each one's share, and among
/// equals in the given order.
pub(super) fn admit(
    candidates: Vec<Candidate>,
    slot_state: impl Fn(&Candidate) -> SlotState,
    order: impl Fn(&Candidate) -> u64,
    max: usize,
) -> Vec<Candidate> {
    let mut candidates: Vec<_> = candidates.into_iter().map(|c| (slot_state(&c), c)).collect();
    candidates.sort_by_cached_key(|(slot_state, c)| {
        (*slot_state != SlotState::InUse, Reverse(c.provenance), *slot_state, order(c))
    });
    let mut admitted: Vec<Candidate> = Vec::new();
    let mut by_address = HashMap::<IpAddr, usize>::new();
    for (slot_state, candidate) in candidates {
        let provenance = candidate.provenance;
        // Slots in use count, too: they may be more than a share allows, but then no others are added.
        let below = admitted.iter().filter(|other| other.provenance <= provenance).count();
        let address = share_of(candidate.address.ip());
        let of_address = by_address.entry(address).or_default();
        // One machine can pose as any number of providers, so an address without better provenance gets an
        // eighth.
        let is_crowd = provenance <= Provenance::TrustedNetwork && *of_address >= (max / 8).max(1);
        if admitted.len() >= max
            || (slot_state != SlotState::InUse && (below >= share(provenance, max) || is_crowd))
        {
            continue;
        }
        *of_address += 1;
        admitted.push(candidate);
    }
    admitted
}

/// Slots that a provenance shares with all lower ones.
fn share(provenance: Provenance, max: usize) -> usize {
    let quarters = match provenance {
        Provenance::Discovered => 1,
        Provenance::TrustedNetwork => 2,
        Provenance::SameMachine => 3,
        _ => 4,
    };
    (max * quarters / 4).max(1)
}

/// Merges the heights of usable providers; returns the previous ones if there are none.
pub(super) fn merge(usable: impl IntoIterator<Item = Heights>, before: Heights) -> Heights {
    let best = |a: Heights, b: Heights| Heights {
        relay: a.relay.max(b.relay),
        para: a.para.max(b.para),
        relay_target: a.relay_target.max(b.relay_target),
        para_target: a.para_target.max(b.para_target),
    };
    usable.into_iter().reduce(best).unwrap_or(before)
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
    fn fast_providers_rank_first_and_suspected_ones_last() {
        let ms = Duration::from_millis;
        let served = Some(Instant::now());
        let choice = |provider, suspected, original, provenance, wait| Choice {
            provider,
            suspected,
            original,
            provenance,
            wait,
            served,
        };
        let (any, boot) = (Provenance::Discovered, Provenance::BootNode);
        let choices = vec![
            choice("suspected", true, false, boot, ms(0)),
            choice("original", false, true, boot, ms(1)),
            choice("slow", false, false, any, ms(50)),
            choice("fast", false, false, any, ms(5)),
            choice("ours", false, false, boot, ms(90)),
            choice("ours, but hangs", false, false, boot, ms(1000)),
        ];
        let ranked = rank(choices, ms(1000));
        assert_eq!(ranked, ["ours", "fast", "slow", "ours, but hangs", "original", "suspected"]);
    }

    #[test]
    fn few_providers_that_never_gave_a_batch_come_before_the_one_that_did() {
        let (now, slow) = (Instant::now(), Duration::from_secs(1));
        let choice = |provider, provenance, wait_ms, age: Option<u64>| Choice {
            provider,
            suspected: false,
            original: false,
            provenance,
            wait: Duration::from_millis(wait_ms),
            served: age.map(|seconds| now - Duration::from_secs(seconds)),
        };
        let (any, boot) = (Provenance::SameMachine, Provenance::BootNode);
        // (provenance, wait of the one that gave the last batch) and its place behind a crowd of fast new ones.
        for (provenance, wait_ms, place) in [(any, 200, 0), (any, 900, 1), (any, 5000, 1), (boot, 5000, 1)] {
            let mut choices: Vec<_> = (0..30).map(|_| choice("new", any, 1, None)).collect();
            choices.push(choice("honest", provenance, wait_ms, Some(1)));
            // They have served, too, but not of late.
            choices.extend((0..30).map(|_| choice("stalls", any, 1000, Some(60))));
            let ranked = rank(choices, slow);
            assert_eq!(
                ranked.iter().position(|name| *name == "honest"),
                Some(place),
                "{wait_ms}: {ranked:?}"
            );
        }
        // A new one is tried where others are busy, and configured ones stay before strangers.
        let choices = vec![choice("busy", any, 300, Some(0)), choice("new", any, 1, None)];
        assert_eq!(rank(choices, slow), ["new", "busy"]);
        let choices = ["one", "two"].map(|name| choice(name, boot, 1, None)).into_iter().chain([choice(
            "any",
            any,
            1,
            Some(0),
        )]);
        assert_eq!(rank(choices.collect(), slow), ["one", "two", "any"]);
    }

    fn candidate(id: &str, provenance: Provenance, ip: [u8; 4]) -> Candidate {
        Candidate {
            id: id.to_owned(),
            address: (ip, 8012).into(),
            chain_identity: None,
            announced: None,
            provenance,
        }
    }

    fn admitted(candidates: &[Candidate], slot_state: impl Fn(&Candidate) -> SlotState) -> Vec<String> {
        admit(candidates.to_vec(), slot_state, |c| c.id.bytes().map(u64::from).sum(), 8)
            .into_iter()
            .map(|candidate| candidate.id)
            .collect()
    }

    #[test]
    fn crowd_does_not_evict_providers_in_use_or_configured() {
        use Provenance as P;
        let many = |provenance| {
            (0..200).map(move |n| candidate(&format!("a{n:03}"), provenance, [10, 0, n as u8, 1]))
        };
        // Its name sorts last.
        let used = candidate("zz", P::Discovered, [10, 1, 0, 1]);
        let boot = candidate("zy", P::BootNode, [10, 1, 0, 2]);
        let slot_state = |c: &Candidate| match &*c.id {
            "zz" => SlotState::InUse,
            _ => SlotState::New,
        };
        for (provenance, most) in [(P::Discovered, 2), (P::TrustedNetwork, 4), (P::SameMachine, 6)] {
            let all: Vec<_> = many(provenance).chain([used.clone(), boot.clone()]).collect();
            let all = admitted(&all, slot_state);
            assert!(all.contains(&"zz".into()) && all.contains(&"zy".into()), "{provenance:?}: {all:?}");
            assert_eq!(all.len(), most + 1, "{provenance:?}: {all:?}");
        }
        // One address gets one slot, except on this machine.
        let one: Vec<_> =
            (0..200).map(|n| candidate(&format!("a{n}"), P::TrustedNetwork, [10, 0, 0, 1])).collect();
        assert_eq!(admitted(&one, slot_state).len(), 1);
    }

    /// Each provenance may have all slots that better ones leave, and no more; nor do those in use.
    #[test]
    fn providers_of_all_provenances_have_the_slots_together() {
        use Provenance as P;
        let of = |name: &'static str, provenance, host| {
            (0..8).map(move |n| candidate(&format!("{name}{n}"), provenance, [10, host, 0, n]))
        };
        let (key, named, boot) =
            (of("key", P::SharedKey, 1), of("named", P::Named, 2), of("boot", P::BootNode, 3));
        let all: Vec<_> = boot.chain(named).chain(key).chain(of("used", P::SameMachine, 4)).collect();
        let new = admitted(&all, |_| SlotState::New);
        assert!(new.len() == 8 && new.iter().all(|id| id.starts_with("key")), "{new:?}");
        let used = |c: &Candidate| if c.id.starts_with("used") { SlotState::InUse } else { SlotState::New };
        let kept = admitted(&all, used);
        assert!(kept.len() == 8 && kept.iter().all(|id| id.starts_with("used")), "{kept:?}");
    }

    #[test]
    fn useless_provider_is_evicted() {
        let liars: Vec<_> =
            (0..6).map(|n| candidate(&format!("a{n}"), Provenance::SameMachine, [127, 0, 0, 1])).collect();
        let honest = candidate("zz", Provenance::SameMachine, [127, 0, 0, 1]);
        let all: Vec<_> = liars.iter().cloned().chain([honest]).collect();
        let slot_state =
            |of_liars: SlotState| move |c: &Candidate| if c.id == "zz" { SlotState::New } else { of_liars };
        assert!(!admitted(&all, slot_state(SlotState::Assigned)).contains(&"zz".into()));
        assert!(admitted(&all, slot_state(SlotState::Useless)).contains(&"zz".into()));
    }

    #[test]
    fn heights_are_those_of_the_best_usable_provider() {
        let none = Heights::default();
        let (low, high) = (heights(10, 5, 12), heights(20, 9, 22));
        assert_eq!(merge([low, high], none), high);
        assert_eq!(merge([low], high), low, "heights that nobody has are not available");
        assert_eq!(merge([], high), high);
        let lowered = heights(20, 9, 21);
        assert_eq!(merge([lowered], high), lowered, "a target that its provider lowers is lower");
    }
}
