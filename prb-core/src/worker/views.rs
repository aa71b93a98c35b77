//! [`Views`]: the newest view of the chain, unless it is older than what the fleet has acted on.
//!
//! A parachain node may lag: it was restored from a snapshot, or lost its last hours. Its views show as present what is
//! past, so that a stopped worker seems to compute. Nothing is decided on such a view. A command that is given meanwhile
//! is about the present: it waits for views that are as new as the newest block known then, since the next ones still show
//! what happened before it, such as a start by the worker's owner.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

use super::NodeBehind;
use crate::{blob::Heights, chain::ChainView, inventory::Snapshot, primitives::ParaNumber};

/// Blocks by which a view may be behind the chain data: store and reader may follow different nodes, and the heights
/// of data providers may be up to 32 blocks beyond the own node's without any proof.
const BEHIND_DATA: u32 = 64;
/// How long a view must be too old before that is shown: a view may fall back by a block or two for a moment when
/// another node is followed.
const SHOWN_AFTER: Duration = Duration::from_secs(30);

/// The views of the chain that a fleet may act on.
#[derive(Debug)]
pub(crate) struct Views {
    views: watch::Receiver<Option<Arc<ChainView>>>,
    heights: watch::Receiver<Heights>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// No older view is acted on: the block of the newest one that was, also before this process, or of a command.
    acted_on: ParaNumber,
    /// Since when views are older.
    behind_since: Option<Instant>,
}

impl Views {
    pub(crate) fn new(
        views: watch::Receiver<Option<Arc<ChainView>>>,
        heights: watch::Receiver<Heights>,
    ) -> Self {
        Self { views, heights, state: Mutex::default() }
    }

    /// All views, as a watch: only for being woken.
    pub(crate) fn changes(&self) -> watch::Receiver<Option<Arc<ChainView>>> {
        self.views.clone()
    }

    /// Notes the views that the records in the inventory were decided with.
    pub(crate) fn note_records(&self, snapshot: &Snapshot) {
        let removed = snapshot.removed.values().map(|worker| worker.record.as_of);
        let newest = snapshot.saved.values().map(|record| record.as_of).chain(removed).flatten().max();
        let mut state = self.state();
        state.acted_on = state.acted_on.max(newest.unwrap_or_default());
    }

    /// Notes a command: if no view is current, it waits for one of the newest block known now.
    pub(crate) fn note_command(&self) {
        if !matches!(self.current(), Ok(Some(_))) {
            let data = self.heights.borrow().para.unwrap_or_default();
            let mut state = self.state();
            state.acted_on = state.acted_on.max(data);
        }
    }

    /// The block of the newest view that the fleet has acted on, or of a later command; `None` before the first.
    pub(crate) fn acted_on(&self) -> Option<ParaNumber> {
        Some(self.state().acted_on).filter(|block| block.0 > 0)
    }

    /// Returns the newest view, which the fleet acts on from now on.
    ///
    /// # Errors
    /// It is older than one that the fleet has acted on.
    pub(crate) fn current(&self) -> Result<Option<Arc<ChainView>>, NodeBehind> {
        self.newest(|state, view| state.acted_on = view.block)
    }

    /// Whether the newest view is too old, for display.
    pub(crate) fn node_behind(&self) -> Option<NodeBehind> {
        self.newest(|_, _| ()).err()
    }

    fn newest(
        &self,
        note: impl FnOnce(&mut State, &ChainView),
    ) -> Result<Option<Arc<ChainView>>, NodeBehind> {
        // Before the lock is taken, because who changes the heights may wait for someone who reads them and needs the lock.
        let data = self.heights.borrow().para.unwrap_or_default();
        // Before the view is read: another task must not act on a newer one in between.
        let mut state = self.state();
        let Some(view) = self.views.borrow().clone() else { return Ok(None) };
        let oldest = state.acted_on.max(ParaNumber(data.0.saturating_sub(BEHIND_DATA)));
        if view.block < oldest {
            let newest = state.acted_on.max(data);
            let since = *state.behind_since.get_or_insert_with(Instant::now);
            let is_lasting = since.elapsed() >= SHOWN_AFTER;
            return Err(NodeBehind { blocks: newest.0 - view.block.0, is_lasting });
        }
        state.behind_since = None;
        note(&mut state, &view);
        Ok(Some(view))
    }

    /// When views that are too old will be shown as such.
    pub(crate) fn wakes_at(&self) -> Option<Instant> {
        let shown_at = self.state().behind_since? + SHOWN_AFTER;
        Some(shown_at).filter(|at| *at > Instant::now())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::mpsc, thread};

    use tokio::time::advance;

    use super::*;
    use crate::inventory::FleetRecord;

    fn view(block: u32) -> Option<Arc<ChainView>> {
        Some(Arc::new(ChainView { block: ParaNumber(block), ..ChainView::default() }))
    }

