//! Blocks whose storage changes a worker could not apply: looked at again, one at a time.

use std::{collections::HashMap, future::pending, time::Duration};

use metrics::counter;
use prb_core::{blob::Span, primitives::ParaNumber};
use tokio::{sync::mpsc, time::Instant};

use super::{
    Chains, Config, Error, chain_of,
    recheck::{self, PER_CALL},
};

/// Suspects that may wait; one that finds no room is refused by the worker, and reported, again.
pub(super) const WAITING: usize = 64;
/// Blocks whose last look is remembered.
const REMEMBERED: usize = 1024;

/// Where to tell of blocks whose storage changes a worker could not apply (see
/// [`Ingest::suspects`](super::Ingest::suspects)).
#[derive(Clone, Debug)]
pub struct Suspects(mpsc::Sender<ParaNumber>);

impl Suspects {
    pub(super) const fn new(sender: mpsc::Sender<ParaNumber>) -> Self {
        Self(sender)
    }

    /// Asks for a second look at a block's storage changes. Returns at once, whether there is room or not.
    pub fn report(&self, number: ParaNumber) {
        // A worker that is right says so again.
        let outcome = if self.0.try_send(number).is_ok() { "taken" } else { "full" };
        counter!("prb_ingest_suspects_total", "outcome" => outcome).increment(1);
    }
}

/// Looks at suspects as they come.
pub(super) async fn run(
    chains: &Chains,
    config: &Config,
    mut suspects: mpsc::Receiver<ParaNumber>,
) -> Result<(), Error> {
    let mut looks = Looks::new(config);
    while let Some(number) = suspects.recv().await {
        if number > chains.store.tips().borrow().changes || !looks.is_due(number) {
            continue;
        }
        let found = look(chains, number).await;
        looks.looked(number, matches!(found, Ok(Found::Right)));
        let outcome = match found {
            Ok(Found::Wrong { replaced, last }) => {
                tracing::warn!(block = number.0, replaced, %last, "wrong storage changes were replaced");
                "replaced"
            }
            Ok(Found::Right) => {
                let text = "a worker cannot apply storage changes that the nodes confirm: it may be broken";
                tracing::warn!(block = number.0, "{text}");
                "confirmed"
            }
            Err(e) if e.is_fatal() => return Err(e),
            Err(e) => {
                tracing::warn!(block = number.0, "suspect storage changes not checked: {}", chain_of(&e));
                "failed"
            }
        };
        counter!("prb_ingest_rechecks_total", "outcome" => outcome).increment(1);
    }
    pending().await
}

/// What a second look found.
enum Found {
    Right,
    Wrong { replaced: usize, last: ParaNumber },
}

/// Looks at a block again and, where it was wrong, at those after it: who tells one block wrongly may have
/// told others so.
async fn look(chains: &Chains, number: ParaNumber) -> Result<Found, Error> {
    let recheck = |first, last| recheck::recheck(&chains.para, &chains.store, Span { first, last });
    let mut replaced = recheck(number, number).await?.replaced.len();
    if replaced == 0 {
        return Ok(Found::Right);
    }
    let mut last = number;
    loop {
        let tip = chains.store.tips().borrow().changes;
        let (first, end) = (last.next(), ParaNumber(last.0.saturating_add(PER_CALL)).min(tip));
        // What is replaced already is worth having; a worker finds the rest.
        let more =
            if first <= end { recheck(first, end).await.map_or(0, |more| more.replaced.len()) } else { 0 };
        if more == 0 {
            return Ok(Found::Wrong { replaced, last });
        }
        replaced += more;
        last = end;
    }
}

/// When blocks were looked at, and when they may be again.
struct Looks {
    min: Duration,
    max: Duration,
    blocks: HashMap<ParaNumber, Look>,
}

/// The last look at a block.
struct Look {
    again_at: Instant,
    wait: Duration,
}

impl Looks {
    fn new(config: &Config) -> Self {
        Self { min: config.recheck_min, max: config.recheck_max, blocks: HashMap::new() }
    }

    /// Whether the block may be looked at now. While very many were looked at of late, no further one may.
    fn is_due(&mut self, number: ParaNumber) -> bool {
        let now = Instant::now();
        if self.blocks.len() >= REMEMBERED {
            self.blocks.retain(|_, look| look.again_at > now);
        }
        match self.blocks.get(&number) {
            Some(look) => look.again_at <= now,
            None => self.blocks.len() < REMEMBERED,
        }
    }

    /// Notes a look; each that found the block right doubles the time to the next.
    fn looked(&mut self, number: ParaNumber, right: bool) {
        let before = self.blocks.get(&number).map(|look| look.wait);
        let wait = before.filter(|_| right).map_or(self.min, |wait| (wait * 2).min(self.max));
        self.blocks.insert(number, Look { again_at: Instant::now() + wait, wait });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn looks(min: u64, max: u64) -> Looks {
        let (recheck_min, recheck_max) = (Duration::from_secs(min), Duration::from_secs(max));
        Looks::new(&Config { recheck_min, recheck_max, ..Config::default() })
    }

    #[tokio::test(start_paused = true)]
    async fn a_block_that_is_found_right_is_looked_at_ever_less() {
        let (mut looks, block) = (looks(10, 100), ParaNumber(7));
        let mut count = 0;
        // A broken worker reports it every second for an hour.
        for _ in 0..3600 {
            if looks.is_due(block) {
                count += 1;
                looks.looked(block, true);
            }
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        // At 0, 10, 30, 70, 150, and then every 100 s.
        assert_eq!(count, 5 + (3600 - 150 - 1) / 100);
    }

    #[tokio::test(start_paused = true)]
    async fn a_block_that_was_mended_is_looked_at_again_soon() {
        let (mut looks, block) = (looks(10, 100), ParaNumber(7));
        for _ in 0..5 {
            looks.looked(block, true);
        }
        looks.looked(block, false);
        assert!(!looks.is_due(block));
        tokio::time::advance(Duration::from_secs(10)).await;
        assert!(looks.is_due(block));
    }

    #[tokio::test(start_paused = true)]
    async fn many_blocks_take_bounded_room_and_make_room_in_time() {
        let mut looks = looks(10, 100);
        let mut admitted = 0;
        for block in (0..10 * REMEMBERED as u32).map(ParaNumber) {
            if looks.is_due(block) {
                looks.looked(block, true);
                admitted += 1;
            }
        }
        assert_eq!((admitted, looks.blocks.len()), (REMEMBERED, REMEMBERED));
        tokio::time::advance(Duration::from_secs(10)).await;
        assert!(looks.is_due(ParaNumber(u32::MAX)));
    }

    #[tokio::test]
    async fn reports_never_wait() {
        let (sender, mut receiver) = mpsc::channel(2);
        let suspects = Suspects::new(sender);
        (0..1000).for_each(|n| suspects.report(ParaNumber(n)));
        let taken: Vec<_> = std::iter::from_fn(|| receiver.try_recv().ok()).collect();
        assert_eq!(taken, [0, 1].map(ParaNumber));
        drop(receiver);
        suspects.report(ParaNumber(1));
    }
}
