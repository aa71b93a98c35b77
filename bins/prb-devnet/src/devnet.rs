//! A relay chain and a parachain that advance together.

use std::{
    collections::BTreeSet,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use codec::Encode;
use parking_lot::Mutex;
use prb_devnet_runtime::{
    SS58_PREFIX,
    pallets::{actions::Action, parachain_system, paras},
    para, relay,
    types::{AccountId, PersistedValidationData},
};
use sp_consensus_grandpa::AuthorityId;
use sp_core::{crypto::Ss58AddressFormat, ed25519};
use sp_inherents::InherentData;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    Config, Epoch, Error, Pool, accounts,
    node::{ChainFaults, ChainKind, Node, Retracted, runtime},
    worker::{self, WorkerHandle},
};

mod burst;
mod finality;
mod fork;
mod timers;

use burst::Burst;

/// Interval in relay blocks at which a parachain block is authored: 12 s at 6 s a relay block, as on
/// Khala without asynchronous backing.
const PARA_EVERY: u32 = 2;
/// In bytes; as on real relay chains.
const MAX_POV_SIZE: u32 = 5 * 1024 * 1024;
/// Relay blocks between two progress lines.
const PROGRESS_EVERY: u32 = 500;

/// The result of a tick.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TickReport {
    /// The relay block authored.
    pub relay: u32,
    /// The parachain block authored, if any.
    pub para: Option<u32>,
}

struct Inner {
    config: Config,
    epoch_ms: u64,
    relay: Arc<Node>,
    para: Arc<Node>,
    pools: Vec<Pool>,
    authorities: Vec<(AuthorityId, ed25519::Pair)>,
    tick_state: Mutex<TickState>,
    para_paused: AtomicBool,
    para_held: AtomicBool,
    faults: Arc<ChainFaults>,
    burst: Mutex<Burst>,
    upgrade: AtomicBool,
    actions: Mutex<Vec<Action>>,
    stop: CancellationToken,
    tasks: tokio::sync::Mutex<JoinSet<()>>,
}

/// State shared by ticks.
#[derive(Default)]
struct TickState {
    /// Parachain heads included by relay blocks that are not final yet.
    included: Vec<(u32, u32)>,
    /// The newest parachain block included by a relay block.
    para_included: u32,
    /// The slots of the parachain blocks after that.
    para_parents: Vec<Slot>,
    /// Whether the newest relay block names no head of the parachain.
    is_headless: bool,
}

/// A parachain block's relay parent, and the number of earlier blocks with the same one.
#[derive(Clone, Copy)]
struct Slot {
    relay_parent: u32,
    index: u32,
    /// What a fork adds to its time, so that the block is another one, in milliseconds.
    delay: u32,
}

/// A relay chain and a parachain that advance together. Cheap to clone.
#[derive(Clone)]
pub struct Devnet(Arc<Inner>);

impl std::fmt::Debug for Devnet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Devnet").field("relay", self.relay()).field("para", self.para()).finish()
    }
}

impl Devnet {
    /// Builds the chains, authors the history and starts both RPC servers. No block follows until
    /// [`tick`](Self::tick) or [`spawn_ticker`](Self::spawn_ticker) is called; end the devnet with
    /// [`shutdown`](Self::shutdown).
    ///
    /// # Errors
    /// [`Error::Genesis`], [`Error::Runtime`], [`Error::Rpc`].
    pub async fn start(config: Config) -> Result<Self, Error> {
        // Authoring the history is CPU-bound and takes seconds to minutes.
        let devnet = tokio::task::spawn_blocking(move || Self::build(config)).await??;
        for node in [devnet.relay(), devnet.para()] {
            node.start_rpc().await.map_err(Error::Rpc)?;
        }
        Ok(devnet)
    }

