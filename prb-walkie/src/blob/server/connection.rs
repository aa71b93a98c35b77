//! One connection: reads requests and writes answers concurrently.

use std::{borrow::Cow, convert::Infallible, fmt, io, sync::Arc};

use bytes::{Buf, BytesMut};
use futures::{FutureExt, StreamExt, stream::FuturesUnordered};
use prb_core::{
    blob::Error,
    sync::{ByteBudget, ByteLease},
};
use tokio::{
    io::AsyncReadExt,
    net::{TcpStream, tcp::ReadHalf},
    sync::{Semaphore, SemaphorePermit},
    time::{Duration, Instant, Interval, MissedTickBehavior, interval, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::{
    Config, Shared,
    outbox::{Answer, Outbox},
    shares::{Holder, Lease, SharedBudget},
    slots::Slot,
    turns::Turn,
};
use crate::blob::{
    Parts,
    frame::{self, AnswerHead, Decoded, ID_BYTES, Id},
    keys::{self, MAX_KEY_BYTES},
    quick_ack,
};

/// The longest request that is accepted: the original allows spaces around the key.
const MAX_REQUEST_BYTES: usize = ID_BYTES + 2 * MAX_KEY_BYTES;
/// Read buffer for requests that arrive together.
const READ_BYTES: usize = 8 * 1024;
/// Answers of up to this size are small and have a budget of their own.
const SMALL_BYTES: usize = 64 * 1024;
/// Budget of one connection's small answers, in bytes.
const SESSION_SMALL_BYTES: usize = 2 * SMALLER_BYTES;
/// Answers of up to this size, such as heights, wait for no turn.
const TINY_BYTES: usize = 4 * 1024;
/// Requests of one connection that may wait for heights. A client of ours has one; each costs memory for a minute, and
/// time at each block, though no bytes of an answer.
const MAX_WAITING: usize = 4;
/// Size that batches are reduced to if there is no room for more, in bytes.
const SMALLER_BYTES: usize = 1024 * 1024;

/// Why a connection ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// The peer closed it after it had all its answers.
    Closed,
    /// The peer sent no requests.
    Idle,
    /// An address that has fewer connections, or holds fewer bytes, has taken its place.
    Displaced,
    /// The peer did not take its answers.
    Stalled,
    /// The peer sent an invalid request.
    Bad(frame::Error),
    /// An I/O error.
    Io(io::Error),
    /// The server is stopping.
    Stopped,
}

impl Ended {
    /// Whether the peer misbehaved.
    pub(super) const fn is_offence(&self) -> bool {
        matches!(self, Self::Bad(_) | Self::Stalled)
    }

    pub(super) const fn label(&self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Idle => "idle",
            Self::Displaced => "displaced",
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
            Self::Idle => f.write_str("no request came in time"),
            Self::Displaced => f.write_str("an address that had less took its place"),
            Self::Stalled => f.write_str("the peer does not take its answers"),
            Self::Bad(e) => write!(f, "not a request: {e}"),
            Self::Io(e) => e.fmt(f),
            Self::Stopped => f.write_str("the server stops"),
        }
    }
}

/// Serves a connection until it ends.
pub(super) async fn serve(
    stream: TcpStream,
    shared: &Shared,
    slot: &Slot,
    stop: &CancellationToken,
) -> Ended {
    let Err(ended) = run(stream, shared, slot, stop).await;
    ended
}

/// A timer for all timeouts: each is noticed at most a quarter late.
fn timer(config: &Config) -> Interval {
    let shortest = config.write_timeout.min(config.idle_timeout).min(config.first_request_timeout);
    let mut tick = interval((shortest / 4).max(Duration::from_millis(1)));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    tick
}

