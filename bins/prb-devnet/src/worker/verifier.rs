//! pRuntime as a state machine: the checks and effects of each call, without I/O.

use std::{collections::BTreeMap, sync::Arc};

use codec::Encode;
use prb_core::{
    primitives::{AccountId, Hash},
    prpc,
    wire::{
        AttestationProvider, BlockHeaderWithChanges, GenesisBlockInfo, Header, HeaderToSync, MessageOrigin,
        VersionedWorkerEndpoints, WorkerEndpointPayload, WorkerRegistrationInfoV2,
    },
};
use sp_core::Pair;
use sp_io::hashing::blake2_256;

use super::{
    Refusal, Shared, egress::Egress, faults::WorkFaults, identity::Identity, keys, sync::Synchronizer,
    system::System, trie::State,
};

mod attestation;
mod info;

/// SCALE pairs of a state.
pub(crate) type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// Maximum size of a signed endpoint announcement, in bytes.
const MAX_ENDPOINT_PAYLOAD_BYTES: usize = 2048;
/// Prefix of the signed bytes of an endpoint announcement.
const ENDPOINT_CONTENT_TYPE: [u8; 2] = [0xff, 0x02];
const MAX_CONSENSUS_VERSION: u32 = 1;

/// Fixed settings of a worker.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) identity: Identity,
    /// Iterations per 6 s of chain time.
    pub(crate) score: u64,
    pub(crate) attestation_methods: Vec<String>,
    /// Whether to return IAS reports and registration info for the first version's call.
    pub(crate) first_version: bool,
    pub(crate) version: (u32, u32, u32),
    pub(crate) work_faults: Arc<WorkFaults>,
    pub(crate) shared: Shared,
}

impl Options {
    /// The version as encoded in registrations.
    fn packed_version(&self) -> u32 {
        let (major, minor, patch) = self.version;
        (major << 16) | (minor << 8) | patch
    }
}

/// One pRuntime.
#[derive(Clone, Debug)]
pub(crate) struct Verifier {
    options: Arc<Options>,
    runtime: Option<Runtime>,
    can_load_chain_state: bool,
    dispatching: bool,
    endpoints: BTreeMap<Vec<u8>, String>,
    signed_endpoints: Option<prpc::GetEndpointResponse>,
}

/// The state created by `InitRuntime`. Cheap to clone, because the chain's state is shared.
#[derive(Clone, Debug)]
pub(crate) struct Runtime {
    genesis_hash: Hash,
    genesis_block: u32,
    version: (u32, u32, u32),
    sync: Synchronizer,
    state: Arc<State>,
    egress: Egress,
    system: System,
    registration: Registration,
}

/// The worker's registration data.
#[derive(Clone, Debug)]
struct Registration {
    identity: Identity,
    info: WorkerRegistrationInfoV2,
    dev_mode: bool,
    provider: Option<AttestationProvider>,
    first_version: bool,
    attestation: Option<prpc::Attestation>,
    /// Number of attestations so far.
    attestations: u64,
}

/// Decoded fields of `InitRuntime`.
pub(crate) struct Init {
    pub(crate) genesis: GenesisBlockInfo,
    pub(crate) state: Pairs,
    pub(crate) operator: Option<AccountId>,
    pub(crate) debug_key: Option<Vec<u8>>,
    pub(crate) provider: Option<AttestationProvider>,
    pub(crate) is_parachain: bool,
}

impl Verifier {
    pub(crate) fn new(options: Arc<Options>) -> Self {
        Self {
            options,
            runtime: None,
            can_load_chain_state: true,
            dispatching: false,
            endpoints: BTreeMap::new(),
            signed_endpoints: None,
        }
    }

    /// The same worker after a restart that kept its state.
    pub(crate) fn restarted(&self) -> Self {
        // A dispatch ends with the process, and its blocks are not in the kept state.
        Self { dispatching: false, ..self.clone() }
    }

    pub(crate) fn options(&self) -> &Options {
        &self.options
    }

    /// Number of attestations since the last restart.
    pub(crate) fn attestations(&self) -> u64 {
        self.runtime.as_ref().map_or(0, |runtime| runtime.registration.attestations)
    }

