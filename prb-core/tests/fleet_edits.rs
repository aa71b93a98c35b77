//! Edits of the inventory while an operation on chain is prepared or waits. On parts in memory, in virtual time.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use codec::DecodeAll;
use prb_core::{
    chain::{
        Call,
        memory::{Event, MemoryChain},
    },
    inventory::{Edit, Inventory, Operator},
    primitives::AccountId,
    prpc::Method,
    pruntime::scripted::Timings,
    vault::Vault,
    wire::{VersionedWorkerEndpoints, WorkerRegistrationInfoV2},
    worker::{Stage, State},
};

#[path = "fleet_rig/rig.rs"]
mod rig;
use rig::{BLOCK, PHA, POOL, Rig};

const SECRET: &str = "//Successor";

async fn until_at(rig: &Rig, operation: &str, stage: Stage) {
    rig.until_worker(0, operation, |w| {
        w.in_flight.is_some_and(|it| it.operation == operation && it.stage == stage)
    })
    .await;
}

/// A rig whose worker attests, to be registered.
async fn registering() -> Rig {
    let mut rig = Rig::new(1, 10).await;
    let mut timings = Timings::default();
    timings.attestation = Duration::from_secs(30);
    rig.workers[0].set_timings(timings);
    rig.run();
    rig.start();
    until_at(&rig, "register", Stage::Preparing).await;
    rig
}

/// The pool's operator is another account from now on, in the inventory and on chain.
async fn replace_operator(rig: &Rig) -> AccountId {
    let account = MemoryChain::account_of(SECRET);
    rig.chain.add_pool(POOL, account, 1_000_000 * PHA);
    let mut pool = (**rig.inventory.snapshots().borrow().pool(POOL).unwrap()).clone();
    let key = rig.vault.seal(&SECRET.to_owned().into()).await.unwrap();
    pool.operator = Some(Operator { account, key });
    rig.inventory.apply(vec![Edit::PutPool(pool)]).await.unwrap();
    account
}

/// Who signed each registration, and the operator that it names.
fn registrations(rig: &Rig) -> Vec<(AccountId, Option<AccountId>)> {
    let registration = |event: Event| match event.call {
        Call::RegisterWorker { runtime_info, .. } => {
            let info = WorkerRegistrationInfoV2::decode_all(&mut &*runtime_info).unwrap();
            Some((event.operator, info.operator))
        }
        _ => None,
    };
    rig.chain.events().into_iter().filter_map(registration).collect()
}

#[tokio::test(start_paused = true)]
async fn a_registration_is_prepared_again_when_its_operator_is_replaced() {
    let rig = registering().await;
    let operator = replace_operator(&rig).await;
    rig.until_all(State::Active).await;
    assert_eq!(registrations(&rig), [(operator, Some(operator))]);
}

/// The endpoints that were announced on chain.
fn announced(rig: &Rig) -> Vec<Vec<String>> {
    let endpoints = |event: Event| match event.call {
        Call::UpdateWorkerEndpoint { payload, .. } => {
            let VersionedWorkerEndpoints::V1(endpoints) = payload.versioned_endpoints;
            Some(endpoints)
        }
        _ => None,
    };
    rig.chain.events().into_iter().filter_map(endpoints).collect()
}

#[tokio::test(start_paused = true)]
async fn only_the_endpoints_of_the_last_edit_are_announced() {
    for stage in [Stage::Preparing, Stage::Queued] {
        let mut rig = Rig::new(1, 10).await;
        rig.run();
        rig.start();
        rig.until_all(State::Active).await;
        rig.workers[0].set_latency(Method::SignEndpointInfo, BLOCK);
        rig.stop_trading().await;
        rig.edit_worker(0, |w| w.endpoints = vec!["https://first".into()]).await;
        until_at(&rig, "announce", stage).await;
        let first = rig.status(0).in_flight.and_then(|it| it.job);
        rig.edit_worker(0, |w| w.endpoints = vec!["https://last".into()]).await;
        rig.until_worker(0, "the last edit", |w| {
            w.in_flight.is_some_and(|it| it.operation == "announce" && it.job.is_some() && it.job != first)
        })
        .await;
        rig.trade();
        rig.until_worker(0, "its effect", |w| {
            w.chain.as_ref().is_some_and(|chain| chain.endpoints == ["https://last"])
        })
        .await;
        tokio::time::sleep(BLOCK * 10).await;
        assert_eq!(announced(&rig), [["https://last"]], "{stage}");
    }
}

/// The entry had the address of a machine that is somebody else's, and the right one does not answer yet.
#[tokio::test(start_paused = true)]
async fn a_machine_that_the_entry_no_longer_names_is_not_registered() {
    let rig = registering().await;
    rig.edit_worker(0, |w| w.endpoint = "http://nobody".into()).await;
    rig.until_all(State::Error).await;
    tokio::time::sleep(BLOCK * 20).await;
    assert_eq!(registrations(&rig), []);
}
