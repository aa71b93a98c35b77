//! Workers that somebody else runs, and that lie: they cost no fees and disturb no other worker.

use std::sync::Mutex;

use async_trait::async_trait;
use bytes::Bytes;
use prb_core::{
    primitives::Hash,
    pruntime,
    wire::{Message, MessageOrigin, SignedMessage},
};

use super::*;

const HOUR: Duration = Duration::from_secs(3600);

async fn computing(workers: usize) -> Rig {
    let mut rig = Rig::new(workers, 10).await;
    rig.run();
    rig.start();
    rig.until_all(State::Active).await;
    rig
}

fn forged(sender: MessageOrigin, sequence: u64, signature_bytes: usize) -> SignedMessage {
    let message = Message { sender, destination: vec![1], payload: vec![2] };
    SignedMessage { message, sequence, signature: vec![1; signature_bytes] }
}

/// The outcomes of a sender's messages on chain.
fn carried(rig: &Rig, sender: &MessageOrigin) -> Vec<bool> {
    let events = rig.chain.events().into_iter();
    let of_sender = events.filter_map(|event| match event.call {
        Call::SyncOffchainMessage(message) if message.message.sender == *sender => Some(event.result.is_ok()),
        _ => None,
    });
    of_sender.collect()
}

#[tokio::test(start_paused = true)]
async fn messages_with_wrong_signatures_are_not_paid_for() {
    let rig = computing(2).await;
    let [liar, honest] = [0, 1].map(|index| MessageOrigin::Worker(rig.key(index)));
    rig.workers[0].edit(|state| {
        state.egress.push(forged(liar.clone(), 0, 64));
        // In the name of a worker that has messages itself, and of senders whose keys only the chain knows.
        state.egress.push(forged(honest.clone(), 0, 64));
        state.egress.extend((0..3).map(|n| forged(MessageOrigin::Gatekeeper, n, 63)));
        state.info.pending_messages = state.egress.len() as u64;
    });
    rig.until_worker(0, "the forgery", |worker| worker.message.contains("signature of its message 0")).await;
    rig.workers[1].edit(|state| state.push_message(rig.key(1), 0, b"heartbeat"));
    tokio::time::sleep(HOUR).await;
    assert_eq!((carried(&rig, &liar), carried(&rig, &honest)), (vec![], vec![true]));
    let of_gatekeepers = carried(&rig, &MessageOrigin::Gatekeeper);
    assert!(of_gatekeepers.len() <= 9, "sent again and again: {of_gatekeepers:?}");
    // Nor does it keep others from carrying the right ones.
    rig.workers[1].edit(|state| state.push_message_of(MessageOrigin::Gatekeeper, 0, b"of a gatekeeper"));
    rig.until("the gatekeepers' message", |_| carried(&rig, &MessageOrigin::Gatekeeper).contains(&true))
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_answers_with_the_key_of_another_takes_nothing_from_it() {
    let rig = computing(2).await;
    let (key, victim) = (rig.key(0), MessageOrigin::Worker(rig.key(0)));
    // Before and while the victim cannot be reached.
    rig.workers[1].edit(|state| state.info.public_key = Some(hex::encode(key.0)));
    rig.workers[0].set_down(true);
    rig.until_worker(0, "unreachable", |worker| worker.failures > 0).await;
    tokio::time::sleep(BLOCK * 5).await;
    rig.workers[0].set_down(false);
    rig.workers[0].edit(|state| state.push_message(key, 0, b"heartbeat"));
    rig.until_worker(0, "computing", |worker| &*worker.message == "Computing").await;
    rig.until("its heartbeat", |_| !carried(&rig, &victim).is_empty()).await;
    assert_eq!(carried(&rig, &victim), [true]);
    assert_eq!(rig.status(0).state, State::Active);
}

#[tokio::test(start_paused = true)]
async fn a_worker_without_the_message_in_turn_holds_up_no_other() {
    let rig = computing(2).await;
    rig.workers[0].edit(|state| state.push_message_of(MessageOrigin::Gatekeeper, 99, b"later"));
    tokio::time::sleep(BLOCK * 5).await;
    rig.workers[1].edit(|state| state.push_message_of(MessageOrigin::Gatekeeper, 0, b"in turn"));
    rig.until("the message", |_| !carried(&rig, &MessageOrigin::Gatekeeper).is_empty()).await;
    tokio::time::sleep(HOUR).await;
    assert_eq!(carried(&rig, &MessageOrigin::Gatekeeper), [true]);
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_relays_no_more_leaves_messages_to_others() {
    let rig = computing(2).await;
    rig.workers[0].edit(|state| state.push_message_of(MessageOrigin::Gatekeeper, 0, b"first"));
    rig.until("the first message", |_| carried(&rig, &MessageOrigin::Gatekeeper) == [true]).await;
    rig.edit_worker(0, |worker| worker.sync_only = true).await;
    rig.until_worker(0, "the edit", |worker| worker.reason.code() == "sync-only").await;
    rig.workers[1].edit(|state| state.push_message_of(MessageOrigin::Gatekeeper, 1, b"second"));
    rig.until("the second message", |_| carried(&rig, &MessageOrigin::Gatekeeper).len() == 2).await;
    tokio::time::sleep(HOUR).await;
    assert_eq!(carried(&rig, &MessageOrigin::Gatekeeper), [true, true]);
}

#[tokio::test(start_paused = true)]
async fn a_worker_whose_operator_cannot_pay_holds_up_no_other() {
    let other = PoolId(2);
    let mut rig = Rig::new(1, 10).await;
    rig.put_pool(other, true).await;
    rig.add_worker(other).await;
    rig.run();
    rig.start();
    rig.until_all(State::Active).await;
    for _ in 0..1000 {
        rig.chain.inject(account(POOL), chain_memory::Fault::Lost);
    }
    rig.workers[0].edit(|state| state.push_message_of(MessageOrigin::Gatekeeper, 0, b"not paid for"));
    rig.until_worker(0, "the failure", |worker| worker.message.contains("messages do not reach")).await;
    rig.workers[1].edit(|state| state.push_message_of(MessageOrigin::Gatekeeper, 0, b"paid for"));
    rig.until("the message", |_| carried(&rig, &MessageOrigin::Gatekeeper) == [true]).await;
}

#[tokio::test(start_paused = true)]
async fn messages_whose_job_takes_long_are_not_sent_by_another_worker_too() {
    let other = PoolId(2);
    let mut rig = Rig::new(1, 10).await;
    rig.put_pool(other, true).await;
    rig.add_worker(other).await;
    rig.run();
    rig.start();
    rig.until_all(State::Active).await;
    rig.stop_trading().await;
    rig.workers[0].edit(|state| state.push_message_of(MessageOrigin::Gatekeeper, 0, b"message"));
    rig.until_worker(0, "the job", |worker| worker.in_flight.is_some()).await;
    rig.workers[1].edit(|state| state.push_message_of(MessageOrigin::Gatekeeper, 0, b"message"));
    tokio::time::sleep(HOUR / 4).await;
    rig.trade();
    rig.until("the message", |_| !carried(&rig, &MessageOrigin::Gatekeeper).is_empty()).await;
    tokio::time::sleep(HOUR).await;
    assert_eq!(carried(&rig, &MessageOrigin::Gatekeeper), [true]);
}

/// Senders that are followed at once, at most.
const SENDERS: u8 = 64;

fn contract(id: u8) -> MessageOrigin {
    MessageOrigin::Contract(Hash([id; 32]))
}

/// Adds a message of each contract.
fn push_of_contracts(worker: &ScriptedWorker, ids: std::ops::Range<u8>, sequence: u64) {
    worker.edit(|state| ids.for_each(|id| state.push_message_of(contract(id), sequence, b"of a contract")));
}

#[tokio::test(start_paused = true)]
async fn messages_of_many_senders_do_not_hold_up_heartbeats() {
    let mut rig = Rig::new(1, 10).await;
    rig.run();
    let own = MessageOrigin::Worker(rig.key(0));
    // Not those in turn, so that they stay.
    push_of_contracts(&rig.workers[0], 0..SENDERS + 6, 1);
    rig.workers[0].edit(|state| state.push_message(rig.key(0), 0, b"heartbeat"));
    rig.start();
    rig.until("the heartbeat", |_| carried(&rig, &own) == [true]).await;
}

#[tokio::test(start_paused = true)]
async fn senders_without_messages_make_room_for_others() {
    let rig = computing(1).await;
    let all_of = |ids: std::ops::Range<u8>| ids.map(contract).all(|sender| carried(&rig, &sender) == [true]);
    push_of_contracts(&rig.workers[0], 0..SENDERS - 1, 0);
    rig.until("the messages", |_| all_of(0..SENDERS - 1)).await;
    tokio::time::sleep(BLOCK * 5).await;
    push_of_contracts(&rig.workers[0], SENDERS..SENDERS + 6, 0);
    rig.until("those of others", |_| all_of(SENDERS..SENDERS + 6)).await;
}

/// A machine on which another pRuntime runs whenever it likes.
#[derive(Clone, Debug)]
struct Rotating(Arc<Mutex<ScriptedWorker>>);

impl Rotating {
    fn now(&self) -> ScriptedWorker {
        self.0.lock().unwrap().clone()
    }
}

#[async_trait]
impl PRuntimeClient for Rotating {
    async fn call(&self, method: Method, body: Bytes) -> Result<Bytes, pruntime::Error> {
        self.now().call(method, body).await
    }

    async fn kick(&self) -> Result<(), pruntime::Error> {
        self.now().kick().await
    }
}

impl Connect for Rotating {
    fn connect(&self, _: &str) -> Result<Arc<dyn PRuntimeClient>, ConnectError> {
        Ok(Arc::new(self.clone()))
    }
}

/// Each registration costs a fee, and a new key needs one.
#[tokio::test(start_paused = true)]
async fn a_worker_with_ever_new_keys_registers_few_of_them() {
    let config = chain_memory::Config::default().with_benchmark_blocks(50);
    let mut rig = Rig::with(config, 1, 10).await;
    rig.run();
    let machine = Rotating(Arc::new(Mutex::new(rig.workers[0].clone())));
    let mut parts = rig.parts(rig.source.clone());
    parts.connect = Arc::new(machine.clone());
    rig.fleet = Some(fleet::Fleet::start(parts, Rig::config()));
    let registered = |rig: &Rig| {
        let events = rig.chain.events();
        events.iter().filter(|event| matches!(event.call, Call::RegisterWorker { .. })).count()
    };
    // Before the benchmark of any of them ends, so that there never is a stake to lose.
    for seed in 0..60 {
        let next = ScriptedWorker::new(5000 + seed);
        rig.adopt(&next);
        *machine.0.lock().unwrap() = next;
        tokio::time::sleep(BLOCK * 10).await;
    }
    assert_eq!(registered(&rig), 4);
    rig.until_worker(0, "the reason", |worker| worker.message.contains("other keys")).await;
    // The last key is registered by the operator's word, or by time.
    rig.fleet().command(rig.ids[0], Command::Start).unwrap();
    rig.until("its registration", |_| registered(&rig) == 5).await;
}

/// Another manager has the same worker, and registers it with its own operator whenever ours has.
#[tokio::test(start_paused = true)]
async fn a_worker_that_two_managers_want_is_not_registered_in_turn_for_ever() {
    let rig = computing(1).await;
    let registered = |rig: &Rig| {
        let events = rig.chain.events();
        events.iter().filter(|event| matches!(event.call, Call::RegisterWorker { .. })).count()
    };
    let (key, before) = (rig.key(0), registered(&rig));
    for _ in 0..20 {
        let mut theirs = rig.chain.worker(key).registration.unwrap();
        theirs.operator = Some(account(PoolId(2)));
        theirs.last_updated += 1;
        rig.chain.set_registration(key, Some(theirs));
        tokio::time::sleep(BLOCK * 10).await;
    }
    assert_eq!(registered(&rig) - before, 2);
    let other = account(PoolId(2)).address().to_string();
    let told = |worker: &prb_core::fleet::WorkerStatus| {
        worker.message.contains(&other) && worker.state == State::Active
    };
    rig.until_worker(0, "the reason", told).await;
    // It registers again on the operator's command, or after some time.
    rig.fleet().command(rig.ids[0], Command::Start).unwrap();
    rig.until("its registration", |_| registered(&rig) - before == 3).await;
    rig.until_worker(0, "computing", |worker| worker.reason.code() == "computing").await;
}