    /// Builds the chains and authors the history, without RPC servers.
    ///
    /// # Errors
    /// [`Error::Genesis`], [`Error::Runtime`].
    pub fn build(config: Config) -> Result<Self, Error> {
        // A process-wide default of sp-core: addresses in `describe` and in errors are then those of Phala and
        // Khala.
        sp_core::crypto::set_default_ss58_version(Ss58AddressFormat::custom(SS58_PREFIX));
        let pools = accounts::pools(&config)?;
        let authorities = accounts::authorities(&config);
        let capacity = config.max_pool_transactions;
        let faults = Arc::new(ChainFaults::new(&config));
        let genesis = para::v1::genesis(para_genesis(&config, &pools)).map_err(Error::Genesis)?;
        let para = Node::new(ChainKind::Para, genesis, config.para_port, capacity, Arc::clone(&faults))?;
        let head = para.header(0).map(|header| header.encode()).unwrap_or_default();
        let genesis = relay::genesis(relay::Genesis {
            candidates: authorities.iter().map(|(id, _)| id.clone()).collect(),
            set_size: config.set_size,
            set_length: config.set_length,
            forced_change_at: config.forced_change_at,
            heads: vec![(config.para_id, head)],
        })
        .map_err(Error::Genesis)?;
        let relay = Node::new(ChainKind::Relay, genesis, config.relay_port, capacity, Arc::clone(&faults))?;
        para.set_proof_limit(config.proof_limit);
        let devnet = Self(Arc::new(Inner {
            epoch_ms: epoch_ms(&config),
            relay,
            para,
            pools,
            authorities,
            tick_state: Mutex::default(),
            para_paused: AtomicBool::new(false),
            para_held: AtomicBool::new(false),
            faults,
            burst: Mutex::default(),
            upgrade: AtomicBool::new(false),
            actions: Mutex::default(),
            stop: CancellationToken::new(),
            tasks: tokio::sync::Mutex::new(JoinSet::new()),
            config,
        }));
        devnet.author_history()?;
        Ok(devnet)
    }

    fn author_history(&self) -> Result<(), Error> {
        let history = self.0.config.history;
        for number in 1..=history {
            self.tick()?;
            if number % PROGRESS_EVERY == 0 || number == history {
                tracing::info!(blocks = number, of = history, "history authored");
            }
        }
        Ok(())
    }

    /// Returns the relay chain.
    #[must_use]
    pub fn relay(&self) -> &Arc<Node> {
        &self.0.relay
    }

    /// Returns the parachain.
    #[must_use]
    pub fn para(&self) -> &Arc<Node> {
        &self.0.para
    }

    /// Returns the parachain's id.
    #[must_use]
    pub fn para_id(&self) -> u32 {
        self.0.config.para_id
    }

    /// Returns the pools with their operators' mnemonics.
    #[must_use]
    pub fn pools(&self) -> &[Pool] {
        &self.0.pools
    }

