//! Follows candidates as they come and go, and each provider's heights.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError},
    time::Duration,
};

use prb_core::{
    blob::{BlockCursor, HeaderCursor, Heights},
    primitives::ParaNumber,
    sync::{Backoff, BackoffConfig},
};
use tokio::{
    sync::watch,
    time::{interval, sleep},
};
use tokio_util::task::AbortOnDropHandle;
use tracing::{debug, info};

use super::{
    Candidate, Finalized,
    ask::{Ask, Blocks, Failure, Headers},
    pool::Pool,
    provider::{Kind, Provider},
};
use crate::blob::{
    answer,
    client::{Bounds, Link},
    keys::Key,
};

/// Interval at which ended suspensions are checked.
const TICK: Duration = Duration::from_millis(250);
/// Interval at which the bound from the own node's head is recomputed while the head stands still.
const OWN_TICK: Duration = Duration::from_secs(3);
/// A provider that claims more new blocks than this is asked to show the last one.
const LEAP: u32 = 64;
/// One header and its justification of hundreds of signatures, or one block.
const PROBE_BYTES: usize = 4 << 20;
/// Interval at which a provider that did not know our keys is probed for them again.
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(300);

/// Keeps the pool's providers in step with the candidates.
pub(super) async fn candidates(pool: Arc<Pool>, mut candidates: watch::Receiver<Vec<Candidate>>) {
    let mut tasks = HashMap::new();
    let mut tick = interval(TICK);
    let (mut open, mut changed, mut crowded) = (true, true, false);
    loop {
        if std::mem::take(&mut changed) {
            let all = candidates.borrow_and_update().clone();
            crowded = all.len() > pool.config.max_providers;
            update(&pool, &mut tasks, all);
        }
        tokio::select! {
            // The sender is gone: the known candidates stay.
            more = candidates.changed(), if open => (open, changed) = (more.is_ok(), more.is_ok()),
            _ = tick.tick() => {
                if pool.providers().iter().filter(|provider| provider.end_suspension()).count() > 0 {
                    pool.publish();
                }
                // A provider that has become useless may be evicted for a waiting candidate.
                changed |= crowded;
            }
        }
    }
}

type Tasks = HashMap<Arc<str>, AbortOnDropHandle<()>>;

/// Republishes the heights when the own node's head grows, and as it ages.
pub(super) async fn own_chain(pool: Arc<Pool>, heads: Option<watch::Receiver<Option<Finalized>>>) {
    let Some(mut heads) = heads else { return };
    let mut tick = interval(OWN_TICK);
    let mut open = true;
    loop {
        tokio::select! {
            changed = heads.changed(), if open => open = changed.is_ok(),
            _ = tick.tick() => {}
        }
        pool.publish();
    }
}

fn update(pool: &Arc<Pool>, tasks: &mut Tasks, candidates: Vec<Candidate>) {
    let candidates = pool.admit(candidates);
    for provider in pool.providers() {
        let still = candidates.iter().find(|candidate| *candidate.id == *provider.id);
        let known = provider.candidate();
        match still {
            Some(candidate) if candidate.address == known.address => {
                *provider.candidate.lock().unwrap_or_else(PoisonError::into_inner) = candidate.clone();
            }
            _ => {
                // Also if it has another address: a client belongs to one address. It is added again below.
                info!(provider = %provider.id, "data provider removed");
                tasks.remove(&provider.id);
                pool.remove(&provider.id);
            }
        }
    }
    for candidate in candidates {
        if pool.provider(&candidate.id).is_none() {
            info!(provider = candidate.id, address = %candidate.address, "data provider added");
            let provider = pool.insert(candidate);
            let task = tokio::spawn(follow(pool.clone(), provider.clone()));
            tasks.insert(provider.id.clone(), AbortOnDropHandle::new(task));
        }
    }
}

/// Follows one provider until the task is aborted.
async fn follow(pool: Arc<Pool>, provider: Arc<Provider>) {
    let mut link = provider.client.link();
    let waits = BackoffConfig { first: Duration::from_millis(100), max: Duration::from_secs(2) };
    let mut backoff = Backoff::new(waits);
    loop {
        // Cannot fail: the sender lives as long as the provider.
        if link.wait_for(|link| *link == Link::Up).await.is_err() {
            return;
        }
        let ended = tokio::select! {
            ended = follow_once(&pool, &provider, &mut backoff) => ended,
            _ = link.wait_for(|link| *link != Link::Up) => Failure::NotYet,
        };
        // Claims made over the lost connection no longer count.
        provider.learn(None, Heights::default(), None);
        if let Some(error) = ended.settle(&pool, &provider) {
            debug!(provider = %provider.id, error = %prb_core::text::describe(&error), "a data provider is not followed");
        }
        pool.publish();
        sleep(backoff.fail()).await;
    }
}

