//! [`LineLimit`]: limits the log lines about single workers while many workers change at once.
//!
//! An outage of a network changes all workers of a fleet. The first lines of a period name a worker each; the others are
//! counted, and one line says how many there were. Events and statuses are not limited.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tracing::{info, warn};

use super::State;

/// Lines of a period that name single workers. A period is an interval of the fleet's watchdog.
const MAX_LINES: u32 = 20;
/// Workers that are named of those that were only counted.
const MAX_NAMES: usize = 5;

/// What a line is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Line {
    /// Its state has changed to this one.
    State(State),
    /// It does not answer.
    NoAnswer,
    /// A step of its sync failed.
    SyncFailed,
}

/// Limits the lines of a fleet.
#[derive(Debug, Default)]
pub(crate) struct LineLimit(Mutex<Period>);

#[derive(Debug, Default)]
struct Period {
    lines: u32,
    counted: BTreeMap<Line, Counted>,
}

/// Lines that were not written.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counted {
    lines: usize,
    /// The first of their workers.
    names: Vec<String>,
}

impl LineLimit {
    /// Whether a line about a worker is to be written; otherwise it is counted.
    pub(crate) fn admits(&self, line: Line, worker: &str) -> bool {
        let mut period = self.period();
        if period.lines < MAX_LINES {
            period.lines += 1;
            return true;
        }
        let counted = period.counted.entry(line).or_default();
        counted.lines += 1;
        if counted.names.len() < MAX_NAMES {
            counted.names.push(worker.to_owned());
        }
        false
    }

    /// Ends a period: writes one line for each kind of lines that were counted.
    pub(crate) fn end_period(&self) {
        let period = std::mem::take(&mut *self.period());
        for (line, Counted { lines, names }) in period.counted {
            let workers = names.join(", ");
            match line {
                Line::State(state) => {
                    info!(count = lines, %state, first = workers, "more workers have changed their state");
                }
                Line::NoAnswer => warn!(count = lines, first = workers, "more workers do not answer"),
                Line::SyncFailed => warn!(count = lines, first = workers, "more workers' sync failed"),
            }
        }
    }

    fn period(&self) -> MutexGuard<'_, Period> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_beyond_the_limit_are_counted_until_the_period_ends() {
        let limit = LineLimit::default();
        let written = (0..1000).filter(|n| limit.admits(Line::NoAnswer, &format!("w{n}"))).count();
        assert_eq!(written, MAX_LINES as usize);
        assert!(!limit.admits(Line::State(State::Error), "w0"));
        let counted = std::mem::take(&mut limit.period().counted);
        let names = |first: u32, count| (first..first + count).map(|n| format!("w{n}")).collect();
        let expected = [
            (Line::State(State::Error), Counted { lines: 1, names: names(0, 1) }),
            (Line::NoAnswer, Counted { lines: 980, names: names(MAX_LINES, 5) }),
        ];
        assert_eq!(counted, BTreeMap::from(expected));
        limit.end_period();
        assert!(limit.admits(Line::NoAnswer, "w0"));
    }
}
