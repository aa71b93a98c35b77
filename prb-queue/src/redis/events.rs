//! Submitters' news: events as they come, and the question to Redis where one was missed.

use std::{borrow::Cow, pin::pin, sync::Arc, time::Duration};

use futures::StreamExt;
use prb_core::queue::{JobFailure, JobId};
use redis::{RedisResult, aio::PubSub};
use serde_json::value::RawValue;
use tokio::time::{Instant, interval, sleep, timeout};

use super::{
    Shared,
    pending::{End, gone},
    record::{Event, Record},
};

/// How often an idle subscription is tried, and how long the answer may take.
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause before a subscription is made again; doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Most jobs in one question.
const MAX_ASKED: usize = 256;

/// Hears events, for ever.
pub(super) async fn listen(shared: Arc<Shared>) {
    let mut pause = PAUSE_MIN;
    loop {
        let (end, connected) = match subscribe(&shared).await {
            Ok(subscriptions) => (hear(&shared, subscriptions).await, true),
            Err(e) => (shared.link.endpoint_error(e).to_string(), false),
        };
        let was_up = shared.listening.send_replace(false) || (connected && !*shared.submits.borrow());
        if was_up {
            let endpoint = shared.link.endpoint();
            tracing::warn!(%endpoint, reason = end, "the connection to the queue's events was lost, connecting again");
            metrics::counter!("prb_queue_redis_events_lost_total").increment(1);
            // Somebody may have gone with the server.
            shared.pending.ask_all();
        } else if pause == PAUSE_MIN {
            tracing::warn!(reason = end, "the queue's events cannot be heard, trying again");
        }
        pause = if was_up { PAUSE_MIN } else { (pause * 2).min(PAUSE_MAX) };
        sleep(pause).await;
    }
}

async fn subscribe(shared: &Shared) -> RedisResult<PubSub> {
    let mut subscriptions = shared.link.subscriptions().await?;
    subscriptions.subscribe(shared.link.key("earlierDelayed")).await?;
    Ok(subscriptions)
}

/// Until the connection ends; says how. Who submits hears of the ends of jobs, too: others need not.
async fn hear(shared: &Shared, subscriptions: PubSub) -> String {
    let events = shared.link.key("events");
    let (mut sink, mut messages) = subscriptions.split();
    let mut submits = shared.submits.subscribe();
    let mut ping = interval(PING_EVERY);
    ping.reset();
    let mut replaced = pin!(shared.link.replaced());
    loop {
        tokio::select! {
            message = messages.next() => match message {
                Some(message) if message.get_channel_name() == events => event(shared, message.get_payload_bytes()),
                Some(_) => shared.sooner.notify_one(),
                None => return "the server closed it".into(),
            },
            Ok(()) = async { submits.wait_for(|on| *on).await.map(drop) }, if !*shared.listening.borrow() => {
                match timeout(PING_TIMEOUT, sink.subscribe(&events)).await {
                    Ok(Ok(())) => {
                        shared.listening.send_replace(true);
                        // What was told while nobody listened.
                        shared.pending.ask_all();
                    }
                    Ok(Err(e)) => return e.to_string(),
                    Err(_) => return "the server does not answer".into(),
                }
            }
            () = &mut replaced => return "the connection for commands was given up".into(),
            _ = ping.tick() => match timeout(PING_TIMEOUT, sink.ping::<redis::Value>()).await {
                Ok(Ok(_)) => {}
                Ok(Err(e)) => return e.to_string(),
                Err(_) => return "the server does not answer".into(),
            },
        }
    }
}

fn event(shared: &Shared, payload: &[u8]) {
    let Ok(event) = serde_json::from_slice::<Event<'_, &RawValue>>(payload) else { return };
    let Some(id) = event.id.parse().ok().map(JobId) else { return };
    let (mark, data) = (event.mark.map(Cow::into_owned), event.data.map_or("null", RawValue::get));
    let end = match (&*event.event, mark) {
        ("succeeded", Some(mark)) => match serde_json::from_str(data) {
            Ok(outcome) => End::Known { mark, fate: Ok(outcome) },
            Err(_) => End::Ask,
        },
        ("failed", Some(mark)) => match serde_json::from_str(data) {
            Ok(message) => End::Known { mark, fate: Err(JobFailure { message }) },
            Err(_) => End::Ask,
        },
        ("succeeded" | "failed", None) => End::Ask,
        _ => return,
    };
    shared.pending.ended(id, end);
}

/// Asks for fates, for ever.
pub(super) async fn ask(shared: Arc<Shared>) {
    let mut away_since = None;
    loop {
        let _ = timeout(shared.config.poll_interval, shared.pending.ask.notified()).await;
        match ask_once(&shared).await {
            Ok(()) => away_since = None,
            Err(e) => {
                let since = *away_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= shared.config.outage_limit {
                    give_up(&shared, &shared.link.endpoint_error(e).to_string());
                }
                sleep(PAUSE_MIN).await;
            }
        }
    }
}

fn give_up(shared: &Shared, reason: &str) {
    let secs = shared.config.outage_limit.as_secs_f32();
    let message = format!(
        "the queue has been away for {secs:.0} s ({reason}): look at the chain and submit again what is \
         still wanted"
    );
    let count = shared.pending.give_up(&message);
    if count > 0 {
        tracing::warn!(jobs = count, reason, "the queue is away, its jobs are given up");
    }
}

async fn ask_once(shared: &Shared) -> RedisResult<()> {
    let jobs = shared.pending.to_ask(shared.config.poll_interval);
    for jobs in jobs.chunks(MAX_ASKED) {
        let mut script = shared.link.scripts.fates.call();
        for (id, mark) in jobs {
            script.arg(id.0).arg(mark);
        }
        let answers: Vec<Vec<u8>> = shared.link.run(&script).await?;
        for ((id, mark), answer) in jobs.iter().zip(answers) {
            let fate = match answer.split_first() {
                Some((b'o', _)) | None => continue,
                Some((b'g', _)) => {
                    metrics::counter!("prb_queue_redis_jobs_gone_total").increment(1);
                    Some(Err(gone()))
                }
                Some((end, json)) => match Record::read(json) {
                    Ok(record) => record.tail.fate(*end == b's'),
                    Err(_) => Some(Err(JobFailure { message: "the ended job cannot be read".into() })),
                },
            };
            shared.pending.answered(*id, mark, fate, shared.config.block_hint.as_ref());
        }
    }
    Ok(())
}
