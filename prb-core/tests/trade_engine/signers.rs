//! Keys that cannot be had for a while: jobs wait, and none of their retries is used up.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use prb_core::{
    primitives::AccountId,
    queue::{CallOutcome, JobQueue, JobSigner},
    signer::{
        Error, SIGNATURE_BYTES, Signer, Signers,
        memory::{MemorySigner, MemorySigners},
    },
    trade::{Config, Parts, Trader, accounts::MemoryAccounts},
    vault::{self, Sealed, Vault, memory::MemoryVault},
};
use secrecy::SecretString;
use tokio::time::{Instant, sleep};

use crate::rig::{ALICE, Rig, account, ms};

/// Fails as often as is left.
#[derive(Debug, Default)]
struct Failures(AtomicU32);

impl Failures {
    fn next(&self) -> bool {
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1)).is_ok()
    }
}

/// A vault whose key management service is away.
#[derive(Debug)]
struct AwayVault(Arc<MemoryVault>, Failures);

#[async_trait]
impl Vault for AwayVault {
    async fn seal(&self, secret: &SecretString) -> Result<Sealed, vault::Error> {
        self.0.seal(secret).await
    }

    async fn open(&self, sealed: &Sealed) -> Result<SecretString, vault::Error> {
        if self.1.next() {
            return Err(vault::Error::Unavailable("the service is away".into()));
        }
        self.0.open(sealed).await
    }
}

/// A key that stays in its service, which is away now and then.
#[derive(Debug)]
struct Remote(Failures);

#[derive(Debug)]
struct Remotes(Arc<Remote>);

#[async_trait]
impl Signers for Remotes {
    async fn signer(&self, of: &JobSigner) -> Result<Arc<dyn Signer>, Error> {
        assert_eq!(of.operator, account(ALICE));
        Ok(self.0.clone())
    }
}

#[async_trait]
impl Signer for Remote {
    fn account(&self) -> AccountId {
        account(ALICE)
    }

    async fn sign(&self, payload: &[u8]) -> Result<[u8; SIGNATURE_BYTES], Error> {
        if self.0.next() {
            return Err(Error::Unavailable { account: self.account(), source: "away".into() });
        }
        MemorySigner::new(ALICE).sign(payload).await
    }
}

async fn waits_for(signers: impl FnOnce(&Rig) -> Arc<dyn Signers>, expected: &str) {
    let mut rig = Rig::new().await;
    let parts = Parts { signers: signers(&rig), ..rig.parts() };
    let trader = Trader::start(Config::default(), parts).unwrap();
    let start = Instant::now();
    let handles = vec![rig.submit(1, 1, 0).await, rig.submit(1, 2, 0).await];
    sleep(ms(1_200)).await;
    let lane = trader.status().borrow().lanes[&account(ALICE)].clone();
    let error = lane.last_error.expect("the lane shows why it waits");
    assert!(error.contains(expected), "{error}");
    let stats = rig.queue.stats().await.unwrap();
    assert_eq!((stats.active, stats.failed), (2, 0), "the jobs stay with the trader");
    rig.all_done(handles).await;
    // 1, 2, 4, 8 s, less a jitter of up to a half.
    assert!((ms(7_500)..ms(20_000)).contains(&start.elapsed()), "{:?}", start.elapsed());
    assert_eq!(rig.refused(), []);
    let lane = trader.status().borrow().lanes[&account(ALICE)].clone();
    assert_eq!(lane.last_error, None);
}

#[tokio::test(start_paused = true)]
async fn jobs_wait_for_a_vault_that_is_away() {
    let signers = |rig: &Rig| {
        let vault = AwayVault(rig.vault.clone(), Failures(AtomicU32::new(4)));
        Arc::new(MemorySigners::new(Arc::new(vault))) as Arc<dyn Signers>
    };
    waits_for(signers, "the vault is unavailable: the service is away").await;
}

#[tokio::test(start_paused = true)]
async fn jobs_wait_for_a_key_that_is_away() {
    let signers =
        |_: &Rig| Arc::new(Remotes(Arc::new(Remote(Failures(AtomicU32::new(4)))))) as Arc<dyn Signers>;
    waits_for(signers, "the transaction was not signed").await;
}

/// Says that it is another account's.
#[derive(Debug)]
struct Another;

#[async_trait]
impl Signers for Another {
    async fn signer(&self, _of: &JobSigner) -> Result<Arc<dyn Signer>, Error> {
        Ok(Arc::new(MemorySigner::new("//Bob")))
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_sent_for_another_account() {
    let mut rig = Rig::new().await;
    let _trader =
        Trader::start(Config::default(), Parts { signers: Arc::new(Another), ..rig.parts() }).unwrap();
    let handle = rig.submit(1, 1, 9).await;
    let outcome = rig.outcomes(vec![handle]).await.remove(0);
    assert!(outcome.unwrap_err().message.contains("another account"));
    assert!(rig.chain.events().is_empty());
}

#[tokio::test(start_paused = true)]
async fn hanging_signer_times_out_and_is_retried() {
    #[derive(Debug)]
    struct Hangs(MemorySigners, Failures);

    #[async_trait]
    impl Signers for Hangs {
        async fn signer(&self, of: &JobSigner) -> Result<Arc<dyn Signer>, Error> {
            if self.1.next() {
                std::future::pending::<()>().await;
            }
            self.0.signer(of).await
        }
    }

    let mut rig = Rig::new().await;
    let signers = Hangs(MemorySigners::new(rig.vault.clone()), Failures(AtomicU32::new(1)));
    let _trader =
        Trader::start(Config::default(), Parts { signers: Arc::new(signers), ..rig.parts() }).unwrap();
    let handle = rig.submit(1, 1, 0).await;
    let start = Instant::now();
    assert_eq!(rig.outcomes(vec![handle]).await, [Ok(vec![CallOutcome::Done])]);
    assert!(start.elapsed() < Duration::from_secs(40), "{:?}", start.elapsed());
}

/// Two lifecycle managers with different identities share a queue, each with its own trader.
#[tokio::test(start_paused = true)]
async fn jobs_whose_key_a_trader_cannot_open_are_left_to_another() {
    let mut rig = Rig::new().await;
    let other = || Arc::new(MemorySigners::new(Arc::new(MemoryVault::new()))) as Arc<dyn Signers>;
    let accounts = MemoryAccounts::default();
    let start = |signers: Arc<dyn Signers>| {
        let accounts = Arc::new(accounts.for_other_trader());
        Trader::start(Config::default(), Parts { signers, accounts, ..rig.parts() }).unwrap()
    };
    let wrong = start(other());
    let right = start(rig.parts().signers);
    let mut handles = Vec::new();
    for worker in 1..=20 {
        handles.push(rig.submit(worker, 2, 0).await);
        sleep(ms(100)).await;
    }
    rig.all_done(handles).await;
    assert_eq!(rig.refused(), []);
    assert_eq!(wrong.status().borrow().jobs_failed, 0);
    assert!(right.stop(ms(1_000)).await.is_ok());

    // Alone, it says what is missing once others, such as one that is started again, have had a minute.
    let handle = rig.submit(1, 1, 0).await;
    let start = Instant::now();
    let error = rig.outcomes(vec![handle]).await.remove(0).unwrap_err();
    assert!(
        error.message.contains("sealed with another key") && error.message.contains("a copy of the identity"),
        "{error:?}"
    );
    let minute = Duration::from_secs(50)..Duration::from_secs(90);
    assert!(minute.contains(&start.elapsed()), "{:?}", start.elapsed());
}
