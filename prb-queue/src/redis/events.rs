//! Follows job events for submitters, and polls outcomes in case an event was missed.

use std::{borrow::Cow, pin::pin, sync::Arc, time::Duration};

use futures::StreamExt;
use prb_core::{
    queue::{JobFailure, JobId},
    text::duration,
};
use redis::{RedisResult, aio::PubSub};
use serde_json::value::RawValue;
use tokio::time::{Instant, interval, sleep, timeout};

use super::{
    Shared,
    pending::End,
    record::{Event, Record},
};

const EVENTS_LOST: &str = "prb_queue_redis_events_lost_total";
const JOBS_GONE: &str = "prb_queue_redis_jobs_gone_total";

/// How often an idle subscription is pinged, and the ping's timeout.
const PING_EVERY: Duration = Duration::from_secs(10);
const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// Pause before subscribing again; doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Minimum time between two log lines about lost connections.
const WARN_INTERVAL: Duration = Duration::from_secs(60);
/// Maximum number of jobs whose outcomes one script reads.
const MAX_POLLED: usize = 256;

/// Registers the help texts of this crate's metrics.
pub(super) fn describe_metrics() {
    metrics::describe_counter!(EVENTS_LOST, "Lost connections for job events");
    metrics::describe_counter!(JOBS_GONE, "Submitted jobs that are gone from Redis");
}

/// Receives events until the task is aborted.
pub(super) async fn listen(shared: Arc<Shared>) {
    let mut pause = PAUSE_MIN;
    let mut warnings = Warnings::default();
    loop {
        let (end, connected) = match subscribe(&shared).await {
            Ok(subscriptions) => {
                shared.orphans.note_restart();
                (receive(&shared, subscriptions).await, true)
            }
            Err(e) => (shared.link.endpoint_error(e).to_string(), false),
        };
        // A process that has submitted nothing does not subscribe to job events: for it, being connected
        // suffices.
        let was_up = shared.listening.send_replace(false) || (connected && !*shared.submits.borrow());
        if was_up {
            warnings.log(&shared, &end, "the connection to the queue's events was lost, connecting again");
            metrics::counter!(EVENTS_LOST).increment(1);
            // Jobs may have been lost with the server.
            shared.pending.poll_all();
        } else if pause == PAUSE_MIN {
            warnings.log(&shared, &end, "cannot subscribe to the queue's events, trying again");
        }
        pause = if was_up { PAUSE_MIN } else { (pause * 2).min(PAUSE_MAX) };
        sleep(pause).await;
    }
}

/// Logs lost connections, rate-limited: while a server refuses writes, each failed call replaces the connection.
#[derive(Debug, Default)]
struct Warnings {
    last: Option<Instant>,
    /// Warnings suppressed since then.
    more: u64,
}

impl Warnings {
    fn log(&mut self, shared: &Shared, reason: &str, what: &'static str) {
        if self.last.is_some_and(|at| at.elapsed() < WARN_INTERVAL) {
            self.more += 1;
            return;
        }
        let more = std::mem::take(&mut self.more);
        tracing::warn!(endpoint = %shared.link.endpoint(), reason, more, "{what}");
        self.last = Some(Instant::now());
    }
}

async fn subscribe(shared: &Shared) -> RedisResult<PubSub> {
    let mut subscriptions = shared.link.subscriptions().await?;
    subscriptions.subscribe(shared.link.key("earlierDelayed")).await?;
    Ok(subscriptions)
}