async fn run(
    mut stream: TcpStream,
    shared: &Shared,
    slot: &Slot,
    stop: &CancellationToken,
) -> Result<Infallible, Ended> {
    let config = shared.config;
    let (read, write) = stream.split();
    let mut requests = Requests { socket: read, buffer: BytesMut::with_capacity(READ_BYTES) };
    let allowance = Allowance::new(&config, &slot.holder);
    let mut lookups = FuturesUnordered::new();
    let mut writer = Writer {
        outbox: Outbox::new(write, shared.stats.clone()),
        turn: Turn::new(Arc::clone(&slot.turns)),
        activity: Activity::new(),
    };
    let mut tick = timer(&config);
    let (mut reading, mut until) = (true, None);
    loop {
        if until.is_none() && stop.is_cancelled() {
            (reading, until) = (false, Some(Instant::now() + config.stop_timeout));
        }
        let (has_turn, may_write) = writer.prepare(until.is_some(), &config)?;
        let Writer { outbox, turn, activity } = &mut writer;
        if !reading && lookups.is_empty() && outbox.is_empty() {
            return Err(if until.is_some() { Ended::Stopped } else { Ended::Closed });
        }
        // First, however much the peer keeps this loop busy.
        if slot.holder.displaced.is_cancelled() {
            return Err(Ended::Displaced);
        }
        // Requests beyond the limit are left in the socket, so that TCP slows the peer down.
        let room = lookups.len() + outbox.len() < config.max_in_flight;
        tokio::select! {
            // Biased: all answers that are ready are collected before the socket is written to, so that they go out
            // together.
            biased;
            Some(answer) = lookups.next(), if !lookups.is_empty() => outbox.push(answer),
            request = requests.next(), if reading && room => match request? {
                Some((id, key)) => {
                    (activity.asked, activity.has_asked) = (Instant::now(), true);
                    slot.has_asked();
                    lookups.push(answer(shared, &allowance, id, key));
                }
                None => reading = false,
            },
            written = outbox.write(), if may_write && !outbox.is_empty() => written.map_err(Ended::Io)?,
            waited = turn.next(), if has_turn || !may_write => activity.has_waited_for_turn(waited),
            // A connection that waits for its turn is neither idle nor stalled.
            _ = tick.tick(), if may_write => {
                if let Some(ended) = activity.timed_out(lookups.is_empty(), outbox, &config) {
                    return Err(ended);
                }
            }
            () = slot.holder.displaced.cancelled() => return Err(Ended::Displaced),
            // Only wakes the loop, whose first lines begin the stop.
            () = stop.cancelled(), if until.is_none() => {}
            () = sleep_until(until.unwrap_or_else(Instant::now)), if until.is_some() => {
                return Err(Ended::Stopped);
            }
        }
    }
}

/// The writing side of a connection: its answers, its turn among the address's connections, and its timeouts.
struct Writer<'s> {
    outbox: Outbox<'s>,
    turn: Turn,
    activity: Activity,
}

impl Writer<'_> {
    /// Takes a turn if it can, and writes what the socket accepts at once. Returns whether the connection has the turn,
    /// and whether it may write: tiny answers and those of a stopping server need no turn.
    ///
    /// # Errors
    /// How the connection ends.
    fn prepare(&mut self, is_stopping: bool, config: &Config) -> Result<(bool, bool), Ended> {
        let has_turn = self.take_turn(config)?;
        let may_write = has_turn || self.outbox.bytes() <= TINY_BYTES || is_stopping;
        if may_write && self.outbox.is_large() {
            self.outbox.try_write().map_err(Ended::Io)?;
        }
        Ok((has_turn, may_write))
    }

    /// Ends a turn that is over, and begins one if answers wait and the address has one free; returns whether the
    /// connection has the turn.
    ///
    /// # Errors
    /// How the connection ends, if the peer did not take its answers during the turn.
    fn take_turn(&mut self, config: &Config) -> Result<bool, Ended> {
        let Self { outbox, turn, activity } = self;
        if outbox.is_empty() {
            turn.end();
            return Ok(false);
        }
        if turn.yields() {
            outbox.limit_unsent();
            if activity.is_stalled(outbox, config) {
                return Err(Ended::Stalled);
            }
        }
        // Not only where the connection waits for events, which looks at lookups first, however many are ready.
        if !turn.is_writing() {
            match turn.next().now_or_never() {
                Some(waited) => activity.has_waited_for_turn(waited),
                None => outbox.limit_unsent(),
            }
        }
        Ok(turn.is_writing())
    }
}

