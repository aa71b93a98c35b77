//! All providers together: who is there, what they have, who is suspected of what.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

use prb_core::{
    blob::{Error, Genesis, Heights, Refusal},
    primitives::Hash,
};
use tokio::sync::{OnceCell, watch};

use super::{
    Candidate, Config, ProviderStatus,
    ask::{Ask, Failure},
    choose::{self, Choice},
    examine::{Served, Suspects},
    original,
    provider::{Kind, Provider},
    status,
};
use crate::blob::{answer, client::Bounds, keys::Key, metrics, scale};

/// Providers and what is known of them.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) config: Config,
    providers: RwLock<BTreeMap<Arc<str>, Arc<Provider>>>,
    heights: watch::Sender<Heights>,
    genesis: OnceCell<Genesis>,
    /// A height was a lie, and those of others have not taken its place yet.
    distrust: AtomicBool,
    /// Somebody has answered, once.
    ready: AtomicBool,
    pub(super) served: Served,
    pub(super) suspects: Suspects,
}

impl Pool {
    pub(super) fn new(config: Config) -> Self {
        Self {
            config,
            providers: RwLock::default(),
            heights: watch::Sender::default(),
            genesis: OnceCell::new(),
            distrust: AtomicBool::new(false),
            ready: AtomicBool::new(false),
            served: Served::default(),
            suspects: Suspects::default(),
        }
    }

    pub(super) fn heights(&self) -> watch::Receiver<Heights> {
        self.heights.subscribe()
    }

    pub(super) fn known_heights(&self) -> Heights {
        *self.heights.borrow()
    }

