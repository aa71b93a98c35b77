//! Readiness: every reason with its code. `docs/readiness.md` lists the codes with their remedies.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, LazyLock, Mutex, PoisonError},
    time::{Duration, Instant},
};

use prb_core::{
    blob::Heights,
    chain::ChainView,
    fleet::FleetStatus,
    worker::{self, InFlight, State, WorkerStatus},
};
use prb_walkie::blob::remote::{ProviderState, ProviderStatus};
use tokio::sync::watch;

use crate::ops::Reason;

/// Blocks by which a store may lag behind its nodes: one or two batches.
const AT_TIP: u32 = 20;
/// A chain counts as stalled without a new finalised block for this long.
const STALLED_AFTER: Duration = Duration::from_secs(5 * 60);
/// How long workers may wait for data before that counts, because they also wait between two blocks.
const DATA_WITHIN: Duration = Duration::from_secs(30);

/// Declares the codes together with the list of all codes.
macro_rules! codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal,)+) => {
        /// Codes of the reasons why a daemon is not ready. Their meaning never changes.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum Code {
            $($(#[$doc])* $name,)+
        }

        impl Code {
            /// All codes.
            pub const ALL: &'static [Self] = &[$(Self::$name),+];

            /// The code in `/readyz`.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $code,)+
                }
            }
        }
    };
}

codes! {
    /// The daemon is starting.
    Starting = "starting",
    /// No block has been received from the chain nodes yet.
    ChainUnknown = "chain_unknown",
    /// The store is behind the nodes.
    Syncing = "syncing",
    /// A disk with the daemon's files is full.
    DiskFull = "disk_full",
    /// A disk with the daemon's files fails, or does not answer.
    DiskFailing = "disk_failing",
    /// Files that a restart needs were moved or deleted.
    FilesMissing = "files_missing",
    /// The nodes finalise no new blocks.
    ChainStalled = "chain_stalled",
    /// No node of the relay chain answers.
    NoRelayNode = "no_relay_node",
    /// No node of the parachain answers.
    NoParaNode = "no_para_node",
    /// All nodes have pruned required states.
    StatesMissing = "states_missing",
    /// No node offers storage changes.
    StorageChangesMissing = "storage_changes_missing",
    /// All nodes serve another chain.
    OtherChain = "other_chain",
    /// The nodes have different genesis blocks.
    GenesisDisputed = "genesis_disputed",
    /// All nodes were proven to answer wrongly.
    NoTrustedNode = "no_trusted_node",
    /// The parachain's state has not been read yet.
    NoChainView = "no_chain_view",
    /// The parachain node shows an older state of the chain than the fleet has acted on.
    NodeBehind = "node_behind",
    /// No data provider of this chain is connected.
    NoDataProvider = "no_data_provider",
    /// No peer is connected.
    NoPeer = "no_peer",
    /// The trade queue does not answer, or its Redis is unsuitable.
    QueueUnreachable = "queue_unreachable",
    /// More than half of the workers have problems.
    WorkersInTrouble = "workers_in_trouble",
    /// More than half of the workers wait for data that is not available.
    WorkersWithoutData = "workers_without_data",
}

/// Returns what to do about a reason, from the documentation; empty for an unknown code.
pub(crate) fn remedy(code: &str) -> &'static str {
    static REMEDIES: LazyLock<HashMap<&'static str, &'static str>> = LazyLock::new(|| {
        // From the document itself, so that pages and answers agree with it.
        let rows = include_str!("../../../docs/readiness.md").lines();
        rows.filter_map(|row| {
            let (code, cells) = row.strip_prefix("| `")?.strip_suffix(" |")?.split_once("` | ")?;
            Some((code, cells.rsplit_once(" | ")?.1))
        })
        .collect()
    });
    REMEDIES.get(code).copied().unwrap_or_default()
}

