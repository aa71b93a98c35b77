#![allow(clippy::unwrap_used)]

use super::*;
use crate::{
    blob::{BlockCursor, HeaderCursor, Span},
    primitives::{ParaNumber, RelayNumber},
    prpc::MemoryUsage,
    sync::{BatchSizes, Lane},
};

const BUSY: &str = "RCU in progress, please try the request again later";

fn at(block: u32) -> Position {
    Position { relay_header: RelayNumber(900), para_header: ParaNumber(800), block: ParaNumber(block) }
}

fn heights(relay: u32) -> Heights {
    Heights { relay: Some(RelayNumber(relay)), para: Some(ParaNumber(700)), ..Heights::default() }
}

fn blocks(from: u32, to: u32) -> Step {
    Step::Blocks(BlockCursor { from: ParaNumber(from), to: ParaNumber(to) })
}

/// The end of a step of blocks `from` to `to`.
fn ended(from: u32, to: u32, result: Result<Outcome, Error>) -> StepResult {
    let sent =
        !matches!(&result, Ok(Outcome::NotYet { .. })) && !result.as_ref().is_err_and(Error::is_source);
    let span = Span { first: ParaNumber(from), last: ParaNumber(to) };
    StepResult {
        planned: PlannedStep::new(at(from), heights(1000), blocks(from, to), Lane::CatchUp),
        sent: sent.then_some(SentBatch::Blocks(span)),
        sizes: BatchSizes::new(1 << 20),
        result,
    }
}

fn refused(message: &str) -> Result<Outcome, Error> {
    let method = "DispatchBlocks";
    Err(Error::Worker(pruntime::Error::Refused { method, status: 500, message: message.to_owned() }))
}

fn lost() -> Result<Outcome, Error> {
    let (endpoint, source) = ("http://10.0.0.1:8000".to_owned(), "connection reset".into());
    Err(Error::Worker(pruntime::Error::Unreachable { endpoint, connected: true, source }))
}

fn not_connected() -> Result<Outcome, Error> {
    let (endpoint, source) = ("http://10.0.0.1:8000".to_owned(), "no route to host".into());
    Err(Error::Worker(pruntime::Error::Unreachable { endpoint, connected: false, source }))
}

fn timed_out() -> Result<Outcome, Error> {
    let (method, limit) = ("DispatchBlocks", Duration::from_secs(150));
    Err(Error::Worker(pruntime::Error::TimedOut { method, limit }))
}

fn advanced(to: u32) -> Result<Outcome, Error> {
    Ok(Outcome::Advanced { position: at(to + 1), bytes: 100 })
}

fn stays(block: u32) -> Result<Outcome, Error> {
    Err(Error::NoProgress { method: "DispatchBlocks", position: at(block) })
}

fn unavailable() -> Result<Outcome, Error> {
    Err(Error::Source(blob::Error::Unavailable("no provider answers".into())))
}

fn info(block: u32, version: &str) -> PhactoryInfo {
    PhactoryInfo {
        initialized: true,
        version: version.to_owned(),
        headernum: 900,
        para_headernum: 800,
        blocknum: block,
        memory_usage: Some(MemoryUsage { rust_used: 5 << 20, ..Default::default() }),
        ..Default::default()
    }
}

/// A worker's sync with a clock of its own.
struct Case {
    health: Health,
    now: Instant,
}

impl Case {
    fn new() -> Self {
        Self { health: Health::new(HealthConfig::default()), now: Instant::now() }
    }

    /// Feeds the end of a step; gives the pause after it.
    fn step(&mut self, stepped: &StepResult) -> (Duration, StepAdvice) {
        let advice = self.health.stepped(stepped, self.now);
        let due = self.health.wakes_at(&stepped.planned.heights, self.now).unwrap_or(self.now);
        let pause = due - self.now;
        self.now = due;
        (pause, advice)
    }

    fn sees(&mut self, block: u32, version: &str) {
        self.health.observed(&info(block, version), self.now);
    }

    fn cause(&self) -> Option<&Cause> {
        self.health.problem().map(|problem| &problem.cause)
    }

    fn message(&self) -> String {
        self.health.problem().unwrap().message.to_string()
    }
}

