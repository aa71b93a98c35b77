//! Tests a Redis that returns to an older snapshot while a job is in flight, so that it is leased a second time: its call
//! takes effect once. With traders of prb-core, on a chain in memory.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::{sync::Arc, time::Duration};

use codec::Encode;
use prb_core::{
    chain::{Call, memory::MemoryChain},
    primitives::{Hash, PoolId, WorkerKey},
    queue::{CallOutcome, Job, JobId, JobQueue, JobSigner, JobState, admin::Filter, admin::QueueAdmin},
    signer::memory::MemorySigners,
    trade::{self, Trader},
    vault::{Vault, memory::MemoryVault},
    wire::{Message, MessageOrigin, SignedMessage, WorkerRegistrationInfoV2},
};
use prb_queue::redis::{Config, RedisQueue};
use support::{LONG, Server, fresh_name};
use tokio::time::{sleep, timeout};

const PHA: u128 = 1_000_000_000_000;
const POOL: PoolId = PoolId(1);
const WORKER: WorkerKey = WorkerKey([7; 32]);
const OPERATOR: &str = "//Operator";

/// Every call, in an order in which the chain accepts them.
fn calls() -> Vec<Call> {
    let (pool, worker) = (POOL, WORKER);
    let info = WorkerRegistrationInfoV2 {
        version: 1,
        machine_id: vec![],
        pubkey: worker,
        ecdh_pubkey: [0; 32],
        genesis_block_hash: Hash::default(),
        features: vec![],
        operator: Some(MemoryChain::account_of(OPERATOR)),
        para_id: 2004,
        max_consensus_version: 1,
    };
    let (runtime_info, attestation) = (info.encode(), vec![]);
    let message = Message { sender: MessageOrigin::Worker(worker), destination: vec![], payload: vec![] };
    vec![
        Call::RegisterWorker { worker, runtime_info, attestation, replaces: None },
        Call::SyncOffchainMessage(SignedMessage { message, sequence: 0, signature: vec![0; 64] }),
        Call::AddWorker { pool, worker },
        Call::StartComputing { pool, worker, stake: 100 * PHA },
        Call::RestartComputing { pool, worker, stake: 200 * PHA },
        Call::StopComputing { pool, worker },
        Call::ReclaimWorker { pool, worker },
        Call::RemoveWorker { pool, worker },
    ]
}

struct Rig {
    server: Server,
    config: Config,
    chain: MemoryChain,
    vault: Arc<MemoryVault>,
    signer: JobSigner,
}

impl Rig {
    async fn start() -> Self {
        let server = Server::start();
        let config = server.config().with_name(fresh_name()).with_poll_interval(Duration::from_millis(200));
        let (chain, vault) = (MemoryChain::default(), Arc::new(MemoryVault::new()));
        let operator = MemoryChain::account_of(OPERATOR);
        chain.add_pool(POOL, operator, 1_000 * PHA);
        let signer = JobSigner { operator, key: vault.seal(&OPERATOR.into()).await.unwrap(), proxied: None };
        Self { server, config, chain, vault, signer }
    }

    fn trader(&self) -> Trader {
        let queue = RedisQueue::start(self.config.clone()).unwrap();
        let accounts = Arc::new(queue.accounts());
        let signers = Arc::new(MemorySigners::new(self.vault.clone() as Arc<dyn Vault>));
        let submitter = Arc::new(self.chain.clone());
        let parts = trade::Parts { queue: Arc::new(queue), submitter, signers, accounts };
        Trader::start(trade::Config::default(), parts).unwrap()
    }

    /// Has a call carried out by traders whose Redis forgets, once the transaction is sent, that it was leased.
    async fn carry_out(&mut self, call: Call, traders: usize) {
        let submitter = RedisQueue::start(self.config.clone()).unwrap();
        let job = Job { pool: POOL, signer: self.signer.clone(), calls: vec![call.clone()], retries: 3 };
        let handle = submitter.submit(job).await.unwrap();
        assert_eq!(self.server.command::<String>("SAVE").await, "OK");
        let traders: Vec<_> = (0..traders).map(|_| self.trader()).collect();
        let sent = async {
            while self.chain.pending() == 0 {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(LONG, sent).await.expect("nothing was sent");
        self.server.kill();
        self.server.restart();
        until_leased_again(&submitter, handle.id).await;
        let outcome = tokio::select! {
            outcome = timeout(LONG, handle.outcome()) => outcome.expect("a submitter waits forever").unwrap(),
            () = self.chain.run(Duration::from_millis(100)) => unreachable!(),
        };
        let name = call.name();
        assert_eq!(outcome.calls, [CallOutcome::AlreadyDone], "{name}");
        let sent = self.chain.events().into_iter().filter(|event| event.call == call);
        assert_eq!(sent.map(|event| event.result).collect::<Vec<_>>(), [Ok(())], "{name}");
        for trader in traders {
            trader.stop(LONG).await.unwrap();
        }
    }

    async fn carry_out_all(&mut self, traders: usize) {
        for call in calls() {
            if matches!(call, Call::ReclaimWorker { .. }) {
                self.chain.advance(8 * 24 * 3600);
            }
            // For the benchmark's score.
            for _ in 0..3 {
                self.chain.produce_block();
            }
            self.carry_out(call, traders).await;
        }
    }
}

/// Waits until the job, which waits in the snapshot, is leased.
async fn until_leased_again(queue: &RedisQueue, id: JobId) {
    let leased = async {
        loop {
            let filter = Filter::default().with_state(Some(JobState::Active));
            // While the server restarts there is no answer.
            if let Ok(page) = queue.list(filter, 0, 10).await
                && page.jobs.iter().any(|job| job.id == id)
            {
                return;
            }
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(LONG, leased).await.expect("the job was not leased again");
}

#[tokio::test(flavor = "multi_thread")]
async fn job_that_its_trader_leases_again_takes_effect_once() {
    support::log();
    Rig::start().await.carry_out_all(1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn job_that_another_trader_may_lease_takes_effect_once() {
    support::log();
    Rig::start().await.carry_out_all(2).await;
}
