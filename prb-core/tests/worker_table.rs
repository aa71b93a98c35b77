//! Table of the situations of a worker, each with the decision expected for it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{fmt, sync::Arc};

use prb_core::{
    chain::{SessionState, WorkerOnChain},
    inventory::Goal,
    prpc::PhactoryInfo,
    worker::{Action, Desired, Observed, Operation, Settings, decide},
};

#[path = "worker_rig/rig.rs"]
mod rig;
use rig::{
    COOL_DOWN_SECS, MIN_SCORE, NOW_SECS, OPERATOR, OTHER, OURS, STAKE, STRANGER, at_the_tip, desired,
    registration, session,
};

/// One situation, by the words of the table's columns.
#[derive(Clone, Copy)]
struct Situation([&'static str; 12]);

const COLUMNS: [(&str, &[&str]); 12] = [
    ("initialised", &["yes", "no"]),
    ("sync-only", &["no", "yes"]),
    ("operator key", &["held", "none"]),
    ("assigned to", &["none", "us", "other"]),
    ("session", &["none", "ready", "idle", "unresp", "cooling", "cooled"]),
    ("registered", &["yes", "no"]),
    ("operator", &["ours", "differs"]),
    ("score", &["none", "zero", "low", "good"]),
    ("minimum", &["off", "on"]),
    ("benchmark", &["over", "running"]),
    ("stake", &["lower", "equal", "higher"]),
    ("goal", &["compute", "stop", "stopped", "reclaim", "again", "leave"]),
];

/// Top to bottom, the first row that fits. `*` fits everything.
const TABLE: &str = "
# init sync key  pool  session registered operator score min bench   stake  goal      action    state
  no   *    *    *     *       *          *        *     *   *       *      *       = init      S_STARTING
# Nothing is sent on chain for those.
  yes  yes  *    *     *       *          *        *     *   *       *      *       = nothing   S_SYNCHED
  yes  no   none *     *       *          *        *     *   *       *      *       = nothing   S_SYNCHED
  yes  no   held other *       *          *        *     *   *       *      *       = nothing   S_ERROR
# A session that goes on without its pool: nothing before its stake is free.
  yes  no   held none  idle    *          *        *     *   *       *      *       = nothing   S_ACTIVE
  yes  no   held none  unresp  *          *        *     *   *       *      *       = nothing   S_ACTIVE
  yes  no   held none  cooling *          *        *     *   *       *      *       = nothing   S_SYNCHED
  yes  no   held none  cooled  *          *        *     *   *       *      *       = nothing   S_SYNCHED
# A worker that was stopped stays so, unless it is to be reclaimed.
  yes  no   held us    cooling *          *        *     *   *       *      *       = nothing   S_SYNCHED
  yes  no   held us    cooled  *          *        *     *   *       *      reclaim = reclaim   S_SYNCHED
  yes  no   held us    cooled  *          *        *     *   *       *      again   = reclaim   S_SYNCHED
  yes  no   held us    cooled  *          *        *     *   *       *      leave   = reclaim   S_SYNCHED
  yes  no   held us    cooled  *          *        *     *   *       *      *       = nothing   S_SYNCHED
# Stopped on command, registered or not.
  yes  no   held us    idle    *          *        *     *   *       *      stop    = stop      S_ACTIVE
  yes  no   held us    unresp  *          *        *     *   *       *      stop    = stop      S_ACTIVE
  yes  no   held *     none    *          *        *     *   *       *      stop    = nothing   S_SYNCHED
  yes  no   held *     ready   *          *        *     *   *       *      stop    = nothing   S_SYNCHED
  yes  no   held *     none    *          *        *     *   *       *      stopped = nothing   S_SYNCHED
  yes  no   held *     ready   *          *        *     *   *       *      stopped = nothing   S_SYNCHED
  yes  no   held *     none    *          *        *     *   *       *      reclaim = nothing   S_SYNCHED
  yes  no   held *     ready   *          *        *     *   *       *      reclaim = nothing   S_SYNCHED
  yes  no   held us    none    *          *        *     *   *       *      leave   = leave     S_SYNCHED
  yes  no   held us    ready   *          *        *     *   *       *      leave   = leave     S_SYNCHED
  yes  no   held none  none    *          *        *     *   *       *      leave   = nothing   S_SYNCHED
  yes  no   held none  ready   *          *        *     *   *       *      leave   = nothing   S_SYNCHED
# Registration, for computing workers too.
  yes  no   held *     *       no         *        *     *   *       *      *       = register  S_PRE_ACTIVE
  yes  no   held us    idle    yes        differs  *     *   *       *      *       = register  S_ACTIVE
  yes  no   held us    unresp  yes        differs  *     *   *       *      *       = register  S_ACTIVE
  yes  no   held *     *       yes        differs  *     *   *       *      *       = register  S_PRE_ACTIVE
# Computing: the score does not matter any more.
  yes  no   held us    idle    yes        ours     *     *   *       lower  *       = restart   S_ACTIVE
  yes  no   held us    idle    yes        ours     *     *   *       equal  *       = nothing   S_ACTIVE
  yes  no   held us    idle    yes        ours     *     *   *       higher *       = nothing   S_ACTIVE
  yes  no   held us    unresp  yes        ours     *     *   *       *      *       = nothing   S_ACTIVE
# Without a score.
  yes  no   held *     *       yes        ours     none  off *       *      *       = nothing   S_PRE_ACTIVE
  yes  no   held *     *       yes        ours     zero  off *       *      *       = nothing   S_PRE_ACTIVE
  yes  no   held *     *       yes        ours     none  on  running *      *       = nothing   S_PRE_ACTIVE
  yes  no   held *     *       yes        ours     zero  on  running *      *       = nothing   S_PRE_ACTIVE
  yes  no   held *     *       yes        ours     low   on  running *      *       = nothing   S_PRE_ACTIVE
  yes  no   held *     *       yes        ours     none  on  over    *      *       = register  S_PRE_ACTIVE
  yes  no   held *     *       yes        ours     zero  on  over    *      *       = register  S_PRE_ACTIVE
  yes  no   held *     *       yes        ours     low   on  over    *      *       = register  S_PRE_ACTIVE
# With a score that is good enough.
  yes  no   held none  *       yes        ours     low   off *       *      *       = add       S_PRE_ACTIVE
  yes  no   held none  *       yes        ours     good  *   *       *      *       = add       S_PRE_ACTIVE
  yes  no   held us    none    yes        ours     low   off *       *      *       = nothing   S_PRE_ACTIVE
  yes  no   held us    none    yes        ours     good  *   *       *      *       = nothing   S_PRE_ACTIVE
  yes  no   held us    ready   yes        ours     low   off *       *      *       = start     S_PRE_ACTIVE
  yes  no   held us    ready   yes        ours     good  *   *       *      *       = start     S_PRE_ACTIVE
";

struct Row {
    patterns: Vec<&'static str>,
    action: &'static str,
    state: &'static str,
    line: usize,
}

fn rows() -> Vec<Row> {
    let lines = TABLE.lines().enumerate().filter(|(_, l)| !l.trim().is_empty() && !l.starts_with('#'));
    lines
        .map(|(line, text)| {
            let (patterns, result) = text.split_once('=').unwrap();
            let patterns: Vec<_> = patterns.split_whitespace().collect();
            assert_eq!(patterns.len(), COLUMNS.len(), "line {line}");
            for (pattern, (name, words)) in patterns.iter().zip(COLUMNS) {
                assert!(*pattern == "*" || words.contains(pattern), "line {line}: {name} {pattern}");
            }
            let mut result = result.split_whitespace();
            Row { patterns, action: result.next().unwrap(), state: result.next().unwrap(), line }
        })
        .collect()
}

fn situations() -> Vec<Situation> {
    let mut all = vec![Situation([""; 12])];
    for (column, (_, words)) in COLUMNS.iter().enumerate() {
        let wider = all.iter().flat_map(|situation| {
            words.iter().map(move |word| {
                let mut wider = *situation;
                wider.0[column] = word;
                wider
            })
        });
        all = wider.collect();
    }
    all
}

impl fmt::Display for Situation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for ((name, _), word) in COLUMNS.iter().zip(self.0) {
            write!(f, "{name}={word} ")?;
        }
        Ok(())
    }
}

