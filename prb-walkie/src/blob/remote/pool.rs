//! The pool of providers: slots, merged heights, suspensions, the genesis.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashSet, VecDeque},
    hash::{BuildHasher, RandomState},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, RwLock,
        atomic::{AtomicBool, Ordering},
    },
};

use prb_core::{
    blob::{Error, FalseHeaders, Genesis, Heights, RefusedData},
    primitives::Hash,
};
use tokio::sync::{Mutex as AsyncMutex, watch};

use super::{
    Candidate, Config, GenesisError, OwnChain, ProviderStatus,
    ask::{Ask, Failure, Question},
    choose::{self, Choice, SlotState},
    examine::{Served, Suspects},
    original,
    provider::{Kind, Provider, Record},
    status,
};
use crate::blob::{answer, batch_walk, client::Bounds, keys::Key, metrics};

/// Most providers without a slot that are remembered.
const MAX_REMEMBERED: usize = 1024;

/// Providers and their records.
#[derive(Debug)]
pub(super) struct Pool {
    pub(super) config: Config,
    providers: RwLock<BTreeMap<Arc<str>, Arc<Provider>>>,
    /// Records of providers that have lost their slot and were suspended before, oldest first.
    remembered: Mutex<VecDeque<(Arc<str>, Record)>>,
    /// Random order among equals, so that nobody gains a slot by choosing an id.
    order: RandomState,
    heights: watch::Sender<Heights>,
    own: Option<OwnChain>,
    /// The genesis, and the id of its provider.
    genesis: Mutex<Option<(Genesis, Arc<str>)>>,
    /// Held while the genesis is fetched.
    fetching: AsyncMutex<()>,
    /// Whether any provider has answered yet.
    ready: AtomicBool,
    pub(super) served: Served,
    pub(super) suspects: Suspects,
}

