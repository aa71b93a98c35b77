//! Rechecks data that a worker refused, one item at a time.
//!
//! Storage changes are first read from the disk again and compared with their stored digest; if the disk has
//! changed them, they are fetched again, otherwise they are compared with the changes of all nodes. Headers
//! were proven before they were stored, so only the disk can have changed them: their chain, justifications
//! and proofs are checked again, and damage is reported with a remedy.

use prb_core::text::describe;
use std::{collections::HashMap, future::pending, time::Duration};

use metrics::counter;
use prb_core::{
    blob::{HeaderCursor, Span},
    primitives::ParaNumber,
};
use tokio::{sync::mpsc, time::Instant};

use super::{
    Chains, Config, Error, changes,
    recheck::{self, PER_CALL},
    write,
};
use crate::{
    rpc::Node,
    store::{Part, segment},
};

/// Most queued suspects; a dropped one is reported again when the worker refuses it again.
pub(super) const WAITING: usize = 64;
/// Blocks whose last recheck is remembered.
const REMEMBERED: usize = 1024;

/// Data that a worker refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Suspect {
    /// A block's storage changes.
    Changes(ParaNumber),
    /// The headers from a cursor on.
    Headers(HeaderCursor),
}

/// Handle to report blocks whose storage changes a worker could not apply (see
/// [`Ingest::suspects`](super::Ingest::suspects)).
#[derive(Clone, Debug)]
pub struct Suspects(mpsc::Sender<Suspect>);

impl Suspects {
    pub(super) const fn new(sender: mpsc::Sender<Suspect>) -> Self {
        Self(sender)
    }

    /// Requests a recheck of a block's storage changes. Returns at once; the request is dropped if the queue is
    /// full.
    pub fn report(&self, number: ParaNumber) {
        self.send(Suspect::Changes(number));
    }

    /// Requests a recheck of the stored headers from a cursor on. Returns at once.
    pub fn report_headers(&self, cursor: HeaderCursor) {
        self.send(Suspect::Headers(cursor));
    }

    fn send(&self, suspect: Suspect) {
        // If the queue is full, drop it: a worker that is right reports it again.
        // Never waits: the caller is a worker's sync loop.
        let outcome = if self.0.try_send(suspect).is_ok() { "taken" } else { "full" };
        counter!("prb_ingest_suspects_total", "outcome" => outcome).increment(1);
    }
}

/// Rechecks suspects as they are reported.
pub(super) async fn run(
    chains: &Chains,
    config: &Config,
    mut suspects: mpsc::Receiver<Suspect>,
) -> Result<(), Error> {
    let mut schedule = RecheckSchedule::new(config);
    while let Some(suspect) = suspects.recv().await {
        // A thousand workers may report the same block within a second.
        if !schedule.is_due(suspect) {
            continue;
        }
        let number = match suspect {
            Suspect::Changes(number) if number <= chains.store.tips().borrow().changes => number,
            Suspect::Changes(_) => continue,
            Suspect::Headers(cursor) => {
                let outcome = recheck_headers(chains, cursor).await;
                schedule.record(suspect, outcome != "failed");
                counter!("prb_ingest_rechecks_total", "outcome" => outcome).increment(1);
                continue;
            }
        };
        let found = recheck_block(chains, number).await;
        schedule.record(suspect, matches!(found, Ok(Found::Right)));
        let outcome = match found {
            Ok(Found::Wrong { replaced, last }) => {
                tracing::warn!(block = number.0, replaced, %last, "wrong storage changes have been replaced");
                "replaced"
            }
            Ok(Found::Right) => {
                tracing::warn!(
                    block = number.0,
                    "a worker cannot apply storage changes that the nodes confirm: it may be broken"
                );
                "confirmed"
            }
            Err(e) if e.is_fatal() => return Err(e),
            Err(e) => {
                let error = describe(&e);
                tracing::warn!(block = number.0, error, "suspect storage changes could not be checked");
                "failed"
            }
        };
        counter!("prb_ingest_rechecks_total", "outcome" => outcome).increment(1);
    }
    pending().await
}