impl Situation {
    fn fits(&self, row: &Row) -> bool {
        self.0.iter().zip(&row.patterns).all(|(word, pattern)| *pattern == "*" || word == pattern)
    }

    fn is(&self, column: &str, word: &str) -> bool {
        let at = COLUMNS.iter().position(|(name, _)| *name == column).unwrap();
        assert!(COLUMNS[at].1.contains(&word));
        self.0[at] == word
    }

    fn desired(&self) -> Desired {
        desired(self.is("operator key", "held"), self.is("sync-only", "yes"))
    }

    fn settings(&self) -> Settings {
        Settings::default()
            .with_enforce_min_bench_score(self.is("minimum", "on"))
            .with_min_bench_score(MIN_SCORE)
    }

    fn observed(&self) -> Observed {
        let mut observed = at_the_tip();
        let score = match () {
            () if self.is("score", "none") => None,
            () if self.is("score", "zero") => Some(0),
            () if self.is("score", "low") => Some(MIN_SCORE - 1),
            () => Some(MIN_SCORE),
        };
        let operator = if self.is("operator", "ours") { OPERATOR } else { STRANGER };
        let pool = match () {
            () if self.is("assigned to", "none") => None,
            () if self.is("assigned to", "us") => Some(OURS),
            () => Some(OTHER),
        };
        let stake = match () {
            () if self.is("stake", "lower") => STAKE - 1,
            () if self.is("stake", "equal") => STAKE,
            () => STAKE + 1,
        };
        let ended_secs_ago = u64::from(self.is("session", "cooled"));
        let state = match () {
            () if self.is("session", "none") => None,
            () if self.is("session", "ready") => Some(SessionState::Ready),
            () if self.is("session", "idle") => Some(SessionState::WorkerIdle),
            () if self.is("session", "unresp") => Some(SessionState::WorkerUnresponsive),
            () => Some(SessionState::WorkerCoolingDown),
        };
        let mut session = state.map(|state| session(state, stake));
        if let Some(session) = &mut session {
            session.cool_down_start = NOW_SECS - COOL_DOWN_SECS + 1 - ended_secs_ago;
        }
        let mut chain = WorkerOnChain::default();
        chain.registration = self.is("registered", "yes").then(|| registration(operator, score));
        (chain.pool, chain.session) = (pool, session);
        observed.chain = Some(Ok(Arc::new(chain)));
        let goals =
            [Goal::Compute, Goal::Stop, Goal::StayStopped, Goal::Reclaim, Goal::StartAgain, Goal::LeavePool];
        let (column, words) = COLUMNS[COLUMNS.len() - 1];
        let goal = words.iter().position(|word| self.is(column, word)).unwrap();
        observed.saved.goal = goals[goal];
        observed.benchmark_running = self.is("benchmark", "running");
        if self.is("initialised", "no") {
            observed.info = Some(Arc::new(PhactoryInfo::default()));
            observed.caught_up = false;
        }
        observed
    }
}

