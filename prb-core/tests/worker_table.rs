//! Every situation of a worker, and what is to be done about it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{fmt, sync::Arc};

use prb_core::{
    blob::{HeaderCursor, Heights},
    chain::{Registration, Session, SessionState, WorkerOnChain},
    inventory::{Operator, Pool, Worker},
    primitives::{AccountId, Hash, ParaNumber, PoolId, RelayNumber, WorkerKey},
    prpc::PhactoryInfo,
    sync::{Position, Step},
    vault::Sealed,
    worker::{Action, Desired, Observed, Operation, Settings, State, Trouble, decide},
};
use uuid::Uuid;

const OURS: PoolId = PoolId(1);
const OTHER: PoolId = PoolId(7);
const OPERATOR: AccountId = AccountId([1; 32]);
const STRANGER: AccountId = AccountId([2; 32]);
const GENESIS: Hash = Hash([9; 32]);
const KEY: WorkerKey = WorkerKey([3; 32]);
const STAKE: u128 = 1000;
const MIN_SCORE: u32 = 50;
const NOW_SECS: u64 = 1_000_000;
const COOL_DOWN_SECS: u64 = 1000;

/// One situation, by the words of the table's columns.
#[derive(Clone, Copy)]
struct Situation([&'static str; 11]);

const COLUMNS: [(&str, &[&str]); 11] = [
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
];

/// Top to bottom, the first row that fits. `*` fits everything.
const TABLE: &str = "
# init sync key  pool  session registered operator score min bench   stake    action    state
  no   *    *    *     *       *          *        *     *   *       *      = init      S_STARTING
# Nothing is sent on chain for those.
  yes  yes  *    *     *       *          *        *     *   *       *      = nothing   S_SYNCHED
  yes  no   none *     *       *          *        *     *   *       *      = nothing   S_SYNCHED
  yes  no   held other *       *          *        *     *   *       *      = nothing   S_ERROR
# A worker that was stopped stays so until its stake is free.
  yes  no   held us    cooling *          *        *     *   *       *      = nothing   S_SYNCHED
  yes  no   held us    cooled  *          *        *     *   *       *      = reclaim   S_SYNCHED
# Registration, for computing workers too.
  yes  no   held *     *       no         *        *     *   *       *      = register  S_PRE_ACTIVE
  yes  no   held us    idle    yes        differs  *     *   *       *      = register  S_ACTIVE
  yes  no   held us    unresp  yes        differs  *     *   *       *      = register  S_ACTIVE
  yes  no   held *     *       yes        differs  *     *   *       *      = register  S_PRE_ACTIVE
# Computing: the score does not matter any more.
  yes  no   held us    idle    yes        ours     *     *   *       lower  = restart   S_ACTIVE
  yes  no   held us    idle    yes        ours     *     *   *       equal  = nothing   S_ACTIVE
  yes  no   held us    idle    yes        ours     *     *   *       higher = nothing   S_ACTIVE
  yes  no   held us    unresp  yes        ours     *     *   *       *      = nothing   S_ACTIVE
# Without a score.
  yes  no   held *     *       yes        ours     none  off *       *      = nothing   S_PRE_ACTIVE
  yes  no   held *     *       yes        ours     zero  off *       *      = nothing   S_PRE_ACTIVE
  yes  no   held *     *       yes        ours     none  on  running *      = nothing   S_PRE_ACTIVE
  yes  no   held *     *       yes        ours     zero  on  running *      = nothing   S_PRE_ACTIVE
  yes  no   held *     *       yes        ours     low   on  running *      = nothing   S_PRE_ACTIVE
  yes  no   held *     *       yes        ours     none  on  over    *      = register  S_PRE_ACTIVE
  yes  no   held *     *       yes        ours     zero  on  over    *      = register  S_PRE_ACTIVE
  yes  no   held *     *       yes        ours     low   on  over    *      = register  S_PRE_ACTIVE
# With a score that is good enough.
  yes  no   held none  *       yes        ours     low   off *       *      = add       S_PRE_ACTIVE
  yes  no   held none  *       yes        ours     good  *   *       *      = add       S_PRE_ACTIVE
  yes  no   held us    none    yes        ours     low   off *       *      = nothing   S_PRE_ACTIVE
  yes  no   held us    none    yes        ours     good  *   *       *      = nothing   S_PRE_ACTIVE
  yes  no   held us    ready   yes        ours     low   off *       *      = start     S_PRE_ACTIVE
  yes  no   held us    ready   yes        ours     good  *   *       *      = start     S_PRE_ACTIVE
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
    let mut all = vec![Situation([""; 11])];
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
        Settings {
            enforce_min_bench_score: self.is("minimum", "on"),
            min_bench_score: MIN_SCORE,
            ..Settings::default()
        }
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
        observed.chain = Some(Arc::new(WorkerOnChain {
            registration: self.is("registered", "yes").then(|| registration(operator, score)),
            pool,
            session,
            ingress_sequence: 0,
        }));
        observed.benchmark_running = self.is("benchmark", "running");
        if self.is("initialised", "no") {
            observed.info = Some(Arc::new(PhactoryInfo::default()));
            observed.caught_up = false;
        }
        observed
    }
}

