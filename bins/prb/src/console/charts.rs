//! Charts of a fleet's history as SVG. The drawing has lines only and stretches to the available width; texts
//! are outside of it, so that they keep their size on a phone.

use std::fmt::Write as _;

use maud::{Markup, html};

use super::{
    context::Context,
    format,
    history::{History, Measure, Span, now},
};

/// The drawing's size in user units.
const WIDTH: f64 = 600.0;
const HEIGHT: f64 = 120.0;
/// Number of steps without a point after which a line has a gap.
const GAP: u64 = 3;

/// A chart.
struct Chart {
    name: &'static str,
    title: &'static str,
    /// The unit after a number.
    unit: &'static str,
    /// Lines with their names; a single line needs no name.
    lines: &'static [(Measure, &'static str)],
}

const CHARTS: [Chart; 5] = [
    Chart {
        name: "lag",
        title: "Lag",
        unit: "blocks",
        lines: &[(Measure::LargestLag, "largest"), (Measure::MedianLag, "median")],
    },
    Chart {
        name: "rate",
        title: "Sync rate, all workers",
        unit: "blocks/s",
        lines: &[(Measure::SyncRate, "")],
    },
    Chart { name: "active", title: "Workers in S_ACTIVE", unit: "", lines: &[(Measure::Active, "")] },
    Chart { name: "jobs", title: "Jobs not ended", unit: "", lines: &[(Measure::OpenJobs, "")] },
    Chart {
        name: "balance",
        title: "Lowest operator balance",
        unit: "PHA",
        lines: &[(Measure::LowestBalance, "")],
    },
];

/// Shows all charts that have data.
pub(super) fn charts(context: &Context, history: &History, span: Span) -> Markup {
    let drawn: Vec<_> = CHARTS.iter().filter_map(|chart| draw(chart, history, span, now())).collect();
    html! {
        div.title {
            h2 { "Recent values" }
            nav.spans aria-label="Span of the charts" {
                @for (each, text) in Span::ALL.into_iter().zip(["Last hour", "Last day"]) {
                    a href={ (context.home()) "?span=" (each.name()) } aria-current=[(each == span).then_some("true")] { (text) }
                }
            }
        }
        @if drawn.is_empty() {
            p.small { "Nothing has been measured yet. The first points appear within half a minute." }
        } @else {
            div.charts { @for chart in drawn { (chart) } }
        }
    }
}

fn draw(chart: &Chart, history: &History, span: Span, end: u64) -> Option<Markup> {
    let (length, step) = span.seconds();
    let start = end.saturating_sub(length);
    let lines: Vec<Line> =
        chart.lines.iter().map(|(measure, name)| Line::new(history, span, *measure, name, start)).collect();
    let values = || lines.iter().flat_map(|line| line.known());
    let (lowest, highest) = (values().reduce(f64::min)?, values().reduce(f64::max)?);
    let top = ceiling(highest);
    let (id, unit) = (format!("chart-{}", chart.name), chart.unit);
    let from = if span == Span::Hour { "an hour ago" } else { "a day ago" };
    Some(html! {
        figure.chart id=(id) {
            figcaption {
                b { (chart.title) }
                @for line in &lines {
                    " " span class={ "now " (line.class()) } {
                        @if !line.name.is_empty() { i aria-hidden="true" {} (line.name) " " }
                        (line.last().map_or_else(|| "–".to_owned(), shown))
                    }
                }
                @if !unit.is_empty() { " " span.small { (unit) } }
            }
            div.plot {
                span.most aria-hidden="true" { (shown(top)) }
                svg viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } preserveAspectRatio="none" role="img"
                    aria-labelledby={ (id) "-title " (id) "-desc" } {
                    title id={ (id) "-title" } { (chart.title) }
                    desc id={ (id) "-desc" } {
                        "From " (from) " to now: from " (shown(lowest)) " to " (shown(highest)) " " (unit) "."
                        @for line in &lines { @if let Some(last) = line.last() { " Now " (line.name) " " (shown(last)) "." } }
                    }
                    path.grid d={ "M0 0.5H" (WIDTH) "M0 " (HEIGHT / 2.0) "H" (WIDTH) "M0 " (HEIGHT - 0.5) "H" (WIDTH) } {}
                    @for line in &lines { path class={ "line " (line.class()) } d=(line.path(start, length, step, top)) {} }
                }
            }
            div.axis aria-hidden="true" { span { (clock(start)) } span { (clock(end)) " UTC" } }
        }
    })
}