impl Pool {
    pub(super) fn new(own: Option<OwnChain>, config: Config) -> Self {
        Self {
            config,
            own,
            providers: RwLock::default(),
            remembered: Mutex::default(),
            order: RandomState::new(),
            heights: watch::Sender::default(),
            genesis: Mutex::default(),
            fetching: AsyncMutex::default(),
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
        let record = {
            let mut remembered = self.remembered();
            let at = remembered.iter().position(|(id, _)| **id == *candidate.id);
            at.and_then(|at| remembered.remove(at)).map(|(_, record)| record)
        };
        let provider = Arc::new(Provider::new(candidate, record, self.config.client));
        let mut providers = self.providers.write().unwrap_or_else(PoisonError::into_inner);
        providers.insert(provider.id.clone(), provider.clone());
        provider
    }

    pub(super) fn remove(&self, id: &str) {
        let removed = self.providers.write().unwrap_or_else(PoisonError::into_inner).remove(id);
        if let Some(provider) = removed {
            let record = provider.snapshot().record;
            // Otherwise a suspended provider could get rid of its suspension by leaving and coming back.
            if record.is_bad() {
                let mut remembered = self.remembered();
                if remembered.len() >= MAX_REMEMBERED {
                    remembered.pop_front();
                }
                remembered.push_back((provider.id.clone(), record));
            }
        }
        self.publish();
    }

    fn remembered(&self) -> MutexGuard<'_, VecDeque<(Arc<str>, Record)>> {
        self.remembered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Chooses the candidates that get a slot.
    pub(super) fn admit(&self, candidates: Vec<Candidate>) -> Vec<Candidate> {
        let suspended: HashSet<_> = {
            let remembered = self.remembered();
            remembered.iter().filter(|(_, record)| record.is_suspended()).map(|(id, _)| id.clone()).collect()
        };
        let slot_state = |candidate: &Candidate| match self.provider(&candidate.id) {
            Some(provider) => provider.slot_state(),
            None if suspended.contains(&*candidate.id) => SlotState::Useless,
            None => SlotState::New,
        };
        let order = |candidate: &Candidate| self.order.hash_one(&candidate.id);
        choose::admit(candidates, slot_state, order, self.config.max_providers)
    }

    /// Publishes the heights of usable providers.
    pub(super) fn publish(&self) {
        let usable: Vec<_> = self.providers().iter().filter_map(|p| p.usable()).map(|(_, h)| h).collect();
        // Tells a start, when providers are still being found, from a failure of providers that were usable.
        if !usable.is_empty() {
            self.ready.store(true, Ordering::Relaxed);
        }
        metrics::usable(usable.len());
        let finalized = self.own.as_ref().map(|own| *own.finalized.borrow());
        self.heights.send_if_modified(|heights| {
            let merged = match (choose::merge(usable, *heights), finalized) {
                (merged, None) => merged,
                (merged, Some(Some(finalized))) => finalized.clamp(merged),
                // The own node has not reported a head yet, so nothing can be checked against it.
                (_, Some(None)) => *heights,
            };
            std::mem::replace(heights, merged) != merged
        });
    }

    /// Suspends a provider and withdraws its heights.
    pub(super) fn suspend(&self, provider: &Provider, reason: String, lied: bool) {
        provider.suspend(reason, &self.config);
        if lied {
            // Its genesis may be wrong, too: fetch it again from another.
            self.genesis().take_if(|(_, giver)| *giver == provider.id);
        }
        self.publish();
    }

    fn genesis(&self) -> MutexGuard<'_, Option<(Genesis, Arc<str>)>> {
        self.genesis.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The chain that all providers must be of, once known: the own node's or, without one, that of the first
    /// genesis.
    pub(super) fn identity(&self) -> Option<Hash> {
        if let Some(own) = &self.own {
            return (*own.identity.borrow()).or(self.config.chain_identity);
        }
        self.config
            .chain_identity
            .or_else(|| self.genesis().as_ref().map(|(genesis, _)| genesis.chain_identity))
    }

    /// Whether a provider is the only one to claim the data: others exist that do not, and the own node does not
    /// confirm that it can exist.
    pub(super) fn is_sole_claimant(&self, provider: &Provider, question: Question) -> bool {
        let others = self.providers().into_iter().filter(|other| other.id != provider.id);
        let others: Vec<_> = others.filter_map(|other| other.usable()).map(|(_, heights)| heights).collect();
        let finalized = self.own.as_ref().and_then(|own| *own.finalized.borrow());
        let known =
            finalized.map(|own| Heights { relay: own.relay, para: Some(own.para), ..Heights::default() });
        !others.is_empty() && !others.iter().chain(&known).any(|heights| question.is_covered(heights))
    }

    /// Suspends a provider of another chain; returns whether it is one.
    pub(super) fn suspend_if_foreign(&self, provider: &Provider, identity: Option<Hash>) -> bool {
        let (Some(ours), Some(theirs)) = (self.identity(), identity) else { return false };
        if ours != theirs {
            self.suspend(provider, format!("it is of the chain {theirs}, not {ours}"), true);
        }
        ours != theirs
    }

    /// Returns the usable providers in order of preference.
    pub(super) fn rank(&self, question: &impl Ask) -> Vec<(Arc<Provider>, Kind)> {
        let choices = self.providers().into_iter().filter_map(|provider| {
            let (kind, heights) = provider.usable()?;
            let choice = Choice {
                suspected: self.suspects.is_suspected(question.question(), &provider.id),
                original: kind == Kind::Original,
                provenance: provider.provenance(),
                wait: provider.expected_wait(),
                served: provider.gave_batch(),
                provider: (provider, kind),
            };
            question.is_covered(&heights).then_some(choice)
        });
        choose::rank(choices.collect(), self.config.hedge_after / 3)
    }

    /// The error if no provider has the answer.
    pub(super) fn no_provider_error(&self) -> Option<Error> {
        // Read once, so that the check and the description agree.
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

    pub(super) fn suspect(&self, refusal: &RefusedData) {
        if let Some((question, served)) = self.served.find(refusal) {
            if let Some(provider) = self.provider(&served.provider) {
                provider.was_refused();
            }
            self.suspects.add(question, served.provider);
        }
    }

    /// Suspends the provider of a batch that does not verify.
    pub(super) fn suspend_provider_of(&self, given: &FalseHeaders) {
        let giver = self.served.provider_of(given.cursor, &given.body);
        let Some(provider) = giver.and_then(|id| self.provider(&id)) else { return };
        provider.was_refused();
        let reason = format!("its answer to {} is false: {}", given.cursor, given.reason);
        self.suspend(&provider, reason, true);
    }

    /// The genesis: fetched once, and again if its provider turned out to send wrong data.
    pub(super) async fn read_genesis(&self) -> Result<Genesis, Error> {
        let known = || self.genesis().as_ref().map(|(genesis, _)| genesis.clone());
        if let Some(genesis) = known() {
            return Ok(genesis);
        }
        // One caller fetches; the others wait for the lock and then find the result.
        let _fetching = self.fetching.lock().await;
        match known() {
            Some(genesis) => Ok(genesis),
            None => self.fetch_genesis().await,
        }
    }

    async fn fetch_genesis(&self) -> Result<Genesis, Error> {
        let mut last = None;
        let mut providers = self.providers();
        // The most trusted first: without an own node, the first valid genesis decides which chain is right.
        providers.sort_by_key(|provider| Reverse(provider.provenance()));
        for provider in providers {
            let Some((kind, _)) = provider.usable() else { continue };
            match self.genesis_of(&provider, kind).await {
                Ok(genesis) => {
                    // Stored before the others are checked, because the check compares them with this
                    // genesis.
                    *self.genesis() = Some((genesis.clone(), provider.id.clone()));
                    // Those of other chains were accepted as long as the chain was not known.
                    for other in self.providers() {
                        self.suspend_if_foreign(&other, other.snapshot().identity);
                    }
                    return Ok(genesis);
                }
                Err(failure) => last = failure.settle(self, &provider).or(last),
            }
        }
        Err(last.or_else(|| self.no_provider_error()).unwrap_or(Error::NotReady))
    }

    async fn genesis_of(&self, provider: &Provider, kind: Kind) -> Result<Genesis, Failure> {
        let bounds =
            Bounds { max_bytes: self.config.max_genesis_bytes, timeout: self.config.request_timeout };
        let genesis = match kind {
            Kind::Original => original::genesis(provider, bounds, self.identity()).await?,
            Kind::Cursors => {
                let blob = provider.get(&Key::Genesis.to_string(), bounds).await?;
                let blob = blob.ok_or_else(|| Failure::bad("it has no genesis"))?;
                let answer = answer::read_genesis(blob).map_err(Failure::bad)?;
                answer.map_err(Failure::refused)?.ok_or(Failure::NotYet)?
            }
        };
        check_genesis(&genesis)?;
        if self.identity().is_some_and(|ours| ours != genesis.chain_identity) {
            return Err(Failure::bad(format!("its genesis is of the chain {}", genesis.chain_identity)));
        }
        if let Some(own) = &self.own {
            own.genesis.check(&genesis).await.map_err(|error| match error {
                GenesisError::Wrong(reason) => Failure::Bad(reason),
                unchecked => Failure::Verdict(Error::Unavailable(Box::new(unchecked))),
            })?;
        }
        Ok(genesis)
    }
}

fn check_genesis(genesis: &Genesis) -> Result<(), Failure> {
    let (number, hash) = batch_walk::genesis_block(&genesis.info).map_err(Failure::bad)?;
    batch_walk::check_state(&genesis.state).map_err(Failure::bad)?;
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
        S::Suspended { reason, for_ms } => format!("suspended for another {for_ms} ms because {reason}"),
    };
    format!("{}: {state}", status.id)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::provenance::Provenance;

    /// Suspended providers leave, and come back under other names.
    #[tokio::test]
    async fn former_providers_are_remembered_in_a_bounded_number() {
        let pool = Pool::new(None, Config::default().with_first_suspension(Duration::from_secs(600)));
        let candidate = |n: u32| Candidate {
            id: format!("provider {n}"),
            address: ([127, 0, 0, 1], 1).into(),
            chain_identity: None,
            announced: None,
            provenance: Provenance::Discovered,
        };
        for n in 0..1100 {
            let provider = pool.insert(candidate(n));
            pool.suspend(&provider, "it lies".into(), true);
            pool.remove(&provider.id);
        }
        assert_eq!(pool.remembered().len(), 1024);
        assert!(!pool.insert(candidate(0)).is_suspended(), "the first ones are forgotten");
        assert!(pool.insert(candidate(1099)).is_suspended());
        assert_eq!(pool.remembered().len(), 1023, "one that is back needs no memory");
        // One without a failure leaves nothing.
        pool.remove(&pool.insert(candidate(2000)).id);
        assert_eq!(pool.remembered().len(), 1023);
    }
}
