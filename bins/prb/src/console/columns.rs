//! The columns of the list of workers.

use std::cmp::{Ordering, Reverse};

use maud::{Markup, html};

use super::{format, list::by, view::WorkerView};

/// A set of columns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Set {
    /// A worker's state and progress.
    #[default]
    Main,
    /// Its session and registration.
    Chain,
    /// Its machine and pRuntime.
    Runtime,
    /// All columns.
    All,
}

impl Set {
    pub(super) const ALL: [(Self, &'static str); 4] = [
        (Self::Main, "state and progress"),
        (Self::Chain, "session and registration"),
        (Self::Runtime, "machine and version"),
        (Self::All, "all"),
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Main => "main",
            Self::Chain => "chain",
            Self::Runtime => "runtime",
            Self::All => "all",
        }
    }

    pub(super) fn named(name: &str) -> Self {
        Self::ALL.into_iter().map(|(set, _)| set).find(|set| set.name() == name).unwrap_or_default()
    }
}

type Order = fn(&WorkerView, &WorkerView) -> Ordering;

/// A column.
#[derive(Debug)]
pub(super) struct Column {
    /// Its name in URLs, and the class of its cells.
    pub(super) name: &'static str,
    pub(super) title: &'static str,
    /// The sets that contain it, besides [`Set::All`].
    sets: &'static [Set],
    pub(super) order: Option<Order>,
    pub(super) cell: fn(&WorkerView) -> Markup,
}

impl Column {
    pub(super) fn is_in(&self, set: Set) -> bool {
        set == Set::All || self.sets.contains(&set)
    }
}

const EVERYWHERE: &[Set] = &[Set::Main, Set::Chain, Set::Runtime];
const STATES: &[Set] = &[Set::Main, Set::Chain];
const MAIN: &[Set] = &[Set::Main];
const CHAIN: &[Set] = &[Set::Chain];
const RUNTIME: &[Set] = &[Set::Runtime];
// Only in [`Set::All`].
const NOWHERE: &[Set] = &[];

macro_rules! column {
    ($name:literal, $title:literal, $sets:expr, $worker:ident, by $key:expr, $cell:expr) => {
        Column {
            name: $name,
            title: $title,
            sets: $sets,
            order: Some(|a, b| {
                let key = |$worker: &WorkerView| $key;
                by(key(a), key(b))
            }),
            cell: |$worker| $cell,
        }
    };
    ($name:literal, $title:literal, $sets:expr, $worker:ident, $cell:expr) => {
        Column { name: $name, title: $title, sets: $sets, order: None, cell: |$worker| $cell }
    };
}