    /// Returns the configuration.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.0.config
    }

    /// Stops or resumes parachain blocks; relay blocks continue without new heads.
    pub fn pause_para(&self, paused: bool) {
        self.0.para_paused.store(paused, Ordering::Relaxed);
    }

    /// Sets the newer runtime in the next parachain block; it takes effect in the one after. Its pallets have
    /// other indexes.
    pub fn upgrade_para_runtime(&self) {
        self.0.upgrade.store(true, Ordering::Relaxed);
    }

    /// Carries out an external action in the next parachain block, after those requested before. If the chain
    /// refuses it, that block is not authored and its [`Devnet::tick`] fails with the reason; the following block
    /// contains none of them.
    pub fn act(&self, action: Action) {
        self.0.actions.lock().push(action);
    }

    /// Returns the time of a relay block, milliseconds since 1970.
    #[must_use]
    pub fn timestamp(&self, relay_number: u32) -> u64 {
        self.0.epoch_ms + u64::from(relay_number) * self.0.config.block_ms
    }

    /// Authors a relay block, followed by a parachain block after every second one, and finalises the previous
    /// relay block, or an earlier one if finality lags.
    ///
    /// # Errors
    /// [`Error::Runtime`], [`Error::State`].
    pub fn tick(&self) -> Result<TickReport, Error> {
        if self.0.faults.wants_fork() && self.reorganise_para(Retracted::Pooled)? > 0 {
            self.0.faults.fork_next(false);
        }
        // Locked for the whole tick: one at a time.
        let mut tick_state = self.0.tick_state.lock();
        let number = self.0.relay.best_number() + 1;
        self.author_relay(&mut tick_state, number)?;
        let lag = self.0.faults.finality_lag();
        // One block behind at least, so that the target has a child, which some votes are for.
        self.finalize_up_to(&mut tick_state, (number - 1).saturating_sub(lag))?;
        let paused = self.0.para_paused.load(Ordering::Relaxed) || self.0.faults.is_offboarded();
        let mut para = None;
        if number.is_multiple_of(PARA_EVERY) && !paused {
            for index in 0..self.0.faults.heads_per_relay_block() {
                let slot = Slot { relay_parent: number, index, delay: 0 };
                // Before the block is authored, so that a fork can replace it.
                tick_state.para_parents.push(slot);
                para = Some(self.author_para(slot)?);
            }
        }
        Ok(TickReport { relay: number, para })
    }

    fn author_relay(&self, tick_state: &mut TickState, number: u32) -> Result<(), Error> {
        let mut inherents = self.inherents(self.timestamp(number))?;
        let best = self.0.para.best_number();
        // An onboarded parachain gets its head back even if it has no new block.
        let is_new = best > tick_state.para_included || tick_state.is_headless;
        if self.0.faults.is_offboarded() {
            tick_state.is_headless = true;
            put(&mut inherents, paras::INHERENT_IDENTIFIER, &vec![(self.para_id(), Vec::<u8>::new())])?;
        } else if is_new && !self.0.para_held.load(Ordering::Relaxed) {
            tick_state.is_headless = false;
            // Only the newest head: `Paras::Heads` holds one value, and the read proof at this block covers all
            // before it.
            let head = self.0.para.header(best).map(|header| header.encode()).unwrap_or_default();
            put(&mut inherents, paras::INHERENT_IDENTIFIER, &vec![(self.para_id(), head)])?;
            tick_state.para_included = best;
            tick_state.para_parents.clear();
            // The parachain block becomes final with this relay block.
            tick_state.included.push((number, best));
        }
        self.0.relay.author(inherents)?;
        Ok(())
    }

    fn author_para(&self, slot: Slot) -> Result<u32, Error> {
        let inherents = self.para_inherents(slot)?;
        Ok(self.0.para.author(inherents)?.number)
    }

    /// Builds the inherents of the next parachain block with this relay parent.
    fn para_inherents(&self, Slot { relay_parent, index, delay }: Slot) -> Result<InherentData, Error> {
        let (relay, para) = (&self.0.relay, &self.0.para);
        let unknown = || Error::UnknownBlock(relay_parent.to_string());
        let relay_header = relay.header(relay_parent).ok_or_else(unknown)?;
        let parent = para.best_number();
        let parent_head = para.header(parent).map(|header| header.encode()).unwrap_or_default();
        // Workers start one relay block before the relay parent of parachain block 1.
        let worker_genesis = (parent == 0).then_some(relay_header.parent_hash);
        let upgrade = self.0.upgrade.swap(false, Ordering::Relaxed);
        let newest = runtime::PARA.last().map(|runtime| runtime.code.to_vec());
        // Taken before the block is built: an action that the chain refuses is not tried again in every later
        // block.
        let mut actions = std::mem::take(&mut *self.0.actions.lock());
        actions.extend(self.load_change(parent + 1));
        let data = parachain_system::DevnetInherent {
            validation_data: PersistedValidationData {
                parent_head,
                relay_parent_number: relay_parent,
                relay_parent_storage_root: relay_header.state_root,
                max_pov_size: MAX_POV_SIZE,
            },
            worker_genesis,
            code: newest.filter(|_| upgrade),
            actions,
        };
        let mut inherents = self.inherents(self.timestamp(relay_parent) + u64::from(index + delay))?;
        put(&mut inherents, parachain_system::INHERENT_IDENTIFIER, &data)?;
        Ok(inherents)
    }

    fn inherents(&self, timestamp: u64) -> Result<InherentData, Error> {
        let mut inherents = InherentData::new();
        // The identifier of pallet-timestamp's inherent.
        put(&mut inherents, *b"timstap0", &timestamp)?;
        Ok(inherents)
    }

    /// Starts workers 0 to `count` − 1 on the ports from `base_port` on (0 for any free ones), with keys derived
    /// from the devnet's seed. With `record`, each writes its requests to `worker-N.log` in that folder. They do not
    /// end with the devnet: call [`WorkerHandle::shutdown`], or drop them.
    ///
    /// # Errors
    /// [`worker::Error`]; workers already started are stopped.
    pub async fn spawn_workers(
        &self,
        count: u32,
        base_port: u16,
        record: Option<PathBuf>,
    ) -> Result<Vec<WorkerHandle>, worker::Error> {
        worker::spawn_all(self.0.config.seed.to_string(), count, base_port, record).await
    }

    /// Stops the timers and the RPC servers. Timers hold clones of the devnet: dropping it does not stop them.
    /// Workers run on.
    ///
    /// # Cancel safety
    /// A cancelled call has stopped the timers, and may leave RPC servers running: call it again.
    pub async fn shutdown(&self) {
        self.0.stop.cancel();
        let mut tasks = std::mem::take(&mut *self.0.tasks.lock().await);
        while tasks.join_next().await.is_some() {}
        for node in [self.relay(), self.para()] {
            // Requests to a hanging node would never end.
            node.faults().hang(false);
        }
        // After the tasks: one that restarts servers could start one again behind this call.
        tokio::join!(self.relay().end_rpc(), self.para().end_rpc());
    }
}