fn word(action: Action) -> String {
    match action {
        Action::Wait => "nothing".into(),
        Action::Init => "init".into(),
        Action::Operate(Operation::Register) => "register".into(),
        Action::Operate(Operation::AddToPool) => "add".into(),
        Action::Operate(Operation::Start(STAKE)) => "start".into(),
        Action::Operate(Operation::RaiseStake(STAKE)) => "restart".into(),
        Action::Operate(Operation::Reclaim) => "reclaim".into(),
        Action::Operate(Operation::Stop) => "stop".into(),
        Action::Operate(Operation::LeavePool) => "leave".into(),
        other => format!("{other:?}"),
    }
}

#[test]
fn every_situation_has_its_action() {
    let rows = rows();
    let mut used = vec![0usize; rows.len()];
    let situations = situations();
    assert_eq!(situations.len(), COLUMNS.iter().map(|(_, words)| words.len()).product::<usize>());
    for situation in &situations {
        let at = rows.iter().position(|row| situation.fits(row));
        let at = at.unwrap_or_else(|| panic!("no row for {situation}"));
        used[at] += 1;
        let row = &rows[at];
        let decision = decide(&situation.desired(), &situation.settings(), &situation.observed());
        assert_eq!(
            (word(decision.action).as_str(), decision.state.as_str()),
            (row.action, row.state),
            "{situation}(line {}), message {:?}",
            row.line,
            decision.message,
        );
        assert!(!decision.message.is_empty());
    }
    for (row, used) in rows.iter().zip(used) {
        assert!(used > 0, "the row of line {} fits nothing", row.line);
    }
}
