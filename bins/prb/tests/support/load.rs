//! Hundreds of jobs: simulated workers whose chain state is real. Each has a submitter that submits its jobs
//! one by one, receives their outcomes, and checks the chain before submitting again.
#![allow(clippy::unwrap_used, dead_code, unreachable_pub)]

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use codec::{Decode, Encode};
use prb_core::{
    chain::Call,
    primitives::{AccountId, Hash, PoolId, WorkerKey},
    queue::{CallOutcome, Job, JobQueue, JobSigner},
    vault::Vault,
    wire::{Message, MessageOrigin, SignedMessage, WorkerRegistrationInfoV2},
};
use prb_devnet::{
    Node,
    runtime::{PHA, para::Operation, types},
    truth,
};
use prb_queue::redis::RedisQueue;
use sp_core::{Pair as _, sr25519};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

use super::Net;

/// Time limit that is long enough even if traders wait repeatedly for the account leases of killed ones.
const LIMIT: Duration = Duration::from_secs(300);
/// Maximum number of failures of one job on chain or in the queue.
const MAX_FAILURES: u32 = 40;
const STAKE: u128 = 1_000 * PHA;
/// The jobs of one worker, in order; messages must arrive in the order of their numbers.
const STEPS: [Step; 8] = [
    Step::Register,
    Step::Message(0),
    Step::Add,
    Step::Start,
    Step::Message(1),
    Step::Message(2),
    Step::Message(3),
    Step::Message(4),
];
/// Number of messages among them.
const MESSAGES: u64 = 5;

#[derive(Clone, Copy, Debug)]
enum Step {
    Register,
    Message(u64),
    Add,
    Start,
}

/// Results received by submitters.
#[derive(Debug, Default)]
pub struct Tally {
    /// Jobs whose effect is on chain.
    pub done: AtomicUsize,
    /// Submissions that the queue accepted.
    pub submitted: AtomicUsize,
    /// Submissions that it refused.
    pub refused: AtomicUsize,
    /// Calls reported as done.
    pub carried_out: AtomicUsize,
    /// Calls reported as already done.
    pub already: AtomicUsize,
    /// Calls that failed on chain.
    pub failed: AtomicUsize,
    /// Jobs without an outcome: lost with Redis, or given up.
    pub gone: AtomicUsize,
}

/// The submitters and their results.
pub struct Load {
    pub jobs: usize,
    pub tally: Arc<Tally>,
    workers: Vec<Arc<Worker>>,
    tasks: JoinSet<Result<(), String>>,
}

struct Worker {
    pair: sr25519::Pair,
    pool: PoolId,
    signer: JobSigner,
    owner: AccountId,
    net: Chain,
}

/// The submitters' view of the chain.
#[derive(Clone)]
struct Chain {
    para: Arc<Node>,
    para_id: u32,
    relay_genesis: Hash,
    time: u64,
}

impl Load {
    /// Starts to submit `jobs`, rounded up to whole workers, spread evenly over the net's pools.
    pub async fn start(net: &Net, queue: &RedisQueue, vault: &dyn Vault, jobs: usize) -> Self {
        let pools = net.devnet.pools();
        let chain = Chain {
            para: net.devnet.para().clone(),
            para_id: net.devnet.para_id(),
            relay_genesis: Hash(net.devnet.relay().block_hash(1).unwrap().0),
            time: net.devnet.timestamp(1),
        };
        let mut signers = Vec::new();
        for pool in pools {
            let operator = AccountId(pool.operator.clone().into());
            let key = vault.seal(&pool.mnemonic.clone().into()).await.unwrap();
            signers.push(JobSigner { operator, key, proxied: None });
        }
        let worker = |index: usize| {
            let place = index % pools.len();
            // Derived from the number, so that a failure names the same worker in every run.
            let seed = sp_crypto_hashing::blake2_256(&("load", index as u64).encode());
            Arc::new(Worker {
                pair: sr25519::Pair::from_seed(&seed),
                pool: PoolId(pools[place].pid),
                signer: signers[place].clone(),
                owner: AccountId(pools[place].owner.clone().into()),
                net: chain.clone(),
            })
        };
        let workers: Vec<_> = (0..jobs.div_ceil(STEPS.len())).map(worker).collect();
        let tally = Arc::new(Tally::default());
        let mut tasks = JoinSet::new();
        for worker in &workers {
            let (worker, queue, tally) = (worker.clone(), queue.clone(), tally.clone());
            tasks.spawn(async move {
                for step in STEPS {
                    worker.carry_out(step, &queue, &tally).await?;
                    tally.done.fetch_add(1, Relaxed);
                }
                Ok(())
            });
        }
        Self { jobs: workers.len() * STEPS.len(), tally, workers, tasks }
    }