fn put(data: &mut InherentData, id: [u8; 8], value: &impl Encode) -> Result<(), Error> {
    data.put_data(id, value).map_err(|error| Error::State(error.to_string()))
}

fn epoch_ms(config: &Config) -> u64 {
    match config.epoch {
        Epoch::Fixed(ms) => ms,
        Epoch::HistoryEndsNow => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let now = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
            now.saturating_sub(u64::from(config.history).saturating_mul(config.block_ms))
        }
    }
}

fn para_genesis(config: &Config, pools: &[Pool]) -> para::Genesis {
    // Operators may share pools, but genesis accepts each account only once.
    let accounts = pools.iter().flat_map(|pool| [pool.operator.clone(), pool.owner.clone()]);
    let accounts: BTreeSet<AccountId> = accounts.collect();
    let balances = accounts.into_iter().map(|account| (account, config.operator_balance)).collect();
    let proxied = pools.iter().filter(|pool| pool.proxied);
    para::Genesis {
        para_id: config.para_id,
        balances,
        pools: pools.iter().map(|pool| (pool.pid, pool.owner.clone(), pool.free_stake)).collect(),
        vaults: vaults(config, pools),
        max_pool_workers: config.max_pool_workers,
        grace_period: config.grace_secs,
        weigh_calls: config.weigh_calls,
        proxies: proxied.map(|pool| (pool.owner.clone(), pool.operator.clone())).collect(),
        benchmark_duration: config.benchmark_duration,
        none_attestation_enabled: config.none_attestation,
        ias_attestation_enabled: config.ias_attestation,
        minimum_pruntime_version: config.minimum_pruntime_version,
        computation: config.computation,
        cool_down_period: config.cool_down_secs,
        load: burst::usual_load(config),
    }
}

fn vaults(config: &Config, pools: &[Pool]) -> Vec<(u64, AccountId)> {
    let Some(owner) = pools.first().map(|pool| &pool.owner) else { return Vec::new() };
    (1..=config.vaults).map(|n| (config.pools.saturating_add(n), owner.clone())).collect()
}