/// Follows a provider's heights over one connection; returns why that ended.
async fn follow_once(pool: &Pool, provider: &Provider, backoff: &mut Backoff) -> Failure {
    let first = Key::Heights { relay: None, para: None, wait_ms: 0 }.to_string();
    let bounds = Bounds { max_bytes: answer::MAX_HEAD_BYTES, timeout: pool.config.request_timeout };
    let mut answered = provider.get(&first, bounds).await;
    let wait = pool.config.heights_wait;
    // From now on the provider delays its answers by up to `wait`.
    let bounds = Bounds { timeout: bounds.timeout + wait, ..bounds };
    // The heights of its last answer; `None` until it has shown that it knows our keys.
    let mut seen = None;
    loop {
        let position = match answered {
            Ok(Some(blob)) => match answer::read_heights(blob) {
                Ok(position) => position,
                Err(e) => return Failure::bad(e),
            },
            // The original does not know this key, and answers that there is no such blob.
            Ok(None) if seen.is_none() => return follow_original(pool, provider, backoff).await,
            Ok(None) => return Failure::bad("it no longer knows our keys"),
            Err(e) => return e.into(),
        };
        if pool.suspend_if_foreign(provider, position.identity) {
            return Failure::NotYet;
        }
        let heights = position.heights;
        if let Err(failure) = probe(pool, provider, seen, heights).await {
            return failure;
        }
        backoff.reset();
        provider.learn(Some(Kind::Cursors), heights, position.identity);
        pool.publish();
        seen = Some(heights);
        let wait_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX);
        let key = Key::Heights { relay: heights.relay, para: heights.para, wait_ms };
        // Not measured: a long poll's duration says nothing about the provider's speed.
        answered = provider.client.get(&key.to_string(), bounds).await;
    }
}

/// Has a provider show its last header and last block if it is new or claims far more than others.
async fn probe(
    pool: &Pool,
    provider: &Provider,
    seen: Option<Heights>,
    heights: Heights,
) -> Result<(), Failure> {
    let known = pool.known_heights();
    let leaps = |tip: u32, known: u32| seen.is_none() || tip > known.saturating_add(LEAP);
    if let Some(tip) = heights.relay
        && leaps(tip.0, known.relay.map_or(0, |known| known.0))
    {
        // No parachain header has this number, so the batch contains none.
        let cursor = HeaderCursor { relay: tip, para: ParaNumber(u32::MAX) };
        show(pool, provider, Headers { cursor, max_bytes: PROBE_BYTES }).await?;
    }
    if let Some(tip) = heights.para.filter(|tip| tip.0 > 0)
        && leaps(tip.0, known.para.map_or(0, |known| known.0))
    {
        let cursor = BlockCursor { from: tip, to: tip };
        show(pool, provider, Blocks { cursor, max_bytes: PROBE_BYTES }).await?;
    }
    Ok(())
}

/// Has a provider prove a claim.
async fn show<Q: Ask>(pool: &Pool, provider: &Provider, question: Q) -> Result<(), Failure> {
    match pool.ask_one(provider, Kind::Cursors, question).await {
        // A single block may exceed the limit.
        Ok(_) | Err(Failure::Verdict(prb_core::blob::Error::TooLarge { .. })) => Ok(()),
        Err(Failure::NotYet | Failure::Verdict(_)) => {
            Err(Failure::Bad(format!("it claims to have {}, but does not", question.key())))
        }
        Err(failure) => Err(failure),
    }
}

/// Follows the heights that a provider of the original announces.
async fn follow_original(pool: &Pool, provider: &Provider, backoff: &mut Backoff) -> Failure {
    backoff.reset();
    let mut tick = interval(TICK);
    let start = tokio::time::Instant::now();
    while start.elapsed() < ASK_AGAIN_AFTER {
        tick.tick().await;
        let candidate = provider.candidate();
        if pool.suspend_if_foreign(provider, candidate.chain_identity) {
            return Failure::NotYet;
        }
        let heights = provider.announced().map(|announced| announced.heights).unwrap_or_default();
        let before = provider.snapshot();
        if before.kind != Some(Kind::Original) || before.heights != heights {
            provider.learn(Some(Kind::Original), heights, candidate.chain_identity);
            pool.publish();
        }
    }
    Failure::NotYet
}
