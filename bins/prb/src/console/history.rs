//! [`History`]: a fleet's recent measurements, in rings of a fixed size.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use prb_core::{queue::Stats, worker::State};
use uuid::Uuid;

use super::view::FleetView;

/// Interval of samples.
pub(super) const STEP: Duration = Duration::from_secs(10);
/// The chain's smallest units in one PHA.
const PHA: f64 = 1e12;
/// Number of measures per sample.
const MEASURES: usize = 6;

/// A measured value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Measure {
    /// The largest lag of a worker, in parachain blocks.
    LargestLag,
    /// The median lag of workers, in parachain blocks.
    MedianLag,
    /// Parachain blocks dispatched by all workers together, per second.
    SyncRate,
    /// Jobs that have not ended.
    OpenJobs,
    /// The lowest balance of an operator that can pay fees, in PHA.
    LowestBalance,
    /// Workers in S_ACTIVE.
    Active,
}

impl Measure {
    /// Merges two samples, keeping the value that an operator would not want to miss.
    fn merged(self, a: f64, b: f64, count_a: f64) -> f64 {
        match self {
            Self::LargestLag | Self::MedianLag | Self::OpenJobs => a.max(b),
            Self::LowestBalance | Self::Active => a.min(b),
            Self::SyncRate => (a * count_a + b) / (count_a + 1.0),
        }
    }
}

const ALL: [Measure; MEASURES] = [
    Measure::LargestLag,
    Measure::MedianLag,
    Measure::SyncRate,
    Measure::OpenJobs,
    Measure::LowestBalance,
    Measure::Active,
];

/// The period of a chart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Span {
    /// An hour, with every sample.
    #[default]
    Hour,
    /// A day, in steps of five minutes.
    Day,
}

impl Span {
    pub(super) const ALL: [Self; 2] = [Self::Hour, Self::Day];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Hour => "hour",
            Self::Day => "day",
        }
    }

    pub(super) fn named(name: &str) -> Self {
        Self::ALL.into_iter().find(|span| span.name() == name).unwrap_or_default()
    }

    /// Returns its length and the interval of points, in seconds.
    pub(super) const fn seconds(self) -> (u64, u64) {
        match self {
            Self::Hour => (3600, STEP.as_secs()),
            Self::Day => (24 * 3600, 300),
        }
    }
}

/// The values of all measures at one time.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Point {
    /// Seconds since the Unix epoch.
    at: u64,
    values: [Option<f64>; MEASURES],
    /// Number of samples merged in it.
    count: f64,
}

impl Point {
    fn merge(&mut self, other: &Self) {
        for ((measure, old), new) in ALL.into_iter().zip(&mut self.values).zip(&other.values) {
            *old = match (*old, *new) {
                (Some(a), Some(b)) => Some(measure.merged(a, b, self.count)),
                (a, b) => a.or(b),
            };
        }
        self.count += 1.0;
    }
}

/// The points of a span, oldest first.
#[derive(Debug)]
struct Ring {
    span: Span,
    points: VecDeque<Point>,
}

impl Ring {
    const fn new(span: Span) -> Self {
        Self { span, points: VecDeque::new() }
    }

    fn push(&mut self, point: Point) {
        let (length, step) = self.span.seconds();
        match self.points.back_mut() {
            // After the clock was set back, points of the future are dropped: they would hide new ones.
            Some(last) if last.at > point.at + step => self.points.clear(),
            Some(last) if point.at / step == last.at / step => return last.merge(&point),
            _ => {}
        }
        let most = usize::try_from(length / step).unwrap_or(1) + 1;
        while self.points.len() >= most {
            self.points.pop_front();
        }
        self.points.push_back(point);
    }
}

/// A fleet's recent measurements. Lost when the process ends.
#[derive(Debug)]
pub(super) struct History(Mutex<Inner>);

#[derive(Debug)]
struct Inner {
    rings: [Ring; 2],
    /// The workers' newest blocks in the last sample, and its time.
    blocks: Option<(u64, HashMap<Uuid, u32>)>,
}

impl Default for History {
    fn default() -> Self {
        Self(Mutex::new(Inner { rings: Span::ALL.map(Ring::new), blocks: None }))
    }
}