fn desired(key: bool, sync_only: bool) -> Desired {
    let operator = key.then(|| Operator { account: OPERATOR, key: Sealed(vec![1]) });
    let mut pool = Pool::new(Uuid::nil(), OURS, "pool");
    pool.operator = operator;
    let mut worker = Worker::new(Uuid::nil(), OURS, "worker", "http://w", STAKE);
    worker.sync_only = sync_only;
    Desired { worker: Arc::new(worker), pool: Some(Arc::new(pool)) }
}

fn info() -> PhactoryInfo {
    PhactoryInfo {
        initialized: true,
        genesis_block_hash: Some(hex::encode(GENESIS.0)),
        public_key: Some(hex::encode(KEY.0)),
        headernum: 101,
        para_headernum: 51,
        blocknum: 51,
        current_block_time: NOW_SECS * 1000,
        ..PhactoryInfo::default()
    }
}

fn registration(operator: AccountId, initial_score: Option<u32>) -> Registration {
    Registration {
        pubkey: KEY,
        ecdh_pubkey: [0; 32],
        runtime_version: 0,
        last_updated: 5,
        operator: Some(operator),
        attestation_provider: None,
        confidence_level: 1,
        initial_score,
        features: vec![],
    }
}

fn session(state: SessionState, stake: u128) -> Session {
    Session {
        account: AccountId([5; 32]),
        state,
        ve: 0,
        v: 0,
        v_updated_at: 0,
        p_init: 0,
        p_instant: 0,
        iterations: 0,
        working_start_time: 0,
        challenge_time_last: 0,
        cool_down_start: 0,
        total_reward: 0,
        stake: Some(stake),
    }
}

/// An initialised worker at the tip, with nothing known of the chain.
fn at_the_tip() -> Observed {
    let info = info();
    Observed {
        position: Position::of(&info),
        info: Some(Arc::new(info)),
        heights: Heights {
            relay: Some(RelayNumber(100)),
            para: Some(ParaNumber(50)),
            relay_target: None,
            para_target: None,
        },
        relay_genesis: Some(GENESIS),
        caught_up: true,
        cool_down_period_secs: COOL_DOWN_SECS,
        ..Observed::default()
    }
}

/// One that only lacks to be started.
fn ready() -> Observed {
    let chain = WorkerOnChain {
        registration: Some(registration(OPERATOR, Some(100))),
        pool: Some(OURS),
        session: Some(session(SessionState::Ready, 0)),
        ingress_sequence: 0,
    };
    Observed { chain: Some(Arc::new(chain)), ..at_the_tip() }
}

/// One that computes.
fn computing() -> Observed {
    let chain = WorkerOnChain {
        session: Some(session(SessionState::WorkerIdle, STAKE)),
        ..(**ready().chain.as_ref().unwrap()).clone()
    };
    Observed { chain: Some(Arc::new(chain)), ..at_the_tip() }
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
        other => format!("{other:?}"),
    }
}