/// Whether a store lags behind its nodes. `start_error` is why these have not given the start of the chain.
pub(crate) fn provider(heights: &Heights, start_error: Option<&str>) -> Option<Reason> {
    match (heights.relay, heights.relay_target, heights.para, heights.para_target) {
        (Some(relay), Some(relay_target), Some(para), Some(para_target)) => {
            let para_behind = para_target.0.saturating_sub(para.0);
            let relay_behind = relay_target.0.saturating_sub(relay.0);
            (relay_behind.max(para_behind) > AT_TIP).then(|| {
                let behind = format!("{relay_behind} relay blocks and {para_behind} parachain blocks behind");
                Reason::new(Code::Syncing, behind)
            })
        }
        (Some(_), Some(_), ..) => Some(Reason::new(
            Code::ChainUnknown,
            "no block of the parachain has been received from its nodes yet",
        )),
        _ => {
            let cause = start_error.map(|error| format!(": {error}")).unwrap_or_default();
            let text = format!("no block has been received from the chain nodes yet{cause}");
            Some(Reason::new(Code::ChainUnknown, text))
        }
    }
}

/// Watches that a height grows.
#[derive(Debug, Default)]
pub(crate) struct Growth(Mutex<Option<(u32, Instant)>>);

impl Growth {
    /// Records the current height; returns a reason if it has been the same for too long.
    pub(crate) fn check(&self, chain: &str, height: Option<u32>) -> Option<Reason> {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // An unknown height has its own reason: it is not a chain that stalls.
        let (Some(height), now) = (height, Instant::now()) else { return None };
        match *seen {
            Some((last, since)) if last == height => {
                (now.duration_since(since) >= STALLED_AFTER).then(|| {
                    let minutes = now.duration_since(since).as_secs() / 60;
                    let text = format!(
                        "the {chain} chain has finalised no block after {height} for {minutes} minutes"
                    );
                    Reason::new(Code::ChainStalled, text)
                })
            }
            _ => {
                *seen = Some((height, now));
                None
            }
        }
    }
}

/// Whether the on-chain state has been read.
pub(crate) fn chain_view(views: &watch::Receiver<Option<Arc<ChainView>>>) -> Option<Reason> {
    let missing = views.borrow().is_none();
    missing.then(|| Reason::new(Code::NoChainView, "the parachain's state has not been read yet"))
}

/// Whether the parachain node is behind what the fleet has acted on.
pub(crate) fn node_behind(fleet: &FleetStatus) -> Option<Reason> {
    let behind = fleet.node_behind.filter(|behind| behind.is_lasting)?;
    let text = format!(
        "the parachain node is {} blocks behind what this manager has acted on, so nothing is sent on chain: wait until it \
         has caught up, or add another node to PHALA_CHAIN_ENDPOINT",
        behind.blocks
    );
    Some(Reason::new(Code::NodeBehind, text))
}

/// Whether there are usable data providers.
pub(crate) fn data_providers(usable: usize, untrusted: usize) -> Option<Reason> {
    let text = match untrusted {
        0 => "no data provider of this chain is connected".to_owned(),
        n => format!(
            "no trusted data provider of this chain is connected; {n} untrusted: name them in \
             PRB_DATA_PROVIDERS, or set the same PRB_WALKIE_PSK on both sides"
        ),
    };
    (usable == 0).then(|| Reason::new(Code::NoDataProvider, text))
}

/// Watches that one of the data providers in use can be asked: their peer-to-peer connections may be up although their
/// blob servers are not.
#[derive(Debug, Default)]
pub(crate) struct ProvidersInUse(Mutex<Option<Instant>>);

impl ProvidersInUse {
    /// Returns a reason if none could be asked for a while, or those that can have too little.
    pub(crate) fn check(&self, providers: &[ProviderStatus], heights: &Heights) -> Option<Reason> {
        let mut since = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if providers.iter().any(|provider| provider.state == ProviderState::Ready) {
            *since = None;
            return behind(heights);
        }
        if since.get_or_insert_with(Instant::now).elapsed() < DATA_WITHIN {
            return None;
        }
        const NAMED: usize = 3;
        let named: Vec<_> = providers.iter().take(NAMED).map(unusable).collect();
        let text = match named.is_empty() {
            true => "no data provider is in use: see `prb provider list`".to_owned(),
            false => format!("no blocks can be fetched from any data provider: {}", named.join("; ")),
        };
        Some(Reason::new(Code::NoDataProvider, text))
    }
}