/// A pause of about `secs`: jitter takes up to half of it.
#[track_caller]
fn about(pause: Duration, secs: f64) {
    let pause = pause.as_secs_f64();
    assert!(pause >= secs / 2.0 - 0.01 && pause <= secs + 0.01, "{pause} s, not about {secs} s");
}

#[tokio::test(start_paused = true)]
async fn pauses_grow_with_failures_in_a_row_whatever_they_are() {
    type End = fn() -> Result<Outcome, Error>;
    let busy: End = || refused(BUSY);
    let refusal: End = || refused("NoStateRoot");
    // What happens again and again, and the pauses after the first, third and last of twelve.
    let table: [(&str, &[End], [f64; 3]); 5] = [
        ("busy", &[busy], [0.5, 2.0, 30.0]),
        ("refused", &[refusal], [1.0, 4.0, 60.0]),
        ("too slow", &[timed_out], [1.0, 4.0, 60.0]),
        ("by turns", &[busy, refusal], [0.5, 2.0, 60.0]),
        ("accepted without progress", &[|| stays(5)], [1.0, 4.0, 60.0]),
    ];
    for (name, ends, pauses) in table {
        let mut case = Case::new();
        let taken: Vec<_> = (0..12).map(|n| case.step(&ended(5, 9, ends[n % ends.len()]())).0).collect();
        for (taken, expected) in [taken[0], taken[2], taken[11]].into_iter().zip(pauses) {
            println!("{name}");
            about(taken, expected);
        }
        assert_eq!(case.health.failures(), 12, "{name}");
        assert_eq!(case.health.problem().unwrap().failures, 12, "{name}");
        // One success, and all begins again.
        assert_eq!(case.step(&ended(5, 9, advanced(9))).0, Duration::ZERO);
        assert_eq!(case.health.failures(), 0, "{name}");
        case.sees(10, "2.0.1");
        assert_eq!(case.cause(), None, "{name}");
        about(case.step(&ended(10, 19, ends[0]())).0, pauses[0]);
    }
}

#[tokio::test(start_paused = true)]
async fn busy_worker_is_checked_rarely_and_sent_little() {
    let mut case = Case::new();
    let begin = case.now;
    let (mut attempts, mut looks) = (0, 0);
    while case.now - begin < Duration::from_secs(3600) {
        let (_, advice) = case.step(&ended(5, 9, refused(BUSY)));
        attempts += 1;
        looks += u32::from(advice.observe);
        if advice.observe {
            case.sees(5, "2.0.1");
        }
    }
    assert!((120..300).contains(&attempts), "{attempts} batches in an hour");
    assert_eq!(looks, attempts / 4);
    assert_eq!(case.cause(), Some(&Cause::Busy));
    assert!(case.message().contains(BUSY), "{}", case.message());
    // Still busy, and then the call that it was busy with is done.
    case.sees(5, "2.0.1");
    case.sees(10, "2.0.1");
    assert_eq!((case.cause(), case.health.failures()), (None, 0));
}

#[tokio::test(start_paused = true)]
async fn lost_answer_causes_no_backoff_if_the_worker_progressed() {
    for end in [timed_out, lost] {
        let mut case = Case::new();
        case.health.stepped(&ended(5, 9, end()), case.now);
        case.sees(10, "2.0.1");
        assert_eq!((case.cause(), case.health.wakes_at(&heights(1000), case.now)), (None, None));
        // A refusal counts, though blocks before the refused one were taken.
        case.health.stepped(&ended(10, 19, refused("StateRootMismatch block=12")), case.now);
        case.sees(12, "2.0.1");
        assert_eq!(case.cause(), Some(&Cause::Failing));
    }
}