struct Line {
    name: &'static str,
    points: Vec<(u64, Option<f64>)>,
}

impl Line {
    fn new(history: &History, span: Span, measure: Measure, name: &'static str, start: u64) -> Self {
        let points = history.points(span, measure).into_iter().filter(|(at, _)| *at >= start);
        Self { name, points: points.collect() }
    }

    fn known(&self) -> impl Iterator<Item = f64> {
        self.points.iter().filter_map(|(_, value)| *value)
    }

    fn last(&self) -> Option<f64> {
        self.points.last()?.1
    }

    fn class(&self) -> &'static str {
        if self.name == "median" { "second" } else { "first" }
    }

    /// Returns the line's segments. A single value is a dot: a segment of length zero with round caps.
    fn path(&self, start: u64, length: u64, step: u64, top: f64) -> String {
        let mut path = String::new();
        let mut before = None::<u64>;
        for (at, value) in &self.points {
            let Some(value) = value else {
                before = None;
                continue;
            };
            let x = at.saturating_sub(start) as f64 / length as f64 * WIDTH;
            let y = (HEIGHT - 1.0) - value / top * (HEIGHT - 2.0);
            let joined = before.is_some_and(|before| at.saturating_sub(before) <= GAP * step);
            // Writing to a string cannot fail.
            let _ = match joined {
                true => write!(path, "L{x:.1} {y:.1}"),
                false => write!(path, "M{x:.1} {y:.1}h0"),
            };
            before = Some(*at);
        }
        path
    }
}

/// Returns the smallest of 1, 2 or 5 times a power of ten that is not below a value.
fn ceiling(value: f64) -> f64 {
    let power = 10f64.powf(value.max(1.0).log10().floor());
    // 10, because rounding can make the power too small by one.
    let steps = [1.0, 2.0, 5.0, 10.0].into_iter().map(|step| step * power);
    steps.into_iter().find(|step| *step >= value).unwrap_or(power * 10.0)
}

/// Formats a number with thousands separators, and one decimal if it is small.
fn shown(value: f64) -> String {
    if value < 100.0 && value.fract().abs() > 0.049 {
        return format!("{value:.1}");
    }
    format::grouped(value.round() as u64)
}

/// Formats a time as hours and minutes.
fn clock(at: u64) -> String {
    let minutes = at / 60 % (24 * 60);
    format!("{:02}:{:02}", minutes / 60, minutes % 60)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn axes_end_at_round_numbers() {
        let tops = [0.0, 0.3, 1.0, 1.1, 4.0, 5.1, 99.0, 100.0, 1234.0].map(ceiling);
        assert_eq!(tops, [1.0, 1.0, 1.0, 2.0, 5.0, 10.0, 100.0, 100.0, 2000.0]);
        assert_eq!([0.0, 0.25, 7.0, 12.34, 1234.5].map(shown), ["0", "0.2", "7", "12.3", "1,235"]);
        assert_eq!(clock(1_700_000_000), "22:13");
    }

    #[test]
    fn lines_have_gaps_for_missing_measurements() {
        let points = vec![(0, Some(0.0)), (10, Some(5.0)), (20, None), (30, Some(10.0)), (100, Some(10.0))];
        let line = Line { name: "", points };
        assert_eq!(line.path(0, 100, 10, 10.0), "M0.0 119.0h0L60.0 60.0M180.0 1.0h0M600.0 1.0h0");
    }
}
