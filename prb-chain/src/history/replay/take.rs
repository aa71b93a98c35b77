//! Takes the next blocks of one part from a source, verifies them and stores them.

use std::{collections::BTreeMap, sync::Arc};

use prb_core::{
    blob::Span,
    primitives::{Hash, ParaNumber},
};

use super::{Failure, Replay};
use crate::{
    history::{HistorySource, Next},
    ingest,
    store::{ParaHead, Part, Store},
    verify::{self, Checked, Start, scale, state},
};

/// Most parachain headers held between two heads that the relay chain names.
const MAX_UNNAMED: u32 = 1_000_000;

impl Replay {
    /// Stores the next blocks of a part, verified; `false` if the source has none.
    pub(super) async fn take(&self, part: Part, source: &dyn HistorySource) -> Result<bool, Failure> {
        let Some((start, genesis)) = self.store.genesis() else { return Ok(false) };
        match part {
            Part::Genesis => Ok(false),
            Part::Relay => self.take_relay(source, start, genesis.para_id).await,
            Part::ParaHeaders => self.take_para_headers(source).await,
            Part::Changes => self.take_changes(source).await,
        }
    }

    /// Runs store operations on a blocking thread.
    pub(super) async fn with_store<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Store) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let store = Arc::clone(&self.store);
        tokio::task::spawn_blocking(move || work(&store)).await?
    }

    async fn take_relay(
        &self,
        source: &dyn HistorySource,
        start: &Start,
        para_id: u32,
    ) -> Result<bool, Failure> {
        let tips = *self.store.tips().borrow();
        let (first, parent) = match tips.relay {
            Some((tip, hash)) => (tip.next(), hash),
            None => (start.first(), start.hash),
        };
        let head = tips.proven.map_or(ParaNumber(0), |(number, _)| number);
        let pieces = source.relay(Next { relay: first, head }).await?;
        if pieces.is_empty() {
            return Ok(false);
        }
        let check_and_store = move |store: &Store| {
            let batch = ingest::check_pieces(para_id, store.current_set()?, parent, first, pieces)?;
            Ok(ingest::append_relay(store, &batch)?)
        };
        let gone = self.with_store(check_and_store).await?;
        ingest::notice_missing_head(&self.store, para_id, gone);
        Ok(true)
    }

    async fn take_para_headers(&self, source: &dyn HistorySource) -> Result<bool, Failure> {
        let limit = self.config.blocks_per_call;
        let head = self.with_store(move |store| Ok(store.next_head(limit)?)).await?;
        let Some(head) = head else { return Ok(false) };
        let tip = self.store.tips().borrow().para_header;
        let (first, parent) = tip.map_or((ParaNumber(0), Hash::default()), |(tip, hash)| (tip.next(), hash));
        if head.number.0 - first.0 > MAX_UNNAMED {
            return Err(Failure::bad(format!(
                "its relay blocks name no parachain head before {}",
                head.number
            )));
        }
        // Only a head that a relay block names proves headers: all of them up to it are needed before any can
        // be checked.
        let mut headers: Vec<Vec<u8>> = Vec::new();
        while first.0 + (headers.len() as u32) <= head.number.0 {
            let next = ParaNumber(first.0 + headers.len() as u32);
            let last = ParaNumber(head.number.0.min(next.0.saturating_add(limit - 1)));
            let more = source.para_headers(Span { first: next, last }).await?;
            if more.is_empty() {
                return Ok(false);
            }
            if more.len() > (last.0 - next.0) as usize + 1 {
                return Err(Failure::bad(format!(
                    "it returned more than parachain headers {next} to {last}"
                )));
            }
            headers.extend(more);
        }
        self.with_store(move |store| {
            let headers = check_para_headers(store, parent, first, head, headers)?;
            Ok(store.append_para_headers(first, &headers)?)
        })
        .await?;
        Ok(true)
    }

    async fn take_changes(&self, source: &dyn HistorySource) -> Result<bool, Failure> {
        let tips = *self.store.tips().borrow();
        let first = tips.changes.next();
        let Some((tip, _)) = tips.para_header.filter(|(tip, _)| *tip >= first) else { return Ok(false) };
        let last = tip.min(ParaNumber(first.0.saturating_add(self.config.blocks_per_call - 1)));
        let changes = source.changes(Span { first, last }).await?;
        if changes.is_empty() {
            return Ok(false);
        }
        if changes.len() > (last.0 - first.0) as usize + 1 {
            return Err(Failure::bad(format!(
                "it returned more than storage changes of blocks {first} to {last}"
            )));
        }
        self.with_store(move |store| {
            if let Some(bad) = changes.iter().position(|changes| !scale::is_storage_changes(changes)) {
                let number = first.0 + bad as u32;
                return Err(Failure::bad(format!("its storage changes of block {number} cannot be read")));
            }
            // Only here do the whole state and its changes meet: later blocks would need the state that is not
            // kept.
            if first.0 == 1 {
                check_first_block(store, &changes[0])?;
            }
            Ok(store.append_changes(first, &changes)?)
        })
        .await?;
        Ok(true)
    }
}