/// The result of a recheck.
enum Found {
    Right,
    Wrong { replaced: usize, last: ParaNumber },
}

/// Rechecks a block and, if it was wrong, the blocks after it: the same node may have given wrong changes of
/// those, too.
async fn recheck_block(chains: &Chains, number: ParaNumber) -> Result<Found, Error> {
    if let Some(blocks) = repair_segment(chains, number).await? {
        return Ok(Found::Wrong {
            replaced: (blocks.last.0 - blocks.first.0) as usize + 1,
            last: blocks.last,
        });
    }
    let recheck = |first, last| recheck::recheck(&chains.para, &chains.store, Span { first, last });
    let mut replaced = recheck(number, number).await?.replaced.len();
    if replaced == 0 {
        return Ok(Found::Right);
    }
    let mut last = number;
    loop {
        let tip = chains.store.tips().borrow().changes;
        let (first, end) = (last.next(), ParaNumber(last.0.saturating_add(PER_CALL)).min(tip));
        // What is replaced already stays replaced; a worker detects the rest.
        let more =
            if first <= end { recheck(first, end).await.map_or(0, |more| more.replaced.len()) } else { 0 };
        if more == 0 {
            return Ok(Found::Wrong { replaced, last });
        }
        replaced += more;
        last = end;
    }
}

/// Fetches the segment with a block's storage changes again if the disk has changed it; returns its blocks in
/// that case.
async fn repair_segment(chains: &Chains, number: ParaNumber) -> Result<Option<Span<ParaNumber>>, Error> {
    let store = &chains.store;
    let Some(fault) = write(store, move |store| store.verify_segment(number)).await? else { return Ok(None) };
    let path = store.path().display().to_string();
    tracing::error!(%path, "stored data was changed on the disk: {fault}; fetching it again");
    let (blocks, digest) = write(store, move |store| store.segment_of(number)).await?;
    for node in chains.para.candidates() {
        let fetched = match fetch(chains, &node, blocks).await {
            Ok(fetched) => fetched,
            Err(e) => {
                tracing::warn!(%path, error = %describe(&e), "storage changes could not be fetched again");
                continue;
            }
        };
        let items: Vec<&[u8]> = fetched.iter().map(Vec::as_slice).collect();
        // Only the bytes that were stored before: any other answer has to win by proof.
        if digest == Some(segment::digest(&segment::write(&items))) {
            write(store, move |store| store.put_segment(blocks.first, &fetched)).await?;
            return Ok(Some(blocks));
        }
    }
    tracing::error!(
        %path,
        "no node gives what was stored there: stop the daemon and drop it to be fetched again: prb store drop \
         --para-from {}",
        blocks.first
    );
    Ok(None)
}

async fn fetch(chains: &Chains, node: &Node, blocks: Span<ParaNumber>) -> Result<Vec<Vec<u8>>, Error> {
    let (mut fetched, mut first) = (Vec::new(), blocks.first.0);
    while first <= blocks.last.0 {
        let last = blocks.last.0.min(first.saturating_add(PER_CALL - 1));
        fetched.extend(changes::fetch_from(node, &chains.store, first, last).await?);
        first = last + 1;
    }
    Ok(fetched)
}

/// Checks the headers that a worker refused again, as stored on the disk.
async fn recheck_headers(chains: &Chains, cursor: HeaderCursor) -> &'static str {
    let path = chains.store.path().display();
    match write(&chains.store, move |store| store.verify_headers(cursor)).await {
        Ok(report) if report.faulty == 0 => {
            let relay = cursor.relay.0;
            tracing::warn!(relay, "a worker refuses headers that are valid as stored: it may be broken");
            "confirmed"
        }
        Ok(report) => {
            for fault in &report.faults {
                let option = if fault.part == Part::Relay { "--relay-from" } else { "--headers --para-from" };
                tracing::error!(
                    %path,
                    "stored data was changed on the disk: {fault}; stop the daemon and drop it to be fetched again: \
                     prb store drop {option} {}",
                    fault.number
                );
            }
            "faulty"
        }
        Err(e) => {
            tracing::error!(%path, error = %describe(&e), "suspect headers cannot be read");
            "failed"
        }
    }
}