fn unusable(provider: &ProviderStatus) -> String {
    let why = match &provider.state {
        ProviderState::Down { reason } | ProviderState::Suspended { reason, .. } => reason,
        _ => "not connected to its blob server yet",
    };
    format!("{} at {}: {why}", provider.id, provider.address)
}

/// Whether the data providers lag behind this manager's own node.
fn behind(heights: &Heights) -> Option<Reason> {
    let blocks = heights.para_target?.0.saturating_sub(heights.para?.0);
    let text = || {
        format!(
            "the data providers are {blocks} parachain blocks behind this manager's node: see their own readiness"
        )
    };
    (blocks > AT_TIP).then(|| Reason::new(Code::Syncing, text()))
}

/// Whether most workers are healthy.
pub(crate) fn workers(fleet: &FleetStatus) -> Vec<Reason> {
    let running: Vec<_> = fleet.workers.iter().filter(|w| w.runner.is_some()).collect();
    let majority = |fits: &dyn Fn(&WorkerStatus) -> bool| {
        let named: Vec<_> = running.iter().filter(|w| fits(w)).map(|w| &***w).collect();
        // A minority with problems is not a reason: restarting the daemon would not help them, and would stop the others.
        (named.len() * 2 > running.len()).then_some(named)
    };
    let mut reasons = Vec::new();
    if let Some(named) = majority(&in_trouble) {
        let text = format!("{} of {} workers have problems: {}", named.len(), running.len(), causes(&named));
        reasons.push(Reason::new(Code::WorkersInTrouble, text));
    }
    if let Some(named) = majority(&without_data) {
        let first = named.first().map(|w| format!("{}: {}", w.worker.name, w.message)).unwrap_or_default();
        let text = format!("{} of {} workers wait for data; {first}", named.len(), running.len());
        reasons.push(Reason::new(Code::WorkersWithoutData, text));
    }
    reasons
}

/// How long messages may fail, and an operation on chain may take, before a worker needs attention. A batch takes about
/// a minute, and those of a fleet that starts all at once some minutes.
const SENT_WITHIN: Duration = Duration::from_secs(600);

/// Whether a worker is in trouble.
pub(crate) fn in_trouble(worker: &WorkerStatus) -> bool {
    trouble(worker).is_some()
}

/// Returns the trouble of a worker of this process, as a code.
pub(crate) fn trouble(worker: &WorkerStatus) -> Option<&'static str> {
    let reason = worker.reason.code();
    let signs = Signs {
        state: worker.state,
        reason: Some(reason),
        reason_for: Some(worker.message_since.elapsed()),
        is_stalled: worker.stalled,
        is_unresponsive: worker.is_unresponsive(),
        in_flight: worker.in_flight,
    };
    Some(signs.trouble()?.code().unwrap_or(reason))
}

/// Why a worker is in trouble.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// Its session loses value, whatever else it reports.
    Unresponsive,
    /// What its reason says.
    Reason,
    /// It makes no progress although more blocks are available.
    Stalled,
    /// An operation or its messages have not reached the chain for a long time.
    Overdue,
}

impl Trouble {
    /// The code; `None` for that of the reason.
    pub(crate) const fn code(self) -> Option<&'static str> {
        match self {
            Self::Unresponsive => Some("unresponsive"),
            Self::Reason => None,
            Self::Stalled => Some("stalled"),
            Self::Overdue => Some("overdue"),
        }
    }
}

/// What a manager, this process or another one, tells of a worker that may be in trouble.
pub(crate) struct Signs<'a> {
    pub(crate) state: State,
    /// The code of the reason.
    pub(crate) reason: Option<&'a str>,
    /// How long it has been the reason.
    pub(crate) reason_for: Option<Duration>,
    pub(crate) is_stalled: bool,
    pub(crate) is_unresponsive: bool,
    pub(crate) in_flight: Option<InFlight>,
}