/// All columns except the name, which links to the worker's page.
pub(super) static COLUMNS: &[Column] = &[
    column!("state", "State", EVERYWHERE, w, by w.state, format::badge(w.state)),
    column!("pool", "Pool", EVERYWHERE, w, by w.entry.pid, html! { (w.entry.pid) }),
    column!("lag", "Lag", MAIN, w, by w.lag.map_or(-1, i64::from), html! { (format::number(w.lag)) }),
    column!("message", "Last message", MAIN, w, by w.message.clone(), html! {
        (w.message)
        @if w.stalled == Some(true) { " " span.bad { "Stalled." } }
    }),
    column!("reason", "Reason", NOWHERE, w, by w.reason, html! { (w.reason.unwrap_or("–")) }),
    column!("since", "Since (UTC)", MAIN, w, by w.message_at, html! {
        @match w.message_at { Some(at) => (format::timestamp(at)), None => "–" }
    }),
    column!("session", "On chain", STATES, w, by w.session_state().map(format::session), html! {
        @match w.session_state() {
            Some(state) => { span.bad[w.is_unresponsive()] { (format::session(state)) } }
            None => "–",
        }
    }),
    column!("goal", "Goal", CHAIN, w, by w.goal.map(format::goal), html! { (w.goal.map_or("–", format::goal)) }),
    column!("flight", "In flight", MAIN, w, by w.in_flight.map(|of| Reverse(of.since)), html! {
        @match &w.in_flight { Some(of) => { (of.operation) ", " (of.stage.as_str()) br; (format::timestamp(of.since)) }, None => "–" }
    }),
    column!("block", "Para block", MAIN, w, by w.para_block, html! { (format::number(w.para_block)) }),
    column!("header", "Para header", NOWHERE, w, by w.para_header, html! { (format::number(w.para_header)) }),
    column!("relay", "Relay header", NOWHERE, w, by w.relay_header, html! { (format::number(w.relay_header)) }),
    column!("stake", "Stake", CHAIN, w, by w.entry.stake, html! { (format::amount(w.entry.stake)) }),
    column!("locked", "At stake", MAIN, w, by w.at_stake(), html! {
        @match w.at_stake() { 0 => "–", stake => (format::amount(stake)) }
    }),
    column!("confidence", "Confidence", CHAIN, w, by w.confidence(), html! { (format::number(w.confidence())) }),
    column!("v", "V", CHAIN, w, by w.session().map(|s| s.v), html! {
        @match w.session() { Some(session) => (format::fixed(session.v)), None => "–" }
    }),
    column!("ve", "Ve", CHAIN, w, by w.session().map(|s| s.ve), html! {
        @match w.session() { Some(session) => (format::fixed(session.ve)), None => "–" }
    }),
    column!("p", "P instant", CHAIN, w, by w.session().map(|s| s.p_instant), html! {
        (format::number(w.session().map(|session| session.p_instant)))
    }),
    column!("pinit", "P initial", NOWHERE, w, by w.session().map(|s| s.p_init), html! {
        (format::number(w.session().map(|session| session.p_init)))
    }),
    column!("minted", "Minted", CHAIN, w, by w.session().map(|s| s.total_reward), html! {
        @match w.session() { Some(session) => (format::amount(session.total_reward)), None => "–" }
    }),
    column!("heartbeat", "Last challenge (UTC)", CHAIN, w, by w.session().map(|s| s.challenge_time_last), html! {
        @match w.session() { Some(session) => (format::timestamp_secs(session.challenge_time_last)), None => "–" }
    }),
    column!("keychange", "Last key change (UTC)", RUNTIME, w, by w.key_change.map(|change| change.at_ms), html! {
        @match w.key_change { Some(change) => (format::timestamp(change.at())), None => "–" }
    }),
    column!("version", "Version", RUNTIME, w, by w.info.as_ref().map(|i| i.version.clone()), html! {
        @match &w.info { Some(info) => (info.version), None => "–" }
    }),
    column!(
        "git",
        "Git revision",
        RUNTIME,
        w,
        html! {
            @match &w.info { Some(info) => { code { (info.git_revision.chars().take(12).collect::<String>()) } }, None => "–" }
        }
    ),
    column!("peak", "Memory peak", RUNTIME, w, by memory(w, |m| m.rust_peak_used), html! { (shown(w, |m| m.rust_peak_used)) }),
    column!("used", "Memory used", RUNTIME, w, by memory(w, |m| m.rust_used), html! { (shown(w, |m| m.rust_used)) }),
    column!("total", "Memory total peak", NOWHERE, w, by memory(w, |m| m.total_peak_used), html! {
        (shown(w, |m| m.total_peak_used))
    }),
    column!("pending", "Messages waiting", RUNTIME, w, by w.info.as_ref().map(|i| i.pending_messages), html! {
        (format::number(w.info.as_ref().map(|info| info.pending_messages)))
    }),
    column!("endpoint", "Endpoint", RUNTIME, w, by w.entry.endpoint.clone(), html! { (w.entry.endpoint) }),
    column!(
        "key",
        "Public key",
        NOWHERE,
        w,
        html! {
            @match w.key { Some(key) => { code { (key) } }, None => "–" }
        }
    ),
    column!(
        "account",
        "Session account",
        NOWHERE,
        w,
        html! {
            @match w.session() {
                Some(session) => { code { (session.account.to_ss58(prb_core::primitives::PHALA_SS58_PREFIX)) } }
                None => "–",
            }
        }
    ),
    column!("id", "ID", NOWHERE, w, html! { code { (w.id()) } }),
];

type Field = fn(&prb_core::prpc::MemoryUsage) -> u64;

fn memory(worker: &WorkerView, field: Field) -> Option<u64> {
    worker.info.as_ref()?.memory_usage.as_ref().map(field)
}

fn shown(worker: &WorkerView, field: Field) -> String {
    memory(worker, field).map_or_else(|| "–".to_owned(), format::mib)
}