    /// Queues a message of another sender: gatekeeper, cluster or contract.
    pub(crate) fn send_as(
        &mut self,
        sender: &MessageOrigin,
        pair: &sp_core::sr25519::Pair,
        destination: &[u8],
        payload: Vec<u8>,
    ) -> Result<(), Refusal> {
        let runtime = self.runtime()?;
        // Messages continue the sequence that the chain expects next of this sender.
        let next = runtime.state.decoded(&keys::offchain_ingress(sender)).unwrap_or_default();
        runtime.egress.push_as(sender, next, pair, destination, payload);
        Ok(())
    }

    fn check_not_busy(&self) -> Result<(), Refusal> {
        if self.dispatching { Err(Refusal::busy()) } else { Ok(()) }
    }

    fn runtime(&mut self) -> Result<&mut Runtime, Refusal> {
        self.runtime.as_mut().ok_or_else(Refusal::uninitialized)
    }

    pub(crate) fn init(&mut self, init: Init) -> Result<prpc::InitRuntimeResponse, Refusal> {
        self.check_not_busy()?;
        if self.runtime.is_some() {
            return Err(Refusal::App("Runtime already initialized".into()));
        }
        if !init.is_parachain {
            return Err(Refusal::App("this worker follows parachains only".into()));
        }
        // Not compared with a root here: the first dispatch does that, once para header 0 is proven.
        let state = self.options.shared.tries().load(init.state);
        let para_id = state.decoded(&keys::para_id()).unwrap_or_default();
        let genesis_hash = init.genesis.block_header.hash();
        let genesis_block = init.genesis.block_header.number;
        // A key given by the caller is known outside the enclave: such a worker cannot be attested.
        let dev_mode = init.debug_key.is_some();
        let identity = match init.debug_key {
            Some(seed) => {
                Identity::from_seed(seed.try_into().map_err(|_| Refusal::App("InvalidSeedLength".into()))?)
            }
            None => self.options.identity.clone(),
        };
        attestation::allowed(init.provider, dev_mode, &self.options.attestation_methods)?;
        // pRuntime aborts here, so the caller gets no answer.
        let sync = Synchronizer::new(init.genesis, para_id).map_err(Refusal::Abort)?;
        let info = WorkerRegistrationInfoV2 {
            version: self.options.packed_version(),
            machine_id: identity.ecdh[..16].to_vec(),
            pubkey: identity.public(),
            ecdh_pubkey: identity.ecdh,
            genesis_block_hash: genesis_hash,
            // Cores and feature level.
            features: vec![4, 4],
            operator: init.operator,
            para_id,
            max_consensus_version: MAX_CONSENSUS_VERSION,
        };
        let runtime = self.runtime.insert(Runtime {
            genesis_hash,
            genesis_block,
            version: self.options.version,
            sync,
            state,
            egress: Egress::new(MessageOrigin::Worker(identity.public())),
            system: System::new(identity.pair.clone(), self.options.score),
            registration: Registration {
                identity,
                info,
                dev_mode,
                provider: init.provider,
                first_version: self.options.first_version,
                attestation: None,
                attestations: 0,
            },
        });
        Ok(runtime.registration.response())
    }

    /// `SyncHeader`; even a refused one ends the window for `LoadChainState`.
    pub(crate) fn sync_relay(&mut self, headers: Vec<HeaderToSync>) -> Result<u32, Refusal> {
        self.check_not_busy()?;
        self.can_load_chain_state = false;
        let shared = self.options.shared.clone();
        self.runtime()?.sync.sync_relay(headers, shared.verdicts())
    }

    pub(crate) fn sync_para(&mut self, headers: Vec<Header>, proof: &[Vec<u8>]) -> Result<u32, Refusal> {
        self.check_not_busy()?;
        self.runtime()?.sync.sync_para(headers, proof)
    }