impl Signs<'_> {
    /// The only definition of a worker in trouble, whose code stands for what costs most.
    pub(crate) fn trouble(&self) -> Option<Trouble> {
        let lasts = |duration: Option<Duration>| duration.is_some_and(|it| it >= SENT_WITHIN);
        // Compared with the clock, which may be set back: then it counts as recent.
        let waits = self.in_flight.and_then(|in_flight| in_flight.since.elapsed().ok());
        let by_reason = match self.reason {
            Some("score-overdue") => true,
            Some("relay-failing") => lasts(self.reason_for),
            _ => false,
        };
        match () {
            () if self.is_unresponsive => Some(Trouble::Unresponsive),
            () if self.state == State::Error || by_reason => Some(Trouble::Reason),
            () if self.is_stalled => Some(Trouble::Stalled),
            () if lasts(waits) => Some(Trouble::Overdue),
            () => None,
        }
    }
}

fn without_data(worker: &WorkerStatus) -> bool {
    let waits =
        matches!(worker.reason, worker::Reason::AwaitingData { .. } | worker::Reason::AwaitingChainData);
    waits && worker.message_since.elapsed() >= DATA_WITHIN
}

/// Counts the troubles, such as `3 unreachable, 2 stalled`.
fn causes(workers: &[&WorkerStatus]) -> String {
    let mut counts = BTreeMap::<&str, usize>::new();
    for cause in workers.iter().filter_map(|worker| trouble(worker)) {
        *counts.entry(cause).or_default() += 1;
    }
    let parts: Vec<_> = counts.iter().map(|(cause, count)| format!("{count} {cause}")).collect();
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::time::SystemTime;

    use prb_core::{
        inventory::Worker,
        primitives::{ParaNumber, PoolId, RelayNumber},
        worker::{Desired, NodeBehind, Stage},
    };

    use super::*;

    fn code(relay: Option<u32>, target: u32, para: u32, para_target: u32) -> Option<&'static str> {
        let heights = Heights {
            relay: relay.map(RelayNumber),
            para: Some(ParaNumber(para)),
            relay_target: Some(RelayNumber(target)),
            para_target: Some(ParaNumber(para_target)),
        };
        provider(&heights, None).map(|reason| reason.code)
    }

    #[test]
    fn store_is_ready_near_the_tip_of_both_chains() {
        assert_eq!(code(None, 10, 0, 5), Some("chain_unknown"));
        assert_eq!(code(Some(10), 100, 50, 50), Some("syncing"));
        assert_eq!(code(Some(95), 100, 0, 50), Some("syncing"));
        assert_eq!(code(Some(95), 100, 48, 50), None);
        // Short chains: the relay chain is complete before the parachain has begun.
        for (para, para_target) in [(None, None), (None, Some(ParaNumber(50))), (Some(ParaNumber(50)), None)]
        {
            let relay = Some(RelayNumber(95));
            let heights = Heights { relay, relay_target: relay, para, para_target };
            assert_eq!(provider(&heights, None).map(|reason| reason.code), Some("chain_unknown"));
        }
    }

    #[test]
    fn unknown_chain_has_the_error_of_the_start() {
        let reason = provider(&Heights::default(), Some("n:1 serves no parachain")).unwrap();
        assert_eq!(reason.code, "chain_unknown");
        assert!(reason.message.ends_with("yet: n:1 serves no parachain"), "{}", reason.message);
    }

    fn fleet(reasons: &[(State, worker::Reason)]) -> FleetStatus {
        let status = |(state, reason): &(State, worker::Reason)| {
            let worker = Worker::new(uuid::Uuid::nil(), PoolId(1), "w", "http://w", 1);
            let desired = Desired { worker: worker.into(), pool: None };
            let mut status = WorkerStatus::idle(&desired, reason.clone(), SystemTime::now());
            (status.state, status.runner) = (*state, Some(0));
            status.message_since -= DATA_WITHIN;
            Arc::new(status)
        };
        let mut fleet = FleetStatus::default();
        fleet.workers = reasons.iter().map(status).collect();
        fleet
    }

    #[test]
    fn majority_of_workers_with_problems_is_a_reason() {
        let broken = (State::Error, worker::Reason::Unreachable { error: "refused".into() });
        let well = (State::Active, worker::Reason::Computing);
        let codes = |list: &[_]| workers(&fleet(list)).iter().map(|r| r.code).collect::<Vec<_>>();
        assert!(codes(&[]).is_empty());
        assert!(codes(&[broken.clone(), well.clone()]).is_empty());
        assert_eq!(codes(&[broken.clone(), broken.clone(), well]), ["workers_in_trouble"]);
        assert!(
            workers(&fleet(&[broken]))[0].message.contains("1 of 1 workers have problems: 1 unreachable")
        );
        let waits = (State::Synching, worker::Reason::AwaitingData { error: "no header 0".into() });
        assert_eq!(codes(&[waits]), ["workers_without_data"]);
    }

    #[test]
    fn trouble_is_named_by_what_costs_most() {
        let failing = worker::Reason::RelayFailing { error: "refused".into() };
        let short = SENT_WITHIN / 2;
        let of = |reason: &worker::Reason, lasts, stalled, flies: Option<Duration>| {
            let mut status = (*fleet(&[(State::Active, reason.clone())]).workers[0]).clone();
            status.message_since = Instant::now() - lasts;
            status.stalled = stalled;
            status.in_flight = flies.map(|flies| InFlight {
                operation: "start",
                stage: Stage::Preparing,
                since: SystemTime::now() - flies,
                job: None,
            });
            trouble(&status)
        };
        assert_eq!(of(&worker::Reason::ScoreOverdue, short, false, None), Some("score-overdue"));
        assert_eq!(of(&failing, SENT_WITHIN, false, None), Some("relay-failing"));
        assert_eq!(of(&failing, short, false, None), None);
        let computes = worker::Reason::Computing;
        assert_eq!(of(&computes, SENT_WITHIN, false, Some(short)), None);
        assert_eq!(of(&computes, short, false, Some(SENT_WITHIN)), Some("overdue"));
        assert_eq!(of(&computes, short, true, Some(SENT_WITHIN)), Some("stalled"));
    }

    #[test]
    fn node_that_stays_behind_is_a_reason() {
        let mut fleet = fleet(&[(State::Active, worker::Reason::Computing)]);
        assert_eq!(node_behind(&fleet).map(|reason| reason.code), None);
        fleet.node_behind = Some(NodeBehind { blocks: 14, is_lasting: false });
        assert_eq!(node_behind(&fleet).map(|reason| reason.code), None);
        fleet.node_behind = Some(NodeBehind { blocks: 14, is_lasting: true });
        let reason = node_behind(&fleet).unwrap();
        assert_eq!(reason.code, "node_behind");
        assert!(reason.message.contains("is 14 blocks behind"), "{}", reason.message);
    }

    #[test]
    fn providers_behind_the_own_node_are_a_reason() {
        let of = |para, para_target| {
            let number = |n: u32| Some(ParaNumber(n));
            behind(&Heights { para: number(para), para_target: number(para_target), ..Heights::default() })
        };
        assert_eq!(of(100, 120), None);
        let reason = of(100, 121).unwrap();
        assert!(
            reason.code == "syncing" && reason.message.contains("21 parachain blocks"),
            "{}",
            reason.message
        );
        assert_eq!(behind(&Heights::default()), None);
    }

    #[test]
    fn every_code_is_documented_with_its_remedy() {
        let docs = include_str!("../../../docs/readiness.md");
        let listed: Vec<_> = docs
            .lines()
            .filter_map(|line| line.strip_prefix("| `")?.split_once("` | "))
            .map(|(code, rest)| (code, rest.matches(" | ").count()))
            .collect();
        let codes: Vec<_> = Code::ALL.iter().map(|code| (code.as_str(), 2)).collect();
        assert_eq!(listed, codes, "code, of, meaning, remedy");
        assert!(remedy("no_para_node").starts_with("Start the node, or correct `PHALA_CHAIN_ENDPOINT`"));
        // Shown as text: with code spans, but without links.
        let shown = Code::ALL.iter().map(|code| remedy(code.as_str()));
        assert!(shown.clone().all(|remedy| !remedy.is_empty() && !remedy.contains("](")), "{shown:?}");
    }
}