    pub(super) fn providers(&self) -> Vec<Arc<Provider>> {
        self.providers.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    pub(super) fn provider(&self, id: &str) -> Option<Arc<Provider>> {
        self.providers.read().unwrap_or_else(PoisonError::into_inner).get(id).cloned()
    }

    pub(super) fn status(&self) -> Vec<ProviderStatus> {
        self.providers().iter().map(|provider| status::of(provider)).collect()
    }

    pub(super) fn insert(&self, candidate: Candidate) -> Arc<Provider> {
        let provider = Arc::new(Provider::new(candidate, self.config.client));
        let mut providers = self.providers.write().unwrap_or_else(PoisonError::into_inner);
        providers.insert(provider.id.clone(), provider.clone());
        provider
    }

    pub(super) fn remove(&self, id: &str) {
        self.providers.write().unwrap_or_else(PoisonError::into_inner).remove(id);
        self.publish();
    }

    /// Tells the heights of those that are usable now.
    pub(super) fn publish(&self) {
        let usable: Vec<_> = self.providers().iter().filter_map(|p| p.usable()).map(|(_, h)| h).collect();
        if !usable.is_empty() {
            self.ready.store(true, Ordering::Relaxed);
        }
        let distrust = !usable.is_empty() && self.distrust.swap(false, Ordering::Relaxed);
        metrics::usable(usable.len());
        self.heights.send_if_modified(|heights| {
            let merged = choose::merge(usable, *heights, distrust);
            std::mem::replace(heights, merged) != merged
        });
    }

    /// Puts a provider aside, and takes its heights back.
    pub(super) fn put_aside(&self, provider: &Provider, reason: String, lied: bool) {
        provider.put_aside(reason, &self.config);
        if lied {
            self.distrust.store(true, Ordering::Relaxed);
        }
        self.publish();
    }

    /// The chain that all must be of, once it is known.
    pub(super) fn identity(&self) -> Option<Hash> {
        self.genesis.get().map(|genesis| genesis.chain_identity).or(self.config.chain_identity)
    }

    /// Puts a provider of another chain aside; gives whether it is.
    pub(super) fn refuse_stranger(&self, provider: &Provider, identity: Option<Hash>) -> bool {
        let (Some(ours), Some(theirs)) = (self.identity(), identity) else { return false };
        if ours != theirs {
            self.put_aside(provider, format!("it is of the chain {theirs}, not {ours}"), true);
        }
        ours != theirs
    }

    /// Those that can be asked, in order.
    pub(super) fn rank(&self, question: &impl Ask) -> Vec<(Arc<Provider>, Kind)> {
        let choices = self.providers().into_iter().filter_map(|provider| {
            let (kind, heights) = provider.usable()?;
            let choice = Choice {
                suspected: self.suspects.is_suspected(question.question(), &provider.id),
                original: kind == Kind::Original,
                wait: provider.expected_wait(),
                provider: (provider, kind),
            };
            question.is_covered(&heights).then_some(choice)
        });
        choose::rank(choices.collect())
    }

    /// What there is to say where nobody has the answer.
    pub(super) fn nobody(&self) -> Option<Error> {
        let providers = self.providers();
        if providers.iter().any(|provider| provider.usable().is_some()) {
            return None;
        }
        if !self.ready.load(Ordering::Relaxed) {
            return Some(Error::NotReady);
        }
        let all: Vec<_> = providers.iter().map(|provider| describe(&status::of(provider))).collect();
        let text = match all.as_slice() {
            [] => "there is no data provider".to_owned(),
            all => format!("no data provider is usable: {}", all.join("; ")),
        };
        Some(Error::Unavailable(text.into()))
    }

    pub(super) fn suspect(&self, refusal: &Refusal) {
        if let Some((question, served)) = self.served.find(refusal) {
            self.suspects.add(question, served.provider);
        }
    }

    /// The genesis: fetched once, and the measure of all providers from then on.
    pub(super) async fn genesis(&self) -> Result<Genesis, Error> {
        self.genesis.get_or_try_init(|| self.fetch_genesis()).await.cloned()
    }

    async fn fetch_genesis(&self) -> Result<Genesis, Error> {
        let mut last = None;
        for provider in self.providers() {
            let Some((kind, _)) = provider.usable() else { continue };
            match self.genesis_of(&provider, kind).await {
                Ok(genesis) => {
                    for other in self.providers() {
                        let theirs = other.snapshot().identity;
                        if theirs.is_some_and(|theirs| theirs != genesis.chain_identity) {
                            let reason = format!("it is not of the chain {}", genesis.chain_identity);
                            self.put_aside(&other, reason, true);
                        }
                    }
                    return Ok(genesis);
                }
                Err(failure) => last = failure.settle(self, &provider).or(last),
            }
        }
        Err(last.or_else(|| self.nobody()).unwrap_or(Error::NotReady))
    }

    async fn genesis_of(&self, provider: &Provider, kind: Kind) -> Result<Genesis, Failure> {
        let bounds =
            Bounds { max_bytes: self.config.max_genesis_bytes, timeout: self.config.request_timeout };
        let genesis = match kind {
            Kind::Original => original::genesis(provider, bounds, self.identity()).await?,
            Kind::Cursors => {
                let blob = provider.get(&Key::Genesis.to_string(), bounds).await?;
                let blob = blob.ok_or_else(|| Failure::bad("it has no genesis"))?;
                let said = answer::read_genesis(blob).map_err(Failure::bad)?;
                said.map_err(Failure::refused)?.ok_or(Failure::NotYet)?
            }
        };
        check_genesis(&genesis)?;
        match self.config.chain_identity {
            Some(ours) if ours != genesis.chain_identity => {
                Err(Failure::bad(format!("its genesis is of the chain {}", genesis.chain_identity)))
            }
            _ => Ok(genesis),
        }
    }
}

fn check_genesis(genesis: &Genesis) -> Result<(), Failure> {
    let (number, hash) = scale::genesis_block(&genesis.info).map_err(Failure::bad)?;
    scale::check_state(&genesis.state).map_err(Failure::bad)?;
    if number != genesis.relay_number || hash != genesis.relay_hash {
        return Err(Failure::bad("its genesis info is of another block than it says"));
    }
    Ok(())
}

fn describe(status: &ProviderStatus) -> String {
    use super::ProviderState as S;
    let state = match &status.state {
        S::Connecting => "connecting".to_owned(),
        S::Ready => "ready".to_owned(),
        S::Down { reason } => reason.clone(),
        S::Aside { reason, for_ms } => format!("put aside for {for_ms} ms more, because {reason}"),
    };
    format!("{}: {state}", status.id)
}