/// Activity of a connection, for its timeouts.
struct Activity {
    asked: Instant,
    has_asked: bool,
    /// Since when answers have been waiting for the peer, and how many bytes it had taken at that time.
    waiting: Option<(Instant, u64)>,
}

impl Activity {
    fn new() -> Self {
        Self { asked: Instant::now(), has_asked: false, waiting: None }
    }

    /// Returns how the connection ends if a timeout has passed. `is_answered` means that no answer is being assembled.
    fn timed_out(&mut self, is_answered: bool, outbox: &Outbox<'_>, config: &Config) -> Option<Ended> {
        let first = config.first_request_timeout.min(config.idle_timeout);
        let timeout = if self.has_asked { config.idle_timeout } else { first };
        if is_answered && outbox.is_empty() && self.asked.elapsed() >= timeout {
            return Some(Ended::Idle);
        }
        self.is_stalled(outbox, config).then_some(Ended::Stalled)
    }

    /// Does not count the time in which other connections of the address wrote.
    fn has_waited_for_turn(&mut self, waited: Duration) {
        if let Some((since, _)) = &mut self.waiting {
            *since += waited;
        }
    }

    /// Whether the peer has taken too few bytes since answers started waiting or since the last check.
    fn is_stalled(&mut self, outbox: &Outbox<'_>, config: &Config) -> bool {
        if outbox.is_empty() {
            self.waiting = None;
            return false;
        }
        // Bytes are counted, not answers: one large answer may take a slow but honest peer a long time.
        let (since, before) = *self.waiting.get_or_insert_with(|| (Instant::now(), outbox.progress()));
        let waited = since.elapsed();
        if waited < config.write_timeout {
            return false;
        }
        let wanted = config.min_bytes_per_second as f64 * waited.as_secs_f64();
        if outbox.progress() - before >= wanted as u64 {
            self.waiting = Some((Instant::now(), outbox.progress()));
            return false;
        }
        true
    }
}

/// The byte budgets of a connection, and its part in those of all.
struct Allowance<'s> {
    own: ByteBudget,
    own_small: ByteBudget,
    waiting: Semaphore,
    holder: &'s Holder,
}

/// Bytes held by an answer: of its connection's budget, and of the shared one.
pub(super) struct Held(ByteLease, Option<Lease>);

impl Held {
    fn shrink(&mut self, bytes: usize) {
        self.0.shrink(bytes);
        if let Some(lease) = &mut self.1 {
            lease.shrink(bytes);
        }
    }
}

impl<'s> Allowance<'s> {
    fn new(config: &Config, holder: &'s Holder) -> Self {
        Self {
            own: ByteBudget::new(config.session_max_bytes),
            own_small: ByteBudget::new(config.session_max_bytes.min(SESSION_SMALL_BYTES)),
            waiting: Semaphore::new(MAX_WAITING),
            holder,
        }
    }

    /// Returns the key to answer: one that waits for heights is answered at once if enough others of the connection wait.
    fn key(&self, asked: String) -> (String, Option<SemaphorePermit<'_>>) {
        let at_once = match keys::without_wait(&asked) {
            Cow::Owned(at_once) => at_once,
            Cow::Borrowed(_) => return (asked, None),
        };
        match self.waiting.try_acquire() {
            Ok(permit) => (asked, Some(permit)),
            Err(_) => (at_once, None),
        }
    }

    /// Waits for bytes of the connection's budget, then of the shared one: while waiting it holds only bytes that no
    /// stranger competes for.
    async fn large(&self, shared: &Shared, bytes: usize) -> Held {
        self.hold(&self.own, &shared.budgets.large, bytes).await
    }