/// When blocks were rechecked, and when they may be again.
struct RecheckSchedule {
    min: Duration,
    max: Duration,
    blocks: HashMap<Suspect, Recheck>,
}

/// The last recheck of a block.
struct Recheck {
    again_at: Instant,
    wait: Duration,
}

impl RecheckSchedule {
    fn new(config: &Config) -> Self {
        Self { min: config.recheck_min, max: config.recheck_max, blocks: HashMap::new() }
    }

    /// Whether the block may be rechecked now. If too many were rechecked recently, no new one may.
    fn is_due(&mut self, suspect: Suspect) -> bool {
        let now = Instant::now();
        if self.blocks.len() >= REMEMBERED {
            self.blocks.retain(|_, recheck| recheck.again_at > now);
        }
        match self.blocks.get(&suspect) {
            Some(recheck) => recheck.again_at <= now,
            None => self.blocks.len() < REMEMBERED,
        }
    }

    /// Records a recheck; each that finds the block correct doubles the time to the next.
    fn record(&mut self, suspect: Suspect, right: bool) {
        let before = self.blocks.get(&suspect).map(|recheck| recheck.wait);
        let wait = before.filter(|_| right).map_or(self.min, |wait| (wait * 2).min(self.max));
        self.blocks.insert(suspect, Recheck { again_at: Instant::now() + wait, wait });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schedule(min: u64, max: u64) -> RecheckSchedule {
        let (recheck_min, recheck_max) = (Duration::from_secs(min), Duration::from_secs(max));
        RecheckSchedule::new(&Config { recheck_min, recheck_max, ..Config::default() })
    }

    #[tokio::test(start_paused = true)]
    async fn correct_block_is_rechecked_with_growing_pauses() {
        let (mut schedule, block) = (schedule(10, 100), Suspect::Changes(ParaNumber(7)));
        let mut count = 0;
        // A broken worker reports it every second for an hour.
        for _ in 0..3600 {
            if schedule.is_due(block) {
                count += 1;
                schedule.record(block, true);
            }
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        // At 0, 10, 30, 70, 150, and then every 100 s.
        assert_eq!(count, 5 + (3600 - 150 - 1) / 100);
    }

    #[tokio::test(start_paused = true)]
    async fn repaired_block_is_rechecked_soon() {
        let (mut schedule, block) = (schedule(10, 100), Suspect::Changes(ParaNumber(7)));
        for _ in 0..5 {
            schedule.record(block, true);
        }
        schedule.record(block, false);
        assert!(!schedule.is_due(block));
        tokio::time::advance(Duration::from_secs(10)).await;
        assert!(schedule.is_due(block));
    }

    #[tokio::test(start_paused = true)]
    async fn remembered_blocks_are_bounded_and_expire() {
        let mut schedule = schedule(10, 100);
        let mut admitted = 0;
        for block in (0..10 * REMEMBERED as u32).map(|n| Suspect::Changes(ParaNumber(n))) {
            if schedule.is_due(block) {
                schedule.record(block, true);
                admitted += 1;
            }
        }
        assert_eq!((admitted, schedule.blocks.len()), (REMEMBERED, REMEMBERED));
        tokio::time::advance(Duration::from_secs(10)).await;
        assert!(schedule.is_due(Suspect::Changes(ParaNumber(u32::MAX))));
    }

    #[tokio::test]
    async fn reports_never_block() {
        let (sender, mut receiver) = mpsc::channel(2);
        let suspects = Suspects::new(sender);
        (0..1000).for_each(|n| suspects.report(ParaNumber(n)));
        let taken: Vec<_> = std::iter::from_fn(|| receiver.try_recv().ok()).collect();
        assert_eq!(taken, [0, 1].map(|n| Suspect::Changes(ParaNumber(n))));
        drop(receiver);
        suspects.report(ParaNumber(1));
    }
}