    fn block(views: &Views) -> Result<Option<u32>, NodeBehind> {
        views.current().map(|view| view.map(|view| view.block.0))
    }

    const fn behind(blocks: u32, is_lasting: bool) -> Result<Option<u32>, NodeBehind> {
        Err(NodeBehind { blocks, is_lasting })
    }

    /// Tasks that have read the heights take the lock for when to wake up. Whoever holds it must not wait for those who
    /// change the heights, who wait for the readers.
    #[test]
    fn views_are_not_locked_while_the_heights_are_changed() {
        let heights = watch::Sender::<Heights>::default();
        let shown = watch::Sender::new(view(1));
        let views = &Views::new(shown.subscribe(), heights.subscribe());
        thread::scope(|scope| {
            let (sender, ended) = mpsc::channel();
            heights.send_modify(|_| {
                scope.spawn(|| views.current());
                scope.spawn(move || {
                    // The other thread cannot end; in this time, it could take the lock.
                    thread::sleep(Duration::from_millis(100));
                    views.wakes_at();
                    sender.send(())
                });
                assert!(ended.recv_timeout(Duration::from_secs(60)).is_ok(), "the views stay locked");
            });
        });
    }

    #[tokio::test(start_paused = true)]
    async fn views_older_than_the_newest_are_not_current() {
        let (shown, heights) = (watch::Sender::new(None), watch::Sender::new(Heights::default()));
        let views = Views::new(shown.subscribe(), heights.subscribe());
        assert_eq!((block(&views), views.acted_on()), (Ok(None), None));
        shown.send_replace(view(99));
        assert_eq!((views.node_behind(), views.acted_on()), (None, None), "it was only displayed");
        for number in [100, 100, 101] {
            shown.send_replace(view(number));
            assert_eq!(block(&views), Ok(Some(number)));
        }
        shown.send_replace(view(100));
        assert_eq!((block(&views), views.acted_on()), (behind(1, false), Some(ParaNumber(101))));
        assert_eq!(views.node_behind(), behind(1, false).err());
        let shown_at = views.wakes_at();
        advance(SHOWN_AFTER).await;
        assert_eq!(shown_at, Some(Instant::now()));
        assert_eq!((block(&views), views.wakes_at()), (behind(1, true), None));
        shown.send_replace(view(101));
        assert_eq!(block(&views), Ok(Some(101)));
        // Each time anew.
        shown.send_replace(view(90));
        assert_eq!(block(&views), behind(11, false));
    }

    #[test]
    fn command_on_an_old_view_waits_for_the_newest_block_known() {
        let (shown, heights) = (watch::Sender::new(view(100)), watch::Sender::new(Heights::default()));
        let views = Views::new(shown.subscribe(), heights.subscribe());
        assert_eq!(block(&views), Ok(Some(100)));
        heights.send_modify(|heights| heights.para = Some(ParaNumber(110)));
        views.note_command();
        assert_eq!((block(&views), views.acted_on()), (Ok(Some(100)), Some(ParaNumber(100))));
        shown.send_replace(view(90));
        views.note_command();
        heights.send_modify(|heights| heights.para = Some(ParaNumber(120)));
        shown.send_replace(view(109));
        assert_eq!((block(&views), views.acted_on()), (behind(11, false), Some(ParaNumber(110))));
        shown.send_replace(view(110));
        assert_eq!(block(&views), Ok(Some(110)));
        // Before the first view.
        let views = Views::new(watch::Sender::new(None).subscribe(), heights.subscribe());
        views.note_command();
        assert_eq!(views.acted_on(), Some(ParaNumber(120)));
    }

    #[test]
    fn views_far_behind_the_chain_data_are_not_current() {
        let (shown, heights) = (watch::Sender::new(view(936)), watch::Sender::new(Heights::default()));
        let views = Views::new(shown.subscribe(), heights.subscribe());
        heights.send_modify(|heights| heights.para = Some(ParaNumber(1000)));
        assert_eq!(block(&views), Ok(Some(936)));
        heights.send_modify(|heights| heights.para = Some(ParaNumber(1001)));
        assert_eq!(block(&views), behind(65, false));
    }

    #[test]
    fn views_older_than_a_record_are_not_current() {
        let shown = watch::Sender::new(view(90));
        let views = Views::new(shown.subscribe(), watch::Sender::default().subscribe());
        let mut snapshot = Snapshot::default();
        views.note_records(&snapshot);
        assert_eq!(block(&views), Ok(Some(90)));
        let record = FleetRecord { as_of: Some(ParaNumber(104)), ..FleetRecord::default() };
        snapshot.saved.insert(uuid::Uuid::nil(), record);
        views.note_records(&snapshot);
        assert_eq!(block(&views), behind(14, false));
    }
}