    /// The same for small answers.
    async fn small(&self, shared: &Shared, bytes: usize) -> Held {
        self.hold(&self.own_small, &shared.budgets.small, bytes).await
    }

    async fn hold(&self, own: &ByteBudget, all: &SharedBudget, bytes: usize) -> Held {
        let own = own.hold(bytes).await;
        // An answer without bytes, such as heights, must not wait for those that hold some.
        let lease = if bytes == 0 { None } else { Some(all.hold(self.holder, bytes).await) };
        Held(own, lease)
    }
}

/// An answer in parts, and its reserved bytes.
type Found = (Option<Parts>, Held);

/// Reserves bytes, assembles the answer, and keeps only the bytes that it takes.
async fn answer(shared: &Shared, allowance: &Allowance<'_>, id: Id, key: String) -> Answer {
    let (key, _waiting) = allowance.key(key);
    let bound = shared.lookup.reserve_bytes(&key);
    let (parts, mut held) = match smaller(shared, allowance, &key, bound).await {
        Some(found) => found,
        None if bound <= SMALL_BYTES => {
            let held = allowance.small(shared, bound).await;
            (looked_up(shared, &key, shared.lookup.parts(&key).await), held)
        }
        None => {
            let held = allowance.large(shared, bound).await;
            (looked_up(shared, &key, shared.lookup.parts(&key).await), held)
        }
    };
    shared.stats.answer(parts.is_some());
    let frame = match &parts {
        Some(parts) => AnswerHead::found(id, parts.len(), parts.crc()),
        None => AnswerHead::missing(id),
    };
    let Parts { head, body } = parts.unwrap_or_default();
    held.shrink(head.len() + body.len());
    Answer::new(frame, head, body, held, &shared.stats)
}

/// Returns a reduced batch if there is no room for the requested one: as large as there is room for, or one that its
/// address can have in the budget for small answers whatever others do.
async fn smaller(shared: &Shared, allowance: &Allowance<'_>, key: &str, bound: usize) -> Option<Found> {
    let (ip, budgets) = (allowance.holder.ip, &shared.budgets);
    let room = budgets.large.room(ip);
    if bound <= SMALL_BYTES || bound <= room {
        return None;
    }
    let (size, held) = if room >= SMALLER_BYTES {
        (room, allowance.large(shared, room).await)
    } else {
        let size = budgets.small.fair_part(ip).clamp(SMALL_BYTES, SMALLER_BYTES).min(bound);
        (size, allowance.small(shared, size).await)
    };
    let parts = looked_up(shared, key, shared.lookup.smaller(key, size).await)?;
    Some((Some(parts), held))
}

fn looked_up(shared: &Shared, key: &str, found: Result<Option<Parts>, Error>) -> Option<Parts> {
    match found {
        // The format cannot tell an empty blob from a missing one.
        Ok(parts) => parts.filter(|parts| !parts.is_empty()).filter(fits),
        Err(e) => {
            if let Some(skipped) = shared.warnings.ready() {
                let cause: &dyn std::error::Error = &e;
                warn!(key, skipped, cause, "a blob cannot be read");
            }
            None
        }
    }
}

/// The original's client reads lengths of up to 32 bits.
fn fits(parts: &Parts) -> bool {
    u32::try_from(parts.len() + frame::ANSWER_HEAD_BYTES).is_ok()
}

/// The stream of requests.
struct Requests<'s> {
    socket: ReadHalf<'s>,
    buffer: BytesMut,
}

impl Requests<'_> {
    /// Returns the next request; `None` at the end.
    ///
    /// # Cancel safety
    /// Cancel safe: partial input is kept.
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
            // Moves unread bytes to the front if needed; consumed ones are in front of them.
            self.buffer.reserve(READ_BYTES / 2);
            if self.socket.read_buf(&mut self.buffer).await.map_err(Ended::Io)? == 0 {
                return Ok(None);
            }
            quick_ack::acknowledge(self.socket.as_ref());
        }
    }
}