    /// `SyncCombinedHeaders`: not atomic, relay headers stay if the parachain's are refused.
    pub(crate) fn sync_combined(
        &mut self,
        relay: Vec<HeaderToSync>,
        para: Vec<Header>,
        proof: &[Vec<u8>],
    ) -> Result<prpc::HeadersSyncedTo, Refusal> {
        let relaychain_synced_to = self.sync_relay(relay)?;
        let parachain_synced_to = if para.is_empty() {
            self.runtime()?.sync.next_para().wrapping_sub(1)
        } else {
            self.sync_para(para, proof)?
        };
        Ok(prpc::HeadersSyncedTo { relaychain_synced_to, parachain_synced_to })
    }

    /// Returns a copy of the runtime to dispatch blocks on; other state-changing calls are refused until
    /// [`Self::end_dispatch`].
    pub(crate) fn begin_dispatch(&mut self) -> Result<Runtime, Refusal> {
        self.check_not_busy()?;
        // The lock is not held for the dispatch: `GetInfo` and the like are answered meanwhile.
        let copy = self.runtime()?.clone();
        self.dispatching = true;
        Ok(copy)
    }

    /// Installs the copy. Changes by `GetRuntimeInfo` in the meantime stay, as do messages of other senders.
    pub(crate) fn end_dispatch(&mut self, mut runtime: Runtime) {
        self.dispatching = false;
        if let Some(current) = self.runtime.take() {
            // Both may have changed while the copy was dispatching: these calls do not wait for a dispatch.
            runtime.registration = current.registration;
            runtime.egress.adopt_others(current.egress);
            runtime.purge();
        }
        self.runtime = Some(runtime);
    }

    /// Discards the copy.
    pub(crate) fn abandon_dispatch(&mut self) {
        self.dispatching = false;
    }

    /// `DispatchBlocks` in one step.
    #[cfg(test)]
    pub(crate) fn dispatch(&mut self, blocks: Vec<BlockHeaderWithChanges>) -> Result<u32, Refusal> {
        let mut runtime = self.begin_dispatch()?;
        let result = runtime.dispatch(blocks);
        self.end_dispatch(runtime);
        result
    }

    pub(crate) fn load_chain_state(&mut self, block: u32, pairs: Pairs) -> Result<(), Refusal> {
        self.check_not_busy()?;
        let refuse = |text: String| Err(Refusal::App(text));
        if !self.can_load_chain_state {
            return refuse("Can not load chain state".into());
        }
        if block == 0 {
            return refuse("Can not load chain state from block 0".into());
        }
        let tries = self.options.shared.tries().clone();
        let Some(runtime) = &mut self.runtime else { return refuse("System is uninitialized".into()) };
        let state = tries.load(pairs);
        let loading: u32 = state.decoded(&keys::para_id()).unwrap_or_default();
        let info = &runtime.registration.info;
        if loading != info.para_id {
            let init = info.para_id;
            return refuse(format!("Loading different parachain state, loading={loading}, init={init}"));
        }
        if state.get(&keys::worker(&info.pubkey)).is_some() {
            return refuse(format!(
                "Failed to load state: the worker is already registered at block {block}"
            ));
        }
        runtime.sync.continue_from(block)?;
        runtime.state = state;
        // `GetInfo` reports the block that the state was loaded at.
        runtime.genesis_block = block;
        self.can_load_chain_state = false;
        Ok(())
    }

    /// `GetEgressMessages`: returns the messages as SCALE.
    pub(crate) fn egress(&self) -> Vec<u8> {
        match &self.runtime {
            Some(runtime) => runtime.egress.encode(),
            None => prb_core::wire::EgressMessages::new().encode(),
        }
    }

    pub(crate) fn runtime_info(
        &mut self,
        refresh: bool,
        operator: Option<AccountId>,
    ) -> Result<prpc::InitRuntimeResponse, Refusal> {
        // The fault: the registration names another operator than was asked for.
        let wrong = self.options.work_faults.operator();
        let runtime = self.runtime()?;
        let (validated, chain_ms) = (runtime.sync.start_validated(), runtime.system.now_ms());
        runtime.registration.refreshed(refresh, operator, wrong, validated.then_some(chain_ms));
        Ok(runtime.registration.response())
    }

