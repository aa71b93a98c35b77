//! One connection: requests in, answers out, both at once.

use std::{fmt, io};

use bytes::{Buf, BytesMut};
use futures::{StreamExt, stream::FuturesUnordered};
use prb_core::sync::ByteBudget;
use tokio::{
    io::AsyncReadExt,
    net::{TcpStream, tcp::ReadHalf},
    time::{Duration, Instant, MissedTickBehavior, interval, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{
    Shared,
    outbox::{Answer, Outbox},
};
use crate::blob::{
    Parts,
    frame::{self, AnswerHead, Decoded, ID_BYTES, Id},
    keys::MAX_KEY_BYTES,
    prompt,
};

/// The longest request that is read: spaces around the key are the original's licence.
const MAX_REQUEST_BYTES: usize = ID_BYTES + 2 * MAX_KEY_BYTES;
/// Room for requests that came together.
const READ_BYTES: usize = 8 * 1024;
/// A peer that takes less than this within the write time-out, though more is there, takes nothing.
const MIN_PROGRESS_BYTES: u64 = 64 * 1024;

/// Why a connection ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// The peer has closed it, and has its answers.
    Closed,
    /// The peer asked for nothing.
    Idle,
    /// The peer did not take its answers.
    Stalled,
    /// What came is no request.
    Bad(frame::Error),
    /// The connection broke.
    Io(io::Error),
    /// The server stops.
    Stopped,
}

impl Ended {
    /// Whether the peer behaved as none should.
    pub(super) const fn is_offence(&self) -> bool {
        matches!(self, Self::Bad(_) | Self::Stalled)
    }

    pub(super) const fn label(&self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Idle => "idle",
            Self::Stalled => "stalled",
            Self::Bad(_) => "bad",
            Self::Io(_) => "broken",
            Self::Stopped => "stopped",
        }
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Closed => f.write_str("the peer closed it"),
            Self::Idle => f.write_str("nothing was asked for"),
            Self::Stalled => f.write_str("the peer does not take its answers"),
            Self::Bad(e) => write!(f, "not a request: {e}"),
            Self::Io(e) => e.fmt(f),
            Self::Stopped => f.write_str("the server stops"),
        }
    }
}

/// Serves a connection to its end.
pub(super) async fn serve(mut stream: TcpStream, shared: &Shared, stop: &CancellationToken) -> Ended {
    let config = shared.config;
    let (read, write) = stream.split();
    let mut requests = Requests { socket: read, buffer: BytesMut::with_capacity(READ_BYTES) };
    let mut outbox = Outbox::new(write, shared.stats.clone());
    let budget = ByteBudget::new(config.session_max_bytes);
    let mut lookups = FuturesUnordered::new();
    let mut pulse = Pulse::new();
    let mut tick =
        interval((config.write_timeout.min(config.idle_timeout) / 4).max(Duration::from_millis(1)));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut reading, mut until) = (true, None);
    loop {
        if until.is_none() && stop.is_cancelled() {
            (reading, until) = (false, Some(Instant::now() + config.stop_timeout));
        }
        if outbox.is_large()
            && let Err(e) = outbox.try_write()
        {
            return Ended::Io(e);
        }
        if !reading && lookups.is_empty() && outbox.is_empty() {
            return if until.is_some() { Ended::Stopped } else { Ended::Closed };
        }
        let room = lookups.len() + outbox.len() < config.max_in_flight;
        tokio::select! {
            // Answers that are ready go out together; what can be written is looked for last.
            biased;
            Some(answer) = lookups.next(), if !lookups.is_empty() => outbox.push(answer),
            request = requests.next(), if reading && room => match request {
                Ok(Some((id, key))) => {
                    pulse.asked = Instant::now();
                    lookups.push(answer(shared, &budget, id, key));
                }
                Ok(None) => reading = false,
                Err(ended) => return ended,
            },
            written = outbox.write(), if !outbox.is_empty() => {
                if let Err(e) = written {
                    return Ended::Io(e);
                }
            }
            _ = tick.tick() => {
                let idle = lookups.is_empty() && outbox.is_empty();
                if idle && pulse.asked.elapsed() >= config.idle_timeout {
                    return Ended::Idle;
                }
                if pulse.is_stalled(&outbox, config.write_timeout) {
                    return Ended::Stalled;
                }
            }
            () = stop.cancelled(), if until.is_none() => {}
            () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => {
                return Ended::Stopped;
            }
        }
    }
}

/// When something happened last.
struct Pulse {
    asked: Instant,
    /// Since when there are answers to be taken, and how many bytes had been taken then.
    waiting: Option<(Instant, u64)>,
}

impl Pulse {
    fn new() -> Self {
        Self { asked: Instant::now(), waiting: None }
    }

    fn is_stalled(&mut self, outbox: &Outbox<'_>, patience: Duration) -> bool {
        if outbox.is_empty() {
            self.waiting = None;
            return false;
        }
        let (since, progress) = *self.waiting.get_or_insert_with(|| (Instant::now(), outbox.progress()));
        if outbox.progress() - progress >= MIN_PROGRESS_BYTES {
            self.waiting = Some((Instant::now(), outbox.progress()));
            return false;
        }
        since.elapsed() >= patience
    }
}

/// Sets room aside, assembles the answer, and keeps as much room as it takes.
async fn answer(shared: &Shared, budget: &ByteBudget, id: Id, key: String) -> Answer {
    let bound = shared.lookup.bound_bytes(&key);
    // The own one first: who waits for the others' bytes holds back nobody but himself.
    let mut held = [budget.hold(bound).await, shared.budget.hold(bound).await];
    let parts = match shared.lookup.parts(&key).await {
        Ok(parts) => parts.filter(|parts| !parts.is_empty()).filter(fits),
        Err(e) => {
            if let Some(skipped) = shared.complaints.ready() {
                let cause: &dyn std::error::Error = &e;
                warn!(key, skipped, cause, "a blob cannot be read");
            }
            None
        }
    };
    shared.stats.answer(parts.is_some());
    let frame = match &parts {
        Some(parts) => AnswerHead::found(id, parts.len(), parts.crc()),
        None => AnswerHead::missing(id),
    };
    let Parts { head, body } = parts.unwrap_or_default();
    held.iter_mut().for_each(|held| held.shrink(head.len() + body.len()));
    Answer::new(frame, head, body, held, &shared.stats)
}

/// Originals read lengths of up to 32 bits.
fn fits(parts: &Parts) -> bool {
    u32::try_from(parts.len() + frame::ANSWER_HEAD_BYTES).is_ok()
}

/// Requests as they come.
struct Requests<'s> {
    socket: ReadHalf<'s>,
    buffer: BytesMut,
}

impl Requests<'_> {
    /// The next request; `None` at the end. Cancel safe: what was read stays.
    async fn next(&mut self) -> Result<Option<(Id, String)>, Ended> {
        loop {
            while let Decoded::Frame { body } =
                frame::decode(&self.buffer, MAX_REQUEST_BYTES).map_err(Ended::Bad)?
                && body.end <= self.buffer.len()
            {
                let request =
                    frame::request(&self.buffer[body.clone()]).map(|(id, key)| (id, key.to_owned()));
                self.buffer.advance(body.end);
                if request.is_some() {
                    return Ok(request);
                }
            }
            // What was read and used is before the start: this moves what is left there, or does nothing.
            self.buffer.reserve(READ_BYTES / 2);
            if self.socket.read_buf(&mut self.buffer).await.map_err(Ended::Io)? == 0 {
                return Ok(None);
            }
            prompt::acknowledge(self.socket.as_ref());
        }
    }
}