/// Receives events until the connection ends; returns why it ended. Ends of jobs are only subscribed to once
/// this process submits.
async fn receive(shared: &Shared, subscriptions: PubSub) -> String {
    let events = shared.link.key("events");
    let (mut sink, mut messages) = subscriptions.split();
    let mut submits = shared.submits.subscribe();
    let mut ping = interval(PING_EVERY);
    ping.reset();
    // After a failover this connection may still lead to the old server, which publishes no events.
    let mut replaced = pin!(shared.link.replaced());
    loop {
        tokio::select! {
            message = messages.next() => match message {
                Some(message) if message.get_channel_name() == events => event(shared, message.get_payload_bytes()),
                Some(_) => shared.timer_moved.notify_one(),
                None => return "the server closed it".into(),
            },
            Ok(()) = async { submits.wait_for(|on| *on).await.map(drop) }, if !*shared.listening.borrow() => {
                match timeout(PING_TIMEOUT, sink.subscribe(&events)).await {
                    Ok(Ok(())) => {
                        shared.listening.send_replace(true);
                        // Poll what ended before the subscription.
                        shared.pending.poll_all();
                    }
                    Ok(Err(e)) => return e.to_string(),
                    Err(_) => return "the server does not answer".into(),
                }
            }
            () = &mut replaced => return "the connection for commands was replaced".into(),
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
            Ok(outcome) => End::Known { mark, outcome: Ok(outcome) },
            Err(_) => End::Poll,
        },
        ("failed", Some(mark)) => match serde_json::from_str(data) {
            Ok(message) => End::Known { mark, outcome: Err(JobFailure { message }) },
            Err(_) => End::Poll,
        },
        // Without a mark, the event may be about another job of this number, from before Redis lost its data.
        ("succeeded" | "failed", None) => End::Poll,
        _ => return,
    };
    shared.pending.ended(id, end);
}

/// Polls outcomes until the task is aborted.
pub(super) async fn poll_outcomes(shared: Arc<Shared>) {
    let mut unavailable_since = None;
    loop {
        // Events can get lost, so outcomes are polled for as well.
        let _ = timeout(shared.config.poll_interval, shared.pending.poll.notified()).await;
        match poll_once(&shared).await {
            Ok(()) => unavailable_since = None,
            Err(e) => {
                let since = *unavailable_since.get_or_insert_with(Instant::now);
                // Submitters must not wait forever: they read the effects from the chain and submit again what is
                // missing.
                if since.elapsed() >= shared.config.outage_limit {
                    fail_outstanding(&shared, &shared.link.endpoint_error(e).to_string());
                }
                sleep(PAUSE_MIN).await;
            }
        }
    }
}

fn fail_outstanding(shared: &Shared, reason: &str) {
    let message = format!(
        "the queue has been unavailable for {} ({reason}): check the chain and submit again what is still needed",
        duration(shared.config.outage_limit)
    );
    let count = shared.pending.fail_outstanding(&message);
    if count > 0 {
        tracing::warn!(
            jobs = count,
            reason,
            "the queue is unavailable; outstanding jobs are reported as failed"
        );
    }
}

async fn poll_once(shared: &Shared) -> RedisResult<()> {
    let jobs = shared.pending.to_poll(shared.config.poll_interval);
    for jobs in jobs.chunks(MAX_POLLED) {
        let mut script = shared.link.scripts.outcomes.call();
        for (id, mark) in jobs {
            script.arg(id.0).arg(mark);
        }
        let answers: Vec<Vec<u8>> = shared.link.run(&script).await?;
        for ((id, mark), answer) in jobs.iter().zip(answers) {
            // The script answers `o` (open), `g` (gone), or `s` (succeeded) or `f` (failed) with the job's
            // JSON.
            let outcome = match answer.split_first() {
                Some((b'o', _)) | None => continue,
                Some((b'g', _)) => {
                    if shared.pending.gone(*id, mark) {
                        metrics::counter!(JOBS_GONE).increment(1);
                    }
                    continue;
                }
                Some((end, json)) => match Record::read(json) {
                    Ok(record) => record.tail.outcome(*end == b's'),
                    Err(_) => Some(Err(JobFailure { message: "the ended job cannot be decoded".into() })),
                },
            };
            shared.pending.answered(*id, mark, outcome, shared.config.block_hint.as_ref());
        }
    }
    Ok(())
}