    pub(crate) fn add_endpoint(
        &mut self,
        kind: Vec<u8>,
        endpoint: String,
    ) -> Result<prpc::GetEndpointResponse, Refusal> {
        self.check_not_busy()?;
        self.endpoints.insert(kind, endpoint);
        self.sign_own_endpoints()
    }

    /// `RefreshEndpointSigningTime`.
    pub(crate) fn refresh_endpoints(&mut self) -> Result<prpc::GetEndpointResponse, Refusal> {
        self.check_not_busy()?;
        self.sign_own_endpoints()
    }

    pub(crate) fn endpoint_info(&mut self) -> Result<prpc::GetEndpointResponse, Refusal> {
        if self.endpoints.is_empty() {
            return Ok(prpc::GetEndpointResponse::default());
        }
        match &self.signed_endpoints {
            Some(signed) => Ok(signed.clone()),
            None => self.sign_own_endpoints(),
        }
    }

    fn sign_own_endpoints(&mut self) -> Result<prpc::GetEndpointResponse, Refusal> {
        let signed = self.sign_endpoints(self.endpoints.values().cloned().collect())?;
        self.signed_endpoints = Some(signed.clone());
        Ok(signed)
    }

    /// `SignEndpointInfo`.
    pub(crate) fn sign_endpoints(
        &mut self,
        endpoints: Vec<String>,
    ) -> Result<prpc::GetEndpointResponse, Refusal> {
        let runtime = self.runtime()?;
        let identity = &runtime.registration.identity;
        let payload = WorkerEndpointPayload {
            pubkey: identity.public(),
            versioned_endpoints: VersionedWorkerEndpoints::V1(endpoints),
            // The chain compares it with its own clock, and refuses a time that is not before the block's.
            signing_time: runtime.system.now_ms(),
        }
        .encode();
        if payload.len() > MAX_ENDPOINT_PAYLOAD_BYTES {
            return Err(Refusal::App("Endpoints too large".into()));
        }
        let signature = identity.pair.sign(&[&ENDPOINT_CONTENT_TYPE, payload.as_slice()].concat());
        Ok(prpc::GetEndpointResponse {
            encoded_endpoint_payload: Some(payload),
            signature: Some(signature.0.to_vec()),
        })
    }

    /// Returns the last dispatched block, which a checkpoint taken now would contain.
    pub(crate) fn checkpoint_block(&mut self) -> Result<u32, Refusal> {
        Ok(self.runtime()?.sync.next_block().wrapping_sub(1))
    }
}

impl Runtime {
    /// `DispatchBlocks`: blocks before a refused one stay applied.
    pub(crate) fn dispatch(&mut self, mut blocks: Vec<BlockHeaderWithChanges>) -> Result<u32, Refusal> {
        let next = self.sync.next_block();
        // Known blocks are skipped, not refused.
        blocks.retain(|block| block.block_header.number >= next);
        // An empty or known batch answers the last dispatched block, as pRuntime does.
        let last = blocks.last().map_or(next.wrapping_sub(1), |block| block.block_header.number);
        for block in &blocks {
            self.state = self.sync.apply_block(block, &self.state)?;
            self.purge();
            self.check_version()?;
            let facts = self.state.facts();
            self.system.process(block.block_header.number, &facts, &mut self.egress);
        }
        Ok(last)
    }

    /// Drops messages that the chain has accepted.
    fn purge(&mut self) {
        for sender in self.egress.senders() {
            let ingress = self.state.decoded(&keys::offchain_ingress(&sender));
            self.egress.purge(&sender, ingress.unwrap_or_default());
        }
    }

    /// Exits if the worker is older than the chain allows.
    fn check_version(&self) -> Result<(), Refusal> {
        let minimum: (u32, u32, u32) =
            self.state.decoded(&keys::minimum_pruntime_version()).unwrap_or_default();
        if self.version >= minimum {
            return Ok(());
        }
        let version = self.version;
        Err(Refusal::Abort(format!("version {version:?} is older than the chain's minimum of {minimum:?}")))
    }
}
