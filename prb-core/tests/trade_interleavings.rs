//! Random histories of jobs, crashes, lost leases and faults: each effect at most once, an outcome for each
//! submitter.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use prb_core::{
    chain::{
        Call,
        memory::{Fault, MemoryChain},
    },
    primitives::{PoolId, WorkerKey},
    queue::{CallOutcome, Job, JobHandle, JobId, JobQueue, JobSigner, Withdrawal, memory::MemoryQueue},
    signer::memory::MemorySigners,
    trade::{Config, Parts, Trader, accounts::MemoryAccounts},
    vault::{Sealed, Vault, memory::MemoryVault},
    wire::{Message, MessageOrigin, SignedMessage},
};
use proptest::prelude::*;
use tokio::time::{sleep, timeout};

const OPERATORS: [&str; 2] = ["//Alice", "//Bob"];
const WORKERS: u8 = 4;
const RETRIES: u32 = 3;

fn signers(vault: &Arc<MemoryVault>) -> Arc<MemorySigners> {
    Arc::new(MemorySigners::new(vault.clone()))
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// A worker's next messages, or the last ones once more where `again`.
    Submit {
        worker: u8,
        count: u64,
        again: bool,
    },
    /// A submitter does not want a job any more.
    Withdraw {
        job: usize,
    },
    Block,
    Wait {
        ms: u64,
    },
    /// The trader of that slot goes away without a word, and another one starts.
    Crash {
        slot: bool,
    },
    Stop {
        slot: bool,
        within_ms: u64,
    },
    Fault {
        operator: bool,
        fault: Fault,
    },
    Hang {
        operator: bool,
        hung: bool,
    },
    /// The leases of accounts are lost, as those on a server that lost its data.
    Forget,
}

fn step() -> impl Strategy<Value = Step> {
    let fault = prop_oneof![
        Just(Fault::Unavailable),
        Just(Fault::Refused { retryable: true }),
        Just(Fault::Refused { retryable: false }),
        Just(Fault::Lost),
        Just(Fault::UnknownIncluded),
        Just(Fault::UnknownDropped),
    ];
    prop_oneof![
        6 => (0..WORKERS, 1u64..5, prop::bool::weighted(0.2))
            .prop_map(|(worker, count, again)| Step::Submit { worker, count, again }),
        2 => any::<usize>().prop_map(|job| Step::Withdraw { job }),
        4 => Just(Step::Block),
        4 => (0u64..8_000).prop_map(|ms| Step::Wait { ms }),
        1 => any::<bool>().prop_map(|slot| Step::Crash { slot }),
        1 => (any::<bool>(), 0u64..3_000).prop_map(|(slot, within_ms)| Step::Stop { slot, within_ms }),
        2 => (any::<bool>(), fault).prop_map(|(operator, fault)| Step::Fault { operator, fault }),
        1 => (any::<bool>(), any::<bool>()).prop_map(|(operator, hung)| Step::Hang { operator, hung }),
        1 => Just(Step::Forget),
    ]
}

fn message(worker: u8, sequence: u64) -> Call {
    let sender = MessageOrigin::Worker(WorkerKey([worker; 32]));
    let message = Message { sender, destination: vec![], payload: vec![] };
    Call::SyncOffchainMessage(SignedMessage { message, sequence, signature: vec![0; 64] })
}

struct World {
    queue: MemoryQueue,
    chain: MemoryChain,
    vault: Arc<MemoryVault>,
    keys: Vec<Sealed>,
    /// `None` where each trader thinks that it is alone.
    accounts: Option<MemoryAccounts>,
    /// Two on one queue, so that jobs wander between them.
    traders: HashMap<bool, Trader>,
    jobs: Vec<(Job, JobHandle)>,
    /// What was withdrawn before any trader had leased it.
    unsent: Vec<(JobId, Job)>,
    next: HashMap<u8, u64>,
}

impl World {
    async fn new(shared: bool) -> Self {
        let vault = Arc::new(MemoryVault::new());
        let mut keys = Vec::new();
        for secret in OPERATORS {
            keys.push(vault.seal(&secret.into()).await.unwrap());
        }
        let (queue, chain) = (MemoryQueue::default(), MemoryChain::default());
        let (traders, jobs, next) = (HashMap::new(), vec![], HashMap::new());
        let unsent = vec![];
        let accounts = shared.then(MemoryAccounts::default);
        let mut world = Self { queue, chain, vault, keys, accounts, traders, jobs, unsent, next };
        for slot in [false, true] {
            world.start(slot);
        }
        world
    }

    fn start(&mut self, slot: bool) {
        let config = Config::default().with_lease_ttl(Duration::from_secs(5)).with_max_lane_jobs(4);
        let accounts =
            self.accounts.as_ref().map_or_else(MemoryAccounts::default, MemoryAccounts::for_other_trader);
        let parts = Parts {
            queue: Arc::new(self.queue.clone()),
            submitter: Arc::new(self.chain.clone()),
            signers: signers(&self.vault),
            accounts: Arc::new(accounts),
        };
        self.traders.insert(slot, Trader::start(config, parts).unwrap());
    }