#[tokio::test(start_paused = true)]
async fn source_failures_have_their_own_backoff_that_ends_when_it_grows() {
    let not_ready = || Err(Error::Source(blob::Error::NotReady));
    let nothing = || Ok(Outcome::NotYet { heights: heights(1000) });
    let wrong = || Err(Error::WrongBatch { got: "x".into(), wanted: "y".into() });
    let table = [
        (unavailable as fn() -> _, Cause::SourceFailing),
        (wrong, Cause::SourceFailing),
        (not_ready, Cause::NoData),
        (nothing, Cause::NoData),
    ];
    for (end, cause) in table {
        let mut case = Case::new();
        for expected in [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0] {
            let (pause, advice) = case.step(&ended(5, 9, end()));
            about(pause, expected);
            assert!(!advice.observe, "the worker has nothing to do with it");
        }
        assert_eq!(case.cause(), Some(&cause));
        assert_eq!((case.health.failures(), case.health.problem().unwrap().failures), (0, 8));
        case.health.stepped(&ended(5, 9, end()), case.now);
        assert!(case.health.wakes_at(&heights(1000), case.now).is_some());
        assert_eq!(case.health.wakes_at(&heights(1001), case.now), None, "the source has grown");
        // The target alone brings nothing.
        let target = Heights { relay_target: Some(RelayNumber(2000)), ..heights(1000) };
        assert!(case.health.wakes_at(&target, case.now).is_some());
        case.health.stepped(&ended(5, 9, advanced(9)), case.now);
        assert_eq!(case.cause(), None);
    }
    // The worker's own pause does not end so, nor does it end with the source's.
    let mut case = Case::new();
    case.health.stepped(&ended(5, 9, refused("NoStateRoot")), case.now);
    assert!(case.health.wakes_at(&heights(1001), case.now).is_some());
    case.health.stepped(&ended(5, 9, unavailable()), case.now);
    assert_eq!((case.cause(), case.health.failures()), (Some(&Cause::Failing), 1));
}

#[tokio::test(start_paused = true)]
async fn cancelled_step_is_not_a_failure() {
    let mut case = Case::new();
    let mut waited = ended(5, 9, Ok(Outcome::NotYet { heights: heights(1000) }));
    waited.planned.step = Step::Wait;
    case.step(&waited);
    assert_eq!(case.cause(), None);
}

#[tokio::test(start_paused = true)]
async fn worker_that_claims_progress_without_any_is_reported() {
    let mut case = Case::new();
    case.sees(5, "2.0.1");
    let mut pauses = Vec::new();
    for _ in 0..5 {
        let (_, advice) = case.step(&ended(5, 9, advanced(9)));
        assert!(!advice.observe);
        case.sees(5, "2.0.1");
        pauses.push(case.health.wakes_at(&heights(1000), case.now).unwrap() - case.now);
        case.now += *pauses.last().unwrap();
    }
    about(pauses[0], 1.0);
    about(pauses[4], 16.0);
    let expected = Cause::NoProgress { block: ParaNumber(5), count: 5, version: "2.0.1".into() };
    assert_eq!(case.cause(), Some(&expected));
    assert!(expected.is_alert());
    assert!(case.message().starts_with("pRuntime 2.0.1 accepts the data sent and stays at block 5"));
    // It is shown until the worker shows another position, not until it claims one.
    case.step(&ended(5, 9, advanced(9)));
    assert_eq!(case.cause(), Some(&expected));
    case.sees(10, "2.0.1");
    assert_eq!(case.cause(), None);
    // To look twice without sending anything is no failure.
    case.sees(10, "2.0.1");
    assert_eq!(case.cause(), None);
}

/// A worker that starts from block 1 again whenever it was sent block 77 of `bad` versions.
#[tokio::test(start_paused = true)]
async fn the_block_at_which_a_worker_crashes_is_identified() {
    let mut case = Case::new();
    let (mut next, mut deaths, mut pauses) = (1, 0, Vec::new());
    for _ in 0..400 {
        case.sees(next, "2.0.1");
        let Step::Blocks(cursor) = case.health.narrow(blocks(next, 500.min(next + 39))) else {
            unreachable!()
        };
        let (from, to) = (cursor.from.0, cursor.to.0);
        assert!(from == next && to >= from);
        if (from..=to).contains(&77) {
            deaths += 1;
            pauses.push(case.step(&ended(from, to, lost())).0);
            next = 1;
            if deaths == 8 {
                break;
            }
        } else {
            assert_eq!(case.step(&ended(from, to, advanced(to))).0, Duration::ZERO);
            next = to + 1;
            if deaths >= 3 {
                assert!(case.cause().unwrap().is_alert(), "it is shown on the way back to there");
            }
        }
    }
    let found = Cause::CrashesAt { block: ParaNumber(77), count: 8, version: "2.0.1".into() };
    assert_eq!(case.cause(), Some(&found));
    let expected =
        "pRuntime 2.0.1 breaks the connection whenever it dispatches block 77 (8 times; it used 5 MiB";
    assert!(case.message().starts_with(expected), "{}", case.message());
    about(pauses[0], 1.0);
    about(pauses[2], 20.0);
    about(pauses[7], 600.0);
    // A restart of another version is sent full batches again.
    case.health.recover(case.now);
    assert_eq!(case.cause(), Some(&found), "a success elsewhere does not clear the suspicion");
    case.sees(1, "2.1.0");
    assert_eq!(case.health.narrow(blocks(60, 90)), blocks(60, 90));
    case.step(&ended(60, 90, advanced(90)));
    assert_eq!(case.cause(), None);
}

