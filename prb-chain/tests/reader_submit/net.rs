//! A devnet driven by the test, with simulated workers instead of a pRuntime.

use std::{sync::Arc, time::Duration};

use codec::{Compact, Decode, DecodeAll, Encode};
use prb_chain::{
    keys::OperatorKey,
    rpc::{self, NodePool},
    submit::{self, Submitter},
};
use prb_core::{
    chain::{BatchOutcome, Call, CallBatch, ChainSubmitter, SubmitError, SubmitProgress},
    primitives::{AccountId, Hash, PoolId, WorkerKey},
    queue::JobSigner,
    signer::{SIGNATURE_BYTES, Signer},
    vault::Vault,
    wire::{
        Attestation, Message, MessageOrigin, SignedMessage, WorkerRegistrationInfo, WorkerRegistrationInfoV2,
    },
};
use prb_devnet::{
    Config, Devnet,
    runtime::{PHA, types},
};
use sp_core::{Pair as _, sr25519};
use tokio::sync::mpsc;

/// Time between two relay blocks.
const TICK: Duration = Duration::from_millis(20);
/// Timeout of a test.
const TIMEOUT: Duration = Duration::from_secs(60);

pub(crate) const MORTALITY: u32 = 32;
pub(crate) const STAKE: u128 = 1_000 * PHA;

pub(crate) struct Net {
    pub(crate) devnet: Devnet,
    pub(crate) pool: NodePool,
}

impl Net {
    pub(crate) async fn start(config: Config) -> Self {
        let devnet = Devnet::start(Config { history: 8, block_ms: 6_000, ..config }).await.unwrap();
        let pool = pool(&devnet);
        Self { devnet, pool }
    }

    /// Runs `work` while blocks are authored.
    pub(crate) async fn ticking<T>(&self, work: impl Future<Output = T>) -> T {
        let mut timer = tokio::time::interval(TICK);
        timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        tokio::pin!(work);
        let ended = async {
            loop {
                tokio::select! {
                    done = &mut work => return done,
                    _ = timer.tick() => self.tick(),
                }
            }
        };
        tokio::time::timeout(TIMEOUT, ended).await.expect("not done in time")
    }

    /// Runs `work` while no block is authored.
    pub(crate) async fn still<T>(&self, work: impl Future<Output = T>) -> T {
        tokio::time::timeout(TIMEOUT, work).await.expect("not done in time")
    }

    pub(crate) fn tick(&self) {
        self.devnet.tick().unwrap();
    }

    /// Authors until the parachain's block of this number is final.
    pub(crate) fn finalise(&self, number: u32) {
        while self.devnet.para().finalized_number() < number {
            self.tick();
        }
    }

    pub(crate) fn submitter(&self) -> Submitter {
        Submitter::new(self.pool.clone(), config()).unwrap()
    }

    /// The operator of a pool, with its open key.
    pub(crate) fn signer(&self, pool: usize) -> Arc<dyn Signer> {
        signer_of(&self.devnet.pools()[pool].mnemonic)
    }

    pub(crate) fn operator(&self, pool: usize) -> AccountId {
        AccountId(self.devnet.pools()[pool].operator.clone().into())
    }

    /// The account that the operator of a pool acts for.
    pub(crate) fn proxied(&self, pool: usize) -> Option<AccountId> {
        let pool = &self.devnet.pools()[pool];
        pool.proxied.then(|| AccountId(pool.owner.clone().into()))
    }

    /// The operator of a pool, with its sealed key.
    pub(crate) async fn job_signer(&self, pool: usize, vault: &dyn Vault) -> JobSigner {
        let key = vault.seal(&self.devnet.pools()[pool].mnemonic.clone().into()).await.unwrap();
        JobSigner { operator: self.operator(pool), key, proxied: None }
    }

    pub(crate) fn batch(&self, calls: impl IntoIterator<Item = Call>) -> CallBatch {
        CallBatch::new(self.signer(0), calls.into_iter().collect()).with_proxied(self.proxied(0))
    }

    /// Submits while blocks are authored.
    pub(crate) async fn send(
        &self,
        submitter: &Submitter,
        batch: &CallBatch,
    ) -> Result<BatchOutcome, SubmitError> {
        let (progress, _) = mpsc::channel(8);
        self.ticking(submitter.submit(batch, progress)).await
    }