    async fn take(&mut self, step: Step) {
        let account = |operator: bool| MemoryChain::account_of(OPERATORS[usize::from(operator)]);
        match step {
            Step::Submit { worker, count, again } => self.submit(worker, count, again).await,
            Step::Withdraw { job } => self.withdraw(job).await,
            Step::Block => drop(self.chain.produce_block()),
            Step::Wait { ms } => sleep(Duration::from_millis(ms)).await,
            Step::Crash { slot } => {
                self.traders.remove(&slot);
                self.start(slot);
            }
            Step::Stop { slot, within_ms } => {
                let trader = self.traders.remove(&slot).unwrap();
                trader.stop(Duration::from_millis(within_ms)).await.unwrap();
                self.start(slot);
            }
            Step::Fault { operator, fault } => self.chain.inject(account(operator), fault),
            Step::Hang { operator, hung } => self.chain.hang(account(operator), hung),
            Step::Forget => self.accounts.iter().for_each(MemoryAccounts::forget_all),
        }
    }

    async fn withdraw(&mut self, job: usize) {
        let Some((job, handle)) = self.jobs.get(job % self.jobs.len().max(1)) else { return };
        if self.queue.withdraw(handle.id).await.unwrap() == Withdrawal::Unsent {
            self.unsent.push((handle.id, job.clone()));
        }
    }

    async fn submit(&mut self, worker: u8, count: u64, again: bool) {
        let next = self.next.entry(worker).or_default();
        let from = if again { next.saturating_sub(count) } else { *next };
        *next = (*next).max(from + count);
        let operator = usize::from(worker % 2);
        let signer = JobSigner {
            operator: MemoryChain::account_of(OPERATORS[operator]),
            key: self.keys[operator].clone(),
            proxied: None,
        };
        let calls = (from..from + count).map(|n| message(worker, n)).collect();
        let job = Job { pool: PoolId(operator as u64), signer, calls, retries: RETRIES };
        let handle = self.queue.submit(job.clone()).await.unwrap();
        self.jobs.push((job, handle));
    }

    /// Lets everything come to rest, and looks at what became of the jobs.
    async fn settle(mut self) {
        for operator in OPERATORS {
            self.chain.hang(MemoryChain::account_of(operator), false);
        }
        let mut told_done = Vec::new();
        let unsent: HashSet<JobId> = self.unsent.iter().map(|(id, _)| *id).collect();
        let others = self.jobs.iter().filter(|(_, handle)| !unsent.contains(&handle.id));
        let of_others: Vec<Call> = others.flat_map(|(job, _)| job.calls.clone()).collect();
        let wanted: Vec<Call> = self.jobs.iter().flat_map(|(job, _)| job.calls.clone()).collect();
        let chain = self.chain.clone();
        let learn = async {
            for (job, handle) in std::mem::take(&mut self.jobs) {
                let result = timeout(Duration::from_secs(7_200), handle.outcome()).await;
                let Ok(outcome) = result.expect("a submitter learned nothing") else { continue };
                assert_eq!(outcome.calls.len(), job.calls.len());
                for (call, outcome) in job.calls.iter().zip(outcome.calls) {
                    if matches!(outcome, CallOutcome::Done | CallOutcome::AlreadyDone) {
                        told_done.push(call.clone());
                    }
                }
            }
        };
        tokio::select! { () = learn => {}, () = chain.run(Duration::from_secs(1)) => unreachable!() }
        let mut done: Vec<Call> = Vec::new();
        let mut in_vain = Vec::new();
        for event in self.chain.events() {
            if event.result.is_ok() {
                assert!(!done.contains(&event.call), "done twice: {:?}", event.call);
                done.push(event.call);
            } else if done.contains(&event.call) {
                in_vain.push(event.call);
            }
        }
        for call in self.unsent.iter().flat_map(|(_, job)| &job.calls) {
            let sent = self.chain.events().iter().any(|event| event.call == *call);
            assert!(!sent || of_others.contains(call), "withdrawn before it was leased, and sent: {call:?}");
        }
        // Nothing forbids another job that wants the same, but no job is sent again once it is done.
        let count = |calls: &[Call], call| calls.iter().filter(|c| *c == call).count();
        for call in &in_vain {
            assert!(count(&in_vain, call) < count(&wanted, call), "sent again, though done: {call:?}");
        }
        for call in told_done {
            assert!(done.contains(&call), "told done, but is not: {call:?}");
        }
        let stats = self.queue.stats().await.unwrap();
        assert_eq!((stats.waiting, stats.delayed, stats.active), (0, 0, 0));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 192, ..ProptestConfig::default() })]

    #[test]
    fn each_effect_at_most_once_and_an_outcome_for_each_submitter(
        shared in any::<bool>(),
        steps in proptest::collection::vec(step(), 1..60),
    ) {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let mut world = World::new(shared).await;
            for step in steps {
                world.take(step).await;
            }
            world.settle().await;
        });
    }
}