#[tokio::test(start_paused = true)]
async fn connections_that_break_anywhere_make_no_block_suspect() {
    let mut case = Case::new();
    for from in [1, 101, 201, 301] {
        case.step(&ended(from, from + 99, lost()));
        assert_eq!(
            case.health.narrow(blocks(from, from + 99)),
            blocks(from, from + 99),
            "once is an accident"
        );
        assert!(case.message().ends_with(&format!("dispatched blocks {from} to {}", from + 99)));
        case.sees(from, "2.0.1");
        case.step(&ended(from, from + 99, advanced(from + 99)));
        assert_eq!(case.cause(), None);
    }
    // Twice among the same blocks: one by one, until the worker is past them.
    case.step(&ended(401, 500, lost()));
    case.step(&ended(401, 450, lost()));
    assert_eq!(case.health.narrow(blocks(301, 500)), blocks(301, 400));
    assert_eq!(case.health.narrow(blocks(401, 500)), blocks(401, 401));
    assert_eq!(case.health.narrow(blocks(451, 500)), blocks(451, 500));
    let headers = Step::Headers(HeaderCursor { relay: RelayNumber(1), para: ParaNumber(1) });
    assert_eq!(case.health.narrow(headers), headers);
    for block in 401..=450 {
        assert_eq!(case.health.narrow(blocks(block, 500)), blocks(block, block));
        case.step(&ended(block, block, advanced(block)));
    }
    assert_eq!(case.health.narrow(blocks(451, 500)), blocks(451, 500));
    assert_eq!(case.cause(), None);
    for breaks in 1..=5 {
        assert!(!case.cause().is_some_and(Cause::is_alert), "{breaks}");
        case.step(&ended(451, 451, lost()));
    }
    assert!(case.cause().unwrap().is_alert());
    case.health.reset();
    assert_eq!((case.cause(), case.health.failures()), (None, 0));
}

#[tokio::test(start_paused = true)]
async fn worker_that_a_network_takes_away_is_not_accused_of_crashing() {
    let mut case = Case::new();
    case.sees(451, "2.0.1");
    for _ in 0..20 {
        case.step(&ended(451, 451, not_connected()));
        case.sees(451, "2.0.1");
        assert_eq!(case.cause(), Some(&Cause::Failing), "it has received nothing");
    }
    // Three times in the middle of a call.
    for _ in 0..3 {
        case.step(&ended(451, 451, lost()));
        case.sees(451, "2.0.1");
        assert_eq!(case.cause(), Some(&Cause::Failing));
    }
    case.step(&ended(451, 451, advanced(451)));
    assert_eq!(case.cause(), None);
}

#[tokio::test(start_paused = true)]
async fn worker_that_restarts_is_accused_earlier() {
    let mut case = Case::new();
    for _ in 0..3 {
        assert!(!case.cause().is_some_and(Cause::is_alert));
        case.sees(451, "2.0.1");
        case.step(&ended(451, 451, lost()));
        case.sees(440, "2.0.1");
    }
    case.sees(451, "2.0.1");
    let found = Cause::CrashesAt { block: ParaNumber(451), count: 3, version: "2.0.1".into() };
    assert_eq!(case.cause(), Some(&found));
}