    /// Submits calls of pool 0 that must all succeed.
    pub(crate) async fn done(
        &self,
        submitter: &Submitter,
        calls: impl IntoIterator<Item = Call>,
    ) -> BatchOutcome {
        let outcome = self.send(submitter, &self.batch(calls)).await.unwrap();
        assert!(outcome.calls.iter().all(Result::is_ok), "{:?}", outcome.calls);
        outcome
    }

    /// Registers workers and scores them.
    pub(crate) async fn scored(&self, submitter: &Submitter, workers: &[Worker]) {
        self.done(submitter, workers.iter().map(|worker| worker.register(self))).await;
        self.done(submitter, workers.iter().map(|worker| worker.bench_report(self, 0))).await;
    }

    /// Reads a value in the parachain's newest final state, without RPC.
    pub(crate) fn value<T: DecodeAll>(&self, pallet: &str, item: &str, key: &[u8]) -> Option<T> {
        let at = self.devnet.para().finalized_number();
        self.value_at(at, pallet, item, key)
    }

    pub(crate) fn value_at<T: DecodeAll>(
        &self,
        block: u32,
        pallet: &str,
        item: &str,
        key: &[u8],
    ) -> Option<T> {
        use sp_crypto_hashing::{twox_64, twox_128};
        let mut full = [twox_128(pallet.as_bytes()), twox_128(item.as_bytes())].concat();
        if !key.is_empty() {
            full.extend(twox_64(key));
            full.extend(key);
        }
        let node = self.devnet.para();
        let bytes = node.storage(&full, node.block_hash(block).unwrap()).unwrap()?;
        Some(T::decode_all(&mut bytes.as_slice()).unwrap())
    }

    pub(crate) fn ingress(&self, worker: &Worker) -> u64 {
        self.value("PhalaMq", "OffchainIngress", &MessageOrigin::Worker(worker.key()).encode()).unwrap_or(0)
    }

    pub(crate) fn worker_info(&self, worker: &Worker) -> Option<types::WorkerInfoV2> {
        self.value("PhalaRegistry", "Workers", &worker.key().0)
    }

    pub(crate) fn session_info(&self, pool: u64, worker: &Worker) -> Option<types::SessionInfo> {
        let session = types::session_account(pool, &worker.pair.public());
        self.value("PhalaComputation", "Sessions", session.as_ref())
    }

    /// The number of transactions, without inherents, in final blocks.
    pub(crate) fn transactions(&self) -> usize {
        let para = self.devnet.para();
        let all = (1..=para.finalized_number()).map(|n| para.extrinsics(n).unwrap());
        // Signed extrinsics have the highest bit of their version byte set.
        all.flatten().filter(|xt| is_signed(xt)).count()
    }

    pub(crate) async fn stop(self) {
        self.devnet.shutdown().await;
    }
}

/// A signer that claims an account whose key it does not have.
#[derive(Debug)]
pub(crate) struct Claiming(pub(crate) AccountId, pub(crate) Arc<dyn Signer>);

#[async_trait::async_trait]
impl Signer for Claiming {
    fn account(&self) -> AccountId {
        self.0
    }

    async fn sign(&self, payload: &[u8]) -> Result<[u8; SIGNATURE_BYTES], prb_core::signer::Error> {
        self.1.sign(payload).await
    }
}

/// The signer of a secret, or of a path of Substrate's development phrase.
pub(crate) fn signer_of(secret: &str) -> Arc<dyn Signer> {
    const PHRASE: &str = "bottom drive obey lake curtain smoke basket hold race lonely fit walk";
    let phrase = if secret.starts_with('/') { PHRASE } else { "" };
    Arc::new(OperatorKey::from_secret(&format!("{phrase}{secret}").into()).unwrap())
}

pub(crate) fn is_signed(extrinsic: &[u8]) -> bool {
    let mut input = extrinsic;
    Compact::<u32>::decode(&mut input).unwrap();
    input[0] & 0x80 != 0
}

pub(crate) fn pool(devnet: &Devnet) -> NodePool {
    pool_of([devnet.para().url()])
}