    /// Returns the number of jobs whose effect is on chain, as known to their submitters.
    pub fn done(&self) -> usize {
        self.tally.done.load(Relaxed)
    }

    /// Waits until this many are done, or all submitters have returned.
    pub async fn until_done(&mut self, count: usize) -> Result<(), String> {
        let tally = self.tally.clone();
        let waiting = async {
            while self.done() < count {
                tokio::select! {
                    () = sleep(Duration::from_millis(20)) => {}
                    ended = self.tasks.join_next() => match ended {
                        Some(result) => result.map_err(|e| e.to_string())??,
                        None => return Ok(()),
                    },
                }
            }
            Ok(())
        };
        timeout(LIMIT, waiting).await.unwrap_or_else(|_| {
            Err(format!("{} jobs are done after {LIMIT:?} more, not {count}", tally.done.load(Relaxed)))
        })
    }

    /// Waits for all submitters.
    pub async fn returned(&mut self) -> Result<(), String> {
        self.until_done(self.jobs).await?;
        while let Some(result) = self.tasks.join_next().await {
            result.map_err(|e| e.to_string())??;
        }
        Ok(())
    }

    /// Checks the events of all final blocks: each effect is there exactly once.
    pub fn check_events(&self, para: &Node) -> Result<(), String> {
        let mut counts = HashMap::<Vec<u8>, u32>::new();
        for (_, operation) in truth::operations(para).unwrap() {
            let what = match operation {
                Operation::Registered(worker) => ("registered", worker.0, 0),
                Operation::Added(worker) => ("added", worker.0, 0),
                Operation::Started(worker) => ("started", worker.0, 0),
                Operation::Restarted(worker) => ("restarted", worker.0, 0),
                Operation::Stopped(worker) => ("stopped", worker.0, 0),
                Operation::Delivered { sender: types::MessageOrigin::Worker(worker), sequence } => {
                    ("delivered", worker.0, sequence)
                }
                Operation::Delivered { .. } => continue,
            };
            *counts.entry(what.encode()).or_default() += 1;
        }
        for worker in &self.workers {
            let key = worker.pair.public().0;
            let count = |what: &str, sequence: u64| {
                counts.get(&(what, key, sequence).encode()).copied().unwrap_or_default()
            };
            let others = ["registered", "added", "started", "restarted", "stopped"];
            let others = others.map(|what| count(what, 0));
            let delivered: Vec<_> = (0..=MESSAGES).map(|sequence| count("delivered", sequence)).collect();
            let mut once = vec![1; MESSAGES as usize];
            once.push(0);
            if others != [1, 1, 1, 0, 0] || delivered != once {
                let who = format!("worker {} of pool {}", hex(&key), worker.pool);
                return Err(format!(
                    "{who}: registered, added, started, restarted, stopped {others:?}, messages {delivered:?}"
                ));
            }
        }
        Ok(())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Worker {
    /// Submits until the step's effect is on chain.
    async fn carry_out(&self, step: Step, queue: &RedisQueue, tally: &Tally) -> Result<(), String> {
        let subject = format!("{step:?} of {} in pool {}", hex(&self.pair.public().0), self.pool);
        let mut said = Vec::new();
        // The chain decides, not the outcome, which a submitter may not receive (Redis is killed in these
        // tests).
        while !self.is_done(step) {
            if said.len() > MAX_FAILURES as usize {
                return Err(format!("{subject} does not come about: {said:?}"));
            }
            let handle = match timeout(LIMIT, queue.submit(self.job(step))).await {
                Ok(Ok(handle)) => handle,
                Ok(Err(e)) if e.is_retryable() => {
                    tally.refused.fetch_add(1, Relaxed);
                    said.push(e.to_string());
                    sleep(Duration::from_millis(200)).await;
                    continue;
                }
                Ok(Err(e)) => return Err(format!("{subject} was refused: {e}")),
                Err(_) => return Err(format!("{subject} has waited for {LIMIT:?} to be taken; {said:?}")),
            };
            tally.submitted.fetch_add(1, Relaxed);
            let id = handle.id;
            let outcome = timeout(LIMIT, handle.outcome()).await.map_err(|_| {
                format!("{subject}: the submitter of job {id} learned nothing in {LIMIT:?}; before: {said:?}")
            })?;
            match outcome.as_ref().map(|outcome| outcome.calls.as_slice()) {
                Ok([CallOutcome::Done]) => {
                    tally.carried_out.fetch_add(1, Relaxed);
                    self.check(step, || format!("{subject}, job {id}: said to be carried out"))?;
                }
                Ok([CallOutcome::AlreadyDone]) => {
                    tally.already.fetch_add(1, Relaxed);
                    self.check(step, || format!("{subject}, job {id}: said to be on chain already"))?;
                }
                Ok([CallOutcome::Failed(name)]) => {
                    tally.failed.fetch_add(1, Relaxed);
                    said.push(name.clone());
                }
                Ok(calls) => return Err(format!("{subject}, job {id}: not one outcome but {calls:?}")),
                Err(failure) => {
                    tally.gone.fetch_add(1, Relaxed);
                    said.push(failure.message.clone());
                }
            }
        }
        Ok(())
    }

    fn check(&self, step: Step, what: impl FnOnce() -> String) -> Result<(), String> {
        if self.is_done(step) { Ok(()) } else { Err(format!("{}, but it is not", what())) }
    }

    fn job(&self, step: Step) -> Job {
        let worker = WorkerKey(self.pair.public().0);
        let (call, retries) = match step {
            Step::Register => (self.register(), 3),
            Step::Message(sequence) => (self.message(sequence), 0),
            Step::Add => (Call::AddWorker { pool: self.pool, worker }, 3),
            Step::Start => (Call::StartComputing { pool: self.pool, worker, stake: STAKE }, 3),
        };
        Job { pool: self.pool, signer: self.signer.clone(), calls: vec![call], retries }
    }

    fn register(&self) -> Call {
        let worker = WorkerKey(self.pair.public().0);
        let info = WorkerRegistrationInfoV2 {
            version: 1,
            machine_id: vec![7; 16],
            pubkey: worker,
            ecdh_pubkey: [9; 32],
            genesis_block_hash: self.net.relay_genesis,
            features: vec![4, 1],
            operator: Some(self.owner),
            para_id: self.net.para_id,
            max_consensus_version: 0,
        };
        let attestation = None::<()>.encode();
        Call::RegisterWorker { worker, runtime_info: info.encode(), attestation, replaces: None }
    }

    /// The first message scores it.
    fn message(&self, sequence: u64) -> Call {
        let report = types::RegistryEvent::BenchReport { start_time: self.net.time, iterations: 1 << 40 };
        let message = Message {
            sender: self.origin(),
            destination: types::REGISTRY_EVENT_TOPIC.to_vec(),
            payload: report.encode(),
        };
        let signature = self.pair.sign(&(&message, sequence).encode()).0.to_vec();
        Call::SyncOffchainMessage(SignedMessage { message, sequence, signature })
    }

    fn origin(&self) -> MessageOrigin {
        MessageOrigin::Worker(WorkerKey(self.pair.public().0))
    }

    /// Returns whether the final state shows the step's effect.
    fn is_done(&self, step: Step) -> bool {
        if let Step::Message(sequence) = step {
            return self.ingress() > sequence;
        }
        let truth = truth::worker(&self.net.para, self.pair.public().0).unwrap();
        match step {
            Step::Register => truth.registered,
            Step::Add => truth.pool == Some(self.pool.0),
            Step::Start => truth.session.is_some_and(types::WorkerState::is_computing),
            Step::Message(_) => unreachable!(),
        }
    }

    /// Returns the sequence of its next message.
    fn ingress(&self) -> u64 {
        use sp_crypto_hashing::{twox_64, twox_128};
        let origin = self.origin().encode();
        let mut key = [twox_128(b"PhalaMq"), twox_128(b"OffchainIngress")].concat();
        key.extend(twox_64(&origin));
        key.extend(origin);
        let para = &self.net.para;
        let value = para.storage(&key, para.block_hash(para.finalized_number()).unwrap()).unwrap();
        value.map_or(0, |value| u64::decode(&mut value.as_slice()).unwrap())
    }
}