/// Checks headers up to one that a relay block names, and that the chain starts as its genesis says.
fn check_para_headers(
    store: &Store,
    parent: Hash,
    first: ParaNumber,
    head: ParaHead,
    headers: Vec<Vec<u8>>,
) -> Result<Vec<Vec<u8>>, Failure> {
    let checked = verify::chain(parent, first.0, headers)?;
    if let Some(Checked { number, hash: actual, .. }) = checked.last().filter(|last| last.hash != head.hash) {
        return Err(
            verify::Error::HeaderHash { number: *number, expected: head.hash, actual: *actual }.into()
        );
    }
    if let Some((_, genesis)) = store.genesis() {
        for header in checked.iter().take_while(|header| header.number <= 1) {
            if header.number == 0 {
                let pairs = scale::pairs(&genesis.state).unwrap_or_default();
                state::whole_state(header.state_root, &pairs)?;
            } else if header.hash != genesis.chain_identity {
                let (number, expected, actual) = (1, genesis.chain_identity, header.hash);
                return Err(verify::Error::HeaderHash { number, expected, actual }.into());
            }
        }
    }
    Ok(checked.into_iter().map(|header| header.encoded).collect())
}

/// Checks that the changes of block 1 lead to its state, and that it was built on the relay block after the
/// start, which ties the parachain to this relay chain.
fn check_first_block(store: &Store, changes: &[u8]) -> Result<(), Failure> {
    let Some((start, genesis)) = store.genesis() else { return Ok(()) };
    let view = store.view()?;
    let Some(header) = view.para_header(ParaNumber(1))? else { return Ok(()) };
    let header = Checked::new(1, header.to_vec())?;
    let pairs = scale::pairs(&genesis.state).unwrap_or_default();
    let mut state: BTreeMap<&[u8], &[u8]> = pairs.into_iter().collect();
    let change = &mut |key, value| match value {
        Some(value) => drop(state.insert(key, value)),
        None => drop(state.remove(key)),
    };
    let (_, has_children) = scale::storage_changes(&mut &*changes, change).unwrap_or_default();
    if has_children {
        // Roots of child tries are not among the changes, so the state root cannot be checked.
        return Ok(());
    }
    let pairs: Vec<_> = state.iter().map(|(key, value)| (*key, *value)).collect();
    state::whole_state(header.state_root, &pairs)?;
    let key = state::value_key("ParachainSystem", "ValidationData");
    let data = state.get(&key[..]).and_then(|data| ingest::validation_data(data));
    let Some((number, root)) = data else {
        return Err(Failure::bad("its block 1 has no ParachainSystem::ValidationData"));
    };
    let parent = view.relay_header(prb_core::primitives::RelayNumber(number))?;
    let parent = parent.map(|parent| Checked::new(number, parent.to_vec())).transpose()?;
    let is_right = parent.is_none_or(|parent| parent.state_root == root);
    if number.saturating_sub(1) != start.number || !is_right {
        return Err(Failure::bad(format!(
            "its parachain was not built on its relay chain: block 1 names relay block {number} of another state"
        )));
    }
    Ok(())
}