pub(crate) fn pool_of(endpoints: impl IntoIterator<Item = String>) -> NodePool {
    let config = rpc::Config::new(endpoints)
        .with_request_timeout(Duration::from_secs(5))
        .with_reconnect_min(Duration::from_millis(20))
        .with_reconnect_max(Duration::from_millis(100))
        .with_poll_interval(Duration::from_millis(200));
    NodePool::new("para", config).unwrap()
}

pub(crate) fn config() -> submit::Config {
    submit::Config::default()
        .with_mortality_blocks(MORTALITY)
        .with_poll_interval(Duration::from_millis(30))
        .with_watch_timeout(Duration::from_millis(400))
        .with_unavailable_after(Duration::from_millis(1_500))
        .with_unknown_after(Duration::from_secs(3))
}

/// A simulated worker that sends what a real one would.
pub(crate) struct Worker {
    pub(crate) pair: sr25519::Pair,
}

impl Worker {
    pub(crate) fn new(seed: u32) -> Self {
        let seed = sp_crypto_hashing::blake2_256(&("worker", seed).encode());
        Self { pair: sr25519::Pair::from_seed(&seed) }
    }

    pub(crate) fn several(n: u32) -> Vec<Self> {
        (0..n).map(Self::new).collect()
    }

    pub(crate) fn key(&self) -> WorkerKey {
        WorkerKey(self.pair.public().0)
    }

    pub(crate) fn register(&self, net: &Net) -> Call {
        let pool = &net.devnet.pools()[0];
        let info = WorkerRegistrationInfoV2 {
            version: 1,
            machine_id: vec![7; 16],
            pubkey: self.key(),
            ecdh_pubkey: [9; 32],
            genesis_block_hash: Hash(net.devnet.relay().block_hash(1).unwrap().0),
            features: vec![4, 1],
            operator: Some(AccountId(pool.owner.clone().into())),
            para_id: net.devnet.para_id(),
            max_consensus_version: 0,
        };
        Call::RegisterWorker {
            worker: self.key(),
            runtime_info: info.encode(),
            attestation: None::<()>.encode(),
            replaces: None,
        }
    }

    /// A registration attested by the retired attestation service.
    pub(crate) fn register_v1(&self, net: &Net, replaces: Option<u64>) -> Call {
        let Call::RegisterWorker { worker, runtime_info, .. } = self.register(net) else { unreachable!() };
        let info = WorkerRegistrationInfoV2::decode_all(&mut &*runtime_info).unwrap();
        let runtime_info = WorkerRegistrationInfo::from(info).encode();
        let hash = sp_crypto_hashing::blake2_256(&runtime_info);
        let time = net.devnet.timestamp(1) / 1000;
        let (ra_report, signature, raw_signing_cert) = types::report::ias_report(&hash, 1, time);
        let attestation = Attestation::SgxIas { ra_report, signature, raw_signing_cert };
        Call::RegisterWorkerV1 { worker, runtime_info, attestation: attestation.encode(), replaces }
    }

    pub(crate) fn bench_report(&self, net: &Net, sequence: u64) -> Call {
        let report =
            types::RegistryEvent::BenchReport { start_time: net.devnet.timestamp(1), iterations: 1 << 40 };
        let message = Message {
            sender: MessageOrigin::Worker(self.key()),
            destination: types::REGISTRY_EVENT_TOPIC.to_vec(),
            payload: report.encode(),
        };
        let signature = self.pair.sign(&(&message, sequence).encode()).0.to_vec();
        Call::SyncOffchainMessage(SignedMessage { message, sequence, signature })
    }

    pub(crate) fn add(&self, pool: u64) -> Call {
        Call::AddWorker { pool: PoolId(pool), worker: self.key() }
    }

    pub(crate) fn start(&self, pool: u64, stake: u128) -> Call {
        Call::StartComputing { pool: PoolId(pool), worker: self.key(), stake }
    }
}

/// Waits for progress of a kind.
pub(crate) async fn until(
    progress: &mut mpsc::Receiver<SubmitProgress>,
    is: impl Fn(&SubmitProgress) -> bool,
) {
    while !is(&progress.recv().await.expect("the submission ended")) {}
}
