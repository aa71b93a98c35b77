//! The worker's life cycle, driven by the message queue: registration, benchmark, session, heartbeats.

use codec::Decode;
use prb_core::wire::MessageOrigin;
use prb_devnet_runtime::types::{
    HeartbeatChallenge, REGISTRY_EVENT_TOPIC, RegistryEvent, SYSTEM_EVENT_TOPIC, SystemEvent,
    WORKING_REPORT_TOPIC, WorkerEvent, WorkingReportEvent,
};
use sp_core::{Pair, sr25519};

use super::{egress::Egress, trie::BlockFacts};

/// Chain time in which a score counts iterations, in milliseconds.
const SCORE_PERIOD_MS: u64 = 6000;

/// The worker's state, derived from dispatched blocks.
#[derive(Clone)]
pub(crate) struct System {
    pair: sr25519::Pair,
    /// Iterations per [`SCORE_PERIOD_MS`] of chain time.
    score: u64,
    registered: bool,
    now_ms: u64,
    benchmark: Option<Benchmark>,
    session: Option<Session>,
}

#[derive(Clone, Debug)]
struct Benchmark {
    start_block: u32,
    start_ms: u64,
    duration: u32,
}

#[derive(Clone, Debug)]
struct Session {
    id: u32,
    start_ms: u64,
}

impl System {
    pub(crate) fn new(pair: sr25519::Pair, score: u64) -> Self {
        Self { pair, score, registered: false, now_ms: 0, benchmark: None, session: None }
    }

    pub(crate) fn registered(&self) -> bool {
        self.registered
    }

    /// Time of the last dispatched block, ms since the Unix epoch.
    pub(crate) fn now_ms(&self) -> u64 {
        self.now_ms
    }

    /// Applies a dispatched block and answers its events for this worker.
    pub(crate) fn process(&mut self, number: u32, facts: &BlockFacts, egress: &mut Egress) {
        self.now_ms = facts.now_ms;
        for message in &facts.messages {
            // Only the chain itself may send on this topic; messages of workers pass here as well.
            if !matches!(message.sender, MessageOrigin::Pallet(_))
                || message.destination != SYSTEM_EVENT_TOPIC
            {
                continue;
            }
            match SystemEvent::decode(&mut &*message.payload) {
                Ok(SystemEvent::WorkerEvent(event)) if event.pubkey == self.pair.public() => {
                    self.on_event(number, &event.event);
                }
                Ok(SystemEvent::HeartbeatChallenge(challenge)) => {
                    self.on_challenge(number, &challenge, egress);
                }
                Ok(SystemEvent::WorkerEvent(_)) => {}
                Err(error) => tracing::warn!(number, %error, "a system event that cannot be decoded"),
            }
        }
        self.report_benchmark(number, egress);
    }

    fn on_event(&mut self, number: u32, event: &WorkerEvent) {
        match event {
            WorkerEvent::Registered(_) => self.registered = true,
            WorkerEvent::BenchStart { duration } => {
                let (start_ms, duration) = (self.now_ms, *duration);
                self.benchmark = Some(Benchmark { start_block: number, start_ms, duration });
            }
            WorkerEvent::Started { session_id, .. } => {
                self.session = Some(Session { id: *session_id, start_ms: self.now_ms });
            }
            WorkerEvent::Stopped => self.session = None,
            WorkerEvent::BenchScore(_) | WorkerEvent::EnterUnresponsive | WorkerEvent::ExitUnresponsive => {}
        }
    }

    fn on_challenge(&self, number: u32, challenge: &HeartbeatChallenge, egress: &mut Egress) {
        // Challenges go to all workers, computing or not.
        let Some(session) = &self.session else { return };
        if !challenge.concerns(&self.pair.public()) {
            return;
        }
        let report = WorkingReportEvent::HeartbeatV2 {
            session_id: session.id,
            challenge_block: number,
            challenge_time: self.now_ms,
            iterations: self.iterations_since(session.start_ms),
            n_clusters: 0,
            n_contracts: 0,
        };
        egress.push(&self.pair, WORKING_REPORT_TOPIC, &report);
    }

    fn report_benchmark(&mut self, number: u32, egress: &mut Egress) {
        let has_ended = |bench: &mut Benchmark| number.saturating_sub(bench.start_block) >= bench.duration;
        let Some(bench) = self.benchmark.take_if(has_ended) else { return };
        let iterations = self.iterations_since(bench.start_ms);
        let report = RegistryEvent::BenchReport { start_time: bench.start_ms, iterations };
        egress.push(&self.pair, REGISTRY_EVENT_TOPIC, &report);
    }

    // Chain time, not the machine's: a worker that replays history must do the same as the first time.
    fn iterations_since(&self, start_ms: u64) -> u64 {
        self.now_ms.saturating_sub(start_ms).saturating_mul(self.score) / SCORE_PERIOD_MS
    }
}

impl std::fmt::Debug for System {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("System")
            .field("registered", &self.registered)
            .field("benchmark", &self.benchmark)
            .field("session", &self.session)
            .finish_non_exhaustive()
    }
}
