//! Detects workers without progress although there is data for them.

use metrics::gauge;
use tokio::time::Instant;
use tracing::warn;

use super::{Config, Shared};
use crate::{
    sync::{Step, plan},
    worker::{Context, EventKind},
};

/// Maximum number of worker names in one warning.
const MAX_NAMES: usize = 10;

/// Marks workers without progress as stalled, and logs those that are newly stalled. Ends a period of the lines about
/// single workers.
pub(super) fn check(shared: &Shared, ctx: &Context, config: &Config) {
    let heights = *ctx.source.heights().borrow();
    let limits = ctx.tuning.limits;
    let now = Instant::now();
    let mut stalled = 0u32;
    let mut new = Vec::new();
    for slot in &shared.registry().slots {
        let status = slot.status();
        // Without a position a worker counts as behind: one in a crash loop has none most of the time.
        let behind = status.runner.is_some()
            && status.position.is_none_or(|at| plan(at, &heights, &limits) != Step::Wait);
        let stuck = behind && now.duration_since(slot.moved_at()) >= config.stall_after;
        stalled += u32::from(stuck);
        if stuck != status.stalled {
            slot.update(|status| status.stalled = stuck);
            if stuck {
                slot.event(EventKind::Stalled);
                new.push(status);
            }
        }
    }
    ctx.lines.end_period();
    gauge!("prb_worker_stalled").set(stalled);
    if !new.is_empty() {
        let named: Vec<_> = new
            .iter()
            .take(MAX_NAMES)
            .map(|s| format!("{} ({} {})", s.worker.name, s.state, s.message))
            .collect();
        warn!(count = new.len(), workers = named.join("; "), "workers make no progress");
    }
}