#[test]
fn every_situation_has_its_row_and_its_action() {
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

fn decided(observed: &Observed) -> (Action, State, String) {
    let decision = decide(&desired(true, false), &Settings::default(), observed);
    (decision.action, decision.state, decision.message.to_string())
}

fn trouble(attempts: u32, due: bool) -> Option<Trouble> {
    Some(Trouble { message: "it hurts".into(), attempts, due })
}

fn headers() -> Step {
    Step::Headers(HeaderCursor { relay: RelayNumber(101), para: ParaNumber(51) })
}

#[test]
fn a_worker_is_looked_for_until_it_is_found() {
    let mut observed = Observed::default();
    assert_eq!(decided(&observed).0, Action::Observe);
    assert_eq!(decided(&observed).1, State::Starting);
    observed.troubles.connection = trouble(1, false);
    assert_eq!(decided(&observed), (Action::Wait, State::Starting, "it hurts".into()));
    observed.troubles.connection = trouble(50, true);
    assert_eq!(decided(&observed), (Action::Observe, State::Error, "it hurts".into()));
    observed.kicked = true;
    assert_eq!(decided(&observed).1, State::Kicked);
}

#[test]
fn a_worker_that_is_not_to_run_is_idle() {
    let settings = Settings::default();
    let enabled = desired(true, false);
    let mut disabled = enabled.clone();
    Arc::make_mut(&mut disabled.worker).enabled = false;
    let mut disabled_pool = enabled.clone();
    Arc::make_mut(disabled_pool.pool.as_mut().unwrap()).enabled = false;
    let homeless = Desired { pool: None, ..enabled };
    for desired in [disabled, disabled_pool, homeless] {
        let decision = decide(&desired, &settings, &ready());
        assert_eq!((decision.action, decision.state), (Action::Wait, State::Idle));
    }
}

#[test]
fn a_worker_of_another_chain_is_told_of_and_left_alone() {
    for mut observed in [ready(), computing()] {
        observed.relay_genesis = Some(Hash([8; 32]));
        observed.step = headers();
        observed.unsent_messages = true;
        let (action, state, message) = decided(&observed);
        assert_eq!((action, state), (Action::Recheck, State::Error));
        assert!(message.contains("another chain"), "{message}");
        observed.stale = true;
        assert_eq!(decided(&observed).0, Action::Observe);
    }
}

#[test]
fn initialisation_waits_for_the_chain_and_backs_off() {
    let mut observed = Observed { info: Some(Arc::new(PhactoryInfo::default())), ..Observed::default() };
    assert_eq!(decided(&observed), (Action::Wait, State::Starting, "Waiting for chain data".into()));
    observed.relay_genesis = Some(GENESIS);
    assert_eq!(decided(&observed).0, Action::Init);
    observed.troubles.sync = trouble(1, false);
    assert_eq!(decided(&observed), (Action::Wait, State::Starting, "it hurts".into()));
    observed.troubles.sync = trouble(9, true);
    assert_eq!(decided(&observed), (Action::Init, State::Error, "it hurts".into()));
    observed.stale = true;
    assert_eq!(decided(&observed).0, Action::Observe);
}

#[test]
fn a_worker_that_is_behind_only_syncs_and_relays() {
    for mut observed in [ready(), computing()] {
        observed.caught_up = false;
        observed.step = headers();
        let (action, state, _) = decided(&observed);
        assert_eq!((action, state), (Action::Sync(headers()), State::Synching));
        observed.unsent_messages = true;
        assert_eq!(decided(&observed).0, Action::Relay);
    }
    // One that belongs to another pool is told of at once.
    let mut observed = ready();
    Arc::make_mut(observed.chain.as_mut().unwrap()).pool = Some(OTHER);
    observed.caught_up = false;
    observed.step = headers();
    observed.unsent_messages = true;
    let (action, state, message) = decided(&observed);
    assert_eq!((action, state), (Action::Sync(headers()), State::Error));
    assert!(message.contains("pool 7"), "{message}");
}

#[test]
fn nothing_waits_for_a_job_but_the_next_one() {
    let mut observed = ready();
    observed.step = headers();
    observed.unsent_messages = true;
    assert_eq!(decided(&observed).0, Action::Operate(Operation::Start(STAKE)));
    observed.job = Some(Operation::Start(STAKE));
    assert_eq!(decided(&observed).0, Action::Relay);
    observed.unsent_messages = false;
    assert_eq!(decided(&observed).0, Action::Sync(headers()));
    observed.step = Step::Wait;
    assert_eq!(decided(&observed).0, Action::Wait);
    // The job has ended, and the view is older than that.
    observed.job = None;
    observed.settling = Some(ParaNumber(52));
    assert_eq!(
        decided(&observed),
        (Action::Wait, State::PreActive, "Waiting for the state of block 52".into())
    );
    observed.stale = true;
    assert_eq!(decided(&observed).0, Action::Observe, "the worker's own word first");
}

#[test]
fn an_operation_that_fails_is_shown_and_holds_up_nothing_else() {
    let mut observed = ready();
    observed.step = headers();
    observed.troubles.chain = trouble(1, false);
    assert_eq!(decided(&observed), (Action::Sync(headers()), State::Error, "it hurts".into()));
    observed.troubles.chain = trouble(1, true);
    assert_eq!(decided(&observed).0, Action::Operate(Operation::Start(STAKE)));
    // Under way again: what it does, not what it did.
    observed.job = Some(Operation::Start(STAKE));
    assert_eq!(decided(&observed).1, State::PreActive);
    assert_eq!(decided(&observed).2, "Starting computing...");

    // A computing worker whose stake cannot be raised goes on computing.
    let mut observed = computing();
    let chain = Arc::make_mut(observed.chain.as_mut().unwrap());
    chain.session.as_mut().unwrap().stake = Some(STAKE - 1);
    observed.troubles.chain = trouble(4, false);
    assert_eq!(decided(&observed), (Action::Wait, State::Active, "it hurts".into()));

    // Trouble of an operation that nobody wants any more is not shown.
    let mut observed = computing();
    observed.troubles.chain = trouble(4, false);
    assert_eq!(decided(&observed), (Action::Wait, State::Active, "Computing".into()));
}

#[test]
fn messages_that_fail_wait_and_are_shown() {
    let mut observed = computing();
    observed.unsent_messages = true;
    assert_eq!(decided(&observed).0, Action::Relay);
    observed.troubles.relay = trouble(2, false);
    assert_eq!(decided(&observed), (Action::Wait, State::Active, "it hurts".into()));
}

#[test]
fn a_few_failed_batches_are_a_hitch_and_more_an_error() {
    let mut observed = computing();
    observed.step = headers();
    observed.troubles.sync = trouble(2, false);
    assert_eq!(decided(&observed), (Action::Wait, State::Active, "it hurts".into()));
    observed.troubles.sync = trouble(3, true);
    assert_eq!(decided(&observed), (Action::Sync(headers()), State::Error, "it hurts".into()));
    let mut observed = computing();
    observed.step = headers();
    observed.troubles.connection = trouble(1, false);
    assert_eq!(decided(&observed), (Action::Wait, State::Active, "it hurts".into()));
    observed.troubles.connection = trouble(1, true);
    assert_eq!(decided(&observed).0, Action::Observe);
}

#[test]
fn a_fresh_attestation_is_registered_when_asked_for() {
    let mut observed = computing();
    observed.refresh_ra = true;
    assert_eq!(decided(&observed).0, Action::Operate(Operation::Register));
    assert_eq!(decided(&observed).1, State::Active);
}

#[test]
fn a_twin_sends_nothing() {
    let mut observed = ready();
    observed.twin = Some("elder".into());
    observed.unsent_messages = true;
    observed.step = headers();
    let (action, state, message) = decided(&observed);
    assert_eq!((action, state), (Action::Sync(headers()), State::Error));
    assert!(message.contains("elder"), "{message}");
}

#[test]
fn a_cooled_worker_is_left_alone_where_so_configured() {
    let mut observed = computing();
    let chain = Arc::make_mut(observed.chain.as_mut().unwrap());
    let session = chain.session.as_mut().unwrap();
    session.state = SessionState::WorkerCoolingDown;
    session.cool_down_start = NOW_SECS - COOL_DOWN_SECS;
    assert_eq!(decided(&observed).0, Action::Operate(Operation::Reclaim));
    let settings = Settings { reclaim_after_cool_down: false, ..Settings::default() };
    let decision = decide(&desired(true, false), &settings, &observed);
    assert_eq!((decision.action, decision.state), (Action::Wait, State::Synched));
}

#[test]
fn a_fleet_wide_sync_only_holds_for_every_worker() {
    let settings = Settings { sync_only: true, ..Settings::default() };
    let decision = decide(&desired(true, false), &settings, &ready());
    assert_eq!((decision.action, decision.state), (Action::Wait, State::Synched));
}

#[test]
fn the_proxied_account_is_the_operator() {
    let mut desired = desired(true, false);
    Arc::make_mut(desired.pool.as_mut().unwrap()).proxied = Some(STRANGER);
    let decision = decide(&desired, &Settings::default(), &ready());
    assert_eq!(decision.action, Action::Operate(Operation::Register), "the signer is not the operator");
    let mut observed = ready();
    let chain = Arc::make_mut(observed.chain.as_mut().unwrap());
    chain.registration.as_mut().unwrap().operator = Some(STRANGER);
    let decision = decide(&desired, &Settings::default(), &observed);
    assert_eq!(decision.action, Action::Operate(Operation::Start(STAKE)));
}

#[test]
fn states_have_their_names_and_numbers() {
    let names: Vec<_> = State::ALL.iter().map(|s| (s.number(), s.as_str())).collect();
    assert_eq!(
        names,
        [
            (0, "S_IDLE"),
            (1, "S_STARTING"),
            (2, "S_SYNCHING"),
            (3, "S_SYNCHED"),
            (4, "S_PRE_ACTIVE"),
            (5, "S_ACTIVE"),
            (6, "S_KICKED"),
            (7, "S_ERROR")
        ]
    );
    for state in State::ALL {
        assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
    }
}