/// Returns seconds since the Unix epoch.
pub(super) fn seconds(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Returns the current time in seconds since the Unix epoch.
pub(super) fn now() -> u64 {
    seconds(SystemTime::now())
}

impl History {
    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns whether it is time for the next sample.
    pub(super) fn is_due(&self, at: u64) -> bool {
        // The difference in either direction: the clock may have been set back.
        self.inner().blocks.as_ref().is_none_or(|(last, _)| at.abs_diff(*last) >= STEP.as_secs())
    }

    /// Records a sample.
    pub(super) fn record(&self, at: u64, fleet: &FleetView, jobs: Option<&Stats>) {
        let mut lags: Vec<u32> = fleet.workers.iter().filter_map(|worker| worker.lag).collect();
        lags.sort_unstable();
        let balances = fleet.pools.iter().filter_map(|pool| Some(pool.account.as_ref()?.as_ref().ok()?.free));
        let active = fleet.workers.iter().filter(|worker| worker.state == State::Active).count();
        let mut inner = self.inner();
        let values = [
            lags.last().copied().map(f64::from),
            lags.get(lags.len() / 2).copied().map(f64::from),
            inner.rate(at, fleet),
            jobs.map(|jobs| (jobs.waiting + jobs.delayed + jobs.active) as f64),
            balances.min().map(|balance| balance as f64 / PHA),
            // A fleet without workers has a gap, not a line at zero.
            (!fleet.workers.is_empty()).then_some(active as f64),
        ];
        let point = Point { at, values, count: 1.0 };
        inner.rings.iter_mut().for_each(|ring| ring.push(point));
    }

    /// Returns the points of a measure, oldest first: seconds since the Unix epoch, and the value if known.
    pub(super) fn points(&self, span: Span, measure: Measure) -> Vec<(u64, Option<f64>)> {
        let inner = self.inner();
        let points = inner.rings.iter().filter(|ring| ring.span == span).flat_map(|ring| &ring.points);
        points.map(|point| (point.at, point.values[measure as usize])).collect()
    }
}

impl Inner {
    /// Returns blocks per second since the last sample, of the workers present in both.
    fn rate(&mut self, at: u64, fleet: &FleetView) -> Option<f64> {
        let now: HashMap<Uuid, u32> =
            fleet.workers.iter().filter_map(|worker| Some((worker.id(), worker.para_block?))).collect();
        let rate = self.blocks.as_ref().and_then(|(before, blocks)| {
            let took = at.checked_sub(*before).filter(|took| *took > 0)?;
            let advances =
                now.iter().filter_map(|(id, block)| Some(u64::from(block.saturating_sub(*blocks.get(id)?))));
            Some(advances.reduce(|all, one| all + one)? as f64 / took as f64)
        });
        self.blocks = Some((at, now));
        rate
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(at: u64, value: f64) -> Point {
        Point { at, values: [Some(value); MEASURES], count: 1.0 }
    }

    #[test]
    fn rings_are_bounded_and_merge_close_samples() {
        let mut ring = Ring::new(Span::Hour);
        (0..10_000).for_each(|n| ring.push(point(n * 10, 1.0)));
        assert_eq!(ring.points.len(), 361);
        let mut day = Ring::new(Span::Day);
        for (n, value) in [3.0, 9.0, 6.0].into_iter().enumerate() {
            day.push(point(300 + n as u64 * 10, value));
        }
        day.push(point(600, 1.0));
        assert_eq!(day.points.len(), 2);
        let values = day.points[0].values.map(Option::unwrap_or_default);
        assert_eq!(values, [9.0, 9.0, 6.0, 9.0, 3.0, 3.0], "worst of all, and the mean of the rate");
        // A clock that goes back by hours.
        day.push(point(0, 1.0));
        assert_eq!(day.points.len(), 1);
    }

    #[test]
    fn unknown_values_have_no_number() {
        let history = History::default();
        assert!(history.is_due(100));
        history.record(100, &FleetView::default(), None);
        assert!(!history.is_due(109) && history.is_due(110));
        for measure in ALL {
            assert_eq!(history.points(Span::Hour, measure), [(100, None)], "{measure:?}");
        }
        history.record(
            110,
            &FleetView::default(),
            Some(&Stats { waiting: 2, active: 1, ..Stats::default() }),
        );
        assert_eq!(history.points(Span::Day, Measure::OpenJobs), [(100, Some(3.0))]);
    }
}
